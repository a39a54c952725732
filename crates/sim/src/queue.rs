//! Virtual time: what happens when, in one order, and a running hash of all of it.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Virtual nanoseconds since the start of the run.
pub type Nanos = u64;

/// One millisecond.
pub const MS: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000 * MS;

/// Folds words into 64 bits that tell runs apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunHash(u64);

impl RunHash {
    /// Folds a word in.
    pub fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Folds bytes in.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        self.add(u64::from(crc32fast::hash(bytes)));
    }

    /// What came of it.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Entry<E> {
    at: Nanos,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The soonest is the greatest: a heap gives out its greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// Everything that is going to happen.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Entry<E>>,
    sequence: u64,
    now: Nanos,
    popped: u64,
    /// Of every event popped so far: when, and in which order it was planned.
    pub hash: RunHash,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), sequence: 0, now: 0, popped: 0, hash: RunHash::default() }
    }
}

impl<E> Queue<E> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Events that have happened.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.popped
    }

    /// Has something happen at a time, or now if that is over.
    pub fn at(&mut self, at: Nanos, event: E) {
        self.sequence += 1;
        self.heap.push(Entry { at: at.max(self.now), sequence: self.sequence, event });
    }

    /// Has something happen after a while.
    pub fn after(&mut self, delay: Nanos, event: E) {
        self.at(self.now.saturating_add(delay), event);
    }

    /// The next event, unless it comes after `until`; then the time is `until`.
    pub fn pop(&mut self, until: Nanos) -> Option<E> {
        if self.heap.peek().is_none_or(|entry| entry.at > until) {
            self.now = self.now.max(until);
            return None;
        }
        let entry = self.heap.pop()?;
        self.now = entry.at;
        self.popped += 1;
        self.hash.add(entry.at);
        self.hash.add(entry.sequence);
        Some(entry.event)
    }
}

#[cfg(test)]
impl<E> Queue<E> {
    /// The first event of a kind, whatever comes before it and whenever it is due. Time stands still.
    pub(crate) fn take_first(&mut self, is_wanted: impl Fn(&E) -> bool) -> Option<E> {
        let mut entries = std::mem::take(&mut self.heap).into_sorted_vec();
        let place = entries.iter().rposition(|entry| is_wanted(&entry.event));
        let taken = place.map(|place| entries.remove(place).event);
        self.heap = entries.into();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_planned() {
        let mut queue = Queue::default();
        for (at, name) in [(5, "c"), (1, "a"), (5, "d"), (3, "b")] {
            queue.at(at, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(4)).collect();
        assert_eq!((order, queue.now()), (vec!["a", "b"], 4));
        queue.at(0, "late");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(9).map(|event| (queue.now(), event))).collect();
        assert_eq!(order, [(4, "late"), (5, "c"), (5, "d")]);
    }

    #[test]
    fn the_hash_tells_orders_apart() {
        let run = |times: [u64; 2]| {
            let mut queue = Queue::default();
            times.iter().for_each(|at| queue.at(*at, ()));
            while queue.pop(10).is_some() {}
            queue.hash.value()
        };
        assert_eq!(run([1, 2]), run([1, 2]));
        assert_ne!(run([1, 2]), run([2, 1]));
    }
}
