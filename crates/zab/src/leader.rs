//! A leader: it agrees on an epoch with a quorum ([`discovery`]), brings learners level ([`sync`]), and offers
//! transactions ([`broadcast`]).
//!
//! It counts only what is on its own disk and what learners say of theirs. Whatever it waits for has a limit, after
//! which it leaves its role.

mod broadcast;
mod discovery;
mod hand_over;
mod sync;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, ServerId, Zxid};

pub(crate) use broadcast::calls_to_vote;
pub use hand_over::HandOverRefused;

use crate::common::{Action, Common, EnsembleChange, Leave};
use crate::durable::{LinkId, Proposal, Ticket};
use crate::quorum::{Oracle, Quorums, Tracker, oracle_needed};

/// Ticks after which a leader without a quorum takes a voter's second thoughts for an answer.
const DISLOYAL_AFTER_TICKS: i64 = 2;

/// Links to learners, and to whoever else has found the quorum port. More are closed at once.
pub(crate) const PEERS_MAX: usize = 1024;

/// How far a leader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// A quorum has not said yet which epochs it has promised.
    Registering,
    /// The new epoch is not on this leader's disk yet.
    Promising(Ticket),
    /// A quorum has not promised the new epoch yet.
    Electing,
    /// The new epoch is not this leader's current one on its disk yet.
    TakingOver(Ticket),
    /// A quorum has not acknowledged this leader's history yet.
    Synchronizing,
    /// It serves.
    Active,
}

/// How far a learner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// It has not said who it is.
    Silent,
    /// It waits to hear the new epoch.
    Registered,
    /// It has heard it.
    Informed,
    /// It has promised it, and waits for the election to end.
    Promised,
    /// The log is being read for it.
    LogRead(u64),
    /// A snapshot is to begin for it.
    AwaitsSnapshot,
    /// It was sent everything up to NEWLEADER; from here on it gets what is new.
    Synchronizing,
    /// It has acknowledged NEWLEADER.
    Level,
    /// It serves.
    Active,
}

/// A learner and its link.
#[derive(Debug, Clone, Hash)]
struct Peer {
    server: ServerId,
    observes: bool,
    stage: Stage,
    /// The last transaction in its log, as it said.
    last: Zxid,
    heard_ms: i64,
    /// It counts as in step until then.
    in_step_until_ms: i64,
    /// The newest transaction that it acknowledged before NEWLEADER: worth nothing until its epoch is on its disk.
    early_ack: Zxid,
    /// Rounds of pings that it has not answered; links are FIFO, so answers come in order.
    rounds: VecDeque<u64>,
    /// The newest round that it has answered.
    answered: u64,
    /// A proposal that it was sent and has not acknowledged, and when, and one that was sent after it.
    unacknowledged: [Option<(Zxid, i64)>; 2],
}

/// A transaction that was offered and is not final.
#[derive(Debug, Clone, Hash)]
struct Outstanding {
    proposal: Proposal,
    acks: Tracker,
    /// What it changes of the ensemble, if anything.
    change: Option<EnsembleChange>,
}

/// Who waits for a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Syncer {
    /// A client of this server; the number comes back.
    Here(u64),
    /// A learner.
    Learner(LinkId),
}

#[derive(Debug, Clone, Hash)]
struct WaitingSync {
    syncer: Syncer,
    /// What was offered when it was asked for.
    after: Zxid,
    /// The first round of pings that began after that, once one has.
    round: Option<u64>,
}

/// The role of a leader.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Leader {
    phase: Phase,
    since_ms: i64,
    /// Current epoch and newest transaction in the log at the start: whoever has more must not be led.
    summary: (Epoch, Zxid),
    epoch: Epoch,
    highest_accepted: Epoch,
    registered: BTreeSet<ServerId>,
    promised: BTreeSet<ServerId>,
    /// Who has this leader's history on its disk.
    level: BTreeSet<ServerId>,
    peers: BTreeMap<LinkId, Peer>,
    counter_max: u32,
    last_proposed: Zxid,
    last_committed: Zxid,
    outstanding: VecDeque<Outstanding>,
    /// Own appends that are not on the disk.
    own_log: VecDeque<(Ticket, Zxid)>,
    /// Who leads in place of this server, by which transaction, and when this server leaves. From
    /// then on it commits nothing; it stays a little, so that its learners hear of it.
    successor: Option<(ServerId, Zxid, i64)>,
    /// To whom it hands over of its own accord: nothing is offered behind the transaction that says so.
    handing_over: Option<ServerId>,
    /// Whether it was handed the leadership.
    was_handed_over: bool,
    next_check_ms: i64,
    /// Every second check is a tick.
    is_tick: bool,
    round: u64,
    /// A round for syncs is on its way.
    sync_round: Option<u64>,
    syncs: VecDeque<WaitingSync>,
}

impl Leader {
    pub(crate) fn new(cx: &mut Common, was_handed_over: bool) -> Leader {
        cx.out.push_back(Action::Listen(true));
        cx.asks_oracle = oracle_needed(&cx.committed, 0);
        let mut leader = Leader {
            phase: Phase::Registering,
            since_ms: cx.now_ms,
            summary: (cx.current, cx.last_logged),
            epoch: Epoch(0),
            highest_accepted: cx.accepted,
            registered: BTreeSet::from([cx.me]),
            promised: BTreeSet::new(),
            level: BTreeSet::new(),
            peers: BTreeMap::new(),
            counter_max: cx.limits.counter_max,
            last_proposed: Zxid::ZERO,
            last_committed: Zxid::ZERO,
            outstanding: VecDeque::new(),
            own_log: VecDeque::new(),
            successor: None,
            handing_over: None,
            was_handed_over,
            next_check_ms: cx.now_ms + cx.limits.tick_ms / 2,
            is_tick: false,
            round: 0,
            sync_round: None,
            syncs: VecDeque::new(),
        };
        leader.choose_epoch(cx);
        leader
    }

    /// As if so much had been offered already.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, zxid: Zxid) {
        self.last_proposed = zxid;
    }

    pub(crate) fn is_active(&self) -> bool {
        self.phase == Phase::Active
    }

    pub(crate) fn deadline_ms(&self) -> i64 {
        self.successor.map_or(self.next_check_ms, |(.., leave_at_ms)| leave_at_ms.min(self.next_check_ms))
    }

    /// Whether a quorum has been waited for so long that a voter who looks for a leader again has changed its mind,
    /// rather than not heard of this one yet. Java waits for initLimit, unless told otherwise (ZOOKEEPER-3109).
    pub(crate) fn waits_in_vain(&self, cx: &Common) -> bool {
        let limit_ms = DISLOYAL_AFTER_TICKS.saturating_mul(cx.limits.tick_ms);
        let waits_for_voters = matches!(self.phase, Phase::Registering | Phase::Electing);
        waits_for_voters && cx.now_ms - self.since_ms > limit_ms
    }

    /// Voting learners that are in step, and all learners.
    pub(crate) fn learners(&self, cx: &Common) -> (usize, usize) {
        let joined = |peer: &&Peer| matches!(peer.stage, Stage::Level | Stage::Active);
        let voters = self.peers.values().filter(joined).filter(|peer| cx.committed.is_voter(peer.server));
        (voters.count(), self.peers.values().filter(joined).count())
    }

    pub(crate) fn link_opened(&mut self, cx: &mut Common, link: LinkId) {
        if self.successor.is_some() {
            return cx.out.push_back(Action::Close(link));
        }
        if self.peers.len() >= PEERS_MAX {
            tracing::warn!("Closing a link: {PEERS_MAX} are open");
            return cx.out.push_back(Action::Close(link));
        }
        let peer = Peer {
            server: ServerId(-1),
            observes: false,
            stage: Stage::Silent,
            last: Zxid::ZERO,
            heard_ms: cx.now_ms,
            in_step_until_ms: cx.now_ms + cx.limits.tick_ms + cx.limits.init_ms() + cx.limits.sync_ms(),
            early_ack: Zxid::ZERO,
            rounds: VecDeque::new(),
            answered: 0,
            unacknowledged: [None; 2],
        };
        self.peers.insert(link, peer);
    }

    pub(crate) fn link_closed(&mut self, cx: &mut Common, link: LinkId) {
        if self.peers.remove(&link).is_some() {
            self.syncs.retain(|sync| sync.syncer != Syncer::Learner(link));
            cx.out.push_back(Action::LearnerGone(link));
        }
    }

    /// Closes a link of our own accord.
    fn drop_peer(&mut self, cx: &mut Common, link: LinkId, reason: &str) {
        if let Some(peer) = self.peers.get(&link) {
            tracing::warn!("Closing the link to server {}: {reason}", peer.server);
        }
        cx.out.push_back(Action::Close(link));
        self.link_closed(cx, link);
    }

    pub(crate) fn packet(&mut self, cx: &mut Common, link: LinkId, packet: PeerPacket) -> Result<(), Leave> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        peer.heard_ms = cx.now_ms;
        if matches!(peer.stage, Stage::Level | Stage::Active) {
            peer.in_step_until_ms = cx.now_ms + cx.limits.sync_ms();
        }
        match packet {
            PeerPacket::FollowerInfo { accepted, learner } => {
                self.register(cx, link, accepted, learner, false)
            }
            PeerPacket::ObserverInfo { accepted, learner } => {
                self.register(cx, link, accepted, learner, true)
            }
            PeerPacket::AckEpoch { last, current } => self.epoch_promised(cx, link, last, current),
            PeerPacket::Ack { zxid } => self.acknowledged(cx, link, zxid),
            PeerPacket::Ping { touched, .. } => self.answered(cx, link, touched.unwrap_or_default()),
            // Who hands over offers nothing more, so whoever asks may ask the successor.
            PeerPacket::Request(_) | PeerPacket::Revalidate { .. } if self.handing_over.is_some() => Ok(()),
            PeerPacket::Request(request) => {
                if self.phase == Phase::Active {
                    cx.out.push_back(Action::Request(link, request));
                }
                Ok(())
            }
            PeerPacket::Revalidate { session, timeout_ms } => {
                if self.phase == Phase::Active {
                    cx.out.push_back(Action::Revalidate(link, session, timeout_ms));
                }
                Ok(())
            }
            other => {
                tracing::warn!("A learner sent {other:?}, which only leaders do");
                Ok(())
            }
        }
    }

    pub(crate) fn persisted(&mut self, cx: &mut Common) -> Result<(), Leave> {
        match self.phase {
            Phase::Promising(ticket) if cx.is_persisted(ticket) || is(Fault::AcceptedEpochUnsynced) => {
                self.offer_epoch(cx)?;
            }
            Phase::TakingOver(ticket) if cx.is_persisted(ticket) => self.synchronize(cx)?,
            _ => {}
        }
        let mut logged = None;
        while let Some((ticket, zxid)) = self.own_log.front()
            && cx.is_persisted(*ticket)
        {
            logged = Some(*zxid);
            self.own_log.pop_front();
        }
        if let Some(zxid) = logged {
            self.count_acks(cx, cx.me, zxid)?;
        }
        Ok(())
    }

    /// What is due: pings, and looking at who is still there.
    pub(crate) fn tick(&mut self, cx: &mut Common) -> Result<(), Leave> {
        self.leave_when_handed_over(cx)?;
        if cx.now_ms < self.next_check_ms {
            return Ok(());
        }
        self.next_check_ms = cx.now_ms + cx.limits.tick_ms / 2;
        self.is_tick = !self.is_tick;
        self.close_silent(cx);
        self.weigh_oracle(cx);
        self.judge(cx)?;
        if self.phase != Phase::Active {
            let waited_ms = cx.now_ms - self.since_ms;
            if waited_ms > cx.limits.init_ms() {
                return Err(Leave::because(format!("{:?} took longer than initLimit", self.phase)));
            }
            return Ok(());
        }
        if self.is_tick
            && self.successor.is_none()
            && !self.has_quorum(cx, |peer| peer.in_step_until_ms >= cx.now_ms)
        {
            return Err(Leave::because("no quorum of learners is in step"));
        }
        self.ping(cx, false);
        self.release_syncs(cx);
        Ok(())
    }

    fn close_silent(&mut self, cx: &mut Common) {
        let (init_ms, sync_ms) = (cx.limits.init_ms(), cx.limits.sync_ms());
        let late = |peer: &Peer| {
            let limit_ms = if peer.stage == Stage::Active { sync_ms } else { init_ms };
            // Those that wait for this leader are not to blame for their silence.
            let waits =
                !matches!(peer.stage, Stage::Silent | Stage::Informed | Stage::Synchronizing | Stage::Active);
            let slow = peer.unacknowledged[0].is_some_and(|(_, sent_ms)| cx.now_ms - sent_ms > sync_ms);
            !waits && cx.now_ms - peer.heard_ms > limit_ms || slow && peer.stage == Stage::Active
        };
        let late: Vec<LinkId> =
            self.peers.iter().filter(|(_, peer)| late(peer)).map(|(link, _)| *link).collect();
        for link in late {
            self.drop_peer(cx, link, "it was silent for too long");
        }
    }

    /// Whether those in step are a quorum of a configuration; all its voters count, also those that do not vote yet,
    /// but no observers, and none that do not know yet that they are to observe: they are not offered what they would have
    /// to acknowledge.
    pub(crate) fn has_quorum_of(&self, cx: &Common, config: &EnsembleConfig) -> bool {
        let in_step = |peer: &&Peer| {
            let observes = peer.observes || cx.committed.is_observer(peer.server);
            peer.stage == Stage::Active && !observes && peer.in_step_until_ms >= cx.now_ms
        };
        let mut servers: BTreeSet<ServerId> =
            self.peers.values().filter(in_step).map(|peer| peer.server).collect();
        servers.insert(cx.me);
        Quorums::new(config, None).are_met(&servers, cx.oracle())
    }

    /// The oracle has spoken.
    pub(crate) fn oracle_spoke(&mut self, cx: &mut Common) -> Result<(), Leave> {
        if cx.oracle() == Oracle::Absent { Ok(()) } else { self.judge(cx) }
    }

    /// Whether the oracle is asked from now on: not while a voter gets what is new, which must then acknowledge it.
    ///
    /// Source: `QuorumOracleMaj.updateNeedOracle`, 3.9.
    fn weigh_oracle(&self, cx: &mut Common) {
        let gets_new = |peer: &&Peer| {
            matches!(peer.stage, Stage::Synchronizing | Stage::Level | Stage::Active)
                && cx.is_voter(peer.server)
        };
        let followers = self.peers.values().filter(gets_new).count();
        cx.asks_oracle = is(Fault::OracleAskedBeside) || oracle_needed(&cx.committed, followers);
    }

    /// Goes on with what only waited for a quorum, if there is one now.
    fn judge(&mut self, cx: &mut Common) -> Result<(), Leave> {
        match self.phase {
            Phase::Registering => self.choose_epoch(cx),
            Phase::Electing => self.end_election(cx),
            Phase::Synchronizing => self.begin_to_serve(cx),
            Phase::Active => return self.commit_agreed(cx),
            Phase::Promising(_) | Phase::TakingOver(_) => {}
        }
        Ok(())
    }

    /// Ends the role: what was offered and is not final.
    pub(crate) fn end(self, cx: &mut Common) -> Vec<Proposal> {
        cx.out.push_back(Action::Listen(false));
        cx.asks_oracle = true;
        for link in self.peers.keys() {
            cx.out.push_back(Action::Close(*link));
        }
        self.outstanding.into_iter().map(|out| out.proposal).collect()
    }

    /// Whether this server and the learners of which something is true are a quorum, of both configurations.
    fn has_quorum(&self, cx: &Common, is_true: impl Fn(&Peer) -> bool) -> bool {
        let mut servers: BTreeSet<ServerId> = self
            .peers
            .values()
            .filter(|peer| peer.stage != Stage::Silent && is_true(peer))
            .map(|peer| peer.server)
            .collect();
        servers.insert(cx.me);
        cx.are_quorum(&servers)
    }
}
