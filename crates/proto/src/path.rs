//! Which strings are paths. The servers of ZooKeeper use two rules, and reads use none.

/// Names that can be neither deleted nor reaped.
pub const PROTECTED: [&str; 4] = ["/", "/zookeeper", QUOTA, CONFIG];
/// The root of the quota nodes.
pub const QUOTA: &str = "/zookeeper/quota";
/// The node that holds the ensemble's configuration.
pub const CONFIG: &str = "/zookeeper/config";

/// Whether `path` may name a znode: absolute, no empty, `.` or `..` component, no trailing slash, and none
/// of the characters that ZooKeeper forbids.
///
/// Source: `PathUtils.validatePath`.
#[must_use]
pub fn is_valid(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    if rest.is_empty() {
        return true;
    }
    if rest.is_ascii() {
        let mut start = 0;
        let bytes = rest.as_bytes();
        for (i, &b) in bytes.iter().enumerate() {
            if b == b'/' {
                if !is_valid_component(bytes.get(start..i).unwrap_or_default()) {
                    return false;
                }
                start = i + 1;
            } else if b < 0x20 || b == 0x7f {
                return false;
            }
        }
        return is_valid_component(bytes.get(start..).unwrap_or_default());
    }
    rest.split('/').all(|c| is_valid_component(c.as_bytes())) && !rest.chars().any(is_forbidden)
}

fn is_valid_component(component: &[u8]) -> bool {
    !matches!(component, b"" | b"." | b"..")
}

fn is_forbidden(c: char) -> bool {
    // Supplementary characters are surrogates in Java's strings, and those lie in a forbidden range.
    matches!(u32::from(c),
        0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff | 0x1_0000..)
}

/// The first, light test of create and delete: there is a slash and no NUL.
///
/// Source: `PrepRequestProcessor.validatePathForCreate` and `getParentPathAndValidate`.
#[must_use]
#[inline]
pub fn is_plausible(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.contains(&b'/') && !bytes.contains(&0)
}

/// The parent's path; `/` for children of the root, and `None` for a string without a slash.
#[must_use]
#[inline]
pub fn parent(path: &str) -> Option<&str> {
    let at = path.rfind('/')?;
    Some(if at == 0 { "/" } else { path.get(..at).unwrap_or_default() })
}

/// The last component.
#[must_use]
#[inline]
pub fn name(path: &str) -> &str {
    path.rfind('/').and_then(|at| path.get(at + 1..)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_full_validation() {
        for good in ["/", "/a", "/a/b c", "/a/...", "/ä", "/a/.b", "/\u{ffef}", "/\u{f900}"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            "a",
            "a/b",
            "/a/",
            "//",
            "/a//b",
            "/.",
            "/..",
            "/a/./b",
            "/a/..",
            "/\u{1}",
            "/\u{7f}",
            "/\u{9f}",
            "/\u{e000}",
            "/\u{fff0}",
            "/\u{1f600}",
            "/ä//",
            "/\0",
            "/ä/.",
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn parents_and_names() {
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!(parent("a"), None);
        assert!(is_plausible("a/b") && !is_plausible("a") && !is_plausible("/a\0"));
    }
}
