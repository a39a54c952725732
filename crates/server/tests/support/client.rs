//! A client for tests: one request at a time over a real socket.
#![allow(dead_code, unreachable_pub, reason = "every test program uses some of it")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{
    AclList, ConnectRequest, ConnectResponse, Create, ErrorCode, OpCode, Reader, ReplyHeader, Request,
    RequestHeader, SessionId, Xid, Zxid,
};

/// A connected client.
pub struct Client {
    stream: TcpStream,
    xid: i32,
    /// What the server said to it.
    pub session: ConnectResponse,
}

impl Client {
    /// Opens or takes up a session.
    pub fn connect(address: SocketAddr, session: SessionId, password: &[u8]) -> Client {
        let mut stream = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, address.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut out = Vec::new();
        put_frame(&mut out, |out| {
            ConnectRequest {
                protocol_version: 0,
                last_zxid_seen: Zxid(0),
                timeout_ms: 20_000,
                session_id: session,
                password: Some(password),
                read_only: Some(false),
            }
            .encode(out);
        });
        stream.write_all(&out).unwrap();
        let frame = read_frame(&mut stream);
        Client { stream, xid: 0, session: ConnectResponse::decode(&frame).unwrap() }
    }

    /// Sends requests all at once, and then reads all their replies.
    pub fn burst(&mut self, requests: &[Request<'_>]) -> Vec<(Xid, ErrorCode)> {
        let mut out = Vec::new();
        for request in requests {
            self.xid += 1;
            put_frame(&mut out, |out| {
                RequestHeader { xid: Xid(self.xid), op: request.op().number() }.encode(out);
                request.encode(out);
            });
        }
        self.stream.write_all(&out).unwrap();
        let reply = |_| {
            let frame = read_frame(&mut self.stream);
            let header = ReplyHeader::decode(&mut Reader::new(&frame)).unwrap();
            (header.xid, header.err)
        };
        requests.iter().map(reply).collect()
    }

    /// Sends a request and waits for its reply; events on the way are passed over.
    pub fn call(&mut self, request: &Request<'_>) -> (Zxid, ErrorCode) {
        self.xid += 1;
        let mut out = Vec::new();
        put_frame(&mut out, |out| {
            RequestHeader { xid: Xid(self.xid), op: request.op().number() }.encode(out);
            request.encode(out);
        });
        self.stream.write_all(&out).unwrap();
        loop {
            let frame = read_frame(&mut self.stream);
            let header = ReplyHeader::decode(&mut Reader::new(&frame)).unwrap();
            if header.xid != Xid::EVENT {
                return (header.zxid, header.err);
            }
        }
    }
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

/// A create of an open znode.
pub fn create(path: &str, flags: i32) -> Request<'_> {
    let (op, data, acl) = (OpCode::Create, Some(&b"x"[..]), Some(AclList::OPEN));
    Request::Create(Create { op, path: path.into(), data, acl, flags, ttl: -1 })
}

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
