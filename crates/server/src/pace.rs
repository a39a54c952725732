//! When a snapshot that is due may begin: not while the last one has only just ended.
//!
//! A tree of a million znodes is written in a second or two, and a busy server changes 100,000 of them (`snapCount`)
//! in less. Without a pause one snapshot would follow the other, each of the whole tree, and a recovery would not be
//! the quicker for it.

use std::time::Duration;

/// After a snapshot comes a pause of so many times its own length: at most a quarter of the time goes into
/// snapshots, and a recovery replays at most what is written while four of them are.
const PAUSES: u32 = 3;

/// Times are those since the start of the server.
#[derive(Debug, Default)]
pub(crate) struct SnapshotPace {
    due: bool,
    begun: Option<Duration>,
    not_before: Duration,
}

impl SnapshotPace {
    /// Enough was logged for another snapshot.
    pub(crate) fn set_due(&mut self) {
        self.due = true;
    }

    /// Whether a snapshot is to begin now; if so it counts as begun.
    pub(crate) fn begin(&mut self, now: Duration) -> bool {
        if !self.due || self.begun.is_some() || now < self.not_before {
            return false;
        }
        self.due = false;
        self.begun = Some(now);
        true
    }

    /// The snapshot is written, or has failed.
    pub(crate) fn ended(&mut self, now: Duration) {
        if let Some(begun) = self.begun.take() {
            self.not_before = now + now.saturating_sub(begun) * PAUSES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_waits_until_its_forerunner_is_three_times_its_length_old() {
        let at = Duration::from_millis;
        let mut pace = SnapshotPace::default();
        assert!(!pace.begin(at(0)), "none is due");
        pace.set_due();
        assert!(pace.begin(at(10)) && !pace.begin(at(10)));
        pace.set_due();
        assert!(!pace.begin(at(20)), "one is under way");
        pace.ended(at(110));
        assert!(!pace.begin(at(409)));
        assert!(pace.begin(at(410)));
        pace.ended(at(410));
        assert!(!pace.begin(at(411)), "none is due");
        pace.set_due();
        assert!(pace.begin(at(411)));
    }
}
