//! Registers: znodes that are made once and then read and written, conditionally or not.

use oxkeeper_proto::{ErrorCode, OpCode, Reader, Reply, Request};

use super::{Act, Operation, answered, cut};
use crate::history::{Call, History};
use crate::queue::Nanos;
use crate::workload::REGISTERS;

/// What an operation does to a register: its content and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
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

impl Act for Access {
    type State = State;

    fn apply(&self, state: &State) -> Option<State> {
        match self {
            Access::Read(found) => (found == state).then(|| state.clone()),
            Access::Write { value, expected, told } => {
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

/// The operations on each register of a history, in pieces that begin with a known state: where a register was made.
/// Pieces that something else than reads and writes could have touched are left out.
/// Where reads need not be fresh they are left out too.
#[must_use]
pub fn registers(history: &History, reads_are_fresh: bool) -> Vec<(State, Vec<Operation<Access>>)> {
    let mut all = Vec::new();
    for register in REGISTERS {
        let touching: Vec<&Call> = history.calls.iter().filter(|call| touches(call, register)).collect();
        if let Some((state, mut operations)) = piece(&touching) {
            operations.retain(|operation| reads_are_fresh || !matches!(operation.act, Access::Read(_)));
            all.push((state, operations));
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
fn piece(calls: &[&Call]) -> Option<(State, Vec<Operation<Access>>)> {
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

fn operation(call: &Call, request: &Request<'_>) -> Option<Option<Operation<Access>>> {
    let reply = call.told().map(|told| (told.err, Reply::decode(call.op, &mut Reader::new(&told.body))));
    let act = match (request, reply) {
        (Request::GetData { .. }, Some((ErrorCode::OK, Ok(Reply::Data(data, stat))))) => {
            Access::Read((data.unwrap_or_default().to_vec(), stat.version))
        }
        (Request::SetData { data, version, .. }, reply) => {
            let told = match reply {
                None => None,
                Some((ErrorCode::OK, Ok(Reply::Stat(stat)))) => Some(Ok(stat.version)),
                Some((ErrorCode::BADVERSION, _)) => Some(Err(ErrorCode::BADVERSION)),
                // Gone, or not ours to touch: no register any more.
                Some(_) => return None,
            };
            Access::Write { value: data.unwrap_or_default().to_vec(), expected: *version, told }
        }
        (Request::GetData { .. }, Some((ErrorCode::NONODE, _))) => return Some(None),
        _ => return None,
    };
    Some(Some(Operation { from: call.invoked, to: answered(call), act }))
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, search};
    use super::*;
    use crate::chance::Chance;

    /// A history that some order explains, for it was made by one: each operation happens at a moment within its time.
    fn linear(chance: &mut Chance, count: u64, concurrent: u64) -> Vec<Operation<Access>> {
        let mut state: State = (b"start".to_vec(), 0);
        (0..count)
            .map(|n| {
                let moment = n * 10 + 1000;
                let from = moment - chance.below(concurrent * 10);
                let answered = !chance.happens(0.05);
                let to = if answered { moment + chance.below(concurrent * 10) } else { Nanos::MAX };
                let act = if answered && chance.happens(0.5) {
                    Access::Read(state.clone())
                } else {
                    let expected =
                        if chance.happens(0.5) { -1 } else { state.1 - i32::from(chance.happens(0.3)) };
                    let value = n.to_be_bytes().to_vec();
                    let works = expected == -1 || expected == state.1;
                    if works {
                        state = (value.clone(), state.1 + 1);
                    }
                    let result = if works { Ok(state.1) } else { Err(ErrorCode::BADVERSION) };
                    Access::Write { value, expected, told: answered.then_some(result) }
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
                if let Access::Write { told: told @ None, .. } = &mut operation.act {
                    *told = Some(Ok(0));
                }
            }
            replay_truth(&start, &mut truth);
            assert_eq!(search(&start, &truth), Verdict::Linear);
            for index in 0..truth.len() {
                let mut lie = truth.clone();
                let kind = match &mut lie[index].act {
                    // A stale read.
                    Access::Read(found) => {
                        found.1 -= 1;
                        0
                    }
                    // A write that was said to fail, or to work.
                    Access::Write { told: Some(told), .. } => {
                        *told = if told.is_ok() { Err(ErrorCode::BADVERSION) } else { Ok(99) };
                        1
                    }
                    Access::Write { .. } => continue,
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
                let seen = matches!(gone.act, Access::Write { told: Some(Ok(_)), .. })
                    && truth.get(index + 1..).is_some_and(|later| later.iter().any(depends));
                if seen {
                    lies[2] += 1;
                    assert_eq!(search(&start, &dropped), Verdict::Impossible, "seed {seed}, {index}");
                }
                // Two results exchanged.
                let mut swapped = truth.clone();
                if index + 1 < swapped.len() && swapped[index].act != swapped[index + 1].act {
                    let (a, b) = (swapped[index].act.clone(), swapped[index + 1].act.clone());
                    if let (Access::Read(_), Access::Write { told: Some(Ok(_)), .. }) = (&a, &b) {
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
    fn depends(operation: &Operation<Access>) -> bool {
        matches!(operation.act, Access::Read(_) | Access::Write { told: Some(Ok(_)), .. })
    }

    /// Gives every operation the result that it has in this order.
    fn replay_truth(start: &State, operations: &mut [Operation<Access>]) {
        let mut state = start.clone();
        for operation in operations {
            match &mut operation.act {
                Access::Read(found) => *found = state.clone(),
                Access::Write { value, expected, told } => {
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
