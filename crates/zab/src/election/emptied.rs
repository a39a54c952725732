//! Voters that were found without any data.
//!
//! A voter whose directory was emptied may have acknowledged transactions that it no longer has. If it voted
//! with zxid 0, it and another that lags could elect a leader without those transactions, and they were lost.
//! So it says zxid -1, which every server takes for "does not vote", until it was brought level by a leader.
//!
//! When an ensemble is first started, all of its voters are like that. They may begin once each has heard that
//! every voter is as empty as itself *after* it was started: a message of the time before, which the network
//! still holds or a peer sends again when it reconnects, proves nothing. So each puts a number of its own,
//! chosen at its start, into its message, and beside it the number that it last heard from the receiver; who
//! finds his number in a message knows that it is an answer. Both stand in the field for the epoch, which
//! nobody looks at in a message with zxid -1.
//!
//! Who has heard everybody votes, and goes on to answer those who have not; one bit tells that it needs no answer
//! itself, or two of them would answer each other without end.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{Epoch, ServerId, Zxid};

use crate::quorum::Quorums;
use crate::vote::Vote;

/// The zxid of a server that does not vote.
pub(super) const NOT_COUNTED: Zxid = Zxid(-1);

/// Beside the receiver's number: the sender has heard everybody.
const HAS_HEARD_ALL: u32 = 1 << 31;

/// What is known of others without data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Emptied {
    /// This start's number, never 0.
    mine: u32,
    /// The last number heard from each.
    theirs: BTreeMap<ServerId, u32>,
    /// Who answered this start's number.
    confirmed: BTreeSet<ServerId>,
}

/// What the sender of a message with numbers wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing: it votes.
    HasHeardAll,
    /// To be told this server's number, or that its own has arrived.
    Asks,
    /// To hear from others; perhaps from this server too, if an answer was lost.
    Waits,
}

impl Emptied {
    pub(super) fn new(seed: u64) -> Emptied {
        // 31 bits, so that the epoch field is never negative.
        let [.., a, b, c, d] = (seed ^ seed >> 32).to_be_bytes();
        let mine = u32::from_be_bytes([a & 0x7f, b, c, d]) | 1;
        Emptied { mine, theirs: BTreeMap::new(), confirmed: BTreeSet::new() }
    }

    /// What was heard in an earlier election says nothing about the next.
    pub(super) fn forget(&mut self) {
        self.theirs.clear();
        self.confirmed.clear();
    }

    /// The vote with both numbers for its receiver, if it is one of a server that does not vote.
    pub(super) fn marked(&self, vote: Vote, to: ServerId) -> Vote {
        if vote.zxid == NOT_COUNTED { self.with_numbers(vote, to, 0) } else { vote }
    }

    /// What one that votes already tells one that does not yet.
    pub(super) fn word(&self, vote: Vote, to: ServerId) -> Vote {
        self.with_numbers(Vote { zxid: NOT_COUNTED, ..vote }, to, HAS_HEARD_ALL)
    }

    fn with_numbers(&self, vote: Vote, to: ServerId, flag: u32) -> Vote {
        let theirs = self.theirs.get(&to).copied().unwrap_or(0);
        Vote { peer_epoch: Epoch(i64::from(self.mine) << 32 | i64::from(theirs | flag)), ..vote }
    }

    /// Takes the numbers of a message.
    pub(super) fn hear(&mut self, from: ServerId, numbers: Epoch) -> Heard {
        let [a, b, c, d, e, f, g, h] = numbers.0.to_be_bytes();
        let (theirs, echo) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let theirs = theirs & !HAS_HEARD_ALL;
        let is_new = self.theirs.insert(from, theirs) != Some(theirs);
        let is_answer = echo & !HAS_HEARD_ALL == self.mine;
        if is_answer {
            self.confirmed.insert(from);
        } else {
            // Another start of that server: what the one before said is over.
            self.confirmed.remove(&from);
        }
        if echo & HAS_HEARD_ALL != 0 {
            Heard::HasHeardAll
        } else if is_new || !is_answer {
            Heard::Asks
        } else {
            Heard::Waits
        }
    }

    /// Whether every voter but `me` has answered that it is as empty.
    pub(super) fn is_general(&self, me: ServerId, quorums: &Quorums) -> bool {
        quorums.voters().iter().all(|id| *id == me || self.confirmed.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oxkeeper_proto::Round;

    fn heard(from: &Emptied, to: ServerId) -> Epoch {
        let vote = Vote { leader: ServerId(1), zxid: NOT_COUNTED, round: Round(1), peer_epoch: Epoch(0) };
        from.marked(vote, to).peer_epoch
    }

    #[test]
    fn only_an_answer_to_this_start_confirms() {
        let (a_id, b_id) = (ServerId(1), ServerId(2));
        let (mut a, mut b) = (Emptied::new(7), Emptied::new(9));
        assert_eq!(b.hear(a_id, heard(&a, b_id)), Heard::Asks);
        assert!(b.confirmed.is_empty());
        let answer = heard(&b, a_id);
        assert_eq!(a.hear(b_id, answer), Heard::Asks);
        assert!(a.confirmed.contains(&b_id));
        assert_eq!(a.hear(b_id, answer), Heard::Waits);
        b.hear(a_id, heard(&a, b_id));
        assert!(b.confirmed.contains(&a_id));
        // The first server is started again; what the second said before is no answer to it.
        let mut again = Emptied::new(11);
        assert_eq!(again.hear(b_id, answer), Heard::Asks);
        assert!(again.confirmed.is_empty());
        let vote = Vote { leader: b_id, zxid: Zxid(0), round: Round(1), peer_epoch: Epoch(0) };
        let word = b.word(vote, a_id);
        assert_eq!((word.zxid, a.hear(b_id, word.peer_epoch)), (NOT_COUNTED, Heard::HasHeardAll));
        assert!(a.confirmed.contains(&b_id));
    }

    #[test]
    fn numbers_are_never_zero_nor_negative() {
        for seed in [0, u64::MAX, 1 << 31, 0x8000_0000_8000_0000] {
            let numbers = heard(&Emptied::new(seed), ServerId(1));
            assert!(numbers.0 > 0, "{numbers:?}");
        }
    }
}
