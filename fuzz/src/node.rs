//! A whole node, fed with raw bytes on three connections; its durable work completes at once.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use oxkeeper_node::{ConnId, Durable, Effects, Input, Node, Now, Rules, Settings, SnapshotStep, Tree};
use oxkeeper_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, OpCode, Reader, ReplyHeader, RequestHeader, SessionId,
    TxnRecord, WatcherEvent, Xid, Zxid, frame, session,
};
use oxkeeper_tree::OwnerRules;

use crate::bounds::within;

/// The node's own tables, and what its tree, its watches and this target itself keep of small inputs.
const BUFFERS: usize = 16 << 20;
const CONNS: usize = 3;
const STEPS_MAX: usize = 400;

#[derive(Default)]
struct Line {
    conn: Option<ConnId>,
    /// The answer to the first frame has come.
    greeted: bool,
    session: SessionId,
    newest: Zxid,
    /// It gave a request the number of events, so an answer may look like one.
    numbered_as_event: bool,
    closed: bool,
}

struct World {
    node: Node,
    fx: Effects,
    now_ms: u64,
    lines: [Line; CONNS],
    generation: u32,
    log: Vec<Vec<u8>>,
    snapshot: Option<Vec<u8>>,
}

fn rules() -> Rules {
    Rules { owners: OwnerRules { extended_types: true, emulate_353: false }, ..Rules::DEFAULT }
}

/// The world after these bytes, its promises checked on the way.
///
/// Each step is a byte for what happens and on which connection, then what it needs: see `World::act`.
pub fn clients(bytes: &[u8]) {
    within(bytes.len(), BUFFERS, || {
        let mut world = World::new();
        let mut rest = bytes;
        for _ in 0..STEPS_MAX {
            let Some((what, behind)) = rest.split_first() else { break };
            rest = world.act(*what, behind);
            world.settle();
        }
        world.audit();
    });
}

impl World {
    fn new() -> World {
        let settings = Settings {
            tick_ms: 100,
            session_timeout_min_ms: 200,
            session_timeout_max_ms: 2000,
            reconfig: false,
            ..Settings::standard(3)
        };
        let now = Now { mono: Duration::ZERO, wall_ms: 1_000_000 };
        World {
            node: Node::new(settings, Tree::new(1, rules()), now),
            fx: Effects::default(),
            now_ms: 0,
            lines: Default::default(),
            generation: 0,
            log: Vec::new(),
            snapshot: None,
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let now = Now { mono: Duration::from_millis(self.now_ms), wall_ms: 1_000_000 + self.now_ms as i64 };
        self.node.step(now, input, &mut self.fx);
    }

    /// What one byte has happen; returns the bytes that were not needed.
    fn act<'a>(&mut self, what: u8, rest: &'a [u8]) -> &'a [u8] {
        let place = usize::from(what) % CONNS;
        match usize::from(what) / CONNS % 8 {
            // A frame of a known operation: xid, operation, length, body.
            0..3 => {
                let Some(([xid, op, len], rest)) = rest.split_first_chunk::<3>() else { return &[] };
                let (body, rest) = rest.split_at(usize::from(*len).min(rest.len()));
                let mut bytes = Vec::new();
                let op = OpCode::ALL[usize::from(*op) % OpCode::ALL.len()].number();
                RequestHeader { xid: Xid((*xid).cast_signed().into()), op }.encode(&mut bytes);
                bytes.extend_from_slice(body);
                self.frame(place, &bytes);
                rest
            }
            // Any frame at all.
            3 => {
                let Some((len, rest)) = rest.split_first() else { return &[] };
                let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
                self.frame(place, bytes);
                rest
            }
            4 => {
                self.open(place);
                self.connect(place, SessionId::NONE, [0; 16]);
                rest
            }
            // Takes up the session of another connection, or its own.
            5 => {
                let Some((from, rest)) = rest.split_first() else { return &[] };
                let id = self.lines[usize::from(*from) % CONNS].session;
                self.open(place);
                self.connect(place, id, session::password(id));
                rest
            }
            6 => {
                let Some((ms, rest)) = rest.split_first() else { return &[] };
                self.now_ms += u64::from(*ms) * 8;
                self.step(Input::Tick);
                rest
            }
            _ => {
                if self.snapshot.is_none() {
                    self.step(Input::TakeSnapshot);
                } else if let Some(conn) = self.lines[place].conn.take() {
                    self.step(Input::Closed { conn });
                    self.fx.discard(conn);
                }
                rest
            }
        }
    }

    fn frame(&mut self, place: usize, bytes: &[u8]) {
        if self.lines[place].conn.is_none() || self.lines[place].closed {
            self.open(place);
        }
        self.lines[place].numbered_as_event |= bytes.starts_with(&Xid::EVENT.0.to_be_bytes());
        if let Some(conn) = self.lines[place].conn {
            self.step(Input::Frame { conn, bytes });
        }
    }

    fn open(&mut self, place: usize) {
        if let Some(before) = self.lines[place].conn.take() {
            self.step(Input::Closed { conn: before });
            self.fx.discard(before);
        }
        self.generation += 1;
        let conn = ConnId { index: place as u32, generation: self.generation };
        let session = self.lines[place].session;
        self.lines[place] = Line { conn: Some(conn), session, ..Line::default() };
        let peer = (IpAddr::V4(Ipv4Addr::LOCALHOST), 1000);
        self.step(Input::Opened { conn, peer, identities: Vec::new() });
    }

    fn connect(&mut self, place: usize, session_id: SessionId, password: [u8; 16]) {
        let mut bytes = Vec::new();
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: 1000,
            session_id,
            password: Some(&password),
            read_only: Some(false),
        }
        .encode(&mut bytes);
        self.frame(place, &bytes);
    }

    /// Completes everything that was asked for, and reads what was answered.
    fn settle(&mut self) {
        loop {
            if let Some(last) = self.fx.durable.last().map(|(ticket, _)| *ticket) {
                for (_, work) in self.fx.durable.drain(..) {
                    let Durable::Append(proposal) = work else { panic!("a lone server asks for {work:?}") };
                    self.log.push(proposal.payload.to_vec());
                }
                self.step(Input::Persisted(last));
            } else if let Some(step) = (!self.fx.snapshot.is_empty()).then(|| self.fx.snapshot.remove(0)) {
                match step {
                    SnapshotStep::Begin(_) => self.snapshot = Some(Vec::new()),
                    SnapshotStep::Abandon => self.snapshot = None,
                    SnapshotStep::Slice { bytes, last } => {
                        self.snapshot.get_or_insert_default().extend_from_slice(&bytes);
                        if !last {
                            self.step(Input::SliceWritten);
                        }
                    }
                }
            } else if !self.read_replies() {
                break;
            }
        }
        for id in std::mem::take(&mut self.fx.closes) {
            let line = &mut self.lines[id.index as usize];
            line.closed |= line.conn == Some(id);
        }
        self.fx.dirty.clear();
        self.fx.reading.clear();
    }

    /// Takes what waits for the clients; tells whether the node may have more for them.
    fn read_replies(&mut self) -> bool {
        let mut more = false;
        for place in 0..CONNS {
            let Some(conn) = self.lines[place].conn else { continue };
            let waiting = self.fx.waiting_len(conn);
            if waiting == 0 {
                continue;
            }
            let bytes = take_waiting(&mut self.fx, conn, waiting);
            let line = &mut self.lines[place];
            assert!(!line.closed, "a connection that is closing is written to");
            read(line, &bytes);
            if self.fx.take_wanting(conn) {
                more = true;
                self.step(Input::Writable { conn });
            }
        }
        more
    }

    /// What must hold at any time, and what the log and the snapshot must give.
    fn audit(&mut self) {
        let status = self.node.status();
        assert_eq!(status.outstanding, 0, "everything durable was answered");
        assert!(status.sessions > 0 || status.ephemerals == 0, "an ephemeral outlives all sessions");
        let mut again = Tree::new(77, rules());
        for payload in &self.log {
            let record = TxnRecord::decode(payload).unwrap_or_else(|error| panic!("{error} in our own log"));
            assert_ne!(again.replay(&record), Some(false), "the digest after {:?}", record.header);
        }
        assert_eq!(
            (again.digest(), again.len(), again.ephemerals_len(), again.sessions().count()),
            (status.digest, status.znodes, status.ephemerals, status.sessions)
        );
        // Replaying what is there already changes nothing.
        for payload in &self.log {
            if let Ok(record) = TxnRecord::decode(payload) {
                again.replay(&record);
            }
        }
        assert_eq!(again.digest(), status.digest, "a second replay changed the tree");
    }
}

fn take_waiting(fx: &mut Effects, conn: ConnId, waiting: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(waiting);
    while fx.waiting_len(conn) > 0 {
        let mut parts = [std::io::IoSlice::new(&[]); 4];
        let used = fx.waiting(conn, &mut parts);
        let before = out.len();
        parts.iter().take(used).for_each(|part| out.extend_from_slice(part));
        fx.written(conn, out.len() - before, 0);
    }
    out
}

/// Replies are frames with a header, and their zxids never go back.
fn read(line: &mut Line, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let Ok(Some(reply)) = frame::first(bytes, 64 << 20) else { panic!("{bytes:?} is no frame") };
        bytes = &bytes[frame::PREFIX + reply.len()..];
        if !line.greeted {
            line.greeted = true;
            match ConnectResponse::decode(reply) {
                Ok(response) => line.session = response.session_id,
                Err(error) => panic!("{error} in {reply:?}"),
            }
            continue;
        }
        let mut reader = Reader::new(reply);
        let Ok(header) = ReplyHeader::decode(&mut reader) else { panic!("{reply:?} has no header") };
        if header.zxid.0 > 0 {
            assert!(header.zxid >= line.newest, "{} after {}", header.zxid, line.newest);
            line.newest = header.zxid;
        }
        if header.xid == Xid::EVENT
            && !line.numbered_as_event
            && header.err == ErrorCode::OK
            && WatcherEvent::decode(&mut reader).is_ok()
        {
            assert_eq!(reader.remaining(), 0);
        }
    }
}
