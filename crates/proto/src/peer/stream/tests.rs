use proptest::prelude::*;

use super::super::snapshot::SIGNATURE;
use super::super::tests::{id, packet, unhex};
use super::*;
use crate::ids::{SessionId, Xid, Zxid};
use crate::peer::ForwardedRequest;
use crate::wire::Put;

const LIMIT: usize = 1000;

fn snap() -> PeerPacket {
    PeerPacket::Snap { zxid: Zxid::new(1, 5) }
}

/// A snapshot as a leader writes it, and its records.
fn snapshot() -> (Vec<u8>, Vec<SnapshotItem>) {
    let mut out = Vec::new();
    out.put_int(2);
    for id in [1, 2] {
        out.put_long(id);
        out.put_int(4000);
    }
    out.put_int(1);
    out.put_long(1);
    let list_at = out.len();
    out.put_int(1);
    out.put_int(0x1f);
    out.put_string("world");
    out.put_string("anyone");
    let list = Bytes::copy_from_slice(&out[list_at..]);
    for (path, data) in [("", Some(&b""[..])), ("/a", None), ("/a/b", Some(b"xyz"))] {
        out.put_string(path);
        out.put_buffer(data);
        out.put_long(-1);
        out.put_raw(&[7; 60]);
    }
    out.put_string("/");
    out.put_string(SIGNATURE);
    let node = |path: &'static str, data: Option<&'static str>| SnapshotItem::Node {
        path: path.into(),
        data: data.map(Bytes::from),
        acl: -1,
        stat: Bytes::from_static(&[7; 60]),
    };
    let items = vec![
        SnapshotItem::Session { id: SessionId(1), timeout_ms: 4000 },
        SnapshotItem::Session { id: SessionId(2), timeout_ms: 4000 },
        SnapshotItem::Acl { id: 1, list },
        node("", Some("")),
        node("/a", None),
        node("/a/b", Some("xyz")),
        SnapshotItem::End,
    ];
    (out, items)
}

fn drain(stream: &mut PeerStream, items: &mut Vec<PeerItem>) -> Result<(), DecodeError> {
    while let Some(item) = stream.next_item()? {
        items.push(item);
    }
    Ok(())
}

fn fed(stream: &mut PeerStream, bytes: &[u8]) -> Result<Vec<PeerItem>, DecodeError> {
    let mut items = Vec::new();
    stream.push(bytes);
    drain(stream, &mut items)?;
    Ok(items)
}

#[test]
fn a_snapshot_follows_its_packet_and_packets_follow_the_snapshot() {
    let (snapshot, records) = snapshot();
    let mut bytes = snap().to_vec();
    bytes.extend(snapshot);
    bytes.extend(PeerPacket::UpToDate.to_vec());
    let mut expected = vec![PeerItem::Packet(snap())];
    expected.extend(records.into_iter().map(PeerItem::Snapshot));
    expected.push(PeerItem::Packet(PeerPacket::UpToDate));
    for step in 1..bytes.len() {
        let mut stream = PeerStream::from_leader(LIMIT);
        let mut items = Vec::new();
        for chunk in bytes.chunks(step) {
            stream.push(chunk);
            drain(&mut stream, &mut items).unwrap();
        }
        assert_eq!((&items, stream.buffered()), (&expected, 0), "in chunks of {step}");
    }
}

#[test]
fn a_leader_expects_no_snapshot() {
    let mut stream = PeerStream::from_learner(LIMIT);
    let mut bytes = snap().to_vec();
    bytes.extend(PeerPacket::UpToDate.to_vec());
    assert_eq!(fed(&mut stream, &bytes).unwrap().len(), 2);
    assert!(!stream.in_snapshot());
}

#[test]
fn a_wrong_signature_is_refused() {
    let (snapshot, _) = snapshot();
    for wrong in ["BenWasHerf", "BenWasHer", "BenWasHere!"] {
        let mut bytes = snap().to_vec();
        bytes.extend(&snapshot[..snapshot.len() - SIGNATURE.len() - 4]);
        bytes.put_string(wrong);
        fed(&mut PeerStream::from_leader(LIMIT), &bytes).unwrap_err();
    }
}

#[test]
fn a_field_above_the_limit_is_refused_before_it_comes() {
    let long = i32::try_from(LIMIT + 1).unwrap().to_be_bytes();
    let zxid = [0; 8];
    let many = [&2i32.to_be_bytes()[..], &zxid, &[255; 4], &126i32.to_be_bytes()].concat();
    let data = [&2i32.to_be_bytes()[..], &zxid, &long].concat();
    let string = [&2i32.to_be_bytes()[..], &zxid, &[255; 4], &1i32.to_be_bytes(), &long].concat();
    for bytes in [many, data, string] {
        let error = fed(&mut PeerStream::from_learner(LIMIT), &bytes).unwrap_err();
        assert!(matches!(error.kind, DecodeErrorKind::Length(_)), "{error}");
    }
    let no_sessions = [0; 4];
    let path = [&no_sessions[..], &[0; 4], &long].concat();
    let data = [&no_sessions[..], &[0; 4], &[0; 4], &long].concat();
    let null_path = [&no_sessions[..], &[0; 4], &[255; 4]].concat();
    let acls = [&no_sessions[..], &1i32.to_be_bytes(), &[0; 8], &84i32.to_be_bytes()].concat();
    let null_acls = [&no_sessions[..], &1i32.to_be_bytes(), &[0; 8], &[255; 4]].concat();
    for tail in [path, data, null_path, acls, null_acls] {
        let mut bytes = snap().to_vec();
        bytes.extend(tail);
        fed(&mut PeerStream::from_leader(LIMIT), &bytes).unwrap_err();
    }
}

#[test]
fn the_longest_field_is_taken() {
    let whole = PeerPacket::Proposal { zxid: Zxid(1), txn: vec![1; LIMIT].into() };
    let mut stream = PeerStream::from_leader(LIMIT);
    assert_eq!(fed(&mut stream, &whole.to_vec()).unwrap(), [PeerItem::Packet(whole)]);
    let long = PeerPacket::Proposal { zxid: Zxid(1), txn: vec![1; LIMIT + 1].into() };
    fed(&mut stream, &long.to_vec()).unwrap_err();
}

#[test]
fn identities_together_are_bounded_too() {
    let auth = vec![id("ip", &"x".repeat(600)); 2];
    let request =
        ForwardedRequest { session: SessionId(1), xid: Xid(1), op: 9, body: Bytes::new(), auth: Some(auth) };
    let bytes = PeerPacket::Request(request).to_vec();
    fed(&mut PeerStream::from_learner(LIMIT), &bytes).unwrap_err();
    fed(&mut PeerStream::from_learner(2 * LIMIT), &bytes).unwrap();
}

#[test]
fn an_error_stays() {
    let mut stream = PeerStream::from_leader(LIMIT);
    let first = fed(&mut stream, &unhex("00000003 0000000100000000 fffffffe")).unwrap_err();
    let again = fed(&mut stream, &PeerPacket::UpToDate.to_vec()).unwrap_err();
    assert_eq!(first, again);
}

proptest! {
    #[test]
    fn chunks_of_any_size_give_the_same_packets(
        packets in proptest::collection::vec(packet(), 1..6),
        cuts in proptest::collection::vec(1usize..50, 1..20),
    ) {
        let bytes: Vec<u8> = packets.iter().flat_map(PeerPacket::to_vec).collect();
        let mut stream = PeerStream::from_learner(LIMIT);
        let (mut at, mut cut, mut items) = (0, cuts.iter().cycle(), Vec::new());
        while at < bytes.len() {
            let end = bytes.len().min(at + cut.next().unwrap());
            stream.push(&bytes[at..end]);
            drain(&mut stream, &mut items).unwrap();
            at = end;
        }
        let expected: Vec<PeerItem> = packets.into_iter().map(PeerItem::Packet).collect();
        prop_assert_eq!(items, expected);
    }

    #[test]
    fn any_bytes_are_read(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), in_snapshot: bool, small: bool, step in 1usize..60,
    ) {
        let mut stream = PeerStream::from_leader(LIMIT);
        if in_snapshot {
            stream.push(&snap().to_vec());
        }
        // Small numbers are likelier to pass for lengths.
        let bytes: Vec<u8> = bytes.into_iter().map(|b| if small { b % 3 } else { b }).collect();
        let mut items = Vec::new();
        for chunk in bytes.chunks(step) {
            stream.push(chunk);
            if drain(&mut stream, &mut items).is_err() {
                break;
            }
        }
    }
}
