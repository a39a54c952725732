//! The system's disk, telling a waiting person how far a long file is read.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use oxkeeper_storage::{Disk, DiskFile, Entry, RealDisk};

use crate::output::tell_progress;

/// Reads are watched; everything else is the system's.
#[derive(Debug)]
pub(crate) struct WatchedDisk;

#[derive(Debug)]
struct WatchedFile {
    inner: Box<dyn DiskFile>,
    len: u64,
    told: AtomicU64,
}

impl Disk for WatchedDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.open(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = RealDisk.open_to_read(path)?;
        let len = inner.size()?;
        Ok(Box::new(WatchedFile { inner, len, told: AtomicU64::new(0) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for WatchedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let told = self.told.load(Ordering::Relaxed);
        self.told.store(tell_progress(told, offset, self.len), Ordering::Relaxed);
        self.inner.read_at(buf, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn set_size(&mut self, size: u64) -> io::Result<()> {
        self.inner.set_size(size)
    }
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        if self.told.load(Ordering::Relaxed) > 0 {
            eprintln!();
        }
    }
}
