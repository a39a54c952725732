//! ZooKeeper's vocabulary: ids, records, requests, replies and transactions, and their bytes.
//!
//! Everything here is data. This crate does not know that there is a tree, a role or a socket; it turns
//! bytes into types and back, never panics on bytes and never allocates by an unchecked length.
//!
//! Start with [`wire`] for the primitives, [`request`] and [`reply`] for what travels on the client port,
//! [`txn`] for what the transaction log holds, [`peer`] for what servers say to each other.

#![deny(clippy::as_conversions)]

pub mod acl;
pub mod address;
pub mod codes;
pub mod ensemble;
pub mod frame;
pub mod ids;
pub mod path;
pub mod peer;
pub mod reply;
pub mod request;
pub mod session;
pub mod stat;
pub mod txn;
pub mod wire;

pub use acl::{Acl, AclList};
pub use address::HostPort;
pub use codes::{ErrorCode, EventType, OpCode, perms};
pub use ensemble::{EnsembleConfig, Member, MemberRole};
pub use ids::{Epoch, Round, ServerId, SessionId, Xid, Zxid};
pub use peer::PeerPacket;
pub use reply::{Names, OpResult, Reply, ReplyHeader, WatcherEvent};
pub use request::{Create, CreateMode, MultiHeader, Reconfig, Request, RequestHeader, SetWatches};
pub use session::{ConnectRequest, ConnectResponse, Password};
pub use stat::{Stat, StatPersisted};
pub use txn::{CreateTxn, Txn, TxnDigest, TxnHeader, TxnRecord};
pub use wire::{DecodeError, DecodeErrorKind, Put, Reader};
