//! What a server of an ensemble keeps whatever its role, and what it asks of those around it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use oxkeeper_proto::peer::notification::Notification;
use oxkeeper_proto::peer::{ForwardedRequest, PeerPacket};
use oxkeeper_proto::{EnsembleConfig, Epoch, ServerId, SessionId, Zxid};

use crate::durable::{Durable, LinkId, Proposal, Ticket};
use crate::history::History;
use crate::masters::Masters;
use crate::quorum::{Oracle, Quorums};

/// The times that an ensemble goes by, and what it keeps in memory.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Limits {
    /// The unit: `tickTime`.
    pub tick_ms: i64,
    /// Ticks to join a leader.
    pub init: u32,
    /// Ticks to lag behind one.
    pub sync: u32,
    /// Bytes of transactions that a learner keeps until their turn comes. A leader that sends more is left.
    pub pending_bytes: usize,
    /// Below this an epoch's counter stays: a leader that has come so far hands over to itself. Tests let it come sooner; at
    /// least 3, so that there is a number for something else.
    pub counter_max: u32,
}

/// What a transaction takes beside its record.
pub(crate) const PENDING_BYTES_EACH: usize = 64;

impl Limits {
    /// Time to connect, to agree on an epoch, and to be brought level, each.
    #[must_use]
    pub fn init_ms(&self) -> i64 {
        self.tick_ms.saturating_mul(self.init.into())
    }

    /// Time that a server may be silent.
    #[must_use]
    pub fn sync_ms(&self) -> i64 {
        self.tick_ms.saturating_mul(self.sync.into())
    }
}

/// What a transaction changes of the ensemble. Payloads are opaque here, so whoever reads them says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EnsembleChange {
    /// Who belongs to it: a reconfiguration.
    Members(Arc<EnsembleConfig>),
    /// Who leads it: the last transaction of a leader that hands over, and names its successor.
    Leader(ServerId),
}

/// Where a server is reached by learners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerPort {
    /// A leader's port for all learners.
    Quorum,
    /// A follower's port for observers: `observerMasterPort`, the same number on every server.
    ObserverMaster,
}

/// Something that is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a vote.
    Notify(ServerId, Notification),
    /// Connect to a leader, or to a follower that serves observers.
    Dial {
        /// Which.
        server: ServerId,
        /// Where.
        port: PeerPort,
        /// The number of the attempt.
        dial: u64,
    },
    /// Send a packet.
    Send(LinkId, PeerPacket),
    /// Close a link.
    Close(LinkId),
    /// Open or close the quorum port.
    Listen(bool),
    /// Open or close the port for observers.
    ListenForObservers(bool),
    /// Make something durable.
    Durable(Ticket, Durable),
    /// Read the log from the newest transaction that is not after this one.
    ReadLog {
        /// The number, for the answer.
        task: u64,
        /// The transaction.
        from: Zxid,
    },
    /// Forget the state and read it from the disk.
    Reload {
        /// The number, for the answer.
        task: u64,
    },
    /// A configuration changed: the committed one, or the one last seen.
    ConfigsChanged,
    /// Stream a snapshot to this link; [`Agreement::snapshot_begins`](crate::Agreement::snapshot_begins) says when.
    StreamSnapshot(LinkId),
    /// A snapshot comes: prepare an empty state.
    LoadSnapshot(Zxid),
    /// Write the state that was loaded to the disk; its [`Durable::InstallSnapshot`] stands right behind.
    InstallSnapshot(Zxid),
    /// A transaction is final: apply it.
    Apply(Proposal),
    /// The same, but the snapshot that the state was loaded from may hold it already, in whole or in part.
    ApplyOverSnapshot(Proposal),
    /// The role is over: nobody is served any more.
    Ended {
        /// Whether leadership was handed over, so that what this server has put on its way is all applied by now, or was
        /// never offered and never will be.
        is_settled: bool,
    },
    /// This server looks for a leader now, with all of its log in its state.
    Looking,
    /// This server leads: serve.
    Lead(Epoch),
    /// This server is level with its leader: serve.
    Serve(Epoch),
    /// A learner passes a request on.
    Request(LinkId, ForwardedRequest),
    /// A learner has heard of these sessions.
    Touched(LinkId, Vec<(SessionId, i32)>),
    /// A learner asks for a session.
    Revalidate(LinkId, SessionId, i32),
    /// The leader says that the client of a session has come to another server; or a follower, by session 0, that the leader
    /// knows of the sessions here.
    Moved(SessionId),
    /// The leader says whether a session lives.
    Revalidated(SessionId, bool),
    /// The leader asks whether this learner is there: answer with the sessions heard of.
    Pinged(Zxid),
    /// A learner's oldest sync is done.
    Synced,
    /// A sync of this leader's own is done.
    SyncDone(u64),
    /// A learner is gone: what it owned has no owner.
    LearnerGone(LinkId),
}

/// A role is over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leave {
    pub(crate) reason: String,
    /// The leader that a transaction has named: no election is needed to follow it.
    pub(crate) handed_over: Option<(ServerId, Zxid)>,
    /// See [`Action::Ended`].
    pub(crate) is_settled: bool,
}

impl Leave {
    pub(crate) fn because(reason: impl Into<String>) -> Leave {
        Leave { reason: reason.into(), handed_over: None, is_settled: false }
    }
}

/// What a role works with.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Common {
    /// This server.
    pub(crate) me: ServerId,
    /// Whether it was told to observe; the configuration's word counts more.
    pub(crate) told_to_observe: bool,
    pub(crate) limits: Limits,
    /// The highest epoch promised. In memory after it is on the disk, never before.
    pub(crate) accepted: Epoch,
    /// The epoch of the leader whose history is in the log.
    pub(crate) current: Epoch,
    pub(crate) committed: Arc<EnsembleConfig>,
    pub(crate) seen: Arc<EnsembleConfig>,
    /// What makes a quorum of the two.
    pub(crate) quorums: Arc<Quorums>,
    /// Whether configurations may change at all.
    pub(crate) reconfig: bool,
    pub(crate) history: History,
    /// The newest transaction handed to the log.
    pub(crate) last_logged: Zxid,
    /// The newest transaction applied; (e, 0) once this server serves in epoch e.
    pub(crate) last_applied: Zxid,
    /// What this server may have acknowledged is lost: it does not count for electing before it was brought level once.
    pub(crate) emptied: bool,
    pub(crate) force_snapshot: bool,
    /// This server's state went wrong: only a snapshot of the leader's will do.
    pub(crate) wants_snapshot: bool,
    pub(crate) may_read_log: bool,
    /// Whom it goes to as an observer, and that it serves observers as a follower; `None` if followers serve nobody.
    pub(crate) masters: Option<Masters>,
    /// What the oracle says, if there is one.
    pub(crate) oracle: Oracle,
    /// Whether it is asked now: not by a leader that a follower has joined.
    pub(crate) asks_oracle: bool,
    /// Appends that are not on the disk.
    pub(crate) appending: VecDeque<(Ticket, Zxid)>,
    /// Epochs that are on their way to their files.
    pub(crate) promising: VecDeque<(Ticket, Epoch)>,
    pub(crate) taking: VecDeque<(Ticket, Epoch)>,
    pub(crate) ticket: Ticket,
    pub(crate) persisted: Ticket,
    pub(crate) tasks: u64,
    pub(crate) now_ms: i64,
    pub(crate) out: VecDeque<Action>,
}

impl Common {
    /// Adds durable work; says which ticket to wait for.
    pub(crate) fn durable(&mut self, work: Durable) -> Ticket {
        self.ticket = self.ticket.next();
        match work {
            Durable::AcceptedEpoch(epoch) => self.promising.push_back((self.ticket, epoch)),
            Durable::CurrentEpoch(epoch) => self.taking.push_back((self.ticket, epoch)),
            _ => {}
        }
        self.out.push_back(Action::Durable(self.ticket, work));
        self.ticket
    }

    /// Hands a transaction to the log.
    pub(crate) fn log(&mut self, proposal: Proposal) -> Ticket {
        let zxid = proposal.zxid;
        self.last_logged = zxid;
        let ticket = self.durable(Durable::Append(proposal));
        self.appending.push_back((ticket, zxid));
        ticket
    }

    /// Takes a configuration as the one last seen. Its file comes first, so whatever is durable after it is durable
    /// under it.
    pub(crate) fn see(&mut self, config: Arc<EnsembleConfig>) {
        if self.reconfig && config.version > self.seen.version {
            self.durable(Durable::Config { committed: false, config: Arc::clone(&config) });
            self.seen = config;
            self.configs_changed();
        }
    }

    /// Takes the leader's word for the configuration last seen, also if it is an older one: a reconfiguration that the
    /// leader does not know was never agreed.
    pub(crate) fn see_leaders(&mut self, config: Arc<EnsembleConfig>) {
        if self.reconfig && config.version != self.seen.version && config.version >= self.committed.version {
            self.durable(Durable::Config { committed: false, config: Arc::clone(&config) });
            self.seen = config;
            self.configs_changed();
        }
    }

    /// Puts a configuration in force, unless it is or a newer one is.
    pub(crate) fn activate(&mut self, config: &Arc<EnsembleConfig>) {
        if !self.reconfig || config.version <= self.committed.version {
            return;
        }
        self.durable(Durable::Config { committed: true, config: Arc::clone(config) });
        self.committed = Arc::clone(config);
        if self.seen.version < config.version {
            self.seen = Arc::clone(config);
        }
        self.configs_changed();
    }

    fn configs_changed(&mut self) {
        self.quorums = Arc::new(Quorums::new(&self.committed, Some(&self.seen)));
        self.out.push_back(Action::ConfigsChanged);
    }

    /// The word of the oracle, if it counts now.
    pub(crate) fn oracle(&self) -> Oracle {
        if self.asks_oracle { self.oracle } else { Oracle::Absent }
    }

    /// Whether these servers are a quorum of the configuration in force and of the one to come.
    pub(crate) fn are_quorum(&self, servers: &BTreeSet<ServerId>) -> bool {
        self.quorums.are_met(servers, self.oracle())
    }

    pub(crate) fn send(&mut self, link: LinkId, packet: PeerPacket) {
        self.out.push_back(Action::Send(link, packet));
    }

    /// Notes that a transaction is final and has it applied.
    pub(crate) fn apply(&mut self, proposal: Proposal) {
        self.last_applied = proposal.zxid;
        self.history.push(proposal.clone());
        self.out.push_back(Action::Apply(proposal));
    }

    pub(crate) fn persisted(&mut self, ticket: Ticket) {
        assert!(ticket <= self.ticket, "{ticket:?} persisted, but only {:?} was given out", self.ticket);
        self.persisted = self.persisted.max(ticket);
        // An epoch on the disk counts, also if the role is over in which it was written.
        while let Some((_, epoch)) = self.promising.front().filter(|(ticket, _)| *ticket <= self.persisted) {
            self.accepted = self.accepted.max(*epoch);
            self.promising.pop_front();
        }
        while let Some((_, epoch)) = self.taking.front().filter(|(ticket, _)| *ticket <= self.persisted) {
            self.current = self.current.max(*epoch);
            self.taking.pop_front();
        }
        while self.appending.front().is_some_and(|(ticket, _)| *ticket <= self.persisted) {
            self.appending.pop_front();
        }
    }

    pub(crate) fn is_persisted(&self, ticket: Ticket) -> bool {
        ticket <= self.persisted
    }

    /// Whether everything that was handed over is on the disk.
    pub(crate) fn is_drained(&self) -> bool {
        self.persisted == self.ticket
    }

    pub(crate) fn next_task(&mut self) -> u64 {
        self.tasks += 1;
        self.tasks
    }

    /// Whether this server votes in the configuration in force or in the one to come.
    pub(crate) fn is_voter(&self, server: ServerId) -> bool {
        self.quorums.is_voter(server)
    }

    /// Whether this server observes: the configuration decides, and what it was told if the configuration does not
    /// have it. Where the one to come makes it a voter it follows already, and acknowledges: that one may not come into
    /// force without it.
    #[must_use]
    pub(crate) fn observes(&self) -> bool {
        let observes =
            self.committed.is_observer(self.me) || self.told_to_observe && !self.committed.is_voter(self.me);
        observes && !self.is_voter(self.me)
    }
}
