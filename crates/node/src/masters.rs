//! What a follower does for the observers that it serves: what they ask goes on to the leader, as if it were asked here, and
//! the answers go back in their order.
//!
//! To the leader all of them are this server, so what happens among them the leader does not see. Which of them a session
//! is at is known here alone: a request from where it no longer is must not follow one from where it is, and whoever has a
//! client's old connection is told so, before anything that is agreed later. Whatever is asked and told passes here in one
//! order, so nothing more is needed for that.
//!
//! Source: `ObserverMaster`, `FollowerRequestProcessor`, 3.9, which lets observers of one follower pass a session on
//! without noticing.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::ForwardedRequest;
use oxkeeper_proto::{OpCode, PeerPacket, Reader, Request, SessionId, Xid};
use oxkeeper_zab::LinkId;
use tracing::warn;

use crate::effects::{ConnId, Effects};
use crate::expiry::Owner;
use crate::member::Order;
use crate::node::{Node, is_write, millis};
use crate::peers::LinkEffect;

/// Questions about one session that wait for the leader. Who moves it about faster is cut off.
const ASKERS_MAX: usize = 64;

/// Whose sync the leader was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PassedSync {
    /// That of a client of this server.
    Client(ConnId, Xid),
    /// That of an observer's client.
    Observer(LinkId),
    /// This server's own: when it is done the leader knows of the sessions that an observer has brought.
    Acquaintance(LinkId),
}

/// Who has asked the leader for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// This server.
    Here,
    /// An observer.
    Observer(LinkId),
}

/// Puts in the place of a request what every leader refuses with a transaction: its client, who may be an observer's of
/// another make, waits for one. As it is it could be proposed as one that no server can read, or under a zxid in use.
fn let_fail(asked: &mut ForwardedRequest) {
    let refused = Request::Delete { path: "/".into(), version: -1 };
    let mut body = Vec::new();
    refused.encode(&mut body);
    (asked.op, asked.body) = (refused.op().number(), body.into());
}

impl Node {
    /// An observer passes a client's request on. What no leader should be asked goes on as something that fails.
    pub(crate) fn observer_asks(&mut self, link: LinkId, mut asked: ForwardedRequest, fx: &mut Effects) {
        let op = OpCode::from_number(asked.op);
        if op == Some(OpCode::Sync) {
            return self.pass_sync_on(link, asked, fx);
        }
        let request = op
            .filter(|op| is_write(*op) || *op == OpCode::CreateSession)
            .and_then(|op| Request::decode(op, &mut Reader::new(&asked.body)).ok());
        let may_be_asked = request.is_some();
        match request {
            Some(Request::CreateSession { timeout_ms }) => {
                self.adopt_session(link, asked.session, timeout_ms);
            }
            Some(Request::CloseSession) => self.begin_closing(asked.session),
            _ if self.is_elsewhere(link, asked.session) => {
                return self.tell_of_move(link, asked.session);
            }
            _ => {}
        }
        if !may_be_asked {
            warn!("An observer passes on a request of type {} that makes no sense", asked.op);
            let_fail(&mut asked);
        }
        if let Some(member) = self.as_member() {
            member.agreement.send_to_leader(PeerPacket::Request(asked));
        }
    }

    fn pass_sync_on(&mut self, link: LinkId, asked: ForwardedRequest, fx: &mut Effects) {
        let Some(member) = self.as_member() else { return };
        if member.passed_syncs.len() >= member.settings.revalidating_max {
            return self.cut_off(link, "too many syncs wait for the leader", fx);
        }
        if member.agreement.send_to_leader(PeerPacket::Request(asked)) {
            member.passed_syncs.push_back(PassedSync::Observer(link));
        }
    }

    /// Whether a session is not at this observer, but at another one or at this server. The first to write has it after a
    /// change of leaders.
    fn is_elsewhere(&mut self, link: LinkId, session: SessionId) -> bool {
        if is(Fault::OldConnectionServed) {
            return false;
        }
        // Whoever has asked for it last has it, if anybody.
        let newest =
            self.as_member().and_then(|member| member.revalidating.get(&session)?.askers.back().copied());
        if let Some(newest) = newest {
            return newest != Asker::Observer(link);
        }
        let tracked = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key));
        // One that is not known here is one that has ended, or that only its own server knows.
        let Some(tracked) = tracked else { return false };
        if tracked.owner == Owner::Nobody && tracked.conn.is_none() {
            tracked.owner = Owner::Learner(link);
        }
        tracked.owner != Owner::Learner(link)
    }

    /// An observer has heard of sessions: the leader is told with the next answer to a ping. With its first word of this
    /// kind an observer tells of all that it has brought with it.
    pub(crate) fn observer_touched(&mut self, link: LinkId, sessions: &[(SessionId, i32)]) {
        if let Some(member) = self.as_member()
            && member.acquainted.insert(link)
        {
            match sessions.first() {
                Some((session, _)) => member.to_acquaint.push((link, *session)),
                None => self.acquaint(link),
            }
        }
        for (session, timeout_ms) in sessions {
            let tracked = self.expiry.key(*session).and_then(|key| self.expiry.get(key));
            if tracked.is_none_or(|tracked| tracked.closing) {
                continue;
            }
            if self.is_elsewhere(link, *session) {
                self.tell_of_move(link, *session);
            }
            if let Some(member) = self.as_member() {
                member.observed.insert(*session, *timeout_ms);
            }
        }
    }

    /// The leader was told of what observers have brought. Once it has answered a sync that was asked for behind that, it
    /// has told where else any of it may be.
    pub(crate) fn ask_for_acquaintance(&mut self) {
        let Some(member) = self.as_member() else { return };
        for (link, session) in std::mem::take(&mut member.to_acquaint) {
            let mut body = Vec::new();
            Request::Sync { path: Some("/".into()) }.encode(&mut body);
            let op = OpCode::Sync.number();
            let request = ForwardedRequest { session, xid: Xid(0), op, body: body.into(), auth: None };
            if member.agreement.send_to_leader(PeerPacket::Request(request)) {
                member.passed_syncs.push_back(PassedSync::Acquaintance(link));
            }
        }
    }

    /// Tells an observer that from here on it hears of every session that leaves it. Only ours know what this means.
    pub(crate) fn acquaint(&mut self, link: LinkId) {
        if let Some(member) = self.as_member() {
            member.agreement.send_to_learner(link, PeerPacket::Moved { session: SessionId::NONE });
        }
    }

    /// An observer asks whether a session lives, because its client has come there. Whoever has it here loses it now: what
    /// still comes from there must not be passed on behind this.
    pub(crate) fn observer_revalidates(
        &mut self,
        link: LinkId,
        session: SessionId,
        timeout_ms: i32,
        fx: &mut Effects,
    ) {
        let Some(member) = self.as_member() else { return };
        let due = member.revalidating.get(&session).map_or(0, |asked| asked.askers.len());
        if member.revalidating.len() >= member.settings.revalidating_max || due >= ASKERS_MAX {
            return self.cut_off(link, "too many sessions are asked for", fx);
        }
        let asked = member.revalidating.entry(session).or_default();
        let newest = asked.askers.back().copied();
        asked.askers.push_back(Asker::Observer(link));
        let waits = asked.conn.take();
        member.agreement.send_to_leader(PeerPacket::Revalidate { session, timeout_ms });
        self.session_leaves(session, Owner::Learner(link), newest, fx);
        if let Some(waits) = waits {
            self.close(waits, fx);
        }
    }

    /// The client of a session has turned up at an observer, or here. Whoever had it is told. `asker` has asked for it last
    /// and has no answer yet.
    pub(crate) fn session_leaves(
        &mut self,
        session: SessionId,
        to: Owner,
        asker: Option<Asker>,
        fx: &mut Effects,
    ) {
        if let Some(Asker::Observer(link)) = asker
            && Owner::Learner(link) != to
        {
            self.tell_of_move(link, session);
        }
        let Some(tracked) = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key)) else { return };
        let before = std::mem::replace(&mut tracked.owner, to);
        let conn = if matches!(to, Owner::Learner(_)) { tracked.conn.take() } else { None };
        if let Owner::Learner(link) = before
            && before != to
        {
            self.tell_of_move(link, session);
        }
        if let Some(conn) = conn.filter(|_| !is(Fault::OldConnectionServed)) {
            self.close(conn, fx);
        }
    }

    /// The leader has answered an observer's question, which may not be the newest one about that session.
    pub(crate) fn observer_revalidated(
        &mut self,
        link: LinkId,
        session: SessionId,
        valid: bool,
        is_newest: bool,
    ) {
        let now_ms = millis(self.now.mono);
        if let Some(member) = self.as_member() {
            member.agreement.send_to_learner(link, PeerPacket::Revalidated { session, valid });
        }
        if !valid {
            return;
        }
        if !is_newest {
            return self.tell_of_move(link, session);
        }
        // It may have been unknown here when it was asked for; by now it is there.
        let timeout_ms = self.tree.session_timeout_ms(session).unwrap_or(0);
        let key = self.expiry.track(session, timeout_ms.into(), now_ms);
        if let Some(tracked) = self.expiry.get_mut(key) {
            tracked.owner = Owner::Learner(link);
        }
    }

    /// The leader says that the client of a session is at a server by now that is neither this one nor one of its
    /// observers. If it has been asked for here since, that is what the leader will hear next.
    pub(crate) fn session_left(&mut self, session: SessionId) {
        let is_asked = self.as_member().is_some_and(|member| member.revalidating.contains_key(&session));
        let tracked = self.expiry.key(session).and_then(|key| self.expiry.get_mut(key));
        if let Some(tracked) = tracked.filter(|_| !is_asked)
            && let Owner::Learner(link) = tracked.owner
        {
            tracked.owner = Owner::Nobody;
            self.tell_of_move(link, session);
        }
    }

    /// Closes the link to a learner.
    pub(crate) fn cut_off(&mut self, link: LinkId, reason: &str, fx: &mut Effects) {
        warn!("Closing the link to a learner: {reason}");
        let now_ms = millis(self.now.mono);
        if let Order::Ensemble(member) = &mut self.order {
            member.agreement.link_closed(now_ms, link);
        }
        self.link_gone(link, fx);
        fx.peers.links.push(LinkEffect::Close(link));
    }
}
