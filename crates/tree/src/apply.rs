//! Applies what was agreed. Live, a transaction that does not fit the tree is a broken invariant: the
//! caller must stop. In replay over a fuzzy snapshot it is expected, and tolerated by the rules of Java.
//!
//! Source: `DataTree.processTxn`, 3.9.

use std::borrow::Cow;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{
    AclList, CreateTxn, ErrorCode, OpCode, OpResult, SessionId, Stat, StatPersisted, Txn, TxnHeader,
    TxnRecord, Zxid, path,
};
use thiserror::Error;

use crate::acl;
use crate::nodes::Slot;
use crate::owner::Owner;
use crate::quota;
use crate::tree::Tree;

/// What a transaction did, as far as a reply needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Deleted, opened or closed: nothing more to say.
    Done,
    /// A znode was made.
    Created(Cow<'a, str>, Stat),
    /// Data or access control list changed.
    Changed(Stat),
    /// Data of the configuration znode changed.
    Reconfigured(Stat),
    /// A multi, done or refused.
    Multi(Vec<OpResult<'a>>),
    /// The request had failed.
    Failed(ErrorCode),
}

/// What happened to a znode, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// To which znode.
    pub path: String,
    /// Its list at that moment; `None` if everybody may read.
    pub acl: Option<AclList<'static>>,
    /// Its parent's list; `None` if everybody may read.
    pub parent_acl: Option<AclList<'static>>,
}

/// The kinds of change that watches see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was made.
    Created,
    /// It was removed.
    Deleted,
    /// Its data changed.
    DataChanged,
}

/// Collects changes while a transaction is applied; nothing while nobody watches.
#[derive(Debug, Default)]
pub struct Changes {
    /// Whether anybody watches anything.
    pub wanted: bool,
    /// In the order in which they happened.
    pub list: Vec<Change>,
}

/// A transaction that does not fit this tree: the servers have diverged, or the log is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("transaction {zxid} ({op:?}) does not fit the tree: {what}")]
pub struct Divergence {
    /// The transaction.
    pub zxid: Zxid,
    /// Its kind.
    pub op: OpCode,
    /// What does not fit.
    pub what: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Live,
    Replay,
}

struct Applying<'t, 'c> {
    tree: &'t mut Tree,
    changes: &'c mut Changes,
    header: TxnHeader,
    mode: Mode,
}

impl Tree {
    /// Applies a transaction.
    ///
    /// # Errors
    /// It does not fit the tree, or leaves another digest than the leader computed. The tree must not be
    /// used any more.
    pub fn apply<'a>(
        &mut self,
        record: &'a TxnRecord<'a>,
        changes: &mut Changes,
    ) -> Result<Outcome<'a>, Divergence> {
        match self.apply_and_compare(record, changes)? {
            (outcome, None) => Ok(outcome),
            (_, Some(divergence)) => Err(divergence),
        }
    }

    /// Applies a transaction; tells beside its outcome if only the digest is another one than the leader computed.
    ///
    /// # Errors
    /// It does not fit the tree, which must not be used any more.
    pub fn apply_and_compare<'a>(
        &mut self,
        record: &'a TxnRecord<'a>,
        changes: &mut Changes,
    ) -> Result<(Outcome<'a>, Option<Divergence>), Divergence> {
        let header = record.header;
        if header.zxid <= self.last_zxid {
            return Err(diverged(&header, format!("{} is applied already", self.last_zxid)));
        }
        let outcome = Applying { tree: self, changes, header, mode: Mode::Live }
            .txn(&record.txn)
            .map_err(|code| diverged(&header, format!("it ends in {code:?}")))?;
        self.advance(header.zxid);
        Ok((outcome, self.check_digest(record).err()))
    }

    /// Applies a transaction of the log that the tree may hold already, in whole or in part. Tells whether
    /// the digest in the record is the tree's; `None` if there is none to compare.
    pub fn replay(&mut self, record: &TxnRecord<'_>) -> Option<bool> {
        let mut changes = Changes::default();
        // What fails here failed because a later state is in the tree already.
        let _ = Applying { tree: self, changes: &mut changes, header: record.header, mode: Mode::Replay }
            .txn(&record.txn);
        self.advance(record.header.zxid);
        let digest = record.digest.filter(|d| d.version == oxkeeper_proto::TxnDigest::VERSION)?;
        self.rules.digest.then_some(digest.digest == self.digest())
    }

    fn check_digest(&self, record: &TxnRecord<'_>) -> Result<(), Divergence> {
        match record.digest {
            Some(expected) if self.rules.digest && expected.digest != self.digest() => {
                let what = format!("digest {} where {} was agreed", self.digest(), expected.digest);
                Err(diverged(&record.header, what))
            }
            _ => Ok(()),
        }
    }
}

fn diverged(header: &TxnHeader, what: String) -> Divergence {
    Divergence { zxid: header.zxid, op: header.op, what }
}

impl Applying<'_, '_> {
    fn txn<'a>(&mut self, txn: &'a Txn<'a>) -> Result<Outcome<'a>, ErrorCode> {
        Ok(match txn {
            Txn::SetData { op, path, data, version } => {
                let stat = self.set_data(path, *data, *version)?;
                if *op == OpCode::Reconfig { Outcome::Reconfigured(stat) } else { Outcome::Changed(stat) }
            }
            Txn::Create(create) => Outcome::Created(Cow::Borrowed(&create.path), self.create(create)?),
            Txn::Delete { path, .. } => {
                self.delete(path)?;
                Outcome::Done
            }
            Txn::SetAcl { path, acl, version } => {
                Outcome::Changed(self.set_acl(path, acl.as_ref(), *version)?)
            }
            Txn::Multi(txns) => Outcome::Multi(self.multi(txns)?),
            Txn::CreateSession { timeout_ms } => {
                let session = self.header.session;
                self.tree.sessions.entry(session).or_default().timeout_ms = Some(*timeout_ms);
                Outcome::Done
            }
            Txn::CloseSession { paths } => {
                self.close_session(paths.as_deref().unwrap_or_default());
                Outcome::Done
            }
            Txn::Error { code } => Outcome::Failed(*code),
            Txn::Check { .. } => Outcome::Done,
        })
    }

    fn multi<'a>(&mut self, txns: &'a [Txn<'a>]) -> Result<Vec<OpResult<'a>>, ErrorCode> {
        let failed = txns.iter().any(|txn| matches!(txn, Txn::Error { .. }));
        let mut results = Vec::with_capacity(txns.len());
        for txn in txns {
            let is_kept = is(Fault::MultiPrefixApplied) && !matches!(txn, Txn::Error { .. });
            if failed && !is_kept {
                let code = if let Txn::Error { code } = txn { *code } else { ErrorCode::OK };
                results.push(OpResult::Error(code));
                continue;
            }
            let outcome = match self.txn(txn) {
                Err(_) if self.mode == Mode::Replay => continue,
                done => done?,
            };
            results.push(match outcome {
                Outcome::Created(path, _) if txn.op() == OpCode::Create => OpResult::Create(path),
                Outcome::Created(path, stat) => OpResult::Create2(path, stat),
                Outcome::Changed(stat) => OpResult::SetData(stat),
                _ if txn.op() == OpCode::Check => OpResult::Check,
                _ => OpResult::Delete,
            });
        }
        Ok(results)
    }

    fn create(&mut self, create: &CreateTxn<'_>) -> Result<Stat, ErrorCode> {
        let path = &*create.path;
        let parent_path = path::parent(path).ok_or(ErrorCode::NONODE)?;
        let parent = self.tree.nodes.find(parent_path).ok_or(ErrorCode::NONODE)?;
        if let Some(slot) = self.tree.nodes.find(path) {
            if self.mode == Mode::Replay {
                self.replace_acl(slot, create.acl.as_ref());
                if create.op == OpCode::Create {
                    let again = is(Fault::ReplayCountsTwice);
                    let parent_cversion = if again { -1 } else { create.parent_cversion };
                    self.count_creation(parent, parent_path, parent_cversion);
                }
            }
            return Err(ErrorCode::NODEEXISTS);
        }
        self.count_creation(parent, parent_path, create.parent_cversion);
        let (zxid, time) = (self.header.zxid, self.header.time);
        let stat = StatPersisted {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time,
            mtime: time,
            ephemeral_owner: created_owner(create, self.header.session).stored(),
            ..StatPersisted::default()
        };
        let acl = match &create.acl {
            Some(list) => self.tree.acls.acquire(list),
            None => acl::OPEN,
        };
        let slot = self.tree.add(parent, path, create.data, acl, stat);
        if let Some(subtree) = quota::subject(path, quota::LIMITS) {
            self.tree.quotas.add(subtree);
        }
        if let Some(subtree) = quota::subject(path, quota::STATS) {
            self.tree.recount_usage(subtree);
        }
        self.tree.count_usage(path, 1, create.data.map_or(0, |data| data.len() as i64));
        self.note(ChangeKind::Created, slot, path, Some(parent));
        Ok(self.tree.stat(slot))
    }

    /// The parent counts a creation once, however often it is replayed.
    fn count_creation(&mut self, parent: Slot, parent_path: &str, parent_cversion: i32) {
        let stored = self.tree.nodes.get(parent).cversion;
        let cversion = if parent_cversion == -1 { stored.wrapping_add(1) } else { parent_cversion };
        if cversion <= stored {
            return;
        }
        self.tree.freeze(parent);
        self.tree.leave_digest(parent, parent_path);
        let node = self.tree.nodes.get_mut(parent);
        node.cversion = cversion;
        node.pzxid = self.header.zxid;
        self.tree.enter_digest(parent, parent_path);
    }

    fn delete(&mut self, path: &str) -> Result<(), ErrorCode> {
        let parent_path = path::parent(path).ok_or(ErrorCode::NONODE)?;
        let parent = self.tree.nodes.find(parent_path).ok_or(ErrorCode::NONODE)?;
        let found = self.tree.nodes.find(path);
        if found.is_some() || self.mode == Mode::Replay {
            self.tree.freeze(parent);
            self.tree.leave_digest(parent, parent_path);
            let node = self.tree.nodes.get_mut(parent);
            node.pzxid = node.pzxid.max(self.header.zxid);
            self.tree.enter_digest(parent, parent_path);
        }
        let slot = found.filter(|slot| *slot != Slot::ROOT).ok_or(ErrorCode::NONODE)?;
        if self.tree.nodes.children_len(slot) > 0 {
            if self.mode == Mode::Live {
                return Err(ErrorCode::NOTEMPTY);
            }
            // A later state is in the tree: the znode was made again and has children. They go with it
            // now and come back with their own transactions.
            self.delete_descendants(slot);
        }
        let bytes = self.tree.nodes.get(slot).data_len() as i64;
        self.note(ChangeKind::Deleted, slot, path, Some(parent));
        self.tree.take_out(slot, path);
        if let Some(subtree) = quota::subject(path, quota::LIMITS) {
            self.tree.quotas.remove(subtree);
        }
        self.tree.count_usage(path, -1, -bytes);
        Ok(())
    }

    fn delete_descendants(&mut self, slot: Slot) {
        let mut order: Vec<Slot> = Vec::new();
        let mut waiting = vec![slot];
        while let Some(at) = waiting.pop() {
            for (child, _) in self.tree.nodes.children(at) {
                order.push(child);
                waiting.push(child);
            }
        }
        for child in order.into_iter().rev() {
            let path = self.tree.nodes.path(child);
            self.tree.take_out(child, &path);
        }
    }

    fn set_data(&mut self, path: &str, data: Option<&[u8]>, version: i32) -> Result<Stat, ErrorCode> {
        let slot = self.tree.nodes.find(path).ok_or(ErrorCode::NONODE)?;
        self.tree.freeze(slot);
        self.tree.leave_digest(slot, path);
        let before = self.tree.nodes.get(slot).data_len() as i64;
        self.tree.replace_data(slot, path, data);
        let node = self.tree.nodes.get_mut(slot);
        node.version = version;
        node.mzxid = self.header.zxid;
        node.mtime = self.header.time;
        let after = node.data_len() as i64;
        self.tree.enter_digest(slot, path);
        self.tree.count_usage(path, 0, after - before);
        self.note(ChangeKind::DataChanged, slot, path, None);
        Ok(self.tree.stat(slot))
    }

    fn set_acl(&mut self, path: &str, list: Option<&AclList<'_>>, version: i32) -> Result<Stat, ErrorCode> {
        let slot = self.tree.nodes.find(path).ok_or(ErrorCode::NONODE)?;
        if !is(Fault::AclTableLate) {
            self.tree.freeze(slot);
        }
        self.tree.leave_digest(slot, path);
        self.replace_acl(slot, list);
        self.tree.nodes.get_mut(slot).aversion = version;
        self.tree.enter_digest(slot, path);
        Ok(self.tree.stat(slot))
    }

    fn replace_acl(&mut self, slot: Slot, list: Option<&AclList<'_>>) {
        if !is(Fault::AclTableLate) {
            self.tree.freeze(slot);
        }
        let new = list.map_or(acl::OPEN, |list| self.tree.acls.acquire(list));
        let old = std::mem::replace(&mut self.tree.nodes.get_mut(slot).acl, new);
        self.tree.acls.release(old);
    }

    /// Removes what the transaction lists, then whatever else the session still owns, then the session.
    fn close_session(&mut self, paths: &[Cow<'_, str>]) {
        for path in paths {
            // Missing ones were deleted by a transaction that the closing had not seen.
            let _ = self.delete(path);
        }
        let session = self.header.session;
        let left: Vec<String> = self.tree.ephemerals(session).collect();
        for path in left {
            let _ = self.delete(&path);
        }
        self.tree.sessions.remove(&session);
    }

    fn note(&mut self, kind: ChangeKind, slot: Slot, path: &str, parent: Option<Slot>) {
        if !self.changes.wanted {
            return;
        }
        let acl = self.guarded(slot);
        let parent_acl = parent.and_then(|parent| self.guarded(parent));
        self.changes.list.push(Change { kind, path: path.to_owned(), acl, parent_acl });
    }

    /// A node's list, unless everybody passes it.
    fn guarded(&self, slot: Slot) -> Option<AclList<'static>> {
        let id = self.tree.nodes.get(slot).acl;
        if id == acl::OPEN || self.tree.rules.skip_acl {
            return None;
        }
        // Without a list nobody passes: an entry that matches no one.
        let nobody = || AclList::from_entries([oxkeeper_proto::Acl::new(0, "", "")].iter());
        Some(self.tree.acls.get(id).cloned().unwrap_or_else(nobody))
    }
}

/// What the life of a new znode hangs on: the kind of transaction says it.
pub(crate) fn created_owner(create: &CreateTxn<'_>, session: SessionId) -> Owner {
    match create.op {
        OpCode::CreateContainer => Owner::Container,
        OpCode::CreateTtl => Owner::Ttl(create.ttl),
        _ if create.ephemeral => Owner::Session(session),
        _ => Owner::None,
    }
}
