//! The snapshot that follows a SNAP on the stream: sessions, access control lists, znodes and a signature,
//! without the header, checksum and seals of a file.
//!
//! Source: `LearnerHandler.run`, `Learner.syncWithLeader`, `SerializeUtils`, `DataTree.serialize`, 3.9.

use bytes::{Bytes, BytesMut};

use super::stream::{List, int, length, long};
use crate::ids::SessionId;
use crate::wire::{DecodeError, DecodeErrorKind};

/// What ends the stream, as a string behind its length; the end mark of the znodes stands before it.
pub const SIGNATURE: &str = "BenWasHere";

/// Bytes of a stored stat.
const STAT: usize = 60;
/// Bytes of a session: id and timeout.
const SESSION: usize = 12;
/// Bytes of a permission before the two strings of an identity.
const PERMS: usize = 4;

/// One record of the snapshot, in the order in which a tree can be built from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotItem {
    /// An open session.
    Session {
        /// Its id.
        id: SessionId,
        /// Its timeout.
        timeout_ms: i32,
    },
    /// An access control list.
    Acl {
        /// Its number.
        id: i64,
        /// The list with its count, as in a request.
        list: Bytes,
    },
    /// A znode; its parent came before it.
    Node {
        /// Its path in UTF-8, empty for the root.
        path: Bytes,
        /// Its data.
        data: Option<Bytes>,
        /// The number of its list; -1 for "everybody may do everything".
        acl: i64,
        /// The 60 bytes of its stat.
        stat: Bytes,
    },
    /// Everything came, and the signature was right.
    End,
}

/// Where in a snapshot the stream is.
#[derive(Debug)]
pub(super) struct SnapshotScan {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    SessionCount,
    Sessions(i32),
    AclCount,
    Acls(i32),
    /// In a list: those that are left counting this one, and how far it was passed over.
    Acl(i32, List),
    Nodes,
    Signature,
}

impl SnapshotScan {
    pub(super) fn new() -> SnapshotScan {
        SnapshotScan { stage: Stage::SessionCount }
    }

    /// The next record at the front of `buf`, taken out of it; `None` until all of it is there.
    pub(super) fn next_item(
        &mut self,
        buf: &mut BytesMut,
        field_bytes_max: usize,
    ) -> Result<Option<SnapshotItem>, DecodeError> {
        loop {
            self.stage = match &mut self.stage {
                Stage::SessionCount => match take_int(buf) {
                    Some(count) => Stage::Sessions(count),
                    None => return Ok(None),
                },
                Stage::Sessions(left) if *left > 0 => {
                    let (Some(id), Some(timeout_ms)) = (long(buf, 0), int(buf, 8)) else { return Ok(None) };
                    *left -= 1;
                    drop(buf.split_to(SESSION));
                    return Ok(Some(SnapshotItem::Session { id: SessionId(id), timeout_ms }));
                }
                Stage::Sessions(_) => Stage::AclCount,
                Stage::AclCount => match take_int(buf) {
                    Some(count) => Stage::Acls(count),
                    None => return Ok(None),
                },
                Stage::Acls(left) if *left > 0 => {
                    match List::open(buf, 8, PERMS, field_bytes_max)? {
                        // Unlike in a request, a null list has no meaning here.
                        Some(_) if int(buf, 8) == Some(-1) => return Err(null(8)),
                        Some(list) => Stage::Acl(*left, list),
                        None => return Ok(None),
                    }
                }
                Stage::Acls(_) => Stage::Nodes,
                Stage::Acl(left, list) => {
                    let (Some(end), Some(id)) = (list.end(buf, field_bytes_max)?, long(buf, 0)) else {
                        return Ok(None);
                    };
                    self.stage = Stage::Acls(*left - 1);
                    let list = buf.split_to(end).freeze().slice(8..);
                    return Ok(Some(SnapshotItem::Acl { id, list }));
                }
                Stage::Nodes => match take_node(buf, field_bytes_max)? {
                    Some(Node::End) => Stage::Signature,
                    Some(Node::Record(item)) => return Ok(Some(item)),
                    None => return Ok(None),
                },
                Stage::Signature => return take_signature(buf),
            }
        }
    }
}

fn null(offset: usize) -> DecodeError {
    DecodeError { kind: DecodeErrorKind::Null, offset }
}

fn take_int(buf: &mut BytesMut) -> Option<i32> {
    let value = int(buf, 0)?;
    drop(buf.split_to(4));
    Some(value)
}

enum Node {
    Record(SnapshotItem),
    End,
}

fn take_node(buf: &mut BytesMut, field_bytes_max: usize) -> Result<Option<Node>, DecodeError> {
    let Some(path) = length(buf, 0, field_bytes_max)? else { return Ok(None) };
    let path_end = 4 + path.ok_or_else(|| null(0))?;
    if path_end == 5 && buf.get(4) == Some(&b'/') {
        drop(buf.split_to(path_end));
        return Ok(Some(Node::End));
    }
    let Some(data) = length(buf, path_end, field_bytes_max)? else { return Ok(None) };
    let data_end = path_end + 4 + data.unwrap_or(0);
    let end = data_end + 8 + STAT;
    let Some(acl) = long(buf, data_end).filter(|_| buf.len() >= end) else { return Ok(None) };
    let record = buf.split_to(end).freeze();
    Ok(Some(Node::Record(SnapshotItem::Node {
        path: record.slice(4..path_end),
        data: data.map(|_| record.slice(path_end + 4..data_end)),
        acl,
        stat: record.slice(data_end + 8..),
    })))
}

fn take_signature(buf: &mut BytesMut) -> Result<Option<SnapshotItem>, DecodeError> {
    // The length is checked first: what follows a wrong one may never come.
    let Some(len) = length(buf, 0, SIGNATURE.len())? else { return Ok(None) };
    if len != Some(SIGNATURE.len()) {
        return Err(wrong_signature(len.unwrap_or(0)));
    }
    let end = 4 + SIGNATURE.len();
    match buf.get(4..end) {
        None => Ok(None),
        Some(found) if found == SIGNATURE.as_bytes() => {
            drop(buf.split_to(end));
            Ok(Some(SnapshotItem::End))
        }
        Some(found) => Err(wrong_signature(found.len())),
    }
}

fn wrong_signature(len: usize) -> DecodeError {
    let value = i64::try_from(len).unwrap_or(i64::MAX);
    DecodeError { kind: DecodeErrorKind::Unknown { what: "snapshot signature of length", value }, offset: 4 }
}
