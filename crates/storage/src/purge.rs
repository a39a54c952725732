//! Removes snapshots and logs that no recovery needs any more.
//!
//! Kept are the newest snapshots that look complete, and every log that one of them may need. Only files
//! whose names parse exactly are ever removed: an operator's `log.backup` stays. Source: `PurgeTxnLog`.

use std::path::PathBuf;

use oxkeeper_proto::Zxid;

use crate::directory::Directories;
use crate::error::StorageError;
use crate::names;
use crate::snapread::candidates;

/// What can go if the newest `keep` snapshots stay. Nothing can as long as there are fewer.
///
/// # Errors
/// A directory cannot be read.
pub fn plan(dirs: &Directories, keep: usize) -> Result<Vec<PathBuf>, StorageError> {
    let kept = candidates(&*dirs.disk, &dirs.snapshots)?;
    let Some(oldest) = kept.iter().take(keep).next_back().map(|candidate| candidate.zxid) else {
        return Ok(Vec::new());
    };
    if kept.len() < keep {
        return Ok(Vec::new());
    }
    let list = |dir: &PathBuf| dirs.disk.list(dir).map_err(|error| StorageError::io("listing", dir, error));
    let logs: Vec<(Zxid, PathBuf)> = list(&dirs.logs)?
        .into_iter()
        .filter_map(|entry| Some((names::parse_log(&entry.name)?, dirs.logs.join(entry.name))))
        .collect();
    let needed = first_log_needed(logs.iter().map(|(first, _)| *first), oldest);
    // Snapshots first: one that outlived the log after it would be of no use, and a trap.
    let mut gone: Vec<PathBuf> = Vec::new();
    for entry in list(&dirs.snapshots)? {
        if names::parse_snapshot(&entry.name).is_some_and(|(zxid, _)| zxid < oldest) {
            gone.push(dirs.snapshots.join(entry.name));
        }
    }
    gone.extend(logs.into_iter().filter(|(first, _)| *first < needed).map(|(_, path)| path));
    Ok(gone)
}

/// The newest log that begins at or before the snapshot: the transactions right after it may be in there.
fn first_log_needed(logs: impl Iterator<Item = Zxid>, snapshot: Zxid) -> Zxid {
    logs.filter(|first| *first <= snapshot).max().unwrap_or(snapshot)
}

/// Removes what [`plan`] found. Snapshots are gone for good before the first log goes: were one to come back after a loss
/// of power, it would look like a place to begin from, and the log after it would be missing.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(dirs: &Directories, files: &[PathBuf]) -> Result<(), StorageError> {
    let mut snapshots_went = false;
    for path in files {
        let is_snapshot = path.file_name().and_then(|name| names::parse_snapshot(name.to_str()?)).is_some();
        if snapshots_went && !is_snapshot {
            let failed = |error| StorageError::io("syncing", &dirs.snapshots, error);
            dirs.disk.sync_dir(&dirs.snapshots).map_err(failed)?;
        }
        snapshots_went = is_snapshot;
        dirs.disk.remove(path).map_err(|error| StorageError::io("removing", path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::{Disk, MemoryDisk};
    use crate::simdisk::{Aftermath, SimDisk};

    fn names_left(snapshots: &[i64], logs: &[i64], others: &[&str], keep: usize) -> Vec<String> {
        let disk = MemoryDisk::default();
        let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
        let make = |name: String| {
            let mut file = disk.create(&dirs.logs.join(name)).unwrap();
            file.write_at(b"ZKSN-------\0\0\0\x01/", 0).unwrap();
        };
        snapshots.iter().for_each(|zxid| make(format!("snapshot.{zxid:x}")));
        logs.iter().for_each(|zxid| make(format!("log.{zxid:x}")));
        others.iter().for_each(|name| make((*name).to_owned()));
        remove(&dirs, &plan(&dirs, keep).unwrap()).unwrap();
        disk.list(&dirs.logs).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_recovery_chain_for_every_kept_snapshot_stays() {
        let left =
            names_left(&[0, 10, 20, 30, 40], &[1, 11, 15, 18, 25, 35], &["log.backup", "log.1.old"], 3);
        assert_eq!(
            left,
            [
                "log.1.old",
                "log.12",
                "log.19",
                "log.23",
                "log.backup",
                "snapshot.14",
                "snapshot.1e",
                "snapshot.28"
            ]
        );
    }

    #[test]
    fn no_snapshot_comes_back_after_its_log_is_gone() {
        for seed in 0..200 {
            let disk = SimDisk::quiet();
            let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
            for name in ["snapshot.0", "snapshot.14", "log.1", "log.15"] {
                let mut file = disk.create(&dirs.logs.join(name)).unwrap();
                file.write_at(b"ZKSN-------\0\0\0\x01/", 0).unwrap();
                file.sync_data().unwrap();
            }
            disk.sync_dir(&dirs.logs).unwrap();
            remove(&dirs, &plan(&dirs, 1).unwrap()).unwrap();
            let later = disk.after_crash(Aftermath::Some(seed)).list(&dirs.logs).unwrap();
            let names: Vec<String> = later.into_iter().map(|entry| entry.name).collect();
            let has = |name: &str| names.iter().any(|other| other == name);
            assert!(has("log.1") || !has("snapshot.0"), "{names:?} with seed {seed}");
        }
    }

    #[test]
    fn incomplete_snapshots_do_not_count() {
        let disk = MemoryDisk::default();
        let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
        for (name, end) in [("snapshot.1", "\0\0\0\x01/"), ("snapshot.2", ""), ("snapshot.3", "\0\0\0\x01/")]
        {
            let mut file = disk.create(&dirs.logs.join(name)).unwrap();
            file.write_at(format!("ZKSN------{end}").as_bytes(), 0).unwrap();
        }
        assert_eq!(plan(&dirs, 3).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(plan(&dirs, 2).unwrap(), Vec::<PathBuf>::new(), "0x1 and 0x3 are the two newest");
        assert_eq!(plan(&dirs, 1).unwrap().len(), 2);
    }

    #[test]
    fn nothing_goes_without_enough_snapshots() {
        assert_eq!(names_left(&[5], &[1, 3], &[], 3).len(), 3);
        assert_eq!(names_left(&[], &[1], &[], 3).len(), 1);
    }
}
