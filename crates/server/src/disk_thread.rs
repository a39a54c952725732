//! The two threads that touch the disk beside the core: one syncs the log when the core has other things to
//! do meanwhile, the other writes snapshots, prepares log files and purges old ones.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oxkeeper_node::SnapshotStep;
use oxkeeper_storage::{
    Compression, Directories, SnapshotWriter, StorageError, TxnLog, make_reserve, prepare, purge,
};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error, info, warn};

/// What the threads tell the core.
#[derive(Debug)]
pub(crate) enum Done {
    /// The log comes back with its batch committed, or not.
    Committed(Box<TxnLog>, Result<(), StorageError>, Duration),
    /// A slice of a snapshot is on disk.
    SliceWritten,
    /// The snapshot is complete, or given up as asked.
    SnapshotFinished,
    /// There will be no snapshot this time.
    SnapshotFailed,
    /// A file of zeros waits for the log.
    Prepared,
    /// There is none.
    PrepareFailed,
    /// The reserve is there, and what was to be prepared; or one of them is not.
    Reserved {
        done: bool,
        /// Whether zeros were written ahead as well.
        prepared: bool,
    },
}

/// What the second thread is asked.
#[derive(Debug)]
pub(crate) enum Job {
    Snapshot(SnapshotStep),
    Prepare(u64),
    Reserve {
        bytes: u64,
        /// Zeros to write ahead, if the log has none.
        prepare: Option<u64>,
    },
    Purge(usize),
}

/// Commits the log's batch; tells how long it took and warns if that was long.
pub(crate) fn commit(log: &mut TxnLog, warn_above: Duration) -> (Result<(), StorageError>, Duration) {
    let bytes = log.batch_bytes();
    let started = Instant::now();
    let result = log.commit();
    let took = started.elapsed();
    if took > warn_above {
        warn!(
            "fsync-ing the write ahead log took {}ms which will adversely effect operation latency. The batch had \
             {bytes} bytes. See the ZooKeeper troubleshooting guide",
            took.as_millis()
        );
    }
    (result, took)
}

/// Starts the thread that syncs the log. It ends when the sender is dropped.
pub(crate) fn log_thread(
    done: UnboundedSender<Done>,
    warn_above: Duration,
) -> std::io::Result<(mpsc::Sender<Box<TxnLog>>, JoinHandle<()>)> {
    let (to, from) = mpsc::channel::<Box<TxnLog>>();
    let run = move || {
        while let Ok(mut log) = from.recv() {
            let (result, took) = commit(&mut log, warn_above);
            if done.send(Done::Committed(log, result, took)).is_err() {
                return;
            }
        }
    };
    Ok((to, thread::Builder::new().name("log".into()).spawn(run)?))
}

/// How the second thread writes snapshots.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotOptions {
    pub(crate) dirs: Directories,
    pub(crate) compression: Compression,
    pub(crate) last_zxid: bool,
    /// Set when the server stops: nobody waits for what is not begun.
    pub(crate) stop: Arc<AtomicBool>,
}

/// Starts the thread for everything else. It ends when the sender is dropped.
pub(crate) fn housekeeping_thread(
    done: UnboundedSender<Done>,
    options: SnapshotOptions,
) -> std::io::Result<(mpsc::Sender<Job>, JoinHandle<()>)> {
    let (to, from) = mpsc::channel();
    let run = move || {
        let mut keeper = Housekeeper { options, done, snapshot: None };
        while let Ok(job) = from.recv() {
            keeper.work(job);
        }
    };
    Ok((to, thread::Builder::new().name("housekeeping".into()).spawn(run)?))
}

struct Housekeeper {
    options: SnapshotOptions,
    done: UnboundedSender<Done>,
    snapshot: Option<(SnapshotWriter, Option<i64>, Instant)>,
}

impl Housekeeper {
    fn work(&mut self, job: Job) {
        let dirs = &self.options.dirs;
        match job {
            Job::Snapshot(step) => {
                let done = self.snapshot_step(step).unwrap_or_else(|error| {
                    error!("Severe error: no snapshot was taken, older ones are kept: {error}");
                    self.snapshot = None;
                    Some(Done::SnapshotFailed)
                });
                if let Some(done) = done {
                    let _ = self.done.send(done);
                }
            }
            Job::Prepare(bytes) => match prepare(&*dirs.disk, &dirs.logs, bytes, &self.options.stop) {
                Ok(()) => {
                    let _ = self.done.send(Done::Prepared);
                }
                Err(error) => {
                    warn!("The log does without a prepared file: {error}");
                    let _ = self.done.send(Done::PrepareFailed);
                }
            },
            Job::Reserve { bytes, prepare } => {
                let done = self.reserve(bytes, prepare);
                let _ = self.done.send(Done::Reserved { done, prepared: done && prepare.is_some() });
            }
            Job::Purge(keep) => {
                info!("Purge task started.");
                if let Err(error) = self.purge(keep) {
                    error!("Error occurred while purging: {error}");
                }
                info!("Purge task completed.");
            }
        }
    }

    fn snapshot_step(&mut self, step: SnapshotStep) -> Result<Option<Done>, StorageError> {
        match step {
            SnapshotStep::Begin(start) => {
                let SnapshotOptions { dirs, compression, .. } = &self.options;
                info!("Snapshotting: {} to {}", start.zxid, dirs.snapshots.display());
                let writer =
                    SnapshotWriter::create(dirs.disk.clone(), &dirs.snapshots, start.zxid, *compression)?;
                self.snapshot = Some((writer, start.digest, Instant::now()));
                Ok(None)
            }
            SnapshotStep::Slice { bytes, last } => {
                // After a failure the slices that were on their way are not wanted any more.
                let Some((writer, ..)) = &mut self.snapshot else { return Ok(None) };
                writer.write(&bytes)?;
                if !last {
                    return Ok(Some(Done::SliceWritten));
                }
                if let Some((writer, digest, started)) = self.snapshot.take() {
                    let name = writer.finish(digest, self.options.last_zxid)?;
                    info!("Snapshot taken in {} ms: {name}", started.elapsed().as_millis());
                }
                Ok(Some(Done::SnapshotFinished))
            }
            SnapshotStep::Abandon => {
                self.snapshot = None;
                Ok(Some(Done::SnapshotFinished))
            }
        }
    }

    fn reserve(&self, bytes: u64, prepare_bytes: Option<u64>) -> bool {
        let SnapshotOptions { dirs, stop, .. } = &self.options;
        let reserved = make_reserve(&*dirs.disk, &dirs.logs, bytes, stop).and_then(|()| {
            prepare_bytes.map_or(Ok(()), |bytes| prepare(&*dirs.disk, &dirs.logs, bytes, stop))
        });
        reserved.inspect_err(|error| debug!("No reserve: {error}")).is_ok()
    }

    fn purge(&self, keep: usize) -> Result<(), StorageError> {
        let files = purge::plan(&self.options.dirs, keep)?;
        for path in &files {
            info!("Removing file: {}", path.display());
        }
        purge::remove(&self.options.dirs, &files)
    }
}
