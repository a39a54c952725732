//! Turns a request into a transaction, or into the error that the client gets. Nothing is changed but the
//! overlay of pending changes.
//!
//! The order of the checks is ZooKeeper's: the first that fails names the error. Source:
//! `PrepRequestProcessor.pRequest2Txn`, 3.9.

use std::borrow::Cow;
use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{
    AclList, Create, CreateMode, CreateTxn, ErrorCode, OpCode, Request, SessionId, StatPersisted, Txn, Zxid,
    path, perms,
};
use tracing::warn;

use crate::acl::{self, Identity};
use crate::apply::created_owner;
use crate::digest;
use crate::owner::{Owner, TTL_MS_MAX};
use crate::pending::{Draft, DraftAcl, Pending};
use crate::quota::{self, StatsTrack};
use crate::tree::Tree;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The session.
    pub session: SessionId,
    /// Who the connection has proved to be.
    pub identities: &'a [Identity],
    /// What is wrong with the session, if anything: it may be closing, unknown, or elsewhere.
    pub standing: Result<(), ErrorCode>,
}

/// The place in the order that the transaction gets.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Its zxid.
    pub zxid: Zxid,
    /// The leader's clock, ms since 1970.
    pub time_ms: i64,
}

struct Preparing<'p, 't> {
    pending: &'p mut Pending,
    tree: &'t Tree,
    asker: Asker<'p>,
    stamp: Stamp,
    /// By how many bytes `auth` entries have made the lists of this request longer.
    granted_bytes: usize,
}

impl Pending {
    /// Checks a request and makes the transaction that will do it. An error leaves no trace; so does a later
    /// [`Pending::roll_back`], until the next request.
    ///
    /// # Errors
    /// The code that the client gets. For a multi only what concerns the whole request: a part that fails
    /// becomes part of the transaction.
    pub fn prepare<'r>(
        &mut self,
        tree: &Tree,
        asker: Asker<'_>,
        stamp: Stamp,
        request: &'r Request<'r>,
    ) -> Result<Txn<'r>, ErrorCode> {
        self.mark();
        let mut preparing = Preparing { pending: self, tree, asker, stamp, granted_bytes: 0 };
        let prepared = match request {
            Request::Multi(ops) => preparing.multi(ops),
            Request::DeleteContainer { path } => preparing.delete_container(path),
            Request::CloseSession => Ok(preparing.close_session()),
            Request::CreateSession { timeout_ms } => Ok(Txn::CreateSession { timeout_ms: *timeout_ms }),
            single => preparing.single(single),
        };
        if prepared.is_err() {
            self.roll_back();
        }
        prepared
    }
}

impl Preparing<'_, '_> {
    fn single<'r>(&mut self, request: &'r Request<'r>) -> Result<Txn<'r>, ErrorCode> {
        match request {
            Request::SetData { path, data, version } => self.set_data(path, *data, *version),
            Request::Create(create) => self.create(create, create.op),
            Request::Delete { path, version } => self.delete(path, *version),
            Request::SetAcl { path, acl, version } => self.set_acl(path, acl.as_ref(), *version),
            Request::Check { path, version } => self.check(path, *version),
            _ => Err(ErrorCode::UNIMPLEMENTED),
        }
    }

    /// What a list becomes. In one request all of them together may grow only as much as one may.
    fn fix_up<'r>(&mut self, list: Option<&'r AclList<'_>>) -> Result<AclList<'r>, ErrorCode> {
        let fixed = acl::fix_up(list, self.asker.identities, self.tree.rules.schemes)?;
        let sent = list.map_or(0, |list| list.as_bytes().len());
        self.granted_bytes += fixed.as_bytes().len().saturating_sub(sent);
        if self.granted_bytes > acl::EXPANDED_BYTES_MAX {
            return Err(ErrorCode::INVALIDACL);
        }
        Ok(fixed)
    }

    fn check_acl(&self, node: &Draft, wanted: i32) -> Result<(), ErrorCode> {
        let rules = &self.tree.rules;
        if matches!(node.acl, DraftAcl::Committed(acl::OPEN)) || rules.skip_acl {
            return Ok(());
        }
        match node.list(self.tree) {
            Some(list) if acl::allows(list, wanted, self.asker.identities, rules.schemes) => Ok(()),
            _ => Err(ErrorCode::NOAUTH),
        }
    }

    fn find(&self, path: &str) -> Result<Draft, ErrorCode> {
        self.pending.draft(self.tree, path).ok_or(ErrorCode::NONODE)
    }

    fn put(&mut self, path: &str, before: Option<&Draft>, after: Draft) {
        self.pending.put(self.tree, path, self.stamp.zxid, before, after);
    }

    fn create<'r>(&mut self, create: &'r Create<'r>, op: OpCode) -> Result<Txn<'r>, ErrorCode> {
        let mode = self.check_mode(create, op)?;
        self.asker.standing?;
        if !path::is_plausible(&create.path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let list = self.fix_up(create.acl.as_ref())?;
        let parent_path = path::parent(&create.path).ok_or(ErrorCode::BADARGUMENTS)?;
        let parent = self.find(parent_path)?;
        self.check_acl(&parent, perms::CREATE)?;
        let path: Cow<'r, str> = if mode.sequential {
            let number = if is(Fault::SequenceReused) {
                i64::from(parent.children)
            } else {
                parent.stat.cversion.into()
            };
            Cow::Owned(format!("{}{number:010}", create.path))
        } else {
            Cow::Borrowed(&create.path)
        };
        if !path::is_valid(&path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        if self.pending.draft(self.tree, &path).is_some() {
            return Err(ErrorCode::NODEEXISTS);
        }
        if matches!(
            Owner::from_stored(parent.stat.ephemeral_owner, self.tree.rules.owners),
            Owner::Session(_)
        ) {
            return Err(ErrorCode::NOCHILDRENFOREPHEMERALS);
        }
        let bytes = create.data.map_or(0, |data| data.len() as i64);
        self.check_quota(&path, 1, bytes)?;

        let mut txn = CreateTxn {
            op,
            path,
            data: create.data,
            acl: None,
            ephemeral: mode.ephemeral && matches!(op, OpCode::Create | OpCode::Create2),
            parent_cversion: parent.stat.cversion.wrapping_add(1),
            ttl: if op == OpCode::CreateTtl { create.ttl } else { 0 },
        };
        self.put_created(&txn, &list, parent_path, &parent);
        txn.acl = Some(list);
        Ok(Txn::Create(txn))
    }

    fn put_created(&mut self, txn: &CreateTxn<'_>, list: &AclList<'_>, parent_path: &str, parent: &Draft) {
        let (zxid, time_ms) = (self.stamp.zxid, self.stamp.time_ms);
        let stat = StatPersisted {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time_ms,
            mtime: time_ms,
            ephemeral_owner: created_owner(txn, self.asker.session).stored(),
            ..StatPersisted::default()
        };
        let acl = if list.is_open() {
            DraftAcl::Committed(acl::OPEN)
        } else {
            DraftAcl::Proposed(Arc::new(list.clone().into_owned()))
        };
        let prefix_crc = if self.tree.rules.digest { digest::prefix(&txn.path, txn.data) } else { 0 };
        self.put(&txn.path, None, Draft::new(stat, acl, prefix_crc));
        let mut after = parent.clone();
        after.children += 1;
        if txn.parent_cversion > after.stat.cversion {
            after.stat.cversion = txn.parent_cversion;
            after.stat.pzxid = zxid;
        }
        self.put(parent_path, Some(parent), after);
    }

    fn check_mode(&self, create: &Create<'_>, op: OpCode) -> Result<CreateMode, ErrorCode> {
        let mode = CreateMode::from_flags(create.flags).ok_or(ErrorCode::BADARGUMENTS)?;
        if mode.ttl && !self.tree.rules.owners.extended_types {
            return Err(ErrorCode::UNIMPLEMENTED);
        }
        // A createTTL without a TTL flag passes Java's checks if its ttl is -1, and kills the server later.
        let ttl = if op == OpCode::CreateTtl { create.ttl } else { -1 };
        if mode.ttl != (op == OpCode::CreateTtl) || mode.ttl && !(1..=TTL_MS_MAX).contains(&ttl) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        Ok(mode)
    }

    fn delete<'r>(&mut self, path: &'r str, version: i32) -> Result<Txn<'r>, ErrorCode> {
        self.asker.standing?;
        if !path::is_plausible(path) || path::PROTECTED.contains(&path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let parent_path = path::parent(path).ok_or(ErrorCode::BADARGUMENTS)?;
        let parent = self.find(parent_path)?;
        self.check_acl(&parent, perms::DELETE)?;
        let node = self.find(path)?;
        check_version(version, node.stat.version)?;
        if node.children > 0 {
            return Err(ErrorCode::NOTEMPTY);
        }
        self.put_deleted(path, &node, parent_path, &parent);
        Ok(Txn::Delete { op: OpCode::Delete, path: Cow::Borrowed(path) })
    }

    fn put_deleted(&mut self, path: &str, node: &Draft, parent_path: &str, parent: &Draft) {
        self.put(path, Some(node), node.dead());
        let mut after = parent.clone();
        after.children = after.children.saturating_sub(1);
        after.stat.pzxid = after.stat.pzxid.max(self.stamp.zxid);
        self.put(parent_path, Some(parent), after);
    }

    /// The server's own removal of an empty container or an expired TTL znode. Whoever asks on behalf of a
    /// client must refuse it before: there is no check of rights here.
    fn delete_container<'r>(&mut self, path: &'r str) -> Result<Txn<'r>, ErrorCode> {
        if path::PROTECTED.contains(&path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let node = self.find(path)?;
        if node.children > 0 {
            return Err(ErrorCode::NOTEMPTY);
        }
        if matches!(Owner::from_stored(node.stat.ephemeral_owner, self.tree.rules.owners), Owner::Session(_))
        {
            return Err(ErrorCode::BADVERSION);
        }
        let parent_path = path::parent(path).ok_or(ErrorCode::BADARGUMENTS)?;
        let parent = self.find(parent_path)?;
        self.put_deleted(path, &node, parent_path, &parent);
        Ok(Txn::Delete { op: OpCode::DeleteContainer, path: Cow::Borrowed(path) })
    }

    fn set_data<'r>(
        &mut self,
        path: &'r str,
        data: Option<&'r [u8]>,
        version: i32,
    ) -> Result<Txn<'r>, ErrorCode> {
        self.asker.standing?;
        if !path::is_valid(path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let node = self.find(path)?;
        self.check_acl(&node, perms::WRITE)?;
        if self.tree.rules.enforce_quota {
            let old =
                self.tree.nodes.find(path).map_or(0, |slot| self.tree.nodes.get(slot).data_len() as i64);
            self.check_quota(path, 0, data.map_or(0, |data| data.len() as i64) - old)?;
        }
        check_version(version, node.stat.version)?;
        let mut after = node.clone();
        after.stat.version = after.stat.version.wrapping_add(1);
        after.stat.mzxid = self.stamp.zxid;
        after.stat.mtime = self.stamp.time_ms;
        if self.tree.rules.digest {
            after.prefix_crc = digest::prefix(path, data);
        }
        let version = after.stat.version;
        self.put(path, Some(&node), after);
        Ok(Txn::SetData { op: OpCode::SetData, path: Cow::Borrowed(path), data, version })
    }

    fn set_acl<'r>(
        &mut self,
        path: &'r str,
        list: Option<&'r AclList<'r>>,
        version: i32,
    ) -> Result<Txn<'r>, ErrorCode> {
        self.asker.standing?;
        if !path::is_valid(path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let list = self.fix_up(list)?;
        let node = self.find(path)?;
        self.check_acl(&node, perms::ADMIN)?;
        check_version(version, node.stat.aversion)?;
        let mut after = node.clone();
        after.stat.aversion = after.stat.aversion.wrapping_add(1);
        after.acl = DraftAcl::Proposed(Arc::new(list.clone().into_owned()));
        let version = after.stat.aversion;
        self.put(path, Some(&node), after);
        Ok(Txn::SetAcl { path: Cow::Borrowed(path), acl: Some(list), version })
    }

    fn check<'r>(&mut self, path: &'r str, version: i32) -> Result<Txn<'r>, ErrorCode> {
        self.asker.standing?;
        if !path::is_valid(path) {
            return Err(ErrorCode::BADARGUMENTS);
        }
        let node = self.find(path)?;
        self.check_acl(&node, perms::READ)?;
        check_version(version, node.stat.version)?;
        Ok(Txn::Check { path: Cow::Borrowed(path), version: node.stat.version.wrapping_add(1) })
    }

    fn multi<'r>(&mut self, ops: &'r [Request<'r>]) -> Result<Txn<'r>, ErrorCode> {
        for op in ops {
            match op {
                Request::Create(create) => check_create_in_multi(create)?,
                Request::Delete { .. } | Request::SetData { .. } | Request::Check { .. } => {}
                _ => return Err(ErrorCode::MARSHALLINGERROR),
            }
        }
        let mut txns = Vec::with_capacity(ops.len());
        let mut failed = None;
        for op in ops {
            let prepared = match op {
                Request::Create(create) => self.create(create, op_in_multi(create)),
                other => self.single(other),
            };
            match prepared {
                Ok(txn) => txns.push(txn),
                // Nothing the client could do about the whole request being at the wrong server.
                Err(ErrorCode::SESSIONMOVED) => return Err(ErrorCode::SESSIONMOVED),
                Err(code) => {
                    failed = Some(code);
                    break;
                }
            }
        }
        if let Some(code) = failed {
            self.pending.roll_back();
            self.pending.mark();
            txns.push(Txn::Error { code });
            txns.resize(ops.len(), Txn::Error { code: ErrorCode::RUNTIMEINCONSISTENCY });
        }
        Ok(Txn::Multi(txns))
    }

    /// Closing takes along every ephemeral of the session, those included that are proposed but not applied.
    fn close_session<'r>(&mut self) -> Txn<'r> {
        let paths = self.pending.ephemerals(self.tree, self.asker.session);
        for path in &paths {
            let parent_path = path::parent(path).unwrap_or("/");
            let (Some(node), Some(parent)) =
                (self.pending.draft(self.tree, path), self.pending.draft(self.tree, parent_path))
            else {
                continue;
            };
            self.put_deleted(path, &node, parent_path, &parent);
        }
        let listed = self.tree.rules.list_closed;
        Txn::CloseSession { paths: listed.then(|| paths.into_iter().map(Cow::Owned).collect()) }
    }

    /// Source: `ZooKeeperServer.checkQuota`.
    fn check_quota(&self, path: &str, znodes: i64, bytes: i64) -> Result<(), ErrorCode> {
        if !self.tree.rules.enforce_quota {
            return Ok(());
        }
        let Some(subtree) = self.tree.quotas.over(path) else { return Ok(()) };
        let read = |name| {
            let node = self.tree.find(&quota::node(subtree, name))?;
            Some(StatsTrack::parse(node.data().unwrap_or_default()))
        };
        let (Some(limits), Some(usage)) = (read(quota::LIMITS), read(quota::STATS)) else { return Ok(()) };
        let checks = [
            ("count", znodes, usage.count, limits.count, limits.count_hard),
            ("bytes", bytes, usage.bytes, limits.bytes, limits.bytes_hard),
        ];
        for (what, more, now, soft, hard) in checks {
            if more == 0 {
                continue;
            }
            let after = now.saturating_add(more);
            if hard > -1 {
                if after > hard {
                    warn!("Quota exceeded: {subtree} [current {what}={after}, hard limit={hard}]");
                    return Err(ErrorCode::QUOTAEXCEEDED);
                }
            } else if soft > -1 && after > soft {
                warn!("Quota exceeded: {subtree} [current {what}={after}, soft limit={soft}]");
            }
        }
        Ok(())
    }
}

fn check_version(expected: i32, version: i32) -> Result<(), ErrorCode> {
    if expected == -1 || expected == version { Ok(()) } else { Err(ErrorCode::BADVERSION) }
}

/// Within a multi, flags that do not fit the operation make the whole request malformed.
fn check_create_in_multi(create: &Create<'_>) -> Result<(), ErrorCode> {
    let mode = CreateMode::from_flags(create.flags).ok_or(ErrorCode::MARSHALLINGERROR)?;
    if create.acl.is_none() && create.op != OpCode::CreateTtl {
        return Err(ErrorCode::MARSHALLINGERROR);
    }
    if mode.ttl && create.op != OpCode::CreateTtl { Err(ErrorCode::MARSHALLINGERROR) } else { Ok(()) }
}

/// Within a multi the flags decide the kind of transaction as well as the operation.
fn op_in_multi(create: &Create<'_>) -> OpCode {
    match CreateMode::from_flags(create.flags) {
        Some(mode) if mode.container || create.op == OpCode::CreateContainer => OpCode::CreateContainer,
        Some(mode) if mode.ttl => OpCode::CreateTtl,
        _ if matches!(create.op, OpCode::Create | OpCode::CreateTtl) => OpCode::Create,
        _ => OpCode::Create2,
    }
}
