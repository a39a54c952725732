//! What a run is like, drawn from its seed: sizes, timings, which faults and operations there are at all.
//!
//! Each kind of fault and of operation is off in half of all runs, and rates differ by orders of magnitude: a little
//! of everything hides what needs much of one thing.

use oxkeeper_proto::ensemble::Member;
use oxkeeper_proto::{EnsembleConfig, OpCode, ServerId, Zxid};

use crate::admin;
use crate::chance::Chance;
use crate::client::{Habits, SUPER};
use crate::faults::FaultKind;
use crate::network::Weather;
use crate::operator::Duties;
use crate::process::{Server, ServerHabits};
use crate::queue::{MS, Nanos, SECOND};
use crate::slow::Trouble;
use crate::special::{self, Special};
use crate::workload::Kind;

/// What runs of a campaign have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Some of everything.
    Standard,
    /// Few requests, much virtual time.
    Light,
    /// Heavy faults of disks and power.
    Storage,
    /// Many short sessions.
    Session,
    /// Watches of all kinds.
    Watch,
    /// No faults at all: what fails here is not the faults' doing.
    Calm,
    /// An ensemble with some of everything.
    Ensemble,
    /// An ensemble whose leaders fall, and few requests.
    Election,
    /// An ensemble whose servers fall and come back all the time, in the middle of coming level.
    Rejoin,
    /// An ensemble whose members change.
    Reconfig,
    /// An ensemble whose leaders lose their quorum and keep their clients.
    Deposed,
    /// An ensemble whose epochs hold few transactions.
    Rollover,
    /// An ensemble of which some members are hostile.
    Hostile,
    /// An ensemble of which some members are not ours.
    MixedVersion,
    /// An ensemble whose disks lie.
    Damage,
    /// An ensemble with a tree so large that snapshots and logs take their time.
    BigTree,
    /// An ensemble that falls apart again and again, and clients who are content with reading meanwhile.
    CutOff,
    /// An ensemble whose leaders are asked to hand over.
    HandOver,
    /// An ensemble of which one member is slow or comes and goes.
    SlowMember,
    /// An ensemble whose followers serve the observers.
    ObserverMaster,
    /// An ensemble whose voters are in groups and have weights.
    Groups,
    /// An ensemble of two voters, and an oracle that may let one of them go on alone.
    Oracle,
    /// An ensemble without faults.
    CalmEnsemble,
    /// An ensemble without faults whose leaders are asked to hand over.
    CalmHandOver,
    /// An ensemble without faults whose members change.
    CalmReconfig,
    /// One of the others, by the seed.
    Mixed,
}

impl Profile {
    /// Every profile, by name.
    pub const ALL: [(&'static str, Profile); 26] = [
        ("standard", Profile::Standard),
        ("light", Profile::Light),
        ("storage", Profile::Storage),
        ("session", Profile::Session),
        ("watch", Profile::Watch),
        ("calm", Profile::Calm),
        ("ensemble", Profile::Ensemble),
        ("election", Profile::Election),
        ("rejoin", Profile::Rejoin),
        ("reconfig", Profile::Reconfig),
        ("deposed", Profile::Deposed),
        ("rollover", Profile::Rollover),
        ("hostile", Profile::Hostile),
        ("mixed-version", Profile::MixedVersion),
        ("damage", Profile::Damage),
        ("big-tree", Profile::BigTree),
        ("cut-off", Profile::CutOff),
        ("hand-over", Profile::HandOver),
        ("slow-member", Profile::SlowMember),
        ("observer-master", Profile::ObserverMaster),
        ("groups", Profile::Groups),
        ("oracle", Profile::Oracle),
        ("calm-ensemble", Profile::CalmEnsemble),
        ("calm-hand-over", Profile::CalmHandOver),
        ("calm-reconfig", Profile::CalmReconfig),
        ("mixed", Profile::Mixed),
    ];

    /// The profile that a seed is run with.
    #[must_use]
    pub fn of(self, seed: u64) -> Profile {
        match (self, seed % 10) {
            (Profile::Mixed, digit) if special::of(seed).is_some() && digit < 5 => {
                special::of(seed).unwrap_or(self)
            }
            (Profile::Mixed, 0) => Profile::Ensemble,
            (Profile::Mixed, 1) => Profile::Reconfig,
            (Profile::Mixed, 2) if seed.is_multiple_of(4) => Profile::CutOff,
            (Profile::Mixed, 2 | 3) => Profile::Election,
            (Profile::Mixed, 4) => Profile::Rejoin,
            (Profile::Mixed, 5) => Profile::Storage,
            (Profile::Mixed, 6) => Profile::Session,
            (Profile::Mixed, 7) => Profile::Watch,
            (Profile::Mixed, 8) if seed.is_multiple_of(4) => Profile::SlowMember,
            (Profile::Mixed, 8) => Profile::Light,
            (Profile::Mixed, 9) if seed / 10 % 2 == 1 => Profile::HandOver,
            (Profile::Mixed, _) => Profile::Standard,
            (other, _) => other,
        }
    }

    /// Whether it is about an ensemble.
    #[must_use]
    pub fn is_of_many(self) -> bool {
        matches!(self, Profile::Ensemble | Profile::Election | Profile::Rejoin | Profile::CalmEnsemble)
            || self.is_of_change()
            || matches!(
                self,
                Profile::CutOff | Profile::HandOver | Profile::CalmHandOver | Profile::SlowMember
            )
            || self.is_special()
    }

    /// Whether runs of this kind make faults of that kind.
    #[must_use]
    pub fn makes(self, kind: FaultKind) -> bool {
        let has_others = self == Profile::Mixed || self.is_of_many();
        if self == Profile::Oracle && (FaultKind::LIES.contains(&kind) || kind == FaultKind::RolledBack) {
            // Nobody could tell a log that lost something from a whole one.
            return false;
        }
        // Where members change no disk is lost, nor what is on it.
        let is_of_lost_disks =
            matches!(kind, FaultKind::SnapshotRots | FaultKind::Wipe | FaultKind::RolledBack)
                || FaultKind::LIES.contains(&kind);
        !self.is_calm()
            && (has_others || !(kind.needs_others() || kind.is_special()))
            && !(self.is_of_change() && is_of_lost_disks)
    }

    fn is_calm(self) -> bool {
        matches!(
            self,
            Profile::Calm
                | Profile::CalmEnsemble
                | Profile::CalmReconfig
                | Profile::CalmHandOver
                | Profile::SlowMember
        )
    }

    /// Whether servers come and go.
    pub(crate) fn is_of_change(self) -> bool {
        matches!(self, Profile::Reconfig | Profile::CalmReconfig)
    }
}

/// The configuration of one run.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// Number of servers.
    pub servers: usize,
    /// How many of them, from the first on, vote at first; the others observe. 0 for a server of its own.
    pub voters: usize,
    /// How many of them, the last ones, belong to no configuration at first.
    pub spares: usize,
    /// How servers are set up.
    pub server: ServerHabits,
    /// Whether their clocks run at different speeds.
    pub skewed_clocks: bool,
    /// Clients.
    pub clients: Vec<(Kind, Habits)>,
    /// Operations that nobody asks for, by bit.
    pub without: u64,
    /// The network without faults.
    pub weather: Weather,
    /// Kinds of fault, and the time between two of them on average.
    pub faults: Vec<(FaultKind, Nanos)>,
    /// How long there are faults.
    pub chaos: Nanos,
    /// What an operator does.
    pub operator: Option<Duties>,
    /// What is wrong with the last server, where all others are well, and where the chance of it comes from.
    pub slow: Option<(Trouble, u64)>,
    /// What only special kinds of run have.
    pub special: Special,
}

/// The configuration of so many servers, of whom the first ones vote and the others observe.
#[must_use]
pub fn ensemble_of(servers: usize, voters: usize) -> EnsembleConfig {
    let member = |index: usize| {
        let role = if index < voters { "participant" } else { "observer" };
        Some((Server::id(index), Member::parse(&admin::line(index + 1, role)).ok()?))
    };
    EnsembleConfig::majority((0..servers).filter_map(member).collect(), Zxid::ZERO)
}

impl Swarm {
    /// The configuration of the ensemble, if there is one.
    #[must_use]
    pub fn ensemble(&self) -> Option<EnsembleConfig> {
        if self.voters == 0 {
            return None;
        }
        Some(self.in_groups(ensemble_of(self.servers - self.spares, self.voters), ""))
    }

    /// The configuration that a server is given before its first start: a spare one finds itself in it, nobody else
    /// does.
    #[must_use]
    pub fn first_config(&self, index: usize) -> Option<EnsembleConfig> {
        let config = self.ensemble()?;
        let mut members = config.members().clone();
        members.extend(self.member(index));
        let config = EnsembleConfig::majority(members, Zxid::ZERO);
        // Whoever votes is in a group, be it one of its own.
        let id = Server::id(index);
        let is_new_voter = index >= self.servers - self.spares && config.is_voter(id);
        let own = if is_new_voter { format!("group.9{id}={id}") } else { String::new() };
        Some(self.in_groups(config, &own))
    }

    /// A configuration with the groups of the run, if it has any, and another one.
    fn in_groups(&self, config: EnsembleConfig, another: &str) -> EnsembleConfig {
        let groups = &self.special.groups;
        if groups.is_empty() {
            return config;
        }
        let text = format!("{config}\n{}\n{another}", groups.join("\n"));
        EnsembleConfig::parse(&text).unwrap_or(config)
    }

    fn member(&self, index: usize) -> Option<(ServerId, Member)> {
        let is_spare = index >= self.servers - self.spares;
        let votes = if is_spare { index.is_multiple_of(2) } else { index < self.voters };
        let role = if votes { "participant" } else { "observer" };
        Some((Server::id(index), Member::parse(&admin::line(index + 1, role)).ok()?))
    }

    /// Draws the configuration of a run.
    #[must_use]
    pub fn draw(profile: Profile, chance: &mut Chance) -> Swarm {
        // A stream of its own for what not every kind of run has, so that it changes no other draw.
        let mut extra = Chance::new(chance.clone().bits() ^ 0x65_78_74_72_61);
        // A stream of its own, so that it changes no other draw.
        let special = Chance::new(chance.clone().bits() ^ 0x7370_6563);
        let tick_ms = i64::try_from(chance.one_of([200, 500, 1000, 2000])).unwrap_or(1000);
        let server = ServerHabits {
            tick_ms,
            snap_count: chance.log_uniform(8, 3000),
            prepare_bytes: chance.one_of([0, 4096, 65_536]),
            log_bytes_max: chance.one_of([0, 0, 2000, 40_000]),
            turn: chance.one_of([0, MS / 10, MS, 20 * MS]),
            sync: chance.one_of([MS / 10, MS, 5 * MS, 40 * MS]),
            extended_types: chance.happens(0.7),
            keep: 3,
            force_snapshot: chance.happens(if profile == Profile::Rejoin { 0.4 } else { 0.1 }),
            log_sync_bytes: chance.one_of([0, 3_000, 1 << 20]),
            reconfig: profile.is_of_change(),
            read_only: false,
            local_sessions: false,
            local_upgrade: false,
            observer_masters: None,
        };
        let weather = Weather {
            floor: MS / 20,
            mean: chance.log_uniform(MS / 20, 40 * MS),
            tail: if chance.happens(0.3) { 0.02 } else { 0.0 },
            split: chance.unit() * chance.unit(),
            bandwidth: if chance.happens(0.1) { chance.log_uniform(20_000, 10_000_000) } else { 0 },
        };
        let chaos = match profile {
            Profile::Light => chance.within(120..600) * SECOND,
            Profile::Calm | Profile::CalmEnsemble => 20 * SECOND,
            Profile::CalmHandOver => 60 * SECOND,
            Profile::SlowMember => 100 * SECOND,
            _ => chance.within(40..160) * SECOND,
        };
        let (voters, observers) = if profile.is_of_many() {
            let sizes = if profile == Profile::Rejoin { [3; 8] } else { [3, 3, 3, 5, 5, 4, 2, 7] };
            (chance.one_of(sizes), chance.one_of([0, 0, 1, 2]))
        } else {
            (0, 1)
        };
        let count = |n: u64| usize::try_from(n).unwrap_or(0);
        let mut swarm = Swarm {
            servers: count(voters + observers),
            voters: count(voters),
            spares: 0,
            server,
            skewed_clocks: chance.happens(0.5),
            clients: Vec::new(),
            without: 0,
            weather,
            faults: Vec::new(),
            chaos,
            operator: None,
            slow: None,
            special: Special::NONE,
        };
        swarm.draw_clients(profile, chance);
        swarm.draw_faults(profile, chance);
        if profile.is_of_change() {
            swarm.draw_changes(&mut extra);
        }
        swarm.draw_sessions(profile, &mut extra);
        swarm.draw_operator(profile, &mut extra);
        if profile == Profile::SlowMember {
            swarm.draw_slow(&mut extra);
        }
        // With one snapshot there is soon none behind which a log could be cut. But if it rots, there is none at all.
        if profile == Profile::Rejoin
            && !swarm.faults.iter().any(|(kind, _)| *kind == FaultKind::SnapshotRots)
        {
            swarm.server.keep = 1;
        }
        swarm.draw_special(profile, special);
        swarm
    }

    /// Sessions that only one server knows, and clients who are content with reading.
    fn draw_sessions(&mut self, profile: Profile, chance: &mut Chance) {
        let [reading, local] = match profile {
            Profile::CutOff => [1.0, 0.3],
            Profile::Ensemble
            | Profile::Election
            | Profile::Rejoin
            | Profile::Reconfig
            | Profile::ObserverMaster
            | Profile::Groups
            | Profile::Oracle => [0.3, 0.15],
            Profile::CalmEnsemble => [0.0, 0.15],
            _ => return,
        };
        self.server.local_sessions = chance.happens(local);
        self.server.local_upgrade = chance.happens(0.7);
        self.server.read_only = chance.happens(reading);
        for (kind, habits) in &mut self.clients {
            habits.reads_only = self.server.read_only && *kind != Kind::Reconfig && chance.happens(0.6);
        }
        if profile == Profile::CutOff {
            // Servers that have no quorum for longer than it takes to serve readers.
            self.faults.retain(|(kind, _)| *kind != FaultKind::Partition);
            self.faults.push((FaultKind::Partition, chance.log_uniform(4, 12) * SECOND));
        }
    }

    /// One that is slow among others that are well.
    pub(crate) fn draw_slow(&mut self, chance: &mut Chance) {
        self.voters = self.voters.max(3);
        self.servers = self.voters;
        let all = [Trouble::Disk, Trouble::Network, Trouble::Falls, Trouble::Pauses];
        self.slow = chance.pick(&all).map(|trouble| (*trouble, chance.bits()));
        let habits = Habits::patient(self.server.tick_ms, SECOND / 4, 4);
        self.without = 0;
        self.clients = (0..6).map(|_| (Kind::Register, habits.clone())).collect();
    }

    /// An operator, for some.
    fn draw_operator(&mut self, profile: Profile, chance: &mut Chance) {
        let often = match profile {
            Profile::HandOver | Profile::CalmHandOver => 1.0,
            Profile::ObserverMaster => 0.4,
            Profile::Ensemble | Profile::Election | Profile::Rejoin | Profile::Reconfig | Profile::Groups => {
                0.2
            }
            _ => return,
        };
        if !chance.happens(often) {
            return;
        }
        let is_calm = profile == Profile::CalmHandOver;
        let mean = chance.log_uniform(2, if often < 1.0 { 60 } else { 10 }) * SECOND;
        let shortages = chance.one_of([0, 10, 40]);
        self.operator = Some(Duties { mean, seed: chance.bits(), shortages, is_calm });
        if is_calm {
            // Who gets a whole state lets its clients go: what they watch may have changed in between.
            self.server.force_snapshot = false;
            for (_, habits) in &mut self.clients {
                // They come, stay where they are, and are more patient than a hand-over takes.
                (habits.restless, habits.moves) = (0, 0);
                habits.timeout_ms = i32::try_from(self.server.tick_ms * 20).unwrap_or(i32::MAX);
            }
        }
    }

    /// Spare servers, and who puts them to use.
    pub(crate) fn draw_changes(&mut self, chance: &mut Chance) {
        let room = u64::try_from(7usize.saturating_sub(self.servers)).unwrap_or(0);
        self.spares = usize::try_from(chance.within(1..4).min(room)).unwrap_or(0);
        self.servers += self.spares;
        // While one disk is lost or refused no other may be, and who votes changes: that is for other runs.
        self.faults.retain(|(kind, _)| !matches!(kind, FaultKind::Wipe | FaultKind::SnapshotRots));
        let pause = chance.log_uniform(1, 8) * SECOND;
        let timeout_ms = self.clients.first().map_or(10_000, |(_, habits)| habits.timeout_ms);
        let habits = Habits {
            timeout_ms,
            pause,
            pipeline: 1 + chance.index(3),
            users: vec![SUPER],
            restless: 0,
            moves: chance.one_of([0, 10, 50]),
            dies: 0,
            reads_only: false,
        };
        // Without these nothing would change.
        self.without &= !(1 << OpCode::Reconfig.number() | 1 << OpCode::GetData.number());
        // One who may, and sometimes another one, who may as well or may not.
        if chance.happens(0.4) {
            let users = if chance.happens(0.5) { vec![SUPER] } else { vec![0] };
            self.clients.push((Kind::Reconfig, Habits { users, ..habits.clone() }));
        }
        self.clients.push((Kind::Reconfig, habits));
    }

    fn draw_clients(&mut self, profile: Profile, chance: &mut Chance) {
        for bit in 1..64 {
            // What makes something to look at is never left out.
            if !matches!(bit, 1 | 15) && chance.happens(0.25) {
                self.without |= 1 << bit;
            }
        }
        let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|_| chance.happens(0.5)).collect();
        let count = 1 + chance.index(if profile == Profile::Light { 3 } else { 8 });
        let rate = match profile {
            Profile::Light | Profile::Election => 5,
            Profile::Rejoin => 15,
            _ => 40,
        };
        let timeout_ticks = chance.within(2..12);
        for _ in 0..count {
            let kind = match profile {
                Profile::Watch if self.clients.is_empty() && chance.happens(0.15) => Kind::Flood,
                Profile::Watch if chance.happens(0.6) => Kind::Watch,
                _ => chance.pick(&kinds).copied().unwrap_or(Kind::Register),
            };
            let restless = if profile == Profile::Session { 60 } else { chance.one_of([0, 0, 5, 20]) };
            let users = (0..SUPER).filter(|_| chance.happens(0.3)).collect();
            let tick_ms = u64::try_from(self.server.tick_ms).unwrap_or(1);
            let (kind, flood) = match (kind, profile) {
                // A flood is much for a run: not in every one, and one at a time.
                (Kind::Flood, Profile::Watch) if self.clients.is_empty() => (kind, true),
                (Kind::Flood, _) => (Kind::Register, false),
                _ => (kind, false),
            };
            let habits = Habits {
                timeout_ms: i32::try_from(tick_ms * timeout_ticks).unwrap_or(10_000),
                pause: SECOND * count as u64 / rate,
                pipeline: if flood { 100 } else { 1 + chance.index(8) },
                users,
                restless,
                moves: chance.one_of([0, 2, 10]),
                dies: if profile.is_calm() { 0 } else { chance.one_of([0, 0, 0, 1]) },
                reads_only: false,
            };
            self.clients.push((kind, habits));
        }
    }

    fn draw_faults(&mut self, profile: Profile, chance: &mut Chance) {
        if profile.is_calm() {
            self.weather = Weather::CALM;
            return;
        }
        for kind in FaultKind::ALL.into_iter().filter(|kind| !kind.is_special()) {
            let wanted = match profile {
                Profile::Storage if kind.is_of_disks() => 0.9,
                _ => 0.5,
            };
            let mean = match profile {
                Profile::Rejoin if kind.is_of_disks() => chance.log_uniform(1, 20) * SECOND,
                _ => chance.log_uniform(4, 120) * SECOND,
            };
            if chance.happens(wanted) && !(kind.needs_others() && self.servers < 3) {
                self.faults.push((kind, mean));
            }
        }
    }
}
