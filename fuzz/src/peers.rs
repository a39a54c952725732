//! What other servers send: the election port, the quorum port, and the text of configurations.

use bytes::Bytes;
use oxkeeper_proto::peer::initial::InitialMessage;
use oxkeeper_proto::peer::notification::{ElectionItem, ElectionStream, Notification};
use oxkeeper_proto::peer::stream::{PeerItem, PeerStream};
use oxkeeper_proto::{EnsembleConfig, HostPort, Member, PeerPacket};

use crate::bounds::within;

/// The longest field; small, so that what is too long is met often.
const FIELD_BYTES_MAX: usize = 2000;

/// Cuts a stream at every place that `cuts` says, or not at all.
fn pieces<'a>(stream: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = stream;
    let mut lengths = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let len = lengths.next().map_or(rest.len(), |len| usize::from(*len).max(1)).min(rest.len());
        let (piece, behind) = rest.split_at(len);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first message of an election connection.
pub fn initial(bytes: &[u8]) {
    let Ok(Some((message, len))) = within(bytes.len(), 0, || InitialMessage::decode(bytes)) else { return };
    assert!(len <= bytes.len());
    let again = message.to_vec();
    assert_eq!(InitialMessage::decode(&again), Ok(Some((message.clone(), again.len()))));
    assert!(message.dialable().all(|address| !address.is_wildcard()));
}

/// The messages of an election, in frames, however they are cut up.
pub fn notifications(bytes: &[u8]) {
    let Some((cuts, stream)) = bytes.split_first_chunk::<4>() else { return };
    let run = |cuts: &[u8]| {
        // Versions of initial messages are negative numbers, lengths of frames are not.
        let begins_with_initial = stream.first() == Some(&0xff);
        let mut election =
            if begins_with_initial { ElectionStream::accepted() } else { ElectionStream::dialled() };
        let mut items = Vec::new();
        for piece in pieces(stream, cuts) {
            election.push(piece);
            loop {
                match election.next_item() {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error) => return (items, Some(error.kind)),
                }
            }
        }
        (items, None)
    };
    let whole = within(stream.len(), 0, || run(&[]));
    assert_eq!(run(cuts), whole);
    for item in &whole.0 {
        if let ElectionItem::Notification(Ok(notification)) = item {
            let mut once = Vec::new();
            notification.encode_body(&mut once);
            let again = Notification::decode(&Bytes::from(once.clone()));
            assert_eq!(again.as_ref(), Ok(notification));
        }
    }
}

/// The quorum port in both directions, and a snapshot on it, however the bytes are cut up.
pub fn quorum(bytes: &[u8]) {
    let Some(([from, cuts @ ..], stream)) = bytes.split_first_chunk::<5>() else { return };
    let run = |cuts: &[u8]| {
        let mut peer = if from % 2 == 0 {
            PeerStream::from_leader(FIELD_BYTES_MAX)
        } else {
            PeerStream::from_learner(FIELD_BYTES_MAX)
        };
        let mut items = Vec::new();
        for piece in pieces(stream, cuts) {
            peer.push(piece);
            loop {
                match peer.next_item() {
                    Ok(Some(item)) => items.push(item),
                    Ok(None) => break,
                    Err(error) => return (items, Some(error.kind)),
                }
            }
            assert!(peer.buffered() <= 2 * FIELD_BYTES_MAX + 300 + piece.len(), "more than an item is kept");
        }
        (items, None)
    };
    let whole = within(stream.len(), 0, || run(&[]));
    assert_eq!(run(cuts), whole);
    for item in &whole.0 {
        let PeerItem::Packet(packet) = item else { continue };
        let once = packet.to_vec();
        match PeerPacket::decode(&Bytes::from(once.clone())) {
            Ok(again) => {
                assert_eq!(again, *packet);
                assert_eq!(again.to_vec(), once);
            }
            Err(error) => panic!("{packet:?} was encoded and cannot be read: {error}"),
        }
    }
}

/// The text of a configuration, as servers send it and dynamic files hold it.
pub fn configuration(text: &str) {
    if let Ok(config) = EnsembleConfig::parse(text) {
        let printed = config.to_string();
        match EnsembleConfig::parse(&printed) {
            Ok(again) => assert_eq!((&again, again.to_string()), (&config, printed)),
            Err(error) => panic!("{printed:?} was printed and cannot be read: {error}"),
        }
        let _ = config.address_conflict();
    }
    if let Ok(member) = Member::parse(text) {
        assert_eq!(Member::parse(&member.to_string()), Ok(member));
    }
}

/// A host and a port.
pub fn address(text: &str) {
    if let Ok(address) = text.parse::<HostPort>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}
