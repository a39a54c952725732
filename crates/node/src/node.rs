//! The node itself: its state, and the door through which everything enters.

use std::collections::VecDeque;
use std::time::Duration;

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::{ErrorCode, OpCode, Request, SessionId, Xid, Zxid};
use oxkeeper_tree::{Changes, Identity, Pending, Tree};
use oxkeeper_zab::Solo;
use tracing::{info, warn};

use crate::conn::{Conn, Conns, Phase, Waiting};
use crate::effects::{ConnId, Effects, Input, Now, RequestCounts};
use crate::expiry::Expiry;
use crate::member::{Duty, Order};
use crate::scarcity::Scarcity;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::watch::{Notice, Watches};

/// Where memory has a limit, longer frames are counted while they wait. Shorter ones are bounded by their number.
const COUNTED_BYTES: usize = 4096;

/// Sessions are closed for their silence until so many changes wait to be applied.
const PROPOSED_BY_EXPIRY: usize = 1000;
/// Containers and TTL znodes that are looked at in one step.
const REAPED_AT_ONCE: usize = 2000;

/// One server's mind: pure, single-threaded, without a clock, a socket or a file.
#[derive(Debug)]
pub struct Node {
    pub(crate) settings: Settings,
    pub(crate) tree: Tree,
    pub(crate) pending: Pending,
    pub(crate) order: Order,
    /// Who asked for the transactions on their way, in order.
    pub(crate) origins: VecDeque<(Zxid, Option<ConnId>)>,
    pub(crate) conns: Conns,
    pub(crate) expiry: Expiry,
    pub(crate) watches: Watches,
    pub(crate) changes: Changes,
    pub(crate) notices: Vec<Notice>,
    pub(crate) next_session: SessionId,
    pub(crate) now: Now,
    started: Duration,
    /// Sessions whose time is over and whose closing is not proposed yet.
    pub(crate) expired: VecDeque<SessionId>,
    /// No session expires before this: the server itself was stalled, and what its clients sent meanwhile
    /// may still wait in its sockets.
    expire_from_ms: i64,
    /// The boundary for whose lateness the grace was given.
    graced_ms: i64,
    pub(crate) reap_at_ms: i64,
    /// Where the search for what may go goes on, and how much more of it may go in this round.
    pub(crate) reaping: Option<(u32, usize)>,
    check_idle_at_ms: i64,
    pub(crate) counts: RequestCounts,
    pub(crate) outstanding: usize,
    pub(crate) paused: Vec<ConnId>,
    pub(crate) response_sizes: Sizes,
    pub(crate) proposal_sizes: Sizes,
    pub(crate) auth_failed: u64,
    pub(crate) sessions_expired: u64,
    pub(crate) scratch: Vec<u8>,
    pub(crate) throttle: Throttle,
    /// Bytes of large frames that wait for their reply.
    pub(crate) large_waiting: usize,
    pub(crate) scarcity: Scarcity,
}

/// The last, smallest and largest of something; -1 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes(pub(crate) i64, pub(crate) i64, pub(crate) i64);

impl Sizes {
    pub(crate) const NONE: Sizes = Sizes(-1, -1, -1);

    #[inline]
    pub(crate) fn add(&mut self, size: usize) {
        let size = size as i64;
        self.0 = size;
        self.1 = if self.1 < 0 { size } else { self.1.min(size) };
        self.2 = self.2.max(size);
    }
}

impl Node {
    /// A standalone server's mind over the tree that recovery found. All sessions in it get their full
    /// timeout from now on.
    #[must_use]
    pub fn new(settings: Settings, tree: Tree, now: Now) -> Node {
        let now_ms = millis(now.mono);
        let mut expiry = Expiry::new(settings.tick_ms, settings.seed ^ 1);
        for (session, timeout_ms) in tree.sessions() {
            expiry.track(session, timeout_ms.into(), now_ms);
        }
        Node {
            pending: Pending::new(settings.seed ^ 2, &tree),
            order: Order::Solo(Solo::new(tree.last_zxid())),
            origins: VecDeque::new(),
            conns: Conns::default(),
            watches: Watches::new(settings.seed ^ 3),
            changes: Changes::default(),
            notices: Vec::new(),
            next_session: settings.first_session,
            now,
            started: now.mono,
            expired: VecDeque::new(),
            expire_from_ms: i64::MIN,
            graced_ms: i64::MIN,
            reap_at_ms: now_ms.saturating_add(settings.reap.interval_ms),
            reaping: None,
            check_idle_at_ms: i64::MAX,
            counts: RequestCounts::default(),
            outstanding: 0,
            paused: Vec::new(),
            response_sizes: Sizes::NONE,
            proposal_sizes: Sizes::NONE,
            auth_failed: 0,
            sessions_expired: 0,
            scratch: Vec::new(),
            throttle: Throttle::new(settings.throttle_connections, settings.seed ^ 4, now_ms),
            large_waiting: 0,
            scarcity: Scarcity::default(),
            expiry,
            tree,
            settings,
        }
    }

    /// Takes one input; what is to be done about it is added to `fx`.
    ///
    /// # Panics
    /// On a broken invariant: the state must not be used any more. Stopping beats diverging.
    pub fn step(&mut self, now: Now, input: Input<'_>, fx: &mut Effects) {
        self.now = now;
        match input {
            Input::Frame { conn, bytes } => self.frame(conn, bytes, fx),
            Input::Persisted(ticket) => match &mut self.order {
                Order::Solo(solo) => {
                    solo.persisted(ticket);
                    self.commit(fx);
                }
                Order::Ensemble(member) => member.agreement.persisted(millis(now.mono), ticket),
            },
            Input::Notification { from, message } => {
                if let Order::Ensemble(member) = &mut self.order {
                    member.agreement.notification(millis(now.mono), from, message);
                }
            }
            Input::Peer(input) => self.peer(input, fx),
            Input::Word { conn } => {
                self.counts.received += 1;
                if let Some(conn) = self.conns.get_mut(conn) {
                    conn.counts.received += 1;
                }
            }
            Input::Writable { conn } => self.writable(conn, fx),
            Input::Tick => self.tick(fx),
            Input::Opened { conn, peer, identities } => self.opened(conn, peer, identities),
            Input::Closed { conn } => self.closed(conn, fx),
            Input::Scarce(scarcity) => self.hear_scarcity(scarcity, fx),
            Input::TakeSnapshot => self.take_snapshot(fx),
            Input::SliceWritten => self.slice_written(fx),
            Input::SnapshotFailed => self.snapshot_failed(),
            Input::Query(id, query) => {
                let answer = self.query(query, fx);
                fx.answers.push((id, answer));
            }
        }
        if let Order::Ensemble(_) = &self.order {
            self.carry_out(fx);
        }
    }

    /// When the node wants a [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        if self.reaping.is_some() || self.watches.is_freeing() {
            return self.now.mono;
        }
        let mut soonest = self.check_idle_at_ms;
        if self.duty() == Duty::Decides {
            let expiry_ms = self.expiry.deadline_ms().unwrap_or(i64::MAX).max(self.expire_from_ms);
            soonest = soonest.min(expiry_ms).min(self.reap_at_ms);
        } else if self.opens_locally() {
            soonest = soonest.min(self.expiry.deadline_ms().unwrap_or(i64::MAX));
        }
        if let Order::Ensemble(member) = &self.order {
            soonest = soonest.min(member.deadline_ms());
        }
        Duration::from_millis(u64::try_from(soonest).unwrap_or(0))
    }

    /// Time since the node was made.
    pub(crate) fn uptime(&self) -> Duration {
        self.now.mono.saturating_sub(self.started)
    }

    /// The digest of the committed tree, for tests and operators.
    #[must_use]
    pub fn digest(&self) -> i64 {
        self.tree.digest()
    }

    /// A number for the whole committed state, for tests. Costs as much as a snapshot.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        self.tree.state_hash()
    }

    /// The newest transaction applied.
    #[must_use]
    pub fn last_zxid(&self) -> Zxid {
        self.tree.last_zxid()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now.mono.as_millis() as u64
    }

    fn opened(&mut self, conn: ConnId, peer: (std::net::IpAddr, u16), mut identities: Vec<Identity>) {
        identities.insert(0, Identity { scheme: "ip".into(), id: peer.0.to_string() });
        let now_ms = self.now_ms();
        self.conns.insert(Conn::new(conn, peer, identities, now_ms, self.now.wall_ms));
        let check = millis(self.now.mono).saturating_add(self.settings.sessionless_ms);
        self.check_idle_at_ms = self.check_idle_at_ms.min(check);
    }

    fn closed(&mut self, conn: ConnId, fx: &mut Effects) {
        let Some(gone) = self.conns.remove(conn) else { return };
        self.watches.drop_watcher(conn.index);
        self.outstanding -= gone.outstanding();
        self.large_waiting -= gone.waiting.iter().map(Waiting::large_bytes).sum::<usize>();
        if let Phase::Open(key) = gone.phase
            && let Some(tracked) = self.expiry.get_mut(key)
            && tracked.conn == Some(conn)
        {
            tracked.conn = None;
        }
        self.forget_ended_local(gone.session, conn);
        self.resume_paused(fx);
    }

    /// Has a connection closed once what waits for it is written. What it asked for still happens.
    pub(crate) fn close(&mut self, id: ConnId, fx: &mut Effects) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.phase != Phase::Closing
        {
            conn.phase = Phase::Closing;
            let session = conn.session;
            self.watches.drop_watcher(id.index);
            self.forget_ended_local(session, id);
            fx.closes.push(id);
        }
    }

    fn tick(&mut self, fx: &mut Effects) {
        let now_ms = millis(self.now.mono);
        self.watches.free_some();
        if let Order::Ensemble(member) = &mut self.order {
            member.agreement.tick(now_ms);
        }
        self.end_hold(now_ms, fx);
        if now_ms >= self.check_idle_at_ms {
            self.close_sessionless(now_ms, fx);
        }
        if self.duty() != Duty::Decides {
            if self.opens_locally() {
                self.expire_locals(fx);
            }
            return;
        }
        self.hand_over_if_short(fx);
        self.notice_stall(now_ms);
        if now_ms >= self.expire_from_ms {
            self.expire(now_ms, fx);
        }
        if let Some((place, most)) = self.reaping.take() {
            self.reap(place, most, fx);
        } else if now_ms >= self.reap_at_ms {
            let reap = self.settings.reap;
            let most = (reap.per_minute_max.saturating_mul(reap.interval_ms) / 60_000).max(1);
            self.reap(0, usize::try_from(most).unwrap_or(usize::MAX), fx);
            self.reap_at_ms = now_ms.saturating_add(self.settings.reap.interval_ms);
        }
    }

    /// A tick that comes late says that this server stood still; its clients may have spoken meanwhile. So
    /// no session expires for another half tick, in which their words are read.
    fn notice_stall(&mut self, now_ms: i64) {
        let Some(due_ms) = self.expiry.deadline_ms() else { return };
        let late_ms = now_ms.saturating_sub(due_ms);
        if late_ms > self.settings.tick_ms / 2 && self.graced_ms != due_ms {
            warn!(
                "This server was held up for {late_ms} ms; sessions get {} ms more",
                self.settings.tick_ms / 2
            );
            self.graced_ms = due_ms;
            self.expire_from_ms = now_ms + self.settings.tick_ms / 2;
        }
    }

    /// Closes sessions that were silent for too long; a few at once, where very many were.
    fn expire(&mut self, now_ms: i64, fx: &mut Effects) {
        let now_ms = if is(Fault::WallClockExpiry) { self.now.wall_ms } else { now_ms };
        let mut due = std::mem::take(&mut self.expired);
        self.expiry.due(now_ms, &mut due);
        self.expired = due;
        self.close_expired(fx);
    }

    /// Goes on closing, as far as there is room among what is proposed.
    pub(crate) fn close_expired(&mut self, fx: &mut Effects) {
        while self.pending.len() < PROPOSED_BY_EXPIRY
            && self.duty() == Duty::Decides
            && let Some(session) = self.expired.pop_front()
        {
            let Some(key) = self.expiry.key(session) else { continue };
            if let Some(tracked) = self.expiry.get_mut(key) {
                info!("Expiring session {session}, timeout of {}ms exceeded", tracked.timeout_ms);
            }
            if self.is_local(session) {
                self.close_local(session, fx);
                continue;
            }
            self.sessions_expired += 1;
            self.propose_own(session, &Request::CloseSession, fx);
        }
    }

    /// Removes containers that are empty and TTL znodes whose time is over: some now, the others in the next
    /// ticks. Nothing is removed that something on its way concerns: that may have put another znode there, or a newer one.
    /// ZooKeeper's reaper does not look, and takes it for the one that it has found.
    ///
    /// Source: `PrepRequestProcessor.pRequest2Txn` (`deleteContainer`), 3.9.
    fn reap(&mut self, place: u32, most: usize, fx: &mut Effects) {
        let never_used_ms = self.settings.reap.never_used_ms;
        let (mut due, next) = self.tree.reapable(self.now.wall_ms, never_used_ms, place, REAPED_AT_ONCE);
        due.retain(|path| !self.pending.touches(path));
        due.truncate(most);
        let left = most - due.len();
        self.reaping = next.filter(|_| left > 0).map(|place| (place, left));
        for path in due {
            info!("Attempting to delete candidate container: {path}");
            self.propose_own(SessionId::NONE, &Request::DeleteContainer { path: path.into() }, fx);
        }
    }

    /// Closes connections that never opened a session.
    fn close_sessionless(&mut self, now_ms: i64, fx: &mut Effects) {
        let idle_ms = self.settings.sessionless_ms;
        let mut next = i64::MAX;
        let mut idle = Vec::new();
        for conn in self.conns.iter().filter(|conn| conn.phase == Phase::New) {
            let at = i64::try_from(conn.opened_ms).unwrap_or(i64::MAX).saturating_add(idle_ms);
            if at <= now_ms { idle.push(conn.id) } else { next = next.min(at) }
        }
        self.check_idle_at_ms = next;
        for id in idle {
            self.close(id, fx);
        }
    }

    /// Proposes something that no client asked for. Errors are logged as transactions too.
    fn propose_own(&mut self, session: SessionId, request: &Request<'_>, fx: &mut Effects) {
        if self.duty() != Duty::Decides {
            return;
        }
        let asked =
            crate::propose::Asked { origin: None, session, xid: Xid(0), identities: &[], standing: Ok(()) };
        if let Err(code) = self.propose(&asked, request, fx) {
            let op = request.op();
            info!("The server's own {op:?} came to {code:?}");
        }
    }

    /// Stops reading from a client that has requests waiting while the server has too many.
    pub(crate) fn hold_back(&mut self, id: ConnId, fx: &mut Effects) {
        if self.is_crowded()
            && let Some(conn) = self.conns.get_mut(id)
            && !conn.paused
            && !conn.waiting.is_empty()
        {
            conn.paused = true;
            self.paused.push(id);
            fx.reading.push((id, false));
        }
    }

    /// Whether as many requests wait as are allowed to.
    fn is_crowded(&self) -> bool {
        let throttle = self.settings.throttle_requests;
        self.outstanding > self.settings.outstanding_max
            || throttle > 0 && self.outstanding >= throttle
            || self.settings.waiting_bytes_max.is_some_and(|max| self.large_waiting > max)
    }

    /// The bytes that a frame counts for among the large ones; `None` if they have no room for it.
    pub(crate) fn weigh(&self, frame_bytes: usize) -> Option<usize> {
        match self.settings.large_bytes {
            Some(threshold) if frame_bytes > threshold => {
                (self.large_waiting + frame_bytes <= self.settings.large_bytes_max).then_some(frame_bytes)
            }
            _ if self.settings.waiting_bytes_max.is_some() && frame_bytes > COUNTED_BYTES => {
                Some(frame_bytes)
            }
            _ => Some(0),
        }
    }

    pub(crate) fn resume_paused(&mut self, fx: &mut Effects) {
        if self.paused.is_empty() || self.is_crowded() {
            return;
        }
        for id in std::mem::take(&mut self.paused) {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.paused = false;
                fx.reading.push((id, true));
            }
        }
    }
}

/// Whole milliseconds of a monotonic time.
pub(crate) fn millis(mono: Duration) -> i64 {
    i64::try_from(mono.as_millis()).unwrap_or(i64::MAX)
}

/// Operations that change the state: they go through the log.
pub(crate) fn is_write(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::SetData
            | OpCode::Create
            | OpCode::Create2
            | OpCode::CreateContainer
            | OpCode::CreateTtl
            | OpCode::Delete
            | OpCode::SetAcl
            | OpCode::Multi
            | OpCode::Reconfig
            | OpCode::CloseSession
    )
}

/// What a standing of a session is worth: the code, or nothing.
pub(crate) type Standing = Result<(), ErrorCode>;
