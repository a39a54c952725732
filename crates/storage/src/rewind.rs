//! Taking transactions back: what a server logged in an epoch that came to nothing, or all of it, when a leader's
//! snapshot takes its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::Zxid;
use tracing::info;

use crate::directory::Directories;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::logread::{LogReader, ReadLimits};
use crate::names;
use crate::snapread::{CANDIDATES_MAX, SnapshotReader, all_candidates};

/// What came of a truncation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Truncation {
    /// The log ends where it was to end.
    Done,
    /// Nothing was removed: no whole snapshot is as old as that end, so there would be nothing to begin from. The whole
    /// state must come from elsewhere.
    NothingToBeginFrom,
}

/// Removes every transaction after `last` from the log, and every snapshot that holds one, durably. Nobody may have
/// the log open. What a loss of power leaves half done is a state in which no transaction up to `last` is missing.
///
/// # Errors
/// The disk failed: the server must stop.
pub fn truncate(dirs: &Directories, last: Zxid, limits: ReadLimits) -> Result<Truncation, StorageError> {
    match truncate_in_order(dirs, last, limits) {
        Err(StorageError::Io { .. }) if is(Fault::TruncateFailureIgnored) => Ok(Truncation::Done),
        truncated => truncated,
    }
}

fn truncate_in_order(dirs: &Directories, last: Zxid, limits: ReadLimits) -> Result<Truncation, StorageError> {
    let disk = &*dirs.disk;
    let mut snapshots: Vec<(Zxid, PathBuf)> =
        named(disk, &dirs.snapshots, |name| names::parse_snapshot(name).map(|(zxid, _)| zxid))?;
    snapshots.sort();
    if !snapshots.is_empty() && !has_whole_snapshot(dirs, last, limits)? {
        info!("No snapshot is as old as {last}, where the log is to be cut: it stays as it is");
        return Ok(Truncation::NothingToBeginFrom);
    }
    // A snapshot that outlived the log's end would bring back what was taken.
    remove(disk, &dirs.snapshots, snapshots.into_iter().filter(|(zxid, _)| *zxid > last))?;
    let mut logs = named(disk, &dirs.logs, names::parse_log)?;
    logs.sort();
    let later: Vec<_> = logs.iter().filter(|(first, _)| *first > last).cloned().collect();
    // The newest goes first, so that no gap is ever left.
    for file in later.into_iter().rev() {
        remove(disk, &dirs.logs, std::iter::once(file))?;
    }
    let Some((first, path)) = logs.into_iter().rfind(|(first, _)| *first <= last) else {
        return Ok(Truncation::Done);
    };
    let end = end_of(dirs, first, last, limits)?;
    info!("Cutting {} at {end}, after {last}", path.display());
    let failed = |error| StorageError::io("cutting", &path, error);
    let mut file = disk.open(&path).map_err(failed)?;
    file.set_size(end).map_err(failed)?;
    file.sync_data().map_err(failed)?;
    Ok(Truncation::Done)
}

/// Whether a snapshot that is not newer than `last` can be read to its end, and the log from there to `last`. One that only
/// has the name would leave nothing, once the newer ones are gone.
fn has_whole_snapshot(dirs: &Directories, last: Zxid, limits: ReadLimits) -> Result<bool, StorageError> {
    let older = all_candidates(&*dirs.disk, &dirs.snapshots)?;
    let mut older = older.iter().filter(|candidate| candidate.zxid <= last).take(CANDIDATES_MAX);
    Ok(older.any(|candidate| {
        let read = || {
            let mut reader = SnapshotReader::open(&dirs.disk, candidate, limits.record_bytes_max)?;
            while reader.next_item()?.is_some() {}
            // The log must lead from there to the end, or there is a trap: a snapshot that outlived the log after it.
            let mut log = LogReader::after(Arc::clone(&dirs.disk), &dirs.logs, candidate.zxid, limits)?;
            while log.next_record()?.is_some_and(|record| record.zxid < last) {}
            Ok::<(), StorageError>(())
        };
        read().is_ok()
    }))
}

/// Leaves nothing but the snapshot of this zxid, which a leader has sent and which is whole and has its name, durably.
///
/// Newer snapshots hold what was never agreed and would be taken for the state. Logs may go on from another history, and
/// no DIFF may be read across the gap between them and the snapshot. Older snapshots are of no use without the logs:
/// were this one damaged, a start would take them and go on with what is logged from now on.
///
/// # Errors
/// There is no such snapshot, and nothing was removed; or the disk failed.
pub fn install(dirs: &Directories, zxid: Zxid) -> Result<(), StorageError> {
    let disk = &*dirs.disk;
    let mut snapshots =
        named(disk, &dirs.snapshots, |name| names::parse_snapshot(name).map(|(zxid, _)| zxid))?;
    snapshots.sort();
    snapshots.reverse();
    if !snapshots.iter().any(|(other, _)| *other == zxid) {
        let what = format!("there is no snapshot {zxid} for whose sake everything else could go");
        return Err(StorageError::Refused(what));
    }
    let (newer, older): (Vec<_>, Vec<_>) =
        snapshots.into_iter().filter(|(other, _)| *other != zxid).partition(|(other, _)| *other > zxid);
    remove(disk, &dirs.snapshots, newer.into_iter())?;
    let mut logs = named(disk, &dirs.logs, names::parse_log)?;
    logs.sort();
    logs.reverse();
    remove(disk, &dirs.logs, logs.into_iter())?;
    remove(disk, &dirs.snapshots, older.into_iter())
}

/// Ends an [`install`] that a crash has interrupted: the snapshot has its name, and older logs are still there that do
/// not lead to it. `before` is the last transaction in them that is not after the snapshot ([`LogReader::before`]);
/// there must be none after it.
///
/// # Errors
/// The disk failed.
pub fn finish_install(dirs: &Directories, zxid: Zxid, before: Option<Zxid>) -> Result<(), StorageError> {
    if before.is_none_or(|before| before == zxid) {
        return Ok(());
    }
    info!("The log ends at {before:?} and does not lead to the snapshot at {zxid}: removing it");
    install(dirs, zxid)
}

/// Where the record after `last` begins in the file that begins with `first`.
fn end_of(dirs: &Directories, first: Zxid, last: Zxid, limits: ReadLimits) -> Result<u64, StorageError> {
    let before = Zxid(first.0.saturating_sub(1));
    let mut reader = LogReader::after(Arc::clone(&dirs.disk), &dirs.logs, before, limits)?;
    let mut end = reader.position();
    while let Some(record) = reader.next_record()? {
        if record.zxid > last {
            break;
        }
        end = reader.position();
    }
    Ok(end)
}

fn named(
    disk: &dyn Disk,
    dir: &Path,
    parse: impl Fn(&str) -> Option<Zxid>,
) -> Result<Vec<(Zxid, PathBuf)>, StorageError> {
    let entries = disk.list(dir).map_err(|error| StorageError::io("listing", dir, error))?;
    Ok(entries.iter().filter_map(|entry| Some((parse(&entry.name)?, dir.join(&entry.name)))).collect())
}

fn remove(
    disk: &dyn Disk,
    dir: &Path,
    files: impl Iterator<Item = (Zxid, PathBuf)>,
) -> Result<(), StorageError> {
    let mut any = false;
    for (_, path) in files {
        any = true;
        disk.remove(&path).map_err(|error| StorageError::io("removing", &path, error))?;
    }
    if any { disk.sync_dir(dir).map_err(|error| StorageError::io("syncing", dir, error)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logread::settle;
    use crate::simdisk::{Aftermath, Fault as DiskFault, SimDisk};
    use crate::snapwrite::SnapshotWriter;
    use crate::txnlog::{LogOptions, TxnLog};

    const LIMITS: ReadLimits = ReadLimits { record_bytes_max: 2 << 20 };

    /// Logs of four records each, and snapshots at 0, 5 and 10.
    fn written() -> (SimDisk, Directories) {
        let disk = SimDisk::default();
        let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
        let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
        for batch in 0..3 {
            let mut log = TxnLog::new(dirs.disk.clone(), dirs.logs.clone(), options);
            for zxid in batch * 4 + 1..batch * 4 + 5 {
                let mut payload = vec![7; 40];
                payload[12..20].copy_from_slice(&i64::to_be_bytes(zxid));
                log.append(Zxid(zxid), &payload);
            }
            log.commit().unwrap();
        }
        for zxid in [0, 5, 10] {
            let disk = dirs.disk.clone();
            let mut writer =
                SnapshotWriter::create(disk, &dirs.snapshots, Zxid(zxid), names::Compression::None).unwrap();
            // No sessions, no lists, no znodes.
            writer.write(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'/']).unwrap();
            writer.finish(None, true).unwrap();
        }
        (disk, dirs)
    }

    fn on(disk: &SimDisk) -> Directories {
        Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"))
    }

    fn records(dirs: &Directories) -> Vec<i64> {
        let mut reader = LogReader::after(dirs.disk.clone(), &dirs.logs, Zxid::ZERO, LIMITS).unwrap();
        let mut all = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            all.push(record.zxid.0);
        }
        all
    }

    fn newest_snapshot(dirs: &Directories) -> Option<i64> {
        let snapshots = named(&*dirs.disk, &dirs.snapshots, |n| names::parse_snapshot(n).map(|(z, _)| z));
        snapshots.unwrap().into_iter().map(|(zxid, _)| zxid.0).max()
    }

    #[test]
    fn nothing_goes_for_a_snapshot_that_is_not_there() {
        let (_, dirs) = written();
        assert!(matches!(install(&dirs, Zxid(7)), Err(StorageError::Refused(_))));
        assert_eq!((records(&dirs).len(), newest_snapshot(&dirs)), (12, Some(10)));
    }

    /// ZOOKEEPER-4837: a snapshot that was newer than the end of a cut log stayed, and the next start began from it.
    #[test]
    fn every_end_leaves_what_is_before_it() {
        for last in 0..13 {
            let (_, dirs) = written();
            assert_eq!(truncate(&dirs, Zxid(last), LIMITS).unwrap(), Truncation::Done);
            assert_eq!(records(&dirs), (1..=last).collect::<Vec<_>>());
            assert_eq!(
                newest_snapshot(&dirs),
                Some(if last >= 10 {
                    10
                } else if last >= 5 {
                    5
                } else {
                    0
                })
            );
            let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
            let mut log = TxnLog::new(dirs.disk.clone(), dirs.logs.clone(), options);
            let mut payload = vec![7; 40];
            payload[12..20].copy_from_slice(&(1i64 << 32 | 1).to_be_bytes());
            log.append(Zxid::new(1, 1), &payload);
            log.commit().unwrap();
            assert_eq!(records(&dirs).last(), Some(&(1 << 32 | 1)), "the next epoch goes on after {last}");
        }
    }

    #[test]
    fn a_snapshot_that_outlived_the_log_after_it_is_no_place_to_begin_from() {
        let (_, dirs) = written();
        for name in ["log.1", "log.5", "snapshot.5"] {
            dirs.disk.remove(&dirs.logs.join(name)).unwrap();
        }
        assert_eq!(truncate(&dirs, Zxid(9), LIMITS).unwrap(), Truncation::NothingToBeginFrom);
        assert_eq!(newest_snapshot(&dirs), Some(10), "nothing is removed");
        assert_eq!(truncate(&dirs, Zxid(11), LIMITS).unwrap(), Truncation::Done);
    }

    #[test]
    fn a_loss_of_power_at_any_step_takes_nothing_that_was_to_stay() {
        for step in 0..20 {
            for seed in 0..10 {
                let (disk, dirs) = written();
                disk.fail_at(step, DiskFault::Crash);
                let done = truncate(&dirs, Zxid(3), LIMITS);
                let left = on(&disk.after_crash(Aftermath::Some(seed)));
                let (found, snapshot) = (records(&left), newest_snapshot(&left).unwrap_or(0));
                assert!(found.starts_with(&[1, 2, 3]), "step {step}, seed {seed}: {found:?}");
                // What is found is what a start would find: no snapshot is newer than the log, and no gap is left.
                assert!(snapshot <= *found.last().unwrap() && found.len() as i64 == *found.last().unwrap());
                assert!(done.is_err() || (found.len(), snapshot) == (3, 0), "{found:?} {snapshot}");
            }
        }
    }

    #[test]
    fn without_a_snapshot_to_begin_from_nothing_is_taken() {
        let (_, dirs) = written();
        dirs.disk.remove(&dirs.snapshots.join("snapshot.0")).unwrap();
        assert_eq!(truncate(&dirs, Zxid(3), LIMITS).unwrap(), Truncation::NothingToBeginFrom);
        assert_eq!((records(&dirs).len(), newest_snapshot(&dirs)), (12, Some(10)));
        assert_eq!(truncate(&dirs, Zxid(6), LIMITS).unwrap(), Truncation::Done);
        assert_eq!((records(&dirs).len(), newest_snapshot(&dirs)), (6, Some(5)));
    }

    #[test]
    fn a_snapshot_that_rots_is_nothing_to_begin_from() {
        let (_, dirs) = written();
        let path = dirs.snapshots.join("snapshot.0");
        let mut file = dirs.disk.open(&path).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, 17).unwrap();
        file.write_at(&[byte[0] ^ 1], 17).unwrap();
        assert_eq!(truncate(&dirs, Zxid(3), LIMITS).unwrap(), Truncation::NothingToBeginFrom);
        assert_eq!((records(&dirs).len(), newest_snapshot(&dirs)), (12, Some(10)));
    }

    /// A sync that fails after the cut: the system shows a cut file until the power goes. What a start has read must be
    /// what every later start reads, or transactions that were taken back would stand before those that followed.
    #[test]
    fn what_was_taken_back_stays_so_though_the_sync_of_the_cut_has_failed() {
        for last in [3, 4, 7, 10] {
            let (disk, dirs) = written();
            let removals = disk_steps_before_the_sync(last);
            disk.fail_at(removals, DiskFault::Error);
            assert!(truncate(&dirs, Zxid(last), LIMITS).is_err());
            let killed = disk.after_kill();
            let found = on(&killed);
            assert_eq!(records(&found), (1..=last).collect::<Vec<_>>(), "the start after that");
            let mut reader = LogReader::after(found.disk.clone(), &found.logs, Zxid::ZERO, LIMITS).unwrap();
            while reader.next_record().unwrap().is_some() {}
            settle(&*found.disk, &found.logs, reader.end().unwrap(), LIMITS).unwrap();
            let options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
            let mut log = TxnLog::new(found.disk.clone(), found.logs.clone(), options);
            let mut payload = vec![7; 40];
            payload[12..20].copy_from_slice(&(1i64 << 32 | 1).to_be_bytes());
            log.append(Zxid::new(1, 1), &payload);
            log.commit().unwrap();
            let left = on(&killed.after_crash(Aftermath::Synced));
            assert_eq!(records(&left), (1..=last).chain([1 << 32 | 1]).collect::<Vec<_>>());
        }
    }

    /// Steps of a truncation of what [`written`] has made before its last one, the sync of what it has cut.
    fn disk_steps_before_the_sync(last: i64) -> usize {
        let (disk, dirs) = written();
        let before = disk.steps().len();
        assert_eq!(truncate(&dirs, Zxid(last), LIMITS).unwrap(), Truncation::Done);
        disk.steps().len() - before - 1
    }

    #[test]
    fn an_installed_snapshot_is_all_that_is_left_and_power_may_be_lost_meanwhile() {
        let (_, dirs) = written();
        install(&dirs, Zxid(5)).unwrap();
        assert_eq!((records(&dirs), newest_snapshot(&dirs)), (Vec::new(), Some(5)));
        for step in 0..20 {
            for seed in 0..10 {
                let (disk, dirs) = written();
                disk.fail_at(step, DiskFault::Crash);
                let _ = install(&dirs, Zxid(5));
                let left = on(&disk.after_crash(Aftermath::Some(seed)));
                let snapshot = newest_snapshot(&left);
                // The old state, whole, or a beginning of it behind the new snapshot: never something else.
                assert!(
                    snapshot == Some(10) && records(&left).len() == 12 || snapshot == Some(5),
                    "step {step}"
                );
                if snapshot == Some(5) {
                    finish_install(&left, Zxid(5), Some(Zxid(4))).unwrap();
                    assert!(records(&left).is_empty(), "the next start ends what was begun");
                }
            }
        }
    }
}
