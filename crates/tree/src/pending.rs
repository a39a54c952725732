//! What is proposed but not applied yet, laid over the committed tree: the view in which requests are
//! checked. It can be rolled back to the start of the request at hand, so a multi that fails leaves no trace.

use std::collections::VecDeque;
use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{AclList, SessionId, StatPersisted, Zxid};

use crate::digest;
use crate::hash::{Map, Seeded};
use crate::nodes::Slot;
use crate::owner::Owner;
use crate::tree::Tree;

/// A node as it will be once everything proposed is applied.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// The last proposal that touches it.
    zxid: Zxid,
    pub(crate) alive: bool,
    pub(crate) stat: StatPersisted,
    pub(crate) children: u32,
    pub(crate) acl: DraftAcl,
    pub(crate) prefix_crc: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum DraftAcl {
    /// A number of the committed table.
    Committed(u32),
    /// A list that a proposal brings.
    Proposed(Arc<AclList<'static>>),
}

/// The overlay. Its digest is what the tree's will be.
#[derive(Debug)]
pub struct Pending {
    drafts: Map<Arc<str>, Draft>,
    /// Which proposal touched which path, in order.
    touched: VecDeque<(Zxid, Arc<str>)>,
    digest: u64,
    undo: Vec<(Arc<str>, Option<Draft>)>,
    undo_digest: u64,
}

impl Pending {
    /// An empty overlay over `tree`.
    #[must_use]
    pub fn new(seed: u64, tree: &Tree) -> Pending {
        Pending {
            drafts: Map::with_hasher(Seeded::new(seed)),
            touched: VecDeque::new(),
            digest: tree.digest().cast_unsigned(),
            undo: Vec::new(),
            undo_digest: 0,
        }
    }

    /// The digest of the tree once everything proposed is applied.
    #[must_use]
    pub fn digest(&self) -> i64 {
        self.digest.cast_signed()
    }

    /// Number of changes that wait to be applied.
    #[must_use]
    pub fn len(&self) -> usize {
        self.touched.len()
    }

    /// Whether everything proposed is applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty()
    }

    /// Whether something proposed that is not applied yet creates, changes or removes the node, or a child of it.
    #[must_use]
    pub fn touches(&self, path: &str) -> bool {
        self.drafts.contains_key(path)
    }

    /// Forgets what is applied now.
    pub fn applied(&mut self, zxid: Zxid) {
        while let Some((first, _)) = self.touched.front()
            && *first <= zxid
            && let Some((_, path)) = self.touched.pop_front()
        {
            if self.drafts.get(&path).is_some_and(|draft| draft.zxid <= zxid) {
                self.drafts.remove(&path);
            }
        }
    }

    /// From here on changes can be rolled back.
    pub(crate) fn mark(&mut self) {
        self.undo.clear();
        self.undo_digest = self.digest;
    }

    /// Undoes everything since the mark: the request at hand leaves no trace.
    pub fn roll_back(&mut self) {
        self.digest = self.undo_digest;
        while let Some((path, before)) = self.undo.pop() {
            self.touched.pop_back();
            match before {
                Some(draft) => self.drafts.insert(path, draft),
                None => self.drafts.remove(&path),
            };
        }
    }

    /// The node as it will be, if it will be there.
    #[inline]
    pub(crate) fn draft(&self, tree: &Tree, path: &str) -> Option<Draft> {
        let path = if path.is_empty() { "/" } else { path };
        if !self.drafts.is_empty()
            && let Some(draft) = self.drafts.get(path)
        {
            return draft.alive.then(|| draft.clone());
        }
        let slot = tree.nodes.find(path)?;
        Some(committed(tree, slot))
    }

    /// Replaces a node. `before` is what [`Pending::draft`] gave, `None` for a new node.
    pub(crate) fn put(&mut self, tree: &Tree, path: &str, zxid: Zxid, before: Option<&Draft>, after: Draft) {
        let path = if path.is_empty() { "/" } else { path };
        if tree.rules.digest && digest::counts(path) {
            if let Some(before) = before {
                self.digest = self.digest.wrapping_sub(digest::node(before.prefix_crc, &before.stat));
            }
            if after.alive {
                self.digest = self.digest.wrapping_add(digest::node(after.prefix_crc, &after.stat));
            }
        }
        let key: Arc<str> = match self.drafts.get_key_value(path) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(path),
        };
        let old = self.drafts.insert(Arc::clone(&key), Draft { zxid, ..after });
        // What the same transaction touched before is noted already, with what was there before it.
        if old.as_ref().is_none_or(|old| old.zxid != zxid) {
            self.touched.push_back((zxid, Arc::clone(&key)));
            self.undo.push((key, old));
        }
    }

    /// The session's ephemerals once everything proposed is applied, in the order of their paths.
    pub(crate) fn ephemerals(&self, tree: &Tree, session: SessionId) -> Vec<String> {
        if is(Fault::PendingEphemeralLeft) {
            return tree.ephemerals(session).collect();
        }
        let gone = |path: &String| self.drafts.get(path.as_str()).is_some_and(|d| !d.owned_by(tree, session));
        let mut paths: Vec<String> = tree.ephemerals(session).filter(|path| !gone(path)).collect();
        for (path, draft) in &self.drafts {
            let is_known = || tree.find(path).is_some_and(|node| node.owner() == Owner::Session(session));
            if draft.owned_by(tree, session) && !is_known() && !is(Fault::PendingEphemeralLeft) {
                paths.push(path.to_string());
            }
        }
        paths.sort_unstable();
        paths
    }
}

impl Draft {
    /// A node that comes to be.
    pub(crate) fn new(stat: StatPersisted, acl: DraftAcl, prefix_crc: u32) -> Draft {
        Draft { zxid: stat.czxid, alive: true, stat, children: 0, acl, prefix_crc }
    }

    /// The node once it is gone.
    pub(crate) fn dead(&self) -> Draft {
        Draft { alive: false, ..self.clone() }
    }

    fn owned_by(&self, tree: &Tree, session: SessionId) -> bool {
        self.alive
            && Owner::from_stored(self.stat.ephemeral_owner, tree.rules.owners) == Owner::Session(session)
    }

    /// Its access control list; `None` if nobody knows it.
    pub(crate) fn list<'a>(&'a self, tree: &'a Tree) -> Option<&'a AclList<'static>> {
        match &self.acl {
            DraftAcl::Committed(id) => tree.acls.get(*id),
            DraftAcl::Proposed(list) => Some(list),
        }
    }
}

fn committed(tree: &Tree, slot: Slot) -> Draft {
    let node = tree.nodes.get(slot);
    Draft {
        zxid: Zxid::ZERO,
        alive: true,
        stat: tree.stored_stat(slot),
        children: tree.nodes.children_len(slot),
        acl: DraftAcl::Committed(node.acl),
        prefix_crc: node.prefix_crc,
    }
}
