//! Agreement among one: the order is that of proposing, and persisted means committed.

use std::collections::VecDeque;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::Zxid;

use crate::durable::{Proposal, Ticket};

/// The agreement of a standalone server with itself.
#[derive(Debug)]
pub struct Solo {
    last: Zxid,
    ticket: Ticket,
    persisted: Ticket,
    waiting: VecDeque<Proposal>,
}

impl Solo {
    /// Starts after `last`, the newest transaction in the log.
    #[must_use]
    pub fn new(last: Zxid) -> Solo {
        Solo { last, ticket: Ticket(0), persisted: Ticket(0), waiting: VecDeque::new() }
    }

    /// The zxid that the next proposal gets. A standalone server counts on past 32 bits, as Java does.
    #[must_use]
    pub fn next_zxid(&self) -> Zxid {
        Zxid(self.last.0 + 1)
    }

    /// Takes a proposal into the order; the ticket is that of its append. Its zxid must be [`Solo::next_zxid`].
    ///
    /// # Panics
    /// On any other zxid: the order would have a hole.
    #[inline]
    pub fn propose(&mut self, proposal: Proposal) -> Ticket {
        assert_eq!(proposal.zxid, self.next_zxid(), "a proposal out of order");
        self.last = proposal.zxid;
        self.waiting.push_back(proposal);
        self.ticket = self.ticket.next();
        self.ticket
    }

    /// Everything up to `ticket` is durable.
    ///
    /// # Panics
    /// If that was never proposed.
    pub fn persisted(&mut self, ticket: Ticket) {
        assert!(ticket <= self.ticket, "{ticket:?} persisted, but only {:?} was given out", self.ticket);
        self.persisted = self.persisted.max(ticket);
    }

    /// The next transaction that is final, in order.
    #[inline]
    pub fn next_committed(&mut self) -> Option<Proposal> {
        let first = self.ticket.0 + 1 - self.waiting.len() as u64;
        if self.waiting.is_empty() || self.persisted.0 < first && !is(Fault::ReplyBeforeSync) {
            return None;
        }
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
    use bytes::Bytes;

    #[test]
    fn nothing_is_committed_before_it_is_persisted() {
        let mut solo = Solo::new(Zxid(5));
        for ticket in 1..=3 {
            let zxid = solo.next_zxid();
            assert_eq!(solo.propose(Proposal { zxid, payload: Bytes::new() }), Ticket(ticket));
        }
        assert_eq!(solo.next_committed(), None);
        solo.persisted(Ticket(2));
        assert_eq!(solo.next_committed().unwrap().zxid, Zxid(6));
        assert_eq!(solo.next_committed().unwrap().zxid, Zxid(7));
        assert_eq!((solo.next_committed(), solo.waiting()), (None, 1));
    }

    #[test]
    #[should_panic(expected = "only Ticket(0) was given out")]
    fn persisting_the_future_stops_the_node() {
        Solo::new(Zxid(5)).persisted(Ticket(1));
    }
}
