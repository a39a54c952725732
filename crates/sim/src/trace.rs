//! What happened, in words: only if somebody will read it, for words cost more than the run itself.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::queue::Nanos;

/// The lines of a run. Clones share them, so that they outlive a run that ends in a panic.
#[derive(Debug, Default, Clone)]
pub struct Trace {
    keep: usize,
    lines: Rc<RefCell<VecDeque<String>>>,
}

/// A line is no longer than this: data of clients may be megabytes.
const LINE_MAX: usize = 1000;

impl Trace {
    /// A trace that keeps the last so many lines; with 0 nothing is even put into words.
    #[must_use]
    pub fn of(keep: usize) -> Trace {
        Trace { keep, lines: Rc::default() }
    }

    /// Adds a line.
    #[inline]
    pub fn note(&mut self, now: Nanos, words: impl FnOnce() -> String) {
        if self.keep == 0 {
            return;
        }
        let mut lines = self.lines.borrow_mut();
        if lines.len() == self.keep {
            lines.pop_front();
        }
        let (seconds, micros) = (now / 1_000_000_000, now / 1_000 % 1_000_000);
        let mut line = format!("{seconds:>5}.{micros:06} {}", words());
        if let Some((cut, _)) = line.char_indices().nth(LINE_MAX) {
            line.truncate(cut);
            line.push('…');
        }
        lines.push_back(line);
    }

    /// The lines that are kept.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.borrow().iter().cloned().collect()
    }
}
