//! The history of watches: what every connection was told, against what the agreed order says it had to be told, in
//! which order, and before which replies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oxkeeper_proto::{ErrorCode, OpCode, Request, Zxid};
use oxkeeper_tree::Identity;

use crate::checker::Replayed;
use crate::history::{Call, History, Seen, Told};
use crate::model::{Change, may};
use crate::observer::Violation;

const CREATED: i32 = 1;
const DELETED: i32 = 2;
const CHILDREN: i32 = 4;

const STANDARD: u8 = 1;
const PERSISTENT: u8 = 2;
const RECURSIVE: u8 = 4;

/// The watches of one connection: by path, and whether its children are watched.
type Table = BTreeMap<(String, bool), u8>;

/// An event as it came or should have come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    zxid: Zxid,
    kind: i32,
    path: String,
}

struct Connection<'a> {
    history: &'a History,
    replayed: &'a Replayed,
    table: Table,
    identities: &'a [Identity],
    /// Everything up to here has been looked at.
    at: Zxid,
    received: VecDeque<Event>,
    checked: u64,
}

fn violation(invariant: u8, what: String) -> Violation {
    Violation { invariant, what }
}

/// Checks all connections of a history; tells how many events it looked at.
///
/// # Errors
/// The first event that is missing, late, or should not be.
pub fn verify(history: &History, replayed: &Replayed) -> Result<u64, Violation> {
    let mut connections: BTreeMap<(usize, u32), Vec<&Seen>> = BTreeMap::new();
    for sight in &history.sights {
        connections.entry((sight.client, sight.conn)).or_default().push(&sight.seen);
    }
    let mut checked = 0;
    // What each client still watches once when a connection breaks, and has to watch again on the next one.
    let mut carried: BTreeMap<usize, OneShots> = BTreeMap::new();
    let restoring = restoring_calls(history);
    for ((client, conn), sights) in connections {
        let mut own = match sights.first() {
            Some(Seen::Opened { is_new: false, .. }) => carried.remove(&client).unwrap_or_default(),
            _ => OneShots::new(),
        };
        check_restored(&own, restoring.get(&(client, conn)).copied())
            .map_err(|what| violation(17, format!("client {client}, its connection {conn}: {what}")))?;
        sights.iter().for_each(|seen| keep_account(&mut own, history, seen));
        carried.insert(client, own);
        let mut connection = Connection {
            history,
            replayed,
            table: Table::new(),
            identities: &[],
            at: Zxid::ZERO,
            received: VecDeque::new(),
            checked: 0,
        };
        connection.run(&sights).map_err(|mut violation| {
            violation.what = format!("client {client}, its connection {conn}: {}", violation.what);
            violation
        })?;
        checked += connection.checked;
    }
    Ok(checked)
}

/// One-shot watches as a client knows of them: the path, and whether its children are watched.
type OneShots = BTreeSet<(String, bool)>;

/// By connection: the call that restores watches on it.
fn restoring_calls(history: &History) -> BTreeMap<(usize, u32), &Call> {
    let calls = history.calls.iter().filter(|call| call.op == OpCode::SetWatches2);
    calls.map(|call| ((call.client, call.conn), call)).collect()
}

/// Whether a client that came back asked for all that it had watched.
fn check_restored(wanted: &OneShots, call: Option<&Call>) -> Result<(), String> {
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(Request::SetWatches2(lists)) = call.and_then(Call::request) else {
        return Err(format!("{wanted:?} was not watched again"));
    };
    let data = lists.data.iter().chain(&lists.exist).map(|path| (path.to_string(), false));
    let asked: OneShots = data.chain(lists.child.iter().map(|path| (path.to_string(), true))).collect();
    let missing: Vec<_> = wanted.difference(&asked).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} was not watched again")) }
}

/// What a client knows after it has seen something.
fn keep_account(own: &mut OneShots, history: &History, seen: &Seen) {
    match seen {
        Seen::Opened { .. } => {}
        Seen::Event { kind, path, .. } => {
            if *kind == CHILDREN || *kind == DELETED {
                own.remove(&(path.clone(), true));
            }
            if *kind != CHILDREN {
                own.remove(&(path.clone(), false));
            }
        }
        Seen::Reply(index) => {
            let Some(call) = history.calls.get(*index) else { return };
            let Some(told) = call.told() else { return };
            match call.request() {
                Some(Request::GetData { path, watch: true }) if told.err.is_ok() => {
                    own.insert((path.into_owned(), false));
                }
                Some(Request::Exists { path, watch: true })
                    if told.err.is_ok() || told.err == ErrorCode::NONODE =>
                {
                    own.insert((path.into_owned(), false));
                }
                Some(
                    Request::GetChildren { path, watch: true } | Request::GetChildren2 { path, watch: true },
                ) if told.err.is_ok() => {
                    own.insert((path.into_owned(), true));
                }
                Some(Request::RemoveWatches { path, kind }) if told.err.is_ok() => {
                    let path = path.into_owned();
                    if matches!(kind, 1 | 3) {
                        own.remove(&(path.clone(), true));
                    }
                    if matches!(kind, 2 | 3) {
                        own.remove(&(path, false));
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'a> Connection<'a> {
    fn run(&mut self, sights: &[&'a Seen]) -> Result<(), Violation> {
        for (place, seen) in sights.iter().enumerate() {
            match seen {
                Seen::Opened { .. } => {}
                Seen::Event { zxid, kind, path } => {
                    self.received.push_back(Event { zxid: *zxid, kind: *kind, path: path.clone() });
                }
                Seen::Reply(index) => {
                    let later = sights.get(place..).unwrap_or_default();
                    let Some(call) = self.history.calls.get(*index) else { continue };
                    let Some(told) = call.told() else { continue };
                    self.identities = &call.identities;
                    if told.zxid.0 > 0 {
                        self.replied(*index, call, told, later)?;
                    }
                }
            }
        }
        self.drain_rest()
    }

    /// A reply shows the state at its zxid: everything that had to be told up to there must have been told.
    fn replied(&mut self, index: usize, call: &Call, told: &Told, later: &[&Seen]) -> Result<(), Violation> {
        for expected in self.due(told.zxid) {
            self.checked += 1;
            match self.received.pop_front() {
                Some(event) if event == expected => {}
                other => return Err(self.mismatch(&expected, other, later)),
            }
        }
        if let Some(restored) = self.replayed.restored.get(&index) {
            for (kind, path) in &restored.events {
                self.checked += 1;
                let expected = Event { zxid: Zxid(-1), kind: *kind, path: path.clone() };
                match self.received.pop_front() {
                    Some(event) if event == expected => {}
                    other => return Err(self.mismatch(&expected, other, later)),
                }
            }
            for (path, children) in &restored.armed {
                *self.table.entry((path.clone(), *children)).or_default() |= STANDARD;
            }
        }
        if let Some(event) = self.received.pop_front() {
            return Err(self.unexpected(&event));
        }
        self.registered(call, told)
    }

    /// Events due between where we are and this zxid; takes one-shot watches away.
    fn due(&mut self, until: Zxid) -> Vec<Event> {
        let mut out = Vec::new();
        if until > self.at && !self.table.is_empty() {
            let from = Zxid(self.at.0 + 1);
            for (zxid, changes) in self.replayed.changes.range(from..=until) {
                for change in changes {
                    fire(&mut self.table, self.identities, *zxid, change, &mut out);
                }
            }
        }
        self.at = self.at.max(until);
        out
    }

    fn mismatch(&self, expected: &Event, got: Option<Event>, later: &[&Seen]) -> Violation {
        let comes_later = later.iter().any(|seen| {
            matches!(seen, Seen::Event { zxid, kind, path }
                if *zxid == expected.zxid && *kind == expected.kind && *path == expected.path)
        });
        if comes_later {
            return violation(16, format!("{expected:?} comes after a reply that shows the change"));
        }
        match got {
            Some(event) if self.is_forbidden(&event) => self.unexpected(&event),
            other => violation(17, format!("{expected:?} is missing; what came instead is {other:?}")),
        }
    }

    /// Whether the event tells of something that its receiver may not read.
    fn is_forbidden(&self, event: &Event) -> bool {
        let changes = self.replayed.changes.get(&event.zxid).map(Vec::as_slice).unwrap_or_default();
        changes.iter().any(|change| {
            let list = if change.path == event.path { &change.acl } else { &change.parent_acl };
            (change.path == event.path || event.kind == CHILDREN && parent(&change.path) == event.path)
                && may(self.identities, list, 1).is_err()
        })
    }

    fn unexpected(&self, event: &Event) -> Violation {
        let invariant = if self.is_forbidden(event) { 19 } else { 18 };
        violation(invariant, format!("{event:?} was told and should not have been"))
    }

    /// What a request does to the connection's watches.
    fn registered(&mut self, call: &Call, told: &Told) -> Result<(), Violation> {
        let Some(request) = call.request() else { return Ok(()) };
        let ok = told.err.is_ok();
        let mut set = |path: &str, children: bool, bit: u8| {
            *self.table.entry((path.to_owned(), children)).or_default() |= bit;
        };
        match &request {
            Request::GetData { path, watch: true } if ok => set(path, false, STANDARD),
            Request::Exists { path, watch: true } if ok || told.err == ErrorCode::NONODE => {
                set(path, false, STANDARD);
            }
            Request::GetChildren { path, watch: true } | Request::GetChildren2 { path, watch: true }
                if ok =>
            {
                set(path, true, STANDARD);
            }
            Request::AddWatch { path, mode: 0 } if ok => {
                set(path, false, PERSISTENT);
                set(path, true, PERSISTENT);
            }
            Request::AddWatch { path, mode: 1 } if ok => set(path, false, RECURSIVE),
            Request::SetWatches2(watches) => {
                for path in &watches.persistent {
                    set(path, false, PERSISTENT);
                    set(path, true, PERSISTENT);
                }
                for path in &watches.recursive {
                    set(path, false, RECURSIVE);
                }
            }
            Request::CheckWatches { path, kind } => self.check_found(path, *kind, told.err, false)?,
            Request::RemoveWatches { path, kind } => self.check_found(path, *kind, told.err, true)?,
            _ => {}
        }
        Ok(())
    }

    fn check_found(&mut self, path: &str, kind: i32, err: ErrorCode, remove: bool) -> Result<(), Violation> {
        let mut found = false;
        for children in [false, true] {
            let bits = match (kind, children) {
                (3, _) => STANDARD | PERSISTENT | RECURSIVE,
                (1, true) | (2, false) => STANDARD,
                (4, _) => PERSISTENT,
                (5, false) => RECURSIVE,
                _ => 0,
            };
            let key = (path.to_owned(), children);
            if let Some(held) = self.table.get_mut(&key) {
                found |= *held & bits != 0;
                if remove {
                    *held &= !bits;
                    if *held == 0 {
                        self.table.remove(&key);
                    }
                }
            }
        }
        let expected = if found { ErrorCode::OK } else { ErrorCode::NOWATCHER };
        if err == expected {
            return Ok(());
        }
        Err(violation(17, format!("watches of kind {kind} on {path}: told {err:?}, {expected:?} is right")))
    }

    /// After the last reply the connection may have broken anywhere: what came must be how it would have gone on.
    fn drain_rest(&mut self) -> Result<(), Violation> {
        let last = self.replayed.changes.keys().next_back().copied().unwrap_or(Zxid::ZERO);
        // Restoring watches had begun and its reply was lost: what it told cannot be placed.
        self.received.retain(|event| event.zxid.0 > 0);
        for expected in self.due(last) {
            match self.received.pop_front() {
                None => return Ok(()),
                Some(event) if event == expected => self.checked += 1,
                Some(event) if self.is_forbidden(&event) => return Err(self.unexpected(&event)),
                Some(event) => {
                    return Err(violation(17, format!("{expected:?} is missing before {event:?}")));
                }
            }
        }
        match self.received.pop_front() {
            Some(event) => Err(self.unexpected(&event)),
            None => Ok(()),
        }
    }
}

fn parent(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => path.get(..at).unwrap_or_default(),
    }
}

/// The events of a change for one connection.
fn fire(table: &mut Table, who: &[Identity], zxid: Zxid, change: &Change, out: &mut Vec<Event>) {
    let mut told = take(table, &change.path, false) || has_above(table, &change.path);
    if change.kind == DELETED {
        told |= take(table, &change.path, true);
    }
    if told && may(who, &change.acl, 1).is_ok() {
        out.push(Event { zxid, kind: change.kind, path: change.path.clone() });
    }
    if matches!(change.kind, CREATED | DELETED) {
        let above = parent(&change.path);
        if take(table, above, true) && may(who, &change.parent_acl, 1).is_ok() {
            out.push(Event { zxid, kind: CHILDREN, path: above.to_owned() });
        }
    }
}

/// Whether there is a watch on exactly this; a one-shot watch is used up.
fn take(table: &mut Table, path: &str, children: bool) -> bool {
    let key = (path.to_owned(), children);
    let Some(bits) = table.get_mut(&key) else { return false };
    *bits &= !STANDARD;
    if *bits == 0 {
        table.remove(&key);
    }
    true
}

/// Whether a recursive watch on something above covers this.
fn has_above(table: &Table, path: &str) -> bool {
    let mut at = path;
    while at != "/" {
        at = parent(at);
        if table.get(&(at.to_owned(), false)).is_some_and(|bits| bits & RECURSIVE != 0) {
            return true;
        }
    }
    false
}
