//! Sessions that only this server knows: no transaction opens or closes them, and no other server takes them up. The
//! first ephemeral makes a global session of one, if that is allowed.
//!
//! Source: `UpgradeableSessionTracker`, `QuorumZooKeeperServer`, `ReadOnlyZooKeeperServer`, 3.9.

use oxkeeper_proto::{CreateMode, ErrorCode, OpCode, Reader, Request, SessionId, Xid};
use tracing::info;

use crate::conn::{Call, Notice};
use crate::effects::{ConnId, Effects};
use crate::member::{Duty, Order};
use crate::node::{Node, millis};
use crate::propose::Asked;

impl Node {
    /// Whether new sessions are local.
    pub(crate) fn opens_locally(&self) -> bool {
        match &self.order {
            Order::Solo(_) => false,
            Order::Ensemble(member) => member.settings.local_sessions || member.duty == Duty::ReadsOnly,
        }
    }

    pub(crate) fn is_local(&self, session: SessionId) -> bool {
        self.expiry.key(session).and_then(|key| self.expiry.get(key)).is_some_and(|tracked| tracked.is_local)
    }

    /// What a write of a local session needs before it goes the way of all writes. False if that is not its way.
    pub(crate) fn admit_from_local(
        &mut self,
        id: ConnId,
        call: Call,
        reader: &Reader<'_>,
        fx: &mut Effects,
    ) -> bool {
        let Some(session) = self.conns.get(id).map(|conn| conn.session) else { return false };
        if !self.is_local(session) {
            return true;
        }
        if call.op == OpCode::CloseSession {
            // What it has asked before finds its connection by the session, which therefore stays until its turn.
            if let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key)) {
                tracked.closing = true;
            }
            let notice = Notice { xid: call.xid, zxid: None, code: ErrorCode::OK, close: true };
            self.reply_in_turn(id, notice, fx);
            return false;
        }
        let makes_ephemeral =
            Request::decode(call.op, &mut reader.clone()).is_ok_and(|request| has_ephemeral(&request));
        if !makes_ephemeral || self.duty() == Duty::ReadsOnly {
            return true;
        }
        let may_upgrade = self.as_member().is_some_and(|member| member.settings.local_sessions_upgrade);
        if !may_upgrade {
            self.reply_in_turn(id, Notice::refusal(call.xid, ErrorCode::EPHEMERALONLOCALSESSION), fx);
            return false;
        }
        self.upgrade(id, session, fx);
        true
    }

    /// Makes a global session of a local one; what needs it goes the same way right behind.
    fn upgrade(&mut self, id: ConnId, session: SessionId, fx: &mut Effects) {
        let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key)) else { return };
        tracked.is_local = false;
        let timeout_ms = i32::try_from(tracked.timeout_ms).unwrap_or(i32::MAX);
        info!("Session {session} becomes a global one");
        if self.duty() == Duty::Forwards {
            return self.forward_session(id, session, timeout_ms, fx);
        }
        let asked = Asked { origin: None, session, xid: Xid(0), identities: &[], standing: Ok(()) };
        // Opening a session cannot be refused by the tree.
        let _ = self.propose(&asked, &Request::CreateSession { timeout_ms }, fx);
    }

    /// Forgets a local session that has ended, with its connection.
    pub(crate) fn forget_ended_local(&mut self, session: SessionId, gone: ConnId) {
        let tracked = self.expiry.key(session).and_then(|key| self.expiry.get(key));
        let is_its_own = |conn: Option<ConnId>| conn.is_none_or(|conn| conn == gone);
        if tracked.is_some_and(|tracked| tracked.is_local && tracked.closing && is_its_own(tracked.conn)) {
            self.expiry.remove(session);
        }
    }

    /// Lets go of local sessions that were silent for too long.
    pub(crate) fn expire_locals(&mut self, fx: &mut Effects) {
        let mut due = std::collections::VecDeque::new();
        self.expiry.due_locals(millis(self.now.mono), &mut due);
        for session in due {
            self.close_local(session, fx);
        }
    }

    /// Ends a local session: its connection goes with it.
    pub(crate) fn close_local(&mut self, session: SessionId, fx: &mut Effects) {
        info!("The local session {session} has expired");
        self.sessions_expired += 1;
        if let Some(conn) = self.expiry.remove(session).and_then(|tracked| tracked.conn) {
            self.close(conn, fx);
        }
    }
}

/// Whether a request makes an ephemeral.
pub(crate) fn has_ephemeral(request: &Request<'_>) -> bool {
    let makes_one = |request: &Request<'_>| match request {
        Request::Create(create) => {
            matches!(create.op, OpCode::Create | OpCode::Create2)
                && CreateMode::from_flags(create.flags).is_some_and(|mode| mode.ephemeral)
        }
        _ => false,
    };
    match request {
        Request::Multi(ops) => ops.iter().any(makes_one),
        single => makes_one(single),
    }
}
