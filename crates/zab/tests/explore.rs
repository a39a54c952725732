//! Small worlds, explored whole: every order in which messages arrive, timers fire and servers fail.
//!
//! `cargo test -p oxkeeper-zab --test explore -- --nocapture` prints how many states were visited and how deep. More are
//! visited, in an hour rather than in seconds, by
//! `EXPLORE_STATES=3000000 cargo test --release -p oxkeeper-zab --test explore -- --nocapture --test-threads 1`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "explore/agreement.rs"]
mod agreement;
#[path = "explore/election.rs"]
mod election;
#[path = "explore/search.rs"]
mod search;

use agreement::{Agreements, Start};
use election::Elections;
use search::{Bounds, Model, Visited, explore, wander};

/// How many states a test visits: as many as the environment says, else these.
#[allow(clippy::disallowed_methods, reason = "how far a test goes is not the crate's own behaviour")]
fn states_max(usual: usize) -> usize {
    std::env::var("EXPLORE_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn run(name: &str, model: &impl Model, usual: usize) -> Visited {
    let bounds = Bounds { states_max: states_max(usual), recovery_every: 37 };
    match explore(model, bounds) {
        Ok(visited) => {
            let Visited { states, steps, depth, is_whole, recoveries } = visited;
            let whole = if is_whole { "all" } else { "the nearest" };
            println!(
                "{name}: {whole} {states} states, {steps} steps, depth {depth}, {recoveries} recoveries"
            );
            visited
        }
        Err(wrong) => panic!("{name}: {wrong}"),
    }
}

/// Walks through worlds that are too large to be visited whole.
fn walk(name: &str, model: &impl Model, seed: u64, usual: usize) {
    let walks = states_max(usual) / 20;
    match wander(model, seed, walks) {
        Ok(Visited { states, steps, depth, .. }) => {
            println!("{name}: {walks} walks, {states} states, {steps} steps, depth {depth}");
        }
        Err(wrong) => panic!("{name}: {wrong}"),
    }
}

const QUIET: Elections =
    Elections { disks: Vec::new(), resends: 0, resigns: 0, crashes: 0, cuts: 0, commits: 0, wipes: 0 };

/// What a server has that was never started.
const NOTHING: (i64, i64) = (-1, 0);

#[test]
fn two_servers_with_everything_that_can_go_wrong() {
    let disks = vec![(1, 9), (2, 5)];
    run("two servers", &Elections { disks, resends: 2, resigns: 2, crashes: 1, cuts: 1, ..QUIET }, 20_000);
}

#[test]
fn three_equal_servers() {
    run("three equal servers", &Elections { disks: vec![(0, 0); 3], ..QUIET }, 20_000);
}

#[test]
fn three_servers_of_which_the_one_with_the_smallest_id_knows_most() {
    let disks = vec![(2, 7), (1, 9), (1, 5)];
    run("three servers", &Elections { disks, resigns: 1, ..QUIET }, 20_000);
}

#[test]
fn three_servers_and_a_crash() {
    let disks = vec![(1, 7), (1, 7), (2, 1)];
    run("three servers and a crash", &Elections { disks, crashes: 1, ..QUIET }, 20_000);
}

#[test]
fn three_servers_and_a_broken_link() {
    let disks = vec![(1, 7), (1, 9), (1, 5)];
    run("three servers and a broken link", &Elections { disks, cuts: 1, resends: 1, ..QUIET }, 20_000);
}

#[test]
fn three_servers_start_for_the_first_time() {
    run("first start of three", &Elections { disks: vec![NOTHING; 3], cuts: 1, ..QUIET }, 20_000);
}

/// What was agreed outlives the loss of one server's disk.
fn worlds_that_lose_a_disk() -> [Elections; 2] {
    let world = Elections { crashes: 1, commits: 1, wipes: 1, resends: 2, resigns: 1, ..QUIET };
    [vec![(2, 9), (2, 9), (1, 1)], vec![NOTHING; 3]].map(|disks| Elections { disks, ..world.clone() })
}

#[test]
fn a_server_whose_disk_is_lost_does_not_help_to_forget() {
    for (i, world) in (1..).zip(worlds_that_lose_a_disk()) {
        run(&format!("a lost disk in world {i}"), &world, 10_000);
        walk(&format!("a lost disk in world {i}"), &world, i, 20_000);
    }
}

const CALM: Agreements = Agreements {
    starts: Vec::new(),
    leads: 1,
    follows: 3,
    txns: 1,
    crashes: 0,
    resigns: 0,
    snapshots: false,
    change: None,
    hand_overs: 0,
    choices: None,
};

const EMPTY: Start = Start { txns: 0, epoch: 0 };

fn same(txns: u32, servers: usize) -> Vec<Start> {
    vec![Start { txns, epoch: 1 }; servers]
}

/// The first server has what epoch 1 offered and nobody else took; the others went on in epoch 2.
fn with_tail() -> Vec<Start> {
    vec![Start { txns: 3, epoch: 1 }, Start { txns: 1, epoch: 2 }, Start { txns: 1, epoch: 2 }]
}

#[test]
fn two_servers_agree() {
    run("agreement of two", &Agreements { starts: vec![EMPTY; 2], txns: 2, ..CALM }, 20_000);
}

#[test]
fn two_servers_agree_in_spite_of_crashes() {
    let starts = vec![Start { txns: 1, epoch: 1 }, Start { txns: 2, epoch: 1 }];
    let world = Agreements { starts, leads: 2, txns: 2, crashes: 2, ..CALM };
    run("agreement of two with crashes", &world, 20_000);
}

#[test]
fn two_servers_agree_by_snapshots() {
    let starts = vec![Start { txns: 1, epoch: 1 }, Start { txns: 2, epoch: 1 }];
    let world = Agreements { starts, leads: 2, crashes: 1, snapshots: true, ..CALM };
    run("agreement of two by snapshots", &world, 20_000);
}

#[test]
fn three_servers_agree_over_two_epochs() {
    run("agreement of three", &Agreements { starts: same(1, 3), leads: 2, resigns: 1, ..CALM }, 20_000);
}

fn worlds_that_change() -> [Agreements; 3] {
    let changes: [(&[usize], &[usize]); 3] =
        [(&[0, 1], &[0, 1, 2]), (&[0, 1, 2], &[1, 2]), (&[0, 1], &[1, 2])];
    let world = Agreements { starts: same(1, 3), leads: 2, follows: 4, ..CALM };
    changes.map(|change| Agreements { change: Some(change), ..world.clone() })
}

/// A server joins, one leaves, and one takes the place of another; the leader may be the one that leaves.
#[test]
fn three_servers_agree_on_who_they_are() {
    for (i, world) in (1..).zip(worlds_that_change()) {
        run(&format!("reconfiguration {i}"), &world, 10_000);
        let world = Agreements { leads: 3, follows: 6, crashes: 1, resigns: 2, ..world };
        walk(&format!("reconfiguration {i}"), &world, i, 20_000);
    }
}

/// Leadership is handed over, to a server that is there or not; with a crash, or a role left, in between.
#[test]
fn three_servers_agree_while_one_hands_over_to_another() {
    let world = Agreements { starts: same(1, 3), leads: 1, follows: 4, hand_overs: 1, ..CALM };
    run("hand-over", &world, 20_000);
    for (i, (crashes, resigns)) in (1..).zip([(1, 1), (0, 2), (2, 0)]) {
        let world =
            Agreements { leads: 2, follows: 6, txns: 2, hand_overs: 2, crashes, resigns, ..world.clone() };
        walk(&format!("hand-over {i}"), &world, i, 20_000);
    }
}

/// Worlds that are too large to be visited whole. In the last one the second server lacks what the others have agreed
/// on, and is brought level while it may crash.
fn large_worlds() -> Vec<Agreements> {
    let behind = [2, 1, 2].map(|txns| Start { txns, epoch: 1 }).to_vec();
    let world = Agreements { leads: 3, follows: 6, txns: 3, crashes: 2, resigns: 2, ..CALM };
    vec![
        Agreements { starts: vec![EMPTY; 3], ..world.clone() },
        Agreements { starts: with_tail(), ..world.clone() },
        Agreements { starts: with_tail(), snapshots: true, ..world },
        Agreements { starts: behind, leads: 2, follows: 4, crashes: 1, resigns: 1, ..CALM },
    ]
}

#[test]
fn three_servers_agree_whatever_happens() {
    for (i, world) in (1..).zip(large_worlds()) {
        walk(&format!("agreement in world {i}"), &world, i, 20_000);
    }
}

/// Two servers vote, and an oracle lets one of them go on alone when it lacks nothing.
fn worlds_with_an_oracle() -> [Agreements; 3] {
    let world = Agreements { leads: 3, follows: 3, txns: 3, crashes: 2, choices: Some(2), ..CALM };
    let starts = [[1, 1], [1, 2]].map(|txns| txns.map(|txns| Start { txns, epoch: 1 }).to_vec());
    let [equal, behind] = starts.map(|starts| Agreements { starts, ..world.clone() });
    [Agreements { starts: vec![EMPTY; 2], ..world }, equal, Agreements { resigns: 1, ..behind }]
}

#[test]
fn one_of_two_goes_on_alone_when_the_oracle_says_so() {
    for (i, world) in (1..).zip(worlds_with_an_oracle()) {
        run(&format!("oracle {i}"), &world, 10_000);
        walk(&format!("oracle {i}"), &world, i, 20_000);
    }
}

#[cfg(feature = "planted")]
#[test]
fn planted_faults_of_elections_are_found() {
    use oxkeeper_planted::Fault;
    let worlds = [
        (Fault::VoteIgnoresEpoch, Elections { disks: vec![(2, 5), (1, 9)], ..QUIET }, "over one with more"),
        (Fault::OldRoundCounted, Elections { disks: vec![(0, 0); 3], resigns: 1, ..QUIET }, "did not vote"),
        (Fault::HalfIsQuorum, Elections { disks: vec![(0, 0); 2], ..QUIET }, "without a quorum"),
    ];
    for (fault, world, expected) in worlds {
        let bounds = Bounds { states_max: 200_000, recovery_every: usize::MAX };
        let found = oxkeeper_planted::with(fault, || explore(&world, bounds));
        let wrong = found.expect_err(&format!("{fault:?} is not found"));
        assert!(wrong.contains(expected), "{fault:?}: {wrong}");
        explore(&world, Bounds { states_max: 20_000, ..bounds }).unwrap();
    }
    let [world, _] = worlds_that_lose_a_disk();
    let found = oxkeeper_planted::with(Fault::WipedVotes, || wander(&world, 1, 20_000));
    let wrong = found.expect_err("an emptied server that votes is not found");
    assert!(wrong.starts_with("I7"), "{wrong}");
}

#[cfg(feature = "planted")]
#[test]
fn planted_faults_of_agreement_are_found() {
    use oxkeeper_planted::Fault;
    let behind = [2, 1, 2].map(|txns| Start { txns, epoch: 1 }).to_vec();
    let [_, leaving, _] = worlds_that_change();
    let two = Agreements { starts: behind[..2].to_vec(), leads: 2, resigns: 1, ..CALM };
    let equal = Agreements { starts: same(1, 3), snapshots: true, txns: 0, ..two.clone() };
    let three = Agreements { starts: behind, leads: 2, follows: 2, txns: 0, crashes: 1, resigns: 1, ..CALM };
    for (fault, expected, world) in [
        (Fault::AckBeforeSync, "I5", &two),
        (Fault::EpochBeforeHistory, "I7", &three),
        (Fault::EpochAfterAck, "I6", &two),
        (Fault::AcceptedEpochUnsynced, "I2", &two),
        (Fault::PartialSnapshotKept, "I7", &equal),
        (Fault::UncommittedKept, "I3", &two),
        (Fault::JointQuorumSkipped, "I8", &leaving),
    ] {
        let bounds = Bounds { states_max: 1_000_000, recovery_every: 37 };
        let wrong = oxkeeper_planted::with(fault, || explore(world, bounds));
        let wrong = wrong.expect_err(&format!("{fault:?} is not found"));
        println!("{fault:?}: {}", wrong.lines().next().unwrap_or_default());
        assert!(wrong.starts_with(expected), "{fault:?}: {wrong}");
    }
    let fault = Fault::CommitInSyncDropped;
    let wrong = oxkeeper_planted::with(fault, || wander(&large_worlds()[0], 1, 20_000));
    let wrong = wrong.expect_err(&format!("{fault:?} is not found"));
    assert!(wrong.starts_with("I3"), "{fault:?}: {wrong}");
}
