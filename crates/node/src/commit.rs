//! Stages 8 to 10: what is final is applied, those who watch are told, and the client gets its reply.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{
    ErrorCode, OpCode, Reply, ReplyHeader, SessionId, TxnRecord, WatcherEvent, Xid, Zxid, path, perms,
};
use oxkeeper_tree::{Change, Outcome};
use oxkeeper_zab::Proposal;

use crate::conn::{Call, Phase, Waiting};
use crate::effects::{ConnId, Effects};
use crate::member::{Duty, Order};
use crate::node::{Node, millis};
use crate::reply;

impl Node {
    /// Applies everything that is final.
    pub(crate) fn commit(&mut self, fx: &mut Effects) {
        while let Order::Solo(solo) = &mut self.order
            && let Some(proposal) = solo.next_committed()
        {
            self.apply_final(&proposal, fx);
        }
        self.resume_paused(fx);
        self.close_expired(fx);
    }

    /// Applies a transaction that is final.
    #[inline]
    pub(crate) fn apply_final(&mut self, proposal: &Proposal, fx: &mut Effects) {
        let record = match TxnRecord::decode(&proposal.payload) {
            Ok(record) => record,
            Err(error) => {
                panic!("transaction {} was proposed but cannot be read: {error}", proposal.zxid)
            }
        };
        let origin = match self.origins.front() {
            Some((zxid, origin)) if *zxid == proposal.zxid => {
                let origin = *origin;
                self.origins.pop_front();
                origin
            }
            // Proposed by another server, or by this one in a role that is over.
            None => self.origin_here(&record),
            other => panic!("{} is final, but {other:?} was next in line", proposal.zxid),
        };
        if let Some(id) = origin {
            self.answer_before_write(id, fx);
        }
        self.changes.wanted = !self.watches.is_empty();
        let (outcome, differs) = match self.tree.apply_and_compare(&record, &mut self.changes) {
            Ok((outcome, differs)) => (outcome, differs.is_some()),
            Err(divergence) => panic!("{divergence}"),
        };
        if differs {
            self.state_differs(&record);
        }
        self.pending.applied(proposal.zxid);
        if !is(Fault::WatchAfterReply) {
            self.notify(proposal.zxid, fx);
        }
        match record.header.op {
            OpCode::CreateSession => self.session_opened(record.header.session, origin, fx),
            OpCode::CloseSession => self.session_closed(record.header.session, origin, proposal.zxid, fx),
            _ => {
                self.written(origin, proposal.zxid, &outcome, false, fx);
            }
        }
        if is(Fault::WatchAfterReply) {
            self.notify(proposal.zxid, fx);
        }
    }

    /// Stage 9. Events precede the reply: they are written to the same outboxes before it.
    fn notify(&mut self, zxid: Zxid, fx: &mut Effects) {
        if self.changes.list.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes.list);
        let mut notices = std::mem::take(&mut self.notices);
        for change in &changes {
            notices.clear();
            self.watches.trigger(change, &mut notices);
            for notice in &notices {
                let Some(conn) = self.conns.at(notice.watcher) else { continue };
                let acl = if notice.on_parent { &change.parent_acl } else { &change.acl };
                let rules = self.tree.rules();
                let may_read = acl.as_ref().is_none_or(|acl| {
                    oxkeeper_tree::acl::allows(acl, perms::READ, &conn.identities, rules.schemes)
                });
                if may_read || is(Fault::RecursiveWithoutRights) {
                    let path = if notice.on_parent { parent_of(change) } else { &change.path };
                    let event = WatcherEvent { kind: notice.kind, path: path.into() };
                    let id = conn.id;
                    self.send_event(id, zxid, &event, fx);
                }
            }
        }
        self.notices = notices;
        self.changes.list = changes;
        self.changes.list.clear();
    }

    /// Writes an event to a connection.
    pub(crate) fn send_event(&mut self, id: ConnId, zxid: Zxid, event: &WatcherEvent<'_>, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.counts.sent += 1;
        self.counts.sent += 1;
        put_frame(fx.write(id), |out| {
            ReplyHeader { xid: Xid::EVENT, zxid, err: ErrorCode::OK }.encode(out);
            event.encode(out);
        });
    }

    fn session_opened(&mut self, session: SessionId, origin: Option<ConnId>, fx: &mut Effects) {
        let key = match self.expiry.key(session) {
            Some(key) => key,
            None if self.duty() == Duty::Forwards => {
                let timeout_ms = self.tree.session_timeout_ms(session).unwrap_or(0);
                self.expiry.track(session, timeout_ms.into(), millis(self.now.mono))
            }
            None => return,
        };
        let Some(id) = origin else { return };
        if self.conns.get(id).is_some_and(|conn| conn.phase == Phase::Opening) {
            self.establish(id, key, fx);
        }
    }

    fn session_closed(&mut self, session: SessionId, origin: Option<ConnId>, zxid: Zxid, fx: &mut Effects) {
        let tracked = self.expiry.remove(session);
        if let Some(id) = origin
            && self.written(Some(id), zxid, &Outcome::Done, true, fx)
        {
            self.close(id, fx);
        }
        // Expired, or closed through a connection that is no longer its own.
        if let Some(id) = tracked.and_then(|tracked| tracked.conn).filter(|id| Some(*id) != origin) {
            self.close(id, fx);
        }
    }

    /// Stage 10: the reply to a write, and whatever waited behind it. False if the reply must wait for its turn.
    fn written(
        &mut self,
        origin: Option<ConnId>,
        zxid: Zxid,
        outcome: &Outcome<'_>,
        close: bool,
        fx: &mut Effects,
    ) -> bool {
        let Some(id) = origin else { return true };
        let Some(conn) = self.conns.get_mut(id) else { return true };
        if conn.phase == Phase::Closing {
            return true;
        }
        let Some(Waiting::Write { zxid: first, call, .. }) = conn.waiting.front() else {
            return self.written_early(id, zxid, outcome, close);
        };
        let call = *call;
        let Call { xid, op, .. } = call;
        assert!(first.is_none_or(|first| first == zxid), "replies of {id:?} out of order");
        if let Some((_, counted)) = conn.pop() {
            self.outstanding -= counted;
        }
        self.large_waiting -= call.large_bytes;
        if matches!(outcome, Outcome::Failed(ErrorCode::SESSIONMOVED)) {
            self.close(id, fx);
            return true;
        }
        let last = self.tree.last_zxid();
        let size = reply::write(fx, id, xid, last, code(outcome), &self.body(op, outcome));
        self.count_reply(id, call, size);
        self.drain(id, fx);
        true
    }

    /// The outcome of a write before whose turn others are: it takes the write's place in the line.
    #[cold]
    fn written_early(&mut self, id: ConnId, zxid: Zxid, outcome: &Outcome<'_>, close: bool) -> bool {
        let Some(conn) = self.conns.get(id) else { return true };
        let is_write = |waiting: &Waiting| matches!(waiting, Waiting::Write { .. });
        let Some(place) = conn.waiting.iter().position(is_write) else { return true };
        let Some(Waiting::Write { zxid: first, call, .. }) = conn.waiting.get(place) else { return true };
        assert!(first.is_none_or(|first| first == zxid), "replies of {id:?} out of order");
        let call = *call;
        let close = close || matches!(outcome, Outcome::Failed(ErrorCode::SESSIONMOVED));
        let mut frame = Vec::new();
        put_frame(&mut frame, |out| {
            ReplyHeader { xid: call.xid, zxid: self.tree.last_zxid(), err: code(outcome) }.encode(out);
            self.body(call.op, outcome).encode(out);
        });
        if let Some(conn) = self.conns.get_mut(id)
            && let Some(waiting) = conn.waiting.get_mut(place)
        {
            *waiting = Waiting::Written { call, frame: frame.into(), close };
        }
        false
    }

    /// The body of the reply to a write.
    fn body<'a>(&'a self, op: OpCode, outcome: &Outcome<'a>) -> Reply<'a> {
        match outcome {
            Outcome::Created(path, _) if op == OpCode::Create => Reply::Path(Some(path.clone())),
            Outcome::Created(path, stat) => Reply::PathStat(path.clone(), *stat),
            Outcome::Changed(stat) => Reply::Stat(*stat),
            Outcome::Multi(results) => Reply::Multi(results.clone()),
            Outcome::Reconfigured(stat) => {
                Reply::Data(self.tree.find(path::CONFIG).and_then(|node| node.data()), *stat)
            }
            Outcome::Done | Outcome::Failed(_) => Reply::Empty,
        }
    }
}

fn parent_of(change: &Change) -> &str {
    path::parent(&change.path).unwrap_or("/")
}

fn code(outcome: &Outcome<'_>) -> ErrorCode {
    if let Outcome::Failed(code) = outcome { *code } else { ErrorCode::OK }
}
