//! A learner: a follower, voting or not, or an observer. It finds out what epoch its leader leads in ([`discovery`]), is
//! brought level ([`sync`]), and follows ([`follow`]). A follower may serve observers in its leader's place ([`master`]).
//!
//! Whatever it promises or acknowledges is on its disk first: history, then epoch, then the acknowledgement, each a
//! step of its own.

mod discovery;
mod follow;
mod master;
mod sync;

use std::collections::VecDeque;
use std::sync::Arc;

use discovery::Patience;
use master::{Master, Pendings};

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, ServerId, Zxid};

use crate::common::{Action, Common, EnsembleChange, Leave};
use crate::durable::{LinkId, Proposal, Ticket};

/// How far a learner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// It dials its leader; or will, at this time.
    Dialling { again_at_ms: Option<i64> },
    /// It has said who it is.
    AwaitsEpoch,
    /// The epoch is not on its disk yet.
    Promising { ticket: Ticket, epoch: Epoch },
    /// It has promised the epoch.
    AwaitsPlan,
    /// It gets what it lacks.
    Synchronizing,
    /// What it lacked is not on its disk yet.
    LogsHistory(Ticket),
    /// The epoch is not its current one on its disk yet.
    TakesEpoch(Ticket),
    /// It has acknowledged the history.
    AwaitsUpToDate,
    /// It serves.
    Serving,
}

/// What the transactions that come are to be laid upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Base {
    /// The state is that of the log.
    Ready,
    /// The log is being cut.
    Truncating(Ticket, Zxid),
    /// The state is being read from the cut log.
    Reloading(u64, Zxid),
    /// A snapshot is coming.
    Loading(Zxid),
    /// It is being written to the disk.
    Installing(Ticket),
}

/// A transaction that was offered and is not applied.
#[derive(Debug, Clone, Hash)]
struct Pending {
    proposal: Proposal,
    /// What it changes of the ensemble, if anything.
    change: Option<EnsembleChange>,
    /// Who leads once it is applied, if that was said.
    designated: Option<ServerId>,
}

/// The role of a learner.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Learner {
    leader: ServerId,
    observes: bool,
    stage: Stage,
    base: Base,
    link: Option<LinkId>,
    dial: u64,
    tries: u32,
    /// How often and how soon it dials.
    patience: Patience,
    started_ms: i64,
    heard_ms: i64,
    epoch: Epoch,
    /// In order. While it is brought level nothing of it is logged; afterwards all of it is.
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// How many of the first are final, while it is brought level.
    agreed: usize,
    /// The newest transaction that was offered, or what the first one must follow.
    last_offered: Zxid,
    /// A snapshot's end: it may hold newer transactions in part, and older ones may come again.
    snapshot: Option<Zxid>,
    /// The configuration that came with NEWLEADER, once that has come.
    new_leader: Option<Option<Arc<EnsembleConfig>>>,
    /// What is to be acknowledged once it is on the disk.
    acks: VecDeque<(Ticket, Zxid)>,
    /// Whether it has told the leader that only the whole state will do.
    asks_for_all: bool,
    /// Whether it goes to a follower that serves observers.
    is_by_master: bool,
    /// The epoch whose leader has handed over to this one: a follower that is still in it is to go as well.
    left: Option<Epoch>,
    /// What it has for observers, if it serves them.
    master: Option<Box<Master>>,
}

impl Learner {
    pub(crate) fn new(cx: &mut Common, leader: ServerId, by_hand_over: bool) -> Learner {
        let mut learner = Learner {
            leader,
            observes: cx.observes(),
            stage: Stage::Dialling { again_at_ms: None },
            base: Base::Ready,
            link: None,
            dial: 0,
            tries: 0,
            patience: Patience::of(cx, by_hand_over),
            started_ms: cx.now_ms,
            heard_ms: cx.now_ms,
            epoch: Epoch(0),
            pending: VecDeque::new(),
            pending_bytes: 0,
            agreed: 0,
            last_offered: cx.last_logged,
            snapshot: None,
            new_leader: None,
            acks: VecDeque::new(),
            asks_for_all: false,
            is_by_master: false,
            left: by_hand_over.then_some(cx.current),
            master: None,
        };
        learner.dial(cx);
        learner
    }

    pub(crate) fn leader(&self) -> ServerId {
        self.leader
    }

    pub(crate) fn observes(&self) -> bool {
        self.observes
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    /// The link to the leader, once it serves.
    pub(crate) fn serving_link(&self) -> Option<LinkId> {
        self.link.filter(|_| self.is_serving())
    }

    /// Something of a snapshot came on this link: the end of the snapshot, if one is to come there.
    pub(crate) fn loads_from(&mut self, cx: &Common, link: LinkId) -> Option<Zxid> {
        let Base::Loading(zxid) = self.base else { return None };
        self.heard_ms = cx.now_ms;
        (self.link == Some(link)).then_some(zxid)
    }

    pub(crate) fn awaits_reload(&self, task: u64) -> bool {
        matches!(self.base, Base::Reloading(awaited, _) if awaited == task)
    }

    pub(crate) fn is_state_whole(&self) -> bool {
        matches!(self.base, Base::Ready | Base::Installing(_))
    }

    pub(crate) fn is_installing(&self) -> bool {
        matches!(self.base, Base::Installing(_))
    }

    pub(crate) fn has_snapshot_under_way(&self) -> bool {
        matches!(self.base, Base::Loading(_) | Base::Installing(_))
    }

    pub(crate) fn link_closed(&mut self, cx: &mut Common, link: LinkId) -> Result<(), Leave> {
        if let Some(master) = &mut self.master {
            master.link_closed(cx, link);
        }
        if self.link != Some(link) {
            return Ok(());
        }
        if self.is_by_master && self.stage == Stage::AwaitsEpoch {
            self.link = None;
            return self.try_again(cx, "the link to a follower broke");
        }
        Err(Leave::because("the link to the leader broke"))
    }

    /// Whether what it is told comes by way of a follower.
    pub(crate) fn is_by_master(&self) -> bool {
        self.is_by_master
    }

    /// An observer has come.
    pub(crate) fn observer_came(&mut self, cx: &mut Common, link: LinkId) {
        match &mut self.master {
            Some(master) => master.link_opened(cx, link),
            None => cx.out.push_back(Action::Close(link)),
        }
    }

    /// Whether this link is one of an observer's.
    pub(crate) fn serves(&self, link: LinkId) -> bool {
        self.master.as_ref().is_some_and(|master| master.has(link))
    }

    /// Observers that it serves.
    pub(crate) fn served(&self) -> usize {
        self.master.as_ref().map_or(0, |master| master.served())
    }

    /// The log was read for an observer.
    pub(crate) fn log_read(&mut self, cx: &mut Common, task: u64, records: Option<&[Proposal]>) {
        let agreed = Pendings(&self.pending).last_agreed(cx);
        if let Some(master) = &mut self.master {
            master.log_read(cx, task, records, agreed);
        }
    }

    /// A snapshot of everything up to `zxid` begins for an observer, and was announced to it.
    pub(crate) fn snapshot_begins(&mut self, cx: &mut Common, link: LinkId, zxid: Zxid) {
        if let Some(master) = &mut self.master {
            master.snapshot_begins(cx, link, zxid);
        }
    }

    /// The last byte of an observer's snapshot is on its way.
    pub(crate) fn snapshot_sent(&mut self, cx: &Common, link: LinkId) {
        if let Some(master) = &mut self.master {
            master.snapshot_sent(cx, link);
        }
    }

    /// Takes a packet; `change` is what a transaction in it changes of the ensemble.
    pub(crate) fn packet(
        &mut self,
        cx: &mut Common,
        link: LinkId,
        packet: PeerPacket,
        change: Option<EnsembleChange>,
    ) -> Result<(), Leave> {
        if self.link != Some(link) {
            if let Some(master) = &mut self.master {
                master.packet(cx, link, packet, &Pendings(&self.pending));
            }
            return Ok(());
        }
        self.heard_ms = cx.now_ms;
        match packet {
            PeerPacket::LeaderInfo { epoch, .. } => self.epoch_offered(cx, epoch),
            PeerPacket::Diff { .. } | PeerPacket::Trunc { .. } if cx.wants_snapshot => self.ask_for_all(cx),
            PeerPacket::Diff { .. } => self.begin_sync(Base::Ready),
            PeerPacket::Trunc { zxid } => self.truncate(cx, zxid),
            PeerPacket::Snap { zxid } => self.load(cx, zxid),
            PeerPacket::NewLeader { epoch, config } => self.history_complete(cx, epoch, config.as_deref()),
            PeerPacket::UpToDate => self.up_to_date(cx),
            PeerPacket::Proposal { zxid, .. } if self.observes && self.is_serving() => {
                self.called_to_vote(cx, zxid, change)
            }
            PeerPacket::Proposal { zxid, txn } => {
                self.offered(cx, Pending::new(zxid, txn, change, None), false)
            }
            PeerPacket::Commit { zxid } => self.agreed(cx, zxid, None),
            PeerPacket::CommitAndActivate { zxid, designated } => self.agreed(cx, zxid, Some(designated)),
            PeerPacket::Inform { zxid, txn } => self.offered(cx, Pending::new(zxid, txn, change, None), true),
            PeerPacket::InformAndActivate { zxid, designated, txn } => {
                self.offered(cx, Pending::new(zxid, txn, change, Some(designated)), true)
            }
            PeerPacket::Ping { zxid, .. } => {
                // While it is brought level a learner does not answer.
                if self.is_serving() {
                    cx.out.push_back(Action::Pinged(zxid));
                }
                Ok(())
            }
            PeerPacket::Moved { session } => {
                cx.out.push_back(Action::Moved(session));
                Ok(())
            }
            PeerPacket::Revalidated { session, valid } => {
                cx.out.push_back(Action::Revalidated(session, valid));
                Ok(())
            }
            PeerPacket::Sync => {
                cx.out.push_back(Action::Synced);
                Ok(())
            }
            other => {
                tracing::warn!("The leader sent {other:?}, which only learners do");
                Ok(())
            }
        }
    }

    pub(crate) fn persisted(&mut self, cx: &mut Common) -> Result<(), Leave> {
        match self.base {
            Base::Truncating(ticket, zxid) if cx.is_persisted(ticket) => {
                let task = cx.next_task();
                self.base = Base::Reloading(task, zxid);
                cx.out.push_back(Action::Reload { task });
            }
            Base::Installing(ticket) if cx.is_persisted(ticket) => {
                self.base = Base::Ready;
                cx.wants_snapshot = false;
                self.take_history(cx)?;
            }
            _ => {}
        }
        match self.stage {
            Stage::Promising { ticket, epoch }
                if cx.is_persisted(ticket) || is(Fault::AcceptedEpochUnsynced) =>
            {
                self.promise(cx, epoch, true);
            }
            Stage::LogsHistory(ticket) if cx.is_persisted(ticket) => self.history_logged(cx),
            Stage::TakesEpoch(ticket) if cx.is_persisted(ticket) => self.epoch_taken(cx),
            _ => {}
        }
        self.acknowledge(cx);
        Ok(())
    }

    pub(crate) fn deadline_ms(&self, cx: &Common) -> i64 {
        let own = match self.stage {
            Stage::Dialling { again_at_ms: Some(at_ms) } => at_ms,
            _ => self.silence_limit(cx).map_or(i64::MAX, |limit_ms| self.heard_ms + limit_ms + 1),
        };
        self.master.as_ref().map_or(own, |master| own.min(master.deadline_ms()))
    }

    /// How long the leader may be silent now; `None` while it waits for us.
    fn silence_limit(&self, cx: &Common) -> Option<i64> {
        match self.stage {
            Stage::Serving => Some(cx.limits.sync_ms()),
            Stage::Promising { .. } | Stage::LogsHistory(_) | Stage::TakesEpoch(_) => None,
            Stage::Synchronizing if self.new_leader.is_some() => None,
            _ => Some(cx.limits.init_ms()),
        }
    }

    pub(crate) fn tick(&mut self, cx: &mut Common) -> Result<(), Leave> {
        if let Stage::Dialling { again_at_ms: Some(at_ms) } = self.stage
            && cx.now_ms >= at_ms
        {
            self.dial(cx);
        }
        if let Some(master) = &mut self.master {
            master.tick(cx);
        }
        if self.silence_limit(cx).is_some_and(|limit_ms| cx.now_ms - self.heard_ms > limit_ms) {
            return Err(Leave::because(format!("the leader was silent, {:?}", self.stage)));
        }
        if is(Fault::OldTimerSurvives) && cx.now_ms - self.started_ms > cx.limits.init_ms() {
            return Err(Leave::because("the time to join was over long ago"));
        }
        Ok(())
    }

    /// Ends the role: what is in the log but not applied, and whether the state must be read from the disk again
    /// because it is not that of the log.
    pub(crate) fn end(self, cx: &mut Common) -> (Vec<Proposal>, bool) {
        if let Some(link) = self.link.filter(|_| !is(Fault::OldLinkSurvives)) {
            cx.out.push_back(Action::Close(link));
        }
        if let Some(master) = self.master {
            master.end(cx);
        }
        let is_logged = matches!(
            self.stage,
            Stage::LogsHistory(_) | Stage::TakesEpoch(_) | Stage::AwaitsUpToDate | Stage::Serving
        );
        let tail = self.pending.into_iter().filter(|_| is_logged).map(|pending| pending.proposal);
        (tail.collect(), self.base != Base::Ready && !is(Fault::PartialSnapshotKept))
    }
}

impl Pending {
    fn new(
        zxid: Zxid,
        payload: bytes::Bytes,
        change: Option<EnsembleChange>,
        designated: Option<ServerId>,
    ) -> Pending {
        Pending { proposal: Proposal { zxid, payload }, change, designated }
    }
}
