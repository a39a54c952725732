//! Agreeing on an epoch: it is above everything that a quorum has promised, and a quorum promises it.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::{LearnerInfo, PROTOCOL_VERSION};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, Zxid};

use super::{Leader, Phase, Stage};
use crate::common::{Action, Common, Leave};
use crate::durable::{Durable, LinkId};
use crate::quorum::Oracle;

impl Leader {
    /// A learner introduces itself.
    pub(super) fn register(
        &mut self,
        cx: &mut Common,
        link: LinkId,
        accepted: Epoch,
        learner: LearnerInfo,
        observes: bool,
    ) -> Result<(), Leave> {
        let Some(server) = learner.id.filter(|_| learner.protocol_version >= PROTOCOL_VERSION) else {
            self.drop_peer(cx, link, "it speaks an older protocol than we do");
            return Ok(());
        };
        let is_silent = self.peers.get(&link).is_some_and(|peer| peer.stage == Stage::Silent);
        if !is_silent || server == cx.me {
            self.drop_peer(cx, link, "it introduced itself twice, or as this server");
            return Ok(());
        }
        if learner.config_version.is_some_and(|version| version > cx.committed.version) {
            self.drop_peer(cx, link, "it knows a newer configuration than we do");
            return Ok(());
        }
        // What an older link of the same server still brings was said before this one, and must not count after it.
        let older = self.peers.iter().find(|(other, peer)| **other != link && peer.server == server);
        if let Some(older) = older.map(|(other, _)| *other) {
            self.drop_peer(cx, older, "it has connected anew");
        }
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        peer.server = server;
        peer.observes = observes;
        peer.stage = Stage::Registered;
        match self.phase {
            Phase::Registering => {
                self.highest_accepted = self.highest_accepted.max(accepted);
                self.registered.insert(server);
                self.choose_epoch(cx);
            }
            Phase::Promising(_) => {}
            _ if accepted > self.epoch && cx.is_voter(server) => {
                // It may not join this epoch, and would be kept out for as long as this epoch lasts.
                return Err(Leave::because(format!("server {server} has promised epoch {}", accepted.0)));
            }
            _ => self.inform(cx, link),
        }
        Ok(())
    }

    /// Chooses the epoch once a quorum, this server included, has registered.
    pub(super) fn choose_epoch(&mut self, cx: &mut Common) {
        if cx.are_quorum(&self.registered) {
            self.epoch = Epoch(self.highest_accepted.max(cx.accepted).0 + 1);
            if cx.oracle != Oracle::Absent && !is(Fault::EpochOfBoth) {
                self.epoch = epoch_of_its_own(cx, self.epoch);
            }
            self.phase = Phase::Promising(cx.durable(Durable::AcceptedEpoch(self.epoch)));
        }
    }

    /// The epoch is on this server's disk: learners hear of it.
    pub(super) fn offer_epoch(&mut self, cx: &mut Common) -> Result<(), Leave> {
        cx.accepted = self.epoch;
        self.phase = Phase::Electing;
        self.since_ms = cx.now_ms;
        self.promised.insert(cx.me);
        let waiting: Vec<LinkId> = self.in_stage(Stage::Registered);
        for link in waiting {
            self.inform(cx, link);
        }
        self.end_election(cx);
        Ok(())
    }

    fn inform(&mut self, cx: &mut Common, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.stage = Stage::Informed;
            let packet = PeerPacket::LeaderInfo { epoch: self.epoch, protocol_version: PROTOCOL_VERSION };
            cx.send(link, packet);
        }
    }

    pub(super) fn in_stage(&self, stage: Stage) -> Vec<LinkId> {
        self.peers.iter().filter(|(_, peer)| peer.stage == stage).map(|(link, _)| *link).collect()
    }

    /// A learner promises the epoch.
    pub(super) fn epoch_promised(
        &mut self,
        cx: &mut Common,
        link: LinkId,
        last: Zxid,
        current: Option<Epoch>,
    ) -> Result<(), Leave> {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        if peer.stage != Stage::Informed {
            self.drop_peer(cx, link, "it promised an epoch that it was not told");
            return Ok(());
        }
        peer.stage = Stage::Promised;
        peer.last = last;
        let server = peer.server;
        if self.phase == Phase::Electing {
            if current.is_some_and(|current| (current, last) > self.summary) {
                self.drop_peer(cx, link, "it has more than this leader");
                return Ok(());
            }
            // One whose directory was emptied says -1: what it had acknowledged is not known.
            if current.is_some() && last.0 != -1 {
                self.promised.insert(server);
                self.end_election(cx);
            }
        } else if matches!(self.phase, Phase::Synchronizing | Phase::Active) {
            self.plan(cx, link);
        }
        Ok(())
    }

    /// The election ends once a quorum has promised the epoch: nobody else can lead in it any more.
    pub(super) fn end_election(&mut self, cx: &mut Common) {
        if self.phase != Phase::Electing || !cx.are_quorum(&self.promised) {
            return;
        }
        if cx.reconfig && cx.committed.version == Zxid::ZERO && cx.seen.version == Zxid::ZERO {
            let first = EnsembleConfig::clone(&cx.committed).with_version(self.epoch.start());
            cx.see(first.into());
        }
        self.phase = Phase::TakingOver(cx.durable(Durable::CurrentEpoch(self.epoch)));
    }

    /// The epoch is this leader's current one on its disk: learners are brought level.
    pub(super) fn synchronize(&mut self, cx: &mut Common) -> Result<(), Leave> {
        cx.current = self.epoch;
        self.phase = Phase::Synchronizing;
        self.since_ms = cx.now_ms;
        self.level.insert(cx.me);
        self.last_proposed = self.epoch.start();
        self.last_committed = self.epoch.start();
        for link in self.in_stage(Stage::Promised) {
            self.plan(cx, link);
        }
        self.begin_to_serve(cx);
        Ok(())
    }

    /// Serves once a quorum has this leader's history on its disk.
    pub(super) fn begin_to_serve(&mut self, cx: &mut Common) {
        if self.phase != Phase::Synchronizing || !cx.are_quorum(&self.level) {
            return;
        }
        self.phase = Phase::Active;
        cx.emptied = false;
        cx.last_applied = self.epoch.start();
        if cx.seen.version > cx.committed.version {
            let seen = cx.seen.clone();
            let successor = self.successor(cx, &seen, &self.level.clone());
            cx.activate(&seen);
            self.hand_over(cx, successor, seen.version);
        }
        cx.out.push_back(Action::Lead(self.epoch));
        for link in self.in_stage(Stage::Level) {
            self.let_serve(cx, link);
        }
    }
}

/// The first epoch from this one on in which only this server leads, of the two that an oracle decides between. The other
/// one need not promise an epoch in which this one goes on alone, and may do the same later: in the same epoch, one
/// zxid would then name two transactions, and nobody would notice.
fn epoch_of_its_own(cx: &Common, epoch: Epoch) -> Epoch {
    let is_second = cx.committed.voters().position(|voter| voter == cx.me) == Some(1);
    Epoch(epoch.0 + i64::from(epoch.0 % 2 != i64::from(is_second)))
}
