//! Which copies of the state may be damaged, so that what is left can always bring them back.
//!
//! A server whose damage is found out does not count for electing until it is level again, so any quorum of the others
//! still has everything that was acknowledged; but a quorum of others there must be. Where a majority decides, of `2f + 1` or
//! `2f + 2` voters at most `f` are damaged at a time. Observers acknowledge nothing that counts: any of them may be.

use std::collections::{BTreeMap, BTreeSet};

use crate::process::Server;
use crate::roster::Roster;

/// What has to happen until a server is whole again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// It may start or refuse to; whole it is only after its disk was emptied and it came level again.
    Spoilt,
    /// Its disk is empty; it has to come level.
    Emptied,
    /// It may have less than it had; it has to come level, or refuse.
    Behind,
}

/// What is damaged in a run, and what may be.
#[derive(Debug, Default)]
pub struct FaultMap {
    damaged: BTreeMap<usize, Damage>,
}

/// The number of a server by its index.
fn number(server: usize) -> i64 {
    Server::id(server).0
}

impl FaultMap {
    /// Notes who is whole again.
    pub fn look(&mut self, servers: &[Server]) {
        self.damaged.retain(|index, damage| {
            let server = servers.get(*index);
            match damage {
                Damage::Spoilt => true,
                Damage::Emptied => server.is_some_and(|server| server.emptied),
                Damage::Behind => server.is_some_and(|server| server.is_behind),
            }
        });
    }

    /// Whether a server may be damaged now, or is already, where these configurations are in force or on their way. One
    /// server of its own has none, and nobody could bring it back.
    #[must_use]
    pub fn may_damage(&self, index: usize, configs: &[&Roster]) -> bool {
        let spares = |config: &&Roster| {
            !config.voters().contains(&number(index)) || config.is_quorum(&self.whole(index, config))
        };
        !configs.is_empty() && configs.iter().all(spares)
    }

    /// Who votes in a configuration and is whole, but for one server.
    fn whole(&self, index: usize, config: &Roster) -> BTreeSet<i64> {
        let damaged: BTreeSet<i64> =
            self.damaged.keys().chain([&index]).map(|index| number(*index)).collect();
        config.voters().difference(&damaged).copied().collect()
    }

    /// Whether a server is damaged.
    #[must_use]
    pub fn is_damaged(&self, index: usize) -> bool {
        self.damaged.contains_key(&index)
    }

    /// Something on its disk is spoilt.
    pub fn spoilt(&mut self, index: usize) {
        self.damaged.insert(index, Damage::Spoilt);
    }

    /// Its log has lost something.
    pub fn behind(&mut self, index: usize) {
        self.damaged.insert(index, Damage::Behind);
    }

    /// Its disk is empty.
    pub fn emptied(&mut self, index: usize) {
        self.damaged.insert(index, Damage::Emptied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many who vote, and a group of two who decide with one of them.
    fn voting(voters: usize, groups: &str) -> Roster {
        let line = |n| format!("server.{n}=s{n}:1:2:participant\n");
        let lines: String = (1..=voters).map(line).collect();
        Roster::parse(&format!("{lines}{groups}")).unwrap()
    }

    fn damaged_at_once(configs: &[&Roster], servers: usize) -> usize {
        let mut map = FaultMap::default();
        (0..servers)
            .filter(|index| {
                let may = map.may_damage(*index, configs);
                if may {
                    map.emptied(*index);
                }
                may
            })
            .count()
    }

    #[test]
    fn a_quorum_of_voters_stays_whole() {
        let of = |voters| damaged_at_once(&[&voting(voters, "")], voters);
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(of), [0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(damaged_at_once(&[], 3), 0, "a server of its own");
        assert_eq!(damaged_at_once(&[&voting(2, "")], 4), 2, "observers");
    }

    #[test]
    fn a_quorum_is_what_the_configurations_say() {
        let grouped = voting(5, "group.1=1:2\ngroup.2=3:4:5\nweight.1=2\nweight.3=0");
        let map = FaultMap::default();
        let may = [0, 1, 2, 3, 4].map(|index| map.may_damage(index, &[&grouped]));
        assert_eq!(may, [false, true, true, false, false]);
        let (old, new) = (voting(5, ""), voting(2, ""));
        assert!(map.may_damage(1, &[&old]) && !map.may_damage(1, &[&old, &new]), "both must go on");
        assert!(map.may_damage(4, &[&old, &new]));
    }

    #[test]
    fn what_is_spoilt_stays_so_until_it_was_emptied_and_who_is_level_makes_room() {
        let three = voting(3, "");
        let mut map = FaultMap::default();
        map.spoilt(1);
        map.look(&[]);
        assert!(map.is_damaged(1) && map.may_damage(1, &[&three]) && !map.may_damage(0, &[&three]));
        map.emptied(1);
        map.look(&[]);
        assert!(!map.is_damaged(1) && map.may_damage(0, &[&three]));
    }
}
