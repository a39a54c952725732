//! What clients ask. Each workload looks for trouble of one kind; together they use every operation of the protocol.

use std::collections::{BTreeMap, VecDeque};

use oxkeeper_proto::{Acl, AclList, Create, ErrorCode, OpCode, Reader, Reply, Request, path};

use crate::admin::{Admin, Asks};
use crate::chance::Chance;
use crate::history::Told;

/// The kinds of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads, writes and conditional writes of a few znodes: order.
    Register,
    /// Sequential children under hot parents: unique names, counters.
    Append,
    /// Lists of operations, some of which fail: all or nothing.
    Multi,
    /// Ephemerals that come and go: ownership.
    Ephemeral,
    /// Watches of all kinds on what others change.
    Watch,
    /// `sync`, then a read: recency.
    Sync,
    /// A lock of ephemeral sequential children: real use.
    Lock,
    /// Access control lists that change under readers.
    Acl,
    /// Containers and times to live.
    Reaped,
    /// Every operation with odd arguments.
    Chaos,
    /// Large replies, many at once.
    Flood,
    /// Only what is new: `sync`, and reads. Drawn by some profiles alone.
    Fresh,
    /// A tree of megabytes, then changes all over it. Drawn by some profiles alone.
    Grow,
    /// Servers that join, leave and change their part. Only where an ensemble allows it.
    Reconfig,
}

impl Kind {
    /// Every kind that any run may have.
    pub const ALL: [Kind; 11] = [
        Kind::Register,
        Kind::Append,
        Kind::Multi,
        Kind::Ephemeral,
        Kind::Watch,
        Kind::Sync,
        Kind::Lock,
        Kind::Acl,
        Kind::Reaped,
        Kind::Chaos,
        Kind::Flood,
    ];
}

/// A request as it goes out: which operation, and its body.
pub type Encoded = (OpCode, Vec<u8>);

/// Paths that several clients fight for.
pub const REGISTERS: [&str; 4] = ["/r0", "/r1", "/r2", "/r3"];
const PARENTS: [&str; 3] = ["/q", "/q/hot", "/locks"];
const ODD: [&str; 12] = [
    "/",
    "/nothing/there",
    "/r0/child",
    "/bad//path",
    "/trailing/",
    "relative",
    "/.",
    "/zookeeper",
    "/zookeeper/config",
    "/ünïcödé",
    "/q/a name with spaces",
    "/deep/a/b/c/d/e/f/g",
];

/// How often one client makes znodes, and how many each time.
const GROWN_MAX: u64 = 60;
const GROWN_AT_ONCE: u64 = 40;

/// A source of requests.
#[derive(Debug)]
pub struct Workload {
    kind: Kind,
    client: usize,
    count: u64,
    setup: VecDeque<Encoded>,
    next: VecDeque<Encoded>,
    versions: BTreeMap<String, i32>,
    mine: Vec<String>,
    admin: Admin,
    /// How often it has made many znodes.
    grown: u64,
    /// Bits of the operations that this run does without.
    without: u64,
}

/// A create of a plain znode.
fn create<'a>(path: &'a str, data: &'a [u8], flags: i32) -> Create<'a> {
    Create {
        op: OpCode::Create,
        path: path.into(),
        data: Some(data),
        acl: Some(AclList::OPEN),
        flags,
        ttl: -1,
    }
}

fn encoded(request: &Request<'_>) -> Encoded {
    let mut body = Vec::new();
    request.encode(&mut body);
    (request.op(), body)
}

impl Workload {
    /// A source of one kind for one client. `without` names operations by bit that it never asks for.
    #[must_use]
    pub fn new(kind: Kind, client: usize, without: u64) -> Workload {
        let all = REGISTERS.iter().chain(&PARENTS).copied();
        let setup = all.map(|path| encoded(&Request::Create(create(path, b"", 0)))).collect();
        Workload {
            kind,
            client,
            count: 0,
            setup,
            next: VecDeque::new(),
            versions: BTreeMap::new(),
            mine: Vec::new(),
            admin: Admin::default(),
            grown: 0,
            without,
        }
    }

    /// The same, where there are so many servers, which may be put into groups or not.
    #[must_use]
    pub fn among(self, servers: usize, groups: bool) -> Workload {
        Workload { admin: Admin::of(servers, groups), ..self }
    }

    /// A new session owns nothing.
    pub fn forget_session(&mut self) {
        self.mine.clear();
        self.next.clear();
    }

    /// The next request.
    pub fn next(&mut self, chance: &mut Chance) -> Encoded {
        self.count += 1;
        if let Some(setup) = self.setup.pop_front() {
            return setup;
        }
        if let Some(next) = self.next.pop_front() {
            return next;
        }
        for _ in 0..8 {
            let request = self.draw(chance);
            let bit = u64::from(request.0.number().unsigned_abs()) % 64;
            if self.without & (1 << bit) == 0 {
                return request;
            }
        }
        encoded(&Request::Exists { path: "/r0".into(), watch: false })
    }

    fn draw(&mut self, chance: &mut Chance) -> Encoded {
        match self.kind {
            Kind::Register => self.register(chance),
            Kind::Append => self.append(chance),
            Kind::Multi => self.multi(chance),
            Kind::Ephemeral => self.ephemeral(chance),
            Kind::Watch => self.watch(chance),
            Kind::Sync => self.sync(chance),
            Kind::Lock => self.lock(chance),
            Kind::Acl => self.acl(chance),
            Kind::Reaped => self.reaped(chance),
            Kind::Chaos => self.chaos(chance),
            Kind::Flood => flood(chance),
            Kind::Fresh => fresh(chance),
            Kind::Grow => self.grow(chance),
            Kind::Reconfig => self.reconfig(chance),
        }
    }

    fn reconfig(&mut self, chance: &mut Chance) -> Encoded {
        match chance.below(10) {
            0 => self.register(chance),
            1 => self.sync(chance),
            _ => match self.admin.draw(chance) {
                Asks::Look => encoded(&Request::GetData { path: path::CONFIG.into(), watch: true }),
                Asks::Change(wanted) => encoded(&Request::Reconfig(wanted)),
            },
        }
    }

    /// A value that nobody else ever writes.
    fn value(&mut self, chance: &mut Chance) -> Vec<u8> {
        self.count += 1;
        let mut value = format!("{}-{}", self.client, self.count).into_bytes();
        if chance.happens(0.05) {
            value.resize(chance.index(4000).max(value.len()), b'.');
        }
        value
    }

    fn register(&mut self, chance: &mut Chance) -> Encoded {
        let path = chance.pick(&REGISTERS).copied().unwrap_or("/r0");
        let known = self.versions.get(path).copied().unwrap_or(-1);
        let data = self.value(chance);
        match chance.below(10) {
            0..4 => encoded(&Request::GetData { path: path.into(), watch: false }),
            4..6 => encoded(&Request::SetData { path: path.into(), data: Some(&data), version: -1 }),
            6..9 => encoded(&Request::SetData { path: path.into(), data: Some(&data), version: known }),
            _ => encoded(&Request::Exists { path: path.into(), watch: false }),
        }
    }

    fn append(&mut self, chance: &mut Chance) -> Encoded {
        let parent = chance.pick(&PARENTS).copied().unwrap_or("/q");
        match chance.below(10) {
            0..5 => {
                let data = self.value(chance);
                let path = format!("{parent}/n-");
                let op = if chance.happens(0.5) { OpCode::Create } else { OpCode::Create2 };
                encoded(&Request::Create(Create { op, ..create(&path, &data, 2) }))
            }
            5..7 if !self.mine.is_empty() => {
                let index = chance.index(self.mine.len());
                let path = self.mine.swap_remove(index);
                encoded(&Request::Delete { path: path.into(), version: -1 })
            }
            7 => encoded(&Request::GetChildren2 { path: parent.into(), watch: false }),
            8 => encoded(&Request::GetAllChildrenNumber { path: parent.into() }),
            _ => encoded(&Request::GetChildren { path: parent.into(), watch: false }),
        }
    }

    fn multi(&mut self, chance: &mut Chance) -> Encoded {
        let most = if chance.happens(0.1) { 40 } else { 5 };
        let len = 1 + chance.index(most);
        let datas: Vec<Vec<u8>> = (0..len).map(|_| self.value(chance)).collect();
        if chance.happens(0.15) {
            let reads = (0..len).map(|_| {
                let path = self.some_path(chance);
                if chance.happens(0.5) {
                    Request::GetData { path: path.into(), watch: false }
                } else {
                    Request::GetChildren { path: path.into(), watch: false }
                }
            });
            return encoded(&Request::MultiRead(reads.collect()));
        }
        let paths: Vec<String> = (0..len).map(|_| self.some_path(chance)).collect();
        let ops = paths.iter().zip(&datas).map(|(path, data)| {
            let version = self.versions.get(path).copied().filter(|_| chance.happens(0.5)).unwrap_or(-1);
            match chance.below(8) {
                0..3 => Request::SetData { path: path.into(), data: Some(data), version },
                3 => Request::Check { path: path.into(), version },
                4 => Request::Delete { path: path.into(), version },
                5 => Request::Create(Create { op: OpCode::Create2, ..create(path, data, 0) }),
                6 => Request::Create(create(path, data, if chance.happens(0.2) { 1 } else { 2 })),
                _ => Request::Create(create(path, data, 0)),
            }
        });
        let ops: Vec<Request<'_>> = ops.collect();
        encoded(&Request::Multi(ops))
    }

    /// A path that may or may not be there, and that others use as well.
    fn some_path(&self, chance: &mut Chance) -> String {
        match chance.below(6) {
            0 | 1 => chance.pick(&REGISTERS).copied().unwrap_or("/r0").to_owned(),
            2 => format!("/q/m{}", chance.below(6)),
            3 => format!("/q/hot/m{}", chance.below(3)),
            4 => self.mine.first().cloned().unwrap_or_else(|| "/q/m0".to_owned()),
            _ => format!("/q/m{}/x{}", chance.below(3), chance.below(3)),
        }
    }

    fn ephemeral(&mut self, chance: &mut Chance) -> Encoded {
        let path = format!("/q/e{}", chance.below(8));
        match chance.below(10) {
            0..5 => {
                let data = self.value(chance);
                let op = if chance.happens(0.5) { OpCode::Create } else { OpCode::Create2 };
                let flags = if chance.happens(0.3) { 3 } else { 1 };
                encoded(&Request::Create(Create { op, ..create(&path, &data, flags) }))
            }
            5 | 6 => encoded(&Request::Delete { path: path.into(), version: -1 }),
            7 => encoded(&Request::GetEphemerals { prefix: chance.happens(0.5).then(|| "/q".into()) }),
            8 => encoded(&Request::Create(create(&format!("{path}/below"), b"", 0))),
            _ => encoded(&Request::Exists { path: path.into(), watch: true }),
        }
    }

    fn watch(&mut self, chance: &mut Chance) -> Encoded {
        let path = if chance.happens(0.2) { "/q".to_owned() } else { self.some_path(chance) };
        let kind = 1 + i32::try_from(chance.below(5)).unwrap_or(0);
        match chance.below(14) {
            0..3 => encoded(&Request::GetData { path: path.into(), watch: true }),
            3..5 => encoded(&Request::Exists { path: path.into(), watch: true }),
            5 => encoded(&Request::GetChildren { path: path.into(), watch: true }),
            6 => encoded(&Request::GetChildren2 { path: path.into(), watch: true }),
            7 => encoded(&Request::AddWatch { path: path.into(), mode: 0 }),
            8 => encoded(&Request::AddWatch { path: path.into(), mode: 1 }),
            9 => encoded(&Request::RemoveWatches { path: path.into(), kind }),
            10 => encoded(&Request::CheckWatches { path: path.into(), kind }),
            11 => self.append(chance),
            _ => self.register(chance),
        }
    }

    fn sync(&mut self, chance: &mut Chance) -> Encoded {
        let path = chance.pick(&REGISTERS).copied().unwrap_or("/r0");
        match chance.below(3) {
            0 => {
                self.next.push_back(encoded(&Request::GetData { path: path.into(), watch: false }));
                encoded(&Request::Sync { path: Some(path.into()) })
            }
            1 => encoded(&Request::GetData { path: path.into(), watch: false }),
            _ => self.register(chance),
        }
    }

    /// Makes a ticket, looks who is first, works if it is oneself, gives the ticket back.
    fn lock(&mut self, chance: &mut Chance) -> Encoded {
        match self.mine.first().cloned() {
            None => {
                let data = self.value(chance);
                encoded(&Request::Create(create("/locks/ticket-", &data, 3)))
            }
            Some(ticket) if chance.happens(0.3) => {
                self.mine.clear();
                encoded(&Request::Delete { path: ticket.into(), version: -1 })
            }
            Some(_) if chance.happens(0.5) => {
                encoded(&Request::GetChildren { path: "/locks".into(), watch: true })
            }
            Some(ticket) => encoded(&Request::Exists { path: ticket.into(), watch: true }),
        }
    }

    fn acl(&mut self, chance: &mut Chance) -> Encoded {
        let path = format!("/q/a{}", chance.below(4));
        let version = self.versions.get(&path).copied().filter(|_| chance.happens(0.3)).unwrap_or(-1);
        match chance.below(12) {
            0..3 => {
                let list = some_list(chance);
                let data = self.value(chance);
                encoded(&Request::Create(Create { acl: Some(list), ..create(&path, &data, 0) }))
            }
            3..5 => {
                let list = some_list(chance);
                encoded(&Request::SetAcl { path: path.into(), acl: Some(list), version: -1 })
            }
            5 => encoded(&Request::GetAcl { path: path.into() }),
            6 => encoded(&Request::Delete { path: path.into(), version }),
            7 => encoded(&Request::WhoAmI),
            8 => encoded(&Request::GetData { path: path.into(), watch: true }),
            9 => encoded(&Request::AddWatch { path: "/q".into(), mode: 1 }),
            10 => encoded(&Request::GetChildren2 { path: path.into(), watch: false }),
            _ => {
                let data = self.value(chance);
                encoded(&Request::SetData { path: path.into(), data: Some(&data), version: -1 })
            }
        }
    }

    fn reaped(&mut self, chance: &mut Chance) -> Encoded {
        let path = format!("/q/c{}", chance.below(4));
        let below = format!("{path}/x");
        match chance.below(8) {
            0 | 1 => {
                let op = OpCode::CreateContainer;
                encoded(&Request::Create(Create { op, ..create(&path, b"c", 4) }))
            }
            2 | 3 => {
                let ttl = i64::try_from(chance.within(1..40_000)).unwrap_or(1);
                let flags = if chance.happens(0.3) { 6 } else { 5 };
                encoded(&Request::Create(Create { op: OpCode::CreateTtl, ttl, ..create(&path, b"t", flags) }))
            }
            4 | 5 => encoded(&Request::Create(create(&below, b"", 0))),
            6 => encoded(&Request::Delete { path: below.into(), version: -1 }),
            _ => encoded(&Request::Exists { path: path.into(), watch: true }),
        }
    }

    fn chaos(&mut self, chance: &mut Chance) -> Encoded {
        let path = if chance.happens(0.5) {
            chance.pick(&ODD).copied().unwrap_or("/").to_owned()
        } else {
            self.some_path(chance)
        };
        let version = i32::try_from(chance.below(4)).unwrap_or(0) - 1;
        let data = self.value(chance);
        match chance.below(16) {
            0 | 1 => {
                let flags = i32::try_from(chance.below(9)).unwrap_or(0) - 1;
                let op = [OpCode::Create, OpCode::Create2, OpCode::CreateContainer, OpCode::CreateTtl];
                let op = chance.pick(&op).copied().unwrap_or(OpCode::Create);
                let acl = if chance.happens(0.9) { Some(AclList::OPEN) } else { None };
                let ttl = if op == OpCode::CreateTtl { 5 } else { -1 };
                encoded(&Request::Create(Create { op, acl, ttl, ..create(&path, &data, flags) }))
            }
            2 => encoded(&Request::Delete { path: path.into(), version }),
            3 => encoded(&Request::SetData { path: path.into(), data: None, version }),
            4 => encoded(&Request::GetData { path: path.into(), watch: false }),
            5 => encoded(&Request::Exists { path: path.into(), watch: false }),
            6 => encoded(&Request::GetChildren { path: path.into(), watch: false }),
            7 => encoded(&Request::GetAcl { path: path.into() }),
            8 => encoded(&Request::SetAcl { path: path.into(), acl: Some(some_list(chance)), version }),
            9 => encoded(&Request::Multi(Vec::new())),
            10 => encoded(&Request::GetAllChildrenNumber { path: path.into() }),
            11 => encoded(&Request::Sync { path: Some(path.into()) }),
            12 => encoded(&Request::GetEphemerals { prefix: Some(path.into()) }),
            13 => self.acl(chance),
            14 => self.watch(chance),
            _ => self.multi(chance),
        }
    }

    /// A reply has come: remembers versions and what is its own.
    pub fn answered(&mut self, request: &Request<'_>, told: &Told) {
        if self.kind == Kind::Reconfig {
            self.admin.learned(request, told);
        }
        if told.err == ErrorCode::BADVERSION
            && let Request::SetData { path, .. } | Request::Delete { path, .. } = request
        {
            self.versions.remove(&**path);
        }
        if told.err == ErrorCode::NONODE
            && let Request::SetData { path, .. } | Request::GetData { path, .. } = request
            && REGISTERS.contains(&&**path)
        {
            // Somebody has removed it: somebody makes it again.
            self.next.push_back(encoded(&Request::Create(create(path, b"again", 0))));
        }
        if !told.err.is_ok() {
            return;
        }
        let Ok(reply) = Reply::decode(request.op(), &mut Reader::new(&told.body)) else { return };
        match (request, reply) {
            (Request::GetData { path, .. }, Reply::Data(_, stat))
            | (Request::SetData { path, .. } | Request::Exists { path, .. }, Reply::Stat(stat)) => {
                self.versions.insert(path.clone().into_owned(), stat.version);
            }
            (Request::Create(create), Reply::Path(Some(made)) | Reply::PathStat(made, _))
                if self.mine.len() < 50 && matches!(create.flags, 2 | 3) =>
            {
                self.mine.push(made.into_owned());
            }
            _ => {}
        }
    }

    /// A watch fired: look again, and watch again.
    pub fn noticed(&mut self, path: &str) {
        if self.next.len() < 4 && matches!(self.kind, Kind::Watch | Kind::Reconfig) {
            self.next.push_back(encoded(&Request::GetData { path: path.into(), watch: true }));
        }
    }
}

impl Workload {
    /// Makes many znodes at once, up to some megabytes; then changes some of them.
    fn grow(&mut self, chance: &mut Chance) -> Encoded {
        let parent = format!("/big-{}", self.client);
        let made = self.grown;
        if made < GROWN_MAX {
            self.grown += 1;
            if made == 0 {
                return encoded(&Request::Create(create(&parent, b"", 0)));
            }
        }
        let place = if made < GROWN_MAX { made } else { 1 + chance.below(GROWN_MAX - 1) };
        let of = |place: u64, index: u64| format!("{parent}/{place}-{index}");
        let data = vec![b'a' + u8::try_from(self.count % 26).unwrap_or(0); 300 + chance.index(900)];
        if made < GROWN_MAX {
            let paths: Vec<String> = (0..GROWN_AT_ONCE).map(|index| of(place, index)).collect();
            let ops = paths.iter().map(|path| Request::Create(create(path, &data, 0)));
            return encoded(&Request::Multi(ops.collect()));
        }
        let path = of(place, chance.below(GROWN_AT_ONCE));
        match chance.below(10) {
            0..5 => encoded(&Request::SetData { path: path.into(), data: Some(&data), version: -1 }),
            5 => encoded(&Request::Delete { path: path.into(), version: -1 }),
            6 => encoded(&Request::Create(create(&path, &data, 0))),
            7 => encoded(&Request::SetAcl { path: path.into(), acl: Some(some_list(chance)), version: -1 }),
            8 => encoded(&Request::GetData { path: path.into(), watch: false }),
            _ => encoded(&Request::GetChildren { path: parent.into(), watch: false }),
        }
    }
}

/// Reads what was written by now, wherever that was, and writes nothing.
fn fresh(chance: &mut Chance) -> Encoded {
    let path = chance.pick(&REGISTERS).copied().unwrap_or("/r0");
    if chance.happens(0.5) {
        return encoded(&Request::Sync { path: Some(path.into()) });
    }
    encoded(&Request::GetData { path: path.into(), watch: false })
}

fn flood(chance: &mut Chance) -> Encoded {
    if chance.happens(0.05) {
        return encoded(&Request::Create(create("/big", &[b'b'; 40_000], 0)));
    }
    encoded(&Request::GetData { path: "/big".into(), watch: false })
}

fn some_list(chance: &mut Chance) -> AclList<'static> {
    let ann = oxkeeper_node::digest_id(b"ann:one", oxkeeper_node::DigestAlgorithm::Sha1);
    let perms = 1 + i32::try_from(chance.below(31)).unwrap_or(0);
    let entries = match chance.below(8) {
        0 | 1 => return AclList::OPEN,
        2 => vec![Acl::new(1, "world", "anyone"), Acl::new(31, "auth", "")],
        3 => vec![Acl::new(perms, "world", "anyone"), Acl::new(31, "digest", &ann)],
        4 => vec![Acl::new(31, "ip", "10.9.0.0/30"), Acl::new(perms, "world", "anyone")],
        5 => vec![Acl::new(31, "auth", "")],
        6 => vec![Acl::new(30, "world", "anyone")],
        _ => vec![Acl::new(31, "world", "anyone"), Acl::new(31, "world", "anyone")],
    };
    AclList::from_entries(entries.iter())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oxkeeper_proto::{Stat, Zxid};

    use super::*;

    fn shows(text: &str) -> Told {
        let mut body = Vec::new();
        Reply::Data(Some(text.as_bytes()), Stat::default()).encode(&mut body);
        Told { at: 0, zxid: Zxid(1), err: ErrorCode::OK, body }
    }

    #[test]
    fn every_operation_of_the_protocol_is_asked_for() {
        let mut seen = BTreeSet::new();
        for kind in Kind::ALL.into_iter().chain([Kind::Reconfig]) {
            let mut workload = Workload::new(kind, 3, 0).among(5, false);
            let mut chance = Chance::new(5);
            for _ in 0..2000 {
                let (op, body) = workload.next(&mut chance);
                let request = Request::decode(op, &mut Reader::new(&body)).unwrap();
                if matches!(&request, Request::GetData { path, .. } if *path == path::CONFIG) {
                    // Whoever changes the members must know them first.
                    workload.answered(&request, &shows("server.1=s1:1:2:participant;s1:3\nversion=7"));
                }
                seen.insert(op);
            }
        }
        // What the client itself sends, what is a part of a multi, and what only servers do.
        let elsewhere = [
            OpCode::Notification,
            OpCode::Error,
            OpCode::Ping,
            OpCode::Auth,
            OpCode::SetWatches,
            OpCode::SetWatches2,
            OpCode::CloseSession,
            OpCode::CreateSession,
            OpCode::DeleteContainer,
            OpCode::Check,
            OpCode::Sasl,
        ];
        let missing: Vec<_> =
            OpCode::ALL.iter().filter(|op| !seen.contains(op) && !elsewhere.contains(op)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn what_a_run_does_without_is_not_asked_for() {
        let mut workload = Workload::new(Kind::Register, 1, 1 << OpCode::SetData.number());
        let mut chance = Chance::new(5);
        assert!((0..500).all(|_| workload.next(&mut chance).0 != OpCode::SetData));
    }
}
