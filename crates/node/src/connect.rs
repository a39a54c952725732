//! A client's first frame: a session is opened, taken up again, or refused.
//!
//! Source: `ZooKeeperServer.processConnectRequest`, 3.9.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{ConnectRequest, ConnectResponse, Request, SessionId, session};
use tracing::{info, warn};

use crate::conn::Phase;
use crate::effects::{ConnId, Effects};
use crate::expiry::{Key, Owner};
use crate::member::{Duty, Order};
use crate::node::{Node, millis};
use crate::propose::Asked;

impl Node {
    pub(crate) fn connect(&mut self, id: ConnId, bytes: &[u8], fx: &mut Effects) {
        let Ok(request) = ConnectRequest::decode(bytes) else {
            warn!("Closing a connection whose first frame is no ConnectRequest ({} bytes)", bytes.len());
            return self.close(id, fx);
        };
        if !self.may_serve(request.read_only.unwrap_or(false)) {
            return self.close(id, fx);
        }
        let is_new = request.session_id == SessionId::NONE;
        if is_new && self.scarcity.refuses_growth() {
            info!("Refusing a session: there is no room for more");
            return self.close(id, fx);
        }
        if !self.throttle.admits(is_new, millis(self.now.mono)) {
            info!("Refusing a session: the connection throttle has no token left");
            return self.close(id, fx);
        }
        let last = self.tree.last_zxid();
        if request.last_zxid_seen > last {
            info!(
                "Refusing session request for client as it has seen zxid {} our last zxid is {last} client must \
                 try another server",
                request.last_zxid_seen
            );
            return self.close(id, fx);
        }
        let timeout_ms = request
            .timeout_ms
            .min(self.settings.session_timeout_max_ms)
            .max(self.settings.session_timeout_min_ms);
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.timeout_ms = timeout_ms;
        conn.read_only = request.read_only;
        if is_new {
            self.open_session(id, timeout_ms, fx);
        } else {
            self.take_up_session(id, &request, timeout_ms, fx);
        }
    }

    fn open_session(&mut self, id: ConnId, timeout_ms: i32, fx: &mut Effects) {
        // Never an id that is in use: a session of an earlier start may still live.
        while self.expiry.key(self.next_session).is_some() {
            self.next_session.0 += 1;
        }
        let session = self.next_session;
        self.next_session.0 += 1;
        let now_ms = millis(self.now.mono);
        let key = self.expiry.track(session, timeout_ms.into(), now_ms);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.session = session;
            conn.phase = Phase::Opening;
        }
        let is_local = self.opens_locally();
        if let Some(tracked) = self.expiry.get_mut(key) {
            tracked.owner = Owner::Here;
            tracked.conn = Some(id);
            tracked.is_local = is_local;
        }
        if is_local {
            return self.establish(id, key, fx);
        }
        if self.duty() == Duty::Forwards {
            return self.forward_session(id, session, timeout_ms, fx);
        }
        let asked = Asked {
            origin: Some(id),
            session,
            xid: oxkeeper_proto::Xid(0),
            identities: &[],
            standing: Ok(()),
        };
        // Opening a session cannot be refused by the tree.
        let _ = self.propose(&asked, &Request::CreateSession { timeout_ms }, fx);
    }

    fn take_up_session(
        &mut self,
        id: ConnId,
        request: &ConnectRequest<'_>,
        timeout_ms: i32,
        fx: &mut Effects,
    ) {
        let session = request.session_id;
        let genuine = request.password == Some(&session::password(session)[..]);
        let is_local = self.is_local(session);
        if self.duty() == Duty::ReadsOnly && !is_local && self.tree.session_timeout_ms(session).is_some() {
            // It may be in use elsewhere; nobody is there to ask.
            return self.close(id, fx);
        }
        if genuine && !is_local && self.duty() == Duty::Forwards {
            return self.revalidate(id, session, timeout_ms, fx);
        }
        let key = self
            .expiry
            .key(session)
            .filter(|key| genuine && self.expiry.get(*key).is_some_and(|tracked| !tracked.closing));
        // The session must be open, not merely proposed by somebody else's handshake.
        let is_open = is_local || self.tree.session_timeout_ms(session).is_some();
        let Some(key) = key.filter(|_| is_open) else {
            info!("Invalid session {session} for client, probably expired");
            return self.refuse_session(id, fx);
        };
        let now_ms = millis(self.now.mono);
        self.expiry.retime(key, timeout_ms.into(), now_ms);
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.session = session;
        self.take_over(id, key, fx);
    }

    /// Whether this server serves a client that would be content with reading, or one that would not.
    fn may_serve(&self, reads_only: bool) -> bool {
        match (&self.order, self.duty()) {
            (Order::Ensemble(member), Duty::Decides) => member.settings.leader_serves,
            (_, Duty::Decides | Duty::Forwards) => true,
            (_, Duty::ReadsOnly) => reads_only,
            (_, Duty::Idle | Duty::HandsOver | Duty::Holds) => false,
        }
    }

    /// A session goes on over this connection; the one that it had here before is closed.
    pub(crate) fn take_over(&mut self, id: ConnId, key: Key, fx: &mut Effects) {
        let Some(conn) = self.conns.get(id) else { return };
        let (session, address) = (conn.session, conn.peer.0);
        let mut previous = None;
        let mut owner = Owner::Nobody;
        if let Some(tracked) = self.expiry.get_mut(key) {
            if tracked.address.is_some_and(|before| before != address) {
                info!("Session {session} comes back from {address}, another address than before");
            }
            previous = tracked.conn.replace(id);
            owner = std::mem::replace(&mut tracked.owner, Owner::Here);
            tracked.address = Some(address);
        }
        if let Owner::Learner(learner) = owner {
            self.tell_of_move(learner, session);
        }
        if let Some(previous) = previous.filter(|previous| *previous != id && !is(Fault::OldConnectionServed))
        {
            self.close(previous, fx);
        }
        self.establish(id, key, fx);
    }

    /// The session is there: the client is told, and what it sent meanwhile is looked at.
    pub(crate) fn establish(&mut self, id: ConnId, key: Key, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.phase = Phase::Open(key);
        let is_read_only = matches!(&self.order, Order::Ensemble(member) if member.duty == Duty::ReadsOnly);
        conn.last_op = "SESS";
        conn.counts.sent += 1;
        self.counts.sent += 1;
        let response = ConnectResponse {
            timeout_ms: conn.timeout_ms,
            session_id: conn.session,
            password: session::password(conn.session),
            read_only: conn.read_only.map(|_| is_read_only && !is(Fault::ReadOnlyUnsaid)),
        };
        put_frame(fx.write(id), |out| response.encode(out));
        let address = conn.peer.0;
        if let Some(tracked) = self.expiry.get_mut(key) {
            tracked.conn = Some(id);
            tracked.address = Some(address);
        }
        self.admit_kept(id, fx);
    }

    pub(crate) fn refuse_session(&mut self, id: ConnId, fx: &mut Effects) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let response = ConnectResponse::expired(conn.read_only.map(|_| false));
        put_frame(fx.write(id), |out| response.encode(out));
        self.close(id, fx);
    }
}
