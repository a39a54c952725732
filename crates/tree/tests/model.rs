//! The tree against a second implementation that is slow and obvious: a sorted map, full scans, no overlay of
//! pending changes, no running digest. Random operations go to both; errors, stats, data, lists, children and
//! the digest computed from scratch must agree. More cases: `OXKEEPER_CASES=5000 cargo test --test model`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test may be told how long to run")]

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{
    Acl, AclList, Create, ErrorCode, OpCode, Request, SessionId, Txn, TxnDigest, TxnHeader, TxnRecord, Xid,
    Zxid,
};
use oxkeeper_tree::{Asker, Changes, Identity, OwnerRules, Pending, Rules, Stamp, Tree};

type Entry = (i32, &'static str, &'static str);

#[derive(Clone, Debug, PartialEq)]
struct Node {
    data: Option<Vec<u8>>,
    czxid: i64,
    mzxid: i64,
    pzxid: i64,
    ctime: i64,
    mtime: i64,
    version: i32,
    created: i32,
    aversion: i32,
    owner: i64,
    acl: Vec<(i32, String, String)>,
}

#[derive(Clone)]
struct Model {
    nodes: BTreeMap<String, Node>,
    sessions: BTreeSet<i64>,
}

/// What a request is, in the words of the model.
#[derive(Clone, Debug)]
enum Ask {
    Create { op: OpCode, path: String, data: Option<Vec<u8>>, acl: Vec<Entry>, flags: i32, ttl: i64 },
    Delete { path: String, version: i32 },
    SetData { path: String, data: Option<Vec<u8>>, version: i32 },
    SetAcl { path: String, acl: Vec<Entry>, version: i32 },
    Check { path: String, version: i32 },
    Multi(Vec<Ask>),
    Close,
}

const FIXED: [&str; 4] = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"];

impl Model {
    fn new() -> Model {
        let mut nodes = BTreeMap::new();
        for path in FIXED {
            let config = path == "/zookeeper/config";
            let perms = if config { 1 } else { 31 };
            let acl = vec![(perms, "world".to_owned(), "anyone".to_owned())];
            let (data, aversion) = (Some(Vec::new()), if config { -1 } else { 0 });
            let zero = Node {
                data,
                czxid: 0,
                mzxid: 0,
                pzxid: 0,
                ctime: 0,
                mtime: 0,
                version: 0,
                created: 0,
                aversion,
                owner: 0,
                acl,
            };
            nodes.insert(path.to_owned(), zero);
        }
        Model { nodes, sessions: BTreeSet::new() }
    }

    fn children(&self, path: &str) -> Vec<String> {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let below = self.nodes.keys().filter(|p| p.len() > prefix.len() && p.starts_with(&prefix));
        below.map(|p| p[prefix.len()..].to_owned()).filter(|name| !name.contains('/')).collect()
    }

    fn may(&self, who: &[Identity], path: &str, perm: i32) -> Result<(), ErrorCode> {
        let is = |scheme: &str, id: &str| who.iter().any(|i| i.scheme == scheme && i.id == id);
        let grants = |(perms, scheme, id): &(i32, String, String)| {
            perms & perm != 0
                && match scheme.as_str() {
                    "world" => true,
                    "ip" => id == "127.0.0.1" || id == "127.0.0.0/8",
                    other => is(other, id),
                }
        };
        let allowed = is("super", "") || self.nodes[path].acl.iter().any(grants);
        if allowed { Ok(()) } else { Err(ErrorCode::NOAUTH) }
    }

    fn run(
        &mut self,
        session: i64,
        who: &[Identity],
        zxid: i64,
        now: i64,
        ask: &Ask,
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        match ask {
            Ask::Create { op, path, data, acl, flags, ttl } => {
                let wants_ttl = matches!(flags, 5 | 6);
                if !(0..=6).contains(flags) || wants_ttl != (*op == OpCode::CreateTtl) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                if wants_ttl && !(1..1 << 40).contains(ttl) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                if !path.contains('/') || path.contains('\0') {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                let acl = expand(acl, who)?;
                let cut = path.rfind('/').unwrap();
                let parent = if cut == 0 { "/" } else { &path[..cut] };
                if !self.nodes.contains_key(parent) {
                    return Err(ErrorCode::NONODE);
                }
                self.may(who, parent, 4)?;
                let number = self.nodes[parent].created;
                let path =
                    if matches!(flags, 2 | 3 | 6) { format!("{path}{number:010}") } else { path.clone() };
                if !is_path(&path) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                if self.nodes.contains_key(&path) {
                    return Err(ErrorCode::NODEEXISTS);
                }
                let above = self.nodes[parent].owner;
                if above > 0 {
                    return Err(ErrorCode::NOCHILDRENFOREPHEMERALS);
                }
                let owner = match op {
                    OpCode::CreateContainer => i64::MIN,
                    OpCode::CreateTtl => (0xff << 56) | ttl,
                    _ if matches!(flags, 1 | 3) => session,
                    _ => 0,
                };
                let over = self.nodes.get_mut(parent).unwrap();
                over.created += 1;
                over.pzxid = zxid;
                let node = Node {
                    data: data.clone(),
                    czxid: zxid,
                    mzxid: zxid,
                    pzxid: zxid,
                    ctime: now,
                    mtime: now,
                    version: 0,
                    created: 0,
                    aversion: 0,
                    owner,
                    acl,
                };
                self.nodes.insert(path, node);
            }
            Ask::Delete { path, version } => {
                if !path.contains('/') || path.contains('\0') || FIXED.contains(&&**path) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                let cut = path.rfind('/').unwrap();
                let parent = if cut == 0 { "/".to_owned() } else { path[..cut].to_owned() };
                if !self.nodes.contains_key(&parent) {
                    return Err(ErrorCode::NONODE);
                }
                self.may(who, &parent, 8)?;
                let node = self.nodes.get(path).ok_or(ErrorCode::NONODE)?;
                expect_version(*version, node.version)?;
                if !self.children(path).is_empty() {
                    return Err(ErrorCode::NOTEMPTY);
                }
                self.remove(path, &parent, zxid);
            }
            Ask::SetData { path, data, version } => {
                self.find(path)?;
                self.may(who, path, 2)?;
                expect_version(*version, self.nodes[path].version)?;
                let node = self.nodes.get_mut(path).unwrap();
                (node.data, node.mzxid, node.mtime) = (data.clone(), zxid, now);
                node.version += 1;
            }
            Ask::SetAcl { path, acl, version } => {
                if !is_path(path) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                let acl = expand(acl, who)?;
                self.find(path)?;
                self.may(who, path, 16)?;
                expect_version(*version, self.nodes[path].aversion)?;
                let node = self.nodes.get_mut(path).unwrap();
                node.acl = acl;
                node.aversion += 1;
            }
            Ask::Check { path, version } => {
                self.find(path)?;
                self.may(who, path, 1)?;
                expect_version(*version, self.nodes[path].version)?;
            }
            Ask::Multi(asks) => {
                let before = self.clone();
                for (at, ask) in asks.iter().enumerate() {
                    if let Err(code) = self.run(session, who, zxid, now, ask) {
                        *self = before;
                        let mut codes = vec![ErrorCode::OK; at];
                        codes.push(code);
                        codes.resize(asks.len(), ErrorCode::RUNTIMEINCONSISTENCY);
                        return Ok(codes);
                    }
                }
                return Ok(vec![ErrorCode::OK; asks.len()]);
            }
            Ask::Close => {
                let mine: Vec<String> =
                    self.nodes.iter().filter(|(_, n)| n.owner == session).map(|(p, _)| p.clone()).collect();
                for path in mine {
                    let cut = path.rfind('/').unwrap();
                    let parent = if cut == 0 { "/".to_owned() } else { path[..cut].to_owned() };
                    self.remove(&path, &parent, zxid);
                }
                self.sessions.remove(&session);
            }
        }
        Ok(Vec::new())
    }

    fn find(&self, path: &str) -> Result<(), ErrorCode> {
        if !is_path(path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        if self.nodes.contains_key(path) { Ok(()) } else { Err(ErrorCode::NONODE) }
    }

    fn remove(&mut self, path: &str, parent: &str, zxid: i64) {
        self.nodes.remove(path);
        self.nodes.get_mut(parent).unwrap().pzxid = zxid;
    }

    fn digest(&self) -> i64 {
        let counted = self.nodes.iter().filter(|(path, _)| !path.starts_with("/zookeeper/"));
        let sum = counted.fold(0u64, |sum, (path, n)| {
            let mut bytes = if path == "/" { Vec::new() } else { path.clone().into_bytes() };
            bytes.extend(n.data.as_deref().unwrap_or_default());
            for long in [n.czxid, n.mzxid, n.pzxid, n.ctime, n.mtime] {
                bytes.extend(long.to_be_bytes());
            }
            for int in [n.version, n.created, n.aversion] {
                bytes.extend(int.to_be_bytes());
            }
            bytes.extend(n.owner.to_be_bytes());
            sum.wrapping_add(u64::from(crc32(&bytes)))
        });
        sum.cast_signed()
    }
}

/// CRC-32 a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn expect_version(expected: i32, version: i32) -> Result<(), ErrorCode> {
    if expected == -1 || expected == version { Ok(()) } else { Err(ErrorCode::BADVERSION) }
}

fn expand(acl: &[Entry], who: &[Identity]) -> Result<Vec<(i32, String, String)>, ErrorCode> {
    let mut out = Vec::new();
    let mut seen: Vec<&Entry> = Vec::new();
    for entry in acl {
        if seen.contains(&entry) {
            continue;
        }
        seen.push(entry);
        let (perms, scheme, id) = entry;
        match *scheme {
            "auth" => {
                let mine: Vec<_> = who.iter().filter(|i| i.scheme == "digest").collect();
                if mine.is_empty() {
                    return Err(ErrorCode::INVALIDACL);
                }
                out.extend(mine.iter().map(|i| (*perms, "digest".to_owned(), i.id.clone())));
            }
            "world" if *id != "anyone" => return Err(ErrorCode::INVALIDACL),
            "world" | "ip" | "digest" => out.push((*perms, (*scheme).to_owned(), (*id).to_owned())),
            _ => return Err(ErrorCode::INVALIDACL),
        }
    }
    if out.is_empty() { Err(ErrorCode::INVALIDACL) } else { Ok(out) }
}

fn is_path(path: &str) -> bool {
    path == "/"
        || path.starts_with('/')
            && path[1..].split('/').all(|c| !["", ".", ".."].contains(&c) && c.chars().all(|c| c >= ' '))
}

/// A small generator of numbers: equal seeds, equal cases, on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn ask(&mut self, in_multi: bool) -> Ask {
        let path = || {
            [
                "/a",
                "/b",
                "/a/x",
                "/a/y",
                "/a/x/z",
                "/b/q",
                "/a/s-",
                "/",
                "/zookeeper/config",
                "/bad//",
                "rel/x",
                "/.",
                "/a/x/z/w",
            ]
        };
        let lists: [Vec<Entry>; 9] = [
            vec![(31, "world", "anyone")],
            vec![(31, "world", "anyone")],
            vec![(31, "world", "anyone"), (31, "world", "anyone")],
            vec![(1, "world", "anyone")],
            vec![(31, "auth", "")],
            vec![(31, "digest", "u:h"), (1, "ip", "127.0.0.0/8")],
            vec![(7, "ip", "127.0.0.1")],
            vec![],
            vec![(1, "nope", "x")],
        ];
        let path = self.of(&path()).to_owned();
        let data = self.of(&[None, Some(vec![]), Some(vec![1]), Some(vec![2; 40])]);
        let version = self.of(&[-1, -1, -1, 0, 1, 2, -5]);
        match self.below(if in_multi { 9 } else { 12 }) {
            0..4 => {
                let (op, flags) = self.of(&[
                    (OpCode::Create, 0),
                    (OpCode::Create2, 0),
                    (OpCode::Create, 1),
                    (OpCode::Create2, 2),
                    (OpCode::Create, 3),
                    (OpCode::CreateContainer, 4),
                    (OpCode::CreateTtl, 5),
                    (OpCode::CreateTtl, 6),
                ]);
                let ttl = if op == OpCode::CreateTtl { self.of(&[1, 1000, 0, 1 << 40]) } else { -1 };
                Ask::Create { op, path, data, acl: self.of(&lists), flags, ttl }
            }
            4 | 5 => Ask::Delete { path, version },
            6 | 7 => Ask::SetData { path, data, version },
            8 if in_multi => Ask::Check { path, version },
            8 | 9 => Ask::SetAcl { path, acl: self.of(&lists), version: self.of(&[-1, -1, 0, 1]) },
            10 => {
                let n = self.below(5);
                Ask::Multi((0..n).map(|_| self.ask(true)).collect())
            }
            _ if self.below(8) == 0 => Ask::Close,
            _ => Ask::Delete { path, version },
        }
    }
}

fn request(ask: &Ask) -> Request<'_> {
    let list = |acl: &[Entry]| {
        let entries: Vec<Acl<'_>> = acl.iter().map(|(p, s, i)| Acl::new(*p, s, i)).collect();
        Some(AclList::from_entries(entries.iter()))
    };
    match ask {
        Ask::Create { op, path, data, acl, flags, ttl } => Request::Create(Create {
            op: *op,
            path: path.into(),
            data: data.as_deref(),
            acl: list(acl),
            flags: *flags,
            ttl: *ttl,
        }),
        Ask::Delete { path, version } => Request::Delete { path: path.into(), version: *version },
        Ask::SetData { path, data, version } => {
            Request::SetData { path: path.into(), data: data.as_deref(), version: *version }
        }
        Ask::SetAcl { path, acl, version } => {
            Request::SetAcl { path: path.into(), acl: list(acl), version: *version }
        }
        Ask::Check { path, version } => Request::Check { path: path.into(), version: *version },
        Ask::Multi(asks) => Request::Multi(asks.iter().map(request).collect()),
        Ask::Close => Request::CloseSession,
    }
}

fn compare(tree: &Tree, model: &Model, place: &str) {
    assert_eq!(tree.digest(), model.digest(), "{place}: digest from scratch");
    assert_eq!(tree.len(), model.nodes.len(), "{place}");
    for (path, node) in &model.nodes {
        let found = tree.find(path).unwrap_or_else(|| panic!("{place}: {path} is missing"));
        let (stored, seen) = (found.stored_stat(), found.stat());
        assert_eq!(found.data(), node.data.as_deref(), "{place}: {path}");
        let numbers = (stored.czxid.0, stored.mzxid.0, stored.pzxid.0, stored.ctime, stored.mtime);
        assert_eq!(numbers, (node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime), "{place}: {path}");
        let counts = (stored.version, stored.cversion, stored.aversion, stored.ephemeral_owner);
        assert_eq!(counts, (node.version, node.created, node.aversion, node.owner), "{place}: {path}");
        let children = model.children(path);
        let mut names: Vec<&str> = found.children().collect();
        names.sort_unstable();
        assert_eq!(names, children, "{place}: children of {path}");
        let below = model.nodes.keys().filter(|p| {
            p.len() > path.len()
                && p.starts_with(path.as_str())
                && (path == "/" || p.as_bytes()[path.len()] == b'/')
        });
        assert_eq!(found.descendants_len() as usize, below.count(), "{place}: below {path}");
        assert_eq!(seen.cversion, 2 * node.created - children.len() as i32, "{place}: {path}");
        assert_eq!(seen.ephemeral_owner, node.owner.max(0), "{place}: {path}");
        let acl: Vec<(i32, String, String)> = found
            .acl()
            .unwrap()
            .iter()
            .map(|a| (a.perms, a.scheme.unwrap().into_owned(), a.id.unwrap().into_owned()))
            .collect();
        assert_eq!(acl, node.acl, "{place}: list of {path}");
    }
}

fn one_case(seed: u64) -> usize {
    let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let rules = Rules { owners: OwnerRules { extended_types: true, emulate_353: false }, ..Rules::DEFAULT };
    let mut tree = Tree::new(seed, rules);
    let mut pending = Pending::new(seed ^ 5, &tree);
    let mut model = Model::new();
    let identity = |scheme: &'static str, id: &str| Identity { scheme: scheme.into(), id: id.to_owned() };
    let who = [
        vec![identity("ip", "127.0.0.1")],
        vec![identity("ip", "127.0.0.1"), identity("digest", "u:h")],
        vec![identity("ip", "127.0.0.1"), identity("super", "")],
    ];
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    let mut zxid = 0;
    let mut asked = 0;
    for step in 0..60 {
        let session = 1 + chance.below(3) as i64;
        let who = &who[session as usize - 1];
        let place = format!("seed {seed} step {step}");
        zxid += 1;
        let header = |op| TxnHeader {
            session: SessionId(session),
            cxid: Xid(0),
            zxid: Zxid(zxid),
            time: 5000 + zxid,
            op,
        };
        let ask = if model.sessions.insert(session) { None } else { Some(chance.ask(false)) };
        let opening = Request::CreateSession { timeout_ms: 10 };
        let request = ask.as_ref().map_or(opening, request);
        let expected = ask.as_ref().map(|ask| model.run(session, who, zxid, 5000 + zxid, ask));
        let asker = Asker { session: SessionId(session), identities: who, standing: Ok(()) };
        let stamp = Stamp { zxid: Zxid(zxid), time_ms: 5000 + zxid };
        let prepared = pending.prepare(&tree, asker, stamp, &request);
        assert_eq!(
            prepared.as_ref().err(),
            expected.as_ref().and_then(|e| e.as_ref().err()),
            "{place}: {ask:?}"
        );
        if let (Ok(Txn::Multi(txns)), Some(Ok(codes))) = (&prepared, &expected) {
            let found =
                txns.iter().map(|txn| if let Txn::Error { code } = txn { *code } else { ErrorCode::OK });
            assert_eq!(found.collect::<Vec<_>>(), *codes, "{place}: {ask:?}");
        }
        assert_eq!(pending.digest(), model.digest(), "{place}: {ask:?}: digest of what is pending");
        let (txn, digest) = match prepared {
            Ok(txn) => (txn, Some(TxnDigest { version: 2, digest: pending.digest() })),
            Err(code) => (Txn::Error { code }, None),
        };
        let mut payload = Vec::new();
        TxnRecord { header: header(txn.op()), txn, digest }.encode(&mut payload);
        waiting.push(payload);
        asked += 1;
        if chance.below(4) == 0 || step == 59 {
            for payload in waiting.drain(..) {
                let record = TxnRecord::decode(&payload).unwrap();
                tree.apply(&record, &mut Changes::default())
                    .unwrap_or_else(|error| panic!("{place}: {error}"));
                pending.applied(record.header.zxid);
            }
            compare(&tree, &model, &place);
            let open: BTreeSet<i64> = tree.sessions().map(|(id, _)| id.0).collect();
            assert_eq!(open, model.sessions, "{place}");
        }
    }
    asked
}

#[test]
fn the_tree_does_what_the_model_does() {
    let cases = std::env::var("OXKEEPER_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let asked: usize = (0..cases).map(one_case).sum();
    println!("model: {cases} cases, {asked} operations");
}
