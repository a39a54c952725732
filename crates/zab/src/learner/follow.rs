//! Following: what is offered goes to the log and is acknowledged from there; what is agreed is applied, in order.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{PeerPacket, ServerId, Zxid};

use super::master::Pendings;
use super::{Learner, Pending, Stage};
use crate::common::{Action, Common, EnsembleChange, Leave, PENDING_BYTES_EACH};
use crate::history::follows;

impl Learner {
    /// A transaction is offered, or told as agreed.
    pub(super) fn offered(
        &mut self,
        cx: &mut Common,
        pending: Pending,
        is_agreed: bool,
    ) -> Result<(), Leave> {
        let zxid = pending.proposal.zxid;
        if !self.is_past_plan() {
            return Err(Leave::because(format!("{zxid} came before the plan")));
        }
        if self.snapshot.is_some_and(|snapshot| zxid <= snapshot) {
            return Ok(());
        }
        if !follows(self.last_offered, zxid) {
            return Err(Leave::because(format!("{zxid} came after {}", self.last_offered)));
        }
        self.last_offered = zxid;
        self.pending_bytes += pending.proposal.payload.len() + PENDING_BYTES_EACH;
        if self.pending_bytes > cx.limits.pending_bytes {
            return Err(Leave::because("the leader sends more than this server can keep"));
        }
        if let Some(EnsembleChange::Members(config)) = &pending.change {
            cx.see(config.clone());
        }
        if self.stage == Stage::Synchronizing {
            self.pending.push_back(pending);
            return if is_agreed { self.agreed(cx, zxid, None) } else { Ok(()) };
        }
        let ticket = cx.log(pending.proposal.clone());
        if let Some(master) = &self.master {
            master.offered(cx, &pending);
        }
        self.pending.push_back(pending);
        if is_agreed {
            return self.agreed(cx, zxid, None);
        }
        match self.link {
            Some(link) if is(Fault::AckBeforeSync) => cx.send(link, PeerPacket::Ack { zxid }),
            _ if self.observes => {}
            _ => self.acks.push_back((ticket, zxid)),
        }
        Ok(())
    }

    /// An observer is offered something. It takes only what is agreed; but if this makes it a voter it comes to its leader
    /// anew, as one that acknowledges.
    pub(super) fn called_to_vote(
        &self,
        cx: &mut Common,
        zxid: Zxid,
        change: Option<EnsembleChange>,
    ) -> Result<(), Leave> {
        let reason = match change {
            Some(EnsembleChange::Members(config)) if cx.reconfig && config.is_voter(cx.me) => {
                cx.see(config);
                format!("the reconfiguration {zxid}, if agreed, makes this server a voter")
            }
            Some(EnsembleChange::Members(_)) => {
                tracing::warn!("Ignoring the reconfiguration {zxid}: this server goes on observing");
                return Ok(());
            }
            _ => format!("{zxid} was offered to this server, which observes"),
        };
        Err(Leave::because(reason))
    }

    fn is_past_plan(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Dialling { .. } | Stage::AwaitsEpoch | Stage::Promising { .. } | Stage::AwaitsPlan
        )
    }

    /// A transaction is agreed: it must be the first that is not.
    pub(super) fn agreed(
        &mut self,
        cx: &mut Common,
        zxid: Zxid,
        designated: Option<ServerId>,
    ) -> Result<(), Leave> {
        if self.snapshot.is_some_and(|snapshot| zxid <= snapshot) {
            return Ok(());
        }
        let place = if self.stage == Stage::Synchronizing { self.agreed } else { 0 };
        match self.pending.get_mut(place) {
            Some(first) if first.proposal.zxid == zxid => {
                first.designated = first.designated.or(designated);
            }
            first => {
                let first = first.map(|first| first.proposal.zxid);
                return Err(Leave::because(format!("{zxid} is agreed, but {first:?} is next")));
            }
        }
        if self.stage == Stage::Synchronizing {
            self.agreed += 1;
            return Ok(());
        }
        if is(Fault::CommitInSyncDropped) && self.stage == Stage::AwaitsUpToDate {
            self.pending.pop_front();
            return Ok(());
        }
        self.apply_first(cx, false)
    }

    /// Applies the oldest transaction that is not applied, and puts in force what it changes of the ensemble.
    pub(super) fn apply_first(&mut self, cx: &mut Common, over_snapshot: bool) -> Result<(), Leave> {
        let Some(Pending { proposal, change, designated }) = self.pending.pop_front() else { return Ok(()) };
        self.pending_bytes -= proposal.payload.len() + PENDING_BYTES_EACH;
        let zxid = proposal.zxid;
        let told = self.master.is_some().then(|| proposal.clone());
        if let Some(EnsembleChange::Members(config)) = &change
            && designated.is_some()
        {
            cx.activate(config);
        }
        if over_snapshot {
            cx.last_applied = zxid;
            cx.history.push(proposal.clone());
            cx.out.push_back(Action::ApplyOverSnapshot(proposal));
        } else if is(Fault::HistoryHole) && self.stage != Stage::Serving {
            cx.last_applied = zxid;
            cx.out.push_back(Action::Apply(proposal));
        } else {
            cx.apply(proposal);
        }
        // Also if this server leaves now: what is agreed is agreed, and says where to go.
        let agreed = Pendings(&self.pending).last_agreed(cx);
        if let (Some(master), Some(proposal)) = (&mut self.master, told) {
            let activates = designated.filter(|_| matches!(change, Some(EnsembleChange::Members(_))));
            master.applied(cx, proposal, activates, agreed);
        }
        // Only this leader's own word counts: an earlier one's is history.
        if let Some(EnsembleChange::Leader(successor)) = change
            && zxid.epoch() == self.epoch
        {
            let reason = format!("server {successor} leads after {zxid}, says the leader");
            let is_settled = self.pending.is_empty();
            return Err(Leave { reason, handed_over: Some((successor, zxid)), is_settled });
        }
        let Some(designated) = designated.filter(|_| cx.reconfig) else { return Ok(()) };
        if designated != self.leader || cx.observes() != self.observes {
            let reason = format!("after the reconfiguration {zxid} server {designated} leads");
            return Err(Leave { reason, handed_over: Some((designated, zxid)), is_settled: false });
        }
        Ok(())
    }

    /// Acknowledges what is on the disk, after the history is acknowledged and never before.
    pub(super) fn acknowledge(&mut self, cx: &mut Common) {
        if !matches!(self.stage, Stage::AwaitsUpToDate | Stage::Serving) {
            return;
        }
        while let Some((ticket, zxid)) = self.acks.front().copied()
            && cx.is_persisted(ticket)
        {
            self.acks.pop_front();
            if let Some(link) = self.link {
                cx.send(link, PeerPacket::Ack { zxid });
            }
        }
    }
}
