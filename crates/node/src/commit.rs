//! Stages 8 to 10: what is final is applied, those who watch are told, and the client gets its reply.

use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{
    ErrorCode, OpCode, Reply, ReplyHeader, SessionId, TxnRecord, WatcherEvent, Xid, Zxid, path, perms,
};
use oxkeeper_tree::{Change, Outcome};

use crate::conn::{Call, Phase, Waiting};
use crate::effects::{ConnId, Effects};
use crate::node::Node;
use crate::reply;

impl Node {
    /// Applies everything that is final.
    pub(crate) fn commit(&mut self, fx: &mut Effects) {
        while let Some(proposal) = self.solo.next_committed() {
            let record = match TxnRecord::decode(&proposal.payload) {
                Ok(record) => record,
                Err(error) => {
                    panic!("transaction {} was proposed but cannot be read: {error}", proposal.zxid)
                }
            };
            let origin = match self.origins.pop_front() {
                Some((zxid, origin)) if zxid == proposal.zxid => origin,
                other => panic!("{} is final, but {other:?} was next in line", proposal.zxid),
            };
            if let Some(id) = origin {
                self.answer_before(id, proposal.zxid, fx);
            }
            self.changes.wanted = !self.watches.is_empty();
            let outcome = match self.tree.apply(&record, &mut self.changes) {
                Ok(outcome) => outcome,
                Err(divergence) => panic!("{divergence}"),
            };
            self.pending.applied(proposal.zxid);
            self.notify(proposal.zxid, fx);
            match record.header.op {
                OpCode::CreateSession => self.session_opened(record.header.session, origin, fx),
                OpCode::CloseSession => self.session_closed(record.header.session, origin, proposal.zxid, fx),
                _ => self.written(origin, proposal.zxid, &outcome, fx),
            }
        }
        self.resume_paused(fx);
        self.close_expired(fx);
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
                if may_read {
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
        let Some(key) = self.expiry.key(session) else { return };
        let Some(id) = origin else { return };
        if self.conns.get(id).is_some_and(|conn| conn.phase == Phase::Opening) {
            self.establish(id, key, fx);
        }
    }

    fn session_closed(&mut self, session: SessionId, origin: Option<ConnId>, zxid: Zxid, fx: &mut Effects) {
        let tracked = self.expiry.remove(session);
        if let Some(id) = origin {
            self.written(Some(id), zxid, &Outcome::Done, fx);
            self.close(id, fx);
        }
        // Expired, or closed through a connection that is no longer its own.
        if let Some(id) = tracked.and_then(|tracked| tracked.conn).filter(|id| Some(*id) != origin) {
            self.close(id, fx);
        }
    }

    /// Stage 10: the reply to a write, and whatever waited behind it.
    fn written(&mut self, origin: Option<ConnId>, zxid: Zxid, outcome: &Outcome<'_>, fx: &mut Effects) {
        let Some(id) = origin else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(Waiting::Write { zxid: first, call }) = conn.waiting.front() else { return };
        let call = *call;
        let Call { xid, op, .. } = call;
        assert_eq!(*first, zxid, "replies of {id:?} out of order");
        if let Some((_, counted)) = conn.pop() {
            self.outstanding -= counted;
        }
        self.large_waiting -= call.large_bytes;
        if matches!(outcome, Outcome::Failed(ErrorCode::SESSIONMOVED)) {
            return self.close(id, fx);
        }
        let code = if let Outcome::Failed(code) = outcome { *code } else { ErrorCode::OK };
        let last = self.tree.last_zxid();
        let size = reply::write(fx, id, xid, last, code, &body(op, outcome));
        self.count_reply(id, call, size);
        self.drain(id, fx);
    }
}

fn parent_of(change: &Change) -> &str {
    path::parent(&change.path).unwrap_or("/")
}

/// The body of the reply to a write.
fn body<'a>(op: OpCode, outcome: &Outcome<'a>) -> Reply<'a> {
    match outcome {
        Outcome::Created(path, _) if op == OpCode::Create => Reply::Path(Some(path.clone())),
        Outcome::Created(path, stat) => Reply::PathStat(path.clone(), *stat),
        Outcome::Changed(stat) => Reply::Stat(*stat),
        Outcome::Multi(results) => Reply::Multi(results.clone()),
        Outcome::Reconfigured(_) | Outcome::Done | Outcome::Failed(_) => Reply::Empty,
    }
}
