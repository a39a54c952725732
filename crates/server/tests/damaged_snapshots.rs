//! Snapshots that are damaged: none is believed, none is passed over if what it held is nowhere else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxkeeper_node::Rules;
use oxkeeper_proto::{OpCode, SessionId, Txn, TxnDigest, TxnHeader, TxnRecord, Xid, Zxid};
use oxkeeper_server::{RecoverOptions, Recovered, recover};
use oxkeeper_storage::{
    Compression, Directories, Disk, LogOptions, MemoryDisk, RealDisk, SnapshotWriter, StorageError, TxnLog,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/datadir-3.8.0/version-2").join(name)
}

/// A directory with such files of the recorded one, each cut to a length if one is given.
fn with_files(files: &[(&str, Option<usize>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("version-2")).unwrap();
    for (name, len) in files {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let len = len.unwrap_or(bytes.len());
        std::fs::write(dir.path().join("version-2").join(name), &bytes[..len]).unwrap();
    }
    dir
}

/// What a start there would be refused with.
fn refusal(dir: &Path, extended_types: bool, trust_empty: bool) -> String {
    match load(dir, extended_types, trust_empty) {
        Ok(found) => format!("none, it starts at {}", found.tree.last_zxid()),
        Err(error) => error.to_string(),
    }
}

fn load(dir: &Path, extended_types: bool, trust_empty: bool) -> Result<Recovered, StorageError> {
    let mut rules = Rules::DEFAULT;
    rules.owners.extended_types = extended_types;
    let options = RecoverOptions { rules, record_bytes_max: 2 << 20, trust_empty, seed: 5 };
    recover(&Directories::new(Arc::new(RealDisk), dir, dir), &options)
}

#[test]
fn every_flipped_byte_of_the_only_snapshot_is_refused_by_name() {
    // A flipped owner may look like a lifetime, which is refused as well: but the flip is what must be named.
    let whole = std::fs::read(fixture("snapshot.0")).unwrap();
    for at in 0..whole.len() {
        for mask in [0x80, 0xff] {
            let dir = with_files(&[("log.1", None)]);
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            std::fs::write(dir.path().join("version-2/snapshot.0"), bytes).unwrap();
            let error = refusal(dir.path(), false, false);
            assert!(error.contains("snapshot.0 is damaged at offset"), "byte {at}: {error}");
        }
    }
}

#[test]
fn snapshot_that_nothing_replaces_is_not_passed_over() {
    let full = |name| (name, None);
    // The log goes on to 0x54: the older snapshot and the log hold all that the newer one did.
    let dir = with_files(&[("snapshot.42", Some(500)), full("snapshot.0"), full("log.1"), full("log.43")]);
    assert_eq!(load(dir.path(), true, false).unwrap().tree.last_zxid(), Zxid(0x54));
    let lost = [
        vec![("snapshot.42", Some(500))],
        vec![("snapshot.42", Some(500)), full("snapshot.0")],
        vec![("snapshot.42", Some(500)), full("snapshot.0"), ("log.1", Some(2000))],
    ];
    for files in &lost {
        for trust_empty in [false, true] {
            let error = refusal(with_files(files).path(), true, trust_empty);
            assert!(error.contains("snapshot.42 is damaged at offset 500"), "{files:?}: {error}");
        }
    }
    // A first start that was cut short: there was nothing yet.
    let dir = with_files(&[("snapshot.0", Some(100))]);
    assert_eq!(load(dir.path(), true, false).unwrap().tree.last_zxid(), Zxid::ZERO);
}

/// ZOOKEEPER-2325: logs whose snapshots were gone, or an empty file in the place of one, were replayed over nothing.
#[test]
fn zookeeper_2325_logs_without_a_snapshot_are_refused() {
    let logs_alone = with_files(&[("log.1", None), ("log.43", None)]);
    let error = refusal(logs_alone.path(), true, false);
    assert!(error.contains("No snapshot found, but there are log entries"), "{error}");
    assert_eq!(load(logs_alone.path(), true, true).unwrap().tree.last_zxid(), Zxid(0x54));
    let with_an_empty_one = with_files(&[("snapshot.0", Some(0)), ("log.1", None), ("log.43", None)]);
    let error = refusal(with_an_empty_one.path(), true, false);
    assert!(error.contains("snapshot.0"), "{error}");
}

#[test]
fn a_log_that_goes_on_from_a_damaged_snapshot_alone_is_not_replayed_over_an_older_one() {
    // A leader's snapshot of the start of a later epoch took the place of the log, and was damaged: zxids show no gap.
    let disk = MemoryDisk::default();
    let dirs = Directories::new(Arc::new(disk.clone()), Path::new("/d"), Path::new("/d"));
    let writer =
        SnapshotWriter::create(dirs.disk.clone(), &dirs.snapshots, Zxid::new(1, 0), Compression::None)
            .unwrap();
    let name = writer.finish(None, true).unwrap();
    disk.open(&dirs.snapshots.join(name)).unwrap().set_size(20).unwrap();
    let oldest = std::fs::read(fixture("snapshot.0")).unwrap();
    disk.create(&dirs.snapshots.join("snapshot.0")).unwrap().write_at(&oldest, 0).unwrap();
    let (session, cxid, zxid, time) = (SessionId(7), Xid(0), Zxid::new(1, 1), 1);
    let record = TxnRecord {
        header: TxnHeader { session, cxid, zxid, time, op: OpCode::CreateSession },
        txn: Txn::CreateSession { timeout_ms: 1000 },
        digest: Some(TxnDigest { version: TxnDigest::VERSION, digest: 12345 }),
    };
    let mut payload = Vec::new();
    record.encode(&mut payload);
    let log_options = LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 };
    let mut log = TxnLog::new(dirs.disk.clone(), dirs.logs.clone(), log_options);
    log.append(zxid, &payload);
    log.commit().unwrap();
    let options =
        RecoverOptions { rules: Rules::DEFAULT, record_bytes_max: 1 << 20, trust_empty: false, seed: 5 };
    let error = recover(&dirs, &options).unwrap_err().to_string();
    assert!(
        error.contains("snapshot.100000000 is damaged") && error.contains("from no older one"),
        "{error}"
    );
}

#[test]
fn empty_directory_is_an_empty_tree() {
    let dirs = Directories::new(Arc::new(MemoryDisk::default()), Path::new("/"), Path::new("/"));
    let options =
        RecoverOptions { rules: Rules::DEFAULT, record_bytes_max: 1 << 20, trust_empty: false, seed: 5 };
    assert_eq!(recover(&dirs, &options).unwrap().tree.last_zxid(), Zxid::ZERO);
}
