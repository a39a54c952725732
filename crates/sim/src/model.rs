//! A second tree, as plain as can be: sorted maps, no overlay, no cache, no sharing. It knows the rules from the
//! protocol's description and nothing of the real tree.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{
    Acl, AclList, Create, CreateMode, ErrorCode, Names, OpCode, OpResult, Reconfig, Reply, Request, Stat,
    Zxid,
};
use oxkeeper_tree::Identity;

use crate::roster::Roster;

/// One entry of an access control list: permissions, scheme, id.
pub type Entry = (i32, String, String);

/// A znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Znode {
    data: Option<Vec<u8>>,
    czxid: i64,
    mzxid: i64,
    pzxid: i64,
    ctime: i64,
    mtime: i64,
    version: i32,
    /// Children ever made.
    created: i32,
    aversion: i32,
    owner: Owner,
    acl: Vec<Entry>,
    children: BTreeSet<String>,
}

/// Whose a znode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's.
    Nobody,
    /// A session's.
    Session(i64),
    /// A container.
    Container,
    /// One with a time to live in ms.
    Ttl(i64),
}

/// What happened to a znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `NodeCreated`, `NodeDeleted` or `NodeDataChanged`, by number.
    pub kind: i32,
    /// Which znode.
    pub path: String,
    /// Its list then.
    pub acl: Vec<Entry>,
    /// Its parent's list then.
    pub parent_acl: Vec<Entry>,
}

/// Who asks for a write, and when it happens.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The session.
    pub session: i64,
    /// Who it has proved to be.
    pub identities: &'a [Identity],
    /// The place of the write.
    pub zxid: Zxid,
    /// Its time.
    pub time: i64,
    /// What is wrong with the session, if anything.
    pub standing: Result<(), ErrorCode>,
}

/// The whole state.
#[derive(Debug, Clone)]
pub struct Model {
    nodes: BTreeMap<String, Znode>,
    /// Open sessions and their timeouts.
    pub sessions: BTreeMap<i64, i32>,
    digest: u64,
    extended_types: bool,
    /// Who belongs to the ensemble; `None` for a server of its own.
    roster: Option<Roster>,
    /// Whether that may change.
    may_change: bool,
    /// What the last write did.
    pub changes: Vec<Change>,
}

const CONFIG: &str = "/zookeeper/config";
const FIXED: [&str; 4] = ["/", "/zookeeper", "/zookeeper/quota", CONFIG];
const TTL_MAX: i64 = (1 << 40) - 1;
const CREATED: i32 = 1;
const DELETED: i32 = 2;
const CHANGED: i32 = 3;

impl Model {
    /// The state before the first transaction, of servers whose configuration reads so.
    #[must_use]
    pub fn of(extended_types: bool, config: &str, may_change: bool) -> Model {
        let mut model = Model { may_change, ..Model::new(extended_types) };
        if let Some(roster) = Roster::parse(config).filter(|_| !config.is_empty()) {
            model.begin_with(roster);
        }
        model
    }

    /// An epoch begins under a configuration, or the first one is set: no transaction does it, and nobody is told.
    pub fn begin_with(&mut self, roster: Roster) {
        self.change(CONFIG, |node| {
            (node.data, node.version) = (Some(roster.text().into_bytes()), -1);
            node.mzxid = roster.version;
        });
        self.roster = Some(roster);
    }

    /// Who belongs to the ensemble.
    #[must_use]
    pub fn roster(&self) -> Option<&Roster> {
        self.roster.as_ref()
    }

    /// The state before the first transaction.
    #[must_use]
    pub fn new(extended_types: bool) -> Model {
        let mut model = Model {
            nodes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            digest: 0,
            extended_types,
            roster: None,
            may_change: false,
            changes: Vec::new(),
        };
        for path in FIXED {
            let config = path == CONFIG;
            let perms = if config { 1 } else { 31 };
            let node = Znode {
                data: Some(Vec::new()),
                czxid: 0,
                mzxid: 0,
                pzxid: 0,
                ctime: 0,
                mtime: 0,
                version: 0,
                created: 0,
                aversion: if config { -1 } else { 0 },
                owner: Owner::Nobody,
                acl: vec![(perms, "world".to_owned(), "anyone".to_owned())],
                children: BTreeSet::new(),
            };
            model.insert(path, node);
            if path != "/" {
                let (parent, name) = split(path);
                let (parent, name) = (parent.to_owned(), name.to_owned());
                model.change(&parent, |node| {
                    node.children.insert(name);
                });
            }
        }
        model
    }

    /// The digest as servers compute it.
    #[must_use]
    pub fn digest(&self) -> i64 {
        self.digest.cast_signed()
    }

    fn insert(&mut self, path: &str, node: Znode) {
        self.digest = self.digest.wrapping_add(node_digest(path, &node));
        self.nodes.insert(path.to_owned(), node);
    }

    fn change(&mut self, path: &str, with: impl FnOnce(&mut Znode)) {
        if let Some(node) = self.nodes.get_mut(path) {
            self.digest = self.digest.wrapping_sub(node_digest(path, node));
            with(node);
            self.digest = self.digest.wrapping_add(node_digest(path, node));
        }
    }

    fn remove(&mut self, path: &str, zxid: i64) {
        let (parent, name) = split(path);
        let (parent, name) = (parent.to_owned(), name.to_owned());
        let Some(node) = self.nodes.remove(path) else { return };
        self.digest = self.digest.wrapping_sub(node_digest(path, &node));
        self.note(DELETED, path, node.acl);
        self.change(&parent, |node| {
            node.children.remove(&name);
            node.pzxid = node.pzxid.max(zxid);
        });
    }

    fn note(&mut self, kind: i32, path: &str, acl: Vec<Entry>) {
        let parent_acl = self.nodes.get(split(path).0).map(|node| node.acl.clone()).unwrap_or_default();
        self.changes.push(Change { kind, path: path.to_owned(), acl, parent_acl });
    }

    fn find(&self, path: &str) -> Result<&Znode, ErrorCode> {
        // Reads take the empty string for the root.
        self.nodes.get(if path.is_empty() { "/" } else { path }).ok_or(ErrorCode::NONODE)
    }

    /// The list of a znode, if it is there.
    #[must_use]
    pub fn list(&self, path: &str) -> Option<&[Entry]> {
        self.nodes.get(path).map(|node| node.acl.as_slice())
    }

    /// The zxids of the last changes of a znode's data and children, if it is there.
    #[must_use]
    pub fn changed_at(&self, path: &str) -> Option<(i64, i64)> {
        self.nodes.get(path).map(|node| (node.mzxid, node.pzxid))
    }

    /// What servers remove of their own accord: tells whether it may go at this time.
    #[must_use]
    pub fn may_be_reaped(&self, path: &str, time: i64) -> bool {
        self.nodes.get(path).is_some_and(|node| {
            node.children.is_empty()
                && match node.owner {
                    Owner::Container => true,
                    Owner::Ttl(ms) => time - node.mtime > ms,
                    Owner::Nobody | Owner::Session(_) => false,
                }
        })
    }

    /// Removes a container or an expired znode.
    pub fn reap(&mut self, path: &str, zxid: Zxid) {
        self.changes.clear();
        self.remove(path, zxid.0);
    }

    /// Opens a session.
    pub fn open_session(&mut self, session: i64, timeout_ms: i32) {
        self.changes.clear();
        self.sessions.insert(session, timeout_ms);
    }

    /// Ends a session, with all that it owns; gives the paths.
    pub fn close_session(&mut self, session: i64, zxid: Zxid) -> BTreeSet<String> {
        self.changes.clear();
        let mine: BTreeSet<String> = self.owned_by(session).map(str::to_owned).collect();
        for path in &mine {
            self.remove(path, zxid.0);
        }
        self.sessions.remove(&session);
        mine
    }

    fn owned_by(&self, session: i64) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .filter(move |(_, node)| node.owner == Owner::Session(session))
            .map(|(path, _)| &**path)
    }

    /// Ephemerals whose session is not open.
    #[must_use]
    pub fn orphans(&self) -> Vec<String> {
        let is_orphan =
            |node: &Znode| matches!(node.owner, Owner::Session(s) if !self.sessions.contains_key(&s));
        self.nodes.iter().filter(|(_, node)| is_orphan(node)).map(|(path, _)| path.clone()).collect()
    }

    /// Does a write. An error leaves the state as it was.
    ///
    /// # Errors
    /// The code that the client is told.
    pub fn write<'r>(
        &mut self,
        writer: Writer<'_>,
        request: &'r Request<'r>,
    ) -> Result<Reply<'r>, ErrorCode> {
        self.changes.clear();
        let Request::Multi(ops) = request else {
            return self.one(writer, request).map(|result| match result {
                OpResult::Create(path) => Reply::Path(Some(path)),
                OpResult::Create2(path, stat) => Reply::PathStat(path, stat),
                OpResult::SetData(stat) => Reply::Stat(stat),
                _ => Reply::Empty,
            });
        };
        let before = self.clone();
        let mut results = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            match self.one(writer, op) {
                Ok(result) => results.push(result),
                Err(code) => {
                    *self = before;
                    let mut codes = vec![OpResult::Error(ErrorCode::OK); at];
                    codes.push(OpResult::Error(code));
                    codes.resize(ops.len(), OpResult::Error(ErrorCode::RUNTIMEINCONSISTENCY));
                    return Ok(Reply::Multi(codes));
                }
            }
        }
        Ok(Reply::Multi(results))
    }

    /// Puts a configuration in force, if that may be done by one who is all of these.
    ///
    /// # Errors
    /// The code that the client is told.
    pub fn reconfigure(&mut self, writer: Writer<'_>, new: Roster) -> Result<(String, Stat), ErrorCode> {
        self.changes.clear();
        may(writer.identities, self.list(CONFIG).unwrap_or_default(), 2)?;
        let text = new.text();
        self.begin_with(new);
        self.change(CONFIG, |node| node.mtime = writer.time);
        let acl = self.list(CONFIG).map(<[Entry]>::to_vec).unwrap_or_default();
        self.note(CHANGED, CONFIG, acl);
        Ok((text, self.stat(CONFIG)))
    }

    /// Whether a session may ask for other members at all.
    ///
    /// # Errors
    /// The code that the client is told.
    pub fn may_reconfigure(&self, writer: Writer<'_>) -> Result<(), ErrorCode> {
        if self.may_change { writer.standing } else { Err(ErrorCode::RECONFIGDISABLED) }
    }

    /// The configuration that a request makes, rights aside.
    ///
    /// # Errors
    /// The code that the client is told.
    pub fn reconfigured(&self, writer: Writer<'_>, wanted: &Reconfig<'_>) -> Result<Roster, ErrorCode> {
        self.roster.as_ref().ok_or(ErrorCode::UNIMPLEMENTED)?.changed(wanted, writer.zxid.0)
    }

    fn one<'r>(&mut self, writer: Writer<'_>, request: &'r Request<'r>) -> Result<OpResult<'r>, ErrorCode> {
        if !matches!(request, Request::Create(_)) {
            writer.standing?;
        }
        match request {
            Request::Create(create) => self.create(writer, create),
            Request::Delete { path, version } => {
                if !is_plausible(path) || FIXED.contains(&&**path) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                let parent = self.nodes.get(split(path).0).ok_or(ErrorCode::NONODE)?;
                may(writer.identities, &parent.acl, 8)?;
                let node = self.nodes.get(&**path).ok_or(ErrorCode::NONODE)?;
                expect(*version, node.version)?;
                if !node.children.is_empty() {
                    return Err(ErrorCode::NOTEMPTY);
                }
                self.remove(path, writer.zxid.0);
                Ok(OpResult::Delete)
            }
            Request::SetData { path, data, version } => {
                let node = self.valid(path)?;
                may(writer.identities, &node.acl, 2)?;
                expect(*version, node.version)?;
                let acl = node.acl.clone();
                self.change(path, |node| {
                    node.data = data.map(<[u8]>::to_vec);
                    node.version = node.version.wrapping_add(1);
                    (node.mzxid, node.mtime) = (writer.zxid.0, writer.time);
                });
                self.note(CHANGED, path, acl);
                Ok(OpResult::SetData(self.stat(path)))
            }
            Request::SetAcl { path, acl, version } => {
                if !is_path(path) {
                    return Err(ErrorCode::BADARGUMENTS);
                }
                let list = expand(acl.as_ref(), writer.identities)?;
                let node = self.valid(path)?;
                may(writer.identities, &node.acl, 16)?;
                expect(*version, node.aversion)?;
                self.change(path, |node| {
                    node.acl = list;
                    node.aversion = node.aversion.wrapping_add(1);
                });
                Ok(OpResult::SetData(self.stat(path)))
            }
            Request::Check { path, version } => {
                let node = self.valid(path)?;
                may(writer.identities, &node.acl, 1)?;
                expect(*version, node.version)?;
                Ok(OpResult::Check)
            }
            _ => Err(ErrorCode::UNIMPLEMENTED),
        }
    }

    fn valid(&self, path: &str) -> Result<&Znode, ErrorCode> {
        if !is_path(path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        self.nodes.get(path).ok_or(ErrorCode::NONODE)
    }

    fn create<'r>(&mut self, writer: Writer<'_>, create: &'r Create<'r>) -> Result<OpResult<'r>, ErrorCode> {
        let mode = CreateMode::from_flags(create.flags).ok_or(ErrorCode::BADARGUMENTS)?;
        if mode.ttl && !self.extended_types {
            return Err(ErrorCode::UNIMPLEMENTED);
        }
        let is_ttl = create.op == OpCode::CreateTtl;
        if mode.ttl != is_ttl || is_ttl && !(1..=TTL_MAX).contains(&create.ttl) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        writer.standing?;
        if !is_plausible(&create.path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let acl = expand(create.acl.as_ref(), writer.identities)?;
        let parent_path = split(&create.path).0.to_owned();
        let parent = self.nodes.get(&parent_path).ok_or(ErrorCode::NONODE)?;
        may(writer.identities, &parent.acl, 4)?;
        let path: Cow<'r, str> = if mode.sequential {
            format!("{}{:010}", create.path, parent.created).into()
        } else {
            Cow::Borrowed(&create.path)
        };
        if !is_path(&path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        if self.nodes.contains_key(&*path) {
            return Err(ErrorCode::NODEEXISTS);
        }
        if matches!(parent.owner, Owner::Session(_)) {
            return Err(ErrorCode::NOCHILDRENFOREPHEMERALS);
        }
        let owner = match create.op {
            OpCode::CreateContainer => Owner::Container,
            OpCode::CreateTtl => Owner::Ttl(create.ttl),
            _ if mode.ephemeral => Owner::Session(writer.session),
            _ => Owner::Nobody,
        };
        let (zxid, time) = (writer.zxid.0, writer.time);
        let node = Znode {
            data: create.data.map(<[u8]>::to_vec),
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time,
            mtime: time,
            version: 0,
            created: 0,
            aversion: 0,
            owner,
            acl: acl.clone(),
            children: BTreeSet::new(),
        };
        self.insert(&path, node);
        let name = split(&path).1.to_owned();
        self.change(&parent_path, |parent| {
            parent.children.insert(name);
            parent.created = parent.created.wrapping_add(1);
            parent.pzxid = zxid;
        });
        self.note(CREATED, &path, acl);
        let stat = self.stat(&path);
        Ok(if create.op == OpCode::Create { OpResult::Create(path) } else { OpResult::Create2(path, stat) })
    }

    fn stat(&self, path: &str) -> Stat {
        self.find(path).map(stat_of).unwrap_or_default()
    }

    /// Answers a read.
    ///
    /// # Errors
    /// The code that the client is told.
    pub fn read<'r>(
        &'r self,
        session: i64,
        identities: &'r [Identity],
        request: &'r Request<'r>,
    ) -> Result<Reply<'r>, ErrorCode> {
        let readable = |path: &str| {
            let node = self.find(path)?;
            may(identities, &node.acl, 1).map(|()| node)
        };
        Ok(match request {
            Request::Ping | Request::SetWatches(_) | Request::SetWatches2(_) | Request::Auth { .. } => {
                Reply::Empty
            }
            Request::GetData { path, .. } => {
                let node = readable(path)?;
                Reply::Data(node.data.as_deref(), stat_of(node))
            }
            Request::Exists { path, .. } => Reply::Stat(stat_of(readable(path)?)),
            Request::GetChildren { path, .. } => Reply::Names(names(readable(path)?)),
            Request::GetChildren2 { path, .. } => {
                let node = readable(path)?;
                Reply::NamesStat(names(node), stat_of(node))
            }
            Request::GetAcl { path } => self.get_acl(identities, path)?,
            Request::GetAllChildrenNumber { path } => {
                readable(path)?;
                Reply::Count(self.descendants(path))
            }
            Request::GetEphemerals { prefix } => {
                let prefix = prefix.as_deref().filter(|p| !p.trim().is_empty() && *p != "/").unwrap_or("");
                let mine = self.owned_by(session).filter(|path| path.starts_with(prefix));
                Reply::Names(Names::List(mine.map(Cow::Borrowed).collect()))
            }
            Request::Sync { path } => Reply::Path(path.as_deref().map(Cow::Borrowed)),
            Request::WhoAmI => Reply::Identities(
                identities.iter().map(|i| (Cow::Borrowed(&*i.scheme), Cow::Borrowed(user_of(i)))).collect(),
            ),
            Request::MultiRead(reads) => {
                let one = |read: &'r Request<'r>| match self.read(session, identities, read) {
                    Ok(Reply::Data(data, stat)) => OpResult::Data(data, stat),
                    Ok(Reply::Names(names)) => OpResult::Names(names),
                    Ok(_) => OpResult::Error(ErrorCode::MARSHALLINGERROR),
                    Err(code) => OpResult::Error(code),
                };
                Reply::Multi(reads.iter().map(one).collect())
            }
            _ => return Err(ErrorCode::UNIMPLEMENTED),
        })
    }

    fn descendants(&self, path: &str) -> i32 {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let below = self.nodes.keys().filter(|p| p.len() > prefix.len() && p.starts_with(&prefix));
        i32::try_from(below.count()).unwrap_or(i32::MAX)
    }

    fn get_acl(&self, identities: &[Identity], path: &str) -> Result<Reply<'static>, ErrorCode> {
        let node = self.find(path)?;
        may(identities, &node.acl, 1 | 16)?;
        let is_admin = may(identities, &node.acl, 16).is_ok();
        let hide = |id: &str| match id.split_once(':') {
            Some((user, _)) if !is_admin => format!("{user}:x"),
            _ => id.to_owned(),
        };
        let shown: Vec<Entry> = node
            .acl
            .iter()
            .map(|(perms, scheme, id)| {
                let id = if scheme == "digest" { hide(id) } else { id.clone() };
                (*perms, scheme.clone(), id)
            })
            .collect();
        let list: Vec<Acl<'_>> = shown.iter().map(|(p, s, i)| Acl::new(*p, s, i)).collect();
        Ok(Reply::Acl(AclList::from_entries(list.iter()), stat_of(node)))
    }
}

/// Whether one who is all of these may do this with what has this list.
///
/// # Errors
/// `NOAUTH`: it may not.
pub fn may(identities: &[Identity], acl: &[Entry], perm: i32) -> Result<(), ErrorCode> {
    let passes = |(perms, scheme, id): &Entry| {
        perms & perm != 0
            && match scheme.as_str() {
                "world" => id == "anyone",
                "ip" => identities.iter().any(|i| i.scheme == "ip" && in_network(&i.id, id)),
                _ => identities.iter().any(|i| *i.scheme == **scheme && *i.id == **id),
            }
    };
    let is_super = identities.iter().any(|i| i.scheme == "super");
    if is_super || acl.iter().any(passes) { Ok(()) } else { Err(ErrorCode::NOAUTH) }
}

fn in_network(address: &str, network: &str) -> bool {
    let number = |text: &str| text.parse::<std::net::Ipv4Addr>().map(u32::from).ok();
    let (base, bits) = network.split_once('/').unwrap_or((network, "32"));
    let (Some(address), Some(base), Ok(bits)) = (number(address), number(base), bits.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
    address & mask == base & mask
}

fn expand(acl: Option<&AclList<'_>>, identities: &[Identity]) -> Result<Vec<Entry>, ErrorCode> {
    let mut out: Vec<Entry> = Vec::new();
    let mut seen: Vec<Entry> = Vec::new();
    for entry in acl.ok_or(ErrorCode::INVALIDACL)?.iter() {
        let scheme = entry.scheme.as_deref().unwrap_or_default().to_owned();
        let id = entry.id.as_deref().unwrap_or_default().to_owned();
        let entry = (entry.perms, scheme, id);
        if seen.contains(&entry) {
            continue;
        }
        seen.push(entry.clone());
        match entry.1.as_str() {
            "auth" => {
                let mine: Vec<&Identity> = identities.iter().filter(|i| i.scheme == "digest").collect();
                if mine.is_empty() {
                    return Err(ErrorCode::INVALIDACL);
                }
                out.extend(mine.iter().map(|i| (entry.0, "digest".to_owned(), i.id.to_string())));
            }
            "world" if entry.2 != "anyone" => return Err(ErrorCode::INVALIDACL),
            "world" | "ip" | "digest" => out.push(entry),
            _ => return Err(ErrorCode::INVALIDACL),
        }
    }
    if out.is_empty() { Err(ErrorCode::INVALIDACL) } else { Ok(out) }
}

fn expect(expected: i32, version: i32) -> Result<(), ErrorCode> {
    if expected == -1 || expected == version { Ok(()) } else { Err(ErrorCode::BADVERSION) }
}

fn names(node: &Znode) -> Names<'_> {
    Names::List(node.children.iter().map(|name| Cow::Borrowed(&**name)).collect())
}

fn user_of(identity: &Identity) -> &str {
    match &*identity.scheme {
        "digest" => identity.id.split(':').next().unwrap_or_default(),
        _ => &identity.id,
    }
}

fn stat_of(node: &Znode) -> Stat {
    let children = i32::try_from(node.children.len()).unwrap_or(i32::MAX);
    Stat {
        czxid: Zxid(node.czxid),
        mzxid: Zxid(node.mzxid),
        ctime: node.ctime,
        mtime: node.mtime,
        version: node.version,
        // Creations and deletions together.
        cversion: node.created.wrapping_mul(2).wrapping_sub(children),
        aversion: node.aversion,
        ephemeral_owner: if let Owner::Session(session) = node.owner { session } else { 0 },
        data_length: i32::try_from(node.data.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX),
        num_children: children,
        pzxid: Zxid(node.pzxid),
    }
}

/// Path, data and stored counters of a znode, as CRC-32; those under `/zookeeper` do not count.
fn node_digest(path: &str, node: &Znode) -> u64 {
    if path.starts_with("/zookeeper/") {
        return 0;
    }
    let mut bytes = if path == "/" { Vec::new() } else { path.as_bytes().to_vec() };
    bytes.extend_from_slice(node.data.as_deref().unwrap_or_default());
    for long in [node.czxid, node.mzxid, node.pzxid, node.ctime, node.mtime] {
        bytes.extend_from_slice(&long.to_be_bytes());
    }
    for int in [node.version, node.created, node.aversion] {
        bytes.extend_from_slice(&int.to_be_bytes());
    }
    let owner = match node.owner {
        Owner::Nobody => 0,
        Owner::Session(session) => session,
        Owner::Container => i64::MIN,
        Owner::Ttl(ms) => (0xff << 56) | ms,
    };
    bytes.extend_from_slice(&owner.to_be_bytes());
    u64::from(crc32fast::hash(&bytes))
}

/// The parent's path, and the name.
fn split(path: &str) -> (&str, &str) {
    match path.rfind('/') {
        Some(0) | None => ("/", path.get(1..).unwrap_or_default()),
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
    }
}

fn is_plausible(path: &str) -> bool {
    path.contains('/') && !path.contains('\0')
}

fn is_path(path: &str) -> bool {
    let forbidden = |c: char| c <= '\u{1f}' || ('\u{7f}'..='\u{9f}').contains(&c);
    path == "/"
        || path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !["", ".", ".."].contains(&part) && !part.chars().any(forbidden))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(zxid: i64) -> Writer<'static> {
        Writer { session: 7, identities: &[], zxid: Zxid(zxid), time: zxid * 10, standing: Ok(()) }
    }

    fn create(path: &str, flags: i32) -> Request<'_> {
        Request::Create(Create {
            op: OpCode::Create,
            path: path.into(),
            data: None,
            acl: Some(AclList::OPEN),
            flags,
            ttl: -1,
        })
    }

    #[test]
    fn names_count_creations_and_a_failed_list_leaves_nothing() {
        let mut model = Model::new(false);
        model.write(writer(1), &create("/a", 0)).unwrap();
        model.write(writer(2), &create("/a/s-", 2)).unwrap();
        model.write(writer(3), &Request::Delete { path: "/a/s-0000000000".into(), version: -1 }).unwrap();
        let before = model.digest();
        let missing = Request::Delete { path: "/nope".into(), version: -1 };
        let list = Request::Multi(vec![create("/b", 0), missing]);
        let codes = vec![OpResult::Error(ErrorCode::OK), OpResult::Error(ErrorCode::NONODE)];
        assert_eq!(model.write(writer(4), &list), Ok(Reply::Multi(codes)));
        assert_eq!(model.digest(), before);
        let request = create("/a/s-", 2);
        let made = model.write(writer(5), &request).unwrap();
        assert_eq!(made, Reply::Path(Some("/a/s-0000000001".into())));
        assert_eq!(model.stat("/a").cversion, 3, "two creations, one deletion");
    }

    #[test]
    fn closing_takes_what_the_session_owns() {
        let mut model = Model::new(false);
        model.open_session(7, 100);
        model.write(writer(1), &create("/mine", 1)).unwrap();
        model.write(writer(2), &create("/kept", 0)).unwrap();
        assert_eq!(model.close_session(7, Zxid(3)), BTreeSet::from(["/mine".to_owned()]));
        assert_eq!(model.changes.len(), 1);
        assert!(model.orphans().is_empty() && model.list("/kept").is_some() && model.list("/mine").is_none());
    }
}
