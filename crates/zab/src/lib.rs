//! Agreement: which transactions there are, in which order, and when one is final. Payloads are opaque
//! bytes. This crate does not know what a payload means, nor files, nor sockets.
//!
//! [`solo`] is agreement among one: what is durable is final.

pub mod solo;

pub use solo::{Proposal, Solo};
