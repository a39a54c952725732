//! A follower that serves observers: it brings them level from its own state and tells them what its leader has told it to
//! be agreed, so that the leader need not send everything to each of them.
//!
//! What is offered and not agreed needs no place of its own here: it is what the follower itself has pending. So
//! whatever was on its way when this server began to serve observers reaches them too (ZOOKEEPER-5088). Nothing is waited
//! for: all that a serving follower has applied is agreed. Stricter than Java: an observer that has more than this server
//! of the same epoch, because it comes from a faster one, waits until this server has it too, and need not cut off what
//! is agreed; and what makes no sense ends the link.
//!
//! Source: `ObserverMaster`, `LearnerHandler`, 3.9.

mod feed;

use std::collections::{BTreeMap, VecDeque};

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::peer::{LearnerInfo, PROTOCOL_VERSION};
use oxkeeper_proto::{Epoch, PeerPacket, ServerId, Zxid};

use super::Pending;
use crate::common::{Action, Common, EnsembleChange};
use crate::durable::{LinkId, Proposal};
use crate::history::{SyncFacts, SyncPlan};
use crate::leader::{PEERS_MAX, calls_to_vote};
use crate::level::{self, Beginning, describe, send_agreed};
use feed::Feed;

/// How far an observer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// It has not said who it is.
    Silent,
    /// It has heard the epoch.
    Informed,
    /// It has promised it, and has something that this server has not applied yet.
    Ahead,
    /// The log is being read for it.
    LogRead(u64),
    /// A snapshot is to begin for it.
    AwaitsSnapshot,
    /// It was sent everything up to NEWLEADER; from here on it gets what is new.
    Synchronizing,
    /// It serves.
    Active,
}

/// An observer and its link.
#[derive(Debug, Clone, Hash)]
struct Observer {
    server: ServerId,
    stage: Stage,
    /// The last transaction in its log, as it said.
    last: Zxid,
    heard_ms: i64,
}

/// What a serving follower has for observers.
#[derive(Debug, Clone, Hash)]
pub(super) struct Master {
    epoch: Epoch,
    /// What was offered when it began.
    began_at: Zxid,
    observers: BTreeMap<LinkId, Observer>,
    feed: Feed,
    next_check_ms: i64,
}

/// What its leader has offered and has not said to be agreed.
pub(super) struct Pendings<'a>(pub(super) &'a VecDeque<Pending>);

impl Pendings<'_> {
    /// The newest transaction in the log of which is known that it is agreed.
    pub(super) fn last_agreed(&self, cx: &Common) -> Zxid {
        if self.0.is_empty() { cx.last_logged } else { cx.last_applied }
    }

    /// The reconfiguration on its way, if it makes a voter of this server.
    fn call_to_vote(&self, cx: &Common, server: ServerId) -> Option<PeerPacket> {
        if cx.seen.version <= cx.committed.version {
            return None;
        }
        let calls = |pending: &&Pending| calls_to_vote(pending.change.as_ref(), server);
        self.0.iter().find(calls).map(|pending| pending.proposal.offer())
    }
}

impl Master {
    pub(super) fn new(cx: &mut Common, epoch: Epoch, offered: Zxid, bytes_max: usize) -> Master {
        cx.out.push_back(Action::ListenForObservers(true));
        Master {
            epoch,
            began_at: offered,
            observers: BTreeMap::new(),
            feed: Feed::new(bytes_max),
            next_check_ms: cx.now_ms + cx.limits.tick_ms / 2,
        }
    }

    pub(super) fn has(&self, link: LinkId) -> bool {
        self.observers.contains_key(&link)
    }

    /// Observers that are served.
    pub(super) fn served(&self) -> usize {
        self.observers.values().filter(|observer| observer.stage == Stage::Active).count()
    }

    pub(super) fn deadline_ms(&self) -> i64 {
        self.next_check_ms
    }

    pub(super) fn link_opened(&mut self, cx: &mut Common, link: LinkId) {
        if self.observers.len() >= PEERS_MAX {
            tracing::warn!("Closing a link of an observer: {PEERS_MAX} are open");
            return cx.out.push_back(Action::Close(link));
        }
        let observer =
            Observer { server: ServerId(-1), stage: Stage::Silent, last: Zxid::ZERO, heard_ms: cx.now_ms };
        self.observers.insert(link, observer);
    }

    pub(super) fn link_closed(&mut self, cx: &mut Common, link: LinkId) {
        if self.observers.remove(&link).is_some() {
            cx.out.push_back(Action::LearnerGone(link));
        }
    }

    fn drop(&mut self, cx: &mut Common, link: LinkId, reason: &str) {
        if let Some(observer) = self.observers.get(&link) {
            tracing::warn!("Closing the link to observer {}: {reason}", observer.server);
        }
        cx.out.push_back(Action::Close(link));
        self.link_closed(cx, link);
    }

    /// Takes a packet.
    pub(super) fn packet(
        &mut self,
        cx: &mut Common,
        link: LinkId,
        packet: PeerPacket,
        pending: &Pendings<'_>,
    ) {
        let Some(observer) = self.observers.get_mut(&link) else { return };
        observer.heard_ms = cx.now_ms;
        let logged = pending.last_agreed(cx);
        match (packet, observer.stage) {
            (PeerPacket::ObserverInfo { accepted, learner }, Stage::Silent) => {
                self.register(cx, link, accepted, learner);
            }
            (PeerPacket::AckEpoch { last, .. }, Stage::Informed) => {
                // One whose directory was emptied has nothing.
                observer.last = last.max(Zxid::ZERO);
                self.plan(cx, link, logged);
            }
            (PeerPacket::Ack { zxid }, Stage::Synchronizing) if zxid == self.epoch.start() => {
                observer.stage = Stage::Active;
                let server = observer.server;
                cx.send(link, PeerPacket::UpToDate);
                if let Some(call) = pending.call_to_vote(cx, server) {
                    cx.send(link, call);
                }
            }
            (PeerPacket::Ack { zxid }, Stage::Active) if zxid.counter() == 0 => {}
            (PeerPacket::Ping { touched, .. }, Stage::Active) => {
                cx.out.push_back(Action::Touched(link, touched.unwrap_or_default()));
            }
            (PeerPacket::Request(request), Stage::Active) => {
                cx.out.push_back(Action::Request(link, request));
            }
            (PeerPacket::Revalidate { session, timeout_ms }, Stage::Active) => {
                cx.out.push_back(Action::Revalidate(link, session, timeout_ms));
            }
            (PeerPacket::Unknown { kind, .. }, _) => {
                tracing::warn!("An observer sent a packet of type {kind}, which is not known");
            }
            (_, stage) => self.drop(cx, link, &format!("what it sent makes no sense, {stage:?}")),
        }
    }

    /// An observer introduces itself. There is nothing to wait for: the epoch is established.
    fn register(&mut self, cx: &mut Common, link: LinkId, accepted: Epoch, learner: LearnerInfo) {
        let Some(server) = learner.id.filter(|_| learner.protocol_version >= PROTOCOL_VERSION) else {
            return self.drop(cx, link, "it speaks an older protocol than we do");
        };
        if server == cx.me {
            return self.drop(cx, link, "it introduced itself as this server");
        }
        if cx.committed.is_voter(server) {
            return self.drop(cx, link, "it votes");
        }
        if learner.config_version.is_some_and(|version| version > cx.committed.version) {
            return self.drop(cx, link, "it knows a newer configuration than we do");
        }
        if accepted > self.epoch {
            return self.drop(cx, link, "it has promised a later epoch");
        }
        let older = self.observers.iter().find(|(other, known)| **other != link && known.server == server);
        if let Some(older) = older.map(|(other, _)| *other) {
            self.drop(cx, older, "it has connected anew");
        }
        if let Some(observer) = self.observers.get_mut(&link) {
            observer.server = server;
            observer.stage = Stage::Informed;
            let packet = PeerPacket::LeaderInfo { epoch: self.epoch, protocol_version: PROTOCOL_VERSION };
            cx.send(link, packet);
        }
    }

    /// Decides what an observer lacks.
    fn plan(&mut self, cx: &mut Common, link: LinkId, logged: Zxid) {
        let Some(observer) = self.observers.get_mut(&link) else { return };
        let peer = observer.last;
        if peer.counter() != 0 && peer.epoch() > self.epoch {
            return self.drop(cx, link, "it has more than there is in this epoch");
        }
        if peer.counter() != 0 && peer.epoch() == self.epoch && peer > cx.last_applied {
            observer.stage = Stage::Ahead;
            return;
        }
        let facts = facts(cx, peer, logged);
        let plan = match cx.history.plan_sync(&facts) {
            plan @ (SyncPlan::Snap | SyncPlan::ReadLog { .. }) => {
                self.feed.plan(&cx.history, &facts).unwrap_or(plan)
            }
            plan => plan,
        };
        self.carry_out(cx, link, plan);
    }

    /// The log was read for an observer.
    pub(super) fn log_read(
        &mut self,
        cx: &mut Common,
        task: u64,
        records: Option<&[Proposal]>,
        logged: Zxid,
    ) {
        for link in self.in_stage(Stage::LogRead(task)) {
            let Some(observer) = self.observers.get(&link) else { continue };
            let plan = cx.history.plan_with_log(&facts(cx, observer.last, logged), records);
            self.carry_out(cx, link, plan);
        }
    }

    fn carry_out(&mut self, cx: &mut Common, link: LinkId, plan: SyncPlan) {
        let Some(observer) = self.observers.get_mut(&link) else { return };
        tracing::info!("Observer {} is at {}: {}", observer.server, observer.last, describe(&plan));
        match level::begin(cx, link, plan) {
            Beginning::Sent(upto) => self.feed_from(cx, link, upto),
            Beginning::AwaitsSnapshot => observer.stage = Stage::AwaitsSnapshot,
            Beginning::LogRead(task) => observer.stage = Stage::LogRead(task),
        }
    }

    /// A snapshot of everything up to `zxid` begins for an observer: what is newer goes out behind it.
    pub(super) fn snapshot_begins(&mut self, cx: &mut Common, link: LinkId, zxid: Zxid) {
        if self.observers.get(&link).is_some_and(|observer| observer.stage == Stage::AwaitsSnapshot) {
            self.feed_from(cx, link, zxid);
        }
    }

    /// The last byte of a snapshot is on its way.
    pub(super) fn snapshot_sent(&mut self, cx: &Common, link: LinkId) {
        if let Some(observer) = self.observers.get_mut(&link) {
            observer.heard_ms = cx.now_ms;
        }
    }

    /// Sends what is agreed after `upto`, and announces the end of the history. From here on the observer gets what is
    /// new.
    fn feed_from(&mut self, cx: &mut Common, link: LinkId, upto: Zxid) {
        let newer: Vec<Proposal> = cx.history.after(upto).cloned().collect();
        send_agreed(cx, link, newer);
        // Whoever is told this puts it in force, so it must not be one that is only on its way.
        let config = cx.committed.to_string();
        cx.send(link, PeerPacket::NewLeader { epoch: self.epoch, config: Some(config.into()) });
        if let Some(observer) = self.observers.get_mut(&link) {
            observer.stage = Stage::Synchronizing;
            observer.heard_ms = cx.now_ms;
        }
    }

    /// A transaction is applied here; with `designated` it changes who belongs to the ensemble, and that one leads.
    pub(super) fn applied(
        &mut self,
        cx: &mut Common,
        proposal: Proposal,
        designated: Option<ServerId>,
        logged: Zxid,
    ) {
        let is_left_out = is(Fault::CandidatesForgotten) && proposal.zxid <= self.began_at;
        if !is_left_out && !is(Fault::InformBeforeCommit) {
            self.tell(cx, &proposal, designated);
        }
        self.feed.push(proposal);
        for link in self.in_stage(Stage::Ahead) {
            self.plan(cx, link, logged);
        }
    }

    /// A transaction is offered here. Observers that it makes voters hear of it: they must go to where they can
    /// acknowledge it.
    pub(super) fn offered(&self, cx: &mut Common, offered: &Pending) {
        if is(Fault::InformBeforeCommit) {
            self.tell(cx, &offered.proposal, None);
        }
        let Some(EnsembleChange::Members(_)) = &offered.change else { return };
        for (link, observer) in &self.observers {
            if observer.stage == Stage::Active && calls_to_vote(offered.change.as_ref(), observer.server) {
                cx.out.push_back(Action::Send(*link, offered.proposal.offer()));
            }
        }
    }

    /// Tells observers of a transaction.
    fn tell(&self, cx: &mut Common, proposal: &Proposal, designated: Option<ServerId>) {
        let gets_new = |observer: &Observer| matches!(observer.stage, Stage::Synchronizing | Stage::Active);
        for (link, _) in self.observers.iter().filter(|(_, observer)| gets_new(observer)) {
            let (zxid, txn) = (proposal.zxid, proposal.payload.clone());
            let packet = match designated {
                None => PeerPacket::Inform { zxid, txn },
                Some(designated) => PeerPacket::InformAndActivate { zxid, designated, txn },
            };
            cx.out.push_back(Action::Send(*link, packet));
        }
    }

    /// What is due: pings, and looking at who is still there.
    pub(super) fn tick(&mut self, cx: &mut Common) {
        if cx.now_ms < self.next_check_ms {
            return;
        }
        self.next_check_ms = cx.now_ms + cx.limits.tick_ms / 2;
        let limit_ms = |observer: &Observer| match observer.stage {
            Stage::Active => Some(cx.limits.sync_ms()),
            // It waits for this server's disk.
            Stage::LogRead(_) | Stage::AwaitsSnapshot => None,
            Stage::Silent | Stage::Informed | Stage::Ahead | Stage::Synchronizing => {
                Some(cx.limits.init_ms())
            }
        };
        let is_late = |observer: &Observer| {
            limit_ms(observer).is_some_and(|limit_ms| cx.now_ms - observer.heard_ms > limit_ms)
        };
        let late: Vec<LinkId> =
            self.observers.iter().filter(|(_, observer)| is_late(observer)).map(|(link, _)| *link).collect();
        for link in late {
            self.drop(cx, link, "it was silent for too long");
        }
        for link in self.in_stage(Stage::Active) {
            cx.send(link, PeerPacket::Ping { zxid: cx.last_applied, touched: None });
        }
    }

    fn in_stage(&self, stage: Stage) -> Vec<LinkId> {
        let all = self.observers.iter().filter(|(_, observer)| observer.stage == stage);
        all.map(|(link, _)| *link).collect()
    }

    /// The follower leaves its role.
    pub(super) fn end(self, cx: &mut Common) {
        cx.out.push_back(Action::ListenForObservers(false));
        for link in self.observers.keys() {
            cx.out.push_back(Action::Close(*link));
        }
    }
}

fn facts(cx: &Common, peer: Zxid, logged: Zxid) -> SyncFacts {
    SyncFacts {
        peer,
        last: cx.last_applied,
        logged,
        force_snapshot: cx.force_snapshot,
        may_read_log: cx.may_read_log,
    }
}
