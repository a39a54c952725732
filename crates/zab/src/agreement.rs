//! One server's part in the agreement of an ensemble: it looks for a leader, then leads or learns, then looks again.
//!
//! Everything that happens is told by a method that takes the time; what is to be done about it gathers in order and
//! is fetched by [`Agreement::next_action`]. Roles are consumed when they end. Between two roles the log is drained and
//! the state fast-forwarded to its end, so that a vote never offers less than was acknowledged, nor more than is durable.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{DecodeError, EnsembleConfig, Epoch, PeerPacket, ServerId, Zxid};

use crate::common::{Action, Common, EnsembleChange, Leave, Limits};
use crate::durable::{LinkId, Proposal, Ticket};
use crate::election::{self, Candidate, Election, Timing};
use crate::history::History;
use crate::leader::{HandOverRefused, Leader, Syncer};
use crate::learner::Learner;
use crate::masters::{Masters, ObserverMasters};
use crate::quorum::{Oracle, Quorums};
use crate::vote::Vote;

/// What a server brings with it.
#[derive(Debug)]
pub struct Setup {
    /// Its number.
    pub me: ServerId,
    /// Whether it was told to observe, for configurations that do not have it.
    pub observes: bool,
    /// The configuration in force.
    pub committed: Arc<EnsembleConfig>,
    /// The one last seen, if that is another.
    pub seen: Option<Arc<EnsembleConfig>>,
    /// Whether configurations may change.
    pub reconfig: bool,
    /// Times.
    pub limits: Limits,
    /// Times of elections.
    pub timing: Timing,
    /// The highest epoch promised.
    pub accepted: Epoch,
    /// The epoch of the leader whose history is in the log.
    pub current: Epoch,
    /// The newest transaction in the log, or of the snapshot if that is newer.
    pub last: Zxid,
    /// The newest transactions of the log.
    pub recent: Vec<Proposal>,
    /// Whether its data were lost.
    pub emptied: bool,
    /// Whether learners always get a snapshot.
    pub force_snapshot: bool,
    /// Whether the log may be read for learners.
    pub may_read_log: bool,
    /// Whether followers serve observers.
    pub observer_masters: Option<ObserverMasters>,
    /// Another number at each start.
    pub seed: u64,
}

#[derive(Debug, Clone, Hash)]
enum Role {
    /// The last role is over; what was handed to the disk is waited for, and perhaps the state read again.
    Between {
        reload: bool,
        task: Option<u64>,
        handed_over: Option<(ServerId, Zxid)>,
    },
    Looking,
    Leading(Box<Leader>),
    Learning(Box<Learner>),
}

/// A server's part in the agreement.
#[derive(Debug, Clone, Hash)]
pub struct Agreement {
    cx: Common,
    election: Election,
    election_out: Vec<election::Output>,
    told: (Zxid, Zxid),
    role: Role,
}

impl Agreement {
    /// A server that looks for a leader from [`Agreement::start`] on.
    #[must_use]
    pub fn new(setup: Setup) -> Agreement {
        let seen = setup.seen.clone().filter(|seen| setup.reconfig && seen.version > setup.committed.version);
        let settings = election::Settings {
            me: setup.me,
            timing: setup.timing,
            reconfig: setup.reconfig,
            seed: setup.seed,
        };
        let election = Election::new(settings, Arc::clone(&setup.committed), seen.clone());
        let seen = seen.unwrap_or_else(|| Arc::clone(&setup.committed));
        let cx = Common {
            me: setup.me,
            told_to_observe: setup.observes,
            limits: setup.limits,
            accepted: setup.accepted.max(setup.current),
            current: setup.current,
            quorums: Arc::new(Quorums::new(&setup.committed, Some(&seen))),
            committed: setup.committed,
            seen,
            reconfig: setup.reconfig,
            history: History::up_to(setup.last, setup.recent),
            last_logged: setup.last,
            last_applied: setup.last,
            emptied: setup.emptied && !is(Fault::WipedVotes),
            force_snapshot: setup.force_snapshot,
            wants_snapshot: false,
            may_read_log: setup.may_read_log,
            masters: setup.observer_masters.map(|settings| Masters::new(settings, setup.seed)),
            oracle: Oracle::Absent,
            asks_oracle: true,
            appending: VecDeque::new(),
            promising: VecDeque::new(),
            taking: VecDeque::new(),
            ticket: Ticket(0),
            persisted: Ticket(0),
            tasks: 0,
            now_ms: 0,
            out: VecDeque::new(),
        };
        let told = (cx.committed.version, cx.seen.version);
        let role = Role::Between { reload: false, task: None, handed_over: None };
        Agreement { cx, election, election_out: Vec::new(), told, role }
    }

    /// Begins to look for a leader.
    pub fn start(&mut self, now_ms: i64) {
        self.enter(now_ms, |_, _| Ok(()));
        self.after_drain();
        self.settle();
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.cx.out.pop_front()
    }

    /// Another server votes, or sends what makes no sense.
    pub fn notification(&mut self, now_ms: i64, from: ServerId, message: Result<Notification, DecodeError>) {
        self.cx.now_ms = now_ms;
        self.elect(election::Input::Received { from, message });
        self.settle();
    }

    /// A link is open: ours to a leader if it has the number of a dial.
    pub fn link_opened(&mut self, now_ms: i64, link: LinkId, dial: Option<u64>) {
        self.enter(now_ms, |role, cx| {
            match (role, dial) {
                (Role::Leading(leader), None) => leader.link_opened(cx, link),
                (Role::Learning(learner), Some(dial)) => learner.link_opened(cx, link, dial),
                _ => cx.out.push_back(Action::Close(link)),
            }
            Ok(())
        });
    }

    /// A link is open that an observer has asked for.
    pub fn observer_link_opened(&mut self, now_ms: i64, link: LinkId) {
        self.enter(now_ms, |role, cx| {
            match role {
                Role::Learning(learner) => learner.observer_came(cx, link),
                _ => cx.out.push_back(Action::Close(link)),
            }
            Ok(())
        });
    }

    /// A dial came to nothing.
    pub fn dial_failed(&mut self, now_ms: i64, dial: u64) {
        self.enter(now_ms, |role, cx| match role {
            Role::Learning(learner) => learner.dial_failed(cx, dial),
            _ => Ok(()),
        });
    }

    /// A link is gone.
    pub fn link_closed(&mut self, now_ms: i64, link: LinkId) {
        self.enter(now_ms, |role, cx| match role {
            Role::Leading(leader) => {
                leader.link_closed(cx, link);
                leader.leave_when_handed_over(cx)
            }
            Role::Learning(learner) => learner.link_closed(cx, link),
            _ => Ok(()),
        });
    }

    /// A packet came. `change` is what the transaction in it changes of the ensemble, if anything.
    pub fn packet(&mut self, now_ms: i64, link: LinkId, packet: PeerPacket, change: Option<EnsembleChange>) {
        self.enter(now_ms, |role, cx| match role {
            Role::Leading(leader) => leader.packet(cx, link, packet),
            Role::Learning(learner) => learner.packet(cx, link, packet, change),
            _ => Ok(()),
        });
    }

    /// Everything up to this ticket is durable.
    pub fn persisted(&mut self, now_ms: i64, ticket: Ticket) {
        self.cx.persisted(ticket);
        self.enter(now_ms, |role, cx| match role {
            Role::Leading(leader) => leader.persisted(cx),
            Role::Learning(learner) => learner.persisted(cx),
            _ => Ok(()),
        });
        self.after_drain();
        self.settle();
    }

    /// The log was read for a learner.
    pub fn log_read(&mut self, now_ms: i64, task: u64, records: Option<&[Proposal]>) {
        self.enter(now_ms, |role, cx| {
            match role {
                Role::Leading(leader) => leader.log_read(cx, task, records),
                Role::Learning(learner) => learner.log_read(cx, task, records),
                _ => {}
            }
            Ok(())
        });
    }

    /// Whether the state that a reload has read is the one that is waited for.
    #[must_use]
    pub fn awaits_reload(&self, task: u64) -> bool {
        match &self.role {
            Role::Between { task: awaited, .. } => *awaited == Some(task),
            Role::Learning(learner) => learner.awaits_reload(task),
            _ => false,
        }
    }

    /// The state was read from the disk again: its last transaction and the newest of its log.
    pub fn reloaded(&mut self, now_ms: i64, task: u64, last: Zxid, recent: Vec<Proposal>) {
        if let Role::Between { reload, task: awaited, .. } = &mut self.role
            && *awaited == Some(task)
        {
            (*reload, *awaited) = (false, None);
            self.cx.history = History::up_to(last, recent);
            (self.cx.last_logged, self.cx.last_applied) = (last, last);
            self.cx.now_ms = now_ms;
            self.after_drain();
            return self.settle();
        }
        self.enter(now_ms, |role, cx| match role {
            Role::Learning(learner) => learner.reloaded(cx, task, last, recent),
            _ => Ok(()),
        });
    }

    /// A snapshot of everything up to `zxid` begins for a learner, and was announced to it.
    pub fn snapshot_begins(&mut self, link: LinkId, zxid: Zxid) {
        match &mut self.role {
            Role::Leading(leader) => leader.snapshot_begins(&mut self.cx, link, zxid),
            Role::Learning(learner) => learner.snapshot_begins(&mut self.cx, link, zxid),
            _ => {}
        }
    }

    /// The last byte of a learner's snapshot is on its way.
    pub fn snapshot_sent(&mut self, link: LinkId) {
        match &mut self.role {
            Role::Leading(leader) => leader.snapshot_sent(&self.cx, link),
            Role::Learning(learner) => learner.snapshot_sent(&self.cx, link),
            _ => {}
        }
    }

    /// The end of the snapshot of which a part has come on this link, if one is wanted from there.
    pub fn takes_snapshot(&mut self, now_ms: i64, link: LinkId) -> Option<Zxid> {
        self.cx.now_ms = now_ms;
        match &mut self.role {
            Role::Learning(learner) => learner.loads_from(&self.cx, link),
            _ => None,
        }
    }

    /// A snapshot is complete, and is the state now.
    pub fn snapshot_loaded(&mut self, now_ms: i64) {
        self.enter(now_ms, |role, cx| {
            if let Role::Learning(learner) = role {
                learner.loaded(cx);
            }
            Ok(())
        });
    }

    /// A snapshot that comes, or one that was to be written to the disk for good, came to nothing.
    pub fn snapshot_broken(&mut self, now_ms: i64, reason: &str) {
        self.enter(now_ms, |role, _| match role {
            Role::Learning(learner) if learner.has_snapshot_under_way() => Err(Leave::because(reason)),
            _ => Ok(()),
        });
    }

    /// A [`Durable::Truncate`](crate::Durable::Truncate) to this transaction would have left nothing to begin from, so
    /// nothing was removed.
    pub fn cannot_truncate(&mut self, now_ms: i64, zxid: Zxid) {
        self.enter(now_ms, |role, cx| match role {
            Role::Learning(learner) => learner.cannot_truncate(cx, zxid),
            _ => Ok(()),
        });
    }

    /// Leaves the present role.
    pub fn resign(&mut self, now_ms: i64, reason: &str) {
        self.enter(now_ms, |role, _| match role {
            Role::Leading(_) | Role::Learning(_) => Err(Leave::because(reason)),
            _ => Ok(()),
        });
    }

    /// The state went wrong: leaves the leader, goes back to what is on the disk, and takes the whole state of the
    /// next leader.
    pub fn take_whole_state(&mut self, now_ms: i64, reason: &str) {
        self.cx.wants_snapshot = true;
        self.resign(now_ms, reason);
    }

    /// Where two vote and an oracle is configured, whether it lets this server go on without the other one. It denies
    /// that until it has spoken.
    pub fn oracle(&mut self, now_ms: i64, says: bool) {
        self.cx.oracle = Oracle::Says(says || is(Fault::OracleOfBoth));
        self.enter(now_ms, |role, cx| match role {
            Role::Leading(leader) => leader.oracle_spoke(cx),
            _ => Ok(()),
        });
        self.elect(election::Input::Oracle(self.cx.oracle));
        self.settle();
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ms: i64) {
        self.enter(now_ms, |role, cx| match role {
            Role::Leading(leader) => leader.tick(cx),
            Role::Learning(learner) => learner.tick(cx),
            _ => Ok(()),
        });
        self.elect(election::Input::Tick);
        self.settle();
    }

    /// When the time must be told at the latest.
    #[must_use]
    pub fn deadline_ms(&self) -> i64 {
        let role = match &self.role {
            Role::Leading(leader) => leader.deadline_ms(),
            Role::Learning(learner) => learner.deadline_ms(&self.cx),
            Role::Looking | Role::Between { .. } => i64::MAX,
        };
        let election = self.election.deadline();
        role.min(election.map_or(i64::MAX, |at| i64::try_from(at.as_millis()).unwrap_or(i64::MAX)))
    }

    /// To whom this server, as the leader, could hand over now: to this voter, or to whichever is best.
    ///
    /// # Errors
    /// Why to nobody.
    pub fn successor(&self, wanted: Option<ServerId>) -> Result<ServerId, HandOverRefused> {
        match &self.role {
            Role::Leading(leader) => leader.successor_now(&self.cx, wanted),
            _ => Err(HandOverRefused::NotLeading),
        }
    }

    /// Whether this leader is to hand over to itself, because the counter of its epoch will soon be used up, and may.
    #[must_use]
    pub fn rolls_over(&self) -> bool {
        matches!(&self.role, Role::Leading(leader) if leader.is_epoch_ending() && leader.may_hand_over(&self.cx).is_ok())
    }

    /// The zxid of the transaction that hands over.
    #[must_use]
    pub fn last_zxid(&self) -> Option<Zxid> {
        match &self.role {
            Role::Leading(leader) if leader.is_active() => leader.last_zxid(),
            _ => None,
        }
    }

    /// Whether this server was handed the leadership that it holds.
    #[must_use]
    pub fn leads_by_hand_over(&self) -> bool {
        matches!(&self.role, Role::Leading(leader) if leader.was_handed_over())
    }

    /// The zxid of the next proposal; `None` unless this server leads, serves and hands over to nobody, or if the counter
    /// is used up.
    #[must_use]
    pub fn next_zxid(&self) -> Option<Zxid> {
        match &self.role {
            Role::Leading(leader) if leader.is_active() => leader.next_zxid(),
            _ => None,
        }
    }

    /// Offers a transaction, as the leader.
    ///
    /// # Panics
    /// If its zxid is not [`Agreement::next_zxid`], or, if it hands over, [`Agreement::last_zxid`].
    pub fn propose(&mut self, proposal: Proposal, change: Option<EnsembleChange>) {
        match &mut self.role {
            Role::Leading(leader) => leader.propose(&mut self.cx, proposal, change),
            _ => panic!("{} proposed by a server that does not lead", proposal.zxid),
        }
        self.settle();
    }

    /// Asks, as the leader, to be told by [`Action::SyncDone`] when everything that is offered now is final and this
    /// server has proved that it still led.
    pub fn sync_here(&mut self, number: u64) {
        if let Role::Leading(leader) = &mut self.role {
            leader.sync(&mut self.cx, Syncer::Here(number));
        }
    }

    /// The same for a learner, which is sent `Sync`.
    pub fn sync_learner(&mut self, link: LinkId) {
        if let Role::Leading(leader) = &mut self.role {
            leader.sync(&mut self.cx, Syncer::Learner(link));
        }
    }

    /// Sends a packet to the leader, if this server follows one and serves.
    pub fn send_to_leader(&mut self, packet: PeerPacket) -> bool {
        let Role::Learning(learner) = &self.role else { return false };
        let Some(link) = learner.serving_link() else { return false };
        self.cx.send(link, packet);
        true
    }

    /// Sends a packet to a learner, or to an observer that this follower serves, if it is still there.
    pub fn send_to_learner(&mut self, link: LinkId, packet: PeerPacket) {
        let is_there = match &self.role {
            Role::Leading(leader) => leader.has_link(link),
            Role::Learning(learner) => learner.serves(link),
            _ => false,
        };
        if is_there {
            self.cx.send(link, packet);
        }
    }

    /// Whether this server learns by way of a follower, which its leader knows alone.
    #[must_use]
    pub fn learns_from_master(&self) -> bool {
        matches!(&self.role, Role::Learning(learner) if learner.is_by_master())
    }

    /// This server.
    #[must_use]
    pub fn me(&self) -> ServerId {
        self.cx.me
    }

    /// What this server is doing.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match &self.role {
            Role::Leading(_) => ServerState::Leading,
            Role::Learning(learner) if learner.observes() => ServerState::Observing,
            Role::Learning(_) => ServerState::Following,
            Role::Looking | Role::Between { .. } => ServerState::Looking,
        }
    }

    /// Whether this server serves clients.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        match &self.role {
            Role::Leading(leader) => leader.is_active(),
            Role::Learning(learner) => learner.is_serving(),
            _ => false,
        }
    }

    /// Whom it follows; itself if it leads.
    #[must_use]
    pub fn leader(&self) -> Option<ServerId> {
        match &self.role {
            Role::Leading(_) => Some(self.cx.me),
            Role::Learning(learner) => Some(learner.leader()),
            _ => None,
        }
    }

    /// Of a leader: voting learners that are level, and all that are. Of a follower: none, and the observers that it serves.
    #[must_use]
    pub fn learners(&self) -> (usize, usize) {
        match &self.role {
            Role::Leading(leader) => leader.learners(&self.cx),
            Role::Learning(learner) => (0, learner.served()),
            _ => (0, 0),
        }
    }

    /// Of a leader: whether the voters of a configuration that are connected and in step are a quorum of it.
    #[must_use]
    pub fn has_quorum_of(&self, config: &EnsembleConfig) -> bool {
        match &self.role {
            Role::Leading(leader) => leader.has_quorum_of(&self.cx, config),
            _ => false,
        }
    }

    /// Number of transactions offered that are not final.
    #[must_use]
    pub fn outstanding_len(&self) -> usize {
        match &self.role {
            Role::Leading(leader) => leader.outstanding_len(),
            _ => 0,
        }
    }

    /// The configuration in force.
    #[must_use]
    pub fn committed(&self) -> &Arc<EnsembleConfig> {
        &self.cx.committed
    }

    /// The configuration last seen.
    #[must_use]
    pub fn seen(&self) -> &Arc<EnsembleConfig> {
        &self.cx.seen
    }

    /// The highest epoch promised, and the epoch whose history is in the log.
    #[must_use]
    pub fn epochs(&self) -> (Epoch, Epoch) {
        (self.cx.accepted, self.cx.current)
    }

    /// Whether the state is one that this server stands by: not while the log is cut behind its back, or a snapshot comes
    /// in its place. Else no snapshot of it must reach the disk.
    #[must_use]
    pub fn is_state_whole(&self) -> bool {
        match &self.role {
            Role::Between { reload, task, .. } => !reload && task.is_none(),
            Role::Learning(learner) => learner.is_state_whole(),
            Role::Looking | Role::Leading(_) => true,
        }
    }

    /// Whether a snapshot that a leader has sent is being written to the disk for good.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        matches!(&self.role, Role::Learning(learner) if learner.is_installing())
    }

    /// Whether a transaction up to this one is on its way to the log and not there yet. A snapshot must not become
    /// whole before: after a crash it would hide a hole in the log.
    #[must_use]
    pub fn is_appending(&self, upto: Zxid) -> bool {
        self.cx.appending.front().is_some_and(|(_, first)| *first <= upto)
    }

    /// The newest transaction handed to the log.
    #[must_use]
    pub fn last_logged(&self) -> Zxid {
        self.cx.last_logged
    }

    /// Does something in the present role, and ends the role if that says so.
    fn enter(&mut self, now_ms: i64, act: impl FnOnce(&mut Role, &mut Common) -> Result<(), Leave>) {
        self.cx.now_ms = now_ms;
        if let Err(leave) = act(&mut self.role, &mut self.cx) {
            self.end_role(leave);
        }
        self.settle();
    }

    /// Ends the role. What is in the log is the state from now on, agreed or not: it is what this server votes with.
    fn end_role(&mut self, leave: Leave) {
        tracing::info!("{:?} is over: {}", self.state(), leave.reason);
        let over = Role::Between { reload: false, task: None, handed_over: leave.handed_over };
        let (tail, reload) = match std::mem::replace(&mut self.role, over) {
            Role::Leading(leader) => (leader.end(&mut self.cx), false),
            Role::Learning(learner) => learner.end(&mut self.cx),
            Role::Looking | Role::Between { .. } => (Vec::new(), false),
        };
        self.cx.out.push_back(Action::Ended { is_settled: leave.is_settled });
        if is(Fault::UncommittedKept) {
            self.cx.last_logged = self.cx.last_applied;
        } else {
            tail.into_iter().for_each(|proposal| self.cx.apply(proposal));
        }
        if let Role::Between { reload: needed, .. } = &mut self.role {
            *needed = reload || self.cx.wants_snapshot;
        }
        self.after_drain();
    }

    /// Between two roles: goes on once the disk has everything, and the state is that of the disk.
    fn after_drain(&mut self) {
        let Role::Between { reload, task, handed_over } = &mut self.role else { return };
        if !self.cx.is_drained() || task.is_some() {
            return;
        }
        if *reload {
            let number = self.cx.next_task();
            *task = Some(number);
            return self.cx.out.push_back(Action::Reload { task: number });
        }
        let handed_over = *handed_over;
        self.role = Role::Looking;
        self.cx.out.push_back(Action::Looking);
        let candidate =
            Candidate { zxid: self.cx.last_logged, epoch: self.cx.current, emptied: self.cx.emptied };
        match handed_over {
            Some((leader, zxid)) if self.cx.committed.is_voter(leader) => {
                let state = self.state_under(leader);
                self.elect(election::Input::HandedOver { state, vote: Vote::handed_over(leader, zxid) });
                self.take_role(leader, true);
            }
            _ => self.elect(election::Input::Look(candidate)),
        }
    }

    fn state_under(&self, leader: ServerId) -> ServerState {
        if leader == self.cx.me {
            ServerState::Leading
        } else if self.cx.observes() {
            ServerState::Observing
        } else {
            ServerState::Following
        }
    }

    fn take_role(&mut self, leader: ServerId, by_hand_over: bool) {
        self.role = if leader == self.cx.me {
            Role::Leading(Box::new(Leader::new(&mut self.cx, by_hand_over)))
        } else {
            Role::Learning(Box::new(Learner::new(&mut self.cx, leader, by_hand_over)))
        };
    }

    fn elect(&mut self, input: election::Input) {
        let now = Duration::from_millis(u64::try_from(self.cx.now_ms).unwrap_or(0));
        self.election.step(now, input, &mut self.election_out);
    }

    /// A voter who helped to elect this leader looks for one again.
    fn hear_of_disloyalty(&mut self, voter: ServerId) {
        if let Role::Leading(leader) = &self.role
            && leader.waits_in_vain(&self.cx)
        {
            self.end_role(Leave::because(format!("server {voter} voted for this one and does not come")));
        }
    }

    /// Lets election and configurations follow what has happened.
    fn settle(&mut self) {
        loop {
            let versions = (self.cx.committed.version, self.cx.seen.version);
            if versions != self.told {
                self.told = versions;
                let (committed, seen) = (Arc::clone(&self.cx.committed), Some(Arc::clone(&self.cx.seen)));
                self.elect(election::Input::Configured { committed, seen });
            }
            if self.is_serving()
                && self.election.vote().is_some_and(|vote| vote.peer_epoch != self.cx.current)
            {
                self.elect(election::Input::Serving(self.cx.current));
            }
            let outputs = std::mem::take(&mut self.election_out);
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                match output {
                    election::Output::Send { to, notification } => {
                        self.cx.out.push_back(Action::Notify(to, notification));
                    }
                    election::Output::Adopt(config) => self.cx.activate(&config),
                    election::Output::Decided(decision) if matches!(self.role, Role::Looking) => {
                        // Whoever helped to elect was counted: every voter was as empty.
                        let counted: &BTreeSet<ServerId> = &decision.supporters;
                        self.cx.emptied &= !(decision.is_new && counted.contains(&self.cx.me));
                        self.take_role(decision.vote.leader, false);
                    }
                    election::Output::Disloyal(voter) => self.hear_of_disloyalty(voter),
                    election::Output::Decided(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use oxkeeper_proto::ensemble::Member;

    /// A leader of itself alone.
    fn leader() -> Agreement {
        let members = [(ServerId(1), Member::participant("h", 1, 2))].into();
        let mut agreement = Agreement::new(Setup {
            me: ServerId(1),
            observes: false,
            committed: Arc::new(EnsembleConfig::majority(members, Zxid::ZERO)),
            seen: None,
            reconfig: false,
            limits: Limits {
                tick_ms: 1000,
                init: 10,
                sync: 5,
                pending_bytes: 1 << 20,
                counter_max: u32::MAX,
            },
            timing: Timing::DEFAULT,
            accepted: Epoch(0),
            current: Epoch(0),
            last: Zxid::ZERO,
            recent: Vec::new(),
            emptied: false,
            force_snapshot: false,
            may_read_log: true,
            observer_masters: None,
            seed: 1,
        });
        agreement.start(0);
        agreement.tick(200);
        drain(&mut agreement);
        agreement
    }

    fn drain(agreement: &mut Agreement) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(action) = agreement.next_action() {
            if let Action::Durable(ticket, _) = &action {
                agreement.persisted(200, *ticket);
            }
            all.push(action);
        }
        all
    }

    fn offer(agreement: &mut Agreement) -> Option<Zxid> {
        let zxid = agreement.next_zxid()?;
        agreement.propose(Proposal { zxid, payload: Bytes::new() }, None);
        Some(zxid)
    }

    #[test]
    fn one_server_is_a_quorum_of_itself() {
        let mut agreement = leader();
        assert!(agreement.is_serving());
        let zxid = offer(&mut agreement).unwrap();
        assert_eq!(zxid, Zxid::new(1, 1));
        assert!(drain(&mut agreement).iter().any(|action| matches!(action, Action::Apply(_))));
        agreement.sync_here(1);
        assert_eq!(drain(&mut agreement), [Action::SyncDone(1)]);
    }

    #[test]
    fn links_have_a_bound() {
        let mut agreement = leader();
        let most = crate::leader::PEERS_MAX as u64;
        for link in 0..most + 1 {
            agreement.link_opened(200, LinkId(link), None);
        }
        assert_eq!(drain(&mut agreement), [Action::Close(LinkId(most))]);
    }

    /// ZOOKEEPER-1277: the counter ran over into the epoch, and zxids were used twice. Its last value is never
    /// given out; the leader leaves, and the next epoch begins with 1.
    #[test]
    fn the_counter_never_runs_over() {
        let mut agreement = leader();
        let Role::Leading(leader) = &mut agreement.role else { panic!("it leads") };
        leader.skip_to(Zxid::new(1, u32::MAX - 20));
        assert!(offer(&mut agreement).is_some() && !agreement.rolls_over());
        for last in (2..19).rev() {
            assert_eq!(offer(&mut agreement), Some(Zxid::new(1, u32::MAX - last)));
            assert!(agreement.rolls_over(), "in time");
        }
        assert_eq!((offer(&mut agreement), agreement.last_zxid()), (None, Some(Zxid::new(1, u32::MAX - 1))));
        drain(&mut agreement);
        agreement.resign(200, "used up");
        drain(&mut agreement);
        agreement.tick(400);
        drain(&mut agreement);
        assert_eq!(offer(&mut agreement), Some(Zxid::new(2, 1)));
    }

    #[cfg(feature = "planted")]
    #[test]
    fn a_counter_that_runs_over_is_found() {
        let run = || std::panic::catch_unwind(the_counter_never_runs_over);
        assert!(oxkeeper_planted::with(Fault::CounterOverflows, run).is_err());
    }
}
