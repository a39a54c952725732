//! Who makes things go wrong: what, when and where is drawn from the seed; nothing that the protocol cannot survive.

use std::collections::BTreeMap;

use oxkeeper_node::Role;

use crate::chance::Chance;
use crate::damage;
use crate::faultmap::FaultMap;
use crate::network::{Host, LinkId, Port, Side};
use crate::partition::Split;
use crate::process::Server;
use crate::queue::{MS, Nanos, SECOND};
use crate::swarm::Swarm;
use crate::world::{Event, Mend, Stage};

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A server's process is killed; the machine goes on.
    Kill,
    /// A machine loses power.
    PowerLoss,
    /// A machine loses power at one of its next steps on the disk.
    PowerLossAtStep,
    /// All servers at once lose power.
    AllDown,
    /// A server stands still.
    Pause,
    /// A server's time of day jumps.
    WallJump,
    /// A sync of the log fails.
    SyncFails,
    /// A disk is full for a while.
    DiskFull,
    /// A disk is slow for a while.
    DiskSlow,
    /// Bits of a snapshot flip.
    SnapshotRots,
    /// A connection breaks.
    Reset,
    /// A connection breaks and one end does not notice.
    HalfOpen,
    /// One direction of a connection carries nothing for a while.
    Stall,
    /// Hosts cannot reach each other for a while.
    Partition,
    /// A server refuses connections for a while.
    Refuse,
    /// The network gets better or worse.
    Weather,
    /// A file cannot be cut.
    CutFails,
    /// A server comes back with an empty disk.
    Wipe,
    /// A leader loses the other servers for a while and keeps its clients.
    LeaderCutOff,
    /// A read fails: of a start, or of the log for a learner.
    ReadFails,
    /// A machine loses power, and its disk is as it was at an earlier start.
    RolledBack,
    /// A machine loses power, and its disk has never stored a write of the log.
    LostWrite,
    /// A machine loses power, and its disk has stored a write of the log in another place.
    MisdirectedWrite,
    /// A machine loses power, and bits of a log have flipped.
    LogRots,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [FaultKind; 24] = [
        FaultKind::Kill,
        FaultKind::PowerLoss,
        FaultKind::PowerLossAtStep,
        FaultKind::AllDown,
        FaultKind::Pause,
        FaultKind::WallJump,
        FaultKind::SyncFails,
        FaultKind::DiskFull,
        FaultKind::DiskSlow,
        FaultKind::SnapshotRots,
        FaultKind::Reset,
        FaultKind::HalfOpen,
        FaultKind::Stall,
        FaultKind::Partition,
        FaultKind::Refuse,
        FaultKind::Weather,
        FaultKind::CutFails,
        FaultKind::Wipe,
        FaultKind::LeaderCutOff,
        FaultKind::ReadFails,
        FaultKind::RolledBack,
        FaultKind::LostWrite,
        FaultKind::MisdirectedWrite,
        FaultKind::LogRots,
    ];

    /// Kinds of disks that lie.
    pub const LIES: [FaultKind; 3] = [FaultKind::LostWrite, FaultKind::MisdirectedWrite, FaultKind::LogRots];

    /// Whether disks and power are concerned.
    #[must_use]
    pub fn is_of_disks(self) -> bool {
        matches!(
            self,
            FaultKind::Kill
                | FaultKind::PowerLoss
                | FaultKind::PowerLossAtStep
                | FaultKind::SyncFails
                | FaultKind::DiskFull
                | FaultKind::DiskSlow
                | FaultKind::SnapshotRots
                | FaultKind::CutFails
        )
    }

    /// Whether it is drawn apart from the others.
    #[must_use]
    pub fn is_special(self) -> bool {
        matches!(self, FaultKind::LeaderCutOff | FaultKind::ReadFails | FaultKind::RolledBack)
            || FaultKind::LIES.contains(&self)
    }

    /// Whether only an ensemble can survive it.
    #[must_use]
    pub fn needs_others(self) -> bool {
        self == FaultKind::Wipe
    }
}

/// Who makes the faults of a run.
#[derive(Debug)]
pub struct Planner {
    chance: Chance,
    means: BTreeMap<FaultKind, Nanos>,
    clients: usize,
    voters: usize,
    map: FaultMap,
    /// Faults that struck, by kind: one that found nothing to spoil, or was not allowed to, is none.
    pub made: BTreeMap<FaultKind, u64>,
    over: bool,
    rotten: u32,
}

impl Planner {
    /// One who makes the faults of a configuration.
    #[must_use]
    pub fn new(swarm: &Swarm, chance: Chance) -> Planner {
        Planner {
            chance,
            means: swarm.faults.iter().copied().collect(),
            clients: swarm.clients.len(),
            voters: swarm.voters,
            map: FaultMap::default(),
            made: BTreeMap::new(),
            over: false,
            rotten: 0,
        }
    }

    /// Plans the first fault of each kind.
    pub fn start(&mut self, stage: &mut Stage) {
        for kind in FaultKind::ALL {
            self.plan(stage, kind);
        }
    }

    fn plan(&mut self, stage: &mut Stage, kind: FaultKind) {
        if let Some(mean) = self.means.get(&kind) {
            let delay = self.chance.exponential(*mean);
            stage.queue.after(delay, Event::Fault(kind));
        }
    }

    /// Makes a fault, and plans the next of its kind.
    pub fn strike(&mut self, stage: &mut Stage, servers: &mut [Server], kind: FaultKind) {
        if self.over {
            return;
        }
        self.plan(stage, kind);
        self.map.look(servers);
        let index = self.chance.index(servers.len());
        let now = stage.queue.now();
        stage.trace.note(now, || format!("fault {kind:?}, server {index}"));
        let struck = match kind {
            FaultKind::AllDown => {
                for (index, server) in servers.iter_mut().enumerate() {
                    server.crash(stage, true);
                    self.restart(stage, index);
                }
                true
            }
            FaultKind::Wipe => self.wipe(stage, servers, index),
            FaultKind::SnapshotRots => self.rot(stage, servers, index),
            FaultKind::LostWrite | FaultKind::MisdirectedWrite | FaultKind::LogRots => {
                self.spoil_log(stage, servers, index, kind)
            }
            FaultKind::LeaderCutOff => self.cut_off_leader(stage, servers),
            FaultKind::RolledBack => self.roll_back(stage, servers, index),
            FaultKind::Partition => self.partition(stage, servers.len()),
            FaultKind::Weather => {
                stage.net.weather.mean = self.chance.log_uniform(MS / 20, 100 * MS);
                stage.net.weather.split = self.chance.unit() * self.chance.unit();
                true
            }
            FaultKind::Reset | FaultKind::HalfOpen | FaultKind::Stall => self.trouble_link(stage, kind),
            _ => servers.get_mut(index).is_some_and(|server| self.trouble_server(stage, server, index, kind)),
        };
        *self.made.entry(kind).or_default() += u64::from(struck);
    }

    /// A server loses its disk: what it had acknowledged others still have.
    fn wipe(&mut self, stage: &mut Stage, servers: &mut [Server], index: usize) -> bool {
        let may = self.map.may_damage(index, &stage.observer.configs())
            || stage.observer.can_spare(index) && !self.map.is_damaged(index);
        let Some(server) = servers.get_mut(index).filter(|_| may) else { return false };
        server.crash(stage, true);
        server.wipe(stage);
        self.map.emptied(index);
        self.restart(stage, index);
        true
    }

    /// Bits of a snapshot flip. Alone a server must come back without it, so then that happens once, to one of several;
    /// in an ensemble the others can bring back one who cannot.
    fn rot(&mut self, stage: &Stage, servers: &mut [Server], index: usize) -> bool {
        let Some(server) = servers.get_mut(index) else { return false };
        let files = server.disk.durable_files(std::path::Path::new("/data/version-2"));
        let snapshots = files.iter().filter(|(name, ..)| name.starts_with("snapshot.")).count();
        let configs = stage.observer.configs();
        let is_allowed = match configs.as_slice() {
            [] => self.rotten < 1 && snapshots >= 2,
            configs => self.map.may_damage(index, configs),
        };
        if !is_allowed || snapshots == 0 {
            return false;
        }
        self.rotten += 1;
        self.map.spoilt(index);
        server.disk.rot("snapshot.", 1 + self.chance.index(64), self.chance.bits()).is_some()
    }

    /// A log turns out not to be what was written. Its server may not find that out: then it has less than it says, and
    /// votes. So a quorum of others must have all that it had, in an epoch that is no older, and be whole.
    fn spoil_log(
        &mut self,
        stage: &mut Stage,
        servers: &mut [Server],
        index: usize,
        kind: FaultKind,
    ) -> bool {
        let is_allowed = self.may_lose(stage, index);
        let Some(server) = servers.get_mut(index).filter(|server| is_allowed && server.is_up()) else {
            return false;
        };
        server.crash(stage, true);
        let spoilt = damage::spoil_log(&server.disk, kind, &mut self.chance);
        if spoilt {
            server.is_behind = true;
            stage.observer.spoilt(index, &server.disk);
            self.map.behind(index);
        }
        self.restart(stage, index);
        spoilt
    }

    /// Whether a server may have less than it says, and vote.
    fn may_lose(&self, stage: &Stage, index: usize) -> bool {
        let is_whole = |other: &usize| *other != index && !self.map.is_damaged(*other);
        let configs = stage.observer.configs();
        let votes = configs.iter().any(|config| config.voters().contains(&Server::id(index).0));
        let others: Vec<usize> = (0..stage.observer.servers()).filter(is_whole).collect();
        self.map.may_damage(index, &configs) && (!votes || stage.observer.is_held_by_a_quorum(index, &others))
    }

    /// An operator, or whoever gives it its disk, brings a server back as it was at one of its earlier starts, whole and
    /// in itself without a fault: it has forgotten what it acknowledged and what it promised since, and does not know it.
    fn roll_back(&mut self, stage: &mut Stage, servers: &mut [Server], index: usize) -> bool {
        let is_allowed = self.may_lose(stage, index);
        let Some(server) = servers.get_mut(index).filter(|server| is_allowed && server.has_image()) else {
            return false;
        };
        server.crash(stage, true);
        server.roll_back(stage);
        self.map.behind(index);
        self.restart(stage, index);
        true
    }

    fn restart(&mut self, stage: &mut Stage, index: usize) {
        let delay = if self.chance.happens(0.3) { 0 } else { self.chance.exponential(4 * SECOND) };
        stage.queue.after(delay, Event::Restart(index));
    }

    /// Tells whether it struck.
    fn trouble_server(
        &mut self,
        stage: &mut Stage,
        server: &mut Server,
        index: usize,
        kind: FaultKind,
    ) -> bool {
        let now = stage.queue.now();
        let while_ = 100 * MS + self.chance.exponential(6 * SECOND);
        let is_up = server.is_up();
        match kind {
            FaultKind::Kill | FaultKind::PowerLoss => {
                server.crash(stage, kind == FaultKind::PowerLoss);
                self.restart(stage, index);
            }
            FaultKind::PowerLossAtStep => server.crash_at_step(self.chance.index(40)),
            FaultKind::Pause => {
                server.pause(now + while_);
                stage.observer.stands_still(index, now + while_);
            }
            FaultKind::WallJump => {
                let size = i64::try_from(self.chance.log_uniform(1, 300_000_000_000)).unwrap_or(0);
                let sign = if self.chance.happens(0.5) { 1 } else { -1 };
                // Not before the protocol was invented: times are positive there.
                server.clock.wall_offset_ms =
                    (server.clock.wall_offset_ms + sign * size).clamp(-1_000_000_000_000, 1_000_000_000_000);
            }
            FaultKind::SyncFails => server.disk.fail_syncs(1),
            FaultKind::CutFails => server.disk.fail_cuts(1),
            FaultKind::ReadFails => {
                // A start reads most.
                if self.chance.happens(0.5) {
                    server.crash(stage, true);
                    self.restart(stage, index);
                }
                server.disk.fail_reads(1);
            }
            FaultKind::DiskFull => {
                server.disk.set_full(true);
                stage.queue.after(while_, Event::Mend(Mend::Disk(index)));
            }
            FaultKind::DiskSlow => {
                server.slow_disk = self.chance.log_uniform(MS, 3 * SECOND);
                stage.queue.after(while_, Event::Mend(Mend::Disk(index)));
            }
            FaultKind::Refuse => {
                let ports: Vec<Port> = Port::ALL.into_iter().filter(|_| self.chance.happens(0.6)).collect();
                ports.iter().for_each(|port| stage.net.refuse(Host::Server(index), *port));
                stage.queue.after(while_, Event::Mend(Mend::Refusal(index)));
                return !ports.is_empty();
            }
            _ => return false,
        }
        is_up || kind == FaultKind::WallJump
    }

    fn trouble_link(&mut self, stage: &mut Stage, kind: FaultKind) -> bool {
        let links: Vec<LinkId> = stage.net.open_links().collect();
        let Some(link) = self.chance.pick(&links).copied() else { return false };
        let side = if self.chance.happens(0.5) { Side::Dialler } else { Side::Acceptor };
        match kind {
            FaultKind::Reset => stage.net.reset(&mut stage.queue, link),
            FaultKind::HalfOpen => stage.net.half_open(link, side),
            _ => {
                stage.net.stall(&mut stage.queue, link, side, true);
                let while_ = 10 * MS + self.chance.exponential(8 * SECOND);
                stage.queue.after(while_, Event::Mend(Mend::Stall(link, side)));
            }
        }
        true
    }

    /// Splits the hosts in one of many shapes.
    fn partition(&mut self, stage: &mut Stage, servers: usize) -> bool {
        let split = Split::draw(servers, self.clients, &mut self.chance);
        let ports: Vec<Port> = Port::ALL.into_iter().filter(|_| self.chance.happens(0.6)).collect();
        let mut divides = false;
        for (from, to) in split.blocked() {
            ports.iter().for_each(|port| stage.net.block(from, to, *port));
            divides |= !ports.is_empty();
        }
        let while_ = 100 * MS + self.chance.exponential(8 * SECOND);
        stage.queue.after(while_, Event::Mend(Mend::Network));
        divides
    }

    /// The leader neither hears the other servers nor is heard by them, but by all clients: until it notices, somebody
    /// else leads as well.
    fn cut_off_leader(&mut self, stage: &mut Stage, servers: &[Server]) -> bool {
        let leads = |server: &Server| matches!(server.role(), Some((Role::Leading, true, _)));
        let Some(leader) = servers.iter().position(leads) else { return false };
        let all = (0..servers.len()).filter(|other| *other != leader).map(Host::Server);
        for other in all {
            for port in [Port::Quorum, Port::Election] {
                stage.net.block(Host::Server(leader), other, port);
                stage.net.block(other, Host::Server(leader), port);
            }
        }
        let while_ = 2 * SECOND + self.chance.exponential(10 * SECOND);
        stage.queue.after(while_, Event::Mend(Mend::Network));
        true
    }

    /// Ends a fault.
    pub fn mend(&mut self, stage: &mut Stage, servers: &mut [Server], mend: &Mend) {
        match mend {
            Mend::Network => stage.net.unblock_all(&mut stage.queue),
            Mend::Refusal(index) => stage.net.refuse_no_more(Host::Server(*index)),
            Mend::Stall(link, side) => stage.net.stall(&mut stage.queue, *link, *side, false),
            Mend::Disk(index) => {
                if let Some(server) = servers.get_mut(*index) {
                    server.disk.set_full(false);
                    server.slow_disk = 0;
                }
            }
        }
    }

    /// A server could not start: its disk is full, or failed again. It is tried again later.
    pub fn not_started(&mut self, stage: &mut Stage, servers: &mut [Server], index: usize) {
        self.map.look(servers);
        let Some(server) = servers.get_mut(index) else { return };
        if self.voters > 0 && server.finds_damage && self.map.is_damaged(index) {
            // What an operator does whose other servers are well.
            server.wipe(stage);
            self.map.emptied(index);
        }
        if self.over {
            server.disk.set_full(false);
            server.disk.fail_syncs(0);
            server.disk.fail_cuts(0);
            server.disk.fail_reads(0);
        }
        let delay = 200 * MS + self.chance.exponential(2 * SECOND);
        stage.queue.after(delay, Event::Restart(index));
    }

    /// Ends all faults and has everything run again.
    pub fn heal(&mut self, stage: &mut Stage, servers: &mut [Server]) {
        self.over = true;
        stage.net.unblock_all(&mut stage.queue);
        stage.net.weather = crate::network::Weather::CALM;
        for (index, server) in servers.iter_mut().enumerate() {
            server.disk.set_full(false);
            server.disk.fail_syncs(0);
            server.disk.fail_cuts(0);
            server.disk.fail_reads(0);
            server.disk.forget_fault();
            server.slow_disk = 0;
            if !server.is_up() {
                stage.queue.after(0, Event::Restart(index));
            }
        }
    }
}
