//! The worlds that are explored beside agreement, replayed with whole servers.
//!
//! The explorer lets the bare core of agreement take steps, and models what is around it: disks that are lists, links
//! that are queues. Here whole servers take the same steps: the real node, log, snapshots and recovery, packets as
//! bytes, and the simulator's own network and disk, of which the replay picks what happens next. After every step both
//! must have come to the same: roles, epochs and logs on disk, and every packet the same and in the same order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use oxkeeper_node::{Input, PeerInput, Role};
use oxkeeper_proto::peer::notification::ServerState;
use oxkeeper_proto::peer::stream::{PeerItem, PeerStream};
use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{ConnectRequest, Epoch, PeerPacket, SessionId, Txn, TxnHeader, TxnRecord, Xid, Zxid};
use oxkeeper_storage::{Directories, EpochFile, LogOptions, TxnLog};

use super::{Clock, DATA, Incoming, Server, ServerEvent, ServerHabits};
use crate::boot::{RECORD_BYTES_MAX, boot};
use crate::chance::Chance;
use crate::durable::DurableLog;
use crate::history::History;
use crate::network::{Arrival, Host, LinkId, NetEvent, Network, Packet, Port, Side, Weather};
use crate::observer::Observer;
use crate::queue::{MS, Queue, SECOND};
use crate::swarm::ensemble_of;
use crate::trace::Trace;
use crate::world::{Counts, Event, Losses, Stage};

#[path = "../../../zab/tests/explore/agreement.rs"]
mod agreement;
#[path = "../../../zab/tests/explore/search.rs"]
#[allow(dead_code, reason = "replays take single walks")]
mod search;

use agreement::{Agreements, Arriving, Reached, Start, Step, votes_for};
use search::{Bounds, Model};

const VOTERS: usize = 3;
const TICK_MS: i64 = 1000;
/// Longer than any role waits for others, and shorter than a session lives.
const TOO_LONG: u64 = 11 * SECOND;
const CALM: Weather = Weather { floor: MS, mean: 0, tail: 0.0, split: 0.0, bandwidth: 0 };

const HABITS: ServerHabits = ServerHabits {
    tick_ms: TICK_MS,
    snap_count: 1_000_000,
    prepare_bytes: 0,
    log_bytes_max: 0,
    turn: 0,
    sync: MS,
    extended_types: false,
    keep: 1000,
    force_snapshot: false,
    log_sync_bytes: 1 << 20,
    reconfig: false,
    read_only: false,
    local_sessions: false,
    local_upgrade: false,
    observer_masters: None,
};

/// Whole servers, of whom only that happens which is picked.
struct Puppets {
    stage: Stage,
    servers: Vec<Server>,
    /// What the explorer calls a link, and what the network does.
    links: BTreeMap<oxkeeper_zab::LinkId, LinkId>,
    clients: u64,
    /// Whom the oracle lets go on alone.
    chosen: Option<usize>,
    has_oracle: bool,
}

/// The history that disks of explored worlds begin with: a session that opens, each time.
fn old_record(counter: u32) -> Vec<u8> {
    let header = TxnHeader {
        session: SessionId(7_000 + i64::from(counter)),
        cxid: Xid(0),
        zxid: Zxid::new(1, counter),
        time: 1_700_000_000_000,
        op: oxkeeper_proto::OpCode::CreateSession,
    };
    let timeout_ms = i32::try_from(20 * TICK_MS).unwrap();
    let mut payload = Vec::new();
    TxnRecord { header, txn: Txn::CreateSession { timeout_ms }, digest: None }.encode(&mut payload);
    payload
}

impl Puppets {
    fn new(world: &Agreements) -> Puppets {
        let voters = if world.choices.is_some() { 2 } else { VOTERS };
        let ensemble = ensemble_of(VOTERS, voters);
        let text = ensemble.to_string();
        let ensemble = Some(Arc::new(ensemble));
        let mut stage = Stage {
            queue: Queue::default(),
            net: Network::new(Chance::new(1), CALM),
            history: History::default(),
            observer: Observer::new(VOTERS, Some(&text), false),
            trace: Trace::of(400),
            counts: Counts::default(),
            lost_power: Losses::new(),
            short_of_disk: false,
            must_stay: false,
        };
        if world.choices.is_some() {
            stage.observer.word_is(None);
            stage.observer.elections_are_made_up();
        }
        // Clocks of servers will jump, and there must be room before the start for that.
        assert!(stage.queue.pop(100_000 * SECOND).is_none());
        let habits = ServerHabits { force_snapshot: world.snapshots, ..HABITS };
        let servers = (0..VOTERS).map(|index| {
            let clock = Clock { rate: 1.0, wall_offset_ms: 0 };
            let mut server = Server::new(index, habits, ensemble.clone(), clock, Chance::new(index as u64));
            server.in_steps = true;
            if let Some(start) = world.starts.get(index) {
                fill(&server, *start);
            }
            server
        });
        let servers = servers.collect();
        let mut puppets =
            Puppets { stage, servers, links: BTreeMap::new(), clients: 0, chosen: None, has_oracle: false };
        puppets.has_oracle = world.choices.is_some();
        for server in 0..world.starts.len() {
            puppets.start(server);
        }
        puppets.settle();
        puppets
    }

    fn start(&mut self, server: usize) {
        let one = &mut self.servers[server];
        one.start(&mut self.stage);
        if self.has_oracle {
            one.step(&mut self.stage, Input::Peer(PeerInput::Oracle(self.chosen == Some(server))));
            one.carry_out(&mut self.stage);
        }
    }

    /// Everything that explored worlds do at once.
    fn settle(&mut self) {
        loop {
            while let Some((host, link, side, arrival)) = self.stage.net.take_arrival() {
                if let Host::Server(index) = host {
                    self.servers[index].arrived(&mut self.stage, link, side, arrival);
                }
            }
            let is_at_once = |event: &Event| matches!(event, Event::Server(_, _, ServerEvent::Turn));
            if let Some(Event::Server(index, life, event)) = self.stage.queue.take_first(is_at_once) {
                let server = &mut self.servers[index];
                if server.is_current(life) {
                    // Votes come from the replay alone.
                    let process = server.process.as_mut().unwrap();
                    process.inbox.retain(|incoming| !matches!(incoming, Incoming::Vote(..)));
                    server.wake(&mut self.stage, event);
                }
            } else if !self.read_disks() {
                return;
            }
        }
    }

    /// What is only read does not wait for durable work; tells whether there was something.
    fn read_disks(&mut self) -> bool {
        for server in &mut self.servers {
            let Some(process) = &mut server.process else { continue };
            let is_task = |work: &super::Work| matches!(work, super::Work::Task(_));
            let task = if process.working.first().is_some_and(is_task) {
                // The log thread is free again, and nobody else tells it.
                let (index, life) = (server.index, server.life);
                let is_this = |event: &Event| matches!(event, Event::Server(i, l, ServerEvent::Durable) if (*i, *l) == (index, life));
                self.stage.queue.take_first(is_this);
                process.working.pop()
            } else {
                process.work.iter().position(is_task).and_then(|place| process.work.remove(place))
            };
            if let Some(super::Work::Task(task)) = task {
                server.do_task(&mut self.stage, task);
                server.carry_out(&mut self.stage);
                return true;
            }
        }
        false
    }

    /// Lets the first event of a kind happen; tells whether there was one.
    fn happen(&mut self, is_wanted: impl Fn(&Network, &Event) -> bool) -> bool {
        let Puppets { stage, servers, .. } = self;
        let Stage { queue, net, .. } = stage;
        match queue.take_first(|event| is_wanted(net, event)) {
            Some(Event::Net(event)) => stage.net.handle(&mut stage.queue, event),
            Some(Event::Server(index, _, event)) => servers[index].wake(stage, event),
            _ => return false,
        }
        self.settle();
        true
    }

    fn take(&mut self, before: &agreement::World, after: &agreement::World, step: Step) {
        match step {
            Step::Lead(server) => self.elect(before, server, server),
            Step::Follow(server, leader) => self.elect(before, server, leader),
            Step::Connect(learner) => self.connect(before, after, learner),
            Step::Deliver(link, to_leader) => self.deliver(before, link, to_leader),
            Step::Persist(server) => self.persist(server),
            Step::Propose(server) => self.propose(server),
            Step::Choose(server) => self.choose(server),
            Step::Reconfigure(_) | Step::HandOver(..) => unreachable!("worlds that change are not replayed"),
            Step::Resign(server) => self.resign(before, server),
            Step::Crash(server) => self.servers[server].crash(&mut self.stage, false),
            Step::Restart(server) => self.start(server),
        }
        self.settle();
    }

    /// Lets the log thread do one piece of work. A state that came is written before it is installed.
    fn persist(&mut self, server: usize) {
        let life = self.servers[server].life;
        let is_this = |event: &Event, wanted: ServerEvent| match event {
            Event::Server(index, its_life, event) => (*index, *its_life, *event) == (server, life, wanted),
            _ => false,
        };
        while !self.happen(|_, event| is_this(event, ServerEvent::Durable)) {
            let writes = self.happen(|_, event| is_this(event, ServerEvent::Housekeeping));
            assert!(writes, "nothing to make durable");
        }
    }

    /// The oracle has chosen one of two.
    fn choose(&mut self, server: usize) {
        self.chosen = Some(server);
        self.stage.observer.word_is(Some(server));
        for (index, says) in [(1 - server, false), (server, true)] {
            let one = &mut self.servers[index];
            one.step(&mut self.stage, Input::Peer(PeerInput::Oracle(says)));
            one.carry_out(&mut self.stage);
        }
    }

    /// Nothing was heard for too long. Who waits for his own disk waits on; for him a link breaks.
    fn resign(&mut self, before: &agreement::World, server: usize) {
        let Puppets { stage, servers, links, .. } = self;
        let one = &mut servers[server];
        one.process.as_mut().unwrap().started -= TOO_LONG;
        one.step(stage, Input::Tick);
        one.carry_out(stage);
        let is_learners =
            |name: &oxkeeper_zab::LinkId| before.ends(*name).is_some_and(|ends| ends[0] == server);
        if matches!(one.role(), Some((Role::Following, ..)))
            && let Some((_, link)) = links.iter().rfind(|(name, _)| is_learners(name))
        {
            stage.net.close(&mut stage.queue, *link, Side::Dialler);
            one.arrived(stage, *link, Side::Dialler, Arrival::Closed);
        }
    }

    fn elect(&mut self, before: &agreement::World, server: usize, leader: usize) {
        for (from, message) in votes_for(before, server, leader) {
            self.servers[server].step(&mut self.stage, Input::Notification { from, message: Ok(message) });
        }
        self.servers[server].carry_out(&mut self.stage);
    }

    fn connect(&mut self, before: &agreement::World, after: &agreement::World, learner: usize) {
        let leader = before.dialled(learner).unwrap();
        let hosts = [Host::Server(learner), Host::Server(leader)];
        let mut dialled = None;
        let is_dial = |net: &Network, event: &Event| matches!(event, Event::Net(NetEvent::Dial(id)) if net.describe(*id) == Some((hosts, Port::Quorum)));
        let Stage { queue, net, .. } = &mut self.stage;
        if let Some(Event::Net(NetEvent::Dial(id))) = queue.take_first(|event| is_dial(net, event)) {
            dialled = Some(id);
            net.handle(queue, NetEvent::Dial(id));
        }
        let dialled = dialled.expect("no dial");
        self.settle();
        self.links.insert(after.newest_link(), dialled);
        let is_answer = |_: &Network, event: &Event| matches!(event, Event::Net(NetEvent::Packet(id, Side::Dialler, _, Packet::Accept)) if *id == dialled);
        assert!(self.happen(is_answer), "the leader does not answer");
    }

    fn deliver(&mut self, before: &agreement::World, name: oxkeeper_zab::LinkId, to_leader: bool) {
        let link = self.links[&name];
        let side = if to_leader { Side::Acceptor } else { Side::Dialler };
        let [learner, leader] = before.ends(name).unwrap();
        let receiver = if to_leader { leader } else { learner };
        let expected = before.arriving(name, to_leader).unwrap();
        loop {
            let is_here = |event: &Event| matches!(event, Event::Net(NetEvent::Packet(id, to, ..)) if (*id, *to) == (link, side));
            let event = self.stage.queue.take_first(is_here);
            let Some(Event::Net(event)) = event else { panic!("nothing arrives instead of {expected:?}") };
            let NetEvent::Packet(_, _, _, packet) = &event else { unreachable!("only packets are taken") };
            let is_ping = match (packet, &expected) {
                (Packet::Close, Arriving::Closed) | (Packet::Bytes(_), Arriving::State) => false,
                (Packet::Bytes(bytes), _) => {
                    let packet = read(bytes, to_leader);
                    let is_ping = matches!(packet, PeerPacket::Ping { .. });
                    assert!(is_ping || is_same(&packet, &expected), "{packet:?} instead of {expected:?}");
                    is_ping
                }
                other => panic!("{other:?}"),
            };
            self.stage.net.handle(&mut self.stage.queue, event);
            self.settle();
            let process = self.servers[receiver].process.as_ref();
            let more = matches!(expected, Arriving::State)
                && process.is_some_and(|process| process.peers.awaits_snapshot(link));
            if !is_ping && !more {
                return;
            }
        }
    }

    /// A session opens: that is a transaction of its own.
    fn propose(&mut self, server: usize) {
        self.clients += 1;
        let link = LinkId(1 << 40 | self.clients);
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: i32::MAX,
            session_id: SessionId::NONE,
            password: Some(&[0; 16]),
            read_only: Some(false),
        };
        let mut frame = Vec::new();
        put_frame(&mut frame, |out| request.encode(out));
        let (one, stage) = (&mut self.servers[server], &mut self.stage);
        let from = Arrival::Accepted { from: Host::Client(0), port: Port::Client };
        one.take_in(stage, link, Side::Acceptor, from);
        one.take_in(stage, link, Side::Acceptor, Arrival::Bytes(frame));
        one.carry_out(stage);
    }

    fn reached(&self, server: usize) -> Reached {
        let one = &self.servers[server];
        let role = one.role().map(|(role, serves, _)| {
            let state = match role {
                Role::Leading => ServerState::Leading,
                Role::Following => ServerState::Following,
                Role::Observing => ServerState::Observing,
                Role::Standalone | Role::Looking | Role::ReadOnly => ServerState::Looking,
            };
            (state, serves)
        });
        let disk = one.disk.after_kill();
        let epoch = |file: EpochFile| {
            file.read(&disk, &Path::new(DATA).join("version-2")).unwrap().unwrap_or(Epoch(0))
        };
        let mut log = DurableLog::default();
        log.refresh(&disk);
        Reached {
            role,
            epochs: (epoch(EpochFile::Accepted), epoch(EpochFile::Current)),
            last: log.last(),
            logged: log.after_snapshot(),
        }
    }
}

/// Makes the disk that a server starts on.
fn fill(server: &Server, start: Start) {
    let disk: Arc<dyn oxkeeper_storage::Disk> = Arc::new(server.disk.clone());
    let dirs = Directories::new(disk.clone(), Path::new(DATA), Path::new(DATA));
    boot(&dirs, server.rules(), 1, true).unwrap();
    let mut log =
        TxnLog::new(disk, dirs.logs.clone(), LogOptions { prepare_bytes: 0, sync: true, file_bytes_max: 0 });
    for counter in 1..=start.txns {
        log.append(Zxid::new(1, counter), &old_record(counter));
    }
    log.commit().unwrap();
    for file in [EpochFile::Accepted, EpochFile::Current] {
        file.write(&*dirs.disk, &dirs.snapshots, Epoch(start.epoch)).unwrap();
    }
}

fn read(bytes: &[u8], to_leader: bool) -> PeerPacket {
    let from = if to_leader { PeerStream::from_learner } else { PeerStream::from_leader };
    let mut stream = from(RECORD_BYTES_MAX);
    stream.push(bytes);
    match stream.next_item() {
        Ok(Some(PeerItem::Packet(packet))) if stream.buffered() == 0 => packet,
        other => panic!("no single packet: {other:?}"),
    }
}

/// Whether two packets say the same: transactions are other ones in explored worlds, and so are addresses.
fn is_same(packet: &PeerPacket, expected: &Arriving) -> bool {
    let Arriving::Packet(expected) = expected else { return false };
    match (packet, expected) {
        (PeerPacket::Proposal { zxid, .. }, PeerPacket::Proposal { zxid: other, .. }) => zxid == other,
        (PeerPacket::NewLeader { epoch, .. }, PeerPacket::NewLeader { epoch: other, .. }) => epoch == other,
        (packet, expected) => packet == expected,
    }
}

/// An explored world and whole servers that do the same.
struct Pair<'a> {
    model: &'a Agreements,
    world: agreement::World,
    puppets: Puppets,
    way: Vec<Step>,
}

impl Pair<'_> {
    fn new(model: &Agreements) -> Pair<'_> {
        Pair { model, world: model.initial(), puppets: Puppets::new(model), way: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        let before = self.world.clone();
        self.model.take(&mut self.world, step).unwrap();
        self.way.push(step);
        let taken = panic::catch_unwind(AssertUnwindSafe(|| self.puppets.take(&before, &self.world, step)));
        assert!(taken.is_ok(), "in {}", self.story());
        self.compare().unwrap();
    }

    /// Tells where the two have not come to the same.
    fn compare(&self) -> Result<(), String> {
        let observer = &self.puppets.stage.observer;
        if let Some(violation) = &observer.violation {
            return Err(format!("{violation:?} after {}", self.story()));
        }
        for server in 0..VOTERS {
            let (real, explored) = (self.puppets.reached(server), self.world.reached(server));
            if real != explored {
                let what = format!("server {server} comes to {real:?}, explored is {explored:?}");
                return Err(format!("{what}, after {}", self.story()));
            }
        }
        Ok(())
    }

    fn story(&self) -> String {
        let steps: Vec<String> = self.way.iter().map(|step| format!("{step:?}")).collect();
        format!("{}\n{}", steps.join("\n"), self.puppets.stage.trace.lines().join("\n"))
    }
}

/// Takes random steps, `count` times from the start until nothing can happen any more.
fn walks(name: &str, model: &Agreements, count: usize) {
    let mut random = 0x0dd5_eed5_u64;
    let mut taken = 0;
    for _ in 0..count {
        let mut pair = Pair::new(model);
        loop {
            let steps = model.steps(&pair.world);
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let place = usize::try_from(random >> 33).unwrap() % steps.len().max(1);
            let Some(step) = steps.get(place) else { break };
            pair.take(*step);
        }
        taken += pair.way.len();
    }
    println!("replayed {name}: {count} walks, {taken} steps");
    assert!(taken > count * 10);
}

/// Passes the nearest states by the shortest ways.
fn nearest(name: &str, model: &Agreements, states_max: usize) {
    let ways = search::ways(model, Bounds { states_max, recovery_every: usize::MAX }).unwrap();
    let mut taken = 0;
    for way in &ways {
        let mut pair = Pair::new(model);
        way.iter().for_each(|step| pair.take(*step));
        taken += way.len();
    }
    println!("replayed {name}: {states_max} states on {} ways, {taken} steps", ways.len());
    assert!(ways.len() > 100);
}

const WORLD: Agreements = Agreements {
    starts: Vec::new(),
    leads: 2,
    follows: 4,
    txns: 2,
    crashes: 1,
    resigns: 1,
    snapshots: false,
    change: None,
    hand_overs: 0,
    choices: None,
};

fn starts(all: &[(u32, i64)]) -> Vec<Start> {
    all.iter().map(|(txns, epoch)| Start { txns: *txns, epoch: *epoch }).collect()
}

#[test]
fn two_servers() {
    let behind = Agreements { starts: starts(&[(1, 1), (2, 1)]), ..WORLD };
    nearest("two servers of which one is behind", &behind, 6_000);
    walks("two servers of which one is behind", &behind, 500);
    walks("two new servers", &Agreements { starts: starts(&[(0, 0), (0, 0)]), ..WORLD }, 500);
}

#[test]
fn three_servers_one_with_a_tail_that_nobody_took() {
    let world = Agreements { starts: starts(&[(3, 1), (1, 2), (1, 2)]), leads: 3, follows: 6, ..WORLD };
    nearest("three servers, one with a tail", &world, 6_000);
    walks("three servers, one with a tail", &world, 500);
    walks("the same by snapshots", &Agreements { snapshots: true, ..world }, 500);
}

#[test]
fn three_servers_that_fall() {
    let world = Agreements { leads: 3, follows: 6, crashes: 2, resigns: 2, txns: 3, ..WORLD };
    walks("three new servers", &Agreements { starts: starts(&[(0, 0); 3]), ..world.clone() }, 500);
    walks(
        "three servers, one behind",
        &Agreements { starts: starts(&[(2, 1), (1, 1), (2, 1)]), ..world },
        500,
    );
}

#[test]
fn one_of_two_that_an_oracle_chooses() {
    // Whom the oracle lets go on does not give up because nobody answers.
    let world =
        Agreements { leads: 3, follows: 3, txns: 3, crashes: 2, resigns: 0, choices: Some(2), ..WORLD };
    nearest(
        "two new servers and an oracle",
        &Agreements { starts: starts(&[(0, 0); 2]), ..world.clone() },
        4_000,
    );
    walks("two servers and an oracle", &Agreements { starts: starts(&[(1, 1), (2, 1)]), ..world }, 500);
}

#[test]
fn a_server_that_does_not_do_the_same_is_noticed() {
    let model = Agreements { starts: starts(&[(1, 1), (2, 1)]), ..WORLD };
    let mut pair = Pair::new(&model);
    pair.take(Step::Lead(1));
    model.take(&mut pair.world, Step::Crash(0)).unwrap();
    assert!(pair.compare().unwrap_err().starts_with("server 0 comes to "));
}
