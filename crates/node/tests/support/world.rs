//! A node with a clock and a disk that tests hold in their hands.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test program uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use oxkeeper_node::{ConnId, Effects, Input, Node, Now, Rules, Settings, Tree};
use oxkeeper_proto::{
    AclList, ConnectRequest, ConnectResponse, Create, ErrorCode, OpCode, Reader, ReplyHeader, Request,
    RequestHeader, SessionId, WatcherEvent, Xid, Zxid,
};

/// One node and its surroundings.
pub struct World {
    pub node: Node,
    pub fx: Effects,
    pub now_ms: u64,
    /// How far the time of day is ahead of the clock.
    pub wall_ahead_ms: i64,
    conns: u32,
}

/// What a client reads.
#[derive(Debug, PartialEq)]
pub enum Seen {
    Reply(i32, i64, ErrorCode),
    Event(i64, i32, String),
}

impl World {
    pub fn new() -> World {
        World::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> World {
        let mut settings = Settings { tick_ms: 100, session_timeout_min_ms: 200, ..Settings::standard(3) };
        change(&mut settings);
        let now = Now { mono: Duration::ZERO, wall_ms: 1_000_000 };
        World {
            node: Node::new(settings, Tree::new(1, Rules::DEFAULT), now),
            fx: Effects::default(),
            now_ms: 0,
            wall_ahead_ms: 1_000_000,
            conns: 0,
        }
    }

    pub fn step(&mut self, input: Input<'_>) {
        let now = Now {
            mono: Duration::from_millis(self.now_ms),
            wall_ms: self.wall_ahead_ms + self.now_ms as i64,
        };
        self.node.step(now, input, &mut self.fx);
    }

    /// Makes everything that was appended durable.
    pub fn persist(&mut self) {
        while let Some(last) = self.fx.durable.last().map(|(ticket, _)| *ticket) {
            self.fx.durable.clear();
            self.step(Input::Persisted(last));
        }
    }

    pub fn connect(
        &mut self,
        session: SessionId,
        password: &[u8],
        timeout_ms: i32,
    ) -> (ConnId, ConnectResponse) {
        let conn = self.open();
        let mut frame = Vec::new();
        ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: Zxid(0),
            timeout_ms,
            session_id: session,
            password: Some(password),
            read_only: Some(false),
        }
        .encode(&mut frame);
        self.step(Input::Frame { conn, bytes: &frame });
        self.persist();
        let out = std::mem::take(self.fx.outbox(conn));
        (conn, ConnectResponse::decode(&out[4..]).unwrap())
    }

    pub fn client(&mut self) -> ConnId {
        self.connect(SessionId(0), &[0; 16], 400).0
    }

    pub fn open(&mut self) -> ConnId {
        self.conns += 1;
        let conn = ConnId { index: self.conns, generation: 1 };
        let peer = (IpAddr::V4(Ipv4Addr::LOCALHOST), 1000);
        self.step(Input::Opened { conn, peer, identities: Vec::new() });
        conn
    }

    pub fn send(&mut self, conn: ConnId, xid: i32, request: &Request<'_>) {
        let mut frame = Vec::new();
        RequestHeader { xid: Xid(xid), op: request.op().number() }.encode(&mut frame);
        request.encode(&mut frame);
        self.step(Input::Frame { conn, bytes: &frame });
    }

    pub fn seen(&mut self, conn: ConnId) -> Vec<Seen> {
        let out = std::mem::take(self.fx.outbox(conn));
        let mut all = Vec::new();
        let mut rest = &out[..];
        while let Some((len, more)) = rest.split_first_chunk::<4>() {
            let (frame, more) = more.split_at(u32::from_be_bytes(*len) as usize);
            rest = more;
            let mut reader = Reader::new(frame);
            let header = ReplyHeader::decode(&mut reader).unwrap();
            all.push(if header.xid == Xid::EVENT {
                let event = WatcherEvent::decode(&mut reader).unwrap();
                Seen::Event(header.zxid.0, event.kind.number(), event.path.into_owned())
            } else {
                Seen::Reply(header.xid.0, header.zxid.0, header.err)
            });
        }
        all
    }

    pub fn is_closed(&mut self, conn: ConnId) -> bool {
        self.fx.closes.contains(&conn)
    }
}

pub fn create(path: &str, flags: i32) -> Request<'_> {
    Request::Create(Create {
        op: OpCode::Create,
        path: path.into(),
        data: None,
        acl: Some(AclList::OPEN),
        flags,
        ttl: -1,
    })
}

pub fn exists(path: &str, watch: bool) -> Request<'_> {
    Request::Exists { path: path.into(), watch }
}
