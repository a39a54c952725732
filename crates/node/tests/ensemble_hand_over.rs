//! Leadership is handed over while the ensemble serves: clients stay, and notice nothing but a pause.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use ensemble::asks::{OK, create, exists, sync};
use ensemble::{At, Ensemble, Seen};
use oxkeeper_node::{EnsembleSettings, HandOverRefused, Input, Role, Scarcity, Settings};
use oxkeeper_proto::{ErrorCode, Request, ServerId, SessionId};

/// A client that asks one thing after the other and does not wait for answers.
struct Busy {
    at: At,
    session: SessionId,
    asked: i32,
    creates: usize,
    answered: Vec<Seen>,
}

impl Busy {
    fn ask(&mut self, e: &mut Ensemble) {
        self.asked += 1;
        match self.asked % 5 {
            0 => e.send(self.at, self.asked, &sync()),
            1 => e.send(self.at, self.asked, &exists("/q")),
            _ => {
                self.creates += 1;
                e.send(self.at, self.asked, &create("/q/n-", 2));
            }
        }
    }

    fn hear(&mut self, e: &mut Ensemble) {
        self.answered.extend(e.seen(self.at));
    }
}

/// Clients at every host, the leader's included.
fn busy_clients(e: &mut Ensemble) -> Vec<Busy> {
    let (at, _) = e.client(0, 4000);
    assert_eq!(e.ask(at, 1, &create("/q", 0)), OK);
    let one = |e: &mut Ensemble, host| {
        let (at, session) = e.client(host, 4000);
        Busy { at, session, asked: 0, creates: 0, answered: Vec::new() }
    };
    (0..2 * e.hosts.len()).map(|n| one(e, n % e.hosts.len())).collect()
}

/// Waits until the leader has heard from everybody, so that it may hand over.
fn acquainted(e: &mut Ensemble) {
    e.settle();
    e.run(300);
}

fn children(e: &mut Ensemble, host: usize) -> usize {
    let (at, _) = e.client(host, 4000);
    assert_eq!(e.ask(at, 1, &sync()), OK);
    e.status(host).unwrap().znodes
}

#[test]
fn clients_stay_and_everything_that_they_ask_is_done_once_and_in_order() {
    for seed in 0..60 {
        let mut e = Ensemble::with(3, 1, seed, |_, _| {});
        acquainted(&mut e);
        let mut clients = busy_clients(&mut e);
        let before = children(&mut e, 0);
        e.run(300);
        let leader = e.leader().unwrap();
        for round in 0..40 {
            for client in &mut clients {
                client.ask(&mut e);
            }
            if round == 10 {
                let successor = e.hand_over(leader, None).unwrap();
                assert_ne!(successor, e.hosts[leader].id);
            }
            for _ in 0..e.rng.usize(..60) {
                e.deliver();
            }
            if round % 4 == 0 {
                e.run(1);
            }
        }
        e.settle();
        e.run(200);
        assert_ne!(e.leader(), Some(leader), "seed {seed}");
        for client in &mut clients {
            client.hear(&mut e);
            assert!(!e.is_closed(client.at), "seed {seed}: a client was let go");
            let expected: Vec<i32> = (1..=client.asked).collect();
            let answered: Vec<i32> = client
                .answered
                .iter()
                .map(|seen| match seen {
                    Seen::Reply(xid, _, OK) => *xid,
                    other => panic!("seed {seed}: {other:?}"),
                })
                .collect();
            assert_eq!(answered, expected, "seed {seed}");
        }
        let created: usize = clients.iter().map(|client| client.creates).sum();
        assert_eq!(children(&mut e, 0), before + created, "seed {seed}: one znode for each");
        e.assert_level();
    }
}

fn short_epochs(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.epoch_counter_max = 40;
}

#[test]
fn an_epoch_whose_numbers_are_used_up_is_followed_by_the_next_one_of_the_same_leader() {
    for seed in 0..30 {
        let mut e = Ensemble::with(3, 1, seed, short_epochs);
        acquainted(&mut e);
        let mut clients = busy_clients(&mut e);
        let (leader, before) = (e.leader().unwrap(), children(&mut e, 0));
        for _ in 0..60 {
            for client in &mut clients {
                client.ask(&mut e);
            }
            let pause_ms = 1 + e.rng.i64(..120);
            e.run(pause_ms);
        }
        e.settle();
        e.run(500);
        let status = e.status(leader).unwrap();
        assert!(status.epoch.0 > 5 && status.role == Role::Leading, "seed {seed}: {}", e.describe());
        for client in &mut clients {
            client.hear(&mut e);
            assert!(!e.is_closed(client.at), "seed {seed}: a client was let go");
            let is_next = |(seen, xid): (&Seen, i32)| matches!(seen, Seen::Reply(x, _, OK) if *x == xid);
            assert!(client.answered.iter().zip(1..).all(is_next), "seed {seed}: {:?}", client.answered);
            assert_eq!(client.answered.len() as i32, client.asked);
        }
        let created: usize = clients.iter().map(|client| client.creates).sum();
        assert_eq!(children(&mut e, 0), before + created, "seed {seed}: one znode for each");
        e.assert_level();
    }
}

/// The pause, in virtual time without delays of disk or network: at most a few attempts to reach the successor in vain.
#[test]
fn the_pause_is_short() {
    for seed in 0..20 {
        let mut e = Ensemble::new(3, seed);
        acquainted(&mut e);
        let leader = e.leader().unwrap();
        let from_ms = e.now_ms;
        e.hand_over(leader, None).unwrap();
        e.until("another leads", |e| e.leader().is_some_and(|now| now != leader));
        assert!(e.now_ms - from_ms <= 60, "{} ms", e.now_ms - from_ms);
    }
}

#[test]
fn the_one_that_is_wanted_leads() {
    let mut e = Ensemble::with(5, 1, 3, |_, _| {});
    acquainted(&mut e);
    for to in [0, 3, 1, 4] {
        let leader = e.leader().unwrap();
        if leader != to {
            assert_eq!(e.hand_over(leader, Some(to)), Ok(ServerId(to as i64 + 1)));
        }
        e.until("it leads", |e| e.leader() == Some(to));
        acquainted(&mut e);
        assert_eq!(e.hand_over((to + 1) % 5, None), Err(HandOverRefused::NotLeading));
        assert_eq!(e.hand_over(to, Some(5)), Err(HandOverRefused::NotAVoter(ServerId(6))));
        assert_eq!(e.hand_over(to, Some(to)), Err(HandOverRefused::NotAVoter(ServerId(to as i64 + 1))));
    }
    e.assert_level();
}

#[test]
fn nobody_leads_who_is_not_there() {
    let mut e = Ensemble::new(3, 4);
    acquainted(&mut e);
    let leader = e.leader().unwrap();
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    e.crash(lost);
    e.run(50);
    assert_eq!(e.hand_over(leader, Some(lost)), Err(HandOverRefused::NobodyInStep));
    assert_eq!(e.hand_over(leader, None), Ok(e.hosts[other].id));
    assert_eq!(e.hand_over(leader, None), Err(HandOverRefused::UnderWay));
    e.until("the other leads", |e| e.leader() == Some(other));
}

#[test]
fn sessions_ephemerals_and_watches_outlive_it() {
    let mut e = Ensemble::new(3, 5);
    acquainted(&mut e);
    let mut clients = Vec::new();
    for host in 0..3 {
        let (at, _) = e.client(host, 1000);
        assert_eq!(e.ask(at, 1, &create(&format!("/e{host}"), 1)), OK);
        let watch = Request::Exists { path: "/watched".into(), watch: true };
        assert_eq!(e.ask(at, 2, &watch), ErrorCode::NONODE);
        clients.push(at);
    }
    e.run(300);
    let leader = e.leader().unwrap();
    e.hand_over(leader, None).unwrap();
    e.until("another leads", |e| e.leader().is_some_and(|now| now != leader));
    e.settle();
    assert_eq!(e.ask(clients[0], 3, &create("/watched", 0)), OK);
    e.run(50);
    for at in &clients[1..] {
        assert!(matches!(&e.seen(*at)[..], [Seen::Event(_, 1, path)] if path == "/watched"));
    }
    for round in 0..12 {
        e.run(200);
        for (host, at) in clients.iter().enumerate() {
            assert_eq!(e.ask(*at, 10 + round, &exists(&format!("/e{host}"))), OK);
        }
    }
    let _ = clients.remove(0);
    e.until("who is silent is expired by the new leader", |e| e.status(1).unwrap().sessions == 0);
}

/// Hands over, and lets nothing arrive any more as soon as the old leader has gone: everybody holds.
fn hand_over_to_nobody(e: &mut Ensemble) {
    let leader = e.leader().unwrap();
    e.hand_over(leader, None).unwrap();
    while e.status(leader).unwrap().role == Role::Leading {
        assert!(e.deliver(), "it leaves when it is alone");
    }
    for host in 0..e.hosts.len() {
        e.cut_off(host);
    }
}

fn impatient(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.hold_ms_max = 150;
    ensemble.hold_requests_max = 5;
    ensemble.hold_bytes_max = 1000;
}

#[test]
fn clients_are_let_go_if_no_leader_comes_in_time() {
    let mut e = Ensemble::with(3, 0, 6, impatient);
    acquainted(&mut e);
    let clients: Vec<At> = (0..3).map(|host| e.client(host, 4000).0).collect();
    e.run(300);
    hand_over_to_nobody(&mut e);
    e.run(140);
    assert!(clients.iter().all(|at| !e.is_closed(*at)), "not yet");
    e.run(20);
    assert!(clients.iter().all(|at| e.is_closed(*at)));
    e.heal();
    e.settle();
    e.assert_level();
}

#[test]
fn what_is_held_has_a_bound() {
    let mut e = Ensemble::with(3, 0, 7, impatient);
    acquainted(&mut e);
    let [many, few, large] = [0, 0, 1].map(|host| e.client(host, 4000).0);
    e.run(300);
    hand_over_to_nobody(&mut e);
    e.send(few, 1, &create("/few", 0));
    for xid in 1..=4 {
        e.send(many, xid, &exists("/"));
    }
    assert!(!e.is_closed(many));
    e.send(many, 5, &exists("/"));
    assert!(e.is_closed(many) && !e.is_closed(few), "who asks too much goes");
    e.send(large, 1, &create(&"/long".repeat(200), 0));
    assert!(e.is_closed(large));
    let late = e.connect(0, SessionId::NONE, 4000);
    assert!(e.is_closed(late), "nobody is let in");
    e.heal();
    e.settle();
    e.run(50);
    assert!(matches!(e.seen(few)[..], [Seen::Reply(1, _, OK)]));
    let (at, _) = e.client(2, 4000);
    assert_eq!(e.ask(at, 1, &sync()), OK);
    assert_eq!(e.ask(at, 2, &exists("/few")), OK);
}

/// Where a session is, only the leader of the next epoch learns. If this server missed that one, a client may have been
/// elsewhere meanwhile, and what it had asked here before must not be done now.
#[test]
fn clients_are_let_go_if_the_next_epoch_was_missed() {
    let mut e = Ensemble::new(3, 13);
    acquainted(&mut e);
    let leader = e.leader().unwrap();
    let (successor, missing) = ((leader + 1) % 3, (leader + 2) % 3);
    let (old, session) = e.client(missing, 4000);
    e.run(300);
    e.hand_over(leader, Some(successor)).unwrap();
    while e.status(missing).unwrap().serving {
        assert!(e.deliver(), "it hears of it");
    }
    e.cut_off(missing);
    e.send(old, 1, &create("/late", 0));
    e.until("the successor leads", |e| e.leader() == Some(successor));
    // The client has gone, and is told by another server that nothing has happened.
    let (new, taken) = e.reattach(leader, session, 4000);
    assert!(taken);
    assert_eq!(e.ask(new, 2, &sync()), OK);
    assert_eq!(e.ask(new, 3, &exists("/late")), ErrorCode::NONODE);
    e.crash(successor);
    e.heal();
    e.until("the others go on", |e| e.leader().is_some_and(|now| e.status(now).unwrap().epoch.0 > 2));
    e.start(successor);
    e.settle();
    let (at, _) = e.client(leader, 4000);
    assert_eq!(e.ask(at, 1, &sync()), OK);
    assert_eq!(e.ask(at, 2, &exists("/late")), ErrorCode::NONODE);
    assert!(e.is_closed(old));
}

/// The history with which a later epoch begins may end with what was never agreed, and is applied before it is. Watches
/// must not tell of it.
#[test]
fn clients_are_let_go_before_the_history_of_a_later_epoch_shows() {
    let mut e = Ensemble::new(4, 15);
    acquainted(&mut e);
    let leader = e.leader().unwrap();
    let [successor, other, missing] = [1, 2, 3].map(|n| (leader + n) % 4);
    let (held, _) = e.client(missing, 4000);
    let watch = Request::Exists { path: "/late".into(), watch: true };
    assert_eq!(e.ask(held, 1, &watch), ErrorCode::NONODE);
    let (writer, _) = e.client(successor, 4000);
    e.run(300);
    e.cut.insert((successor.min(missing), successor.max(missing)));
    e.hand_over(leader, Some(successor)).unwrap();
    while e.status(missing).unwrap().serving {
        assert!(e.deliver(), "it hears of it");
    }
    e.cut_off(missing);
    e.until("the successor leads", |e| e.leader() == Some(successor));
    let agreed = e.status(successor).unwrap().last_zxid;
    for host in [leader, other] {
        e.hosts[host].lazy = true;
    }
    e.send(writer, 1, &create("/late", 0));
    let status = e.status(successor).unwrap();
    assert!(status.last_zxid == agreed && status.last_logged > agreed, "only one disk has it");
    for host in [leader, other] {
        e.crash(host);
    }
    e.until("the successor is alone", |e| e.status(successor).unwrap().role == Role::Looking);
    for host in [leader, other] {
        e.hosts[host].lazy = false;
        e.start(host);
    }
    e.until("it leads again", |e| e.status(successor).unwrap().role == Role::Leading);
    assert!(!e.is_closed(held), "who is held still waits for the epoch that was missed");
    e.heal();
    e.settle();
    assert!(e.is_closed(held));
    assert_eq!(e.seen(held), []);
    let (at, _) = e.client(missing, 4000);
    assert_eq!(e.ask(at, 1, &exists("/late")), OK, "it is part of the history of the later epoch");
}

/// A server that was about to join the next leader takes what is in its log for its state when that is lost, agreed or
/// not. Watches must not tell of it.
#[test]
fn clients_are_let_go_before_a_state_that_is_not_agreed() {
    let mut e = Ensemble::new(3, 14);
    acquainted(&mut e);
    let leader = e.leader().unwrap();
    let (successor, joins) = ((leader + 1) % 3, (leader + 2) % 3);
    let (held, _) = e.client(joins, 4000);
    e.run(300);
    e.hand_over(leader, Some(successor)).unwrap();
    while e.status(joins).unwrap().serving {
        assert!(e.deliver(), "it hears of it");
    }
    assert!(!e.is_closed(held));
    e.crash(successor);
    e.until("it gives the successor up", |e| e.status(joins).unwrap().role == Role::Looking);
    assert!(e.is_closed(held));
    assert_eq!(e.seen(held), []);
}

/// What was offered before the successor was lost is in doubt, so clients are let go as ever.
#[test]
fn a_successor_that_is_lost_costs_the_connections_and_nothing_else() {
    for seed in 0..30 {
        let mut e = Ensemble::new(3, seed);
        acquainted(&mut e);
        let mut clients = busy_clients(&mut e);
        e.run(300);
        let leader = e.leader().unwrap();
        let successor = (leader + 1) % 3;
        for client in &mut clients {
            client.ask(&mut e);
            client.ask(&mut e);
        }
        e.hand_over(leader, Some(successor)).unwrap();
        for _ in 0..e.rng.usize(..12) {
            e.deliver();
        }
        e.crash(successor);
        e.run(600);
        e.start(successor);
        e.settle();
        for client in &mut clients {
            client.hear(&mut e);
            let (at, taken) = e.reattach(leader, client.session, 4000);
            assert!(taken, "seed {seed}: no session is lost");
            assert_eq!(e.ask(at, 100, &sync()), OK);
        }
        let acknowledged = clients
            .iter()
            .flat_map(|client| &client.answered)
            .filter(|seen| matches!(seen, Seen::Reply(2, _, OK)));
        let (acknowledged, created) = (acknowledged.count(), clients.len());
        let found = children(&mut e, 0) - 5;
        assert!((acknowledged..=created).contains(&found), "seed {seed}: {acknowledged}, {found}, {created}");
        e.assert_level();
    }
}

fn always_snapshots(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.force_snapshot = true;
}

/// Watches are not true any more after a state that came whole.
#[test]
fn clients_of_a_server_that_takes_the_whole_state_are_let_go() {
    let mut e = Ensemble::with(3, 0, 8, always_snapshots);
    acquainted(&mut e);
    let clients: Vec<At> = (0..3).map(|host| e.client(host, 4000).0).collect();
    e.run(300);
    let leader = e.leader().unwrap();
    let successor = usize::try_from(e.hand_over(leader, None).unwrap().0).unwrap() - 1;
    e.until("another leads", |e| e.leader() == Some(successor));
    e.settle();
    for (host, at) in clients.iter().enumerate() {
        assert_eq!(e.is_closed(*at), host != successor, "{host}");
    }
}

#[test]
fn a_client_that_has_moved_is_not_held_on_its_old_connection() {
    let mut e = Ensemble::new(3, 9);
    acquainted(&mut e);
    let leader = e.leader().unwrap();
    let (from, to) = ((leader + 1) % 3, (leader + 2) % 3);
    let (old, session) = e.client(from, 4000);
    let (new, taken) = e.reattach(to, session, 4000);
    assert!(taken);
    e.until("its old connection is closed", |e| e.is_closed(old));
    let (at_leader, taken) = e.reattach(leader, session, 4000);
    assert!(taken);
    e.until("its old connection is closed", |e| e.is_closed(new));
    let (new, taken) = e.reattach(to, session, 4000);
    assert!(taken && e.is_closed(at_leader));
    // Moved again after a change of leaders in which it was held: the new leader has learned where it is.
    acquainted(&mut e);
    e.hand_over(leader, Some(from)).unwrap();
    e.until("it leads", |e| e.leader() == Some(from));
    acquainted(&mut e);
    assert!(!e.is_closed(new));
    let (newest, taken) = e.reattach(leader, session, 4000);
    assert!(taken);
    e.until("its old connection is closed", |e| e.is_closed(new));
    let (again, taken) = e.reattach(leader, session, 4000);
    assert!(taken && e.is_closed(newest) && !e.is_closed(again));
    e.run(300);
    assert_eq!(e.ask(again, 1, &create("/a", 0)), OK);
}

#[test]
fn local_sessions_are_held_too() {
    let mut e = Ensemble::with(3, 0, 10, |_, ensemble| ensemble.local_sessions = true);
    acquainted(&mut e);
    let clients: Vec<At> = (0..3).map(|host| e.client(host, 500).0).collect();
    let leader = e.leader().unwrap();
    e.hand_over(leader, None).unwrap();
    e.until("another leads", |e| e.leader().is_some_and(|now| now != leader));
    e.settle();
    for (host, at) in clients.iter().enumerate() {
        assert_eq!(e.ask(*at, 1, &create(&format!("/n{host}"), 0)), OK);
    }
    e.run(1200);
    assert!(clients.iter().all(|at| e.is_closed(*at)), "and expire as ever");
}

fn scarce(e: &mut Ensemble, host: usize, disk: bool) {
    e.step(host, Input::Scarce(Scarcity { disk, ..Scarcity::default() }));
}

#[test]
fn a_leader_short_of_disk_space_hands_over_and_does_not_come_back() {
    let mut e = Ensemble::new(3, 11);
    acquainted(&mut e);
    let first = e.leader().unwrap();
    let clients: Vec<At> = (0..3).map(|host| e.client(host, 30_000).0).collect();
    e.run(300);
    scarce(&mut e, first, true);
    e.until("another leads", |e| e.leader().is_some_and(|now| now != first));
    e.settle();
    assert_eq!(e.ask(clients[first], 1, &create("/a", 0)), OK, "its leader has room");
    let second = e.leader().unwrap();
    e.run(1000);
    assert_eq!(e.leader(), Some(second));
    // The last one with room.
    scarce(&mut e, second, true);
    let third = 3 - first - second;
    e.until("another leads", |e| e.leader().is_some_and(|now| now != second));
    acquainted(&mut e);
    if e.leader() == Some(first) {
        // Handed over in spite of its state, it stays.
        e.run(1000);
        assert_eq!(e.leader(), Some(first));
        e.hand_over(first, Some(third)).unwrap();
        e.until("the one with room leads", |e| e.leader() == Some(third));
    }
    acquainted(&mut e);
    scarce(&mut e, third, true);
    e.run(2000);
    e.settle();
    let last = e.leader().unwrap();
    e.run(2000);
    assert_eq!(e.leader(), Some(last), "leadership does not go round");
    assert_eq!(e.ask(clients[last], 2, &create("/b", 0)), ErrorCode::NOTREADONLY, "growth is refused");
    scarce(&mut e, last, false);
    assert_eq!(e.ask(clients[last], 3, &create("/b", 0)), OK);
    assert!(clients.iter().all(|at| !e.is_closed(*at)), "and all that on the same connections");
}

#[test]
fn a_leader_short_of_disk_space_refuses_growth_until_somebody_can_take_over() {
    let mut e = Ensemble::new(3, 12);
    acquainted(&mut e);
    let leader = e.leader().unwrap();
    let (at, _) = e.client(leader, 4000);
    let joins = (leader + 1) % 3;
    e.crash(joins);
    e.run(50);
    e.start(joins);
    e.until("it joins", |e| e.status(joins).unwrap().serving);
    // It has not been heard of since.
    scarce(&mut e, leader, true);
    e.send(at, 1, &create("/a", 0));
    assert!(matches!(e.seen(at)[..], [Seen::Reply(1, _, ErrorCode::NOTREADONLY)]));
    assert_eq!(e.leader(), Some(leader));
    e.until("another leads", |e| e.leader().is_some_and(|now| now != leader));
    e.settle();
    assert_eq!(e.ask(at, 2, &create("/a", 0)), OK);
}
