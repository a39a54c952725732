//! ZooKeeper's vocabulary: ids, records, requests, replies and transactions, and their bytes.
//!
//! Everything here is data. This crate does not know that there is a tree, a role or a socket; it turns
//! bytes into types and back, never panics on bytes and never allocates by an unchecked length.
//!

pub mod ids;
pub mod wire;

pub use ids::{Epoch, ServerId, SessionId, Xid, Zxid};
pub use wire::{DecodeError, DecodeErrorKind, Put, Reader};
