//! What a server says when it dials another's election port: who it is and where it can be dialled back.
//!
//! Source: `QuorumCnxManager.InitialMessage`, 3.9.

use crate::address::HostPort;
use crate::ids::ServerId;
use crate::wire::{DecodeError, DecodeErrorKind, Put, Reader};

/// The longest list of addresses, in bytes.
pub const ADDRESSES_MAX: usize = 2048;

const V1: i64 = -65_536;
const V2: i64 = -65_535;

/// The first message of an election connection. There is no answer to it.
///
/// It must leave in one segment: Java takes its last field with a single read and closes on a short one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialMessage {
    /// What 3.5 and later send: the version, the id and addresses, of which version 1 may hold one.
    Versioned {
        /// Whether it is written as version 2, which servers of 3.5 refuse.
        is_v2: bool,
        /// Who dials.
        id: ServerId,
        /// Its election addresses; never empty.
        addresses: Vec<HostPort>,
    },
    /// What 3.4 sends: the id alone.
    Legacy {
        /// Who dials.
        id: ServerId,
    },
}

impl InitialMessage {
    /// What a server of ours says, in version 1 that every server since 3.5 reads.
    #[must_use]
    pub fn new(id: ServerId, address: HostPort) -> InitialMessage {
        InitialMessage::Versioned { is_v2: false, id, addresses: vec![address] }
    }

    /// Who dials.
    #[must_use]
    pub fn id(&self) -> ServerId {
        match self {
            InitialMessage::Versioned { id, .. } | InitialMessage::Legacy { id } => *id,
        }
    }

    /// Addresses at which the sender can be dialled: wildcards, which many write into their configuration,
    /// are left out.
    pub fn dialable(&self) -> impl Iterator<Item = &HostPort> {
        let addresses = match self {
            InitialMessage::Versioned { addresses, .. } => addresses.as_slice(),
            InitialMessage::Legacy { .. } => &[],
        };
        addresses.iter().filter(|address| !address.is_wildcard())
    }

    /// Reads the message at the start of `bytes` and how long it is; `None` until all of it is there.
    ///
    /// # Errors
    /// An unknown version, a length outside 1 to [`ADDRESSES_MAX`], or addresses that are none.
    pub fn decode(bytes: &[u8]) -> Result<Option<(InitialMessage, usize)>, DecodeError> {
        let mut r = Reader::new(bytes);
        let Ok(version) = r.long() else { return Ok(None) };
        if version >= 0 {
            return Ok(Some((InitialMessage::Legacy { id: ServerId(version) }, r.offset())));
        }
        if version != V1 && version != V2 {
            return Err(DecodeError {
                kind: DecodeErrorKind::Unknown { what: "initial message", value: version },
                offset: 0,
            });
        }
        let (Ok(id), Ok(len)) = (r.long(), r.int()) else { return Ok(None) };
        let list = match usize::try_from(len) {
            Ok(n) if (1..=ADDRESSES_MAX).contains(&n) => n,
            _ => return Err(r.error(DecodeErrorKind::Length(len))),
        };
        let at = r.offset();
        let Ok(list) = r.take(list) else { return Ok(None) };
        let malformed = |value| DecodeError {
            kind: DecodeErrorKind::Unknown { what: "election address of length", value },
            offset: at,
        };
        let mut addresses = Vec::new();
        for part in String::from_utf8_lossy(list).split('|') {
            let address = part.parse::<HostPort>();
            addresses.push(address.map_err(|_| malformed(i64::try_from(part.len()).unwrap_or(i64::MAX)))?);
        }
        let initial = InitialMessage::Versioned { is_v2: version == V2, id: ServerId(id), addresses };
        Ok(Some((initial, r.offset())))
    }

    /// The message's bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            InitialMessage::Legacy { id } => out.put_long(id.0),
            InitialMessage::Versioned { is_v2, id, addresses } => {
                out.put_long(if *is_v2 { V2 } else { V1 });
                out.put_long(id.0);
                let list: Vec<String> = addresses.iter().map(HostPort::to_string).collect();
                out.put_string(&list.join("|"));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn golden(version: &str, id: u8, address: &str) -> Vec<u8> {
        let hex = format!("{version}00000000000000{id:02x}{:08x}", address.len());
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let mut bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        bytes.extend(address.bytes());
        bytes
    }

    /// Recorded from 3.8.0 and 3.9.3.
    #[test]
    fn recorded_messages_decode_and_encode_again() {
        for (bytes, is_v2, id, port) in [
            (golden("ffffffffffff0000", 2, "127.0.0.1:31382"), false, 2, 31_382),
            (golden("ffffffffffff0001", 1, "127.0.0.1:31381"), true, 1, 31_381),
        ] {
            let address = HostPort::new("127.0.0.1", port);
            let expected = InitialMessage::Versioned { is_v2, id: ServerId(id), addresses: vec![address] };
            assert_eq!(InitialMessage::decode(&bytes).unwrap(), Some((expected.clone(), bytes.len())));
            assert_eq!(expected.to_vec(), bytes);
            for cut in 0..bytes.len() {
                assert_eq!(InitialMessage::decode(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn servers_of_3_4_send_their_id_alone() {
        let bytes = 7i64.to_be_bytes();
        let legacy = InitialMessage::Legacy { id: ServerId(7) };
        assert_eq!(InitialMessage::decode(&bytes).unwrap(), Some((legacy.clone(), 8)));
        assert_eq!(legacy.to_vec(), bytes);
        assert_eq!(legacy.dialable().count(), 0);
    }

    #[test]
    fn several_addresses_come_in_either_version_and_wildcards_are_not_dialled() {
        for version in ["ffffffffffff0000", "ffffffffffff0001"] {
            let (initial, _) =
                InitialMessage::decode(&golden(version, 3, "a:1|0.0.0.0:2|[::1]:3|[::]:4")).unwrap().unwrap();
            let dialable: Vec<String> = initial.dialable().map(HostPort::to_string).collect();
            assert_eq!(dialable, ["a:1", "[::1]:3"]);
        }
    }

    #[test]
    fn hostile_messages_are_refused() {
        for bytes in [
            golden("fffffffffffefffe", 2, "a:1"),
            golden("ffffffffffff0000", 2, ""),
            golden("ffffffffffff0000", 2, &"a".repeat(2049)),
            golden("ffffffffffff0000", 2, "a"),
            golden("ffffffffffff0000", 2, "a:1|"),
            golden("ffffffffffff0000", 2, "a:70000"),
            golden("ffffffffffff0000", 2, "::1:5"),
        ] {
            assert!(InitialMessage::decode(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..80), version: bool) {
            let mut bytes = bytes;
            if version {
                bytes.splice(0..0, V1.to_be_bytes());
            }
            if let Ok(Some((initial, len))) = InitialMessage::decode(&bytes) {
                prop_assert!(len <= bytes.len());
                let again = initial.to_vec();
                prop_assert_eq!(InitialMessage::decode(&again).unwrap().unwrap().0, initial);
            }
        }
    }
}
