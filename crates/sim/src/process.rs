//! A server: the real node, the real log and snapshots, and around them a driver that takes its time.
//!
//! What arrives waits for the server's next turn; a turn takes all that waits. Every piece of durable work ends with
//! an event of its own, so it may come late, after others, or, if the server ends before, never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oxkeeper_node::{
    Answer, ConnId, DigestAlgorithm, Durable, Effects, EnsembleSettings, Input, Node, Now, ObserverMasters,
    OwnerRules, Reap, Recovered, Role, Rules, Settings, SnapshotStep, digest_id,
};
use oxkeeper_proto::peer::notification::Notification;
use oxkeeper_proto::{DecodeError, EnsembleConfig, Epoch, ServerId, SessionId, Zxid};
use oxkeeper_storage::{
    Aftermath, Directories, Disk, EpochFile, Fault, LogOptions, SimDisk, SnapshotTrigger, SnapshotWriter,
    StorageError, TxnLog,
};

use crate::boot::{Booted, boot, read_state};
use crate::chance::Chance;
use crate::client::{SUPER, USERS};
use crate::frames::Frames;
use crate::manners::Manners;
use crate::network::{Arrival, Host, LinkId, Port, Side};
use crate::queue::{MS, Nanos};
use crate::world::{Event, Stage};

mod conns;
mod members;
mod peers;
#[cfg(test)]
mod replay;
mod work;

pub(crate) use members::durable_configs;
use peers::Peers;
use work::Work;

/// What a server is told at its start, the same every time.
#[derive(Debug, Clone, Copy)]
pub struct ServerHabits {
    /// The unit of expiry.
    pub tick_ms: i64,
    /// A snapshot after about so many transactions.
    pub snap_count: u64,
    /// Zeros written ahead in the log.
    pub prepare_bytes: u64,
    /// A new log file after so many bytes; 0 for never.
    pub log_bytes_max: u64,
    /// What a turn takes at most.
    pub turn: Nanos,
    /// What a sync takes, on average.
    pub sync: Nanos,
    /// Whether znodes may have a time to live.
    pub extended_types: bool,
    /// Snapshots kept.
    pub keep: usize,
    /// Whether a leader always sends its snapshot.
    pub force_snapshot: bool,
    /// Bytes of its log that a leader reads for a learner.
    pub log_sync_bytes: u64,
    /// Whether the members of the ensemble may change.
    pub reconfig: bool,
    /// Whether a server without a leader serves those who only read.
    pub read_only: bool,
    /// Whether sessions are opened without the others, as long as they own nothing.
    pub local_sessions: bool,
    /// Whether such a session becomes one of all servers' when it makes its first ephemeral.
    pub local_upgrade: bool,
    /// Whether followers serve observers: what they keep for them, and how long observers wait between two rounds.
    pub observer_masters: Option<ObserverMasters>,
}

/// How a server's clocks run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Its nanoseconds per nanosecond of the world.
    pub rate: f64,
    /// What its time of day is off by, in ms.
    pub wall_offset_ms: i64,
}

/// Something that waits for a server's next turn.
#[derive(Debug)]
enum Incoming {
    Net(LinkId, Side, Arrival),
    /// What a server tells itself.
    Vote(ServerId, Result<Notification, DecodeError>),
    /// There is room for more of a snapshot.
    LinkRoom(LinkId),
    Tick,
    Durable,
    Housekeeping,
}

/// The end of something that a server's threads do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEvent {
    /// The next turn.
    Turn,
    /// The node's deadline.
    Alarm(Nanos),
    /// The log thread is done with what it does.
    Durable,
    /// The other thread is.
    Housekeeping,
}

#[derive(Debug)]
struct Conn {
    link: LinkId,
    client: usize,
    frames: Frames,
    /// What the server has said, for the observer.
    said: Frames,
    greeted: bool,
    /// Whether its client was told that it can only read here.
    read_only: bool,
    closing: bool,
    reading: bool,
}

#[derive(Debug)]
enum Chore {
    Snapshot(SnapshotStep),
    Prepare(u64),
}

impl Chore {
    fn is_snapshot(&self) -> bool {
        matches!(self, Chore::Snapshot(_))
    }
}

/// A running server.
#[derive(Debug)]
struct Process {
    node: Node,
    fx: Effects,
    dirs: Directories,
    log: TxnLog,
    trigger: SnapshotTrigger,
    started: Nanos,
    inbox: VecDeque<Incoming>,
    turn_planned: bool,
    alarm: Option<Nanos>,
    conns: BTreeMap<u32, (ConnId, Conn)>,
    by_link: BTreeMap<LinkId, u32>,
    generation: u32,
    work: VecDeque<Work>,
    /// What the log thread works on.
    working: Vec<Work>,
    chores: VecDeque<Chore>,
    chore_planned: bool,
    preparing: bool,
    writer: Option<(SnapshotWriter, Option<i64>)>,
    /// Of which transaction.
    writing: Option<Zxid>,
    /// Whether the last snapshot came to nothing.
    snapshot_failed: bool,
    peers: Peers,
    /// What it was when somebody looked last.
    role: (Role, bool, Epoch),
}

/// A server, running or not.
#[derive(Debug)]
pub struct Server {
    index: usize,
    habits: ServerHabits,
    /// Its clocks.
    pub clock: Clock,
    /// Its disk.
    pub disk: SimDisk,
    /// Which of its lives this is; events of earlier ones do not count.
    life: u32,
    process: Option<Box<Process>>,
    paused_until: Nanos,
    /// Its disk takes this much longer for everything.
    pub slow_disk: Nanos,
    chance: Chance,
    /// Why it does not start, if it does not.
    pub refused: Option<String>,
    /// Whether that is because of what its files hold, and not because the disk would not do something.
    pub finds_damage: bool,
    /// Whether its log lost something since it last was level with the others.
    pub is_behind: bool,
    /// The times of day of its starts.
    starts_ms: BTreeSet<i64>,
    /// How it speaks to the others.
    pub manners: Manners,
    /// Below this the counter of an epoch stays.
    pub counter_max: u32,
    /// The ensemble as it was told before its first start, unless it is alone.
    ensemble: Option<Arc<EnsembleConfig>>,
    /// Whether it keeps an image of its disk from time to time.
    pub keeps_images: bool,
    /// Its disk as it was at an earlier start.
    image: Option<SimDisk>,
    /// Whether its disk was emptied since it last was level with the others.
    pub emptied: bool,
    /// What the oracle says to it, if there is one.
    pub oracle: Option<bool>,
    /// Whether it does one piece of durable work at a time and takes no snapshot at its start, as servers of explored
    /// worlds do.
    in_steps: bool,
}

/// Where servers keep their files.
pub const DATA: &str = "/data";

/// Where a start comes to: the last transaction and the digest.
pub type Reached = Result<(Zxid, i64), StorageError>;

/// Who may do everything.
fn super_digest() -> String {
    digest_id(USERS.get(SUPER).copied().unwrap_or_default().as_bytes(), DigestAlgorithm::Sha1)
}

/// The zxid in a snapshot's name.
fn number_of(name: &str) -> Option<i64> {
    i64::from_str_radix(name.strip_prefix("snapshot.")?, 16).ok()
}

impl Server {
    /// A server that has never run.
    #[must_use]
    pub fn new(
        index: usize,
        habits: ServerHabits,
        ensemble: Option<Arc<EnsembleConfig>>,
        clock: Clock,
        chance: Chance,
    ) -> Server {
        Server {
            index,
            habits,
            clock,
            disk: SimDisk::quiet(),
            life: 0,
            process: None,
            paused_until: 0,
            slow_disk: 0,
            chance,
            refused: None,
            finds_damage: false,
            is_behind: false,
            starts_ms: BTreeSet::new(),
            manners: Manners::OURS,
            counter_max: u32::MAX,
            ensemble,
            keeps_images: false,
            image: None,
            emptied: false,
            oracle: None,
            in_steps: false,
        }
    }

    /// The number of the server with an index.
    #[must_use]
    pub fn id(index: usize) -> ServerId {
        ServerId(i64::try_from(index + 1).unwrap_or(i64::MAX))
    }

    /// What it is, whether it serves, and in which epoch.
    #[must_use]
    pub fn role(&self) -> Option<(Role, bool, Epoch)> {
        self.process.as_ref().map(|process| process.role)
    }

    /// Which of the servers it is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// What the node has answered an operator.
    pub(crate) fn take_answers(&mut self) -> Vec<Answer> {
        let Some(process) = &mut self.process else { return Vec::new() };
        process.fx.answers.drain(..).map(|(_, answer)| answer).collect()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has no ensemble.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.ensemble.is_none()
    }

    /// Until when it stands still.
    #[must_use]
    pub fn stands_still_until(&self) -> Nanos {
        self.paused_until
    }

    /// Whether it runs and, if it has an ensemble, takes itself for a working part of it.
    #[must_use]
    pub fn serves(&self, now: Nanos) -> bool {
        if now < self.paused_until {
            return false;
        }
        let serving = |process: &Process| self.ensemble.is_none() || process.role.1;
        self.process.as_ref().is_some_and(|process| serving(process))
    }

    /// Whether nothing is on its way to its disk.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let idle = |process: &Process| {
            process.work.is_empty() && process.working.is_empty() && process.fx.durable.is_empty()
        };
        self.process.as_ref().is_none_or(|process| idle(process))
    }

    /// Whether an event of this life still counts.
    #[must_use]
    pub fn is_current(&self, life: u32) -> bool {
        self.life == life && self.is_up()
    }

    /// The node, if it runs.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.process.as_ref().map(|process| &process.node)
    }

    fn rules(&self) -> Rules {
        let owners = OwnerRules { extended_types: self.habits.extended_types, emulate_353: false };
        Rules { owners, ..Rules::DEFAULT }
    }

    fn settings(&mut self, now: Now) -> Settings {
        let seed = self.chance.bits();
        // As the driver makes it: the time of day in the middle, the server's number on top.
        // Set back to the very millisecond of an earlier start it would number sessions as then, in ZooKeeper as well:
        // that is left to other tests.
        let mut started_ms = now.wall_ms;
        while !self.starts_ms.insert(started_ms) {
            started_ms += 1;
        }
        let clock = ((started_ms << 24).cast_unsigned() >> 8).cast_signed();
        let number = i64::try_from(self.index + 1).unwrap_or(1);
        Settings {
            tick_ms: self.habits.tick_ms,
            session_timeout_min_ms: i32::try_from(self.habits.tick_ms * 2).unwrap_or(i32::MAX),
            session_timeout_max_ms: i32::try_from(self.habits.tick_ms * 20).unwrap_or(i32::MAX),
            first_session: SessionId(clock | number << 56),
            reap: Reap { interval_ms: 7_000, per_minute_max: 10_000, never_used_ms: 20_000 },
            super_digest: self.habits.reconfig.then(super_digest),
            reconfig: self.habits.reconfig,
            ..Settings::standard(seed)
        }
    }

    fn now(&self, world: Nanos) -> Now {
        let started = self.process.as_ref().map_or(world, |process| process.started);
        let mono = Duration::from_nanos(((world - started) as f64 * self.clock.rate) as u64);
        Now { mono, wall_ms: self.wall_ms(world) }
    }

    fn wall_ms(&self, world: Nanos) -> i64 {
        1_700_000_000_000 + i64::try_from(world / MS).unwrap_or(i64::MAX) + self.clock.wall_offset_ms
    }

    /// Time since this life's start by the server's own clock.
    #[must_use]
    pub fn mono(&self, world: Nanos) -> Duration {
        self.now(world).mono
    }

    /// Starts it on what its disk holds.
    pub fn start(&mut self, stage: &mut Stage) {
        if self.is_up() {
            return;
        }
        self.life += 1;
        if self.keeps_images && !self.emptied && self.life.is_multiple_of(3) {
            self.image = Some(self.disk.after_crash(Aftermath::Synced));
        }
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let dirs = Directories::new(disk.clone(), Path::new(DATA), Path::new(DATA));
        let now = self.now(stage.queue.now());
        let settings = self.settings(now);
        let booted = match boot(&dirs, self.rules(), settings.seed, self.ensemble.is_some()) {
            Ok(booted) => booted,
            Err(error) => return self.cannot_start(stage, &error),
        };
        (self.refused, self.finds_damage) = (None, false);
        let (last, snapshot_due) = (booted.tree.last_zxid(), booted.snapshot_due);
        stage.observer.stands_still(self.index, stage.queue.now());
        stage.observer.booted(self.index, &self.disk, last, booted.mismatches);
        let options = LogOptions {
            prepare_bytes: self.habits.prepare_bytes,
            sync: true,
            file_bytes_max: self.habits.log_bytes_max,
        };
        let trigger = SnapshotTrigger::new(self.habits.snap_count, None, self.chance.bits());
        let log = TxnLog::new(disk, dirs.logs.clone(), options);
        let mut fx = Effects::default();
        let node = match self.make_node(settings, booted, &dirs, now, &mut fx) {
            Ok(node) => node,
            Err(error) => return self.cannot_start(stage, &error),
        };
        let process = Process {
            node,
            fx,
            dirs,
            log,
            trigger,
            started: stage.queue.now(),
            inbox: VecDeque::new(),
            turn_planned: false,
            alarm: None,
            conns: BTreeMap::new(),
            by_link: BTreeMap::new(),
            generation: 0,
            work: VecDeque::new(),
            working: Vec::new(),
            chores: VecDeque::new(),
            chore_planned: false,
            preparing: false,
            writer: None,
            writing: None,
            snapshot_failed: false,
            peers: Peers::default(),
            role: (Role::Standalone, false, Epoch(0)),
        };
        self.process = Some(Box::new(process));
        let host = Host::Server(self.index);
        stage.net.host_up(host);
        stage.net.listen(host, Port::Client, true);
        stage.net.listen(host, Port::Election, self.ensemble.is_some());
        stage.counts.starts += 1;
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index} starts at {last}"));
        if snapshot_due && !self.in_steps {
            self.step(stage, Input::TakeSnapshot);
        }
        self.carry_out(stage);
    }

    /// A node of its own, or a member of an ensemble by what its files say.
    fn make_node(
        &self,
        settings: Settings,
        booted: Booted,
        dirs: &Directories,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Node, StorageError> {
        let Some(ensemble) = &self.ensemble else { return Ok(Node::new(settings, booted.tree, now)) };
        let epoch_of_log = booted.tree.last_zxid().epoch();
        let epoch = |file: EpochFile| file.read(&*dirs.disk, &dirs.snapshots);
        let id = Server::id(self.index);
        let told_to_observe = ensemble.is_observer(id);
        let (committed, seen) = self.members_on_disk(dirs, ensemble)?;
        let ensemble = EnsembleSettings {
            observer: if committed.member(id).is_some() {
                committed.is_observer(id)
            } else {
                told_to_observe
            },
            seen,
            init_limit: 10,
            sync_limit: 4,
            accepted_epoch: epoch(EpochFile::Accepted)?.unwrap_or(epoch_of_log),
            current_epoch: epoch(EpochFile::Current)?.unwrap_or(epoch_of_log),
            emptied: self.emptied,
            oracle: self.oracle,
            force_snapshot: self.habits.force_snapshot || self.manners.sends_snapshots,
            timing: self.manners.timing(),
            epoch_counter_max: self.counter_max,
            log_sync_bytes: self.habits.log_sync_bytes,
            read_only: self.habits.read_only,
            local_sessions: self.habits.local_sessions,
            local_sessions_upgrade: self.habits.local_upgrade,
            observer_masters: self.habits.observer_masters,
            ..EnsembleSettings::standard(id, committed)
        };
        let state = Recovered { tree: booted.tree, recent: booted.recent };
        Ok(Node::member(settings, ensemble, state, now, fx))
    }

    fn cannot_start(&mut self, stage: &mut Stage, error: &StorageError) {
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index} does not start: {error}"));
        self.refused = Some(error.to_string());
        self.finds_damage = matches!(error, StorageError::Damaged { .. } | StorageError::Refused(_));
        self.note_power_loss(stage);
        if self.disk.has_crashed() {
            // The machine lost power again while it started.
            self.disk = self.disk.after_crash(Aftermath::Some(self.chance.bits()));
            (self.refused, self.finds_damage) = (None, false);
        }
    }

    /// Counts at which step on its disk it has lost power, if it has, and what it was.
    fn note_power_loss(&self, stage: &mut Stage) {
        if let Some(step) = self.disk.lost_power_at() {
            let role = self.role().map_or("Starting".to_owned(), |(role, ..)| format!("{role:?}"));
            *stage.lost_power.entry((step, role)).or_default() += 1;
        }
    }

    /// Ends it. With `power` the machine goes, and with it what was not synced; otherwise only the process.
    pub fn crash(&mut self, stage: &mut Stage, power: bool) {
        let Some(process) = self.process.take() else { return };
        let (at, index) = (stage.queue.now(), self.index);
        let what = if power { "loses power" } else { "is killed" };
        stage.trace.note(at, || format!("server {index} {what}"));
        self.life += 1;
        self.paused_until = 0;
        // Whatever its parts would do at their end does not happen any more.
        self.disk.fail_at(0, Fault::Crash);
        drop(process);
        self.disk = if power {
            self.disk.after_crash(Aftermath::Some(self.chance.bits()))
        } else {
            self.disk.after_kill()
        };
        stage.net.host_down(&mut stage.queue, Host::Server(self.index), power);
        stage.observer.went_down(self.index);
    }

    /// Its disk is exchanged for an empty one, while it is down.
    pub fn wipe(&mut self, stage: &mut Stage) {
        let (now, index) = (stage.queue.now(), self.index);
        stage.trace.note(now, || format!("the disk of server {index} is empty"));
        self.disk = SimDisk::quiet();
        self.image = None;
        self.emptied = true;
        (self.refused, self.finds_damage) = (None, false);
        stage.observer.emptied(self.index);
    }

    /// Whether there is an image of its disk to go back to.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Its disk is what it was at an earlier start, while it is down.
    pub fn roll_back(&mut self, stage: &mut Stage) {
        let Some(image) = self.image.take() else { return };
        let (now, index) = (stage.queue.now(), self.index);
        stage.trace.note(now, || format!("the disk of server {index} is an older one"));
        self.disk = image;
        self.is_behind = true;
        (self.refused, self.finds_damage) = (None, false);
        stage.observer.emptied(self.index);
        stage.observer.spoilt(self.index, &self.disk);
    }

    /// Where it would come to if it started from each of its snapshots, all newer ones being damaged: the last
    /// transaction and the digest, or why it does not start.
    #[must_use]
    pub fn boot_from_every_snapshot(&self) -> Vec<(String, Reached)> {
        let dir = Path::new(DATA).join("version-2");
        let snapshots = |disk: &SimDisk| {
            let entries = disk.list(&dir).unwrap_or_default();
            entries.into_iter().map(|entry| entry.name).filter(|name| name.starts_with("snapshot."))
        };
        let from = |name: &String| {
            let disk = self.disk.after_kill();
            let newer = snapshots(&disk).filter(|other| number_of(other) > number_of(name));
            for other in newer.collect::<Vec<String>>() {
                // A newer one that is damaged must be passed over, or the start refused.
                let _ = disk.open(&dir.join(other)).and_then(|mut file| file.set_size(30));
            }
            let dirs = Directories::new(Arc::new(disk), Path::new(DATA), Path::new(DATA));
            read_state(&dirs, self.rules(), 1).map(|state| (state.tree.last_zxid(), state.tree.digest()))
        };
        let mut all: Vec<String> = snapshots(&self.disk).collect();
        all.sort_by_key(|name| number_of(name));
        all.into_iter()
            .map(|name| {
                let found = from(&name);
                (name, found)
            })
            .collect()
    }

    /// Has the machine lose power at one of its next steps on the disk.
    pub fn crash_at_step(&mut self, steps: usize) {
        self.disk.fail_at(steps, Fault::Crash);
    }

    /// Stands still for a while: nothing is read, no timer fires.
    pub fn pause(&mut self, until: Nanos) {
        self.paused_until = self.paused_until.max(until);
    }

    /// Something arrived for it.
    pub fn arrived(&mut self, stage: &mut Stage, link: LinkId, side: Side, arrival: Arrival) {
        let Some(process) = &mut self.process else { return };
        process.inbox.push_back(Incoming::Net(link, side, arrival));
        self.plan_turn(stage);
    }

    fn plan_turn(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        if std::mem::replace(&mut process.turn_planned, true) {
            return;
        }
        let delay = self.chance.below(self.habits.turn + 1);
        let at = self.paused_until.max(stage.queue.now() + delay);
        stage.queue.at(at, Event::Server(self.index, self.life, ServerEvent::Turn));
    }

    /// Something of its own is due.
    pub fn wake(&mut self, stage: &mut Stage, event: ServerEvent) {
        let now = stage.queue.now();
        if now < self.paused_until {
            // It stands still: what is due comes when it goes on.
            return stage.queue.at(self.paused_until, Event::Server(self.index, self.life, event));
        }
        let Some(process) = &mut self.process else { return };
        match event {
            ServerEvent::Turn => return self.turn(stage),
            ServerEvent::Alarm(at) if process.alarm == Some(at) => {
                process.alarm = None;
                process.inbox.push_back(Incoming::Tick);
            }
            ServerEvent::Alarm(_) => return,
            ServerEvent::Durable => process.inbox.push_back(Incoming::Durable),
            ServerEvent::Housekeeping => process.inbox.push_back(Incoming::Housekeeping),
        }
        self.plan_turn(stage);
    }

    /// Takes all that waits.
    fn turn(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        process.turn_planned = false;
        let inbox = std::mem::take(&mut process.inbox);
        for incoming in inbox {
            match incoming {
                Incoming::Net(link, side, arrival) => self.take_in(stage, link, side, arrival),
                Incoming::Tick => self.step(stage, Input::Tick),
                Incoming::Vote(from, message) => self.step(stage, Input::Notification { from, message }),
                Incoming::LinkRoom(link) => self.link_has_room(stage, link),
                Incoming::Durable => self.work_done(stage),
                Incoming::Housekeeping => self.chore_done(stage),
            }
            if stage.has_failed() || !self.is_up() {
                return;
            }
        }
        self.carry_out(stage);
    }

    pub(crate) fn step(&mut self, stage: &mut Stage, input: Input<'_>) {
        let now = self.now(stage.queue.now());
        let Some(process) = &mut self.process else { return };
        process.node.step(now, input, &mut process.fx);
        stage.observer.applied(self.index, &process.node);
    }

    fn take_in(&mut self, stage: &mut Stage, link: LinkId, side: Side, arrival: Arrival) {
        let is_peers = match &arrival {
            Arrival::Accepted { port, .. } => *port != Port::Client,
            _ => self.process.as_ref().is_some_and(|process| process.peers.has(link)),
        };
        if is_peers {
            return self.take_in_peer(stage, link, side, arrival);
        }
        match arrival {
            Arrival::Accepted { from, .. } => self.accepted(stage, link, from),
            Arrival::Bytes(bytes) => self.read(stage, link, &bytes),
            Arrival::Closed => self.closed(stage, link),
            Arrival::Room => {
                let Some(process) = &mut self.process else { return };
                if let Some(slot) = process.by_link.get(&link) {
                    let slot = *slot;
                    self.flush(stage, slot);
                }
            }
            Arrival::Connected | Arrival::Refused => {}
        }
    }

    /// Does what the node wants done.
    pub(crate) fn carry_out(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for (ticket, work) in process.fx.durable.drain(..) {
            if let Durable::Append(proposal) = &work {
                stage.observer.logged(self.index, proposal, stage.queue.now(), self.clock.rate);
            }
            process.work.push_back(Work::Durable(ticket, work));
        }
        process.work.extend(process.fx.peers.tasks.drain(..).map(Work::Task));
        process.chores.extend(process.fx.snapshot.drain(..).map(Chore::Snapshot));
        let dirty = std::mem::take(&mut process.fx.dirty);
        for id in dirty {
            self.flush(stage, id.index);
        }
        self.change_reading(stage);
        self.close_finished(stage);
        self.carry_out_peers(stage);
        self.note_role(stage);
        self.plan_work(stage);
        self.plan_chore(stage);
        self.plan_alarm(stage);
    }

    /// Notes what it has become.
    fn note_role(&mut self, stage: &mut Stage) {
        if self.ensemble.is_none() {
            return;
        }
        let Some(process) = &mut self.process else { return };
        let status = process.node.status();
        let role = (status.role, status.serving, status.epoch);
        if process.role == role {
            return;
        }
        process.role = role;
        let [dialled, accepted, observers] = process.peers.counts();
        let host = Host::Server(self.index);
        let listens = stage.net.is_listening(host, Port::Quorum);
        let has_observers = observers > 0 || stage.net.is_listening(host, Port::ObserverMaster);
        let is_clean = match role.0 {
            _ if has_observers && (role.0, role.1) != (Role::Following, true) => false,
            Role::Leading => dialled == 0,
            Role::Following | Role::Observing => dialled <= 1 && accepted == 0 && !listens,
            _ => dialled + accepted == 0 && !listens,
        };
        stage.observer.check_role(self.index, role.0, is_clean);
        let left = process.node.left_behind();
        if !left.is_empty() {
            return stage
                .violate(21, format!("server {} is {:?} and still has {left:?}", self.index, role.0));
        }
        let reads = process.conns.values().filter(|(_, conn)| conn.read_only && !conn.closing).count();
        if role.1 && reads > 0 {
            let what = format!("server {} serves and leaves {reads} clients to read", self.index);
            return stage.violate(28, what);
        }
        let (now, index) = (stage.queue.now(), self.index);
        let (what, serving, epoch) = role;
        stage.trace.note(now, || format!("server {index} is {what:?}, serves: {serving}, epoch {}", epoch.0));
        stage.observer.role_changed(index, role, &self.disk, now);
        if serving && matches!(what, Role::Following | Role::Leading | Role::Observing) {
            (self.emptied, self.is_behind) = (false, false);
        }
    }

    fn plan_alarm(&mut self, stage: &mut Stage) {
        let now = stage.queue.now();
        let mono = self.mono(now);
        let Some(process) = &mut self.process else { return };
        let wait = process.node.deadline().saturating_sub(mono).as_nanos() as f64 / self.clock.rate;
        // Timers are no finer than a millisecond.
        let at = now.saturating_add((wait as u64).max(MS));
        if process.alarm.is_none_or(|planned| planned > at) {
            process.alarm = Some(at);
            stage.queue.at(at, Event::Server(self.index, self.life, ServerEvent::Alarm(at)));
        }
    }

    /// The newest transaction that it has applied.
    #[must_use]
    pub fn last_zxid(&self) -> Zxid {
        self.node().map_or(Zxid::ZERO, Node::last_zxid)
    }
}
