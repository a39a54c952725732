//! What a leader does for its learners' clients: their writes are prepared and proposed like those of its own, their
//! sessions are owned where their connection is, and live as long as some server hears of them.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::{AuthId, ForwardedRequest};
use oxkeeper_proto::{ErrorCode, OpCode, PeerPacket, Reader, Request, SessionId};
use oxkeeper_tree::Identity;
use oxkeeper_zab::LinkId;
use tracing::{debug, info};

use crate::conn::Waiting;
use crate::effects::Effects;
use crate::expiry::Owner;
use crate::local::has_ephemeral;
use crate::member::Duty;
use crate::node::{Node, Standing, is_write, millis};
use crate::propose::Asked;

impl Node {
    /// A learner passes a client's request on. Whatever it is, it ends in a transaction: the client waits for one.
    pub(crate) fn learner_asks(&mut self, link: LinkId, asked: &ForwardedRequest, fx: &mut Effects) {
        if self.duty() != Duty::Decides {
            return;
        }
        let op = OpCode::from_number(asked.op);
        if op == Some(OpCode::Sync) {
            if let Some(member) = self.as_member() {
                member.agreement.sync_learner(link);
            }
            return;
        }
        let identities = identities(asked.auth.as_deref().unwrap_or_default());
        let mut who = Asked {
            origin: None,
            session: asked.session,
            xid: asked.xid,
            identities: &identities,
            standing: Ok(()),
        };
        let request = op
            .filter(|op| is_write(*op) || *op == OpCode::CreateSession)
            .map(|op| Request::decode(op, &mut Reader::new(&asked.body)));
        let proposed = match request {
            // A bare check among them: proposed, it would be a transaction that no server can read.
            None => Err(ErrorCode::UNIMPLEMENTED),
            Some(Err(error)) => {
                debug!("A learner passed on a request that does not parse: {error}");
                Err(ErrorCode::MARSHALLINGERROR)
            }
            Some(Ok(request)) => {
                match &request {
                    Request::CreateSession { timeout_ms } => {
                        self.adopt_session(link, asked.session, *timeout_ms);
                    }
                    Request::CloseSession => self.begin_closing(asked.session),
                    // Whoever makes an ephemeral must be known to all.
                    _ if has_ephemeral(&request) && self.expiry.key(asked.session).is_none() => {
                        who.standing = Err(ErrorCode::SESSIONEXPIRED);
                    }
                    _ => who.standing = self.standing(asked.session, Owner::Learner(link)),
                }
                self.propose(&who, &request, fx)
            }
        };
        if let Err(code) = proposed {
            // Without a place in the order the client would wait forever.
            let _ = self.propose_error(&who, code, fx);
        }
    }

    /// A session opens on a learner's connection.
    pub(crate) fn adopt_session(&mut self, link: LinkId, session: SessionId, timeout_ms: i32) {
        let now_ms = millis(self.now.mono);
        let key = self.expiry.track(session, timeout_ms.into(), now_ms);
        if let Some(tracked) = self.expiry.get_mut(key) {
            tracked.owner = Owner::Learner(link);
        }
    }

    pub(crate) fn begin_closing(&mut self, session: SessionId) {
        if let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key)) {
            tracked.closing = true;
        }
    }

    /// Whether a session may write over a connection of this owner. The first to write owns it after a change of
    /// leaders.
    ///
    /// Source: `SessionTrackerImpl.checkSession`, 3.9.
    pub(crate) fn standing(&mut self, session: SessionId, asks: Owner) -> Standing {
        let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key)) else {
            // Another server's local session, perhaps: it is not known here, and needs not be.
            let is_elsewhere = self.as_member().is_some_and(|member| {
                member.settings.local_sessions && session.0 >> 56 & 0xff != member.settings.me.0 & 0xff
            });
            return if is_elsewhere { Ok(()) } else { Err(ErrorCode::SESSIONEXPIRED) };
        };
        if tracked.closing {
            return Err(ErrorCode::SESSIONEXPIRED);
        }
        if tracked.owner == Owner::Nobody || is(Fault::OldConnectionServed) {
            tracked.owner = asks;
        }
        if tracked.owner == asks { Ok(()) } else { Err(ErrorCode::SESSIONMOVED) }
    }

    /// A learner has heard of sessions.
    pub(crate) fn learner_touched(&mut self, link: LinkId, sessions: &[(SessionId, i32)]) {
        let now_ms = millis(self.now.mono);
        for (session, timeout_ms) in sessions {
            let Some(key) = self.expiry.key(*session) else { continue };
            let Some(tracked) = self.expiry.get_mut(key).filter(|tracked| !tracked.closing) else {
                debug!("{link:?} has heard of session {session}, which is closing");
                continue;
            };
            // A connection that outlived the last leader: its session is there until it turns up elsewhere.
            if tracked.owner == Owner::Nobody {
                tracked.owner = Owner::Learner(link);
            }
            let is_elsewhere = tracked.owner != Owner::Learner(link);
            self.expiry.retime(key, i64::from(*timeout_ms), now_ms);
            if is_elsewhere {
                self.tell_of_move(link, *session);
            }
        }
    }

    /// Tells a learner that the client of a session is at another server by now. Java's does not know the packet and passes
    /// over it. Ours must not keep the old connection over a change of leaders: the next one does not know who owns the
    /// session.
    pub(crate) fn tell_of_move(&mut self, learner: LinkId, session: SessionId) {
        if let Some(member) = self.as_member().filter(|_| !is(Fault::OldConnectionServed)) {
            member.agreement.send_to_learner(learner, PeerPacket::Moved { session });
        }
    }

    /// A learner asks whether a session lives, because its client has come there.
    pub(crate) fn learner_revalidates(
        &mut self,
        link: LinkId,
        session: SessionId,
        timeout_ms: i32,
        fx: &mut Effects,
    ) {
        let now_ms = millis(self.now.mono);
        let key = self
            .expiry
            .key(session)
            .filter(|key| self.expiry.get(*key).is_some_and(|tracked| !tracked.closing && !tracked.is_local));
        let mut moved_from = None;
        let mut before = Owner::Nobody;
        if let Some(key) = key {
            self.expiry.retime(key, timeout_ms.into(), now_ms);
            if let Some(tracked) = self.expiry.get_mut(key) {
                before = std::mem::replace(&mut tracked.owner, Owner::Learner(link));
                moved_from = tracked.conn.take();
            }
        }
        if let Owner::Learner(other) = before
            && other != link
        {
            self.tell_of_move(other, session);
        }
        if let Some(member) = self.as_member() {
            let packet = PeerPacket::Revalidated { session, valid: key.is_some() };
            member.agreement.send_to_learner(link, packet);
        }
        if let Some(conn) = moved_from.filter(|_| !is(Fault::OldConnectionServed)) {
            info!("Session {session} has moved to another server");
            self.close(conn, fx);
        }
    }

    /// A sync of this leader's own client is done.
    pub(crate) fn own_sync_done(&mut self, number: u64, fx: &mut Effects) {
        let Some((id, xid)) = self.as_member().and_then(|member| member.syncs.remove(&number)) else {
            return;
        };
        self.sync_done(id, xid, fx);
    }

    /// A sync is done: its place in the line becomes an answer.
    pub(crate) fn sync_done(&mut self, id: crate::ConnId, xid: oxkeeper_proto::Xid, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        for waiting in &mut conn.waiting {
            if let Waiting::Sync { call, is_done, .. } = waiting
                && call.xid == xid
                && !*is_done
            {
                *is_done = true;
                conn.is_syncing = false;
                break;
            }
        }
        self.drain(id, fx);
    }
}

/// Who a client is, as its server says.
fn identities(auth: &[AuthId]) -> Vec<Identity> {
    auth.iter().map(|auth| Identity { scheme: auth.scheme.clone().into(), id: auth.id.clone() }).collect()
}
