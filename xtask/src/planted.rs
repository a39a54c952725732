//! Grades the tests: every fault that can be planted must be found by a test that is named for it.
//!
//! One build holds all faults; the environment variable of [`oxkeeper_planted`](../oxkeeper_planted/index.html) chooses
//! one for each run of a test program.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// Where a test is: its crate, `lib` or the name of its file under `tests`, and its path within.
type Test = (&'static str, &'static str, &'static str);

const CRASH: Test = ("server", "lib", "crash_points::what_was_acknowledged_outlives_a_crash_at_every_step");

const ELECTION: Test = ("zab", "election_scripts", "every_script_ends_as_it_says");
const STORIES: Test = ("zab", "agreement_scripts", "every_script_ends_as_it_says");
const AGREEMENT: Test = ("zab", "explore", "three_servers_agree_whatever_happens");
const QUORUMS: Test = ("zab", "lib", "quorum::tests::any_two_quorums_of_any_groups_and_weights_intersect");
const LOST_DISK: Test = ("zab", "explore", "a_server_whose_disk_is_lost_does_not_help_to_forget");

/// The number of each fault, what it is, and the tests that are to find it. The first of them that fails has found it.
const FAULTS: &[(u32, &str, &[Test])] = &[
    (0, "the canary: nothing is wrong but the test itself", &[("planted", "lib", "tests::canary")]),
    (
        1,
        "a reply before the sync",
        &[CRASH, ("node", "node", "nothing_is_acknowledged_before_it_is_durable")],
    ),
    (2, "an acknowledgement before the sync", &[AGREEMENT]),
    (3, "NEWLEADER acknowledged before the history is durable", &[AGREEMENT]),
    (4, "the current epoch written before the history", &[STORIES]),
    (5, "the current epoch written after the acknowledgement", &[AGREEMENT]),
    (6, "a promise that is not synced", &[AGREEMENT]),
    (8, "a failed sync tried again", &[CRASH]),
    (
        10,
        "a torn record taken for whole",
        &[
            CRASH,
            (
                "storage",
                "lib",
                "logread::tests::every_flipped_byte_in_the_last_batch_is_a_tear_and_none_is_served",
            ),
        ],
    ),
    (
        11,
        "damage in the middle taken for the end",
        &[("storage", "lib", "logread::tests::damage_before_more_than_a_batch_is_refused_by_name")],
    ),
    (
        12,
        "a snapshot used without its checksum",
        &[("storage", "lib", "snapread::tests::no_flipped_byte_changes_what_is_read")],
    ),
    (13, "a snapshot kept that came in part", &[STORIES]),
    (14, "a hole in the recent proposals", &[STORIES]),
    (15, "a COMMIT dropped before UPTODATE", &[AGREEMENT]),
    (16, "a learner told of proposals one too late", &[STORIES]),
    (17, "uncommitted proposals kept over an election", &[STORIES]),
    (18, "votes compared without their epoch", &[ELECTION]),
    (19, "votes of an old round counted", &[ELECTION]),
    (20, "a malformed notification ends the receiver", &[ELECTION]),
    (21, "half taken for a quorum", &[ELECTION]),
    (22, "an observer that counts", &[STORIES]),
    (23, "a reconfiguration agreed by the old voters alone", &[STORIES]),
    (24, "a sync without asking a quorum", &[STORIES]),
    (
        33,
        "a creation counted twice in replay",
        &[("server", "real_directories", "fuzzy_snapshot_with_a_long_window")],
    ),
    (
        34,
        "access control lists of another moment",
        &[("tree", "walk", "lists_in_a_snapshot_are_those_of_the_moment_at_which_it_began")],
    ),
    (
        35,
        "a purge that counts broken snapshots",
        &[("storage", "lib", "purge::tests::incomplete_snapshots_do_not_count")],
    ),
    (
        36,
        "expiry by the time of day",
        &[
            ("node", "node", "no_session_minds_when_somebody_sets_the_clock"),
            ("node", "sessions", "sessions_live_and_end_as_a_list_says"),
        ],
    ),
    (37, "an emptied server that votes", &[LOST_DISK]),
    (
        38,
        "an outbox without bound",
        &[("node", "node", "a_client_that_takes_nothing_is_not_answered_any_more")],
    ),
    (39, "a timer of an old role that acts", &[STORIES]),
    (
        43,
        "a server that only lets read and does not say so",
        &[("node", "ensemble_local", "a_server_without_a_leader_lets_those_read_who_asked_for_it")],
    ),
    (50, "weights ignored within a group", &[QUORUMS]),
    (51, "groups ignored", &[QUORUMS]),
    (52, "a server of no weight that insists on itself", &[ELECTION]),
    (53, "an oracle's yes to both of two voters", &[STORIES]),
    (54, "an oracle that is asked beside a follower", &[STORIES]),
    (55, "with an oracle, one epoch for both", &[STORIES]),
    (46, "observers told by a follower of what is only offered", &[STORIES]),
    (47, "observers of a follower not told of what was on its way before", &[STORIES]),
];

/// A number that no fault has: the run that must find nothing.
const NONE: u32 = u32::MAX;

pub(crate) fn run() -> anyhow::Result<()> {
    let programs = build()?;
    let mut sound = 0;
    for test in FAULTS.iter().flat_map(|(.., tests)| tests.iter()) {
        ensure!(passes(&programs, test, NONE)?, "{} fails with no fault planted", test.2);
        sound += 1;
    }
    println!("with no fault planted: {sound} of {sound} tests pass");
    let mut survivors = Vec::new();
    for (number, what, tests) in FAULTS {
        let mut finder = None;
        for test in *tests {
            if !passes(&programs, test, *number)? {
                finder = Some(test.2);
                break;
            }
        }
        match finder {
            Some(test) => println!("{number:>3} {what}: found by {test}"),
            None => survivors.push(format!("{number} {what}")),
        }
    }
    // The canary is no fault.
    let faults = FAULTS.iter().filter(|(number, ..)| *number > 0).count();
    println!("planted bugs found: {} of {faults}", faults.saturating_sub(survivors.len()));
    if !survivors.is_empty() {
        bail!("not found: {}", survivors.join(", "));
    }
    Ok(())
}

/// Test programs by crate and name.
type Programs = BTreeMap<(String, String), PathBuf>;

/// Builds the tests of all crates concerned, with all faults in them.
fn build() -> anyhow::Result<Programs> {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args([
        "test",
        "--locked",
        "--no-run",
        "--lib",
        "--tests",
        "--features",
        "oxkeeper-planted/planted",
    ]);
    for name in ["planted", "storage", "tree", "zab", "node", "server"] {
        cargo.args(["-p", &format!("oxkeeper-{name}")]);
    }
    let output = cargo.stderr(Stdio::piped()).output().context("cargo test --no-run")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tests do not build with the faults:\n{text}");
    Ok(text.lines().filter_map(program).collect())
}

/// Of `Executable unittests src/lib.rs (…/oxkeeper_tree-0123)` or `Executable tests/walk.rs (…/walk-0123)`, in the order
/// in which cargo tells them: `tests` do not name their crate, so their file is looked up.
fn program(line: &str) -> Option<((String, String), PathBuf)> {
    let (what, path) = line.trim().strip_prefix("Executable ")?.strip_suffix(')')?.split_once(" (")?;
    let stem = path.rsplit('/').next()?.rsplit_once('-')?.0;
    let (owner, name) = match what.strip_prefix("tests/") {
        None => (stem.strip_prefix("oxkeeper_")?.to_owned(), "lib".to_owned()),
        Some(file) => (owner(file)?, stem.to_owned()),
    };
    Some(((owner, name), PathBuf::from(path)))
}

/// The crate that has a file of this name among its tests.
fn owner(file: &str) -> Option<String> {
    let crates = std::fs::read_dir("crates").ok()?.flatten();
    let mut owners = crates.filter(|entry| entry.path().join("tests").join(file).exists());
    owners.next()?.file_name().into_string().ok()
}

/// Whether a test passes with a fault planted.
///
/// # Errors
/// There is no such test, or its program ended in another way than by a verdict.
fn passes(programs: &Programs, (owner, name, path): &Test, fault: u32) -> anyhow::Result<bool> {
    let key = ((*owner).to_owned(), (*name).to_owned());
    let program =
        programs.get(&key).with_context(|| format!("no test program {name} of {owner} was built"))?;
    let output = Command::new(std::path::absolute(program)?)
        .args(["--exact", path])
        .current_dir(format!("crates/{owner}"))
        .env("OXKEEPER_PLANTED", fault.to_string())
        .output()
        .with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("running 1 test"), "there is no test {path} in {name} of {owner}");
    let (ok, failed) = (
        text.contains("test result: ok. 1 passed"),
        text.contains("test result: FAILED. 0 passed; 1 failed"),
    );
    ensure!(ok != failed, "{path} has no verdict:\n{text}");
    Ok(ok)
}
