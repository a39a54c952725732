//! Builds a tree from the records of a snapshot.

use oxkeeper_proto::{AclList, Reader, SessionId, StatPersisted, Zxid, path};
use thiserror::Error;

use crate::acl;
use crate::hash::Map;
use crate::nodes::Slot;
use crate::owner::Owner;
use crate::quota;
use crate::tree::{Rules, Tree};

/// A snapshot that cannot become a tree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A znode comes before its parent, or twice.
    #[error("Invalid Datatree, unable to find parent {parent} of path {path}")]
    Order {
        /// The znode.
        path: String,
        /// What should have come before.
        parent: String,
    },
    /// A znode comes twice.
    #[error("the snapshot holds {path} twice")]
    Twice {
        /// The znode.
        path: String,
    },
    /// A record that is none.
    #[error("malformed {what} in the snapshot")]
    Malformed {
        /// Which kind of record.
        what: &'static str,
    },
    /// Times to live are in the data but not enabled; Java would drop those znodes silently.
    #[error(
        "{path} has a time to live, but zookeeper.extendedTypesEnabled is not true: set it, as it was when \
             the data was written"
    )]
    TtlNotEnabled {
        /// The first such znode.
        path: String,
    },
}

/// Takes the records of a snapshot in their order.
#[derive(Debug)]
pub struct Loader {
    tree: Tree,
    /// From the ids in the file to ours.
    acls: Map<i64, AclList<'static>>,
    missing: usize,
}

impl Loader {
    /// An empty loader. `seed` orders the maps of the tree.
    #[must_use]
    pub fn new(seed: u64, rules: Rules) -> Loader {
        let tree = Tree::bare(seed, rules);
        let acls = Map::with_hasher(tree.seeded.clone());
        Loader { tree, acls, missing: 0 }
    }

    /// Adds a session.
    pub fn session(&mut self, id: SessionId, timeout_ms: i32) {
        self.tree.sessions.entry(id).or_default().timeout_ms = Some(timeout_ms);
    }

    /// Adds an access control list, encoded with its count.
    ///
    /// # Errors
    /// The bytes are no list.
    pub fn acl(&mut self, id: i64, encoded: &[u8]) -> Result<(), LoadError> {
        let list = AclList::decode(&mut Reader::new(encoded)).ok().flatten();
        let list = list.ok_or(LoadError::Malformed { what: "access control list" })?;
        self.acls.insert(id, list.into_owned());
        Ok(())
    }

    /// Adds a znode. `stat` holds the 60 stored bytes.
    ///
    /// # Errors
    /// Its path makes no sense, its parent has not come, it comes twice, or it has a time to live where that is not enabled.
    pub fn node(&mut self, path: &str, data: Option<&[u8]>, acl: i64, stat: &[u8]) -> Result<(), LoadError> {
        let stat = StatPersisted::decode(&mut Reader::new(stat))
            .map_err(|_| LoadError::Malformed { what: "stat" })?;
        // A name between two slashes that is empty would make another path of this one as soon as it is put together again.
        if path.ends_with('/') || path.contains("//") {
            return Err(LoadError::Malformed { what: "path" });
        }
        let rules = self.tree.rules.owners;
        if !rules.extended_types && Owner::looks_like_ttl(stat.ephemeral_owner) {
            return Err(LoadError::TtlNotEnabled { path: path.to_owned() });
        }
        let acl = match (acl, self.acls.get(&acl)) {
            (-1, _) => acl::OPEN,
            (_, Some(list)) => self.tree.acls.acquire(list),
            (_, None) => {
                self.missing += 1;
                acl::MISSING
            }
        };
        if path.is_empty() {
            return self.root(data, acl, stat);
        }
        let order = || LoadError::Order {
            path: path.to_owned(),
            parent: path::parent(path).unwrap_or_default().to_owned(),
        };
        let parent = path::parent(path).and_then(|parent| self.tree.nodes.find(parent)).ok_or_else(order)?;
        if self.tree.nodes.find(path).is_some() {
            return Err(LoadError::Twice { path: path.to_owned() });
        }
        self.tree.add(parent, path, data, acl, stat);
        Ok(())
    }

    fn root(&mut self, data: Option<&[u8]>, acl: u32, stat: StatPersisted) -> Result<(), LoadError> {
        let tree = &mut self.tree;
        tree.leave_digest(Slot::ROOT, "/");
        tree.replace_data(Slot::ROOT, "/", data);
        let node = tree.nodes.get_mut(Slot::ROOT);
        node.acl = acl;
        node.czxid = stat.czxid;
        node.mzxid = stat.mzxid;
        node.pzxid = stat.pzxid;
        node.ctime = stat.ctime;
        node.mtime = stat.mtime;
        node.version = stat.version;
        node.cversion = stat.cversion;
        node.aversion = stat.aversion;
        tree.enter_digest(Slot::ROOT, "/");
        Ok(())
    }

    /// The tree, at `zxid`.
    #[must_use]
    pub fn finish(mut self, zxid: Zxid) -> Tree {
        self.tree.add_fixed();
        self.tree.last_zxid = zxid;
        self.tree.register_quotas();
        self.tree
    }
}

impl Tree {
    /// Finds every quota and counts its usage afresh.
    fn register_quotas(&mut self) {
        let mut subtrees = Vec::new();
        let mut waiting: Vec<Slot> = self.nodes.find(path::QUOTA).into_iter().collect();
        while let Some(at) = waiting.pop() {
            for (child, node) in self.nodes.children(at) {
                if node.name() == quota::LIMITS.as_bytes() {
                    let path = self.nodes.path(child);
                    subtrees.extend(quota::subject(&path, quota::LIMITS).map(str::to_owned));
                }
                waiting.push(child);
            }
        }
        for subtree in subtrees {
            self.quotas.add(&subtree);
            self.recount_usage(&subtree);
        }
    }

    /// Paths whose access control list a fuzzy snapshot lacked and no later transaction brought. Nobody
    /// but a super user passes them until someone sets a list.
    #[must_use]
    pub fn unreadable(&self) -> Vec<String> {
        let slots = (0..self.nodes.high_water()).map(Slot);
        slots
            .filter(|slot| self.nodes.live(*slot).is_some_and(|node| node.acl == acl::MISSING))
            .map(|slot| self.nodes.path(slot))
            .collect()
    }

    /// Removes ephemerals of sessions that neither the snapshot nor the log opened, as Java does after a
    /// load. Returns how many znodes went.
    pub fn drop_orphans(&mut self) -> usize {
        let orphans: Vec<SessionId> =
            self.sessions.iter().filter(|(_, s)| s.timeout_ms.is_none()).map(|(id, _)| *id).collect();
        let mut gone = 0;
        for session in orphans {
            let paths: Vec<String> = self.ephemerals(session).collect();
            for path in paths {
                if let Some(slot) = self.nodes.find(&path) {
                    self.take_out(slot, &path);
                    gone += 1;
                }
            }
            self.sessions.remove(&session);
        }
        gone
    }
}
