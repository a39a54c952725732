//! Being brought level. What comes is kept until NEWLEADER ends it; then it goes to the log, then the epoch to its file,
//! and only then is it acknowledged. Until then nothing of it is in the state, so a broken link leaves no trace but a
//! log that was cut or a snapshot that was loaded; after those the state is read from the disk again.

use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, Zxid};

use super::master::Master;
use super::{Base, Learner, Pending, Stage};
use crate::common::{Action, Common, EnsembleChange, Leave};
use crate::durable::{Durable, Proposal};
use crate::history::History;

impl Learner {
    pub(super) fn begin_sync(&mut self, base: Base) -> Result<(), Leave> {
        if self.stage != Stage::AwaitsPlan {
            return Err(Leave::because("the leader began to bring this server level out of turn"));
        }
        self.stage = Stage::Synchronizing;
        self.base = base;
        Ok(())
    }

    /// The log is to be cut: what is after `zxid` was never agreed.
    pub(super) fn truncate(&mut self, cx: &mut Common, zxid: Zxid) -> Result<(), Leave> {
        self.begin_sync(Base::Ready)?;
        self.last_offered = zxid;
        self.base = Base::Truncating(cx.durable(Durable::Truncate(zxid)), zxid);
        Ok(())
    }

    /// The log cannot be cut: no snapshot is old enough to begin from then. Nothing was taken from the disk, so what this
    /// server has acknowledged is still there, and is what it votes with until the leader's whole state is there too.
    pub(crate) fn cannot_truncate(&mut self, cx: &mut Common, zxid: Zxid) -> Result<(), Leave> {
        if !matches!(self.base, Base::Truncating(_, wanted) if wanted == zxid) {
            return Ok(());
        }
        cx.wants_snapshot = true;
        self.ask_for_all(cx)
    }

    /// Comes to the same leader anew, to be sent the whole state. There is no election in between: the leader may wait for
    /// this very server to have a quorum, and by now its promise has counted.
    pub(super) fn ask_for_all(&mut self, cx: &mut Common) -> Result<(), Leave> {
        if self.asks_for_all {
            return Err(Leave::because("the leader does not send its whole state"));
        }
        tracing::info!("Asking server {} for its whole state", self.leader);
        if let Some(link) = self.link {
            cx.out.push_back(Action::Close(link));
        }
        *self = Learner::new(cx, self.leader, false);
        Ok(())
    }

    /// The state was read from the disk.
    pub(crate) fn reloaded(
        &mut self,
        cx: &mut Common,
        task: u64,
        last: Zxid,
        recent: Vec<Proposal>,
    ) -> Result<(), Leave> {
        let Base::Reloading(expected, zxid) = self.base else { return Ok(()) };
        if task != expected {
            return Ok(());
        }
        cx.history = History::up_to(last, recent);
        cx.last_logged = last;
        cx.last_applied = last;
        self.base = Base::Ready;
        // A start of an epoch is no transaction; the log ends before it.
        if last != zxid && (last > zxid || zxid.counter() != 0) {
            return Err(Leave::because(format!("the log was to end at {zxid} and ends at {last}")));
        }
        self.take_history(cx)
    }

    /// The whole state comes.
    pub(super) fn load(&mut self, cx: &mut Common, zxid: Zxid) -> Result<(), Leave> {
        self.begin_sync(Base::Loading(zxid))?;
        self.last_offered = zxid;
        self.snapshot = Some(zxid);
        cx.history.clear();
        cx.out.push_back(Action::LoadSnapshot(zxid));
        Ok(())
    }

    /// The whole state has come. What is on the disk stays until this is whole there as well: an older state is better
    /// than none, and cutting it before could leave nothing to begin from.
    pub(crate) fn loaded(&mut self, cx: &mut Common) {
        let Base::Loading(zxid) = self.base else { return };
        cx.out.push_back(Action::InstallSnapshot(zxid));
        self.base = Base::Installing(cx.durable(Durable::InstallSnapshot(zxid)));
        cx.last_logged = zxid;
        cx.last_applied = zxid;
        self.heard_ms = cx.now_ms;
    }

    /// NEWLEADER: the history ends here.
    pub(super) fn history_complete(
        &mut self,
        cx: &mut Common,
        epoch: Epoch,
        config: Option<&[u8]>,
    ) -> Result<(), Leave> {
        if self.stage != Stage::Synchronizing || epoch != self.epoch || self.new_leader.is_some() {
            return Err(Leave::because("NEWLEADER out of turn"));
        }
        let config = match config {
            // Old servers send nothing, or one byte.
            Some(text) if text.len() > 1 && cx.reconfig => {
                let parsed = std::str::from_utf8(text).ok().and_then(|text| EnsembleConfig::parse(text).ok());
                Some(parsed.ok_or_else(|| Leave::because("NEWLEADER with a configuration that is none"))?)
            }
            _ => None,
        };
        self.new_leader = Some(config.map(Arc::new));
        self.take_history(cx)
    }

    /// Takes the history, once it is complete and there is a state to lay it upon.
    pub(super) fn take_history(&mut self, cx: &mut Common) -> Result<(), Leave> {
        if self.stage != Stage::Synchronizing || self.base != Base::Ready {
            return Ok(());
        }
        let Some(config) = &self.new_leader else { return Ok(()) };
        let begins = self.pending.front().map(|pending| pending.proposal.zxid);
        if cx.last_applied.counter() == 0 && begins.is_some_and(|begins| begins < cx.last_applied) {
            // The state has counted an epoch that was lost. That takes an oracle that lets go on who lacks something.
            cx.wants_snapshot = true;
            return self.ask_for_all(cx);
        }
        if let Some(config) = config {
            cx.see_leaders(Arc::clone(config));
        }
        if is(Fault::EpochBeforeHistory) {
            cx.durable(Durable::CurrentEpoch(self.epoch));
        }
        for (place, pending) in self.pending.iter().enumerate() {
            // NEWLEADER may be older than a reconfiguration that was offered behind it, while there was no state yet.
            if let Some(EnsembleChange::Members(config)) = &pending.change {
                cx.see(Arc::clone(config));
            }
            let ticket = cx.log(pending.proposal.clone());
            if place >= self.agreed && !self.observes {
                self.acks.push_back((ticket, pending.proposal.zxid));
            }
        }
        let ticket = cx.ticket;
        self.stage = Stage::LogsHistory(ticket);
        let over_snapshot = self.snapshot.take().is_some();
        for _ in 0..std::mem::take(&mut self.agreed) {
            self.apply_first(cx, over_snapshot)?;
        }
        if cx.is_persisted(ticket) {
            self.history_logged(cx);
        } else if is(Fault::NewLeaderBeforeHistory) {
            cx.durable(Durable::CurrentEpoch(self.epoch));
            self.epoch_taken(cx);
        }
        Ok(())
    }

    /// The history is on the disk: now the epoch may follow.
    pub(super) fn history_logged(&mut self, cx: &mut Common) {
        if is(Fault::EpochBeforeHistory) {
            return self.epoch_taken(cx);
        }
        let ticket = cx.durable(Durable::CurrentEpoch(self.epoch));
        self.stage = Stage::TakesEpoch(ticket);
        if is(Fault::EpochAfterAck) {
            self.epoch_taken(cx);
        }
    }

    /// The epoch is on the disk too: now it may be said.
    pub(super) fn epoch_taken(&mut self, cx: &mut Common) {
        cx.current = self.epoch;
        cx.emptied = false;
        self.stage = Stage::AwaitsUpToDate;
        self.heard_ms = cx.now_ms;
        self.acknowledge_history(cx);
        self.acknowledge(cx);
    }

    pub(super) fn acknowledge_history(&self, cx: &mut Common) {
        if let Some(link) = self.link {
            cx.send(link, PeerPacket::Ack { zxid: self.epoch.start() });
        }
    }

    /// A quorum has the history: this server may serve.
    pub(super) fn up_to_date(&mut self, cx: &mut Common) -> Result<(), Leave> {
        if self.stage != Stage::AwaitsUpToDate {
            return Err(Leave::because("UPTODATE out of turn"));
        }
        self.stage = Stage::Serving;
        cx.last_applied = cx.last_applied.max(self.epoch.start());
        self.acknowledge_history(cx);
        cx.out.push_back(Action::Serve(self.epoch));
        self.take_configuration(cx)?;
        self.begin_to_serve_observers(cx);
        Ok(())
    }

    /// Puts the configuration in force that came with NEWLEADER.
    fn take_configuration(&mut self, cx: &mut Common) -> Result<(), Leave> {
        let Some(Some(config)) = self.new_leader.take() else { return Ok(()) };
        // Java's leaders send the newest configuration that they have seen, agreed or not.
        let on_its_way = |pending: &Pending| matches!(&pending.change, Some(EnsembleChange::Members(new)) if new.version == config.version);
        if self.pending.iter().any(on_its_way) {
            return Ok(());
        }
        let before = Arc::clone(&cx.committed);
        cx.activate(&config);
        if cx.observes() != self.observes {
            return Err(Leave::because("the configuration changes what this server is"));
        }
        let leader = |config: &EnsembleConfig| {
            config.member(self.leader).map(|leader| (leader.role, leader.addresses().to_vec()))
        };
        if before.version != cx.committed.version && leader(&before) != leader(&cx.committed) {
            return Err(Leave::because("the configuration changes the leader"));
        }
        Ok(())
    }

    /// A follower that is told to serves observers, whether it votes or not; an observer has found somebody who serves it.
    fn begin_to_serve_observers(&mut self, cx: &mut Common) {
        let Some(masters) = &mut cx.masters else { return };
        let bytes_max = masters.settings.bytes_max;
        if self.observes {
            return masters.found();
        }
        self.master = Some(Box::new(Master::new(cx, self.epoch, self.last_offered, bytes_max)));
    }
}
