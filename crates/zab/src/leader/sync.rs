//! Bringing a learner level: what it lacks, then what is on its way, then NEWLEADER. From the moment at which what it
//! lacks is decided it gets everything that is new, so nothing falls in between.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{PeerPacket, Zxid};

use super::{Leader, Outstanding, Phase, Stage, calls_to_vote};
use crate::common::{Common, Leave};
use crate::durable::{LinkId, Proposal};
use crate::history::{SyncFacts, SyncPlan};
use crate::level::{self, Beginning, describe, send_agreed};

impl Leader {
    /// Decides what a learner lacks.
    pub(super) fn plan(&mut self, cx: &mut Common, link: LinkId) {
        let Some(facts) = self.facts(cx, link) else { return };
        let plan = cx.history.plan_sync(&facts);
        self.carry_out(cx, link, plan);
    }

    fn facts(&self, cx: &Common, link: LinkId) -> Option<SyncFacts> {
        let peer = self.peers.get(&link)?;
        // What is in the log but not agreed counts for nothing here: it is offered again.
        let logged = self.outstanding.front().map_or(cx.last_logged, |_| cx.last_applied);
        Some(SyncFacts {
            // One whose directory was emptied has nothing.
            peer: peer.last.max(Zxid::ZERO),
            last: cx.last_applied,
            logged,
            force_snapshot: cx.force_snapshot,
            may_read_log: cx.may_read_log,
        })
    }

    /// The log was read for a learner.
    pub(crate) fn log_read(&mut self, cx: &mut Common, task: u64, records: Option<&[Proposal]>) {
        let waits = self.in_stage(Stage::LogRead(task));
        for link in waits {
            if let Some(facts) = self.facts(cx, link) {
                let plan = cx.history.plan_with_log(&facts, records);
                self.carry_out(cx, link, plan);
            }
        }
    }

    fn carry_out(&mut self, cx: &mut Common, link: LinkId, plan: SyncPlan) {
        let Some(peer) = self.peers.get_mut(&link) else { return };
        tracing::info!("Server {} is at {}: {}", peer.server, peer.last, describe(&plan));
        match level::begin(cx, link, plan) {
            Beginning::Sent(upto) => self.forward_from(cx, link, upto),
            Beginning::AwaitsSnapshot => peer.stage = Stage::AwaitsSnapshot,
            Beginning::LogRead(task) => peer.stage = Stage::LogRead(task),
        }
    }

    /// A snapshot of everything up to `zxid` begins for a learner, and was announced to it: what is newer goes out
    /// behind it.
    pub(crate) fn snapshot_begins(&mut self, cx: &mut Common, link: LinkId, zxid: Zxid) {
        if self.peers.get(&link).is_some_and(|peer| peer.stage == Stage::AwaitsSnapshot) {
            self.forward_from(cx, link, zxid);
        }
    }

    /// The last byte of a snapshot is on its way: only now can a learner be blamed for its silence.
    pub(crate) fn snapshot_sent(&mut self, cx: &Common, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.heard_ms = cx.now_ms;
            peer.in_step_until_ms = cx.now_ms + cx.limits.init_ms() + cx.limits.sync_ms();
        }
    }

    /// Sends what is agreed after `upto`, offers what is not, and announces the end of the history. From here on the
    /// learner gets what is new.
    fn forward_from(&mut self, cx: &mut Common, link: LinkId, upto: Zxid) {
        let newer: Vec<Proposal> = cx.history.after(upto).cloned().collect();
        send_agreed(cx, link, newer);
        // A learner puts NEWLEADER's configuration in force. While a reconfiguration is on its way that must not be the
        // new one, and what is offered must come behind, or the learner would take its word back.
        let is_changing = self.phase == Phase::Active && cx.seen.version > cx.committed.version;
        let config = if is_changing { cx.committed.to_string() } else { cx.seen.to_string() };
        let new_leader = PeerPacket::NewLeader { epoch: self.epoch, config: Some(config.into()) };
        if is_changing {
            cx.send(link, new_leader.clone());
        }
        let Some(peer) = self.peers.get_mut(&link) else { return };
        let (server, observes) = (peer.server, peer.observes);
        let late = usize::from(is(Fault::LearnerAddedLate));
        for (place, out) in self.outstanding.iter_mut().enumerate() {
            // What it acknowledged before may be what it is told to forget now; it will acknowledge again.
            out.acks.retract(server);
            if !observes && place >= late {
                peer.unacknowledged.sent(out.proposal.zxid, cx.now_ms);
                cx.send(link, out.proposal.offer());
            }
        }
        peer.stage = Stage::Synchronizing;
        peer.heard_ms = cx.now_ms;
        self.weigh_oracle(cx);
        if !is_changing {
            cx.send(link, new_leader);
        }
    }

    /// A learner has our history on its disk.
    pub(super) fn history_acknowledged(&mut self, cx: &mut Common, link: LinkId) -> Result<(), Leave> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        peer.stage = Stage::Level;
        peer.in_step_until_ms = cx.now_ms + cx.limits.sync_ms();
        let (server, early) = (peer.server, peer.early_ack);
        if cx.is_voter(server) || is(Fault::ObserverCounted) {
            self.level.insert(server);
        }
        self.count_acks(cx, server, early)?;
        if self.phase == Phase::Active {
            self.let_serve(cx, link);
        } else {
            self.begin_to_serve(cx);
        }
        Ok(())
    }

    pub(super) fn let_serve(&mut self, cx: &mut Common, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.stage = Stage::Active;
            peer.heard_ms = cx.now_ms;
            peer.in_step_until_ms = cx.now_ms + cx.limits.sync_ms();
            cx.send(link, PeerPacket::UpToDate);
            let calls = |out: &&Outstanding| calls_to_vote(out.change.as_ref(), peer.server);
            if let Some(out) = self.outstanding.iter().find(calls).filter(|_| peer.observes) {
                cx.send(link, out.proposal.offer());
            }
        }
    }
}

/// The two proposals by which a learner's slowness is measured.
pub(super) trait Unacknowledged {
    fn sent(&mut self, zxid: Zxid, now_ms: i64);
    fn acknowledged(&mut self, zxid: Zxid);
}

impl Unacknowledged for [Option<(Zxid, i64)>; 2] {
    fn sent(&mut self, zxid: Zxid, now_ms: i64) {
        let place = usize::from(self[0].is_some());
        self[place].get_or_insert((zxid, now_ms));
    }

    fn acknowledged(&mut self, zxid: Zxid) {
        while self[0].is_some_and(|(first, _)| first <= zxid) {
            self[0] = self[1].take();
        }
    }
}
