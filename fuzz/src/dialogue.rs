//! One server's part in the agreement of an ensemble, told anything in any order: packets legal and illegal, links that
//! open and break, votes, time; its durable work is done when the input says so.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use oxkeeper_proto::peer::LearnerInfo;
use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, Round, ServerId, SessionId, Zxid};
use oxkeeper_zab::{
    Action, Agreement, Durable, EnsembleChange, Limits, LinkId, ObserverMasters, Proposal, Setup, Ticket,
    Timing,
};

use crate::bounds::within;

/// What the server keeps of small inputs, and what this target keeps beside it.
const BUFFERS: usize = 8 << 20;
const STEPS_MAX: usize = 600;
const ME: ServerId = ServerId(2);

/// Steps are a byte for what happens, then what it needs: see `Server::act`.
pub fn learners_and_leaders(bytes: &[u8]) {
    within(bytes.len(), BUFFERS, || {
        let Some(([setup], mut rest)) = bytes.split_first_chunk::<1>() else { return };
        let mut server = Server::new(*setup);
        for _ in 0..STEPS_MAX {
            let Some((what, behind)) = rest.split_first() else { break };
            rest = server.act(*what, behind);
            server.settle();
        }
    });
}

struct Server {
    agreement: Agreement,
    now_ms: i64,
    work: VecDeque<(Ticket, Durable)>,
    /// The log on the disk, and what is on its way there.
    log: Vec<Proposal>,
    accepted: Epoch,
    links: Vec<LinkId>,
    next_link: u64,
    dial: Option<u64>,
    loading: bool,
    installed: Zxid,
    applied: Zxid,
    streams: Vec<LinkId>,
    reads: Vec<(u64, Zxid)>,
}

fn config(version: i64) -> Arc<EnsembleConfig> {
    let text = "server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\nserver.4=d:1:2:observer";
    match EnsembleConfig::parse(text) {
        Ok(config) => Arc::new(config.with_version(Zxid(version))),
        Err(error) => panic!("{error}"),
    }
}

/// A small zxid: epoch and counter in one byte each half.
fn zxid(byte: u8) -> Zxid {
    Zxid::new(u32::from(byte >> 4), u32::from(byte & 15))
}

impl Server {
    fn new(setup: u8) -> Server {
        let log: Vec<Proposal> = (1..=setup & 3)
            .map(|counter| Proposal { zxid: zxid(16 | counter), payload: Bytes::from(vec![counter]) })
            .collect();
        let epoch = Epoch(i64::from(!log.is_empty()));
        let mut agreement = Agreement::new(Setup {
            me: ME,
            observes: setup & 4 != 0,
            committed: config(0),
            seen: (setup & 8 != 0).then(|| config(9)),
            reconfig: setup & 16 != 0,
            limits: Limits { tick_ms: 100, init: 5, sync: 3, pending_bytes: 1 << 20, counter_max: u32::MAX },
            timing: Timing::DEFAULT,
            accepted: epoch,
            current: epoch,
            last: log.last().map_or(Zxid::ZERO, |last| last.zxid),
            recent: log.clone(),
            emptied: setup & 32 != 0,
            force_snapshot: setup & 64 != 0,
            may_read_log: setup & 128 != 0,
            observer_masters: Some(ObserverMasters { bytes_max: 200, reconnect_ms: 50 }),
            seed: 1,
        });
        agreement.start(0);
        let mut server = Server {
            agreement,
            now_ms: 0,
            work: VecDeque::new(),
            log,
            accepted: epoch,
            links: Vec::new(),
            next_link: 0,
            dial: None,
            loading: false,
            installed: Zxid::ZERO,
            applied: Zxid::ZERO,
            streams: Vec::new(),
            reads: Vec::new(),
        };
        server.settle();
        server
    }

    /// What one byte has happen; returns the bytes that were not needed.
    fn act<'a>(&mut self, what: u8, rest: &'a [u8]) -> &'a [u8] {
        let now_ms = self.now_ms;
        let link = self.links.get(usize::from(what >> 4) % self.links.len().max(1)).copied();
        match what & 15 {
            0..6 => {
                let Some(([kind, a, b], rest)) = rest.split_first_chunk::<3>() else { return &[] };
                let (packet, changes) = packet(*kind, *a, *b);
                if let Some(link) = link {
                    self.agreement.packet(now_ms, link, packet, changes);
                }
                return rest;
            }
            6 | 7 => self.persist(1),
            8 => self.persist(usize::MAX),
            9 => {
                self.next_link += 1;
                let link = LinkId(self.next_link);
                self.links.push(link);
                match self.dial.take() {
                    None if what & 128 != 0 => self.agreement.observer_link_opened(now_ms, link),
                    dial => self.agreement.link_opened(now_ms, link, dial),
                }
            }
            10 => {
                if let Some(link) = link {
                    self.links.retain(|other| *other != link);
                    self.agreement.link_closed(now_ms, link);
                } else if let Some(dial) = self.dial.take() {
                    self.agreement.dial_failed(now_ms, dial);
                }
            }
            11 => {
                self.now_ms += i64::from(what >> 4) * 40;
                self.agreement.tick(self.now_ms);
            }
            12 => {
                let Some(([from, leader, state, round], rest)) = rest.split_first_chunk::<4>() else {
                    return &[];
                };
                self.vote([*from, *leader, *state, *round]);
                return rest;
            }
            13 => {
                let payload = Bytes::from(vec![what; 3]);
                if let Some(zxid) = self.agreement.next_zxid() {
                    let changes = change(what >> 4, zxid);
                    self.agreement.propose(Proposal { zxid, payload }, changes);
                }
            }
            14 => self.transfer(link),
            _ => match link {
                Some(link) if what & 128 != 0 => self.agreement.sync_learner(link),
                _ => self.agreement.sync_here(u64::from(what)),
            },
        }
        rest
    }

    /// Something of a snapshot, or of the log, is there.
    fn transfer(&mut self, link: Option<LinkId>) {
        let now_ms = self.now_ms;
        if let Some((task, from)) = self.reads.pop() {
            let first = self.log.iter().rposition(|record| record.zxid <= from);
            let records = first.and_then(|first| self.log.get(first..)).map(<[Proposal]>::to_vec);
            self.agreement.log_read(now_ms, task, records.as_deref());
        } else if let Some(link) = self.streams.pop() {
            let last = self.log.last().map_or(Zxid::ZERO, |last| last.zxid);
            self.agreement.snapshot_begins(link, last);
            self.agreement.snapshot_sent(link);
        } else if let Some(link) = link
            && self.loading
            && self.agreement.takes_snapshot(now_ms, link).is_some()
        {
            self.loading = false;
            self.agreement.snapshot_loaded(now_ms);
        } else {
            self.agreement.snapshot_broken(now_ms, "the input says so");
        }
    }

    fn vote(&mut self, [from, leader, state, round]: [u8; 4]) {
        let state = match state % 4 {
            0 => ServerState::Looking,
            1 => ServerState::Following,
            2 => ServerState::Leading,
            _ => ServerState::Observing,
        };
        let notification = Notification {
            state,
            leader: ServerId((leader & 7).into()),
            zxid: self.agreement.last_logged(),
            round: Round((round & 7).into()),
            peer_epoch: Epoch((leader >> 3).into()),
            version: 2,
            config: Some(config(i64::from(round >> 3)).to_string().into()),
        };
        self.agreement.notification(self.now_ms, ServerId((from & 7).into()), Ok(notification));
    }

    fn persist(&mut self, count: usize) {
        let mut newest = None;
        for _ in 0..count {
            let Some((ticket, work)) = self.work.pop_front() else { break };
            newest = Some(ticket);
            match work {
                Durable::Append(proposal) => self.log.push(proposal),
                Durable::Truncate(to) => self.log.retain(|record| record.zxid <= to),
                Durable::AcceptedEpoch(epoch) => self.accepted = epoch,
                Durable::InstallSnapshot(zxid) => {
                    self.log.clear();
                    self.installed = zxid;
                }
                _ => {}
            }
        }
        if let Some(ticket) = newest {
            self.agreement.persisted(self.now_ms, ticket);
        }
    }

    /// Does what the server asks for, and holds it to what it may say.
    fn settle(&mut self) {
        while let Some(action) = self.agreement.next_action() {
            match action {
                Action::Dial { dial, .. } => self.dial = Some(dial),
                Action::Send(_, PeerPacket::Ack { zxid }) if zxid.counter() != 0 => {
                    let on_disk: BTreeSet<Zxid> = self.log.iter().map(|record| record.zxid).collect();
                    assert!(
                        on_disk.contains(&zxid) || zxid <= self.installed,
                        "{zxid} is acknowledged, {on_disk:?} are on the disk"
                    );
                }
                Action::Send(_, PeerPacket::LeaderInfo { epoch, .. }) => {
                    assert!(epoch <= self.accepted, "{epoch:?} is offered before it is durable");
                }
                Action::Apply(proposal) => self.applied = proposal.zxid,
                Action::Send(_, PeerPacket::Inform { zxid, .. })
                    if self.agreement.state() != ServerState::Leading =>
                {
                    assert!(zxid <= self.applied, "{zxid} is told to an observer before it is agreed");
                }
                Action::Close(link) => self.links.retain(|other| *other != link),
                Action::Durable(ticket, work) => self.work.push_back((ticket, work)),
                Action::ReadLog { task, from } => self.reads.push((task, from)),
                Action::Reload { task } => {
                    let last = self.log.last().map_or(self.installed, |last| last.zxid);
                    self.agreement.reloaded(self.now_ms, task, last, self.log.clone());
                }
                Action::StreamSnapshot(link) => self.streams.push(link),
                Action::LoadSnapshot(_) => self.loading = true,
                Action::Ended { .. } => {
                    self.loading = false;
                    self.dial = None;
                }
                _ => {}
            }
        }
    }
}

/// What a transaction changes of the ensemble, if anything.
fn change(what: u8, zxid: Zxid) -> Option<EnsembleChange> {
    match what & 3 {
        1 => Some(EnsembleChange::Members(config(zxid.0))),
        3 => Some(EnsembleChange::Leader(ServerId(i64::from(what >> 2)))),
        _ => None,
    }
}

/// A packet of any type, and what it changes of the ensemble.
fn packet(kind: u8, a: u8, b: u8) -> (PeerPacket, Option<EnsembleChange>) {
    let (epoch, server) = (Epoch((a >> 4).into()), ServerId((b & 7).into()));
    let txn = || Bytes::from(vec![b; 2]);
    let learner = LearnerInfo::new(server, Zxid((b >> 5).into()));
    // Bit 6 was never used by a packet's kind; without it the corpus keeps its meaning.
    let changes = change(kind >> 7 | kind >> 5 & 2 | b << 2, zxid(a));
    let packet = match kind & 31 {
        1 | 2 | 20..24 => PeerPacket::Proposal { zxid: zxid(a), txn: txn() },
        3 | 24..26 => PeerPacket::Ack { zxid: zxid(a) },
        4 | 26..28 => PeerPacket::Commit { zxid: zxid(a) },
        5 => PeerPacket::Ping { zxid: zxid(a), touched: (b & 1 != 0).then(|| vec![(SessionId(1), 9)]) },
        6 => PeerPacket::Revalidate { session: SessionId(b.into()), timeout_ms: 9 },
        7 => PeerPacket::Sync,
        8 => PeerPacket::Inform { zxid: zxid(a), txn: txn() },
        9 => PeerPacket::CommitAndActivate { zxid: zxid(a), designated: server },
        10 | 28 => PeerPacket::NewLeader {
            epoch,
            config: (b & 128 != 0).then(|| config(i64::from(b & 15)).to_string().into()),
        },
        11 => PeerPacket::FollowerInfo { accepted: epoch, learner },
        12 => PeerPacket::UpToDate,
        13 => PeerPacket::Diff { zxid: zxid(a) },
        14 => PeerPacket::Trunc { zxid: zxid(a) },
        15 => PeerPacket::Snap { zxid: zxid(a) },
        16 => PeerPacket::ObserverInfo { accepted: epoch, learner },
        17 => PeerPacket::LeaderInfo { epoch, protocol_version: b.into() },
        18 => PeerPacket::AckEpoch { last: zxid(a), current: (b & 1 != 0).then_some(Epoch((b >> 4).into())) },
        19 => PeerPacket::InformAndActivate { zxid: zxid(a), designated: server, txn: txn() },
        29 => PeerPacket::NewLeader { epoch, config: Some(txn()) },
        30 => PeerPacket::Revalidated { session: SessionId(b.into()), valid: a & 1 != 0 },
        _ => PeerPacket::Unknown { kind: a.into(), zxid: zxid(b), data: None },
    };
    (packet, changes)
}
