//! The little that storage needs of a file system, so that a test can put another one under it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub len: u64,
}

/// A file system. Paths are whole paths.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Makes a file, or empties it if it is there.
    ///
    /// # Errors
    /// Those of the system.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read and write.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file to read only.
    ///
    /// # Errors
    /// Those of the system.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The files of a directory, by name. None if there is no such directory.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Gives a file another name, in place of what had it.
    ///
    /// # Errors
    /// Those of the system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and those above it, durably.
    ///
    /// # Errors
    /// Those of the system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes names given, changed and taken in a directory durable.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + std::fmt::Debug {
    /// Its size in bytes.
    ///
    /// # Errors
    /// Those of the system.
    fn size(&self) -> io::Result<u64>;
    /// Reads at most `buf.len()` bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Those of the system; any part may have been written.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything written durable.
    ///
    /// # Errors
    /// Those of the system; what is durable then, nobody knows.
    fn sync_data(&mut self) -> io::Result<()>;
    /// Cuts or extends it.
    ///
    /// # Errors
    /// Those of the system.
    fn set_size(&mut self, size: u64) -> io::Result<()>;
}

/// The system's own.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry?;
            let meta = match entry.metadata() {
                // Renamed or removed since, by another thread: it is not there any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            if meta.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                all.push(Entry { name, len: meta.len() });
            }
        }
        all.sort();
        Ok(all)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists()).collect();
        fs::create_dir_all(dir)?;
        // A directory is found again after a crash only if the one above it is synced.
        for made in missing {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_size(&mut self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }
}

/// Files in memory, for servers that need no disk and for tests. Everything is durable until it is dropped.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<BTreeMap<PathBuf, Content>>>,
}

type Content = Arc<Mutex<Vec<u8>>>;

impl MemoryDisk {
    fn files<T>(&self, with: impl FnOnce(&mut BTreeMap<PathBuf, Content>) -> T) -> T {
        with(&mut self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, path: &Path) -> io::Result<Content> {
        self.files(|files| files.get(path).cloned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let content = Content::default();
        self.files(|files| files.insert(path.to_owned(), content.clone()));
        Ok(Box::new(MemoryFile(content)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(MemoryFile(self.find(path)?)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let entry = |(path, content): (&PathBuf, &Content)| {
            let name = path.file_name()?.to_str()?.to_owned();
            let len = content.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
            (path.parent() == Some(dir)).then_some(Entry { name, len })
        };
        Ok(self.files(|files| files.iter().filter_map(entry).collect()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.files(|files| files.remove(from)).ok_or(io::ErrorKind::NotFound)?;
        self.files(|files| files.insert(to.to_owned(), moved));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files(|files| files.remove(path)).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile(Content);

impl MemoryFile {
    fn with<T>(&self, with: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let at = index(offset)?;
        Ok(self.with(|bytes| {
            let there = bytes.get(at..).unwrap_or_default();
            let n = there.len().min(buf.len());
            buf.iter_mut().zip(there).for_each(|(to, from)| *to = *from);
            n
        }))
    }

    fn write_at(&mut self, new: &[u8], offset: u64) -> io::Result<()> {
        let at = index(offset)?;
        self.with(|bytes| {
            if bytes.len() < at + new.len() {
                bytes.resize(at + new.len(), 0);
            }
            if let Some(place) = bytes.get_mut(at..at + new.len()) {
                place.copy_from_slice(new);
            }
        });
        Ok(())
    }

    fn sync_data(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn set_size(&mut self, size: u64) -> io::Result<()> {
        let size = index(size)?;
        self.with(|bytes| bytes.resize(size, 0));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_directory_is_listed_while_files_in_it_are_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("oxkeeper-beginning-log"), dir.path().join("log.1"));
        for n in 0..20 {
            fs::write(dir.path().join(format!("snapshot.{n}")), b"x").unwrap();
        }
        fs::write(&from, b"x").unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    RealDisk.rename(&from, &to).unwrap();
                    RealDisk.rename(&to, &from).unwrap();
                }
            });
            let listed: Vec<io::Result<Vec<Entry>>> = (0..2000).map(|_| RealDisk.list(dir.path())).collect();
            done.store(true, Ordering::Relaxed);
            for entries in listed {
                let entries = entries.unwrap();
                assert_eq!(entries.iter().filter(|entry| entry.name.starts_with("snapshot.")).count(), 20);
            }
        });
    }
}
