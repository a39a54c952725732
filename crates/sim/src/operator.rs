//! An operator: asks leaders to hand over, and lets them run short of disk space, which has them hand over by themselves.
//!
//! With nothing else wrong clients whose server stays up must not notice: their connections stay, no session ends, and no
//! write takes longer than [`GAP_MAX`].

use oxkeeper_node::{Answer, Input, Query, QueryId, Role, Scarcity};
use oxkeeper_proto::ServerId;

use crate::chance::Chance;
use crate::checker::is_write;
use crate::history::History;
use crate::process::Server;
use crate::queue::{MS, Nanos, SECOND};
use crate::world::{Event, Stage};

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Leaders are asked to hand over.
    HandOver,
    /// Leaders run short of disk space.
    Short,
    /// This server, which ran short of it when it led in this epoch, has room again.
    Room(usize, i64),
}

/// How often an operator does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duties {
    /// Time between two operations, on average.
    pub mean: Nanos,
    /// Where all chance of them comes from.
    pub seed: u64,
    /// How many of a hundred are shortages.
    pub shortages: u64,
    /// Whether nothing else is wrong, so that clients must not notice.
    pub is_calm: bool,
}

/// The longest that a write may take over a hand-over, where nothing else is wrong.
pub const GAP_MAX: Nanos = 2 * SECOND;

/// An operator.
#[derive(Debug)]
pub struct Operator {
    duties: Option<Duties>,
    chance: Chance,
    over: bool,
    /// Whether a server is short of disk space: one at a time.
    is_short: bool,
    /// Hand-overs that leaders have begun.
    pub begun: u64,
}

impl Operator {
    /// One with these duties.
    #[must_use]
    pub fn new(duties: Option<Duties>) -> Operator {
        let chance = Chance::new(duties.map_or(0, |duties| duties.seed));
        Operator { duties, chance, over: false, is_short: false, begun: 0 }
    }

    /// Plans the next operation.
    pub fn plan(&mut self, stage: &mut Stage) {
        let Some(duties) = self.duties.filter(|_| !self.over) else { return };
        // Not before there is a leader.
        let delay = SECOND + self.chance.exponential(duties.mean);
        let is_short = self.chance.below(100) < duties.shortages;
        let operation = if is_short { Operation::Short } else { Operation::HandOver };
        stage.queue.after(delay, Event::Operation(operation));
    }

    /// Does something.
    pub fn act(&mut self, stage: &mut Stage, servers: &mut [Server], operation: Operation) {
        let count = servers.len();
        match operation {
            Operation::Room(index, epoch) => {
                self.is_short = false;
                let Some(server) = servers.get_mut(index) else { return };
                // It may lead again because it was asked to.
                let leads_on = leads_in(server) == Some(epoch);
                if self.must_not_be_noticed() && !self.over && leads_on {
                    let what = format!("server {index} leads on although it is short of disk space");
                    return stage.violate(23, what);
                }
                return server.told(stage, Input::Scarce(Scarcity::default()));
            }
            Operation::HandOver => {
                let any = self.chance.happens(0.5);
                let number = i64::try_from(1 + self.chance.index(count)).unwrap_or(1);
                let to = any.then_some(ServerId(number));
                for server in servers.iter_mut().filter(|server| leads_in(server).is_some()) {
                    self.begun += u64::from(server.hand_over(stage, to));
                }
            }
            Operation::Short if !self.is_short => {
                for (index, server) in servers.iter_mut().enumerate() {
                    let Some(epoch) = leads_in(server) else { continue };
                    (self.is_short, stage.short_of_disk) = (true, true);
                    server.told(stage, Input::Scarce(Scarcity { disk: true, ..Scarcity::default() }));
                    let while_ = 3 * SECOND + self.chance.exponential(3 * SECOND);
                    stage.queue.after(while_, Event::Operation(Operation::Room(index, epoch)));
                }
            }
            Operation::Short => {}
        }
        self.plan(stage);
    }

    /// Does nothing any more, and sees that nobody is short of anything.
    pub fn stop(&mut self, stage: &mut Stage, servers: &mut [Server]) {
        self.over = true;
        if !stage.short_of_disk {
            return;
        }
        for server in servers {
            server.told(stage, Input::Scarce(Scarcity::default()));
        }
    }

    /// Whether clients must not notice what the operator does.
    #[must_use]
    pub fn must_not_be_noticed(&self) -> bool {
        self.duties.is_some_and(|duties| duties.is_calm)
    }
}

/// The epoch that a server leads in, if it does.
fn leads_in(server: &Server) -> Option<i64> {
    let (role, serving, epoch) = server.role()?;
    (role == Role::Leading && serving).then_some(epoch.0)
}

impl Server {
    /// Tells the node something that is no packet.
    pub(crate) fn told(&mut self, stage: &mut Stage, input: Input<'_>) {
        let (now, index) = (stage.queue.now(), self.index());
        stage.trace.note(now, || format!("server {index} is told {input:?}"));
        self.step(stage, input);
        self.carry_out(stage);
    }

    /// Asks it to hand over; tells whether it begins to.
    pub(crate) fn hand_over(&mut self, stage: &mut Stage, to: Option<ServerId>) -> bool {
        self.told(stage, Input::Query(QueryId(0), Query::HandOver { to }));
        let answers = self.take_answers();
        let (now, index) = (stage.queue.now(), self.index());
        stage.trace.note(now, || format!("server {index} answers {answers:?}"));
        answers.iter().any(|answer| matches!(answer, Answer::HandOver(Ok(_))))
    }
}

/// The write that took longest, and how long it took.
///
/// # Errors
/// It took longer than it may where hand-overs are all that happens.
pub fn check_gap(history: &History) -> Result<Nanos, String> {
    let writes = history.calls.iter().filter(|call| is_write(call.op));
    let took = writes.filter_map(|call| Some((call.told()?.at - call.invoked, call.invoked)));
    let (longest, asked) = took.max().unwrap_or_default();
    if longest <= GAP_MAX {
        return Ok(longest);
    }
    Err(format!("the write that was asked for at {} ms took {} ms", asked / MS, longest / MS))
}
