//! The network: connections that carry bytes in order until they end, in pieces of any size, late, and through
//! everything that networks do to them.
//!
//! Nothing inside one connection is lost or reordered: the protocols run on streams. What the network wants to tell
//! a host gathers in [`Network::take_arrival`]; the world passes it on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::chance::Chance;
use crate::queue::{MS, Nanos, Queue, SECOND};
use crate::world::Event;

/// Who has an address: a server or a client, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A server.
    Server(usize),
    /// A client.
    Client(usize),
}

/// What a connection is for. Faults can hit one kind and spare another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Clients' requests.
    Client,
    /// Between leader and learners.
    Quorum,
    /// Votes.
    Election,
    /// Between followers and the observers that they serve.
    ObserverMaster,
}

impl Port {
    /// Every kind of which faults can hit one and spare another. What goes to observers shares the fate of the quorum port:
    /// an observer has one of the two with each server.
    pub const ALL: [Port; 3] = [Port::Client, Port::Quorum, Port::Election];

    /// Whose faults hit it.
    const fn fate(self) -> Port {
        match self {
            Port::ObserverMaster => Port::Quorum,
            other => other,
        }
    }
}

/// A connection, dead or alive; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Who asked for it.
    Dialler,
    /// Who listened.
    Acceptor,
}

impl Side {
    const fn index(self) -> usize {
        match self {
            Side::Dialler => 0,
            Side::Acceptor => 1,
        }
    }

    /// The other end.
    #[must_use]
    pub const fn other(self) -> Side {
        match self {
            Side::Dialler => Side::Acceptor,
            Side::Acceptor => Side::Dialler,
        }
    }
}

/// What a host hears of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Somebody has connected.
    Accepted {
        /// Who.
        from: Host,
        /// To what.
        port: Port,
    },
    /// The connection that was asked for is there.
    Connected,
    /// Nobody listens there.
    Refused,
    /// Bytes.
    Bytes(Vec<u8>),
    /// It is over.
    Closed,
    /// More bytes can be sent.
    Room,
}

/// Something that the network does at its time.
#[derive(Debug, Clone)]
pub enum NetEvent {
    /// A request for a connection arrives.
    Dial(LinkId),
    /// Something arrives at an end.
    Packet(LinkId, Side, u32, Packet),
}

/// What travels.
#[derive(Debug, Clone)]
pub enum Packet {
    /// The other end has accepted.
    Accept,
    /// The other end has not.
    Refuse,
    /// Bytes.
    Bytes(Vec<u8>),
    /// The other end is done.
    Close,
}

/// How the network behaves while nothing is wrong with it.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// The least time that anything takes.
    pub floor: Nanos,
    /// What it takes more, on average.
    pub mean: Nanos,
    /// How often something takes twenty times that.
    pub tail: f64,
    /// How often bytes come in pieces.
    pub split: f64,
    /// Bytes per second of a connection; 0 for no bound.
    pub bandwidth: u64,
}

impl Weather {
    /// A good local network.
    pub const CALM: Weather = Weather { floor: MS / 10, mean: MS / 10, tail: 0.0, split: 0.02, bandwidth: 0 };
}

/// Bytes that may be on their way before the sender has to wait.
const WINDOW: usize = 256 << 10;
/// A request for a connection that nobody answers is repeated after this.
const REDIAL: Nanos = SECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Dialling,
    Open,
    Closed,
}

#[derive(Debug, Default)]
struct Pipe {
    /// What was sent in an earlier era does not arrive.
    era: u32,
    last: Nanos,
    in_flight: usize,
    wants_room: bool,
    stalled: bool,
    held: VecDeque<Packet>,
}

#[derive(Debug)]
struct Link {
    hosts: [Host; 2],
    port: Port,
    ends: [End; 2],
    /// By the side that sends.
    pipes: [Pipe; 2],
}

/// All connections, and what is wrong with the network.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    next: u64,
    chance: Chance,
    /// How it behaves now.
    pub weather: Weather,
    blocked: BTreeSet<(Host, Host, Port)>,
    refusing: BTreeSet<(Host, Port)>,
    listening: BTreeSet<(Host, Port)>,
    dark: BTreeSet<Host>,
    arrivals: VecDeque<(Host, LinkId, Side, Arrival)>,
}

impl Network {
    /// A network without hosts.
    #[must_use]
    pub fn new(chance: Chance, weather: Weather) -> Network {
        Network {
            links: BTreeMap::new(),
            next: 0,
            chance,
            weather,
            blocked: BTreeSet::new(),
            refusing: BTreeSet::new(),
            listening: BTreeSet::new(),
            dark: BTreeSet::new(),
            arrivals: VecDeque::new(),
        }
    }

    /// The next thing that a host must be told.
    pub fn take_arrival(&mut self) -> Option<(Host, LinkId, Side, Arrival)> {
        self.arrivals.pop_front()
    }

    /// Whether a host listens.
    pub fn listen(&mut self, host: Host, port: Port, listens: bool) {
        if listens {
            self.listening.insert((host, port));
        } else {
            self.listening.remove(&(host, port));
        }
    }

    /// Whether a host listens.
    #[must_use]
    pub fn is_listening(&self, host: Host, port: Port) -> bool {
        self.listening.contains(&(host, port))
    }

    /// Asks for a connection.
    pub fn dial(&mut self, queue: &mut Queue<Event>, from: Host, to: Host, port: Port) -> LinkId {
        self.next += 1;
        let id = LinkId(self.next);
        let link = Link {
            hosts: [from, to],
            port,
            ends: [End::Dialling, End::Closed],
            pipes: [Pipe::default(), Pipe::default()],
        };
        self.links.insert(id, link);
        let delay = self.delay();
        queue.after(delay, Event::Net(NetEvent::Dial(id)));
        id
    }

    /// Sends bytes; tells how many were taken. If that is not all, [`Arrival::Room`] comes later.
    pub fn send(&mut self, queue: &mut Queue<Event>, id: LinkId, side: Side, bytes: &[u8]) -> usize {
        let split = self.weather.split;
        let Some(link) = self.links.get_mut(&id) else { return bytes.len() };
        if link.ends[side.index()] != End::Open {
            return bytes.len();
        }
        let pipe = &mut link.pipes[side.index()];
        let taken = bytes.len().min(WINDOW.saturating_sub(pipe.in_flight));
        pipe.wants_room = taken < bytes.len();
        pipe.in_flight += taken;
        let mut rest = bytes.get(..taken).unwrap_or_default();
        while !rest.is_empty() {
            let cut = if self.chance.happens(split) {
                let most = 1 << self.chance.below(12);
                1 + self.chance.index(rest.len().min(most))
            } else {
                rest.len()
            };
            let (piece, more) = rest.split_at(cut);
            rest = more;
            self.post(queue, id, side, Packet::Bytes(piece.to_vec()));
        }
        taken
    }

    /// Ends a connection after everything that was sent.
    pub fn close(&mut self, queue: &mut Queue<Event>, id: LinkId, side: Side) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let was = std::mem::replace(&mut link.ends[side.index()], End::Closed);
        if was == End::Open {
            self.post(queue, id, side, Packet::Close);
        }
        self.forget_if_over(id);
    }

    /// Breaks a connection for both ends. What is on its way may be lost.
    pub fn reset(&mut self, queue: &mut Queue<Event>, id: LinkId) {
        for side in [Side::Dialler, Side::Acceptor] {
            let lost = self.chance.happens(0.7);
            let Some(link) = self.links.get_mut(&id) else { return };
            let pipe = &mut link.pipes[side.index()];
            if lost {
                pipe.era += 1;
                pipe.held.clear();
            }
            self.post(queue, id, side, Packet::Close);
        }
    }

    /// One end takes the connection for broken, the other does not notice.
    pub fn half_open(&mut self, id: LinkId, side: Side) {
        if let Some(link) = self.links.get_mut(&id)
            && link.ends[side.index()] == End::Open
        {
            link.ends[side.index()] = End::Closed;
            self.arrivals.push_back((link.hosts[side.index()], id, side, Arrival::Closed));
        }
    }

    /// A host's process ends. With `dark` the machine is gone as well, and nobody tells the other ends.
    pub fn host_down(&mut self, queue: &mut Queue<Event>, host: Host, dark: bool) {
        let ids: Vec<LinkId> = self.links_of(host).collect();
        self.listening.retain(|(listening, _)| *listening != host);
        if dark {
            self.dark.insert(host);
        }
        for id in ids {
            for side in [Side::Dialler, Side::Acceptor] {
                let Some(link) = self.links.get_mut(&id) else { break };
                if link.hosts[side.index()] != host || link.ends[side.index()] == End::Closed {
                    continue;
                }
                if dark {
                    link.ends[side.index()] = End::Closed;
                    self.forget_if_over(id);
                } else {
                    self.close(queue, id, side);
                }
            }
        }
    }

    /// The machine is there again.
    pub fn host_up(&mut self, host: Host) {
        self.dark.remove(&host);
    }

    /// Connections of a host that are not over.
    pub fn links_of(&self, host: Host) -> impl Iterator<Item = LinkId> {
        self.links.iter().filter(move |(_, link)| link.hosts.contains(&host)).map(|(id, _)| *id)
    }

    /// Connections that are open at both ends.
    pub fn open_links(&self) -> impl Iterator<Item = LinkId> {
        self.links.iter().filter(|(_, link)| link.ends == [End::Open; 2]).map(|(id, _)| *id)
    }

    /// What a connection is for, and its hosts.
    #[must_use]
    pub fn describe(&self, id: LinkId) -> Option<([Host; 2], Port)> {
        self.links.get(&id).map(|link| (link.hosts, link.port))
    }

    /// Bytes that an end has sent and that have not arrived.
    #[must_use]
    pub fn in_flight(&self, id: LinkId, side: Side) -> usize {
        self.links.get(&id).map_or(0, |link| link.pipes[side.index()].in_flight)
    }

    /// Lets nothing more through in one direction, until [`Network::unblock_all`].
    pub fn block(&mut self, from: Host, to: Host, port: Port) {
        self.blocked.insert((from, to, port));
    }

    /// Has a host refuse new connections, until [`Network::refuse_no_more`] or [`Network::unblock_all`].
    pub fn refuse(&mut self, host: Host, port: Port) {
        self.refusing.insert((host, port));
    }

    /// Has a host accept connections again.
    pub fn refuse_no_more(&mut self, host: Host) {
        self.refusing.retain(|(refusing, _)| *refusing != host);
    }

    /// Ends one block.
    pub fn unblock(&mut self, queue: &mut Queue<Event>, from: Host, to: Host, port: Port) {
        if self.blocked.remove(&(from, to, port)) {
            self.release(queue);
        }
    }

    /// Ends all blocks, refusals and stalls.
    pub fn unblock_all(&mut self, queue: &mut Queue<Event>) {
        self.blocked.clear();
        self.refusing.clear();
        for link in self.links.values_mut() {
            link.pipes.iter_mut().for_each(|pipe| pipe.stalled = false);
        }
        self.release(queue);
    }

    /// Lets nothing through one direction of one connection, or everything again.
    pub fn stall(&mut self, queue: &mut Queue<Event>, id: LinkId, side: Side, stalled: bool) {
        if let Some(link) = self.links.get_mut(&id) {
            link.pipes[side.index()].stalled = stalled;
        }
        if !stalled {
            self.release(queue);
        }
    }

    /// Does what is due.
    pub fn handle(&mut self, queue: &mut Queue<Event>, event: NetEvent) {
        match event {
            NetEvent::Dial(id) => self.dialled(queue, id),
            NetEvent::Packet(id, to, era, packet) => {
                let from = to.other();
                let Some(link) = self.links.get_mut(&id) else { return };
                let way = (link.hosts[from.index()], link.hosts[to.index()], link.port.fate());
                let pipe = &mut link.pipes[from.index()];
                if pipe.era != era {
                    return;
                }
                if pipe.stalled || !pipe.held.is_empty() || self.blocked.contains(&way) {
                    pipe.held.push_back(packet);
                    return;
                }
                self.deliver(queue, id, to, packet);
            }
        }
    }

    fn dialled(&mut self, queue: &mut Queue<Event>, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.ends[0] != End::Dialling {
            self.links.remove(&id);
            return;
        }
        let ([from, to], port) = (link.hosts, link.port);
        let unreachable = self.blocked.contains(&(from, to, port.fate()))
            || self.blocked.contains(&(to, from, port.fate()))
            || self.dark.contains(&to);
        if unreachable {
            return queue.after(REDIAL, Event::Net(NetEvent::Dial(id)));
        }
        if !self.listening.contains(&(to, port)) || self.refusing.contains(&(to, port.fate())) {
            return self.post(queue, id, Side::Acceptor, Packet::Refuse);
        }
        link.ends[1] = End::Open;
        self.arrivals.push_back((to, id, Side::Acceptor, Arrival::Accepted { from, port }));
        self.post(queue, id, Side::Acceptor, Packet::Accept);
    }

    fn deliver(&mut self, queue: &mut Queue<Event>, id: LinkId, to: Side, packet: Packet) {
        let from = to.other();
        let Some(link) = self.links.get_mut(&id) else { return };
        let host = link.hosts[to.index()];
        if let Packet::Bytes(bytes) = &packet {
            let pipe = &mut link.pipes[from.index()];
            pipe.in_flight = pipe.in_flight.saturating_sub(bytes.len());
            if pipe.in_flight < WINDOW / 2 && std::mem::take(&mut pipe.wants_room) {
                self.arrivals.push_back((link.hosts[from.index()], id, from, Arrival::Room));
            }
        }
        if link.ends[to.index()] == End::Closed {
            // Nobody is there for it: the sender is told, unless the whole machine is gone.
            if !matches!(packet, Packet::Close | Packet::Refuse) && !self.dark.contains(&host) {
                self.post(queue, id, to, Packet::Close);
            }
            return;
        }
        let arrival = match packet {
            Packet::Accept => {
                link.ends[to.index()] = End::Open;
                Arrival::Connected
            }
            Packet::Refuse => {
                link.ends[to.index()] = End::Closed;
                Arrival::Refused
            }
            Packet::Bytes(bytes) => Arrival::Bytes(bytes),
            Packet::Close => {
                link.ends[to.index()] = End::Closed;
                Arrival::Closed
            }
        };
        self.arrivals.push_back((host, id, to, arrival));
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: LinkId) {
        let over = self.links.get(&id).is_some_and(|link| {
            link.ends == [End::Closed; 2]
                && link.pipes.iter().all(|pipe| pipe.in_flight == 0 && pipe.held.is_empty())
        });
        if over {
            self.links.remove(&id);
        }
    }

    /// Delivers what was held up and need not be any more, at once: it comes before what is on its way.
    fn release(&mut self, queue: &mut Queue<Event>) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            for side in [Side::Dialler, Side::Acceptor] {
                let Some(link) = self.links.get_mut(&id) else { continue };
                let way = (link.hosts[side.index()], link.hosts[side.other().index()], link.port.fate());
                let pipe = &mut link.pipes[side.index()];
                if pipe.stalled || self.blocked.contains(&way) {
                    continue;
                }
                let held = std::mem::take(&mut pipe.held);
                for packet in held {
                    self.deliver(queue, id, side.other(), packet);
                }
            }
        }
    }

    /// Puts something on its way, behind what is on it already.
    fn post(&mut self, queue: &mut Queue<Event>, id: LinkId, from: Side, packet: Packet) {
        let mut delay = self.delay();
        if let (Packet::Bytes(bytes), 1..) = (&packet, self.weather.bandwidth) {
            delay += bytes.len() as u64 * SECOND / self.weather.bandwidth;
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let pipe = &mut link.pipes[from.index()];
        pipe.last = pipe.last.max(queue.now() + delay);
        queue.at(pipe.last, Event::Net(NetEvent::Packet(id, from.other(), pipe.era, packet)));
    }

    fn delay(&mut self) -> Nanos {
        let Weather { floor, mean, tail, .. } = self.weather;
        let more = self.chance.exponential(mean);
        floor + if tail > 0.0 && self.chance.happens(tail) { more * 20 } else { more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Host = Host::Client(0);
    const B: Host = Host::Server(0);

    struct Pair {
        net: Network,
        queue: Queue<Event>,
    }

    impl Pair {
        fn new(seed: u64) -> Pair {
            let weather = Weather { split: 0.5, mean: 5 * MS, ..Weather::CALM };
            let mut net = Network::new(Chance::new(seed), weather);
            net.listen(B, Port::Client, true);
            Pair { net, queue: Queue::default() }
        }

        fn run(&mut self, until: Nanos) -> Vec<(Host, Arrival)> {
            let mut all = Vec::new();
            loop {
                while let Some((host, _, _, arrival)) = self.net.take_arrival() {
                    all.push((host, arrival));
                }
                match self.queue.pop(until) {
                    Some(Event::Net(event)) => self.net.handle(&mut self.queue, event),
                    _ => return all,
                }
            }
        }
    }

    fn bytes_of(arrivals: &[(Host, Arrival)]) -> Vec<u8> {
        let bytes = arrivals.iter().filter_map(|(_, arrival)| match arrival {
            Arrival::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        });
        bytes.flatten().collect()
    }

    #[test]
    fn bytes_arrive_whole_and_in_order_however_they_are_cut() {
        for seed in 0..200 {
            let mut pair = Pair::new(seed);
            let id = pair.net.dial(&mut pair.queue, A, B, Port::Client);
            let opened = pair.run(SECOND);
            assert!(opened.contains(&(A, Arrival::Connected)), "{opened:?}");
            let sent: Vec<u8> = (0..=255).cycle().take(3000).collect();
            for part in sent.chunks(700) {
                assert_eq!(pair.net.send(&mut pair.queue, id, Side::Dialler, part), part.len());
            }
            pair.net.close(&mut pair.queue, id, Side::Dialler);
            let arrivals = pair.run(10 * SECOND);
            assert_eq!(bytes_of(&arrivals), sent);
            assert_eq!(arrivals.last(), Some(&(B, Arrival::Closed)));
        }
    }

    #[test]
    fn a_block_holds_back_and_lets_go() {
        let mut pair = Pair::new(1);
        let id = pair.net.dial(&mut pair.queue, A, B, Port::Client);
        pair.run(SECOND);
        pair.net.block(A, B, Port::Client);
        pair.net.send(&mut pair.queue, id, Side::Dialler, b"held");
        assert_eq!(bytes_of(&pair.run(2 * SECOND)), b"");
        pair.net.send(&mut pair.queue, id, Side::Acceptor, b"other way");
        assert_eq!(bytes_of(&pair.run(3 * SECOND)), b"other way");
        pair.net.unblock(&mut pair.queue, A, B, Port::Client);
        assert_eq!(bytes_of(&pair.run(4 * SECOND)), b"held");
    }

    #[test]
    fn what_was_held_comes_before_what_was_on_its_way_when_the_block_ended() {
        for seed in 0..50 {
            let mut pair = Pair::new(seed);
            let id = pair.net.dial(&mut pair.queue, A, B, Port::Client);
            pair.run(SECOND);
            pair.net.stall(&mut pair.queue, id, Side::Dialler, true);
            pair.net.send(&mut pair.queue, id, Side::Dialler, b"one ");
            assert_eq!(bytes_of(&pair.run(2 * SECOND)), b"");
            pair.net.send(&mut pair.queue, id, Side::Dialler, b"two");
            pair.net.stall(&mut pair.queue, id, Side::Dialler, false);
            assert_eq!(bytes_of(&pair.run(4 * SECOND)), b"one two");
        }
    }

    #[test]
    fn a_reset_reaches_both_ends_and_a_half_open_link_only_one() {
        let mut pair = Pair::new(2);
        let id = pair.net.dial(&mut pair.queue, A, B, Port::Client);
        pair.run(SECOND);
        pair.net.reset(&mut pair.queue, id);
        let arrivals = pair.run(2 * SECOND);
        assert_eq!(arrivals.len(), 2, "{arrivals:?}");
        let id = pair.net.dial(&mut pair.queue, A, B, Port::Client);
        pair.run(3 * SECOND);
        pair.net.half_open(id, Side::Acceptor);
        assert_eq!(pair.run(4 * SECOND), [(B, Arrival::Closed)]);
        pair.net.send(&mut pair.queue, id, Side::Dialler, b"?");
        assert_eq!(pair.run(5 * SECOND), [(A, Arrival::Closed)], "told when it speaks");
    }

    #[test]
    fn nobody_there_refuses_and_a_dark_machine_does_not_answer() {
        let mut pair = Pair::new(3);
        pair.net.listen(B, Port::Client, false);
        pair.net.dial(&mut pair.queue, A, B, Port::Client);
        assert_eq!(pair.run(SECOND), [(A, Arrival::Refused)]);
        pair.net.host_down(&mut pair.queue, B, true);
        pair.net.dial(&mut pair.queue, A, B, Port::Client);
        assert_eq!(pair.run(9 * SECOND), []);
        pair.net.host_up(B);
        pair.net.listen(B, Port::Client, true);
        assert!(pair.run(20 * SECOND).contains(&(A, Arrival::Connected)));
    }

    #[test]
    fn a_host_refuses_for_a_while() {
        let mut pair = Pair::new(5);
        pair.net.refuse(B, Port::Client);
        pair.net.dial(&mut pair.queue, A, B, Port::Client);
        assert_eq!(pair.run(SECOND), [(A, Arrival::Refused)]);
        pair.net.refuse_no_more(B);
        pair.net.dial(&mut pair.queue, A, B, Port::Client);
        assert!(pair.run(2 * SECOND).contains(&(A, Arrival::Connected)));
    }

    #[test]
    fn a_sender_waits_for_a_reader_that_is_slow() {
        let mut pair = Pair::new(4);
        let id = pair.net.dial(&mut pair.queue, A, B, Port::Client);
        pair.run(SECOND);
        pair.net.stall(&mut pair.queue, id, Side::Acceptor, true);
        let big = vec![7; WINDOW * 2];
        assert_eq!(pair.net.send(&mut pair.queue, id, Side::Acceptor, &big), WINDOW);
        assert_eq!(pair.run(2 * SECOND), []);
        pair.net.stall(&mut pair.queue, id, Side::Acceptor, false);
        let arrivals = pair.run(60 * SECOND);
        assert!(arrivals.contains(&(B, Arrival::Room)));
        assert_eq!(bytes_of(&arrivals).len(), WINDOW);
    }
}
