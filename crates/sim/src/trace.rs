//! What happened, in words: only if somebody will read it, for words cost more than the run itself.

use std::collections::VecDeque;

use crate::queue::Nanos;

/// The lines of a run.
#[derive(Debug, Default)]
pub struct Trace {
    keep: usize,
    lines: VecDeque<String>,
}

impl Trace {
    /// A trace that keeps the last so many lines; with 0 nothing is even put into words.
    #[must_use]
    pub fn of(keep: usize) -> Trace {
        Trace { keep, lines: VecDeque::new() }
    }

    /// Adds a line.
    #[inline]
    pub fn note(&mut self, now: Nanos, words: impl FnOnce() -> String) {
        if self.keep == 0 {
            return;
        }
        if self.lines.len() == self.keep {
            self.lines.pop_front();
        }
        let (seconds, micros) = (now / 1_000_000_000, now / 1_000 % 1_000_000);
        self.lines.push_back(format!("{seconds:>5}.{micros:06} {}", words()));
    }

    /// The lines that are kept.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
