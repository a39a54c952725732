//! Offering transactions, and making them final in their order once a quorum has them on disk.

use std::collections::BTreeSet;
use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::ensemble::PeerAddress;
use oxkeeper_proto::{EnsembleConfig, PeerPacket, ServerId, SessionId, Zxid};

use super::sync::Unacknowledged;
use super::{Leader, Outstanding, Phase, Stage, Syncer, WaitingSync};
use crate::common::{Action, Common, EnsembleChange, Leave};
use crate::durable::{LinkId, Proposal};
use crate::quorum::{Oracle, Quorums, Tracker};

/// So many transactions before the counter of its epoch is used up a leader begins to hand over to itself, so that there
/// is time if it may not at once.
const ROLL_OVER_AHEAD: u32 = 16;

impl Leader {
    /// The zxid of the next proposal; `None` when the counter of the epoch is used up, or leadership is handed over. The
    /// last value that may be given out is for the transaction that hands over.
    pub(crate) fn next_zxid(&self) -> Option<Zxid> {
        if is(Fault::CounterOverflows) {
            return Some(Zxid(self.last_proposed.0 + 1));
        }
        self.last_zxid().filter(|next| next.counter() + 1 < self.counter_max)
    }

    /// The zxid of the transaction that hands over.
    pub(crate) fn last_zxid(&self) -> Option<Zxid> {
        let next = self.last_proposed.next().filter(|next| next.counter() < self.counter_max);
        next.filter(|_| self.handing_over.is_none())
    }

    /// Whether the counter of the epoch will soon be used up.
    pub(crate) fn is_epoch_ending(&self) -> bool {
        let ahead = ROLL_OVER_AHEAD.min(self.counter_max / 4);
        let ends = self.last_proposed.counter().saturating_add(ahead).saturating_add(2) >= self.counter_max;
        ends && !is(Fault::CounterOverflows)
    }

    pub(crate) fn outstanding_len(&self) -> usize {
        self.outstanding.len()
    }

    /// Offers a transaction.
    ///
    /// # Panics
    /// If its zxid is not the next one: the order would have a hole.
    pub(crate) fn propose(&mut self, cx: &mut Common, proposal: Proposal, change: Option<EnsembleChange>) {
        let next = match &change {
            Some(EnsembleChange::Leader(_)) => self.last_zxid(),
            _ => self.next_zxid(),
        };
        assert_eq!(Some(proposal.zxid), next, "a proposal out of order");
        assert_eq!(self.phase, Phase::Active, "a proposal before a quorum has the history");
        match &change {
            Some(EnsembleChange::Members(new)) => cx.see(Arc::clone(new)),
            Some(EnsembleChange::Leader(successor)) => self.handing_over = Some(*successor),
            None => {}
        }
        let rules = if is(Fault::JointQuorumSkipped) {
            Arc::new(Quorums::new(&cx.committed, None))
        } else {
            Arc::clone(&cx.quorums)
        };
        self.last_proposed = proposal.zxid;
        for (link, peer) in &mut self.peers {
            let gets_new = matches!(peer.stage, Stage::Synchronizing | Stage::Level | Stage::Active);
            if gets_new && !peer.observes {
                peer.unacknowledged.sent(proposal.zxid, cx.now_ms);
                cx.out.push_back(Action::Send(*link, proposal.offer()));
            } else if peer.stage == Stage::Active && calls_to_vote(change.as_ref(), peer.server) {
                cx.out.push_back(Action::Send(*link, proposal.offer()));
            }
        }
        self.own_log.push_back((cx.log(proposal.clone()), proposal.zxid));
        self.outstanding.push_back(Outstanding { proposal, acks: Tracker::new(rules), change });
    }

    /// A learner acknowledges something.
    pub(super) fn acknowledged(&mut self, cx: &mut Common, link: LinkId, zxid: Zxid) -> Result<(), Leave> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        peer.unacknowledged.acknowledged(zxid);
        let (server, observes) = (peer.server, peer.observes);
        match peer.stage {
            Stage::Synchronizing if zxid == self.epoch.start() => self.history_acknowledged(cx, link),
            // Its epoch is not on its disk yet, so it could still vote as if it had not seen this.
            Stage::Synchronizing => {
                if zxid.counter() != 0 {
                    peer.early_ack = peer.early_ack.max(zxid);
                }
                Ok(())
            }
            Stage::Level | Stage::Active if observes && !is(Fault::ObserverCounted) => Ok(()),
            Stage::Level | Stage::Active if zxid.counter() != 0 => self.count_acks(cx, server, zxid),
            _ => Ok(()),
        }
    }

    /// A server has everything up to `zxid` on its disk: what it was sent before went to its log before.
    pub(super) fn count_acks(&mut self, cx: &mut Common, server: ServerId, zxid: Zxid) -> Result<(), Leave> {
        if !cx.is_voter(server) && !is(Fault::ObserverCounted) {
            return Ok(());
        }
        let upto = self.outstanding.partition_point(|out| out.proposal.zxid <= zxid);
        // What it has acknowledged is always a prefix.
        for out in self.outstanding.range_mut(..upto).rev() {
            if out.acks.has(server) {
                break;
            }
            out.acks.ack(server);
            if is(Fault::ObserverCounted) && !cx.is_voter(server) {
                cx.committed.voters().find(|voter| out.acks.ack(*voter));
            }
        }
        self.commit_agreed(cx)
    }

    pub(super) fn commit_agreed(&mut self, cx: &mut Common) -> Result<(), Leave> {
        while self.successor.is_none()
            && let Some(first) = self.outstanding.front()
            && is_agreed(cx, &first.acks)
            && first.successor().is_none_or(|successor| first.acks.has(successor))
            && let Some(first) = self.outstanding.pop_front()
        {
            self.commit(cx, first);
        }
        self.release_syncs(cx);
        self.leave_when_handed_over(cx)
    }

    fn commit(&mut self, cx: &mut Common, agreed: Outstanding) {
        let Outstanding { proposal, acks, change, .. } = agreed;
        let Proposal { zxid, payload } = &proposal;
        self.last_committed = *zxid;
        let successor = match change {
            Some(EnsembleChange::Members(new)) => {
                let successor = self.successor(cx, &new, acks.acked());
                cx.activate(&new);
                for out in &mut self.outstanding {
                    out.acks.follow(Arc::clone(&cx.quorums));
                }
                self.hand_over(cx, successor, *zxid);
                Some(successor)
            }
            Some(EnsembleChange::Leader(successor)) => {
                self.successor = Some((successor, *zxid, cx.now_ms + cx.limits.tick_ms));
                // Whoever comes now must not find the leader that is going.
                cx.out.push_back(Action::Listen(false));
                None
            }
            None => None,
        };
        for (link, peer) in &self.peers {
            if !matches!(peer.stage, Stage::Synchronizing | Stage::Level | Stage::Active) {
                continue;
            }
            let (zxid, txn) = (*zxid, payload.clone());
            let packet = match (successor, peer.observes) {
                (None, false) => PeerPacket::Commit { zxid },
                (None, true) => PeerPacket::Inform { zxid, txn },
                (Some(designated), false) => PeerPacket::CommitAndActivate { zxid, designated },
                (Some(designated), true) => PeerPacket::InformAndActivate { zxid, designated, txn },
            };
            cx.out.push_back(Action::Send(*link, packet));
        }
        cx.apply(proposal);
    }

    /// Who leads under a new configuration: this server, if it votes there under the address it has; otherwise one
    /// that has acknowledged as much as possible.
    ///
    /// Source: `Leader.getDesignatedLeader`, 3.9.
    pub(super) fn successor(&self, cx: &Common, new: &EnsembleConfig, acks: &BTreeSet<ServerId>) -> ServerId {
        let address = |config: &EnsembleConfig| {
            let addresses = config.member(cx.me)?.addresses().iter();
            Some(addresses.map(PeerAddress::quorum).collect::<BTreeSet<_>>())
        };
        if new.is_voter(cx.me) && address(new) == address(&cx.committed) {
            return cx.me;
        }
        let can_lead = |server: &ServerId| *server != cx.me && new.is_voter(*server);
        let mut candidates: BTreeSet<ServerId> = acks.iter().copied().filter(can_lead).collect();
        for out in &self.outstanding {
            let narrower: BTreeSet<ServerId> = candidates.intersection(out.acks.acked()).copied().collect();
            if narrower.is_empty() {
                break;
            }
            candidates = narrower;
        }
        candidates.last().copied().unwrap_or(cx.me)
    }

    /// Notes that another server leads from a transaction on, if it is another one.
    pub(super) fn hand_over(&mut self, cx: &Common, successor: ServerId, zxid: Zxid) {
        if successor != cx.me {
            self.successor = Some((successor, zxid, cx.now_ms + cx.limits.tick_ms));
        }
    }

    /// A sync: done when everything offered by now is final, and a quorum has said after now that it still follows.
    /// So nobody else led when it was asked for, and the answer shows every write that was answered before.
    pub(crate) fn sync(&mut self, cx: &mut Common, syncer: Syncer) {
        let round = is(Fault::SyncWithoutQuorum).then_some(0);
        self.syncs.push_back(WaitingSync { syncer, after: self.last_proposed, round });
        if self.sync_round.is_none() && round.is_none() {
            self.ping(cx, true);
        }
        self.release_syncs(cx);
    }

    /// Begins a round of pings; with `for_syncs` only to those who count.
    pub(super) fn ping(&mut self, cx: &mut Common, for_syncs: bool) {
        self.round += 1;
        for (link, peer) in &mut self.peers {
            if peer.stage == Stage::Active && !(for_syncs && peer.observes) {
                peer.rounds.push_back(self.round);
                let packet = PeerPacket::Ping { zxid: self.last_proposed, touched: None };
                cx.out.push_back(Action::Send(*link, packet));
            }
        }
        for sync in &mut self.syncs {
            if sync.round.is_none() {
                sync.round = Some(self.round);
                self.sync_round = Some(self.round);
            }
        }
    }

    /// A learner answers a ping.
    pub(super) fn answered(
        &mut self,
        cx: &mut Common,
        link: LinkId,
        touched: Vec<(SessionId, i32)>,
    ) -> Result<(), Leave> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        if let Some(round) = peer.rounds.pop_front() {
            peer.answered = round;
        }
        if !touched.is_empty() {
            cx.out.push_back(Action::Touched(link, touched));
        }
        self.release_syncs(cx);
        Ok(())
    }

    /// Answers the syncs that are done, and begins a round for those that wait for one.
    pub(super) fn release_syncs(&mut self, cx: &mut Common) {
        if let Some(round) = self.sync_round
            && self.has_quorum(cx, |peer| peer.answered >= round)
        {
            self.sync_round = None;
            for sync in self.syncs.iter_mut().filter(|sync| sync.round.is_some_and(|began| began <= round)) {
                sync.round = Some(0);
            }
            if self.syncs.iter().any(|sync| sync.round.is_none()) {
                self.ping(cx, true);
            }
        }
        while let Some(first) = self.syncs.front()
            && first.round == Some(0)
            && first.after <= self.last_committed
            && let Some(done) = self.syncs.pop_front()
        {
            match done.syncer {
                Syncer::Here(number) => cx.out.push_back(Action::SyncDone(number)),
                Syncer::Learner(link) => cx.send(link, PeerPacket::Sync),
            }
        }
    }
}

/// Whether a reconfiguration makes a voter of this server. One that observes must hear of it while it is only offered:
/// it is to be agreed by those who will vote, and perhaps not without this one. Java's observers pass over it.
pub(crate) fn calls_to_vote(change: Option<&EnsembleChange>, observer: ServerId) -> bool {
    matches!(change, Some(EnsembleChange::Members(new)) if new.is_voter(observer))
}

/// Whether enough have a transaction on their disks. Where the oracle decides, this leader must be one of them: it is
/// the one who is let go on alone.
fn is_agreed(cx: &Common, acks: &Tracker) -> bool {
    acks.is_complete(Oracle::Absent) || acks.has(cx.me) && acks.is_complete(cx.oracle())
}
