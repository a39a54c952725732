//! The bytes of every operation as a real server sent or understood them: each decodes to the end and
//! encodes to the same bytes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use oxkeeper_proto::{
    ConnectRequest, ConnectResponse, ErrorCode, OpCode, Reader, Reply, ReplyHeader, Request, WatcherEvent,
    Xid,
};

fn bytes(hex: &str) -> Vec<u8> {
    let digits = if hex == "-" { "" } else { hex };
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn op(name: &str) -> OpCode {
    let wanted = name.to_lowercase();
    *OpCode::ALL.iter().find(|op| format!("{op:?}").to_lowercase() == wanted).unwrap()
}

#[test]
fn recorded_bytes_decode_and_encode_again() {
    let golden = include_str!("golden/client.txt");
    let mut seen = BTreeSet::new();
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let [what, name, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let payload = bytes(hex);
        let mut again = Vec::new();
        let mut reader = Reader::new(&payload);
        match (what, name) {
            ("handshake", "connect") => ConnectRequest::decode(&payload).unwrap().encode(&mut again),
            ("handshake", _) => ConnectResponse::decode(&payload).unwrap().encode(&mut again),
            ("request", name) => {
                let request = Request::decode(op(name), &mut reader).unwrap();
                assert_eq!(reader.remaining(), 0, "{line}");
                request.encode(&mut again);
                seen.insert(op(name));
            }
            ("reply", name) => {
                let header = ReplyHeader::decode(&mut reader).unwrap();
                header.encode(&mut again);
                if header.err == ErrorCode::OK {
                    Reply::decode(op(name), &mut reader).unwrap().encode(&mut again);
                }
                assert_eq!(reader.remaining(), 0, "{line}");
            }
            _ => {
                let header = ReplyHeader::decode(&mut reader).unwrap();
                assert_eq!(header.xid, Xid::EVENT);
                header.encode(&mut again);
                WatcherEvent::decode(&mut reader).unwrap().encode(&mut again);
            }
        }
        assert_eq!(again, payload, "{line}");
    }
    let unseen =
        [OpCode::Notification, OpCode::Error, OpCode::Check, OpCode::DeleteContainer, OpCode::CreateSession];
    let missing: Vec<_> =
        OpCode::ALL.iter().filter(|op| !seen.contains(op) && !unseen.contains(op)).collect();
    assert!(missing.is_empty(), "nothing recorded for {missing:?}");
}
