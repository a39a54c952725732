//! The tools, as an operator runs them, on files that real servers wrote.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures").join(name)
}

/// The exit code and what was printed.
fn run(arguments: &[&str]) -> (i32, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_oxkeeper")).args(arguments).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8(done.stderr).unwrap();
    (done.status.code().unwrap(), text)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn logs_are_shown_verified_chopped_and_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.1");
    fs::copy(fixture("datadir-3.8.0/version-2/log.1"), &log).unwrap();
    let before = fs::read(&log).unwrap();
    let (code, shown) = run(&["log", "show", text(&log)]);
    assert_eq!((code, shown.lines().count()), (0, 66));
    assert!(
        shown.contains(r#"zxid 0x2 create "/app" 5 bytes, parent's cversion 1 digest 1845409461"#),
        "{shown}"
    );
    let (code, shown) = run(&["log", "show", "--json", text(&log)]);
    assert_eq!(code, 0);
    let second: serde_json::Value = serde_json::from_str(shown.lines().nth(1).unwrap()).unwrap();
    assert_eq!((second["zxid"].as_str(), second["txn"]["path"].as_str()), (Some("0x2"), Some("/app")));
    let (code, found) = run(&["log", "verify", text(&log)]);
    assert!(
        code == 0 && found.contains("sound, 66 transactions, 0x1 to 0x42, 57844 bytes of padding"),
        "{found}"
    );

    let (code, said) = run(&["log", "chop", text(&log), "0x10"]);
    assert_eq!(code, 0, "{said}");
    let (_, found) = run(&["log", "verify", text(&dir.path().join("log.1.chopped16"))]);
    assert!(found.contains("sound, 16 transactions, 0x1 to 0x10"), "{found}");
    assert_eq!(run(&["log", "chop", text(&log), "0x10"]).0, 1, "nothing is overwritten");
    assert_eq!(run(&["log", "chop", text(&log), "0x4000"]).0, 1, "it does not reach so far");
    assert_eq!(fs::read(&log).unwrap(), before, "the log itself is never written");

    let mut damaged = before.clone();
    damaged[90] ^= 1;
    fs::write(&log, damaged).unwrap();
    let (code, found) = run(&["log", "verify", text(&log)]);
    assert!(code == 1 && found.contains("at offset 77: 0x2: the checksum is wrong"), "{found}");
    let (code, said) = run(&["log", "repair", text(&log)]);
    assert!(
        code == 0 && said.contains("66 transactions written") && said.contains("1 of them with new seals"),
        "{said}"
    );
    let (code, found) = run(&["log", "verify", text(&dir.path().join("log.1.fixed"))]);
    assert!(code == 0 && found.contains("sound, 66 transactions"), "{found}");
}

#[test]
fn snapshots_are_shown_verified_compared_and_counted() {
    let packed = fixture("snapshots-compressed-3.8.0");
    let (gz, snappy) = (packed.join("snapshot.54.gz"), packed.join("snapshot.54.snappy"));
    let old = fixture("datadir-3.8.0/version-2/snapshot.42");
    for file in [&gz, &snappy, &old] {
        let (code, found) = run(&["snapshot", "verify", text(file)]);
        assert!(code == 0 && found.contains("digest: right"), "{found}");
    }
    assert_eq!(run(&["snapshot", "compare", text(&gz), text(&snappy)]).0, 0);
    let (code, found) = run(&["snapshot", "compare", text(&old), text(&gz)]);
    assert!(code == 1 && found.contains("33 and 41 znodes"), "{found}");
    let (code, shown) = run(&["snapshot", "show", "--data", text(&gz)]);
    assert!(
        code == 0 && shown.starts_with("ZNode Details (count=41):") && shown.contains("Session Details"),
        "{shown}"
    );
    let (code, counted) = run(&["snapshot", "summary", text(&gz), "/", "1"]);
    assert!(code == 0 && counted.starts_with("\"/\"\n   children: 40\n"), "{counted}");

    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("snapshot.42");
    let mut bytes = fs::read(&old).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&copy, bytes).unwrap();
    let (code, found) = run(&["snapshot", "verify", text(&copy)]);
    assert!(code == 1 && found.contains("DAMAGED"), "{found}");
}

#[test]
fn purge_keeps_what_a_recovery_needs() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("version-2");
    fs::create_dir(&files).unwrap();
    let snapshot = fs::read(fixture("datadir-3.8.0/version-2/snapshot.42")).unwrap();
    for zxid in [1, 2, 3, 4, 5] {
        fs::write(files.join(format!("snapshot.{zxid}")), &snapshot).unwrap();
        fs::write(files.join(format!("log.{zxid}")), b"ZKLG").unwrap();
    }
    let names = || {
        let mut names: Vec<String> =
            fs::read_dir(&files).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(run(&["purge", text(dir.path()), "-n", "2"]).0, 2, "fewer than three is a wrong usage");
    let (code, said) = run(&["purge", text(dir.path()), "--dry-run"]);
    assert!(code == 0 && said.lines().count() == 4 && names().len() == 10, "{said}");
    assert_eq!(run(&["purge", text(dir.path())]).0, 0);
    assert_eq!(names(), ["log.3", "log.4", "log.5", "snapshot.3", "snapshot.4", "snapshot.5"]);
}

#[test]
fn initialize_and_digest_do_what_javas_scripts_do() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = dir.path().join("zoo.cfg");
    fs::write(&config, format!("dataDir={}\nclientPort=2181\n", data.display())).unwrap();
    let (code, said) = run(&["initialize", "--configfile", text(&config), "--myid", "7"]);
    assert!(code == 0 && said.contains("Using myid of 7"), "{said}");
    assert_eq!(fs::read_to_string(data.join("myid")).unwrap(), "7\n");
    assert!(data.join("version-2").is_dir() && data.join("initialize").is_file());
    let (code, said) = run(&["initialize", "--configfile", text(&config)]);
    assert!(code == 1 && said.contains("Data directories already exist, use --force to re-create"), "{said}");
    fs::write(data.join("version-2/old"), b"x").unwrap();
    assert_eq!(run(&["initialize", "--configfile", text(&config), "--force"]).0, 0);
    assert!(!data.join("version-2/old").exists());
    let (code, said) = run(&["digest", "super:test"]);
    assert_eq!((code, said.as_str()), (0, "super:test->super:D/InIHSb7yEEbrWz8b9l71RjZJU=\n"));
}
