//! What clients ask: every request of the client port, read from a frame and written to one.
//!
//! A decoded request borrows from its frame. Source: `zookeeper.jute` and the `deserialize` calls of
//! `PrepRequestProcessor` and `FinalRequestProcessor`, 3.9.

use std::borrow::Cow;

use crate::acl::AclList;
use crate::codes::OpCode;
use crate::ids::{Xid, Zxid};
use crate::wire::{DecodeError, DecodeErrorKind, Put, Reader};

/// The first eight bytes of every frame after the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// The client's number for the request.
    pub xid: Xid,
    /// The operation's number, which may name none.
    pub op: i32,
}

impl RequestHeader {
    /// Reads the header; what follows it is the body.
    ///
    /// # Errors
    /// Fewer than eight bytes.
    #[inline]
    pub fn decode(r: &mut Reader<'_>) -> Result<RequestHeader, DecodeError> {
        Ok(RequestHeader { xid: Xid(r.int()?), op: r.int()? })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.xid.0);
        out.put_int(self.op);
    }
}

/// The fields of the four ways to make a znode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create<'a> {
    /// `Create`, `Create2`, `CreateContainer` or `CreateTtl`.
    pub op: OpCode,
    /// The path, or its beginning if the name is sequential.
    pub path: Cow<'a, str>,
    /// The data; null is kept.
    pub data: Option<&'a [u8]>,
    /// Who may do what; `None` if the vector was null.
    pub acl: Option<AclList<'a>>,
    /// A [`CreateMode`]'s number.
    pub flags: i32,
    /// Time to live in ms, -1 unless the op is `CreateTtl`.
    pub ttl: i64,
}

/// The kinds of znode that a create can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateMode {
    /// Goes with its session.
    pub ephemeral: bool,
    /// Gets a number at the end of its name.
    pub sequential: bool,
    /// Goes when its last child has gone.
    pub container: bool,
    /// Goes when it has been childless and unchanged for a while.
    pub ttl: bool,
}

impl CreateMode {
    /// The mode that the flags of a create name.
    ///
    /// Source: `CreateMode.fromFlag`.
    #[must_use]
    pub const fn from_flags(flags: i32) -> Option<CreateMode> {
        Some(match flags {
            0 => CreateMode { ephemeral: false, sequential: false, container: false, ttl: false },
            1 => CreateMode { ephemeral: true, sequential: false, container: false, ttl: false },
            2 => CreateMode { ephemeral: false, sequential: true, container: false, ttl: false },
            3 => CreateMode { ephemeral: true, sequential: true, container: false, ttl: false },
            4 => CreateMode { ephemeral: false, sequential: false, container: true, ttl: false },
            5 => CreateMode { ephemeral: false, sequential: false, container: false, ttl: true },
            6 => CreateMode { ephemeral: false, sequential: true, container: false, ttl: true },
            _ => return None,
        })
    }
}

/// The lists of `setWatches` and `setWatches2`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetWatches<'a> {
    /// What the client had seen when it lost its connection.
    pub relative_zxid: Zxid,
    /// One-shot watches set by getData and by exists on a znode that was there.
    pub data: Vec<Cow<'a, str>>,
    /// One-shot watches set by exists on a znode that was not there.
    pub exist: Vec<Cow<'a, str>>,
    /// One-shot watches on children.
    pub child: Vec<Cow<'a, str>>,
    /// Persistent watches; only `setWatches2` has them.
    pub persistent: Vec<Cow<'a, str>>,
    /// Persistent recursive watches; only `setWatches2` has them.
    pub recursive: Vec<Cow<'a, str>>,
}

/// A membership change as a client words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconfig<'a> {
    /// Servers to add or change.
    pub joining: Option<Cow<'a, str>>,
    /// Ids of servers to remove.
    pub leaving: Option<Cow<'a, str>>,
    /// The whole new membership, instead of the two above.
    pub new_members: Option<Cow<'a, str>>,
    /// The version that the change is based on, -1 for any.
    pub from_config: i64,
}

/// A request, borrowed from its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the records in zookeeper.jute")]
pub enum Request<'a> {
    Create(Create<'a>),
    Delete { path: Cow<'a, str>, version: i32 },
    Exists { path: Cow<'a, str>, watch: bool },
    GetData { path: Cow<'a, str>, watch: bool },
    SetData { path: Cow<'a, str>, data: Option<&'a [u8]>, version: i32 },
    GetAcl { path: Cow<'a, str> },
    SetAcl { path: Cow<'a, str>, acl: Option<AclList<'a>>, version: i32 },
    GetChildren { path: Cow<'a, str>, watch: bool },
    GetChildren2 { path: Cow<'a, str>, watch: bool },
    Sync { path: Option<Cow<'a, str>> },
    Ping,
    Check { path: Cow<'a, str>, version: i32 },
    Multi(Vec<Request<'a>>),
    MultiRead(Vec<Request<'a>>),
    Reconfig(Reconfig<'a>),
    CheckWatches { path: Cow<'a, str>, kind: i32 },
    RemoveWatches { path: Cow<'a, str>, kind: i32 },
    DeleteContainer { path: Cow<'a, str> },
    Auth { scheme: Option<Cow<'a, str>>, auth: Option<&'a [u8]> },
    Sasl { token: Option<&'a [u8]> },
    SetWatches(SetWatches<'a>),
    SetWatches2(SetWatches<'a>),
    AddWatch { path: Cow<'a, str>, mode: i32 },
    GetEphemerals { prefix: Option<Cow<'a, str>> },
    GetAllChildrenNumber { path: Cow<'a, str> },
    WhoAmI,
    CreateSession { timeout_ms: i32 },
    CloseSession,
}

impl<'a> Request<'a> {
    /// Reads the body of a request. Bytes after a complete record are ignored, as ZooKeeper does.
    ///
    /// # Errors
    /// The body is no such record. `Notification` and `Error` are no requests.
    #[inline]
    pub fn decode(op: OpCode, r: &mut Reader<'a>) -> Result<Request<'a>, DecodeError> {
        Ok(match op {
            OpCode::GetData => Request::GetData { path: r.string()?, watch: r.boolean()? },
            OpCode::Exists => Request::Exists { path: r.string()?, watch: r.boolean()? },
            OpCode::SetData => Request::SetData { path: r.string()?, data: r.buffer()?, version: r.int()? },
            OpCode::Ping => Request::Ping,
            OpCode::GetChildren => Request::GetChildren { path: r.string()?, watch: r.boolean()? },
            OpCode::GetChildren2 => Request::GetChildren2 { path: r.string()?, watch: r.boolean()? },
            OpCode::Create | OpCode::Create2 | OpCode::CreateContainer | OpCode::CreateTtl => {
                Request::Create(Create::decode(op, r)?)
            }
            OpCode::Delete => Request::Delete { path: r.string()?, version: r.int()? },
            OpCode::Multi => Request::Multi(decode_multi(r, &MULTI_OPS)?),
            OpCode::MultiRead => Request::MultiRead(decode_multi(r, &MULTI_READ_OPS)?),
            _ => return Request::decode_rare(op, r),
        })
    }

    fn decode_rare(op: OpCode, r: &mut Reader<'a>) -> Result<Request<'a>, DecodeError> {
        Ok(match op {
            OpCode::GetAcl => Request::GetAcl { path: r.string()? },
            OpCode::SetAcl => {
                Request::SetAcl { path: r.string()?, acl: AclList::decode(r)?, version: r.int()? }
            }
            OpCode::Sync => Request::Sync { path: r.string_or_null()? },
            OpCode::Check => Request::Check { path: r.string()?, version: r.int()? },
            OpCode::Reconfig => Request::Reconfig(Reconfig {
                joining: r.string_or_null()?,
                leaving: r.string_or_null()?,
                new_members: r.string_or_null()?,
                from_config: r.long()?,
            }),
            OpCode::CheckWatches => Request::CheckWatches { path: r.string()?, kind: r.int()? },
            OpCode::RemoveWatches => Request::RemoveWatches { path: r.string()?, kind: r.int()? },
            OpCode::DeleteContainer => Request::DeleteContainer { path: r.string()? },
            OpCode::Auth => {
                let _kind = r.int()?;
                Request::Auth { scheme: r.string_or_null()?, auth: r.buffer()? }
            }
            OpCode::Sasl => Request::Sasl { token: r.buffer()? },
            OpCode::SetWatches => Request::SetWatches(SetWatches::decode(r, false)?),
            OpCode::SetWatches2 => Request::SetWatches2(SetWatches::decode(r, true)?),
            OpCode::AddWatch => Request::AddWatch { path: r.string()?, mode: r.int()? },
            OpCode::GetEphemerals => Request::GetEphemerals { prefix: r.string_or_null()? },
            OpCode::GetAllChildrenNumber => Request::GetAllChildrenNumber { path: r.string()? },
            OpCode::WhoAmI => Request::WhoAmI,
            OpCode::CreateSession => Request::CreateSession { timeout_ms: r.int()? },
            OpCode::CloseSession => Request::CloseSession,
            _ => {
                return Err(
                    r.error(DecodeErrorKind::Unknown { what: "operation", value: op.number().into() })
                );
            }
        })
    }

    /// The operation that asks this.
    #[must_use]
    pub fn op(&self) -> OpCode {
        match self {
            Request::Create(create) => create.op,
            Request::Delete { .. } => OpCode::Delete,
            Request::Exists { .. } => OpCode::Exists,
            Request::GetData { .. } => OpCode::GetData,
            Request::SetData { .. } => OpCode::SetData,
            Request::GetAcl { .. } => OpCode::GetAcl,
            Request::SetAcl { .. } => OpCode::SetAcl,
            Request::GetChildren { .. } => OpCode::GetChildren,
            Request::GetChildren2 { .. } => OpCode::GetChildren2,
            Request::Sync { .. } => OpCode::Sync,
            Request::Ping => OpCode::Ping,
            Request::Check { .. } => OpCode::Check,
            Request::Multi(_) => OpCode::Multi,
            Request::MultiRead(_) => OpCode::MultiRead,
            Request::Reconfig(_) => OpCode::Reconfig,
            Request::CheckWatches { .. } => OpCode::CheckWatches,
            Request::RemoveWatches { .. } => OpCode::RemoveWatches,
            Request::DeleteContainer { .. } => OpCode::DeleteContainer,
            Request::Auth { .. } => OpCode::Auth,
            Request::Sasl { .. } => OpCode::Sasl,
            Request::SetWatches(_) => OpCode::SetWatches,
            Request::SetWatches2(_) => OpCode::SetWatches2,
            Request::AddWatch { .. } => OpCode::AddWatch,
            Request::GetEphemerals { .. } => OpCode::GetEphemerals,
            Request::GetAllChildrenNumber { .. } => OpCode::GetAllChildrenNumber,
            Request::WhoAmI => OpCode::WhoAmI,
            Request::CreateSession { .. } => OpCode::CreateSession,
            Request::CloseSession => OpCode::CloseSession,
        }
    }

    /// Writes the body of the request, without its header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Create(create) => create.encode(out),
            Request::Delete { path, version } | Request::Check { path, version } => {
                out.put_string(path);
                out.put_int(*version);
            }
            Request::Exists { path, watch }
            | Request::GetData { path, watch }
            | Request::GetChildren { path, watch }
            | Request::GetChildren2 { path, watch } => {
                out.put_string(path);
                out.put_boolean(*watch);
            }
            Request::SetData { path, data, version } => {
                out.put_string(path);
                out.put_buffer(*data);
                out.put_int(*version);
            }
            Request::GetAcl { path }
            | Request::GetAllChildrenNumber { path }
            | Request::DeleteContainer { path } => out.put_string(path),
            Request::SetAcl { path, acl, version } => {
                out.put_string(path);
                AclList::encode_nullable(acl.as_ref(), out);
                out.put_int(*version);
            }
            Request::Sync { path } | Request::GetEphemerals { prefix: path } => {
                put_text(out, path.as_deref())
            }
            Request::Ping | Request::WhoAmI | Request::CloseSession => {}
            Request::Multi(ops) | Request::MultiRead(ops) => {
                for op in ops {
                    MultiHeader::request(op.op()).encode(out);
                    op.encode(out);
                }
                MultiHeader::END.encode(out);
            }
            Request::Reconfig(reconfig) => {
                put_text(out, reconfig.joining.as_deref());
                put_text(out, reconfig.leaving.as_deref());
                put_text(out, reconfig.new_members.as_deref());
                out.put_long(reconfig.from_config);
            }
            Request::CheckWatches { path, kind: number }
            | Request::RemoveWatches { path, kind: number }
            | Request::AddWatch { path, mode: number } => {
                out.put_string(path);
                out.put_int(*number);
            }
            Request::Auth { scheme, auth } => {
                out.put_int(0);
                put_text(out, scheme.as_deref());
                out.put_buffer(*auth);
            }
            Request::Sasl { token } => out.put_buffer(*token),
            Request::SetWatches(watches) => watches.encode(out, false),
            Request::SetWatches2(watches) => watches.encode(out, true),
            Request::CreateSession { timeout_ms } => out.put_int(*timeout_ms),
        }
    }
}

impl<'a> Create<'a> {
    #[inline]
    fn decode(op: OpCode, r: &mut Reader<'a>) -> Result<Create<'a>, DecodeError> {
        Ok(Create {
            op,
            path: r.string()?,
            data: r.buffer()?,
            acl: AclList::decode(r)?,
            flags: r.int()?,
            ttl: if op == OpCode::CreateTtl { r.long()? } else { -1 },
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_buffer(self.data);
        AclList::encode_nullable(self.acl.as_ref(), out);
        out.put_int(self.flags);
        if self.op == OpCode::CreateTtl {
            out.put_long(self.ttl);
        }
    }
}

impl<'a> SetWatches<'a> {
    fn decode(r: &mut Reader<'a>, second: bool) -> Result<SetWatches<'a>, DecodeError> {
        Ok(SetWatches {
            relative_zxid: Zxid(r.long()?),
            data: strings(r)?,
            exist: strings(r)?,
            child: strings(r)?,
            persistent: if second { strings(r)? } else { Vec::new() },
            recursive: if second { strings(r)? } else { Vec::new() },
        })
    }

    fn encode(&self, out: &mut Vec<u8>, second: bool) {
        out.put_long(self.relative_zxid.0);
        let lists = [&self.data, &self.exist, &self.child, &self.persistent, &self.recursive];
        for list in lists.into_iter().take(if second { 5 } else { 3 }) {
            out.put_length(list.len());
            for path in list {
                out.put_string(path);
            }
        }
    }
}

/// A vector of strings; null vectors and null strings are refused, as Java trips over them.
fn strings<'a>(r: &mut Reader<'a>) -> Result<Vec<Cow<'a, str>>, DecodeError> {
    let Some(count) = r.count(4)? else { return Err(r.error(DecodeErrorKind::Null)) };
    (0..count).map(|_| r.string()).collect()
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    out.put_buffer(text.map(str::as_bytes));
}

/// What precedes each operation and result in a multi. 9 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MultiHeader {
    /// Number of an operation, -1 for an error and for the end.
    pub op: i32,
    /// Whether this is the end.
    pub done: bool,
    /// A result's error; -1 in requests and at the end.
    pub err: i32,
}

impl MultiHeader {
    /// Ends every multi, in both directions.
    pub const END: MultiHeader = MultiHeader { op: -1, done: true, err: -1 };

    /// The header before an operation in a request.
    #[must_use]
    pub const fn request(op: OpCode) -> MultiHeader {
        MultiHeader { op: op.number(), done: false, err: -1 }
    }

    /// Reads the header.
    ///
    /// # Errors
    /// The bytes end.
    pub fn decode(r: &mut Reader<'_>) -> Result<MultiHeader, DecodeError> {
        Ok(MultiHeader { op: r.int()?, done: r.boolean()?, err: r.int()? })
    }

    /// Writes the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.op);
        out.put_boolean(self.done);
        out.put_int(self.err);
    }
}

const MULTI_OPS: [OpCode; 7] = [
    OpCode::Create,
    OpCode::Create2,
    OpCode::CreateContainer,
    OpCode::CreateTtl,
    OpCode::Delete,
    OpCode::SetData,
    OpCode::Check,
];
const MULTI_READ_OPS: [OpCode; 2] = [OpCode::GetData, OpCode::GetChildren];

/// Reads the operations of a multi. Write and read kinds share a codec in ZooKeeper: a list of the other
/// kind decodes, and is refused by whoever executes it; mixing the two is malformed.
fn decode_multi<'a>(r: &mut Reader<'a>, own: &[OpCode]) -> Result<Vec<Request<'a>>, DecodeError> {
    let mut ops: Vec<Request<'a>> = Vec::new();
    loop {
        let header = MultiHeader::decode(r)?;
        if header.done {
            return Ok(ops);
        }
        let unknown = DecodeErrorKind::Unknown { what: "operation in a multi", value: header.op.into() };
        let Some(op) = OpCode::from_number(header.op) else { return Err(r.error(unknown)) };
        if !MULTI_OPS.contains(&op) && !MULTI_READ_OPS.contains(&op) {
            return Err(r.error(unknown));
        }
        let is_first = ops.is_empty();
        let first_is_own = ops.first().is_none_or(|first| own.contains(&first.op()));
        if !is_first && first_is_own != own.contains(&op) {
            return Err(r.error(unknown));
        }
        ops.push(Request::decode(op, r)?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(request: &Request<'_>) {
        let mut out = Vec::new();
        request.encode(&mut out);
        let again = Request::decode(request.op(), &mut Reader::new(&out)).unwrap();
        assert_eq!(&again, request);
        for cut in 0..out.len() {
            // No prefix may panic; most are errors.
            let _ = Request::decode(request.op(), &mut Reader::new(&out[..cut]));
        }
    }

    fn create(op: OpCode, ttl: i64) -> Request<'static> {
        Request::Create(Create {
            op,
            path: "/a".into(),
            data: Some(b"x"),
            acl: Some(AclList::OPEN),
            flags: 0,
            ttl,
        })
    }

    #[test]
    fn every_request_round_trips() {
        let path = || Cow::Borrowed("/a");
        let lists = SetWatches {
            relative_zxid: Zxid(7),
            data: vec![path()],
            exist: vec![],
            child: vec![path(), path()],
            ..SetWatches::default()
        };
        for request in [
            create(OpCode::Create, -1),
            create(OpCode::Create2, -1),
            create(OpCode::CreateContainer, -1),
            create(OpCode::CreateTtl, 99),
            Request::Delete { path: path(), version: -1 },
            Request::Exists { path: path(), watch: true },
            Request::GetData { path: path(), watch: false },
            Request::SetData { path: path(), data: None, version: 3 },
            Request::GetAcl { path: path() },
            Request::SetAcl { path: path(), acl: None, version: 0 },
            Request::GetChildren { path: path(), watch: true },
            Request::GetChildren2 { path: path(), watch: false },
            Request::Sync { path: None },
            Request::Ping,
            Request::Check { path: path(), version: 2 },
            Request::Multi(vec![create(OpCode::Create2, -1), Request::Check { path: path(), version: 1 }]),
            Request::Multi(vec![]),
            Request::MultiRead(vec![Request::GetData { path: path(), watch: false }]),
            Request::Reconfig(Reconfig {
                joining: None,
                leaving: Some("3".into()),
                new_members: None,
                from_config: -1,
            }),
            Request::CheckWatches { path: path(), kind: 1 },
            Request::RemoveWatches { path: path(), kind: 5 },
            Request::DeleteContainer { path: path() },
            Request::Auth { scheme: Some("digest".into()), auth: Some(b"u:p") },
            Request::Sasl { token: None },
            Request::SetWatches(lists.clone()),
            Request::SetWatches2(SetWatches { persistent: vec![path()], ..lists }),
            Request::AddWatch { path: path(), mode: 1 },
            Request::GetEphemerals { prefix: None },
            Request::GetAllChildrenNumber { path: path() },
            Request::WhoAmI,
            Request::CreateSession { timeout_ms: 5 },
            Request::CloseSession,
        ] {
            round_trip(&request);
        }
    }

    #[test]
    fn multis_do_not_mix_and_do_not_nest() {
        let read = || Request::GetData { path: "/a".into(), watch: false };
        let write = || Request::Delete { path: "/a".into(), version: 0 };
        for (ops, good) in [
            (vec![read(), write()], false),
            (vec![write(), read()], false),
            (vec![Request::Multi(vec![])], false),
            (vec![Request::Exists { path: "/a".into(), watch: false }], false),
            (vec![read(), read()], true),
        ] {
            let mut out = Vec::new();
            Request::Multi(ops).encode(&mut out);
            assert_eq!(Request::decode(OpCode::Multi, &mut Reader::new(&out)).is_ok(), good);
        }
    }

    #[test]
    fn null_paths_and_null_watch_lists_are_malformed() {
        let null = [0xff; 13];
        assert!(Request::decode(OpCode::GetData, &mut Reader::new(&null)).is_err());
        let mut out = vec![0; 8];
        out.extend([0xff; 12]);
        assert!(Request::decode(OpCode::SetWatches, &mut Reader::new(&out)).is_err());
    }
}
