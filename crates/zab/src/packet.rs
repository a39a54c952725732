//! What travels between a leader and a learner, as values. The bytes are the codec's affair.

use bytes::Bytes;
use oxkeeper_proto::{Epoch, ServerId, SessionId, Zxid};

/// How a learner introduces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnerInfo {
    /// Who it is.
    pub server: ServerId,
    /// The version of its committed configuration.
    pub config_version: Zxid,
}

/// A packet. Source: `Leader`, `QuorumPacket`, 3.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPacket {
    /// A learner passes a client's write or sync on.
    Request {
        /// Session, cxid, operation and record, as they travel.
        data: Bytes,
        /// Schemes and ids of the client.
        identities: Vec<(String, String)>,
    },
    /// A transaction is offered.
    Proposal {
        /// Its place.
        zxid: Zxid,
        /// The record.
        txn: Bytes,
    },
    /// It is durable here; with a counter of 0: so is all that came before NEWLEADER.
    Ack {
        /// Which.
        zxid: Zxid,
    },
    /// A transaction is final.
    Commit {
        /// Which.
        zxid: Zxid,
    },
    /// Are you there; and the answer.
    Ping {
        /// The leader's newest proposal; echoed.
        zxid: Zxid,
        /// Sessions heard of since the last answer, and their timeouts in ms.
        touched: Vec<(SessionId, i32)>,
    },
    /// Does this session live?
    Revalidate {
        /// Which.
        session: SessionId,
        /// Its timeout in ms.
        timeout_ms: i32,
    },
    /// The answer to [`PeerPacket::Revalidate`].
    Revalidated {
        /// Which.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// The oldest sync is done.
    Sync,
    /// A transaction is final; with its content, for observers.
    Inform {
        /// Its place.
        zxid: Zxid,
        /// The record.
        txn: Bytes,
    },
    /// A reconfiguration is final.
    CommitAndActivate {
        /// Which.
        zxid: Zxid,
        /// Who leads from now on.
        leader: ServerId,
    },
    /// The same, with its content, for observers.
    InformAndActivate {
        /// Its place.
        zxid: Zxid,
        /// Who leads from now on.
        leader: ServerId,
        /// The record.
        txn: Bytes,
    },
    /// The history of the new epoch is complete.
    NewLeader {
        /// Epoch and a counter of 0.
        zxid: Zxid,
        /// The leader's last seen configuration; empty if it is not told.
        config: Bytes,
    },
    /// A voting learner introduces itself.
    FollowerInfo {
        /// The epoch it has promised.
        accepted: Epoch,
        /// Who.
        info: LearnerInfo,
    },
    /// An observer introduces itself.
    ObserverInfo {
        /// The epoch it has promised.
        accepted: Epoch,
        /// Who.
        info: LearnerInfo,
    },
    /// The new epoch.
    LeaderInfo {
        /// It.
        epoch: Epoch,
    },
    /// The epoch is promised.
    AckEpoch {
        /// The newest transaction in the log.
        last: Zxid,
        /// The current epoch; `None` if the promise was made before.
        current: Option<Epoch>,
    },
    /// You may serve.
    UpToDate,
    /// You lack nothing, or what follows.
    Diff {
        /// The end of what follows.
        zxid: Zxid,
    },
    /// Forget what is after this.
    Trunc {
        /// It.
        zxid: Zxid,
    },
    /// A snapshot follows.
    Snap {
        /// The last transaction in it.
        zxid: Zxid,
    },
}

/// What a server is doing, as notifications say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ServerState {
    Looking,
    Following,
    Leading,
    Observing,
}

/// A vote, as it travels. Source: `FastLeaderElection.Notification`, 3.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What the sender is doing.
    pub state: ServerState,
    /// Whom it prefers or follows.
    pub leader: ServerId,
    /// The newest transaction of the preferred leader.
    pub zxid: Zxid,
    /// The round of the election.
    pub round: i64,
    /// The current epoch of the preferred leader.
    pub peer_epoch: Epoch,
    /// The sender's committed configuration.
    pub config: Bytes,
}
