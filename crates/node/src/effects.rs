//! What passes between the node and its driver: inputs, and the effects that the driver carries out.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::notification::Notification;
use oxkeeper_proto::{DecodeError, Epoch, ServerId, SessionId, Zxid};
use oxkeeper_tree::{DigestEntry, Identity, SnapshotStart};
use oxkeeper_zab::{Durable, HandOverRefused, Ticket};

use crate::peers::{PeerEffects, PeerInput};
use crate::scarcity::Scarcity;
use crate::watch::WatchSummary;

/// The time, as the driver reads it once per turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back, from some start. All timers use it.
    pub mono: Duration,
    /// Milliseconds since 1970. Only transactions carry it.
    pub wall_ms: i64,
}

/// A connection: a slot of the driver's, and which connection in that slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The slot. Slots are few and used again.
    pub index: u32,
    /// Tells connections in the same slot apart.
    pub generation: u32,
}

/// The number of a question, so that its answer finds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryId(pub u64);

/// Something that happened. Plain data: a run can be recorded and replayed.
#[derive(Debug)]
pub enum Input<'a> {
    /// A client connected.
    Opened {
        /// The driver's name for the connection.
        conn: ConnId,
        /// From where.
        peer: (IpAddr, u16),
        /// Who the transport has proved the client to be; `ip` is added by the node.
        identities: Vec<Identity>,
    },
    /// A client sent a frame; its length has been taken off and checked.
    Frame {
        /// Which client.
        conn: ConnId,
        /// The payload.
        bytes: &'a [u8],
    },
    /// An operator sent a four-letter word; it counts as a packet.
    Word {
        /// On which connection.
        conn: ConnId,
    },
    /// There is room again in the outbox of a connection for which the node [wants](Effects::take_wanting) some.
    Writable {
        /// Which one.
        conn: ConnId,
    },
    /// A connection is gone.
    Closed {
        /// Which one.
        conn: ConnId,
    },
    /// This piece of durable work and everything before it is on the disk.
    Persisted(Ticket),
    /// Another server of the ensemble sent its vote, or what should have been one.
    Notification {
        /// Which.
        from: ServerId,
        /// The vote.
        message: Result<Notification, DecodeError>,
    },
    /// Something happened on a connection to another server, or a task for one is done.
    Peer(PeerInput),
    /// Time has passed.
    Tick,
    /// There is too little of something, or no more.
    Scarce(Scarcity),
    /// The log has grown enough, or an operator wants it: take a snapshot.
    TakeSnapshot,
    /// The last slice is written: the next one, please.
    SliceWritten,
    /// The snapshot could not be written. Service goes on without it.
    SnapshotFailed,
    /// An operator asks.
    Query(QueryId, Query),
}

/// What operators ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// The connections and what they did, from a slot on: some of them.
    Connections {
        /// The first slot.
        from: u32,
    },
    /// Sessions and connections by expiry.
    Expiries,
    /// Which sessions own ephemerals.
    EphemeralOwners,
    /// A session's ephemerals, from a place on: some of them.
    Ephemerals {
        /// Whose.
        session: SessionId,
        /// 0, or where the answer before this one said to go on.
        from: u32,
    },
    /// How many watches there are.
    WatchSummary,
    /// Watched paths by session, from a place on: some of them, all of one session.
    WatchesBySession {
        /// The place, first (0, 0), then where the answer before this one said to go on.
        from: (u32, u32),
    },
    /// Watching sessions by path, from a place on: some of them.
    WatchesByPath {
        /// 0, or where the answer before this one said to go on.
        from: u32,
    },
    /// Digests at every 128th transaction.
    Digests,
    /// Numbers of the whole server.
    Status,
    /// Forget the counters of the connections.
    ResetConnections,
    /// Forget the counters of the server.
    ResetServer,
    /// Hand leadership over to this voter, or to the best one.
    HandOver {
        /// To whom.
        to: Option<ServerId>,
    },
}

/// What operators are told.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Query::Connections`]; empty when there are no more.
    Connections(Vec<ConnectionReport>),
    /// To [`Query::Expiries`].
    Expiries(ExpiryReport),
    /// To [`Query::EphemeralOwners`].
    EphemeralOwners(Vec<SessionId>),
    /// To [`Query::Ephemerals`], and where to go on.
    Ephemerals(Vec<String>, Option<u32>),
    /// To [`Query::WatchSummary`].
    WatchSummary(WatchSummary),
    /// To [`Query::WatchesBySession`], and where to go on.
    WatchesBySession(SessionId, Vec<String>, Option<(u32, u32)>),
    /// To [`Query::WatchesByPath`], and where to go on.
    WatchesByPath(Vec<(String, Vec<SessionId>)>, Option<u32>),
    /// To [`Query::Digests`].
    Digests(Vec<DigestEntry>),
    /// To [`Query::Status`].
    Status(Box<Status>),
    /// To [`Query::HandOver`]: who will lead, unless that server is lost meanwhile, or why nothing is done.
    HandOver(Result<ServerId, HandOverRefused>),
    /// Done.
    Done,
}

/// Counters of requests, of a connection or of the whole server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// Frames from clients.
    pub received: u64,
    /// Frames to clients.
    pub sent: u64,
    /// Requests answered, over which the latencies are.
    pub answered: u64,
    /// Shortest time from frame to reply, in ms.
    pub latency_min_ms: u64,
    /// Sum of all times.
    pub latency_sum_ms: u64,
    /// Longest time.
    pub latency_max_ms: u64,
}

impl RequestCounts {
    /// Counts a reply that took `latency_ms`.
    pub(crate) fn answer(&mut self, latency_ms: u64) {
        self.latency_min_ms =
            if self.answered == 0 { latency_ms } else { self.latency_min_ms.min(latency_ms) };
        self.latency_max_ms = self.latency_max_ms.max(latency_ms);
        self.latency_sum_ms += latency_ms;
        self.answered += 1;
    }
}

/// One connection, for `cons`.
#[derive(Debug, Clone)]
pub struct ConnectionReport {
    /// Which one.
    pub conn: ConnId,
    /// From where.
    pub peer: (IpAddr, u16),
    /// Its session, once it has one.
    pub session: Option<SessionId>,
    /// The session's timeout in ms.
    pub timeout_ms: i32,
    /// Requests waiting for their reply.
    pub queued: usize,
    /// What was counted.
    pub counts: RequestCounts,
    /// Four letters for the last operation.
    pub last_op: &'static str,
    /// Since when, ms since 1970.
    pub established_ms: i64,
    /// The last request's xid, -1 before the first.
    pub last_cxid: i64,
    /// The zxid of the last reply, -1 before the first.
    pub last_zxid: i64,
    /// When the last reply went, on the monotonic clock in ms.
    pub last_response_ms: u64,
    /// How long it took, in ms.
    pub last_latency_ms: u64,
}

/// A connection's address and its session, 0 before it has one.
pub type PeerSession = ((IpAddr, u16), SessionId);

/// What expires when, for `dump`.
#[derive(Debug, Clone)]
pub struct ExpiryReport {
    /// Sessions and when they expire, in ms from now, soonest first.
    pub sessions: Vec<(i64, SessionId)>,
    /// Connections and when they are cut unless they speak, in ms from now, soonest first.
    pub connections: Vec<(i64, PeerSession)>,
}

/// What memory goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of names and data.
    pub content_bytes: u64,
    /// Znodes.
    pub znodes: usize,
    /// Watches.
    pub watches: usize,
    /// Sessions.
    pub sessions: usize,
}

/// Numbers of the whole server, for `srvr` and `mntr`.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// What was counted over all connections.
    pub counts: RequestCounts,
    /// Connections that have a session.
    pub connections: usize,
    /// Requests waiting for their reply.
    pub outstanding: usize,
    /// The newest transaction applied.
    pub last_zxid: Zxid,
    /// Znodes, the root counted once.
    pub znodes: usize,
    /// Ephemerals.
    pub ephemerals: usize,
    /// Watches.
    pub watches: usize,
    /// Sessions.
    pub sessions: usize,
    /// Bytes of names and data.
    pub approximate_bytes: u64,
    /// Digest of the tree.
    pub digest: i64,
    /// Bytes of the last, smallest and largest reply; -1 before the first.
    pub response_sizes: (i64, i64, i64),
    /// Bytes of the last, smallest and largest proposal; -1 before the first.
    pub proposal_sizes: (i64, i64, i64),
    /// Failed attempts to authenticate.
    pub auth_failed: u64,
    /// Sessions expired.
    pub sessions_expired: u64,
    /// What there is too little of.
    pub scarcity: Scarcity,
    /// Time since the start of the node.
    pub uptime: Duration,
    /// What the server is.
    pub role: Role,
    /// Of a member of an ensemble: whether it leads or is level with a leader, so that it serves.
    pub serving: bool,
    /// The epoch of the leader whose history it has.
    pub epoch: Epoch,
    /// The newest transaction in its log.
    pub last_logged: Zxid,
    /// Whom it follows; itself if it leads.
    pub leader: Option<ServerId>,
    /// Transactions after which the state was not the leader's.
    pub digest_mismatches: u64,
    /// Of a leader: voting learners that are in step, and all learners.
    pub learners: (usize, usize),
}

/// What a server is to operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// It is alone by configuration.
    #[default]
    Standalone,
    /// It looks for a leader and serves nobody.
    Looking,
    /// The same, but it lets those read who asked for no more.
    ReadOnly,
    /// It follows.
    Following,
    /// It observes.
    Observing,
    /// It leads.
    Leading,
}

/// A step of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotStep {
    /// Open a file for it.
    Begin(SnapshotStart),
    /// Append these bytes and say [`Input::SliceWritten`]; after the last one seal it.
    Slice {
        /// Bytes.
        bytes: Vec<u8>,
        /// Whether the snapshot is complete.
        last: bool,
    },
    /// The snapshot under way is not wanted any more: remove the file.
    Abandon,
}

/// Bytes that may wait for a connection before the node stops answering it and the driver stops reading from
/// it. A single reply may exceed it.
pub const OUTBOX_BYTES: usize = 1 << 20;

/// Bytes for one connection, in the order in which they must go.
#[derive(Debug, Default)]
struct Outbox {
    /// What goes before `bytes`. Empty, but for very long lists.
    ahead: VecDeque<Arc<Vec<u8>>>,
    ahead_len: usize,
    bytes: Vec<u8>,
    /// Written already, of the first part. Large outboxes are not moved for every bit of them that is written.
    written: usize,
    /// Whether it is in the list of those that changed.
    dirty: bool,
    /// Whether the node has more to say once there is room.
    wanting: bool,
}

impl Outbox {
    fn len(&self) -> usize {
        self.ahead_len + self.bytes.len() - self.written
    }

    fn written(&mut self, mut bytes: usize, keep: usize) {
        while let Some(first) = self.ahead.front() {
            let left = first.len() - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.ahead_len -= first.len();
            self.written = 0;
            self.ahead.pop_front();
        }
        self.written += bytes;
        if self.written >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(keep);
            self.written = 0;
        } else if self.written > self.bytes.len() / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

/// What the node wants done. The driver empties it after every turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// What to make durable, in order, and what [`Input::Persisted`] calls it.
    pub durable: Vec<(Ticket, Durable)>,
    /// By connection slot.
    outboxes: Vec<Outbox>,
    /// Connections with new bytes in their outbox.
    pub dirty: Vec<ConnId>,
    /// Connections to close once their outbox is written.
    pub closes: Vec<ConnId>,
    /// Connections to stop or to start reading from.
    pub reading: Vec<(ConnId, bool)>,
    /// Steps of a snapshot.
    pub snapshot: Vec<SnapshotStep>,
    /// Answers to operators.
    pub answers: Vec<(QueryId, Answer)>,
    /// What concerns the other servers. A standalone server has nothing here.
    pub peers: PeerEffects,
}

impl Effects {
    /// The bytes that wait for a connection, to append to; marks it as changed.
    #[inline]
    pub(crate) fn write(&mut self, conn: ConnId) -> &mut Vec<u8> {
        let index = conn.index as usize;
        if self.outboxes.len() <= index {
            self.outboxes.resize_with(index + 1, Outbox::default);
        }
        let outbox = &mut self.outboxes[index];
        if !outbox.dirty {
            outbox.dirty = true;
            self.dirty.push(conn);
        }
        &mut outbox.bytes
    }

    /// Whether a connection's outbox is so full that answers to it wait until there is room.
    pub fn is_full(&self, conn: ConnId) -> bool {
        let outbox = self.outboxes.get(conn.index as usize);
        outbox.is_some_and(|outbox| outbox.len() > OUTBOX_BYTES && !is(Fault::OutboxUnbounded))
    }

    /// Notes that the node has more to say to a connection.
    pub(crate) fn want_room(&mut self, conn: ConnId) {
        if let Some(outbox) = self.outboxes.get_mut(conn.index as usize) {
            outbox.wanting = true;
        }
    }

    /// Whether the node wants [`Input::Writable`] for a connection whose outbox is not full any more. Asking
    /// ends the wish.
    pub fn take_wanting(&mut self, conn: ConnId) -> bool {
        !self.is_full(conn)
            && self
                .outboxes
                .get_mut(conn.index as usize)
                .is_some_and(|outbox| std::mem::take(&mut outbox.wanting))
    }

    /// Adds bytes that are shared with the tree.
    pub(crate) fn share(&mut self, conn: ConnId, parts: &[Arc<Vec<u8>>]) {
        self.write(conn);
        let Some(outbox) = self.outboxes.get_mut(conn.index as usize) else { return };
        let before = std::mem::take(&mut outbox.bytes);
        if outbox.ahead.is_empty() && outbox.written == before.len() {
            outbox.written = 0;
        } else if !before.is_empty() {
            outbox.ahead_len += before.len();
            outbox.ahead.push_back(Arc::new(before));
        }
        for part in parts.iter().filter(|part| !part.is_empty()) {
            outbox.ahead_len += part.len();
            outbox.ahead.push_back(Arc::clone(part));
        }
    }

    /// Number of bytes that wait for a connection.
    #[must_use]
    pub fn waiting_len(&self, conn: ConnId) -> usize {
        self.outboxes.get(conn.index as usize).map_or(0, Outbox::len)
    }

    /// The first bytes that wait for a connection, for the driver to write: as many parts as there is room for.
    /// Returns how many of `parts` are used.
    pub fn waiting<'a>(&'a mut self, conn: ConnId, parts: &mut [IoSlice<'a>]) -> usize {
        let Some(outbox) = self.outboxes.get_mut(conn.index as usize) else { return 0 };
        outbox.dirty = false;
        let mut skip = outbox.written;
        let mut used = 0;
        let all = outbox.ahead.iter().map(|part| part.as_slice()).chain([outbox.bytes.as_slice()]);
        for (place, part) in parts.iter_mut().zip(all) {
            *place = IoSlice::new(part.get(std::mem::take(&mut skip)..).unwrap_or_default());
            used += 1;
        }
        used
    }

    /// Notes that so many of them were written.
    pub fn written(&mut self, conn: ConnId, bytes: usize, keep: usize) {
        if let Some(outbox) = self.outboxes.get_mut(conn.index as usize) {
            outbox.written(bytes, keep);
        }
    }

    /// The end of a connection's outbox, for the driver to add to.
    pub fn outbox(&mut self, conn: ConnId) -> &mut Vec<u8> {
        let index = conn.index as usize;
        if self.outboxes.len() <= index {
            self.outboxes.resize_with(index + 1, Outbox::default);
        }
        let outbox = &mut self.outboxes[index];
        outbox.dirty = false;
        &mut outbox.bytes
    }

    /// Forgets what waits for a connection that is gone.
    pub fn discard(&mut self, conn: ConnId) {
        if let Some(outbox) = self.outboxes.get_mut(conn.index as usize) {
            *outbox = Outbox::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What would be written if the socket took `at_once` bytes at a time.
    fn drain(fx: &mut Effects, conn: ConnId, at_once: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while fx.waiting_len(conn) > 0 {
            let mut parts = [IoSlice::new(&[]); 3];
            let used = fx.waiting(conn, &mut parts);
            let all: Vec<u8> = parts.iter().take(used).flat_map(|part| part.to_vec()).collect();
            let n = all.len().min(at_once);
            assert!(n > 0, "bytes wait but none are shown");
            out.extend_from_slice(&all[..n]);
            fx.written(conn, n, 0);
        }
        out
    }

    #[test]
    fn shared_parts_keep_their_place_whatever_is_written_between() {
        let conn = ConnId { index: 2, generation: 1 };
        for at_once in 1..20 {
            let mut fx = Effects::default();
            fx.write(conn).extend_from_slice(b"before ");
            fx.written(conn, at_once.min(7), 0);
            let mut expected = b"before "[at_once.min(7)..].to_vec();
            for round in 0..3 {
                fx.share(conn, &[Arc::new(b"one ".to_vec()), Arc::default(), Arc::new(b"two ".to_vec())]);
                fx.write(conn).extend_from_slice(b"after ");
                expected.extend_from_slice(b"one two after ");
                if round == 1 {
                    expected.drain(..2.min(expected.len()));
                    fx.written(conn, 2, 0);
                }
            }
            assert_eq!(fx.waiting_len(conn), expected.len());
            assert_eq!(drain(&mut fx, conn, at_once), expected, "{at_once} at once");
        }
    }
}
