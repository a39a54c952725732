//! Requests through prepare and apply, and what is left behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use oxkeeper_proto::{
    Acl, AclList, Create, ErrorCode, OpCode, Request, SessionId, Txn, TxnDigest, TxnHeader, TxnRecord, Xid,
    Zxid,
};
use oxkeeper_tree::{Asker, Changes, Identity, LoadError, Loader, Pending, Rules, Stamp, Tree};

struct World {
    tree: Tree,
    pending: Pending,
    zxid: i64,
    waiting: Vec<Vec<u8>>,
    log: Vec<Vec<u8>>,
}

impl World {
    fn new() -> World {
        let rules = Rules {
            owners: oxkeeper_tree::OwnerRules { extended_types: true, emulate_353: false },
            ..Rules::DEFAULT
        };
        let tree = Tree::new(7, rules);
        let pending = Pending::new(9, &tree);
        let mut world = World { tree, pending, zxid: 0, waiting: Vec::new(), log: Vec::new() };
        world.propose(1, &Request::CreateSession { timeout_ms: 1000 });
        world.settle();
        world
    }

    fn propose(&mut self, session: i64, request: &Request<'_>) -> Option<ErrorCode> {
        self.zxid += 1;
        let asker = Asker { session: SessionId(session), identities: &[], standing: Ok(()) };
        let stamp = Stamp { zxid: Zxid(self.zxid), time_ms: 1000 + self.zxid };
        let (txn, error) = match self.pending.prepare(&self.tree, asker, stamp, request) {
            Ok(txn) => (txn, None),
            Err(code) => (Txn::Error { code }, Some(code)),
        };
        let digest =
            error.is_none().then(|| TxnDigest { version: TxnDigest::VERSION, digest: self.pending.digest() });
        let header = TxnHeader {
            session: SessionId(session),
            cxid: Xid(1),
            zxid: stamp.zxid,
            time: stamp.time_ms,
            op: txn.op(),
        };
        let mut out = Vec::new();
        TxnRecord { header, txn, digest }.encode(&mut out);
        self.waiting.push(out);
        error
    }

    /// Applies all that waits; every digest is checked on the way.
    fn settle(&mut self) {
        for payload in std::mem::take(&mut self.waiting) {
            let record = TxnRecord::decode(&payload).unwrap();
            self.tree.apply(&record, &mut Changes::default()).unwrap();
            self.pending.applied(record.header.zxid);
            self.log.push(payload);
        }
        assert!(self.pending.is_empty());
        assert_eq!(self.pending.digest(), self.tree.digest());
    }

    fn create(&mut self, path: &str, flags: i32) -> Option<ErrorCode> {
        self.propose(1, &create(path, flags))
    }
}

fn create(path: &str, flags: i32) -> Request<'_> {
    let (op, ttl) = match flags {
        4 => (OpCode::CreateContainer, -1),
        5 | 6 => (OpCode::CreateTtl, 500),
        _ => (OpCode::Create2, -1),
    };
    Request::Create(Create { op, path: path.into(), data: Some(b"x"), acl: Some(AclList::OPEN), flags, ttl })
}

/// Everything a snapshot holds, as comparable text.
fn dump(tree: &mut Tree) -> Vec<u8> {
    tree.begin_snapshot().unwrap();
    let mut all = Vec::new();
    while let Some(slice) = tree.next_slice(100) {
        all.extend(slice.bytes);
        if slice.last {
            break;
        }
    }
    all
}

fn load(snapshot: &[u8], zxid: Zxid, rules: Rules) -> Tree {
    use oxkeeper_proto::Reader;
    let mut r = Reader::new(snapshot);
    let mut loader = Loader::new(3, rules);
    for _ in 0..r.count(12).unwrap().unwrap() {
        let id = SessionId(r.long().unwrap());
        loader.session(id, r.int().unwrap());
    }
    for _ in 0..r.count(12).unwrap().unwrap() {
        let id = r.long().unwrap();
        let at = r.offset();
        AclList::decode(&mut r).unwrap();
        loader.acl(id, r.since(at)).unwrap();
    }
    loop {
        let path = r.string().unwrap();
        if path == "/" {
            assert_eq!(r.remaining(), 0);
            return loader.finish(zxid);
        }
        let data = r.buffer().unwrap();
        let acl = r.long().unwrap();
        loader.node(&path, data, acl, r.take(60).unwrap()).unwrap();
    }
}

#[test]
fn pipelined_requests_see_each_other() {
    let mut w = World::new();
    assert_eq!(w.create("/a", 0), None);
    assert_eq!(w.create("/a", 0), Some(ErrorCode::NODEEXISTS));
    assert_eq!(w.create("/a/b", 1), None);
    assert_eq!(w.create("/a/b/c", 0), Some(ErrorCode::NOCHILDRENFOREPHEMERALS));
    assert_eq!(w.propose(1, &Request::Delete { path: "/a".into(), version: -1 }), Some(ErrorCode::NOTEMPTY));
    assert_eq!(w.propose(1, &Request::Delete { path: "/a/b".into(), version: 0 }), None);
    assert_eq!(w.propose(1, &Request::SetData { path: "/a".into(), data: None, version: 0 }), None);
    assert_eq!(
        w.propose(1, &Request::SetData { path: "/a".into(), data: None, version: 0 }),
        Some(ErrorCode::BADVERSION)
    );
    w.settle();
    let stat = w.tree.find("/a").unwrap().stat();
    assert_eq!((stat.version, stat.cversion, stat.num_children, stat.pzxid), (1, 2, 0, Zxid(7)));
    assert_eq!(w.tree.find("/a").unwrap().data(), None);
}

#[test]
fn failed_multi_leaves_no_trace() {
    let mut w = World::new();
    w.create("/a", 0);
    let multi = Request::Multi(vec![
        create("/a/s", 2),
        create("/a/s", 2),
        Request::Check { path: "/nope".into(), version: 0 },
        Request::Delete { path: "/a".into(), version: -1 },
    ]);
    let before = w.pending.digest();
    assert_eq!(w.propose(1, &multi), None);
    assert_eq!(w.pending.digest(), before);
    let payload = w.waiting.last().unwrap().clone();
    w.settle();
    let Txn::Multi(txns) = TxnRecord::decode(&payload).unwrap().txn else { panic!("no multi") };
    assert!(matches!(txns[2], Txn::Error { code: ErrorCode::NONODE }));
    assert!(matches!(txns[3], Txn::Error { code: ErrorCode::RUNTIMEINCONSISTENCY }));
    assert_eq!(w.tree.find("/a").unwrap().children_len(), 0);
    assert_eq!(w.create("/a/s", 2), None);
    w.settle();
    assert!(w.tree.find("/a/s0000000000").is_some());
}

#[test]
fn lists_of_one_multi_together_grow_no_more_than_one_may() {
    let mut w = World::new();
    let me: Vec<Identity> =
        (0..200).map(|n| Identity { scheme: "digest".into(), id: format!("user{n}:hash") }).collect();
    let mine = AclList::from_entries([Acl::new(31, "auth", "")].iter());
    let names: Vec<String> = (0..14_000).map(|n| format!("/z{n}")).collect();
    let made = |names: &[String]| {
        let part = |path: &String| {
            let (op, acl) = (OpCode::Create, Some(mine.borrowed().into_owned()));
            Request::Create(Create { op, path: path.clone().into(), data: None, acl, flags: 0, ttl: -1 })
        };
        Request::Multi(names.iter().map(part).collect())
    };
    let stamp = Stamp { zxid: Zxid(2), time_ms: 1000 };
    for (count, fails) in [(100, false), (14_000, true)] {
        let asker = Asker { session: SessionId(1), identities: &me, standing: Ok(()) };
        let request = made(&names[..count]);
        let txn = w.pending.prepare(&w.tree, asker, stamp, &request).unwrap();
        let Txn::Multi(parts) = &txn else { panic!("{txn:?}") };
        let refused = parts.contains(&Txn::Error { code: ErrorCode::INVALIDACL });
        assert_eq!((parts.len(), refused), (count, fails));
        w.pending.roll_back();
    }
}

#[test]
fn closing_takes_pending_ephemerals_along() {
    let mut w = World::new();
    w.create("/old", 1);
    w.create("/gone", 1);
    w.settle();
    w.create("/new", 1);
    w.propose(1, &Request::Delete { path: "/gone".into(), version: -1 });
    w.propose(1, &Request::CloseSession);
    let payload = w.waiting.last().unwrap().clone();
    let Txn::CloseSession { paths: Some(paths) } = TxnRecord::decode(&payload).unwrap().txn else {
        panic!("no paths")
    };
    assert_eq!(paths, ["/new", "/old"]);
    w.settle();
    assert_eq!((w.tree.len(), w.tree.ephemerals_len(), w.tree.sessions().count()), (4, 0, 0));
}

#[test]
fn snapshot_shows_the_state_at_which_it_began() {
    let mut w = World::new();
    for i in 0..50 {
        w.create(&format!("/n{i}"), if i % 7 == 0 { 1 } else { 0 });
        w.create(&format!("/n{i}/c"), 4);
    }
    w.settle();
    let still = dump(&mut w.tree);
    let (zxid, digest, rules) = (w.tree.last_zxid(), w.tree.digest(), *w.tree.rules());

    let start = w.tree.begin_snapshot().unwrap();
    assert_eq!((start.zxid, start.digest), (zxid, Some(digest)));
    let mut seen = Vec::new();
    let mut step = 0;
    loop {
        let slice = w.tree.next_slice(200).unwrap();
        seen.extend(slice.bytes);
        if slice.last {
            break;
        }
        step += 1;
        w.propose(1, &Request::Delete { path: format!("/n{}/c", 49 - step).into(), version: -1 });
        w.propose(1, &Request::Delete { path: format!("/n{}", 49 - step).into(), version: -1 });
        w.create(&format!("/later{step}"), 0);
        w.propose(
            1,
            &Request::SetData { path: format!("/n{step}").into(), data: Some(b"changed"), version: -1 },
        );
        w.settle();
    }
    assert!(step > 5, "the snapshot took only {step} steps");
    let loaded = load(&seen, zxid, rules);
    assert_eq!(loaded.digest(), digest);
    assert_eq!(loaded.len(), load(&still, zxid, rules).len());
}

#[test]
fn lists_in_a_snapshot_are_those_of_the_moment_at_which_it_began() {
    let lists: Vec<AclList<'static>> = (0..8)
        .map(|n| {
            AclList::from_entries([Acl::new(31, "ip", "::1"), Acl::new(16 | n, "world", "anyone")].iter())
        })
        .collect();
    let mut w = World::new();
    let set = |w: &mut World, node: usize, list: usize| {
        let acl = Some(lists[list].clone());
        let refused = w.propose(1, &Request::SetAcl { path: format!("/n{node}").into(), acl, version: -1 });
        assert_eq!(refused, None);
    };
    for node in 0..40 {
        w.create(&format!("/n{node}"), 0);
        set(&mut w, node, node % 4);
    }
    w.settle();
    let (zxid, rules) = (w.tree.last_zxid(), *w.tree.rules());
    w.tree.begin_snapshot().unwrap();
    let mut seen = Vec::new();
    for step in 0.. {
        let slice = w.tree.next_slice(300).unwrap();
        seen.extend(slice.bytes);
        if slice.last {
            assert!(step > 5, "the snapshot took only {step} steps");
            break;
        }
        // Lists that nobody has any more go, and others come.
        for node in (0..40).filter(|node| node % 9 == step % 9) {
            set(&mut w, node, 4 + step % 4);
        }
        w.settle();
    }
    let loaded = load(&seen, zxid, rules);
    for node in 0..40 {
        let found = loaded.find(&format!("/n{node}")).unwrap();
        assert_eq!(found.acl(), Some(&lists[node % 4]), "/n{node}");
        assert_eq!(found.stat().aversion, 1);
    }
}

#[test]
fn replay_over_any_state_in_the_window_converges() {
    let mut w = World::new();
    for i in 0..6 {
        w.create(&format!("/p{i}"), 0);
        w.create(&format!("/p{i}/s-"), 3);
        w.create(&format!("/p{i}/t"), 5);
        w.propose(1, &Request::SetData { path: format!("/p{i}").into(), data: Some(b"new"), version: -1 });
        w.propose(1, &Request::Delete { path: format!("/p{i}/t").into(), version: -1 });
        w.propose(
            1,
            &Request::SetAcl { path: format!("/p{i}").into(), acl: Some(AclList::READ_ONLY), version: 0 },
        );
        w.settle();
    }
    w.propose(1, &Request::CloseSession);
    w.settle();
    let rules = *w.tree.rules();
    for from in 0..w.log.len() {
        for to in from..w.log.len() {
            // A snapshot that claims to be at `from` but holds everything up to `to`.
            let mut tree = Tree::new(1, rules);
            for payload in &w.log[..to] {
                tree.apply(&TxnRecord::decode(payload).unwrap(), &mut Changes::default()).unwrap();
            }
            tree.set_last_zxid(Zxid(from as i64));
            for payload in &w.log[from..] {
                tree.replay(&TxnRecord::decode(payload).unwrap());
            }
            assert_eq!(tree.digest(), w.tree.digest(), "from {from} to {to}");
            assert_eq!(tree.len(), w.tree.len());
        }
    }
}

#[test]
fn what_does_not_fit_is_divergence() {
    let mut w = World::new();
    w.create("/a", 0);
    w.settle();
    let payload = w.log.last().unwrap().clone();
    let mut record = TxnRecord::decode(&payload).unwrap();
    assert!(w.tree.apply(&record, &mut Changes::default()).is_err(), "applied twice");
    record.header.zxid = Zxid(99);
    let error = w.tree.apply(&record, &mut Changes::default()).unwrap_err();
    assert!(error.to_string().contains("NODEEXISTS"), "{error}");
    assert_eq!(w.tree.replay(&record), Some(true), "replay finds the znode there already");
}

#[test]
fn quotas_count_without_transactions_and_refuse_when_enforced() {
    let rules = Rules { enforce_quota: true, ..Rules::DEFAULT };
    let mut w = World::new();
    w.tree = Tree::new(1, rules);
    w.pending = Pending::new(1, &w.tree);
    w.zxid = 0;
    w.propose(1, &Request::CreateSession { timeout_ms: 1 });
    for path in ["/q", "/zookeeper/quota/q", "/zookeeper/quota/q/zookeeper_stats"] {
        w.create(path, 0);
    }
    let limits = Request::Create(Create {
        op: OpCode::Create,
        path: "/zookeeper/quota/q/zookeeper_limits".into(),
        data: Some(b"count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=2"),
        acl: Some(AclList::OPEN),
        flags: 0,
        ttl: -1,
    });
    w.propose(1, &limits);
    w.settle();
    w.create("/q/a", 0);
    w.settle();
    let stats = w.tree.find("/zookeeper/quota/q/zookeeper_stats").unwrap();
    assert_eq!((stats.data(), stats.stat().version), (Some(&b"count=2,bytes=2"[..]), 0));
    assert_eq!(w.create("/q/b", 0), Some(ErrorCode::QUOTAEXCEEDED));
    assert_eq!(w.create("/other", 0), None);
    w.settle();
}

/// Whatever happens under a quota, its stats znode says what a fresh count would.
#[test]
fn quota_usage_is_always_what_a_fresh_count_gives() {
    let mut w = World::new();
    for path in [
        "/q",
        "/zookeeper/quota/q",
        "/zookeeper/quota/q/zookeeper_limits",
        "/zookeeper/quota/q/zookeeper_stats",
    ] {
        w.create(path, 0);
    }
    w.settle();
    let mut random = 7_u64;
    for step in 0..3000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let path = ["/q/a", "/q/b", "/q/a/c", "/q", "/other", "/qq"][(random >> 11) as usize % 6];
        let data = vec![1; (random >> 20) as usize % 30];
        match (random >> 40) % 4 {
            0 => w.create(path, i32::from((random >> 50).is_multiple_of(5))),
            1 => w.create(&format!("{path}/s"), 2),
            2 => w.propose(1, &Request::Delete { path: path.into(), version: -1 }),
            _ => w.propose(1, &Request::SetData { path: path.into(), data: Some(&data), version: -1 }),
        };
        if step % 3 != 0 {
            continue;
        }
        w.settle();
        let (mut count, mut bytes) = (0, 0);
        let mut waiting = vec!["/q".to_owned()];
        while let Some(at) = waiting.pop() {
            if let Some(node) = w.tree.find(&at) {
                count += 1;
                bytes += node.data().unwrap_or_default().len();
                waiting.extend(node.children().map(|name| format!("{at}/{name}")));
            }
        }
        let stats = w.tree.find("/zookeeper/quota/q/zookeeper_stats").unwrap();
        assert_eq!(
            String::from_utf8_lossy(stats.data().unwrap()),
            format!("count={count},bytes={bytes}"),
            "step {step}"
        );
    }
}

/// An empty name between slashes would make another path of the same znode in the next snapshot.
#[test]
fn a_snapshot_with_a_path_that_makes_no_sense_is_refused() {
    let stat = [0; 60];
    for path in ["/", "//a", "/a//b", "/a/"] {
        let mut loader = Loader::new(3, Rules::DEFAULT);
        loader.node("", None, -1, &stat).unwrap();
        loader.node("/a", None, -1, &stat).unwrap();
        let refused = loader.node(path, None, -1, &stat);
        assert!(matches!(refused, Err(LoadError::Malformed { what: "path" })), "{path}: {refused:?}");
        assert!(loader.node("/a/b", None, -1, &stat).is_ok());
    }
}
