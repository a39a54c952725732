//! Messages of an election, and their frames.
//!
//! Source: `FastLeaderElection`, `QuorumCnxManager`, 3.9.

use bytes::{Bytes, BytesMut};

use super::initial::InitialMessage;
use super::stream::int;
use crate::ids::{Epoch, Round, ServerId, Zxid};
use crate::wire::{DecodeError, DecodeErrorKind, Put, Reader, put_frame};

/// The longest frame of the election port, its length left out.
pub const FRAME_MAX: usize = 512 * 1024;

/// The version that we send: with the sender's configuration.
pub const NOTIFICATION_VERSION: i32 = 2;

/// Bytes of a message before there were peer epochs.
const WITHOUT_EPOCH: usize = 28;
/// Bytes of a message of 3.4, whose version is not looked at.
const WITHOUT_CONFIG: usize = 40;

/// What a server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerState {
    /// It takes part in an election.
    Looking,
    /// It follows a leader.
    Following,
    /// It leads.
    Leading,
    /// It observes a leader.
    Observing,
}

impl ServerState {
    fn from_number(number: i32) -> Option<ServerState> {
        Some(match number {
            0 => ServerState::Looking,
            1 => ServerState::Following,
            2 => ServerState::Leading,
            3 => ServerState::Observing,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            ServerState::Looking => 0,
            ServerState::Following => 1,
            ServerState::Leading => 2,
            ServerState::Observing => 3,
        }
    }
}

/// "This is whom I want to lead", or "this is who leads". Its sender is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notification {
    /// What the sender is doing.
    pub state: ServerState,
    /// Whom it votes for or follows.
    pub leader: ServerId,
    /// The newest transaction in the log of that server; -1 if it may not vote.
    pub zxid: Zxid,
    /// The sender's round.
    pub round: Round,
    /// The current epoch of that server.
    pub peer_epoch: Epoch,
    /// How the message is written: 0 for those of 3.4, 1 without and 2 with the sender's configuration.
    pub version: i32,
    /// From version 2 on, the text of the configuration that the sender holds to be agreed.
    pub config: Option<Bytes>,
}

impl Notification {
    /// Reads the body of a frame, written by any server since 3.3.
    ///
    /// # Errors
    /// The body is too short for its version, or names no state. Such a message is passed over; the
    /// connection is kept.
    pub fn decode(body: &Bytes) -> Result<Notification, DecodeError> {
        let mut r = Reader::new(body);
        let state = r.int()?;
        let state = ServerState::from_number(state)
            .ok_or_else(|| r.error(DecodeErrorKind::Unknown { what: "server state", value: state.into() }))?;
        let (leader, zxid, round) = (ServerId(r.long()?), Zxid(r.long()?), Round(r.long()?));
        let peer_epoch = if body.len() == WITHOUT_EPOCH { zxid.epoch() } else { Epoch(r.long()?) };
        let version = if body.len() == WITHOUT_EPOCH || body.len() == WITHOUT_CONFIG { 0 } else { r.int()? };
        let config = if version >= NOTIFICATION_VERSION {
            let text = r.buffer()?.ok_or_else(|| r.error(DecodeErrorKind::Length(-1)))?;
            Some(body.slice_ref(text))
        } else {
            None
        };
        Ok(Notification { state, leader, zxid, round, peer_epoch, version, config })
    }

    /// Appends the message with its frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_frame(out, |out| self.encode_body(out));
    }

    /// Appends the message without its frame: 40 bytes for version 0, else 44 and the configuration.
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        out.put_int(self.state.number());
        out.put_long(self.leader.0);
        out.put_long(self.zxid.0);
        out.put_long(self.round.0);
        out.put_long(self.peer_epoch.0);
        out.put_int(self.version);
        if self.version != 0 {
            out.put_buffer(Some(self.config.as_deref().unwrap_or_default()));
        }
    }
}

/// What comes out of an election connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionItem {
    /// Who dialled; first and once, on connections that were accepted.
    Initial(InitialMessage),
    /// A notification, or why it is none. A malformed one does not end the connection.
    Notification(Result<Notification, DecodeError>),
}

/// The receiving half of a connection of the election port. It keeps at most one unfinished frame and what
/// was fed since.
#[derive(Debug)]
pub struct ElectionStream {
    buf: BytesMut,
    awaits_initial: bool,
}

impl ElectionStream {
    /// For a connection that was accepted: its initial message comes first.
    #[must_use]
    pub fn accepted() -> ElectionStream {
        ElectionStream { buf: BytesMut::new(), awaits_initial: true }
    }

    /// For a connection that we dialled: nothing is answered to our initial message.
    #[must_use]
    pub fn dialled() -> ElectionStream {
        ElectionStream { buf: BytesMut::new(), awaits_initial: false }
    }

    /// Adds bytes as they came from the socket.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buf.extend_from_slice(chunk);
    }

    /// The next item; `None` until more bytes come.
    ///
    /// # Errors
    /// An initial message that is none, or a frame that is empty or above [`FRAME_MAX`]: the connection must
    /// be closed.
    pub fn next_item(&mut self) -> Result<Option<ElectionItem>, DecodeError> {
        if self.awaits_initial {
            let Some((initial, len)) = InitialMessage::decode(&self.buf)? else { return Ok(None) };
            drop(self.buf.split_to(len));
            self.awaits_initial = false;
            return Ok(Some(ElectionItem::Initial(initial)));
        }
        let Some(len) = int(&self.buf, 0) else { return Ok(None) };
        let body = match usize::try_from(len) {
            Ok(n) if (1..=FRAME_MAX).contains(&n) => n,
            _ => return Err(DecodeError { kind: DecodeErrorKind::Length(len), offset: 0 }),
        };
        if self.buf.len() < 4 + body {
            return Ok(None);
        }
        let body = self.buf.split_to(4 + body).freeze().slice(4..);
        Ok(Some(ElectionItem::Notification(Notification::decode(&body))))
    }
}

#[cfg(test)]
mod tests;
