//! Three nodes and what is between them: they elect, replicate, and survive crashes.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]
// Whoever looks for a seed may say how many, or which.
#![allow(clippy::disallowed_methods, reason = "the environment chooses seeds; the nodes do not see it")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use ensemble::asks::{OK, create, exists};
use ensemble::{Ensemble, Seen};
use oxkeeper_node::{DigestAlgorithm, DigestPolicy, EnsembleSettings, Settings, digest_id};
use oxkeeper_proto::{
    AclList, Create, ErrorCode, OpCode, PeerPacket, Reconfig, Request, SessionId, Txn, TxnDigest, TxnHeader,
    TxnRecord, Xid,
};

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

#[test]
fn the_ensemble_survives_its_leader() {
    let mut e = Ensemble::new(3, 3);
    e.settle();
    let (at, session) = e.client(0, 4000);
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    assert_eq!(e.ask(at, 2, &create("/e", 1)), OK);
    e.crash(2);
    e.until("the follower lets its client go", |e| e.is_closed(at));
    e.settle();
    assert_eq!(e.leader(), Some(1));
    let (at, taken) = e.reattach(0, session, 4000);
    assert!(taken, "a session outlives a leader");
    assert_eq!(e.ask(at, 3, &exists("/e")), OK);
    assert_eq!(e.ask(at, 4, &create("/b", 0)), OK);
    e.start(2);
    e.settle();
    e.assert_level();
    let (at, _) = e.client(2, 4000);
    assert_eq!(e.ask(at, 1, &exists("/b")), OK);
}

#[test]
fn a_learner_that_lacks_very_much_gets_a_snapshot_and_one_that_lacks_less_the_log() {
    for (writes, keeps_log) in [(700, true), (700, false), (30, true)] {
        let mut e = Ensemble::new(3, 4);
        e.settle();
        let (at, _) = e.client(1, 4000);
        assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
        e.crash(0);
        for n in 0..writes {
            e.send(at, 2 + n, &create("/a/s-", 2));
        }
        e.run(300);
        let leader = e.leader().unwrap();
        if !keeps_log {
            // As after a snapshot and a purge.
            e.step(leader, oxkeeper_node::Input::TakeSnapshot);
            e.hosts[leader].disk.log.clear();
        }
        e.start(0);
        e.settle();
        e.assert_level();
        assert_eq!(e.hosts[0].disk.snapshot.is_some(), !keeps_log, "{writes} {keeps_log}");
        e.crash(0);
        e.start(0);
        e.settle();
        e.assert_level();
    }
}

#[test]
fn a_private_end_of_an_old_leader_is_cut_off() {
    let mut e = Ensemble::new(3, 5);
    e.settle();
    let (at, _) = e.client(2, 4000);
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    e.cut_off(2);
    e.send(at, 2, &create("/private", 0));
    e.until("the others find a leader", |e| e.leader() == Some(1));
    let (other, _) = e.client(0, 4000);
    e.heal();
    e.settle();
    assert_eq!(e.ask(other, 1, &exists("/private")), ErrorCode::NONODE);
    assert_eq!(e.ask(other, 2, &create("/b", 0)), OK);
    e.assert_level();
    e.crash(2);
    e.start(2);
    e.settle();
    e.assert_level();
}

fn holds_little(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.force_snapshot = true;
    ensemble.held_bytes_max = 2000;
}

#[test]
fn a_learner_that_takes_its_snapshot_too_slowly_is_let_go_and_comes_again() {
    let mut e = Ensemble::with(3, 0, 7, holds_little);
    e.settle();
    let (at, _) = e.client(2, 4000);
    // More than one slice of a snapshot.
    let data = vec![7; 300_000];
    for (xid, path) in [(1, "/a"), (2, "/b")] {
        let (op, acl) = (OpCode::Create, Some(AclList::OPEN));
        let create = Create { op, path: path.into(), data: Some(&data), acl, flags: 0, ttl: -1 };
        assert_eq!(e.ask(at, xid, &Request::Create(create)), OK);
    }
    e.crash(0);
    e.start(0);
    for _ in 0..100_000 {
        if e.is_streaming_to(0) {
            break;
        }
        if !e.deliver() {
            e.now_ms += 1;
            e.tick();
        }
    }
    assert!(e.is_streaming_to(0));
    let link = e.link_to_leader(0);
    for n in 0..100 {
        e.send(at, 10 + n, &create("/n-", 2));
    }
    e.run(500);
    assert_ne!(e.link_to_leader(0), link, "it came over another link");
    e.settle();
    e.assert_level();
}

fn resyncs(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.digest_policy = DigestPolicy::Resync;
}

fn alarms(_: &mut Settings, ensemble: &mut EnsembleSettings) {
    ensemble.digest_policy = DigestPolicy::Alarm;
}

/// Has a follower log and apply what its leader never proposed, under a digest that fits nothing.
fn lead_astray(e: &mut Ensemble) {
    let (at, session) = e.client(2, 4000);
    assert_eq!(e.ask(at, 1, &create("/a", 0)), OK);
    e.run(50);
    let zxid = e.status(0).unwrap().last_logged.next().unwrap();
    let header = TxnHeader { session, cxid: Xid(0), zxid, time: 1, op: OpCode::SetData };
    let txn = Txn::SetData { op: OpCode::SetData, path: "/a".into(), data: Some(b"astray"), version: 1 };
    let digest = Some(TxnDigest { version: TxnDigest::VERSION, digest: 1 });
    let mut bytes = Vec::new();
    TxnRecord { header, txn, digest }.encode(&mut bytes);
    e.forge_from_leader(0, PeerPacket::Proposal { zxid, txn: bytes.into() });
    e.forge_from_leader(0, PeerPacket::Commit { zxid });
}

#[test]
fn a_state_that_differs_is_replaced_by_the_leaders() {
    let mut e = Ensemble::with(3, 0, 6, resyncs);
    e.settle();
    lead_astray(&mut e);
    assert_eq!(e.status(0).unwrap().digest_mismatches, 1);
    e.run(200);
    e.settle();
    assert!(e.hosts[0].disk.snapshot.is_some(), "it took the whole state");
    let (at, _) = e.client(0, 4000);
    assert_eq!(e.ask(at, 1, &create("/b", 0)), OK);
    e.assert_level();
}

#[test]
fn an_alarm_is_no_more_than_that() {
    let mut e = Ensemble::with(3, 0, 6, alarms);
    e.settle();
    lead_astray(&mut e);
    let status = e.status(0).unwrap();
    assert_eq!((status.digest_mismatches, status.serving), (1, true));
}

#[test]
#[should_panic(expected = "does not fit the tree")]
fn where_nothing_else_is_said_a_state_that_differs_stops_the_server() {
    let mut e = Ensemble::new(3, 6);
    e.settle();
    lead_astray(&mut e);
}

/// Crashes, cuts, slow disks, at random; in the end everybody agrees, on everything that was acknowledged.
#[test]
fn whatever_happens_acknowledged_writes_survive() {
    if let Some(seed) = std::env::var("OXKEEPER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return storm(seed, false);
    }
    for seed in 0..seeds() {
        storm(seed, false);
    }
}

/// The same while members change their roles.
#[test]
fn whatever_happens_to_the_membership_acknowledged_writes_survive() {
    if let Some(seed) = std::env::var("OXKEEPER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return storm(seed, true);
    }
    for seed in 0..seeds() {
        storm(seed, true);
    }
}

fn usual(settings: &mut Settings, _: &mut EnsembleSettings) {
    settings.super_digest = Some(digest_id(b"super:secret", DigestAlgorithm::Sha1));
}

fn force_snapshots(settings: &mut Settings, ensemble: &mut EnsembleSettings) {
    usual(settings, ensemble);
    ensemble.force_snapshot = true;
}

fn seeds() -> u64 {
    std::env::var("OXKEEPER_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40)
}

fn storm(seed: u64, reconfigures: bool) {
    println!("seed {seed}");
    let (voters, observers) =
        if reconfigures { (3, 2) } else { [(3, 0), (3, 1), (5, 0)][(seed % 3) as usize] };
    // Half of them send snapshots only.
    let change = if seed.is_multiple_of(2) { usual } else { force_snapshots };
    let mut e = Ensemble::with(voters, observers, seed, change);
    let all = voters + observers;
    for host in 0..all {
        e.hosts[host].lazy = e.rng.u8(..3) == 0;
    }
    let mut clients: Vec<Option<(ensemble::At, i32)>> = vec![None; all];
    let (mut written, mut acknowledged) = (0, Vec::new());
    for _ in 0..3000 {
        match e.rng.u32(..1000) {
            0..=3 => {
                let host = e.rng.usize(..all);
                if e.is_up(host) {
                    e.crash(host);
                }
            }
            4..=11 => {
                let host = e.rng.usize(..all);
                if !e.is_up(host) {
                    e.start(host);
                }
            }
            12..=14 => {
                let host = e.rng.usize(..all);
                e.cut_off(host);
            }
            15..=18 => e.heal(),
            19..=20 => {
                let host = e.rng.usize(..all);
                e.step(host, oxkeeper_node::Input::TakeSnapshot);
            }
            21..=120 => {
                let host = e.rng.usize(..all);
                if !e.is_up(host) {
                    continue;
                }
                let Some((at, xid)) = clients[host].filter(|(at, _)| !e.is_closed(*at)) else {
                    let at = e.connect(host, SessionId::NONE, 4000);
                    e.send(
                        at,
                        -4,
                        &Request::Auth { scheme: Some("digest".into()), auth: Some(b"super:secret") },
                    );
                    clients[host] = Some((at, 0));
                    continue;
                };
                written += 1;
                if reconfigures && e.rng.u8(..5) == 0 {
                    let id = e.rng.usize(1..=all);
                    let role = if e.rng.u8(..3) == 0 { "observer" } else { "participant" };
                    let joining = format!("server.{id}=h{id}:2888:3888:{role};h{id}:2181");
                    let (joining, leaving, new_members) = (Some(joining.into()), None, None);
                    let change = Reconfig { joining, leaving, new_members, from_config: -1 };
                    e.send(at, written * 2 + 1, &Request::Reconfig(change));
                    continue;
                }
                let flags = i32::from(e.rng.u8(..4) == 0);
                e.send(at, written * 2 + flags, &create(&format!("/n{written}"), flags));
                clients[host] = Some((at, xid + 1));
            }
            121..=300 => {
                let host = e.rng.usize(..all);
                e.work(host);
            }
            301..=400 => {
                e.now_ms += 5;
                e.tick();
            }
            _ => {
                e.deliver();
            }
        }
        for (at, _) in clients.iter().flatten() {
            acknowledged.extend(acks(&e.take_bytes(*at)));
        }
    }
    e.heal();
    for host in 0..all {
        e.hosts[host].lazy = false;
        while e.work(host) {}
        if !e.is_up(host) {
            e.start(host);
        }
    }
    // Links that broke in the dark are noticed now.
    e.run(1000);
    e.settle();
    e.assert_level();
    let (at, _) = e.client(0, 4000);
    // Those of odd number were ephemerals.
    let persistent = acknowledged.into_iter().filter(|xid| *xid > 0 && xid % 2 == 0).map(|xid| xid / 2);
    for (n, written) in persistent.enumerate() {
        assert_eq!(e.ask(at, n as i32 + 1, &exists(&format!("/n{written}"))), OK, "seed {seed}");
    }
}

/// The writes that these replies acknowledge. The first frame of a connection answers its handshake.
fn acks(bytes: &[u8]) -> Vec<i32> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some((len, more)) = rest.split_first_chunk::<4>() {
        let (frame, more) = more.split_at(u32::from_be_bytes(*len) as usize);
        rest = more;
        let is_handshake = frame.len() == 37 && frame[..4] == [0; 4];
        if !is_handshake && frame[12..16] == [0; 4] {
            all.push(i32::from_be_bytes(frame[..4].try_into().unwrap()));
        }
    }
    all
}
