//! The ids of the protocol, each a type of its own so that none is taken for another.

use std::fmt;

/// A transaction id: the leader's epoch in the high 32 bits, a counter in the low 32.
///
/// Compared as a signed number, as ZooKeeper does; `Zxid(-1)` means "none yet" in places.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zxid(pub i64);

impl Zxid {
    /// The state before the first transaction.
    pub const ZERO: Zxid = Zxid(0);

    /// The zxid with `epoch` in its high and `counter` in its low half.
    #[must_use]
    pub const fn new(epoch: u32, counter: u32) -> Zxid {
        Zxid(i64::from_be_bytes({
            let e = epoch.to_be_bytes();
            let c = counter.to_be_bytes();
            [e[0], e[1], e[2], e[3], c[0], c[1], c[2], c[3]]
        }))
    }

    /// The epoch of the leader that issued it.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        Epoch(self.0 >> 32)
    }

    /// The count within the epoch.
    #[must_use]
    pub const fn counter(self) -> u32 {
        let b = self.0.to_be_bytes();
        u32::from_be_bytes([b[4], b[5], b[6], b[7]])
    }

    /// The zxid after this one, or `None` when the counter of the epoch is used up.
    #[must_use]
    pub fn next(self) -> Option<Zxid> {
        if self.counter() == u32::MAX { None } else { Some(Zxid(self.0 + 1)) }
    }
}

impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

impl fmt::Debug for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a leader's reign.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The zxid with this epoch and counter 0, which is no transaction's.
    #[must_use]
    pub const fn start(self) -> Zxid {
        Zxid(self.0 << 32)
    }
}

/// The number of an election, counted by each server from its start. Signed: out-of-election votes after a
/// hand-over carry -1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Round(pub i64);

/// A server's number in the ensemble (`myid`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerId(pub i64);

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A client's session. Prints in hex, as everywhere in ZooKeeper.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub i64);

impl SessionId {
    /// What a client without a session sends, and what servers put into transactions of their own.
    pub const NONE: SessionId = SessionId(0);
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client's own number for one of its requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Xid(pub i32);

impl Xid {
    /// In a reply header: this frame is a watch event.
    pub const EVENT: Xid = Xid(-1);
    /// A ping and its reply.
    pub const PING: Xid = Xid(-2);
    /// What clients put into auth packets.
    pub const AUTH: Xid = Xid(-4);
    /// What the C client puts into `setWatches`.
    pub const SET_WATCHES: Xid = Xid(-8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zxid_splits_into_epoch_and_counter() {
        let zxid = Zxid::new(7, 9);
        assert_eq!(zxid, Zxid(0x7_0000_0009));
        assert_eq!((zxid.epoch(), zxid.counter()), (Epoch(7), 9));
        assert_eq!(zxid.to_string(), "0x700000009");
        assert_eq!(Zxid(-1).to_string(), "0xffffffffffffffff");
    }

    #[test]
    fn counter_never_overflows_into_the_epoch() {
        assert_eq!(Zxid::new(1, 5).next(), Some(Zxid::new(1, 6)));
        assert_eq!(Zxid::new(1, u32::MAX).next(), None);
    }
}
