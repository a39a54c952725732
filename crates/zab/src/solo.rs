//! Agreement among one: the order is that of proposing, and persisted means committed.

use std::collections::VecDeque;

use bytes::Bytes;
use oxkeeper_proto::Zxid;

/// A transaction offered: encoded once, shared by log, history and peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its place in the order.
    pub zxid: Zxid,
    /// The record as the log holds it.
    pub payload: Bytes,
}

/// The agreement of a standalone server with itself.
#[derive(Debug)]
pub struct Solo {
    last: Zxid,
    persisted: Zxid,
    waiting: VecDeque<Proposal>,
}

impl Solo {
    /// Starts after `last`, the newest transaction in the log.
    #[must_use]
    pub fn new(last: Zxid) -> Solo {
        Solo { last, persisted: last, waiting: VecDeque::new() }
    }

    /// The zxid that the next proposal gets. A standalone server counts on past 32 bits, as Java does.
    #[must_use]
    pub fn next_zxid(&self) -> Zxid {
        Zxid(self.last.0 + 1)
    }

    /// Takes a proposal into the order. Its zxid must be [`Solo::next_zxid`].
    ///
    /// # Panics
    /// On any other zxid: the order would have a hole.
    pub fn propose(&mut self, proposal: Proposal) {
        assert_eq!(proposal.zxid, self.next_zxid(), "a proposal out of order");
        self.last = proposal.zxid;
        self.waiting.push_back(proposal);
    }

    /// Everything up to `zxid` is durable.
    ///
    /// # Panics
    /// If that was never proposed.
    pub fn persisted(&mut self, zxid: Zxid) {
        assert!(zxid <= self.last, "{zxid} persisted, but only {} was proposed", self.last);
        self.persisted = self.persisted.max(zxid);
    }

    /// The next transaction that is final, in order.
    pub fn next_committed(&mut self) -> Option<Proposal> {
        self.waiting.front().filter(|proposal| proposal.zxid <= self.persisted)?;
        self.waiting.pop_front()
    }

    /// The newest transaction proposed.
    #[must_use]
    pub fn last_proposed(&self) -> Zxid {
        self.last
    }

    /// Number of transactions proposed but not handed out as committed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_committed_before_it_is_persisted() {
        let mut solo = Solo::new(Zxid(5));
        for _ in 0..3 {
            let zxid = solo.next_zxid();
            solo.propose(Proposal { zxid, payload: Bytes::new() });
        }
        assert_eq!(solo.next_committed(), None);
        solo.persisted(Zxid(7));
        assert_eq!(solo.next_committed().unwrap().zxid, Zxid(6));
        assert_eq!(solo.next_committed().unwrap().zxid, Zxid(7));
        assert_eq!((solo.next_committed(), solo.waiting()), (None, 1));
    }

    #[test]
    #[should_panic(expected = "only 0x5 was proposed")]
    fn persisting_the_future_stops_the_node() {
        Solo::new(Zxid(5)).persisted(Zxid(6));
    }
}
