//! A run: chaos, then everything is healed, then it must come together, then the books are checked.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};

use bytes::Bytes;
use oxkeeper_node::{Loader, Rules};
use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{OpCode, Request, SessionId, Zxid};

use crate::chance::Chance;
use crate::checker;
use crate::convergence;
use crate::faults::FaultKind;
use crate::history::History;
use crate::observer::{Checked, Violation};
use crate::operator;
use crate::queue::Nanos;
use crate::search;
use crate::swarm::{Profile, Swarm};
use crate::trace::Trace;
use crate::watches;
use crate::world::{Counts, Losses, World};

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// The hash of all events.
    pub hash: u64,
    /// Virtual time.
    pub time: Nanos,
    /// Events.
    pub events: u64,
    /// What was counted.
    pub counts: Counts,
    /// Faults made.
    pub faults: BTreeMap<FaultKind, u64>,
    /// At which steps on their disks machines lost power, by what their servers were.
    pub lost_power: Losses,
    /// Checks made.
    pub checked: Checked,
    /// The last lines of what happened, if they were wanted.
    pub trace: Vec<String>,
}

/// Runs a seed. The last `keep` lines of what happened are kept.
#[must_use]
pub fn run(seed: u64, profile: Profile, keep: usize) -> Report {
    let trace = Trace::of(keep);
    let mut chance = Chance::new(seed);
    let swarm = Swarm::draw(profile.of(seed), &mut chance);
    let ran = panic::catch_unwind(AssertUnwindSafe(|| run_swarm(seed, &swarm, &mut chance, trace.clone())));
    ran.unwrap_or_else(|payload| panicked(seed, &*payload, &trace))
}

/// A server that finds its own state broken stops by a panic.
fn panicked(seed: u64, payload: &(dyn Any + Send), trace: &Trace) -> Report {
    let words = payload.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no words");
    Report {
        seed,
        violation: Some(Violation { invariant: 10, what: format!("a server found itself broken: {words}") }),
        hash: 0,
        time: 0,
        events: 0,
        counts: Counts::default(),
        faults: BTreeMap::new(),
        lost_power: Losses::new(),
        checked: [0; 32],
        trace: trace.lines(),
    }
}

fn run_swarm(seed: u64, swarm: &Swarm, chance: &mut Chance, trace: Trace) -> Report {
    let mut world = play(swarm, chance, trace);
    check_waiting(&mut world);
    check_gap(&mut world);
    check_members(&mut world);
    check_files(&mut world);
    check(&mut world, swarm);
    report(seed, world)
}

/// Everything but the books.
fn play(swarm: &Swarm, chance: &mut Chance, trace: Trace) -> World {
    let mut world = World::new(swarm, chance, trace);
    world.stage.trace.note(0, || format!("{swarm:#?}"));
    world.start();
    world.run_until(swarm.chaos);
    for phase in [heal, converge, audit] {
        // What comes after the first thing that is wrong says nothing.
        if !world.stage.has_failed() {
            phase(&mut world);
        }
    }
    world
}

/// A history that a run made, and what the checkers need beside it.
#[derive(Debug, Clone)]
pub struct Record {
    /// What clients did and saw.
    pub history: History,
    /// The order that the servers came to.
    pub order: BTreeMap<Zxid, Bytes>,
    /// The rules that they went by.
    pub rules: checker::Rules,
}

/// Runs a seed and gives its history, unchecked.
#[must_use]
pub fn record(seed: u64, profile: Profile) -> Record {
    let mut chance = Chance::new(seed);
    let swarm = Swarm::draw(profile.of(seed), &mut chance);
    let world = play(&swarm, &mut chance, Trace::of(0));
    let order = final_order(&world);
    let rules = rules(&swarm, &world);
    Record { history: world.stage.history, order, rules }
}

fn final_order(world: &World) -> BTreeMap<Zxid, Bytes> {
    let last = world.servers.iter().map(crate::process::Server::last_zxid).max().unwrap_or_default();
    world.stage.observer.final_order(last)
}

fn rules(swarm: &Swarm, world: &World) -> checker::Rules {
    checker::Rules {
        config: swarm.ensemble().map(|config| config.to_string()).unwrap_or_default(),
        reconfig: swarm.server.reconfig,
        begun_with: world.stage.observer.begun_with(),
        short_of_disk: world.stage.short_of_disk,
        local_sessions: swarm.server.local_sessions.then_some(swarm.server.local_upgrade),
        extended_types: swarm.server.extended_types,
        reads_are_fresh: swarm.voters == 0,
        syncs_may_be_stale: swarm.special.may_be_stale(),
    }
}

/// Whatever snapshot a server begins from, its log leads to the state that it had.
fn check_files(world: &mut World) {
    let World { stage, servers, planner, .. } = world;
    for (index, server) in servers.iter().enumerate() {
        if stage.has_failed() || planner.made.contains_key(&FaultKind::SnapshotRots) {
            return;
        }
        let booted = server.boot_from_every_snapshot();
        let newest = booted.len().saturating_sub(1);
        for (place, (name, found)) in booted.into_iter().enumerate() {
            let holds = match found {
                Ok((zxid, digest)) if stage.observer.digest_at(zxid).is_none_or(|known| known == digest) => {
                    Ok(())
                }
                Ok((zxid, _)) => Err(format!("server {index} comes to another state at {zxid} from {name}")),
                // From an older one it may refuse: a leader's snapshot may have taken the place of the log between.
                Err(_) if place < newest => Ok(()),
                Err(error) => Err(format!("server {index} cannot begin from {name}: {error}")),
            };
            stage.observer.check_files(holds);
        }
    }
}

/// Where leaders that hand over are all that happens, no write takes long.
fn check_gap(world: &mut World) {
    let World { stage, operator, .. } = world;
    stage.counts.hand_overs = operator.begun;
    if operator.must_not_be_noticed() && !stage.has_failed() {
        match operator::check_gap(&stage.history) {
            Ok(longest) => stage.counts.longest_write = longest,
            Err(what) => stage.violate(23, what),
        }
    }
}

/// Every member has the same configuration.
fn check_members(world: &mut World) {
    let World { stage, servers, .. } = world;
    if !stage.observer.members_change() || stage.has_failed() {
        return;
    }
    for (index, server) in servers.iter().enumerate() {
        if stage.observer.is_member(index) {
            stage.observer.check_same_config(index, server.durable_config().as_deref());
        }
    }
}

/// Nobody may wait for good.
fn check_waiting(world: &mut World) {
    let stage = &mut world.stage;
    // There is always a ping on its way.
    let waits = |call: &&crate::history::Call| {
        call.result == crate::history::Outcome::Waiting && call.op != OpCode::Ping
    };
    if let Some(call) = stage.history.calls.iter().find(waits)
        && !stage.has_failed()
    {
        let what = format!("client {} never hears what became of {:?}", call.client, call.request());
        stage.violate(23, what);
    }
}

/// The books: the whole history against the agreed order.
fn check(world: &mut World, swarm: &Swarm) {
    if world.stage.has_failed() {
        return;
    }
    let order = final_order(world);
    let rules = rules(swarm, world);
    let rates: Vec<f64> = world.servers.iter().map(|server| server.clock.rate).collect();
    let stage = &mut world.stage;
    let now = stage.queue.now();
    stage.observer.check_overdue(&order, now, &rates);
    if !hash_tells_sessions_apart() {
        stage.violate(10, "the hash of all state is the same for other sessions".to_owned());
    }
    if is(Fault::Canary) {
        stage.violate(0, "the canary sings".to_owned());
    }
    if stage.observer.is_hasty {
        // What was lost had been shown.
        return;
    }
    stage.observer.check_expiries(&order);
    stage.observer.check_logs(&order);
    let checked = checker::verify(&stage.history, &order, &rules).and_then(|replayed| {
        let events = watches::verify(&stage.history, &replayed)?;
        Ok((replayed, events))
    });
    match checked {
        Ok((replayed, events)) => {
            stage.observer.books_hold(&replayed, events);
            stage.observer.check_last_config(replayed.roster.as_ref());
            match search::verify(&stage.history, swarm.voters == 0) {
                Ok((registers, znodes)) => {
                    stage.counts.registers += registers;
                    stage.counts.znodes += znodes;
                }
                Err(what) => stage.violate(9, what),
            }
        }
        Err(violation) => stage.violate(violation.invariant, violation.what),
    }
}

/// What compares states must see a difference in sessions alone: the digest does not.
fn hash_tells_sessions_apart() -> bool {
    let hash = |timeout_ms| {
        let mut loader = Loader::new(1, Rules::DEFAULT);
        loader.session(SessionId(1), timeout_ms);
        loader.finish(Zxid(1)).state_hash()
    };
    hash(1000) != hash(2000)
}

fn report(seed: u64, world: World) -> Report {
    let World { stage, planner, .. } = world;
    Report {
        seed,
        violation: stage.observer.violation,
        hash: stage.queue.hash.value(),
        time: stage.queue.now(),
        events: stage.queue.popped(),
        counts: stage.counts,
        faults: planner.made,
        lost_power: stage.lost_power,
        checked: stage.observer.checked,
        trace: stage.trace.lines(),
    }
}

fn heal(world: &mut World) {
    let now = world.stage.queue.now();
    world.stage.trace.note(now, || "everything is healed".to_owned());
    world.planner.heal(&mut world.stage, &mut world.servers);
    world.judge.be_late(&mut world.stage);
    world.operator.stop(&mut world.stage, &mut world.servers);
    for client in &mut world.clients {
        client.fall_quiet();
    }
}

/// Every server runs and every client has a session and all its answers, in time.
fn converge(world: &mut World) {
    if let Err(what) = convergence::wait(world)
        && !world.stage.has_failed()
    {
        world.stage.violate(23, what);
    }
}

/// Every client reads everything that it knows of.
fn audit(world: &mut World) {
    for path in ["/", "/r0", "/r1", "/r2", "/r3", "/q", "/q/hot", "/locks"] {
        world.ask_all(&Request::GetChildren2 { path: path.into(), watch: false });
        world.ask_all(&Request::GetData { path: path.into(), watch: false });
        world.ask_all(&Request::GetAcl { path: path.into() });
    }
    let until = world.stage.queue.now() + world.patience.longest();
    let settled = world.run_until_so(until, |world| {
        let observer = &world.stage.observer;
        world.clients.iter().all(crate::client::Client::is_settled)
            && (!observer.members_change()
                || world.members().all(|server| observer.has_config(server.durable_config().as_deref())))
    });
    if !settled && !world.stage.has_failed() {
        world.stage.violate(23, "the last reads are not answered".to_owned());
    }
}
