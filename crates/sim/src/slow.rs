//! One voter is slow, or comes and goes, while all others are well: they keep their leader, and agree on at least half as
//! many transactions in a second as before. Seconds are virtual.

use oxkeeper_node::Role;
use oxkeeper_proto::Zxid;

use crate::chance::Chance;
use crate::network::{Host, Port};
use crate::process::Server;
use crate::queue::{MS, Nanos, SECOND};
use crate::world::{Event, Stage};

/// What is wrong with the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Its disk takes long for everything.
    Disk,
    /// It cannot be reached by the others, now and then.
    Network,
    /// Its process ends and is started again.
    Falls,
    /// It stands still, now and then.
    Pauses,
}

/// When something is done or looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The normal rate is measured from here on.
    Normal,
    /// The trouble begins.
    Begin,
    /// Something happens to the one.
    Strike,
    /// The rate under trouble is measured from here on.
    Measure,
    /// The trouble ends, and the books are closed.
    End,
}

/// How long the normal rate is measured.
const BEFORE: Nanos = 20 * SECOND;
/// How long the others have to get used to it.
const USED: Nanos = 5 * SECOND;
/// How long the rate under trouble is measured.
const DURING: Nanos = 30 * SECOND;
/// Fewer transactions say nothing about a rate.
const TRANSACTIONS_MIN: u64 = 40;

/// The plan of a run in which one is slow.
#[derive(Debug)]
pub struct Slow {
    trouble: Option<Trouble>,
    chance: Chance,
    is_on: bool,
    is_blocked: bool,
    /// Who led and how far it was, at the three moments.
    normal: Option<(usize, Zxid)>,
    begun: Option<(usize, Zxid)>,
    measured: Option<(usize, Zxid)>,
}

impl Slow {
    /// A plan, if there is to be trouble.
    #[must_use]
    pub fn new(trouble: Option<(Trouble, u64)>) -> Slow {
        Slow {
            trouble: trouble.map(|(trouble, _)| trouble),
            chance: Chance::new(trouble.map_or(0, |(_, seed)| seed)),
            is_on: false,
            is_blocked: false,
            normal: None,
            begun: None,
            measured: None,
        }
    }

    /// Plans the first moment.
    pub fn plan(&self, stage: &mut Stage) {
        if self.trouble.is_some() {
            stage.queue.after(8 * SECOND, Event::Slow(Moment::Normal));
        }
    }

    /// Does what is to be done at a moment. The last server is the one.
    pub fn act(&mut self, stage: &mut Stage, servers: &mut [Server], moment: Moment) {
        let leader = leader(servers);
        match moment {
            Moment::Normal => {
                self.normal = leader;
                stage.queue.after(BEFORE, Event::Slow(Moment::Begin));
            }
            Moment::Begin => self.begin(stage, servers, leader),
            Moment::Strike if self.is_on => self.strike(stage, servers),
            Moment::Strike => {}
            Moment::Measure => {
                self.measured = leader;
                stage.queue.after(DURING, Event::Slow(Moment::End));
            }
            Moment::End => self.end(stage, servers, leader),
        }
    }

    fn begin(&mut self, stage: &mut Stage, servers: &mut [Server], leader: Option<(usize, Zxid)>) {
        let Some((leading, _)) = leader.filter(|_| self.normal.is_some()) else {
            return stage.violate(24, "nobody leads, with nothing wrong".to_owned());
        };
        if leading + 1 == servers.len() {
            // The others are to have their leader among themselves.
            if let Some(server) = servers.get_mut(leading) {
                server.hand_over(stage, Some(Server::id(0)));
            }
            return stage.queue.after(3 * SECOND, Event::Slow(Moment::Normal));
        }
        self.begun = leader;
        self.is_on = true;
        stage.queue.after(0, Event::Slow(Moment::Strike));
        stage.queue.after(USED, Event::Slow(Moment::Measure));
    }

    fn strike(&mut self, stage: &mut Stage, servers: &mut [Server]) {
        let count = servers.len();
        let Some((one, server)) = servers.iter_mut().enumerate().last() else { return };
        let while_ = 200 * MS + self.chance.exponential(2 * SECOND);
        match self.trouble {
            Some(Trouble::Disk) => server.slow_disk = self.chance.log_uniform(100 * MS, 3 * SECOND),
            Some(Trouble::Network) => {
                self.is_blocked = !self.is_blocked;
                if self.is_blocked {
                    block(stage, one, count);
                } else {
                    stage.net.unblock_all(&mut stage.queue);
                }
            }
            Some(Trouble::Falls) => {
                let power = self.chance.happens(0.5);
                server.crash(stage, power);
                stage.queue.after(while_ / 2, Event::Restart(one));
            }
            Some(Trouble::Pauses) => server.pause(stage.queue.now() + while_),
            None => {}
        }
        stage.queue.after(while_ + 100 * MS, Event::Slow(Moment::Strike));
    }

    fn end(&mut self, stage: &mut Stage, servers: &mut [Server], leader: Option<(usize, Zxid)>) {
        self.is_on = false;
        stage.net.unblock_all(&mut stage.queue);
        if let Some(server) = servers.last_mut() {
            server.slow_disk = 0;
        }
        let (Some(normal), Some(begun), Some(measured)) = (self.normal, self.begun, self.measured) else {
            return;
        };
        stage.counts.slow_measured += 1;
        if let Err(what) = judge([normal, begun, measured], leader) {
            let trouble = self.trouble;
            stage.violate(24, format!("{trouble:?} of one server: {what}"));
        }
    }
}

/// Judges what was measured: who led and how far it was at the first three moments, and in the end.
///
/// # Errors
/// The leader was lost, or they agreed on too little.
pub fn judge(before: [(usize, Zxid); 3], end: Option<(usize, Zxid)>) -> Result<(), String> {
    let [normal, begun, measured] = before;
    let led = |(leader, zxid): (usize, Zxid)| (leader, zxid.epoch());
    let Some(end) = end.filter(|end| led(*end) == led(begun)) else {
        return Err(format!("{begun:?} led, and in the end {end:?} does"));
    };
    let agreed = |from: (usize, Zxid), to: (usize, Zxid)| u64::try_from(to.1.0 - from.1.0).unwrap_or(0);
    let (usual, under) = (agreed(normal, begun), agreed(measured, end));
    if led(normal) != led(begun) || usual < TRANSACTIONS_MIN {
        return Ok(());
    }
    // Per second, at least half.
    if under * 2 * BEFORE >= usual * DURING {
        return Ok(());
    }
    let seconds = |time: Nanos| time / SECOND;
    Err(format!("{usual} transactions in {} s before, {under} in {} s", seconds(BEFORE), seconds(DURING)))
}

fn leader(servers: &[Server]) -> Option<(usize, Zxid)> {
    let leads = |server: &&Server| matches!(server.role(), Some((Role::Leading, true, _)));
    servers.iter().find(leads).map(|server| (server.index(), server.last_zxid()))
}

fn block(stage: &mut Stage, one: usize, count: usize) {
    for other in (0..count).filter(|other| *other != one) {
        for port in [Port::Quorum, Port::Election] {
            stage.net.block(Host::Server(one), Host::Server(other), port);
            stage.net.block(Host::Server(other), Host::Server(one), port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_rate_is_enough_and_less_is_not() {
        let at = |counter: u32| (0, Zxid::new(3, counter));
        let before = [at(100), at(500), at(600)];
        assert_eq!(judge(before, Some(at(900))), Ok(()));
        assert!(judge(before, Some(at(899))).is_err(), "400 in 20 s, then 299 in 30 s");
    }

    #[test]
    fn another_leader_or_none_is_found() {
        let before = [(0, Zxid::new(3, 1)), (0, Zxid::new(3, 500)), (0, Zxid::new(3, 600))];
        assert!(judge(before, Some((1, Zxid::new(4, 2000)))).is_err());
        assert!(judge(before, Some((0, Zxid::new(4, 2000)))).is_err(), "it led anew");
        assert!(judge(before, None).is_err());
    }
}
