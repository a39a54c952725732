//! What operators ask, answered as data. The driver makes text of it.

use std::collections::BTreeMap;

use oxkeeper_proto::SessionId;

use crate::conn::{Conn, Phase};
use crate::effects::{Answer, ConnectionReport, DumpReport, Query, RequestCounts, Status};
use crate::node::{Node, Sizes, millis};

impl Node {
    pub(crate) fn query(&mut self, query: Query) -> Answer {
        match query {
            Query::Status => Answer::Status(Box::new(self.status())),
            Query::Connections => Answer::Connections(self.conns.iter().map(report).collect()),
            Query::Dump => Answer::Dump(self.dump()),
            Query::WatchSummary => Answer::WatchSummary(self.watches.summary()),
            Query::WatchesByPath => Answer::WatchesByPath(self.watches_by_path()),
            Query::WatchesBySession => Answer::WatchesBySession(self.watches_by_session()),
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
            uptime: self.uptime(),
        }
    }

    fn dump(&self) -> DumpReport {
        let now_ms = millis(self.now.mono);
        let expiries = self.expiry.by_expiry().into_iter().map(|(at, ids)| (at - now_ms, ids)).collect();
        let ephemerals = self.tree.sessions_with_ephemerals().into_iter().map(|session| {
            let mut paths: Vec<String> = self.tree.ephemerals(session).collect();
            paths.sort_unstable();
            (session, paths)
        });
        let mut connections: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for conn in self.conns.iter() {
            let silent_ms =
                if conn.phase == Phase::New { self.settings.sessionless_ms } else { conn.timeout_ms.into() };
            let heard_ms = i64::try_from(conn.last_response_ms.max(conn.opened_ms)).unwrap_or(i64::MAX);
            let tick_ms = self.settings.sessionless_ms.max(1);
            let at = ((heard_ms + silent_ms) / tick_ms + 1) * tick_ms;
            connections.entry(at - now_ms).or_default().push((conn.peer, conn.session));
        }
        DumpReport {
            expiries,
            ephemerals: ephemerals.collect(),
            connections: connections.into_iter().collect(),
        }
    }

    fn watches_by_path(&self) -> Vec<(String, Vec<SessionId>)> {
        let session = |watcher| self.conns.at(watcher).map_or(SessionId::NONE, |conn| conn.session);
        let by_path = self.watches.by_path().into_iter();
        by_path.map(|(path, watchers)| (path, watchers.into_iter().map(session).collect())).collect()
    }

    fn watches_by_session(&self) -> Vec<(SessionId, Vec<String>)> {
        let mut all: BTreeMap<SessionId, Vec<String>> = BTreeMap::new();
        for (path, sessions) in self.watches_by_path() {
            for session in sessions {
                all.entry(session).or_default().push(path.clone());
            }
        }
        all.into_iter().collect()
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
