use proptest::prelude::*;

use super::super::tests::unhex;
use super::*;
use crate::address::HostPort;

const CONFIG: &str = "server.1=127.0.0.1:31281:31381:participant;127.0.0.1:31181\n\
                      server.2=127.0.0.1:31282:31382:participant;127.0.0.1:31182\n\
                      server.3=127.0.0.1:31283:31383:participant;127.0.0.1:31183\nversion=0";

fn looking() -> Notification {
    Notification {
        state: ServerState::Looking,
        leader: ServerId(2),
        zxid: Zxid(0),
        round: Round(1),
        peer_epoch: Epoch(0),
        version: 2,
        config: Some(Bytes::from_static(CONFIG.as_bytes())),
    }
}

/// The head was recorded from 3.8.0 and 3.9.3; the configuration has the recorded length.
fn golden() -> Vec<u8> {
    let mut frame = unhex(
        "000000e6 00000000 0000000000000002 0000000000000000 0000000000000001 0000000000000000 00000002 000000ba",
    );
    frame.extend(CONFIG.bytes());
    frame
}

#[test]
fn the_recorded_message_decodes_and_encodes_again() {
    assert_eq!(CONFIG.len(), 186);
    let mut out = Vec::new();
    looking().encode(&mut out);
    assert_eq!(out, golden());
    let body = Bytes::from(golden()).slice(4..);
    assert_eq!(Notification::decode(&body).unwrap(), looking());
}

#[test]
fn older_generations_are_read() {
    let body = unhex(
        "00000001 0000000000000002 0000000300000004 0000000000000005 0000000000000006 00000001 00000000",
    );
    let read = |len: usize| Notification::decode(&Bytes::copy_from_slice(&body[..len]));
    let old = Notification {
        state: ServerState::Following,
        leader: ServerId(2),
        zxid: Zxid::new(3, 4),
        round: Round(5),
        peer_epoch: Epoch(6),
        version: 0,
        config: None,
    };
    assert_eq!(read(28).unwrap(), Notification { peer_epoch: Epoch(3), ..old.clone() });
    assert_eq!(read(40).unwrap(), old);
    assert_eq!(read(44).unwrap(), Notification { version: 1, ..old });
    for len in (0..28).chain(29..40) {
        read(len).unwrap_err();
    }
}

#[test]
fn malformed_messages_are_refused() {
    let body = golden()[4..].to_vec();
    let changed = |at: usize, value: i32| {
        let mut body = body.clone();
        body[at..at + 4].copy_from_slice(&value.to_be_bytes());
        Notification::decode(&body.into())
    };
    for (at, value) in [(0, 4), (0, -1), (40, -1), (40, -2), (40, 187), (40, i32::MAX)] {
        changed(at, value).unwrap_err();
    }
    assert_eq!(changed(36, 3).unwrap(), Notification { version: 3, ..looking() });
    assert_eq!(changed(36, 1).unwrap(), Notification { version: 1, config: None, ..looking() });
    for cut in 41..body.len() {
        Notification::decode(&Bytes::copy_from_slice(&body[..cut])).unwrap_err();
    }
}

#[test]
fn a_malformed_message_does_not_end_the_connection() {
    let mut stream = ElectionStream::accepted();
    let initial = InitialMessage::new(ServerId(2), HostPort::new("h", 1));
    stream.push(&initial.to_vec());
    stream.push(&[0, 0, 0, 3, 1, 2, 3]);
    stream.push(&golden());
    assert_eq!(stream.next_item().unwrap(), Some(ElectionItem::Initial(initial)));
    assert!(matches!(stream.next_item().unwrap(), Some(ElectionItem::Notification(Err(_)))));
    assert_eq!(stream.next_item().unwrap(), Some(ElectionItem::Notification(Ok(looking()))));
    assert_eq!(stream.next_item().unwrap(), None);
}

#[test]
fn frames_outside_their_bounds_end_the_connection() {
    for len in [0, -1, i32::MIN, 524_289] {
        let mut stream = ElectionStream::dialled();
        stream.push(&len.to_be_bytes());
        stream.next_item().unwrap_err();
    }
    let mut stream = ElectionStream::dialled();
    stream.push(&524_288i32.to_be_bytes());
    assert_eq!(stream.next_item(), Ok(None));
}

proptest! {
    #[test]
    fn messages_round_trip_in_chunks(
        fields in any::<(u8, i64, i64, i64, i64)>(), version in 0i32..4, text in ".{0,30}", step in 1usize..40,
    ) {
        let (state, leader, zxid, round, epoch) = fields;
        let notification = Notification {
            state: ServerState::from_number((state % 4).into()).unwrap(),
            leader: ServerId(leader),
            zxid: Zxid(zxid),
            round: Round(round),
            peer_epoch: Epoch(epoch),
            version,
            config: (version >= 2).then(|| text.into()),
        };
        let mut out = Vec::new();
        notification.encode(&mut out);
        let mut stream = ElectionStream::dialled();
        for chunk in out.chunks(step) {
            prop_assert_eq!(stream.next_item(), Ok(None));
            stream.push(chunk);
        }
        prop_assert_eq!(stream.next_item(), Ok(Some(ElectionItem::Notification(Ok(notification)))));
    }

    #[test]
    fn any_body_is_read(bytes in proptest::collection::vec(0u8..4, 0..80)) {
        if let Ok(notification) = Notification::decode(&bytes.into()) {
            let mut again = Vec::new();
            notification.encode_body(&mut again);
            prop_assert_eq!(Notification::decode(&again.into()).unwrap(), notification);
        }
    }
}
