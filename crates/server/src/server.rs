//! Starting and stopping: the threads of a server and the tasks of its core.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use oxkeeper_config::Config;
use oxkeeper_node::{Input, Node};
use oxkeeper_storage::{
    Directories, DirectoryLock, MemoryDisk, ReadLimits, RealDisk, SnapshotTrigger, SnapshotWriter,
    StorageError, TxnLog, cut, settle,
};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{LocalSet, spawn_local};
use tracing::{info, warn};

use crate::conn::{ConnIo, ConnTask};
use crate::core::{CommitPlan, Core};
use crate::disk_thread::{Done, SnapshotOptions, housekeeping_thread, log_thread};
use crate::error::ServerError;
use crate::flow::READ_BYTES;
use crate::recover::{RecoverOptions, Recovered, recover};
use crate::{listen, setup};

/// How often memory is looked at, if it has a limit.
const LOOK_AT_MEMORY: Duration = Duration::from_millis(50);
/// How often a full disk is looked at, and memory without a limit.
const LOOK_FOR_SPACE: Duration = Duration::from_secs(1);

/// Where a server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In `dataDir` and `dataLogDir`.
    Disk,
    /// In memory: everything is gone with the server.
    Memory,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), ServerError>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Recovers the data, binds the client port and serves. Returns when clients are served.
    ///
    /// # Errors
    /// The data directory or the port cannot be used.
    pub async fn start(config: Config, storage: Storage) -> Result<Server, ServerError> {
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        let run = move || {
            let _ = end.send(run(config, storage, Signals { ready, stopped }));
        };
        let thread = std::thread::Builder::new().name("core".into()).spawn(run)?;
        match is_ready.await {
            Ok(address) => Ok(Server { address, stop, ended, thread: Some(thread) }),
            Err(_) => match (&mut ended).await {
                Ok(Err(error)) => Err(error),
                _ => Err(ServerError::Broken),
            },
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server ends by itself, which it only does when it cannot go on.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        (&mut self.ended).await.unwrap_or(Err(ServerError::Broken))
    }

    /// Stops it: the log is complete, sessions live on for whoever serves the data next.
    ///
    /// # Errors
    /// It had already failed, or does now.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        let _ = self.stop.send(true);
        let result = (&mut self.ended).await.unwrap_or(Err(ServerError::Broken));
        if let Some(thread) = self.thread.take() {
            // It has said its last word; joining frees the directory for certain.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        result
    }
}

/// Everything a start does short of writing and serving: reads the data directory and says what is in it.
///
/// # Errors
/// What would stop a start.
pub fn inspect(config: &Config) -> Result<Recovered, ServerError> {
    let dirs = directories(config, Storage::Disk);
    if !dirs.snapshots.exists() && !config.create_directories {
        dirs.create(false)?;
    }
    dirs.check()?;
    Ok(recover(&dirs, &recover_options(config, 1))?)
}

fn directories(config: &Config, storage: Storage) -> Directories {
    match storage {
        Storage::Disk => Directories::new(Arc::new(RealDisk), &config.data_dir, &config.data_log_dir),
        Storage::Memory => Directories::new(Arc::new(MemoryDisk::default()), Path::new("/"), Path::new("/")),
    }
}

pub(crate) fn recover_options(config: &Config, seed: u64) -> RecoverOptions {
    RecoverOptions {
        rules: setup::rules(config),
        record_bytes_max: setup::record_bytes_max(config),
        trust_empty: config.trust_empty,
        seed,
    }
}

/// The core's thread.
fn run(config: Config, storage: Storage, signals: Signals) -> Result<(), ServerError> {
    let dirs = directories(&config, storage);
    let _locks = if storage == Storage::Disk {
        dirs.create(config.create_directories)?;
        dirs.check()?;
        listen::raise_open_files();
        let mut locks = vec![DirectoryLock::take(&config.data_dir)?];
        if config.data_log_dir != config.data_dir {
            locks.push(DirectoryLock::take(&config.data_log_dir)?);
        }
        locks
    } else {
        Vec::new()
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut threads = Threads { stop: Arc::new(AtomicBool::new(false)), joins: Vec::new() };
    let result =
        LocalSet::new().block_on(&runtime, serve(config, storage, dirs.clone(), signals, &mut threads));
    // With the tasks their senders are gone, and without them the threads end.
    drop(runtime);
    threads.stop.store(true, Ordering::Relaxed);
    for thread in threads.joins {
        let _ = thread.join();
    }
    dirs.leave()?;
    result
}

/// The threads beside the core's.
struct Threads {
    stop: Arc<AtomicBool>,
    joins: Vec<JoinHandle<()>>,
}

/// What passes between a server and whoever started it.
struct Signals {
    /// Where it listens, once it serves.
    ready: oneshot::Sender<SocketAddr>,
    /// Turns true when it is to stop.
    stopped: watch::Receiver<bool>,
}

async fn serve(
    config: Config,
    storage: Storage,
    dirs: Directories,
    signals: Signals,
    threads: &mut Threads,
) -> Result<(), ServerError> {
    let Signals { ready, mut stopped } = signals;
    let listener = listen::bind(&config)?;
    let address = listener.local_addr()?;
    info!("binding to port {address}");
    let seed = fastrand::u64(..);
    let config = Rc::new(config);
    let (done, events) = unbounded_channel();
    let (to_log, log_join) = log_thread(done.clone(), config.fsync_warning)?;
    let snapshots = SnapshotOptions {
        dirs: dirs.clone(),
        compression: setup::compression(&config),
        last_zxid: config.snapshot_last_zxid,
        stop: threads.stop.clone(),
    };
    let (jobs, jobs_join) = housekeeping_thread(done, snapshots)?;
    threads.joins.extend([log_join, jobs_join]);
    let log = TxnLog::new(dirs.disk.clone(), dirs.logs.clone(), setup::log_options(&config));
    let trigger = SnapshotTrigger::new(config.snap_count, config.snap_bytes, seed);
    let core = Rc::new(RefCell::new(Core::new(config.clone(), dirs.clone(), log, trigger, jobs)));
    let (failed, commit_wanted) = {
        let core = core.borrow();
        (core.failed_wake.clone(), core.commit_wanted.clone())
    };

    spawn_local(accept(core.clone(), listener));
    // While the data is read, four-letter words are answered already.
    let recovered = recover_aside(&config, &dirs, seed).await?;
    let wants_snapshot = prepare_directory(&config, &dirs, &recovered)?;
    {
        let mut core = core.borrow_mut();
        let now = core.now();
        core.node = Some(Node::new(setup::settings(&config, seed), recovered.tree, now));
        if storage == Storage::Disk {
            core.regain_space();
        }
        if wants_snapshot {
            core.want_snapshot();
        }
        core.look_at_memory();
        core.carry_out();
    }
    spawn_local(commits(core.clone(), commit_wanted, to_log));
    spawn_local(hear(core.clone(), events));
    spawn_local(ticks(core.clone()));
    spawn_local(looks(core.clone()));
    if let Some(interval) = config.purge_interval {
        spawn_local(purges(core.clone(), interval));
    }
    let _ = ready.send(address);

    tokio::select! {
        _ = stopped.wait_for(|stop| *stop) => info!("shutting down"),
        () = failed.notified() => {}
    }
    finish(&core).await;
    let broken = core.borrow().broken.get().then_some(ServerError::Broken);
    let failed = core.borrow_mut().failed.take().or(broken);
    drop(core);
    failed.map_or(Ok(()), Err)
}

/// Lets go of the clients. What is on its way to the log was never acknowledged.
async fn finish(core: &Rc<RefCell<Core>>) {
    core.borrow_mut().close_all();
    for _ in 0..100 {
        if core.borrow().connections() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Reads the data on a thread of its own, so that the core can answer meanwhile.
async fn recover_aside(config: &Config, dirs: &Directories, seed: u64) -> Result<Recovered, ServerError> {
    let (dirs, options) = (dirs.clone(), recover_options(config, seed));
    let reading = tokio::task::spawn_blocking(move || recover(&dirs, &options));
    match reading.await {
        Ok(recovered) => Ok(recovered?),
        Err(_) => Err(ServerError::Broken),
    }
}

/// Brings the directory into a state that both we and Java can start on: no tear at the log's end, and at
/// least one snapshot. Tells whether a new snapshot is worth its while.
pub(crate) fn prepare_directory(
    config: &Config,
    dirs: &Directories,
    recovered: &Recovered,
) -> Result<bool, StorageError> {
    dirs.clean()?;
    if let Some(tear) = &recovered.tear {
        warn!("Cutting {} at offset {}", tear.path.display(), tear.offset);
        cut(&*dirs.disk, tear)?;
    }
    if let Some((path, end)) = &recovered.log_end {
        let limits = ReadLimits { record_bytes_max: setup::record_bytes_max(config) };
        settle(&*dirs.disk, &dirs.logs, (path, *end), limits)?;
    }
    if recovered.snapshot.is_some() {
        return Ok(recovered.replayed > 0);
    }
    if recovered.replayed > 0 {
        return Ok(true);
    }
    // An empty directory: the first snapshot comes before the first record, or Java refuses the directory.
    let mut fresh = oxkeeper_node::Tree::new(1, setup::rules(config));
    let compression = setup::compression(config);
    let mut writer =
        SnapshotWriter::create(dirs.disk.clone(), &dirs.snapshots, fresh.last_zxid(), compression)?;
    // Before the first transaction Java writes a digest of 0, so that both write the same bytes.
    let digest = fresh.begin_snapshot().and_then(|start| start.digest).map(|_| 0);
    while let Some(slice) = fresh.next_slice(1 << 16) {
        writer.write(&slice.bytes)?;
    }
    writer.finish(digest, config.snapshot_last_zxid)?;
    Ok(false)
}

async fn accept(core: Rc<RefCell<Core>>, listener: TcpListener) {
    let buffer = Rc::new(RefCell::new(vec![0; READ_BYTES]));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Most likely too many open files: those who are served go on, others have to wait.
                warn!("Cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let address: IpAddr = peer.ip().to_canonical();
        let conn = {
            let mut core = core.borrow_mut();
            if core.stopping {
                return;
            }
            if !core.admits(address) {
                continue;
            }
            let keep_alive = core.config.tcp_keep_alive;
            let _ = stream.set_nodelay(true);
            if keep_alive {
                let _ = socket2::SockRef::from(&stream).set_keepalive(true);
            }
            core.add(|id| ConnIo::new(id, (address, peer.port()), Box::new(stream)))
        };
        spawn_local(ConnTask { conn, core: core.clone(), buffer: buffer.clone(), identities: Vec::new() });
    }
}

/// Commits what gathers. While one batch is synced the next one gathers.
async fn commits(core: Rc<RefCell<Core>>, wanted: Rc<Notify>, to_log: std::sync::mpsc::Sender<Box<TxnLog>>) {
    loop {
        wanted.notified().await;
        let plan = core.borrow_mut().commit_plan();
        match plan {
            CommitPlan::Nothing => {}
            CommitPlan::Inline => core.borrow_mut().commit_inline(),
            CommitPlan::Away(log) => {
                if to_log.send(log).is_err() {
                    core.borrow_mut().fail(ServerError::Broken);
                }
            }
        }
    }
}

/// Hears what the disk's threads have done.
async fn hear(core: Rc<RefCell<Core>>, mut events: UnboundedReceiver<Done>) {
    while let Some(event) = events.recv().await {
        let mut core = core.borrow_mut();
        match event {
            Done::Committed(log, result, took) => {
                core.log_returned(log, result, took);
                core.commit_wanted.notify_one();
            }
            Done::SliceWritten => core.step(Input::SliceWritten),
            Done::SnapshotFailed => {
                core.snapshot_ended();
                core.step(Input::SnapshotFailed);
            }
            Done::SnapshotFinished => core.snapshot_ended(),
            Done::Prepared => core.prepared(),
            Done::PrepareFailed => core.prepare_failed(),
            Done::Reserved { done, prepared } => core.space_regained(done, prepared),
        }
        core.carry_out();
    }
}

/// Tells the node the time. What clients have sent by then is read first: a ping that waits in a socket
/// while this process was stopped must count.
async fn ticks(core: Rc<RefCell<Core>>) {
    loop {
        let (deadline, tick) = {
            let core = core.borrow();
            (core.deadline(), core.config.tick)
        };
        let latest = std::time::Instant::now() + (tick / 2).min(Duration::from_secs(1));
        let until = deadline.map_or(latest, |deadline| deadline.min(latest));
        tokio::time::sleep_until(until.into()).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let mut core = core.borrow_mut();
        core.step(Input::Tick);
        core.carry_out();
        core.cut_stuck();
    }
}

/// Looks at memory and disk space again and again.
async fn looks(core: Rc<RefCell<Core>>) {
    let is_limited = core.borrow().memory.is_limited();
    let mut timer = tokio::time::interval(if is_limited { LOOK_AT_MEMORY } else { LOOK_FOR_SPACE });
    let mut looked = std::time::Instant::now();
    loop {
        timer.tick().await;
        let mut core = core.borrow_mut();
        core.look_at_memory();
        if looked.elapsed() >= LOOK_FOR_SPACE {
            looked = std::time::Instant::now();
            core.look_for_space();
        }
        core.carry_out();
    }
}

async fn purges(core: Rc<RefCell<Core>>, interval: Duration) {
    let mut timer = tokio::time::interval(interval);
    loop {
        timer.tick().await;
        core.borrow().purge();
    }
}
