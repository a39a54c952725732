//! The two epochs that a member of an ensemble must not forget: the one it has promised, and the one whose leader's
//! history it has.
//!
//! Each is a file with a decimal number and nothing else, replaced by way of `X.tmp`: written, synced, renamed, and the
//! directory synced, which Java leaves out. Source: `QuorumPeer.writeLongToFile`, `AtomicFileOutputStream`, 3.9.

use std::io;
use std::path::Path;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::Epoch;

use crate::disk::Disk;
use crate::error::StorageError;

/// Which epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EpochFile {
    /// The highest that was promised.
    Accepted,
    /// That of the leader whose history this server has.
    Current,
}

/// More bytes than a number has.
const BYTES_MAX: usize = 32;

impl EpochFile {
    /// The file's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EpochFile::Accepted => "acceptedEpoch",
            EpochFile::Current => "currentEpoch",
        }
    }

    /// Reads it; `None` if there is no such file.
    ///
    /// # Errors
    /// The disk failed, or the file holds no number.
    pub fn read(self, disk: &dyn Disk, dir: &Path) -> Result<Option<Epoch>, StorageError> {
        let path = dir.join(self.name());
        let file = match disk.open_to_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| StorageError::io("opening", &path, error))?,
        };
        let mut bytes = [0; BYTES_MAX];
        let read = file.read_at(&mut bytes, 0).map_err(|error| StorageError::io("reading", &path, error))?;
        let text = bytes.get(..read).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
        match text.trim().parse() {
            // What is longer was not read to its end.
            Ok(epoch) if epoch >= 0 && read < BYTES_MAX => Ok(Some(Epoch(epoch))),
            _ => Err(StorageError::damaged(&path, 0, format!("{text:?} is no epoch"))),
        }
    }

    /// Replaces it, durably.
    ///
    /// # Errors
    /// The disk is full or failed: which epoch is on it then is not known, and the server must stop.
    pub fn write(self, disk: &dyn Disk, dir: &Path, epoch: Epoch) -> Result<(), StorageError> {
        replace(disk, dir, self.name(), epoch.0.to_string().as_bytes())
    }
}

/// Replaces a small file, durably and whole or not at all.
///
/// # Errors
/// The disk is full or failed.
pub fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let (path, unfinished) = (dir.join(name), dir.join(format!("{name}.tmp")));
    let write = || {
        let mut file = disk.create(&unfinished)?;
        file.write_at(bytes, 0)?;
        file.sync_data()?;
        disk.rename(&unfinished, &path)?;
        if is(Fault::EpochDirectoryUnsynced) { Ok(()) } else { disk.sync_dir(dir) }
    };
    write().map_err(|error| StorageError::io("replacing", &path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::simdisk::{Aftermath, Fault as DiskFault, SimDisk};

    const DIR: &str = "/d";

    #[test]
    fn bytes_are_those_of_a_real_server() {
        let disk = MemoryDisk::default();
        let dir = Path::new(DIR);
        assert_eq!(EpochFile::Accepted.read(&disk, dir).unwrap(), None);
        EpochFile::Accepted.write(&disk, dir, Epoch(12)).unwrap();
        let mut bytes = [0; 8];
        let file = disk.open(&dir.join("acceptedEpoch")).unwrap();
        assert_eq!((file.read_at(&mut bytes, 0).unwrap(), &bytes[..2]), (2, &b"12"[..]));
        assert_eq!(EpochFile::Accepted.read(&disk, dir).unwrap(), Some(Epoch(12)));
        assert_eq!(EpochFile::Current.read(&disk, dir).unwrap(), None);
        replace(&disk, dir, "currentEpoch", b"three").unwrap();
        assert!(EpochFile::Current.read(&disk, dir).unwrap_err().to_string().contains("no epoch"));
    }

    #[test]
    fn a_number_that_goes_on_behind_what_is_read_is_none() {
        let (disk, dir) = (MemoryDisk::default(), Path::new(DIR));
        for (text, epoch) in [("7\n", Some(7)), ("-7", None), ("", None)] {
            replace(&disk, dir, "currentEpoch", text.as_bytes()).unwrap();
            assert_eq!(EpochFile::Current.read(&disk, dir).ok().flatten().map(|e| e.0), epoch, "{text}");
        }
        for zeros in 0..40 {
            replace(&disk, dir, "currentEpoch", format!("{}12", "0".repeat(zeros)).as_bytes()).unwrap();
            let read = EpochFile::Current.read(&disk, dir).ok().flatten();
            assert!(read.is_none_or(|epoch| epoch == Epoch(12)), "{read:?} behind {zeros} zeros");
            assert_eq!(read.is_some(), zeros < BYTES_MAX - 2);
        }
    }

    /// ZOOKEEPER-1653, 2307, 2354, 4269: a server whose epoch file was caught in the middle of its change did not start.
    #[test]
    fn an_epoch_is_the_old_or_the_new_one_wherever_power_is_lost() {
        for step in 0..8 {
            for seed in 0..20 {
                let disk = SimDisk::default();
                let dir = Path::new(DIR);
                EpochFile::Current.write(&disk, dir, Epoch(3)).unwrap();
                disk.fail_at(step, DiskFault::Crash);
                let written = EpochFile::Current.write(&disk, dir, Epoch(4));
                let left = disk.after_crash(Aftermath::Some(seed));
                let found = EpochFile::Current.read(&left, dir).unwrap().unwrap().0;
                assert!(found == 4 || found == 3 && written.is_err(), "step {step}: {found}, {written:?}");
            }
        }
    }
}
