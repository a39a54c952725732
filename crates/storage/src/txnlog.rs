//! The transaction log: records in files, written in batches, durable before anybody hears of them.
//!
//! A file is `ZKLG`, version 2, dbid 0, and then records: Adler-32 of the payload in 8 bytes, length in 4,
//! payload, `B`. The zeros behind the last record were written ahead: syncing over blocks that are there
//! costs half of syncing while a file grows. Source: `FileTxnLog`, `FilePadding`, 3.9.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{Put, Zxid};
use tracing::{debug, info, warn};

use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::names;
use crate::reserve::RESERVE;

/// What every log begins with.
pub(crate) const FILE_HEADER: [u8; 16] = [b'Z', b'K', b'L', b'G', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
/// What every record ends with.
pub(crate) const END_OF_RECORD: u8 = b'B';
/// Checksum and length.
pub(crate) const RECORD_HEADER: usize = 12;
/// A file of zeros that waits to become a log. No server takes the name for one.
pub(crate) const PREPARED: &str = "oxkeeper-next-log";
/// The same while it is being filled, by whoever fills it.
pub(crate) const PREPARING: &str = "oxkeeper-preparing-log";
/// A log that has to do without zeros, until its first records are durable. Never the name of a file that
/// another thread may be filling with zeros.
pub(crate) const BEGINNING: &str = "oxkeeper-beginning-log";
/// From so many bytes on a batch is written and synced in parts. So behind a record that was torn there is never
/// more than this and one record; more than that says that what is damaged had been synced.
pub(crate) const UNSYNCED_BYTES: usize = 2 << 20;
/// Zeros are written and synced in pieces of this size, so that no other sync waits long for them.
const PREPARE_STEP: usize = 512 << 10;

/// How the log is written.
#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    /// Zeros written ahead in bytes; 0 for none. `preAllocSize`.
    pub prepare_bytes: u64,
    /// Whether a batch is synced before it counts. `forceSync`.
    pub sync: bool,
    /// Above this many bytes a new file begins; 0 for never. `txnLogSizeLimitInKb`.
    pub file_bytes_max: u64,
}

/// The log of one server, open for appending.
#[derive(Debug)]
pub struct TxnLog {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: LogOptions,
    current: Option<OpenLog>,
    /// Framed records that are not written yet.
    batch: Vec<u8>,
    /// Where the parts of the batch begin, each with its first transaction: a part is synced before the next one is
    /// written. Those that are durable are gone.
    parts: VecDeque<(usize, Zxid)>,
    /// Appended since the last roll, framing included.
    bytes_since_roll: u64,
    prepared: bool,
    roll_next: bool,
    /// Length of the last file that was rolled: what the next one will need, more or less.
    rolled_bytes: Option<u64>,
    /// Whether the file that keeps space for hard times is there.
    reserve: bool,
    took_reserve: bool,
}

#[derive(Debug)]
struct OpenLog {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
    /// How far blocks are written.
    prepared_to: u64,
}

impl TxnLog {
    /// A log in `dir`. Existing files are left as they are: the first commit opens a new one.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, options: LogOptions) -> TxnLog {
        TxnLog {
            disk,
            dir,
            options,
            current: None,
            batch: Vec::new(),
            parts: VecDeque::new(),
            bytes_since_roll: 0,
            prepared: false,
            roll_next: false,
            rolled_bytes: None,
            reserve: false,
            took_reserve: false,
        }
    }

    /// Adds a record to the batch.
    #[inline]
    pub fn append(&mut self, zxid: Zxid, payload: &[u8]) {
        if self.parts.back().is_none_or(|(from, _)| self.batch.len() - from >= UNSYNCED_BYTES) {
            self.parts.push_back((self.batch.len(), zxid));
        }
        self.batch.put_long(i64::from(adler(payload)));
        self.batch.put_length(payload.len());
        self.batch.put_raw(payload);
        self.batch.put_byte(END_OF_RECORD);
    }

    /// Bytes in the batch.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Bytes appended since the last roll.
    #[must_use]
    pub fn bytes_since_roll(&self) -> u64 {
        self.bytes_since_roll
    }

    /// Whether a file of zeros should be prepared, by [`prepare`] on whichever thread.
    #[must_use]
    pub fn wants_prepared(&self) -> bool {
        self.options.prepare_bytes > 0 && !self.prepared
    }

    /// How many zeros the next file should begin with: a quarter more than the last file needed, for most files
    /// end with a snapshot long before they are full, and zeros cost as much as records.
    #[must_use]
    pub fn prepare_bytes(&self) -> u64 {
        let most = self.options.prepare_bytes;
        self.rolled_bytes.map_or(most, |rolled| (rolled + rolled / 4).max(PREPARE_STEP as u64).min(most))
    }

    /// Says that [`prepare`] has made a file.
    pub fn set_prepared(&mut self) {
        self.prepared = true;
    }

    /// Says that [`crate::make_reserve`] has made the reserve.
    pub fn set_reserve(&mut self) {
        self.reserve = true;
    }

    /// Whether the reserve was used up since this was asked last: the disk is full, and only what must be logged
    /// should still be.
    pub fn took_reserve(&mut self) -> bool {
        std::mem::take(&mut self.took_reserve)
    }

    /// Writes the batch and makes it durable.
    ///
    /// # Errors
    /// The disk failed: nothing of the batch may be acknowledged, and the log must not be used any more. Or, if it is
    /// [`StorageError::Full`], there is no space, not even in reserve: nothing may be acknowledged, but the log and
    /// its batch stay as they are, and committing may be tried again.
    pub fn commit(&mut self) -> Result<(), StorageError> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let added = self.batch.len() as u64;
        if self.roll_next || self.current.as_ref().is_some_and(|log| self.must_roll(log, added)) {
            self.roll()?;
        }
        while let Some(&(from, first)) = self.parts.front() {
            let to = self.parts.get(1).map_or(self.batch.len(), |(next, _)| *next);
            self.write_whatever_it_takes(first, from, to)?;
            self.bytes_since_roll += (to - from) as u64;
            self.parts.pop_front();
        }
        self.batch.clear();
        if self.batch.capacity() > 4 << 20 {
            self.batch = Vec::new();
        }
        Ok(())
    }

    /// Writes a part of the batch, if need be into a new file, if need be at the cost of the reserve.
    fn write_whatever_it_takes(&mut self, first: Zxid, from: usize, to: usize) -> Result<(), StorageError> {
        loop {
            let error = match self.write(first, from, to) {
                Err(StorageError::Full { path, source }) => StorageError::Full { path, source },
                written => return written,
            };
            if self.current.is_some() && is_too_large(&error) {
                warn!("{error}: going on in a new file");
                self.roll()?;
            } else if is_too_large(&error) || !self.release_reserve() {
                return Err(error);
            } else {
                warn!("{error}: using the space kept in reserve");
            }
        }
    }

    fn release_reserve(&mut self) -> bool {
        self.took_reserve |= self.reserve;
        std::mem::take(&mut self.reserve) && self.disk.remove(&self.dir.join(RESERVE)).is_ok()
    }

    /// Writes and syncs a part of the batch.
    fn write(&mut self, first: Zxid, from: usize, to: usize) -> Result<(), StorageError> {
        let Some(log) = &mut self.current else { return self.open(first, from, to) };
        let part = self.batch.get(from..to).unwrap_or_default();
        // A write that fails may leave a part of itself, which is cut off with the zeros.
        log.prepared_to = log.prepared_to.max(log.end + part.len() as u64);
        log.file.write_at(part, log.end).map_err(|error| StorageError::io("writing", &log.path, error))?;
        if self.options.sync {
            let synced = match log.file.sync_data() {
                Err(_) if is(Fault::SyncRetried) => log.file.sync_data(),
                synced => synced,
            };
            // What a failed sync has lost nobody knows, whatever the reason: no trying again.
            synced.map_err(|error| StorageError::failed("syncing", &log.path, error))?;
        }
        log.end += part.len() as u64;
        Ok(())
    }

    fn must_roll(&self, log: &OpenLog, added: u64) -> bool {
        let limit = self.options.file_bytes_max;
        let outgrown = self.options.prepare_bytes > 0 && log.end + added > log.prepared_to && self.prepared;
        limit > 0 && log.end > limit || outgrown
    }

    /// Opens a file for a part of the batch: its header and first records become durable before it gets its name, so
    /// no log is ever empty or headless.
    fn open(&mut self, first: Zxid, from: usize, to: usize) -> Result<(), StorageError> {
        let prepared = std::mem::take(&mut self.prepared);
        let unnamed = self.dir.join(if prepared { PREPARED } else { BEGINNING });
        let path = self.dir.join(names::log(first));
        let part = self.batch.get(from..to).unwrap_or_default();
        let opened = self.begin_file(prepared, &unnamed, &path, part);
        if matches!(opened, Err(StorageError::Full { .. })) {
            // It takes space that is wanted elsewhere.
            let _ = self.disk.remove(&unnamed);
        }
        self.current = Some(opened?);
        info!("Creating new log file: {}", names::log(first));
        Ok(())
    }

    fn begin_file(
        &self,
        prepared: bool,
        unnamed: &Path,
        path: &Path,
        part: &[u8],
    ) -> Result<OpenLog, StorageError> {
        let failed = |action: &'static str| move |error| StorageError::io(action, path, error);
        let lost = |action: &'static str| move |error| StorageError::failed(action, path, error);
        let opened = if prepared { self.disk.open(unnamed) } else { self.disk.create(unnamed) };
        let mut file = opened.map_err(failed("creating"))?;
        let prepared_to = file.size().map_err(failed("reading"))?;
        let mut bytes = Vec::with_capacity(FILE_HEADER.len() + part.len());
        bytes.extend_from_slice(&FILE_HEADER);
        bytes.extend_from_slice(part);
        file.write_at(&bytes, 0).map_err(failed("writing"))?;
        if self.options.sync {
            file.sync_data().map_err(lost("syncing"))?;
        }
        self.disk.rename(unnamed, path).map_err(failed("naming"))?;
        if self.options.sync {
            self.disk.sync_dir(&self.dir).map_err(lost("syncing the directory of"))?;
        }
        let end = bytes.len() as u64;
        Ok(OpenLog { file, path: path.to_owned(), end, prepared_to: prepared_to.max(end) })
    }

    /// Has the next batch begin a new file, whatever is gathered by then: a snapshot begins now.
    pub fn roll_at_next_commit(&mut self) {
        self.roll_next = true;
    }

    /// Ends the current file: cuts it to its records. The next commit opens a new one.
    ///
    /// # Errors
    /// The disk failed.
    pub fn roll(&mut self) -> Result<(), StorageError> {
        self.bytes_since_roll = 0;
        self.roll_next = false;
        let Some(mut log) = self.current.take() else { return Ok(()) };
        self.rolled_bytes = Some(log.end);
        if log.prepared_to > log.end {
            let failed = |error| StorageError::io("cutting", &log.path, error);
            log.file.set_size(log.end).map_err(failed)?;
        }
        debug!("Rolled {} at {} bytes", log.path.display(), log.end);
        Ok(())
    }
}

impl Drop for TxnLog {
    fn drop(&mut self) {
        if let Err(error) = self.roll() {
            warn!("{error}");
        }
        if self.options.prepare_bytes > 0 {
            // Best effort: the next start removes it as well.
            let _ = self.disk.remove(&self.dir.join(PREPARED));
        }
    }
}

/// Whether it is the file that may not grow, not the disk that is full.
fn is_too_large(error: &StorageError) -> bool {
    matches!(error, StorageError::Full { source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
}

/// The checksum of a record's payload.
#[inline]
pub(crate) fn adler(bytes: &[u8]) -> u32 {
    simd_adler32::adler32(&bytes)
}

/// Writes a file of zeros for the next log to begin in. Meant for a thread of its own; ends early, without a
/// file, once `stop` is set.
///
/// # Errors
/// The disk is full or failed; the log does without.
pub fn prepare(disk: &dyn Disk, dir: &Path, bytes: u64, stop: &AtomicBool) -> Result<(), StorageError> {
    zeros(disk, &dir.join(PREPARING), &dir.join(PREPARED), bytes, stop)
}

/// Writes a file of zeros under a passing name and then gives it its own.
pub(crate) fn zeros(
    disk: &dyn Disk,
    passing: &Path,
    path: &Path,
    bytes: u64,
    stop: &AtomicBool,
) -> Result<(), StorageError> {
    let write = || {
        let mut file = disk.create(passing)?;
        let zeros = vec![0; PREPARE_STEP];
        let mut at = 0;
        while at < bytes {
            let step = usize::try_from(bytes - at).unwrap_or(PREPARE_STEP).min(PREPARE_STEP);
            file.write_at(zeros.get(..step).unwrap_or_default(), at)?;
            file.sync_data()?;
            at += step as u64;
            if stop.load(Ordering::Relaxed) {
                return disk.remove(passing);
            }
        }
        disk.rename(passing, path)
    };
    write().map_err(|error| {
        let _ = disk.remove(passing);
        StorageError::io("preparing", path, error)
    })
}

/// Decides when a snapshot is due, with some chance in it so that the servers of an ensemble do not all
/// take theirs at once.
///
/// Source: `SyncRequestProcessor.shouldSnapshot`.
#[derive(Debug)]
pub struct SnapshotTrigger {
    count_max: u64,
    bytes_max: Option<u64>,
    random: fastrand::Rng,
    extra_count: u64,
    extra_bytes: u64,
    count: u64,
}

impl SnapshotTrigger {
    /// `snapCount`, `snapSizeLimitInKb` in bytes (`None` if switched off), and a seed.
    #[must_use]
    pub fn new(count_max: u64, bytes_max: Option<u64>, seed: u64) -> SnapshotTrigger {
        let mut trigger = SnapshotTrigger {
            count_max: count_max.max(2),
            bytes_max,
            random: fastrand::Rng::with_seed(seed),
            extra_count: 0,
            extra_bytes: 0,
            count: 0,
        };
        trigger.draw();
        trigger
    }

    fn draw(&mut self) {
        self.extra_count = self.random.u64(0..(self.count_max / 2).max(1));
        self.extra_bytes = self.bytes_max.map_or(0, |max| self.random.u64(0..(max / 2).max(1)));
        self.count = 0;
    }

    /// Counts appended records; tells whether log and snapshot are due now.
    pub fn appended(&mut self, records: u64, bytes_since_roll: u64) -> bool {
        self.count += records;
        let by_count = self.count > self.count_max / 2 + self.extra_count;
        let by_size = self.bytes_max.is_some_and(|max| bytes_since_roll > max / 2 + self.extra_bytes);
        if by_count || by_size {
            self.draw();
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::logread::{LogReader, ReadLimits};
    use crate::simdisk::{Aftermath, Fault, SimDisk};

    const PLAIN: LogOptions = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };

    fn content(disk: &MemoryDisk, name: &str) -> Vec<u8> {
        let file = disk.open(&Path::new("/d").join(name)).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// The first record of a log that a real server wrote: createSession, timeout 30000.
    #[test]
    fn bytes_are_those_of_a_real_server() {
        let payload: Vec<u8> = [
            &0x0100_000E_4AF5_0000_u64.to_be_bytes()[..],
            &[0; 4],
            &1u64.to_be_bytes(),
            &0x0000_01A2_041A_820F_u64.to_be_bytes(),
            &0xFFFF_FFF6_u32.to_be_bytes(),
            &0x7530_u32.to_be_bytes(),
            &2u32.to_be_bytes(),
            &0x51C6_D660_u64.to_be_bytes(),
        ]
        .concat();
        let disk = MemoryDisk::default();
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), PLAIN);
        log.append(Zxid(1), &payload);
        log.commit().unwrap();
        let bytes = content(&disk, "log.1");
        assert_eq!(&bytes[..8], [0x5a, 0x4b, 0x4c, 0x47, 0, 0, 0, 2]);
        assert_eq!(&bytes[16..28], [0, 0, 0, 0, 0xaf, 0x82, 0x09, 0x89, 0, 0, 0, 0x30]);
        assert_eq!((bytes.len(), bytes[bytes.len() - 1]), (16 + 12 + 48 + 1, b'B'));
    }

    #[test]
    fn prepared_files_are_used_and_cut() {
        let disk = MemoryDisk::default();
        let options = LogOptions { prepare_bytes: 300, ..PLAIN };
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), options);
        prepare(&disk, Path::new("/d"), 300, &AtomicBool::new(false)).unwrap();
        log.set_prepared();
        log.append(Zxid(1), &[1; 100]);
        log.commit().unwrap();
        assert_eq!(content(&disk, "log.1").len(), 300);
        assert!(log.wants_prepared());
        prepare(&disk, Path::new("/d"), 300, &AtomicBool::new(false)).unwrap();
        log.set_prepared();
        for zxid in 2..4 {
            log.append(Zxid(zxid), &[1; 100]);
            log.commit().unwrap();
        }
        assert_eq!(content(&disk, "log.1").len(), 16 + 2 * 113, "outgrown, rolled and cut");
        drop(log);
        assert_eq!(content(&disk, "log.3").len(), 16 + 113);
        assert_eq!(disk.list(Path::new("/d")).unwrap().len(), 2, "no spare file is left");
    }

    #[test]
    fn the_next_file_is_as_long_as_the_last_one_needed() {
        let disk = MemoryDisk::default();
        let options = LogOptions { prepare_bytes: 64 << 20, ..PLAIN };
        let mut log = TxnLog::new(Arc::new(disk), "/d".into(), options);
        assert_eq!(log.prepare_bytes(), 64 << 20);
        for (zxid, len, expected) in [(1, 8 << 20, 10 << 20), (2, 40, 512 << 10), (3, 60 << 20, 64 << 20)] {
            log.append(Zxid(zxid), &vec![1; len]);
            log.commit().unwrap();
            log.roll().unwrap();
            assert_eq!(log.prepare_bytes() >> 19, expected >> 19);
        }
    }

    /// A log that begins while another thread still fills the next file with zeros.
    #[test]
    fn zeros_never_reach_a_log_that_did_not_wait_for_them() {
        let disk = MemoryDisk::default();
        let options = LogOptions { prepare_bytes: 300, ..PLAIN };
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), options);
        let mut filling = disk.create(Path::new("/d").join(PREPARING).as_path()).unwrap();
        log.append(Zxid(1), &[1; 100]);
        log.commit().unwrap();
        filling.write_at(&[0; 300], 0).unwrap();
        disk.rename(&Path::new("/d").join(PREPARING), &Path::new("/d").join(PREPARED)).unwrap();
        filling.write_at(&[0; 300], 0).unwrap();
        assert_eq!(content(&disk, "log.1")[28..128], [1; 100]);
    }

    #[test]
    fn a_roll_may_be_asked_for_while_a_batch_gathers() {
        let disk = MemoryDisk::default();
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), PLAIN);
        log.append(Zxid(1), &[1; 40]);
        log.commit().unwrap();
        log.append(Zxid(2), &[1; 40]);
        log.roll_at_next_commit();
        log.append(Zxid(3), &[1; 40]);
        log.commit().unwrap();
        assert_eq!((content(&disk, "log.1").len(), content(&disk, "log.2").len()), (16 + 53, 16 + 2 * 53));
    }

    /// Java's batches are as long as they are; ours are torn within what the reader forgives.
    #[test]
    fn a_large_batch_that_is_torn_is_not_taken_for_damage() {
        let dir = Path::new("/d");
        for crash_at in 0..24 {
            let disk = SimDisk::default();
            let mut log = TxnLog::new(Arc::new(disk.clone()), dir.into(), PLAIN);
            log.append(Zxid(1), &record(1, 40));
            log.commit().unwrap();
            for zxid in 2..30 {
                log.append(Zxid(zxid), &record(zxid, 500_000));
            }
            disk.fail_at(crash_at, Fault::Crash);
            let whole = log.commit().is_ok();
            for seed in 0..3 {
                let left: Arc<dyn Disk> = Arc::new(disk.after_crash(Aftermath::Some(seed)));
                let limits = ReadLimits { record_bytes_max: 2 << 20 };
                let mut reader = LogReader::after(left, dir, Zxid::ZERO, limits).unwrap();
                let mut last = 0;
                while let Some(found) = reader.next_record().unwrap() {
                    last = found.zxid.0;
                }
                assert!(last == 29 || last >= 1 && !whole, "{last} of 29");
            }
        }
    }

    /// A payload with its zxid where the reader looks for it.
    fn record(zxid: i64, len: usize) -> Vec<u8> {
        let mut bytes = vec![7; len];
        bytes[12..20].copy_from_slice(&zxid.to_be_bytes());
        bytes
    }

    #[test]
    fn files_roll_by_size() {
        let disk = MemoryDisk::default();
        let options = LogOptions { file_bytes_max: 50, ..PLAIN };
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), options);
        for zxid in 1..4 {
            log.append(Zxid(zxid), &[1; 40]);
            log.commit().unwrap();
        }
        assert_eq!(disk.list(Path::new("/d")).unwrap().len(), 3);
    }

    #[test]
    fn snapshots_come_between_half_and_all_of_the_count() {
        for seed in 0..200 {
            let mut trigger = SnapshotTrigger::new(100, None, seed);
            let due = (1..).find(|_| trigger.appended(1, 0)).unwrap();
            assert!((51..=101).contains(&due), "{due}");
        }
        let mut trigger = SnapshotTrigger::new(1_000_000, Some(100), 1);
        assert!(!trigger.appended(1, 50) && trigger.appended(1, 100));
    }
}
