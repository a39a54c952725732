//! Three nodes and what is between them: they elect, replicate, and survive crashes.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use ensemble::{Ensemble, Seen};
use oxkeeper_proto::{AclList, Create, ErrorCode, OpCode, Request};

const OK: ErrorCode = ErrorCode::OK;

fn create(path: &str, flags: i32) -> Request<'_> {
    let acl = Some(AclList::OPEN);
    Request::Create(Create { op: OpCode::Create, path: path.into(), data: None, acl, flags, ttl: -1 })
}

fn exists(path: &str) -> Request<'_> {
    Request::Exists { path: path.into(), watch: false }
}

#[test]
fn three_servers_elect_and_replicate() {
    let mut e = Ensemble::new(3, 1);
    e.settle();
    assert_eq!(e.leader(), Some(2), "the highest id leads: {}", e.describe());
    for host in 0..3 {
        let (at, _) = e.client(host, 1000);
        let path = format!("/from{host}");
        assert_eq!(e.ask(at, 1, &create(&path, 0)), OK);
        assert_eq!(e.ask(at, 2, &create(&path, 0)), ErrorCode::NODEEXISTS);
        assert_eq!(e.ask(at, 3, &exists(&path)), OK);
    }
    e.assert_level();
}

#[test]
fn writes_and_reads_of_a_session_keep_their_order_on_a_follower() {
    let mut e = Ensemble::new(3, 2);
    e.settle();
    let (at, _) = e.client(0, 1000);
    e.send(at, 1, &create("/a", 0));
    e.send(at, 2, &exists("/a"));
    e.send(at, 3, &Request::Sync { path: Some("/".into()) });
    e.send(at, 4, &Request::Delete { path: "/a".into(), version: -1 });
    e.send(at, 5, &exists("/a"));
    e.run(50);
    let replies: Vec<(i32, ErrorCode)> = e
        .seen(at)
        .into_iter()
        .map(|seen| match seen {
            Seen::Reply(xid, _, code) => (xid, code),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(replies, [(1, OK), (2, OK), (3, OK), (4, OK), (5, ErrorCode::NONODE)]);
}
