//! Leaders that hand over in calm runs: they do, nobody notices, and a write that takes too long would be found.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use oxkeeper_sim::history::Outcome;
use oxkeeper_sim::operator::{GAP_MAX, check_gap};
use oxkeeper_sim::{Profile, checker, record, run};

#[test]
fn leaders_hand_over_and_no_write_takes_long() {
    let mut begun = 0;
    for seed in 0..6 {
        let report = run(seed, Profile::CalmHandOver, 0);
        assert_eq!(report.violation, None, "replay: oxkeeper-sim --seed {seed} --profile calm-hand-over");
        begun += report.counts.hand_overs;
    }
    assert!(begun > 10, "{begun}");
}

#[test]
fn a_write_that_takes_too_long_is_found() {
    let truth = record(1, Profile::CalmHandOver);
    assert!(check_gap(&truth.history).unwrap() > 0);
    let writes = |call: &&mut oxkeeper_sim::history::Call| checker::is_write(call.op);
    let mut lie = truth.history.clone();
    let call = lie.calls.iter_mut().filter(writes).find(|call| call.told().is_some()).unwrap();
    let invoked = call.invoked;
    if let Outcome::Told(told) = &mut call.result {
        told.at = invoked + GAP_MAX + 1;
    }
    assert!(check_gap(&lie).is_err());
}
