use proptest::prelude::*;

use super::*;

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

pub(super) fn id(scheme: &str, id: &str) -> AuthId {
    AuthId { scheme: scheme.to_owned(), id: id.to_owned() }
}

fn request(op: i32, body: Vec<u8>, auth: Option<Vec<AuthId>>) -> PeerPacket {
    PeerPacket::Request(ForwardedRequest {
        session: SessionId(0x0100_000b_e95a_0000),
        xid: Xid(0),
        op,
        body: body.into(),
        auth,
    })
}

/// Recorded between servers of 3.8.0 and 3.9.3; what was not recorded is put together from recorded parts.
fn golden() -> Vec<(PeerPacket, &'static str)> {
    let session = SessionId(0x0100_000b_e95a_0001);
    let txn = Bytes::from_static(&[1, 2, 3]);
    let learner = LearnerInfo::new(ServerId(3), Zxid(0x1_0000_0000));
    vec![
        (
            PeerPacket::FollowerInfo { accepted: Epoch(0), learner },
            "0000000b 0000000000000000 00000014 0000000000000003 00010000 0000000100000000 ffffffff",
        ),
        (
            PeerPacket::ObserverInfo { accepted: Epoch(2), learner },
            "00000010 0000000200000000 00000014 0000000000000003 00010000 0000000100000000 ffffffff",
        ),
        (
            PeerPacket::LeaderInfo { epoch: Epoch(1), protocol_version: PROTOCOL_VERSION },
            "00000011 0000000100000000 00000004 00010000 ffffffff",
        ),
        (
            PeerPacket::AckEpoch { last: Zxid(0), current: Some(Epoch(0)) },
            "00000012 0000000000000000 00000004 00000000 ffffffff",
        ),
        (
            PeerPacket::AckEpoch { last: Zxid::new(2, 1), current: None },
            "00000012 0000000200000001 00000004 ffffffff ffffffff",
        ),
        (PeerPacket::Ack { zxid: Zxid::new(1, 0) }, "00000003 0000000100000000 ffffffff ffffffff"),
        (PeerPacket::UpToDate, "0000000c ffffffffffffffff ffffffff ffffffff"),
        (
            PeerPacket::Ping { zxid: Zxid::new(1, 0x11), touched: Some(vec![(session, 4000)]) },
            "00000005 0000000100000011 0000000c 0100000be95a0001 00000fa0 ffffffff",
        ),
        (
            PeerPacket::Ping { zxid: Zxid::new(1, 0), touched: Some(vec![]) },
            "00000005 0000000100000000 00000000 ffffffff",
        ),
        (
            PeerPacket::Ping { zxid: Zxid::new(1, 0), touched: None },
            "00000005 0000000100000000 ffffffff ffffffff",
        ),
        (
            PeerPacket::Revalidate { session, timeout_ms: 4000 },
            "00000006 ffffffffffffffff 0000000c 0100000be95a0001 00000fa0 ffffffff",
        ),
        (
            PeerPacket::Revalidated { session, valid: true },
            "00000006 ffffffffffffffff 00000009 0100000be95a0001 01 ffffffff",
        ),
        (
            request(-10, vec![0, 0, 0x0f, 0xa0], None),
            "00000001 ffffffffffffffff 00000014 0100000be95a0000 00000000 fffffff6 00000fa0 ffffffff",
        ),
        (
            request(9, vec![], Some(vec![id("ip", "127.0.0.1")])),
            "00000001 ffffffffffffffff 00000010 0100000be95a0000 00000000 00000009
             00000001 00000002 6970 00000009 3132372e302e302e31",
        ),
        (
            PeerPacket::Proposal { zxid: Zxid::new(1, 2), txn: txn.clone() },
            "00000002 0000000100000002 00000003 010203 ffffffff",
        ),
        (PeerPacket::Commit { zxid: Zxid::new(1, 2) }, "00000004 0000000100000002 ffffffff ffffffff"),
        (PeerPacket::Sync, "00000007 0000000000000000 ffffffff ffffffff"),
        (
            PeerPacket::Inform { zxid: Zxid::new(1, 2), txn: txn.clone() },
            "00000008 0000000100000002 00000003 010203 ffffffff",
        ),
        (
            PeerPacket::CommitAndActivate { zxid: Zxid::new(1, 0x19), designated: ServerId(2) },
            "00000009 0000000100000019 00000008 0000000000000002 ffffffff",
        ),
        (
            PeerPacket::NewLeader { epoch: Epoch(1), config: Some(Bytes::from_static(b"version=0")) },
            "0000000a 0000000100000000 00000009 76657273696f6e3d30 ffffffff",
        ),
        (PeerPacket::Diff { zxid: Zxid::new(2, 6) }, "0000000d 0000000200000006 ffffffff ffffffff"),
        (PeerPacket::Trunc { zxid: Zxid::new(1, 0x1c) }, "0000000e 000000010000001c ffffffff ffffffff"),
        (PeerPacket::Snap { zxid: Zxid::new(1, 0) }, "0000000f 0000000100000000 ffffffff ffffffff"),
        (
            PeerPacket::InformAndActivate { zxid: Zxid::new(1, 0x19), designated: ServerId(2), txn },
            "00000013 0000000100000019 0000000b 0000000000000002 010203 ffffffff",
        ),
        (
            PeerPacket::Unknown { kind: 99, zxid: Zxid(7), data: Some(Bytes::from_static(b"x")) },
            "00000063 0000000000000007 00000001 78 ffffffff",
        ),
    ]
}

#[test]
fn recorded_packets_decode_and_encode_again() {
    for (packet, hex) in golden() {
        let bytes = unhex(hex);
        assert_eq!(packet.to_vec(), bytes, "{packet:?}");
        assert_eq!(PeerPacket::decode(&bytes.into()).unwrap(), packet);
    }
}

#[test]
fn every_type_of_packet_is_recorded() {
    let mut kinds: Vec<u8> = golden().iter().map(|(packet, _)| packet.to_vec()[3]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, (1..=19).chain([99]).collect::<Vec<u8>>());
}

#[test]
fn old_learners_say_less() {
    let head = "0000000b 0000000000000000";
    let read = |data: &str| {
        let packet = PeerPacket::decode(&unhex(&format!("{head} {data} ffffffff")).into()).unwrap();
        let PeerPacket::FollowerInfo { learner, .. } = packet else { panic!("{packet:?}") };
        assert_eq!(
            PeerPacket::FollowerInfo { accepted: Epoch(0), learner }.to_vec()[12..16],
            unhex(data)[..4]
        );
        (learner.id, learner.protocol_version, learner.config_version)
    };
    assert_eq!(read("00000008 0000000000000003"), (Some(ServerId(3)), 1, None));
    assert_eq!(read("0000000c 0000000000000003 00010000"), (Some(ServerId(3)), 0x1_0000, None));
    assert_eq!(read("ffffffff"), (None, 1, None));
}

#[test]
fn data_that_do_not_fit_their_type_are_refused() {
    for hex in [
        "00000001 ffffffffffffffff 00000003 010203 ffffffff",
        "00000001 ffffffffffffffff ffffffff ffffffff",
        "00000002 0000000100000002 ffffffff ffffffff",
        "00000005 0000000100000011 00000005 0102030405 ffffffff",
        "00000006 ffffffffffffffff 00000008 0100000be95a0001 ffffffff",
        "00000009 0000000100000019 00000004 00000002 ffffffff",
        "00000011 0000000100000000 00000003 010000 ffffffff",
        "00000012 0000000000000000 ffffffff ffffffff",
        "00000013 0000000100000019 00000000 ffffffff",
        "00000003 0000000100000000 ffffffff ffffffff 00",
        "00000003 0000000100000000 fffffffe ffffffff",
        "00000003 0000000100000000 ffffffff 7fffffff",
        "00000003 0000000100000000 ffffffff 00000001 ffffffff ffffffff",
    ] {
        assert!(PeerPacket::decode(&unhex(hex).into()).is_err(), "{hex}");
    }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn zxid() -> impl Strategy<Value = Zxid> {
    any::<i64>().prop_map(Zxid)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (0..i32::MAX).prop_map(|epoch| Epoch(epoch.into()))
}

fn learner() -> impl Strategy<Value = LearnerInfo> {
    let id = any::<i64>().prop_map(ServerId);
    (id, 2..i32::MAX, any::<Option<i64>>()).prop_map(|(id, protocol_version, config)| LearnerInfo {
        id: Some(id),
        protocol_version,
        config_version: config.map(Zxid),
    })
}

pub(super) fn packet() -> impl Strategy<Value = PeerPacket> {
    let session = || any::<i64>().prop_map(SessionId);
    let designated = || any::<i64>().prop_map(ServerId);
    let auth = ("[a-z]{0,9}", ".{0,9}").prop_map(|(scheme, id)| AuthId { scheme, id });
    let auth = proptest::option::of(proptest::collection::vec(auth, 0..4));
    let touched = proptest::collection::vec((session(), any::<i32>()), 0..5);
    prop_oneof![
        (session(), any::<i32>(), any::<i32>(), bytes(), auth).prop_map(|(session, xid, op, body, auth)| {
            PeerPacket::Request(ForwardedRequest { session, xid: Xid(xid), op, body, auth })
        }),
        (zxid(), bytes()).prop_map(|(zxid, txn)| PeerPacket::Proposal { zxid, txn }),
        zxid().prop_map(|zxid| PeerPacket::Ack { zxid }),
        zxid().prop_map(|zxid| PeerPacket::Commit { zxid }),
        (zxid(), proptest::option::of(touched))
            .prop_map(|(zxid, touched)| PeerPacket::Ping { zxid, touched }),
        (session(), any::<i32>())
            .prop_map(|(session, timeout_ms)| PeerPacket::Revalidate { session, timeout_ms }),
        (session(), any::<bool>()).prop_map(|(session, valid)| PeerPacket::Revalidated { session, valid }),
        session().prop_map(|session| PeerPacket::Moved { session }),
        Just(PeerPacket::Sync),
        (zxid(), bytes()).prop_map(|(zxid, txn)| PeerPacket::Inform { zxid, txn }),
        (zxid(), designated())
            .prop_map(|(zxid, designated)| PeerPacket::CommitAndActivate { zxid, designated }),
        (epoch(), proptest::option::of(bytes()))
            .prop_map(|(epoch, config)| PeerPacket::NewLeader { epoch, config }),
        (epoch(), learner()).prop_map(|(accepted, learner)| PeerPacket::FollowerInfo { accepted, learner }),
        Just(PeerPacket::UpToDate),
        zxid().prop_map(|zxid| PeerPacket::Diff { zxid }),
        zxid().prop_map(|zxid| PeerPacket::Trunc { zxid }),
        (epoch(), learner()).prop_map(|(accepted, learner)| PeerPacket::ObserverInfo { accepted, learner }),
        (epoch(), any::<i32>())
            .prop_map(|(epoch, protocol_version)| PeerPacket::LeaderInfo { epoch, protocol_version }),
        (zxid(), proptest::option::of(epoch()))
            .prop_map(|(last, current)| PeerPacket::AckEpoch { last, current }),
        (zxid(), designated(), bytes()).prop_map(|(zxid, designated, txn)| PeerPacket::InformAndActivate {
            zxid,
            designated,
            txn
        }),
        (20..i32::MAX, zxid(), proptest::option::of(bytes()))
            .prop_map(|(kind, zxid, data)| PeerPacket::Unknown { kind, zxid, data }),
    ]
}

proptest! {
    #[test]
    fn packets_round_trip(packet in packet()) {
        let bytes = packet.to_vec();
        prop_assert!(bytes.len() >= 20);
        prop_assert_eq!(PeerPacket::decode(&bytes.into()).unwrap(), packet);
    }

    #[test]
    fn cut_packets_are_refused(packet in packet(), cut in any::<prop::sample::Index>()) {
        let mut bytes = packet.to_vec();
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(PeerPacket::decode(&bytes.into()).is_err());
    }

    #[test]
    fn whatever_decodes_encodes_to_its_like(kind in 0i32..21, tail in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend(tail);
        if let Ok(packet) = PeerPacket::decode(&bytes.into()) {
            let again = packet.to_vec();
            prop_assert_eq!(PeerPacket::decode(&again.into()).unwrap(), packet);
        }
    }
}
