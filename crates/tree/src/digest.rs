//! The running hash over the whole tree: a wrapping sum of one CRC-32 per znode, so that a change costs
//! one subtraction and one addition.
//!
//! Source: `AdHash`, `DigestCalculator` (version 2), 3.9.

use crc32fast::Hasher;
use oxkeeper_proto::StatPersisted;

/// Whether the znode at `path` counts. What lies below `/zookeeper` differs from server to server.
#[inline]
pub(crate) fn counts(path: &str) -> bool {
    !path.starts_with("/zookeeper/")
}

/// The part of a znode's CRC that covers path and data. The root's path is empty here.
#[inline]
pub(crate) fn prefix(path: &str, data: Option<&[u8]>) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(if path == "/" { b"" } else { path.as_bytes() });
    hasher.update(data.unwrap_or_default());
    hasher.finalize()
}

/// A znode's CRC, from the part over path and data and from its stored stat.
#[inline]
pub(crate) fn node(prefix: u32, stat: &StatPersisted) -> u64 {
    let mut b = [0u8; 60];
    b[0..8].copy_from_slice(&stat.czxid.0.to_be_bytes());
    b[8..16].copy_from_slice(&stat.mzxid.0.to_be_bytes());
    b[16..24].copy_from_slice(&stat.pzxid.0.to_be_bytes());
    b[24..32].copy_from_slice(&stat.ctime.to_be_bytes());
    b[32..40].copy_from_slice(&stat.mtime.to_be_bytes());
    b[40..44].copy_from_slice(&stat.version.to_be_bytes());
    b[44..48].copy_from_slice(&stat.cversion.to_be_bytes());
    b[48..52].copy_from_slice(&stat.aversion.to_be_bytes());
    b[52..60].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
    let mut hasher = Hasher::new_with_initial(prefix);
    hasher.update(&b);
    u64::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_and_stat_make_one_crc() {
        let stat = StatPersisted { version: 3, ..StatPersisted::default() };
        let mut whole = b"/a".to_vec();
        whole.extend_from_slice(b"data");
        whole.extend_from_slice(&[0; 40]);
        whole.extend_from_slice(&[0, 0, 0, 3]);
        whole.extend_from_slice(&[0; 16]);
        assert_eq!(node(prefix("/a", Some(b"data")), &stat), u64::from(crc32fast::hash(&whole)));
        assert_eq!(prefix("/", None), 0);
        assert!(counts("/zookeeper") && !counts("/zookeeper/quota") && counts("/"));
    }
}
