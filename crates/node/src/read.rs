//! Reads, and everything else that a server answers from what it has: watches, pings, sync.
//!
//! Source: `FinalRequestProcessor`, 3.9.

use std::borrow::Cow;
use std::sync::Arc;

use oxkeeper_proto::{
    ErrorCode, EventType, Names, OpResult, Reader, Reply, Request, SetWatches, WatcherEvent, Xid, Zxid, perms,
};
use oxkeeper_tree::{NodeRef, Tree, acl};

use crate::conn::{Call, Conn};
use crate::effects::{ConnId, Effects};
use crate::node::Node;
use crate::reply;
use crate::watch::{Kind, Manager};

/// A failure, and the body that goes with it if one does.
type Refused<'a> = (ErrorCode, Reply<'a>);

impl Node {
    /// Answers a request whose turn has come.
    #[inline]
    pub(crate) fn read(&mut self, id: ConnId, call: Call, reader: &mut Reader<'_>, fx: &mut Effects) {
        let Call { xid, op, .. } = call;
        let Some(conn) = self.conns.get(id) else { return };
        let zxid = self.tree.last_zxid();
        let Ok(request) = Request::decode(op, reader) else {
            let size = reply::write(fx, id, xid, zxid, ErrorCode::MARSHALLINGERROR, &Reply::Empty);
            return self.count_reply(id, call, size);
        };
        if self.has_no_room_to_return(op) {
            return self.close(id, fx);
        }
        let size = match &request {
            refused if self.has_no_room_for_watch(refused) => {
                reply::write(fx, id, xid, zxid, ErrorCode::NOTREADONLY, &Reply::Empty)
            }
            Request::Ping => reply::write(fx, id, Xid::PING, zxid, ErrorCode::OK, &Reply::Empty),
            Request::SetWatches(_)
            | Request::SetWatches2(_)
            | Request::AddWatch { .. }
            | Request::CheckWatches { .. }
            | Request::RemoveWatches { .. } => {
                let (code, body) = self.change_watches(id, &request, fx);
                reply::write(fx, id, xid, zxid, code, &body)
            }
            _ => {
                let (code, body) = match look_up(&self.tree, conn, &request) {
                    Ok(body) => (ErrorCode::OK, body),
                    Err(refused) => refused,
                };
                let size = reply::write(fx, id, xid, zxid, code, &body);
                self.watch(id, &request, code);
                size
            }
        };
        self.count_reply(id, call, size);
    }

    /// Sets the one-shot watch that a read asks for.
    #[inline]
    fn watch(&mut self, id: ConnId, request: &Request<'_>, code: ErrorCode) {
        let (manager, path) = match request {
            Request::GetData { path, watch: true } if code.is_ok() => (Manager::Data, path),
            Request::Exists { path, watch: true } if code.is_ok() || code == ErrorCode::NONODE => {
                (Manager::Data, path)
            }
            Request::GetChildren { path, watch: true } | Request::GetChildren2 { path, watch: true }
                if code.is_ok() =>
            {
                (Manager::Child, path)
            }
            _ => return,
        };
        self.watches.add_standard(id.index, manager, path);
    }

    fn change_watches(
        &mut self,
        id: ConnId,
        request: &Request<'_>,
        fx: &mut Effects,
    ) -> (ErrorCode, Reply<'static>) {
        match request {
            Request::SetWatches(watches) | Request::SetWatches2(watches) => {
                self.set_watches(id, watches, fx);
                (ErrorCode::OK, Reply::Empty)
            }
            Request::AddWatch { path, mode: mode @ (0 | 1) } => {
                self.watches.add_persistent(id.index, path, *mode == 1);
                (ErrorCode::OK, Reply::Code(ErrorCode::OK))
            }
            Request::CheckWatches { path, kind } | Request::RemoveWatches { path, kind } => {
                let Some(kind) = Kind::from_number(*kind) else {
                    return (ErrorCode::MARSHALLINGERROR, Reply::Empty);
                };
                let found = if matches!(request, Request::CheckWatches { .. }) {
                    self.watches.has(id.index, path, kind)
                } else {
                    self.watches.remove(id.index, path, kind)
                };
                (if found { ErrorCode::OK } else { ErrorCode::NOWATCHER }, Reply::Empty)
            }
            _ => (ErrorCode::MARSHALLINGERROR, Reply::Empty),
        }
    }

    /// Sets watches again after a reconnect. What changed meanwhile is told at once, before the reply.
    ///
    /// Java tells even those who may not read the node; here they get the watch but no event.
    fn set_watches(&mut self, id: ConnId, lists: &SetWatches<'_>, fx: &mut Effects) {
        let since = lists.relative_zxid;
        for path in &lists.data {
            let node = self.tree.find(path).map(|node| node.stored_stat().mzxid > since);
            let event = match node {
                None => Some(EventType::NodeDeleted),
                Some(true) => Some(EventType::NodeDataChanged),
                Some(false) => None,
            };
            self.arm_or_tell(id, Manager::Data, path, event, fx);
        }
        for path in &lists.exist {
            let event = self.tree.find(path).map(|_| EventType::NodeCreated);
            self.arm_or_tell(id, Manager::Data, path, event, fx);
        }
        for path in &lists.child {
            let node = self.tree.find(path).map(|node| node.stored_stat().pzxid > since);
            let event = match node {
                None => Some(EventType::NodeDeleted),
                Some(true) => Some(EventType::NodeChildrenChanged),
                Some(false) => None,
            };
            self.arm_or_tell(id, Manager::Child, path, event, fx);
        }
        for path in &lists.persistent {
            self.watches.add_persistent(id.index, path, false);
        }
        for path in &lists.recursive {
            self.watches.add_persistent(id.index, path, true);
        }
    }

    fn arm_or_tell(
        &mut self,
        id: ConnId,
        manager: Manager,
        path: &str,
        event: Option<EventType>,
        fx: &mut Effects,
    ) {
        let Some(conn) = self.conns.get(id) else { return };
        let may_read = self.tree.find(path).is_none_or(|node| node.allows(perms::READ, &conn.identities));
        match event {
            Some(kind) if may_read => {
                let event = WatcherEvent { kind, path: path.into() };
                self.send_event(id, Zxid(-1), &event, fx);
            }
            _ => self.watches.add_standard(id.index, manager, path),
        }
    }
}

/// What the tree says to a request.
#[inline]
fn look_up<'a>(tree: &'a Tree, conn: &'a Conn, request: &'a Request<'_>) -> Result<Reply<'a>, Refused<'a>> {
    match request {
        Request::GetData { path, .. } => {
            let node = readable(tree, conn, path)?;
            Ok(Reply::Data(node.data(), node.stat()))
        }
        Request::Exists { path, .. } => {
            if path.as_bytes().contains(&0) {
                return Err(refuse(ErrorCode::BADARGUMENTS));
            }
            Ok(Reply::Stat(readable(tree, conn, path)?.stat()))
        }
        Request::GetChildren { path, .. } => Ok(Reply::Names(names(readable(tree, conn, path)?))),
        Request::GetChildren2 { path, .. } => {
            let node = readable(tree, conn, path)?;
            Ok(Reply::NamesStat(names(node), node.stat()))
        }
        Request::GetAcl { path } => get_acl(tree, conn, path),
        Request::GetAllChildrenNumber { path } => {
            // By its other name Java counts the root among its descendants.
            let alias = i32::from(path.is_empty());
            Ok(Reply::Count(readable(tree, conn, path)?.descendants_len().cast_signed() + alias))
        }
        Request::GetEphemerals { prefix } => {
            let prefix = prefix.as_deref().filter(|p| !p.trim().is_empty() && *p != "/").unwrap_or_default();
            let (count, paths) = tree.encoded_ephemerals(conn.session, prefix);
            Ok(Reply::Names(Names::Encoded { count, parts: vec![Arc::new(paths)] }))
        }
        Request::Sync { path } => Ok(Reply::Path(path.as_deref().map(Cow::Borrowed))),
        Request::WhoAmI => Ok(Reply::Identities(who(conn))),
        Request::MultiRead(reads) => multi_read(tree, conn, reads),
        _ => Err(refuse(ErrorCode::UNIMPLEMENTED)),
    }
}

fn refuse<'a>(code: ErrorCode) -> Refused<'a> {
    (code, Reply::Empty)
}

#[inline]
fn readable<'a>(tree: &'a Tree, conn: &Conn, path: &str) -> Result<NodeRef<'a>, Refused<'a>> {
    let node = tree.find(path).ok_or_else(|| refuse(ErrorCode::NONODE))?;
    if node.allows(perms::READ, &conn.identities) { Ok(node) } else { Err(refuse(ErrorCode::NOAUTH)) }
}

fn names(node: NodeRef<'_>) -> Names<'_> {
    let count = node.children_len() as usize;
    if let Some(parts) = node.encoded_children() {
        return Names::Encoded { count, parts };
    }
    let mut names = Vec::with_capacity(count);
    names.extend(node.children().map(Cow::Borrowed));
    Names::List(names)
}

fn get_acl<'a>(tree: &'a Tree, conn: &Conn, path: &str) -> Result<Reply<'a>, Refused<'a>> {
    let node = tree.find(path).ok_or_else(|| refuse(ErrorCode::NONODE))?;
    if !node.allows(perms::READ | perms::ADMIN, &conn.identities) {
        return Err(refuse(ErrorCode::NOAUTH));
    }
    let Some(list) = node.acl() else { return Err(refuse(ErrorCode::NOAUTH)) };
    let list = if node.allows(perms::ADMIN, &conn.identities) { list.borrowed() } else { acl::masked(list) };
    Ok(Reply::Acl(list, node.stat()))
}

fn who(conn: &Conn) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let user = |scheme: &str, id: &'_ str| match scheme {
        "digest" => id.split(':').next().unwrap_or_default().to_owned(),
        "ip" | "x509" | "sasl" => id.to_owned(),
        _ => String::new(),
    };
    let identities = conn.identities.iter();
    identities.map(|i| (Cow::Borrowed(&*i.scheme), Cow::Owned(user(&i.scheme, &i.id)))).collect()
}

/// Each read for itself; a list of writes is refused with an empty list of results.
fn multi_read<'a>(
    tree: &'a Tree,
    conn: &'a Conn,
    reads: &'a [Request<'_>],
) -> Result<Reply<'a>, Refused<'a>> {
    let mut results = Vec::with_capacity(reads.len());
    for read in reads {
        let result = match read {
            Request::GetData { .. } | Request::GetChildren { .. } => look_up(tree, conn, read),
            _ => return Err((ErrorCode::MARSHALLINGERROR, Reply::Multi(results))),
        };
        results.push(match result {
            Ok(Reply::Data(data, stat)) => OpResult::Data(data, stat),
            Ok(Reply::Names(names)) => OpResult::Names(names),
            Ok(_) => OpResult::Error(ErrorCode::MARSHALLINGERROR),
            Err((code, _)) => OpResult::Error(code),
        });
    }
    Ok(Reply::Multi(results))
}
