//! What the node knows of one client connection.

use std::collections::VecDeque;
use std::net::IpAddr;

use bytes::Bytes;
use oxkeeper_proto::{ErrorCode, OpCode, SessionId, Xid, Zxid};
use oxkeeper_tree::Identity;

use crate::effects::{ConnId, RequestCounts};
use crate::expiry::Key;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing has come yet but the connection itself.
    New,
    /// The session's opening is proposed; what the client sends meanwhile waits.
    Opening,
    /// It has a session.
    Open(Key),
    /// It will be closed; nothing it sends counts any more.
    Closing,
}

/// A write is prepared as it comes if at most so many reads wait before it. They must be answered before it shows, and
/// the room for their replies must not matter then.
const READS_AHEAD_MAX: usize = 16;

/// A place in the order of a connection's replies.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A write on its way; its outcome comes with this transaction, if this server knows which that will be. If it does
    /// not, it has passed the body on to the leader.
    Write { zxid: Option<Zxid>, call: Call, body: Bytes },
    /// A write whose outcome came before its turn: the frame of its reply, and whether that is the last word.
    Written { call: Call, frame: Box<[u8]>, close: bool },
    /// A sync, its path, and whether it is done.
    Sync { call: Call, path: Option<Box<str>>, is_done: bool },
    /// A frame that must wait for what is before it.
    Frame { bytes: Box<[u8]>, received_ms: u64, large_bytes: usize, is_read: bool },
    /// A reply that is known already but not its turn.
    Reply(Notice),
}

impl Waiting {
    /// What it counts for among the large frames.
    pub(crate) fn large_bytes(&self) -> usize {
        match self {
            Waiting::Write { call, .. } | Waiting::Written { call, .. } | Waiting::Sync { call, .. } => {
                call.large_bytes
            }
            Waiting::Frame { large_bytes, .. } => *large_bytes,
            Waiting::Reply(_) => 0,
        }
    }
}

/// What is known of a request besides its body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) xid: Xid,
    pub(crate) op: OpCode,
    pub(crate) received_ms: u64,
    /// Bytes of its frame, if that is a large one.
    pub(crate) large_bytes: usize,
}

/// A reply without a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Notice {
    pub(crate) xid: Xid,
    /// `None`: whatever is applied when its turn comes.
    pub(crate) zxid: Option<Zxid>,
    pub(crate) code: ErrorCode,
    /// Whether the connection is closed after it.
    pub(crate) close: bool,
}

impl Notice {
    /// To a request that never became a transaction.
    pub(crate) fn refusal(xid: Xid, code: ErrorCode) -> Notice {
        Notice { xid, zxid: None, code, close: false }
    }

    /// The last word to a connection.
    pub(crate) fn last(xid: Xid, zxid: Zxid, code: ErrorCode) -> Notice {
        Notice { xid, zxid: Some(zxid), code, close: true }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) peer: (IpAddr, u16),
    pub(crate) phase: Phase,
    pub(crate) session: SessionId,
    pub(crate) timeout_ms: i32,
    /// Whether the client knows the read-only field; `None` if it does not.
    pub(crate) read_only: Option<bool>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) waiting: VecDeque<Waiting>,
    /// Frames among them, and those of the frames that are no reads.
    frames: (usize, usize),
    /// There is no room for its replies, which is its own doing: what waits here hinders nobody else.
    pub(crate) is_full: bool,
    /// Whether a sync in the line is not done. What comes behind it is kept as it came: a write that went on its way
    /// could be final before the sync is, and what is read between the two would show it.
    pub(crate) is_syncing: bool,
    /// Whether the driver was told to stop reading.
    pub(crate) paused: bool,
    pub(crate) opened_ms: u64,
    pub(crate) established_ms: i64,
    pub(crate) counts: RequestCounts,
    pub(crate) last_op: &'static str,
    pub(crate) last_cxid: i64,
    pub(crate) last_zxid: i64,
    pub(crate) last_response_ms: u64,
    pub(crate) last_latency_ms: u64,
}

impl Conn {
    pub(crate) fn new(
        id: ConnId,
        peer: (IpAddr, u16),
        identities: Vec<Identity>,
        now_ms: u64,
        wall_ms: i64,
    ) -> Conn {
        Conn {
            id,
            peer,
            phase: Phase::New,
            session: SessionId::NONE,
            timeout_ms: 0,
            read_only: None,
            identities,
            waiting: VecDeque::new(),
            frames: (0, 0),
            is_full: false,
            is_syncing: false,
            paused: false,
            opened_ms: now_ms,
            established_ms: wall_ms,
            counts: RequestCounts::default(),
            last_op: "NA",
            last_cxid: -1,
            last_zxid: -1,
            last_response_ms: 0,
            last_latency_ms: 0,
        }
    }

    /// Adds to the end of the line; returns by how much that counts as outstanding.
    pub(crate) fn push(&mut self, waiting: Waiting) -> usize {
        self.count(&waiting, usize::wrapping_add);
        self.waiting.push_back(waiting);
        usize::from(!self.is_full)
    }

    /// Takes the head of the line; with it goes how much it counted as outstanding.
    pub(crate) fn pop(&mut self) -> Option<(Waiting, usize)> {
        let waiting = self.waiting.pop_front()?;
        self.count(&waiting, usize::wrapping_sub);
        Some((waiting, usize::from(!self.is_full)))
    }

    fn count(&mut self, waiting: &Waiting, add: fn(usize, usize) -> usize) {
        if let Waiting::Frame { is_read, .. } = waiting {
            let (all, others) = self.frames;
            self.frames = (add(all, 1), add(others, usize::from(!is_read)));
        }
    }

    /// How much its line counts as outstanding.
    pub(crate) fn outstanding(&self) -> usize {
        if self.is_full { 0 } else { self.waiting.len() }
    }

    /// Whether a write may be prepared now, though it is not its turn: none must come before an earlier one.
    pub(crate) fn may_prepare(&self) -> bool {
        let (frames, others) = self.frames;
        others == 0 && frames <= READS_AHEAD_MAX
    }

    /// Whether what is next in its line could be answered, were there room for the reply.
    pub(crate) fn waits_for_room(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Open(_));
        let must_wait =
            |next: &Waiting| matches!(next, Waiting::Write { .. } | Waiting::Sync { is_done: false, .. });
        is_open && self.waiting.front().is_some_and(|next| !must_wait(next))
    }

    /// Takes the line away, for a frame that has left it and goes before all others.
    pub(crate) fn take_line(&mut self) -> (VecDeque<Waiting>, (usize, usize)) {
        (std::mem::take(&mut self.waiting), std::mem::take(&mut self.frames))
    }

    /// Puts the line back behind what has come before it.
    pub(crate) fn put_line(&mut self, (mut line, frames): (VecDeque<Waiting>, (usize, usize))) {
        self.waiting.append(&mut line);
        self.frames = (self.frames.0 + frames.0, self.frames.1 + frames.1);
    }

    /// Counts an answer, and what `cons` shows of it.
    #[inline]
    pub(crate) fn answered(&mut self, call: Call, zxid: Zxid, latency_ms: u64, now_ms: u64) {
        self.counts.answer(latency_ms);
        self.counts.sent += 1;
        self.last_op = four_letters(call.op);
        self.last_cxid = i64::from(call.xid.0);
        self.last_zxid = zxid.0;
        self.last_response_ms = now_ms;
        self.last_latency_ms = latency_ms;
    }
}

/// The connections, by slot.
#[derive(Debug, Default)]
pub(crate) struct Conns {
    slots: Vec<Option<Box<Conn>>>,
    len: usize,
}

impl Conns {
    pub(crate) fn insert(&mut self, conn: Conn) {
        let index = conn.id.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if self.slots[index].replace(Box::new(conn)).is_none() {
            self.len += 1;
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: ConnId) -> Option<&Conn> {
        self.slots.get(id.index as usize)?.as_deref().filter(|conn| conn.id == id)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.slots.get_mut(id.index as usize)?.as_deref_mut().filter(|conn| conn.id == id)
    }

    /// The connection in a slot, whichever it is.
    pub(crate) fn at(&self, index: u32) -> Option<&Conn> {
        self.slots.get(index as usize)?.as_deref()
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Box<Conn>> {
        self.get(id)?;
        self.len -= 1;
        self.slots.get_mut(id.index as usize)?.take()
    }

    /// The connections in this slot and those after it.
    pub(crate) fn from(&self, index: u32) -> impl Iterator<Item = &Conn> {
        self.slots.iter().skip(index as usize).flatten().map(|conn| &**conn)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.slots.iter().flatten().map(|conn| &**conn)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conn> {
        self.slots.iter_mut().flatten().map(|conn| &mut **conn)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// The names that `cons` gives operations. Source: `FinalRequestProcessor`.
pub(crate) fn four_letters(op: OpCode) -> &'static str {
    match op {
        OpCode::Ping => "PING",
        OpCode::CreateSession => "SESS",
        OpCode::Multi => "MULT",
        OpCode::MultiRead => "MLTR",
        OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => "CREA",
        OpCode::Delete | OpCode::DeleteContainer => "DELE",
        OpCode::SetData => "SETD",
        OpCode::Reconfig => "RECO",
        OpCode::SetAcl => "SETA",
        OpCode::CloseSession => "CLOS",
        OpCode::Sync => "SYNC",
        OpCode::Check => "CHEC",
        OpCode::Exists => "EXIS",
        OpCode::GetData => "GETD",
        OpCode::SetWatches => "SETW",
        OpCode::SetWatches2 => "STW2",
        OpCode::AddWatch => "ADDW",
        OpCode::GetAcl => "GETA",
        OpCode::GetChildren | OpCode::GetChildren2 => "GETC",
        OpCode::GetAllChildrenNumber => "GETACN",
        OpCode::CheckWatches => "CHKW",
        OpCode::RemoveWatches => "REMW",
        OpCode::WhoAmI => "HOMI",
        OpCode::GetEphemerals => "GETE",
        OpCode::Notification | OpCode::Auth | OpCode::Sasl | OpCode::Error => "NA",
    }
}
