//! What becomes of clients while leadership is handed over: their connections stay, and what they ask waits for the next
//! leader.
//!
//! That is possible because nothing is in doubt. What this server had passed on and has not seen by the time at which it
//! applies the transaction that hands over was not offered, and never will be; so it is put on its way again. Sessions
//! whose client has turned up at another server were told of by the old leader before that ([`Node::session_moved`]), so no
//! connection is left that its client has given up for another one; and the next epoch's leader hears of every later move.
//! Watches are true as long as this server's state only grows, by what is agreed: when it must go back, or take another
//! one, or a history that may end with what was never agreed, clients are let go.
//!
//! [`Node::session_moved`]: crate::Node

use std::collections::BTreeSet;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{Epoch, OpCode, Put, Reader, RequestHeader, SessionId};
use tracing::{info, warn};

use crate::admit::is_read;
use crate::conn::{Conn, Phase, Waiting};
use crate::effects::{ConnId, Effects};
use crate::expiry::Owner;
use crate::member::{Duty, Member};
use crate::node::{Node, is_write, millis};

/// What a server keeps while there is no leader.
#[derive(Debug)]
pub(crate) struct Held {
    /// When clients are let go.
    pub(crate) until_ms: i64,
    /// The epoch that was left. Where a session is, only the leader of the next one learns from the beginning.
    left: Epoch,
    /// Sessions that only this server knows.
    locals: BTreeSet<SessionId>,
    /// What waits, in requests and bytes.
    requests: usize,
    bytes: usize,
}

impl Node {
    /// Whether a request waits for the next leader: one that the present one would have to offer, or to ask others for.
    pub(crate) fn waits_for_next_leader(&self, op: OpCode) -> bool {
        self.duty() == Duty::HandsOver && (is_write(op) || op == OpCode::Sync)
    }

    /// Whether what is first in a connection's line waits for the next leader.
    pub(crate) fn is_held(&self, id: ConnId) -> bool {
        let duty = self.duty();
        if !matches!(duty, Duty::HandsOver | Duty::Holds) {
            return false;
        }
        let Some(Waiting::Frame { bytes, .. }) = self.conns.get(id).and_then(|conn| conn.waiting.front())
        else {
            return false;
        };
        let header = RequestHeader::decode(&mut Reader::new(bytes));
        let op = header.ok().and_then(|header| OpCode::from_number(header.op));
        duty == Duty::Holds || op.is_some_and(|op| self.waits_for_next_leader(op) || !is_read(op))
    }

    /// Holds everybody who has a session, and lets go of the others: they have nothing to lose.
    pub(crate) fn begin_hold(&mut self, fx: &mut Effects) {
        let now_ms = millis(self.now.mono);
        let of = |member: &mut Member| (member.settings.hold_ms_max, member.agreement.epochs().1);
        let Some((hold_ms, left)) = self.as_member().map(of) else { return };
        if hold_ms <= 0 || is(Fault::HandOverLetsGo) || self.duty() == Duty::Holds {
            return;
        }
        let until_ms = now_ms.saturating_add(hold_ms);
        let mut held = Held { until_ms, left, locals: BTreeSet::new(), requests: 0, bytes: 0 };
        let ids: Vec<ConnId> = self.conns.iter().map(|conn| conn.id).collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            match conn.phase {
                Phase::Open(key) => {
                    if !take_back(conn) {
                        self.close(id, fx);
                        continue;
                    }
                    held.add(conn);
                    if self.expiry.get(key).is_some_and(|tracked| tracked.is_local) {
                        held.locals.insert(conn.session);
                    }
                }
                Phase::Opening | Phase::New => self.close(id, fx),
                Phase::Closing => {}
            }
        }
        info!("Holding {} requests of clients for the next leader", held.requests);
        if let Some(member) = self.as_member() {
            member.duty = Duty::Holds;
            member.held = Some(held);
        }
    }

    /// A request of a client that is held.
    pub(crate) fn hold(&mut self, id: ConnId, bytes: &[u8], received_ms: u64, fx: &mut Effects) {
        let Some(member) = self.as_member() else { return };
        let (requests_max, bytes_max) = (member.settings.hold_requests_max, member.settings.hold_bytes_max);
        let Some(held) = &mut member.held else { return };
        held.requests += 1;
        held.bytes += bytes.len();
        if held.requests > requests_max || held.bytes > bytes_max {
            warn!("Closing a connection: more is asked than is held while leadership is handed over");
            held.requests -= 1;
            held.bytes -= bytes.len();
            return self.close(id, fx);
        }
        self.keep(id, bytes, received_ms, fx);
    }

    /// Lets everybody go if the next leader is not there in time.
    pub(crate) fn end_hold(&mut self, now_ms: i64, fx: &mut Effects) {
        let is_over = |member: &mut Member| member.held.as_ref().is_some_and(|held| now_ms >= held.until_ms);
        if self.as_member().is_some_and(is_over) {
            warn!("The next leader is not there in time");
            self.let_go(fx);
        }
    }

    /// An epoch is promised. Whoever is held may stay only for the one that follows the epoch that was left: everything
    /// before it is agreed. A later one begins with a history that is applied before it is agreed, and watches would tell
    /// of it.
    pub(crate) fn epoch_promised(&mut self, epoch: Epoch, fx: &mut Effects) {
        let was_missed =
            |member: &mut Member| member.held.as_ref().is_some_and(|held| held.is_too_old_for(epoch));
        if self.as_member().is_some_and(was_missed) {
            info!("Epoch {} comes, and one before it was missed: letting clients go", epoch.0);
            self.let_go(fx);
        }
    }

    /// Lets go of everybody who is held.
    pub(crate) fn let_go(&mut self, fx: &mut Effects) {
        if self.duty() == Duty::Holds {
            self.close_all(fx);
            if let Some(member) = self.as_member() {
                member.duty = Duty::Idle;
                member.held = None;
            }
        }
    }

    fn close_all(&mut self, fx: &mut Effects) {
        let ids: Vec<ConnId> = self.conns.iter().map(|conn| conn.id).collect();
        for id in ids {
            self.close(id, fx);
        }
    }

    /// There is a leader: everybody who is held goes on. Their sessions are this server's until they turn up elsewhere. But if
    /// an epoch was missed in which they may have been elsewhere already, they are let go.
    pub(crate) fn resume_held(&mut self, fx: &mut Effects) {
        let now_ms = millis(self.now.mono);
        let taken = |member: &mut Member| member.held.take().map(|held| (held, member.agreement.epochs().1));
        let Some((held, epoch)) = self.as_member().and_then(taken) else { return };
        if held.is_too_old_for(epoch) {
            info!("Epoch {} was missed: letting clients go", held.left.0 + 1);
            return self.close_all(fx);
        }
        let is_open = |conn: &&Conn| matches!(conn.phase, Phase::Open(_));
        let ids: Vec<ConnId> = self.conns.iter().filter(is_open).map(|conn| conn.id).collect();
        for id in ids.iter().copied() {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let (session, timeout_ms, address) = (conn.session, conn.timeout_ms, conn.peer.0);
            let is_local = held.locals.contains(&session);
            let key = match self.expiry.key(session) {
                None if is_local => self.expiry.track(session, timeout_ms.into(), now_ms),
                Some(key) => key,
                None => {
                    info!("Session {session} has ended meanwhile");
                    self.close(id, fx);
                    continue;
                }
            };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.phase = Phase::Open(key);
            self.expiry.retime(key, timeout_ms.into(), now_ms);
            if let Some(tracked) = self.expiry.get_mut(key) {
                tracked.conn = Some(id);
                tracked.address = Some(address);
                tracked.owner = Owner::Here;
                tracked.is_local = is_local;
            }
        }
        for id in ids {
            self.admit_kept(id, fx);
            self.drain(id, fx);
        }
        self.resume_paused(fx);
    }
}

impl Held {
    /// Whether an epoch is not the one that follows the epoch that was left.
    fn is_too_old_for(&self, epoch: Epoch) -> bool {
        self.left.0.checked_add(1) != Some(epoch.0)
    }

    fn add(&mut self, conn: &Conn) {
        for waiting in &conn.waiting {
            if let Waiting::Frame { bytes, .. } = waiting {
                self.requests += 1;
                self.bytes += bytes.len();
            }
        }
    }
}

/// Makes requests again of what a connection's client has asked the leader. False if one of them may have been offered.
fn take_back(conn: &mut Conn) -> bool {
    conn.is_syncing = false;
    let mut is_settled = true;
    for waiting in conn.take_line().0 {
        let (call, body) = match &waiting {
            Waiting::Write { zxid: None, call, body } => (*call, body.to_vec()),
            Waiting::Sync { call, path, is_done: false } => {
                let mut body = Vec::new();
                body.put_buffer(path.as_deref().map(str::as_bytes));
                (*call, body)
            }
            other => {
                is_settled &= !matches!(other, Waiting::Write { .. });
                conn.push(waiting);
                continue;
            }
        };
        let mut bytes = Vec::with_capacity(8 + body.len());
        RequestHeader { xid: call.xid, op: call.op.number() }.encode(&mut bytes);
        bytes.put_raw(&body);
        conn.push(Waiting::Frame {
            bytes: bytes.into(),
            received_ms: call.received_ms,
            large_bytes: call.large_bytes,
            is_read: is_read(call.op),
        });
    }
    is_settled
}
