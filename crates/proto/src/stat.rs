//! A znode's counters: as clients see them and as they are stored.

use crate::ids::Zxid;
use crate::wire::{DecodeError, Put, Reader};

/// What clients see. 68 bytes.
///
/// Source: `zookeeper.jute`, record `Stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Transaction that created the znode.
    pub czxid: Zxid,
    /// Transaction that last changed its data.
    pub mzxid: Zxid,
    /// When it was created, ms since 1970 by the leader's clock.
    pub ctime: i64,
    /// When its data last changed.
    pub mtime: i64,
    /// Changes of the data.
    pub version: i32,
    /// Creations and deletions of children.
    pub cversion: i32,
    /// Changes of the access control list.
    pub aversion: i32,
    /// The owner of an ephemeral; 0 for every other kind.
    pub ephemeral_owner: i64,
    /// Bytes of data.
    pub data_length: i32,
    /// Number of children.
    pub num_children: i32,
    /// Transaction that last changed the set of children.
    pub pzxid: Zxid,
}

impl Stat {
    /// Encoded size.
    pub const SIZE: usize = 68;

    /// Reads the record.
    ///
    /// # Errors
    /// The bytes end.
    pub fn decode(r: &mut Reader<'_>) -> Result<Stat, DecodeError> {
        Ok(Stat {
            czxid: Zxid(r.long()?),
            mzxid: Zxid(r.long()?),
            ctime: r.long()?,
            mtime: r.long()?,
            version: r.int()?,
            cversion: r.int()?,
            aversion: r.int()?,
            ephemeral_owner: r.long()?,
            data_length: r.int()?,
            num_children: r.int()?,
            pzxid: Zxid(r.long()?),
        })
    }

    /// Writes the record.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; Stat::SIZE];
        b[0..8].copy_from_slice(&self.czxid.0.to_be_bytes());
        b[8..16].copy_from_slice(&self.mzxid.0.to_be_bytes());
        b[16..24].copy_from_slice(&self.ctime.to_be_bytes());
        b[24..32].copy_from_slice(&self.mtime.to_be_bytes());
        b[32..36].copy_from_slice(&self.version.to_be_bytes());
        b[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        b[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        b[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        b[52..56].copy_from_slice(&self.data_length.to_be_bytes());
        b[56..60].copy_from_slice(&self.num_children.to_be_bytes());
        b[60..68].copy_from_slice(&self.pzxid.0.to_be_bytes());
        out.put_raw(&b);
    }
}

/// What snapshots hold. 60 bytes.
///
/// Source: `zookeeper.jute`, record `StatPersisted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatPersisted {
    /// Transaction that created the znode.
    pub czxid: Zxid,
    /// Transaction that last changed its data.
    pub mzxid: Zxid,
    /// When it was created, ms since 1970.
    pub ctime: i64,
    /// When its data last changed.
    pub mtime: i64,
    /// Changes of the data.
    pub version: i32,
    /// Children ever created: clients see `2 * cversion - children`.
    pub cversion: i32,
    /// Changes of the access control list.
    pub aversion: i32,
    /// 0, a session id, or the code of a container or of a time to live.
    pub ephemeral_owner: i64,
    /// Transaction that last changed the set of children.
    pub pzxid: Zxid,
}

impl StatPersisted {
    /// Encoded size.
    pub const SIZE: usize = 60;

    /// Reads the record.
    ///
    /// # Errors
    /// The bytes end.
    pub fn decode(r: &mut Reader<'_>) -> Result<StatPersisted, DecodeError> {
        Ok(StatPersisted {
            czxid: Zxid(r.long()?),
            mzxid: Zxid(r.long()?),
            ctime: r.long()?,
            mtime: r.long()?,
            version: r.int()?,
            cversion: r.int()?,
            aversion: r.int()?,
            ephemeral_owner: r.long()?,
            pzxid: Zxid(r.long()?),
        })
    }

    /// Writes the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_long(self.czxid.0);
        out.put_long(self.mzxid.0);
        out.put_long(self.ctime);
        out.put_long(self.mtime);
        out.put_int(self.version);
        out.put_int(self.cversion);
        out.put_int(self.aversion);
        out.put_long(self.ephemeral_owner);
        out.put_long(self.pzxid.0);
    }

    /// The stat as a client sees it.
    #[must_use]
    #[inline]
    pub fn seen_by_clients(&self, data_length: i32, num_children: i32) -> Stat {
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            cversion: self.cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion: self.aversion,
            ephemeral_owner: self.ephemeral_owner,
            data_length,
            num_children,
            pzxid: self.pzxid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_round_trips() {
        let stored =
            StatPersisted { czxid: Zxid(1), cversion: 5, ephemeral_owner: -7, ..StatPersisted::default() };
        let mut out = Vec::new();
        stored.encode(&mut out);
        assert_eq!(out.len(), StatPersisted::SIZE);
        assert_eq!(StatPersisted::decode(&mut Reader::new(&out)).unwrap(), stored);
        let seen = stored.seen_by_clients(3, 4);
        assert_eq!((seen.cversion, seen.num_children, seen.data_length), (6, 4, 3));
        let mut out = Vec::new();
        seen.encode(&mut out);
        assert_eq!(out.len(), Stat::SIZE);
        assert_eq!(Stat::decode(&mut Reader::new(&out)).unwrap(), seen);
    }
}
