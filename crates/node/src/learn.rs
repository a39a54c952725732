//! What a learner does with what it cannot decide: writes, syncs and questions about sessions go to the leader, and
//! wait in their session's line for what comes back.

use bytes::Bytes;
use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::{AuthId, ForwardedRequest};
use oxkeeper_proto::{ErrorCode, OpCode, PeerPacket, Put, Reader, Request, SessionId, TxnRecord, Xid, Zxid};
use tracing::{debug, info};

use crate::conn::{Call, Notice, Phase, Waiting};
use crate::effects::{ConnId, Effects};
use crate::expiry::Owner;
use crate::masters::{Asker, PassedSync};
use crate::member::{Duty, Order};
use crate::node::{Node, millis};

impl Node {
    /// Passes a client's write on. It is parsed here too: what the leader could not read never leaves this server.
    pub(crate) fn forward_write(
        &mut self,
        id: ConnId,
        call: Call,
        reader: &mut Reader<'_>,
        fx: &mut Effects,
    ) {
        let Call { xid, op, .. } = call;
        let body = Bytes::copy_from_slice(reader.rest());
        if let Err(error) = Request::decode(op, reader) {
            debug!("A body of {op:?} does not parse: {error}");
            return self.reply_in_turn(id, Notice::refusal(xid, ErrorCode::MARSHALLINGERROR), fx);
        }
        let Some(session) = self.pass_on(id, xid, op, body.clone()) else { return self.close(id, fx) };
        if op == OpCode::CloseSession
            && let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key))
        {
            tracked.closing = true;
        }
        self.wait(id, Waiting::Write { zxid: None, call, body }, fx);
    }

    /// Puts something at the end of a connection's line.
    pub(crate) fn wait(&mut self, id: ConnId, waiting: Waiting, fx: &mut Effects) {
        if let Some(conn) = self.conns.get_mut(id) {
            self.large_waiting += waiting.large_bytes();
            self.outstanding += conn.push(waiting);
            self.hold_back(id, fx);
        }
    }

    /// Sends a client's request to the leader; whose it was, or nothing if there is no leader.
    fn pass_on(&mut self, id: ConnId, xid: Xid, op: OpCode, body: Bytes) -> Option<SessionId> {
        let conn = self.conns.get(id)?;
        let session = conn.session;
        let auth_id = |identity: &oxkeeper_tree::Identity| AuthId {
            scheme: identity.scheme.to_string(),
            id: identity.id.clone(),
        };
        let auth = Some(conn.identities.iter().map(auth_id).collect());
        let request = ForwardedRequest { session, xid, op: op.number(), body, auth };
        self.as_member()?.agreement.send_to_leader(PeerPacket::Request(request)).then_some(session)
    }

    /// A client wants to see what was written before. Its place in the line is kept until the leader's word.
    pub(crate) fn admit_sync(&mut self, id: ConnId, call: Call, reader: &mut Reader<'_>, fx: &mut Effects) {
        let body = Bytes::copy_from_slice(reader.rest());
        let Ok(Request::Sync { path }) = Request::decode(OpCode::Sync, reader) else {
            return self.reply_in_turn(id, Notice::refusal(call.xid, ErrorCode::MARSHALLINGERROR), fx);
        };
        let path = path.as_deref().map(Into::into);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.is_syncing = true;
        }
        self.wait(id, Waiting::Sync { call, path, is_done: false }, fx);
        if self.duty() == Duty::Forwards {
            if self.pass_on(id, call.xid, OpCode::Sync, body).is_none() {
                return self.close(id, fx);
            }
            if let Some(member) = self.as_member() {
                member.passed_syncs.push_back(PassedSync::Client(id, call.xid));
            }
        } else if let Some(member) = self.as_member() {
            member.next_sync += 1;
            let number = member.next_sync;
            member.syncs.insert(number, (id, call.xid));
            member.agreement.sync_here(number);
        }
    }

    /// The leader has answered the oldest sync.
    pub(crate) fn passed_sync_done(&mut self, fx: &mut Effects) {
        let Some(member) = self.as_member() else { return };
        match member.passed_syncs.pop_front() {
            Some(PassedSync::Client(id, xid)) => self.sync_done(id, xid, fx),
            Some(PassedSync::Observer(link)) => member.agreement.send_to_learner(link, PeerPacket::Sync),
            Some(PassedSync::Acquaintance(link)) => self.acquaint(link),
            None => {}
        }
    }

    /// Asks the leader to open a session.
    pub(crate) fn forward_session(
        &mut self,
        id: ConnId,
        session: SessionId,
        timeout_ms: i32,
        fx: &mut Effects,
    ) {
        let mut body = Vec::new();
        body.put_int(timeout_ms);
        let op = OpCode::CreateSession.number();
        let request = ForwardedRequest { session, xid: Xid(0), op, body: body.into(), auth: None };
        let is_sent = self
            .as_member()
            .is_some_and(|member| member.agreement.send_to_leader(PeerPacket::Request(request)));
        if !is_sent {
            self.close(id, fx);
        }
    }

    /// Asks the leader whether a session lives that a client brings; the client waits.
    pub(crate) fn revalidate(&mut self, id: ConnId, session: SessionId, timeout_ms: i32, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.session = session;
        conn.phase = Phase::Opening;
        let Some(member) = self.as_member() else { return };
        if member.revalidating.len() >= member.settings.revalidating_max {
            return self.close(id, fx);
        }
        let asked = member.revalidating.entry(session).or_default();
        let newest = asked.askers.back().copied();
        asked.askers.push_back(Asker::Here);
        let before = asked.conn.replace(id);
        let is_sent = member.agreement.send_to_leader(PeerPacket::Revalidate { session, timeout_ms });
        // The connection that it had here before is left, and goes now, as in Java. When the answer comes this one may be
        // gone as well, and the leader would take the old one for the session's.
        let old = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key)?.conn.take());
        if let Some(old) = old.filter(|old| *old != id && !is(Fault::OldConnectionServed)) {
            self.close(old, fx);
        }
        if let Some(before) = before.filter(|before| *before != id) {
            self.close(before, fx);
        }
        self.session_leaves(session, Owner::Here, newest, fx);
        if !is_sent {
            self.close(id, fx);
        }
    }

    /// The leader says whether a session lives.
    pub(crate) fn revalidated(&mut self, session: SessionId, valid: bool, fx: &mut Effects) {
        let Some(member) = self.as_member() else { return };
        let Some(asked) = member.revalidating.get_mut(&session) else { return };
        let (asker, waits) = (asked.askers.pop_front(), asked.conn);
        let is_newest = asked.askers.is_empty();
        if is_newest {
            member.revalidating.remove(&session);
        }
        if let Some(Asker::Observer(link)) = asker {
            return self.observer_revalidated(link, session, valid, is_newest);
        }
        // Answers come in the order of the questions. An older one says nothing of where the session is by now: its client
        // may have been at another server between the two.
        if !is_newest {
            return;
        }
        let Some(id) = waits else { return };
        if !self.is_opening(id) {
            return;
        }
        if !valid {
            info!("Invalid session {session} for client, probably expired");
            return self.refuse_session(id, fx);
        }
        let Some(timeout_ms) = self.conns.get(id).map(|conn| conn.timeout_ms) else { return };
        let now_ms = millis(self.now.mono);
        let key = self.expiry.track(session, timeout_ms.into(), now_ms);
        self.expiry.retime(key, timeout_ms.into(), now_ms);
        self.take_over(id, key, fx);
    }

    /// The client of a session has come to another server. What still comes on its old connection was sent before that. If
    /// it has come here anew since, that is another connection, of which the leader has been asked.
    pub(crate) fn session_moved(&mut self, session: SessionId, fx: &mut Effects) {
        if session == SessionId::NONE
            && let Some(member) = self.as_member()
        {
            member.is_unsure = false;
        }
        self.session_left(session);
        let tracked = self.expiry.key(session).and_then(|key| self.expiry.get(key));
        if let Some(conn) = tracked.and_then(|tracked| tracked.conn) {
            info!("Session {session} has moved to another server");
            self.close(conn, fx);
        }
    }

    /// The leader asks whether this server is there: the answer tells which sessions it has heard of.
    pub(crate) fn pinged(&mut self, zxid: Zxid) {
        let now_ms = millis(self.now.mono);
        let Order::Ensemble(member) = &mut self.order else { return };
        let since_ms = std::mem::replace(&mut member.pinged_ms, now_ms);
        let mut touched = Vec::new();
        for conn in self.conns.iter() {
            if let Phase::Open(key) = conn.phase
                && let Some((session, timeout_ms)) = self.expiry.heard_since(key, since_ms)
            {
                touched.push((session, i32::try_from(timeout_ms).unwrap_or(i32::MAX)));
            }
        }
        touched.extend(std::mem::take(&mut member.observed));
        member.agreement.send_to_leader(PeerPacket::Ping { zxid, touched: Some(touched) });
        self.ask_for_acquaintance();
    }

    /// Which connection waits for a transaction that another server has proposed: that of its session, if the oldest
    /// write that it waits for has the same number.
    pub(crate) fn origin_here(&self, record: &TxnRecord<'_>) -> Option<ConnId> {
        let key = self.expiry.key(record.header.session)?;
        let id = self.expiry.get(key)?.conn?;
        let conn = self.conns.get(id)?;
        if record.header.op == OpCode::CreateSession {
            return (conn.phase == Phase::Opening).then_some(id);
        }
        let first = conn.waiting.iter().find_map(|waiting| match waiting {
            Waiting::Write { call, .. } => Some(call.xid),
            _ => None,
        });
        (first == Some(record.header.cxid)).then_some(id)
    }
}
