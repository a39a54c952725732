//! Runs that are about one thing: what they have in place of what other runs have.

use oxkeeper_node::ObserverMasters;

use crate::chance::Chance;
use crate::client::Habits;
use crate::faults::FaultKind;
use crate::groups;
use crate::judge::Bench;
use crate::manners::Manners;
use crate::network::Weather;
use crate::queue::{MS, SECOND};
use crate::roster::Roster;
use crate::swarm::{Profile, Swarm};
use crate::workload::Kind;

/// What only special kinds of run have.
#[derive(Debug, Clone)]
pub struct Special {
    /// By server: how it speaks. Servers beyond the end are ours.
    pub manners: Vec<Manners>,
    /// Below this the counter of an epoch stays.
    pub counter_max: u32,
    /// Whether the last server's clock, whose number is the highest, is as slow as clocks are, and all others as fast.
    pub last_is_slow: bool,
    /// Groups and weights of the first configuration, as its lines; none where a majority decides.
    pub groups: Vec<String>,
    /// How the oracle goes about it, if there is one.
    pub judge: Option<Bench>,
    /// At every so many transactions the whole state is compared.
    pub hashed_every: i64,
}

impl Special {
    /// Nothing special.
    pub const NONE: Special = Special {
        manners: Vec::new(),
        counter_max: u32::MAX,
        last_is_slow: false,
        groups: Vec::new(),
        judge: None,
        hashed_every: 8,
    };

    /// Whether it is nothing special.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.manners.is_empty() && self.counter_max == u32::MAX
    }

    /// Whether a leader of the run may answer a `sync` although it leads no more, as ZooKeeper's do.
    #[must_use]
    pub fn may_be_stale(&self) -> bool {
        self.manners.iter().any(|manners| manners.syncs_alone)
    }
}

/// Among mixed runs, which special kind a seed is of, if it is of one.
pub(crate) fn of(seed: u64) -> Option<Profile> {
    match (seed % 10, seed / 10 % 4) {
        (0, 1) => Some(Profile::Deposed),
        (0, 3) => Some(Profile::Rollover),
        (0 | 4, 2) => Some(Profile::ObserverMaster),
        (2, 0 | 2) => Some(Profile::Groups),
        (3, 2) => Some(Profile::Oracle),
        (3, 1 | 3) => Some(Profile::MixedVersion),
        (4, 1) => Some(Profile::Hostile),
        (4, 3) if seed / 40 % 5 == 4 => Some(Profile::BigTree),
        (4, 3) => Some(Profile::Damage),
        _ => None,
    }
}

impl Profile {
    /// Whether it is about one thing.
    #[must_use]
    pub fn is_special(self) -> bool {
        matches!(
            self,
            Profile::Deposed
                | Profile::Rollover
                | Profile::Hostile
                | Profile::MixedVersion
                | Profile::Damage
                | Profile::ObserverMaster
                | Profile::Groups
                | Profile::Oracle
                | Profile::BigTree
        )
    }
}

impl Swarm {
    /// Draws what a profile has of its own.
    pub(crate) fn draw_special(&mut self, profile: Profile, mut chance: Chance) {
        match profile {
            Profile::Deposed => self.depose(&mut chance),
            Profile::Rollover => self.special.counter_max = chance.log_uniform(3, 200) as u32,
            Profile::Hostile => {
                self.mix(&mut chance, |chance| Manners {
                    babbles: chance.happens(0.7),
                    acks_informs: true,
                    ..Manners::OURS
                });
            }
            Profile::MixedVersion => self.mix(&mut chance, Manners::draw),
            Profile::BigTree => self.grow(&mut chance),
            Profile::Damage => {
                let others = chance.unit();
                self.faults.retain(|_| chance.happens(others));
                for kind in FaultKind::LIES.into_iter().chain([FaultKind::RolledBack, FaultKind::ReadFails]) {
                    self.faults.push((kind, chance.log_uniform(4, 40) * SECOND));
                }
            }
            Profile::ObserverMaster => self.serve_by_followers(&mut chance),
            Profile::Groups => self.group(&mut chance),
            Profile::Oracle => self.judge(&mut chance),
            _ if profile.is_of_many() => self.draw_rare(&mut chance),
            _ => {}
        }
    }

    /// What is in few runs of many kinds.
    fn draw_rare(&mut self, chance: &mut Chance) {
        if !chance.happens(0.3) || self.faults.is_empty() {
            return;
        }
        self.faults.push((FaultKind::LeaderCutOff, chance.log_uniform(10, 120) * SECOND));
        let may_lie = self.voters >= 3 && !self.server.reconfig;
        for kind in FaultKind::LIES.into_iter().filter(|_| may_lie) {
            self.faults.push((kind, chance.log_uniform(10, 120) * SECOND));
        }
        self.faults.push((FaultKind::ReadFails, chance.log_uniform(10, 120) * SECOND));
        if may_lie {
            self.faults.push((FaultKind::RolledBack, chance.log_uniform(10, 120) * SECOND));
        }
    }

    /// Followers serve observers, of which there are some. In some runs the members change; in others nothing is wrong.
    fn serve_by_followers(&mut self, chance: &mut Chance) {
        self.voters = chance.pick(&[2, 3, 3, 3, 4, 5]).copied().unwrap_or(3);
        self.servers = (self.voters + 1 + chance.index(3)).min(7);
        let bytes_max = chance.pick(&[1_000, 20_000, 32 << 20]).copied().unwrap_or(0);
        let reconnect_ms = chance.pick(&[0, 0, 100, 2_000]).copied().unwrap_or(0);
        self.server.observer_masters = Some(ObserverMasters { bytes_max, reconnect_ms });
        if chance.happens(0.1) {
            return self.calm_down();
        }
        if chance.happens(0.3) {
            self.server.reconfig = true;
            self.draw_changes(chance);
        }
        self.draw_rare(chance);
    }

    /// The voters are put into groups. In some runs one of them is slow, whom the others can do without; in others the
    /// members change.
    fn group(&mut self, chance: &mut Chance) {
        self.voters = chance.pick(&[3, 4, 4, 5, 5, 6, 7]).copied().unwrap_or(3);
        self.servers = (self.voters + chance.index(3)).min(7);
        let voters: Vec<usize> = (1..=self.voters).collect();
        self.special.groups = groups::draw(&voters, chance);
        if chance.happens(0.1) && self.can_do_without_the_last() {
            (self.weather, self.operator, self.chaos) = (Weather::CALM, None, 100 * SECOND);
            self.faults.clear();
            return self.draw_slow(chance);
        }
        if chance.happens(0.4) {
            self.server.reconfig = true;
            self.draw_changes(chance);
        }
        self.draw_rare(chance);
    }

    /// Nothing goes wrong, so nobody has a reason to leave a role.
    fn calm_down(&mut self) {
        (self.weather, self.operator, self.chaos) = (Weather::CALM, None, 20 * SECOND);
        self.faults.clear();
        self.clients.iter_mut().for_each(|(_, habits)| habits.dies = 0);
    }

    /// Two vote, and lose each other more often than others do.
    fn judge(&mut self, chance: &mut Chance) {
        self.voters = 2;
        self.servers = 2 + chance.index(3);
        let mean = chance.log_uniform(50, 8000) * MS;
        let (seed, tells_observers, is_hasty) = (chance.bits(), chance.happens(0.5), chance.happens(0.25));
        self.special.judge = Some(Bench { mean, seed, tells_observers, is_hasty });
        for kind in [FaultKind::Partition, FaultKind::LeaderCutOff, FaultKind::PowerLoss, FaultKind::Wipe] {
            self.faults.retain(|(known, _)| *known != kind);
            if chance.happens(0.6) {
                self.faults.push((kind, chance.log_uniform(4, 40) * SECOND));
            }
        }
        self.faults.push((FaultKind::ReadFails, chance.log_uniform(10, 120) * SECOND));
    }

    /// Whether all voters but the last one are a quorum.
    fn can_do_without_the_last(&self) -> bool {
        let text = self.ensemble().map(|config| config.to_string());
        let Some(roster) = text.as_deref().and_then(Roster::parse) else { return false };
        let mut voters = roster.voters();
        voters.pop_last();
        roster.is_quorum(&voters)
    }

    /// Some servers, and at least one, speak in another way.
    fn mix(&mut self, chance: &mut Chance, manners: impl Fn(&mut Chance) -> Manners) {
        let sure = chance.index(self.servers);
        let others = |index| index == sure || chance.happens(0.5);
        let chosen: Vec<bool> = (0..self.servers).map(others).collect();
        let drawn = chosen.into_iter().map(|other| if other { manners(chance) } else { Manners::OURS });
        self.special.manners = drawn.collect();
    }

    /// Some megabytes of znodes: snapshots in many pieces while the tree changes, logs longer than a batch, and learners
    /// that need minutes to be sent all of it.
    fn grow(&mut self, chance: &mut Chance) {
        self.voters = 3;
        self.servers = 3 + chance.index(2);
        self.without = 0;
        self.special.hashed_every = 256;
        self.chaos = chance.within(50..100) * SECOND;
        self.weather.bandwidth = chance.log_uniform(200_000, 5_000_000);
        self.server.snap_count = chance.log_uniform(30, 300);
        self.server.log_bytes_max = 0;
        self.server.tick_ms = i64::try_from(chance.one_of([500, 1000, 2000])).unwrap_or(1000);
        // What a snapshot must bring, or the log.
        self.faults.retain(|(kind, _)| !matches!(kind, FaultKind::Weather | FaultKind::AllDown));
        for kind in [FaultKind::Wipe, FaultKind::PowerLoss, FaultKind::SnapshotRots, FaultKind::LogRots] {
            self.faults.retain(|(other, _)| *other != kind);
            self.faults.push((kind, chance.log_uniform(8, 40) * SECOND));
        }
        let habits = Habits { moves: 10, ..Habits::patient(self.server.tick_ms, SECOND / 15, 2) };
        let kinds = [Kind::Grow, Kind::Grow, Kind::Append, Kind::Multi, Kind::Acl, Kind::Ephemeral];
        self.clients = kinds.into_iter().map(|kind| (kind, habits.clone())).collect();
    }

    /// Leaders are cut off all the time, under clients who write and clients who ask for what is new.
    fn depose(&mut self, chance: &mut Chance) {
        self.voters = 3;
        self.servers = 3;
        // Whoever leads first takes longest to notice that nobody follows.
        self.special.last_is_slow = true;
        self.server.tick_ms = i64::try_from(chance.one_of([1000, 2000])).unwrap_or(1000);
        let others = chance.happens(0.3);
        self.faults.retain(|_| others);
        self.faults.push((FaultKind::LeaderCutOff, chance.within(12..25) * SECOND));
        let habits = Habits { moves: 10, ..Habits::patient(self.server.tick_ms, SECOND / 10, 4) };
        // A write that the old leader cannot end holds up the syncs behind it, so there are few who write.
        let writers = 1 + chance.index(3);
        let kind = |client| if client < writers { Kind::Register } else { Kind::Fresh };
        self.clients = (0..8).map(|client| (kind(client), habits.clone())).collect();
    }
}
