//! Writes snapshots: header, what the tree gives, then the digest and the newest zxid, each part sealed by
//! a checksum over everything before it. A file gets its name only when it is complete and durable.
//!
//! Source: `FileSnap`, `SnapStream`, 3.9.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::write::GzEncoder;
use oxkeeper_proto::{Put, TxnDigest, Zxid};
use simd_adler32::Adler32;

use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::names::{self, Compression};
use crate::xerial;

/// What every snapshot begins with: `ZKSN`, version 2, dbid -1.
pub(crate) const FILE_HEADER: [u8; 16] =
    [b'Z', b'K', b'S', b'N', 0, 0, 0, 2, 255, 255, 255, 255, 255, 255, 255, 255];
/// The name while it is written. No server takes it for a snapshot.
pub(crate) const UNFINISHED: &str = "oxkeeper-unfinished-snapshot";
/// A large dump that is not synced holds up the syncs of the log, and so does a large one that is: the log's p99 was
/// mostly two to three times as long beside syncs of 4 MiB, and hardly longer beside those of 512 KiB. Below that the dump
/// itself becomes slow.
const SYNC_EVERY: u64 = 512 << 10;

/// A snapshot being written. If it is dropped before it is finished, what was written is removed.
pub struct SnapshotWriter {
    unfinished: Unfinished,
    dir: PathBuf,
    zxid: Zxid,
    compression: Compression,
    sink: Sink,
    adler: Adler32,
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter")
            .field("zxid", &self.zxid)
            .field("sink", &self.sink)
            .finish_non_exhaustive()
    }
}

/// The file under its passing name. On a full disk it must not stay behind.
struct Unfinished {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    is_there: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.is_there {
            // Best effort: the next start removes it as well.
            let _ = self.disk.remove(&self.path);
        }
    }
}

#[derive(Debug)]
enum Sink {
    Plain(FileSink),
    Gzip(Box<GzEncoder<FileSink>>),
    Snappy(Box<xerial::Encoder<FileSink>>),
}

#[derive(Debug)]
struct FileSink {
    file: Box<dyn DiskFile>,
    end: u64,
    synced: u64,
}

impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        if self.end - self.synced >= SYNC_EVERY {
            self.file.sync_data()?;
            self.synced = self.end;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotWriter {
    /// Begins the snapshot of the state at `zxid`.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        zxid: Zxid,
        compression: Compression,
    ) -> Result<SnapshotWriter, StorageError> {
        let path = dir.join(UNFINISHED);
        let failed = |error| StorageError::io("creating", &path, error);
        let file = disk.create(&path).map_err(failed)?;
        let unfinished = Unfinished { disk, path: path.clone(), is_there: true };
        let sink = FileSink { file, end: 0, synced: 0 };
        let sink = match compression {
            Compression::None => Sink::Plain(sink),
            Compression::Gzip => Sink::Gzip(Box::new(GzEncoder::new(sink, flate2::Compression::fast()))),
            Compression::Snappy => Sink::Snappy(Box::new(xerial::Encoder::new(sink).map_err(failed)?)),
        };
        let mut writer = SnapshotWriter {
            unfinished,
            dir: dir.to_owned(),
            zxid,
            compression,
            sink,
            adler: Adler32::new(),
        };
        writer.write(&FILE_HEADER)?;
        Ok(writer)
    }

    /// Appends bytes that the tree gives: sessions, access control lists, znodes and the end mark.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.adler.write(bytes);
        let written = match &mut self.sink {
            Sink::Plain(sink) => sink.write_all(bytes),
            Sink::Gzip(sink) => sink.write_all(bytes),
            Sink::Snappy(sink) => sink.write_all(bytes),
        };
        written.map_err(|error| StorageError::io("writing", &self.dir.join(UNFINISHED), error))
    }

    fn seal(&mut self) -> Result<(), StorageError> {
        let mut out = Vec::new();
        out.put_long(i64::from(self.adler.finish()));
        out.put_string("/");
        self.write(&out)
    }

    /// Seals the snapshot, makes it durable and gives it its name. `digest` is that of the tree, if digests
    /// are on; `last_zxid` tells whether the newest zxid is to be written behind it, as 3.9 does.
    ///
    /// # Errors
    /// The disk is full or failed; then there is no snapshot.
    pub fn finish(mut self, digest: Option<i64>, last_zxid: bool) -> Result<String, StorageError> {
        self.seal()?;
        if let Some(digest) = digest {
            let mut out = Vec::new();
            out.put_long(self.zxid.0);
            TxnDigest { version: TxnDigest::VERSION, digest }.encode(&mut out);
            self.write(&out)?;
            self.seal()?;
            // Without a digest a reader would take the zxid for one.
            if last_zxid {
                self.write(&self.zxid.0.to_be_bytes())?;
                self.seal()?;
            }
        }
        let name = names::snapshot(self.zxid, self.compression);
        let path = self.dir.join(&name);
        let unfinished = &mut self.unfinished;
        let finish = || -> io::Result<()> {
            let mut sink = match self.sink {
                Sink::Plain(sink) => sink,
                Sink::Gzip(sink) => sink.finish()?,
                Sink::Snappy(sink) => sink.finish()?,
            };
            sink.file.sync_data()?;
            unfinished.disk.rename(&unfinished.path, &path)?;
            unfinished.is_there = false;
            unfinished.disk.sync_dir(&self.dir)
        };
        finish().map_err(|error| StorageError::io("finishing", &path, error))?;
        Ok(name)
    }
}
