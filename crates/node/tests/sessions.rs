//! Sessions against a naive second implementation: a list of who was heard of when.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[path = "support/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_node::{Answer, ConnId, Input, Query, QueryId};
use oxkeeper_proto::{ErrorCode, Request, SessionId, session};
use world::{Seen, World, create};

const TICK_MS: i64 = 100;
const TIMEOUT_MIN_MS: i64 = 200;

struct Known {
    timeout_ms: i64,
    heard_ms: i64,
    conn: Option<ConnId>,
    ephemerals: BTreeSet<String>,
}

impl Known {
    /// The first boundary of a tick after the timeout is over.
    fn expires_ms(&self) -> i64 {
        let over = self.heard_ms + self.timeout_ms;
        (over..).find(|at| at % TICK_MS == 0 && *at > over).unwrap()
    }
}

struct Model {
    world: World,
    open: BTreeMap<SessionId, Known>,
    /// Connections that the server has not closed, and their sessions.
    conns: BTreeMap<ConnId, SessionId>,
    over: Vec<SessionId>,
    random: fastrand::Rng,
    named: u32,
}

impl Model {
    fn now_ms(&self) -> i64 {
        self.world.now_ms as i64
    }

    fn some_conn(&mut self) -> Option<(ConnId, SessionId)> {
        let n = self.random.usize(..self.conns.len().max(1));
        self.conns.iter().nth(n).map(|(conn, session)| (*conn, *session))
    }

    fn forget(&mut self, id: SessionId) {
        self.open.remove(&id).unwrap();
        self.over.push(id);
        self.conns.retain(|_, session| *session != id);
    }

    fn connect(&mut self) {
        let timeout_ms = self.random.i32(1..1500);
        let (conn, response) = self.world.connect(SessionId(0), &[0; 16], timeout_ms);
        let timeout_ms = i64::from(timeout_ms).max(TIMEOUT_MIN_MS);
        assert_eq!(i64::from(response.timeout_ms), timeout_ms);
        assert_eq!(response.password, session::password(response.session_id));
        let heard_ms = self.now_ms();
        let known = Known { timeout_ms, heard_ms, conn: Some(conn), ephemerals: BTreeSet::new() };
        assert!(self.open.insert(response.session_id, known).is_none(), "an id twice");
        self.conns.insert(conn, response.session_id);
    }

    /// Takes up a session: an open one, one that is over, with the right password or a wrong one.
    fn take_up(&mut self) {
        let all: Vec<SessionId> = self.open.keys().chain(&self.over).copied().collect();
        if all.is_empty() {
            return;
        }
        let id = all[self.random.usize(..all.len())];
        let genuine = self.random.u8(..4) > 0;
        let password = if genuine { session::password(id) } else { [7; 16] };
        let timeout_ms = self.random.i32(1..1500);
        let (conn, response) = self.world.connect(id, &password, timeout_ms);
        let now_ms = self.now_ms();
        match self.open.get_mut(&id).filter(|_| genuine) {
            Some(known) => {
                assert_eq!(response.session_id, id);
                known.timeout_ms = i64::from(timeout_ms).max(TIMEOUT_MIN_MS);
                known.heard_ms = now_ms;
                if let Some(before) = known.conn.replace(conn) {
                    assert!(self.world.is_closed(before), "the old connection goes");
                    self.conns.remove(&before);
                    self.world.step(Input::Closed { conn: before });
                }
                self.conns.insert(conn, id);
            }
            None => {
                assert_eq!((response.session_id, response.timeout_ms), (SessionId(0), 0));
                assert!(self.world.is_closed(conn));
                self.world.step(Input::Closed { conn });
            }
        }
    }

    fn speak(&mut self) {
        let Some((conn, id)) = self.some_conn() else { return };
        let now_ms = self.now_ms();
        self.named += 1;
        let path = format!("/e{}", self.named);
        let request = match self.random.u8(..4) {
            0 => create(&path, 1),
            1 => Request::CloseSession,
            _ => Request::Ping,
        };
        let (makes, closes) =
            (matches!(request, Request::Create(_)), matches!(request, Request::CloseSession));
        self.world.send(conn, 1, &request);
        self.world.persist();
        let seen = self.world.seen(conn);
        assert!(matches!(seen[..], [Seen::Reply(_, _, ErrorCode::OK)]), "{seen:?}");
        let known = self.open.get_mut(&id).unwrap();
        known.heard_ms = now_ms;
        if makes {
            known.ephemerals.insert(path);
        }
        if closes {
            assert!(self.world.is_closed(conn));
            self.world.step(Input::Closed { conn });
            self.forget(id);
        }
    }

    fn hang_up(&mut self) {
        if let Some((conn, id)) = self.some_conn() {
            self.world.step(Input::Closed { conn });
            self.conns.remove(&conn);
            self.open.get_mut(&id).unwrap().conn = None;
        }
    }

    /// Time passes; the node is woken when it asks for it.
    fn wait(&mut self) {
        let until = self.world.now_ms + self.random.u64(1..400);
        loop {
            let wake = self.world.node.deadline().as_millis() as u64;
            self.world.now_ms = wake.clamp(self.world.now_ms, until);
            if wake > until {
                break;
            }
            self.world.step(Input::Tick);
            self.world.persist();
        }
        self.world.now_ms = until;
        let now_ms = self.now_ms();
        let gone: Vec<SessionId> =
            self.open.iter().filter(|(_, known)| known.expires_ms() <= now_ms).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(conn) = self.open[&id].conn {
                assert!(self.world.is_closed(conn), "an expired session's connection is closed");
                self.world.step(Input::Closed { conn });
            }
            self.forget(id);
        }
    }

    fn compare(&mut self) {
        let status = self.world.node.status();
        let ephemerals: usize = self.open.values().map(|known| known.ephemerals.len()).sum();
        assert_eq!(
            (status.sessions, status.ephemerals, status.connections),
            (self.open.len(), ephemerals, self.conns.len())
        );
        self.world.step(Input::Query(QueryId(1), Query::Expiries));
        let Some((_, Answer::Expiries(report))) = self.world.fx.answers.pop() else { panic!("no answer") };
        let now_ms = self.now_ms();
        let mut expected: Vec<(i64, SessionId)> =
            self.open.iter().map(|(id, known)| (known.expires_ms() - now_ms, *id)).collect();
        expected.sort_unstable();
        assert_eq!(report.sessions, expected);
        for (id, known) in &self.open {
            self.world.step(Input::Query(QueryId(2), Query::Ephemerals { session: *id, from: 0 }));
            let Some((_, Answer::Ephemerals(paths, None))) = self.world.fx.answers.pop() else {
                panic!("no answer")
            };
            assert_eq!(paths.into_iter().collect::<BTreeSet<_>>(), known.ephemerals);
        }
    }
}

#[test]
fn sessions_live_and_end_as_a_list_says() {
    let (mut expired, mut steps) = (0, 0);
    for seed in 0..300 {
        let mut model = Model {
            world: World::new(),
            open: BTreeMap::new(),
            conns: BTreeMap::new(),
            over: Vec::new(),
            random: fastrand::Rng::with_seed(seed),
            named: 0,
        };
        for _ in 0..200 {
            match model.random.u8(..16) {
                0..2 => model.connect(),
                2..4 => model.take_up(),
                4..10 => model.speak(),
                10 => model.hang_up(),
                _ => model.wait(),
            }
            model.compare();
            steps += 1;
        }
        expired += model.world.node.status().sessions_expired;
    }
    assert!(steps == 60_000 && expired > 1000, "{expired} sessions expired: the test has not seen enough");
}
