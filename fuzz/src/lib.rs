//! Fuzz targets for whatever reads bytes that somebody else wrote: the network's, the disk's, and an operator's.
//!
//! Every target is a plain function from bytes, so that libFuzzer can look for inputs (`run.sh`) and an ordinary
//! `cargo test` replays the ones that were kept. No target may panic, hold more memory than [`bounds::within`] allows, or
//! take long; what decodes must encode to something that decodes to the same.
//!
//! Start with [`TARGETS`].

/// Decodes within bounds, encodes, decodes again: the same must come, and the same bytes from it. The way to decode is
/// written down twice by this, once for each length of life of the bytes.
macro_rules! round_trip {
    ($bytes:expr, |$input:ident| $decode:expr) => {{
        let $input: &[u8] = $bytes;
        if let Ok(value) = $crate::bounds::within($input.len(), 0, || $decode) {
            let (mut once, mut twice) = (Vec::new(), Vec::new());
            value.encode(&mut once);
            let $input: &[u8] = &once;
            match $decode {
                Ok(again) => {
                    assert_eq!(again, value);
                    again.encode(&mut twice);
                }
                Err(error) => panic!("{value:?} was encoded and cannot be read: {error}"),
            }
            assert_eq!(once, twice, "{value:?}");
        }
    }};
}

pub mod bounds;
mod dialogue;
mod node;
mod peers;
pub mod seeds;
mod storage;
mod text;
mod wire;

pub use dialogue::learners_and_leaders as f09_dialogue;
pub use node::clients as f20_node;
pub use peers::{initial as f06_initial, notifications as f07_notifications, quorum as f08_quorum};
pub use storage::{
    log as f11_log, small_files as f13_small_files, snapshot as f12_snapshot,
    transactions as f10_transactions,
};
pub use text::{acls as f17_acl, addresses as f15_addresses, config as f14_config, paths as f16_paths};
pub use wire::{
    frames as f05_frames, multis as f04_multi, replies as f02_replies, requests as f01_requests,
    sessions as f03_sessions,
};

/// A name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The numbers are those of the test programme.
pub const TARGETS: [Target; 18] = [
    ("f01_requests", f01_requests),
    ("f02_replies", f02_replies),
    ("f03_sessions", f03_sessions),
    ("f04_multi", f04_multi),
    ("f05_frames", f05_frames),
    ("f06_initial", f06_initial),
    ("f07_notifications", f07_notifications),
    ("f08_quorum", f08_quorum),
    ("f09_dialogue", f09_dialogue),
    ("f10_transactions", f10_transactions),
    ("f11_log", f11_log),
    ("f12_snapshot", f12_snapshot),
    ("f13_small_files", f13_small_files),
    ("f14_config", f14_config),
    ("f15_addresses", f15_addresses),
    ("f16_paths", f16_paths),
    ("f17_acl", f17_acl),
    ("f20_node", f20_node),
];
