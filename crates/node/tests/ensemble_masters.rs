//! Observers that followers serve: what they ask goes a step further, and comes back as if it had not.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use ensemble::asks::{OK, create, exists, sync};
use ensemble::{At, Ensemble, Seen};
use oxkeeper_node::{DigestAlgorithm, EnsembleSettings, LinkId, ObserverMasters, Role, Settings, digest_id};
use oxkeeper_proto::peer::ForwardedRequest;
use oxkeeper_proto::{ErrorCode, PeerPacket, Reconfig, Request, SessionId, Xid, Zxid};

fn masters(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.observer_masters = Some(ObserverMasters { bytes_max: 32 << 20, reconnect_ms: 0 });
}

/// Voters first, then observers, all of them serving.
fn served(voters: usize, observers: usize, seed: u64) -> Ensemble {
    let mut e = Ensemble::with(voters, observers, seed, masters);
    e.settle();
    e.run(300);
    e
}

/// Who serves an observer.
fn master_of(e: &Ensemble, observer: usize) -> usize {
    let links = |host: &usize| e.link_between(observer, *host).is_some();
    (0..e.hosts.len()).find(links).unwrap_or_else(|| panic!("nobody serves it: {}", e.describe()))
}

/// The link of an observer to who serves it, as that one knows it.
fn link_of(e: &Ensemble, observer: usize) -> (usize, LinkId) {
    let master = master_of(e, observer);
    (master, e.link_between(observer, master).unwrap())
}

#[test]
fn observers_are_served_by_followers_and_the_leader_does_not_see_them() {
    for seed in 0..20 {
        let mut e = served(3, 2, seed);
        let leader = e.leader().unwrap();
        assert_eq!(e.status(leader).unwrap().learners, (2, 2), "followers only");
        let on_followers: usize = (0..3).map(|host| e.status(host).unwrap().learners.1).sum();
        assert_eq!(on_followers, 2 + 2, "each observer is somebody's");
        for observer in [3, 4] {
            assert_eq!(e.status(observer).unwrap().role, Role::Observing);
            let (at, _) = e.client(observer, 1000);
            let path = format!("/from{observer}");
            assert_eq!(e.ask(at, 1, &create(&path, 0)), OK);
            assert_eq!(e.ask(at, 2, &create(&path, 0)), ErrorCode::NODEEXISTS);
            assert_eq!(e.ask(at, 3, &exists(&path)), OK);
            assert_eq!(
                e.ask(at, 4, &create("/x", 99)),
                ErrorCode::BADARGUMENTS,
                "read before it is passed on"
            );
        }
        e.assert_level();
    }
}

#[test]
fn a_read_after_a_sync_at_an_observer_sees_what_was_answered_before() {
    for seed in 0..40 {
        let mut e = served(3, 1, seed);
        let (reader, _) = e.client(3, 4000);
        let host = e.rng.usize(..3);
        let (writer, _) = e.client(host, 4000);
        for round in 0..5 {
            let path = format!("/w{round}");
            e.send(writer, round, &create(&path, 0));
            let mut answered = false;
            while !answered {
                assert!(
                    e.deliver() || {
                        e.run(1);
                        true
                    }
                );
                answered = e.seen(writer).contains(&Seen::Reply(
                    round,
                    e.status(writer.host).unwrap().last_zxid.0,
                    OK,
                ));
            }
            // The follower in between may know nothing of it yet.
            e.send(reader, 100 + round, &sync());
            e.send(reader, 200 + round, &exists(&path));
            e.until("the observer answers", |e| e.status(3).unwrap().outstanding == 0);
            let seen = e.seen(reader);
            assert!(
                matches!(seen[..], [Seen::Reply(_, _, OK), Seen::Reply(_, _, OK)]),
                "seed {seed}: {seen:?}"
            );
        }
    }
}

#[test]
fn syncs_of_several_observers_and_of_the_follower_find_their_askers() {
    let mut e = served(2, 2, 3);
    let clients: Vec<At> = [1 - e.leader().unwrap(), 2, 3].map(|host| e.client(host, 4000).0).into();
    for xid in 0..20 {
        for at in &clients {
            e.send(*at, xid, &sync());
        }
        for _ in 0..e.rng.usize(..10) {
            e.deliver();
        }
    }
    e.run(300);
    for at in clients {
        let xids: Vec<i32> = e
            .seen(at)
            .iter()
            .map(|seen| match seen {
                Seen::Reply(xid, _, OK) => *xid,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(xids, (0..20).collect::<Vec<i32>>());
    }
}

#[test]
fn a_session_lives_while_an_observer_hears_of_it_and_ends_with_its_ephemerals() {
    let mut e = served(3, 2, 1);
    e.assert_silence_ends_a_session([3, 4, 3], 600);
}

#[test]
fn a_session_that_moved_is_not_served_on_its_old_connection_wherever_it_goes() {
    // With two voters one follower serves both observers, and the leader cannot tell them and it from each other.
    for seed in 0..10 {
        let mut e = served(2, 2, seed);
        let (leader, follower) = (e.leader().unwrap(), 1 - e.leader().unwrap());
        for (from, to) in
            [(2, 3), (3, 2), (2, follower), (follower, 3), (3, leader), (leader, 2), (follower, leader)]
        {
            let (old, session) = e.client(from, 4000);
            assert_eq!(e.ask(old, 1, &create("/x-", 2)), OK);
            let (new, taken) = e.reattach(to, session, 4000);
            assert!(taken, "from {from} to {to}");
            e.send(old, 2, &create("/y-", 2));
            e.until("the old connection is closed", |e| e.is_closed(old));
            assert_eq!(e.ask(new, 3, &create("/z-", 2)), OK);
        }
        e.assert_level();
    }
}

#[test]
fn what_was_asked_before_a_move_and_comes_after_it_is_not_done() {
    for to in [1, 3] {
        let mut e = served(2, 2, 8);
        assert_eq!(e.leader(), Some(1));
        let (old, session) = e.client(2, 4000);
        assert_eq!(e.ask(old, 1, &create("/a", 0)), OK);
        // It is on its way for long enough for its client to give up.
        e.cut.insert((0, 2));
        e.send(old, 2, &create("/late", 0));
        let (new, taken) = e.reattach(if to == 1 { 0 } else { to }, session, 4000);
        assert!(taken);
        assert_eq!(e.ask(new, 3, &create("/b", 0)), OK);
        e.cut.clear();
        e.until("the old connection is closed", |e| e.is_closed(old));
        e.run(200);
        assert_eq!(e.ask(new, 4, &exists("/late")), ErrorCode::NONODE);
        assert_eq!(e.ask(new, 5, &exists("/b")), OK);
        e.assert_level();
    }
}

#[test]
fn the_answer_to_an_older_question_of_an_observer_takes_no_session() {
    let mut e = served(2, 2, 6);
    let (leader, follower) = (e.leader().unwrap(), 1 - e.leader().unwrap());
    let (_, session) = e.client(leader, 4000);
    // Three ask one after the other, before any of them is answered.
    let (_, first) = link_of(&e, 2);
    let (_, second) = link_of(&e, 3);
    e.packet_comes(follower, first, PeerPacket::Revalidate { session, timeout_ms: 4000 });
    e.packet_comes(follower, second, PeerPacket::Revalidate { session, timeout_ms: 4000 });
    let here = e.connect(follower, session, 4000);
    // Whatever comes from the two others now was asked before.
    for link in [first, second] {
        let request =
            ForwardedRequest { session, xid: Xid(9), op: 1, body: body(&create("/old", 0)), auth: None };
        e.packet_comes(follower, link, PeerPacket::Request(request));
    }
    e.run(200);
    assert!(!e.is_closed(here) && !e.take_bytes(here).is_empty());
    assert_eq!(e.ask(here, 1, &exists("/old")), ErrorCode::NONODE);
    assert_eq!(e.ask(here, 2, &create("/new", 0)), OK);
}

fn body(request: &Request<'_>) -> bytes::Bytes {
    let mut body = Vec::new();
    request.encode(&mut body);
    body.into()
}

#[test]
fn observers_find_another_follower_and_come_level() {
    for seed in 0..10 {
        let mut e = served(3, 2, seed);
        let (at, session) = e.client(3, 4000);
        assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
        let master = master_of(&e, 3);
        e.crash(master);
        e.until("the observer lets its client go", |e| e.is_closed(at));
        e.settle();
        assert_ne!(master_of(&e, 3), master);
        let (at, taken) = e.reattach(3, session, 4000);
        assert!(taken);
        assert_eq!(e.ask(at, 2, &create("/b", 0)), OK);
        e.start(master);
        e.settle();
        e.assert_level();
    }
}

fn always_snapshots(settings: &mut Settings, ensemble: &mut EnsembleSettings) {
    masters(settings, ensemble);
    ensemble.force_snapshot = true;
}

#[test]
fn an_observer_gets_a_snapshot_of_a_follower_and_what_is_written_meanwhile() {
    for seed in 0..10 {
        let mut e = Ensemble::with(3, 1, seed, always_snapshots);
        e.settle();
        let (at, _) = e.client(e.leader().unwrap(), 4000);
        assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
        e.crash(3);
        for n in 0..40 {
            e.send(at, 2 + n, &create("/a/s-", 2));
        }
        e.run(100);
        e.start(3);
        for n in 42..400 {
            e.send(at, n, &create("/a/s-", 2));
            e.deliver();
        }
        e.settle();
        e.run(300);
        assert!(e.hosts[3].disk.snapshot.is_some());
        e.assert_level();
    }
}

#[test]
fn an_observer_that_was_away_for_long_goes_on_from_what_its_follower_keeps() {
    let mut e = served(2, 1, 5);
    let follower = 1 - e.leader().unwrap();
    let (at, _) = e.client(follower, 4000);
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    e.run(100);
    e.crash(2);
    for n in 0..700 {
        e.send(at, 2 + n, &create("/a/s-", 2));
    }
    e.run(300);
    let before = e.hosts[2].disk.snapshot.as_ref().map(|(zxid, _)| *zxid);
    // More than the history holds, and neither a log nor a snapshot to read it from.
    e.hosts[follower].disk.log.clear();
    e.start(2);
    e.settle();
    e.run(100);
    assert_eq!(e.hosts[2].disk.snapshot.as_ref().map(|(zxid, _)| *zxid), before, "it got no other one");
    e.assert_level();
}

#[test]
fn clients_of_observers_stay_while_leadership_is_handed_over() {
    for seed in 0..20 {
        let mut e = served(3, 1, seed);
        let (at, _) = e.client(3, 4000);
        assert_eq!(e.ask(at, 1, &create("/q", 0)), OK);
        e.run(300);
        let leader = e.leader().unwrap();
        e.hand_over(leader, None).unwrap();
        for xid in 2..40 {
            e.send(at, xid, &create("/q/n-", 2));
            (0..e.rng.usize(..10)).for_each(|_| {
                e.deliver();
            });
        }
        e.until("another leader", |e| e.leader().is_some_and(|now| now != leader));
        e.settle();
        e.run(300);
        assert!(!e.is_closed(at), "seed {seed}: let go");
        let xids: Vec<i32> = e
            .seen(at)
            .iter()
            .map(|seen| match seen {
                Seen::Reply(xid, _, OK) => *xid,
                other => panic!("seed {seed}: {other:?}"),
            })
            .collect();
        assert_eq!(xids, (2..40).collect::<Vec<i32>>(), "seed {seed}");
        assert_eq!(e.ask(at, 41, &sync()), OK);
        assert_eq!(e.status(3).unwrap().sessions, 1);
        e.assert_level();
        // And once more, now that the next leader has heard that it is here.
        let leader = e.leader().unwrap();
        e.hand_over(leader, None).unwrap();
        e.until("another leader", |e| e.leader().is_some_and(|now| now != leader));
        e.settle();
        assert_eq!(e.ask(at, 42, &create("/q/n-", 2)), OK);
    }
}

/// Two voters and an observer whose client was held once, at the moment at which the observer serves again. The leader has
/// not heard of the client yet.
fn held_once(seed: u64) -> (Ensemble, At) {
    let mut e = served(2, 1, seed);
    let (at, _) = e.client(2, 4000);
    e.run(300);
    let leader = e.leader().unwrap();
    e.hand_over(leader, None).unwrap();
    e.until("another leader", |e| e.leader().is_some_and(|now| now != leader));
    for _ in 0..100_000 {
        if e.status(2).unwrap().serving {
            break;
        }
        if !e.deliver() {
            e.run(1);
        }
    }
    assert!(!e.is_closed(at), "held");
    (e, at)
}

/// Hands over as soon as the leader may.
fn hand_over_soon(e: &mut Ensemble) {
    let leader = e.leader().unwrap();
    while e.hand_over(leader, None).is_err() {
        if !e.deliver() {
            e.run(1);
        }
    }
}

#[test]
fn clients_that_the_leader_has_not_heard_of_are_not_held_again() {
    let mut let_go = 0;
    for seed in 0..20 {
        let (mut e, at) = held_once(seed);
        let master = master_of(&e, 2);
        // The observer's word does not get through.
        e.cut.insert((master, 2));
        hand_over_soon(&mut e);
        e.until("another leader", |e| e.leader() == Some(master));
        e.cut.clear();
        e.run(500);
        let_go += usize::from(e.is_closed(at));
    }
    assert_eq!(let_go, 20);
}

#[test]
fn observers_of_a_follower_of_another_make_let_their_clients_go() {
    let mut e = Ensemble::with(3, 1, 4, masters);
    // It does not know the packet, and sends none.
    e.is_unheard_of = |packet| matches!(packet, PeerPacket::Moved { .. });
    e.settle();
    let (at, _) = e.client(3, 4000);
    e.run(500);
    let leader = e.leader().unwrap();
    e.hand_over(leader, None).unwrap();
    e.until("they are let go", |e| e.is_closed(at));
}

fn asks_for_three(settings: &mut Settings, ensemble: &mut EnsembleSettings) {
    masters(settings, ensemble);
    ensemble.revalidating_max = 3;
}

/// Whether a packet that comes from an observer often enough ends its link and leaves the other one alone.
fn is_cut_off(
    change: fn(&mut Settings, &mut EnsembleSettings),
    packet: impl Fn(u32) -> PeerPacket,
    most: u32,
) {
    let mut e = Ensemble::with(2, 2, 4, change);
    e.settle();
    let (master, link) = link_of(&e, 2);
    let (_, other) = link_of(&e, 3);
    for n in 0..most {
        e.packet_comes(master, link, packet(n));
        assert!(e.link_between(2, master) == Some(link), "{n} of {most}");
    }
    e.packet_comes(master, link, packet(most));
    assert_eq!(e.link_between(2, master), None, "{most} are borne");
    assert_eq!(e.link_between(3, master), Some(other));
    e.settle();
    e.assert_level();
}

#[test]
fn whoever_asks_too_much_or_speaks_out_of_turn_loses_its_link_and_nobody_else_does() {
    let request = |op: i32, body: &'static [u8]| {
        let body = bytes::Bytes::from_static(body);
        PeerPacket::Request(ForwardedRequest { session: SessionId(1), xid: Xid(1), op, body, auth: None })
    };
    let revalidate = |session| PeerPacket::Revalidate { session, timeout_ms: 4000 };
    is_cut_off(masters, |_| PeerPacket::Ack { zxid: Zxid::new(1, 1) }, 0);
    is_cut_off(masters, |_| PeerPacket::Commit { zxid: Zxid::new(1, 1) }, 0);
    is_cut_off(asks_for_three, |_| request(9, b"\0\0\0\x01/"), 3);
    is_cut_off(asks_for_three, |n| revalidate(SessionId(i64::from(n) + 1)), 3);
    is_cut_off(masters, |_| revalidate(SessionId(1)), 64);
}

/// Observers of another make pass on whatever their clients ask.
#[test]
fn what_no_leader_should_be_asked_fails_in_a_place_of_its_own() {
    let mut e = served(3, 1, 9);
    let (at, session) = e.client(3, 4000);
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    e.run(100);
    let (master, link) = link_of(&e, 3);
    let before = e.status(3).unwrap();
    let nonsense: [(i32, &[u8]); 4] =
        [(1, b"?"), (13, b"\0\0\0\x02/a\0\0\0\0"), (4, b"\0\0\0\x02/a\0"), (-77, b"")];
    for (op, body) in nonsense {
        let body = bytes::Bytes::from_static(body);
        let request = ForwardedRequest { session, xid: Xid(7), op, body, auth: None };
        e.packet_comes(master, link, PeerPacket::Request(request));
    }
    e.run(200);
    assert_eq!(e.link_between(3, master), Some(link));
    let after = e.status(3).unwrap();
    assert_eq!(after.last_zxid.0, before.last_zxid.0 + 4, "a transaction for each");
    assert_eq!(after.digest, before.digest, "that changes nothing");
    assert_eq!(e.ask(at, 2, &create("/b", 0)), OK);
    e.assert_level();
}

fn with_super(settings: &mut Settings, ensemble: &mut EnsembleSettings) {
    masters(settings, ensemble);
    settings.super_digest = Some(digest_id(b"super:secret", DigestAlgorithm::Sha1));
}

#[test]
fn an_observer_that_is_to_vote_goes_to_the_leader_and_acknowledges() {
    let mut e = Ensemble::with(3, 2, 2, with_super);
    e.settle();
    e.run(300);
    let leader = e.leader().unwrap();
    let (at, _) = e.client(leader, 4000);
    let auth = Request::Auth { scheme: Some("digest".into()), auth: Some(b"super:secret") };
    assert_eq!(e.ask(at, -4, &auth), OK);
    assert_ne!(master_of(&e, 3), leader);
    // One follower is lost before it has acknowledged: only with the observer is there a quorum of the new voters.
    let [lost, other] = [0, 1, 2].into_iter().filter(|host| *host != leader).collect::<Vec<usize>>()[..]
    else {
        panic!("two")
    };
    e.hosts[lost].lazy = true;
    let joining = "server.4=h4:2888:3888:participant;h4:2181,server.5=h5:2888:3888:participant;h5:2181";
    let (joining, leaving) = (Some(joining.into()), Some((other + 1).to_string().into()));
    e.send(at, 1, &Request::Reconfig(Reconfig { joining, leaving, new_members: None, from_config: -1 }));
    e.run(400);
    let refused = e.seen(at);
    assert!(
        matches!(refused[..], [Seen::Reply(1, _, ErrorCode::NEWCONFIGNOQUORUM)]),
        "observers do not count before it begins: {refused:?}"
    );
    e.hosts[lost].lazy = false;
    while e.work(lost) {}
    let joining = Some("server.4=h4:2888:3888:participant;h4:2181".into());
    assert_eq!(
        e.ask(
            at,
            2,
            &Request::Reconfig(Reconfig { joining, leaving: None, new_members: None, from_config: -1 })
        ),
        OK
    );
    e.settle();
    e.run(300);
    assert_eq!(e.status(3).unwrap().role, Role::Following);
    assert_eq!(master_of(&e, 3), leader);
    assert_ne!(master_of(&e, 4), leader, "the other one still observes");
    // Now it counts: of four any three are a quorum.
    e.crash(other);
    e.settle();
    assert_eq!(e.ask(at, 3, &create("/a", 0)), OK);
    e.assert_level();
}
