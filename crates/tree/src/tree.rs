//! The committed state: znodes, who owns which, sessions, quotas, and the digest over it all.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use oxkeeper_proto::{AclList, SessionId, Stat, StatPersisted, Zxid, path};

use crate::acl::{self, AclTable, Schemes};
use crate::digest;
use crate::hash::{Map, Seeded};
use crate::nodes::{Birth, Nodes, Slot};
use crate::owner::{Owner, OwnerRules};
use crate::quota::{self, Quotas, StatsTrack};
use crate::view::View;

/// What an operator can switch that changes what the tree does. Equal on all servers of an ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Which values of `ephemeralOwner` are understood.
    pub owners: OwnerRules,
    /// Which schemes of identities can be checked.
    pub schemes: Schemes,
    /// `skipACL`: nothing is checked.
    pub skip_acl: bool,
    /// `enforceQuota`: hard limits refuse.
    pub enforce_quota: bool,
    /// `digest.enabled`: transactions and snapshots carry a digest.
    pub digest: bool,
    /// `closeSessionTxn.enabled`: closing a session lists its ephemerals in the transaction.
    pub list_closed: bool,
}

impl Rules {
    /// Java's defaults.
    pub const DEFAULT: Rules = Rules {
        owners: OwnerRules { extended_types: false, emulate_353: false },
        schemes: Schemes { ip: true, digest: true },
        skip_acl: false,
        enforce_quota: false,
        digest: true,
        list_closed: true,
    };
}

/// A session as every server knows it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    /// `None`: only its ephemerals are known. Replay meets such sessions; live there are none.
    pub(crate) timeout_ms: Option<i32>,
    pub(crate) ephemerals: BTreeSet<Slot>,
}

/// One entry of the digest log that the `hash` command shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestEntry {
    /// After which transaction.
    pub zxid: Zxid,
    /// The digest of the tree.
    pub digest: i64,
}

const DIGEST_LOG_INTERVAL: i64 = 128;
const DIGEST_LOG_MAX: usize = 1024;

/// The replicated state of one server.
#[derive(Debug)]
pub struct Tree {
    pub(crate) rules: Rules,
    pub(crate) seeded: Seeded,
    pub(crate) nodes: Nodes,
    pub(crate) acls: AclTable,
    /// Stored owners of ephemerals, containers and TTL znodes: few znodes have one.
    pub(crate) owners: Map<Slot, i64>,
    /// Containers and TTL znodes.
    pub(crate) reapable: BTreeSet<Slot>,
    pub(crate) sessions: Map<SessionId, Session>,
    pub(crate) ephemerals: usize,
    pub(crate) quotas: Quotas,
    pub(crate) digest: u64,
    pub(crate) last_zxid: Zxid,
    pub(crate) digest_log: VecDeque<DigestEntry>,
    pub(crate) view: Option<View>,
}

impl Tree {
    /// A tree with the four znodes that every ZooKeeper is born with. `seed` orders its maps.
    #[must_use]
    pub fn new(seed: u64, rules: Rules) -> Tree {
        let mut tree = Tree::bare(seed, rules);
        tree.add_fixed();
        tree
    }

    /// A tree with a root and nothing else, to load a snapshot into.
    pub(crate) fn bare(seed: u64, rules: Rules) -> Tree {
        let seeded = Seeded::new(seed);
        let mut tree = Tree {
            rules,
            nodes: Nodes::new(seeded.clone()),
            acls: AclTable::new(&seeded),
            owners: Map::with_hasher(seeded.clone()),
            reapable: BTreeSet::new(),
            sessions: Map::with_hasher(seeded.clone()),
            ephemerals: 0,
            quotas: Quotas::new(&seeded),
            digest: 0,
            last_zxid: Zxid::ZERO,
            digest_log: VecDeque::new(),
            view: None,
            seeded,
        };
        tree.digest = tree.node_digest(Slot::ROOT);
        tree
    }

    /// Adds those of the four fixed znodes that are not there.
    pub(crate) fn add_fixed(&mut self) {
        for (path, config) in [("/zookeeper", false), (path::QUOTA, false), (path::CONFIG, true)] {
            if self.nodes.find(path).is_some() {
                continue;
            }
            let acl = if config { self.acls.acquire(&AclList::READ_ONLY) } else { acl::OPEN };
            let aversion = if config { -1 } else { 0 };
            let stat = StatPersisted { aversion, ..StatPersisted::default() };
            let parent = path::parent(path).and_then(|parent| self.nodes.find(parent)).unwrap_or(Slot::ROOT);
            self.add(parent, path, Some(b""), acl, stat);
        }
    }

    /// The node at `path`, to read. The empty string is another name of the root.
    #[must_use]
    #[inline]
    pub fn find(&self, path: &str) -> Option<NodeRef<'_>> {
        self.nodes.find(path).map(|slot| NodeRef { tree: self, slot })
    }

    /// The newest transaction applied.
    #[must_use]
    pub fn last_zxid(&self) -> Zxid {
        self.last_zxid
    }

    /// Sets the newest transaction, for a tree that a snapshot brought to it.
    pub fn set_last_zxid(&mut self, zxid: Zxid) {
        self.last_zxid = zxid;
    }

    /// The digest over all znodes that count.
    #[must_use]
    pub fn digest(&self) -> i64 {
        self.digest.cast_signed()
    }

    /// Digests at every 128th transaction, oldest first.
    pub fn digest_log(&self) -> impl Iterator<Item = DigestEntry> + '_ {
        self.digest_log.iter().copied()
    }

    /// Number of znodes, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there is always a root.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of names and data.
    #[must_use]
    pub fn approximate_bytes(&self) -> u64 {
        self.nodes.bytes()
    }

    /// The rules it was made with.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// All sessions with their timeouts in ms, in no order that means anything.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, i32)> + '_ {
        self.sessions.iter().filter_map(|(id, session)| Some((*id, session.timeout_ms?)))
    }

    /// A session's timeout in ms, if it is open.
    #[must_use]
    pub fn session_timeout_ms(&self, session: SessionId) -> Option<i32> {
        self.sessions.get(&session)?.timeout_ms
    }

    /// The paths of a session's ephemerals.
    pub fn ephemerals(&self, session: SessionId) -> impl Iterator<Item = String> + '_ {
        self.sessions.get(&session).into_iter().flat_map(|s| &s.ephemerals).map(|slot| self.nodes.path(*slot))
    }

    /// How many of a session's ephemerals have a path that begins with `prefix`, and these paths as a reply
    /// carries them: each a big-endian length and its bytes.
    #[must_use]
    pub fn encoded_ephemerals(&self, session: SessionId, prefix: &str) -> (usize, Vec<u8>) {
        let (mut count, mut out) = (0, Vec::new());
        for slot in self.sessions.get(&session).into_iter().flat_map(|s| &s.ephemerals) {
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            self.nodes.write_path(*slot, &mut out);
            let path = out.get(start + 4..).unwrap_or_default();
            if path.starts_with(prefix.as_bytes()) {
                let len = u32::try_from(path.len()).unwrap_or(u32::MAX).to_be_bytes();
                if let Some(place) = out.get_mut(start..start + 4) {
                    place.copy_from_slice(&len);
                }
                count += 1;
            } else {
                out.truncate(start);
            }
        }
        (count, out)
    }

    /// At most `most` of a session's ephemerals, from a place in their order on, and the place where to go on.
    #[must_use]
    pub fn ephemerals_from(&self, session: SessionId, place: u32, most: usize) -> (Vec<String>, Option<u32>) {
        let Some(session) = self.sessions.get(&session) else { return (Vec::new(), None) };
        let mut slots = session.ephemerals.range(Slot(place)..);
        let paths = slots.by_ref().take(most).map(|slot| self.nodes.path(*slot)).collect();
        (paths, slots.next().map(|slot| slot.0))
    }

    /// Sessions that own ephemerals, by id.
    #[must_use]
    pub fn sessions_with_ephemerals(&self) -> Vec<SessionId> {
        let mut ids: Vec<SessionId> =
            self.sessions.iter().filter(|(_, s)| !s.ephemerals.is_empty()).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Number of ephemerals.
    #[must_use]
    pub fn ephemerals_len(&self) -> usize {
        self.ephemerals
    }

    /// Containers and TTL znodes that may go at `now_ms`, of the first `most` from a place in their order on,
    /// and the place where to go on. A container that never had a child goes after `never_used_ms`, if that is
    /// not 0.
    ///
    /// Source: `ContainerManager.getCandidates`.
    #[must_use]
    pub fn reapable(
        &self,
        now_ms: i64,
        never_used_ms: i64,
        place: u32,
        most: usize,
    ) -> (Vec<String>, Option<u32>) {
        let due = |slot: &&Slot| {
            let node = self.nodes.get(**slot);
            let age_ms = now_ms.saturating_sub(node.mtime);
            self.nodes.children_len(**slot) == 0
                && match self.owner(**slot) {
                    Owner::Container if node.cversion > 0 => true,
                    Owner::Container => never_used_ms != 0 && age_ms > never_used_ms,
                    Owner::Ttl(ttl_ms) => age_ms > ttl_ms,
                    Owner::None | Owner::Session(_) => false,
                }
        };
        let mut slots = self.reapable.range(Slot(place)..);
        let paths = slots.by_ref().take(most).filter(due).map(|slot| self.nodes.path(*slot)).collect();
        (paths, slots.next().map(|slot| slot.0))
    }

    pub(crate) fn stored_owner(&self, slot: Slot) -> i64 {
        if self.nodes.get(slot).is_owned() { self.owners.get(&slot).copied().unwrap_or(0) } else { 0 }
    }

    pub(crate) fn owner(&self, slot: Slot) -> Owner {
        Owner::from_stored(self.stored_owner(slot), self.rules.owners)
    }

    #[inline]
    pub(crate) fn stored_stat(&self, slot: Slot) -> StatPersisted {
        let node = self.nodes.get(slot);
        StatPersisted {
            czxid: node.czxid,
            mzxid: node.mzxid,
            ctime: node.ctime,
            mtime: node.mtime,
            version: node.version,
            cversion: node.cversion,
            aversion: node.aversion,
            ephemeral_owner: self.stored_owner(slot),
            pzxid: node.pzxid,
        }
    }

    #[inline]
    pub(crate) fn stat(&self, slot: Slot) -> Stat {
        let mut stored = self.stored_stat(slot);
        if stored.ephemeral_owner != 0 {
            stored.ephemeral_owner = self.owner(slot).seen_by_clients();
        }
        let data_length = self.nodes.get(slot).data_len() as i32;
        stored.seen_by_clients(data_length, self.nodes.children_len(slot).cast_signed())
    }

    pub(crate) fn node_digest(&self, slot: Slot) -> u64 {
        digest::node(self.nodes.get(slot).prefix_crc, &self.stored_stat(slot))
    }

    /// Takes a node out of the digest before a change, or puts it back after.
    #[inline]
    pub(crate) fn leave_digest(&mut self, slot: Slot, path: &str) {
        if self.rules.digest && digest::counts(path) {
            self.digest = self.digest.wrapping_sub(self.node_digest(slot));
        }
    }

    #[inline]
    pub(crate) fn enter_digest(&mut self, slot: Slot, path: &str) {
        if self.rules.digest && digest::counts(path) {
            self.digest = self.digest.wrapping_add(self.node_digest(slot));
        }
    }

    /// Adds a znode and everything that hangs on it, but for the parent's counters.
    pub(crate) fn add(
        &mut self,
        parent: Slot,
        path: &str,
        data: Option<&[u8]>,
        acl: u32,
        stat: StatPersisted,
    ) -> Slot {
        let prefix_crc = if self.rules.digest { digest::prefix(path, data) } else { 0 };
        let birth = Birth { name: path::name(path), data, stat, acl, prefix_crc };
        let slot = self.nodes.insert(parent, path, &birth);
        if let Some(view) = &mut self.view {
            view.skip(slot);
        }
        if stat.ephemeral_owner != 0 {
            self.owners.insert(slot, stat.ephemeral_owner);
            match self.owner(slot) {
                Owner::Session(session) => {
                    self.ephemerals += 1;
                    self.sessions.entry(session).or_default().ephemerals.insert(slot);
                }
                Owner::Container | Owner::Ttl(_) => {
                    self.reapable.insert(slot);
                }
                Owner::None => {}
            }
        }
        self.enter_digest(slot, path);
        slot
    }

    /// Removes a childless znode and everything that hangs on it, but for the parent's counters.
    pub(crate) fn take_out(&mut self, slot: Slot, path: &str) {
        self.freeze(slot);
        self.leave_digest(slot, path);
        if self.nodes.get(slot).is_owned() {
            match self.owner(slot) {
                Owner::Session(session) => {
                    self.ephemerals -= 1;
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.ephemerals.remove(&slot);
                    }
                }
                Owner::Container | Owner::Ttl(_) => {
                    self.reapable.remove(&slot);
                }
                Owner::None => {}
            }
            self.owners.remove(&slot);
        }
        let acl = self.nodes.get(slot).acl;
        self.acls.release(acl);
        self.nodes.remove(slot, path);
    }

    /// Replaces data and the stat that goes with it.
    pub(crate) fn replace_data(&mut self, slot: Slot, path: &str, data: Option<&[u8]>) {
        self.nodes.set_data(slot, data);
        if self.rules.digest {
            self.nodes.get_mut(slot).prefix_crc = digest::prefix(path, data);
        }
    }

    /// Replaces what `/zookeeper/config` shows, where no transaction does. It is in no digest, and its times are not
    /// touched: every server of an ensemble must hold the same.
    pub fn set_config(&mut self, text: &[u8], version: Zxid) {
        let Some(slot) = self.nodes.find(path::CONFIG) else { return };
        self.freeze(slot);
        self.replace_data(slot, path::CONFIG, Some(text));
        let node = self.nodes.get_mut(slot);
        node.version = -1;
        node.mzxid = version;
    }

    /// Notes that `zxid` is applied.
    pub(crate) fn advance(&mut self, zxid: Zxid) {
        self.last_zxid = self.last_zxid.max(zxid);
        if self.rules.digest && zxid.0 % DIGEST_LOG_INTERVAL == 0 {
            if self.digest_log.len() == DIGEST_LOG_MAX {
                self.digest_log.pop_front();
            }
            self.digest_log.push_back(DigestEntry { zxid, digest: self.digest() });
        }
    }

    /// Rewrites the usage of the quota over `path`, if there is one. No transaction, no version, no watch.
    pub(crate) fn count_usage(&mut self, path: &str, znodes: i64, bytes: i64) {
        let Some(subtree) = self.quotas.over(path) else { return };
        let stats = quota::node(subtree, quota::STATS);
        let Some(slot) = self.nodes.find(&stats) else { return };
        let now = StatsTrack::parse(self.nodes.get(slot).data().unwrap_or_default());
        let text = StatsTrack::usage(now.count.saturating_add(znodes), now.bytes.saturating_add(bytes));
        self.freeze(slot);
        self.nodes.set_data(slot, Some(text.as_bytes()));
        self.refresh_prefix(slot, &stats);
    }

    /// Counts a subtree afresh into its stats znode.
    pub(crate) fn recount_usage(&mut self, subtree: &str) {
        let stats = quota::node(subtree, quota::STATS);
        let Some(slot) = self.nodes.find(&stats) else { return };
        let (count, bytes) = self.nodes.find(subtree).map_or((0, 0), |top| {
            (i64::from(self.nodes.descendants_len(top)) + 1, self.nodes.data_bytes_below(top).cast_signed())
        });
        self.freeze(slot);
        self.nodes.set_data(slot, Some(StatsTrack::usage(count, bytes).as_bytes()));
        self.refresh_prefix(slot, &stats);
    }

    fn refresh_prefix(&mut self, slot: Slot, path: &str) {
        // Bookkeeping znodes lie below /zookeeper and are not in the digest; the prefix must still fit.
        let prefix = digest::prefix(path, self.nodes.get(slot).data());
        self.nodes.get_mut(slot).prefix_crc = prefix;
    }
}

/// A znode, to read.
#[derive(Clone, Copy)]
pub struct NodeRef<'t> {
    tree: &'t Tree,
    slot: Slot,
}

impl<'t> NodeRef<'t> {
    /// The data; null is kept apart from empty.
    #[must_use]
    #[inline]
    pub fn data(&self) -> Option<&'t [u8]> {
        self.tree.nodes.get(self.slot).data()
    }

    /// The stat as clients see it.
    #[must_use]
    #[inline]
    pub fn stat(&self) -> Stat {
        self.tree.stat(self.slot)
    }

    /// The stat as it is stored.
    #[must_use]
    pub fn stored_stat(&self) -> StatPersisted {
        self.tree.stored_stat(self.slot)
    }

    /// Who or what its life hangs on.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.tree.owner(self.slot)
    }

    /// The access control list; `None` if a fuzzy snapshot lacked it, and then nobody passes.
    #[must_use]
    pub fn acl(&self) -> Option<&'t AclList<'static>> {
        self.tree.acls.get(self.tree.nodes.get(self.slot).acl)
    }

    /// Whether one of `identities` has one of the `wanted` permissions.
    #[must_use]
    #[inline]
    pub fn allows(&self, wanted: i32, identities: &[acl::Identity]) -> bool {
        let rules = &self.tree.rules;
        let id = self.tree.nodes.get(self.slot).acl;
        id == acl::OPEN
            || rules.skip_acl
            || self.acl().is_some_and(|list| acl::allows(list, wanted, identities, rules.schemes))
    }

    /// The names of the children, in no order that means anything.
    pub fn children(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        let nodes = &self.tree.nodes;
        nodes.children(self.slot).map(|(_, node)| std::str::from_utf8(node.name()).unwrap_or_default())
    }

    /// The names of the children as a reply carries them, in parts, if they are so many that they are kept in
    /// that form: each a big-endian length and its bytes.
    #[must_use]
    pub fn encoded_children(&self) -> Option<Vec<Arc<Vec<u8>>>> {
        let names = self.tree.nodes.encoded_names(self.slot)?;
        Some(names.parts())
    }

    /// Number of children.
    #[must_use]
    pub fn children_len(&self) -> u32 {
        self.tree.nodes.children_len(self.slot)
    }

    /// Bytes of data of the znode and all its descendants.
    #[must_use]
    pub fn data_bytes_below(&self) -> u64 {
        self.tree.nodes.data_bytes_below(self.slot)
    }

    /// Number of all descendants.
    #[must_use]
    pub fn descendants_len(&self) -> u32 {
        self.tree.nodes.descendants_len(self.slot)
    }
}

impl std::fmt::Debug for NodeRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeRef").field("slot", &self.slot).field("stat", &self.stored_stat()).finish()
    }
}
