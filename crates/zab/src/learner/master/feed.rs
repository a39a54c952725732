//! The newest agreed transactions, for observers that come back after a while: more of them than the history keeps, and
//! in memory, so that nobody has to read the log for them.

use std::collections::VecDeque;

use crate::common::PENDING_BYTES_EACH;
use crate::durable::Proposal;
use crate::history::{History, SyncFacts, SyncPlan};

/// Transactions that go for each one that comes once the feed is nearly full: it must not be full all the time.
const TRIMMED_AT_ONCE: usize = 5;

/// Transactions in their order, without a hole, from when this server began to serve observers.
///
/// Source: `ObserverMaster.cacheCommittedPacket`, 3.9.
#[derive(Debug, Clone, Hash)]
pub(super) struct Feed {
    txns: VecDeque<Proposal>,
    bytes: usize,
    bytes_max: usize,
}

impl Feed {
    pub(super) fn new(bytes_max: usize) -> Feed {
        Feed { txns: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the transaction that was agreed last.
    pub(super) fn push(&mut self, proposal: Proposal) {
        self.bytes += size(&proposal);
        self.txns.push_back(proposal);
        for _ in 0..TRIMMED_AT_ONCE {
            if self.bytes > self.bytes_max / 5 * 4 {
                self.drop_oldest();
            }
        }
        while self.bytes > self.bytes_max {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.txns.pop_front() {
            self.bytes -= size(&oldest);
        }
    }

    /// How an observer is brought level by it that is behind the history, if it reaches back far enough.
    pub(super) fn plan(&mut self, history: &History, facts: &SyncFacts) -> Option<SyncPlan> {
        history.range().filter(|(min, _)| facts.peer < *min)?;
        let plan = history.plan_with_log(facts, Some(&*self.txns.make_contiguous()));
        (plan != SyncPlan::Snap).then_some(plan)
    }
}

fn size(proposal: &Proposal) -> usize {
    proposal.payload.len() + PENDING_BYTES_EACH
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use oxkeeper_proto::Zxid;

    fn txn(counter: u32, bytes: usize) -> Proposal {
        Proposal { zxid: Zxid::new(1, counter), payload: Bytes::from(vec![0; bytes]) }
    }

    fn kept(feed: &Feed) -> (u32, u32) {
        let ends = [feed.txns.front(), feed.txns.back()].map(|txn| txn.map_or(0, |txn| txn.zxid.counter()));
        (ends[0], ends[1])
    }

    #[test]
    fn the_feed_has_a_bound_and_is_trimmed_before_it() {
        // Each takes 100 bytes.
        let mut feed = Feed::new(1000);
        for counter in 1..=8 {
            feed.push(txn(counter, 36));
        }
        assert_eq!(kept(&feed), (1, 8));
        feed.push(txn(9, 36));
        assert_eq!((kept(&feed), feed.bytes), ((2, 9), 800), "trimmed from four fifths on");
        feed.push(txn(10, 600));
        assert_eq!((kept(&feed), feed.bytes), ((7, 10), 964), "five at a time");
        feed.push(txn(11, 2000));
        assert_eq!((kept(&feed), feed.bytes), ((0, 0), 0), "the bound holds in any case");
    }

    #[test]
    fn an_observer_continues_from_the_feed_where_the_history_does_not_reach() {
        let mut feed = Feed::new(1 << 20);
        let mut history = History::default();
        for counter in 1..=700 {
            feed.push(txn(counter, 0));
            history.push(txn(counter, 0));
        }
        let facts = |peer| SyncFacts {
            peer: Zxid::new(1, peer),
            last: Zxid::new(1, 700),
            logged: Zxid::new(1, 700),
            force_snapshot: false,
            may_read_log: true,
        };
        assert_eq!(history.plan_sync(&facts(20)), SyncPlan::ReadLog { from: Zxid::new(1, 20) });
        let Some(SyncPlan::Diff { upto, txns }) = feed.plan(&history, &facts(20)) else { panic!("a DIFF") };
        assert_eq!((upto, txns.len(), txns[0].zxid), (Zxid::new(1, 700), 680, Zxid::new(1, 21)));
        let mut later = Feed::new(1 << 20);
        (30..=700).for_each(|counter| later.push(txn(counter, 0)));
        assert_eq!(later.plan(&history, &facts(20)), None, "it begins too late");
        assert_eq!(feed.plan(&history, &SyncFacts { force_snapshot: true, ..facts(20) }), None);
    }
}
