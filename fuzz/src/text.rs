//! Text that people write: configuration, addresses, paths, access control lists.

use arbitrary::{Arbitrary, Unstructured};
use oxkeeper_config::{Config, bind_address, properties};
use oxkeeper_proto::{Acl, AclList, perms};
use oxkeeper_tree::{Identity, Schemes, acl};

use crate::bounds::within;
use crate::peers;

/// What the parsed configuration itself takes, with its lists of words and schemes.
const CONFIG_BUFFERS: usize = 64 << 10;

/// `zoo.cfg`, and the options of a JVM in its second half if there is a NUL.
pub fn config(bytes: &[u8]) {
    dynamic(bytes);
    let (file, flags) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &bytes[bytes.len()..]),
    };
    within(bytes.len(), CONFIG_BUFFERS, || {
        let flags = String::from_utf8_lossy(flags);
        let definitions = properties::from_jvm_flags(&flags);
        let _ = properties::from_definition(&flags);
        let _ = properties::parse(file);
        match Config::parse("zoo.cfg", file, &definitions) {
            Ok(parsed) => {
                assert!(parsed.config.session_timeout_min <= parsed.config.session_timeout_max);
                let _ = bind_address(&parsed.config);
            }
            Err(errors) => assert!(!errors.0.is_empty() && !errors.to_string().is_empty()),
        }
    });
}

/// The lines of a dynamic configuration, of which all of a file and any one may be given.
fn dynamic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    within(text.len(), CONFIG_BUFFERS, || peers::configuration(&text));
}

/// Hosts and ports as a configuration names them: in brackets, without, with a scope, or none of it.
pub fn addresses(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    within(text.len(), 0, || peers::address(&text));
    let line: String = text.chars().filter(|c| !c.is_control()).collect();
    let file = format!("dataDir=/d\nclientPort=2181\nclientPortAddress={line}\n");
    within(file.len(), CONFIG_BUFFERS, || {
        if let Ok(parsed) = Config::parse("zoo.cfg", file.as_bytes(), &[]) {
            let bound = bind_address(&parsed.config);
            assert!(!bound.is_empty());
        }
    });
}

/// Java's own loop over a path's characters, as a second opinion.
///
/// Source: `PathUtils.validatePath`, 3.9.
fn validate_as_java(path: &str) -> bool {
    let chars: Vec<u16> = path.encode_utf16().collect();
    let slash = u16::from(b'/');
    let dot = u16::from(b'.');
    if chars.first() != Some(&slash) {
        return false;
    }
    if chars.len() == 1 {
        return true;
    }
    if chars.last() == Some(&slash) {
        return false;
    }
    let mut last = slash;
    for i in 1..chars.len() {
        let c = chars[i];
        let ends = |at: usize| at + 1 == chars.len() || chars[at + 1] == slash;
        if c == 0 || c == slash && last == slash {
            return false;
        }
        if c == dot && last == dot && chars[i - 2] == slash && ends(i) {
            return false;
        }
        if c == dot && chars[i - 1] == slash && ends(i) {
            return false;
        }
        if matches!(c, 1..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff) {
            return false;
        }
        last = c;
    }
    true
}

/// Validation agrees with Java's, and a valid path is its parent's and its name's.
pub fn paths(bytes: &[u8]) {
    use oxkeeper_proto::path;
    let text = String::from_utf8_lossy(bytes);
    let valid = within(text.len(), 0, || path::is_valid(&text));
    assert_eq!(valid, validate_as_java(&text), "{text:?}");
    let plausible = path::is_plausible(&text);
    assert!(!valid || plausible, "{text:?}");
    assert_eq!(path::parent(&text).is_some(), text.contains('/'));
    if valid && text.len() > 1 {
        let parent = path::parent(&text).unwrap_or_default();
        assert!(path::is_valid(parent), "{parent:?} of {text:?}");
        let between = if parent == "/" { "" } else { "/" };
        assert_eq!(format!("{parent}{between}{}", path::name(&text)), text);
    }
}

/// A list of a mebibyte, and its entries one by one.
const EXPANDED_BUFFERS: usize = 8 << 20;

#[derive(Debug, Arbitrary)]
struct Asked<'a> {
    entries: Vec<(i32, u8, &'a str)>,
    who: Vec<(u8, &'a str)>,
    wanted: i32,
}

const SCHEMES: [&str; 7] = ["world", "ip", "digest", "auth", "super", "sasl", "x509"];

/// Lists as clients set them: what becomes of them, what comes of the result, and whom it lets pass.
pub fn acls(bytes: &[u8]) {
    let Ok(asked) = Asked::arbitrary(&mut Unstructured::new(bytes)) else { return };
    let scheme = |n: &u8| SCHEMES[usize::from(*n) % SCHEMES.len()];
    let entries: Vec<Acl<'_>> =
        asked.entries.iter().map(|(perms, n, id)| Acl::new(*perms, scheme(n), id)).collect();
    let list = AclList::from_entries(entries.iter());
    // The ids of digest come of a server's own hashing.
    let id = |scheme: &str, id: &str| match scheme {
        "digest" => format!("{}:hash", id.split(':').next().unwrap_or_default()),
        _ => id.to_owned(),
    };
    let identity = |(n, text): &(u8, &str)| Identity { scheme: scheme(n).into(), id: id(scheme(n), text) };
    let who: Vec<Identity> = asked.who.iter().map(identity).collect();
    let schemes = Schemes { ip: true, digest: true };
    let allowed = acl::allows(&list, asked.wanted, &who, schemes);
    if asked.wanted & perms::ALL == 0 && asked.wanted == 0 && allowed {
        assert!(list.is_empty() || who.iter().any(|who| who.scheme == "super"), "no right was asked for");
    }
    // Every auth entry becomes as many as there are identities, up to a bound of its own.
    let expands = entries.iter().any(|entry| entry.scheme.as_deref() == Some("auth"));
    let buffers = if expands { EXPANDED_BUFFERS } else { 0 };
    if let Ok(fixed) = within(bytes.len(), buffers, || acl::fix_up(Some(&list), &who, schemes)) {
        assert!(!fixed.is_empty());
        for entry in fixed.iter() {
            assert_ne!(entry.scheme.as_deref(), Some("auth"), "auth is a question, not an answer");
        }
        // Once more, and only what `auth` made twice goes.
        match acl::fix_up(Some(&fixed), &who, schemes) {
            Ok(again) => {
                let kept: Vec<Acl<'_>> = again.iter().collect();
                assert!(fixed.iter().all(|entry| kept.contains(&entry)), "{again:?} of {fixed:?}");
            }
            Err(error) => panic!("{error:?}: {fixed:?}"),
        }
        let hashes = fixed.iter().filter(|entry| entry.scheme.as_deref() == Some("digest")).count();
        assert!(format!("{fixed:?}").matches("digest:…").count() >= hashes, "hashes do not print");
    }
}
