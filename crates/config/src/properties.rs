//! The syntax of `zoo.cfg`: Java's properties.
//!
//! Source: `java.util.Properties.load`; bytes are Latin-1.

/// One `key=value`, and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// The key, without escapes.
    pub key: String,
    /// The value, without escapes; trimmed, as ZooKeeper does.
    pub value: String,
    /// Counted from 1; 0 for what came from the command line.
    pub line: usize,
}

/// Reads all properties in their order, duplicates included.
#[must_use]
pub fn parse(bytes: &[u8]) -> Vec<Property> {
    let text: String = bytes.iter().map(|b| char::from(*b)).collect();
    let mut all = Vec::new();
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    while let Some((number, first)) = lines.next() {
        let first = first.trim_start_matches(is_blank);
        if first.is_empty() || first.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = first.to_owned();
        while is_continued(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_blank));
        }
        let (key, value) = split(&logical);
        all.push(Property {
            key: unescape(key).trim().to_owned(),
            value: unescape(value).trim().to_owned(),
            line: number + 1,
        });
    }
    all
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

/// An odd number of backslashes at the end joins the next line.
fn is_continued(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// The key ends at the first `=`, `:` or blank that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if matches!(c, '=' | ':') || is_blank(c) {
            let (key, rest) = line.split_at(at);
            let rest = rest.trim_start_matches(is_blank);
            let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
            return (key, rest.trim_start_matches(is_blank));
        }
    }
    (line, "")
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let digits: String = chars.clone().take(4).collect();
                match u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4) {
                    Some(code) => {
                        out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                        chars.by_ref().take(4).for_each(drop);
                    }
                    None => out.push('u'),
                }
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

/// The `-Dkey=value` among the flags of a JVM, with the quotes of a shell taken off.
#[must_use]
pub fn from_jvm_flags(flags: &str) -> Vec<Property> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in flags.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, _) if c.is_whitespace() => words.push(String::new()),
            _ => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.iter().filter_map(|word| from_definition(word.strip_prefix("-D")?)).collect()
}

/// A `key=value` of the command line; a key alone has an empty value.
#[must_use]
pub fn from_definition(text: &str) -> Option<Property> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (!key.is_empty()).then(|| Property { key: key.to_owned(), value: value.trim().to_owned(), line: 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        parse(text.as_bytes()).into_iter().map(|p| (p.key, p.value, p.line)).collect()
    }

    #[test]
    fn syntax_is_that_of_java() {
        let text = "# c\n! c\n\n a = b \nc:d\ne f\ng\nh=i\\\n   j\nk\\=l=m\nn=\\u0041\\t.\no==p\r\n";
        let expected: Vec<(String, String, usize)> = [
            ("a", "b", 4),
            ("c", "d", 5),
            ("e", "f", 6),
            ("g", "", 7),
            ("h", "ij", 8),
            ("k=l", "m", 10),
            ("n", "A\t.", 11),
            ("o", "=p", 12),
        ]
        .map(|(k, v, l)| (k.to_owned(), v.to_owned(), l))
        .into();
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn flags_are_split_like_a_shell_does() {
        let found = from_jvm_flags(r#"-Xmx1g -Djute.maxbuffer=4194304 "-Da=b c" -Dd='e f' -Dg"#);
        let found: Vec<_> = found.iter().map(|p| (&*p.key, &*p.value)).collect();
        assert_eq!(found, [("jute.maxbuffer", "4194304"), ("a", "b c"), ("d", "e f"), ("g", "")]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = from_jvm_flags(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn what_is_read_reads_the_same_again(bytes in "[ -~\n]{0,100}") {
            let once = parse(bytes.as_bytes());
            let print = |text: &str| text.chars().map(|c| match c {
                '\n' => "\\n".to_owned(),
                '\t' => "\\t".to_owned(),
                '\r' => "\\r".to_owned(),
                '\u{c}' => "\\f".to_owned(),
                '\\' | '=' | ':' | '#' | '!' | ' ' => format!("\\{c}"),
                ' '..='~' => c.to_string(),
                _ => format!("\\u{:04x}", u32::from(c)),
            }).collect::<String>();
            let printed: String = once.iter().map(|p| format!("{}={}\n", print(&p.key), print(&p.value))).collect();
            let again: Vec<_> = parse(printed.as_bytes()).into_iter().map(|p| (p.key, p.value)).collect();
            let once: Vec<_> = once.into_iter().map(|p| (p.key, p.value)).collect();
            prop_assert_eq!(again, once);
        }
    }
}
