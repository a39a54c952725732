//! What clients asked and what they were told: all that the checkers go by.

use std::rc::Rc;

use oxkeeper_proto::{ErrorCode, OpCode, Reader, Request, SessionId, Zxid};
use oxkeeper_tree::Identity;

use crate::queue::Nanos;

/// A request of a client, and what became of it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which client.
    pub client: usize,
    /// Which of the client's connections, counted from 1.
    pub conn: u32,
    /// Its session.
    pub session: SessionId,
    /// Its number within the session.
    pub xid: i32,
    /// The operation.
    pub op: OpCode,
    /// The body of the request.
    pub body: Vec<u8>,
    /// Who the connection had proved to be by then.
    pub identities: Rc<Vec<Identity>>,
    /// When it was sent.
    pub invoked: Nanos,
    /// To which server.
    pub server: usize,
    /// If it was sent on a connection that its session had left, the epoch of the server that had taken the session up: it
    /// must not happen there.
    pub stale: Option<i64>,
    /// Whether the server had said that it only lets read.
    pub read_only: bool,
    /// What came of it.
    pub result: Outcome,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The client still waits.
    Waiting,
    /// The connection broke before the reply: it may have happened.
    Unknown,
    /// The reply.
    Told(Told),
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When it came.
    pub at: Nanos,
    /// The zxid of its header.
    pub zxid: Zxid,
    /// The error of its header.
    pub err: ErrorCode,
    /// Its body.
    pub body: Vec<u8>,
}

impl Call {
    /// The request, if its body is one.
    #[must_use]
    pub fn request(&self) -> Option<Request<'_>> {
        Request::decode(self.op, &mut Reader::new(&self.body)).ok()
    }

    /// The reply, if it has come.
    #[must_use]
    pub fn told(&self) -> Option<&Told> {
        match &self.result {
            Outcome::Told(told) => Some(told),
            Outcome::Waiting | Outcome::Unknown => None,
        }
    }
}

/// What a client saw on a connection, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A new connection has a session.
    Opened {
        /// Which one.
        session: SessionId,
        /// Whether it was opened now, not taken up again.
        is_new: bool,
        /// The newest zxid the client had seen in this session.
        last_zxid: Zxid,
    },
    /// A reply to a call, by its index.
    Reply(usize),
    /// A watch event.
    Event {
        /// The zxid of its header.
        zxid: Zxid,
        /// Its type.
        kind: i32,
        /// Its path.
        path: String,
    },
}

/// One sight of a client.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Which client.
    pub client: usize,
    /// Which of its connections.
    pub conn: u32,
    /// When.
    pub at: Nanos,
    /// What.
    pub seen: Seen,
}

/// Everything that clients did and saw.
#[derive(Debug, Default, Clone)]
pub struct History {
    /// Requests, in the order in which they were sent.
    pub calls: Vec<Call>,
    /// Sights, in the order of time.
    pub sights: Vec<Sight>,
}

impl History {
    /// Notes a request; gives its index.
    pub fn ask(&mut self, call: Call) -> usize {
        self.calls.push(call);
        self.calls.len() - 1
    }

    /// Notes what came of a request.
    pub fn settle(&mut self, index: usize, result: Outcome) {
        if let Some(call) = self.calls.get_mut(index) {
            call.result = result;
        }
    }

    /// Notes something that a client saw.
    pub fn see(&mut self, client: usize, conn: u32, at: Nanos, seen: Seen) {
        self.sights.push(Sight { client, conn, at, seen });
    }
}
