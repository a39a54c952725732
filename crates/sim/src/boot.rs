//! A server's start: from what is on its disk to a tree, as the driver of a real server does it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use oxkeeper_node::{Loader, Proposal, Rules, Tree};
use oxkeeper_proto::{SessionId, TxnRecord, Zxid};
use oxkeeper_storage::{
    Candidate, Compression, Directories, Disk, LogReader, PassedOver, ReadLimits, SnapshotItem,
    SnapshotReader, SnapshotWriter, StorageError, Tear, candidates, cut, finish_install, newest_named,
    settle,
};

/// The longest record.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
/// Newest transactions that a server keeps at hand for its learners.
const RECENT: usize = 500;

/// What a start found.
#[derive(Debug)]
pub struct Booted {
    /// The state.
    pub tree: Tree,
    /// The newest transactions of the log.
    pub recent: Vec<Proposal>,
    /// Whether there is more in the log than in the newest snapshot.
    pub snapshot_due: bool,
    /// Transactions whose digest did not fit.
    pub mismatches: u64,
    /// Whether neither a snapshot nor a log was there.
    pub is_empty: bool,
}

/// What is on a disk, as far as it can be read.
#[derive(Debug)]
pub struct State {
    /// The state.
    pub tree: Tree,
    /// The newest transactions of the log.
    pub recent: Vec<Proposal>,
    snapshot: Option<Zxid>,
    replayed: u64,
    mismatches: u64,
    tear: Option<Tear>,
    end: Option<(PathBuf, u64)>,
    before: Option<Zxid>,
}

const LIMITS: ReadLimits = ReadLimits { record_bytes_max: RECORD_BYTES_MAX };

/// Reads the state; writes nothing.
///
/// # Errors
/// What a real server would refuse to start on, or a failure of the disk.
pub fn read_state(dirs: &Directories, rules: Rules, seed: u64) -> Result<State, StorageError> {
    let (mut tree, snapshot, fuzzy_until) = newest_tree(dirs, rules, seed)?;
    let mut reader = LogReader::after(dirs.disk.clone(), &dirs.logs, tree.last_zxid(), LIMITS)?;
    let mut passed_over = PassedOver::after(&*dirs.disk, &dirs.snapshots, snapshot)?;
    let (mut recent, mut mismatches, mut replayed) = (Vec::new(), 0, 0u64);
    while let Some(record) = reader.next_record()? {
        let txn = TxnRecord::decode(record.payload).map_err(|error| {
            StorageError::Refused(format!("transaction {} of the log cannot be read: {error}", record.zxid))
        })?;
        let fits = tree.replay(&txn);
        mismatches += u64::from(fits == Some(false) && record.zxid >= fuzzy_until);
        replayed += 1;
        passed_over.replayed(record.zxid, fits);
        recent.push(Proposal { zxid: record.zxid, payload: Bytes::copy_from_slice(record.payload) });
    }
    if recent.len() > RECENT {
        recent.drain(..recent.len() - RECENT);
    }
    reader.check_fit(mismatches == 0)?;
    check_passed(dirs, snapshot, tree.last_zxid(), passed_over.missed().is_none() && mismatches == 0)?;
    let tear = reader.tear().cloned();
    let end = reader.end().map(|(path, end)| (path.to_owned(), end));
    let before = reader.before();
    tree.drop_orphans();
    Ok(State { tree, recent, snapshot, replayed, mismatches, tear, end, before })
}

/// Reads the state and makes the directory ready to go on with.
///
/// # Errors
/// As [`read_state`], or the disk is full.
pub fn boot(dirs: &Directories, rules: Rules, seed: u64, is_member: bool) -> Result<Booted, StorageError> {
    let state = read_state(dirs, rules, seed)?;
    dirs.clean()?;
    if let Some(tear) = &state.tear {
        cut(&*dirs.disk, tear)?;
    }
    if let Some((path, end)) = &state.end {
        settle(&*dirs.disk, &dirs.logs, (path, *end), LIMITS)?;
    }
    if let Some(snapshot) = state.snapshot.filter(|_| is_member && state.replayed == 0) {
        finish_install(dirs, snapshot, state.before)?;
    }
    let is_empty = state.snapshot.is_none() && state.replayed == 0;
    if is_empty {
        write_first_snapshot(dirs, rules)?;
    }
    let State { tree, recent, replayed, mismatches, .. } = state;
    Ok(Booted { tree, recent, snapshot_due: replayed > 0, mismatches, is_empty })
}

/// As a real server does: what a damaged snapshot held must be in the log as well.
fn check_passed(
    dirs: &Directories,
    begun: Option<Zxid>,
    last: Zxid,
    passed: bool,
) -> Result<(), StorageError> {
    match newest_named(&*dirs.disk, &dirs.snapshots)? {
        Some((newest, _)) if newest.zxid > last || Some(newest.zxid) > begun && !passed => {
            let what = format!("{} is damaged, and the log does not make up for it", newest.path.display());
            Err(StorageError::Refused(what))
        }
        _ => Ok(()),
    }
}

/// An empty directory: the first snapshot comes before the first record.
fn write_first_snapshot(dirs: &Directories, rules: Rules) -> Result<(), StorageError> {
    let mut fresh = Tree::new(1, rules);
    let mut writer =
        SnapshotWriter::create(dirs.disk.clone(), &dirs.snapshots, Zxid::ZERO, Compression::None)?;
    let digest = fresh.begin_snapshot().and_then(|start| start.digest).map(|_| 0);
    while let Some(slice) = fresh.next_slice(1 << 16) {
        writer.write(&slice.bytes)?;
    }
    writer.finish(digest, true)?;
    Ok(())
}

fn newest_tree(
    dirs: &Directories,
    rules: Rules,
    seed: u64,
) -> Result<(Tree, Option<Zxid>, Zxid), StorageError> {
    let mut failed = None;
    for candidate in candidates(&*dirs.disk, &dirs.snapshots)? {
        match load(&dirs.disk, &candidate, rules, seed) {
            Ok((tree, fuzzy_until)) => return Ok((tree, Some(candidate.zxid), fuzzy_until)),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        return Err(StorageError::Refused(format!("no valid snapshot; the last one: {error}")));
    }
    if dirs.has_logs()? {
        return Err(StorageError::Refused("there are logs, and every snapshot is damaged or gone".into()));
    }
    Ok((Tree::new(seed, rules), None, Zxid::ZERO))
}

fn load(
    disk: &Arc<dyn Disk>,
    candidate: &Candidate,
    rules: Rules,
    seed: u64,
) -> Result<(Tree, Zxid), StorageError> {
    let mut reader = SnapshotReader::open(disk, candidate, RECORD_BYTES_MAX)?;
    let mut loader = Loader::new(seed, rules);
    let refused = |error: oxkeeper_node::LoadError| StorageError::Refused(error.to_string());
    while let Some(item) = reader.next_item()? {
        match item {
            SnapshotItem::Session(id, timeout_ms) => loader.session(SessionId(id.0), timeout_ms),
            SnapshotItem::Acl(id, encoded) => loader.acl(id, encoded).map_err(refused)?,
            SnapshotItem::Node { path, data, acl, stat } => {
                loader.node(&String::from_utf8_lossy(path), data, acl, stat).map_err(refused)?;
            }
        }
    }
    let fuzzy_until = reader.tail().digest.map_or(candidate.zxid, |(zxid, ..)| zxid);
    Ok((loader.finish(candidate.zxid), fuzzy_until))
}
