//! Changing who belongs to the ensemble while it serves.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and its parts see each other")]

#[path = "support/ensemble.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ensemble;

use std::sync::Arc;

use ensemble::{At, Ensemble};
use oxkeeper_node::{DigestAlgorithm, EnsembleSettings, Role, Settings, digest_id};
use oxkeeper_proto::{AclList, Create, EnsembleConfig, ErrorCode, OpCode, Reconfig, Request, ServerId, Zxid};

const OK: ErrorCode = ErrorCode::OK;

fn with_super(settings: &mut Settings, _: &mut EnsembleSettings) {
    settings.super_digest = Some(digest_id(b"super:secret", DigestAlgorithm::Sha1));
}

fn create(path: &str) -> Request<'_> {
    let acl = Some(AclList::OPEN);
    Request::Create(Create { op: OpCode::Create, path: path.into(), data: None, acl, flags: 0, ttl: -1 })
}

fn reconfig<'a>(joining: Option<&'a str>, leaving: Option<&'a str>, from_config: i64) -> Request<'a> {
    let (joining, leaving) = (joining.map(Into::into), leaving.map(Into::into));
    Request::Reconfig(Reconfig { joining, leaving, new_members: None, from_config })
}

/// A client who may do everything.
#[track_caller]
fn administrator(e: &mut Ensemble, host: usize) -> At {
    let (at, _) = e.client(host, 4000);
    let auth = Request::Auth { scheme: Some("digest".into()), auth: Some(b"super:secret") };
    assert_eq!(e.ask(at, -4, &auth), OK);
    at
}

fn line(id: usize, role: &str) -> String {
    format!("server.{id}=h{id}:2888:3888:{role};h{id}:2181")
}

/// The members of an ensemble in their canonical text.
fn config(voters: &[usize], observers: &[usize]) -> Arc<EnsembleConfig> {
    let voters = voters.iter().map(|id| line(*id, "participant"));
    let text: Vec<String> = voters.chain(observers.iter().map(|id| line(*id, "observer"))).collect();
    Arc::new(EnsembleConfig::parse(&text.join("\n")).unwrap())
}

fn versions(e: &Ensemble) -> Vec<Zxid> {
    e.hosts
        .iter()
        .map(|host| host.disk.committed.as_ref().map_or(Zxid(-1), |config| config.version))
        .collect()
}

#[test]
fn the_first_configuration_gets_the_first_epoch_as_its_version() {
    let mut e = Ensemble::with(3, 1, 1, with_super);
    e.settle();
    assert_eq!(versions(&e), [Zxid::new(1, 0); 4]);
    assert!(e.hosts.iter().all(|host| host.disk.seen.is_none()), "nothing is on its way");
    e.assert_level();
}

#[test]
fn a_server_joins_as_learner_and_then_votes() {
    let mut e = Ensemble::with(3, 0, 2, with_super);
    e.settle();
    let new = e.add_host();
    e.start_with(new, config(&[1, 2, 3], &[4]));
    e.until("the new server follows", |e| e.status(new).is_some_and(|status| status.serving));
    let at = administrator(&mut e, 0);
    assert_eq!(e.ask(at, 1, &reconfig(Some(&line(4, "participant")), None, -1)), OK);
    e.run(200);
    let version = versions(&e)[0];
    assert!(version > Zxid::new(1, 0));
    assert_eq!(versions(&e), [version; 4], "everybody has it on disk");
    assert_eq!(e.leader(), Some(2), "the leader stays");
    assert_eq!(e.ask(at, 2, &create("/a")), OK);
    e.assert_level();
    // Two of four are no quorum.
    e.crash(1);
    e.settle();
    e.crash(2);
    e.run(3000);
    assert_eq!(e.leader(), None, "{}", e.describe());
    e.start(1);
    e.settle();
    e.start(2);
    e.settle();
    e.assert_level();
}

#[test]
fn a_leader_that_leaves_hands_over() {
    let mut e = Ensemble::with(3, 0, 3, with_super);
    e.settle();
    assert_eq!(e.leader(), Some(2));
    let at = administrator(&mut e, 0);
    assert_eq!(e.ask(at, 1, &create("/a")), OK);
    e.send(at, 2, &reconfig(None, Some("3"), -1));
    e.until("another leads", |e| e.leader().is_some_and(|leader| leader != 2));
    e.until("the old leader follows", |e| {
        e.status(2).is_some_and(|status| status.serving && status.role == Role::Following)
    });
    let at = administrator(&mut e, 1);
    assert_eq!(e.ask(at, 1, &create("/b")), OK);
    e.assert_level();
    // What is left are two voters; the third does not count.
    e.crash(2);
    assert_eq!(e.ask(at, 2, &create("/c")), OK);
}

#[test]
fn observers_become_voters_and_voters_observers() {
    let mut e = Ensemble::with(3, 1, 4, with_super);
    e.settle();
    let at = administrator(&mut e, 2);
    assert_eq!(e.ask(at, 1, &reconfig(Some(&line(4, "participant")), None, -1)), OK);
    e.until("the observer follows", |e| {
        e.status(3).is_some_and(|status| status.serving && status.role == Role::Following)
    });
    assert_eq!(e.ask(at, 2, &reconfig(Some(&line(1, "observer")), None, -1)), OK);
    e.until("the follower observes", |e| {
        e.status(0).is_some_and(|status| status.serving && status.role == Role::Observing)
    });
    assert_eq!(e.ask(at, 3, &create("/a")), OK);
    e.settle();
    e.assert_level();
}

#[test]
fn every_reason_to_refuse_has_its_code() {
    let mut e = Ensemble::with(3, 0, 5, with_super);
    e.settle();
    let (nobody, _) = e.client(0, 4000);
    let observer = line(4, "observer");
    assert_eq!(e.ask(nobody, 1, &reconfig(Some(&observer), None, -1)), ErrorCode::NOAUTH);
    let at = administrator(&mut e, 1);
    let mut xid = 0;
    let mut ask = |e: &mut Ensemble, request: &Request<'_>| {
        xid += 1;
        e.ask(at, xid, request)
    };
    assert_eq!(ask(&mut e, &reconfig(Some(&observer), None, 77)), ErrorCode::BADVERSION);
    assert_eq!(
        ask(&mut e, &reconfig(Some("server.4=h4:1:2"), None, -1)),
        ErrorCode::BADARGUMENTS,
        "no client"
    );
    assert_eq!(ask(&mut e, &reconfig(Some("nonsense"), None, -1)), ErrorCode::BADARGUMENTS);
    let clash = "server.4=h1:2888:4000:observer;h9:2181";
    assert_eq!(ask(&mut e, &reconfig(Some(clash), None, -1)), ErrorCode::BADARGUMENTS, "an address twice");
    assert_eq!(ask(&mut e, &reconfig(None, Some("x"), -1)), ErrorCode::MARSHALLINGERROR);
    assert_eq!(ask(&mut e, &reconfig(None, Some("1,2"), -1)), ErrorCode::BADARGUMENTS, "one voter is left");
    let strangers = format!("{},{}", line(7, "participant"), line(8, "participant"));
    assert_eq!(ask(&mut e, &reconfig(Some(&strangers), Some("1,2"), -1)), ErrorCode::NEWCONFIGNOQUORUM);
    let whole = Request::Reconfig(Reconfig {
        joining: None,
        leaving: None,
        new_members: Some("rubbish".into()),
        from_config: -1,
    });
    assert_eq!(ask(&mut e, &whole), ErrorCode::BADARGUMENTS);
    assert_eq!(ask(&mut e, &reconfig(Some(&observer), None, Zxid::new(1, 0).0)), OK);
    let all = [line(1, "participant"), line(2, "participant"), line(3, "participant")].join(",");
    let whole = Request::Reconfig(Reconfig {
        joining: None,
        leaving: None,
        new_members: Some(all.into()),
        from_config: -1,
    });
    assert_eq!(ask(&mut e, &whole), OK);
    e.run(200);
    assert_eq!(e.hosts[0].disk.committed.as_ref().unwrap().member(ServerId(4)), None);
    e.assert_level();
}

#[test]
fn nothing_is_agreed_without_the_new_voters_while_a_reconfiguration_is_on_its_way() {
    let mut e = Ensemble::with(3, 2, 6, with_super);
    e.settle();
    let at = administrator(&mut e, 2);
    assert_eq!(e.ask(at, 1, &create("/a")), OK);
    // Of five voters three must agree; the disks of the observers that are to vote do nothing, nor does that of one of
    // the old three.
    let both = format!("{},{}", line(4, "participant"), line(5, "participant"));
    for host in [0, 3, 4] {
        e.hosts[host].lazy = true;
    }
    e.send(at, 2, &reconfig(Some(&both), None, -1));
    e.send(at, 3, &create("/b"));
    e.run(50);
    assert_eq!(e.seen(at), [], "two of five have it");
    for host in [0, 3, 4] {
        e.hosts[host].lazy = false;
        while e.work(host) {}
    }
    e.run(50);
    assert_eq!(e.seen(at).len(), 2);
    e.settle();
    e.assert_level();
}

/// Two of three voters are to be an observer and one that has followed; that one is lost when it has been offered. Only
/// the observer can be the second of the new voters, and nothing would ever be agreed if it were not asked.
#[test]
fn an_observer_that_is_to_vote_is_asked_while_a_reconfiguration_is_on_its_way() {
    let mut e = Ensemble::with(3, 1, 8, with_super);
    e.settle();
    assert_eq!(e.leader(), Some(2));
    let new = e.add_host();
    e.start_with(new, config(&[1, 2, 3, 5], &[4]));
    e.until("the new server follows", |e| e.status(new).is_some_and(|status| status.serving));
    let at = administrator(&mut e, 2);
    let lines = [line(4, "participant"), line(5, "participant")].join(",");
    (e.hosts[3].lazy, e.hosts[new].lazy) = (true, true);
    e.send(at, 2, &reconfig(Some(&lines), Some("1,2"), -1));
    e.run(5);
    assert_eq!(e.seen(at), []);
    e.crash(new);
    e.hosts[new].lazy = false;
    e.hosts[3].lazy = false;
    while e.work(3) {}
    e.until("the observer follows", |e| {
        e.status(3).is_some_and(|status| status.serving && status.role == Role::Following)
    });
    e.run(50);
    assert_eq!(e.seen(at).len(), 1, "it is agreed");
    assert_eq!(e.ask(at, 3, &create("/a")), OK);
    e.start(new);
    e.settle();
    e.assert_level();
}

/// What was offered behind a reconfiguration needs no old voters any more once that is agreed: they may be gone.
#[test]
fn what_was_offered_behind_a_reconfiguration_is_agreed_without_the_voters_that_it_removed() {
    let mut e = Ensemble::with(3, 0, 7, with_super);
    e.settle();
    for id in [4, 5] {
        let new = e.add_host();
        e.start_with(new, config(&[1, 2, 3, id], &[]));
        e.until("the new server follows", |e| e.status(new).is_some_and(|status| status.serving));
    }
    assert_eq!(e.leader(), Some(2));
    let at = administrator(&mut e, 2);
    let new: Vec<String> = [3, 4, 5].into_iter().map(|id| line(id, "participant")).collect();
    let new = new.into_iter().chain([1, 2].into_iter().map(|id| line(id, "observer")));
    let whole = Request::Reconfig(Reconfig {
        joining: None,
        leaving: None,
        new_members: Some(new.collect::<Vec<String>>().join(",").into()),
        from_config: -1,
    });
    (e.hosts[0].lazy, e.hosts[1].lazy) = (true, true);
    e.send(at, 1, &whole);
    e.send(at, 2, &create("/a"));
    e.run(50);
    assert_eq!(e.seen(at), [], "no old quorum has it");
    // One of them has the configuration and the reconfiguration on its disk, and not what stands behind.
    assert!(e.work(0) && e.work(0));
    e.run(50);
    (e.hosts[0].lazy, e.hosts[1].lazy) = (false, false);
    while e.work(0) || e.work(1) {}
    e.until("those who were removed observe", |e| {
        e.status(0).is_some_and(|status| status.serving && status.role == Role::Observing)
    });
    assert_eq!(e.seen(at).len(), 2);
    e.settle();
    e.assert_level();
}
