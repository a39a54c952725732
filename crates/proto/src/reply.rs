//! What servers answer: reply headers and bodies, multi results and watch events.
//!
//! Source: `zookeeper.jute`, `MultiResponse`, 3.9.

use std::borrow::Cow;
use std::sync::Arc;

use crate::acl::AclList;
use crate::codes::{ErrorCode, EventType, OpCode, STATE_SYNC_CONNECTED};
use crate::ids::{Xid, Zxid};
use crate::request::MultiHeader;
use crate::stat::Stat;
use crate::wire::{DecodeError, DecodeErrorKind, Put, Reader};

/// The first 16 bytes of every frame after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The request's number; -1 for an event.
    pub xid: Xid,
    /// The newest transaction the server had applied.
    pub zxid: Zxid,
    /// The result; unless it is OK there is no body (but for a failed multi-read).
    pub err: ErrorCode,
}

impl ReplyHeader {
    /// Encoded size.
    pub const SIZE: usize = 16;

    /// Reads the header.
    ///
    /// # Errors
    /// The bytes end.
    pub fn decode(r: &mut Reader<'_>) -> Result<ReplyHeader, DecodeError> {
        Ok(ReplyHeader { xid: Xid(r.int()?), zxid: Zxid(r.long()?), err: ErrorCode(r.int()?) })
    }

    /// Writes the header.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; ReplyHeader::SIZE];
        b[0..4].copy_from_slice(&self.xid.0.to_be_bytes());
        b[4..12].copy_from_slice(&self.zxid.0.to_be_bytes());
        b[12..16].copy_from_slice(&self.err.0.to_be_bytes());
        out.put_raw(&b);
    }
}

/// The body of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// No body: delete, ping, auth, set, check and remove watches, close.
    Empty,
    /// create: the final path. sync: the path as sent.
    Path(Option<Cow<'a, str>>),
    /// create2, createContainer, createTTL.
    PathStat(Cow<'a, str>, Stat),
    /// exists, setData, setACL.
    Stat(Stat),
    /// getData, reconfig.
    Data(Option<&'a [u8]>, Stat),
    /// getChildren, getEphemerals.
    Names(Names<'a>),
    /// getChildren2.
    NamesStat(Names<'a>, Stat),
    /// getACL.
    Acl(AclList<'a>, Stat),
    /// getAllChildrenNumber.
    Count(i32),
    /// addWatch: an `ErrorResponse`.
    Code(ErrorCode),
    /// sasl.
    Token(Option<&'a [u8]>),
    /// whoAmI: scheme and user of each identity.
    Identities(Vec<(Cow<'a, str>, Cow<'a, str>)>),
    /// multi and multiRead.
    Multi(Vec<OpResult<'a>>),
}

/// A vector of strings: names or paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names<'a> {
    /// One by one: what decoding gives.
    List(Vec<Cow<'a, str>>),
    /// Encoded already, each with its length: how a server keeps them where they are very many.
    Encoded {
        /// How many there are.
        count: usize,
        /// Their bytes, in parts that do not cut through a name.
        parts: Vec<Arc<Vec<u8>>>,
    },
}

impl<'a> Names<'a> {
    /// Writes the vector.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Names::List(names) => {
                out.put_length(names.len());
                for name in names {
                    out.put_string(name);
                }
            }
            Names::Encoded { count, parts } => {
                out.put_length(*count);
                for part in parts {
                    out.put_raw(part);
                }
            }
        }
    }

    fn decode(r: &mut Reader<'a>) -> Result<Names<'a>, DecodeError> {
        let count = r.count(4)?.unwrap_or(0);
        Ok(Names::List((0..count).map(|_| r.string()).collect::<Result<_, DecodeError>>()?))
    }
}

/// The result of one operation of a multi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult<'a> {
    /// create.
    Create(Cow<'a, str>),
    /// create2 and the container and TTL kinds.
    Create2(Cow<'a, str>, Stat),
    /// delete.
    Delete,
    /// setData.
    SetData(Stat),
    /// check.
    Check,
    /// getData in a multi-read.
    Data(Option<&'a [u8]>, Stat),
    /// getChildren in a multi-read.
    Names(Names<'a>),
    /// It failed, or another one did.
    Error(ErrorCode),
}

impl<'a> Reply<'a> {
    /// Writes the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Empty => {}
            Reply::Path(path) => out.put_buffer(path.as_deref().map(str::as_bytes)),
            Reply::PathStat(path, stat) => {
                out.put_string(path);
                stat.encode(out);
            }
            Reply::Stat(stat) => stat.encode(out),
            Reply::Data(data, stat) => {
                out.put_buffer(*data);
                stat.encode(out);
            }
            Reply::Names(names) => names.encode(out),
            Reply::NamesStat(names, stat) => {
                names.encode(out);
                stat.encode(out);
            }
            Reply::Acl(acl, stat) => {
                acl.encode(out);
                stat.encode(out);
            }
            Reply::Count(count) => out.put_int(*count),
            Reply::Code(code) => out.put_int(code.0),
            Reply::Token(token) => out.put_buffer(*token),
            Reply::Identities(identities) => {
                out.put_length(identities.len());
                for (scheme, user) in identities {
                    out.put_string(scheme);
                    out.put_string(user);
                }
            }
            Reply::Multi(results) => {
                for result in results {
                    result.encode(out);
                }
                MultiHeader::END.encode(out);
            }
        }
    }

    /// Reads the body of a reply to `op`.
    ///
    /// # Errors
    /// The bytes are no such body.
    pub fn decode(op: OpCode, r: &mut Reader<'a>) -> Result<Reply<'a>, DecodeError> {
        Ok(match op {
            OpCode::Create | OpCode::Sync => Reply::Path(r.string_or_null()?),
            OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Reply::PathStat(r.string()?, Stat::decode(r)?)
            }
            OpCode::Exists | OpCode::SetData | OpCode::SetAcl => Reply::Stat(Stat::decode(r)?),
            OpCode::GetData | OpCode::Reconfig => Reply::Data(r.buffer()?, Stat::decode(r)?),
            OpCode::GetChildren | OpCode::GetEphemerals => Reply::Names(Names::decode(r)?),
            OpCode::GetChildren2 => Reply::NamesStat(Names::decode(r)?, Stat::decode(r)?),
            OpCode::GetAcl => {
                let acl = AclList::decode(r)?.ok_or_else(|| r.error(DecodeErrorKind::Null))?;
                Reply::Acl(acl, Stat::decode(r)?)
            }
            OpCode::GetAllChildrenNumber => Reply::Count(r.int()?),
            OpCode::AddWatch => Reply::Code(ErrorCode(r.int()?)),
            OpCode::Sasl => Reply::Token(r.buffer()?),
            OpCode::WhoAmI => {
                let count = r.count(8)?.unwrap_or(0);
                let pairs = (0..count).map(|_| Ok((r.string()?, r.string()?)));
                Reply::Identities(pairs.collect::<Result<_, DecodeError>>()?)
            }
            OpCode::Multi | OpCode::MultiRead => {
                let mut results = Vec::new();
                while let Some(result) = OpResult::decode(r)? {
                    results.push(result);
                }
                Reply::Multi(results)
            }
            _ => Reply::Empty,
        })
    }
}

impl<'a> OpResult<'a> {
    /// The number that says what kind of result follows.
    fn header(&self) -> MultiHeader {
        let (op, err) = match self {
            OpResult::Create(_) => (OpCode::Create, 0),
            OpResult::Create2(..) => (OpCode::Create2, 0),
            OpResult::Delete => (OpCode::Delete, 0),
            OpResult::SetData(_) => (OpCode::SetData, 0),
            OpResult::Check => (OpCode::Check, 0),
            OpResult::Data(..) => (OpCode::GetData, 0),
            OpResult::Names(_) => (OpCode::GetChildren, 0),
            OpResult::Error(code) => (OpCode::Error, code.0),
        };
        MultiHeader { op: op.number(), done: false, err }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.header().encode(out);
        match self {
            OpResult::Create(path) => out.put_string(path),
            OpResult::Create2(path, stat) => {
                out.put_string(path);
                stat.encode(out);
            }
            OpResult::Delete | OpResult::Check => {}
            OpResult::SetData(stat) => stat.encode(out),
            OpResult::Data(data, stat) => {
                out.put_buffer(*data);
                stat.encode(out);
            }
            OpResult::Names(names) => names.encode(out),
            OpResult::Error(code) => out.put_int(code.0),
        }
    }

    fn decode(r: &mut Reader<'a>) -> Result<Option<OpResult<'a>>, DecodeError> {
        let header = MultiHeader::decode(r)?;
        if header.done {
            return Ok(None);
        }
        Ok(Some(match OpCode::from_number(header.op) {
            Some(OpCode::Create) => OpResult::Create(r.string()?),
            Some(OpCode::Create2) => OpResult::Create2(r.string()?, Stat::decode(r)?),
            Some(OpCode::Delete) => OpResult::Delete,
            Some(OpCode::SetData) => OpResult::SetData(Stat::decode(r)?),
            Some(OpCode::Check) => OpResult::Check,
            Some(OpCode::GetData) => OpResult::Data(r.buffer()?, Stat::decode(r)?),
            Some(OpCode::GetChildren) => OpResult::Names(Names::decode(r)?),
            Some(OpCode::Error) => OpResult::Error(ErrorCode(r.int()?)),
            _ => {
                let value = header.op.into();
                return Err(r.error(DecodeErrorKind::Unknown { what: "result in a multi", value }));
            }
        }))
    }
}

/// A notice that something a client watches has changed. The state is always "connected".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatcherEvent<'a> {
    /// What happened.
    pub kind: EventType,
    /// To which znode.
    pub path: Cow<'a, str>,
}

impl<'a> WatcherEvent<'a> {
    /// Writes the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.kind.number());
        out.put_int(STATE_SYNC_CONNECTED);
        out.put_string(&self.path);
    }

    /// Reads the record.
    ///
    /// # Errors
    /// The bytes are no event, or of an unknown kind.
    pub fn decode(r: &mut Reader<'a>) -> Result<WatcherEvent<'a>, DecodeError> {
        let number = r.int()?;
        let _state = r.int()?;
        let path = r.string()?;
        match EventType::from_number(number) {
            Some(kind) => Ok(WatcherEvent { kind, path }),
            None => Err(r.error(DecodeErrorKind::Unknown { what: "event type", value: number.into() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_round_trips() {
        let stat = Stat { czxid: Zxid(3), num_children: 2, ..Stat::default() };
        let name = || Cow::Borrowed("n");
        for (op, reply) in [
            (OpCode::Delete, Reply::Empty),
            (OpCode::Create, Reply::Path(Some("/a".into()))),
            (OpCode::Sync, Reply::Path(None)),
            (OpCode::Create2, Reply::PathStat("/a".into(), stat)),
            (OpCode::Exists, Reply::Stat(stat)),
            (OpCode::GetData, Reply::Data(None, stat)),
            (OpCode::GetChildren, Reply::Names(Names::List(vec![name(), name()]))),
            (OpCode::GetChildren2, Reply::NamesStat(Names::List(vec![]), stat)),
            (OpCode::GetAcl, Reply::Acl(AclList::OPEN, stat)),
            (OpCode::GetAllChildrenNumber, Reply::Count(9)),
            (OpCode::AddWatch, Reply::Code(ErrorCode::OK)),
            (OpCode::Sasl, Reply::Token(Some(b"t"))),
            (OpCode::WhoAmI, Reply::Identities(vec![("ip".into(), "::1".into())])),
            (
                OpCode::Multi,
                Reply::Multi(vec![
                    OpResult::Create("/a".into()),
                    OpResult::Create2("/a".into(), stat),
                    OpResult::Delete,
                    OpResult::SetData(stat),
                    OpResult::Check,
                    OpResult::Error(ErrorCode::NONODE),
                ]),
            ),
            (
                OpCode::MultiRead,
                Reply::Multi(vec![
                    OpResult::Data(Some(b"x"), stat),
                    OpResult::Names(Names::List(vec![name()])),
                ]),
            ),
        ] {
            let mut out = Vec::new();
            reply.encode(&mut out);
            assert_eq!(Reply::decode(op, &mut Reader::new(&out)).unwrap(), reply, "{op:?}");
        }
        let part = |bytes: &[u8]| Arc::new(bytes.to_vec());
        let (mut one_by_one, mut in_parts) = (Vec::new(), Vec::new());
        Names::List(vec!["a".into(), "bc".into()]).encode(&mut one_by_one);
        Names::Encoded { count: 2, parts: vec![part(b"\0\0\0\x01a"), part(b"\0\0\0\x02bc")] }
            .encode(&mut in_parts);
        assert_eq!(one_by_one, in_parts);
        let mut out = Vec::new();
        let event = WatcherEvent { kind: EventType::NodeDeleted, path: "/x".into() };
        event.encode(&mut out);
        assert_eq!(WatcherEvent::decode(&mut Reader::new(&out)).unwrap(), event);
    }
}
