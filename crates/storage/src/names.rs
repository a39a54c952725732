//! The names of logs and snapshots: a word and a zxid in lower-case hex.
//!
//! Source: `Util.makeLogName`, `Util.getZxidFromName`, 3.9.

use oxkeeper_proto::Zxid;

/// How the content of a snapshot is packed. The end of its name says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// snappy in the framing of xerial's Java library.
    Snappy,
}

impl Compression {
    const fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Snappy => ".snappy",
        }
    }
}

/// The name of the log whose first record is `first`.
#[must_use]
pub fn log(first: Zxid) -> String {
    format!("log.{:x}", first.0)
}

/// The name of the snapshot that begins at `zxid`.
#[must_use]
pub fn snapshot(zxid: Zxid, compression: Compression) -> String {
    format!("snapshot.{:x}{}", zxid.0, compression.suffix())
}

/// The zxid in a log's name, if it is exactly one: `log.backup` and `log.1.old` are somebody else's.
#[must_use]
pub fn parse_log(name: &str) -> Option<Zxid> {
    zxid(name.strip_prefix("log.")?)
}

/// The zxid and the packing in a snapshot's name, if it is exactly one.
#[must_use]
pub fn parse_snapshot(name: &str) -> Option<(Zxid, Compression)> {
    let rest = name.strip_prefix("snapshot.")?;
    let (hex, compression) = match rest.split_once('.') {
        None => (rest, Compression::None),
        Some((hex, end)) if end.eq_ignore_ascii_case("gz") => (hex, Compression::Gzip),
        Some((hex, end)) if end.eq_ignore_ascii_case("snappy") => (hex, Compression::Snappy),
        Some(_) => return None,
    };
    Some((zxid(hex)?, compression))
}

fn zxid(hex: &str) -> Option<Zxid> {
    let plain = !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| i64::from_str_radix(hex, 16).ok().map(Zxid)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        assert_eq!(log(Zxid(0x1f)), "log.1f");
        assert_eq!(parse_log("log.1f"), Some(Zxid(0x1f)));
        assert_eq!(snapshot(Zxid(0), Compression::Gzip), "snapshot.0.gz");
        assert_eq!(parse_snapshot("snapshot.0.gz"), Some((Zxid(0), Compression::Gzip)));
        for other in ["log.backup", "log.", "log.+1", "log.1.tmp", "log.ffffffffffffffff", "xlog.1"] {
            assert_eq!(parse_log(other), None, "{other}");
        }
        for other in ["snapshot.1.tmp", "snapshot.", "snapshot.g", "snapshot.1.gz.tmp"] {
            assert_eq!(parse_snapshot(other), None, "{other}");
        }
    }
}
