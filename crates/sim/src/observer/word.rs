//! What is checked where an oracle may let one of two voters go on alone: whoever does has its word, and only while the
//! other one gets nothing from it.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{ServerId, Zxid};

use super::Observer;
use super::members::number;
use crate::network::LinkId;
use crate::roster::Roster;

/// What is known of an oracle.
#[derive(Debug, Default)]
pub(super) struct Word {
    /// Who may go on alone, by number.
    chosen: Option<i64>,
    /// Who could once, and the newest transaction that was durable there when it could not any more.
    before: BTreeMap<i64, Zxid>,
    /// Who leads.
    leading: BTreeSet<i64>,
    /// Who became a leader, the last time, when it could.
    led: BTreeSet<i64>,
    /// The voter that follows over a link.
    followers: BTreeMap<LinkId, i64>,
}

/// An oracle decides between so many at most.
const VOTERS_MAX: usize = 2;

impl Observer {
    /// The oracle lets this server go on alone from now on, and no other one.
    pub fn word_is(&mut self, chosen: Option<usize>) {
        let old = self.word.as_ref().and_then(|word| word.chosen);
        let last = old.and_then(|old| usize::try_from(old - 1).ok()).map(|server| self.durable_last(server));
        let word = self.word.get_or_insert_default();
        word.chosen = chosen.map(number);
        if let (Some(old), Some(last)) = (old, last) {
            word.before.insert(old, last);
        }
    }

    /// Whether one of these has a transaction and was let go on alone with it.
    pub(super) fn is_enough_alone(&self, roster: &Roster, zxid: Zxid, holders: &BTreeSet<i64>) -> bool {
        let Some(word) = self.word.as_ref().filter(|_| roster.voters().len() <= VOTERS_MAX) else {
            return false;
        };
        word.chosen.is_some_and(|chosen| holders.contains(&chosen))
            || word.before.iter().any(|(server, upto)| zxid <= *upto && holders.contains(server))
    }

    /// A server has begun to lead, or has become something else.
    pub(super) fn note_word(&mut self, server: usize, leads: bool) {
        let Some(word) = &mut self.word else { return };
        let server = number(server);
        if !leads {
            word.leading.remove(&server);
        } else if word.leading.insert(server) {
            word.led.remove(&server);
            word.led.extend(word.chosen.filter(|chosen| *chosen == server));
        }
    }

    /// Whether a server may be under a leader because the oracle lets that one lead. One who observes is only told that
    /// somebody may; whom it follows in vain counts for nothing.
    pub(super) fn follows_word(&self, server: usize, leader: ServerId) -> bool {
        let votes = self.config().is_none_or(|config| config.voters().contains(&number(server)));
        let leads = |word: &Word| word.led.contains(&leader.0) || word.chosen == Some(leader.0);
        self.word.as_ref().is_some_and(|word| leads(word) || !votes)
    }

    /// A server introduces itself to a leader.
    pub(super) fn follows_over(&mut self, server: usize, link: LinkId) {
        if let Some(word) = &mut self.word {
            word.followers.insert(link, number(server));
        }
    }

    /// A leader tells a learner that something is agreed. What a voter is sent it must have, whatever the oracle says.
    pub(super) fn check_not_alone(&mut self, link: LinkId, zxid: Zxid) {
        let Some(follower) = self.word.as_ref().and_then(|word| word.followers.get(&link).copied()) else {
            return;
        };
        let holders = self.numbers(|server| self.holds(server, zxid));
        self.check(8, zxid.counter() == 0 || holders.contains(&follower), || {
            format!("{zxid} is agreed with server {follower} at hand, and durable only on {holders:?}")
        });
    }

    /// Whether one of two voters may lose its disk, because the other one has all that was agreed and may go on alone.
    #[must_use]
    pub fn can_spare(&self, server: usize) -> bool {
        let Some(word) = self.word.as_ref().filter(|_| server < VOTERS_MAX) else { return false };
        let other = 1 - server;
        word.chosen == Some(number(other)) && self.has_all(other, server, Zxid::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use oxkeeper_node::Role;
    use oxkeeper_proto::Epoch;
    use oxkeeper_storage::SimDisk;

    use super::*;

    fn two() -> Observer {
        let mut observer = Observer::of_voters(2);
        observer.word_is(None);
        observer
    }

    fn violated(observer: &Observer) -> Option<u8> {
        observer.violation.as_ref().map(|violation| violation.invariant)
    }

    fn enough(observer: &Observer, holders: &[i64]) -> bool {
        observer.lacking(Zxid(1), &holders.iter().copied().collect()) == 0
    }

    #[test]
    fn one_of_two_is_enough_with_the_word_and_not_without() {
        let mut observer = two();
        assert!(enough(&observer, &[1, 2]) && !enough(&observer, &[1]));
        observer.word_is(Some(0));
        assert!(enough(&observer, &[1]) && !enough(&observer, &[2]));
        observer.word_is(Some(1));
        assert!(enough(&observer, &[2]) && !enough(&observer, &[1]), "nothing was on its disk by then");
    }

    #[test]
    fn among_three_the_word_counts_for_nothing() {
        let mut observer = Observer::of_voters(3);
        observer.word_is(Some(0));
        assert!(!enough(&observer, &[1]));
    }

    #[test]
    fn what_a_voter_is_told_it_must_have_whatever_the_oracle_says() {
        let mut observer = two();
        observer.word_is(Some(0));
        observer.check_not_alone(LinkId(1), Zxid::new(1, 1));
        assert_eq!(violated(&observer), None, "nobody follows over that link");
        observer.follows_over(1, LinkId(1));
        observer.check_not_alone(LinkId(1), Zxid::new(1, 1));
        assert_eq!(violated(&observer), Some(8));
    }

    #[test]
    fn a_leader_that_is_alone_begins_an_epoch_of_its_own() {
        let disk = SimDisk::quiet();
        let leads = |observer: &mut Observer, server, epoch| {
            observer.role_changed(server, (Role::Leading, true, Epoch(epoch)), &disk, 0);
        };
        let mut observer = two();
        leads(&mut observer, 0, 2);
        assert_eq!(violated(&observer), Some(8), "without the word it has no quorum");
        let mut observer = two();
        observer.reigns_in(0, 2);
        observer.reigns_in(1, 2);
        leads(&mut observer, 0, 2);
        assert_eq!(violated(&observer), None);
        leads(&mut observer, 1, 2);
        assert_eq!(violated(&observer), Some(1), "two lead in one epoch");
    }
}
