//! Durable work: what a server must have on its disk before it may say certain things.

use std::sync::Arc;

use bytes::Bytes;
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, Zxid};

/// The driver's name for a connection of the quorum port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// The number of a piece of durable work. They rise by one, in the order in which the work must be done; a driver
/// that reports one reports all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// The ticket after this one.
    #[must_use]
    pub fn next(self) -> Ticket {
        Ticket(self.0 + 1)
    }
}

/// A transaction offered: encoded once, shared by log, history and peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Its place in the order.
    pub zxid: Zxid,
    /// The record as the log holds it.
    pub payload: Bytes,
}

impl Proposal {
    /// The packet that offers it.
    pub(crate) fn offer(&self) -> PeerPacket {
        PeerPacket::Proposal { zxid: self.zxid, txn: self.payload.clone() }
    }
}

/// Something to make durable: file contents and, where a name is new, the directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Durable {
    /// Add a transaction to the end of the log.
    Append(Proposal),
    /// Remove every transaction after this one from the log, and every snapshot newer than it: also one that is still
    /// being written must never get its name. If no older snapshot is whole, nothing is removed, and
    /// [`Agreement::cannot_truncate`](crate::Agreement::cannot_truncate) tells of it.
    Truncate(Zxid),
    /// Replace the file `acceptedEpoch`.
    AcceptedEpoch(Epoch),
    /// Replace the file `currentEpoch`.
    CurrentEpoch(Epoch),
    /// The snapshot whose slices are being handed over is whole and has its final name; after that newer snapshots, every
    /// log file and older snapshots are removed, in this order: no start takes what was never agreed for the state, and
    /// no later DIFF is read across the gap between the old log and the snapshot. Until then what was there stays: it was
    /// acknowledged.
    InstallSnapshot(Zxid),
    /// Write a configuration: the file `.next` if it is only seen, the dynamic file and the static file's pointer
    /// to it if it is committed.
    Config {
        /// Whether it is in force.
        committed: bool,
        /// It.
        config: Arc<EnsembleConfig>,
    },
}
