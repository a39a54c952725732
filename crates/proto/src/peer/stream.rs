//! Takes packets, and the snapshot after a SNAP, out of the quorum port's unframed bytes.

use bytes::{Bytes, BytesMut};

use super::PeerPacket;
use super::snapshot::{SnapshotItem, SnapshotScan};
use crate::wire::{DecodeError, DecodeErrorKind};

/// Bytes before a packet's data: type, zxid and the data's length.
const HEAD: usize = 16;

/// What comes out of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerItem {
    /// A packet.
    Packet(PeerPacket),
    /// A record of the snapshot that follows a SNAP.
    Snapshot(SnapshotItem),
}

/// The receiving half of a connection between a leader and a learner.
///
/// Bytes go in as they come and items come out whole. It keeps no more than one unfinished item and what was
/// fed since, and an item is bounded by twice the longest field. After an error it only repeats the error:
/// where the next packet would begin nobody knows, so the connection must be closed.
#[derive(Debug)]
pub struct PeerStream {
    buf: BytesMut,
    /// The longest data, string or list.
    field_bytes_max: usize,
    /// Whether a snapshot follows a SNAP. A leader expects none, whatever a learner says.
    is_learner: bool,
    scan: Scan,
}

#[derive(Debug)]
enum Scan {
    /// At the start of a packet.
    Head,
    /// In the list of identities after the data: where the next one starts and how many are to come.
    Auth {
        list: List,
    },
    Snapshot(SnapshotScan),
}

impl PeerStream {
    /// What a learner hears from a leader. `field_bytes_max` is `jute.maxbuffer` plus its extra size.
    #[must_use]
    pub fn from_leader(field_bytes_max: usize) -> PeerStream {
        PeerStream { buf: BytesMut::new(), field_bytes_max, is_learner: true, scan: Scan::Head }
    }

    /// What a leader hears from a learner.
    #[must_use]
    pub fn from_learner(field_bytes_max: usize) -> PeerStream {
        PeerStream { is_learner: false, ..PeerStream::from_leader(field_bytes_max) }
    }

    /// Adds bytes as they came from the socket.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buf.extend_from_slice(chunk);
    }

    /// Bytes that wait for the rest of their item.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buf.len()
    }

    /// Whether the records of a snapshot are coming.
    #[must_use]
    pub fn in_snapshot(&self) -> bool {
        matches!(self.scan, Scan::Snapshot(_))
    }

    /// The next item; `None` until more bytes come.
    ///
    /// # Errors
    /// The peer does not speak the protocol, or a field is longer than allowed. Its offset counts from the
    /// start of the item.
    pub fn next_item(&mut self) -> Result<Option<PeerItem>, DecodeError> {
        if let Scan::Snapshot(scan) = &mut self.scan {
            let item = scan.next_item(&mut self.buf, self.field_bytes_max)?;
            if item == Some(SnapshotItem::End) {
                self.scan = Scan::Head;
            }
            return Ok(item.map(PeerItem::Snapshot));
        }
        let Some(end) = self.packet_end()? else { return Ok(None) };
        self.scan = Scan::Head;
        let packet = PeerPacket::decode(&self.take(end))?;
        if self.is_learner && matches!(packet, PeerPacket::Snap { .. }) {
            self.scan = Scan::Snapshot(SnapshotScan::new());
        }
        Ok(Some(PeerItem::Packet(packet)))
    }

    fn take(&mut self, end: usize) -> Bytes {
        self.buf.split_to(end).freeze()
    }

    /// Where the packet at the front ends, once all of it is there. What was found is kept, so that bytes
    /// which trickle in cost no more than those which come at once.
    fn packet_end(&mut self) -> Result<Option<usize>, DecodeError> {
        if matches!(self.scan, Scan::Head) {
            let Some(data) = length(&self.buf, HEAD - 4, self.field_bytes_max)? else { return Ok(None) };
            let at = HEAD + data.unwrap_or(0);
            let Some(list) = List::open(&self.buf, at, 0, self.field_bytes_max)? else { return Ok(None) };
            self.scan = Scan::Auth { list };
        }
        match &mut self.scan {
            Scan::Auth { list } => list.end(&self.buf, self.field_bytes_max),
            _ => Ok(None),
        }
    }
}

/// A vector of records that are some fixed bytes and two strings, passed over as it comes.
#[derive(Debug)]
pub(super) struct List {
    start: usize,
    at: usize,
    left: usize,
    /// Bytes before the strings of each element.
    fixed: usize,
}

impl List {
    /// Reads the count at `start`; `None` until it is there.
    pub(super) fn open(
        buf: &[u8],
        start: usize,
        fixed: usize,
        bytes_max: usize,
    ) -> Result<Option<List>, DecodeError> {
        let Some(count) = int(buf, start) else { return Ok(None) };
        // Java reads any negative count as an empty vector.
        let left = usize::try_from(count).unwrap_or(0);
        if left.saturating_mul(fixed + 8) > bytes_max {
            return Err(DecodeError { kind: DecodeErrorKind::Length(count), offset: start });
        }
        Ok(Some(List { start, at: start + 4, left, fixed }))
    }

    /// Where it ends, once all of it is there.
    pub(super) fn end(&mut self, buf: &[u8], bytes_max: usize) -> Result<Option<usize>, DecodeError> {
        while self.left > 0 {
            let mut at = self.at + self.fixed;
            for _ in 0..2 {
                let Some(len) = length(buf, at, bytes_max)? else { return Ok(None) };
                at += 4 + len.unwrap_or(0);
            }
            if at - self.start > bytes_max.saturating_add(4) {
                let kind = DecodeErrorKind::Length(i32::try_from(at - self.start).unwrap_or(i32::MAX));
                return Err(DecodeError { kind, offset: self.start });
            }
            if buf.len() < at {
                return Ok(None);
            }
            self.at = at;
            self.left -= 1;
        }
        Ok((buf.len() >= self.at).then_some(self.at))
    }
}

pub(super) fn int(buf: &[u8], at: usize) -> Option<i32> {
    let bytes = buf.get(at..)?.first_chunk()?;
    Some(i32::from_be_bytes(*bytes))
}

pub(super) fn long(buf: &[u8], at: usize) -> Option<i64> {
    let bytes = buf.get(at..)?.first_chunk()?;
    Some(i64::from_be_bytes(*bytes))
}

/// The length at `at`: outside `None` until it is there, inside `None` for null.
pub(super) fn length(buf: &[u8], at: usize, max: usize) -> Result<Option<Option<usize>>, DecodeError> {
    let Some(len) = int(buf, at) else { return Ok(None) };
    match usize::try_from(len) {
        Ok(n) if n <= max => Ok(Some(Some(n))),
        _ if len == -1 => Ok(Some(None)),
        _ => Err(DecodeError { kind: DecodeErrorKind::Length(len), offset: at }),
    }
}

#[cfg(test)]
mod tests;
