//! Agreement: which transactions there are, in which order, and when one is final. Payloads are opaque
//! bytes; that one of them changes the ensemble is said beside it. This crate does not know what a payload means, nor
//! files, nor sockets.
//!
//! [`solo`] is agreement among one: what is durable is final. [`agreement`] is one server's part among many; it
//! composes the [`election`] and the roles of a leader and of a learner. [`history`] decides how a learner is brought
//! level.

pub mod agreement;
mod common;
pub mod durable;
pub mod election;
pub mod history;
mod leader;
mod learner;
mod level;
mod masters;
pub mod quorum;
pub mod solo;
pub mod vote;

pub use agreement::{Agreement, Setup};
pub use common::{Action, EnsembleChange, Limits, PeerPort};
pub use durable::{Durable, LinkId, Proposal, Ticket};
pub use election::Timing;
pub use history::{History, SyncFacts, SyncPlan};
pub use leader::HandOverRefused;
pub use masters::ObserverMasters;
pub use quorum::{Oracle, Quorums, Tracker};
pub use solo::Solo;
pub use vote::{Ballot, Rank, Vote};
