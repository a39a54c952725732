//! A server's life on a disk that forgets what was not synced, ended at every single step that touches the disk,
//! with different remains each time. What was acknowledged must be there after the next start.
//!
//! The node, the log, snapshots, purge and recovery are the real ones; only the driver's threads are replaced by
//! turns taken in an order that a seed draws.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oxkeeper_config::Config;
use oxkeeper_node::{ConnId, Durable, Effects, Input, Node, Now, SnapshotStep, Ticket};
use oxkeeper_proto::{AclList, ConnectRequest, Create, OpCode, Request, RequestHeader, SessionId, Xid, Zxid};
use oxkeeper_storage::{
    Aftermath, Directories, Fault, SimDisk, SnapshotWriter, StorageError, TxnLog, make_reserve, prepare,
    purge,
};

use crate::recover::{Recovered, recover};
use crate::server::{prepare_directory, recover_options};
use crate::setup;

const CONN: ConnId = ConnId { index: 0, generation: 0 };

/// What can be told of a state: digest, znodes, ephemerals, sessions.
type Summary = (i64, usize, usize, usize);

/// What the clients of all lives so far were told.
#[derive(Debug, Default, Clone)]
struct Told {
    acknowledged: Zxid,
    states: BTreeMap<Zxid, Summary>,
}

struct Life {
    disk: SimDisk,
    dirs: Directories,
    config: Config,
    node: Node,
    log: TxnLog,
    fx: Effects,
    now_ms: u64,
    random: fastrand::Rng,
    writer: Option<(SnapshotWriter, Option<i64>)>,
    prepared: bool,
    /// The newest work that waits for space.
    stalled: Option<Ticket>,
    /// For so many turns the disk has been full.
    full_turns: u32,
    told: Told,
}

fn config() -> Config {
    let mut config = Config::standalone("/d", 0);
    config.prepare_bytes = 4096;
    config
}

impl Life {
    /// Starts a server as the driver does; checks that everything told before is there.
    fn start(disk: &SimDisk, seed: u64, told: Told) -> Result<Life, StorageError> {
        let config = config();
        let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
        let recovered = recover(&dirs, &recover_options(&config, seed))?;
        check(&recovered, &told);
        let snapshot_due = prepare_directory(&config, &dirs, &recovered)?;
        let now = Now { mono: Duration::ZERO, wall_ms: 1_000_000 };
        let mut life = Life {
            log: TxnLog::new(dirs.disk.clone(), dirs.logs.clone(), setup::log_options(&config)),
            node: Node::new(setup::settings(&config, seed), recovered.tree, now),
            fx: Effects::default(),
            now_ms: 0,
            random: fastrand::Rng::with_seed(seed),
            writer: None,
            prepared: false,
            stalled: None,
            full_turns: 0,
            told,
            config,
            disk: disk.clone(),
            dirs,
        };
        if snapshot_due {
            life.step(Input::TakeSnapshot);
        }
        Ok(life)
    }

    fn step(&mut self, input: Input<'_>) {
        let now = Now { mono: Duration::from_millis(self.now_ms), wall_ms: 1_000_000 + self.now_ms as i64 };
        self.node.step(now, input, &mut self.fx);
    }

    fn send(&mut self, request: &Request<'_>) {
        let mut frame = Vec::new();
        RequestHeader { xid: Xid(1), op: request.op().number() }.encode(&mut frame);
        request.encode(&mut frame);
        self.step(Input::Frame { conn: CONN, bytes: &frame });
    }

    fn connect(&mut self) {
        let peer = (std::net::Ipv4Addr::LOCALHOST.into(), 1);
        self.step(Input::Closed { conn: CONN });
        self.step(Input::Opened { conn: CONN, peer, identities: Vec::new() });
        let mut frame = Vec::new();
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: 10_000,
            session_id: SessionId::NONE,
            password: Some(&[0; 16]),
            read_only: None,
        }
        .encode(&mut frame);
        self.step(Input::Frame { conn: CONN, bytes: &frame });
    }

    fn write(&mut self) {
        let path = format!("/n{}", self.random.u32(..40));
        let data = vec![b'x'; self.random.usize(..300)];
        let flags = i32::from(self.random.u8(..4) == 0);
        let create = Request::Create(Create {
            op: OpCode::Create,
            path: path.as_str().into(),
            data: Some(&data),
            acl: Some(AclList::OPEN),
            flags,
            ttl: -1,
        });
        match self.random.u8(..12) {
            0..6 => self.send(&create),
            6..8 => {
                self.send(&Request::SetData { path: path.as_str().into(), data: Some(&data), version: -1 })
            }
            8..10 => self.send(&Request::Delete { path: path.as_str().into(), version: -1 }),
            10 => {
                let delete = Request::Delete { path: "/n1".into(), version: -1 };
                self.send(&Request::Multi(vec![create, delete]));
            }
            _ => {
                self.send(&Request::CloseSession);
                self.connect();
            }
        }
    }

    /// One turn: some requests are made durable and answered, then some of the other work is done.
    fn turn(&mut self) -> Result<(), StorageError> {
        self.now_ms += 10;
        for _ in 0..self.random.u8(1..4) {
            self.write();
        }
        while let Some(ticket) = self.fx.durable.last().map(|(ticket, _)| *ticket).or(self.stalled) {
            for (_, work) in self.fx.durable.drain(..) {
                let Durable::Append(proposal) = work else { panic!("{work:?}") };
                self.log.append(proposal.zxid, &proposal.payload);
            }
            if let Err(error) = self.log.commit() {
                return self.stall(ticket, error);
            }
            self.stalled = None;
            self.step(Input::Persisted(ticket));
            // From here on clients may know of it.
            let status = self.node.status();
            let last = status.last_zxid;
            assert!(status.last_logged >= last, "what is applied was logged");
            self.told.acknowledged = last;
            let summary = (status.digest, status.znodes, status.ephemerals, status.sessions);
            self.told.states.insert(last, summary);
        }
        if self.random.u8(..12) == 0 && self.writer.is_none() && self.fx.snapshot.is_empty() {
            self.log.roll_at_next_commit();
            self.step(Input::TakeSnapshot);
        }
        if self.random.bool() {
            self.keep_house();
        }
        Ok(())
    }

    /// The log found no space: its batch waits, and after some turns there is space again.
    fn stall(&mut self, ticket: Ticket, error: StorageError) -> Result<(), StorageError> {
        let StorageError::Full { .. } = error else { return Err(error) };
        self.stalled = Some(ticket);
        self.full_turns += 1;
        if self.full_turns.is_multiple_of(3) {
            self.disk.free_space();
        }
        Ok(())
    }

    /// The work of the second thread. Its failures cost nothing but the work itself.
    fn keep_house(&mut self) {
        let steps = std::mem::take(&mut self.fx.snapshot);
        for step in steps {
            if let Err(error) = self.snapshot_step(step) {
                assert!(!matches!(error, StorageError::Damaged { .. }), "{error}");
                self.writer = None;
                self.step(Input::SnapshotFailed);
            }
        }
        if self.random.u8(..6) == 0
            && make_reserve(&*self.dirs.disk, &self.dirs.logs, 4096, &AtomicBool::new(false)).is_ok()
        {
            self.log.set_reserve();
        }
        if self.log.wants_prepared() && !self.prepared {
            self.prepared = true;
        } else if std::mem::take(&mut self.prepared) {
            let bytes = self.config.prepare_bytes;
            if prepare(&*self.dirs.disk, &self.dirs.logs, bytes, &AtomicBool::new(false)).is_ok() {
                self.log.set_prepared();
            }
        }
    }

    fn snapshot_step(&mut self, step: SnapshotStep) -> Result<(), StorageError> {
        match step {
            SnapshotStep::Begin(start) => {
                let compression = setup::compression(&self.config);
                let disk = self.dirs.disk.clone();
                let writer = SnapshotWriter::create(disk, &self.dirs.snapshots, start.zxid, compression)?;
                self.writer = Some((writer, start.digest));
            }
            SnapshotStep::Slice { bytes, last } => {
                let Some((writer, _)) = &mut self.writer else { return Ok(()) };
                writer.write(&bytes)?;
                if !last {
                    self.step(Input::SliceWritten);
                } else if let Some((writer, digest)) = self.writer.take() {
                    writer.finish(digest, true)?;
                    purge::remove(&self.dirs, &purge::plan(&self.dirs, 3)?)?;
                }
            }
            SnapshotStep::Abandon => self.writer = None,
        }
        Ok(())
    }

    /// Lives for so many turns, or until the disk ends it. Tells what clients know by then.
    fn live(self, turns: usize) -> Told {
        self.live_while(turns, || true)
    }

    /// The same, as long as a condition holds after a turn.
    fn live_while(mut self, turns: usize, goes_on: impl Fn() -> bool) -> Told {
        self.connect();
        for _ in 0..turns {
            if self.turn().is_err() || !goes_on() {
                break;
            }
        }
        // Whatever it would still do at its end does not happen.
        std::mem::forget(self.log);
        self.told
    }
}

fn check(recovered: &Recovered, told: &Told) {
    let tree = &recovered.tree;
    let last = tree.last_zxid();
    assert!(last >= told.acknowledged, "{} was acknowledged, {last} is what is left", told.acknowledged);
    assert_eq!(recovered.digest_mismatches, 0);
    if let Some(state) = told.states.get(&last) {
        let found = (tree.digest(), tree.len(), tree.ephemerals_len(), tree.sessions().count());
        assert_eq!(found, *state, "the state at {last}");
    }
}

/// Starts on a disk that a life may have left behind.
fn start(disk: &SimDisk, seed: u64, told: &Told, what: &str) -> Life {
    match Life::start(disk, seed, told.clone()) {
        Ok(life) => life,
        Err(error) => panic!("does not start after {what}: {error}"),
    }
}

const AFTERMATHS: [Aftermath; 4] =
    [Aftermath::Synced, Aftermath::All, Aftermath::Some(1), Aftermath::Some(2)];
const TURNS: usize = 150;
const STEPS_AFTER_ERROR: usize = 6;

#[test]
fn what_was_acknowledged_outlives_a_crash_at_every_step() {
    let whole = SimDisk::default();
    start(&whole, 7, &Told::default(), "nothing").live(TURNS);
    let steps = whole.steps();
    let mut visited: BTreeMap<&str, usize> = BTreeMap::new();
    let mut starts = 0;
    for (at, step) in steps.iter().enumerate() {
        // What an error leads to may be healed by the next snapshot: so once the end comes soon after it.
        for (fault, steps_left) in
            [(Fault::Crash, 0), (Fault::Error, STEPS_AFTER_ERROR), (Fault::Error, usize::MAX)]
        {
            *visited.entry(step).or_default() += 1;
            let disk = SimDisk::default();
            disk.fail_at(at, fault);
            let told = match Life::start(&disk, 7, Told::default()) {
                Ok(life) => life.live_while(TURNS, || disk.steps().len().saturating_sub(at) <= steps_left),
                Err(_) => Told::default(),
            };
            let what = format!("{fault:?} at step {at}, {step}");
            for (n, aftermath) in AFTERMATHS.into_iter().enumerate() {
                // A second life, which ends wherever it may, and a third one that must find all of both.
                let left = disk.after_crash(aftermath);
                let second = start(&left, 8, &told, &format!("{what}, {aftermath:?}"));
                left.fail_at((at * 7 + n * 13) % 90, Fault::Crash);
                let told = second.live(20);
                let left = left.after_crash(Aftermath::Some(at as u64));
                start(&left, 9, &told, &format!("a second life after {what}, {aftermath:?}"));
                starts += 2;
            }
        }
    }
    println!(
        "crash points: {} visited, {starts} starts on what was left; by kind: {visited:?}",
        steps.len() * 3
    );
    let kinds = [
        "sync log",
        "rename to log",
        "sync directory version-2",
        "rename to snapshot",
        "remove log",
        "cut log",
        "sync oxkeeper-unfinished-snapshot",
        "rename to oxkeeper-next-log",
        "remove snapshot",
        "write log",
        "rename to oxkeeper-reserve",
    ];
    for kind in kinds {
        assert!(visited.contains_key(kind), "no life has a step {kind}: {visited:?}");
    }
}

#[test]
fn a_full_disk_costs_nothing_and_service_resumes_when_there_is_space() {
    let whole = SimDisk::default();
    start(&whole, 7, &Told::default(), "nothing").live(TURNS);
    let mut resumed = 0;
    for at in 0..whole.steps().len() {
        let disk = SimDisk::default();
        disk.fail_at(at, Fault::Full);
        let told = match Life::start(&disk, 7, Told::default()) {
            Ok(life) => life.live(TURNS),
            Err(_) => Told::default(),
        };
        // All turns were lived, so most of what they asked for was acknowledged in the end.
        resumed += usize::from(told.acknowledged > Zxid(100));
        disk.free_space();
        let left = disk.after_crash(Aftermath::Some(at as u64));
        start(&left, 8, &told, &format!("a disk that is full from step {at} on"));
    }
    assert!(resumed * 10 > whole.steps().len() * 9, "{resumed} of {} lives went on", whole.steps().len());
}
