//! What waits in a connection's line, for its session, for its own writes or for room among its replies.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/world.rs"]
mod world;

use oxkeeper_node::{ConnId, Input, OUTBOX_BYTES};
use oxkeeper_proto::{ConnectRequest, ErrorCode, Request, SessionId, Zxid};
use world::{Seen, World, create, exists};

const OK: ErrorCode = ErrorCode::OK;

fn handshake() -> Vec<u8> {
    let mut frame = Vec::new();
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: Zxid(0),
        timeout_ms: 400,
        session_id: SessionId(0),
        password: None,
        read_only: Some(false),
    }
    .encode(&mut frame);
    frame
}

/// Makes durable what has been appended by now, and nothing that comes of it.
fn persist_once(w: &mut World) {
    let last = w.fx.durable.last().unwrap().0;
    w.fx.durable.clear();
    w.step(Input::Persisted(last));
}

/// The replies of a client that reads whenever there is something to read.
fn read_all(w: &mut World, conn: ConnId) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        all.extend(w.seen(conn));
        if !w.fx.take_wanting(conn) {
            return all;
        }
        w.step(Input::Writable { conn });
        w.persist();
    }
}

fn set<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    Request::SetData { path: path.into(), data: Some(data), version: -1 }
}

fn get(path: &str) -> Request<'_> {
    Request::GetData { path: path.into(), watch: false }
}

#[test]
fn writes_that_came_before_the_session_was_open_stay_before_later_ones() {
    let mut w = World::new();
    let conn = w.open();
    w.step(Input::Frame { conn, bytes: &handshake() });
    for xid in 1..=3 {
        w.send(conn, xid, &create(&format!("/early{xid}"), 0));
    }
    persist_once(&mut w);
    w.fx.outbox(conn).clear();
    w.send(conn, 4, &create("/late", 0));
    w.send(conn, 5, &exists("/late", false));
    w.persist();
    let expected: Vec<Seen> =
        [(1, 2), (2, 3), (3, 4), (4, 5), (5, 5)].map(|(xid, zxid)| Seen::Reply(xid, zxid, OK)).into();
    assert_eq!(w.seen(conn), expected);
}

#[test]
fn every_request_is_answered_in_order_though_there_is_no_room_for_the_replies_at_once() {
    for reads in [1_usize, 15, 16, 17, 100, 3000] {
        let mut w = World::new();
        let conn = w.client();
        w.send(conn, 1, &create("/big", 0));
        w.persist();
        w.seen(conn);
        let mut xid = 1;
        let mut expected = Vec::new();
        for round in 0..4 {
            w.send(conn, xid + 1, &set("/big", &vec![round; 400_000]));
            w.send(conn, xid + 2, &create(&format!("/round{round}"), 0));
            expected.extend([(xid + 1, i64::from(round) * 2 + 3), (xid + 2, i64::from(round) * 2 + 4)]);
            xid += 2;
            // The first few fill the outbox, the others ask what later writes would change.
            for n in 0..reads {
                xid += 1;
                let next = format!("/round{}", round + 1);
                w.send(conn, xid, &if n < 5 { get("/big") } else { exists(&next, false) });
                expected.push((xid, i64::from(round) * 2 + 4));
            }
        }
        w.persist();
        let seen = read_all(&mut w, conn);
        for (seen, (xid, zxid)) in seen.iter().zip(&expected) {
            let Seen::Reply(found_xid, found_zxid, err) = seen else { panic!("{seen:?}") };
            assert_eq!((found_xid, found_zxid), (xid, zxid), "{reads} reads");
            assert!(*err == OK || *err == ErrorCode::NONODE);
        }
        assert_eq!(seen.len(), expected.len(), "{reads} reads");
        let nobody = seen.iter().filter(|seen| matches!(seen, Seen::Reply(.., ErrorCode::NONODE))).count();
        assert_eq!(nobody, 4 * reads.saturating_sub(5), "no read sees a later write of its own session");
        assert_eq!(w.node.status().outstanding, 0);
    }
}

#[test]
fn whoever_takes_no_replies_holds_back_nobody_else() {
    let mut w = World::with(|settings| settings.outstanding_max = 50);
    let (deaf, other) = (w.client(), w.client());
    w.send(deaf, 1, &create("/big", 0));
    w.send(deaf, 2, &set("/big", &vec![7; 900_000]));
    for xid in 3..200 {
        w.send(deaf, xid, &get("/big"));
    }
    assert_eq!(w.fx.reading, [(deaf, false)], "its reads wait for its writes");
    w.persist();
    w.fx.reading.clear();
    for xid in 1..20 {
        w.send(other, xid, &create(&format!("/other{xid}"), 0));
    }
    w.persist();
    assert_eq!(w.seen(other).len(), 19);
    assert_eq!(w.fx.reading, [], "the other one is never held back");
    let seen = read_all(&mut w, deaf);
    assert_eq!(seen.len(), 199);
    assert_eq!(w.node.status().outstanding, 0);
    w.step(Input::Closed { conn: deaf });
    assert_eq!(w.node.status().outstanding, 0);
}

#[test]
fn writes_between_its_reads_get_a_client_that_takes_nothing_no_more_replies() {
    const SIZE: usize = 900_000;
    let mut w = World::new();
    let deaf = w.client();
    w.send(deaf, 1, &create("/big", 0));
    w.send(deaf, 2, &set("/big", &vec![7; SIZE]));
    w.send(deaf, 3, &create("/small", 0));
    w.persist();
    w.seen(deaf);
    for xid in 4..=203 {
        let is_write = xid % 10 == 0;
        w.send(deaf, xid, &if is_write { set("/small", b"new") } else { get("/big") });
        if is_write {
            w.persist();
        }
        // What fills it, and the sixteen that a write may have before it.
        let most = OUTBOX_BYTES + 17 * (SIZE + 200);
        assert!(w.fx.waiting_len(deaf) <= most, "{} bytes wait after {xid}", w.fx.waiting_len(deaf));
    }
    w.persist();
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let more = read_all(&mut w, deaf);
        assert!(!more.is_empty(), "{} of 200 are answered", seen.len());
        seen.extend(more);
        w.persist();
    }
    assert!(
        seen.iter().zip(4..).all(|(seen, xid)| matches!(seen, Seen::Reply(found, _, OK) if *found == xid))
    );
    assert_eq!(w.node.status().outstanding, 0);
}

#[test]
fn a_client_that_ends_while_it_takes_nothing_leaves_no_count_behind() {
    let mut w = World::with(|settings| settings.outstanding_max = 50);
    let (deaf, other) = (w.client(), w.client());
    w.send(deaf, 1, &create("/big", 0));
    w.send(deaf, 2, &set("/big", &vec![7; 900_000]));
    for xid in 3..200 {
        w.send(deaf, xid, &get("/big"));
    }
    w.persist();
    w.step(Input::Closed { conn: deaf });
    assert_eq!(w.node.status().outstanding, 0);
    w.send(other, 1, &exists("/big", false));
    assert_eq!(w.seen(other), [Seen::Reply(1, 4, OK)]);
}

#[test]
fn reads_from_before_the_session_was_open_wait_for_room_as_others_do() {
    let mut w = World::new();
    let owner = w.client();
    w.send(owner, 1, &create("/big", 0));
    w.send(owner, 2, &set("/big", &vec![7; 900_000]));
    w.persist();
    let conn = w.open();
    w.step(Input::Frame { conn, bytes: &handshake() });
    for xid in 1..=200 {
        w.send(conn, xid, &get("/big"));
    }
    w.persist();
    assert!(w.fx.waiting_len(conn) < 3 << 20, "{} bytes of replies", w.fx.waiting_len(conn));
    w.fx.outbox(conn).drain(..4 + 37);
    assert_eq!(w.node.status().outstanding, 0, "it hinders nobody");
    let seen = read_all(&mut w, conn);
    assert_eq!(seen.len(), 200);
}
