//! From the files of a data directory to a tree: the newest snapshot that is whole, then the log after it.
//!
//! Source: `FileTxnSnapLog.restore`, 3.9; where this is stricter than Java, `docs/formats.md` says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use oxkeeper_node::{LoadError, Loader, Rules, Tree};
use oxkeeper_proto::{SessionId, TxnRecord, Zxid};
use oxkeeper_storage::{
    Candidate, Directories, Disk, LogReader, PassedOver, ReadLimits, SnapshotItem, SnapshotReader,
    SnapshotTail, StorageError, Tear, candidates, newest_named,
};
use tracing::{error, info, warn};

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// The state.
    pub tree: Tree,
    /// The snapshot it began with, if there was one.
    pub snapshot: Option<Zxid>,
    /// Transactions replayed after it.
    pub replayed: u64,
    /// Transactions whose digest did not fit.
    pub digest_mismatches: u64,
    /// Where the log ends in a write that was cut short.
    pub tear: Option<Tear>,
    /// The last file of the log, and where its records end.
    pub log_end: Option<(PathBuf, u64)>,
}

/// How to read a data directory.
#[derive(Debug, Clone, Copy)]
pub struct RecoverOptions {
    /// What the tree is to understand.
    pub rules: Rules,
    /// The longest string, buffer or record.
    pub record_bytes_max: usize,
    /// `snapshot.trust.empty`: logs without a snapshot are replayed over an empty tree.
    pub trust_empty: bool,
    /// Orders the tree's maps.
    pub seed: u64,
}

/// Reads the state; writes nothing.
///
/// # Errors
/// The directory cannot be read, or holds something that must not be started on. The message names the file.
pub fn recover(dirs: &Directories, options: &RecoverOptions) -> Result<Recovered, StorageError> {
    let started = Instant::now();
    let (mut tree, snapshot, fuzzy_until) = newest_tree(dirs, options)?;
    let from = tree.last_zxid();
    if let Some(zxid) = snapshot {
        info!(
            "Snapshot loaded in {} ms, highest zxid is {zxid}, digest is {}",
            started.elapsed().as_millis(),
            tree.digest()
        );
    }
    let limits = ReadLimits { record_bytes_max: options.record_bytes_max };
    let mut reader = LogReader::after(dirs.disk.clone(), &dirs.logs, from, limits)?;
    let mut passed_over = PassedOver::after(&*dirs.disk, &dirs.snapshots, snapshot)?;
    let (mut replayed, mut digest_mismatches) = (0, 0);
    while let Some(record) = reader.next_record()? {
        let txn = TxnRecord::decode(record.payload).map_err(|error| {
            StorageError::Refused(format!("transaction {} of the log cannot be read: {error}", record.zxid))
        })?;
        let fits = tree.replay(&txn);
        replayed += 1;
        passed_over.replayed(record.zxid, fits);
        // While the replay goes over what a fuzzy snapshot holds already, digests say nothing.
        if fits == Some(false) && record.zxid >= fuzzy_until {
            digest_mismatches += 1;
            if digest_mismatches == 1 {
                error!(
                    "First digest mismatch on txn {}: expected {:?}, found {}",
                    record.zxid,
                    txn.digest,
                    tree.digest()
                );
            }
        }
    }
    if digest_mismatches > 0 {
        error!("Digests are not matching after {digest_mismatches} of {replayed} transactions");
    }
    reader.check_fit(digest_mismatches == 0)?;
    let tear = reader.tear().cloned();
    check_reached(dirs, tree.last_zxid())?;
    if digest_mismatches > 0 || passed_over.missed().is_some() {
        check_passed(dirs, snapshot)?;
    }
    let log_end = reader.end().map(|(path, end)| (path.to_owned(), end));
    let orphans = tree.drop_orphans();
    if orphans > 0 {
        warn!("Removed {orphans} ephemerals of sessions that neither the snapshot nor the log knows");
    }
    for path in tree.unreadable() {
        warn!("The access control list of {path} is lost; only a super user may touch it");
    }
    info!("{replayed} txns loaded in {} ms", started.elapsed().as_millis());
    Ok(Recovered { tree, snapshot, replayed, digest_mismatches, tear, log_end })
}

/// Refuses if a snapshot says by its name that the state was once newer than all that could be read: what came between
/// is nowhere else.
fn check_reached(dirs: &Directories, last: Zxid) -> Result<(), StorageError> {
    match newest_named(&*dirs.disk, &dirs.snapshots)? {
        Some((newest, len)) if newest.zxid > last => Err(StorageError::Damaged {
            path: newest.path,
            offset: len,
            what: format!(
                "the file is no whole snapshot, and what else is there ends at {last}, so acknowledged transactions \
                 would be lost. Restore it from a backup, or remove it to go on without them"
            ),
        }),
        _ => Ok(()),
    }
}

/// Refuses a state to which a newer snapshot that had to be passed over does not belong: the log does not go on from
/// where this one began. So it is after a leader's snapshot took the place of the log, and was damaged.
fn check_passed(dirs: &Directories, begun: Option<Zxid>) -> Result<(), StorageError> {
    match newest_named(&*dirs.disk, &dirs.snapshots)? {
        Some((newest, len)) if Some(newest.zxid) > begun => Err(StorageError::Damaged {
            path: newest.path,
            offset: len,
            what: "the file is no whole snapshot, and the log goes on from it and from no older one. Restore it from a \
                   backup, or let this server fetch a snapshot from the ensemble"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The tree of the newest snapshot that can be read, its zxid, and up to where it may already be newer.
fn newest_tree(
    dirs: &Directories,
    options: &RecoverOptions,
) -> Result<(Tree, Option<Zxid>, Zxid), StorageError> {
    let mut failed = None;
    for candidate in candidates(&*dirs.disk, &dirs.snapshots)? {
        info!("Reading snapshot {}", candidate.path.display());
        match load(dirs, &candidate, options) {
            Ok((tree, fuzzy_until)) => return Ok((tree, Some(candidate.zxid), fuzzy_until)),
            Err(error @ StorageError::Refused(_)) => return Err(error),
            Err(error) => {
                warn!("problem reading snap file {}: {error}", candidate.path.display());
                failed = Some(error);
            }
        }
    }
    if let Some(error) = failed {
        let dir = dirs.snapshots.display();
        return Err(StorageError::Refused(format!(
            "Not able to find valid snapshots in {dir}; the last one: {error}"
        )));
    }
    if dirs.has_logs()? && !options.trust_empty {
        if let Some((newest, len)) = newest_named(&*dirs.disk, &dirs.snapshots)? {
            let what = "the file does not end as a snapshot does, and the log entries need one".to_owned();
            return Err(StorageError::Damaged { path: newest.path, offset: len, what });
        }
        return Err(StorageError::Refused(format!(
            "No snapshot found, but there are log entries. Something is broken! Restore a snapshot into {}, or set \
             zookeeper.snapshot.trust.empty=true if there never was one",
            dirs.snapshots.display()
        )));
    }
    Ok((Tree::new(options.seed, options.rules), None, Zxid::ZERO))
}

fn load(
    dirs: &Directories,
    candidate: &Candidate,
    options: &RecoverOptions,
) -> Result<(Tree, Zxid), StorageError> {
    let (tree, tail) = load_snapshot(&dirs.disk, candidate, options)?;
    let fuzzy_until = match tail.digest {
        // Before the first transaction Java writes zeros.
        Some((zxid, version, digest)) if zxid == candidate.zxid && zxid.0 != 0 && options.rules.digest => {
            if version == oxkeeper_proto::TxnDigest::VERSION && digest != tree.digest() {
                error!(
                    "Digests are not matching. Snapshot {zxid}: expected {digest}, found {}",
                    tree.digest()
                );
            }
            zxid
        }
        Some((zxid, ..)) => zxid,
        None => candidate.zxid,
    };
    Ok((tree, fuzzy_until))
}

/// Reads one snapshot into a tree, and what stands behind its records.
///
/// # Errors
/// The file cannot be read, is damaged, or holds what the options do not allow.
pub fn load_snapshot(
    disk: &Arc<dyn Disk>,
    candidate: &Candidate,
    options: &RecoverOptions,
) -> Result<(Tree, SnapshotTail), StorageError> {
    let mut reader = SnapshotReader::open(disk, candidate, options.record_bytes_max)?;
    let mut loader = Loader::new(options.seed, options.rules);
    let refused = |error: LoadError| match error {
        LoadError::TtlNotEnabled { .. } => StorageError::Refused(error.to_string()),
        other => StorageError::Damaged { path: candidate.path.clone(), offset: 0, what: other.to_string() },
    };
    let mut loaded = Ok(());
    while let Some(item) = reader.next_item()? {
        loaded = match (loaded, item) {
            // Damage may look like anything, so what is said of it comes after the seals are found right.
            (Err(error), _) => Err(error),
            (Ok(()), SnapshotItem::Session(id, timeout_ms)) => {
                loader.session(SessionId(id.0), timeout_ms);
                Ok(())
            }
            (Ok(()), SnapshotItem::Acl(id, encoded)) => loader.acl(id, encoded),
            (Ok(()), SnapshotItem::Node { path, data, acl, stat }) => {
                loader.node(&String::from_utf8_lossy(path), data, acl, stat)
            }
        };
    }
    loaded.map_err(refused)?;
    Ok((loader.finish(candidate.zxid), reader.tail()))
}
