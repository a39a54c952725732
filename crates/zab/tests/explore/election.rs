//! All that can happen to an election among two or three servers: messages of different links overtake each other,
//! timers are early or late, servers give up, crash and come back, links break and bring old messages again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{EnsembleConfig, Epoch, Round, ServerId, Zxid};
use oxkeeper_zab::election::{Candidate, Decision, Election, Input, Output, Settings, Timing};
use oxkeeper_zab::{Rank, Vote};

use super::search::Model;

/// Messages on their way on one link; of more, the newest takes the place of the one before, as in a sender's slot.
const LINK_MAX: usize = 2;

/// A world, by what may go wrong in it and how often.
#[derive(Debug, Clone)]
pub(crate) struct Elections {
    /// Epoch and newest transaction on each server's disk; (-1, 0) for one that was never started.
    pub(crate) disks: Vec<(i64, i64)>,
    /// Votes sent again after silence.
    pub(crate) resends: u8,
    /// Servers that leave a role and look again.
    pub(crate) resigns: u8,
    pub(crate) crashes: u8,
    /// Links that break. What was on its way is lost, and comes back up to once more when the link is there again.
    pub(crate) cuts: u8,
    /// Leaders that have a transaction agreed.
    pub(crate) commits: u8,
    /// Servers that find their directories empty when they come back.
    pub(crate) wipes: u8,
}

/// What a server finds on its disk.
#[derive(Debug, Clone, Copy, Hash)]
struct Disk {
    epoch: i64,
    zxid: i64,
    emptied: bool,
}

#[derive(Debug, Clone, Copy, Hash)]
pub(crate) enum Step {
    Start(usize),
    Deliver(usize, usize),
    Finalize(usize),
    Resend(usize),
    Resign(usize),
    Crash(usize),
    Cut(usize, usize),
    Mend(usize, usize),
    Commit(usize),
    Wipe(usize),
}

/// What is left of the things that may go wrong.
#[derive(Debug, Clone, Copy, Hash)]
struct Left {
    resends: u8,
    resigns: u8,
    crashes: u8,
    cuts: u8,
    commits: u8,
    wipes: u8,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct World {
    servers: Vec<Option<Rc<Server>>>,
    disks: Vec<Disk>,
    /// How often each was started.
    starts: Vec<u64>,
    /// Who has helped to elect although its directory was empty, because everybody's was.
    stood: BTreeSet<usize>,
    /// The newest that was agreed.
    agreed: Option<(Epoch, Zxid)>,
    wires: BTreeMap<(usize, usize), Wire>,
    left: Left,
    /// Who has ever joined a leader that others had, which may know less: it does not vouch for that one's history
    /// by saying whom it follows.
    joined: BTreeSet<usize>,
    cast: Cast,
}

/// Every vote that was ever cast: who, in which round, for whom. No part of the state: what happens next does not depend
/// on it, and of two ways to the same state either may be looked at.
#[derive(Debug, Clone, Default)]
struct Cast(BTreeSet<(ServerId, Round, ServerId)>);

impl Hash for Cast {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Debug, Clone)]
struct Server {
    election: Election,
    /// The leaders for which it decided, by round, since it was started or its rounds went back.
    decided: BTreeMap<Round, BTreeSet<ServerId>>,
}

impl Hash for Server {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.election.hash(state);
        self.decided.hash(state);
    }
}

#[derive(Debug, Clone, Hash, Default)]
struct Wire {
    queue: VecDeque<Rc<Notification>>,
    last: Option<Rc<Notification>>,
    is_cut: bool,
}

impl Wire {
    fn send(&mut self, notification: Rc<Notification>) {
        if self.queue.len() == if self.is_cut { 1 } else { LINK_MAX } {
            self.queue.pop_back();
        }
        self.queue.push_back(notification);
    }
}

fn id(server: usize) -> ServerId {
    ServerId(i64::try_from(server).unwrap() + 1)
}

impl Elections {
    fn config(&self) -> Arc<EnsembleConfig> {
        let text: String = (0..self.disks.len()).map(|i| format!("server.{}=h{i}:1:2\n", id(i))).collect();
        Arc::new(EnsembleConfig::parse(&text).unwrap())
    }

    /// What a quorum of disks holds at the start may be agreed.
    fn agreed_at_start(&self) -> Option<(Epoch, Zxid)> {
        let mut disks = self.disks.clone();
        disks.sort_unstable();
        let (epoch, zxid) = disks[disks.len() / 2];
        (epoch > 0).then_some((Epoch(epoch), Zxid(zxid)))
    }

    fn rank(&self, world: &World, server: usize) -> Rank {
        let Disk { epoch, zxid, .. } = world.disks[server];
        Rank(Epoch(epoch), Zxid(zxid), id(server))
    }

    fn look(&self, world: &World, server: usize) -> Input {
        let Disk { epoch, zxid, emptied } = world.disks[server];
        Input::Look(Candidate { zxid: Zxid(zxid), epoch: Epoch(epoch), emptied })
    }

    fn is_quorum(&self, servers: usize) -> bool {
        servers > self.disks.len() / 2
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let n = self.disks.len();
        (0..n).flat_map(move |a| (0..n).filter(move |b| *b != a).map(move |b| (a, b)))
    }

    /// Times are such that the wait for a better vote always ends before votes are sent again; which of them happens
    /// when is left to the explorer, so that nothing else depends on them.
    fn start(&self, world: &mut World, server: usize) -> Result<(), String> {
        let timing = Timing {
            interval_min: Duration::from_secs(1000),
            interval_max: Duration::from_secs(1000),
            finalize_wait: Duration::from_secs(1),
            answer_gap: Duration::ZERO,
        };
        world.starts[server] += 1;
        let seed = world.starts[server] * 10 + u64::try_from(server).unwrap() * 1000;
        let settings = Settings { me: id(server), timing, reconfig: true, seed };
        let election = Election::new(settings, self.config(), None);
        world.servers[server] = Some(Rc::new(Server { election, decided: BTreeMap::new() }));
        self.step(world, server, Duration::ZERO, self.look(world, server))
    }

    fn step(&self, world: &mut World, server: usize, now: Duration, input: Input) -> Result<(), String> {
        let Some(one) = &mut world.servers[server] else { return Ok(()) };
        let one = Rc::make_mut(one);
        let before = one.election.round();
        let mut out = Vec::new();
        one.election.step(now, input, &mut out);
        if one.election.round() < before {
            one.decided.clear();
        }
        for output in out {
            match output {
                Output::Send { to, notification } => {
                    world.cast.0.insert((id(server), notification.round, notification.leader));
                    let to = usize::try_from(to.0 - 1).unwrap();
                    world.wires.entry((server, to)).or_default().send(Rc::new(notification));
                }
                Output::Decided(decision) => self.check_decision(world, server, &decision)?,
                Output::Adopt(_) | Output::Disloyal(_) => {}
            }
        }
        Ok(())
    }

    /// Whoever is elected has at least the history of each who agreed, and its vote tells the truth.
    fn check_decision(&self, world: &mut World, server: usize, decision: &Decision) -> Result<(), String> {
        let Decision { vote, supporters, is_new, .. } = decision;
        if !self.is_quorum(supporters.len()) {
            return Err(format!("{decision:?} without a quorum"));
        }
        if *is_new {
            let leader = usize::try_from(vote.leader.0 - 1).unwrap();
            let Rank(epoch, zxid, _) = self.rank(world, leader);
            // Votes may be older than what has been agreed since; `check_leaders` looks at that.
            let disks_stay = self.commits == 0;
            if disks_stay && (vote.peer_epoch, vote.zxid) != (epoch, zxid) {
                return Err(format!("{decision:?} does not tell the leader's history"));
            }
            let counted = supporters.iter().filter(|supporter| **supporter != id(server));
            let is_cast = |by: &&ServerId| world.cast.0.contains(&(**by, vote.round, vote.leader));
            if let Some(other) = counted.clone().find(|supporter| !is_cast(supporter)) {
                return Err(format!("{other} did not vote for {} in {:?}", vote.leader, vote.round));
            }
            for supporter in supporters {
                let supporter = usize::try_from(supporter.0 - 1).unwrap();
                let vouches = !world.joined.contains(&supporter);
                let knows_more = self.rank(world, supporter) > self.rank(world, leader);
                if disks_stay && vouches && knows_more {
                    return Err(format!("{} elects {} over one with more", id(server), vote.leader));
                }
            }
            if world.disks[server].emptied && supporters.contains(&id(server)) {
                world.stood.insert(server);
            }
        } else {
            world.joined.insert(server);
        }
        if let Some(one) = &mut world.servers[server] {
            let decided = &mut Rc::make_mut(one).decided;
            decided.entry(vote.round).or_default().insert(vote.leader);
        }
        self.check_one_leader(world, vote.round)
    }

    /// In one round no two servers have each a quorum that decided for them.
    fn check_one_leader(&self, world: &World, round: Round) -> Result<(), String> {
        let mut followers: BTreeMap<ServerId, usize> = BTreeMap::new();
        for server in world.servers.iter().flatten() {
            for leader in server.decided.get(&round).into_iter().flatten() {
                *followers.entry(*leader).or_default() += 1;
            }
        }
        let leaders: Vec<_> = followers.iter().filter(|(_, count)| self.is_quorum(**count)).collect();
        if leaders.len() > 1 {
            return Err(format!("two leaders in {round:?}: {leaders:?}"));
        }
        Ok(())
    }

    /// The servers that would help this one to lead now: they follow it, know no more, and have not lost what they may
    /// have acknowledged.
    fn helpers(&self, world: &World, leader: usize) -> Vec<usize> {
        let helps = |server: &usize| {
            let is_counted = !world.disks[*server].emptied || world.stood.contains(server);
            let rank = self.rank(world, *server);
            is_counted && self.follows(world, *server, leader) && rank <= self.rank(world, leader)
        };
        (0..self.disks.len()).filter(|server| *server == leader || helps(server)).collect()
    }

    fn can_lead(&self, world: &World, server: usize) -> bool {
        self.is_leading(world, server) && self.is_quorum(self.helpers(world, server).len())
    }

    /// Whoever can lead has all that was agreed.
    fn check_leaders(&self, world: &World) -> Result<(), String> {
        let Some(agreed) = world.agreed else { return Ok(()) };
        for server in 0..self.disks.len() {
            let Rank(epoch, zxid, _) = self.rank(world, server);
            if self.can_lead(world, server) && (epoch, zxid) < agreed {
                return Err(format!("I7: {} leads without {agreed:?}", id(server)));
            }
        }
        Ok(())
    }

    /// A leader has a transaction agreed: it and those that help it have it on disk.
    fn commit(&self, world: &mut World, leader: usize) {
        let epoch = world.disks.iter().map(|disk| disk.epoch).max().unwrap_or(0) + 1;
        for server in self.helpers(world, leader) {
            world.disks[server] = Disk { epoch, zxid: epoch << 32 | 1, emptied: false };
        }
        world.agreed = Some((Epoch(epoch), Zxid(epoch << 32 | 1)));
    }

    fn deliver(&self, world: &mut World, from: usize, to: usize) -> Result<(), String> {
        let Some(wire) = world.wires.get_mut(&(from, to)) else { return Ok(()) };
        let Some(notification) = wire.queue.pop_front() else { return Ok(()) };
        wire.last = Some(notification.clone());
        let message = Ok(Notification::clone(&notification));
        self.step(world, to, Duration::ZERO, Input::Received { from: id(from), message })
    }

    fn tick(&self, world: &mut World, server: usize) -> Result<(), String> {
        let at = world.servers[server].as_ref().and_then(|one| one.election.deadline());
        self.step(world, server, at.unwrap_or_default(), Input::Tick)
    }

    /// Lets everything arrive, then lets time pass, and lets those look again whose leader is none; until there is a
    /// leader that everybody follows.
    fn heal(&self, world: &mut World) -> Result<(), String> {
        for (_, wire) in world.wires.iter_mut() {
            wire.is_cut = false;
        }
        for server in 0..self.disks.len() {
            if world.servers[server].is_none() {
                self.start(world, server)?;
            }
        }
        for _ in 0..40 {
            for _ in 0..200 {
                let waiting = self
                    .pairs()
                    .find(|pair| world.wires.get(pair).is_some_and(|wire| !wire.queue.is_empty()));
                let Some((from, to)) = waiting else { break };
                self.deliver(world, from, to)?;
            }
            if self.has_leader(world) {
                return Ok(());
            }
            for server in 0..self.disks.len() {
                if self.is_settled_in_vain(world, server) {
                    self.step(world, server, Duration::ZERO, self.look(world, server))?;
                } else {
                    self.tick(world, server)?;
                }
            }
        }
        Err("no leader emerges".to_owned())
    }

    fn follows(&self, world: &World, server: usize, leader: usize) -> bool {
        world.servers[server].as_ref().is_some_and(|one| {
            one.election.state() != ServerState::Looking
                && one.election.vote().is_some_and(|vote| vote.leader == id(leader))
        })
    }

    fn is_leading(&self, world: &World, server: usize) -> bool {
        world.servers[server].as_ref().is_some_and(|one| one.election.state() == ServerState::Leading)
    }

    fn has_leader(&self, world: &World) -> bool {
        let all = 0..self.disks.len();
        all.clone().any(|leader| {
            self.is_leading(world, leader) && all.clone().all(|server| self.follows(world, server, leader))
        })
    }

    /// Whether a server follows one that does not lead, or leads without a quorum: the quorum port tells it so.
    fn is_settled_in_vain(&self, world: &World, server: usize) -> bool {
        let Some(one) = &world.servers[server] else { return false };
        match one.election.state() {
            ServerState::Looking => false,
            ServerState::Leading => {
                let followers = (0..self.disks.len()).filter(|other| self.follows(world, *other, server));
                !self.is_quorum(followers.count())
            }
            _ => {
                let leader = one.election.vote().map_or(Vote::NOBODY, |vote| vote.leader);
                !(0..self.disks.len()).any(|other| id(other) == leader && self.is_leading(world, other))
            }
        }
    }
}

impl Model for Elections {
    type State = World;
    type Step = Step;

    fn initial(&self) -> World {
        let Elections { resends, resigns, crashes, cuts, commits, wipes, .. } = *self;
        // A disk without an epoch and a transaction is one of a server that starts for the first time.
        let disk =
            |(epoch, zxid): &(i64, i64)| Disk { epoch: (*epoch).max(0), zxid: *zxid, emptied: *epoch < 0 };
        World {
            servers: vec![None; self.disks.len()],
            disks: self.disks.iter().map(disk).collect(),
            starts: vec![0; self.disks.len()],
            stood: BTreeSet::new(),
            agreed: self.agreed_at_start(),
            wires: BTreeMap::new(),
            left: Left { resends, resigns, crashes, cuts, commits, wipes },
            joined: BTreeSet::new(),
            cast: Cast::default(),
        }
    }

    fn steps(&self, world: &World) -> Vec<Step> {
        let mut steps = Vec::new();
        for (server, one) in world.servers.iter().enumerate() {
            let Some(one) = one else {
                steps.push(Step::Start(server));
                if world.left.wipes > 0 && world.agreed.is_some() {
                    steps.push(Step::Wipe(server));
                }
                continue;
            };
            if world.left.commits > 0 && self.can_lead(world, server) {
                steps.push(Step::Commit(server));
            }
            match one.election.deadline() {
                Some(at) if at <= Duration::from_secs(1) => steps.push(Step::Finalize(server)),
                Some(_) if world.left.resends > 0 => steps.push(Step::Resend(server)),
                Some(_) => {}
                None if world.left.resigns > 0 => steps.push(Step::Resign(server)),
                None => {}
            }
            if world.left.crashes > 0 {
                steps.push(Step::Crash(server));
            }
        }
        for (from, to) in self.pairs() {
            let wire = world.wires.get(&(from, to));
            if wire.is_some_and(|wire| !wire.is_cut && !wire.queue.is_empty()) && world.servers[to].is_some()
            {
                steps.push(Step::Deliver(from, to));
            }
            if from < to {
                match wire.is_some_and(|wire| wire.is_cut) {
                    true => steps.push(Step::Mend(from, to)),
                    false if world.left.cuts > 0 => steps.push(Step::Cut(from, to)),
                    false => {}
                }
            }
        }
        steps
    }

    fn take(&self, world: &mut World, step: Step) -> Result<(), String> {
        self.let_happen(world, step)?;
        self.check_leaders(world)
    }

    fn recovers(&self, world: &World) -> Result<(), String> {
        self.heal(&mut world.clone())
    }
}

impl Elections {
    fn let_happen(&self, world: &mut World, step: Step) -> Result<(), String> {
        match step {
            Step::Commit(server) => {
                world.left.commits -= 1;
                self.commit(world, server);
                Ok(())
            }
            Step::Wipe(server) => {
                world.left.wipes -= 1;
                world.disks[server] = Disk { epoch: 0, zxid: 0, emptied: true };
                world.stood.remove(&server);
                Ok(())
            }
            Step::Start(server) => self.start(world, server),
            Step::Deliver(from, to) => self.deliver(world, from, to),
            Step::Finalize(server) => self.tick(world, server),
            Step::Resend(server) => {
                world.left.resends -= 1;
                self.tick(world, server)
            }
            Step::Resign(server) => {
                world.left.resigns -= 1;
                self.step(world, server, Duration::ZERO, self.look(world, server))
            }
            Step::Crash(server) => {
                world.left.crashes -= 1;
                world.servers[server] = None;
                // Peers go on to hold what they would send, and send again what they sent last.
                for ((from, to), wire) in &mut world.wires {
                    if *from == server {
                        *wire = Wire::default();
                    } else if *to == server {
                        wire.queue.clear();
                        wire.queue.extend(wire.last.clone());
                    }
                }
                Ok(())
            }
            Step::Cut(a, b) => {
                world.left.cuts -= 1;
                for pair in [(a, b), (b, a)] {
                    let wire = world.wires.entry(pair).or_default();
                    wire.is_cut = true;
                    wire.queue.clear();
                }
                Ok(())
            }
            Step::Mend(a, b) => {
                for pair in [(a, b), (b, a)] {
                    let wire = world.wires.entry(pair).or_default();
                    wire.is_cut = false;
                    if wire.queue.is_empty() {
                        wire.queue.extend(wire.last.clone());
                    }
                }
                Ok(())
            }
        }
    }
}
