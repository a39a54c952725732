//! Sessions that only one server knows, and servers that only let read.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use ensemble::asks::{OK, create, exists};
use ensemble::{Ensemble, Seen};
use oxkeeper_node::{EnsembleSettings, Input, Role, Settings};
use oxkeeper_proto::{ConnectResponse, ErrorCode, Request, SessionId};

fn local(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.local_sessions = true;
}

fn upgrading(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.local_sessions = true;
    ensemble.local_sessions_upgrade = true;
}

fn read_only(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.read_only = true;
}

#[test]
fn a_local_session_that_ends_gets_the_answers_to_what_it_has_asked_before() {
    let mut e = Ensemble::with(3, 0, 4, local);
    e.settle();
    for host in 0..3 {
        let (at, session) = e.client(host, 1000);
        e.send(at, 1, &create(&format!("/n{host}"), 0));
        e.send(at, 2, &exists("/"));
        e.send(at, 3, &Request::CloseSession);
        e.send(at, 4, &exists("/"));
        e.run(50);
        let is_next = |(seen, xid): (&Seen, i32)| matches!(seen, Seen::Reply(x, _, OK) if *x == xid);
        let seen = e.seen(at);
        assert!(seen.len() == 3 && seen.iter().zip(1..).all(is_next), "host {host}: {seen:?}");
        assert!(e.is_closed(at));
        assert!(!e.reattach(host, session, 1000).1, "it is over");
        // One whose client goes before it has its answers.
        let (at, session) = e.client(host, 1000);
        e.send(at, 1, &create(&format!("/m{host}"), 0));
        e.send(at, 2, &Request::CloseSession);
        e.step(host, Input::Closed { conn: at.conn });
        e.run(50);
        assert!(!e.reattach(host, session, 1000).1, "it is over as well");
    }
    e.assert_level();
}

#[test]
fn a_local_session_costs_no_transaction_and_stays_where_it_is() {
    let mut e = Ensemble::with(3, 0, 1, local);
    e.settle();
    for host in 0..3 {
        let before = e.status(host).unwrap().last_logged;
        let (at, session) = e.client(host, 1000);
        assert_eq!(e.status(host).unwrap().last_logged, before);
        let path = format!("/n{host}");
        assert_eq!(e.ask(at, 1, &create(&path, 0)), OK);
        assert_eq!(e.ask(at, 2, &create("/e", 1)), ErrorCode::EPHEMERALONLOCALSESSION);
        assert_eq!(e.ask(at, 3, &exists(&path)), OK);
        let (other, taken) = e.reattach((host + 1) % 3, session, 1000);
        assert!(!taken && e.is_closed(other), "nobody else knows it");
        let (at, taken) = e.reattach(host, session, 1000);
        assert!(taken);
        e.send(at, 4, &Request::CloseSession);
        e.run(20);
        assert_eq!(e.seen(at).len(), 1);
        assert!(e.is_closed(at));
    }
    let (silent, _) = e.client(0, 300);
    e.run(1000);
    assert!(e.is_closed(silent), "it expires where it lives");
    e.run(100);
    assert_eq!(e.status(0).unwrap().znodes, e.status(2).unwrap().znodes);
}

#[test]
fn the_first_ephemeral_makes_a_local_session_global() {
    let mut e = Ensemble::with(3, 0, 2, upgrading);
    e.settle();
    for host in 0..3 {
        let (at, session) = e.client(host, 1000);
        assert_eq!(e.ask(at, 1, &create(&format!("/e{host}"), 1)), OK);
        let (at, taken) = e.reattach((host + 1) % 3, session, 1000);
        assert!(taken, "a global session moves");
        assert_eq!(e.ask(at, 2, &exists(&format!("/e{host}"))), OK);
    }
    e.run(3000);
    assert_eq!(e.status(0).unwrap().ephemerals, 0, "silent, they expire like others");
    e.assert_level();
}

#[test]
fn a_server_without_a_leader_lets_those_read_who_asked_for_it() {
    let mut e = Ensemble::with(3, 0, 3, read_only);
    e.settle();
    let (at, global) = e.client(0, 4000);
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    e.crash(1);
    e.crash(2);
    e.until("it reads only", |e| e.status(0).unwrap().role == Role::ReadOnly);
    let refused = e.connect(0, SessionId::NONE, 4000);
    assert!(e.is_closed(refused), "it asked for more");
    let at = e.connect_reading(0, SessionId::NONE, 4000);
    let bytes = e.take_bytes(at);
    let response = ConnectResponse::decode(&bytes[4..]).unwrap();
    assert_eq!(response.read_only, Some(true));
    assert_eq!(e.ask(at, 1, &exists("/a")), OK);
    assert_eq!(e.ask(at, 2, &create("/b", 0)), ErrorCode::NOTREADONLY);
    assert_eq!(e.ask(at, 3, &Request::Sync { path: Some("/".into()) }), ErrorCode::NOTREADONLY);
    let known = e.connect_reading(0, global, 4000);
    assert!(e.is_closed(known), "a global session may be in use elsewhere");
    e.start(1);
    e.until("readers are let go", |e| e.is_closed(at));
    e.settle();
    let (at, taken) = e.reattach(0, global, 4000);
    assert!(taken);
    assert_eq!(e.ask(at, 2, &create("/b", 0)), OK);
}
