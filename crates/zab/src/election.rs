//! The election of a leader: a pure state machine that answers in every state of its server and, while the
//! server looks for a leader, finds one.
//!
//! Everybody tells everybody whom he wants to lead, and changes his mind for a better candidate; who sees a
//! quorum of one mind waits a little for a better vote and then acts on it. Rounds tell votes of one election
//! from those of another. What servers say that have a leader already is believed once a quorum says the same
//! and that leader itself says that it leads.
//!
//! An election may go wrong: two servers may both believe to lead. That is found out when epochs are agreed
//! on; safety does not rest on what is decided here, except that whom a quorum chose has a history at least as
//! new as each of theirs, and that one who may have lost what he acknowledged is not counted (`emptied`).
//!
//! Start with [`Input`] and [`Output`]. Source: `FastLeaderElection`, 3.9.

mod count;
mod emptied;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oxkeeper_planted::Fault;
use oxkeeper_proto::peer::notification::{NOTIFICATION_VERSION, Notification, ServerState};
use oxkeeper_proto::{DecodeError, EnsembleConfig, Epoch, Round, ServerId, Zxid};

use crate::quorum::{Oracle, Quorums};
use crate::vote::{Ballot, Vote};
use emptied::Emptied;

/// The highest round that is believed. Rounds count elections; without a bound one forged message would bring
/// the count to its end.
pub const ROUND_MAX: Round = Round(1 << 62);

/// Peers whose last answer is remembered. Those beyond are answered once room is free.
const ANSWERED_MAX: usize = 1024;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which votes are sent again, at first: `fastleader.minNotificationInterval`.
    pub interval_min: Duration,
    /// The same after it was doubled often enough; at most [`Timing::INTERVAL_CAP`].
    pub interval_max: Duration,
    /// How long a better vote is waited for once a quorum agrees.
    pub finalize_wait: Duration,
    /// A peer gets the same answer once in this time: two servers of which neither can accept the other would
    /// else answer each other as fast as they can.
    pub answer_gap: Duration,
}

impl Timing {
    /// However long servers have looked in vain, they try again at least this often, so that a leader emerges
    /// within seconds of the network's healing. Java goes to a minute.
    pub const INTERVAL_CAP: Duration = Duration::from_millis(3200);

    /// Java's times, with our cap.
    pub const DEFAULT: Timing = Timing {
        interval_min: Duration::from_millis(200),
        interval_max: Timing::INTERVAL_CAP,
        finalize_wait: Duration::from_millis(200),
        answer_gap: Duration::from_millis(100),
    };

    /// With configured intervals, within the cap.
    #[must_use]
    pub fn with_intervals(min: Duration, max: Duration) -> Timing {
        let interval_max = max.min(Timing::INTERVAL_CAP);
        Timing { interval_min: min.min(interval_max), interval_max, ..Timing::DEFAULT }
    }
}

/// What an election is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This server.
    pub me: ServerId,
    /// How long things take.
    pub timing: Timing,
    /// `reconfigEnabled`: whether a newer configuration in a notification is adopted.
    pub reconfig: bool,
    /// Another number at each start of the process.
    pub seed: u64,
}

/// What a server has to offer when it begins to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// The newest transaction in its durable log: never less than anything that it acknowledged.
    pub zxid: Zxid,
    /// Its current epoch.
    pub epoch: Epoch,
    /// Whether it was found without log, snapshot and epochs, and no sync with a leader is durable since. Such
    /// a voter may have acknowledged what it no longer has, so it is not counted unless every voter says the
    /// same, or the operator says that it is new (then this is false).
    pub emptied: bool,
}

/// Something that happens to an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The server begins to look for a leader.
    Look(Candidate),
    /// A message came, or what should have been one.
    Received {
        /// Whom the connection belongs to.
        from: ServerId,
        /// The message.
        message: Result<Notification, DecodeError>,
    },
    /// The server serves in this epoch, as leader or level with one: from now on its vote tells it.
    Serving(Epoch),
    /// The server takes on a role without an election, as a reconfiguration said.
    HandedOver {
        /// The role.
        state: ServerState,
        /// Under whom: see [`Vote::handed_over`].
        vote: Vote,
    },
    /// The configurations changed: the one in force and the one seen last.
    Configured {
        /// In force.
        committed: Arc<EnsembleConfig>,
        /// Seen last; counts only if it is newer.
        seen: Option<Arc<EnsembleConfig>>,
    },
    /// What the oracle says, wherever one is configured.
    Oracle(Oracle),
    /// Time has passed.
    Tick,
}

/// Something to do for an election.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// Send a message; it takes the place of one that still waits for the same peer. Dial the peer if it is
    /// not connected.
    Send {
        /// To whom.
        to: ServerId,
        /// The message.
        notification: Notification,
    },
    /// A newer configuration was heard of and is in force: keep it. If servers or addresses differ, listen and
    /// connect anew. [`Input::Configured`] with the same says nothing new.
    Adopt(Arc<EnsembleConfig>),
    /// A leader was found.
    Decided(Decision),
    /// This server leads, and one who voted for it looks for a leader.
    Disloyal(ServerId),
}

/// How an election ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decision {
    /// What this server is to do: lead, follow or observe.
    pub state: ServerState,
    /// Under whom.
    pub vote: Vote,
    /// Who agreed, this server among them if it votes.
    pub supporters: BTreeSet<ServerId>,
    /// Whether the vote was won among those who look, or taken from an ensemble that has a leader.
    pub is_new: bool,
}

/// The election of one server, alive as long as its process.
#[derive(Debug, Clone)]
pub struct Election {
    me: ServerId,
    timing: Timing,
    reconfig: bool,
    committed: Arc<EnsembleConfig>,
    seen: Option<Arc<EnsembleConfig>>,
    quorums: Quorums,
    /// The text of the committed configuration, sent with every message.
    text: Bytes,
    oracle: Oracle,
    /// The number of the newest election that this server knows of.
    round: Round,
    /// What is answered when it does not look, and to those who do not vote.
    current: Option<Vote>,
    role: Role,
    answered: BTreeMap<ServerId, (Duration, Answer)>,
    emptied: Emptied,
    malformed: u64,
    deaf: bool,
}

#[derive(Debug, Clone)]
enum Role {
    /// Before the first [`Input::Look`].
    Starting,
    Looking(Looking),
    /// With a leader, and those who agreed on it.
    Settled(ServerState, BTreeSet<ServerId>),
}

/// An attempt to find a leader.
#[derive(Debug, Clone)]
struct Looking {
    candidate: Candidate,
    /// What this server stands for itself, without a round.
    own: Vote,
    proposal: Vote,
    /// The votes of this round.
    votes: BTreeMap<ServerId, Ballot>,
    /// What servers say that have a leader, of whatever round.
    outside: BTreeMap<ServerId, Ballot>,
    /// A quorum agrees; acted upon at this time unless a better vote comes.
    finalize_at: Option<Duration>,
    interval: Duration,
    resend_at: Duration,
}

/// An answer, to be told from the next: state, vote, and the version of the configuration.
type Answer = (ServerState, Vote, Zxid);

impl Election {
    /// An election that waits for its first [`Input::Look`].
    #[must_use]
    pub fn new(
        settings: Settings,
        committed: Arc<EnsembleConfig>,
        seen: Option<Arc<EnsembleConfig>>,
    ) -> Election {
        let Settings { me, timing, reconfig, seed } = settings;
        Election {
            me,
            timing,
            reconfig,
            quorums: Quorums::new(&committed, seen.as_deref()),
            text: committed.to_string().into(),
            committed,
            seen,
            oracle: Oracle::Absent,
            round: Round(0),
            current: None,
            role: Role::Starting,
            answered: BTreeMap::new(),
            emptied: Emptied::new(seed),
            malformed: 0,
            deaf: false,
        }
    }

    /// Takes one input and says what is to be done. Time never goes back.
    pub fn step(&mut self, now: Duration, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Look(candidate) => self.look(now, candidate, out),
            Input::Received { from, message } => self.receive(now, from, message, out),
            Input::Serving(epoch) => {
                if let Some(current) = &mut self.current {
                    current.peer_epoch = epoch;
                }
            }
            Input::HandedOver { state, vote } => {
                self.current = Some(vote);
                self.role = Role::Settled(state, BTreeSet::new());
            }
            Input::Configured { committed, seen } => self.configure(now, committed, seen, out),
            Input::Oracle(oracle) => {
                self.oracle = oracle;
                self.judge(now, true);
            }
            Input::Tick => {}
        }
        self.tick(now, out);
    }

    /// When time alone will change something.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let Role::Looking(looking) = &self.role else { return None };
        Some(looking.finalize_at.map_or(looking.resend_at, |at| at.min(looking.resend_at)))
    }

    /// What this server is doing.
    #[must_use]
    pub fn state(&self) -> ServerState {
        match &self.role {
            Role::Starting | Role::Looking(_) => ServerState::Looking,
            Role::Settled(state, _) => *state,
        }
    }

    /// The newest election that it knows of.
    #[must_use]
    pub fn round(&self) -> Round {
        self.round
    }

    /// The vote that it stands by: whom it wants to lead while it looks, else under whom it serves.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        match &self.role {
            Role::Looking(looking) => Some(looking.proposal),
            _ => self.current,
        }
    }

    /// Messages that made no sense so far.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Arc<EnsembleConfig> {
        &self.committed
    }

    fn look(&mut self, now: Duration, candidate: Candidate, out: &mut Vec<Output>) {
        self.emptied.forget();
        self.current.get_or_insert(Vote {
            leader: self.me,
            zxid: candidate.zxid,
            round: Round(-1),
            peer_epoch: candidate.epoch,
        });
        self.attempt(now, candidate, out);
    }

    /// Begins a round.
    fn attempt(&mut self, now: Duration, candidate: Candidate, out: &mut Vec<Output>) {
        self.round = Round(self.round.0 + 1);
        let own = self.own_vote(candidate);
        let interval = self.timing.interval_min;
        self.role = Role::Looking(Looking {
            candidate,
            own,
            proposal: Vote { round: self.round, ..own },
            votes: BTreeMap::new(),
            outside: BTreeMap::new(),
            finalize_at: None,
            interval,
            resend_at: now + interval,
        });
        self.send_all(out);
        self.judge(now, true);
    }

    /// Whether this server observes, and is not to vote in the configuration to come either.
    fn observes(&self) -> bool {
        self.committed.is_observer(self.me) && !self.quorums.is_voter(self.me)
    }

    /// What this server stands for: itself, if the configuration lets it vote.
    fn own_vote(&self, candidate: Candidate) -> Vote {
        let mut own = Vote {
            leader: if self.committed.is_voter(self.me) { self.me } else { Vote::NOBODY },
            zxid: candidate.zxid,
            round: self.round,
            peer_epoch: candidate.epoch,
        };
        if self.observes() {
            own.zxid = Zxid(i64::MIN);
            own.peer_epoch = Epoch(i64::MIN);
        } else if candidate.emptied
            && !self.emptied.is_general(self.me, &self.quorums)
            && !oxkeeper_planted::is(Fault::WipedVotes)
        {
            own.zxid = emptied::NOT_COUNTED;
        }
        own
    }

    /// Tells everybody who votes whom this server wants, and counts its own vote.
    fn send_all(&mut self, out: &mut Vec<Output>) {
        let Role::Looking(looking) = &mut self.role else { return };
        if looking.is_counted() && self.quorums.is_voter(self.me) {
            looking.votes.insert(self.me, Ballot::looking(looking.proposal));
        }
        let proposal = looking.proposal;
        for to in self.quorums.voters().into_iter().filter(|id| *id != self.me) {
            let vote = self.emptied.marked(proposal, to);
            out.push(Output::Send { to, notification: self.notification(ServerState::Looking, vote) });
        }
    }

    fn notification(&self, state: ServerState, vote: Vote) -> Notification {
        Notification {
            state,
            leader: vote.leader,
            zxid: vote.zxid,
            round: vote.round,
            peer_epoch: vote.peer_epoch,
            version: NOTIFICATION_VERSION,
            config: Some(self.text.clone()),
        }
    }

    fn receive(
        &mut self,
        now: Duration,
        from: ServerId,
        message: Result<Notification, DecodeError>,
        out: &mut Vec<Output>,
    ) {
        let message = match message {
            Ok(message) if message.round <= ROUND_MAX => message,
            _ => {
                self.malformed += 1;
                self.deaf |= oxkeeper_planted::is(Fault::NotificationErrorEnds);
                return;
            }
        };
        // A connection from one's own id is somebody's wrong configuration (ZOOKEEPER-2164).
        if self.deaf || from == self.me {
            return;
        }
        self.learn_config(now, &message, out);
        self.answer(now, from, &message, out);
        if !self.quorums.is_voter(from) {
            return;
        }
        if self.quorums.is_voter(message.leader) {
            self.count(now, from, &message, out);
        } else if message.state == ServerState::Looking && message.leader == Vote::NOBODY {
            self.catch_up(now, &message, out);
        }
    }

    /// Adopts a newer configuration, if this server looks for a leader: with one, it hears of it from there.
    fn learn_config(&mut self, now: Duration, message: &Notification, out: &mut Vec<Output>) {
        let Some(text) = message.config.as_ref().filter(|text| self.reconfig && **text != self.text) else {
            return;
        };
        let Role::Looking(_) = &self.role else { return };
        // A configuration that makes no sense does not spoil the vote that came with it.
        let Ok(config) = EnsembleConfig::parse(&String::from_utf8_lossy(text)) else {
            self.malformed += 1;
            return;
        };
        if config.version > self.committed.version {
            let config = Arc::new(config);
            out.push(Output::Adopt(config.clone()));
            self.configure(now, config, self.seen.clone(), out);
        }
    }

    fn configure(
        &mut self,
        now: Duration,
        committed: Arc<EnsembleConfig>,
        seen: Option<Arc<EnsembleConfig>>,
        out: &mut Vec<Output>,
    ) {
        let quorums = Quorums::new(&committed, seen.as_deref());
        let is_same = committed.same_servers(&self.committed) && quorums.voters() == self.quorums.voters();
        self.text = committed.to_string().into();
        (self.committed, self.seen, self.quorums) = (committed, seen, quorums);
        match &self.role {
            Role::Looking(looking) if !is_same => self.attempt(now, looking.candidate, out),
            // Votes count by the rules that hold now.
            _ => self.judge(now, true),
        }
    }

    /// Tells a peer what it does not know.
    ///
    /// Source: `FastLeaderElection.WorkerReceiver`, 3.9.
    fn answer(&mut self, now: Duration, to: ServerId, heard: &Notification, out: &mut Vec<Output>) {
        let Some(current) = self.current else { return };
        let state = self.state();
        let vote = if !self.quorums.is_voter(to) {
            // Observers, servers that want to join and servers that were removed ask, and never count.
            Vote { round: self.round, ..current }
        } else if heard.state != ServerState::Looking {
            return;
        } else if let Role::Looking(looking) = &self.role {
            // One that does not vote does not count those who look either: it is answered where emptied servers
            // are heard, and two of them must not answer each other without end.
            if heard.round >= self.round || heard.zxid == emptied::NOT_COUNTED {
                return;
            }
            self.emptied.marked(looking.proposal, to)
        } else {
            current
        };
        if let Role::Settled(ServerState::Leading, supporters) = &self.role
            && supporters.contains(&to)
        {
            out.push(Output::Disloyal(to));
        }
        let answer = (state, vote, self.committed.version);
        if self.may_answer(now, to, answer) {
            out.push(Output::Send { to, notification: self.notification(state, vote) });
        }
    }

    /// Whether an answer is due; remembers it if so.
    fn may_answer(&mut self, now: Duration, to: ServerId, answer: Answer) -> bool {
        let gap = self.timing.answer_gap;
        if let Some((at, last)) = self.answered.get(&to)
            && *last == answer
            && now < *at + gap
        {
            return false;
        }
        if self.answered.len() >= ANSWERED_MAX && !self.answered.contains_key(&to) {
            self.answered.retain(|_, (at, _)| now < *at + gap);
            if self.answered.len() >= ANSWERED_MAX {
                return false;
            }
        }
        self.answered.insert(to, (now, answer));
        true
    }

    fn tick(&mut self, now: Duration, out: &mut Vec<Output>) {
        let Role::Looking(looking) = &mut self.role else { return };
        if looking.finalize_at.is_some_and(|at| now >= at) {
            return self.win(out);
        }
        if now >= looking.resend_at {
            looking.interval = (looking.interval * 2).min(self.timing.interval_max);
            looking.resend_at = now + looking.interval;
            self.send_all(out);
        }
    }

    /// Acts upon what a quorum of those who look agreed on.
    fn win(&mut self, out: &mut Vec<Output>) {
        let Role::Looking(looking) = &self.role else { return };
        let proposal = looking.proposal;
        let supporters = looking.supporters(&looking.votes, &Ballot::looking(proposal));
        self.settle(proposal, supporters, true, out);
    }

    fn settle(&mut self, vote: Vote, supporters: BTreeSet<ServerId>, is_new: bool, out: &mut Vec<Output>) {
        let state = if vote.leader == self.me {
            ServerState::Leading
        } else if self.observes() {
            ServerState::Observing
        } else {
            ServerState::Following
        };
        self.current = Some(vote);
        self.role = Role::Settled(state, supporters.clone());
        out.push(Output::Decided(Decision { state, vote, supporters, is_new }));
    }
}

impl Looking {
    /// Whether the votes that this server hears, and its own, count for it.
    fn is_counted(&self) -> bool {
        self.own.zxid != emptied::NOT_COUNTED
    }

    /// Who says the same as `ballot`.
    fn supporters(&self, votes: &BTreeMap<ServerId, Ballot>, ballot: &Ballot) -> BTreeSet<ServerId> {
        votes.iter().filter(|(_, other)| ballot.agrees_with(other)).map(|(id, _)| *id).collect()
    }
}

/// What is the same for two elections that will do the same from now on, at some time each: everything but
/// times. For explorers that visit each such state once.
impl std::hash::Hash for Election {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.me, &self.text, self.seen.as_ref().map(|seen| seen.version)).hash(state);
        (self.oracle, self.round, self.current, self.deaf).hash(state);
        self.emptied.hash(state);
        match &self.role {
            Role::Starting => 0.hash(state),
            Role::Settled(role, supporters) => (1, role, supporters).hash(state),
            Role::Looking(looking) => {
                (2, looking.candidate, looking.own, looking.proposal).hash(state);
                (&looking.votes, &looking.outside, looking.finalize_at.is_some()).hash(state);
            }
        }
    }
}

#[cfg(test)]
mod tests;
