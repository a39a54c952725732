//! Some nodes, disks that do their work when told, and a network that keeps the order of a link and nothing else.

#[path = "asks.rs"]
pub mod asks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use oxkeeper_node::{
    Answer, ConnId, Durable, Effects, EnsembleSettings, HandOverRefused, Input, LinkEffect, LinkId, Loader,
    Node, Now, PeerInput, PeerPort, Proposal, Query, QueryId, Recovered, Role, Rules, Settings, SnapshotStep,
    Status, Task, Ticket, Tree,
};
use oxkeeper_proto::ensemble::Member;
use oxkeeper_proto::peer::notification::Notification;
use oxkeeper_proto::peer::snapshot::{SIGNATURE, SnapshotItem};
use oxkeeper_proto::peer::stream::{PeerItem, PeerStream};
use oxkeeper_proto::{
    ConnectRequest, ConnectResponse, EnsembleConfig, Epoch, ErrorCode, PeerPacket, Put, Reader, ReplyHeader,
    Request, RequestHeader, ServerId, SessionId, TxnRecord, WatcherEvent, Xid, Zxid, session,
};

pub const TICK_MS: i64 = 100;
const FIELD_MAX: usize = 1 << 22;

/// What a crash leaves.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub log: Vec<Proposal>,
    /// The end of the snapshot and its stream.
    pub snapshot: Option<(Zxid, Vec<u8>)>,
    pub accepted: Option<Epoch>,
    pub current: Option<Epoch>,
    pub committed: Option<Arc<EnsembleConfig>>,
    pub seen: Option<Arc<EnsembleConfig>>,
}

impl Disk {
    pub fn recover(&self) -> Recovered {
        let mut tree = Tree::new(1, Rules::DEFAULT);
        if let Some((zxid, bytes)) = &self.snapshot {
            let mut stream = PeerStream::from_leader(FIELD_MAX);
            let mut head = Vec::new();
            PeerPacket::Snap { zxid: *zxid }.encode(&mut head);
            stream.push(&head);
            stream.push(bytes);
            let mut tail = Vec::new();
            tail.put_string(SIGNATURE);
            stream.push(&tail);
            let mut loader = Loader::new(1, Rules::DEFAULT);
            while let Some(item) = stream.next_item().unwrap() {
                match item {
                    PeerItem::Snapshot(SnapshotItem::Session { id, timeout_ms }) => {
                        loader.session(id, timeout_ms)
                    }
                    PeerItem::Snapshot(SnapshotItem::Acl { id, list }) => loader.acl(id, &list).unwrap(),
                    PeerItem::Snapshot(SnapshotItem::Node { path, data, acl, stat }) => {
                        loader
                            .node(std::str::from_utf8(&path).unwrap(), data.as_deref(), acl, &stat)
                            .unwrap();
                    }
                    _ => {}
                }
            }
            tree = loader.finish(*zxid);
        }
        let base = tree.last_zxid();
        for record in self.log.iter().filter(|record| record.zxid > base) {
            tree.replay(&TxnRecord::decode(&record.payload).unwrap());
        }
        tree.drop_orphans();
        let from = self.log.len().saturating_sub(500);
        Recovered { tree, recent: self.log[from..].to_vec() }
    }

    fn do_work(&mut self, work: Durable) {
        match work {
            Durable::Append(proposal) => {
                assert!(self.log.last().is_none_or(|last| last.zxid < proposal.zxid));
                self.log.push(proposal);
            }
            Durable::Truncate(zxid) => {
                self.log.retain(|record| record.zxid <= zxid);
                self.snapshot.take_if(|(at, _)| *at > zxid);
            }
            Durable::AcceptedEpoch(epoch) => self.accepted = Some(epoch),
            Durable::CurrentEpoch(epoch) => self.current = Some(epoch),
            Durable::InstallSnapshot(_) => self.log.clear(),
            Durable::Config { committed: true, config } => {
                self.seen.take_if(|seen| seen.version <= config.version);
                self.committed = Some(config);
            }
            Durable::Config { committed: false, config } => self.seen = Some(config),
        }
    }
}

struct Running {
    node: Node,
    fx: Effects,
    work: VecDeque<(Ticket, Durable)>,
    tasks: VecDeque<Task>,
    snapshot: VecDeque<SnapshotStep>,
    writing: Option<(Zxid, Vec<u8>)>,
    listens: bool,
    serves_observers: bool,
    conns: u32,
    started_ms: i64,
}

pub struct Host {
    pub id: ServerId,
    pub disk: Disk,
    running: Option<Running>,
    lives: u64,
    /// Whether its disk works only when told.
    pub lazy: bool,
}

#[derive(Debug)]
enum Flight {
    Bytes(Vec<u8>),
    Slice(Vec<u8>),
    Close,
}

struct Link {
    /// Dialler and listener, and the life of each.
    ends: [(usize, u64); 2],
    /// What travels to each end.
    to: [VecDeque<Flight>; 2],
    streams: [PeerStream; 2],
}

/// What a client reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Reply(i32, i64, ErrorCode),
    Event(i64, i32, String),
}

/// A client's connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct At {
    pub host: usize,
    pub conn: ConnId,
    pub life: u64,
}

pub struct Ensemble {
    pub hosts: Vec<Host>,
    pub now_ms: i64,
    pub rng: Rng,
    pub config: Arc<EnsembleConfig>,
    pub change: fn(&mut Settings, &mut EnsembleSettings),
    /// Packets that no host sends.
    pub is_unheard_of: fn(&PeerPacket) -> bool,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    votes: BTreeMap<(usize, usize), Notification>,
    pub cut: BTreeSet<(usize, usize)>,
    outboxes: BTreeMap<(usize, u64, u32), Vec<u8>>,
    closed: BTreeSet<(usize, u64, u32)>,
}

impl Ensemble {
    /// Voters 1 to n, running.
    pub fn new(voters: usize, seed: u64) -> Ensemble {
        Ensemble::with(voters, 0, seed, |_, _| {})
    }

    pub fn with(
        voters: usize,
        observers: usize,
        seed: u64,
        change: fn(&mut Settings, &mut EnsembleSettings),
    ) -> Ensemble {
        let member = |n: usize| {
            let role = if n <= voters { "participant" } else { "observer" };
            Member::parse(&format!("h{n}:2888:3888:{role};h{n}:2181")).unwrap()
        };
        let all = voters + observers;
        let members = (1..=all).map(|n| (ServerId(n as i64), member(n))).collect();
        let config = Arc::new(EnsembleConfig::majority(members, Zxid::ZERO));
        let host = |n: usize| Host {
            id: ServerId(n as i64),
            disk: Disk::default(),
            running: None,
            lives: 0,
            lazy: false,
        };
        let mut ensemble = Ensemble {
            hosts: (1..=all).map(host).collect(),
            now_ms: 0,
            rng: Rng::with_seed(seed),
            config,
            change,
            is_unheard_of: |_| false,
            links: BTreeMap::new(),
            next_link: 0,
            votes: BTreeMap::new(),
            cut: BTreeSet::new(),
            outboxes: BTreeMap::new(),
            closed: BTreeSet::new(),
        };
        for host in 0..all {
            ensemble.start(host);
        }
        ensemble
    }

    pub fn add_host(&mut self) -> usize {
        let id = ServerId(self.hosts.len() as i64 + 1);
        self.hosts.push(Host { id, disk: Disk::default(), running: None, lives: 0, lazy: false });
        self.hosts.len() - 1
    }

    fn now(&self, host: usize) -> Now {
        let started_ms = self.hosts[host].running.as_ref().map_or(self.now_ms, |running| running.started_ms);
        let mono = Duration::from_millis((self.now_ms - started_ms) as u64);
        Now { mono, wall_ms: 1_000_000 + self.now_ms }
    }

    pub fn start(&mut self, host: usize) {
        let config = Arc::clone(&self.config);
        self.start_with(host, config);
    }

    pub fn start_with(&mut self, host: usize, config: Arc<EnsembleConfig>) {
        let disk = &self.hosts[host].disk;
        let state = disk.recover();
        let last = state.tree.last_zxid();
        let id = self.hosts[host].id;
        let config = disk.committed.clone().unwrap_or(config);
        let mut ensemble = EnsembleSettings {
            seen: disk.seen.clone(),
            accepted_epoch: disk.accepted.unwrap_or(last.epoch()),
            current_epoch: disk.current.unwrap_or(last.epoch()),
            ..EnsembleSettings::standard(id, config)
        };
        let lives = self.hosts[host].lives + 1;
        let mut settings = Settings {
            tick_ms: TICK_MS,
            session_timeout_min_ms: 200,
            first_session: SessionId(id.0 << 56 | (lives as i64) << 32 | 1),
            reconfig: true,
            ..Settings::standard(host as u64 + 1)
        };
        (self.change)(&mut settings, &mut ensemble);
        let now = Now { mono: Duration::ZERO, wall_ms: 1_000_000 + self.now_ms };
        let mut fx = Effects::default();
        let node = Node::member(settings, ensemble, state, now, &mut fx);
        self.hosts[host].lives += 1;
        self.hosts[host].running = Some(Running {
            node,
            fx,
            work: VecDeque::new(),
            tasks: VecDeque::new(),
            snapshot: VecDeque::new(),
            writing: None,
            listens: false,
            serves_observers: false,
            conns: 0,
            started_ms: self.now_ms,
        });
        self.collect(host);
    }

    pub fn crash(&mut self, host: usize) {
        self.hosts[host].running = None;
        for link in self.links.values_mut() {
            for end in 0..2 {
                if link.ends[end].0 == host {
                    link.to[1 - end].push_back(Flight::Close);
                }
            }
        }
    }

    pub fn is_up(&self, host: usize) -> bool {
        self.hosts[host].running.is_some()
    }

    pub fn cut_off(&mut self, host: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.cut.insert((host.min(other), host.max(other)));
        }
    }

    /// What waited in cut links arrives now; some of them broke meanwhile.
    pub fn heal(&mut self) {
        for link in self.links.values_mut() {
            let [(a, _), (b, _)] = link.ends;
            if self.cut.contains(&(a.min(b), a.max(b))) && self.rng.bool() {
                link.to = [VecDeque::from([Flight::Close]), VecDeque::from([Flight::Close])];
            }
        }
        self.cut.clear();
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub fn status(&self, host: usize) -> Option<Status> {
        self.hosts[host].running.as_ref().map(|running| running.node.status())
    }

    pub fn leader(&self) -> Option<usize> {
        let leads = |host: &usize| {
            self.status(*host).is_some_and(|status| status.role == Role::Leading && status.serving)
        };
        (0..self.hosts.len()).filter(leads).max_by_key(|host| self.status(*host).unwrap().epoch)
    }

    pub fn step(&mut self, host: usize, input: Input<'_>) {
        let now = self.now(host);
        if let Some(running) = &mut self.hosts[host].running {
            running.node.step(now, input, &mut running.fx);
        }
        self.collect(host);
    }

    /// Carries effects out, as far as they do not take time.
    fn collect(&mut self, host: usize) {
        let lazy = self.hosts[host].lazy;
        let life = self.hosts[host].lives;
        let Some(running) = &mut self.hosts[host].running else { return };
        running.work.extend(running.fx.durable.drain(..));
        running.tasks.append(&mut running.fx.peers.tasks.drain(..).collect());
        running.snapshot.extend(running.fx.snapshot.drain(..));
        if let Some(listens) = running.fx.peers.listen.take() {
            running.listens = listens;
        }
        if let Some(serves) = running.fx.peers.listen_for_observers.take() {
            running.serves_observers = serves;
        }
        let links: Vec<LinkEffect> = running.fx.peers.links.drain(..).collect();
        let votes: Vec<_> = running.fx.peers.notifications.drain(..).collect();
        for conn in running.fx.dirty.drain(..).collect::<Vec<_>>() {
            let bytes = std::mem::take(running.fx.outbox(conn));
            self.outboxes.entry((host, life, conn.index)).or_default().extend(bytes);
        }
        let closes: Vec<ConnId> = running.fx.closes.drain(..).collect();
        for (to, vote) in votes {
            if let Some(to) = self.hosts.iter().position(|host| host.id == to) {
                self.votes.insert((host, to), vote);
            }
        }
        for effect in links {
            self.link_effect(host, effect);
        }
        for conn in closes {
            self.closed.insert((host, life, conn.index));
            self.step(host, Input::Closed { conn });
        }
        if !lazy {
            while self.work(host) {}
        }
    }

    fn link_effect(&mut self, host: usize, effect: LinkEffect) {
        let end_of = |ensemble: &Ensemble, link: LinkId| -> Option<usize> {
            let link = ensemble.links.get(&link.0)?;
            (0..2).find(|end| link.ends[*end] == (host, ensemble.hosts[host].lives))
        };
        match effect {
            LinkEffect::Dial { server, port, dial } => {
                let other = self.hosts.iter().position(|host| host.id == server);
                let is_open = |running: &Running| match port {
                    PeerPort::Quorum => running.listens,
                    PeerPort::ObserverMaster => running.serves_observers,
                };
                let there = other.filter(|other| {
                    !self.is_cut(host, *other) && self.hosts[*other].running.as_ref().is_some_and(is_open)
                });
                let Some(other) = there else {
                    return self.step(host, Input::Peer(PeerInput::DialFailed { dial }));
                };
                self.next_link += 1;
                let link = LinkId(self.next_link);
                self.links.insert(
                    link.0,
                    Link {
                        ends: [(host, self.hosts[host].lives), (other, self.hosts[other].lives)],
                        to: [VecDeque::new(), VecDeque::new()],
                        streams: [PeerStream::from_leader(FIELD_MAX), PeerStream::from_learner(FIELD_MAX)],
                    },
                );
                let came = match port {
                    PeerPort::Quorum => PeerInput::LinkOpened { link, dial: None },
                    PeerPort::ObserverMaster => PeerInput::ObserverLinkOpened { link },
                };
                self.step(other, Input::Peer(came));
                self.step(host, Input::Peer(PeerInput::LinkOpened { link, dial: Some(dial) }));
            }
            LinkEffect::Send(_, packet) if (self.is_unheard_of)(&packet) => {}
            LinkEffect::Send(link, packet) => {
                let Some(end) = end_of(self, link) else { return };
                let mut bytes = Vec::new();
                packet.encode(&mut bytes);
                self.links.get_mut(&link.0).unwrap().to[1 - end].push_back(Flight::Bytes(bytes));
            }
            LinkEffect::Snapshot(link, bytes) => {
                let Some(end) = end_of(self, link) else { return };
                self.links.get_mut(&link.0).unwrap().to[1 - end].push_back(Flight::Slice(bytes));
            }
            LinkEffect::Close(link) => {
                let Some(end) = end_of(self, link) else { return };
                let link = self.links.get_mut(&link.0).unwrap();
                link.ends[end] = (usize::MAX, 0);
                link.to[1 - end].push_back(Flight::Close);
            }
        }
    }

    /// Asks a host to hand leadership over.
    pub fn hand_over(&mut self, host: usize, to: Option<usize>) -> Result<ServerId, HandOverRefused> {
        let to = to.map(|to| self.hosts[to].id);
        let now = self.now(host);
        let running = self.hosts[host].running.as_mut().unwrap();
        running.node.step(now, Input::Query(QueryId(1), Query::HandOver { to }), &mut running.fx);
        let Some((_, Answer::HandOver(answer))) = running.fx.answers.pop() else { panic!("no answer") };
        self.collect(host);
        answer
    }

    /// Has a learner say something to its leader that ours never say.
    pub fn forge(&mut self, learner: usize, packet: PeerPacket) {
        let leader = self.leader().unwrap();
        let link = self.link_to_leader(learner);
        self.step(leader, Input::Peer(PeerInput::Packet { link, packet }));
    }

    /// Whether a part of a snapshot is on its way to a host.
    pub fn is_streaming_to(&self, host: usize) -> bool {
        self.links.values().any(|link| {
            (0..2).any(|end| {
                link.ends[end].0 == host
                    && link.to[end].iter().any(|flight| matches!(flight, Flight::Slice(_)))
            })
        })
    }

    /// The same from a leader to a learner.
    pub fn forge_from_leader(&mut self, learner: usize, packet: PeerPacket) {
        let link = self.link_to_leader(learner);
        self.step(learner, Input::Peer(PeerInput::Packet { link, packet }));
    }

    /// The open link that a host has dialled to another one, if there is one.
    pub fn link_between(&self, from: usize, to: usize) -> Option<LinkId> {
        let ends = [from, to].map(|host| (host, self.hosts[host].lives));
        self.links.iter().rfind(|(_, link)| link.ends == ends).map(|(id, _)| LinkId(*id))
    }

    /// Tells a host that a packet came on a link.
    pub fn packet_comes(&mut self, host: usize, link: LinkId, packet: PeerPacket) {
        self.step(host, Input::Peer(PeerInput::Packet { link, packet }));
    }

    /// The newest link of a learner to its leader.
    pub fn link_to_leader(&self, learner: usize) -> LinkId {
        let ends = [learner, self.leader().unwrap()].map(|host| (host, self.hosts[host].lives));
        let found = self.links.iter().rfind(|(_, link)| link.ends == ends);
        LinkId(*found.unwrap().0)
    }

    /// Does one piece of what a host's disk is to do; false if there is none.
    pub fn work(&mut self, host: usize) -> bool {
        let disk_host = &mut self.hosts[host];
        let Some(running) = &mut disk_host.running else { return false };
        if let Some(step) = running.snapshot.pop_front() {
            let mut done = None;
            match step {
                SnapshotStep::Begin(start) => running.writing = Some((start.zxid, Vec::new())),
                SnapshotStep::Slice { bytes, last } => {
                    if let Some((_, written)) = &mut running.writing {
                        written.extend(bytes);
                        if last {
                            disk_host.disk.snapshot = running.writing.take();
                        }
                        done = (!last).then_some(Input::SliceWritten);
                    }
                }
                SnapshotStep::Abandon => running.writing = None,
            }
            if let Some(done) = done {
                self.step(host, done);
            }
            return true;
        }
        if let Some((ticket, work)) = running.work.pop_front() {
            let looks_at_snapshots = matches!(work, Durable::InstallSnapshot(_) | Durable::Truncate(_));
            if looks_at_snapshots && running.writing.is_some() {
                running.work.push_front((ticket, work));
                return false;
            }
            if let Durable::Truncate(zxid) = work
                && disk_host.disk.snapshot.as_ref().is_some_and(|(at, _)| *at > zxid)
            {
                self.step(host, Input::Peer(PeerInput::CannotTruncate { zxid }));
            } else {
                disk_host.disk.do_work(work);
            }
            self.step(host, Input::Persisted(ticket));
            return true;
        }
        if let Some(task) = running.tasks.pop_front() {
            let input = match task {
                Task::Reload { task } => {
                    PeerInput::Reloaded { task, state: Box::new(disk_host.disk.recover()) }
                }
                Task::ReadLog { task, from, .. } => {
                    let log = &disk_host.disk.log;
                    let first = log.iter().rposition(|record| record.zxid <= from);
                    PeerInput::LogRead { task, records: first.map(|first| log[first..].to_vec()) }
                }
            };
            self.step(host, Input::Peer(input));
            return true;
        }
        false
    }

    /// Delivers one thing, chosen at random; false if nothing is on its way.
    pub fn deliver(&mut self) -> bool {
        let waiting: Vec<(u64, usize)> = self
            .links
            .iter()
            .filter(|(_, link)| {
                link.ends.iter().any(|end| end.0 == usize::MAX)
                    || !self.is_cut(link.ends[0].0, link.ends[1].0)
            })
            .flat_map(|(id, link)| (0..2).filter(|end| !link.to[*end].is_empty()).map(|end| (*id, end)))
            .collect();
        let all = waiting.len() + self.votes.len();
        if all == 0 {
            return false;
        }
        let chosen = self.rng.usize(..all);
        if chosen >= waiting.len() {
            let key = *self.votes.keys().nth(chosen - waiting.len()).unwrap();
            let vote = self.votes.remove(&key).unwrap();
            if !self.is_cut(key.0, key.1) {
                let from = self.hosts[key.0].id;
                self.step(key.1, Input::Notification { from, message: Ok(vote) });
            }
            return true;
        }
        let (id, end) = waiting[chosen];
        self.deliver_on(id, end);
        true
    }

    fn deliver_on(&mut self, id: u64, end: usize) {
        let link = self.links.get_mut(&id).unwrap();
        let flight = link.to[end].pop_front().unwrap();
        let (to, from) = (link.ends[end], link.ends[1 - end]);
        let there =
            to.0 != usize::MAX && self.hosts[to.0].running.is_some() && self.hosts[to.0].lives == to.1;
        if !there {
            link.to[end].clear();
            return;
        }
        let bytes = match flight {
            Flight::Close => {
                link.ends[end] = (usize::MAX, 0);
                return self.step(to.0, Input::Peer(PeerInput::LinkClosed { link: LinkId(id) }));
            }
            Flight::Bytes(bytes) => bytes,
            Flight::Slice(bytes) => {
                if from.0 != usize::MAX && self.hosts[from.0].lives == from.1 {
                    self.step(from.0, Input::Peer(PeerInput::LinkWritable { link: LinkId(id) }));
                }
                bytes
            }
        };
        self.links.get_mut(&id).unwrap().streams[end].push(&bytes);
        while let Some(item) = self.links.get_mut(&id).unwrap().streams[end].next_item().unwrap() {
            let link = LinkId(id);
            if self.links[&id].ends[end] != to {
                return;
            }
            let input = match item {
                PeerItem::Packet(packet) => PeerInput::Packet { link, packet },
                PeerItem::Snapshot(item) => PeerInput::Snapshot { link, item },
            };
            self.step(to.0, Input::Peer(input));
        }
    }

    /// Lets everything arrive, and time pass.
    pub fn run(&mut self, ms: i64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            for _ in 0..10_000 {
                if !self.deliver() {
                    break;
                }
            }
            let deadlines = (0..self.hosts.len()).filter_map(|host| {
                let running = self.hosts[host].running.as_ref()?;
                Some(running.started_ms.saturating_add(running.node.deadline().as_millis() as i64))
            });
            let next_ms = deadlines.min().unwrap_or(end_ms).clamp(self.now_ms + 1, end_ms);
            self.now_ms = next_ms;
            self.tick();
        }
    }

    /// Tells those whose time has come.
    pub fn tick(&mut self) {
        for host in 0..self.hosts.len() {
            let due = self.hosts[host].running.as_ref().is_some_and(|running| {
                running.started_ms.saturating_add(running.node.deadline().as_millis() as i64) <= self.now_ms
            });
            if due {
                self.step(host, Input::Tick);
            }
        }
    }

    /// Runs until something is so; fails after ten seconds.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Ensemble) -> bool) {
        for _ in 0..2000 {
            if is_so(self) {
                return;
            }
            self.run(5);
        }
        panic!("{what} did not happen; {}", self.describe());
    }

    pub fn describe(&self) -> String {
        let of = |host: usize| {
            let Some(status) = self.status(host) else { return format!("{}: down", host + 1) };
            format!(
                "{}: {:?} of {:?} epoch {} applied {} logged {} znodes {}",
                host + 1,
                status.role,
                status.leader,
                status.epoch.0,
                status.last_zxid,
                status.last_logged,
                status.znodes
            )
        };
        (0..self.hosts.len()).map(of).collect::<Vec<_>>().join("; ")
    }

    /// Runs until every host that is up serves.
    #[track_caller]
    pub fn settle(&mut self) {
        self.until("everybody serves", |ensemble| {
            ensemble.leader().is_some()
                && (0..ensemble.hosts.len())
                    .all(|host| ensemble.status(host).is_none_or(|status| status.serving))
        });
    }

    /// Fails unless everybody who is up has the same state.
    #[track_caller]
    pub fn assert_level(&mut self) {
        self.run(2 * TICK_MS);
        let states: BTreeSet<_> = (0..self.hosts.len())
            .filter_map(|host| self.status(host))
            .map(|status| {
                (status.last_zxid, status.digest, status.znodes, status.sessions, status.ephemerals)
            })
            .collect();
        assert_eq!(states.len(), 1, "{states:?}; {}", self.describe());
    }

    fn open(&mut self, host: usize) -> At {
        let life = self.hosts[host].lives;
        let running = self.hosts[host].running.as_mut().unwrap();
        running.conns += 1;
        let conn = ConnId { index: running.conns, generation: 1 };
        let peer = (IpAddr::V4(Ipv4Addr::LOCALHOST), 1000);
        self.step(host, Input::Opened { conn, peer, identities: Vec::new() });
        At { host, conn, life }
    }

    /// Begins to connect.
    pub fn connect(&mut self, host: usize, session: SessionId, timeout_ms: i32) -> At {
        self.shake_hands(host, session, timeout_ms, false)
    }

    /// The same for a client that is content with reading.
    pub fn connect_reading(&mut self, host: usize, session: SessionId, timeout_ms: i32) -> At {
        self.shake_hands(host, session, timeout_ms, true)
    }

    fn shake_hands(&mut self, host: usize, session: SessionId, timeout_ms: i32, reading: bool) -> At {
        let at = self.open(host);
        let password = session::password(session);
        let mut frame = Vec::new();
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid(0),
            timeout_ms,
            session_id: session,
            password: Some(&password),
            read_only: Some(reading),
        }
        .encode(&mut frame);
        self.step(host, Input::Frame { conn: at.conn, bytes: &frame });
        at
    }

    pub fn take_bytes(&mut self, at: At) -> Vec<u8> {
        self.outboxes.remove(&(at.host, at.life, at.conn.index)).unwrap_or_default()
    }

    pub fn is_closed(&self, at: At) -> bool {
        self.hosts[at.host].lives != at.life
            || !self.is_up(at.host)
            || self.closed.contains(&(at.host, at.life, at.conn.index))
    }

    /// A client's session at a host.
    #[track_caller]
    pub fn client(&mut self, host: usize, timeout_ms: i32) -> (At, SessionId) {
        let at = self.connect(host, SessionId::NONE, timeout_ms);
        self.until("the session opens", |e| e.outboxes.contains_key(&(at.host, at.life, at.conn.index)));
        let bytes = self.take_bytes(at);
        (at, ConnectResponse::decode(&bytes[4..]).unwrap().session_id)
    }

    /// Takes a session up again; false if it is refused.
    #[track_caller]
    pub fn reattach(&mut self, host: usize, session: SessionId, timeout_ms: i32) -> (At, bool) {
        let at = self.connect(host, session, timeout_ms);
        self.until("an answer", |e| {
            e.outboxes.contains_key(&(at.host, at.life, at.conn.index)) || e.is_closed(at)
        });
        let bytes = self.take_bytes(at);
        let taken = bytes.len() > 4 && ConnectResponse::decode(&bytes[4..]).unwrap().session_id == session;
        (at, taken)
    }

    pub fn send(&mut self, at: At, xid: i32, request: &Request<'_>) {
        if self.hosts[at.host].lives != at.life {
            return;
        }
        let mut frame = Vec::new();
        RequestHeader { xid: Xid(xid), op: request.op().number() }.encode(&mut frame);
        request.encode(&mut frame);
        self.step(at.host, Input::Frame { conn: at.conn, bytes: &frame });
    }

    pub fn seen(&mut self, at: At) -> Vec<Seen> {
        let out = self.take_bytes(at);
        let mut all = Vec::new();
        let mut rest = &out[..];
        while let Some((len, more)) = rest.split_first_chunk::<4>() {
            let (frame, more) = more.split_at(u32::from_be_bytes(*len) as usize);
            rest = more;
            let mut reader = Reader::new(frame);
            let header = ReplyHeader::decode(&mut reader).unwrap();
            all.push(if header.xid == Xid::EVENT {
                let event = WatcherEvent::decode(&mut reader).unwrap();
                Seen::Event(header.zxid.0, event.kind.number(), event.path.into_owned())
            } else {
                Seen::Reply(header.xid.0, header.zxid.0, header.err)
            });
        }
        all
    }

    /// Sends a request and waits for its reply.
    #[track_caller]
    pub fn ask(&mut self, at: At, xid: i32, request: &Request<'_>) -> ErrorCode {
        self.send(at, xid, request);
        for _ in 0..2000 {
            for seen in self.seen(at) {
                if let Seen::Reply(of, _, code) = seen
                    && of == xid
                {
                    return code;
                }
            }
            self.run(5);
        }
        panic!("no reply to {request:?}; {}", self.describe());
    }
}
