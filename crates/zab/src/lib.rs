//! Agreement: which transactions there are, in which order, and when one is final. Payloads are opaque
//! bytes. This crate does not know what a payload means, nor files, nor sockets.
//!
//! [`solo`] is agreement among one: what is durable is final.

pub mod durable;
pub mod election;
pub mod history;
pub mod quorum;
pub mod solo;
pub mod vote;

pub use durable::{Durable, LinkId, Proposal, Ticket};
pub use history::{History, SyncFacts, SyncPlan};
pub use quorum::{Oracle, Quorums, Tracker};
pub use solo::Solo;
pub use vote::{Ballot, Rank, Vote};
