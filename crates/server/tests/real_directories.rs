//! Every data directory recorded from a real server loads with the tree, the sessions and the digest that
//! the server itself reported.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oxkeeper_node::{OwnerRules, Rules, Schemes, Tree};
use oxkeeper_proto::Zxid;
use oxkeeper_server::{RecoverOptions, Recovered, recover};
use oxkeeper_storage::{Directories, LogReader, ReadLimits, RealDisk, TxnLog, names};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn options() -> RecoverOptions {
    let rules = Rules {
        owners: OwnerRules { extended_types: true, emulate_353: false },
        schemes: Schemes { ip: true, digest: true },
        ..Rules::DEFAULT
    };
    RecoverOptions { rules, record_bytes_max: 2 << 20, trust_empty: false, seed: 5 }
}

fn load(dir: &Path) -> Recovered {
    recover(&Directories::new(Arc::new(RealDisk), dir, dir), &options()).unwrap()
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name).join("expected.json")).unwrap()).unwrap()
}

fn compare(name: &str, tree: &Tree) {
    let expected = expected(name);
    assert_eq!(tree.last_zxid(), Zxid(expected["lastProcessedZxid"].as_i64().unwrap()));
    assert_eq!(tree.digest(), expected["treeDigest"]["value"].as_i64().unwrap());
    assert_eq!(tree.len() as u64, expected["nodeCount"].as_u64().unwrap());
    let mut sessions: Vec<(String, i64)> =
        tree.sessions().map(|(id, timeout)| (id.to_string(), timeout.into())).collect();
    sessions.sort();
    let mut known: Vec<(String, i64)> = expected["sessions"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, t)| (id.clone(), t.as_i64().unwrap()))
        .collect();
    known.sort();
    assert_eq!(sessions, known);
    for (path, node) in expected["tree"].as_object().unwrap() {
        let found = tree.find(path).unwrap_or_else(|| panic!("{path} is missing"));
        let stat = found.stat();
        let number = |key: &str| node["stat"][key].as_i64().unwrap();
        let seen = [
            ("czxid", stat.czxid.0),
            ("mzxid", stat.mzxid.0),
            ("pzxid", stat.pzxid.0),
            ("ctime", stat.ctime),
            ("mtime", stat.mtime),
            ("version", stat.version.into()),
            ("cversion", stat.cversion.into()),
            ("aversion", stat.aversion.into()),
            ("dataLength", stat.data_length.into()),
            ("numChildren", stat.num_children.into()),
            ("ephemeralOwner", stat.ephemeral_owner),
        ];
        for (key, value) in seen {
            assert_eq!(value, number(key), "{key} of {path}");
        }
        let data = STANDARD.decode(node["data"].as_str().unwrap_or_default()).unwrap();
        assert_eq!(found.data().unwrap_or_default(), data, "data of {path}");
        if let Some(is_null) = node["persisted"]["dataIsNull"].as_bool() {
            assert_eq!(found.data().is_none(), is_null, "{path}");
        }
        let acl: Vec<(i64, String, String)> = found
            .acl()
            .unwrap()
            .iter()
            .map(|acl| {
                (
                    acl.perms.into(),
                    acl.scheme.unwrap_or_default().into_owned(),
                    acl.id.unwrap_or_default().into_owned(),
                )
            })
            .collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let known: Vec<(i64, String, String)> = node["acl"]
            .as_array()
            .unwrap()
            .iter()
            .map(|acl| (acl["perms"].as_i64().unwrap(), text(&acl["scheme"]), text(&acl["id"])))
            .collect();
        assert_eq!(acl, known, "list of {path}");
    }
}

#[test]
fn every_kind_of_transaction() {
    let found = load(&fixture("datadir-3.8.0"));
    assert_eq!((found.snapshot, found.replayed, found.digest_mismatches), (Some(Zxid(0x42)), 0x54 - 0x42, 0));
    compare("datadir-3.8.0", &found.tree);
}

#[test]
fn every_transaction_digest_from_the_first_snapshot_on() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("version-2");
    std::fs::create_dir(&to).unwrap();
    for name in ["snapshot.0", "log.1", "log.43"] {
        std::fs::copy(fixture("datadir-3.8.0/version-2").join(name), to.join(name)).unwrap();
    }
    let found = load(dir.path());
    assert_eq!((found.replayed, found.digest_mismatches), (0x54, 0));
    compare("datadir-3.8.0", &found.tree);
}

/// ZOOKEEPER-3127, 3144, 3145: what a snapshot had seen of a multi, of sessions and of one that was closed came out of
/// step with what was replayed over it.
#[test]
fn fuzzy_snapshot_with_a_long_window() {
    let found = load(&fixture("datadir-3.8.0-fuzzy"));
    assert_eq!(found.digest_mismatches, 0);
    compare("datadir-3.8.0-fuzzy", &found.tree);
}

#[test]
fn snapshot_that_lacks_a_list_and_stops_java() {
    let found = load(&fixture("datadir-3.8.0-fuzzy-acl-hole"));
    assert_eq!(found.digest_mismatches, 0);
    assert_eq!(found.tree.unreadable(), Vec::<String>::new(), "replay brings every list");
    compare("datadir-3.8.0-fuzzy-acl-hole", &found.tree);
}

#[test]
fn member_of_an_ensemble() {
    let found = load(&fixture("datadir-3.8.0-ensemble"));
    assert_eq!((found.tree.last_zxid(), found.digest_mismatches), (Zxid(0x1_0000_0095), 0));
}

#[test]
fn directory_made_from_the_description() {
    let found = load(&fixture("datadir-independent-writer"));
    assert_eq!((found.tree.last_zxid(), found.tree.digest()), (Zxid(0xc), 18_812_564_969));
    assert_eq!(found.digest_mismatches, 0);
}

#[test]
fn packed_snapshots() {
    for name in ["snapshot.54.gz", "snapshot.54.snappy"] {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("version-2");
        std::fs::create_dir(&to).unwrap();
        std::fs::copy(fixture("snapshots-compressed-3.8.0").join(name), to.join(name)).unwrap();
        let found = load(dir.path());
        assert_eq!((found.snapshot, found.replayed), (Some(Zxid(0x54)), 0));
        compare("datadir-3.8.0", &found.tree);
    }
}

#[test]
fn ttl_nodes_without_their_switch_are_refused() {
    let dir = fixture("datadir-3.8.0");
    let mut options = options();
    options.rules.owners.extended_types = false;
    let error = recover(&Directories::new(Arc::new(RealDisk), &dir, &dir), &options).unwrap_err().to_string();
    assert!(error.contains("/ttl") && error.contains("extendedTypesEnabled"), "{error}");
}

/// What a real server wrote, written again by us, is the same to the byte.
#[test]
fn logs_are_written_as_they_were_read() {
    for name in
        ["datadir-3.8.0", "datadir-3.8.0-fuzzy", "datadir-3.8.0-fuzzy-acl-hole", "datadir-3.8.0-ensemble"]
    {
        let logs = fixture(name).join("version-2");
        for entry in std::fs::read_dir(&logs).unwrap() {
            let path = entry.unwrap().path();
            let Some(first) = names::parse_log(path.file_name().unwrap().to_str().unwrap()) else { continue };
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            std::fs::copy(&path, from.path().join(path.file_name().unwrap())).unwrap();
            let limits = ReadLimits { record_bytes_max: 2 << 20 };
            let mut reader =
                LogReader::after(Arc::new(RealDisk), from.path(), Zxid(first.0 - 1), limits).unwrap();
            let options = oxkeeper_storage::LogOptions { prepare_bytes: 0, sync: false, file_bytes_max: 0 };
            let mut log = TxnLog::new(Arc::new(RealDisk), to.path().to_owned(), options);
            while let Some(record) = reader.next_record().unwrap() {
                let txn = oxkeeper_proto::TxnRecord::decode(record.payload).unwrap();
                let mut again = Vec::new();
                txn.encode(&mut again);
                assert_eq!(again, record.payload, "{} {}", path.display(), record.zxid);
                log.append(record.zxid, &again);
            }
            log.commit().unwrap();
            drop(log);
            let written = std::fs::read(to.path().join(path.file_name().unwrap())).unwrap();
            let original = std::fs::read(&path).unwrap();
            assert_eq!(written, original[..written.len()], "{}", path.display());
            assert!(
                original[written.len()..].iter().all(|b| *b == 0),
                "only preallocated zeros are left out"
            );
        }
    }
}
