//! What servers say to each other: packets of the quorum port here, messages of the election port in
//! [`initial`] and [`notification`].
//!
//! A packet is `i32 type, i64 zxid, buffer data, vector<Id> authinfo`, and packets follow each other without
//! a frame around them; [`stream`] takes them out of the bytes as these come.
//!
//! Source: `zookeeper.jute` (package `server.quorum`), `Leader`, `Learner`, `LearnerHandler`, 3.9.

pub mod initial;
pub mod notification;
pub mod snapshot;
pub mod stream;

use bytes::{Buf, Bytes};

use crate::ids::{Epoch, ServerId, SessionId, Xid, Zxid};
use crate::wire::{DecodeError, DecodeErrorKind, Put, Reader};

/// The version of the peer protocol that we speak and every server since 3.4 does.
pub const PROTOCOL_VERSION: i32 = 0x1_0000;

/// One packet of the quorum port.
///
/// Where the protocol fixes a packet's zxid it is not a field: it is written as Java writes it and not looked
/// at when read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PeerPacket {
    /// A learner forwards what a client asks.
    Request(ForwardedRequest),
    /// A transaction is offered.
    Proposal {
        /// Its zxid.
        zxid: Zxid,
        /// Header, record and digest as the log holds them.
        txn: Bytes,
    },
    /// "Durable here": a transaction, or with counter 0 the history that came with NEWLEADER.
    Ack {
        /// What is durable.
        zxid: Zxid,
    },
    /// A transaction is final.
    Commit {
        /// Which.
        zxid: Zxid,
    },
    /// A sign of life, and what the answer tells.
    Ping {
        /// The leader's newest proposal, in both directions.
        zxid: Zxid,
        /// From a learner: sessions heard of since the last one, and their timeouts in ms. `None` from a leader.
        touched: Option<Vec<(SessionId, i32)>>,
    },
    /// A learner asks whether a session lives.
    Revalidate {
        /// Which session.
        session: SessionId,
        /// Its timeout.
        timeout_ms: i32,
    },
    /// The leader's answer, under the same number.
    Revalidated {
        /// Which session.
        session: SessionId,
        /// Whether it lives.
        valid: bool,
    },
    /// The oldest `sync` that this learner forwarded is done.
    Sync,
    /// A transaction is final, with its content, for observers.
    Inform {
        /// Its zxid.
        zxid: Zxid,
        /// As in a proposal.
        txn: Bytes,
    },
    /// A reconfiguration is final.
    CommitAndActivate {
        /// The transaction.
        zxid: Zxid,
        /// Who leads from now on.
        designated: ServerId,
    },
    /// The leader's history ends here; acknowledge it.
    NewLeader {
        /// The leader's epoch; the packet's zxid is its counter 0.
        epoch: Epoch,
        /// The text of the configuration that the leader saw last. `None` or one byte from old servers.
        config: Option<Bytes>,
    },
    /// A follower introduces itself.
    FollowerInfo {
        /// Its accepted epoch.
        accepted: Epoch,
        /// Who it is.
        learner: LearnerInfo,
    },
    /// A learner may serve clients.
    UpToDate,
    /// Transactions follow that bring the learner level.
    Diff {
        /// The newest of them.
        zxid: Zxid,
    },
    /// The learner's log must be cut.
    Trunc {
        /// The last transaction to keep.
        zxid: Zxid,
    },
    /// A snapshot follows on the stream.
    Snap {
        /// The newest transaction in it.
        zxid: Zxid,
    },
    /// An observer introduces itself.
    ObserverInfo {
        /// Its accepted epoch.
        accepted: Epoch,
        /// Who it is.
        learner: LearnerInfo,
    },
    /// The leader offers its epoch.
    LeaderInfo {
        /// The epoch.
        epoch: Epoch,
        /// The leader's protocol; anything is taken, [`PROTOCOL_VERSION`] is sent.
        protocol_version: i32,
    },
    /// A learner promises to follow nobody older.
    AckEpoch {
        /// The newest transaction in its log.
        last: Zxid,
        /// Its current epoch; `None`, on the wire -1, from one that had made this promise before: such an
        /// answer does not count.
        current: Option<Epoch>,
    },
    /// A reconfiguration is final, with its content, for observers.
    InformAndActivate {
        /// Its zxid.
        zxid: Zxid,
        /// Who leads from now on.
        designated: ServerId,
        /// As in a proposal.
        txn: Bytes,
    },
    /// Between servers of ours only: the client of a session has come to another server. Whoever does not know the packet
    /// passes over it.
    Moved {
        /// Which session. [`SessionId::NONE`], from a follower to an observer that it serves: the leader knows of the sessions
        /// that the observer has brought, so whichever of them moves is told of from here on.
        session: SessionId,
    },
    /// A packet of a type that we do not know.
    Unknown {
        /// Its type.
        kind: i32,
        /// Its zxid.
        zxid: Zxid,
        /// Its data.
        data: Option<Bytes>,
    },
}

/// A client's request as a learner forwards it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ForwardedRequest {
    /// The client's session.
    pub session: SessionId,
    /// The client's number for it.
    pub xid: Xid,
    /// The operation's number. Not checked here: what the leader does not know it answers.
    pub op: i32,
    /// The request's record, empty where the operation has none.
    pub body: Bytes,
    /// Who the client is. `None` where the server itself asks, as for a new session.
    pub auth: Option<Vec<AuthId>>,
}

/// One identity of a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthId {
    /// The scheme.
    pub scheme: String,
    /// The identity within it.
    pub id: String,
}

/// What a learner says of itself. Sent with all fields; older servers leave the last ones out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LearnerInfo {
    /// Its id. `None` from the very oldest servers.
    pub id: Option<ServerId>,
    /// Its protocol, 1 if it does not say.
    pub protocol_version: i32,
    /// The version of the configuration that it holds to be agreed, if it says.
    pub config_version: Option<Zxid>,
}

impl LearnerInfo {
    /// What a server of ours says.
    #[must_use]
    pub const fn new(id: ServerId, config_version: Zxid) -> LearnerInfo {
        LearnerInfo { id: Some(id), protocol_version: PROTOCOL_VERSION, config_version: Some(config_version) }
    }

    fn decode(data: Option<&Bytes>) -> LearnerInfo {
        let mut r = Reader::new(data.map_or(&[], |data| data));
        let id = r.long().ok().map(ServerId);
        let protocol_version = id.and_then(|_| r.int().ok());
        let config_version = protocol_version.and_then(|_| r.long().ok().map(Zxid));
        LearnerInfo { id, protocol_version: protocol_version.unwrap_or(1), config_version }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let Some(id) = self.id else { return out.put_buffer(None) };
        match (self.protocol_version, self.config_version) {
            (protocol, Some(config)) => {
                out.put_length(20);
                out.put_long(id.0);
                out.put_int(protocol);
                out.put_long(config.0);
            }
            (1, None) => {
                out.put_length(8);
                out.put_long(id.0);
            }
            (protocol, None) => {
                out.put_length(12);
                out.put_long(id.0);
                out.put_int(protocol);
            }
        }
    }
}

/// The numbers of the packet types.
///
/// Source: `Leader`, 3.9.
mod kind {
    pub(super) const REQUEST: i32 = 1;
    pub(super) const PROPOSAL: i32 = 2;
    pub(super) const ACK: i32 = 3;
    pub(super) const COMMIT: i32 = 4;
    pub(super) const PING: i32 = 5;
    pub(super) const REVALIDATE: i32 = 6;
    pub(super) const SYNC: i32 = 7;
    pub(super) const INFORM: i32 = 8;
    pub(super) const COMMIT_AND_ACTIVATE: i32 = 9;
    pub(super) const NEW_LEADER: i32 = 10;
    pub(super) const FOLLOWER_INFO: i32 = 11;
    pub(super) const UP_TO_DATE: i32 = 12;
    pub(super) const DIFF: i32 = 13;
    pub(super) const TRUNC: i32 = 14;
    pub(super) const SNAP: i32 = 15;
    pub(super) const OBSERVER_INFO: i32 = 16;
    pub(super) const LEADER_INFO: i32 = 17;
    pub(super) const ACK_EPOCH: i32 = 18;
    pub(super) const INFORM_AND_ACTIVATE: i32 = 19;
    /// Far from what others may come to use.
    pub(super) const MOVED: i32 = 1001;
}

/// Bytes of a session in a ping's answer.
const TOUCH: usize = 12;

/// What most packets carry as zxid where they are about none.
const NO_ZXID: Zxid = Zxid(-1);

/// A packet's fields before they get their meaning.
#[derive(Debug)]
struct Raw {
    kind: i32,
    zxid: Zxid,
    data: Option<Bytes>,
    auth: Option<Vec<AuthId>>,
}

impl PeerPacket {
    /// Reads one packet, which must fill `bytes`. Payloads are slices of them.
    ///
    /// # Errors
    /// The bytes are no packet, or its data are not what its type demands.
    pub fn decode(bytes: &Bytes) -> Result<PeerPacket, DecodeError> {
        let mut r = Reader::new(bytes);
        let (kind, zxid) = (r.int()?, Zxid(r.long()?));
        let data = r.buffer()?.map(|data| bytes.slice_ref(data));
        let auth = decode_auth(&mut r)?;
        if r.remaining() > 0 {
            return Err(r.error(DecodeErrorKind::Unknown { what: "byte after a packet", value: 0 }));
        }
        PeerPacket::from_raw(Raw { kind, zxid, data, auth })
    }

    fn from_raw(raw: Raw) -> Result<PeerPacket, DecodeError> {
        let Raw { kind, zxid, data, auth } = raw;
        Ok(match kind {
            kind::REQUEST => PeerPacket::Request(ForwardedRequest::decode(data, auth)?),
            kind::PROPOSAL => PeerPacket::Proposal { zxid, txn: required(data)? },
            kind::ACK => PeerPacket::Ack { zxid },
            kind::COMMIT => PeerPacket::Commit { zxid },
            kind::PING => PeerPacket::Ping { zxid, touched: data.map(|data| touches(&data)).transpose()? },
            kind::REVALIDATE => revalidation(&required(data)?)?,
            kind::SYNC => PeerPacket::Sync,
            kind::INFORM => PeerPacket::Inform { zxid, txn: required(data)? },
            kind::COMMIT_AND_ACTIVATE => {
                PeerPacket::CommitAndActivate { zxid, designated: designated(&mut required(data)?)? }
            }
            kind::NEW_LEADER => PeerPacket::NewLeader { epoch: zxid.epoch(), config: data },
            kind::FOLLOWER_INFO => {
                let learner = LearnerInfo::decode(data.as_ref());
                PeerPacket::FollowerInfo { accepted: zxid.epoch(), learner }
            }
            kind::UP_TO_DATE => PeerPacket::UpToDate,
            kind::DIFF => PeerPacket::Diff { zxid },
            kind::TRUNC => PeerPacket::Trunc { zxid },
            kind::SNAP => PeerPacket::Snap { zxid },
            kind::OBSERVER_INFO => {
                let learner = LearnerInfo::decode(data.as_ref());
                PeerPacket::ObserverInfo { accepted: zxid.epoch(), learner }
            }
            kind::LEADER_INFO => {
                let protocol_version = Reader::new(&required(data)?).int()?;
                PeerPacket::LeaderInfo { epoch: zxid.epoch(), protocol_version }
            }
            kind::ACK_EPOCH => {
                let epoch = Reader::new(&required(data)?).int()?;
                PeerPacket::AckEpoch { last: zxid, current: (epoch != -1).then_some(Epoch(epoch.into())) }
            }
            kind::INFORM_AND_ACTIVATE => {
                let mut data = required(data)?;
                let designated = designated(&mut data)?;
                PeerPacket::InformAndActivate { zxid, designated, txn: data }
            }
            kind::MOVED => PeerPacket::Moved { session: SessionId(Reader::new(&required(data)?).long()?) },
            _ => PeerPacket::Unknown { kind, zxid, data },
        })
    }

    /// Appends the packet's bytes.
    ///
    /// # Panics
    /// On an epoch that does not fit 32 bits, which no zxid can have.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            PeerPacket::Request(request) => request.encode(out),
            PeerPacket::Proposal { zxid, txn } => plain(out, kind::PROPOSAL, *zxid, Some(txn)),
            PeerPacket::Ack { zxid } => plain(out, kind::ACK, *zxid, None),
            PeerPacket::Commit { zxid } => plain(out, kind::COMMIT, *zxid, None),
            PeerPacket::Ping { zxid, touched } => {
                let data = touched.as_ref().map(|touched| touch_bytes(touched));
                plain(out, kind::PING, *zxid, data.as_deref());
            }
            PeerPacket::Revalidate { session, timeout_ms } => {
                head(out, kind::REVALIDATE, NO_ZXID);
                out.put_length(TOUCH);
                out.put_long(session.0);
                out.put_int(*timeout_ms);
                no_auth(out);
            }
            PeerPacket::Revalidated { session, valid } => {
                head(out, kind::REVALIDATE, NO_ZXID);
                out.put_length(9);
                out.put_long(session.0);
                out.put_boolean(*valid);
                no_auth(out);
            }
            PeerPacket::Moved { session } => {
                plain(out, kind::MOVED, NO_ZXID, Some(&session.0.to_be_bytes()));
            }
            PeerPacket::Sync => plain(out, kind::SYNC, Zxid::ZERO, None),
            PeerPacket::Inform { zxid, txn } => plain(out, kind::INFORM, *zxid, Some(txn)),
            PeerPacket::CommitAndActivate { zxid, designated } => {
                plain(out, kind::COMMIT_AND_ACTIVATE, *zxid, Some(&designated.0.to_be_bytes()));
            }
            PeerPacket::NewLeader { epoch, config } => {
                plain(out, kind::NEW_LEADER, epoch.start(), config.as_deref());
            }
            PeerPacket::FollowerInfo { accepted, learner } => {
                introduction(out, kind::FOLLOWER_INFO, *accepted, *learner);
            }
            PeerPacket::UpToDate => plain(out, kind::UP_TO_DATE, NO_ZXID, None),
            PeerPacket::Diff { zxid } => plain(out, kind::DIFF, *zxid, None),
            PeerPacket::Trunc { zxid } => plain(out, kind::TRUNC, *zxid, None),
            PeerPacket::Snap { zxid } => plain(out, kind::SNAP, *zxid, None),
            PeerPacket::ObserverInfo { accepted, learner } => {
                introduction(out, kind::OBSERVER_INFO, *accepted, *learner);
            }
            PeerPacket::LeaderInfo { epoch, protocol_version } => {
                plain(out, kind::LEADER_INFO, epoch.start(), Some(&protocol_version.to_be_bytes()));
            }
            PeerPacket::AckEpoch { last, current } => {
                let epoch = current.map_or(-1, epoch_bits);
                plain(out, kind::ACK_EPOCH, *last, Some(&epoch.to_be_bytes()));
            }
            PeerPacket::InformAndActivate { zxid, designated, txn } => {
                head(out, kind::INFORM_AND_ACTIVATE, *zxid);
                out.put_length(8 + txn.len());
                out.put_long(designated.0);
                out.put_raw(txn);
                no_auth(out);
            }
            PeerPacket::Unknown { kind, zxid, data } => plain(out, *kind, *zxid, data.as_deref()),
        }
    }

    /// The packet's bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

impl ForwardedRequest {
    fn decode(data: Option<Bytes>, auth: Option<Vec<AuthId>>) -> Result<ForwardedRequest, DecodeError> {
        let mut data = required(data)?;
        let mut r = Reader::new(&data);
        let (session, xid, op) = (SessionId(r.long()?), Xid(r.int()?), r.int()?);
        let read = r.offset();
        data.advance(read);
        Ok(ForwardedRequest { session, xid, op, body: data, auth })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        head(out, kind::REQUEST, NO_ZXID);
        out.put_length(16 + self.body.len());
        out.put_long(self.session.0);
        out.put_int(self.xid.0);
        out.put_int(self.op);
        out.put_raw(&self.body);
        let Some(auth) = &self.auth else { return no_auth(out) };
        out.put_length(auth.len());
        for AuthId { scheme, id } in auth {
            out.put_string(scheme);
            out.put_string(id);
        }
    }
}

fn decode_auth(r: &mut Reader<'_>) -> Result<Option<Vec<AuthId>>, DecodeError> {
    let Some(count) = r.count(8)? else { return Ok(None) };
    let id =
        |r: &mut Reader<'_>| Ok(AuthId { scheme: r.string()?.into_owned(), id: r.string()?.into_owned() });
    (0..count).map(|_| id(r)).collect::<Result<_, _>>().map(Some)
}

fn required(data: Option<Bytes>) -> Result<Bytes, DecodeError> {
    data.ok_or(DecodeError { kind: DecodeErrorKind::Null, offset: 0 })
}

fn designated(data: &mut Bytes) -> Result<ServerId, DecodeError> {
    let id = Reader::new(data).long()?;
    data.advance(8);
    Ok(ServerId(id))
}

fn touches(data: &[u8]) -> Result<Vec<(SessionId, i32)>, DecodeError> {
    let mut r = Reader::new(data);
    let mut touched = Vec::with_capacity(data.len() / TOUCH);
    while r.remaining() > 0 {
        touched.push((SessionId(r.long()?), r.int()?));
    }
    Ok(touched)
}

fn touch_bytes(touched: &[(SessionId, i32)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(touched.len() * TOUCH);
    for (session, timeout_ms) in touched {
        out.put_long(session.0);
        out.put_int(*timeout_ms);
    }
    out
}

/// Question and answer share a number; only their length tells them apart.
fn revalidation(data: &[u8]) -> Result<PeerPacket, DecodeError> {
    let mut r = Reader::new(data);
    let session = SessionId(r.long()?);
    if r.remaining() == 1 {
        return Ok(PeerPacket::Revalidated { session, valid: r.boolean()? });
    }
    Ok(PeerPacket::Revalidate { session, timeout_ms: r.int()? })
}

fn epoch_bits(epoch: Epoch) -> i32 {
    match i32::try_from(epoch.0) {
        Ok(bits) => bits,
        Err(_) => panic!("epoch {} does not fit the wire's 32 bits", epoch.0),
    }
}

fn head(out: &mut Vec<u8>, kind: i32, zxid: Zxid) {
    out.put_int(kind);
    out.put_long(zxid.0);
}

fn no_auth(out: &mut Vec<u8>) {
    out.put_int(-1);
}

fn plain(out: &mut Vec<u8>, kind: i32, zxid: Zxid, data: Option<&[u8]>) {
    head(out, kind, zxid);
    out.put_buffer(data);
    no_auth(out);
}

fn introduction(out: &mut Vec<u8>, kind: i32, accepted: Epoch, learner: LearnerInfo) {
    head(out, kind, accepted.start());
    learner.encode(out);
    no_auth(out);
}

#[cfg(test)]
mod tests;
