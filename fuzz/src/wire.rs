//! What travels on the client port, in both directions.

use arbitrary::{Arbitrary, Unstructured};
use oxkeeper_proto::frame::{self, Unfinished};
use oxkeeper_proto::{
    Acl, AclList, ConnectRequest, ConnectResponse, Create, OpCode, Reader, Reply, ReplyHeader, Request,
    RequestHeader, WatcherEvent, Xid,
};

use crate::bounds::within;

/// The operation that a byte names: all there are, and numbers that name none.
fn op(byte: u8) -> OpCode {
    OpCode::ALL[usize::from(byte) % OpCode::ALL.len()]
}

/// The body of any request: the first byte is the operation.
pub fn requests(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let op = op(*first);
    let _ = RequestHeader::decode(&mut Reader::new(body));
    round_trip!(body, |bytes| Request::decode(op, &mut Reader::new(bytes)));
    let _ = within(body.len(), 0, || Request::decode(op, &mut Reader::new(body).with_nulls_as_empty()));
}

/// What a server, perhaps a hostile one, sends to a client: header and body, or an event.
pub fn replies(bytes: &[u8]) {
    let Some((first, frame)) = bytes.split_first() else { return };
    let op = op(*first);
    let mut reader = Reader::new(frame);
    let Ok(header) = ReplyHeader::decode(&mut reader) else { return };
    let mut again = Vec::new();
    header.encode(&mut again);
    assert_eq!(again, frame[..ReplyHeader::SIZE]);
    let body = reader.rest();
    if header.xid == Xid::EVENT {
        round_trip!(body, |bytes| WatcherEvent::decode(&mut Reader::new(bytes)));
    } else {
        round_trip!(body, |bytes| Reply::decode(op, &mut Reader::new(bytes)));
    }
}

/// The first frames of a connection, and the packets of authentication.
pub fn sessions(bytes: &[u8]) {
    let Some((first, frame)) = bytes.split_first() else { return };
    match first % 4 {
        0 => round_trip!(frame, |bytes| ConnectRequest::decode(bytes)),
        1 => round_trip!(frame, |bytes| ConnectResponse::decode(bytes)),
        kind => {
            let op = if kind == 2 { OpCode::Auth } else { OpCode::Sasl };
            let number = OpCode::ALL.iter().position(|known| *known == op).unwrap_or_default();
            requests(&[&[number as u8], frame].concat());
            replies(&[&[number as u8], frame].concat());
        }
    }
}

#[derive(Debug, Arbitrary)]
enum Part<'a> {
    Create {
        kind: u8,
        path: &'a str,
        data: Option<&'a [u8]>,
        acl: Option<Vec<(i32, &'a str, &'a str)>>,
        flags: i32,
        ttl: i64,
    },
    Delete(&'a str, i32),
    SetData(&'a str, Option<&'a [u8]>, i32),
    Check(&'a str, i32),
    GetData(&'a str, bool),
    GetChildren(&'a str, bool),
}

impl<'a> Part<'a> {
    fn is_read(&self) -> bool {
        matches!(self, Part::GetData(..) | Part::GetChildren(..))
    }

    fn request(&self) -> Request<'a> {
        match *self {
            Part::Create { kind, path, data, ref acl, flags, ttl } => {
                let kinds = [OpCode::Create, OpCode::Create2, OpCode::CreateContainer, OpCode::CreateTtl];
                let op = kinds[usize::from(kind) % kinds.len()];
                let entries: Option<Vec<Acl<'_>>> = acl
                    .as_ref()
                    .map(|acl| acl.iter().map(|(perms, scheme, id)| Acl::new(*perms, scheme, id)).collect());
                let acl = entries.map(|entries| AclList::from_entries(entries.iter()));
                let ttl = if op == OpCode::CreateTtl { ttl } else { -1 };
                Request::Create(Create { op, path: path.into(), data, acl, flags, ttl })
            }
            Part::Delete(path, version) => Request::Delete { path: path.into(), version },
            Part::SetData(path, data, version) => Request::SetData { path: path.into(), data, version },
            Part::Check(path, version) => Request::Check { path: path.into(), version },
            Part::GetData(path, watch) => Request::GetData { path: path.into(), watch },
            Part::GetChildren(path, watch) => Request::GetChildren { path: path.into(), watch },
        }
    }
}

/// Multis of well-formed operations: they decode exactly if they do not mix reads with writes, to what went in.
pub fn multis(bytes: &[u8]) {
    let mut random = Unstructured::new(bytes);
    let Ok(parts) = Vec::<Part<'_>>::arbitrary(&mut random) else { return };
    let Ok(damage) = Option::<(u16, u8)>::arbitrary(&mut random) else { return };
    let reads = parts.iter().filter(|part| part.is_read()).count();
    let mixed = reads > 0 && reads < parts.len();
    let ops: Vec<Request<'_>> = parts.iter().map(Part::request).collect();
    let op = if reads > 0 { OpCode::MultiRead } else { OpCode::Multi };
    let request = if reads > 0 { Request::MultiRead(ops) } else { Request::Multi(ops) };
    let mut out = Vec::new();
    request.encode(&mut out);
    let decoded = within(out.len(), 0, || Request::decode(op, &mut Reader::new(&out)));
    match decoded {
        Ok(again) => assert!(!mixed && again == request, "{again:?} came of {request:?}"),
        Err(error) => assert!(mixed, "{error}: {request:?}"),
    }
    // And what is nearly one.
    if let Some((at, flip)) = damage
        && !out.is_empty()
    {
        let at = usize::from(at) % out.len();
        out[at] ^= flip;
        let number = OpCode::ALL.iter().position(|known| *known == op).unwrap_or_default();
        requests(&[&[number as u8], &out[..]].concat());
    }
}

/// A stream of frames, cut up in any way, gives the frames that it gives in one piece.
pub fn frames(bytes: &[u8]) {
    const MOST: usize = 300;
    let Some((cuts, stream)) = bytes.split_first_chunk::<8>() else { return };
    let cut_up = |lengths: &[u8]| {
        let mut unfinished = Unfinished::default();
        let (mut got, mut bad, mut rest) = (Vec::new(), None, stream);
        let mut lengths = lengths.iter().cycle();
        while !rest.is_empty() && bad.is_none() {
            let len = lengths.next().map_or(rest.len(), |len| usize::from(*len).max(1)).min(rest.len());
            let (piece, behind) = rest.split_at(len);
            rest = behind;
            unfinished.add(
                piece,
                |kept| matches!(frame::first(kept, MOST), Ok(None)),
                |bytes| {
                    let mut used = 0;
                    loop {
                        match frame::first(&bytes[used..], MOST) {
                            Ok(Some(frame)) => {
                                got.push(frame.to_vec());
                                used += frame::PREFIX + frame.len();
                            }
                            Ok(None) => return used,
                            Err(error) => {
                                bad = Some(error.kind);
                                return used;
                            }
                        }
                    }
                },
            );
            assert!(bad.is_some() || unfinished.len() < frame::PREFIX + MOST, "more than a frame is kept");
        }
        (got, bad)
    };
    let whole = within(stream.len(), 0, || cut_up(&[]));
    assert_eq!(within(stream.len(), 0, || cut_up(cuts)), whole);
    assert_eq!(cut_up(&[1]), whole);
    assert!(whole.0.iter().map(|frame| frame.len() + frame::PREFIX).sum::<usize>() <= stream.len());
}
