//! Reaching the leader and promising its epoch.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::LearnerInfo;
use oxkeeper_proto::{Epoch, PeerPacket, Zxid};

use super::{Learner, Stage};
use crate::common::{Action, Common, Leave, PeerPort};
use crate::durable::{Durable, LinkId};
use crate::masters::Next;

/// Attempts to reach a leader: it opens its port only when it knows that it leads.
#[derive(Debug, Clone, Copy, Hash)]
pub(super) struct Patience {
    tries_max: u32,
    again_ms: i64,
}

impl Patience {
    /// As in Java: `leaderConnectDelayDuringRetryMs`.
    const ELECTED: Patience = Patience { tries_max: 5, again_ms: 100 };
    /// The successor hears of its turn when the others do, so it is there at once, or as soon as its disk allows.
    const HANDED_OVER: Patience = Patience { tries_max: 25, again_ms: 20 };
    /// Who serves observers must be level with the successor first.
    const HANDED_OVER_BY_MASTER: Patience = Patience { tries_max: 150, again_ms: 20 };

    pub(super) fn of(cx: &Common, by_hand_over: bool) -> Patience {
        match by_hand_over {
            true if goes_to_master(cx) => Patience::HANDED_OVER_BY_MASTER,
            true => Patience::HANDED_OVER,
            false => Patience::ELECTED,
        }
    }
}

/// Whether this server goes to a follower: as an observer that is not to vote either.
fn goes_to_master(cx: &Common) -> bool {
    cx.masters.is_some() && cx.observes()
}

impl Learner {
    pub(super) fn dial(&mut self, cx: &mut Common) {
        let mut server = self.leader;
        self.is_by_master = false;
        let times = (cx.now_ms, cx.limits.init_ms());
        let goes_to_master = goes_to_master(cx);
        if let Some(masters) = cx.masters.as_mut().filter(|_| goes_to_master) {
            match masters.next(&cx.committed, self.leader, times) {
                Next::Leader => {}
                Next::Master(master) => {
                    server = master;
                    self.is_by_master = true;
                }
                Next::NotBefore(at_ms) => {
                    self.stage = Stage::Dialling { again_at_ms: Some(at_ms) };
                    // Nobody is silent who is not asked.
                    self.heard_ms = at_ms;
                    return;
                }
            }
        }
        self.dial = cx.next_task();
        self.tries += 1;
        self.stage = Stage::Dialling { again_at_ms: None };
        let port = if self.is_by_master { PeerPort::ObserverMaster } else { PeerPort::Quorum };
        cx.out.push_back(Action::Dial { server, port, dial: self.dial });
    }

    pub(crate) fn dial_failed(&mut self, cx: &Common, dial: u64) -> Result<(), Leave> {
        if dial != self.dial || self.link.is_some() {
            return Ok(());
        }
        self.try_again(cx, "the leader cannot be reached")
    }

    /// Dials again in a while, perhaps somebody else, unless that was done often enough.
    pub(super) fn try_again(&mut self, cx: &Common, reason: &str) -> Result<(), Leave> {
        if self.tries >= self.patience.tries_max {
            return Err(Leave::because(reason));
        }
        self.stage = Stage::Dialling { again_at_ms: Some(cx.now_ms + self.patience.again_ms) };
        Ok(())
    }

    /// The leader is reached.
    pub(crate) fn link_opened(&mut self, cx: &mut Common, link: LinkId, dial: u64) {
        if dial != self.dial || self.link.is_some() {
            return cx.out.push_back(Action::Close(link));
        }
        self.link = Some(link);
        self.heard_ms = cx.now_ms;
        self.stage = Stage::AwaitsEpoch;
        let (accepted, learner) = (cx.accepted, LearnerInfo::new(cx.me, cx.committed.version));
        let packet = if self.observes {
            PeerPacket::ObserverInfo { accepted, learner }
        } else {
            PeerPacket::FollowerInfo { accepted, learner }
        };
        cx.send(link, packet);
    }

    /// The leader names its epoch. It is promised once it is on the disk; a promise made before is repeated without
    /// counting again.
    pub(super) fn epoch_offered(&mut self, cx: &mut Common, epoch: Epoch) -> Result<(), Leave> {
        if self.stage != Stage::AwaitsEpoch {
            return Err(Leave::because("the leader named its epoch twice"));
        }
        // Another follower may know better.
        let is_past = epoch < cx.accepted || self.left.is_some_and(|left| epoch <= left);
        if self.is_by_master
            && is_past
            && let Some(link) = self.link.take()
        {
            cx.out.push_back(Action::Close(link));
            return self.try_again(cx, "the follower is in an epoch that is over");
        }
        if epoch < cx.accepted {
            return Err(Leave::because(format!(
                "the leader's epoch {} is older than {}, which was promised",
                epoch.0, cx.accepted.0
            )));
        }
        self.epoch = epoch;
        if epoch == cx.accepted {
            self.promise(cx, epoch, false);
            return Ok(());
        }
        let ticket = cx.durable(Durable::AcceptedEpoch(epoch));
        self.stage = Stage::Promising { ticket, epoch };
        if is(Fault::AcceptedEpochUnsynced) {
            self.promise(cx, epoch, true);
        }
        Ok(())
    }

    pub(super) fn promise(&mut self, cx: &mut Common, epoch: Epoch, counts: bool) {
        cx.accepted = epoch;
        self.stage = Stage::AwaitsPlan;
        self.heard_ms = cx.now_ms;
        // Only a promise that does not count may hide what is in the log: the leader judges by it whether it has
        // everything. One that counts is asked for again with the next link, once the epoch has begun.
        self.asks_for_all = cx.wants_snapshot && !counts;
        // One whose directory was emptied must not be counted for its empty log.
        let last = match (self.asks_for_all, cx.emptied) {
            // The start of an epoch that has not begun: nothing is found there, so the whole state is sent.
            (true, _) => Epoch(epoch.0 + 1).start(),
            (false, true) => Zxid(-1),
            (false, false) => cx.last_logged,
        };
        let current = counts.then_some(cx.current);
        if let Some(link) = self.link {
            cx.send(link, PeerPacket::AckEpoch { last, current });
        }
    }
}
