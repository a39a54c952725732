//! A server: the real node, the real log and snapshots, and around them a driver that takes its time.
//!
//! What arrives waits for the server's next turn; a turn takes all that waits. Every piece of durable work ends with
//! an event of its own, so it may come late, after others, or, if the server ends before, never.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oxkeeper_node::{
    ConnId, Durable, Effects, Input, Node, Now, OwnerRules, Reap, Rules, Settings, SnapshotStep, Ticket,
};
use oxkeeper_proto::{SessionId, Zxid};
use oxkeeper_storage::{
    Aftermath, Compression, Directories, Disk, Fault, LogOptions, SimDisk, SnapshotTrigger, SnapshotWriter,
    StorageError, TxnLog, prepare, purge,
};

use crate::boot::boot;
use crate::chance::Chance;
use crate::client::Client;
use crate::frames::Frames;
use crate::network::{Arrival, Host, LinkId, Port, Side};
use crate::queue::{MS, Nanos};
use crate::world::{Event, Stage};

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
    closing: bool,
    reading: bool,
}

#[derive(Debug)]
enum Chore {
    Snapshot(SnapshotStep),
    Prepare(u64),
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
    durable: VecDeque<(Ticket, Durable)>,
    /// What the log thread works on.
    working: Vec<(Ticket, Durable)>,
    chores: VecDeque<Chore>,
    chore_planned: bool,
    preparing: bool,
    writer: Option<(SnapshotWriter, Option<i64>)>,
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
}

/// Where servers keep their files.
pub const DATA: &str = "/data";

impl Server {
    /// A server that has never run.
    #[must_use]
    pub fn new(index: usize, habits: ServerHabits, clock: Clock, chance: Chance) -> Server {
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
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
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
        let clock = ((now.wall_ms << 24).cast_unsigned() >> 8).cast_signed();
        let number = i64::try_from(self.index + 1).unwrap_or(1);
        Settings {
            tick_ms: self.habits.tick_ms,
            session_timeout_min_ms: i32::try_from(self.habits.tick_ms * 2).unwrap_or(i32::MAX),
            session_timeout_max_ms: i32::try_from(self.habits.tick_ms * 20).unwrap_or(i32::MAX),
            first_session: SessionId(clock | number << 56),
            reap: Reap { interval_ms: 7_000, per_minute_max: 10_000, never_used_ms: 20_000 },
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
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let dirs = Directories::new(disk.clone(), Path::new(DATA), Path::new(DATA));
        let now = self.now(stage.queue.now());
        let settings = self.settings(now);
        let booted = match boot(&dirs, self.rules(), settings.seed) {
            Ok(booted) => booted,
            Err(error) => return self.cannot_start(stage, &error),
        };
        self.refused = None;
        let last = booted.tree.last_zxid();
        stage.observer.booted(self.index, &self.disk, last, booted.mismatches);
        let options = LogOptions {
            prepare_bytes: self.habits.prepare_bytes,
            sync: true,
            file_bytes_max: self.habits.log_bytes_max,
        };
        let trigger = SnapshotTrigger::new(self.habits.snap_count, None, self.chance.bits());
        let log = TxnLog::new(disk, dirs.logs.clone(), options);
        let process = Process {
            node: Node::new(settings, booted.tree, now),
            fx: Effects::default(),
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
            durable: VecDeque::new(),
            working: Vec::new(),
            chores: VecDeque::new(),
            chore_planned: false,
            preparing: false,
            writer: None,
        };
        self.process = Some(Box::new(process));
        let host = Host::Server(self.index);
        stage.net.host_up(host);
        stage.net.listen(host, Port::Client, true);
        stage.counts.starts += 1;
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index} starts at {last}"));
        if booted.snapshot_due {
            self.step(stage, Input::TakeSnapshot);
        }
        self.carry_out(stage);
    }

    fn cannot_start(&mut self, stage: &mut Stage, error: &StorageError) {
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index} does not start: {error}"));
        self.refused = Some(error.to_string());
        if self.disk.has_crashed() {
            // The machine lost power again while it started.
            self.disk = self.disk.after_crash(Aftermath::Some(self.chance.bits()));
            self.refused = None;
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
                Incoming::Durable => self.durable_done(stage),
                Incoming::Housekeeping => self.chore_done(stage),
            }
            if stage.has_failed() || !self.is_up() {
                return;
            }
        }
        self.carry_out(stage);
    }

    fn step(&mut self, stage: &mut Stage, input: Input<'_>) {
        let now = self.now(stage.queue.now());
        let Some(process) = &mut self.process else { return };
        process.node.step(now, input, &mut process.fx);
        stage.observer.applied(self.index, &process.node);
    }

    fn take_in(&mut self, stage: &mut Stage, link: LinkId, _side: Side, arrival: Arrival) {
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

    fn accepted(&mut self, stage: &mut Stage, link: LinkId, from: Host) {
        let Host::Client(client) = from else { return };
        let Some(process) = &mut self.process else { return };
        let index = (0..).find(|slot| !process.conns.contains_key(slot)).unwrap_or(0);
        process.generation += 1;
        let id = ConnId { index, generation: process.generation };
        let conn = Conn {
            link,
            client,
            frames: Frames::default(),
            said: Frames::default(),
            greeted: false,
            closing: false,
            reading: true,
        };
        process.conns.insert(index, (id, conn));
        process.by_link.insert(link, index);
        let peer = (Client::address(client), 1024);
        self.step(stage, Input::Opened { conn: id, peer, identities: Vec::new() });
    }

    fn read(&mut self, stage: &mut Stage, link: LinkId, bytes: &[u8]) {
        let Some(process) = &mut self.process else { return };
        let Some(slot) = process.by_link.get(&link).copied() else { return };
        if let Some((_, conn)) = process.conns.get_mut(&slot) {
            conn.frames.add(bytes);
        }
        self.read_frames(stage, slot);
    }

    fn read_frames(&mut self, stage: &mut Stage, slot: u32) {
        loop {
            let Some(process) = &mut self.process else { return };
            let Some((id, conn)) = process.conns.get_mut(&slot) else { return };
            if conn.closing || !conn.reading {
                return;
            }
            let (id, link) = (*id, conn.link);
            match conn.frames.take() {
                Ok(Some(frame)) => {
                    stage.observer.heard(link, &frame, stage.queue.now());
                    self.step(stage, Input::Frame { conn: id, bytes: &frame });
                }
                Ok(None) => return,
                Err(_) => {
                    stage.net.close(&mut stage.queue, link, Side::Acceptor);
                    return self.closed(stage, link);
                }
            }
        }
    }

    fn closed(&mut self, stage: &mut Stage, link: LinkId) {
        let Some(process) = &mut self.process else { return };
        let Some(slot) = process.by_link.remove(&link) else { return };
        let Some((id, _)) = process.conns.remove(&slot) else { return };
        process.fx.discard(id);
        self.step(stage, Input::Closed { conn: id });
    }

    /// Does what the node wants done.
    fn carry_out(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for (ticket, work) in process.fx.durable.drain(..) {
            if let Durable::Append(proposal) = &work {
                stage.observer.logged(proposal.zxid, &proposal.payload, stage.queue.now(), self.clock.rate);
            }
            process.durable.push_back((ticket, work));
        }
        process.chores.extend(process.fx.snapshot.drain(..).map(Chore::Snapshot));
        let dirty = std::mem::take(&mut process.fx.dirty);
        for id in dirty {
            self.flush(stage, id.index);
        }
        self.change_reading(stage);
        self.close_finished(stage);
        self.plan_durable(stage);
        self.plan_chore(stage);
        self.plan_alarm(stage);
    }

    fn change_reading(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for (id, reading) in std::mem::take(&mut process.fx.reading) {
            let Some(process) = &mut self.process else { return };
            if let Some((_, conn)) = process.conns.get_mut(&id.index).filter(|(own, _)| *own == id) {
                conn.reading = reading;
            }
            if reading {
                self.read_frames(stage, id.index);
            }
        }
    }

    fn close_finished(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        for id in std::mem::take(&mut process.fx.closes) {
            if let Some((_, conn)) = process.conns.get_mut(&id.index).filter(|(own, _)| *own == id) {
                conn.closing = true;
            }
        }
        let done: Vec<LinkId> = process
            .conns
            .values()
            .filter(|(id, conn)| conn.closing && process.fx.waiting_len(*id) == 0)
            .map(|(_, conn)| conn.link)
            .collect();
        for link in done {
            stage.net.close(&mut stage.queue, link, Side::Acceptor);
            self.closed(stage, link);
        }
    }

    /// Writes what waits for a connection, as far as the network takes it.
    fn flush(&mut self, stage: &mut Stage, slot: u32) {
        loop {
            let Some(process) = &mut self.process else { return };
            let Some((id, conn)) = process.conns.get_mut(&slot) else { return };
            let id = *id;
            let mut parts = [IoSlice::new(&[]); 8];
            let used = process.fx.waiting(id, &mut parts);
            let bytes: Vec<u8> = parts.iter().take(used).flat_map(|part| part.iter().copied()).collect();
            if bytes.is_empty() {
                break;
            }
            let taken = stage.net.send(&mut stage.queue, conn.link, Side::Acceptor, &bytes);
            conn.said.add(bytes.get(..taken).unwrap_or_default());
            process.fx.written(id, taken, 1 << 16);
            while let Ok(Some(frame)) = conn.said.take() {
                if std::mem::replace(&mut conn.greeted, true) {
                    stage.observer.replied(self.index, &self.disk, &frame);
                } else {
                    stage.observer.greeted(conn.client, conn.link, &frame, stage.queue.now());
                }
            }
            let waiting = process.fx.waiting_len(id);
            stage.observer.waits(self.index, waiting);
            if process.fx.take_wanting(id) {
                self.step(stage, Input::Writable { conn: id });
            } else if taken < bytes.len() || waiting == 0 {
                break;
            }
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

    /// Gives the log thread its next work: all appends that wait, or one piece of another kind.
    fn plan_durable(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        if !process.working.is_empty() {
            return;
        }
        let appends =
            process.durable.iter().take_while(|(_, work)| matches!(work, Durable::Append(_))).count();
        let count = appends.max(1).min(process.durable.len());
        if count == 0 {
            return;
        }
        process.working.extend(process.durable.drain(..count));
        let delay = self.disk_time();
        stage.queue.after(delay, Event::Server(self.index, self.life, ServerEvent::Durable));
    }

    fn disk_time(&mut self) -> Nanos {
        MS / 20 + self.chance.exponential(self.habits.sync) + self.slow_disk
    }

    /// The log thread has done its work, unless the disk says otherwise.
    fn durable_done(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        let working = std::mem::take(&mut process.working);
        let Some(last) = working.last().map(|(ticket, _)| *ticket) else { return };
        let mut appended = 0;
        let mut done = Ok(());
        for (_, work) in &working {
            match work {
                Durable::Append(proposal) => {
                    process.log.append(proposal.zxid, &proposal.payload);
                    appended += 1;
                }
                other => done = Err(format!("a standalone server cannot {other:?}")),
            }
        }
        let done = done.and_then(|()| process.log.commit().map_err(|error| error.to_string()));
        if let Err(error) = done {
            return self.fail(stage, &error);
        }
        stage.counts.syncs += 1;
        stage.observer.synced(self.index, &self.disk);
        let due = process.trigger.appended(appended, process.log.bytes_since_roll());
        if process.log.wants_prepared() && !process.preparing {
            process.preparing = true;
            process.chores.push_back(Chore::Prepare(process.log.prepare_bytes()));
        }
        self.step(stage, Input::Persisted(last));
        if due && let Some(process) = &mut self.process {
            process.log.roll_at_next_commit();
            self.step(stage, Input::TakeSnapshot);
        }
    }

    /// The log failed: a server must not go on after that.
    fn fail(&mut self, stage: &mut Stage, error: &str) {
        let (at, index) = (stage.queue.now(), self.index);
        stage.trace.note(at, || format!("server {index} stops: {error}"));
        stage.counts.disk_stops += 1;
        let power = self.disk.has_crashed();
        self.crash(stage, power);
        // Whoever looks after it starts it again.
        let delay = self.chance.exponential(3_000 * MS);
        stage.queue.after(delay, Event::Restart(self.index));
    }

    fn plan_chore(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        if process.chores.is_empty() || std::mem::replace(&mut process.chore_planned, true) {
            return;
        }
        let delay = self.disk_time() + self.chance.exponential(self.habits.sync * 4);
        stage.queue.after(delay, Event::Server(self.index, self.life, ServerEvent::Housekeeping));
    }

    fn chore_done(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        process.chore_planned = false;
        let Some(chore) = process.chores.pop_front() else { return };
        match chore {
            Chore::Prepare(bytes) => {
                let made = prepare(&self.disk, &process.dirs.logs, bytes, &AtomicBool::new(false));
                process.preparing = false;
                if made.is_ok() {
                    process.log.set_prepared();
                }
            }
            Chore::Snapshot(step) => match self.snapshot_step(step) {
                Ok(Some(input)) => self.step(stage, input),
                Ok(None) => {}
                Err(_) => {
                    if let Some(process) = &mut self.process {
                        process.writer = None;
                        process.chores.retain(|chore| !matches!(chore, Chore::Snapshot(_)));
                    }
                    stage.counts.snapshots_failed += 1;
                    self.step(stage, Input::SnapshotFailed);
                }
            },
        }
        if self.disk.has_crashed() {
            self.fail(stage, "the machine lost power while it kept house");
        }
    }

    fn snapshot_step(&mut self, step: SnapshotStep) -> Result<Option<Input<'static>>, StorageError> {
        let keep = self.habits.keep;
        let Some(process) = &mut self.process else { return Ok(None) };
        match step {
            SnapshotStep::Begin(start) => {
                let (disk, dir) = (process.dirs.disk.clone(), &process.dirs.snapshots);
                let writer = SnapshotWriter::create(disk, dir, start.zxid, Compression::None)?;
                process.writer = Some((writer, start.digest));
                Ok(None)
            }
            SnapshotStep::Slice { bytes, last } => {
                let Some((writer, _)) = &mut process.writer else { return Ok(None) };
                writer.write(&bytes)?;
                if !last {
                    return Ok(Some(Input::SliceWritten));
                }
                if let Some((writer, digest)) = process.writer.take() {
                    writer.finish(digest, true)?;
                    // Purging is nobody's duty: it may fail.
                    let _ = purge::plan(&process.dirs, keep).map(|gone| purge::remove(&process.dirs, &gone));
                }
                Ok(None)
            }
            SnapshotStep::Abandon => {
                process.writer = None;
                Ok(None)
            }
        }
    }

    /// The newest transaction that it has applied.
    #[must_use]
    pub fn last_zxid(&self) -> Zxid {
        self.node().map_or(Zxid::ZERO, Node::last_zxid)
    }
}
