//! Agreement: which transactions there are, in which order, and when one is final. Payloads are opaque
//! bytes. This crate does not know what a payload means, nor files, nor sockets.
//!
//! [`solo`] is agreement among one: what is durable is final.

pub mod durable;
pub mod history;
pub mod solo;

pub use durable::{Durable, LinkId, Proposal, Ticket};
pub use history::{History, SyncFacts, SyncPlan};
pub use solo::Solo;
