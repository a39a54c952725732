//! Replies, encoded straight into the outbox of their connection, and what is counted about them.

use std::sync::Arc;

use oxkeeper_proto::wire::put_frame;
use oxkeeper_proto::{ErrorCode, Names, Put, Reply, ReplyHeader, Stat, Xid, Zxid};

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
    if let Reply::Names(Names::Encoded { count, parts }) = body {
        return write_parts(fx, id, &ReplyHeader { xid, zxid, err }, (*count, parts), None);
    }
    if let Reply::NamesStat(Names::Encoded { count, parts }, stat) = body {
        return write_parts(fx, id, &ReplyHeader { xid, zxid, err }, (*count, parts), Some(stat));
    }
    let out = fx.write(id);
    let before = out.len();
    put_frame(out, |out| {
        ReplyHeader { xid, zxid, err }.encode(out);
        body.encode(out);
    });
    out.len() - before - 4
}

/// Writes names that are encoded already: they are shared with the outbox, not copied.
#[cold]
fn write_parts(
    fx: &mut Effects,
    id: ConnId,
    header: &ReplyHeader,
    (count, parts): (usize, &[Arc<Vec<u8>>]),
    stat: Option<&Stat>,
) -> usize {
    let mut tail = Vec::new();
    if let Some(stat) = stat {
        stat.encode(&mut tail);
    }
    let names: usize = parts.iter().map(|part| part.len()).sum();
    let size = ReplyHeader::SIZE + 4 + names + tail.len();
    let out = fx.write(id);
    out.put_length(size);
    header.encode(out);
    out.put_length(count);
    fx.share(id, parts);
    fx.write(id).put_raw(&tail);
    size
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
