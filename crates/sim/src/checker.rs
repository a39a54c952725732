//! The history's main check: every reply names its place in the one order, so the order is replayed through a plain
//! model and every reply must be what the model says at that place. Then the order is held against real time.
//!
//! The witness is issued by the system under test; [`search`](crate::search) looks at some of the same histories
//! without it.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::iter::Peekable;

use bytes::Bytes;
use oxkeeper_proto::path::CONFIG;
use oxkeeper_proto::{
    ErrorCode, Names, OpCode, OpResult, Reader, Reply, Request, SetWatches, Txn, TxnRecord, Zxid,
};

use crate::history::{Call, History, Told};
use crate::model::{Change, Model, Writer};
use crate::observer::Violation;
use crate::queue::Nanos;
use crate::roster::Roster;

mod members;
mod sessions;

use members::Reconfigured;
use sessions::says_over;

/// What the replay learned, for the check of the watches.
#[derive(Debug, Default)]
pub struct Replayed {
    /// What each transaction changed.
    pub changes: BTreeMap<Zxid, Vec<Change>>,
    /// By call that restores watches: the events that it must bring, and what it arms.
    pub restored: BTreeMap<usize, Restored>,
    /// Sessions that ended although nobody asked, and at which transaction.
    pub expired: Vec<(i64, Zxid)>,
    /// Who belongs to the ensemble in the end.
    pub roster: Option<Roster>,
    /// Replies that were compared.
    pub compared: u64,
    /// Replies of servers without a leader that showed what was never agreed.
    pub unagreed: u64,
    /// Replies of servers without a leader that were compared.
    pub read_only: u64,
}

/// What restoring watches must do.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Events at once: type and path.
    pub events: Vec<(i32, String)>,
    /// One-shot watches that stay: the path, and whether it is its children that are watched.
    pub armed: Vec<(String, bool)>,
}

/// Which rules the servers go by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The text of the ensemble's configuration; empty where there is none.
    pub config: String,
    /// Whether the ensemble's members may change.
    pub reconfig: bool,
    /// The configurations that epochs began with, by the epoch's start.
    pub begun_with: BTreeMap<Zxid, Roster>,
    /// Whether sessions may be known to one server only, and become all servers' with their first ephemeral.
    pub local_sessions: Option<bool>,
    /// Whether a leader may have refused what grows, because it was short of disk space.
    pub short_of_disk: bool,
    /// Whether znodes may have a time to live.
    pub extended_types: bool,
    /// Whether a read must show every write that was answered before it was asked: so it is with one server.
    pub reads_are_fresh: bool,
    /// Whether a leader may answer a `sync` when somebody else leads already, as ZooKeeper's do.
    pub syncs_may_be_stale: bool,
}

struct Replay<'h> {
    history: &'h History,
    rules: &'h Rules,
    /// Sessions that were ever known to all servers.
    created: BTreeSet<i64>,
    /// Configurations of epochs that have not begun yet.
    begin_with: Peekable<btree_map::Iter<'h, Zxid, Roster>>,
    /// The newest reconfiguration so far.
    reconfigured: Option<Reconfigured>,
    model: Model,
    /// Writes by session and xid.
    writes: BTreeMap<(i64, i32), usize>,
    done: BTreeSet<usize>,
    out: Replayed,
}

fn violation(invariant: u8, what: String) -> Violation {
    Violation { invariant, what }
}

/// Checks a history against the agreed order.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(
    history: &History,
    agreed: &BTreeMap<Zxid, Bytes>,
    rules: &Rules,
) -> Result<Replayed, Violation> {
    let mut replay = Replay {
        history,
        rules,
        created: BTreeSet::new(),
        begin_with: rules.begun_with.iter().peekable(),
        reconfigured: None,
        model: Model::of(rules.extended_types, &rules.config, rules.reconfig),
        writes: BTreeMap::new(),
        done: BTreeSet::new(),
        out: Replayed::default(),
    };
    let mut reads: Vec<(Zxid, usize)> = Vec::new();
    for (index, call) in history.calls.iter().enumerate() {
        if is_write(call.op) {
            replay.writes.insert((call.session.0, call.xid), index);
        } else if call.told().is_some_and(|told| call.read_only && is_unagreed(agreed, told.zxid)) {
            // Without a leader nobody can know which end of the log will be agreed.
            replay.out.unagreed += 1;
        } else if let Some(told) = call.told().filter(|told| told.zxid.0 > 0 || told.err.is_ok()) {
            reads.push((told.zxid, index));
        }
    }
    reads.sort_unstable();
    let mut reads = reads.into_iter().peekable();
    let mut before = Zxid::ZERO;
    for (zxid, payload) in agreed {
        while let Some((_, index)) = reads.next_if(|(at, _)| at < zxid) {
            replay.read(index)?;
        }
        check_order(before, *zxid)?;
        before = *zxid;
        replay.begin_epochs(*zxid)?;
        replay.apply(*zxid, payload)?;
    }
    for (at, index) in reads {
        // An epoch begins with a zxid that no transaction has.
        if at > before && at.counter() > 0 {
            return Err(violation(7, format!("a read was answered at {at}, the order ends at {before}")));
        }
        replay.read(index)?;
    }
    replay.begin_epochs(Zxid(i64::MAX))?;
    replay.check_lost_writes()?;
    check_real_time(history, rules, &replay.done)?;
    replay.out.roster = replay.model.roster().cloned();
    Ok(replay.out)
}

/// Whether there is a transaction of this number that was never agreed.
fn is_unagreed(agreed: &BTreeMap<Zxid, Bytes>, zxid: Zxid) -> bool {
    zxid.counter() > 0 && !agreed.contains_key(&zxid)
}

/// Within an epoch there is no gap.
fn check_order(before: Zxid, zxid: Zxid) -> Result<(), Violation> {
    let follows = if before.epoch() == zxid.epoch() {
        zxid.0 == before.0 + 1
    } else {
        zxid.counter() == 1 && zxid > before
    };
    if follows { Ok(()) } else { Err(violation(4, format!("{zxid} follows {before}"))) }
}

/// Operations that take a place in the order.
#[must_use]
pub fn is_write(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::SetData
            | OpCode::SetAcl
            | OpCode::Multi
            | OpCode::Reconfig
            | OpCode::CloseSession
    )
}

impl Replay<'_> {
    fn apply(&mut self, zxid: Zxid, payload: &Bytes) -> Result<(), Violation> {
        let record = TxnRecord::decode(payload)
            .map_err(|error| violation(10, format!("{zxid} cannot be read: {error}")))?;
        let header = record.header;
        if header.zxid != zxid {
            return Err(violation(4, format!("{zxid} calls itself {}", header.zxid)));
        }
        let call = self.writes.get(&(header.session.0, header.cxid.0)).copied();
        match &record.txn {
            Txn::CreateSession { timeout_ms } => {
                self.created.insert(header.session.0);
                self.model.open_session(header.session.0, *timeout_ms);
            }
            Txn::CloseSession { paths } => {
                self.close_session(zxid, header.session.0, call, paths.as_deref())?;
            }
            Txn::Delete { op: OpCode::DeleteContainer, path } => {
                if !self.model.may_be_reaped(path, header.time) {
                    return Err(violation(12, format!("{path} was reaped at {zxid} and may not go")));
                }
                self.model.reap(path, zxid);
            }
            // What a server asked of itself and could not do.
            Txn::Error { .. } if header.session.0 == 0 => {}
            txn => self.write(zxid, &record, txn, call)?,
        }
        let orphans = self.model.orphans();
        if !orphans.is_empty() {
            return Err(violation(13, format!("after {zxid} nobody's session owns {orphans:?}")));
        }
        if let Some(digest) = record.digest
            && digest.digest != self.model.digest()
        {
            return Err(violation(10, format!("{zxid} carries another digest than the model has")));
        }
        let changes = std::mem::take(&mut self.model.changes);
        if !changes.is_empty() {
            self.out.changes.insert(zxid, changes);
        }
        Ok(())
    }

    fn close_session(
        &mut self,
        zxid: Zxid,
        session: i64,
        call: Option<usize>,
        paths: Option<&[std::borrow::Cow<'_, str>]>,
    ) -> Result<(), Violation> {
        let gone = self.model.close_session(session, zxid);
        let listed: Option<BTreeSet<String>> =
            paths.map(|paths| paths.iter().map(|path| path.clone().into_owned()).collect());
        if listed.is_some_and(|listed| listed != gone) {
            return Err(violation(13, format!("{zxid} closes {session:#x} and does not list what it owns")));
        }
        // Asked for by the client, unless it is the server's own.
        let asked = call.and_then(|index| Some((index, self.history.calls.get(index)?)));
        match asked.filter(|(_, call)| call.op == OpCode::CloseSession) {
            Some((index, call)) => self.settle(zxid, index, call, Ok(&Reply::Empty)),
            None => {
                self.out.expired.push((session, zxid));
                Ok(())
            }
        }
    }

    fn write(
        &mut self,
        zxid: Zxid,
        record: &TxnRecord<'_>,
        txn: &Txn<'_>,
        call: Option<usize>,
    ) -> Result<(), Violation> {
        let header = record.header;
        let Some((index, call)) = call.and_then(|index| Some((index, self.history.calls.get(index)?))) else {
            return Err(violation(4, format!("nobody asked for {zxid}: {header:?}")));
        };
        let refused = if let Txn::Error { code } = txn { Some(*code) } else { None };
        let Some(request) = call.request() else {
            // What cannot be read fails as such.
            return self.settle(zxid, index, call, Err(refused.unwrap_or(ErrorCode::MARSHALLINGERROR)));
        };
        let standing = self.standing(header.session.0, &request, says_over(txn));
        let writer = Writer {
            session: header.session.0,
            identities: &call.identities,
            zxid,
            time: header.time,
            standing,
        };
        if let (Some(ErrorCode::MARSHALLINGERROR), Request::Multi(_)) = (refused, &request) {
            self.model.changes.clear();
            return self.settle(zxid, index, call, Err(ErrorCode::MARSHALLINGERROR));
        }
        if let (Request::Reconfig(wanted), false) = (&request, refused == Some(ErrorCode::SESSIONMOVED)) {
            return self.reconfigure(writer, (index, call), wanted, txn);
        }
        if refused == Some(ErrorCode::SESSIONMOVED) {
            self.model.changes.clear();
            return self.settle(zxid, index, call, Err(ErrorCode::SESSIONMOVED));
        }
        // A later leader does not know of a move that one has granted who led no more, in ZooKeeper neither.
        let is_stale = call.stale.is_some_and(|epoch| zxid.epoch().0 <= epoch);
        if is_stale && refused.is_none() && !self.may_be_anothers(header.session.0) {
            let what = format!("{zxid} was asked on a connection that {} had left", header.session);
            return Err(violation(15, what));
        }
        let expected = self.model.write(writer, &request);
        if expected.as_ref().err().copied() != refused {
            let what = format!("{zxid} came to {refused:?}, the model says {expected:?} of {request:?}");
            return Err(violation(if standing.is_err() { 13 } else { 12 }, what));
        }
        self.settle(zxid, index, call, expected.as_ref().map_err(|code| *code))
    }

    /// A write has its place: if its client was told, it must have been told this.
    fn settle(
        &mut self,
        zxid: Zxid,
        index: usize,
        call: &Call,
        expected: Result<&Reply<'_>, ErrorCode>,
    ) -> Result<(), Violation> {
        if !self.done.insert(index) {
            return Err(violation(4, format!("{zxid} does a second time what {} asked once", call.session)));
        }
        let Some(told) = call.told() else { return Ok(()) };
        if told.zxid != zxid {
            let what = format!("xid {} of {} is {zxid} and was told {}", call.xid, call.session, told.zxid);
            return Err(violation(15, what));
        }
        self.compare(call, told, expected)
    }

    fn compare(
        &mut self,
        call: &Call,
        told: &Told,
        expected: Result<&Reply<'_>, ErrorCode>,
    ) -> Result<(), Violation> {
        self.out.compared += 1;
        let same = match expected {
            Ok(reply) => told.err.is_ok() && same_body(call.op, reply, &told.body),
            Err(code) => told.err == code,
        };
        if same {
            return Ok(());
        }
        let got = Reply::decode(call.op, &mut Reader::new(&told.body));
        Err(violation(
            12,
            format!(
                "client {} asked {:?} and was told {:?} {got:?} at {}; the model says {expected:?}",
                call.client,
                call.request(),
                told.err,
                told.zxid
            ),
        ))
    }

    fn read(&mut self, index: usize) -> Result<(), Violation> {
        let Some(call) = self.history.calls.get(index) else { return Ok(()) };
        let Some(told) = call.told() else { return Ok(()) };
        let Some(request) = call.request() else { return Ok(()) };
        self.begin_epochs(told.zxid)?;
        if call.read_only {
            self.out.read_only += 1;
            match &request {
                Request::Sync { .. } => return self.compare(call, told, Err(ErrorCode::NOTREADONLY)),
                // It need not have heard yet which configuration is in force.
                request if self.rules.reconfig && shows_config(request) => return Ok(()),
                _ => {}
            }
        }
        match &request {
            // The check of the watches looks at these.
            Request::AddWatch { .. } | Request::CheckWatches { .. } | Request::RemoveWatches { .. } => {
                return Ok(());
            }
            Request::SetWatches2(watches) => {
                let restored = restore(&self.model, watches, call);
                self.out.restored.insert(index, restored);
            }
            _ => {}
        }
        let model = std::mem::replace(&mut self.model, Model::new(false));
        let expected = model.read(call.session.0, &call.identities, &request);
        let compared = self.compare(call, told, expected.as_ref().map_err(|code| *code));
        drop(expected);
        self.model = model;
        compared
    }

    /// What a client was told is done must be in the order.
    fn check_lost_writes(&self) -> Result<(), Violation> {
        for index in self.writes.values().filter(|index| !self.done.contains(index)) {
            let Some(call) = self.history.calls.get(*index) else { continue };
            let Some(told) = call.told() else { continue };
            if !self.needs_no_place(call, told) {
                let what = format!(
                    "client {} was told {:?} at {} for {:?}, which is not in the order",
                    call.client,
                    told.err,
                    told.zxid,
                    call.request()
                );
                return Err(violation(7, what));
            }
        }
        Ok(())
    }
}

/// What restoring watches must do at this state.
fn restore(model: &Model, watches: &SetWatches<'_>, call: &Call) -> Restored {
    let since = watches.relative_zxid.0;
    let mut out = Restored::default();
    let mut each = |path: &str, event: Option<i32>, children: bool| {
        let readable =
            model.list(path).is_none_or(|list| crate::model::may(&call.identities, list, 1).is_ok());
        match event {
            Some(kind) if readable => out.events.push((kind, path.to_owned())),
            _ => out.armed.push((path.to_owned(), children)),
        }
    };
    for path in &watches.data {
        let changed = model.changed_at(path);
        let event = match changed {
            None => Some(2),
            Some((data, _)) if data > since => Some(3),
            Some(_) => None,
        };
        each(path, event, false);
    }
    for path in &watches.exist {
        each(path, model.changed_at(path).map(|_| 1), false);
    }
    for path in &watches.child {
        let event = match model.changed_at(path) {
            None => Some(2),
            Some((_, children)) if children > since => Some(4),
            Some(_) => None,
        };
        each(path, event, true);
    }
    out
}

/// Names have no order; everything else is compared byte by byte.
fn same_body(op: OpCode, expected: &Reply<'_>, body: &[u8]) -> bool {
    let mut bytes = Vec::new();
    expected.encode(&mut bytes);
    if bytes == body {
        return true;
    }
    let (Ok(a), Ok(b)) =
        (Reply::decode(op, &mut Reader::new(&bytes)), Reply::decode(op, &mut Reader::new(body)))
    else {
        return false;
    };
    // Some bytes say nothing that a reader looks at, such as the kind of the end of a multi: they must be right as well.
    let mut again = Vec::new();
    b.encode(&mut again);
    again == body && sort(a) == sort(b)
}

fn sort(reply: Reply<'_>) -> Reply<'_> {
    let sort_names = |names: Names<'_>| match names {
        Names::List(list) => {
            let mut list: Vec<_> = list.into_iter().map(|name| name.into_owned().into()).collect();
            list.sort();
            Names::List(list)
        }
        Names::Encoded { count, parts } => Names::Encoded { count, parts },
    };
    match reply {
        Reply::Names(names) => Reply::Names(sort_names(names)),
        Reply::NamesStat(names, stat) => Reply::NamesStat(sort_names(names), stat),
        Reply::Multi(results) => Reply::Multi(
            results
                .into_iter()
                .map(|result| match result {
                    OpResult::Names(names) => OpResult::Names(sort_names(names)),
                    other => other,
                })
                .collect(),
        ),
        other => other,
    }
}

/// A write asked for after another one was answered has the higher place; what a `sync` brought is no older than what
/// was answered before it.
fn check_real_time(history: &History, rules: &Rules, placed: &BTreeSet<usize>) -> Result<(), Violation> {
    let mut returns: Vec<(Nanos, Zxid)> = Vec::new();
    for told in placed.iter().filter_map(|index| history.calls.get(*index)?.told()) {
        if told.zxid.0 > 0 {
            returns.push((told.at, told.zxid));
        }
    }
    returns.sort_unstable();
    let mut returns = returns.into_iter().peekable();
    let mut newest = Zxid::ZERO;
    // Calls stand in the order in which they were asked.
    for (index, call) in history.calls.iter().enumerate() {
        while let Some((_, zxid)) = returns.next_if(|(at, _)| *at < call.invoked) {
            newest = newest.max(zxid);
        }
        let Some(told) = call.told().filter(|told| told.zxid.0 > 0) else { continue };
        if placed.contains(&index) && told.zxid <= newest {
            let what = format!("{} was asked for after {newest} had been answered", told.zxid);
            return Err(violation(9, what));
        }
        let syncs = call.op == OpCode::Sync && !call.read_only && !rules.syncs_may_be_stale;
        if (syncs || rules.reads_are_fresh) && told.zxid < newest {
            let what = format!("{:?} shows {} after {newest} had been answered", call.op, told.zxid);
            return Err(violation(27, what));
        }
    }
    Ok(())
}

/// Whether a reply shows something of the znode that holds the configuration.
fn shows_config(request: &Request<'_>) -> bool {
    match request {
        Request::GetData { path, .. }
        | Request::Exists { path, .. }
        | Request::GetAcl { path }
        | Request::GetChildren2 { path, .. } => *path == CONFIG,
        Request::MultiRead(reads) => reads.iter().any(shows_config),
        _ => false,
    }
}
