//! Visits every state that a small world can reach, each once, nearest first, so that what is found wrong comes with
//! the shortest way to it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A small world: a state, the steps that it can take, and what must hold after each.
pub(crate) trait Model {
    /// All of it. Two states with equal hashes are taken for the same.
    type State: Clone + Hash;
    /// Something that happens.
    type Step: Copy + Debug;

    fn initial(&self) -> Self::State;

    /// Everything that can happen next.
    fn steps(&self, state: &Self::State) -> Vec<Self::Step>;

    /// Lets one thing happen; what must never be is an error.
    fn take(&self, state: &mut Self::State, step: Self::Step) -> Result<(), String>;

    /// Whether from here on, if nothing goes wrong any more, everything becomes well.
    fn recovers(&self, state: &Self::State) -> Result<(), String>;
}

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// States to visit.
    pub(crate) states_max: usize,
    /// Of how many new states one is asked whether it recovers.
    pub(crate) recovery_every: usize,
}

/// What was visited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visited {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    pub(crate) depth: usize,
    /// Whether no state was left out.
    pub(crate) is_whole: bool,
    /// How many were asked whether they recover.
    pub(crate) recoveries: usize,
}

/// Steps of one walk. What can go wrong is limited, so that every walk must end well before.
const WALK_MAX: usize = 2000;

fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Visits the states of a model.
///
/// # Errors
/// What is wrong, and the steps that lead to it.
pub(crate) fn explore<M: Model>(model: &M, bounds: Bounds) -> Result<Visited, String> {
    visit(model, bounds, &mut Vec::new())
}

/// The shortest ways to states that lead to no other new one: together they pass every state that is visited.
///
/// # Errors
/// As [`explore`].
#[allow(dead_code, reason = "the simulator replays them")]
pub(crate) fn ways<M: Model>(model: &M, bounds: Bounds) -> Result<Vec<Vec<M::Step>>, String> {
    let mut ways = Vec::new();
    visit(model, bounds, &mut ways)?;
    let mut ends: BTreeSet<usize> = (0..ways.len()).collect();
    for (before, _) in &ways {
        ends.remove(before);
    }
    Ok(ends.into_iter().map(|end| steps_to(&ways, end)).collect())
}

/// Visits the states; `ways` tells how each was reached, from which other one and by what step.
fn visit<M: Model>(
    model: &M,
    bounds: Bounds,
    ways: &mut Vec<(usize, Option<M::Step>)>,
) -> Result<Visited, String> {
    let start = model.initial();
    let mut seen = BTreeSet::from([fingerprint(&start)]);
    ways.push((0, None));
    let mut level = vec![(start, 0)];
    let mut visited = Visited { states: 1, steps: 0, depth: 0, is_whole: true, recoveries: 0 };
    while !level.is_empty() && visited.is_whole {
        let mut next = Vec::new();
        for (state, index) in level {
            for step in model.steps(&state) {
                visited.steps += 1;
                let mut after = state.clone();
                let result = model.take(&mut after, step);
                result.map_err(|what| story(ways, index, Some(step), &what))?;
                if !seen.insert(fingerprint(&after)) {
                    continue;
                }
                visited.states += 1;
                if visited.states.is_multiple_of(bounds.recovery_every) {
                    visited.recoveries += 1;
                    let result = model.recovers(&after);
                    result.map_err(|what| story(ways, index, Some(step), &format!("healing: {what}")))?;
                }
                ways.push((index, Some(step)));
                next.push((after, ways.len() - 1));
            }
            if visited.states >= bounds.states_max {
                visited.is_whole = false;
                break;
            }
        }
        visited.depth += usize::from(!next.is_empty());
        level = next;
    }
    Ok(visited)
}

fn steps_to<S: Copy>(ways: &[(usize, Option<S>)], mut at: usize) -> Vec<S> {
    let mut steps = Vec::new();
    while let (before, Some(step)) = ways[at] {
        steps.push(step);
        at = before;
    }
    steps.reverse();
    steps
}

fn story<S: Debug + Copy>(ways: &[(usize, Option<S>)], at: usize, last: Option<S>, what: &str) -> String {
    let steps = steps_to(ways, at).into_iter().chain(last);
    let steps: Vec<String> = steps.map(|step| format!("  {step:?}")).collect();
    format!("{what}, after\n{}", steps.join("\n"))
}

/// Takes steps at random, `walks` times from the start until nothing can happen any more: goes deep where visiting
/// everything is beyond reach. The same seed takes the same steps.
///
/// # Errors
/// What is wrong, and the steps that lead to it.
pub(crate) fn wander<M: Model>(model: &M, seed: u64, walks: usize) -> Result<Visited, String> {
    let mut visited = Visited { states: 0, steps: 0, depth: 0, is_whole: false, recoveries: 0 };
    let mut seen = BTreeSet::new();
    let mut random = seed | 1;
    for _ in 0..walks {
        let mut state = model.initial();
        let mut way: Vec<M::Step> = Vec::new();
        loop {
            let steps = model.steps(&state);
            // Xorshift: no more is asked of it than to be the same everywhere.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let Some(step) = steps.get(usize::try_from(random >> 33).unwrap() % steps.len().max(1)) else {
                break;
            };
            way.push(*step);
            let told = |what: String| {
                let steps: Vec<String> = way.iter().map(|step| format!("  {step:?}")).collect();
                format!("{what}, after\n{}", steps.join("\n"))
            };
            if way.len() > WALK_MAX {
                return Err(told("there is no end of it".to_owned()));
            }
            model.take(&mut state, *step).map_err(told)?;
            seen.insert(fingerprint(&state));
            visited.steps += 1;
        }
        visited.recoveries += 1;
        model.recovers(&state)?;
        visited.depth = visited.depth.max(way.len());
    }
    visited.states = seen.len();
    Ok(visited)
}
