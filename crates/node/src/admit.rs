//! Stage 3: what a frame is, and when it is its turn.
//!
//! Writes are prepared as they come. Whatever else a client asks waits until its earlier writes are applied,
//! and replies leave in the order of the requests.

use bytes::Bytes;
use oxkeeper_proto::{ErrorCode, OpCode, Reader, Reply, Request, RequestHeader, Zxid};
use tracing::{debug, warn};

use crate::conn::{Call, Conn, Notice, Phase, Waiting};
use crate::effects::{ConnId, Effects};
use crate::expiry::Owner;
use crate::member::{Duty, Order};
use crate::node::{Node, is_write};
use crate::propose::Asked;
use crate::reply;

impl Node {
    /// A frame has come.
    pub(crate) fn frame(&mut self, id: ConnId, bytes: &[u8], fx: &mut Effects) {
        let received_ms = self.now_ms();
        let holds = self.duty() == Duty::Holds;
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.counts.received += 1;
        self.counts.received += 1;
        match conn.phase {
            Phase::Open(_) if holds => self.hold(id, bytes, received_ms, fx),
            Phase::Open(_) => self.admit(id, bytes, received_ms, fx),
            Phase::New => self.connect(id, bytes, fx),
            Phase::Opening => self.keep(id, bytes, received_ms, fx),
            Phase::Closing => {}
        }
    }

    /// Looks at a request of a connection with a session.
    pub(crate) fn admit(&mut self, id: ConnId, bytes: &[u8], received_ms: u64, fx: &mut Effects) {
        // A frame that has waited tells of its client at the time at which it came.
        let heard_ms = i64::try_from(received_ms).unwrap_or(i64::MAX);
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Phase::Open(key) = conn.phase else { return };
        if self.duty() == Duty::Holds {
            return self.keep(id, bytes, received_ms, fx);
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let conn_is_syncing = conn.is_syncing;
        let mut reader = Reader::new(bytes);
        let Ok(header) = RequestHeader::decode(&mut reader) else {
            warn!("Closing session {}: a frame of {} bytes holds no header", conn.session, bytes.len());
            return self.close(id, fx);
        };
        let op = OpCode::from_number(header.op);
        if matches!(op, Some(OpCode::Auth | OpCode::Sasl)) {
            return self.authenticate(id, header.xid, op, &mut reader, fx);
        }
        if !self.expiry.touch(key, conn.session, heard_ms) {
            debug!("Dropping a request of session {}, which is closing", conn.session);
            return;
        }
        let Some(large_bytes) = self.weigh(bytes.len()) else {
            warn!(
                "Closing a connection: its request of {} bytes would exceed largeRequestMaxBytes",
                bytes.len()
            );
            return self.close(id, fx);
        };
        if self.settings.enforced_schemes.is_some() && !self.is_authenticated(id) {
            return self.reply_in_turn(
                id,
                Notice::last(header.xid, Zxid::ZERO, ErrorCode::SESSIONCLOSEDREQUIRESASLAUTH),
                fx,
            );
        }
        if conn_is_syncing && op.is_some_and(|op| is_write(op) || is_read(op)) {
            return self.keep(id, bytes, received_ms, fx);
        }
        match op {
            Some(op) if self.waits_for_next_leader(op) => self.keep(id, bytes, received_ms, fx),
            Some(op) if is_write(op) && !self.may_prepare(id, op, fx) => {
                debug!("{op:?} waits for what is before it");
                self.keep(id, bytes, received_ms, fx);
                self.drain(id, fx);
            }
            Some(op) if is_write(op) => {
                let call = Call { xid: header.xid, op, received_ms, large_bytes };
                if self.opens_locally() && !self.admit_from_local(id, call, &reader, fx) {
                    return;
                }
                match self.duty() {
                    Duty::Decides => self.admit_write(id, call, &mut reader, fx),
                    Duty::Forwards => self.forward_write(id, call, &mut reader, fx),
                    // Its session had to become a global one first, and took the epoch's last number.
                    Duty::HandsOver | Duty::Holds => self.keep(id, bytes, received_ms, fx),
                    Duty::ReadsOnly | Duty::Idle => {
                        self.reply_in_turn(id, Notice::refusal(header.xid, ErrorCode::NOTREADONLY), fx);
                    }
                }
            }
            Some(OpCode::Sync) if self.duty() == Duty::ReadsOnly => {
                self.reply_in_turn(id, Notice::refusal(header.xid, ErrorCode::NOTREADONLY), fx);
            }
            Some(op) if op == OpCode::Sync && self.syncs_with_others() => {
                let call = Call { xid: header.xid, op, received_ms, large_bytes };
                self.admit_sync(id, call, &mut reader, fx);
            }
            Some(op) if is_read(op) => {
                let Some(conn) = self.conns.get_mut(id) else { return };
                if conn.waiting.is_empty() && !fx.is_full(id) {
                    self.read(id, Call { xid: header.xid, op, received_ms, large_bytes }, &mut reader, fx);
                } else {
                    self.keep(id, bytes, received_ms, fx);
                    self.drain(id, fx);
                }
            }
            _ => {
                warn!("Closing a connection that asks for operation {}", header.op);
                self.reply_in_turn(id, Notice::last(header.xid, Zxid(-1), ErrorCode::UNIMPLEMENTED), fx);
            }
        }
    }

    /// Whether a write may be prepared as it comes. Reads before it are answered whatever room there is, so while there
    /// is none it waits as they do: else a client that takes nothing could have any number of them answered by a write
    /// behind each few. The end of a session comes last, and is not put off.
    fn may_prepare(&self, id: ConnId, op: OpCode, fx: &Effects) -> bool {
        let has_room = op == OpCode::CloseSession || !fx.is_full(id);
        has_room && self.conns.get(id).is_some_and(Conn::may_prepare)
    }

    /// Keeps a frame until what is before it is answered.
    pub(crate) fn keep(&mut self, id: ConnId, bytes: &[u8], received_ms: u64, fx: &mut Effects) {
        let Some(large_bytes) = self.weigh(bytes.len()) else { return self.close(id, fx) };
        let op = RequestHeader::decode(&mut Reader::new(bytes)).ok().and_then(|h| OpCode::from_number(h.op));
        let is_read = op.is_some_and(is_read);
        if let Some(conn) = self.conns.get_mut(id) {
            let frame = Waiting::Frame { bytes: bytes.into(), received_ms, large_bytes, is_read };
            self.outstanding += conn.push(frame);
            self.large_waiting += large_bytes;
            self.hold_back(id, fx);
        }
    }

    /// Looks at what came before the session was open, or behind a sync, in its order: a write among it must not wait
    /// behind another one, or what comes later would overtake it.
    pub(crate) fn admit_kept(&mut self, id: ConnId, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        self.outstanding -= conn.outstanding();
        for kept in conn.take_line().0 {
            self.large_waiting -= kept.large_bytes();
            match kept {
                Waiting::Frame { bytes, received_ms, .. } => self.admit(id, &bytes, received_ms, fx),
                Waiting::Reply(notice) => self.reply_in_turn(id, notice, fx),
                // A write that was prepared ahead of reads before it keeps its place behind them.
                other => {
                    let Some(conn) = self.conns.get_mut(id) else { return };
                    self.large_waiting += other.large_bytes();
                    self.outstanding += conn.push(other);
                }
            }
        }
    }

    fn admit_write(&mut self, id: ConnId, call: Call, reader: &mut Reader<'_>, fx: &mut Effects) {
        let Call { xid, op, .. } = call;
        let body = reader.clone();
        let request = Request::decode(op, reader);
        let takes_zxid = request.is_err() && fails_in_order(op, body);
        if let Err(error) = &request {
            debug!("A body of {op:?} does not parse: {error}");
        }
        let Some(conn) = self.conns.get_mut(id) else { return };
        let session = conn.session;
        // Taken out while the tree looks at them; preparing never touches connections.
        let identities = std::mem::take(&mut conn.identities);
        let standing = match &self.order {
            // Closing needs no standing, and alone there is nowhere to move to.
            Order::Ensemble(_) if op != OpCode::CloseSession => self.standing(session, Owner::Here),
            _ => Ok(()),
        };
        let asked = Asked { origin: Some(id), session, xid, identities: &identities, standing };
        let proposed = match &request {
            Ok(request) => self.check_room(request).and_then(|()| self.propose(&asked, request, fx)),
            Err(_) if takes_zxid => self.propose_error(&asked, ErrorCode::MARSHALLINGERROR, fx),
            Err(_) => Err(ErrorCode::MARSHALLINGERROR),
        };
        if let Some(conn) = self.conns.get_mut(id) {
            conn.identities = identities;
        }
        match proposed {
            Ok(zxid) => {
                if op == OpCode::CloseSession
                    && let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key))
                {
                    tracked.closing = true;
                }
                if let Some(conn) = self.conns.get_mut(id) {
                    self.outstanding +=
                        conn.push(Waiting::Write { zxid: Some(zxid), call, body: Bytes::new() });
                    self.large_waiting += call.large_bytes;
                    self.hold_back(id, fx);
                }
            }
            Err(code) => self.reply_in_turn(id, Notice::refusal(xid, code), fx),
        }
    }

    /// Answers without a body when all earlier requests are answered.
    pub(crate) fn reply_in_turn(&mut self, id: ConnId, notice: Notice, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        self.outstanding += conn.push(Waiting::Reply(notice));
        if self.conns.get(id).is_some_and(|conn| conn.waiting.len() == 1) {
            self.drain(id, fx);
        }
    }

    /// Answers whatever waits at the head of a connection's line, up to its next write, as far as there is room.
    pub(crate) fn drain(&mut self, id: ConnId, fx: &mut Effects) {
        while let Some(conn) = self.conns.get_mut(id) {
            if fx.is_full(id) && conn.waits_for_room() {
                self.outstanding -= conn.outstanding();
                conn.is_full = true;
                return fx.want_room(id);
            }
            if !self.drain_one(id, fx) {
                return;
            }
        }
    }

    /// There is room among a connection's replies again.
    pub(crate) fn writable(&mut self, id: ConnId, fx: &mut Effects) {
        if let Some(conn) = self.conns.get_mut(id)
            && std::mem::take(&mut conn.is_full)
        {
            self.outstanding += conn.outstanding();
        }
        self.drain(id, fx);
        self.resume_paused(fx);
    }

    /// Answers what a client asked before its own write, before that shows: at most a few reads, whatever room there is.
    pub(crate) fn answer_before_write(&mut self, id: ConnId, fx: &mut Effects) {
        while self.drain_one(id, fx) {}
    }

    /// Answers what is at the head of a connection's line; false if nothing there can be.
    fn drain_one(&mut self, id: ConnId, fx: &mut Effects) -> bool {
        if self.is_held(id) {
            return false;
        }
        let Some(conn) = self.conns.get_mut(id) else { return false };
        if !conn.waits_for_room() {
            return false;
        }
        let Some((next, counted)) = conn.pop() else { return false };
        self.outstanding -= counted;
        self.large_waiting -= next.large_bytes();
        match next {
            Waiting::Frame { bytes, received_ms, .. } => self.drain_frame(id, &bytes, received_ms, fx),
            Waiting::Reply(notice) => {
                self.reply_code(id, &notice, fx);
                if notice.close {
                    self.close(id, fx);
                }
            }
            Waiting::Written { call, mut frame, close } => {
                // What went out before it may have shown a newer state already.
                if let Some(zxid) = frame.get_mut(REPLY_ZXID) {
                    zxid.copy_from_slice(&self.tree.last_zxid().0.to_be_bytes());
                }
                fx.write(id).extend_from_slice(&frame);
                self.count_reply(id, call, frame.len() - 4);
                if close {
                    self.close(id, fx);
                }
            }
            Waiting::Sync { call, path, .. } => {
                let zxid = self.tree.last_zxid();
                let body = Reply::Path(path.as_deref().map(Into::into));
                let size = reply::write(fx, id, call.xid, zxid, ErrorCode::OK, &body);
                self.count_reply(id, call, size);
                self.admit_kept(id, fx);
            }
            Waiting::Write { .. } => {}
        }
        true
    }

    /// Whether a sync needs the word of other servers.
    fn syncs_with_others(&self) -> bool {
        matches!(self.order, Order::Ensemble(_))
    }

    /// A frame whose turn has come: a read, or anything at all that came before the session was open.
    fn drain_frame(&mut self, id: ConnId, bytes: &[u8], received_ms: u64, fx: &mut Effects) {
        let mut reader = Reader::new(bytes);
        let Ok(header) = RequestHeader::decode(&mut reader) else {
            return self.close(id, fx);
        };
        match OpCode::from_number(header.op) {
            Some(op)
                if is_read(op)
                    && self.settings.enforced_schemes.is_none()
                    && !(op == OpCode::Sync && self.syncs_with_others()) =>
            {
                self.read(id, Call { xid: header.xid, op, received_ms, large_bytes: 0 }, &mut reader, fx);
            }
            // It has not been admitted yet, and must take its place before what waits behind it.
            _ => self.admit_ahead(id, bytes, received_ms, fx),
        }
    }

    fn admit_ahead(&mut self, id: ConnId, bytes: &[u8], received_ms: u64, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let behind = conn.take_line();
        self.admit(id, bytes, received_ms, fx);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.put_line(behind);
        }
    }
}

/// Where a reply's frame has its zxid: behind its length and its xid.
const REPLY_ZXID: std::ops::Range<usize> = 8..16;

/// Whether a request that cannot be read fails with a zxid. Java takes the zxid before it reads a multi, and
/// after it has read the bytes of anything else; that a path is null it only sees later.
fn fails_in_order(op: OpCode, body: Reader<'_>) -> bool {
    op == OpCode::Multi || Request::decode(op, &mut body.with_nulls_as_empty()).is_ok()
}

/// Operations that a connection's line holds but the log does not.
pub(crate) fn is_read(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::GetData
            | OpCode::Exists
            | OpCode::Ping
            | OpCode::GetChildren
            | OpCode::GetChildren2
            | OpCode::GetAcl
            | OpCode::Sync
            | OpCode::MultiRead
            | OpCode::CheckWatches
            | OpCode::RemoveWatches
            | OpCode::SetWatches
            | OpCode::SetWatches2
            | OpCode::AddWatch
            | OpCode::GetEphemerals
            | OpCode::GetAllChildrenNumber
            | OpCode::WhoAmI
    )
}
