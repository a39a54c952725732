//! What operators ask, answered as data. The driver makes text of it.

use oxkeeper_proto::SessionId;

use crate::conn::{Conn, Phase};
use crate::effects::{Answer, ConnectionReport, Effects, ExpiryReport, Query, RequestCounts, Size, Status};
use crate::node::{Node, Sizes, millis};

/// What is listed in one step: a fraction of a millisecond's work.
const LISTED_AT_ONCE: usize = 1000;
/// Watches of one session listed in one step. To find where to go on, all of the session's are looked at.
const WATCHES_AT_ONCE: usize = 4096;

impl Node {
    pub(crate) fn query(&mut self, query: Query, fx: &mut Effects) -> Answer {
        match query {
            Query::HandOver { to } => Answer::HandOver(self.hand_over(to, fx)),
            Query::Status => Answer::Status(Box::new(self.status())),
            Query::Connections { from } => {
                Answer::Connections(self.conns.from(from).take(LISTED_AT_ONCE).map(report).collect())
            }
            Query::Expiries => Answer::Expiries(self.expiries()),
            Query::EphemeralOwners => Answer::EphemeralOwners(self.tree.sessions_with_ephemerals()),
            Query::Ephemerals { session, from } => {
                let (paths, next) = self.tree.ephemerals_from(session, from, LISTED_AT_ONCE);
                Answer::Ephemerals(paths, next)
            }
            Query::WatchSummary => Answer::WatchSummary(self.watches.summary()),
            Query::WatchesByPath { from } => {
                let session = |watcher| self.conns.at(watcher).map_or(SessionId::NONE, |conn| conn.session);
                let (paths, next) = self.watches.by_path(from, LISTED_AT_ONCE);
                let named = |(path, ids): (String, Vec<_>)| (path, ids.into_iter().map(session).collect());
                Answer::WatchesByPath(paths.into_iter().map(named).collect(), next)
            }
            Query::WatchesBySession { from: (watcher, place) } => {
                let (watcher, paths, next) = self.watches.by_watcher(watcher, place, WATCHES_AT_ONCE);
                let session = self.conns.at(watcher).map_or(SessionId::NONE, |conn| conn.session);
                Answer::WatchesBySession(session, paths, next)
            }
            Query::Digests => Answer::Digests(self.tree.digest_log().collect()),
            Query::ResetConnections => {
                for conn in self.conns.iter_mut() {
                    conn.counts = RequestCounts::default();
                    conn.last_op = "NA";
                    (conn.last_cxid, conn.last_zxid) = (-1, -1);
                    (conn.last_response_ms, conn.last_latency_ms) = (0, 0);
                }
                Answer::Done
            }
            Query::ResetServer => {
                self.counts = RequestCounts::default();
                self.response_sizes = Sizes::NONE;
                self.proposal_sizes = Sizes::NONE;
                Answer::Done
            }
        }
    }

    /// What there is how much of, quick to ask.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            content_bytes: self.tree.approximate_bytes(),
            znodes: self.tree.len(),
            watches: self.watches.total(),
            sessions: self.expiry.len(),
        }
    }

    /// Numbers of the whole server.
    #[must_use]
    pub fn status(&self) -> Status {
        let Sizes(last, min, max) = self.response_sizes;
        let Sizes(proposal_last, proposal_min, proposal_max) = self.proposal_sizes;
        Status {
            counts: self.counts,
            connections: self.conns.len(),
            outstanding: self.outstanding,
            last_zxid: self.tree.last_zxid(),
            znodes: self.tree.len(),
            ephemerals: self.tree.ephemerals_len(),
            watches: self.watches.total(),
            sessions: self.expiry.len(),
            approximate_bytes: self.tree.approximate_bytes(),
            digest: self.tree.digest(),
            response_sizes: (last, min, max),
            proposal_sizes: (proposal_last, proposal_min, proposal_max),
            auth_failed: self.auth_failed,
            sessions_expired: self.sessions_expired,
            scarcity: self.scarcity,
            uptime: self.uptime(),
            ..self.role_status()
        }
    }

    fn expiries(&self) -> ExpiryReport {
        let now_ms = millis(self.now.mono);
        let sessions = self.expiry.by_expiry().into_iter().map(|(at, id)| (at - now_ms, id)).collect();
        let mut connections = Vec::with_capacity(self.conns.len());
        for conn in self.conns.iter() {
            let silent_ms =
                if conn.phase == Phase::New { self.settings.sessionless_ms } else { conn.timeout_ms.into() };
            let heard_ms = i64::try_from(conn.last_response_ms.max(conn.opened_ms)).unwrap_or(i64::MAX);
            let tick_ms = self.settings.sessionless_ms.max(1);
            let at = ((heard_ms + silent_ms) / tick_ms + 1) * tick_ms;
            connections.push((at - now_ms, (conn.peer, conn.session)));
        }
        connections.sort_unstable();
        ExpiryReport { sessions, connections }
    }
}

fn report(conn: &Conn) -> ConnectionReport {
    ConnectionReport {
        conn: conn.id,
        peer: conn.peer,
        session: (conn.session != SessionId::NONE).then_some(conn.session),
        timeout_ms: conn.timeout_ms,
        queued: conn.waiting.len(),
        counts: conn.counts,
        last_op: conn.last_op,
        established_ms: conn.established_ms,
        last_cxid: conn.last_cxid,
        last_zxid: conn.last_zxid,
        last_response_ms: conn.last_response_ms,
        last_latency_ms: conn.last_latency_ms,
    }
}
