//! A second opinion on histories, from what clients saw alone: is there any order of the operations on one object that
//! respects real time and explains every result? The search of Wing and Gong, with Lowe's memory of the states that were
//! tried, and no word about zxids. A history that some order explains is explained object by object as well, so each is
//! looked at alone: [`registers`], and whether a znode is there ([`presence`]).

pub mod presence;
pub mod registers;

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::history::{Call, History, Outcome};
use crate::queue::Nanos;

/// What an operation does to an object, and what its client was told.
pub trait Act: Clone + Debug {
    /// What the object is like.
    type State: Clone + Debug + Ord;

    /// The state afterwards, if this is what could have happened.
    fn apply(&self, state: &Self::State) -> Option<Self::State>;
}

/// An operation on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<A> {
    /// When it was asked.
    pub from: Nanos,
    /// When it was answered; for good if it never was: then it may have happened at any time, or not at all.
    pub to: Nanos,
    /// What it does.
    pub act: A,
}

/// States that are tried before the search gives up.
const STATES_MAX: usize = 20_000;
/// Operations of an object that are looked at.
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

/// Looks for an order of the operations that respects real time and explains every result.
#[must_use]
pub fn search<A: Act>(start: &A::State, operations: &[Operation<A>]) -> Verdict {
    let mut order: Vec<&Operation<A>> = operations.iter().collect();
    order.sort_by_key(|operation| operation.from);
    let mut tried: BTreeSet<(Vec<usize>, A::State)> = BTreeSet::new();
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

/// Leaves no more operations than can be looked at: up to a moment at which none was under way.
fn cut<A>(operations: &mut Vec<Operation<A>>) {
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

/// When a call was answered; for good if it never was.
fn answered(call: &Call) -> Nanos {
    match &call.result {
        Outcome::Told(told) => told.at,
        Outcome::Unknown | Outcome::Waiting => Nanos::MAX,
    }
}

/// Looks at the objects of a history; gives how many registers and how many znodes it could tell of, or the first object
/// that no order explains, in words. Reads may show an older state unless they are said to be fresh.
///
/// # Errors
/// What the object begins with, and the operations on it.
pub fn verify(history: &History, reads_are_fresh: bool) -> Result<(u64, u64), String> {
    let registers = all_of(registers::registers(history, reads_are_fresh))?;
    let znodes = all_of(presence::znodes(history, reads_are_fresh))?;
    Ok((registers, znodes))
}

fn all_of<A: Act>(objects: Vec<(A::State, Vec<Operation<A>>)>) -> Result<u64, String> {
    let mut told = 0;
    for (start, operations) in objects {
        match search(&start, &operations) {
            Verdict::Linear => told += 1,
            Verdict::TooLong => {}
            Verdict::Impossible => {
                return Err(format!("no order explains these operations from {start:?} on: {operations:?}"));
            }
        }
    }
    Ok(told)
}
