//! Every input that was kept, and every seed, once through its target.

use oxkeeper_fuzz::{TARGETS, seeds};

#[test]
fn every_input_that_was_kept_is_still_harmless() {
    let mut runs = 0;
    for (name, target) in TARGETS {
        let bytes = std::fs::metadata(seeds::corpus(name)).unwrap().len();
        assert!(bytes > 0 && bytes <= seeds::CORPUS_BYTES_MAX as u64, "{name}: {bytes} bytes of corpus");
        for (line, input) in seeds::kept(name).iter().enumerate() {
            let ran = std::panic::catch_unwind(|| target(input));
            assert!(ran.is_ok(), "{name} fails on line {} of its corpus", line + 1);
            runs += 1;
        }
        for seed in seeds::of(name) {
            target(&seed);
            runs += 1;
        }
    }
    println!("corpora: {} targets, {runs} inputs", TARGETS.len());
    assert!(runs > 1000, "{runs} inputs are too few");
}
