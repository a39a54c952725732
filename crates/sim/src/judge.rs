//! An oracle between two voters: a judge from outside who may let one of them go on without the other.
//!
//! It is an honest one: never does it let both go on at a time, and it lets one go on only if that one lacks nothing. To
//! know that, it looks at both disks. What it promises is all that the loss of no acknowledged write rests on:
//!
//! - the one that is let go on has everything that was agreed on its disk, in an epoch that is no older than the other's;
//! - the other one is down, or has read before that it may not go on alone, and nothing is on its way to its disk; if it
//!   still leads, the one that is let go on also has everything that it shows.
//!
//! A hasty one keeps the second promise and not the first. Then what one of them wrote alone may be lost when both meet
//! again, and no history of clients makes sense; but the two never take one for the other.

use oxkeeper_node::{Input, PeerInput, Role};
use oxkeeper_proto::Zxid;

use crate::chance::Chance;
use crate::process::Server;
use crate::queue::{MS, Nanos, SECOND};
use crate::world::{Event, Stage};

/// How a judge goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bench {
    /// Time between two looks, on average.
    pub mean: Nanos,
    /// Where all chance of it comes from.
    pub seed: u64,
    /// Whether those who observe are told as well that somebody may go on alone.
    pub tells_observers: bool,
    /// Whether it does not look at what is on the disks.
    pub is_hasty: bool,
}

/// The judge of a run.
#[derive(Debug)]
pub struct Judge {
    bench: Option<Bench>,
    chance: Chance,
    /// Whether nothing goes wrong any more, so that it only sees to it that they come together.
    is_late: bool,
    /// Who may go on alone.
    chosen: Option<usize>,
}

/// Between these two it decides.
const VOTERS: [usize; 2] = [0, 1];

impl Judge {
    /// One who works like that, if there is one at all.
    #[must_use]
    pub fn new(bench: Option<Bench>) -> Judge {
        let chance = Chance::new(bench.map_or(0, |bench| bench.seed));
        Judge { bench, chance, is_late: false, chosen: None }
    }

    /// Tells everybody before the first start that nobody may go on alone.
    pub fn open(&self, stage: &mut Stage, servers: &mut [Server]) {
        let Some(bench) = self.bench else { return };
        for (index, server) in servers.iter_mut().enumerate() {
            if VOTERS.contains(&index) || bench.tells_observers {
                server.read_word(stage, false);
            }
        }
        stage.observer.word_is(None);
    }

    /// Plans the next look.
    pub fn plan(&mut self, stage: &mut Stage) {
        let Some(bench) = self.bench else { return };
        let mean = if self.is_late { bench.mean.min(SECOND) } else { bench.mean };
        let delay = 20 * MS + self.chance.exponential(mean);
        stage.queue.after(delay, Event::Judgement);
    }

    /// Looks at the two, and perhaps lets one go on, or no longer.
    pub fn look(&mut self, stage: &mut Stage, servers: &mut [Server]) {
        self.plan(stage);
        let drawn = VOTERS[self.chance.index(2)];
        let is_whole = |index: usize| servers.get(index).is_some_and(|one| one.is_up() && !one.emptied);
        // Where one of the two is lost, it is about the other one.
        let wanted = if is_whole(drawn) { drawn } else { 1 - drawn };
        let (stays, gives) = (self.chance.happens(0.9), self.chance.happens(0.9) || self.is_late);
        if self.chosen == Some(wanted) && (stays || self.is_late) || !self.take_back(stage, servers) {
            return;
        }
        // A machine may have lost power between what it wrote and who was told of it.
        for index in VOTERS {
            if let Some(server) = servers.get(index) {
                stage.observer.synced(index, &server.disk);
            }
        }
        let is_hasty = self.bench.is_some_and(|bench| bench.is_hasty);
        if gives && is_safe(servers, wanted) && (is_hasty || lacks_nothing(stage, servers, wanted)) {
            self.tell(stage, servers, Some(wanted));
            stage.counts.words += 1;
        }
    }

    /// Whoever might go on alone may not any more; false if it stands still and cannot be told.
    fn take_back(&mut self, stage: &mut Stage, servers: &mut [Server]) -> bool {
        let now = stage.queue.now();
        if servers.iter().any(|server| server.is_up() && server.stands_still_until() > now) {
            return false;
        }
        if self.chosen.is_some() {
            self.tell(stage, servers, None);
        }
        true
    }

    fn tell(&mut self, stage: &mut Stage, servers: &mut [Server], chosen: Option<usize>) {
        self.chosen = chosen;
        stage.observer.word_is(chosen);
        let observers = self.bench.is_some_and(|bench| bench.tells_observers);
        for (index, server) in servers.iter_mut().enumerate() {
            if VOTERS.contains(&index) {
                server.read_word(stage, chosen == Some(index));
            } else if observers {
                server.read_word(stage, chosen.is_some());
            }
        }
    }

    /// Nothing goes wrong any more. It looks soon: the look that is planned may be a long time off.
    pub fn be_late(&mut self, stage: &mut Stage) {
        self.is_late = true;
        self.plan(stage);
    }
}

/// Whether the other one of the two is down, or can do nothing any more for which it would need to be let go on.
fn is_safe(servers: &[Server], wanted: usize) -> bool {
    let (Some(one), Some(other)) = (servers.get(wanted), servers.get(1 - wanted)) else { return false };
    one.is_up() && !one.emptied && other.is_idle()
}

/// Whether one of the two has all that was agreed, and all that the other one shows.
fn lacks_nothing(stage: &Stage, servers: &[Server], wanted: usize) -> bool {
    let Some(other) = servers.get(1 - wanted) else { return false };
    let leads = matches!(other.role(), Some((Role::Leading, ..)));
    let shown = if leads { other.last_zxid() } else { Zxid::ZERO };
    stage.observer.has_all(wanted, 1 - wanted, shown)
}

impl Server {
    /// The word of the oracle changes: it reads that at once, or when it starts.
    pub(crate) fn read_word(&mut self, stage: &mut Stage, says: bool) {
        if self.oracle == Some(says) {
            return;
        }
        self.oracle = Some(says);
        if self.is_up() {
            self.told(stage, Input::Peer(PeerInput::Oracle(says)));
        }
    }
}
