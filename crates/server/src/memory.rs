//! A limit on the memory of the process, `memoryLimitInMb`, and how it is kept.
//!
//! | what | bound |
//! |---|---|
//! | frames that are not complete, over all connections | a sixteenth of the limit; who adds to them above it is cut |
//! | replies that wait for their clients | a sixteenth; above it who does not take them at once is not read from; above an eighth it is cut |
//! | requests on their way | a sixteenth; above it their clients are not read from |
//! | everything else: znodes, sessions, watches | three quarters of the limit; above it what grows is refused |
//!
//! What the process uses is asked of the system; between two looks what has been added is counted. Memory that was
//! freed but that the allocator keeps counts as free: otherwise a tree that has shrunk could never grow again.

use tracing::warn;

use oxkeeper_node::{Input, Memory, Scarcity};

use crate::conn::ConnIo;
use crate::core::Core;

/// Bytes that a znode takes besides its name and data.
const ZNODE_BYTES: u64 = 120;
/// Bytes that a watch takes, roughly.
const WATCH_BYTES: u64 = 100;
/// Bytes that a session takes, roughly.
const SESSION_BYTES: u64 = 300;
/// A connection that holds no more than this is never cut for what others hold.
const FAIR_BYTES: usize = 64 << 10;

/// How much memory there is and how much is used.
#[derive(Debug, Default)]
pub(crate) struct MemoryGauge {
    /// Bytes; `None` for no limit.
    limit: Option<u64>,
    /// What the state is said to take, at the last look.
    state_bytes: u64,
    /// The most that the state has been said to take, and the most that the process took.
    largest: (u64, u64),
    /// Bytes that the process takes, at the last look.
    resident: u64,
    /// Frames that are not complete.
    pub(crate) partial_bytes: usize,
    /// Replies that wait.
    pub(crate) outbox_bytes: usize,
    pub(crate) state: Memory,
}

impl MemoryGauge {
    pub(crate) fn new(limit: Option<u64>) -> MemoryGauge {
        MemoryGauge { limit, ..MemoryGauge::default() }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Bytes that the process takes, at the last look.
    pub(crate) fn resident(&self) -> u64 {
        self.resident
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// What one kind of buffer may take over all connections.
    fn buffers_max(&self) -> Option<usize> {
        self.limit.map(|limit| usize::try_from(limit / 16).unwrap_or(usize::MAX))
    }

    /// Whether a connection with so many bytes of an unfinished frame must go.
    pub(crate) fn cuts_partial(&self, held: usize) -> bool {
        held > FAIR_BYTES && self.buffers_max().is_some_and(|max| self.partial_bytes > max)
    }

    /// Whether replies in all take so much that a client with so many bytes waiting has to take some before it gets
    /// more.
    pub(crate) fn chokes(&self, waiting: usize) -> bool {
        waiting > FAIR_BYTES && self.buffers_max().is_some_and(|max| self.outbox_bytes > max)
    }

    /// Whether a client with so many bytes waiting must go.
    pub(crate) fn cuts_outbox(&self, waiting: usize) -> bool {
        waiting > FAIR_BYTES && self.buffers_max().is_some_and(|max| self.outbox_bytes > 2 * max)
    }

    /// Takes a look: `resident` bytes are used by the process, `state_bytes` of them by what is counted.
    pub(crate) fn look(&mut self, resident: u64, state_bytes: u64) {
        self.resident = resident;
        self.state_bytes = state_bytes;
        // Growth beyond the largest is room for no more state than there was: it may be for anything.
        self.largest = (self.largest.0.max(state_bytes), self.largest.1.max(resident));
        let Some(limit) = self.limit else { return };
        // Of what has gone since the process was largest, what it has not given back is free within it.
        let gone = self.largest.0.saturating_sub(state_bytes);
        let given_back = self.largest.1.saturating_sub(resident);
        let free_within = gone.saturating_sub(given_back);
        let buffers = (self.partial_bytes + self.outbox_bytes) as u64;
        let used = resident.saturating_sub(free_within);
        let critical = resident > limit / 16 * 15 && used > limit / 4 * 3;
        self.state = if critical {
            Memory::Critical
        } else if used.saturating_sub(buffers) > limit / 4 * 3 {
            Memory::Low
        } else {
            Memory::Ample
        };
    }

    /// Whether so much was added since the last look that another one is due.
    pub(crate) fn is_due(&self, state_bytes: u64) -> bool {
        self.limit.is_some_and(|limit| state_bytes.saturating_sub(self.state_bytes) > limit / 64)
    }
}

/// Bytes of this process in memory, as the system tells them.
pub(crate) fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

impl Core {
    /// Counts what a connection holds of a frame that is not complete.
    pub(crate) fn count_partial(&mut self, conn: &ConnIo, held: usize) {
        self.memory.partial_bytes += held;
        self.memory.partial_bytes -= conn.partial_counted.replace(held);
    }

    /// Counts what waits for a connection.
    pub(crate) fn count_outbox(&mut self, conn: &ConnIo, waiting: usize) {
        self.memory.outbox_bytes += waiting;
        self.memory.outbox_bytes -= conn.outbox_counted.replace(waiting);
    }

    /// Looks how much memory is used, and tells the node if that changes anything.
    pub(crate) fn look_at_memory(&mut self) {
        let Some(resident) = resident() else { return };
        let before = self.memory.state;
        let state_bytes = self.state_bytes();
        self.memory.look(resident, state_bytes);
        if self.memory.state != before {
            if self.memory.state == Memory::Critical {
                warn!("{resident} bytes of memory are used, close to the limit: no new connections");
            }
            self.tell_scarcity();
        }
    }

    /// Looks now if much was added since the last time.
    pub(crate) fn look_at_growth(&mut self) {
        if self.memory.is_limited() && self.memory.is_due(self.state_bytes()) {
            self.look_at_memory();
        }
    }

    fn state_bytes(&self) -> u64 {
        let Some(node) = &self.node else { return 0 };
        let size = node.size();
        size.content_bytes
            + size.znodes as u64 * ZNODE_BYTES
            + size.watches as u64 * WATCH_BYTES
            + size.sessions as u64 * SESSION_BYTES
    }

    /// Tells the node what there is too little of.
    pub(crate) fn tell_scarcity(&mut self) {
        let scarcity = Scarcity { disk: self.space.is_short, memory: self.memory.state };
        self.step(Input::Scarce(scarcity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn growth_is_refused_from_three_quarters_on_and_nobody_is_let_in_close_to_the_limit() {
        let mut gauge = MemoryGauge::new(Some(64 * MIB));
        for (resident, state) in
            [(48, Memory::Ample), (49, Memory::Low), (60, Memory::Low), (61, Memory::Critical)]
        {
            gauge.look(resident * MIB, resident * MIB);
            assert_eq!(gauge.state, state, "{resident}");
        }
    }

    #[test]
    fn what_the_allocator_keeps_of_a_tree_that_shrank_is_free() {
        let mut gauge = MemoryGauge::new(Some(64 * MIB));
        gauge.look(62 * MIB, 50 * MIB);
        assert_eq!(gauge.state, Memory::Critical);
        gauge.look(62 * MIB, 20 * MIB);
        assert_eq!(gauge.state, Memory::Ample, "30 MiB are free within the process");
        gauge.look(63 * MIB, 22 * MIB);
        assert_eq!(gauge.state, Memory::Ample, "a little more for something else changes nothing");
        gauge.look(40 * MIB, 20 * MIB);
        assert_eq!(gauge.state, Memory::Ample);
        gauge.look(62 * MIB, 49 * MIB);
        assert_eq!(gauge.state, Memory::Critical, "and in use again");
    }

    #[test]
    fn buffers_have_a_share_of_their_own_and_small_ones_are_left_alone() {
        let mut gauge = MemoryGauge::new(Some(64 * MIB));
        gauge.partial_bytes = 4 << 20;
        assert!(!gauge.cuts_partial(1 << 20));
        gauge.partial_bytes += 1;
        assert!(gauge.cuts_partial(1 << 20) && !gauge.cuts_partial(FAIR_BYTES));
        gauge.outbox_bytes = (4 << 20) + 1;
        assert!(gauge.chokes(1 << 20) && !gauge.chokes(FAIR_BYTES) && !gauge.cuts_outbox(1 << 20));
        gauge.outbox_bytes = (8 << 20) + 1;
        assert!(gauge.cuts_outbox(1 << 20) && !gauge.cuts_outbox(FAIR_BYTES));
        gauge.look(59 * MIB, 47 * MIB);
        assert_eq!(gauge.state, Memory::Ample, "what buffers take is theirs");
        assert!(!MemoryGauge::new(None).cuts_partial(usize::MAX));
    }
}
