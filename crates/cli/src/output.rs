//! What tools print: text for people, or one JSON object per line.

use std::io::{self, BufWriter, IsTerminal, Write};

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
        if done < self.told + TELL_EVERY || !io::stderr().is_terminal() {
            return;
        }
        self.told = done;
        eprint!("\r{} of {} MiB", done >> 20, of >> 20);
    }

    /// Prints what is left.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.told > 0 {
            eprintln!();
        }
        self.out.flush()
    }
}

/// A time as in logs: `2026-11-24T12:34:56.789Z`.
pub(crate) fn time(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month < 3);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        ms.rem_euclid(1000)
    )
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
