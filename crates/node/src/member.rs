//! A node among others: what agreement wants done is done here, in order, and roles begin and end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::notification::ServerState;
use oxkeeper_proto::{SessionId, TxnRecord, Xid, path};
use oxkeeper_tree::{Loader, Pending};
use oxkeeper_zab::{Action, Agreement, Durable, Limits, LinkId, Setup, Solo};
use tracing::{error, info};

use crate::conn::Phase;
use crate::effects::{ConnId, Effects, Now, Role, Status};
use crate::expiry::Expiry;
use crate::hold::Held;
use crate::masters::{Asker, PassedSync};
use crate::node::{Node, millis};
use crate::peers::{LinkEffect, Members, PeerInput, Recovered, Task};
use crate::settings::{DigestPolicy, EnsembleSettings, Settings};
use crate::transfer::Transfers;

/// With whom a node agrees.
#[derive(Debug)]
pub(crate) enum Order {
    /// With nobody else.
    Solo(Solo),
    /// With an ensemble.
    Ensemble(Box<Member>),
}

/// What a node does with the writes of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It prepares and proposes them: it is alone, or leads.
    Decides,
    /// It leads and hands over: what is on its way is decided, what comes now waits for the next leader.
    HandsOver,
    /// It passes them to the leader.
    Forwards,
    /// Leadership was handed over. It keeps the connections of its clients, and what they ask, until it knows the next
    /// leader.
    Holds,
    /// It refuses them, but lets those read who asked for no more.
    ReadsOnly,
    /// It serves nobody.
    Idle,
}

/// The part of a node that a standalone one does not have.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) agreement: Agreement,
    pub(crate) settings: EnsembleSettings,
    pub(crate) duty: Duty,
    pub(crate) loader: Option<Loader>,
    pub(crate) transfers: Transfers,
    /// Of a leader: its own clients' syncs by number.
    pub(crate) syncs: BTreeMap<u64, (ConnId, Xid)>,
    pub(crate) next_sync: u64,
    /// Of a learner: syncs in the order in which they were passed on.
    pub(crate) passed_syncs: VecDeque<PassedSync>,
    /// Of a learner: sessions that the leader was asked for.
    pub(crate) revalidating: BTreeMap<SessionId, Revalidating>,
    /// Of a follower: sessions that its observers have heard of, of which the leader was not told yet, and their timeouts.
    pub(crate) observed: BTreeMap<SessionId, i32>,
    /// Of a follower: observers whose first word of sessions it has, and those of which the leader is to be asked whether
    /// it knows them, each with one of its sessions.
    pub(crate) acquainted: BTreeSet<LinkId>,
    pub(crate) to_acquaint: Vec<(LinkId, SessionId)>,
    /// Of an observer of a follower: whether sessions may be elsewhere without its having been told. That is so until the
    /// follower says that the leader knows of them, which Java's never do.
    pub(crate) is_unsure: bool,
    /// What is kept while there is no leader.
    pub(crate) held: Option<Held>,
    /// Of a leader short of disk space: whether it was handed the leadership in spite of that.
    pub(crate) stays: bool,
    /// Of a learner: when it told the leader last which sessions it has heard of.
    pub(crate) pinged_ms: i64,
    /// When it may begin to serve readers, if it looks for a leader.
    pub(crate) looking_since_ms: i64,
    /// Transactions after which the state was not the leader's.
    pub(crate) digest_mismatches: u64,
}

/// A session that the leader was asked for.
#[derive(Debug, Default)]
pub(crate) struct Revalidating {
    /// Who waits here.
    pub(crate) conn: Option<ConnId>,
    /// Whose answers are due, in order; the last one of this server's own is for whoever waits here.
    pub(crate) askers: VecDeque<Asker>,
}

impl Member {
    pub(crate) fn deadline_ms(&self) -> i64 {
        let held_until_ms = self.held.as_ref().map_or(i64::MAX, |held| held.until_ms);
        let read_from_ms = self.read_only_from_ms().unwrap_or(i64::MAX);
        self.agreement.deadline_ms().min(read_from_ms).min(held_until_ms)
    }

    /// When the node begins to serve readers, if it finds no leader before.
    pub(crate) fn read_only_from_ms(&self) -> Option<i64> {
        let waits = self.settings.read_only && self.duty == Duty::Idle && self.looking_since_ms != i64::MAX;
        waits.then_some(self.looking_since_ms)
    }
}

impl Node {
    /// A member of an ensemble, from what recovery has found. It looks for a leader at once.
    #[must_use]
    pub fn member(
        settings: Settings,
        ensemble: EnsembleSettings,
        state: Recovered,
        now: Now,
        fx: &mut Effects,
    ) -> Node {
        let setup = Setup {
            me: ensemble.me,
            observes: ensemble.observer,
            committed: Arc::clone(&ensemble.committed),
            seen: ensemble.seen.clone(),
            reconfig: settings.reconfig,
            limits: Limits {
                tick_ms: settings.tick_ms,
                init: ensemble.init_limit,
                sync: ensemble.sync_limit,
                pending_bytes: ensemble.pending_bytes_max,
                counter_max: ensemble.epoch_counter_max,
            },
            timing: ensemble.timing,
            accepted: ensemble.accepted_epoch,
            current: ensemble.current_epoch,
            last: state.tree.last_zxid(),
            recent: state.recent,
            emptied: ensemble.emptied,
            force_snapshot: ensemble.force_snapshot,
            may_read_log: ensemble.log_sync_bytes > 0,
            observer_masters: ensemble.observer_masters,
            seed: settings.seed ^ 5,
        };
        let mut member = Member {
            agreement: Agreement::new(setup),
            settings: ensemble,
            duty: Duty::Idle,
            loader: None,
            transfers: Transfers::default(),
            syncs: BTreeMap::new(),
            next_sync: 0,
            passed_syncs: VecDeque::new(),
            revalidating: BTreeMap::new(),
            observed: BTreeMap::new(),
            acquainted: BTreeSet::new(),
            to_acquaint: Vec::new(),
            is_unsure: false,
            held: None,
            stays: false,
            pinged_ms: 0,
            looking_since_ms: i64::MAX,
            digest_mismatches: 0,
        };
        if let Some(says) = member.settings.oracle {
            member.agreement.oracle(millis(now.mono), says);
        }
        member.agreement.start(millis(now.mono));
        let mut node = Node::new(settings, state.tree, now);
        node.expiry = Expiry::new(node.settings.tick_ms, node.settings.seed ^ 1);
        node.order = Order::Ensemble(Box::new(member));
        node.refresh_config();
        node.tell_members(fx);
        node.carry_out(fx);
        node
    }

    pub(crate) fn as_member(&mut self) -> Option<&mut Member> {
        match &mut self.order {
            Order::Solo(_) => None,
            Order::Ensemble(member) => Some(member),
        }
    }

    /// What the node does with writes at present.
    #[inline]
    pub(crate) fn duty(&self) -> Duty {
        match &self.order {
            Order::Solo(_) => Duty::Decides,
            Order::Ensemble(member) => member.duty,
        }
    }

    /// Takes what happened on the side of the other servers.
    pub(crate) fn peer(&mut self, input: PeerInput, fx: &mut Effects) {
        let now_ms = millis(self.now.mono);
        let Order::Ensemble(member) = &mut self.order else { return };
        let agreement = &mut member.agreement;
        match input {
            PeerInput::LinkOpened { link, dial } => agreement.link_opened(now_ms, link, dial),
            PeerInput::ObserverLinkOpened { link } => agreement.observer_link_opened(now_ms, link),
            PeerInput::DialFailed { dial } => agreement.dial_failed(now_ms, dial),
            PeerInput::Packet { link, packet } => {
                let change = crate::reconfig::change_of(&packet);
                agreement.packet(now_ms, link, packet, change);
            }
            PeerInput::LinkClosed { link } => {
                agreement.link_closed(now_ms, link);
                self.link_gone(link, fx);
            }
            PeerInput::Oracle(says) => agreement.oracle(now_ms, says),
            PeerInput::CannotTruncate { zxid } => agreement.cannot_truncate(now_ms, zxid),
            PeerInput::LogRead { task, records } => agreement.log_read(now_ms, task, records.as_deref()),
            PeerInput::Reloaded { task, state } => self.reloaded(task, *state),
            PeerInput::Snapshot { link, item } => self.snapshot_item(link, item),
            PeerInput::LinkWritable { link } => self.link_writable(link, fx),
        }
    }

    /// Does what agreement wants done, until there is nothing more.
    pub(crate) fn carry_out(&mut self, fx: &mut Effects) {
        loop {
            while let Some(action) = self.as_member().and_then(|member| member.agreement.next_action()) {
                self.act(action, fx);
            }
            self.resume_paused(fx);
            self.close_expired(fx);
            self.end_snapshot(fx);
            self.begin_transfers(fx);
            self.serve_readers();
            self.roll_over_if_due(fx);
            match self.as_member().and_then(|member| member.agreement.next_action()) {
                Some(action) => self.act(action, fx),
                None => return,
            }
        }
    }

    fn act(&mut self, action: Action, fx: &mut Effects) {
        match action {
            Action::Notify(to, notification) => fx.peers.notifications.push((to, notification)),
            Action::Dial { server, port, dial } => {
                self.stop_reading(fx);
                fx.peers.links.push(LinkEffect::Dial { server, port, dial });
            }
            Action::Send(link, packet) => self.send(link, packet, fx),
            Action::Close(link) => {
                self.link_gone(link, fx);
                fx.peers.links.push(LinkEffect::Close(link));
            }
            Action::Listen(open) => {
                if open {
                    self.stop_reading(fx);
                }
                fx.peers.listen = Some(open);
            }
            Action::ListenForObservers(open) => fx.peers.listen_for_observers = Some(open),
            Action::Durable(ticket, work) => {
                // A snapshot of what is taken back must not outlive it.
                if let Durable::Truncate(_) = &work {
                    self.abandon_snapshot(fx);
                }
                if let Durable::AcceptedEpoch(epoch) = &work {
                    self.epoch_promised(*epoch, fx);
                }
                fx.durable.push((ticket, work));
            }
            Action::ReadLog { task, from } => {
                let bytes_max = self.as_member().map_or(0, |member| member.settings.log_sync_bytes);
                fx.peers.tasks.push(Task::ReadLog { task, from, bytes_max });
            }
            Action::Reload { task } => {
                self.let_go(fx);
                self.abandon_snapshot(fx);
                fx.peers.tasks.push(Task::Reload { task });
            }
            Action::ConfigsChanged => {
                self.refresh_config();
                self.tell_members(fx);
            }
            Action::StreamSnapshot(link) => self.want_stream(link),
            Action::LoadSnapshot(_) => {
                self.let_go(fx);
                self.begin_load(fx);
            }
            Action::InstallSnapshot(_) => self.install_snapshot(fx),
            Action::Apply(proposal) => self.apply_final(&proposal, fx),
            Action::ApplyOverSnapshot(proposal) => {
                let record = match TxnRecord::decode(&proposal.payload) {
                    Ok(record) => record,
                    Err(error) => {
                        panic!("transaction {} is agreed but cannot be read: {error}", proposal.zxid)
                    }
                };
                // While the snapshot was written the leader's state went on, so digests say nothing here.
                let _ = self.tree.replay(&record);
            }
            Action::Ended { is_settled } => self.role_ended(is_settled, fx),
            Action::Looking => {
                let now_ms = millis(self.now.mono);
                let wait_ms = self.settings.tick_ms.max(READ_ONLY_AFTER_MS);
                if let Some(member) = self.as_member() {
                    member.looking_since_ms = now_ms + wait_ms;
                }
            }
            Action::Lead(epoch) => self.lead(epoch, fx),
            Action::Serve(epoch) => self.serve(epoch, fx),
            Action::Request(link, request) if self.duty() == Duty::Forwards => {
                self.observer_asks(link, request, fx);
            }
            Action::Touched(link, sessions) if self.duty() == Duty::Forwards => {
                self.observer_touched(link, &sessions);
            }
            Action::Revalidate(link, session, timeout_ms) if self.duty() == Duty::Forwards => {
                self.observer_revalidates(link, session, timeout_ms, fx);
            }
            Action::Request(link, request) => self.learner_asks(link, &request, fx),
            Action::Touched(link, sessions) => self.learner_touched(link, &sessions),
            Action::Revalidate(link, session, timeout_ms) => {
                self.learner_revalidates(link, session, timeout_ms, fx);
            }
            Action::Moved(session) => self.session_moved(session, fx),
            Action::Revalidated(session, valid) => self.revalidated(session, valid, fx),
            Action::Pinged(zxid) => self.pinged(zxid),
            Action::Synced => self.passed_sync_done(fx),
            Action::SyncDone(number) => self.own_sync_done(number, fx),
            Action::LearnerGone(link) => {
                if let Some(member) = self.as_member() {
                    member.acquainted.remove(&link);
                }
                self.link_gone(link, fx);
            }
        }
    }

    /// The role is over: what was on its way has no one to answer, and clients are let go. But if nothing that they have
    /// asked is in doubt, they are held for the next leader. Whoever was held already is let go: what is in the log and not
    /// agreed becomes the state now, and their watches would show it.
    fn role_ended(&mut self, is_settled: bool, fx: &mut Effects) {
        let is_unsure = self.as_member().is_some_and(|member| member.is_unsure);
        if self.duty() == Duty::Holds {
            self.let_go(fx);
        } else if is_settled && !is_unsure {
            self.begin_hold(fx);
        }
        if self.duty() != Duty::Holds {
            let ids: Vec<ConnId> = self.conns.iter().map(|conn| conn.id).collect();
            for id in ids {
                self.close(id, fx);
            }
        }
        self.origins.clear();
        self.expired.clear();
        self.reaping = None;
        self.expiry = Expiry::new(self.settings.tick_ms, self.settings.seed ^ 1);
        let Order::Ensemble(member) = &mut self.order else { return };
        if member.duty != Duty::Holds {
            member.duty = Duty::Idle;
        }
        member.looking_since_ms = i64::MAX;
        member.syncs.clear();
        member.passed_syncs.clear();
        member.revalidating.clear();
        member.observed.clear();
        member.acquainted.clear();
        member.to_acquaint.clear();
        member.transfers.clear();
        if let Some(loader) = member.loader.take()
            && is(Fault::PartialSnapshotKept)
        {
            self.tree = loader.finish(self.tree.last_zxid());
        }
    }

    /// What a role has left behind, by name: nothing, whenever this server looks for a leader and neither serves nor holds
    /// anybody.
    #[must_use]
    pub fn left_behind(&self) -> Vec<&'static str> {
        let Order::Ensemble(member) = &self.order else { return Vec::new() };
        if member.duty != Duty::Idle || member.agreement.state() != ServerState::Looking {
            return Vec::new();
        }
        let has_clients = self.conns.iter().any(|conn| matches!(conn.phase, Phase::Open(_) | Phase::Opening));
        let all = [
            ("clients", has_clients),
            ("watches", self.watches.total() > 0),
            ("requests without an answer", self.outstanding > 0 || self.large_waiting > 0),
            ("clients that are not read from", !self.paused.is_empty()),
            ("askers of transactions on their way", !self.origins.is_empty()),
            ("sessions and their timers", self.expiry.len() > 0 || !self.expired.is_empty()),
            ("a search for what may go", self.reaping.is_some()),
            ("syncs", !member.syncs.is_empty() || !member.passed_syncs.is_empty()),
            ("sessions that the leader was asked for", !member.revalidating.is_empty()),
            ("sessions that observers have heard of", !member.observed.is_empty()),
            ("observers", !member.acquainted.is_empty() || !member.to_acquaint.is_empty()),
            ("snapshots for learners", !member.transfers.are_none()),
            ("a part of a leader's snapshot", member.loader.is_some()),
            ("requests held for a leader", member.held.is_some()),
        ];
        all.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }

    /// This server leads. Every session gets its full timeout: nobody knows what its server heard of it last.
    fn lead(&mut self, epoch: oxkeeper_proto::Epoch, fx: &mut Effects) {
        info!("Leading in epoch {}", epoch.0);
        self.begin_to_serve(epoch, Duty::Decides);
        self.pending = Pending::new(self.settings.seed ^ 2, &self.tree);
        self.reap_at_ms = millis(self.now.mono).saturating_add(self.settings.reap.interval_ms);
        let is_short = self.scarcity.disk;
        if let Some(member) = self.as_member() {
            member.stays = is_short && member.agreement.leads_by_hand_over();
        }
        self.resume_held(fx);
    }

    /// This server is level with its leader.
    fn serve(&mut self, epoch: oxkeeper_proto::Epoch, fx: &mut Effects) {
        info!("Level with the leader of epoch {}", epoch.0);
        self.begin_to_serve(epoch, Duty::Forwards);
        self.resume_held(fx);
    }

    fn begin_to_serve(&mut self, epoch: oxkeeper_proto::Epoch, duty: Duty) {
        let now_ms = millis(self.now.mono);
        self.tree.set_last_zxid(self.tree.last_zxid().max(epoch.start()));
        self.refresh_config();
        self.expiry = Expiry::new(self.settings.tick_ms, self.settings.seed ^ 1);
        for (session, timeout_ms) in self.tree.sessions() {
            let timeout_ms = i64::from(timeout_ms);
            let heard_ms = if is(Fault::ExpiryNotReset) { now_ms - timeout_ms } else { now_ms };
            self.expiry.track(session, timeout_ms, heard_ms);
        }
        if let Some(member) = self.as_member() {
            member.duty = duty;
            member.pinged_ms = now_ms;
            member.is_unsure = member.agreement.learns_from_master();
            member.looking_since_ms = i64::MAX;
        }
    }

    /// Begins to serve readers alone, if no leader was found for long enough.
    fn serve_readers(&mut self) {
        let now_ms = millis(self.now.mono);
        if let Some(member) = self.as_member()
            && member.read_only_from_ms().is_some_and(|from_ms| now_ms >= from_ms)
        {
            info!("No leader is found: serving those who only read");
            member.duty = Duty::ReadsOnly;
        }
    }

    /// A transaction has left another digest than the leader computed. Whoever computed it himself must stop.
    ///
    /// # Panics
    /// Unless the settings say that a learner lives with it, or tries once to get the leader's state.
    pub(crate) fn state_differs(&mut self, record: &TxnRecord<'_>) {
        let (zxid, expected, found) = (record.header.zxid, record.digest, self.tree.digest());
        let now_ms = millis(self.now.mono);
        let forwards = self.duty() == Duty::Forwards;
        let Order::Ensemble(member) = &mut self.order else {
            panic!("digest {found} after {zxid}, where {expected:?} was agreed");
        };
        member.digest_mismatches += 1;
        let policy = member.settings.digest_policy;
        match policy {
            DigestPolicy::Alarm if forwards => {
                error!("Digests are not matching after {zxid}: expected {expected:?}, found {found}");
            }
            DigestPolicy::Resync if forwards && member.digest_mismatches == 1 => {
                error!("Digest {found} after {zxid}, expected {expected:?}: taking the leader's whole state");
                member.agreement.take_whole_state(now_ms, "the state differs from the leader's");
            }
            _ => panic!(
                "transaction {zxid} does not fit the tree: digest {found} where {expected:?} was agreed"
            ),
        }
    }

    /// A leader is found: those who only read are let go, and find a server that does more.
    fn stop_reading(&mut self, fx: &mut Effects) {
        if self.duty() == Duty::ReadsOnly {
            self.role_ended(false, fx);
        } else if let Some(member) = self.as_member() {
            member.looking_since_ms = i64::MAX;
        }
    }

    /// Keeps `/zookeeper/config` equal to the configuration in force, where no transaction brought it. What lies behind a
    /// configuration's version knows nothing of it yet: a reconfiguration that is being applied shows when it is.
    pub(crate) fn refresh_config(&mut self) {
        let Order::Ensemble(member) = &self.order else { return };
        let config = Arc::clone(member.agreement.committed());
        if config.version > self.tree.last_zxid() {
            return;
        }
        let text = config.to_string();
        let is_new = self.tree.find(path::CONFIG).is_none_or(|node| node.data() != Some(text.as_bytes()));
        if is_new {
            self.tree.set_config(text.as_bytes(), config.version);
        }
    }

    fn tell_members(&mut self, fx: &mut Effects) {
        if let Some(member) = self.as_member() {
            let (committed, seen) = (member.agreement.committed(), member.agreement.seen());
            fx.peers.members = Some(Members { committed: Arc::clone(committed), seen: Arc::clone(seen) });
        }
    }

    /// The part of the status that tells of the ensemble.
    pub(crate) fn role_status(&self) -> Status {
        use oxkeeper_proto::peer::notification::ServerState;
        let member = match &self.order {
            Order::Solo(solo) => return Status { last_logged: solo.last_proposed(), ..Status::default() },
            Order::Ensemble(member) => member,
        };
        let agreement = &member.agreement;
        let role = match agreement.state() {
            _ if member.duty == Duty::ReadsOnly => Role::ReadOnly,
            ServerState::Looking => Role::Looking,
            ServerState::Following => Role::Following,
            ServerState::Leading => Role::Leading,
            ServerState::Observing => Role::Observing,
        };
        Status {
            role,
            serving: agreement.is_serving(),
            epoch: agreement.epochs().1,
            last_logged: agreement.last_logged(),
            leader: agreement.leader(),
            learners: agreement.learners(),
            digest_mismatches: member.digest_mismatches,
            ..Status::default()
        }
    }

    /// Whether a connection waits for its session to be opened or found.
    pub(crate) fn is_opening(&self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| conn.phase == Phase::Opening)
    }
}

/// A server looks for a leader for at least so long before it serves readers. Source: `QuorumPeer.run`, 3.9.
const READ_ONLY_AFTER_MS: i64 = 2000;
