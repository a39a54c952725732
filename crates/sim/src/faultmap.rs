//! Which copies of the state may be damaged, so that what is left can always bring them back.
//!
//! A server whose damage is found out does not count for electing until it is level again, so any quorum of the others
//! still has everything that was acknowledged; but a quorum of others there must be. So of `2f + 1` or `2f + 2` voters at
//! most `f` are damaged at a time. Observers acknowledge nothing that counts: any of them may be.

use std::collections::BTreeMap;

use crate::process::Server;

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
    voters: usize,
    damaged: BTreeMap<usize, Damage>,
}

impl FaultMap {
    /// The map of an ensemble of which the first so many servers vote; with 0 it is one server of its own, which nobody
    /// could bring back.
    #[must_use]
    pub fn new(voters: usize) -> FaultMap {
        FaultMap { voters, damaged: BTreeMap::new() }
    }

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

    /// Whether a server may be damaged now, or is already.
    #[must_use]
    pub fn may_damage(&self, index: usize) -> bool {
        if self.voters == 0 {
            return false;
        }
        let others = self.damaged.keys().filter(|other| **other < self.voters && **other != index).count();
        index >= self.voters || others < self.voters.saturating_sub(1) / 2
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

    fn damaged_at_once(voters: usize, servers: usize) -> usize {
        let mut map = FaultMap::new(voters);
        (0..servers)
            .filter(|index| {
                let may = map.may_damage(*index);
                if may {
                    map.emptied(*index);
                }
                may
            })
            .count()
    }

    #[test]
    fn a_quorum_of_voters_stays_whole() {
        let counts: Vec<usize> = (0..8).map(|voters| damaged_at_once(voters, voters)).collect();
        assert_eq!(counts, [0, 0, 0, 1, 1, 2, 2, 3]);
        assert_eq!(damaged_at_once(2, 4), 2, "observers");
    }

    #[test]
    fn what_is_spoilt_stays_so_until_it_was_emptied_and_who_is_level_makes_room() {
        let mut map = FaultMap::new(3);
        map.spoilt(1);
        map.look(&[]);
        assert!(map.is_damaged(1) && map.may_damage(1) && !map.may_damage(0));
        map.emptied(1);
        map.look(&[]);
        assert!(!map.is_damaged(1) && map.may_damage(0));
    }
}
