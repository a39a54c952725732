//! The transaction log, snapshots and recovery, byte for byte as ZooKeeper keeps them, over a small [`Disk`].
//!
//! Synchronous, on whichever thread calls it. It does not know the tree: it frames and seals records that it
//! is given, and gives them back. Start with [`TxnLog`] and [`LogReader`]; [`SnapshotWriter`] and
//! [`SnapshotReader`] are their like for snapshots.

mod directory;
mod disk;
pub mod epochs;
mod error;
mod logread;
pub mod names;
pub mod purge;
pub mod rawlog;
mod reserve;
mod rewind;
#[cfg(any(test, feature = "sim-disk"))]
mod simdisk;
mod snapread;
mod snapwrite;
mod txnlog;
mod xerial;

pub use directory::{Directories, DirectoryLock};
pub use disk::{Disk, DiskFile, Entry, MemoryDisk, RealDisk};
pub use epochs::EpochFile;
pub use error::StorageError;
pub use logread::{LogReader, LogRecord, ReadLimits, Tear, cut, settle};
pub use names::Compression;
pub use reserve::make_reserve;
pub use rewind::{Truncation, finish_install, install, truncate};
#[cfg(any(test, feature = "sim-disk"))]
pub use simdisk::{Aftermath, Fault, SimDisk};
pub use snapread::{
    Candidate, PassedOver, SnapshotItem, SnapshotReader, SnapshotTail, candidates, newest_named,
};
pub use snapwrite::SnapshotWriter;
pub use txnlog::{LogOptions, SnapshotTrigger, TxnLog, prepare};
