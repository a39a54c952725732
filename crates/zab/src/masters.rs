//! Whom an observer goes to where followers serve observers.
//!
//! All voters but the leader, in an order of its own, one after the other, so that observers spread over them and none
//! comes back to the one that has just let it go. Two things are not as in Java, whose observers never go to the leader
//! then: one that nobody has served for the time in which a server must join goes to the leader after all, for it is better
//! served there than nowhere, and so does one at once that has no other voter to go to.
//!
//! Source: `QuorumPeer.updateObserverMasterList`, `nextObserverMaster`, 3.9.

use oxkeeper_proto::{EnsembleConfig, ServerId, Zxid};

/// What followers that serve observers, and those observers, go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObserverMasters {
    /// Bytes of agreed transactions that a follower keeps for observers that come: `observerMaster.sizeLimit`.
    pub bytes_max: usize,
    /// An observer that has tried everybody waits up to so long, in ms: `observer.reconnectDelayMs`.
    pub reconnect_ms: i64,
}

/// An observer's search.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Masters {
    pub(crate) settings: ObserverMasters,
    /// The voters of this configuration, in the order in which they are tried.
    order: Vec<ServerId>,
    version: Option<Zxid>,
    /// The place of the next one. It outlives roles: the one that was lost comes last.
    at: usize,
    chance: u64,
    /// Since when nobody has served it.
    since_ms: Option<i64>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Go to this follower.
    Master(ServerId),
    /// Go to the leader.
    Leader,
    /// Ask again at this time.
    NotBefore(i64),
}

impl Masters {
    pub(crate) fn new(settings: ObserverMasters, seed: u64) -> Masters {
        Masters { settings, order: Vec::new(), version: None, at: 0, chance: seed, since_ms: None }
    }

    /// The next one to try; `patience_ms` is how long none but followers are tried.
    pub(crate) fn next(
        &mut self,
        config: &EnsembleConfig,
        leader: ServerId,
        (now_ms, patience_ms): (i64, i64),
    ) -> Next {
        if self.version != Some(config.version) {
            self.version = Some(config.version);
            self.order = config.voters().collect();
            self.shuffle();
            self.at = 0;
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let has_others = self.order.iter().any(|voter| *voter != leader);
        if !has_others || now_ms - since_ms > patience_ms {
            return Next::Leader;
        }
        loop {
            let Some(voter) = self.order.get(self.at).copied() else {
                self.at = 0;
                let wait_ms = self.draw_below(self.settings.reconnect_ms);
                if wait_ms > 0 {
                    return Next::NotBefore(now_ms.saturating_add(wait_ms));
                }
                continue;
            };
            self.at += 1;
            if voter != leader {
                return Next::Master(voter);
            }
        }
    }

    /// Somebody serves it.
    pub(crate) fn found(&mut self) {
        self.since_ms = None;
    }

    fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            let other = self.draw_below(i64::try_from(last + 1).unwrap_or(i64::MAX));
            self.order.swap(last, usize::try_from(other).unwrap_or(0));
        }
    }

    /// A number below this one, or 0. The generator is splitmix64: the seed is the only chance there is.
    fn draw_below(&mut self, end: i64) -> i64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.chance;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let end = u64::try_from(end).unwrap_or(0).max(1);
        i64::try_from(bits % end).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use oxkeeper_proto::ensemble::Member;

    fn voters(count: i64) -> EnsembleConfig {
        let member = |n: i64| (ServerId(n), Member::participant(&format!("h{n}"), 1, 2));
        EnsembleConfig::majority((1..=count).map(member).collect(), Zxid::ZERO)
    }

    fn masters(reconnect_ms: i64, seed: u64) -> Masters {
        Masters::new(ObserverMasters { bytes_max: 1, reconnect_ms }, seed)
    }

    fn round(masters: &mut Masters, config: &EnsembleConfig, leader: i64) -> Vec<i64> {
        let others = config.voters().filter(|voter| voter.0 != leader).count();
        let next = |_| match masters.next(config, ServerId(leader), (0, 1000)) {
            Next::Master(server) => server.0,
            other => panic!("{other:?}"),
        };
        (0..others).map(next).collect()
    }

    #[test]
    fn everybody_but_the_leader_in_an_order_of_its_own() {
        let config = voters(5);
        let mut orders = BTreeSet::new();
        for seed in 0..200 {
            let mut masters = masters(0, seed);
            let first = round(&mut masters, &config, 3);
            assert_eq!(first.iter().copied().collect::<BTreeSet<i64>>(), [1, 2, 4, 5].into());
            assert_eq!(round(&mut masters, &config, 3), first, "the same order again");
            orders.insert(first);
        }
        assert_eq!(orders.len(), 24, "every order comes about");
    }

    #[test]
    fn the_search_goes_on_where_it_was_and_anew_with_another_configuration() {
        let config = voters(3);
        let mut masters = masters(0, 7);
        let [first, second] = round(&mut masters, &config, 3)[..] else { panic!("two") };
        assert_eq!(masters.next(&config, ServerId(3), (0, 1000)), Next::Master(ServerId(first)));
        masters.found();
        assert_eq!(masters.next(&config, ServerId(3), (0, 1000)), Next::Master(ServerId(second)));
        let changed = voters(2).with_version(Zxid(9));
        assert_eq!(masters.next(&changed, ServerId(1), (0, 1000)), Next::Master(ServerId(2)));
    }

    #[test]
    fn after_a_round_comes_a_pause() {
        let config = voters(3);
        for seed in 0..100 {
            let mut masters = masters(50, seed);
            round(&mut masters, &config, 3);
            // A voter that leads is passed over without a pause of its own.
            match masters.next(&config, ServerId(3), (10, 1000)) {
                Next::NotBefore(at_ms) => assert!((11..60).contains(&at_ms)),
                Next::Master(_) => continue,
                Next::Leader => panic!("it is not time yet"),
            }
            assert!(matches!(masters.next(&config, ServerId(3), (60, 1000)), Next::Master(_)));
        }
    }

    #[test]
    fn the_leader_serves_whom_nobody_else_does() {
        let mut alone = masters(0, 1);
        assert_eq!(alone.next(&voters(1), ServerId(1), (0, 1000)), Next::Leader);
        let mut masters = masters(0, 1);
        let config = voters(3);
        assert!(matches!(masters.next(&config, ServerId(3), (500, 1000)), Next::Master(_)));
        assert!(matches!(masters.next(&config, ServerId(3), (1500, 1000)), Next::Master(_)));
        assert_eq!(masters.next(&config, ServerId(3), (1501, 1000)), Next::Leader);
        masters.found();
        assert!(matches!(masters.next(&config, ServerId(3), (1502, 1000)), Next::Master(_)));
    }
}
