//! Sessions end in time: at the latest a tick and a tenth of their timeout after it, once a leader has led that long
//! without standing still.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oxkeeper_proto::{OpCode, Reader, SessionId, TxnHeader, Zxid};

use super::Observer;
use crate::queue::{MS, Nanos, SECOND};

/// What is known of the last time that a session may have been heard of.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// By session.
    heard: BTreeMap<SessionId, Nanos>,
    /// When a session became one of all servers. One server alone may have known it for long.
    opened: BTreeMap<SessionId, Nanos>,
    /// By server: since when it has been running without a stop.
    running: BTreeMap<usize, Nanos>,
    /// Transactions that ended a session too late, and how late.
    late: BTreeMap<Zxid, String>,
}

/// From the moment at which ending a session is due until that is agreed, at the end of a run, when nothing is wrong.
const AGREED_IN: Nanos = 5 * SECOND;

impl Observer {
    /// A server stands still until then, or has started just now.
    pub fn stands_still(&mut self, server: usize, until: Nanos) {
        let since = self.lateness.running.entry(server).or_insert(0);
        *since = until.max(*since);
    }

    /// What was proposed after a transaction is lost.
    pub(super) fn forget_late_after(&mut self, last: Zxid) {
        self.lateness.late.split_off(&Zxid(last.0 + 1));
    }

    /// A leader has proposed to open a session.
    pub(super) fn opened(&mut self, session: SessionId, now: Nanos) {
        self.lateness.opened.insert(session, now);
    }

    /// Something of a session was seen by some server.
    pub(super) fn heard_of(&mut self, session: SessionId, now: Nanos) {
        self.lateness.heard.insert(session, now);
    }

    /// For how much longer than it may a session was not heard of by a server whose clock runs at this rate.
    fn overdue(&self, server: usize, session: SessionId, now: Nanos, rate: f64) -> Option<Nanos> {
        let facts = self.sessions.get(&session)?;
        let running = self.lateness.running.get(&server).copied().unwrap_or(0);
        let heard = self.lateness.heard.get(&session).copied().unwrap_or(0).max(facts.begun);
        let opened = self.lateness.opened.get(&session).copied().unwrap_or(0);
        let since = heard.max(opened).max(running).max(self.reign_began(server));
        let silence = now.saturating_sub(since) as f64 * rate;
        let most = facts.timeout + facts.timeout / 10 + self.tick;
        (silence > most as f64).then(|| silence as Nanos - most)
    }

    /// A server proposes to end a session because it was silent.
    pub(super) fn check_lateness(
        &mut self,
        server: usize,
        zxid: Zxid,
        session: SessionId,
        now: Nanos,
        rate: f64,
    ) {
        if let Some(late) = self.overdue(server, session, now, rate) {
            let what = format!("{session} expires by {zxid}, {} ms too late", late / MS);
            self.lateness.late.insert(zxid, what);
        }
    }

    /// Looks at the end for sessions that ended too late, and for those that should have ended.
    pub fn check_overdue(&mut self, order: &BTreeMap<Zxid, Bytes>, now: Nanos, rates: &[f64]) {
        for (zxid, late) in std::mem::take(&mut self.lateness.late) {
            if order.contains_key(&zxid) {
                self.check(14, false, || late.clone());
            }
        }
        let of = |op: OpCode| {
            let headers =
                order.values().filter_map(|payload| TxnHeader::decode(&mut Reader::new(payload)).ok());
            headers.filter(|header| header.op == op).map(|header| header.session).collect::<BTreeSet<_>>()
        };
        // Others are known to one server only, and end without a transaction.
        let (begun, ended) = (of(OpCode::CreateSession), of(OpCode::CloseSession));
        let leaders: Vec<usize> = (0..rates.len()).filter(|server| self.leads(*server)).collect();
        let [leader] = leaders.as_slice() else { return };
        let rate = rates.get(*leader).copied().unwrap_or(1.0);
        let open: Vec<SessionId> =
            begun.into_iter().filter(|id| !ended.contains(id) && self.sessions.contains_key(id)).collect();
        for session in open {
            let overdue = self.overdue(*leader, session, now.saturating_sub(AGREED_IN), rate);
            self.check(14, overdue.is_none(), || {
                format!("{session} should have expired {} ms ago", overdue.unwrap_or(0) / MS)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use oxkeeper_proto::{ConnectRequest, Xid};

    use super::*;
    use crate::network::LinkId;
    use crate::observer::SessionFacts;

    const SESSION: SessionId = SessionId(1);

    /// One server of its own, with a session of ten seconds whose client was heard of at `heard`.
    fn watched(heard: Nanos) -> Observer {
        let mut observer = Observer::new(1, None, false);
        observer.tick = SECOND;
        let facts = SessionFacts { client: 0, timeout: 10 * SECOND, begun: 0, link: LinkId(1) };
        observer.sessions.insert(SESSION, facts);
        observer.heard_of(SESSION, heard);
        observer
    }

    fn ends_late(heard: Nanos, at: Nanos, still_until: Nanos) -> bool {
        let mut observer = watched(heard);
        observer.stands_still(0, still_until);
        observer.check_lateness(0, Zxid(7), SESSION, at, 1.0);
        observer.check_overdue(&BTreeMap::from([(Zxid(7), Bytes::new())]), at, &[1.0]);
        observer.violation.is_some_and(|violation| violation.invariant == 14)
    }

    #[test]
    fn a_session_ends_a_tick_and_a_tenth_after_its_timeout_at_the_latest() {
        assert!(!ends_late(5 * SECOND, 17 * SECOND, 0));
        assert!(ends_late(5 * SECOND, 17 * SECOND + MS, 0));
        assert!(!ends_late(5 * SECOND, 30 * SECOND, 18 * SECOND), "its server stood still");
    }

    #[test]
    fn taking_a_session_up_is_a_sign_of_its_life_though_nobody_sees_the_answer() {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid(3),
            timeout_ms: 10_000,
            session_id: SESSION,
            password: Some(&[1; 16]),
            read_only: None,
        };
        let mut frame = Vec::new();
        request.encode(&mut frame);
        let mut observer = watched(5 * SECOND);
        observer.heard(0, LinkId(9), &frame, 8 * SECOND);
        assert_eq!(observer.overdue(0, SESSION, 20 * SECOND, 1.0), None);
        assert!(observer.overdue(0, SESSION, 20 * SECOND + MS, 1.0).is_some());
    }

    #[test]
    fn one_that_never_ends_is_found_at_the_end_of_the_run() {
        let mut opened = Vec::new();
        let op = OpCode::CreateSession;
        TxnHeader { session: SESSION, cxid: Xid(0), zxid: Zxid(1), time: 0, op }.encode(&mut opened);
        let order = BTreeMap::from([(Zxid(1), Bytes::from(opened))]);
        let overdue = |at| {
            let mut observer = watched(0);
            observer.check_overdue(&order, at, &[1.0]);
            observer.violation.is_some()
        };
        assert!(!overdue(17 * SECOND) && overdue(17 * SECOND + MS));
    }
}
