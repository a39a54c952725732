//! The node's promises, tested by its one door: inputs in, effects out, time and durability as arguments.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/world.rs"]
mod world;

use std::time::Duration;

use oxkeeper_node::{Answer, Input, Query, QueryId, SnapshotStep, Ticket};
use oxkeeper_proto::{
    AclList, ConnectRequest, ConnectResponse, Create, ErrorCode, Names, OpCode, Reader, Reply, ReplyHeader,
    Request, SessionId, Zxid, session,
};
use world::{Seen, World, create, exists};

const OK: ErrorCode = ErrorCode::OK;

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let mut w = World::new();
    let conn = w.client();
    w.send(conn, 1, &create("/a", 0));
    w.send(conn, 2, &create("/a", 0));
    assert_eq!(w.seen(conn), []);
    assert_eq!(w.fx.durable.len(), 2);
    w.step(Input::Persisted(Ticket(2)));
    assert_eq!(w.seen(conn), [Seen::Reply(1, 2, OK)]);
    w.step(Input::Persisted(Ticket(3)));
    assert_eq!(w.seen(conn), [Seen::Reply(2, 3, ErrorCode::NODEEXISTS)]);
}

#[test]
fn a_connection_cannot_be_everybody() {
    let mut w = World::new();
    let conn = w.client();
    let claim = |w: &mut World, n: usize| {
        let auth = format!("user{n}:secret");
        let auth = Request::Auth { scheme: Some("digest".into()), auth: Some(auth.as_bytes()) };
        w.send(conn, -4, &auth);
    };
    // The first identity is the address.
    for n in 1..1000 {
        claim(&mut w, n);
        claim(&mut w, n);
    }
    assert!(!w.is_closed(conn));
    claim(&mut w, 1000);
    assert!(w.is_closed(conn));
    let conn = w.client();
    let long = format!("{}:x", "u".repeat(700_000));
    for n in 0..2 {
        let auth = format!("{n}{long}");
        w.send(conn, -4, &Request::Auth { scheme: Some("digest".into()), auth: Some(auth.as_bytes()) });
        assert_eq!(w.is_closed(conn), n == 1);
    }
}

#[test]
fn a_read_sees_the_writes_before_it_and_none_after() {
    let mut w = World::new();
    let conn = w.client();
    w.send(conn, 1, &create("/a", 0));
    w.send(conn, 2, &exists("/a", false));
    w.send(conn, 3, &Request::Delete { path: "/a".into(), version: -1 });
    w.send(conn, 4, &exists("/a", false));
    let other = w.client();
    w.send(other, 1, &exists("/a", false));
    assert_eq!(w.seen(conn).len(), 4, "all four were made durable with the other's session");
    let mut w = World::new();
    let conn = w.client();
    for (xid, request) in
        [(1, create("/a", 0)), (2, exists("/a", false)), (3, create("/a/b", 0)), (4, exists("/a/b", false))]
    {
        w.send(conn, xid, &request);
    }
    w.step(Input::Persisted(Ticket(2)));
    assert_eq!(w.seen(conn), [Seen::Reply(1, 2, OK), Seen::Reply(2, 2, OK)]);
    w.step(Input::Persisted(Ticket(3)));
    assert_eq!(w.seen(conn), [Seen::Reply(3, 3, OK), Seen::Reply(4, 3, OK)]);
}

#[test]
fn what_comes_before_the_session_is_open_keeps_its_order() {
    let mut w = World::new();
    let conn = w.open();
    let mut frame = Vec::new();
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: Zxid(0),
        timeout_ms: 400,
        session_id: SessionId(0),
        password: Some(&[0; 16]),
        read_only: Some(false),
    }
    .encode(&mut frame);
    w.step(Input::Frame { conn, bytes: &frame });
    w.send(conn, 1, &create("/a", 0));
    w.send(conn, 2, &create("/a/b", 0));
    w.step(Input::Persisted(Ticket(1)));
    w.send(conn, 3, &create("/a/b/c", 0));
    w.persist();
    let out = std::mem::take(w.fx.outbox(conn));
    let (handshake, replies) = out.split_at(41);
    assert!(ConnectResponse::decode(&handshake[4..]).is_ok());
    w.fx.outbox(conn).extend_from_slice(replies);
    assert_eq!(w.seen(conn), [Seen::Reply(1, 2, OK), Seen::Reply(2, 3, OK), Seen::Reply(3, 4, OK)]);
}

#[test]
fn an_event_precedes_the_reply_that_could_reveal_the_change() {
    let mut w = World::new();
    let (writer, watcher) = (w.client(), w.client());
    w.send(writer, 1, &exists("/a", true));
    w.send(watcher, 1, &exists("/a", true));
    w.seen(watcher);
    w.send(writer, 2, &create("/a", 0));
    w.persist();
    assert_eq!(
        w.seen(writer),
        [Seen::Reply(1, 2, ErrorCode::NONODE), Seen::Event(3, 1, "/a".into()), Seen::Reply(2, 3, OK)]
    );
    assert_eq!(w.seen(watcher), [Seen::Event(3, 1, "/a".into())]);
}

#[test]
fn silent_sessions_expire_with_their_ephemerals_and_their_connection() {
    let mut w = World::new();
    let (silent, lively) = (w.client(), w.client());
    w.send(silent, 1, &create("/e", 1));
    w.persist();
    w.send(lively, 1, &exists("/e", true));
    for _ in 0..10 {
        w.now_ms += 50;
        w.step(Input::Tick);
        w.send(lively, -2, &Request::Ping);
        w.persist();
    }
    assert!(w.is_closed(silent) && !w.is_closed(lively));
    assert!(w.seen(lively).contains(&Seen::Event(4, 2, "/e".into())));
    assert_eq!(w.node.status().sessions, 1);
}

#[test]
fn a_stalled_server_hears_its_clients_before_it_expires_them() {
    let mut w = World::new();
    let conn = w.client();
    w.now_ms += 5000;
    w.step(Input::Tick);
    w.now_ms += 20;
    w.send(conn, -2, &Request::Ping);
    w.now_ms += 60;
    w.step(Input::Tick);
    w.persist();
    assert!(!w.is_closed(conn), "its ping had waited in the socket");
    w.now_ms += 300;
    w.step(Input::Tick);
    assert!(!w.is_closed(conn));
    for _ in 0..20 {
        w.now_ms += 50;
        w.step(Input::Tick);
        w.persist();
    }
    assert!(w.is_closed(conn), "a client that is really gone expires all the same");
}

#[test]
fn no_session_minds_when_somebody_sets_the_clock() {
    for jump_ms in [i64::from(i32::MAX), 3_600_000, -3_600_000, -900_000] {
        let mut w = World::new();
        let (silent, lively) = (w.client(), w.client());
        w.wall_ahead_ms += jump_ms;
        for round in 0..20 {
            w.now_ms += 50;
            w.step(Input::Tick);
            w.send(lively, -2, &Request::Ping);
            w.persist();
            let is_over = round * 50 >= 600;
            assert!(!w.is_closed(silent) || round * 50 >= 350, "closed after {} ms", round * 50);
            assert!(w.is_closed(silent) || !is_over, "still open after {} ms", round * 50);
        }
        assert!(!w.is_closed(lively));
    }
}

#[test]
fn a_client_that_takes_nothing_is_not_answered_any_more() {
    use oxkeeper_node::OUTBOX_BYTES;
    let mut w = World::new();
    let conn = w.client();
    let data = vec![7; 100_000];
    w.send(conn, 1, &create("/a", 0));
    w.send(conn, 2, &Request::SetData { path: "/a".into(), data: Some(&data), version: -1 });
    w.persist();
    w.seen(conn);
    // Behind a write that is not durable yet, whatever the client asks waits.
    w.send(conn, 3, &create("/b", 0));
    for xid in 4..43 {
        w.send(conn, xid, &Request::GetData { path: "/a".into(), watch: false });
    }
    w.persist();
    assert!(w.fx.is_full(conn) && w.fx.waiting_len(conn) <= OUTBOX_BYTES + data.len() + 100);
    let mut replies = 0;
    while w.fx.waiting_len(conn) > 0 {
        replies += w.seen(conn).len();
        assert!(w.fx.take_wanting(conn) || replies == 40);
        w.step(Input::Writable { conn });
    }
    assert_eq!(replies, 40, "every request is answered once there is room");
}

#[test]
fn sessions_are_taken_up_with_their_password_only() {
    let mut w = World::new();
    let (first, opened) = w.connect(SessionId(0), &[0; 16], 400);
    let (impostor, refused) = w.connect(opened.session_id, &[9; 16], 400);
    assert_eq!(refused, ConnectResponse::expired(Some(false)));
    assert!(w.is_closed(impostor) && !w.is_closed(first), "only the impostor is cut");
    let (second, again) = w.connect(opened.session_id, &session::password(opened.session_id), 300);
    assert_eq!((again.session_id, again.timeout_ms), (opened.session_id, 300));
    assert!(w.is_closed(first) && !w.is_closed(second));
}

#[test]
fn what_comes_before_the_session_is_open_is_answered_after() {
    let mut w = World::new();
    let conn = w.open();
    let mut frame = Vec::new();
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: Zxid(0),
        timeout_ms: 400,
        session_id: SessionId(0),
        password: None,
        read_only: None,
    }
    .encode(&mut frame);
    w.step(Input::Frame { conn, bytes: &frame });
    w.send(conn, 1, &create("/early", 0));
    w.send(conn, 2, &exists("/early", false));
    assert!(w.fx.outbox(conn).is_empty());
    w.persist();
    let out = std::mem::take(w.fx.outbox(conn));
    assert_eq!(out[..4], 36u32.to_be_bytes(), "an old client's handshake has no read-only byte");
    *w.fx.outbox(conn) = out[40..].to_vec();
    assert_eq!(w.seen(conn), [Seen::Reply(1, 2, OK), Seen::Reply(2, 2, OK)]);
}

#[test]
fn closing_is_answered_and_then_closed_even_with_writes_on_their_way() {
    let mut w = World::new();
    let conn = w.client();
    w.send(conn, 1, &create("/e", 1));
    w.send(conn, 2, &Request::CloseSession);
    w.send(conn, 3, &create("/ignored", 0));
    assert!(!w.is_closed(conn));
    w.persist();
    assert_eq!(w.seen(conn), [Seen::Reply(1, 2, OK), Seen::Reply(2, 3, OK)]);
    assert!(w.is_closed(conn));
    let status = w.node.status();
    assert_eq!((status.sessions, status.ephemerals, status.znodes), (0, 0, 4));
}

#[test]
fn too_many_requests_on_their_way_stop_the_reading() {
    let mut w = World::new();
    let conn = w.client();
    for xid in 1..=1500 {
        w.send(conn, xid, &create("/x", 2));
    }
    assert_eq!(w.fx.reading, [(conn, false)]);
    w.fx.reading.clear();
    w.persist();
    assert_eq!(w.fx.reading, [(conn, true)]);
    assert_eq!(w.seen(conn).len(), 1500);
    assert_eq!(w.node.status().outstanding, 0);
}

#[test]
fn the_request_throttle_stops_the_reading_from_everybody_who_asks() {
    let mut w = World::with(|settings| settings.throttle_requests = 2);
    let (a, b) = (w.client(), w.client());
    w.send(a, 1, &create("/a", 0));
    w.send(b, 1, &create("/b", 0));
    assert_eq!(w.fx.reading, [(b, false)]);
    w.fx.reading.clear();
    w.persist();
    assert_eq!(w.fx.reading, [(b, true)]);
}

#[test]
fn large_requests_have_room_for_so_many_bytes_on_their_way() {
    let mut w = World::with(|settings| (settings.large_bytes, settings.large_bytes_max) = (Some(1000), 5000));
    let (a, b) = (w.client(), w.client());
    let data = vec![1; 2000];
    let large = Request::SetData { path: "/".into(), data: Some(&data), version: -1 };
    w.send(a, 1, &large);
    w.send(a, 2, &large);
    w.send(b, 1, &exists("/", false));
    w.send(b, 2, &large);
    assert!(w.is_closed(b) && !w.is_closed(a), "the third has no room");
    w.persist();
    assert_eq!(w.seen(a), [Seen::Reply(1, 3, OK), Seen::Reply(2, 4, OK)]);
    w.send(a, 3, &large);
    w.persist();
    assert_eq!(w.seen(a), [Seen::Reply(3, 5, OK)], "the room is free again");
}

#[test]
fn enforced_authentication_comes_before_everything_else() {
    let mut w = World::with(|settings| settings.enforced_schemes = Some(vec!["digest".to_owned()]));
    let (bad, good) = (w.client(), w.client());
    w.send(bad, -2, &Request::Ping);
    assert_eq!(w.seen(bad), [Seen::Reply(-2, 0, ErrorCode::SESSIONCLOSEDREQUIRESASLAUTH)]);
    assert!(w.is_closed(bad));
    w.send(good, -4, &Request::Auth { scheme: Some("digest".into()), auth: Some(b"u:p") });
    w.send(good, 1, &exists("/", false));
    assert_eq!(w.seen(good), [Seen::Reply(-4, 0, OK), Seen::Reply(1, 2, OK)]);
}

#[test]
fn failed_authentication_is_answered_and_closed() {
    let mut w = World::new();
    let conn = w.client();
    w.send(conn, 1, &create("/a", 0));
    w.send(conn, -4, &Request::Auth { scheme: Some("world".into()), auth: Some(b"x") });
    w.persist();
    assert_eq!(
        w.seen(conn),
        [Seen::Reply(1, 2, OK), Seen::Reply(-4, 0, ErrorCode::AUTHFAILED)],
        "in the order asked"
    );
    assert!(w.is_closed(conn));
}

#[test]
fn the_connection_throttle_closes_without_an_answer() {
    let mut w = World::with(|settings| settings.throttle_connections.tokens = 1);
    w.client();
    let conn = w.open();
    w.step(Input::Frame { conn, bytes: &[0; 45] });
    assert!(w.is_closed(conn) && w.fx.outbox(conn).is_empty());
}

#[test]
fn connections_without_a_session_are_closed_in_time() {
    let mut w = World::new();
    let conn = w.open();
    w.now_ms = 9_000;
    w.step(Input::Tick);
    assert!(!w.is_closed(conn));
    w.now_ms = u64::try_from(w.node.deadline().as_millis()).unwrap();
    w.step(Input::Tick);
    assert!(w.is_closed(conn) && w.now_ms <= 10_000);
}

#[test]
fn snapshots_come_in_slices_as_they_are_written() {
    let mut w = World::new();
    let conn = w.client();
    for n in 0..2000 {
        let name = format!("/{n}");
        let data = vec![7; 500];
        let request = Request::Create(Create {
            op: OpCode::Create,
            path: name.into(),
            data: Some(&data),
            acl: Some(AclList::OPEN),
            flags: 0,
            ttl: -1,
        });
        w.send(conn, n, &request);
    }
    w.persist();
    w.step(Input::TakeSnapshot);
    w.step(Input::TakeSnapshot);
    let mut slices = 0;
    loop {
        let steps = std::mem::take(&mut w.fx.snapshot);
        let Some(SnapshotStep::Slice { bytes, last }) = steps.last() else { panic!("no slice: {steps:?}") };
        assert!(bytes.len() < 300_000);
        slices += 1;
        if *last {
            break;
        }
        w.step(Input::SliceWritten);
    }
    assert!(slices > 3, "{slices}");
}

#[test]
fn a_closed_connection_leaves_nothing_behind() {
    let mut w = World::new();
    let conn = w.client();
    w.send(conn, 1, &exists("/a", true));
    w.send(conn, 2, &Request::AddWatch { path: "/".into(), mode: 1 });
    w.send(conn, 3, &create("/a", 0));
    w.step(Input::Closed { conn });
    w.persist();
    let status = w.node.status();
    assert_eq!((status.watches, status.outstanding, status.connections), (0, 0, 0));
    assert_eq!(status.znodes, 5, "what it asked for still happens");
    w.step(Input::Query(QueryId(7), Query::Expiries));
    let Some((QueryId(7), Answer::Expiries(report))) = w.fx.answers.pop() else { panic!("no answer") };
    assert_eq!(report.sessions.len(), 1, "its session lives on");
}

#[test]
fn very_many_watches_of_a_closed_connection_go_in_the_next_ticks() {
    let mut w = World::new();
    let conn = w.client();
    for n in 0..5000 {
        w.send(conn, n, &exists(&format!("/absent{n}"), true));
    }
    assert_eq!(w.node.status().watches, 5000);
    w.step(Input::Closed { conn });
    let now = Duration::from_millis(w.now_ms);
    let mut ticks = 0;
    while w.node.deadline() == now {
        w.step(Input::Tick);
        ticks += 1;
    }
    assert_eq!((w.node.status().watches, ticks), (0, 3));
}

#[test]
fn replies_of_reads_carry_their_bodies() {
    let mut w = World::new();
    let conn = w.client();
    w.send(conn, 1, &Request::GetChildren { path: "/zookeeper".into(), watch: false });
    let out = std::mem::take(w.fx.outbox(conn));
    let mut reader = Reader::new(&out[4..]);
    ReplyHeader::decode(&mut reader).unwrap();
    let Reply::Names(Names::List(mut names)) = Reply::decode(OpCode::GetChildren, &mut reader).unwrap()
    else {
        panic!("no names")
    };
    names.sort();
    assert_eq!(names, ["config", "quota"]);
}

/// The reaper looks at what is applied. What is on its way may have put another znode there.
#[test]
fn what_is_on_its_way_is_not_reaped() {
    let mut w = World::with(|settings| {
        settings.reap.interval_ms = 1000;
        settings.session_timeout_max_ms = 60_000;
    });
    let conn = w.connect(SessionId(0), &[0; 16], 60_000).0;
    let delete = |path: &'static str| Request::Delete { path: path.into(), version: -1 };
    let container = |path: &'static str| {
        let acl = Some(AclList::OPEN);
        let op = OpCode::CreateContainer;
        Request::Create(Create { op, path: path.into(), data: None, acl, flags: 4, ttl: -1 })
    };
    for (xid, request) in [
        (1, container("/kept")),
        (2, create("/kept/child", 0)),
        (3, delete("/kept/child")),
        (4, container("/idle")),
        (5, create("/idle/child", 0)),
        (6, delete("/idle/child")),
    ] {
        w.send(conn, xid, &request);
    }
    w.persist();
    w.seen(conn);
    w.send(conn, 7, &delete("/kept"));
    w.send(conn, 8, &create("/kept", 0));
    w.now_ms = 1000;
    w.step(Input::Tick);
    w.persist();
    w.send(conn, 9, &exists("/kept", false));
    w.send(conn, 10, &exists("/idle", false));
    let codes: Vec<(i32, ErrorCode)> = w
        .seen(conn)
        .into_iter()
        .filter_map(|seen| if let Seen::Reply(xid, _, code) = seen { Some((xid, code)) } else { None })
        .collect();
    assert_eq!(codes, [(7, OK), (8, OK), (9, OK), (10, ErrorCode::NONODE)]);
}
