//! What passes between a node and its driver about the other servers of an ensemble.
//!
//! # The contract
//!
//! *Notifications* travel by server, may be lost, doubled and late; only the newest to a server matters. *Links* are
//! the connections of the quorum port, and of the port at which followers serve observers. Each is a FIFO: packets go
//! out in the order in which they stand in [`PeerEffects::links`], and come in by
//! [`Input::Packet`](crate::Input::Packet). A link is one of two kinds: *accepted*, by a server whose quorum port is
//! open while [`PeerEffects::listen`] said so last, or whose port for observers is, by
//! [`PeerEffects::listen_for_observers`], which has an input of its own; or *dialled*, by [`LinkEffect::Dial`], which
//! the driver answers by `LinkOpened` or `DialFailed` with the same number. The driver
//! names links; it never uses a name again. After [`LinkEffect::Close`] or `LinkClosed` a link is never heard of
//! again on either side; what was sent before a `Close` may be lost. A driver may close a link for reasons of its own
//! (a broken socket, a reader that is too slow); it runs no protocol timers: those are the node's.
//!
//! *Durable work* stands in [`Effects::durable`](crate::Effects::durable) in order, each piece with a ticket that
//! rises by one; `Persisted(ticket)` says that this piece and all before it are on the disk: file contents synced,
//! renames synced by their directory. The driver may batch as it likes but never reorders. A driver that cannot do a
//! piece stops the server, with two exceptions: a snapshot, for which it says `SnapshotFailed` and then, if it
//! was one to install, counts that piece as done; and a truncation that would leave no snapshot to begin from, for which it
//! says `CannotTruncate`, and then counts that as done. A crash may fall between any two pieces.
//!
//! *Snapshots to a link.* After `Send(Snap)` the node gives one [`LinkEffect::Snapshot`] slice; the driver says
//! `LinkWritable` when it has taken it over far enough to want the next one. Packets for the link that stand behind
//! the snapshot are held back by the node. *Snapshots from a link* come as `Snapshot` items, in the order of the
//! stream, between the packet `Snap` and the next packet.
//!
//! *A received snapshot on disk* is written like any other one, by [`SnapshotStep`](crate::SnapshotStep)s, but its
//! end is a piece of durable work: [`Durable::InstallSnapshot`](oxkeeper_zab::Durable::InstallSnapshot), whose ticket
//! is due when the snapshot has its final name, and the log files before it are gone. It may be older than others that
//! are still there, so nothing is purged in between. `SnapshotStep::Abandon` means that
//! the unfinished file is to be removed. Steps of snapshots that were handed over before a
//! [`Durable::Truncate`](oxkeeper_zab::Durable::Truncate) are carried out before it: a snapshot that became whole behind
//! it would bring back what was taken.
//!
//! A crash may keep a driver from removing the log files. A start that begins with a snapshot and finds in the log neither
//! its transaction nor a later one removes them then: what is logged next must not seem to go on from them.
//!
//! *Tasks* take long and end with an input of their own. [`Task::ReadLog`] ends with `LogRead`, [`Task::Reload`] with
//! `Reloaded`. They see all durable work that was handed over before them.
//!
//! *The start.* [`Node::member`](crate::Node::member) makes a server of an ensemble of what
//! recovery found; it is looking for a leader from its first step on. What recovery may find after a crash: a log
//! whose last transaction is of a later epoch than `currentEpoch` (a synchronization was cut short; the epoch stays
//! what the file says), and files `X.tmp` that count for nothing.
//!
//! *Members.* [`PeerEffects::members`] tells the configurations in force and last seen whenever one of them changes:
//! the addresses to dial, and where to listen.

use std::sync::Arc;

use oxkeeper_proto::peer::notification::Notification;
use oxkeeper_proto::peer::snapshot::SnapshotItem;
use oxkeeper_proto::{EnsembleConfig, PeerPacket, ServerId, Zxid};
use oxkeeper_tree::Tree;
use oxkeeper_zab::{LinkId, PeerPort, Proposal};

/// What happened on the side of the other servers.
#[derive(Debug)]
pub enum PeerInput {
    /// A connection to the quorum port, or the answer to a dial.
    LinkOpened {
        /// Its name.
        link: LinkId,
        /// The number of the dial; `None` if it came to us.
        dial: Option<u64>,
    },
    /// A connection to the port at which followers serve observers.
    ObserverLinkOpened {
        /// Its name.
        link: LinkId,
    },
    /// A dial came to nothing.
    DialFailed {
        /// Its number.
        dial: u64,
    },
    /// A packet came.
    Packet {
        /// On which link.
        link: LinkId,
        /// It.
        packet: PeerPacket,
    },
    /// A part of a snapshot came.
    Snapshot {
        /// On which link.
        link: LinkId,
        /// It.
        item: SnapshotItem,
    },
    /// The last slice for this link is on its way: the next one, please.
    LinkWritable {
        /// Which.
        link: LinkId,
    },
    /// A link is gone.
    LinkClosed {
        /// Which.
        link: LinkId,
    },
    /// The oracle has changed its mind: whether it lets this server go on without the other voter. The driver reads its
    /// file once in every tick: yes is a `1` at the start.
    Oracle(bool),
    /// A [`Durable::Truncate`](oxkeeper_zab::Durable::Truncate) would have left no snapshot to begin from, so nothing was
    /// removed.
    CannotTruncate {
        /// Where the log was to end.
        zxid: Zxid,
    },
    /// [`Task::ReadLog`] is done.
    LogRead {
        /// The number of the task.
        task: u64,
        /// The newest transaction of the log that is not after the one asked for, and everything after that, in
        /// order; `None` if the log does not reach back so far, one of its files breaks off, or the bound was passed.
        records: Option<Vec<Proposal>>,
    },
    /// [`Task::Reload`] is done.
    Reloaded {
        /// The number of the task.
        task: u64,
        /// What is on the disk.
        state: Box<Recovered>,
    },
}

/// What recovery finds on a disk.
#[derive(Debug)]
pub struct Recovered {
    /// The state: the newest whole snapshot and every transaction of the log after it. Its last zxid is the newest
    /// in either.
    pub tree: Tree,
    /// The newest transactions of the log, in order, without a hole: up to 500 of them.
    pub recent: Vec<Proposal>,
}

/// Something about a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEffect {
    /// Connect to a server.
    Dial {
        /// Which.
        server: ServerId,
        /// To its quorum port, or to the one at which it serves observers: the same host, and our own `observerMasterPort`.
        port: PeerPort,
        /// The number of the dial, for the answer. A newer one replaces an older one.
        dial: u64,
    },
    /// Send a packet.
    Send(LinkId, PeerPacket),
    /// Send a slice of the snapshot stream, and say `LinkWritable` after; the stream ends with `BenWasHere`.
    Snapshot(LinkId, Vec<u8>),
    /// Close it.
    Close(LinkId),
}

/// Work that takes long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Read the log from the newest transaction on that is not after this one.
    ReadLog {
        /// The number, for the answer.
        task: u64,
        /// The transaction.
        from: Zxid,
        /// Give up above so many bytes of records.
        bytes_max: u64,
    },
    /// Read the state from the disk as at a start.
    Reload {
        /// The number, for the answer.
        task: u64,
    },
}

/// The configurations that a node goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// In force.
    pub committed: Arc<EnsembleConfig>,
    /// Last seen; the same unless a reconfiguration is on its way.
    pub seen: Arc<EnsembleConfig>,
}

/// What the node wants done about the other servers. Emptied by the driver after every turn.
#[derive(Debug, Default)]
pub struct PeerEffects {
    /// Notifications by receiver. A newer one replaces an older one that was not sent.
    pub notifications: Vec<(ServerId, Notification)>,
    /// Dials, packets and closes in order.
    pub links: Vec<LinkEffect>,
    /// Whether the quorum port is to be open, if that changes.
    pub listen: Option<bool>,
    /// Whether the port for observers is to be open, if that changes.
    pub listen_for_observers: Option<bool>,
    /// Long work.
    pub tasks: Vec<Task>,
    /// The configurations, if they changed.
    pub members: Option<Members>,
}
