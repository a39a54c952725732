//! The newest transactions of the log, kept in memory, and the plan by which a learner is brought level.
//!
//! # How a plan is made
//!
//! `peer` is the last transaction in the learner's log, `last` the newest that this server has applied, `logged` the
//! newest in this server's log; `[min, max]` are the ends of the history, both `last` if it is empty. `(e, 0)` is no
//! transaction but the start of an epoch: nothing can be cut off before it.
//!
//! | # | condition, first match | plan |
//! |---|---|---|
//! | 1 | an operator forces it | SNAP |
//! | 2 | `peer == last`, or `peer == logged` and is a transaction | DIFF to `peer`, nothing follows |
//! | 3 | `peer > max` and not `(e, 0)` | TRUNC to `max`, nothing follows |
//! | 4 | `min <= peer <= max` | scan the history |
//! | 5 | `peer < min`, reading the log allowed | read the log from `peer` on; scan it up to `min`, then the history |
//! | 6 | otherwise | SNAP |
//!
//! The scan goes over the transactions `z` in order; the first that decides, decides:
//!
//! | `z` | plan |
//! |---|---|
//! | `z < peer` | none yet |
//! | `z == peer` | DIFF to `max`, what is after `z` follows |
//! | `z > peer`, `peer` is `(e, 0)`, `z` of epoch `e`, or `peer` is nothing at all | DIFF to `max`, `z` and what is after it follow |
//! | `z > peer`, `peer` is `(e, 0)` | SNAP: the leader of `e` may have had another history, and no quorum |
//! | `z > peer`, of one epoch | TRUNC to the one before `z`, `z` and what is after it follow |
//! | `z > peer`, of another epoch | SNAP: nothing may be cut off across epochs |
//! | the end, `peer` is `(e, 0)` | DIFF to `max`, nothing follows |
//! | the end otherwise | SNAP |
//!
//! Source: `LearnerHandler.syncFollower`, `queueCommittedProposals`, 3.9. Stricter than Java: what is read from the
//! log must join the history without a hole (ZOOKEEPER-2846, 2418), the ends are always those of what is there
//! (ZOOKEEPER-3526, 4352), and the start of an epoch is known only by what follows in that epoch.

use std::collections::VecDeque;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::Zxid;

use crate::durable::Proposal;

/// Transactions that are kept: Java's default and minimum for `commitLogCount`.
pub const HISTORY_MAX: usize = 500;

/// The newest transactions that were applied, without a hole.
#[derive(Debug, Clone, Hash, Default)]
pub struct History {
    items: VecDeque<Proposal>,
}

/// What a learner is sent first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncPlan {
    /// It lacks these, up to and with the zxid.
    Diff {
        /// The end.
        upto: Zxid,
        /// In order.
        txns: Vec<Proposal>,
    },
    /// It must forget what it has after the zxid, and lacks these.
    Trunc {
        /// The last one that it keeps.
        to: Zxid,
        /// In order.
        txns: Vec<Proposal>,
    },
    /// It must take the whole state.
    Snap,
    /// The log from here on must be read first, with the newest transaction that is not after it;
    /// [`History::plan_with_log`] decides then.
    ReadLog {
        /// The learner's last transaction.
        from: Zxid,
    },
}

/// What is known when a plan is made.
#[derive(Debug, Clone, Copy)]
pub struct SyncFacts {
    /// The last transaction in the learner's log.
    pub peer: Zxid,
    /// The newest transaction applied here.
    pub last: Zxid,
    /// The newest transaction in the log here.
    pub logged: Zxid,
    /// Whether only a snapshot will do.
    pub force_snapshot: bool,
    /// Whether the log may be read.
    pub may_read_log: bool,
}

/// Whether `next` can be the transaction right after `before`: the next of its epoch, or the first of a later one.
#[must_use]
pub fn follows(before: Zxid, next: Zxid) -> bool {
    if next.epoch() == before.epoch() {
        next.0 == before.0 + 1
    } else {
        next.epoch() > before.epoch() && next.counter() == 1
    }
}

impl History {
    /// A history of what recovery read last, in order. What is before a hole is forgotten.
    #[must_use]
    pub fn new(recent: Vec<Proposal>) -> History {
        let mut history = History::default();
        for proposal in recent {
            history.push(proposal);
        }
        history
    }

    /// The same for a state that ends at `last`. If that is not the end of what was read, a snapshot is ahead of the
    /// log, and nothing is known of what lies between.
    #[must_use]
    pub fn up_to(last: Zxid, recent: Vec<Proposal>) -> History {
        let history = History::new(recent);
        if history.range().is_some_and(|(_, max)| max == last) { history } else { History::default() }
    }

    /// Adds the transaction that was applied last. Behind a hole the history begins anew.
    pub fn push(&mut self, proposal: Proposal) {
        let is_next = self.items.back().is_none_or(|last| follows(last.zxid, proposal.zxid));
        if !is_next && !is(Fault::HistoryHole) {
            self.items.clear();
        }
        if self.items.len() == HISTORY_MAX {
            self.items.pop_front();
        }
        self.items.push_back(proposal);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// The ends, if there is anything.
    #[must_use]
    pub fn range(&self) -> Option<(Zxid, Zxid)> {
        Some((self.items.front()?.zxid, self.items.back()?.zxid))
    }

    /// What was applied after a transaction, in order, as far as it is kept.
    pub fn after(&self, zxid: Zxid) -> impl Iterator<Item = &Proposal> {
        self.items.iter().skip_while(move |proposal| proposal.zxid <= zxid)
    }

    /// Decides how a learner is brought level, by the table above.
    #[must_use]
    pub fn plan_sync(&self, facts: &SyncFacts) -> SyncPlan {
        let SyncFacts { peer, last, logged, .. } = *facts;
        let (min, max) = self.range().unwrap_or((last, last));
        let starts_epoch = peer.counter() == 0;
        if facts.force_snapshot {
            return SyncPlan::Snap;
        }
        if peer == last || peer == logged && !starts_epoch {
            return SyncPlan::Diff { upto: peer, txns: Vec::new() };
        }
        if peer > max && !starts_epoch {
            return SyncPlan::Trunc { to: max, txns: Vec::new() };
        }
        if min <= peer && peer <= max {
            return scan(peer, max, self.items.iter());
        }
        if peer < min && facts.may_read_log { SyncPlan::ReadLog { from: peer } } else { SyncPlan::Snap }
    }

    /// Decides again with what the log holds from the learner's last transaction on, the newest that is not after it
    /// included; `None` if the log does not reach back so far.
    #[must_use]
    pub fn plan_with_log(&self, facts: &SyncFacts, records: Option<&[Proposal]>) -> SyncPlan {
        let first_plan = self.plan_sync(&SyncFacts { may_read_log: false, ..*facts });
        let (SyncPlan::Snap, false, Some(records)) = (&first_plan, facts.force_snapshot, records) else {
            return first_plan;
        };
        // The log also holds what is not agreed yet; the history ends with what is.
        let Some((min, max)) = self.range() else { return SyncPlan::Snap };
        let joined: Vec<&Proposal> =
            records.iter().take_while(|record| record.zxid < min).chain(&self.items).collect();
        let reaches_back = joined.first().is_some_and(|first| first.zxid <= facts.peer);
        let is_whole = joined.windows(2).all(|pair| matches!(pair, [a, b] if follows(a.zxid, b.zxid)));
        if reaches_back && is_whole { scan(facts.peer, max, joined.into_iter()) } else { SyncPlan::Snap }
    }
}

/// The scan of the table above.
fn scan<'a>(peer: Zxid, max: Zxid, txns: impl Iterator<Item = &'a Proposal>) -> SyncPlan {
    let starts_epoch = peer.counter() == 0;
    let txns: Vec<&Proposal> = txns.collect();
    let (before, from) = txns.split_at(txns.partition_point(|txn| txn.zxid < peer));
    let cloned = |txns: &[&Proposal]| txns.iter().map(|txn| (*txn).clone()).collect();
    match from {
        [] if starts_epoch => SyncPlan::Diff { upto: max, txns: Vec::new() },
        [] => SyncPlan::Snap,
        [found, rest @ ..] if found.zxid == peer => SyncPlan::Diff { upto: max, txns: cloned(rest) },
        [first, ..] if starts_epoch => {
            let is_known = peer == Zxid::ZERO || first.zxid.epoch() == peer.epoch();
            if is_known { SyncPlan::Diff { upto: max, txns: cloned(from) } } else { SyncPlan::Snap }
        }
        [first, ..] => match before.last() {
            Some(to) if first.zxid.epoch() == peer.epoch() => {
                SyncPlan::Trunc { to: to.zxid, txns: cloned(from) }
            }
            _ => SyncPlan::Snap,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn txn(epoch: u32, counter: u32) -> Proposal {
        Proposal { zxid: Zxid::new(epoch, counter), payload: Bytes::new() }
    }

    fn history(zxids: &[(u32, u32)]) -> History {
        History::new(zxids.iter().map(|(epoch, counter)| txn(*epoch, *counter)).collect())
    }

    fn facts(peer: (u32, u32), last: (u32, u32), logged: (u32, u32)) -> SyncFacts {
        let zxid = |(epoch, counter)| Zxid::new(epoch, counter);
        let (peer, last, logged) = (zxid(peer), zxid(last), zxid(logged));
        SyncFacts { peer, last, logged, force_snapshot: false, may_read_log: true }
    }

    fn diff(upto: (u32, u32), txns: &[(u32, u32)]) -> SyncPlan {
        let txns = txns.iter().map(|(epoch, counter)| txn(*epoch, *counter)).collect();
        SyncPlan::Diff { upto: Zxid::new(upto.0, upto.1), txns }
    }

    fn trunc(to: (u32, u32), txns: &[(u32, u32)]) -> SyncPlan {
        let txns = txns.iter().map(|(epoch, counter)| txn(*epoch, *counter)).collect();
        SyncPlan::Trunc { to: Zxid::new(to.0, to.1), txns }
    }

    #[test]
    fn every_row_of_the_table() {
        let usual = history(&[(1, 5), (1, 6), (2, 1), (2, 2), (2, 3)]);
        let at = |peer| usual.plan_sync(&facts(peer, (2, 3), (2, 3)));
        let forced = SyncFacts { force_snapshot: true, ..facts((2, 3), (2, 3), (2, 3)) };
        assert_eq!(usual.plan_sync(&forced), SyncPlan::Snap, "row 1");
        assert_eq!(at((2, 3)), diff((2, 3), &[]), "row 2");
        assert_eq!(at((2, 4)), trunc((2, 3), &[]), "row 3");
        assert_eq!(at((3, 0)), SyncPlan::Snap, "row 6: nothing can be cut off before the start of an epoch");
        assert_eq!(at((2, 1)), diff((2, 3), &[(2, 2), (2, 3)]), "row 4, found");
        assert_eq!(at((1, 6)), diff((2, 3), &[(2, 1), (2, 2), (2, 3)]), "row 4, found before an epoch");
        assert_eq!(at((2, 0)), diff((2, 3), &[(2, 1), (2, 2), (2, 3)]), "row 4, start of an epoch");
        assert_eq!(at((1, 7)), SyncPlan::Snap, "row 4, a private end of an older epoch");
        assert_eq!(at((0, 0)), SyncPlan::ReadLog { from: Zxid::ZERO }, "row 5, from nothing");
        assert_eq!(at((1, 4)), SyncPlan::ReadLog { from: Zxid::new(1, 4) }, "row 5");
        let no_log = SyncFacts { may_read_log: false, ..facts((1, 4), (2, 3), (2, 3)) };
        assert_eq!(usual.plan_sync(&no_log), SyncPlan::Snap, "row 6");
    }

    /// Five servers: the first one led epoch 2 and lacked (1, 6), which two others had. A third one took its state as of
    /// (2, 0), and both were lost before epoch 2 had a quorum. The others agreed on (1, 6) in epoch 3, so the state as of
    /// (2, 0) is not part of what there is.
    #[test]
    fn a_state_of_an_epoch_without_a_quorum_is_replaced() {
        let others = history(&[(1, 5), (1, 6), (3, 1)]);
        assert_eq!(others.plan_sync(&facts((2, 0), (3, 1), (3, 1))), SyncPlan::Snap);
        assert_eq!(others.plan_sync(&facts((3, 0), (3, 1), (3, 1))), diff((3, 1), &[(3, 1)]), "known");
        let late = history(&[(3, 1), (3, 2)]);
        let records = [txn(1, 5), txn(1, 6), txn(3, 1)];
        let plan = late.plan_with_log(&facts((2, 0), (3, 2), (3, 2)), Some(&records));
        assert_eq!(plan, SyncPlan::Snap, "out of the log as well");
    }

    #[test]
    fn a_leader_before_its_first_transaction() {
        // Recorded: fresh servers, then one that joins later, then one with a private end.
        assert_eq!(history(&[]).plan_sync(&facts((0, 0), (0, 0), (0, 0))), diff((0, 0), &[]));
        assert_eq!(
            history(&[]).plan_sync(&facts((0, 0), (1, 0), (0, 0))),
            SyncPlan::ReadLog { from: Zxid(0) }
        );
        let leader = history(&[(1, 0x1b), (1, 0x1c)]);
        assert_eq!(leader.plan_sync(&facts((1, 0x1e), (2, 0), (1, 0x1c))), trunc((1, 0x1c), &[]));
        assert_eq!(leader.plan_sync(&facts((1, 0x1c), (2, 0), (1, 0x1c))), diff((1, 0x1c), &[]));
        // The leader knows nothing but its snapshot and is not ahead of the learner.
        assert_eq!(history(&[]).plan_sync(&facts((1, 9), (2, 0), (1, 9))), diff((1, 9), &[]));
    }

    #[test]
    fn the_scan_cuts_off_what_the_leader_lacks() {
        // A hole in the middle cannot come about by pushing; the log of another server may differ there.
        let joined = [txn(1, 1), txn(1, 2), txn(1, 4)];
        assert_eq!(scan(Zxid::new(1, 3), Zxid::new(1, 4), joined.iter()), trunc((1, 2), &[(1, 4)]));
        assert_eq!(scan(Zxid::new(1, 0), Zxid::new(1, 4), joined[2..].iter()), diff((1, 4), &[(1, 4)]));
        assert_eq!(scan(Zxid::new(1, 3), Zxid::new(1, 4), joined[2..].iter()), SyncPlan::Snap);
        assert_eq!(scan(Zxid::new(2, 0), Zxid::new(1, 4), joined.iter()), diff((1, 4), &[]));
        assert_eq!(scan(Zxid::new(1, 5), Zxid::new(1, 4), joined.iter()), SyncPlan::Snap);
    }

    #[test]
    fn the_log_must_join_the_history_without_a_hole() {
        let newest = history(&[(1, 4), (1, 5)]);
        let at = facts((1, 2), (1, 5), (1, 6));
        let log = |counters: &[u32]| counters.iter().map(|counter| txn(1, *counter)).collect::<Vec<_>>();
        let plan = |records: &[Proposal]| newest.plan_with_log(&at, Some(records));
        assert_eq!(
            plan(&log(&[2, 3, 4, 5, 6])),
            diff((1, 5), &[(1, 3), (1, 4), (1, 5)]),
            "(1,6) is not agreed"
        );
        assert_eq!(plan(&log(&[1, 2, 3])), diff((1, 5), &[(1, 3), (1, 4), (1, 5)]));
        assert_eq!(plan(&log(&[2])), SyncPlan::Snap, "ends below the history");
        assert_eq!(plan(&log(&[1, 3])), SyncPlan::Snap, "a hole");
        assert_eq!(plan(&log(&[3])), SyncPlan::Snap, "does not reach back");
        assert_eq!(newest.plan_with_log(&at, None), SyncPlan::Snap);
        let meanwhile = facts((1, 5), (1, 5), (1, 5));
        assert_eq!(newest.plan_with_log(&meanwhile, None), diff((1, 5), &[]), "the log was not needed");
    }

    #[test]
    fn the_history_is_bounded_and_has_no_hole() {
        let mut history = History::default();
        for counter in 1..=600 {
            history.push(txn(1, counter));
        }
        assert_eq!(history.range(), Some((Zxid::new(1, 101), Zxid::new(1, 600))));
        assert_eq!(history.after(Zxid::new(1, 598)).count(), 2);
        history.push(txn(2, 1));
        assert_eq!(history.range(), Some((Zxid::new(1, 102), Zxid::new(2, 1))));
        history.push(txn(2, 3));
        assert_eq!(history.range(), Some((Zxid::new(2, 3), Zxid::new(2, 3))));
    }
}
