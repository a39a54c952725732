//! All that can happen to agreement among three servers: links deliver when they like, each piece of durable work is
//! done on its own, servers leave their roles, crash and come back with what is on their disks.
//!
//! There are no clocks. Who looks for a leader may be told at any time that some server leads, the most ignorant
//! included: safety must not rest on the election. The rules are held by an observer that sees disks and packets, by
//! the numbers of the test programme (I1 to I9).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{EnsembleConfig, Epoch, PeerPacket, ServerId, Zxid};
use oxkeeper_zab::history::follows;
use oxkeeper_zab::{
    Action, Agreement, Durable, EnsembleChange, Limits, LinkId, Oracle, Proposal, Quorums, Setup, Ticket,
    Timing,
};

use super::search::Model;

#[path = "outside.rs"]
mod outside;

pub(crate) use outside::votes_for;
#[allow(unused_imports, reason = "for the simulator, which replays explored steps")]
pub(crate) use outside::{Arriving, Reached};

/// What is on each disk at the start: the counters of the transactions of epoch 1, and the current epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) txns: u32,
    pub(crate) epoch: i64,
}

/// A world, by what may happen in it and how often. Three servers vote, unless that changes.
#[derive(Debug, Clone)]
pub(crate) struct Agreements {
    /// The servers that are ever up; the others are down for good.
    pub(crate) starts: Vec<Start>,
    /// How often somebody is told to lead.
    pub(crate) leads: u8,
    /// How often somebody is told to follow.
    pub(crate) follows: u8,
    pub(crate) txns: u8,
    pub(crate) crashes: u8,
    /// Roles that are left, as after a time-out.
    pub(crate) resigns: u8,
    /// Whether learners are always sent the whole state.
    pub(crate) snapshots: bool,
    /// Who votes at the start, and after a reconfiguration that a leader may propose once.
    pub(crate) change: Option<(&'static [usize], &'static [usize])>,
    /// How often a leader hands over to another server, in step or not.
    pub(crate) hand_overs: u8,
    /// The first two servers vote, and an oracle lets one of them go on alone; how often it may choose anew. It is one
    /// that knows what it does, and forbids the other one first.
    pub(crate) choices: Option<u8>,
}

const VOTERS: usize = 3;

#[derive(Debug, Clone, Copy, Hash)]
pub(crate) enum Step {
    Lead(usize),
    Follow(usize, usize),
    Connect(usize),
    /// To the leader's end of a link, or to the learner's.
    Deliver(LinkId, bool),
    Persist(usize),
    Propose(usize),
    /// The oracle lets this server go on alone from now on, and no other one.
    Choose(usize),
    Reconfigure(usize),
    HandOver(usize, usize),
    Resign(usize),
    Crash(usize),
    Restart(usize),
}

#[derive(Debug, Clone, Copy, Hash)]
struct Left {
    leads: u8,
    follows: u8,
    txns: u8,
    crashes: u8,
    resigns: u8,
    reconfigs: u8,
    hand_overs: u8,
    choices: u8,
}

/// A transaction: no two have the same payload.
type Txn = (Zxid, Bytes);
type Change<'a> = &'a dyn Fn(Zxid) -> Option<EnsembleChange>;

#[derive(Debug, Clone, Hash)]
pub(crate) struct World {
    servers: Vec<Rc<Server>>,
    links: BTreeMap<LinkId, Rc<Link>>,
    next_link: u64,
    left: Left,
    /// Whom the oracle lets go on alone.
    chosen: Option<usize>,
    seen: Rc<Seen>,
}

#[derive(Debug, Clone, Hash)]
struct Server {
    agreement: Option<Agreement>,
    disk: Disk,
    /// Durable work that is not done.
    work: VecDeque<(Ticket, Work)>,
    /// What is applied, in order.
    state: Vec<Txn>,
    /// The newest transaction in the state, or the start of an epoch after it.
    state_zxid: Zxid,
    /// A state that was loaded and is to be installed.
    installing: Option<(Zxid, Vec<Txn>)>,
    dial: Option<(usize, u64)>,
    listens: bool,
    /// The last vote that was cast.
    vote: Option<Notification>,
    /// What is applied now is agreed: false between two roles.
    in_role: bool,
    /// It may commit and leave in one go, so what it is afterwards does not tell.
    leads: bool,
}

#[derive(Debug, Clone, Hash)]
enum Work {
    Plain(Durable),
    Install(Zxid, Vec<Txn>),
}

#[derive(Debug, Clone, Hash)]
struct Disk {
    /// The transactions that the state is made of, and up to where they are in a snapshot.
    txns: Vec<Txn>,
    snapshot: Zxid,
    accepted: Epoch,
    current: Epoch,
    committed: Arc<EnsembleConfig>,
    seen: Arc<EnsembleConfig>,
}

impl Disk {
    fn last(&self) -> Zxid {
        self.txns.last().map_or(self.snapshot, |(zxid, _)| self.snapshot.max(*zxid))
    }

    fn log(&self) -> Vec<Proposal> {
        let logged = self.txns.iter().filter(|(zxid, _)| *zxid > self.snapshot);
        logged.map(|(zxid, payload)| Proposal { zxid: *zxid, payload: payload.clone() }).collect()
    }
}

/// A link from a learner to a leader.
#[derive(Debug, Clone, Hash)]
struct Link {
    /// Learner and leader.
    ends: [usize; 2],
    /// On the way to the learner, and to the leader.
    queues: [VecDeque<Item>; 2],
    /// Which end is closed.
    closed: [bool; 2],
}

#[derive(Debug, Clone, Hash)]
enum Item {
    Packet(PeerPacket),
    State(Vec<Txn>),
    Closed,
}

/// What the observer has seen.
#[derive(Debug, Clone, Hash, Default)]
struct Seen {
    /// Everything that is agreed, in order.
    agreed: Vec<Txn>,
    /// Who led in each epoch.
    led: BTreeMap<Epoch, usize>,
    /// The history with which each leader began.
    initial: BTreeMap<Epoch, Vec<Txn>>,
    /// Every transaction that was offered, and by whom.
    offered: BTreeMap<Zxid, (usize, Bytes)>,
    /// What each reconfiguration changes, by its payload.
    changes: BTreeMap<Bytes, EnsembleChange>,
}

fn id(server: usize) -> ServerId {
    ServerId(i64::try_from(server).unwrap() + 1)
}

fn index(server: ServerId) -> usize {
    usize::try_from(server.0 - 1).unwrap()
}

fn is_prefix(short: &[Txn], long: &[Txn]) -> bool {
    long.starts_with(short)
}

fn config(voters: &[usize], version: Zxid) -> Arc<EnsembleConfig> {
    let text: String = voters.iter().map(|i| format!("server.{}=h{i}:1:2\n", id(*i))).collect();
    Arc::new(EnsembleConfig::parse(&text).unwrap().with_version(version))
}

impl Agreements {
    fn config_at_start(&self) -> Arc<EnsembleConfig> {
        let usual: &[usize] = if self.choices.is_some() { &[0, 1] } else { &[0, 1, 2] };
        config(self.change.map_or(usual, |(before, _)| before), Zxid::ZERO)
    }

    fn boot(&self, world: &mut World, server: usize) -> Result<(), String> {
        let one = Rc::make_mut(&mut world.servers[server]);
        let mut agreement = Agreement::new(Setup {
            me: id(server),
            observes: false,
            committed: one.disk.committed.clone(),
            seen: Some(one.disk.seen.clone()),
            reconfig: self.change.is_some(),
            limits: Limits {
                tick_ms: 1000,
                init: 10,
                sync: 5,
                pending_bytes: 1 << 20,
                counter_max: u32::MAX,
            },
            timing: Timing::DEFAULT,
            accepted: one.disk.accepted,
            current: one.disk.current,
            last: one.disk.last(),
            recent: one.disk.log(),
            emptied: false,
            force_snapshot: self.snapshots,
            may_read_log: true,
            observer_masters: None,
            seed: 1,
        });
        if self.choices.is_some() {
            agreement.oracle(0, world.chosen == Some(server));
        }
        agreement.start(0);
        one.agreement = Some(agreement);
        one.state = one.disk.txns.clone();
        one.state_zxid = one.disk.last();
        (one.in_role, one.leads) = (false, false);
        self.act(world, server)
    }

    fn tell(
        &self,
        world: &mut World,
        server: usize,
        tell: impl FnOnce(&mut Agreement),
    ) -> Result<(), String> {
        if let Some(agreement) = &mut Rc::make_mut(&mut world.servers[server]).agreement {
            tell(agreement);
        }
        self.act(world, server)
    }

    /// Does what a server asks for.
    fn act(&self, world: &mut World, server: usize) -> Result<(), String> {
        let mut streams = VecDeque::new();
        loop {
            let one = Rc::make_mut(&mut world.servers[server]);
            let Some(action) = one.agreement.as_mut().and_then(Agreement::next_action) else {
                // A snapshot begins once there is nothing else to do.
                let Some(link) = streams.pop_front() else { return Ok(()) };
                let (zxid, state) = (one.state_zxid, one.state.clone());
                send(world, server, link, Item::Packet(PeerPacket::Snap { zxid }));
                send(world, server, link, Item::State(state));
                self.tell(world, server, |agreement| agreement.snapshot_begins(link, zxid))?;
                continue;
            };
            match action {
                Action::Notify(_, notification) if notification.state == ServerState::Looking => {
                    one.vote = Some(notification);
                }
                Action::Dial { server: leader, dial, .. } => one.dial = Some((index(leader), dial)),
                Action::Send(link, packet) => {
                    self.check_send(world, server, link, &packet)?;
                    send(world, server, link, Item::Packet(packet));
                }
                Action::Close(link) => close(world, server, link),
                Action::Listen(open) => one.listens = open,
                Action::Durable(ticket, Durable::InstallSnapshot(_)) => {
                    let (zxid, state) = one.installing.take().ok_or("nothing to install")?;
                    one.work.push_back((ticket, Work::Install(zxid, state)));
                }
                Action::Durable(ticket, work) => one.work.push_back((ticket, Work::Plain(work))),
                Action::ReadLog { task, from } => {
                    let log = one.disk.log();
                    let first = log.iter().rposition(|record| record.zxid <= from);
                    let records = first.map(|first| log[first..].to_vec());
                    self.tell(world, server, |agreement| agreement.log_read(0, task, records.as_deref()))?;
                }
                Action::Reload { task } => {
                    one.state = one.disk.txns.clone();
                    one.state_zxid = one.disk.last();
                    let (last, recent) = (one.disk.last(), one.disk.log());
                    self.tell(world, server, |agreement| agreement.reloaded(0, task, last, recent))?;
                }
                Action::StreamSnapshot(link) => streams.push_back(link),
                // A server that kept what has come of it would have nothing.
                Action::LoadSnapshot(zxid) => (one.state_zxid, one.state) = (zxid, Vec::new()),
                Action::InstallSnapshot(zxid) => one.installing = Some((zxid, one.state.clone())),
                Action::Apply(proposal) => self.apply(world, server, proposal)?,
                Action::ApplyOverSnapshot(proposal) if proposal.zxid > one.state_zxid => {
                    self.apply(world, server, proposal)?;
                }
                Action::Ended { .. } => (one.in_role, one.leads) = (false, false),
                Action::Looking => {}
                Action::Lead(epoch) => self.lead(world, server, epoch)?,
                Action::Serve(epoch) => {
                    one.state_zxid = one.state_zxid.max(epoch.start());
                    one.in_role = true;
                    let state = one.state.clone();
                    if !is_prefix(&state, &world.seen.agreed) {
                        return Err(format!("I3: {} serves {state:?}", id(server)));
                    }
                }
                _ => {}
            }
        }
    }

    fn lead(&self, world: &mut World, server: usize, epoch: Epoch) -> Result<(), String> {
        let one = Rc::make_mut(&mut world.servers[server]);
        one.state_zxid = epoch.start();
        (one.in_role, one.leads) = (true, true);
        let state = one.state.clone();
        let seen = Rc::make_mut(&mut world.seen);
        if let Some(other) = seen.led.insert(epoch, server) {
            return Err(format!("I1: {} and {} lead in {epoch:?}", id(other), id(server)));
        }
        if seen.led.keys().any(|newer| *newer > epoch) {
            // An acknowledgement came so late that others have gone on. It leads nobody who could agree with it, and
            // what it serves is old, but true.
            let is_old = is_prefix(&state, &seen.agreed);
            return if is_old { Ok(()) } else { Err(format!("I3: {} serves {state:?}", id(server))) };
        }
        if !is_prefix(&seen.agreed, &state) {
            return Err(format!("I7: {} leads without {:?}", id(server), seen.agreed));
        }
        seen.agreed = state;
        self.check_quorum(world, "I8: a history is final")
    }

    fn apply(&self, world: &mut World, server: usize, proposal: Proposal) -> Result<(), String> {
        let Proposal { zxid, payload } = proposal;
        let one = Rc::make_mut(&mut world.servers[server]);
        let last = one.state.last().map_or(Zxid::ZERO, |(last, _)| *last);
        if !follows(last, zxid) && last != Zxid::ZERO {
            return Err(format!("I4: {} applies {zxid} after {last}", id(server)));
        }
        one.state.push((zxid, payload.clone()));
        one.state_zxid = zxid;
        let offered = world.seen.offered.get(&zxid).map(|(_, payload)| payload);
        if zxid.epoch() > Epoch(1) && offered != Some(&payload) {
            return Err(format!("I4: {} applies {zxid}, which nobody offered", id(server)));
        }
        if !one.in_role {
            return Ok(());
        }
        let (is_leader, state) = (one.leads, one.state.clone());
        // A leader that others have gone on without may learn late that what they have agreed on since is final.
        if is_leader && state.len() > world.seen.agreed.len() {
            Rc::make_mut(&mut world.seen).agreed.push((zxid, payload));
            self.check_quorum(world, "I8: it is final")?;
        }
        if !is_prefix(&state, &world.seen.agreed) {
            return Err(format!("I3: {} has {state:?}, agreed is {:?}", id(server), world.seen.agreed));
        }
        Ok(())
    }

    /// What is agreed must be on the disks of a quorum: if the last of it is a reconfiguration, of the voters before and
    /// after it.
    fn check_quorum(&self, world: &World, what: &str) -> Result<(), String> {
        let Seen { agreed, changes, .. } = &*world.seen;
        let mut rules = vec![self.config_at_start()];
        for (place, (_, payload)) in (1..).zip(agreed) {
            if let Some(EnsembleChange::Members(changed)) = changes.get(payload) {
                let before = rules.pop().filter(|_| place == agreed.len());
                rules = before.into_iter().chain([changed.clone()]).collect();
            } else {
                rules = rules.pop().into_iter().collect();
            }
        }
        let holds = |server: &usize| is_prefix(agreed, &world.servers[*server].disk.txns);
        if world.chosen.as_ref().is_some_and(holds) {
            return Ok(());
        }
        let holders: BTreeSet<ServerId> = (0..VOTERS).filter(holds).map(id).collect();
        match rules.iter().find(|rule| !Quorums::new(rule, None).are_met(&holders, Oracle::Absent)) {
            None => Ok(()),
            Some(rule) => Err(format!("{what}, and only {holders:?} of {rule} have {agreed:?} on disk")),
        }
    }

    fn check_send(
        &self,
        world: &mut World,
        server: usize,
        link: LinkId,
        packet: &PeerPacket,
    ) -> Result<(), String> {
        let me = id(server);
        match packet {
            PeerPacket::Ack { zxid } if zxid.counter() != 0 => {
                let disk = &world.servers[server].disk;
                if !disk.txns.iter().any(|(logged, _)| logged == zxid) && disk.snapshot < *zxid {
                    return Err(format!("I5: {me} acknowledges {zxid} with {disk:?}"));
                }
            }
            PeerPacket::Ack { zxid } => {
                let disk = &world.servers[server].disk;
                let initial = world.seen.initial.get(&zxid.epoch()).ok_or("an ACK without NEWLEADER")?;
                // What the leader has offered in its own epoch may be on the disk already.
                let rest = disk.txns.get(initial.len()..).unwrap_or_default();
                let is_newer = rest.iter().all(|(offered, _)| offered.epoch() == zxid.epoch());
                if disk.current != zxid.epoch() || !is_prefix(initial, &disk.txns) || !is_newer {
                    return Err(format!("I6: {me} takes over {initial:?} with {disk:?}"));
                }
            }
            PeerPacket::NewLeader { epoch, .. } => {
                let state = world.servers[server].state.clone();
                Rc::make_mut(&mut world.seen).initial.entry(*epoch).or_insert(state);
            }
            PeerPacket::LeaderInfo { epoch, .. } if world.servers[server].disk.accepted < *epoch => {
                return Err(format!("I2: {me} offers {epoch:?} on {link:?} before it is durable"));
            }
            PeerPacket::AckEpoch { .. } => {
                let one = &world.servers[server];
                let accepted = one.agreement.as_ref().map(|agreement| agreement.epochs().0);
                if accepted != Some(one.disk.accepted) {
                    return Err(format!("I2: {me} promises {accepted:?} with {:?}", one.disk));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn persist(&self, world: &mut World, server: usize) -> Result<(), String> {
        let one = Rc::make_mut(&mut world.servers[server]);
        let Some((ticket, work)) = one.work.pop_front() else { return Ok(()) };
        let disk = &mut one.disk;
        let before = (disk.accepted, disk.current);
        match work {
            Work::Plain(Durable::Append(Proposal { zxid, payload })) => {
                let last = disk.last();
                if last != Zxid::ZERO && !follows(last, zxid) {
                    return Err(format!("I3: {} logs {zxid} after {last}", id(server)));
                }
                disk.txns.push((zxid, payload));
            }
            Work::Plain(Durable::Truncate(to)) => {
                if to < disk.snapshot {
                    (disk.snapshot, disk.txns) = (Zxid::ZERO, Vec::new());
                }
                disk.txns.retain(|(zxid, _)| *zxid <= to);
            }
            Work::Plain(Durable::AcceptedEpoch(epoch)) => disk.accepted = epoch,
            Work::Plain(Durable::CurrentEpoch(epoch)) => disk.current = epoch,
            Work::Plain(Durable::Config { committed: true, config }) => disk.committed = config,
            Work::Plain(Durable::Config { committed: false, config }) => disk.seen = config,
            Work::Plain(other) => return Err(format!("{other:?} is not expected here")),
            Work::Install(zxid, state) => (disk.snapshot, disk.txns) = (zxid, state),
        }
        if disk.accepted < before.0 || disk.current < before.1 || disk.accepted < disk.current {
            return Err(format!("I2: epochs of {} went from {before:?} to {disk:?}", id(server)));
        }
        self.tell(world, server, |agreement| agreement.persisted(0, ticket))
    }

    /// Makes a server believe that a quorum wants this leader, which may be itself.
    fn elect(&self, world: &mut World, server: usize, leader: usize) -> Result<(), String> {
        let told = votes_for(world, server, leader);
        self.tell(world, server, |agreement| {
            for (from, notification) in told {
                agreement.notification(0, from, Ok(notification));
            }
        })
    }

    fn connect(&self, world: &mut World, learner: usize) -> Result<(), String> {
        let Some((leader, dial)) = Rc::make_mut(&mut world.servers[learner]).dial.take() else {
            return Ok(());
        };
        world.next_link += 1;
        let link = LinkId(world.next_link);
        let ends = [learner, leader];
        let queues = [VecDeque::new(), VecDeque::new()];
        world.links.insert(link, Rc::new(Link { ends, queues, closed: [false; 2] }));
        self.tell(world, leader, |agreement| agreement.link_opened(0, link, None))?;
        self.tell(world, learner, |agreement| agreement.link_opened(0, link, Some(dial)))
    }

    fn deliver(&self, world: &mut World, link: LinkId, to_leader: bool) -> Result<(), String> {
        let Some(wire) = world.links.get_mut(&link) else { return Ok(()) };
        let wire = Rc::make_mut(wire);
        let side = usize::from(to_leader);
        let (Some(item), server) = (wire.queues[side].pop_front(), wire.ends[side]) else { return Ok(()) };
        match item {
            Item::Packet(packet) => {
                let change = match &packet {
                    PeerPacket::Proposal { txn, .. } => world.seen.changes.get(txn).cloned(),
                    _ => None,
                };
                self.tell(world, server, |agreement| agreement.packet(0, link, packet, change))
            }
            Item::Closed => {
                world.links.remove(&link);
                self.tell(world, server, |agreement| agreement.link_closed(0, link))
            }
            Item::State(state) => {
                let one = Rc::make_mut(&mut world.servers[server]);
                let takes = |agreement: &mut Agreement| agreement.takes_snapshot(0, link).is_some();
                if !one.agreement.as_mut().is_some_and(takes) {
                    return Ok(());
                }
                one.state = state;
                self.tell(world, server, |agreement| agreement.snapshot_loaded(0))
            }
        }
    }

    /// Has a leader propose something: what comes of its zxid may change the ensemble.
    fn propose(&self, world: &mut World, server: usize, kind: u8, change: Change<'_>) -> Result<(), String> {
        let one = &world.servers[server];
        let Some(zxid) = one.agreement.as_ref().and_then(Agreement::next_zxid) else { return Ok(()) };
        let (payload, change) = (Bytes::from(vec![kind]), change(zxid));
        let seen = Rc::make_mut(&mut world.seen);
        if let Some((other, _)) = seen.offered.insert(zxid, (server, payload.clone())) {
            return Err(format!("I4: {zxid} is offered by {} and {}", id(other), id(server)));
        }
        if let Some(change) = &change {
            seen.changes.insert(payload.clone(), change.clone());
        }
        self.tell(world, server, |agreement| agreement.propose(Proposal { zxid, payload }, change))
    }

    /// Whether an oracle that knows what it does may choose this server: it lacks nothing that is agreed, and was
    /// together with the other one in the newest epoch, or both have led alone when they meet; and the other one does not
    /// lead, nor is about to.
    fn may_choose(&self, world: &World, server: usize) -> bool {
        let [one, other] = [server, 1 - server].map(|server| &world.servers[server].disk);
        world.chosen != Some(server)
            && is_prefix(&world.seen.agreed, &one.txns)
            && one.current >= other.current
            && self.state_of(world, 1 - server) != Some(ServerState::Leading)
            && world.servers[1 - server].work.is_empty()
    }

    fn choose(&self, world: &mut World, server: usize) -> Result<(), String> {
        let other = 1 - server;
        world.chosen = None;
        self.tell(world, other, |agreement| agreement.oracle(0, false))?;
        world.chosen = Some(server);
        self.tell(world, server, |agreement| agreement.oracle(0, true))
    }

    fn crash(&self, world: &mut World, server: usize) {
        let one = Rc::make_mut(&mut world.servers[server]);
        let disk = one.disk.clone();
        *one = Server {
            agreement: None,
            disk,
            work: VecDeque::new(),
            state: Vec::new(),
            state_zxid: Zxid::ZERO,
            installing: None,
            dial: None,
            listens: false,
            vote: None,
            in_role: false,
            leads: false,
        };
        let links: Vec<LinkId> =
            world.links.iter().filter(|(_, link)| link.ends.contains(&server)).map(|(id, _)| *id).collect();
        for link in links {
            close(world, server, link);
        }
    }

    fn state_of(&self, world: &World, server: usize) -> Option<ServerState> {
        world.servers[server].agreement.as_ref().map(Agreement::state)
    }
}

fn send(world: &mut World, from: usize, link: LinkId, item: Item) {
    let Some(link) = world.links.get_mut(&link) else { return };
    let side = usize::from(link.ends[0] == from);
    if !link.closed[0] && !link.closed[1] {
        Rc::make_mut(link).queues[side].push_back(item);
    }
}

/// Closes one end: what it sent still arrives, what was on its way to it does not.
fn close(world: &mut World, by: usize, link: LinkId) {
    let Some(wire) = world.links.get_mut(&link) else { return };
    let wire = Rc::make_mut(wire);
    let mine = usize::from(wire.ends[1] == by);
    if wire.closed[1 - mine] || wire.closed[mine] {
        if wire.closed[1 - mine] {
            world.links.remove(&link);
        }
        return;
    }
    wire.closed[mine] = true;
    wire.queues[mine].clear();
    wire.queues[1 - mine].push_back(Item::Closed);
}

impl Model for Agreements {
    type State = World;
    type Step = Step;

    fn initial(&self) -> World {
        let old = |counter: u32| (Zxid::new(1, counter), Bytes::from(vec![200, counter.to_be_bytes()[3]]));
        let disk = |start: &Start| Disk {
            txns: (1..=start.txns).map(old).collect(),
            snapshot: Zxid::ZERO,
            accepted: Epoch(start.epoch),
            current: Epoch(start.epoch),
            committed: self.config_at_start(),
            seen: self.config_at_start(),
        };
        let none = Start { txns: 0, epoch: 0 };
        let all = self.starts.iter().chain(std::iter::repeat(&none)).take(VOTERS);
        let servers = all.map(|start| {
            Rc::new(Server {
                agreement: None,
                disk: disk(start),
                work: VecDeque::new(),
                state: Vec::new(),
                state_zxid: Zxid::ZERO,
                installing: None,
                dial: None,
                listens: false,
                vote: None,
                in_role: false,
                leads: false,
            })
        });
        let Agreements { leads, follows, txns, crashes, resigns, hand_overs, .. } = *self;
        let (reconfigs, choices) = (self.change.is_some().into(), self.choices.unwrap_or(0));
        let mut world = World {
            servers: servers.collect(),
            links: BTreeMap::new(),
            next_link: 0,
            left: Left { leads, follows, txns, crashes, resigns, reconfigs, hand_overs, choices },
            chosen: None,
            seen: Rc::default(),
        };
        // What a quorum of disks holds at the start may be agreed.
        let mut counts: Vec<u32> = self.starts.iter().map(|start| start.txns).collect();
        counts.resize(VOTERS, 0);
        counts.sort_unstable();
        Rc::make_mut(&mut world.seen).agreed = (1..=counts[VOTERS / 2]).map(old).collect();
        for server in 0..self.starts.len() {
            self.boot(&mut world, server).unwrap();
        }
        world
    }

    fn steps(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        let up = 0..self.starts.len();
        for server in up.clone() {
            let one = &world.servers[server];
            let Some(state) = self.state_of(world, server) else {
                steps.push(Step::Restart(server));
                continue;
            };
            let agreement = one.agreement.as_ref();
            if state == ServerState::Looking && one.vote.is_some() && one.work.is_empty() {
                if world.left.leads > 0 {
                    steps.push(Step::Lead(server));
                }
                let leads = |other: &usize| self.state_of(world, *other) == Some(ServerState::Leading);
                if world.left.follows > 0 {
                    steps.extend(up.clone().filter(leads).map(|leader| Step::Follow(server, leader)));
                }
            }
            if one.dial.is_some_and(|(leader, _)| world.servers[leader].listens) {
                steps.push(Step::Connect(server));
            }
            if !one.work.is_empty() {
                steps.push(Step::Persist(server));
            }
            let can_propose = agreement.is_some_and(|one| one.next_zxid().is_some());
            if world.left.txns > 0 && can_propose {
                steps.push(Step::Propose(server));
            }
            if world.left.reconfigs > 0 && can_propose {
                steps.push(Step::Reconfigure(server));
            }
            if world.left.hand_overs > 0 && can_propose {
                let others = up.clone().filter(|other| *other != server);
                steps.extend(others.map(|other| Step::HandOver(server, other)));
            }
            // A dial that can come to nothing any more ends by itself.
            let is_in_vain = one.dial.is_some_and(|(leader, _)| !world.servers[leader].listens);
            if state != ServerState::Looking && (world.left.resigns > 0 || is_in_vain) {
                steps.push(Step::Resign(server));
            }
            if world.left.choices > 0 && self.may_choose(world, server) {
                steps.push(Step::Choose(server));
            }
            if world.left.crashes > 0 {
                steps.push(Step::Crash(server));
            }
        }
        for (link, wire) in &world.links {
            for to_leader in [false, true] {
                if !wire.queues[usize::from(to_leader)].is_empty() {
                    steps.push(Step::Deliver(*link, to_leader));
                }
            }
        }
        steps
    }

    fn take(&self, world: &mut World, step: Step) -> Result<(), String> {
        match step {
            Step::Lead(server) => {
                world.left.leads -= 1;
                self.elect(world, server, server)
            }
            Step::Follow(server, leader) => {
                world.left.follows -= 1;
                self.elect(world, server, leader)
            }
            Step::Connect(server) => self.connect(world, server),
            Step::Deliver(link, to_leader) => self.deliver(world, link, to_leader),
            Step::Persist(server) => self.persist(world, server),
            Step::Propose(server) => {
                world.left.txns -= 1;
                self.propose(world, server, self.txns - world.left.txns, &|_| None)
            }
            Step::Choose(server) => {
                world.left.choices -= 1;
                self.choose(world, server)
            }
            Step::Reconfigure(server) => {
                world.left.reconfigs -= 1;
                let change = |zxid| Some(EnsembleChange::Members(config(self.change?.1, zxid)));
                self.propose(world, server, 100, &change)
            }
            Step::HandOver(server, to) => {
                world.left.hand_overs -= 1;
                let kind = 101 + world.left.hand_overs;
                self.propose(world, server, kind, &|_| Some(EnsembleChange::Leader(id(to))))
            }
            Step::Resign(server) => {
                let one = Rc::make_mut(&mut world.servers[server]);
                let is_in_vain = one.dial.take().is_some_and(|(leader, _)| !world.servers[leader].listens);
                if !is_in_vain {
                    world.left.resigns -= 1;
                }
                self.tell(world, server, |agreement| agreement.resign(0, "it is time"))
            }
            Step::Crash(server) => {
                world.left.crashes -= 1;
                self.crash(world, server);
                Ok(())
            }
            Step::Restart(server) => self.boot(world, server),
        }
    }

    fn recovers(&self, world: &World) -> Result<(), String> {
        // Every disk can be started from: its log has no hole, and no epoch is ahead of what was promised.
        for (server, one) in world.servers.iter().enumerate() {
            let zxids: BTreeSet<Zxid> = one.disk.txns.iter().map(|(zxid, _)| *zxid).collect();
            let in_order: Vec<Zxid> = one.disk.txns.iter().map(|(zxid, _)| *zxid).collect();
            let is_whole = in_order.windows(2).all(|pair| follows(pair[0], pair[1]));
            if zxids.len() != in_order.len() || !is_whole {
                return Err(format!("the disk of {} holds {in_order:?}", id(server)));
            }
        }
        Ok(())
    }
}
