//! Transactions: what the leader proposes, the log holds and every server applies.
//!
//! Source: `zookeeper.jute` (package `txn`), `SerializeUtils.deserializeTxn`, 3.9.

use std::borrow::Cow;

use crate::acl::AclList;
use crate::codes::{ErrorCode, OpCode};
use crate::ids::{SessionId, Xid, Zxid};
use crate::wire::{DecodeError, DecodeErrorKind, Put, Reader};

/// What precedes every transaction. 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnHeader {
    /// Who asked; for createSession the new session; 0 for what servers do on their own.
    pub session: SessionId,
    /// The client's number for its request.
    pub cxid: Xid,
    /// The transaction's place in the one order.
    pub zxid: Zxid,
    /// The leader's clock, ms since 1970.
    pub time: i64,
    /// Which kind of transaction follows.
    pub op: OpCode,
}

impl TxnHeader {
    /// Encoded size.
    pub const SIZE: usize = 32;

    /// Reads the header.
    ///
    /// # Errors
    /// The bytes end, or the kind is unknown.
    pub fn decode(r: &mut Reader<'_>) -> Result<TxnHeader, DecodeError> {
        let (session, cxid) = (SessionId(r.long()?), Xid(r.int()?));
        let (zxid, time) = (Zxid(r.long()?), r.long()?);
        let op = txn_kind(r)?;
        Ok(TxnHeader { session, cxid, zxid, time, op })
    }

    /// Writes the header.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; TxnHeader::SIZE];
        b[0..8].copy_from_slice(&self.session.0.to_be_bytes());
        b[8..12].copy_from_slice(&self.cxid.0.to_be_bytes());
        b[12..20].copy_from_slice(&self.zxid.0.to_be_bytes());
        b[20..28].copy_from_slice(&self.time.to_be_bytes());
        b[28..32].copy_from_slice(&self.op.number().to_be_bytes());
        out.put_raw(&b);
    }
}

fn txn_kind(r: &mut Reader<'_>) -> Result<OpCode, DecodeError> {
    let number = r.int()?;
    OpCode::from_number(number).ok_or_else(|| {
        r.error(DecodeErrorKind::Unknown { what: "kind of transaction", value: number.into() })
    })
}

/// What is agreed. Borrows from its record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the records in zookeeper.jute")]
pub enum Txn<'a> {
    /// A session opens with this timeout in ms.
    CreateSession { timeout_ms: i32 },
    /// A session ends. `None`: written by a server that did not list the ephemerals.
    CloseSession { paths: Option<Vec<Cow<'a, str>>> },
    /// A request failed and took a zxid.
    Error { code: ErrorCode },
    /// A znode is made; `Create`, `Create2`, `CreateContainer` or `CreateTtl`.
    Create(CreateTxn<'a>),
    /// A znode is removed; `Delete` or, by the server itself, `DeleteContainer`.
    Delete { op: OpCode, path: Cow<'a, str> },
    /// Data change; `SetData` or `Reconfig`. `version` is the new one.
    SetData { op: OpCode, path: Cow<'a, str>, data: Option<&'a [u8]>, version: i32 },
    /// The access control list changes; `version` is the new aversion.
    SetAcl { path: Cow<'a, str>, acl: Option<AclList<'a>>, version: i32 },
    /// A version test that passed, inside a multi.
    Check { path: Cow<'a, str>, version: i32 },
    /// All of these; or none, if one of them is an error.
    Multi(Vec<Txn<'a>>),
}

/// A znode to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTxn<'a> {
    /// `Create`, `Create2`, `CreateContainer` or `CreateTtl`.
    pub op: OpCode,
    /// The final path.
    pub path: Cow<'a, str>,
    /// The data.
    pub data: Option<&'a [u8]>,
    /// The expanded access control list.
    pub acl: Option<AclList<'a>>,
    /// Whether it belongs to the session.
    pub ephemeral: bool,
    /// The parent's stored cversion afterwards; -1 in logs of old servers.
    pub parent_cversion: i32,
    /// Time to live in ms; 0 unless the op is `CreateTtl`.
    pub ttl: i64,
}

/// The state of the tree after a transaction, as the leader computed it. 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxnDigest {
    /// How it was computed; 2 is the only way in use.
    pub version: i32,
    /// The sum over all znodes.
    pub digest: i64,
}

impl TxnDigest {
    /// The way of computing digests since 3.6.
    pub const VERSION: i32 = 2;

    /// Writes the trailer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.version);
        out.put_long(self.digest);
    }
}

/// A transaction as the log holds it: header, body and, unless it is an error, the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnRecord<'a> {
    /// Who, when, what.
    pub header: TxnHeader,
    /// The change.
    pub txn: Txn<'a>,
    /// The state afterwards; absent on errors and in old logs.
    pub digest: Option<TxnDigest>,
}

impl<'a> TxnRecord<'a> {
    /// Reads a record's payload.
    ///
    /// # Errors
    /// The bytes are no transaction of a known kind.
    pub fn decode(payload: &'a [u8]) -> Result<TxnRecord<'a>, DecodeError> {
        let mut r = Reader::new(payload);
        let header = TxnHeader::decode(&mut r)?;
        let body = r.clone();
        let (txn, r) = match Txn::decode(header.op, &mut r) {
            Ok(txn) => (txn, r),
            // Old servers did not write the parent's cversion.
            Err(error) if header.op == OpCode::Create => {
                let mut r = body;
                match Txn::decode_create_v0(&mut r) {
                    Ok(txn) if r.remaining() == 0 => (txn, r),
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        Ok(TxnRecord { header, txn, digest: decode_digest(r) })
    }

    /// Writes the payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        self.txn.encode(out);
        if let Some(digest) = self.digest {
            digest.encode(out);
        }
    }
}

fn decode_digest(mut r: Reader<'_>) -> Option<TxnDigest> {
    Some(TxnDigest { version: r.int().ok()?, digest: r.long().ok()? })
}

impl<'a> Txn<'a> {
    /// Which kind it is.
    #[must_use]
    pub fn op(&self) -> OpCode {
        match self {
            Txn::CreateSession { .. } => OpCode::CreateSession,
            Txn::CloseSession { .. } => OpCode::CloseSession,
            Txn::Error { .. } => OpCode::Error,
            Txn::Create(create) => create.op,
            Txn::Delete { op, .. } | Txn::SetData { op, .. } => *op,
            Txn::SetAcl { .. } => OpCode::SetAcl,
            Txn::Check { .. } => OpCode::Check,
            Txn::Multi(_) => OpCode::Multi,
        }
    }

    /// Reads the body of a transaction.
    ///
    /// # Errors
    /// The bytes are no such record.
    pub fn decode(op: OpCode, r: &mut Reader<'a>) -> Result<Txn<'a>, DecodeError> {
        Ok(match op {
            OpCode::CreateSession => Txn::CreateSession { timeout_ms: r.int()? },
            OpCode::CloseSession => Txn::CloseSession { paths: decode_paths(r)? },
            OpCode::Error => Txn::Error { code: ErrorCode(r.int()?) },
            OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Txn::Create(CreateTxn::decode(op, r)?)
            }
            OpCode::Delete | OpCode::DeleteContainer => Txn::Delete { op, path: r.string()? },
            OpCode::SetData | OpCode::Reconfig => {
                Txn::SetData { op, path: r.string()?, data: r.buffer()?, version: r.int()? }
            }
            OpCode::SetAcl => Txn::SetAcl { path: r.string()?, acl: AclList::decode(r)?, version: r.int()? },
            OpCode::Check => Txn::Check { path: r.string()?, version: r.int()? },
            OpCode::Multi => Txn::Multi(decode_multi(r)?),
            _ => return Err(unknown_kind(r, op)),
        })
    }

    fn decode_create_v0(r: &mut Reader<'a>) -> Result<Txn<'a>, DecodeError> {
        Ok(Txn::Create(CreateTxn {
            op: OpCode::Create,
            path: r.string()?,
            data: r.buffer()?,
            acl: AclList::decode(r)?,
            ephemeral: r.boolean()?,
            parent_cversion: -1,
            ttl: 0,
        }))
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Txn::CreateSession { timeout_ms } => out.put_int(*timeout_ms),
            Txn::CloseSession { paths: None } => {}
            Txn::CloseSession { paths: Some(paths) } => {
                out.put_length(paths.len());
                for path in paths {
                    out.put_string(path);
                }
            }
            Txn::Error { code } => out.put_int(code.0),
            Txn::Create(create) => create.encode(out),
            Txn::Delete { path, .. } => out.put_string(path),
            Txn::SetData { path, data, version, .. } => {
                out.put_string(path);
                out.put_buffer(*data);
                out.put_int(*version);
            }
            Txn::SetAcl { path, acl, version } => {
                out.put_string(path);
                AclList::encode_nullable(acl.as_ref(), out);
                out.put_int(*version);
            }
            Txn::Check { path, version } => {
                out.put_string(path);
                out.put_int(*version);
            }
            Txn::Multi(txns) => {
                out.put_length(txns.len());
                for txn in txns {
                    out.put_int(txn.op().number());
                    let at = out.len();
                    out.put_int(0);
                    txn.encode(out);
                    let len = out.len() - at - 4;
                    let mut prefix = Vec::with_capacity(4);
                    prefix.put_length(len);
                    if let Some(place) = out.get_mut(at..at + 4) {
                        place.copy_from_slice(&prefix);
                    }
                }
            }
        }
    }
}

impl<'a> CreateTxn<'a> {
    fn decode(op: OpCode, r: &mut Reader<'a>) -> Result<CreateTxn<'a>, DecodeError> {
        let plain = matches!(op, OpCode::Create | OpCode::Create2);
        Ok(CreateTxn {
            op,
            path: r.string()?,
            data: r.buffer()?,
            acl: AclList::decode(r)?,
            ephemeral: plain && r.boolean()?,
            parent_cversion: r.int()?,
            ttl: if op == OpCode::CreateTtl { r.long()? } else { 0 },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_buffer(self.data);
        AclList::encode_nullable(self.acl.as_ref(), out);
        if matches!(self.op, OpCode::Create | OpCode::Create2) {
            out.put_boolean(self.ephemeral);
        }
        out.put_int(self.parent_cversion);
        if self.op == OpCode::CreateTtl {
            out.put_long(self.ttl);
        }
    }
}

/// The ephemerals of a closed session. Servers before 3.6 wrote nothing here, so that what follows, if
/// anything, is the digest: 12 bytes whose first four are the digest's version.
fn decode_paths<'a>(r: &mut Reader<'a>) -> Result<Option<Vec<Cow<'a, str>>>, DecodeError> {
    if r.remaining() == 0 {
        return Ok(None);
    }
    let before = r.clone();
    match decode_strings(r) {
        // Nobody writes a null vector; kept as one, it would be encoded to what an old server wrote.
        Ok(paths) => Ok(Some(paths.unwrap_or_default())),
        Err(_) if before.remaining() == 12 && before.rest().starts_with(&[0, 0, 0, 2]) => {
            *r = before;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn decode_strings<'a>(r: &mut Reader<'a>) -> Result<Option<Vec<Cow<'a, str>>>, DecodeError> {
    let Some(count) = r.count(4)? else { return Ok(None) };
    (0..count).map(|_| r.string()).collect::<Result<Vec<_>, _>>().map(Some)
}

fn decode_multi<'a>(r: &mut Reader<'a>) -> Result<Vec<Txn<'a>>, DecodeError> {
    let count = r.count(8)?.unwrap_or(0);
    let mut txns = Vec::with_capacity(count);
    for _ in 0..count {
        let op = txn_kind(r)?;
        if op == OpCode::Multi {
            return Err(unknown_kind(r, op));
        }
        let body = r.buffer()?.ok_or_else(|| r.error(DecodeErrorKind::Null))?;
        txns.push(Txn::decode(op, &mut Reader::new(body))?);
    }
    Ok(txns)
}

fn unknown_kind(r: &Reader<'_>, op: OpCode) -> DecodeError {
    r.error(DecodeErrorKind::Unknown { what: "kind of transaction", value: op.number().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(txn: Txn<'_>) -> TxnRecord<'_> {
        let digest = (txn.op() != OpCode::Error).then_some(TxnDigest { version: 2, digest: -5 });
        let header = TxnHeader { session: SessionId(1), cxid: Xid(2), zxid: Zxid(3), time: 4, op: txn.op() };
        TxnRecord { header, txn, digest }
    }

    fn create(op: OpCode) -> Txn<'static> {
        Txn::Create(CreateTxn {
            op,
            path: "/a".into(),
            data: Some(b"d"),
            acl: Some(AclList::OPEN),
            ephemeral: op == OpCode::Create,
            parent_cversion: 7,
            ttl: if op == OpCode::CreateTtl { 50 } else { 0 },
        })
    }

    #[test]
    fn every_transaction_round_trips() {
        for txn in [
            Txn::CreateSession { timeout_ms: 30_000 },
            Txn::CloseSession { paths: Some(vec!["/e".into()]) },
            Txn::CloseSession { paths: Some(vec![]) },
            Txn::Error { code: ErrorCode::NONODE },
            create(OpCode::Create),
            create(OpCode::Create2),
            create(OpCode::CreateContainer),
            create(OpCode::CreateTtl),
            Txn::Delete { op: OpCode::Delete, path: "/a".into() },
            Txn::Delete { op: OpCode::DeleteContainer, path: "/a".into() },
            Txn::SetData { op: OpCode::SetData, path: "/a".into(), data: None, version: 1 },
            Txn::SetData {
                op: OpCode::Reconfig,
                path: "/zookeeper/config".into(),
                data: Some(b"x"),
                version: -1,
            },
            Txn::SetAcl { path: "/a".into(), acl: Some(AclList::READ_ONLY), version: 1 },
            Txn::Multi(vec![create(OpCode::Create2), Txn::Check { path: "/a".into(), version: 1 }]),
            Txn::Multi(vec![Txn::Error { code: ErrorCode(-2) }]),
            Txn::Multi(vec![]),
        ] {
            let record = record(txn);
            let mut out = Vec::new();
            record.encode(&mut out);
            assert_eq!(TxnRecord::decode(&out).unwrap(), record);
            for cut in 0..out.len() {
                let _ = TxnRecord::decode(&out[..cut]);
            }
        }
    }

    #[test]
    fn a_null_list_of_a_closed_session_is_an_empty_one() {
        let mut out = Vec::new();
        record(Txn::CloseSession { paths: None }).header.encode(&mut out);
        out.put_int(-1);
        TxnDigest { version: -1, digest: -1 }.encode(&mut out);
        let read = TxnRecord::decode(&out).unwrap();
        assert_eq!(read.txn, Txn::CloseSession { paths: Some(Vec::new()) });
        let mut again = Vec::new();
        read.encode(&mut again);
        assert_eq!(TxnRecord::decode(&again).unwrap(), read);
    }

    #[test]
    fn records_of_old_servers_are_read() {
        let old = record(Txn::CloseSession { paths: None });
        let mut out = Vec::new();
        old.encode(&mut out);
        assert_eq!(TxnRecord::decode(&out).unwrap(), old);

        let mut out = Vec::new();
        record(create(OpCode::Create)).header.encode(&mut out);
        let start = out.len();
        create(OpCode::Create).encode(&mut out);
        out.truncate(out.len() - 4);
        assert!(out.len() > start);
        let Txn::Create(create) = TxnRecord::decode(&out).unwrap().txn else { panic!("not a create") };
        assert_eq!(create.parent_cversion, -1);
    }

    #[test]
    fn multis_do_not_nest() {
        let mut out = Vec::new();
        record(Txn::Multi(vec![Txn::Multi(vec![])])).encode(&mut out);
        assert!(TxnRecord::decode(&out).is_err());
    }
}
