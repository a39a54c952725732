//! A seed names a run for good: the same seed gives the same events, one by one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use oxkeeper_sim::{Profile, run};

#[test]
fn fifty_seeds_run_twice_are_the_same_runs() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let (first, second) = (run(seed, Profile::Mixed, 0), run(seed, Profile::Mixed, 0));
        assert_eq!(first.violation, None, "replay: oxkeeper-sim --seed {seed} --profile mixed");
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 50, "and each is another run");
}

#[test]
fn putting_a_run_into_words_does_not_change_it() {
    let (silent, told) = (run(3, Profile::Ensemble, 0), run(3, Profile::Ensemble, 10_000));
    assert_eq!(silent.hash, told.hash);
    assert!(told.trace.len() > 1000 && silent.trace.is_empty());
}
