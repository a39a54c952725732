//! Sessions of an ensemble: they live on whichever server hears of them, move, and end once.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use ensemble::asks::{OK, create, exists, sync};
use ensemble::{Ensemble, Seen};
use oxkeeper_node::{EnsembleSettings, Settings};
use oxkeeper_proto::peer::ForwardedRequest;
use oxkeeper_proto::{ErrorCode, PeerPacket, Request, SessionId, Xid};

#[test]
fn a_session_lives_while_any_server_hears_of_it_and_ends_with_its_ephemerals() {
    let mut e = Ensemble::new(3, 1);
    e.settle();
    e.assert_silence_ends_a_session([0, 1, 2], 500);
}

#[test]
fn a_session_that_moved_is_not_served_on_its_old_connection() {
    let mut e = Ensemble::new(3, 2);
    e.settle();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let (old, session) = e.client(from, 4000);
        assert_eq!(e.ask(old, 1, &create("/x-", 2)), OK);
        let (new, taken) = e.reattach(to, session, 4000);
        assert!(taken);
        e.send(old, 2, &create("/y-", 2));
        e.until("the old connection is closed", |e| e.is_closed(old));
        assert_eq!(e.ask(new, 3, &create("/z-", 2)), OK);
        let (again, taken) = e.reattach(to, session, 4000);
        assert!(taken && e.is_closed(new), "of two connections here the older goes");
        assert_eq!(e.ask(again, 4, &create("/z-", 2)), OK);
    }
    e.assert_level();
}

#[test]
fn whoever_comes_anew_has_left_its_old_connection_before_the_leader_says_so() {
    let mut e = Ensemble::new(3, 5);
    e.settle();
    let learner = (0..3).find(|host| Some(*host) != e.leader()).unwrap();
    let (old, session) = e.client(learner, 4000);
    assert_eq!(e.ask(old, 1, &create("/x-", 2)), OK);
    // The leader's answer is on its way for long enough for this connection to end as well. If the old one were still
    // there, the leader would take it for the session's, wherever else that is by then.
    e.connect(learner, session, 4000);
    assert!(e.is_closed(old));
}

#[test]
fn the_answer_to_an_older_question_takes_no_session() {
    let mut e = Ensemble::new(3, 6);
    e.settle();
    let learner = (0..3).find(|host| Some(*host) != e.leader()).unwrap();
    let (_, session) = e.client(learner, 4000);
    e.connect(learner, session, 4000);
    let again = e.connect(learner, session, 4000);
    e.forge_from_leader(learner, PeerPacket::Revalidated { session, valid: true });
    assert!(e.take_bytes(again).is_empty(), "that was asked for the first of the two");
    e.forge_from_leader(learner, PeerPacket::Revalidated { session, valid: true });
    assert!(!e.take_bytes(again).is_empty());
}

#[test]
fn a_wrong_password_takes_no_session() {
    let mut e = Ensemble::new(3, 3);
    e.settle();
    let (at, session) = e.client(0, 4000);
    for host in 0..3 {
        assert!(!e.reattach(host, SessionId(session.0 ^ 0x77), 4000).1);
    }
    assert_eq!(e.ask(at, 1, &exists("/")), OK);
}

#[test]
fn closing_works_from_every_server_and_takes_what_is_on_its_way_along() {
    let mut e = Ensemble::new(3, 4);
    e.settle();
    for host in 0..3 {
        let (at, session) = e.client(host, 4000);
        e.send(at, 1, &create(&format!("/e{host}"), 1));
        e.send(at, 2, &Request::CloseSession);
        e.run(100);
        assert_eq!(e.seen(at).len(), 2, "both are answered");
        assert!(e.is_closed(at));
        assert!(!e.reattach(host, session, 4000).1);
    }
    let (at, _) = e.client(0, 4000);
    for host in 0..3 {
        assert_eq!(e.ask(at, host + 1, &exists(&format!("/e{host}"))), ErrorCode::NONODE);
    }
    e.assert_level();
}

#[test]
fn a_leader_that_nobody_follows_any_more_answers_no_sync() {
    let mut e = Ensemble::new(3, 5);
    e.settle();
    let (at, _) = e.client(2, 4000);
    e.cut_off(2);
    // It does not know yet that it is alone.
    e.send(at, 1, &sync());
    e.send(at, 2, &exists("/"));
    e.run(50);
    assert_eq!(e.seen(at), [], "nothing that a new leader could contradict");
    e.until("it finds out", |e| e.is_closed(at));
    assert_eq!(e.seen(at), []);
    e.heal();
    e.settle();
    for host in 0..3 {
        let (at, _) = e.client(host, 4000);
        assert_eq!(e.ask(at, 1, &sync()), OK);
    }
}

#[test]
fn a_sync_shows_what_was_written_elsewhere_before() {
    let mut e = Ensemble::new(3, 6);
    e.settle();
    let (writer, _) = e.client(2, 4000);
    let (reader, _) = e.client(0, 4000);
    for n in 0..20 {
        let path = format!("/n{n}");
        assert_eq!(e.ask(writer, n + 1, &create(&path, 0)), OK);
        e.send(reader, 2 * n + 1, &sync());
        e.send(reader, 2 * n + 2, &exists(&path));
        e.run(20);
        let seen = e.seen(reader);
        assert!(seen.iter().all(|seen| matches!(seen, Seen::Reply(_, _, OK))), "{seen:?}");
        assert_eq!(seen.len(), 2);
    }
}

#[test]
fn what_comes_behind_a_sync_waits_for_it() {
    let mut e = Ensemble::new(3, 8);
    e.settle();
    for host in 0..3 {
        let (at, _) = e.client(host, 4000);
        let path = format!("/n{host}");
        for round in 0..3 {
            let xid = round * 6;
            e.send(at, xid + 1, &sync());
            e.send(at, xid + 2, &exists(&path));
            e.send(at, xid + 3, &create(&path, 0));
            e.send(at, xid + 4, &sync());
            e.send(at, xid + 5, &exists(&path));
            e.send(at, xid + 6, &Request::Delete { path: path.as_str().into(), version: -1 });
        }
        e.run(100);
        let seen = e.seen(at);
        let codes: Vec<(i32, ErrorCode)> = seen
            .iter()
            .map(|seen| match seen {
                Seen::Reply(xid, _, code) => (*xid, *code),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [OK, ErrorCode::NONODE, OK, OK, OK, OK].into_iter().cycle();
        assert_eq!(codes, (1..=18).zip(expected).collect::<Vec<_>>(), "no read shows a later write");
        assert!(seen.is_sorted_by_key(|seen| if let Seen::Reply(_, zxid, _) = seen { *zxid } else { 0 }));
    }
}

/// ZOOKEEPER-2623: a bare check became a transaction that no server could read. And without a number: a request that
/// does not parse was answered under a zxid that was in use, and every write of the ensemble hung behind it.
#[test]
fn zookeeper_2623_what_a_learner_passes_on_unchecked_becomes_a_failure_with_a_place_of_its_own() {
    let mut e = Ensemble::new(3, 9);
    e.settle();
    let (at, session) = e.client(0, 4000);
    let forged = |xid: i32, op: i32, body: &[u8]| {
        PeerPacket::Request(ForwardedRequest {
            session,
            xid: Xid(xid),
            op,
            body: body.to_vec().into(),
            auth: Some(Vec::new()),
        })
    };
    let before = e.status(2).unwrap().last_logged;
    let check = [&[0, 0, 0, 1][..], b"/", &[0xff; 4]].concat();
    e.forge(0, forged(50, 13, &check));
    e.forge(0, forged(51, 1, &[0, 0, 0, 9, b'/']));
    e.forge(0, forged(52, 77, &[]));
    e.forge(0, forged(53, 20, &[0, 0, 0, 2, b'/', b'a']));
    e.run(50);
    assert_eq!(e.status(2).unwrap().last_logged.0, before.0 + 4, "each has a zxid, none has it twice");
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    e.assert_level();
}

fn asks_for_three(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.revalidating_max = 3;
}

#[test]
fn only_so_many_sessions_are_asked_for_at_once() {
    let mut e = Ensemble::with(3, 0, 10, asks_for_three);
    e.settle();
    let sessions: Vec<SessionId> = (0..5).map(|_| e.client(1, 4000).1).collect();
    // Nothing is delivered meanwhile, so the leader does not answer.
    let waiting: Vec<_> = sessions.iter().map(|session| e.connect(0, *session, 4000)).collect();
    assert_eq!(waiting.iter().filter(|at| e.is_closed(**at)).count(), 2);
    e.run(50);
    assert!(waiting[..3].iter().all(|at| !e.take_bytes(*at).is_empty()));
    assert!(e.reattach(0, sessions[4], 4000).1, "there is room again");
}

#[test]
fn a_new_leader_gives_every_session_its_full_timeout() {
    let mut e = Ensemble::new(3, 7);
    e.settle();
    let (at, session) = e.client(0, 1000);
    assert_eq!(e.ask(at, 1, &create("/e", 1)), OK);
    e.run(700);
    e.crash(2);
    e.settle();
    e.run(700);
    assert!(e.reattach(1, session, 1000).1, "1.4 s of silence, but not under one leader");
}
