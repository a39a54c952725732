//! Agreement: which transactions there are, in which order, and when one is final. Payloads are opaque
//! bytes. This crate does not know what a payload means, nor files, nor sockets.
//!
//! [`solo`] is agreement among one: what is durable is final.

pub mod durable;
pub mod packet;
pub mod solo;

pub use durable::{Durable, Proposal, Ticket};
pub use packet::{LearnerInfo, Notification, PeerPacket, ServerState};
pub use solo::Solo;
