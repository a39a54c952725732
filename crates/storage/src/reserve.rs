//! Space kept for hard times: a file of zeros beside the log. When the disk is full it is given up, so that what frees
//! space can still be logged: deletes, the ends of sessions.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::disk::Disk;
use crate::error::StorageError;
use crate::txnlog;

/// Its name. No server takes it for a log.
pub(crate) const RESERVE: &str = "oxkeeper-reserve";
/// The same while it is being filled.
pub(crate) const RESERVING: &str = "oxkeeper-preparing-reserve";

/// Makes the reserve, in place of one that is there. Meant for a thread of its own; ends early, without a file,
/// once `stop` is set.
///
/// # Errors
/// The disk is full or failed. What was there of a reserve stays there.
pub fn make_reserve(disk: &dyn Disk, dir: &Path, bytes: u64, stop: &AtomicBool) -> Result<(), StorageError> {
    let path = dir.join(RESERVE);
    // One of this length was filled before it got its name.
    let known = disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))?;
    if known.iter().any(|entry| entry.name == RESERVE && entry.len == bytes) {
        return Ok(());
    }
    txnlog::zeros(disk, &dir.join(RESERVING), &path, bytes, stop)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use oxkeeper_proto::Zxid;

    use super::*;
    use crate::disk::{DiskFile, Entry, MemoryDisk};
    use crate::logread::{LogReader, ReadLimits};
    use crate::txnlog::{LogOptions, TxnLog, prepare};

    const DIR: &str = "/d";

    /// A disk with so much room, and a limit on the length of a file.
    #[derive(Debug, Clone)]
    struct TightDisk {
        inner: MemoryDisk,
        room: Arc<AtomicU64>,
        file_max: u64,
    }

    #[derive(Debug)]
    struct TightFile {
        inner: Box<dyn DiskFile>,
        disk: TightDisk,
    }

    impl TightDisk {
        fn new(room: u64, file_max: u64) -> TightDisk {
            TightDisk { inner: MemoryDisk::default(), room: Arc::new(AtomicU64::new(room)), file_max }
        }

        fn wrap(&self, inner: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
            Ok(Box::new(TightFile { inner: inner?, disk: self.clone() }))
        }

        fn used(&self) -> u64 {
            self.inner.list(Path::new(DIR)).unwrap().iter().map(|entry| entry.len).sum()
        }
    }

    impl Disk for TightDisk {
        fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.wrap(self.inner.create(path))
        }
        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.wrap(self.inner.open(path))
        }
        fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.open(path)
        }
        fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
            self.inner.list(dir)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.inner.rename(from, to)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            self.inner.remove(path)
        }
        fn create_dir(&self, dir: &Path) -> io::Result<()> {
            self.inner.create_dir(dir)
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.inner.sync_dir(dir)
        }
    }

    impl DiskFile for TightFile {
        fn size(&self) -> io::Result<u64> {
            self.inner.size()
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.inner.read_at(buf, offset)
        }
        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let end = offset + bytes.len() as u64;
            let grown = end.saturating_sub(self.inner.size()?);
            let left = self.disk.room.load(Ordering::Relaxed).saturating_sub(self.disk.used());
            let (kind, fits) = if end > self.disk.file_max {
                (io::ErrorKind::FileTooLarge, self.disk.file_max.saturating_sub(offset))
            } else {
                (io::ErrorKind::StorageFull, bytes.len() as u64 - grown + left)
            };
            if end <= self.disk.file_max && grown <= left {
                return self.inner.write_at(bytes, offset);
            }
            // As much as there is room for is written before the failure.
            let part = usize::try_from(fits).unwrap().min(bytes.len());
            self.inner.write_at(&bytes[..part], offset)?;
            Err(kind.into())
        }
        fn sync_data(&mut self) -> io::Result<()> {
            self.inner.sync_data()
        }
        fn set_size(&mut self, size: u64) -> io::Result<()> {
            self.inner.set_size(size)
        }
    }

    static NOT_STOPPED: AtomicBool = AtomicBool::new(false);

    fn open(disk: &TightDisk, prepare_bytes: u64) -> TxnLog {
        let options = LogOptions { prepare_bytes, sync: true, file_bytes_max: 0 };
        TxnLog::new(Arc::new(disk.clone()), DIR.into(), options)
    }

    /// The zxids in all logs, in order.
    fn logged(disk: &TightDisk) -> Vec<i64> {
        let limits = ReadLimits { record_bytes_max: 1 << 20 };
        let mut reader =
            LogReader::after(Arc::new(disk.clone()), Path::new(DIR), Zxid::ZERO, limits).unwrap();
        let mut all = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            all.push(record.zxid.0);
        }
        assert!(reader.tear().is_none());
        all
    }

    fn append(log: &mut TxnLog, zxid: i64) {
        let mut payload = vec![7; 100];
        payload[12..20].copy_from_slice(&zxid.to_be_bytes());
        log.append(Zxid(zxid), &payload);
    }

    #[test]
    fn a_full_disk_costs_the_reserve_first_and_nothing_that_was_logged() {
        for prepare_bytes in [0, 300] {
            let disk = TightDisk::new(2000, u64::MAX);
            make_reserve(&disk, Path::new(DIR), 800, &NOT_STOPPED).unwrap();
            let mut log = open(&disk, prepare_bytes);
            log.set_reserve();
            if prepare_bytes > 0 {
                prepare(&disk, Path::new(DIR), prepare_bytes, &NOT_STOPPED).unwrap();
                log.set_prepared();
            }
            let mut next = 1;
            let mut commit = |log: &mut TxnLog| {
                append(log, next);
                next += 1;
                log.commit()
            };
            while !log.took_reserve() {
                commit(&mut log).unwrap();
            }
            let with_reserve = std::iter::from_fn(|| commit(&mut log).ok()).count();
            assert!((5..8).contains(&with_reserve), "{with_reserve} more records fit into the reserve");
            assert!(matches!(log.commit(), Err(StorageError::Full { .. })), "and then none, whoever asks");
            disk.room.store(20_000, Ordering::Relaxed);
            append(&mut log, next);
            log.commit().unwrap();
            make_reserve(&disk, Path::new(DIR), 800, &NOT_STOPPED).unwrap();
            log.set_reserve();
            drop(log);
            assert_eq!(logged(&disk), (1..=next).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_file_that_may_not_grow_is_followed_by_another() {
        let disk = TightDisk::new(u64::MAX, 500);
        let mut log = open(&disk, 0);
        for zxid in 1..40 {
            append(&mut log, zxid);
            if zxid % 3 == 0 {
                log.commit().unwrap();
            }
        }
        assert!(!log.took_reserve());
        drop(log);
        assert_eq!(logged(&disk), (1..40).collect::<Vec<_>>());
        let longest = disk.list(Path::new(DIR)).unwrap().iter().map(|entry| entry.len).max().unwrap();
        assert!(longest <= 500);
    }

    #[test]
    fn a_reserve_is_made_whole_or_not_at_all() {
        let disk = TightDisk::new(1000, u64::MAX);
        let dir = Path::new(DIR);
        assert!(matches!(make_reserve(&disk, dir, 2000, &NOT_STOPPED), Err(StorageError::Full { .. })));
        assert_eq!(disk.used(), 0, "what was tried takes no space");
        make_reserve(&disk, dir, 900, &NOT_STOPPED).unwrap();
        make_reserve(&disk, dir, 900, &NOT_STOPPED).unwrap();
        assert_eq!(disk.list(dir).unwrap(), [Entry { name: RESERVE.to_owned(), len: 900 }]);
    }
}
