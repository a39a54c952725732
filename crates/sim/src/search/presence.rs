//! Whether a znode is there: a set, element by element. What makes and removes it, alone or within a multi, and what finds
//! it or not, must be explained by an order in which nobody makes what is there or removes what is not; so no name is
//! given out twice, either.
//!
//! Znodes that come or go by themselves (ephemerals, containers, those with a time to live) are left out. An operation of
//! which nothing was heard either did what it was asked to or nothing: both are tried.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{Create, ErrorCode, OpCode, OpResult, Reader, Reply, Request, path};

use super::{Act, Operation, answered, cut};
use crate::history::{Call, History};
use crate::queue::Nanos;

/// What happens to a znode at one moment, in order: a multi may do several things to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touches(Vec<Touch>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    /// It was not there, and is.
    Makes,
    /// It was there, and is not.
    Removes,
    /// It is there, or not.
    Finds(bool),
}

impl Act for Touches {
    type State = bool;

    fn apply(&self, state: &bool) -> Option<bool> {
        self.0.iter().try_fold(*state, |is_there, touch| match touch {
            Touch::Makes => (!is_there).then_some(true),
            Touch::Removes => is_there.then_some(false),
            Touch::Finds(found) => (is_there == *found).then_some(is_there),
        })
    }
}

/// What one call says of znodes.
type Said = Vec<(String, Touch)>;

/// The operations on each znode of a history, and whether it is there at its beginning. Where reads need not be fresh they are
/// left out.
#[must_use]
pub fn znodes(history: &History, reads_are_fresh: bool) -> Vec<(bool, Vec<Operation<Touches>>)> {
    let mut by_path: BTreeMap<String, Vec<Operation<Touches>>> = BTreeMap::new();
    let mut fleeting = BTreeSet::new();
    // Sequential ones of which nothing was heard: any name that begins so.
    let mut unheard = Vec::new();
    for call in &history.calls {
        let Some(request) = call.request() else { continue };
        for create in creates(&request) {
            // A server goes by the operation where that and the flags say different things.
            let is_container = create.op == OpCode::CreateContainer;
            if !matches!(create.flags, 0 | 2) || create.ttl > 0 || is_container {
                fleeting.insert(create.path.clone().into_owned());
            }
            if create.flags == 2 && call.told().is_none() {
                unheard.push((create.path.clone().into_owned(), call.invoked));
            }
        }
        let mut at_once: BTreeMap<String, Vec<Touch>> = BTreeMap::new();
        for (path, touch) in said(call, &request, reads_are_fresh) {
            at_once.entry(path).or_default().push(touch);
        }
        for (path, touches) in at_once {
            let operation = Operation { from: call.invoked, to: answered(call), act: Touches(touches) };
            by_path.entry(path).or_default().push(operation);
        }
    }
    let is_fleeting = |path: &String| {
        let name_of = |begun: &String| path.strip_prefix(begun.as_str()).is_some_and(is_number);
        fleeting.contains(path) || fleeting.iter().any(name_of)
    };
    by_path.retain(|path, _| !is_fleeting(path));
    for (path, operations) in &mut by_path {
        for (begun, from) in &unheard {
            if path.strip_prefix(begun.as_str()).is_some_and(is_number) {
                let act = Touches(vec![Touch::Makes]);
                operations.push(Operation { from: *from, to: Nanos::MAX, act });
            }
        }
        operations.sort_by_key(|operation| operation.from);
        cut(operations);
    }
    by_path.into_iter().map(|(path, operations)| (path::PROTECTED.contains(&&*path), operations)).collect()
}

/// Whether this is what stands behind the name of a sequential znode.
fn is_number(text: &str) -> bool {
    text.len() >= 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn creates<'r>(request: &'r Request<'r>) -> Vec<&'r Create<'r>> {
    match request {
        Request::Create(create) => vec![create],
        Request::Multi(ops) => ops.iter().flat_map(creates).collect(),
        _ => Vec::new(),
    }
}

/// What a call and its reply say of which znodes.
fn said(call: &Call, request: &Request<'_>, reads_are_fresh: bool) -> Said {
    let Some(told) = call.told() else { return unknown(request) };
    let reply = Reply::decode(call.op, &mut Reader::new(&told.body));
    match (request, reply) {
        (Request::Multi(ops), Ok(Reply::Multi(results))) => multi(ops, &results),
        (Request::Exists { path, .. } | Request::GetData { path, .. }, _) if reads_are_fresh => {
            found(told.err)
                .map(|found| (path.clone().into_owned(), Touch::Finds(found)))
                .into_iter()
                .collect()
        }
        (Request::Create(_), Ok(Reply::Path(Some(made)) | Reply::PathStat(made, _))) if told.err.is_ok() => {
            vec![(made.into_owned(), Touch::Makes)]
        }
        (request, _) => one(request, told.err).into_iter().collect(),
    }
}

/// What an operation that changes something says by its error code alone.
fn one(request: &Request<'_>, err: ErrorCode) -> Option<(String, Touch)> {
    let (path, touch) = match request {
        // Sequential ones have another name; that their parent is missing says nothing of themselves.
        Request::Create(create) if matches!(create.flags, 0) => match err {
            ErrorCode::OK => (&create.path, Touch::Makes),
            ErrorCode::NODEEXISTS => (&create.path, Touch::Finds(true)),
            _ => return None,
        },
        Request::Delete { path, .. } if err.is_ok() => (path, Touch::Removes),
        Request::Delete { path, .. } if err == ErrorCode::NOTEMPTY => (path, Touch::Finds(true)),
        Request::Delete { path, .. } | Request::SetData { path, .. } | Request::Check { path, .. } => {
            (path, Touch::Finds(found(err)?))
        }
        _ => return None,
    };
    Some((path.clone().into_owned(), touch))
}

/// Whether what came of it shows that the znode was there.
fn found(err: ErrorCode) -> Option<bool> {
    match err {
        ErrorCode::OK | ErrorCode::BADVERSION => Some(true),
        ErrorCode::NONODE => Some(false),
        _ => None,
    }
}

/// Of a multi that worked, what every part did; of one that did not, what the part found that failed, if no part before it
/// could have changed that.
fn multi(ops: &[Request<'_>], results: &[OpResult<'_>]) -> Said {
    let failed = results.iter().position(|result| {
        matches!(result, OpResult::Error(err) if !err.is_ok() && *err != ErrorCode::RUNTIMEINCONSISTENCY)
    });
    if let Some(place) = failed {
        let (Some(op), Some(OpResult::Error(err))) = (ops.get(place), results.get(place)) else {
            return Vec::new();
        };
        let said = one(op, *err);
        let before = ops.iter().take(place).flat_map(|op| one(op, ErrorCode::OK));
        let is_touched = |path: &String| before.clone().any(|(other, _)| other == *path);
        return said.filter(|(path, _)| !is_touched(path)).into_iter().collect();
    }
    let each = ops.iter().zip(results).filter_map(|(op, result)| match result {
        OpResult::Create(made) | OpResult::Create2(made, _) => {
            Some((made.clone().into_owned(), Touch::Makes))
        }
        OpResult::Delete | OpResult::SetData(_) | OpResult::Check => one(op, ErrorCode::OK),
        _ => None,
    });
    each.collect()
}

/// What an operation does of which nothing was heard, if it happened.
fn unknown(request: &Request<'_>) -> Said {
    match request {
        Request::Multi(ops) => ops.iter().filter_map(|op| one(op, ErrorCode::OK)).collect(),
        request => one(request, ErrorCode::OK).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use oxkeeper_proto::{AclList, SessionId, Stat, Zxid};

    use super::super::{Verdict, search};
    use super::*;
    use crate::history::{Outcome, Told};

    /// A call that takes from one moment to another, with its reply if there was one.
    fn call(
        request: &Request<'_>,
        (from, at): (Nanos, Nanos),
        reply: Option<(ErrorCode, Reply<'_>)>,
    ) -> Call {
        let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            encode(&mut out);
            out
        };
        let told = |(err, reply): (ErrorCode, Reply<'_>)| {
            let body = encoded(&|out| reply.encode(out));
            Outcome::Told(Told { at, zxid: Zxid(1), err, body })
        };
        Call {
            client: 0,
            conn: 1,
            session: SessionId(1),
            xid: 1,
            op: request.op(),
            body: encoded(&|out| request.encode(out)),
            identities: Rc::default(),
            invoked: from,
            server: 0,
            stale: None,
            read_only: false,
            result: reply.map_or(Outcome::Unknown, told),
        }
    }

    fn make(path: &str, flags: i32) -> Request<'_> {
        let (op, data, acl) = (OpCode::Create, Some(&b""[..]), Some(AclList::OPEN));
        Request::Create(Create { op, path: path.into(), data, acl, flags, ttl: -1 })
    }

    /// A container, whatever its flags say.
    fn container(path: &str) -> Request<'_> {
        let (op, data, acl) = (OpCode::CreateContainer, Some(&b""[..]), Some(AclList::OPEN));
        Request::Create(Create { op, path: path.into(), data, acl, flags: 0, ttl: -1 })
    }

    fn remove(path: &str) -> Request<'_> {
        Request::Delete { path: path.into(), version: -1 }
    }

    fn made(path: &str) -> Option<(ErrorCode, Reply<'_>)> {
        Some((ErrorCode::OK, Reply::Path(Some(path.into()))))
    }

    fn failed(err: ErrorCode) -> Option<(ErrorCode, Reply<'static>)> {
        Some((err, Reply::Empty))
    }

    fn verdicts(calls: Vec<Call>) -> Vec<Verdict> {
        let history = History { calls, sights: Vec::new() };
        znodes(&history, true).iter().map(|(start, operations)| search(start, operations)).collect()
    }

    #[test]
    fn what_comes_and_goes_must_alternate() {
        let a = "/a";
        let gone = || Some((ErrorCode::OK, Reply::Empty));
        let whole = || {
            vec![
                call(&make(a, 0), (1, 2), made(a)),
                call(&make(a, 0), (3, 4), failed(ErrorCode::NODEEXISTS)),
                call(&remove(a), (5, 6), gone()),
                call(&remove(a), (7, 8), failed(ErrorCode::NONODE)),
                call(&make(a, 0), (9, 10), made(a)),
            ]
        };
        assert_eq!(verdicts(whole()), [Verdict::Linear]);
        for place in 0..whole().len() {
            let mut lost = whole();
            lost.remove(place);
            // What failed changed nothing, and the last one is seen by nobody.
            let is_seen = matches!(place, 0 | 2);
            let expected = if is_seen { Verdict::Impossible } else { Verdict::Linear };
            assert_eq!(verdicts(lost), [expected], "without {place}");
        }
        let mut unheard = whole();
        unheard[0].result = Outcome::Unknown;
        assert_eq!(verdicts(unheard), [Verdict::Linear], "it happened all the same");
        let both = vec![call(&make(a, 0), (1, 9), made(a)), call(&make(a, 0), (2, 8), made(a))];
        assert_eq!(verdicts(both), [Verdict::Impossible]);
        let overlapping = vec![
            call(&make(a, 0), (1, 9), failed(ErrorCode::NODEEXISTS)),
            call(&make(a, 0), (2, 8), made(a)),
            call(&remove(a), (3, 12), gone()),
        ];
        assert_eq!(verdicts(overlapping), [Verdict::Linear]);
    }

    #[test]
    fn no_number_is_given_out_twice() {
        let name = "/q/n-0000000007";
        let twice =
            vec![call(&make("/q/n-", 2), (1, 2), made(name)), call(&make("/q/n-", 2), (3, 4), made(name))];
        assert_eq!(verdicts(twice), [Verdict::Impossible]);
        let unheard = vec![
            call(&make("/q/n-", 2), (1, 2), None),
            call(&remove(name), (3, 4), Some((ErrorCode::OK, Reply::Empty))),
        ];
        assert_eq!(verdicts(unheard), [Verdict::Linear], "it may be the one of which nothing was heard");
        let from_nowhere = vec![call(&remove(name), (3, 4), Some((ErrorCode::OK, Reply::Empty)))];
        assert_eq!(verdicts(from_nowhere), [Verdict::Impossible]);
    }

    #[test]
    fn lists_of_operations_happen_at_once_or_not_at_all() {
        let both = Request::Multi(vec![make("/a", 0), remove("/a"), make("/b", 0)]);
        let done = || {
            let create = |path: &'static str| OpResult::Create(path.into());
            Reply::Multi(vec![create("/a"), OpResult::Delete, create("/b")])
        };
        let look = |path: &'static str| Request::Exists { path: path.into(), watch: false };
        let there = || Some((ErrorCode::OK, Reply::Stat(Stat::default())));
        let missing = || failed(ErrorCode::NONODE);
        let seen = |a, b| {
            let calls = vec![
                call(&both, (1, 2), Some((ErrorCode::OK, done()))),
                call(&look("/a"), (3, 4), a),
                call(&look("/b"), (3, 4), b),
            ];
            verdicts(calls)
        };
        assert_eq!(seen(missing(), there()), [Verdict::Linear; 2]);
        assert_eq!(seen(there(), missing()), [Verdict::Impossible; 2]);
        let undone = Reply::Multi(vec![
            OpResult::Error(ErrorCode::OK),
            OpResult::Error(ErrorCode::OK),
            OpResult::Error(ErrorCode::NODEEXISTS),
        ]);
        let calls = vec![
            call(&make("/b", 0), (1, 2), made("/b")),
            call(&both, (3, 4), Some((ErrorCode::OK, undone))),
            call(&look("/a"), (5, 6), missing()),
        ];
        assert_eq!(verdicts(calls), [Verdict::Linear; 2]);
    }

    #[test]
    fn what_comes_and_goes_by_itself_is_left_out() {
        let calls = vec![
            call(&make("/e", 1), (1, 2), made("/e")),
            call(&make("/e", 0), (3, 4), made("/e")),
            call(&make("/c-", 3), (1, 2), made("/c-0000000001")),
            call(&container("/k"), (1, 2), made("/k")),
            call(&remove("/k"), (3, 4), failed(ErrorCode::NONODE)),
            call(&remove("/zookeeper/config"), (1, 2), failed(ErrorCode::NOTEMPTY)),
        ];
        assert_eq!(verdicts(calls), [Verdict::Linear], "the last one is there from the beginning");
    }
}
