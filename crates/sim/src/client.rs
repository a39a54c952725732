//! A client: it speaks the real protocol, keeps its session over broken connections, sets its watches again, and
//! writes down all it asks and sees.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use oxkeeper_node::{DigestAlgorithm, digest_id};
use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, EventType, OpCode, Password, Reader, ReplyHeader, Request,
    RequestHeader, SessionId, SetWatches, WatcherEvent, Xid, Zxid,
};
use oxkeeper_tree::Identity;

use crate::chance::Chance;
use crate::checker::is_write;
use crate::history::{Call, Outcome, Seen, Told};
use crate::network::{Arrival, Host, LinkId, Port, Side};
use crate::queue::{MS, Nanos, SECOND};
use crate::workload::Workload;
use crate::world::{Event, Stage};

/// What a client does at its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientEvent {
    /// It looks for a server.
    Dial,
    /// It asks something.
    Act,
    /// It looks at its clock: is a ping due, was there silence for too long?
    Beat,
}

/// The accounts that clients may prove to be.
pub const USERS: [&str; 4] = ["ann:one", "bob:two", "cid:three", "super:secret"];
/// Which of them may do everything, where servers know one who may.
pub const SUPER: usize = 3;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Habits {
    /// The session timeout it asks for.
    pub timeout_ms: i32,
    /// Time between its requests, on average.
    pub pause: Nanos,
    /// Requests it sends before the first is answered.
    pub pipeline: usize,
    /// Which of [`USERS`] it proves to be.
    pub users: Vec<usize>,
    /// How often, of a thousand requests, it ends its session and opens another one.
    pub restless: u64,
    /// How often, of a thousand requests, it drops its connection and takes up the session elsewhere.
    pub moves: u64,
    /// How often, of a thousand, it falls silent for good, so that its session has to expire.
    pub dies: u64,
    /// Whether it is content with a server that only lets it read, until it finds another one. When it loses its
    /// connection it may then begin anew, as if its program had been started again.
    pub reads_only: bool,
}

impl Habits {
    /// One who stays what and where it is, and whose session outlives most troubles.
    #[must_use]
    pub fn patient(tick_ms: i64, pause: Nanos, pipeline: usize) -> Habits {
        Habits {
            timeout_ms: i32::try_from(tick_ms * 20).unwrap_or(i32::MAX),
            pause,
            pipeline,
            users: Vec::new(),
            restless: 0,
            moves: 0,
            dies: 0,
            reads_only: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between two attempts, or for good.
    Resting,
    /// Asked for a connection.
    Dialling(LinkId),
    /// Asked for a session.
    Greeting(LinkId),
    /// Has a session.
    Open(LinkId),
}

/// The watches that a client wants kept over a reconnect.
#[derive(Debug, Default)]
struct Wanted {
    data: BTreeSet<String>,
    exist: BTreeSet<String>,
    child: BTreeSet<String>,
    persistent: BTreeSet<String>,
    recursive: BTreeSet<String>,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    index: usize,
    servers: usize,
    habits: Habits,
    workload: Workload,
    chance: Chance,
    phase: Phase,
    server: usize,
    conn: u32,
    session: SessionId,
    password: Password,
    timeout: Nanos,
    last_zxid: Zxid,
    next_xid: i32,
    in_flight: VecDeque<usize>,
    /// How many of those are pings.
    pings: usize,
    read: Vec<u8>,
    wanted: Wanted,
    identities: Rc<Vec<Identity>>,
    heard: Nanos,
    sent: Nanos,
    /// A connection that it has left without a word, to see whether it is still served there.
    left: Option<LinkId>,
    /// Whether the server that it has found only lets it read.
    read_only: bool,
    /// Whether it has asked to end its session: nothing else is asked then.
    closing: bool,
    /// Whether it does nothing of its own any more.
    quiet: bool,
    /// Whether it does nothing at all any more.
    dead: bool,
}

/// How long a client waits for a server to answer its call.
const PATIENCE: Nanos = 4 * SECOND;

impl Client {
    /// A client that will look for its first server when it is told to.
    #[must_use]
    pub fn new(
        index: usize,
        servers: usize,
        habits: Habits,
        workload: Workload,
        mut chance: Chance,
    ) -> Client {
        let server = chance.index(servers);
        Client {
            index,
            servers,
            habits,
            workload,
            chance,
            phase: Phase::Resting,
            server,
            conn: 0,
            session: SessionId::NONE,
            password: [0; 16],
            timeout: 10 * SECOND,
            last_zxid: Zxid::ZERO,
            next_xid: 1,
            in_flight: VecDeque::new(),
            pings: 0,
            read: Vec::new(),
            wanted: Wanted::default(),
            identities: Rc::new(Vec::new()),
            heard: 0,
            sent: 0,
            left: None,
            read_only: false,
            closing: false,
            quiet: false,
            dead: false,
        }
    }

    /// The address that servers see.
    #[must_use]
    pub fn address(index: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 9, 0, u8::try_from(index).unwrap_or(u8::MAX)))
    }

    /// Asks nothing of its own any more, but keeps its session.
    pub fn fall_quiet(&mut self) {
        self.quiet = true;
    }

    /// Whether it has a session now and nothing that it waits for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_served = matches!(self.phase, Phase::Open(_)) && !self.read_only;
        self.dead || is_served && self.in_flight.len() == self.pings
    }

    /// Whether it has given up its session by falling silent.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// One line about what it is doing.
    #[must_use]
    pub fn describe(&self) -> String {
        let Client { index, phase, session, in_flight, server, dead, .. } = self;
        let waits = in_flight.len();
        format!(
            "client {index} {phase:?} session {session} at server {server}, waits for {waits}, dead {dead}"
        )
    }

    /// Something that it does at its own time.
    pub fn wake(&mut self, stage: &mut Stage, event: ClientEvent) {
        if self.dead {
            return;
        }
        match event {
            ClientEvent::Dial => self.dial(stage),
            ClientEvent::Act => self.act(stage),
            ClientEvent::Beat => self.beat(stage),
        }
    }

    fn plan(&self, stage: &mut Stage, delay: Nanos, event: ClientEvent) {
        stage.queue.after(delay, Event::Client(self.index, self.conn, event));
    }

    /// Whether an event planned for a connection is still meant.
    #[must_use]
    pub fn is_current(&self, conn: u32) -> bool {
        self.conn == conn
    }

    fn dial(&mut self, stage: &mut Stage) {
        if self.phase != Phase::Resting {
            return;
        }
        self.conn += 1;
        self.server = (self.server + 1) % self.servers;
        if self.chance.happens(0.3) {
            self.server = self.chance.index(self.servers);
        }
        let to = Host::Server(self.server);
        let link = stage.net.dial(&mut stage.queue, Host::Client(self.index), to, Port::Client);
        self.phase = Phase::Dialling(link);
        self.heard = stage.queue.now();
        self.plan(stage, PATIENCE, ClientEvent::Beat);
    }

    /// Something came on a connection.
    pub fn arrived(&mut self, stage: &mut Stage, link: LinkId, arrival: Arrival) {
        let current = match self.phase {
            Phase::Dialling(own) | Phase::Greeting(own) | Phase::Open(own) => own == link,
            Phase::Resting => false,
        };
        if self.left == Some(link) && arrival == Arrival::Closed {
            self.left = None;
        }
        if !current || self.dead {
            return;
        }
        match arrival {
            Arrival::Connected => self.greet(stage, link),
            Arrival::Bytes(bytes) => {
                self.heard = stage.queue.now();
                self.read.extend_from_slice(&bytes);
                self.read_frames(stage);
            }
            Arrival::Closed | Arrival::Refused => {
                let is_closed = matches!(self.phase, Phase::Open(_)) && !self.closing;
                if is_closed && stage.must_stay {
                    let what =
                        format!("client {} is let go by server {}, which runs on", self.index, self.server);
                    return stage.violate(23, what);
                }
                self.lost(stage);
            }
            Arrival::Accepted { .. } | Arrival::Room => {}
        }
    }

    fn greet(&mut self, stage: &mut Stage, link: LinkId) {
        self.phase = Phase::Greeting(link);
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid,
            timeout_ms: self.habits.timeout_ms,
            session_id: self.session,
            password: Some(&self.password),
            read_only: Some(self.habits.reads_only),
        };
        let mut out = Vec::new();
        put_frame(&mut out, |out| request.encode(out));
        self.write(stage, &out);
    }

    fn write(&mut self, stage: &mut Stage, bytes: &[u8]) {
        if let Phase::Greeting(link) | Phase::Open(link) = self.phase {
            self.sent = stage.queue.now();
            stage.net.send(&mut stage.queue, link, Side::Dialler, bytes);
        }
    }

    /// The connection is gone: what it waited for may or may not have happened.
    fn lost(&mut self, stage: &mut Stage) {
        if let Phase::Greeting(_) = self.phase {
            // What was asked of that server may still bring the session back there, and to what was left there.
            self.drop_left(stage);
        }
        if let Phase::Dialling(link) | Phase::Greeting(link) | Phase::Open(link) = self.phase {
            stage.net.close(&mut stage.queue, link, Side::Dialler);
        }
        self.phase = Phase::Resting;
        self.closing = false;
        self.read.clear();
        // What only reads belongs to one server, and another one would not know it.
        if std::mem::take(&mut self.read_only) || self.habits.reads_only && self.chance.happens(0.2) {
            self.forget_session();
        }
        self.conn += 1;
        self.pings = 0;
        for index in std::mem::take(&mut self.in_flight) {
            if !is(Fault::CallLostOnReconnect) {
                stage.history.settle(index, Outcome::Unknown);
            }
        }
        let delay = 20 * MS + self.chance.exponential(200 * MS);
        self.plan(stage, delay, ClientEvent::Dial);
    }

    /// Goes elsewhere with its session; the old connection stays open.
    fn leave(&mut self, stage: &mut Stage) {
        if let Phase::Open(link) = self.phase
            && self.chance.happens(0.5)
        {
            self.drop_left(stage);
            self.left = Some(link);
            self.phase = Phase::Resting;
        }
        self.lost(stage);
    }

    fn drop_left(&mut self, stage: &mut Stage) {
        if let Some(link) = self.left.take() {
            stage.net.close(&mut stage.queue, link, Side::Dialler);
        }
    }

    /// The session is served elsewhere now: a write on the connection that was left must not happen any more.
    fn try_the_left_one(&mut self, stage: &mut Stage) {
        let Some(link) = self.left else { return };
        let xid = self.next_xid;
        self.next_xid += 1;
        let data = format!("stale-{}-{xid}", self.index).into_bytes();
        let request = Request::SetData { path: "/r0".into(), data: Some(&data), version: -1 };
        let now = stage.queue.now();
        let (call, out) = self.call(now, xid, &request);
        let stale = Some(stage.observer.epoch_of(self.server));
        stage.history.ask(Call { stale, read_only: false, result: Outcome::Unknown, ..call });
        stage
            .trace
            .note(now, || format!("client {} -> {xid} on the connection that it has left", self.index));
        stage.net.send(&mut stage.queue, link, Side::Dialler, &out);
    }

    fn read_frames(&mut self, stage: &mut Stage) {
        loop {
            let Some((len, rest)) = self.read.split_first_chunk::<4>() else { return };
            let Ok(len) = usize::try_from(i32::from_be_bytes(*len)) else {
                stage.violate(15, "a client was sent a frame of negative length".to_owned());
                return;
            };
            if rest.len() < len {
                return;
            }
            let frame = rest.get(..len).unwrap_or_default().to_vec();
            self.read.drain(..len + 4);
            match self.phase {
                Phase::Greeting(_) => self.greeted(stage, &frame),
                Phase::Open(_) => self.told(stage, &frame),
                Phase::Resting | Phase::Dialling(_) => return,
            }
        }
    }

    fn greeted(&mut self, stage: &mut Stage, frame: &[u8]) {
        let Ok(response) = ConnectResponse::decode(frame) else {
            stage.violate(15, format!("client {} cannot read the answer to its handshake", self.index));
            return;
        };
        if response.session_id == SessionId::NONE {
            let (now, old) = (stage.queue.now(), self.session);
            stage.trace.note(now, || format!("client {}: session {old} is over", self.index));
            stage.session_refused(self.index, old);
            if stage.must_stay {
                return stage.violate(23, format!("{old} ends with nothing wrong"));
            }
            self.forget_session();
            return self.lost(stage);
        }
        let is_new = self.session == SessionId::NONE;
        if !is_new && response.session_id != self.session {
            let what =
                format!("client {} took up {} and got {}", self.index, self.session, response.session_id);
            return stage.violate(15, what);
        }
        let Phase::Greeting(link) = self.phase else { return };
        let says = response.read_only;
        if says.is_none() || says == Some(true) && !self.habits.reads_only {
            let what =
                format!("client {} asked {:?} and is served {says:?}", self.index, self.habits.reads_only);
            return stage.violate(28, what);
        }
        self.read_only = says == Some(true);
        self.phase = Phase::Open(link);
        self.session = response.session_id;
        self.password = response.password;
        self.timeout = u64::try_from(response.timeout_ms).unwrap_or(0) * MS;
        let seen = Seen::Opened { session: self.session, is_new, last_zxid: self.last_zxid };
        stage.see(self.index, self.conn, seen);
        let (now, session) = (stage.queue.now(), self.session);
        let timeout_ms = response.timeout_ms;
        stage.trace.note(now, || format!("client {}: session {session}, {timeout_ms} ms", self.index));
        self.identities =
            Rc::new(vec![Identity { scheme: "ip".into(), id: Client::address(self.index).to_string() }]);
        for user in self.habits.users.clone() {
            let Some(name) = USERS.get(user) else { continue };
            let auth = Request::Auth { scheme: Some("digest".into()), auth: Some(name.as_bytes()) };
            self.ask_as(stage, Xid::AUTH.0, &auth);
            let mut identities = (*self.identities).clone();
            let id = digest_id(name.as_bytes(), DigestAlgorithm::Sha1);
            if user == SUPER {
                identities.push(Identity { scheme: "super".into(), id: String::new() });
            }
            identities.push(Identity { scheme: "digest".into(), id });
            self.identities = Rc::new(identities);
        }
        if is_new {
            self.drop_left(stage);
        } else {
            self.restore_watches(stage);
            self.try_the_left_one(stage);
        }
        self.plan(stage, self.timeout / 6, ClientEvent::Beat);
        let pause = self.chance.exponential(self.habits.pause);
        self.plan(stage, pause, ClientEvent::Act);
    }

    fn forget_session(&mut self) {
        self.session = SessionId::NONE;
        self.password = [0; 16];
        self.last_zxid = Zxid::ZERO;
        self.wanted = Wanted::default();
        self.workload.forget_session();
    }

    fn restore_watches(&mut self, stage: &mut Stage) {
        let list = |set: &BTreeSet<String>| set.iter().map(|path| path.clone().into()).collect();
        let wanted = &self.wanted;
        let watches = SetWatches {
            relative_zxid: self.last_zxid,
            data: if is(Fault::WatchLostOnReconnect) { Vec::new() } else { list(&wanted.data) },
            exist: list(&wanted.exist),
            child: list(&wanted.child),
            persistent: list(&wanted.persistent),
            recursive: list(&wanted.recursive),
        };
        let sets = [&wanted.data, &wanted.exist, &wanted.child, &wanted.persistent, &wanted.recursive];
        if sets.iter().any(|set| !set.is_empty()) {
            self.ask_as(stage, Xid::SET_WATCHES.0, &Request::SetWatches2(watches));
        }
    }

    /// A reply or an event.
    fn told(&mut self, stage: &mut Stage, frame: &[u8]) {
        let now = stage.queue.now();
        let mut reader = Reader::new(frame);
        let Ok(header) = ReplyHeader::decode(&mut reader) else {
            return stage.violate(15, format!("client {} was sent a frame without a header", self.index));
        };
        if header.zxid.0 > 0 {
            if header.zxid < self.last_zxid {
                let what = format!("session {} sees {} after {}", self.session, header.zxid, self.last_zxid);
                return stage.violate(15, what);
            }
            self.last_zxid = header.zxid;
        }
        if header.xid == Xid::EVENT {
            let Ok(event) = WatcherEvent::decode(&mut reader) else {
                return stage.violate(18, "an event that cannot be read".to_owned());
            };
            return self.noticed(stage, header.zxid, &event);
        }
        let Some(index) = self.in_flight.pop_front() else {
            return stage
                .violate(15, format!("client {} waits for nothing and is told {header:?}", self.index));
        };
        let Some(call) = stage.history.calls.get(index) else { return };
        if call.xid != header.xid.0 {
            let what = format!("client {} waits for xid {} and is told {header:?}", self.index, call.xid);
            return stage.violate(15, what);
        }
        let told = Told { at: now, zxid: header.zxid, err: header.err, body: reader.rest().to_vec() };
        self.pings -= usize::from(call.op == OpCode::Ping);
        let is_closed = call.op == OpCode::CloseSession && header.err.is_ok();
        let is_refused = header.err == ErrorCode::NOTREADONLY;
        let is_short = stage.short_of_disk && is_write(call.op);
        if is_refused != (self.read_only && changes_or_syncs(call.op)) && !(is_refused && is_short) {
            let what = format!(
                "client {} asks {:?} of a server that is read-only: {}, and is told {:?}",
                self.index, call.op, self.read_only, header.err
            );
            return stage.violate(28, what);
        }
        let request = call.request();
        if let Some(request) = &request {
            self.wanted.answered(request, header.err);
            self.workload.answered(request, &told);
        }
        stage.trace.note(now, || {
            format!(
                "client {} <- {} {:?} at {} for {request:?}",
                self.index, header.xid.0, header.err, header.zxid
            )
        });
        stage.history.settle(index, Outcome::Told(told));
        stage.see(self.index, self.conn, Seen::Reply(index));
        stage.counts.answered += 1;
        if is_closed {
            self.forget_session();
            self.lost(stage);
        }
    }

    fn noticed(&mut self, stage: &mut Stage, zxid: Zxid, event: &WatcherEvent<'_>) {
        let path = event.path.clone().into_owned();
        let now = stage.queue.now();
        stage.trace.note(now, || format!("client {} <- event {:?} {path} at {zxid}", self.index, event.kind));
        self.wanted.fired(event.kind, &path);
        self.workload.noticed(&path);
        stage.counts.events += 1;
        let seen = Seen::Event { zxid, kind: event.kind.number(), path };
        stage.see(self.index, self.conn, seen);
    }

    fn act(&mut self, stage: &mut Stage) {
        if !matches!(self.phase, Phase::Open(_)) || self.quiet || self.closing {
            return;
        }
        let pause = self.chance.exponential(self.habits.pause);
        self.plan(stage, pause, ClientEvent::Act);
        let lot = self.chance.below(1000);
        if lot < self.habits.dies {
            self.die(stage);
        } else if lot < self.habits.dies + self.habits.moves {
            self.leave(stage);
        } else if lot < self.habits.dies + self.habits.moves + self.habits.restless {
            self.ask(stage, &Request::CloseSession);
            self.closing = true;
        } else if self.in_flight.len() < self.habits.pipeline {
            let (op, body) = self.workload.next(&mut self.chance);
            if let Ok(request) = Request::decode(op, &mut Reader::new(&body)) {
                self.ask(stage, &request);
            }
        }
    }

    /// Falls silent without a word; its connection stays open until the server cuts it.
    fn die(&mut self, stage: &mut Stage) {
        let now = stage.queue.now();
        stage.trace.note(now, || format!("client {} falls silent for good", self.index));
        for index in std::mem::take(&mut self.in_flight) {
            stage.history.settle(index, Outcome::Unknown);
        }
        self.dead = true;
    }

    /// Asks something; tells whether it could be asked now.
    pub fn ask(&mut self, stage: &mut Stage, request: &Request<'_>) -> bool {
        if self.dead || !matches!(self.phase, Phase::Open(_)) {
            return false;
        }
        let xid = self.next_xid;
        self.next_xid += 1;
        self.ask_as(stage, xid, request);
        true
    }

    /// A request as the history has it, and its frame.
    fn call(&self, now: Nanos, xid: i32, request: &Request<'_>) -> (Call, Vec<u8>) {
        let mut body = Vec::new();
        request.encode(&mut body);
        let mut out = Vec::new();
        put_frame(&mut out, |out| {
            RequestHeader { xid: Xid(xid), op: request.op().number() }.encode(out);
            out.extend_from_slice(&body);
        });
        let call = Call {
            client: self.index,
            conn: self.conn,
            session: self.session,
            xid,
            op: request.op(),
            body,
            identities: self.identities.clone(),
            invoked: now,
            server: self.server,
            stale: None,
            read_only: self.read_only,
            result: Outcome::Waiting,
        };
        (call, out)
    }

    fn ask_as(&mut self, stage: &mut Stage, xid: i32, request: &Request<'_>) {
        let now = stage.queue.now();
        stage
            .trace
            .note(now, || format!("client {} -> {xid} to server {} {request:?}", self.index, self.server));
        let (call, out) = self.call(now, xid, request);
        let index = stage.history.ask(call);
        stage.counts.asked += 1;
        self.in_flight.push_back(index);
        self.write(stage, &out);
    }

    fn beat(&mut self, stage: &mut Stage) {
        let silence = stage.queue.now() - self.heard;
        match self.phase {
            Phase::Resting => {}
            Phase::Dialling(_) | Phase::Greeting(_) => {
                if silence >= PATIENCE {
                    return self.lost(stage);
                }
                self.plan(stage, PATIENCE, ClientEvent::Beat);
            }
            Phase::Open(_) => {
                if silence > self.timeout / 3 * 2 || self.read_only && self.chance.happens(0.2) {
                    return self.lost(stage);
                }
                if stage.queue.now() - self.sent >= self.timeout / 3 {
                    self.pings += 1;
                    self.ask_as(stage, Xid::PING.0, &Request::Ping);
                }
                self.plan(stage, self.timeout / 6, ClientEvent::Beat);
            }
        }
    }
}

/// What a server that only lets read must refuse. Closing a session that only it knows is no write.
fn changes_or_syncs(op: OpCode) -> bool {
    op == OpCode::Sync || is_write(op) && op != OpCode::CloseSession
}

impl Wanted {
    /// A request was answered: it may have set or removed a watch.
    fn answered(&mut self, request: &Request<'_>, err: ErrorCode) {
        let path = |path: &std::borrow::Cow<'_, str>| path.clone().into_owned();
        match request {
            Request::GetData { path: at, watch: true } if err.is_ok() => self.data.insert(path(at)),
            Request::Exists { path: at, watch: true } if err.is_ok() => self.data.insert(path(at)),
            Request::Exists { path: at, watch: true } if err == ErrorCode::NONODE => {
                self.exist.insert(path(at))
            }
            Request::GetChildren { path: at, watch: true }
            | Request::GetChildren2 { path: at, watch: true }
                if err.is_ok() =>
            {
                self.child.insert(path(at))
            }
            Request::AddWatch { path: at, mode: 0 } if err.is_ok() => self.persistent.insert(path(at)),
            Request::AddWatch { path: at, mode: 1 } if err.is_ok() => self.recursive.insert(path(at)),
            Request::RemoveWatches { path: at, kind } if err.is_ok() => self.removed(at, *kind),
            _ => false,
        };
    }

    fn removed(&mut self, path: &str, kind: i32) -> bool {
        let sets: &mut [&mut BTreeSet<String>] = match kind {
            1 => &mut [&mut self.child],
            2 => &mut [&mut self.data, &mut self.exist],
            4 => &mut [&mut self.persistent],
            5 => &mut [&mut self.recursive],
            _ => &mut [
                &mut self.child,
                &mut self.data,
                &mut self.exist,
                &mut self.persistent,
                &mut self.recursive,
            ],
        };
        let mut any = false;
        for set in sets {
            any |= set.remove(path);
        }
        any
    }

    /// An event uses up the one-shot watches that it answers.
    fn fired(&mut self, kind: EventType, path: &str) {
        match kind {
            EventType::NodeCreated | EventType::NodeDataChanged => {
                self.data.remove(path);
                self.exist.remove(path);
            }
            EventType::NodeDeleted => {
                self.data.remove(path);
                self.exist.remove(path);
                self.child.remove(path);
            }
            EventType::NodeChildrenChanged => {
                self.child.remove(path);
            }
            _ => {}
        }
    }
}
