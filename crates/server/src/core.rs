//! The core loop's state: the node, its connections and its log, on one thread. Whoever has something for
//! the node steps it and then carries out what it wants done.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::IoSlice;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use oxkeeper_config::Config;
use oxkeeper_node::{Answer, ConnId, Durable, Effects, Input, Memory, Node, Now, Query, QueryId, Ticket};
use oxkeeper_storage::{Directories, SnapshotTrigger, StorageError, TxnLog};
use slab::Slab;
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::conn::{ConnIo, after_others};
use crate::disk_thread::{self, Job};
use crate::error::ServerError;
use crate::flow::{OUTBOX_BYTES, OUTBOX_BYTES_MAX, OUTBOX_KEEP, PARTS_AT_ONCE, STUCK_AFTER, WRITE_BYTES};
use crate::listen;
use crate::memory::MemoryGauge;
use crate::pace::SnapshotPace;
use crate::setup::wall_ms;
use crate::space::Space;

/// A sync that is expected to take less than this is done on the core's own thread: waking another one
/// would cost as much.
const INLINE_BELOW: Duration = Duration::from_micros(300);
/// If nothing else waits, a sync may even take this long on the core's thread.
const INLINE_ALONE_BELOW: Duration = Duration::from_millis(5);

/// Java's default: client requests, server packets, session and warning traces.
const TRACE_MASK: i64 = 306;

/// The runtime survives a task that panics; a node that has panicked must not be asked again.
struct StopOnPanic<'a> {
    broken: &'a Cell<bool>,
    wake: &'a Notify,
}

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.broken.set(true);
            self.wake.notify_one();
        }
    }
}

/// Where the log is.
#[derive(Debug)]
enum LogPlace {
    Here(Box<TxnLog>),
    /// With the log thread, which commits a batch.
    Away,
}

/// What the core is to do about the batch.
pub(crate) enum CommitPlan {
    Nothing,
    Inline,
    Away(Box<TxnLog>),
}

/// Everything that the core loop owns.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Rc<Config>,
    pub(crate) dirs: Directories,
    pub(crate) node: Option<Node>,
    fx: Effects,
    conns: Slab<Rc<ConnIo>>,
    generation: u32,
    per_address: HashMap<IpAddr, usize>,
    /// Connections that the system's limit on open files leaves room for.
    connections_room: usize,
    started: Instant,
    log: LogPlace,
    /// Appended while the log was away.
    held: Vec<(Ticket, Durable)>,
    /// The ticket of the last transaction of the batch, and of the batch that is being committed.
    batch_last: Option<Ticket>,
    batch_len: u64,
    committing: Option<(Ticket, u64)>,
    expected_sync: Duration,
    trigger: SnapshotTrigger,
    pace: SnapshotPace,
    pub(crate) preparing: bool,
    /// The next file became ready while the log was away.
    prepared_meanwhile: bool,
    pub(crate) space: Space,
    pub(crate) memory: MemoryGauge,
    jobs: mpsc::Sender<Job>,
    pub(crate) commit_wanted: Rc<Notify>,
    pub(crate) failed: Option<ServerError>,
    /// The node has panicked.
    pub(crate) broken: Cell<bool>,
    pub(crate) failed_wake: Rc<Notify>,
    pub(crate) stopping: bool,
    /// What `gtmk` tells and `stmk` sets; nothing depends on it.
    pub(crate) trace_mask: i64,
}

impl Core {
    pub(crate) fn new(
        config: Rc<Config>,
        dirs: Directories,
        log: TxnLog,
        trigger: SnapshotTrigger,
        jobs: mpsc::Sender<Job>,
    ) -> Core {
        let memory = MemoryGauge::new(config.memory_max);
        Core {
            config,
            dirs,
            node: None,
            fx: Effects::default(),
            conns: Slab::new(),
            generation: 0,
            per_address: HashMap::new(),
            connections_room: listen::connections_room(),
            started: Instant::now(),
            log: LogPlace::Here(Box::new(log)),
            held: Vec::new(),
            batch_last: None,
            batch_len: 0,
            committing: None,
            expected_sync: Duration::ZERO,
            trigger,
            pace: SnapshotPace::default(),
            preparing: false,
            prepared_meanwhile: false,
            space: Space::default(),
            memory,
            jobs,
            commit_wanted: Rc::new(Notify::new()),
            failed: None,
            broken: Cell::new(false),
            failed_wake: Rc::new(Notify::new()),
            stopping: false,
            trace_mask: TRACE_MASK,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { mono: self.started.elapsed(), wall_ms: wall_ms() }
    }

    /// The instant of the node's next deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.node.as_ref().map(|node| self.started + node.deadline())
    }

    /// Number of connections that have been opened and not removed.
    pub(crate) fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Whether one more connection from `address` is within the limits; says so if not.
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        if self.memory.state == Memory::Critical {
            warn!("Refusing a connection from {address}: there is no memory for it");
            return false;
        }
        let most = match self.config.connections_max {
            0 => self.connections_room,
            most => most.min(self.connections_room),
        };
        if self.conns.len() >= most {
            warn!("Too many connections max allowed is {most}");
            return false;
        }
        let per_address = self.config.connections_per_address_max;
        if per_address > 0 && self.per_address.get(&address).copied().unwrap_or(0) >= per_address {
            warn!("Too many connections from {address} - max is {per_address}");
            return false;
        }
        true
    }

    /// Gives a connection its place.
    pub(crate) fn add(&mut self, make: impl FnOnce(ConnId) -> ConnIo) -> Rc<ConnIo> {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.conns.vacant_entry();
        let id = ConnId { index: u32::try_from(entry.key()).unwrap_or(u32::MAX), generation };
        let conn = Rc::new(make(id));
        entry.insert(conn.clone());
        *self.per_address.entry(conn.peer.0).or_default() += 1;
        conn
    }

    /// Takes a connection's place back; the node hears that it is gone.
    pub(crate) fn remove(&mut self, conn: &ConnIo) {
        if conn.opened.get() {
            self.step(Input::Closed { conn: conn.id });
        }
        self.fx.discard(conn.id);
        self.count_partial(conn, 0);
        self.count_outbox(conn, 0);
        self.conns.try_remove(conn.id.index as usize);
        if let Some(count) = self.per_address.get_mut(&conn.peer.0) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&conn.peer.0);
            }
        }
        self.carry_out();
    }

    fn find(&self, id: ConnId) -> Option<Rc<ConnIo>> {
        self.conns.get(id.index as usize).filter(|conn| conn.id == id).cloned()
    }

    /// Tells the node something. What it wants done gathers until [`Core::carry_out`].
    pub(crate) fn step(&mut self, input: Input<'_>) {
        let now = self.now();
        self.step_at(now, input);
    }

    /// The same for several inputs of one turn, which happen at one time.
    #[inline]
    pub(crate) fn step_at(&mut self, now: Now, input: Input<'_>) {
        if self.broken.get() {
            return;
        }
        let _guard = StopOnPanic { broken: &self.broken, wake: &self.failed_wake };
        if let Some(node) = &mut self.node {
            node.step(now, input, &mut self.fx);
        }
    }

    /// Asks the node something.
    pub(crate) fn ask(&mut self, query: Query) -> Option<Answer> {
        let id = QueryId(0);
        self.step(Input::Query(id, query));
        self.fx.answers.pop().map(|(_, answer)| answer)
    }

    /// Bytes for a connection from outside the node: four-letter words.
    pub(crate) fn write(&mut self, id: ConnId, bytes: &[u8]) {
        self.fx.outbox(id).extend_from_slice(bytes);
    }

    /// Does what the node wants done.
    pub(crate) fn carry_out(&mut self) {
        self.look_at_growth();
        if !self.fx.durable.is_empty() {
            self.append();
        }
        while let Some(id) = self.fx.dirty.pop() {
            if let Some(conn) = self.find(id) {
                self.flush(&conn);
            } else {
                self.fx.discard(id);
            }
        }
        for (id, reading) in std::mem::take(&mut self.fx.reading) {
            if let Some(conn) = self.find(id) {
                conn.held_back.set(!reading);
                if reading {
                    conn.wake();
                }
            }
        }
        for id in std::mem::take(&mut self.fx.closes) {
            if let Some(conn) = self.find(id) {
                conn.closing.set(true);
                conn.wake();
            }
        }
        for step in std::mem::take(&mut self.fx.snapshot) {
            self.send(Job::Snapshot(step));
        }
    }

    fn append(&mut self) {
        let mut alien = None;
        for (ticket, work) in self.fx.durable.drain(..) {
            match (&mut self.log, &work) {
                (LogPlace::Here(log), Durable::Append(proposal)) => {
                    log.append(proposal.zxid, &proposal.payload);
                    self.batch_last = Some(ticket);
                    self.batch_len += 1;
                }
                (LogPlace::Away, _) => self.held.push((ticket, work)),
                // A node of its own only ever appends. What is not done must not be reported as done.
                (LogPlace::Here(_), other) => alien = Some(format!("{other:?}")),
            }
        }
        if let Some(work) = alien {
            error!("A standalone server was asked for {work}");
            return self.fail(ServerError::Broken);
        }
        self.commit_wanted.notify_one();
    }

    /// Writes a connection's outbox as far as it goes. What is left goes when the socket takes more.
    pub(crate) fn flush(&mut self, conn: &ConnIo) {
        if self.fx.waiting_len(conn.id) == 0 {
            return self.count_outbox(conn, 0);
        }
        let waker = conn.waker.borrow();
        let mut context = Context::from_waker(&waker);
        let mut written = 0;
        loop {
            let mut parts = [IoSlice::new(&[]); PARTS_AT_ONCE];
            let used = self.fx.waiting(conn.id, &mut parts);
            match conn.poll_write(&mut context, parts.get(..used).unwrap_or_default()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.fx.written(conn.id, n, OUTBOX_KEEP);
                    written += n;
                }
                Poll::Ready(_) => {
                    drop(waker);
                    self.fx.discard(conn.id);
                    conn.broken.set(true);
                    return conn.wake();
                }
                Poll::Pending => break,
            }
            if self.fx.waiting_len(conn.id) == 0 {
                break;
            }
            if written >= WRITE_BYTES {
                after_others(&mut context);
                break;
            }
        }
        drop(waker);
        let waiting = self.fx.waiting_len(conn.id);
        self.count_outbox(conn, waiting);
        if self.fx.take_wanting(conn.id) {
            conn.resume.set(true);
            conn.wake();
        }
        if waiting == 0 {
            conn.stuck_since.set(None);
            if conn.choked.replace(false) || conn.closing.get() {
                conn.wake();
            }
            return;
        }
        let is_full = waiting > OUTBOX_BYTES || self.memory.chokes(waiting);
        conn.choked.set(is_full);
        if self.memory.cuts_outbox(waiting) {
            warn!("Cutting {:?}: replies take too much memory, and {waiting} bytes wait for it", conn.peer);
            conn.broken.set(true);
            conn.wake();
        } else if !is_full {
            conn.stuck_since.set(None);
        } else if written > 0 || conn.stuck_since.get().is_none() {
            conn.stuck_since.set(Some(Instant::now()));
        } else if waiting > OUTBOX_BYTES_MAX {
            warn!("Cutting {:?}: {waiting} bytes wait for it and it takes none", conn.peer);
            conn.broken.set(true);
            conn.wake();
        }
    }

    /// Whether a connection must take some of its replies before it gets more.
    pub(crate) fn is_full(&self, conn: &ConnIo) -> bool {
        self.fx.is_full(conn.id) || self.memory.chokes(self.fx.waiting_len(conn.id))
    }

    /// Whether nothing waits to be written to a connection.
    pub(crate) fn is_written(&mut self, conn: &ConnIo) -> bool {
        self.fx.waiting_len(conn.id) == 0
    }

    /// Cuts clients that have not taken anything from a full outbox for too long.
    pub(crate) fn cut_stuck(&mut self) {
        for (_, conn) in &self.conns {
            if conn.stuck_since.get().is_some_and(|since| since.elapsed() > STUCK_AFTER) {
                warn!("Cutting {:?}: it takes none of the replies that wait for it", conn.peer);
                conn.broken.set(true);
                conn.wake();
            }
        }
    }

    /// Whether the batch is synced here or by the log thread: here if that is quick, or if nobody but the
    /// clients of this very batch could use the time.
    pub(crate) fn commit_plan(&mut self) -> CommitPlan {
        if self.space.is_stalled {
            return CommitPlan::Nothing;
        }
        let Some(last) = self.batch_last else { return CommitPlan::Nothing };
        let LogPlace::Here(_) = &self.log else { return CommitPlan::Nothing };
        let alone = self.batch_len as usize >= self.conns.len();
        let below = if alone { INLINE_ALONE_BELOW } else { INLINE_BELOW };
        self.batch_last = None;
        self.committing = Some((last, std::mem::take(&mut self.batch_len)));
        if self.expected_sync < below {
            return CommitPlan::Inline;
        }
        match std::mem::replace(&mut self.log, LogPlace::Away) {
            LogPlace::Here(log) => CommitPlan::Away(log),
            LogPlace::Away => CommitPlan::Nothing,
        }
    }

    pub(crate) fn commit_inline(&mut self) {
        let LogPlace::Here(log) = &mut self.log else { return };
        let (result, took) = disk_thread::commit(log, self.config.fsync_warning);
        self.committed(result, took);
    }

    /// The log is back.
    pub(crate) fn log_returned(
        &mut self,
        log: Box<TxnLog>,
        result: Result<(), StorageError>,
        took: Duration,
    ) {
        self.log = LogPlace::Here(log);
        if std::mem::take(&mut self.prepared_meanwhile) {
            self.prepared();
        }
        self.log_came_back();
        self.fx.durable.splice(0..0, std::mem::take(&mut self.held));
        if !self.fx.durable.is_empty() {
            self.append();
        }
        self.committed(result, took);
    }

    fn committed(&mut self, result: Result<(), StorageError>, took: Duration) {
        self.expected_sync = (self.expected_sync * 7 + took) / 8;
        let Some((last, records)) = self.committing.take() else { return };
        match result {
            Ok(()) => {}
            Err(error @ StorageError::Full { .. }) => {
                // More may have been added to the batch meanwhile.
                self.batch_last = self.batch_last.or(Some(last));
                self.batch_len += records;
                self.stall(&error);
                return self.carry_out();
            }
            Err(error) => return self.fail(error.into()),
        }
        if self.log_mut().is_some_and(TxnLog::took_reserve) {
            self.space_is_short();
        }
        self.step(Input::Persisted(last));
        self.after_commit(records);
        self.carry_out();
    }

    fn after_commit(&mut self, records: u64) {
        if let Some(bytes) = self.begin_preparing() {
            self.send(Job::Prepare(bytes));
        }
        let LogPlace::Here(log) = &mut self.log else { return };
        if self.trigger.appended(records, log.bytes_since_roll()) {
            self.pace.set_due();
        }
        self.begin_snapshot();
    }

    /// How many zeros are to be written ahead, if nobody is at it.
    pub(crate) fn begin_preparing(&mut self) -> Option<u64> {
        let LogPlace::Here(log) = &mut self.log else { return None };
        if !log.wants_prepared() || self.preparing {
            return None;
        }
        self.preparing = true;
        Some(log.prepare_bytes())
    }

    /// Gives the second thread something to do. It lives as long as the core.
    pub(crate) fn send(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// The log, unless the log thread has it.
    pub(crate) fn log_mut(&mut self) -> Option<&mut TxnLog> {
        match &mut self.log {
            LogPlace::Here(log) => Some(log),
            LogPlace::Away => None,
        }
    }

    pub(crate) fn log_is_here(&self) -> bool {
        matches!(self.log, LogPlace::Here(_))
    }

    /// Takes a snapshot, whatever was logged.
    pub(crate) fn want_snapshot(&mut self) {
        self.pace.set_due();
        self.begin_snapshot();
    }

    fn begin_snapshot(&mut self) {
        if self.pace.begin(self.started.elapsed()) {
            if let LogPlace::Here(log) = &mut self.log {
                log.roll_at_next_commit();
            }
            self.step(Input::TakeSnapshot);
        }
    }

    /// The snapshot under way is written, or has failed.
    pub(crate) fn snapshot_ended(&mut self) {
        self.pace.ended(self.started.elapsed());
    }

    pub(crate) fn prepared(&mut self) {
        match &mut self.log {
            LogPlace::Here(log) => {
                self.preparing = false;
                log.set_prepared();
            }
            LogPlace::Away => self.prepared_meanwhile = true,
        }
    }

    pub(crate) fn purge(&self) {
        self.send(Job::Purge(self.config.purge_keep));
    }

    /// Stops everything: what is on disk is all that is known for certain.
    pub(crate) fn fail(&mut self, error: ServerError) {
        if self.failed.is_none() {
            self.failed = Some(error);
        }
        self.failed_wake.notify_one();
    }

    /// Lets go of every connection.
    pub(crate) fn close_all(&mut self) {
        self.stopping = true;
        for (_, conn) in &self.conns {
            conn.broken.set(true);
            conn.wake();
        }
    }

    /// Bytes in the data and the log directory.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        self.dirs.sizes().unwrap_or((0, 0))
    }
}

/// A waker for a connection whose task has not been polled yet.
pub(crate) fn no_waker() -> Waker {
    Waker::noop().clone()
}
