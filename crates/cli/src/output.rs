//! What tools print: text for people, or one JSON object per line.

use std::io::{self, BufWriter, IsTerminal, Write};

use oxkeeper_server::Utc;
use serde_json::Value;

/// Standard output, in the form that was asked for. Whoever reads only its beginning does not want the rest.
pub(crate) struct Output {
    out: BufWriter<io::Stdout>,
    json: bool,
    /// Bytes looked at when progress was last told.
    told: u64,
}

const TELL_EVERY: u64 = 64 << 20;

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { out: BufWriter::new(io::stdout()), json, told: 0 }
    }

    /// Prints a line: `text` to people, `value` to programs.
    pub(crate) fn line(
        &mut self,
        text: impl FnOnce() -> String,
        value: impl FnOnce() -> Value,
    ) -> io::Result<()> {
        if self.json { writeln!(self.out, "{}", value()) } else { writeln!(self.out, "{}", text()) }
    }

    /// Tells a waiting person how far a long file is read.
    pub(crate) fn progress(&mut self, done: u64, of: u64) {
        self.told = tell_progress(self.told, done, of);
    }

    /// Prints what is left.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.told > 0 {
            eprintln!();
        }
        self.out.flush()
    }
}

/// Tells how far a long file is read, if enough was read since `told` and somebody watches; returns what is told now.
pub(crate) fn tell_progress(told: u64, done: u64, of: u64) -> u64 {
    if done < told + TELL_EVERY || !io::stderr().is_terminal() {
        return told;
    }
    eprint!("\r{} of {} MiB", done >> 20, of >> 20);
    done
}

/// A time as in logs: `2026-11-24T12:34:56.789Z`.
pub(crate) fn time(ms: i64) -> String {
    let Utc { year, month, day, hour, minute, second, millisecond, .. } = Utc::from_ms(ms);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_795_365_208_042), "2026-11-22T16:33:28.042Z");
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00.000Z");
    }
}
