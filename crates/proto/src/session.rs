//! Opening a session: the first frame in each direction, and the password.

use crate::ids::{SessionId, Zxid};
use crate::wire::{DecodeError, Put, Reader};

/// A session's secret, as long as the wire has it.
pub type Password = [u8; 16];

/// The first frame of a client, without a header.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectRequest<'a> {
    /// Always 0; servers ignore it.
    pub protocol_version: i32,
    /// The newest zxid the client has seen in a reply.
    pub last_zxid_seen: Zxid,
    /// The session timeout asked for, in ms.
    pub timeout_ms: i32,
    /// The session to take up again, 0 for a new one.
    pub session_id: SessionId,
    /// Its password; old clients send none for a new session.
    pub password: Option<&'a [u8]>,
    /// Whether a read-only server will do. `None`: the client is too old to know the field, and must not
    /// get it back either.
    pub read_only: Option<bool>,
}

impl<'a> ConnectRequest<'a> {
    /// Reads the frame.
    ///
    /// # Errors
    /// The bytes are no such record.
    pub fn decode(frame: &'a [u8]) -> Result<ConnectRequest<'a>, DecodeError> {
        let mut r = Reader::new(frame);
        Ok(ConnectRequest {
            protocol_version: r.int()?,
            last_zxid_seen: Zxid(r.long()?),
            timeout_ms: r.int()?,
            session_id: SessionId(r.long()?),
            password: r.buffer()?,
            read_only: r.boolean().ok(),
        })
    }

    /// Writes the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.protocol_version);
        out.put_long(self.last_zxid_seen.0);
        out.put_int(self.timeout_ms);
        out.put_long(self.session_id.0);
        out.put_buffer(self.password);
        if let Some(read_only) = self.read_only {
            out.put_boolean(read_only);
        }
    }
}

impl std::fmt::Debug for ConnectRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("last_zxid_seen", &self.last_zxid_seen)
            .field("timeout_ms", &self.timeout_ms)
            .field("session_id", &self.session_id)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// The first frame of a server, without a header.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The negotiated timeout in ms; 0 says that the session is over.
    pub timeout_ms: i32,
    /// The session, 0 if it is over.
    pub session_id: SessionId,
    /// Its password, zeros if it is over.
    pub password: Password,
    /// Whether the server only reads; absent if the request did not carry the field.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The answer to a session that is unknown, over, or presented with a wrong password.
    #[must_use]
    pub fn expired(read_only: Option<bool>) -> ConnectResponse {
        ConnectResponse { timeout_ms: 0, session_id: SessionId::NONE, password: [0; 16], read_only }
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// The bytes are no such record.
    pub fn decode(frame: &[u8]) -> Result<ConnectResponse, DecodeError> {
        let mut r = Reader::new(frame);
        let _protocol_version = r.int()?;
        let timeout_ms = r.int()?;
        let session_id = SessionId(r.long()?);
        let mut password = [0; 16];
        if let Some(given) = r.buffer()? {
            for (to, from) in password.iter_mut().zip(given) {
                *to = *from;
            }
        }
        Ok(ConnectResponse { timeout_ms, session_id, password, read_only: r.boolean().ok() })
    }

    /// Writes the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(0);
        out.put_int(self.timeout_ms);
        out.put_long(self.session_id.0);
        out.put_buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            out.put_boolean(read_only);
        }
    }
}

impl std::fmt::Debug for ConnectResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectResponse")
            .field("timeout_ms", &self.timeout_ms)
            .field("session_id", &self.session_id)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

/// The password of a session, as every ZooKeeper server derives it: the first 16 bytes of Java's generator
/// seeded with the id. Whoever knows the id can compute it; it guards against mistakes, not against malice.
///
/// Source: `ZooKeeperServer.generatePasswd`, `java.util.Random`.
#[must_use]
pub fn password(session: SessionId) -> Password {
    const MASK: u64 = (1 << 48) - 1;
    let mut state = (session.0 ^ 0xB341_5C00 ^ 0x5_DEEC_E66D).cast_unsigned() & MASK;
    let mut out = [0; 16];
    for word in out.chunks_exact_mut(4) {
        state = state.wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & MASK;
        // Bits 16 to 47, least significant byte first.
        word.copy_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen on a live server.
    #[test]
    fn password_is_javas() {
        let expected =
            [0x84, 0x35, 0x07, 0x4c, 0xd3, 0xdb, 0xb3, 0x9f, 0x57, 0x96, 0x5d, 0x65, 0x3b, 0x60, 0x06, 0xb7];
        assert_eq!(password(SessionId(0x0100_0014_e9e4_0006)), expected);
    }

    #[test]
    fn read_only_byte_is_optional_both_ways() {
        for (read_only, request_len, response_len) in
            [(None, 44, 36), (Some(false), 45, 37), (Some(true), 45, 37)]
        {
            let request = ConnectRequest {
                protocol_version: 0,
                last_zxid_seen: Zxid(9),
                timeout_ms: 30_000,
                session_id: SessionId(5),
                password: Some(&[7; 16]),
                read_only,
            };
            let mut out = Vec::new();
            request.encode(&mut out);
            assert_eq!(out.len(), request_len);
            assert_eq!(ConnectRequest::decode(&out).unwrap(), request);
            let response =
                ConnectResponse { timeout_ms: 1, session_id: SessionId(2), password: [3; 16], read_only };
            let mut out = Vec::new();
            response.encode(&mut out);
            assert_eq!(out.len(), response_len);
            assert_eq!(ConnectResponse::decode(&out).unwrap(), response);
        }
    }

    #[test]
    fn passwords_never_print() {
        let response =
            ConnectResponse { timeout_ms: 1, session_id: SessionId(2), password: [173; 16], read_only: None };
        assert!(!format!("{response:?}").contains("173"));
    }
}
