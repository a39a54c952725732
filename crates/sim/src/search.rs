//! A second opinion on histories, from what clients saw alone: is there any order of the operations on one register
//! that respects real time and explains every result? The search of Wing and Gong, with Lowe's memory of the states
//! that were tried, and no word about zxids.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::{ErrorCode, OpCode, Reader, Reply, Request};

use crate::history::{Call, History, Outcome};
use crate::queue::Nanos;
use crate::workload::REGISTERS;

/// What an operation does to a register: its content and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Reads; this was found.
    Read(State),
    /// Writes a value, if the version is as expected; -1 takes any. Tells whether it worked.
    Write {
        /// The value.
        value: Vec<u8>,
        /// The version expected.
        expected: i32,
        /// What the client was told; `None` if it was told nothing.
        told: Option<Result<i32, ErrorCode>>,
    },
}

/// The content and version of a register.
pub type State = (Vec<u8>, i32);

/// An operation on one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// When it was asked.
    pub from: Nanos,
    /// When it was answered; for good if it never was.
    pub to: Nanos,
    /// What it does.
    pub act: Act,
}

/// States that are tried before the search gives up.
const STATES_MAX: usize = 20_000;
/// Operations of a register that are looked at.
const OPERATIONS_MAX: usize = 200;

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Linear,
    /// There is none.
    Impossible,
    /// It would take too long to tell.
    TooLong,
}

impl Act {
    /// The state afterwards, if this is what could have happened.
    fn apply(&self, state: &State) -> Option<State> {
        match self {
            Act::Read(found) => (found == state).then(|| state.clone()),
            Act::Write { value, expected, told } => {
                let works = *expected == -1 || *expected == state.1;
                let after = if works { (value.clone(), state.1 + 1) } else { state.clone() };
                match told {
                    None => Some(after),
                    Some(Ok(version)) => (works && after.1 == *version).then_some(after),
                    Some(Err(_)) => (!works).then_some(after),
                }
            }
        }
    }
}

/// Looks for an order of the operations that respects real time and explains every result.
#[must_use]
pub fn search(start: &State, operations: &[Operation]) -> Verdict {
    let mut order: Vec<&Operation> = operations.iter().collect();
    order.sort_by_key(|operation| operation.from);
    let mut tried: BTreeSet<(Vec<usize>, State)> = BTreeSet::new();
    // Each frame: what is left, in the order of asking, and the state.
    let mut stack = vec![((0..order.len()).collect::<Vec<usize>>(), start.clone())];
    while let Some((left, state)) = stack.pop() {
        // What was never answered may never have happened.
        if left.iter().all(|index| order.get(*index).is_some_and(|operation| operation.to == Nanos::MAX)) {
            return Verdict::Linear;
        }
        if tried.len() > STATES_MAX {
            return Verdict::TooLong;
        }
        if !tried.insert((left.clone(), state.clone())) {
            continue;
        }
        let soonest = left.iter().filter_map(|index| Some(order.get(*index)?.to)).min().unwrap_or(0);
        for (place, index) in left.iter().enumerate().rev() {
            let Some(operation) = order.get(*index) else { continue };
            // Only what was asked before the first answer can come first.
            if operation.from > soonest {
                continue;
            }
            if let Some(after) = operation.act.apply(&state) {
                let mut rest = left.clone();
                rest.remove(place);
                stack.push((rest, after));
            }
        }
    }
    Verdict::Impossible
}

/// The operations on each register of a history, in pieces that begin with a known state: where a register was made.
/// Pieces that something else than reads and writes could have touched are left out.
#[must_use]
pub fn registers(history: &History) -> Vec<(State, Vec<Operation>)> {
    let mut all = Vec::new();
    for register in REGISTERS {
        let touching: Vec<&Call> = history.calls.iter().filter(|call| touches(call, register)).collect();
        if let Some(piece) = piece(&touching) {
            all.push(piece);
        }
    }
    all
}

/// Whether a call has to do with a register, in whichever way.
fn touches(call: &Call, path: &str) -> bool {
    let is_it = |request: &Request<'_>| match request {
        Request::GetData { path: at, .. }
        | Request::SetData { path: at, .. }
        | Request::SetAcl { path: at, .. }
        | Request::Delete { path: at, .. } => **at == *path,
        Request::Create(create) => *create.path == *path,
        _ => false,
    };
    match call.request() {
        Some(Request::Multi(ops)) => ops.iter().any(is_it),
        Some(request) => is_it(&request),
        None => false,
    }
}

/// A register's life from its only creation on, if nothing deleted it.
fn piece(calls: &[&Call]) -> Option<(State, Vec<Operation>)> {
    let created = calls.iter().find_map(|call| {
        let told = call.told().filter(|told| call.op == OpCode::Create && told.err.is_ok())?;
        let Some(Request::Create(create)) = call.request() else { return None };
        Some((told.at, create.data.unwrap_or_default().to_vec()))
    });
    let (made, data) = created?;
    let mut operations = Vec::new();
    for call in calls {
        match (call.op, call.request()?) {
            (OpCode::Create, _) if call.told().is_some() => {}
            (OpCode::GetData, _) if call.told().is_none() => {}
            (OpCode::GetData | OpCode::SetData, request) => operations.extend(operation(call, &request)?),
            // Something that may have made or removed it.
            _ => return None,
        }
    }
    // What was asked before it was made may have found nothing; the search begins after.
    operations.retain(|operation| operation.from > made || operation.to == Nanos::MAX);
    cut(&mut operations);
    let overlapping = calls.iter().any(|call| {
        call.op == OpCode::SetData
            && call.invoked <= made
            && call.told().is_none_or(|told| told.at > made || told.err.is_ok())
    });
    if overlapping { None } else { Some(((data, 0), operations)) }
}

/// Leaves no more operations than can be looked at: up to a moment at which none was under way.
fn cut(operations: &mut Vec<Operation>) {
    if operations.len() <= OPERATIONS_MAX {
        return;
    }
    let (mut answered, mut quiet) = (0, 0);
    for (place, operation) in operations.iter().enumerate().take(OPERATIONS_MAX) {
        if answered < operation.from {
            quiet = place;
        }
        answered = answered.max(operation.to);
    }
    operations.truncate(quiet);
}

fn operation(call: &Call, request: &Request<'_>) -> Option<Option<Operation>> {
    let to = match &call.result {
        Outcome::Told(told) => told.at,
        Outcome::Unknown | Outcome::Waiting => Nanos::MAX,
    };
    let reply = call.told().map(|told| (told.err, Reply::decode(call.op, &mut Reader::new(&told.body))));
    let act = match (request, reply) {
        (Request::GetData { .. }, Some((ErrorCode::OK, Ok(Reply::Data(data, stat))))) => {
            Act::Read((data.unwrap_or_default().to_vec(), stat.version))
        }
        (Request::SetData { data, version, .. }, reply) => {
            let told = match reply {
                None => None,
                Some((ErrorCode::OK, Ok(Reply::Stat(stat)))) => Some(Ok(stat.version)),
                Some((ErrorCode::BADVERSION, _)) => Some(Err(ErrorCode::BADVERSION)),
                // Gone, or not ours to touch: no register any more.
                Some(_) => return None,
            };
            Act::Write { value: data.unwrap_or_default().to_vec(), expected: *version, told }
        }
        (Request::GetData { .. }, Some((ErrorCode::NONODE, _))) => return Some(None),
        _ => return None,
    };
    Some(Some(Operation { from: call.invoked, to, act }))
}

/// Looks at the registers of a history; gives how many it could tell of, or the first that no order explains.
///
/// # Errors
/// The operations of that register, and the state that they begin from.
pub fn verify(history: &History, reads_are_fresh: bool) -> Result<u64, (State, Vec<Operation>)> {
    let mut told = 0;
    for (start, mut operations) in registers(history) {
        if !reads_are_fresh {
            // A read may show an older state: that is no matter for this search.
            operations.retain(|operation| matches!(operation.act, Act::Write { .. }));
        }
        match search(&start, &operations) {
            Verdict::Linear => told += 1,
            Verdict::TooLong => {}
            Verdict::Impossible => return Err((start, operations)),
        }
    }
    Ok(told)
}

/// Counts of operations by what they are, for a summary.
#[must_use]
pub fn sizes(operations: &[Operation]) -> BTreeMap<&'static str, usize> {
    let mut out = BTreeMap::new();
    for operation in operations {
        let what = if matches!(operation.act, Act::Read(_)) { "reads" } else { "writes" };
        *out.entry(what).or_default() += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    /// A history that some order explains, for it was made by one: each operation happens at a moment within its time.
    fn linear(chance: &mut Chance, count: u64, concurrent: u64) -> Vec<Operation> {
        let mut state: State = (b"start".to_vec(), 0);
        (0..count)
            .map(|n| {
                let moment = n * 10 + 1000;
                let from = moment - chance.below(concurrent * 10);
                let answered = !chance.happens(0.05);
                let to = if answered { moment + chance.below(concurrent * 10) } else { Nanos::MAX };
                let act = if answered && chance.happens(0.5) {
                    Act::Read(state.clone())
                } else {
                    let expected =
                        if chance.happens(0.5) { -1 } else { state.1 - i32::from(chance.happens(0.3)) };
                    let value = n.to_be_bytes().to_vec();
                    let works = expected == -1 || expected == state.1;
                    if works {
                        state = (value.clone(), state.1 + 1);
                    }
                    let result = if works { Ok(state.1) } else { Err(ErrorCode::BADVERSION) };
                    Act::Write { value, expected, told: answered.then_some(result) }
                };
                Operation { from, to, act }
            })
            .collect()
    }

    #[test]
    fn what_an_order_made_an_order_explains() {
        for seed in 0..300 {
            let mut chance = Chance::new(seed);
            let operations = linear(&mut chance, 60, 1 + seed % 6);
            assert_ne!(search(&(b"start".to_vec(), 0), &operations), Verdict::Impossible, "seed {seed}");
        }
    }

    #[test]
    fn every_single_lie_is_found_where_operations_do_not_overlap() {
        let start = (b"start".to_vec(), 0);
        let mut lies = [0; 4];
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let mut truth = linear(&mut chance, 30, 1);
            // Every operation is answered at its own moment.
            for (n, operation) in truth.iter_mut().enumerate() {
                (operation.from, operation.to) = (n as u64 * 10 + 1, n as u64 * 10 + 5);
                if let Act::Write { told: told @ None, .. } = &mut operation.act {
                    *told = Some(Ok(0));
                }
            }
            replay_truth(&start, &mut truth);
            assert_eq!(search(&start, &truth), Verdict::Linear);
            for index in 0..truth.len() {
                let mut lie = truth.clone();
                let kind = match &mut lie[index].act {
                    // A stale read.
                    Act::Read(found) => {
                        found.1 -= 1;
                        0
                    }
                    // A write that was said to fail, or to work.
                    Act::Write { told: Some(told), .. } => {
                        *told = if told.is_ok() { Err(ErrorCode::BADVERSION) } else { Ok(99) };
                        1
                    }
                    Act::Write { .. } => continue,
                };
                lies[kind] += 1;
                assert_eq!(
                    search(&start, &lie),
                    Verdict::Impossible,
                    "seed {seed}, {index}: {:?}",
                    lie[index]
                );
                // A write that nobody saw happen but that others built on.
                let mut dropped = truth.clone();
                let gone = dropped.remove(index);
                let seen = matches!(gone.act, Act::Write { told: Some(Ok(_)), .. })
                    && truth.get(index + 1..).is_some_and(|later| later.iter().any(depends));
                if seen {
                    lies[2] += 1;
                    assert_eq!(search(&start, &dropped), Verdict::Impossible, "seed {seed}, {index}");
                }
                // Two results exchanged.
                let mut swapped = truth.clone();
                if index + 1 < swapped.len() && swapped[index].act != swapped[index + 1].act {
                    let (a, b) = (swapped[index].act.clone(), swapped[index + 1].act.clone());
                    if let (Act::Read(_), Act::Write { told: Some(Ok(_)), .. }) = (&a, &b) {
                        (swapped[index].act, swapped[index + 1].act) = (b, a);
                        lies[3] += 1;
                        assert_eq!(search(&start, &swapped), Verdict::Impossible, "seed {seed}, {index}");
                    }
                }
            }
        }
        assert!(lies.iter().all(|count| *count > 50), "{lies:?}");
    }

    /// Whether a result shows how many writes were before it.
    fn depends(operation: &Operation) -> bool {
        matches!(operation.act, Act::Read(_) | Act::Write { told: Some(Ok(_)), .. })
    }

    /// Gives every operation the result that it has in this order.
    fn replay_truth(start: &State, operations: &mut [Operation]) {
        let mut state = start.clone();
        for operation in operations {
            match &mut operation.act {
                Act::Read(found) => *found = state.clone(),
                Act::Write { value, expected, told } => {
                    let works = *expected == -1 || *expected == state.1;
                    if works {
                        state = (value.clone(), state.1 + 1);
                    }
                    *told = Some(if works { Ok(state.1) } else { Err(ErrorCode::BADVERSION) });
                }
            }
        }
    }
}
