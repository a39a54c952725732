//! One connection: bytes come in and are cut into frames, frames go to the node.
//!
//! Its task reads; whoever carries out effects writes. So a reply needs no task to be woken, unless the
//! socket is full.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use oxkeeper_node::{ConnId, Identity, Input};
use oxkeeper_proto::frame::{self, Unfinished};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::{info, warn};

use crate::core::{Core, no_waker};
use crate::flow::READS_PER_TURN;
use crate::four_letter;
use crate::listing::Listing;

/// Any stream of bytes that a client may come by: TCP, TLS, a pipe within the process.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> ByteStream for T {}

/// What is shared between a connection's task and the core.
pub(crate) struct ConnIo {
    pub(crate) id: ConnId,
    pub(crate) peer: (IpAddr, u16),
    stream: RefCell<Box<dyn ByteStream>>,
    /// Wakes the task. Writes outside the task register it too.
    pub(crate) waker: RefCell<Waker>,
    partial: RefCell<Unfinished>,
    /// The node knows it.
    pub(crate) opened: Cell<bool>,
    /// It has sent a first frame, so what comes now is no four-letter word.
    greeted: Cell<bool>,
    /// A long answer to an operator that is on its way.
    listing: RefCell<Option<Listing>>,
    /// The node does not want to hear from it for now.
    pub(crate) held_back: Cell<bool>,
    /// It does not take its replies.
    pub(crate) choked: Cell<bool>,
    pub(crate) stuck_since: Cell<Option<Instant>>,
    /// What it holds and what waits for it, as counted over all connections.
    pub(crate) partial_counted: Cell<usize>,
    pub(crate) outbox_counted: Cell<usize>,
    /// The node has more to say now that there is room.
    pub(crate) resume: Cell<bool>,
    /// Complete frames of it wait in `partial`.
    backlog: Cell<bool>,
    /// It ends when its outbox is written.
    pub(crate) closing: Cell<bool>,
    /// It ends now.
    pub(crate) broken: Cell<bool>,
}

impl std::fmt::Debug for ConnIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnIo").field("id", &self.id).field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl ConnIo {
    pub(crate) fn new(id: ConnId, peer: (IpAddr, u16), stream: Box<dyn ByteStream>) -> ConnIo {
        ConnIo {
            id,
            peer,
            stream: RefCell::new(stream),
            waker: RefCell::new(no_waker()),
            partial: RefCell::default(),
            opened: Cell::new(false),
            greeted: Cell::new(false),
            listing: RefCell::new(None),
            held_back: Cell::new(false),
            choked: Cell::new(false),
            stuck_since: Cell::new(None),
            partial_counted: Cell::new(0),
            outbox_counted: Cell::new(0),
            resume: Cell::new(false),
            backlog: Cell::new(false),
            closing: Cell::new(false),
            broken: Cell::new(false),
        }
    }

    pub(crate) fn wake(&self) {
        self.waker.borrow().wake_by_ref();
    }

    pub(crate) fn poll_write(
        &self,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        match parts {
            [one] => Pin::new(&mut **stream).poll_write(context, one),
            parts => Pin::new(&mut **stream).poll_write_vectored(context, parts),
        }
    }

    fn poll_read(&self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        ready!(Pin::new(&mut **self.stream.borrow_mut()).poll_read(context, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

/// Has a task polled again after the others, and after what has come for them meanwhile was looked for. A
/// task that only wakes itself is polled many times before that.
pub(crate) fn after_others(context: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(context);
}

/// The task of one connection. It ends with the connection.
pub(crate) struct ConnTask {
    pub(crate) conn: Rc<ConnIo>,
    pub(crate) core: Rc<RefCell<Core>>,
    /// One buffer for all connections: what is complete is used in place.
    pub(crate) buffer: Rc<RefCell<Vec<u8>>>,
    pub(crate) identities: Vec<Identity>,
}

impl Future for ConnTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut waker = self.conn.waker.borrow_mut();
            if !waker.will_wake(context.waker()) {
                waker.clone_from(context.waker());
            }
        }
        self.open();
        if self.run(context) {
            return Poll::Pending;
        }
        self.core.borrow_mut().remove(&self.conn);
        let _ = Pin::new(&mut **self.conn.stream.borrow_mut()).poll_shutdown(context);
        Poll::Ready(())
    }
}

impl ConnTask {
    /// Makes the connection known to the node, once there is one.
    fn open(&mut self) {
        let mut core = self.core.borrow_mut();
        if !self.conn.opened.get() && core.node.is_some() {
            self.conn.opened.set(true);
            let identities = std::mem::take(&mut self.identities);
            core.step(Input::Opened { conn: self.conn.id, peer: self.conn.peer, identities });
        }
    }

    /// Writes what waits and reads what has come; false when the connection is over.
    fn run(&self, context: &mut Context<'_>) -> bool {
        let conn = &self.conn;
        self.core.borrow_mut().flush(conn);
        for _ in 0..READS_PER_TURN {
            if conn.broken.get() {
                return false;
            }
            if conn.closing.get() {
                return !self.core.borrow_mut().is_written(conn);
            }
            if conn.held_back.get() || conn.choked.get() {
                return true;
            }
            if let Some(listing) = conn.listing.take() {
                self.list(listing);
                after_others(context);
                return true;
            }
            if conn.resume.take() {
                let mut core = self.core.borrow_mut();
                core.step(Input::Writable { conn: conn.id });
                core.carry_out();
                continue;
            }
            if conn.backlog.take() {
                self.received(&[]);
                continue;
            }
            let mut buffer = self.buffer.borrow_mut();
            let n = match conn.poll_read(context, &mut buffer) {
                Poll::Pending => return true,
                Poll::Ready(Ok(n)) if n > 0 => n,
                Poll::Ready(_) => {
                    info!(
                        "Unable to read additional data from client {:?}, client probably closed socket",
                        conn.peer
                    );
                    return false;
                }
            };
            self.received(buffer.get(..n).unwrap_or_default());
        }
        after_others(context);
        true
    }

    /// Writes the next piece of a long answer.
    fn list(&self, listing: Listing) {
        let conn = &self.conn;
        let mut core = self.core.borrow_mut();
        let mut text = String::new();
        let next = listing.next(&mut core, conn.id, &mut text);
        core.write(conn.id, text.as_bytes());
        conn.closing.set(next.is_none());
        conn.listing.replace(next);
        core.flush(conn);
    }

    fn received(&self, bytes: &[u8]) {
        let mut core = self.core.borrow_mut();
        let mut partial = self.conn.partial.borrow_mut();
        let most = core.config.frame_bytes_max;
        // Until the client has greeted, a four-letter word may be whole where a frame would not be.
        let incomplete =
            |kept: &[u8]| self.conn.greeted.get() && matches!(frame::first(kept, most), Ok(None));
        partial.add(bytes, incomplete, |bytes| self.frames(&mut core, bytes));
        self.hold(&mut core, &mut partial);
        core.carry_out();
    }

    /// Counts what is held of a frame that is not complete; lets go of it if nobody will look at it any more.
    fn hold(&self, core: &mut Core, partial: &mut Unfinished) {
        let conn = &self.conn;
        core.count_partial(conn, partial.len());
        if core.memory.cuts_partial(partial.len()) {
            warn!(
                "Cutting {:?}: unfinished frames take too much memory, {} bytes of it here",
                conn.peer,
                partial.len()
            );
            conn.broken.set(true);
            conn.wake();
        }
        if conn.closing.get() || conn.broken.get() {
            partial.clear();
            core.count_partial(conn, 0);
        }
    }

    /// Hands complete frames to the node; returns how many bytes they took.
    fn frames(&self, core: &mut Core, bytes: &[u8]) -> usize {
        let now = core.now();
        let conn = &self.conn;
        let most = core.config.frame_bytes_max;
        let mut used = 0;
        while !conn.closing.get() && !conn.broken.get() {
            let rest = bytes.get(used..).unwrap_or_default();
            if !conn.greeted.get()
                && let Some((prefix, body)) = rest.split_first_chunk::<4>()
            {
                match four_letter::answer(core, conn, *prefix, body) {
                    four_letter::Verdict::Frame => {}
                    four_letter::Verdict::Incomplete => break,
                    four_letter::Verdict::Listing(listing) => {
                        conn.listing.replace(Some(listing));
                        conn.wake();
                        return bytes.len();
                    }
                    four_letter::Verdict::Answered => {
                        conn.closing.set(true);
                        core.flush(conn);
                        conn.wake();
                        return bytes.len();
                    }
                }
            }
            let frame = match frame::first(rest, most) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => {
                    let len = rest.first_chunk().map_or(0, |prefix| i32::from_be_bytes(*prefix));
                    warn!(
                        "Len error. A message from {}:{} with advertised length of {len} is either a malformed message \
                         or too large to process (length is greater than jute.maxbuffer={most})",
                        conn.peer.0, conn.peer.1
                    );
                    conn.broken.set(true);
                    conn.wake();
                    break;
                }
            };
            if !conn.opened.get() {
                // There is no node yet: the client must try another server, or later.
                conn.broken.set(true);
                conn.wake();
                break;
            }
            conn.greeted.set(true);
            core.step_at(now, Input::Frame { conn: conn.id, bytes: frame });
            used += frame::PREFIX + frame.len();
            if core.is_full(conn) {
                conn.backlog.set(true);
                break;
            }
        }
        used
    }
}
