//! A world: servers, clients, a network and disks in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;

use oxkeeper_proto::{Request, SessionId};

use crate::chance::Chance;
use crate::client::{Client, ClientEvent};
use crate::convergence::Patience;
use crate::faults::{FaultKind, Planner};
use crate::history::{History, Seen};
use crate::judge::Judge;
use crate::manners::Manners;
use crate::network::{Host, NetEvent, Network};
use crate::observer::Observer;
use crate::operator::{Operation, Operator};
use crate::process::{Clock, Server, ServerEvent};
use crate::queue::{MS, Nanos, Queue, SECOND};
use crate::slow::{Moment, Slow};
use crate::swarm::Swarm;
use crate::trace::Trace;
use crate::workload::Workload;

/// Something that is going to happen.
#[derive(Debug, Clone)]
pub enum Event {
    /// In the network.
    Net(NetEvent),
    /// At a server, in one of its lives.
    Server(usize, u32, ServerEvent),
    /// At a client, on one of its connections.
    Client(usize, u32, ClientEvent),
    /// A server that is down is started again.
    Restart(usize),
    /// A fault.
    Fault(FaultKind),
    /// The end of a fault that lasts.
    Mend(Mend),
    /// An operator does something.
    Operation(Operation),
    /// The plan of a run in which one server is slow goes on.
    Slow(Moment),
    /// An oracle looks at the two between whom it decides.
    Judgement,
}

/// What ends when a fault ends.
#[derive(Debug, Clone)]
pub enum Mend {
    /// Everything that stands in the network's way.
    Network,
    /// The disk of this server is full, or slow.
    Disk(usize),
    /// This server refuses connections.
    Refusal(usize),
    /// One direction of one connection is stalled.
    Stall(crate::network::LinkId, crate::network::Side),
}

/// What a run counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    /// Requests.
    pub asked: u64,
    /// Replies.
    pub answered: u64,
    /// Watch events.
    pub events: u64,
    /// Starts of servers.
    pub starts: u64,
    /// Batches of the log.
    pub syncs: u64,
    /// Servers that stopped because their disk failed.
    pub disk_stops: u64,
    /// Snapshots that came to nothing.
    pub snapshots_failed: u64,
    /// Sessions that ended although their clients did not ask for it.
    pub sessions_lost: u64,
    /// Registers for whose operations an order was found without zxids.
    pub registers: u64,
    /// Znodes for whose coming and going one was found.
    pub znodes: u64,
    /// Hand-overs that leaders have begun.
    pub hand_overs: u64,
    /// Whether the rate of an ensemble with one slow member was measured.
    pub slow_measured: u64,
    /// How often an oracle let one of two go on alone.
    pub words: u64,
    /// What the longest write took, where leaders that hand over are all that happens.
    pub longest_write: Nanos,
}

/// How often something happened, by the step on a disk and by what the server was.
pub type Losses = BTreeMap<(String, String), u64>;

/// Everything but the hosts themselves: what they act through.
#[derive(Debug)]
pub struct Stage {
    /// Time.
    pub queue: Queue<Event>,
    /// The network.
    pub net: Network,
    /// What clients did and saw.
    pub history: History,
    /// Who watches.
    pub observer: Observer,
    /// What happened, in words.
    pub trace: Trace,
    /// What was counted.
    pub counts: Counts,
    /// How often machines lost power at which step on their disks.
    pub lost_power: Losses,
    /// Whether any leader was ever short of disk space.
    pub short_of_disk: bool,
    /// Whether a client must never see its server go.
    pub must_stay: bool,
}

impl Stage {
    /// Notes that an invariant does not hold.
    pub fn violate(&mut self, invariant: u8, what: String) {
        let now = self.queue.now();
        self.trace.note(now, || format!("I{invariant} does not hold: {what}"));
        self.observer.violate(invariant, what);
    }

    /// Whether the run is over because something did not hold.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.observer.violation.is_some()
    }

    /// A client saw something.
    pub fn see(&mut self, client: usize, conn: u32, seen: Seen) {
        self.history.see(client, conn, self.queue.now(), seen);
    }

    /// A client was told that its session is over.
    pub fn session_refused(&mut self, _client: usize, session: SessionId) {
        if session != SessionId::NONE {
            self.counts.sessions_lost += 1;
        }
    }
}

/// A world.
#[derive(Debug)]
pub struct World {
    /// What hosts act through.
    pub stage: Stage,
    /// The servers.
    pub servers: Vec<Server>,
    /// The clients.
    pub clients: Vec<Client>,
    /// Who makes faults.
    pub planner: Planner,
    /// Who asks leaders to hand over.
    pub operator: Operator,
    /// The plan of one that is slow.
    pub slow: Slow,
    /// The oracle.
    pub judge: Judge,
    /// How long things may take once nothing is wrong.
    pub patience: Patience,
}

impl World {
    /// The world of a configuration, with nothing running yet.
    #[must_use]
    pub fn new(swarm: &Swarm, chance: &mut Chance, trace: Trace) -> World {
        let ensemble = swarm.ensemble().map(|config| config.to_string());
        let mut stage = Stage {
            queue: Queue::default(),
            net: Network::new(chance.fork(), swarm.weather),
            history: History::default(),
            observer: Observer::new(swarm.servers, ensemble.as_deref(), swarm.server.reconfig),
            trace,
            counts: Counts::default(),
            lost_power: Losses::new(),
            short_of_disk: false,
            must_stay: swarm.operator.is_some_and(|duties| duties.is_calm),
        };
        stage.observer.tick = u64::try_from(swarm.server.tick_ms).unwrap_or(0) * MS;
        stage.observer.counter_max = swarm.special.counter_max;
        stage.observer.is_hasty = swarm.special.judge.is_some_and(|bench| bench.is_hasty);
        stage.observer.hashed_every = swarm.special.hashed_every;
        let is_still = swarm.faults.is_empty()
            && swarm.special.is_none()
            && !swarm.server.reconfig
            && swarm.operator.is_none()
            && swarm.slow.is_none();
        stage.observer.is_calm = is_still;
        let servers = (0..swarm.servers).map(|index| {
            let rate = if swarm.skewed_clocks { 0.9 + 0.2 * chance.unit() } else { 1.0 };
            let rate = match swarm.special.last_is_slow {
                true if index + 1 == swarm.servers => 0.9,
                true => 1.1,
                false => rate,
            };
            let clock = Clock { rate, wall_offset_ms: 0 };
            let ensemble = swarm.first_config(index).map(Arc::new);
            let mut server = Server::new(index, swarm.server, ensemble, clock, chance.fork());
            // Whoever joins with nothing on its disk does not count before it was brought level.
            server.emptied = index >= swarm.servers - swarm.spares;
            server.keeps_images = swarm.faults.iter().any(|(kind, _)| *kind == FaultKind::RolledBack);
            server.counter_max = swarm.special.counter_max;
            server.manners = swarm.special.manners.get(index).copied().unwrap_or(Manners::OURS);
            server
        });
        let servers = servers.collect();
        let clients = swarm.clients.iter().enumerate().map(|(index, (kind, habits))| {
            let workload = Workload::new(*kind, index, swarm.without)
                .among(swarm.servers, !swarm.special.groups.is_empty());
            // Nobody depends on the one that is slow.
            let servers = swarm.servers - usize::from(swarm.slow.is_some());
            Client::new(index, servers, habits.clone(), workload, chance.fork())
        });
        let clients = clients.collect();
        World {
            stage,
            servers,
            clients,
            planner: Planner::new(swarm, chance.fork()),
            operator: Operator::new(swarm.operator),
            slow: Slow::new(swarm.slow),
            judge: Judge::new(swarm.special.judge),
            patience: Patience::of(swarm),
        }
    }

    /// Starts everything.
    pub fn start(&mut self) {
        self.judge.open(&mut self.stage, &mut self.servers);
        for server in &mut self.servers {
            server.start(&mut self.stage);
        }
        for client in &mut self.clients {
            client.wake(&mut self.stage, ClientEvent::Dial);
        }
        self.planner.start(&mut self.stage);
        self.operator.plan(&mut self.stage);
        self.slow.plan(&mut self.stage);
        self.judge.plan(&mut self.stage);
    }

    /// Lets time pass, to an end or to the first invariant that does not hold.
    pub fn run_until(&mut self, until: Nanos) {
        while !self.stage.has_failed() {
            self.pass_arrivals();
            let Some(event) = self.stage.queue.pop(until) else { return };
            self.handle(event);
        }
    }

    /// Lets time pass until something is the case; tells whether it came to be.
    pub fn run_until_so(&mut self, until: Nanos, is_so: impl Fn(&World) -> bool) -> bool {
        while !self.stage.has_failed() {
            if is_so(self) {
                return true;
            }
            let step = (self.stage.queue.now() + SECOND / 10).min(until);
            self.run_until(step);
            if step == until {
                return is_so(self);
            }
        }
        false
    }

    fn pass_arrivals(&mut self) {
        while let Some((host, link, side, arrival)) = self.stage.net.take_arrival() {
            match host {
                Host::Server(index) => {
                    if let Some(server) = self.servers.get_mut(index) {
                        server.arrived(&mut self.stage, link, side, arrival);
                    }
                }
                Host::Client(index) => {
                    if let Some(client) = self.clients.get_mut(index) {
                        client.arrived(&mut self.stage, link, arrival);
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let World { stage, servers, clients, planner, operator, slow, judge, .. } = self;
        match event {
            Event::Net(event) => stage.net.handle(&mut stage.queue, event),
            Event::Server(index, life, event) => {
                if let Some(server) = servers.get_mut(index).filter(|server| server.is_current(life)) {
                    server.wake(stage, event);
                }
            }
            Event::Client(index, conn, event) => {
                if let Some(client) = clients.get_mut(index).filter(|client| client.is_current(conn)) {
                    client.wake(stage, event);
                }
            }
            Event::Restart(index) => {
                if let Some(server) = servers.get_mut(index) {
                    server.start(stage);
                    if !server.is_up() {
                        planner.not_started(stage, servers, index);
                    }
                }
            }
            Event::Fault(kind) => planner.strike(stage, servers, kind),
            Event::Mend(mend) => planner.mend(stage, servers, &mend),
            Event::Operation(operation) => operator.act(stage, servers, operation),
            Event::Slow(moment) => slow.act(stage, servers, moment),
            Event::Judgement => judge.look(stage, servers),
        }
    }

    /// The servers that belong to the ensemble as it is now.
    pub fn members(&self) -> impl Iterator<Item = &Server> {
        let is_member = |(index, _): &(usize, &Server)| self.stage.observer.is_member(*index);
        self.servers.iter().enumerate().filter(is_member).map(|(_, server)| server)
    }

    /// Has every client ask something now; those without a session do not.
    pub fn ask_all(&mut self, request: &Request<'_>) {
        for client in &mut self.clients {
            client.ask(&mut self.stage, request);
        }
    }
}
