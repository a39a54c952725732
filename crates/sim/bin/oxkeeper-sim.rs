//! Runs seeds of the simulator and tells what came of them.
//!
//! ```text
//! oxkeeper-sim --seed N [--profile P] [--lines L]    one run, and what happened in it
//! oxkeeper-sim --seeds A..B [--profile P] [--jobs J] [--twice]
//! oxkeeper-sim --planted [NUMBER] [--profile P]      grades the invariants; needs the feature `planted`
//! ```
#![allow(clippy::disallowed_methods, reason = "the runs are pure; who starts and counts them is not")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use oxkeeper_sim::faults::FaultKind;
use oxkeeper_sim::observer::Checked;
use oxkeeper_sim::world::Losses;
use oxkeeper_sim::{Profile, Report, run};

/// Lines of a failed run that are shown.
const LINES: usize = 200;
/// Failures that are shown before a campaign ends.
const FAILURES_MAX: usize = 5;
/// A campaign of so many seeds shows that its faults are made: each kind strikes at least so often.
const STRIKES: (u64, u64) = (1000, 20);

struct Wanted {
    seeds: std::ops::Range<u64>,
    profile: (&'static str, Profile),
    jobs: usize,
    lines: usize,
    single: bool,
    twice: bool,
    planted: Option<Option<u32>>,
}

fn main() -> ExitCode {
    // A panic inside a run is its result; its words are in the report.
    std::panic::set_hook(Box::new(|_| {}));
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(what) => {
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    };
    if let Some(number) = wanted.planted {
        return planted(&wanted, number);
    }
    if wanted.single { single(&wanted) } else { campaign(&wanted) }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        seeds: 0..100,
        profile: ("standard", Profile::Standard),
        jobs: 1,
        lines: LINES,
        single: false,
        twice: false,
        planted: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match arg.as_str() {
            "--seed" => {
                let seed = number(value()?)?;
                wanted.seeds = seed..seed + 1;
                wanted.single = true;
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text.split_once("..").ok_or("--seeds wants A..B")?;
                wanted.seeds = number(from.to_owned())?..number(to.to_owned())?;
            }
            "--profile" => {
                let name = value()?;
                let known = Profile::ALL.into_iter().find(|(known, _)| *known == name);
                wanted.profile = known.ok_or_else(|| format!("there is no profile {name}"))?;
            }
            "--jobs" => wanted.jobs = usize::try_from(number(value()?)?).unwrap_or(1).max(1),
            "--lines" => wanted.lines = usize::try_from(number(value()?)?).unwrap_or(LINES),
            "--twice" => wanted.twice = true,
            "--planted" => wanted.planted = Some(None),
            other => match (other.parse(), &mut wanted.planted) {
                (Ok(number), Some(planted)) => *planted = Some(number),
                _ => return Err(format!("{other} is not understood")),
            },
        }
    }
    Ok(wanted)
}

fn single(wanted: &Wanted) -> ExitCode {
    let report = run(wanted.seeds.start, wanted.profile.1, wanted.lines);
    for line in &report.trace {
        println!("{line}");
    }
    match &report.violation {
        Some(violation) => println!("I{} does not hold: {}", violation.invariant, violation.what),
        None => println!("everything holds; hash {:016x}; {:?}", report.hash, report.counts),
    }
    if report.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What a campaign adds up.
#[derive(Default)]
struct Sums {
    seeds: u64,
    nanos: u64,
    events: u64,
    asked: u64,
    answered: u64,
    told: u64,
    starts: u64,
    registers: u64,
    znodes: u64,
    faults: BTreeMap<FaultKind, u64>,
    lost_power: Losses,
    checked: Checked,
    failed: Vec<Report>,
}

impl Sums {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.nanos += report.time;
        self.events += report.events;
        self.asked += report.counts.asked;
        self.answered += report.counts.answered;
        self.told += report.counts.events;
        self.starts += report.counts.starts;
        self.registers += report.counts.registers;
        self.znodes += report.counts.znodes;
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (place, count) in &report.lost_power {
            *self.lost_power.entry(place.clone()).or_default() += count;
        }
        for (sum, count) in self.checked.iter_mut().zip(report.checked) {
            *sum += count;
        }
        if report.violation.is_some() {
            self.failed.push(report);
        }
    }
}

fn campaign(wanted: &Wanted) -> ExitCode {
    let started = Instant::now();
    let next = AtomicU64::new(wanted.seeds.start);
    let sums = Mutex::new(Sums::default());
    std::thread::scope(|scope| {
        for _ in 0..wanted.jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= wanted.seeds.end {
                        return;
                    }
                    let mut report = run(seed, wanted.profile.1, 0);
                    if wanted.twice && run(seed, wanted.profile.1, 0).hash != report.hash {
                        let what = "the same seed made another run".to_owned();
                        report.violation = Some(oxkeeper_sim::observer::Violation { invariant: 0, what });
                    }
                    if let Some(violation) = &report.violation {
                        // The whole story comes at the end, and a campaign may be long.
                        eprintln!("seed {seed}: I{} does not hold: {}", violation.invariant, violation.what);
                    }
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    sums.add(report);
                    if sums.failed.len() >= FAILURES_MAX {
                        return;
                    }
                }
            });
        }
    });
    let mut sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    sums.failed.sort_by_key(|report| report.seed);
    for report in &sums.failed {
        tell_failure(report, wanted);
    }
    summarize(&sums, wanted, started);
    let rare = rare(&sums, wanted.profile.1);
    for (kind, count) in &rare {
        println!("{kind:?} struck {count} times in {} seeds, fewer than {}", sums.seeds, STRIKES.1);
    }
    if sums.failed.is_empty() && rare.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kinds of fault that a campaign is for and that struck too seldom for it to say anything.
fn rare(sums: &Sums, profile: Profile) -> Vec<(FaultKind, u64)> {
    let (seeds, least) = STRIKES;
    let counts = FaultKind::ALL.map(|kind| (kind, sums.faults.get(&kind).copied().unwrap_or(0)));
    let is_rare = |(kind, count): &(FaultKind, u64)| {
        sums.seeds >= seeds && sums.failed.is_empty() && *count < least && profile.makes(*kind)
    };
    counts.into_iter().filter(is_rare).collect()
}

/// Runs the seed once more to put it into words.
fn tell_failure(report: &Report, wanted: &Wanted) {
    let Some(violation) = &report.violation else { return };
    let again = run(report.seed, wanted.profile.1, wanted.lines);
    for line in &again.trace {
        println!("{line}");
    }
    println!("seed {}: I{} does not hold: {}", report.seed, violation.invariant, violation.what);
    println!(
        "replay: cargo run --release -p oxkeeper-sim -- --seed {} --profile {}\n",
        report.seed, wanted.profile.0
    );
}

fn summarize(sums: &Sums, wanted: &Wanted, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    let hours = sums.nanos as f64 / 3.6e12;
    println!(
        "{} seeds of profile {}, {} failed; {hours:.2} virtual hours in {seconds:.1} s on {} threads: {:.1} seeds \
         and {:.0} virtual seconds a second",
        sums.seeds,
        wanted.profile.0,
        sums.failed.len(),
        wanted.jobs,
        sums.seeds as f64 / seconds,
        hours * 3600.0 / seconds
    );
    println!(
        "{} events, {} requests, {} replies, {} watch events, {} starts of servers; {} registers and {} znodes explained \
         without zxids",
        sums.events, sums.asked, sums.answered, sums.told, sums.starts, sums.registers, sums.znodes
    );
    println!("faults that struck:");
    for kinds in FaultKind::ALL.chunks(4) {
        let cell = |kind: &FaultKind| {
            format!("{:<18} {:>8}", format!("{kind:?}"), sums.faults.get(kind).unwrap_or(&0))
        };
        println!("  {}", kinds.iter().map(cell).collect::<Vec<String>>().join("   "));
    }
    let mut steps: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((step, role), count) in &sums.lost_power {
        steps.entry(step).or_default().push(format!("{role} {count}"));
    }
    println!("steps on disks at which power was lost:");
    for (step, roles) in steps {
        println!("  {step}: {}", roles.join(", "));
    }
    let checks = sums.checked.iter().enumerate().filter(|(_, count)| **count > 0);
    let checks: Vec<String> = checks.map(|(number, count)| format!("I{number} {count}")).collect();
    println!("checked: {}", checks.join(", "));
}

#[cfg(not(feature = "planted"))]
fn planted(_wanted: &Wanted, _number: Option<u32>) -> ExitCode {
    eprintln!("this build holds no planted faults: build with --features planted");
    ExitCode::from(2)
}

/// Plants each fault in turn; some invariant must find it within its budget of seeds.
#[cfg(feature = "planted")]
fn planted(wanted: &Wanted, number: Option<u32>) -> ExitCode {
    let mut survived = 0;
    for grade in oxkeeper_sim::planted::GRADES {
        if number.is_some_and(|number| number != grade.fault as u32) {
            continue;
        }
        let started = Instant::now();
        let found = grade.find(wanted.seeds.start);
        let seconds = started.elapsed().as_secs_f64();
        let name = format!("{:>2} {:?}", grade.fault as u32, grade.fault);
        match found {
            Some(report) => {
                let violation = report.violation.as_ref();
                let invariant = violation.map_or(0, |violation| violation.invariant);
                let what = violation.map(|violation| violation.what.chars().take(100).collect::<String>());
                let seeds = report.seed - wanted.seeds.start + 1;
                println!(
                    "{name}: found by I{invariant} in seed {seeds} of at most {} ({seconds:.1} s): {}",
                    grade.budget,
                    what.unwrap_or_default()
                );
            }
            None => {
                survived += 1;
                println!("{name}: NOT FOUND in {} seeds ({seconds:.1} s)", grade.budget);
            }
        }
    }
    if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
