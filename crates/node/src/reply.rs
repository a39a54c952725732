//! Replies, encoded straight into the outbox of their connection, and what is counted about them.

use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{ErrorCode, Reply, ReplyHeader, Xid, Zxid};

use crate::conn::{Call, Notice};
use crate::effects::{ConnId, Effects};
use crate::node::Node;

/// Writes a reply; returns its size without the length before it.
#[inline]
pub(crate) fn write(
    fx: &mut Effects,
    id: ConnId,
    xid: Xid,
    zxid: Zxid,
    err: ErrorCode,
    body: &Reply<'_>,
) -> usize {
    let out = fx.write(id);
    let before = out.len();
    put_frame(out, |out| {
        ReplyHeader { xid, zxid, err }.encode(out);
        body.encode(out);
    });
    out.len() - before - 4
}

impl Node {
    #[inline]
    pub(crate) fn count_reply(&mut self, id: ConnId, call: Call, size: usize) {
        self.response_sizes.add(size);
        let now_ms = self.now_ms();
        let latency_ms = now_ms.saturating_sub(call.received_ms);
        self.counts.answer(latency_ms);
        self.counts.sent += 1;
        let zxid = self.tree.last_zxid();
        if let Some(conn) = self.conns.get_mut(id) {
            conn.answered(call, zxid, latency_ms, now_ms);
        }
    }

    /// A reply without a body, outside the pipeline of requests.
    pub(crate) fn reply_code(&mut self, id: ConnId, notice: &Notice, fx: &mut Effects) {
        let zxid = notice.zxid.unwrap_or(self.tree.last_zxid());
        write(fx, id, notice.xid, zxid, notice.code, &Reply::Empty);
        self.counts.sent += 1;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.counts.sent += 1;
        }
    }
}
