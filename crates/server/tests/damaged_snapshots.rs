//! Snapshots that are damaged: none is believed, none is passed over if what it held is nowhere else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxkeeper_node::Rules;
use oxkeeper_proto::Zxid;
use oxkeeper_server::{RecoverOptions, Recovered, recover};
use oxkeeper_storage::{Directories, MemoryDisk, RealDisk, StorageError};

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

#[test]
fn empty_directory_is_an_empty_tree() {
    let dirs = Directories::new(Arc::new(MemoryDisk::default()), Path::new("/"), Path::new("/"));
    let options =
        RecoverOptions { rules: Rules::DEFAULT, record_bytes_max: 1 << 20, trust_empty: false, seed: 5 };
    assert_eq!(recover(&dirs, &options).unwrap().tree.last_zxid(), Zxid::ZERO);
}
