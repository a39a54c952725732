//! Reads the log back, and tells a write that was cut short from damage to what was acknowledged.
//!
//! Where Java ends a file silently at several kinds of damage, this refuses: see the table at
//! [`LogReader::next_record`]. Source: `FileTxnLog.FileTxnIterator`, 3.9.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::Zxid;
use tracing::warn;

use crate::disk::{Disk, DiskFile};
use crate::error::StorageError;
use crate::names;
use crate::txnlog::{END_OF_RECORD, FILE_HEADER, RECORD_HEADER, UNSYNCED_BYTES, adler};

/// What lies behind a broken record within so many bytes may never have been synced, so it may never have been
/// acknowledged: at least this much, and as much as [`UNSYNCED_BYTES`] and one record.
const BATCH_WINDOW: u64 = 4 << 20;
const CHUNK: usize = 1 << 20;

/// What limits reading.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// The longest record: `jute.maxbuffer` and its extra.
    pub record_bytes_max: usize,
}

/// One record of the log.
#[derive(Debug)]
pub struct LogRecord<'a> {
    /// Its zxid.
    pub zxid: Zxid,
    /// What was appended.
    pub payload: &'a [u8],
}

/// Where the last file ends in a record that was never whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tear {
    /// The file.
    pub path: PathBuf,
    /// Where the broken record begins.
    pub offset: u64,
}

/// Reads all records from a zxid on, file after file.
#[derive(Debug)]
pub struct LogReader {
    disk: Arc<dyn Disk>,
    limits: ReadLimits,
    after: Zxid,
    /// Files to come, the next one last.
    files: Vec<(Zxid, PathBuf)>,
    current: Option<Scan>,
    last: Option<Zxid>,
    tear: Option<Tear>,
    /// Where an earlier file broke off, and why: to blame if the next one does not go on from there.
    broken_off: Option<(Tear, String)>,
    /// The last file that was read to its end, and where its records end.
    end: Option<(PathBuf, u64)>,
    /// The last record before those that were asked for.
    before: Option<Zxid>,
}

impl LogReader {
    /// A reader of the records after `after` in `dir`: the files that begin later, and the newest one that
    /// does not.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn after(
        disk: Arc<dyn Disk>,
        dir: &Path,
        after: Zxid,
        limits: ReadLimits,
    ) -> Result<LogReader, StorageError> {
        let entries = disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))?;
        let mut logs: Vec<(Zxid, PathBuf)> = entries
            .iter()
            .filter_map(|entry| Some((names::parse_log(&entry.name)?, dir.join(&entry.name))))
            .collect();
        logs.sort();
        let newest_before = logs.iter().rposition(|(first, _)| *first <= after).unwrap_or(0);
        let mut files = logs.split_off(newest_before);
        files.reverse();
        Ok(LogReader {
            disk,
            limits,
            after,
            files,
            current: None,
            last: None,
            tear: None,
            broken_off: None,
            end: None,
            before: None,
        })
    }

    /// Where the log was found torn, once everything is read. The tear must be cut before Java starts on it.
    #[must_use]
    pub fn tear(&self) -> Option<&Tear> {
        self.tear.as_ref()
    }

    /// Whether an earlier file breaks off and the next one begins a later epoch. Nothing may be missing between them: a
    /// torn record that no later start has cut, as in Java's directories. But if what comes after does not fit the state,
    /// something is.
    ///
    /// # Errors
    /// If so, with the place.
    pub fn check_fit(&self, fits: bool) -> Result<(), StorageError> {
        match &self.broken_off {
            Some((tear, what)) if !fits => {
                let what =
                    format!("{what}, and the transactions of the next epoch do not fit: some are missing");
                Err(StorageError::damaged(&tear.path, tear.offset, what))
            }
            _ => Ok(()),
        }
    }

    /// The last record before those that were asked for, if the log has any, once everything is read.
    #[must_use]
    pub fn before(&self) -> Option<Zxid> {
        self.before
    }

    /// The offset, in the file that is being read, of the end of the record that was read last.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.current.as_ref().map_or(FILE_HEADER.len() as u64, |scan| scan.next_at)
    }

    /// The last file, and where its records end, once everything is read.
    #[must_use]
    pub fn end(&self) -> Option<(&Path, u64)> {
        self.end.as_ref().map(|(path, offset)| (path.as_path(), *offset))
    }

    /// The next record.
    ///
    /// | found | in the last file | in an earlier one |
    /// |---|---|---|
    /// | zeros to the end | end | end |
    /// | a broken record, then at most one batch | torn: ends before it, see [`LogReader::tear`] | as a gap |
    /// | a broken record, then more | refused | refused |
    /// | a good checksum, a wrong end mark | kept | kept |
    /// | zxids of one epoch with a gap | refused | refused |
    /// | a broken record, and the next epoch in the next file | | passed, see [`LogReader::check_fit`] |
    /// | no bytes at all | ends | refused |
    /// | another first record than the file is named after | refused | refused |
    ///
    /// # Errors
    /// What was acknowledged is damaged, or the disk failed.
    pub fn next_record(&mut self) -> Result<Option<LogRecord<'_>>, StorageError> {
        loop {
            if self.current.is_none() && !self.open_next()? {
                return Ok(None);
            }
            let limits = self.limits;
            let Some(scan) = &mut self.current else { return Ok(None) };
            match scan.advance(limits)? {
                Found::Record(zxid) if zxid <= self.after => self.before = Some(zxid),
                Found::Record(zxid) => {
                    self.check_order(zxid)?;
                    break;
                }
                Found::End => {
                    self.end = Some((scan.path.clone(), scan.record_at));
                    self.current = None;
                }
                Found::Broken(what) => {
                    self.end = Some((scan.path.clone(), scan.record_at));
                    let tear = Tear { path: scan.path.clone(), offset: scan.record_at };
                    scan.check_window(&what, limits)?;
                    // Behind an earlier file the next one must go on without a gap, which is checked there.
                    if self.files.is_empty() {
                        warn!(
                            "{} ends in a torn record at offset {}: {what}",
                            tear.path.display(),
                            tear.offset
                        );
                        self.tear = Some(tear);
                    } else {
                        self.broken_off = Some((tear, what));
                    }
                    self.current = None;
                }
            }
        }
        let Some(scan) = &self.current else { return Ok(None) };
        Ok(Some(LogRecord { zxid: scan.zxid, payload: scan.payload() }))
    }

    fn open_next(&mut self) -> Result<bool, StorageError> {
        let Some((first, path)) = self.files.pop() else { return Ok(false) };
        let file =
            self.disk.open_to_read(&path).map_err(|error| StorageError::io("opening", &path, error))?;
        let size = file.size().map_err(|error| StorageError::io("reading", &path, error))?;
        if size == 0 && self.files.is_empty() {
            // Java 3.9 removes such a file; a new log of the same name replaces it.
            warn!("{} is empty", path.display());
            self.tear = Some(Tear { path, offset: 0 });
            return Ok(false);
        }
        let mut scan = Scan::new(file, path, size);
        scan.check_header()?;
        scan.check_name(first, self.limits)?;
        self.current = Some(scan);
        Ok(true)
    }

    /// Java 3.9 refuses a gap, and rightly: something acknowledged is missing.
    fn check_order(&mut self, zxid: Zxid) -> Result<(), StorageError> {
        let before = self.last.replace(zxid).unwrap_or(self.after);
        let is_next = before.0.checked_add(1) == Some(zxid.0);
        // An epoch begins with its first transaction.
        let begins = zxid.epoch() > before.epoch() && zxid.counter() == 1;
        let follows = zxid == before || is_next || begins;
        if follows {
            return Ok(());
        }
        let gap = format!("transaction {zxid} follows {before}: transactions between them are missing");
        let (path, offset, what) = match (&self.broken_off, &self.current) {
            (Some((tear, what)), _) => (tear.path.clone(), tear.offset, format!("{what}, and {gap}")),
            (None, Some(scan)) => (scan.path.clone(), scan.record_at, gap),
            (None, None) => (PathBuf::new(), 0, gap),
        };
        Err(StorageError::damaged(&path, offset, what))
    }
}

enum Found {
    Record(Zxid),
    End,
    Broken(String),
}

/// One file, read forward.
#[derive(Debug)]
struct Scan {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    size: u64,
    buf: Vec<u8>,
    /// Offset in the file of the first byte in `buf`.
    buf_at: u64,
    record_at: u64,
    next_at: u64,
    zxid: Zxid,
    payload_len: usize,
}

impl Scan {
    fn new(file: Box<dyn DiskFile>, path: PathBuf, size: u64) -> Scan {
        let start = FILE_HEADER.len() as u64;
        Scan {
            file,
            path,
            size,
            buf: Vec::new(),
            buf_at: 0,
            record_at: start,
            next_at: start,
            zxid: Zxid::ZERO,
            payload_len: 0,
        }
    }

    fn check_header(&mut self) -> Result<(), StorageError> {
        let magic = self.bytes(0, 4)?;
        if magic.len() < 4 || self.size < FILE_HEADER.len() as u64 {
            return Err(StorageError::damaged(&self.path, 0, "the file is shorter than a log's header"));
        }
        if self.bytes(0, 4)? != b"ZKLG" {
            return Err(StorageError::damaged(
                &self.path,
                0,
                "has invalid magic number: this is no transaction log",
            ));
        }
        Ok(())
    }

    /// A file is named after its first record, which is written with its header and never cut off alone. If another
    /// record stands there, the disk has stored it in the wrong place, and what was there is lost. That it may follow what
    /// older files and snapshots hold, because it begins an epoch, proves nothing.
    fn check_name(&mut self, first: Zxid, limits: ReadLimits) -> Result<(), StorageError> {
        let found = self.advance(limits)?;
        self.next_at = FILE_HEADER.len() as u64;
        match found {
            Found::Record(zxid) if zxid != first => {
                let what = format!("the first transaction is {zxid}, and the file is named after {first}");
                Err(StorageError::damaged(&self.path, self.record_at, what))
            }
            _ => Ok(()),
        }
    }

    /// At most `len` bytes at `at`; fewer at the end of the file.
    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], StorageError> {
        let from = at.checked_sub(self.buf_at).and_then(|from| usize::try_from(from).ok());
        let there = from.is_some_and(|from| from + len <= self.buf.len());
        if !there {
            let want =
                len.max(CHUNK).min(usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX));
            self.buf.resize(want, 0);
            let mut filled = 0;
            while filled < want {
                let part = self.buf.get_mut(filled..).unwrap_or_default();
                let read = self.file.read_at(part, at + filled as u64);
                match read.map_err(|error| StorageError::io("reading", &self.path, error))? {
                    0 => break,
                    n => filled += n,
                }
            }
            self.buf.truncate(filled);
            self.buf_at = at;
        }
        let from = usize::try_from(at - self.buf_at).unwrap_or(usize::MAX);
        let to = from.saturating_add(len).min(self.buf.len());
        Ok(self.buf.get(from.min(to)..to).unwrap_or_default())
    }

    fn payload(&self) -> &[u8] {
        let from =
            usize::try_from(self.record_at - self.buf_at).unwrap_or(usize::MAX).saturating_add(RECORD_HEADER);
        self.buf.get(from..from.saturating_add(self.payload_len)).unwrap_or_default()
    }

    fn advance(&mut self, limits: ReadLimits) -> Result<Found, StorageError> {
        self.record_at = self.next_at;
        let at = self.record_at;
        let header = self.bytes(at, RECORD_HEADER)?;
        let Some(header) = header.first_chunk::<RECORD_HEADER>() else {
            let blank = header.iter().all(|b| *b == 0);
            return Ok(if blank { Found::End } else { Found::Broken("the header is cut short".into()) });
        };
        let [_, _, _, _, c0, c1, c2, c3, l0, l1, l2, l3] = *header;
        let checksum = u32::from_be_bytes([c0, c1, c2, c3]);
        let len = i32::from_be_bytes([l0, l1, l2, l3]);
        if header.iter().all(|b| *b == 0) {
            return match self.last_nonzero(at)? {
                None => Ok(Found::End),
                Some(_) => Ok(Found::Broken("bytes behind what should be the end".into())),
            };
        }
        let payload_len = match usize::try_from(len) {
            Ok(n) if (32..=limits.record_bytes_max).contains(&n) => n,
            _ => return Ok(Found::Broken(format!("Unreasonable length = {len}"))),
        };
        let whole = RECORD_HEADER + payload_len + 1;
        let record = self.bytes(at, whole)?;
        let Some(payload) = record.get(RECORD_HEADER..whole - 1).filter(|_| record.len() == whole) else {
            return Ok(Found::Broken("the record is cut short".into()));
        };
        if adler(payload) != checksum && !is(Fault::TornTailAccepted) {
            return Ok(Found::Broken("CRC check failed".into()));
        }
        let zxid = payload.get(12..20).and_then(|b| b.first_chunk()).map(|b| Zxid(i64::from_be_bytes(*b)));
        if record.get(whole - 1) != Some(&END_OF_RECORD) {
            warn!(
                "{}: the record at {at} has a valid checksum and a wrong end mark; kept",
                self.path.display()
            );
        }
        self.zxid = zxid.unwrap_or(Zxid::ZERO);
        self.payload_len = payload_len;
        self.next_at = at + whole as u64;
        Ok(Found::Record(self.zxid))
    }

    /// The offset of the last byte after `from` that is not zero.
    fn last_nonzero(&mut self, from: u64) -> Result<Option<u64>, StorageError> {
        let mut last = None;
        let mut at = from;
        while at < self.size {
            let chunk = self.bytes(at, CHUNK)?;
            if chunk.is_empty() {
                break;
            }
            if let Some(i) = chunk.iter().rposition(|b| *b != 0) {
                last = Some(at + i as u64);
            }
            at += chunk.len() as u64;
        }
        Ok(last)
    }

    /// Refuses if there is more behind the broken record than one batch can hold.
    fn check_window(&mut self, what: &str, limits: ReadLimits) -> Result<(), StorageError> {
        let at = self.record_at;
        let end = self.last_nonzero(at)?.unwrap_or(at);
        let window = batch_window(limits);
        if end - at > window && !is(Fault::DamageTakenForTail) {
            let what = format!(
                "{what}, and {} bytes of later records follow: acknowledged transactions are damaged. Restore the \
                 file from a backup, or let this server fetch a snapshot from the ensemble",
                end - at
            );
            return Err(StorageError::damaged(&self.path, at, what));
        }
        Ok(())
    }
}

/// Makes durable what a start has read from the end of the log, before anybody is told of it.
///
/// A server that stopped because a sync failed, or was killed before one, leaves records that can be read but are not
/// on the disk: the system keeps them in memory, and after a failed sync takes them for written, so that syncing again
/// does nothing. They are written again over themselves, as far back as a batch can reach, and then synced. The same goes
/// for where the file ends: a cut of which only the system's memory knows would be undone by the next loss of power, and
/// what was taken back would stand before what has been logged since. So the file is cut again.
///
/// # Errors
/// The disk is full or failed: the server must not start.
pub fn settle(
    disk: &dyn Disk,
    dir: &Path,
    end: (&Path, u64),
    limits: ReadLimits,
) -> Result<(), StorageError> {
    let (path, end) = end;
    let mut file = match disk.open(path) {
        // The torn record was the only one, and the file is gone.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| StorageError::io("opening", path, error))?,
    };
    let mut at = end.saturating_sub(batch_window(limits));
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let part = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let Some(part) = buffer.get_mut(..part) else { break };
        let read = file.read_at(part, at).map_err(|error| StorageError::io("reading", path, error))?;
        let Some(part) = part.get(..read).filter(|part| !part.is_empty()) else { break };
        file.write_at(part, at).map_err(|error| StorageError::io("writing", path, error))?;
        at += read as u64;
    }
    cut_again(&mut *file, end).map_err(|error| StorageError::io("cutting", path, error))?;
    file.sync_data().map_err(|error| StorageError::io("syncing", path, error))?;
    disk.sync_dir(dir).map_err(|error| StorageError::io("syncing", dir, error))
}

/// Ends a file where its records end. To give it the size that it has already would change nothing, so it grows by a
/// byte first, which takes no space.
fn cut_again(file: &mut dyn DiskFile, end: u64) -> std::io::Result<()> {
    match file.set_size(end + 1) {
        // It is as long as any file may be, so nothing can stand behind its records.
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => Ok(()),
        grown => grown.and_then(|()| file.set_size(end)),
    }
}

/// How far behind its first byte a batch that was never synced can reach.
fn batch_window(limits: ReadLimits) -> u64 {
    BATCH_WINDOW.max((UNSYNCED_BYTES + RECORD_HEADER + 1).saturating_add(limits.record_bytes_max) as u64)
}

/// Cuts a torn record off, so that Java can start on the log as well.
///
/// # Errors
/// The disk failed.
pub fn cut(disk: &dyn Disk, tear: &Tear) -> Result<(), StorageError> {
    let failed = |error| StorageError::io("cutting", &tear.path, error);
    if tear.offset <= FILE_HEADER.len() as u64 {
        return disk.remove(&tear.path).map_err(failed);
    }
    let mut file = disk.open(&tear.path).map_err(failed)?;
    file.set_size(tear.offset).map_err(failed)?;
    file.sync_data().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::txnlog::{LogOptions, TxnLog};

    const LIMITS: ReadLimits = ReadLimits { record_bytes_max: 2 << 20 };

    fn payload(zxid: i64, len: usize) -> Vec<u8> {
        let mut bytes = vec![7; len.max(32)];
        bytes[12..20].copy_from_slice(&zxid.to_be_bytes());
        bytes
    }

    fn written(batches: &[(i64, i64)], len: usize) -> MemoryDisk {
        let disk = MemoryDisk::default();
        for batch in batches {
            let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
            let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), options);
            for zxid in batch.0..batch.1 {
                log.append(Zxid(zxid), &payload(zxid, len));
            }
            log.commit().unwrap();
        }
        disk
    }

    fn read(disk: &MemoryDisk, after: i64) -> Result<(Vec<i64>, Option<Tear>), StorageError> {
        let mut reader = LogReader::after(Arc::new(disk.clone()), Path::new("/d"), Zxid(after), LIMITS)?;
        let mut all = Vec::new();
        while let Some(record) = reader.next_record()? {
            assert_eq!(record.payload[12..20], record.zxid.0.to_be_bytes());
            all.push(record.zxid.0);
        }
        Ok((all, reader.tear().cloned()))
    }

    fn edit(disk: &MemoryDisk, name: &str, with: impl FnOnce(&mut Vec<u8>)) {
        let path = Path::new("/d").join(name);
        let mut file = disk.open(&path).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        with(&mut bytes);
        file.set_size(0).unwrap();
        file.write_at(&bytes, 0).unwrap();
    }

    #[test]
    fn reads_across_files_from_where_it_is_asked() {
        let disk = written(&[(1, 5), (5, 9), (9, 12)], 50);
        for after in 0..11 {
            let (all, tear) = read(&disk, after).unwrap();
            assert_eq!((all, tear), (((after + 1)..12).collect(), None));
        }
    }

    #[test]
    fn an_epoch_begins_with_its_first_transaction() {
        const EPOCH: i64 = 1 << 32;
        assert!(read(&written(&[(1, 5), (EPOCH + 1, EPOCH + 3)], 50), 0).is_ok());
        let error = read(&written(&[(1, 5), (EPOCH + 2, EPOCH + 3)], 50), 0).unwrap_err();
        assert!(error.to_string().contains("transactions between them are missing"), "{error}");
        assert!(
            read(&written(&[(EPOCH + 7, EPOCH + 9)], 50), 0).is_err(),
            "nor does a log behind no snapshot"
        );
    }

    #[test]
    fn a_file_begins_with_the_transaction_in_its_name() {
        const EPOCH: i64 = 1 << 32;
        let disk = written(&[(1, 4), (4, 5)], 40);
        let whole = read(&disk, 0).unwrap();
        // What was written first stands nowhere any more: the next epoch was stored in its place.
        let begins_next = written(&[(EPOCH + 1, EPOCH + 3)], 40);
        let path = Path::new("/d/log.100000001");
        let mut bytes = vec![0; begins_next.open(path).unwrap().size().unwrap() as usize];
        begins_next.open(path).unwrap().read_at(&mut bytes, 0).unwrap();
        edit(&disk, "log.4", |file| *file = bytes);
        assert_eq!(whole.0, [1, 2, 3, 4]);
        for after in [0, 3, EPOCH + 2] {
            let error = read(&disk, after).unwrap_err().to_string();
            assert!(
                error.starts_with("/d/log.4 is damaged at offset 16: the first transaction is"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_epoch_behind_a_broken_record_must_fit_the_state() {
        const EPOCH: i64 = 1 << 32;
        let disk = written(&[(1, 5), (EPOCH + 1, EPOCH + 3)], 50);
        let read_all = |fits| {
            let mut reader =
                LogReader::after(Arc::new(disk.clone()), Path::new("/d"), Zxid(0), LIMITS).unwrap();
            let mut count = 0;
            while reader.next_record().unwrap().is_some() {
                count += 1;
            }
            (count, reader.check_fit(fits).map_err(|error| error.to_string()))
        };
        assert_eq!(
            read_all(false),
            (6, Ok(())),
            "nothing is broken: what does not fit is somebody else's doing"
        );
        edit(&disk, "log.1", |bytes| bytes[16 + 3 * 63 + 20] ^= 1);
        assert_eq!(read_all(true), (5, Ok(())));
        let (_, refused) = read_all(false);
        assert!(refused.unwrap_err().starts_with("/d/log.1 is damaged at offset 205: CRC check failed, and"));
    }

    #[test]
    fn the_greatest_zxid_has_nothing_after_it() {
        const MAX: i64 = i64::MAX;
        let disk = written(&[(MAX - 2, MAX)], 40);
        assert_eq!(read(&disk, MAX).unwrap(), (vec![], None));
        assert_eq!(read(&disk, MAX - 2).unwrap(), (vec![MAX - 1], None));
        let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), options);
        for zxid in [MAX, 1] {
            log.append(Zxid(zxid), &payload(zxid, 40));
        }
        log.commit().unwrap();
        assert_eq!(read(&disk, MAX - 1).unwrap().0, [MAX], "what is before is left out");
    }

    #[test]
    fn every_truncation_of_the_last_file_keeps_the_prefix() {
        let whole = written(&[(1, 4), (4, 7)], 40);
        let path = Path::new("/d/log.4");
        let size = whole.open(path).unwrap().size().unwrap();
        for cut_at in 16..size {
            let disk = written(&[(1, 4), (4, 7)], 40);
            disk.open(path).unwrap().set_size(cut_at).unwrap();
            let (all, tear) = read(&disk, 0).unwrap();
            let kept = 3 + (cut_at - 16) as i64 / 53;
            assert_eq!(all, (1..=kept).collect::<Vec<_>>(), "cut at {cut_at}");
            if let Some(tear) = tear {
                cut(&disk, &tear).unwrap();
                assert_eq!(read(&disk, 0).unwrap(), ((1..=kept).collect(), None));
            }
        }
    }

    #[test]
    fn every_flipped_byte_in_the_last_batch_is_a_tear_and_none_is_served() {
        let whole = written(&[(1, 4)], 40);
        let size = whole.open(Path::new("/d/log.1")).unwrap().size().unwrap();
        for at in 16..size as usize {
            let disk = written(&[(1, 4)], 40);
            edit(&disk, "log.1", |bytes| bytes[at] ^= 0x55);
            let (all, _) = read(&disk, 0).unwrap();
            let broken = (at as i64 - 16) / 53 + 1;
            let end_mark = (at - 16) % 53 == 52 || (at - 16) % 53 < 4;
            let expected = if end_mark && all.len() == 3 { 3 } else { broken - 1 };
            assert_eq!(all, (1..=expected).collect::<Vec<_>>(), "byte {at}");
        }
    }

    #[test]
    fn damage_before_more_than_a_batch_is_refused_by_name() {
        let disk = written(&[(1, 101)], 100_000);
        edit(&disk, "log.1", |bytes| bytes[16 + 5000] ^= 1);
        let error = read(&disk, 0).unwrap_err().to_string();
        assert!(error.contains("/d/log.1 is damaged at offset 16") && error.contains("CRC"), "{error}");
    }

    #[test]
    fn torn_earlier_file_is_fine_only_if_nothing_is_missing() {
        let disk = written(&[(1, 4), (4, 6)], 40);
        edit(&disk, "log.1", |bytes| bytes.extend([1, 2, 3]));
        assert_eq!(read(&disk, 0).unwrap().0, [1, 2, 3, 4, 5]);
        edit(&disk, "log.1", |bytes| bytes.truncate(16 + 53 + 20));
        let error = read(&disk, 0).unwrap_err().to_string();
        assert!(
            error.contains("log.1 is damaged at offset 69") && error.contains("0x4 follows 0x1"),
            "{error}"
        );
    }

    #[test]
    fn zeros_end_a_file_and_anything_behind_them_counts() {
        let disk = written(&[(1, 3)], 40);
        edit(&disk, "log.1", |bytes| bytes.extend([0; 5000]));
        assert_eq!(read(&disk, 0).unwrap(), (vec![1, 2], None));
        edit(&disk, "log.1", |bytes| bytes.resize(6 << 20, 0));
        edit(&disk, "log.1", |bytes| bytes.push(1));
        assert!(read(&disk, 0).is_err(), "bytes far behind the end");
    }

    #[test]
    fn what_a_failed_sync_left_in_memory_is_on_the_disk_after_a_start() {
        use crate::simdisk::{Aftermath, Fault, SimDisk};
        let read = |disk: &SimDisk| {
            let mut reader =
                LogReader::after(Arc::new(disk.clone()), Path::new("/d"), Zxid(0), LIMITS).unwrap();
            let mut last = 0;
            while let Some(record) = reader.next_record().unwrap() {
                last = record.zxid.0;
            }
            (last, reader.end().map(|(path, end)| (path.to_owned(), end)).unwrap())
        };
        let disk = SimDisk::default();
        let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
        let mut log = TxnLog::new(Arc::new(disk.clone()), "/d".into(), options);
        log.append(Zxid(1), &payload(1, 40));
        log.commit().unwrap();
        log.append(Zxid(2), &payload(2, 40));
        disk.fail_at(1, Fault::Error);
        assert!(log.commit().is_err());
        let restarted = disk.after_kill();
        let (last, (path, end)) = read(&restarted);
        assert_eq!(last, 2, "the system still has it");
        assert_eq!(read(&restarted.after_crash(Aftermath::Synced)).0, 1, "the disk has not");
        settle(&restarted, Path::new("/d"), (&path, end), LIMITS).unwrap();
        assert_eq!(read(&restarted.after_crash(Aftermath::Synced)).0, 2);
    }

    #[test]
    fn empty_and_headless_files() {
        let disk = written(&[(1, 3)], 40);
        disk.create(Path::new("/d/log.3")).unwrap();
        let (all, tear) = read(&disk, 0).unwrap();
        assert_eq!(all, [1, 2]);
        cut(&disk, &tear.unwrap()).unwrap();
        edit(&disk, "log.1", |bytes| bytes[0] = b'X');
        assert!(read(&disk, 0).unwrap_err().to_string().contains("magic"));
    }
}
