//! Quotas: which subtrees have one, and the text of their two bookkeeping znodes.
//!
//! Source: `Quotas`, `StatsTrack`, `PathTrie`, 3.9.

use oxkeeper_proto::path;

use crate::hash::{Map, Seeded};

/// Name of the znode that holds a subtree's limits.
pub(crate) const LIMITS: &str = "zookeeper_limits";
/// Name of the znode that holds a subtree's usage.
pub(crate) const STATS: &str = "zookeeper_stats";

/// The subtrees that have a quota.
#[derive(Debug)]
pub(crate) struct Quotas(Map<Box<str>, ()>);

impl Quotas {
    pub(crate) fn new(seeded: &Seeded) -> Quotas {
        Quotas(Map::with_hasher(seeded.clone()))
    }

    /// Registers a subtree. The root has no quota: Java dies of the attempt.
    pub(crate) fn add(&mut self, subtree: &str) {
        if !subtree.is_empty() {
            self.0.insert(subtree.into(), ());
        }
    }

    pub(crate) fn remove(&mut self, subtree: &str) {
        self.0.remove(subtree);
    }

    /// The deepest subtree with a quota that holds `path`.
    #[inline]
    pub(crate) fn over<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.0.is_empty() {
            return None;
        }
        let mut at = path;
        while at.len() > 1 {
            if self.0.contains_key(at) {
                return Some(at);
            }
            at = path::parent(at)?;
        }
        None
    }
}

/// The subtree that a znode under `/zookeeper/quota` is about, if it is a limits or stats znode.
pub(crate) fn subject<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let below = path.strip_prefix(path::QUOTA).filter(|below| below.starts_with('/'))?;
    below.strip_suffix(name)?.strip_suffix('/')
}

/// The path of a bookkeeping znode.
pub(crate) fn node(subtree: &str, name: &str) -> String {
    format!("{}{subtree}/{name}", path::QUOTA)
}

/// The numbers in a bookkeeping znode; -1 is "not set". Text that Java would choke on reads as not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsTrack {
    /// Znodes, or the soft limit of them.
    pub count: i64,
    /// Bytes of data, or the soft limit of them.
    pub bytes: i64,
    /// The limit of znodes that refuses.
    pub count_hard: i64,
    /// The limit of bytes that refuses.
    pub bytes_hard: i64,
}

impl StatsTrack {
    /// Reads the text of a bookkeeping znode.
    #[must_use]
    pub fn parse(data: &[u8]) -> StatsTrack {
        let mut track = StatsTrack { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 };
        let text = String::from_utf8_lossy(data);
        for piece in text.split([',', ';']) {
            let mut parts = piece.split('=');
            let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let value = value.trim().parse().unwrap_or(-1);
            match key.trim() {
                "count" => track.count = value,
                "bytes" => track.bytes = value,
                "countHardLimit" => track.count_hard = value,
                "byteHardLimit" => track.bytes_hard = value,
                _ => {}
            }
        }
        track
    }

    /// The text of a stats znode.
    #[must_use]
    pub fn usage(count: i64, bytes: i64) -> String {
        format!("count={count},bytes={bytes}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_java_writes_it() {
        let track = StatsTrack::parse(b"count=10,bytes=10000=;byteHardLimit=-1;countHardLimit=7");
        assert_eq!(track, StatsTrack { count: 10, bytes: 10_000, count_hard: 7, bytes_hard: -1 });
        let garbage = StatsTrack::parse(b"\xffcount=x,,=;bytes");
        assert_eq!(garbage, StatsTrack { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 });
    }

    #[test]
    fn deepest_quota_wins_and_the_root_has_none() {
        let mut quotas = Quotas::new(&Seeded::new(1));
        assert_eq!(quotas.over("/a/b"), None);
        quotas.add("");
        quotas.add("/a");
        quotas.add("/a/b");
        assert_eq!(quotas.over("/a/b/c"), Some("/a/b"));
        assert_eq!(quotas.over("/a/bc"), Some("/a"));
        assert_eq!(quotas.over("/ab"), None);
        quotas.remove("/a/b");
        assert_eq!(quotas.over("/a/b"), Some("/a"));
    }

    #[test]
    fn subjects_of_bookkeeping_nodes() {
        assert_eq!(subject("/zookeeper/quota/a/b/zookeeper_limits", LIMITS), Some("/a/b"));
        assert_eq!(subject("/zookeeper/quota/zookeeper_limits", LIMITS), Some(""));
        assert_eq!(subject("/zookeeper/quota/a/x", LIMITS), None);
        assert_eq!(subject("/zookeeper/quotas/zookeeper_limits", LIMITS), None);
        assert_eq!(node("/a", STATS), "/zookeeper/quota/a/zookeeper_stats");
    }
}
