//! Where a server keeps its files, and that no other server keeps its files there.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disk;
use crate::error::StorageError;
use crate::names;
use crate::reserve::{RESERVE, RESERVING};
use crate::snapwrite::UNFINISHED;
use crate::txnlog::{BEGINNING, PREPARED, PREPARING};

const VERSION: &str = "version-2";
const LOCK: &str = "oxkeeper.lock";
/// How often, and after which pause, the lock's file is read for the pid of its holder.
const HOLDER_LOOKS: usize = 100;
const HOLDER_PAUSE: Duration = Duration::from_millis(10);

/// The directories of one server.
#[derive(Debug, Clone)]
pub struct Directories {
    /// The disk they are on.
    pub disk: Arc<dyn Disk>,
    /// `dataDir/version-2`.
    pub snapshots: PathBuf,
    /// `dataLogDir/version-2`; often the same.
    pub logs: PathBuf,
}

impl Directories {
    /// Names the directories; nothing is touched.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, data: &Path, data_log: &Path) -> Directories {
        Directories { disk, snapshots: data.join(VERSION), logs: data_log.join(VERSION) }
    }

    /// Makes missing directories, if that is allowed.
    ///
    /// # Errors
    /// A directory is missing and may not be made, or cannot be.
    pub fn create(&self, may_create: bool) -> Result<(), StorageError> {
        for dir in [&self.snapshots, &self.logs] {
            if !may_create && !dir.is_dir() {
                let what = "is missing and zookeeper.datadir.autocreate is false";
                return Err(StorageError::Directory(format!("{} {what}", dir.display())));
            }
            let made = self.disk.create_dir(dir);
            made.map_err(|error| StorageError::Directory(format!("{}: {error}", dir.display())))?;
        }
        Ok(())
    }

    /// Refuses directories that were exchanged: a log among the snapshots, or a snapshot among the logs.
    ///
    /// # Errors
    /// Names the file that is in the wrong place.
    pub fn check(&self) -> Result<(), StorageError> {
        if self.snapshots == self.logs {
            return Ok(());
        }
        for (dir, wrong, key) in
            [(&self.logs, "snapshot.", "dataLogDir"), (&self.snapshots, "log.", "dataDir")]
        {
            for entry in self.list(dir)? {
                if entry.name.starts_with(wrong) {
                    let path = dir.join(&entry.name);
                    let what = format!(
                        "{} does not belong into {key}: are dataDir and dataLogDir exchanged?",
                        path.display()
                    );
                    return Err(StorageError::Directory(what));
                }
            }
        }
        Ok(())
    }

    /// Removes what an interrupted write of ours left behind, and makes durable which names there are: a server
    /// that was killed may have given some that are not. The reserve stays: on a full disk there would be none after.
    ///
    /// # Errors
    /// The disk failed.
    pub fn clean(&self) -> Result<(), StorageError> {
        self.remove(&[
            (&self.snapshots, UNFINISHED),
            (&self.logs, PREPARED),
            (&self.logs, PREPARING),
            (&self.logs, BEGINNING),
            (&self.logs, RESERVING),
        ])?;
        for dir in [&self.snapshots, &self.logs] {
            self.disk.sync_dir(dir).map_err(|error| StorageError::io("syncing", dir, error))?;
        }
        Ok(())
    }

    /// Leaves the directories to whoever comes next: as [`Directories::clean`], and without the reserve.
    ///
    /// # Errors
    /// The disk failed.
    pub fn leave(&self) -> Result<(), StorageError> {
        self.clean()?;
        self.remove(&[(&self.logs, RESERVE)])
    }

    fn remove(&self, ours: &[(&PathBuf, &str)]) -> Result<(), StorageError> {
        for &(dir, name) in ours {
            if self.list(dir)?.iter().any(|entry| entry.name == name) {
                let path = dir.join(name);
                self.disk.remove(&path).map_err(|error| StorageError::io("removing", &path, error))?;
            }
        }
        Ok(())
    }

    /// Whether there is any log.
    ///
    /// # Errors
    /// The disk failed.
    pub fn has_logs(&self) -> Result<bool, StorageError> {
        Ok(self.list(&self.logs)?.iter().any(|entry| names::parse_log(&entry.name).is_some()))
    }

    /// Bytes in the snapshot directory and in the log directory, as `dirs` tells them.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sizes(&self) -> Result<(u64, u64), StorageError> {
        let sum = |dir: &Path| Ok(self.list(dir)?.iter().map(|entry| entry.len).sum());
        Ok((sum(&self.snapshots)?, sum(&self.logs)?))
    }

    fn list(&self, dir: &Path) -> Result<Vec<crate::disk::Entry>, StorageError> {
        self.disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))
    }
}

/// Holds a data directory for as long as it lives. Java takes no such lock, and is not kept out by it.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory.
    ///
    /// # Errors
    /// Another process has it; its pid is named.
    pub fn take(data: &Path) -> Result<DirectoryLock, StorageError> {
        let path = data.join(LOCK);
        let failed = |error| StorageError::Directory(format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let who = holder(|| read_again(&mut file), is_alive, || std::thread::sleep(HOLDER_PAUSE));
                let what = format!("{} is in use by {who}", data.display());
                return Err(StorageError::Refused(what));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut note = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note().map_err(failed)?;
        Ok(DirectoryLock { _file: file })
    }
}

/// Who holds the lock. Between taking it and noting its pid the holder leaves what was there before: nothing, or the
/// pid of a process that is gone. So this looks again until the pid is that of a process that lives, for a while.
fn holder(
    mut read: impl FnMut() -> String,
    is_alive: impl Fn(i32) -> bool,
    mut pause: impl FnMut(),
) -> String {
    for _ in 0..HOLDER_LOOKS {
        match read().trim().parse() {
            Ok(pid) if is_alive(pid) => return format!("process {pid}"),
            _ => pause(),
        }
    }
    "another process, which has not noted its pid".to_owned()
}

fn read_again(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    text
}

/// Whether there is such a process. Where the system does not tell, what is noted is believed.
fn is_alive(pid: i32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn second_server_is_refused_with_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirectoryLock::take(dir.path()).unwrap();
        let error = DirectoryLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(held);
        DirectoryLock::take(dir.path()).unwrap();
    }

    #[test]
    fn holder_is_asked_again_until_it_has_noted_its_pid() {
        let alive = |pid| pid == 300;
        let mut texts = ["", "200\n", "", "300\n"].into_iter();
        let mut pauses = 0;
        let who = holder(|| texts.next().unwrap().to_owned(), alive, || pauses += 1);
        assert_eq!((who.as_str(), pauses), ("process 300", 3));
        let who = holder(|| "200\n".to_owned(), alive, || pauses += 1);
        assert_eq!(
            (who.as_str(), pauses),
            ("another process, which has not noted its pid", 3 + HOLDER_LOOKS)
        );
    }

    #[test]
    fn exchanged_directories_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Directories::new(Arc::new(RealDisk), &dir.path().join("a"), &dir.path().join("b"));
        assert!(dirs.create(false).is_err());
        dirs.create(true).unwrap();
        dirs.check().unwrap();
        std::fs::write(dirs.logs.join("snapshot.0"), b"x").unwrap();
        let error = dirs.check().unwrap_err().to_string();
        assert!(error.contains("snapshot.0 does not belong into dataLogDir"), "{error}");
    }
}
