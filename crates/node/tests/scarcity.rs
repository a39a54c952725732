//! What a node serves while the disk or the memory runs short, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/world.rs"]
mod world;

use oxkeeper_node::{Input, Memory, Scarcity, SnapshotStep};
use oxkeeper_proto::{AclList, ErrorCode, Request, SessionId, SetWatches, Zxid, session};
use world::{Seen, World, create, exists};

const OK: ErrorCode = ErrorCode::OK;
const REFUSED: ErrorCode = ErrorCode::NOTREADONLY;
const FULL_DISK: Scarcity = Scarcity { disk: true, memory: Memory::Ample };

fn memory(memory: Memory) -> Scarcity {
    Scarcity { disk: false, memory }
}

fn set<'a>(path: &'a str, data: &'a [u8]) -> Request<'a> {
    Request::SetData { path: path.into(), data: Some(data), version: -1 }
}

fn delete(path: &str) -> Request<'_> {
    Request::Delete { path: path.into(), version: -1 }
}

/// The error of each request, in order; all made durable.
fn errors(w: &mut World, conn: oxkeeper_node::ConnId, requests: &[Request<'_>]) -> Vec<ErrorCode> {
    for (xid, request) in (100..).zip(requests) {
        w.send(conn, xid, request);
    }
    w.persist();
    let replies = w.seen(conn);
    replies
        .iter()
        .filter_map(|seen| if let Seen::Reply(_, _, code) = seen { Some(*code) } else { None })
        .collect()
}

#[test]
fn what_grows_is_refused_without_a_zxid_and_all_else_goes_on() {
    for scarcity in [FULL_DISK, memory(Memory::Low), memory(Memory::Critical)] {
        let mut w = World::new();
        let conn = w.client();
        errors(&mut w, conn, &[create("/a", 0), create("/b", 0), create("/c", 0), set("/a", b"12345")]);
        w.step(Input::Scarce(scarcity));
        let before = w.node.last_zxid();
        let growing = [
            create("/d", 0),
            set("/a", b"123456"),
            set("/b", b"1"),
            Request::SetAcl { path: "/a".into(), acl: Some(AclList::READ_ONLY), version: -1 },
            Request::Multi(vec![delete("/c"), create("/d", 0)]),
        ];
        assert_eq!(errors(&mut w, conn, &growing), [REFUSED; 5]);
        assert_eq!(w.node.last_zxid(), before, "nothing of it was proposed");
        let shrinking = [
            set("/a", b"54321"),
            set("/a", b""),
            Request::Multi(vec![delete("/c"), set("/a", b"")]),
            delete("/b"),
            exists("/a", false),
            Request::Ping,
            Request::Sync { path: Some("/".into()) },
        ];
        assert_eq!(errors(&mut w, conn, &shrinking), [OK; 7]);
        w.step(Input::Scarce(Scarcity::default()));
        assert_eq!(errors(&mut w, conn, &[create("/d", 0)]), [OK]);
    }
}

#[test]
fn refusals_keep_their_place_among_the_replies() {
    let mut w = World::new();
    let conn = w.client();
    errors(&mut w, conn, &[create("/a", 0)]);
    w.step(Input::Scarce(FULL_DISK));
    w.send(conn, 1, &delete("/a"));
    w.send(conn, 2, &create("/b", 0));
    w.send(conn, 3, &exists("/a", false));
    assert_eq!(w.seen(conn), []);
    w.persist();
    assert_eq!(
        w.seen(conn),
        [Seen::Reply(1, 3, OK), Seen::Reply(2, 3, REFUSED), Seen::Reply(3, 3, ErrorCode::NONODE)]
    );
}

#[test]
fn sessions_end_and_come_back_but_none_begin() {
    let mut w = World::new();
    let (conn, opened) = w.connect(SessionId(0), &[0; 16], 400);
    errors(&mut w, conn, &[create("/e", 1)]);
    w.step(Input::Scarce(FULL_DISK));
    let new = w.open();
    let mut frame = Vec::new();
    oxkeeper_proto::ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: Zxid(0),
        timeout_ms: 400,
        session_id: SessionId::NONE,
        password: Some(&[0; 16]),
        read_only: None,
    }
    .encode(&mut frame);
    w.step(Input::Frame { conn: new, bytes: &frame });
    assert!(w.is_closed(new) && w.fx.waiting_len(new) == 0, "closed without a word");
    let session = opened.session_id;
    let (_, back) = w.connect(session, &session::password(session), 400);
    assert_eq!(back.session_id, session);
    // Silent from now on: it expires, and its ephemeral goes.
    for _ in 0..12 {
        w.now_ms += 50;
        w.step(Input::Tick);
        w.persist();
    }
    let status = w.node.status();
    assert_eq!((status.sessions, status.ephemerals), (0, 0));
}

#[test]
fn watches_are_growth_where_memory_is_short() {
    let mut w = World::new();
    let conn = w.client();
    let with_watch = [
        exists("/a", true),
        Request::GetChildren { path: "/".into(), watch: true },
        Request::AddWatch { path: "/".into(), mode: 1 },
    ];
    w.step(Input::Scarce(memory(Memory::Low)));
    assert_eq!(errors(&mut w, conn, &with_watch), [REFUSED; 3]);
    assert_eq!(w.node.size().watches, 0);
    w.step(Input::Scarce(FULL_DISK));
    assert_eq!(errors(&mut w, conn, &with_watch), [ErrorCode::NONODE, OK, OK]);
    assert_eq!(w.node.size().watches, 3);
}

#[test]
fn watches_may_be_set_again_until_memory_is_critical() {
    let again = || {
        Request::SetWatches(SetWatches {
            relative_zxid: Zxid(9),
            data: vec!["/zookeeper".into()],
            exist: Vec::new(),
            child: Vec::new(),
            persistent: Vec::new(),
            recursive: Vec::new(),
        })
    };
    let mut w = World::new();
    let conn = w.client();
    w.step(Input::Scarce(memory(Memory::Low)));
    assert_eq!(errors(&mut w, conn, &[again()]), [OK]);
    w.step(Input::Scarce(memory(Memory::Critical)));
    assert_eq!(errors(&mut w, conn, &[again()]), []);
    assert!(w.is_closed(conn));
}

#[test]
fn a_snapshot_gives_way_to_what_must_be_served() {
    let mut w = World::new();
    let conn = w.client();
    w.step(Input::Scarce(memory(Memory::Critical)));
    assert_eq!(w.fx.snapshot, [], "none is under way");
    w.step(Input::Scarce(Scarcity::default()));
    let names: Vec<String> = (0..4000).map(|n| format!("/{n:0>200}")).collect();
    for name in &names {
        w.send(conn, 1, &create(name, 0));
    }
    w.persist();
    w.step(Input::TakeSnapshot);
    assert_eq!(w.fx.snapshot.len(), 2, "a beginning and a slice, but not all");
    w.fx.snapshot.clear();
    w.step(Input::Scarce(memory(Memory::Critical)));
    assert_eq!(w.fx.snapshot, [SnapshotStep::Abandon]);
    w.step(Input::SliceWritten);
    w.step(Input::Scarce(Scarcity::default()));
    w.step(Input::TakeSnapshot);
    assert!(matches!(w.fx.snapshot.get(1), Some(SnapshotStep::Begin(_))), "another one may begin");
}
