//! Who a connection is: auth packets add identities, to that connection only.
//!
//! Source: `ZooKeeperServer.processPacket`, `DigestAuthenticationProvider`, 3.9.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oxkeeper_proto::{ErrorCode, OpCode, Reader, Reply, Request, Xid, Zxid};
use oxkeeper_tree::Identity;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tracing::{info, warn};

use crate::conn::Notice;
use crate::effects::{ConnId, Effects};
use crate::node::Node;
use crate::reply;
use crate::settings::DigestAlgorithm;

/// Identities that one connection may prove. Every check of a list compares them with all its entries.
const IDENTITIES_MAX: usize = 1000;
/// Bytes of their ids.
const IDENTITY_BYTES_MAX: usize = 1 << 20;

/// How an attempt to authenticate went.
enum Verdict {
    /// These identities are the connection's now.
    Accepted(Vec<Identity>),
    Refused,
    /// The client talks to the wrong ensemble: it hears nothing.
    Cut,
}

impl Node {
    pub(crate) fn authenticate(
        &mut self,
        id: ConnId,
        xid: Xid,
        op: Option<OpCode>,
        reader: &mut Reader<'_>,
        fx: &mut Effects,
    ) {
        if op == Some(OpCode::Sasl) {
            // No mechanism is configured: Java answers an empty token.
            let zxid = Zxid::ZERO;
            reply::write(fx, id, xid, zxid, ErrorCode::OK, &Reply::Token(None));
            return;
        }
        let Ok(Request::Auth { scheme, auth }) = Request::decode(OpCode::Auth, reader) else {
            warn!("Closing a connection whose auth packet does not parse");
            return self.close(id, fx);
        };
        let scheme = scheme.as_deref().unwrap_or_default();
        match self.judge(id, scheme, auth) {
            Verdict::Accepted(identities) => {
                let Some(conn) = self.conns.get_mut(id) else { return };
                for identity in identities {
                    if !conn.identities.contains(&identity) {
                        conn.identities.push(identity);
                    }
                }
                let bytes: usize = conn.identities.iter().map(|identity| identity.id.len()).sum();
                if conn.identities.len() > IDENTITIES_MAX || bytes > IDENTITY_BYTES_MAX {
                    warn!("Closing session {}: it claims to be too many", conn.session);
                    return self.close(id, fx);
                }
                info!("Session {}: auth success for scheme {scheme}", conn.session);
                let notice = Notice { xid, zxid: Some(Zxid::ZERO), code: ErrorCode::OK, close: false };
                self.reply_in_turn(id, notice, fx);
            }
            Verdict::Refused => {
                self.auth_failed += 1;
                warn!("Authentication failed for scheme: {scheme}");
                self.reply_in_turn(id, Notice::last(xid, Zxid::ZERO, ErrorCode::AUTHFAILED), fx);
            }
            Verdict::Cut => self.close(id, fx),
        }
    }

    fn judge(&self, id: ConnId, scheme: &str, auth: Option<&[u8]>) -> Verdict {
        let schemes = self.tree.rules().schemes;
        match (scheme, auth) {
            ("digest", Some(auth)) if schemes.digest => Verdict::Accepted(self.digest_identities(auth)),
            ("ip", _) if schemes.ip => {
                let address = self.conns.get(id).map(|conn| conn.peer.0.to_string()).unwrap_or_default();
                Verdict::Accepted(vec![Identity { scheme: "ip".into(), id: address }])
            }
            ("ensemble", auth) if !self.settings.ensemble_names.is_empty() => {
                let name = auth.map(String::from_utf8_lossy).unwrap_or_default();
                let known =
                    name.is_empty() || self.settings.ensemble_names.iter().any(|known| *known == name);
                if known { Verdict::Accepted(Vec::new()) } else { Verdict::Cut }
            }
            _ => Verdict::Refused,
        }
    }

    /// Any password will do: it decides which id the connection has, and the id what it may.
    fn digest_identities(&self, auth: &[u8]) -> Vec<Identity> {
        let digest = digest_id(auth, self.settings.digest_algorithm);
        let is_super = self.settings.super_digest.as_deref() == Some(&*digest);
        let mut identities = Vec::new();
        if is_super {
            identities.push(Identity { scheme: "super".into(), id: String::new() });
        }
        identities.push(Identity { scheme: "digest".into(), id: digest });
        identities
    }

    /// Whether the connection has an identity of one of the schemes that are enforced.
    pub(crate) fn is_authenticated(&self, id: ConnId) -> bool {
        let Some(enforced) = &self.settings.enforced_schemes else { return true };
        let Some(conn) = self.conns.get(id) else { return false };
        conn.identities.iter().any(|identity| enforced.iter().any(|scheme| *scheme == identity.scheme))
    }
}

/// The id of the digest scheme for `user:password`: the user and the hash of the whole.
#[must_use]
pub fn digest_id(auth: &[u8], algorithm: DigestAlgorithm) -> String {
    let text = String::from_utf8_lossy(auth);
    let user = text.split(':').next().unwrap_or_default();
    let hash = match algorithm {
        DigestAlgorithm::Sha1 => STANDARD.encode(Sha1::digest(text.as_bytes())),
        DigestAlgorithm::Sha256 => STANDARD.encode(Sha256::digest(text.as_bytes())),
        DigestAlgorithm::Sha384 => STANDARD.encode(Sha384::digest(text.as_bytes())),
        DigestAlgorithm::Sha512 => STANDARD.encode(Sha512::digest(text.as_bytes())),
    };
    format!("{user}:{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_javas() {
        let sha1 = |auth| digest_id(auth, DigestAlgorithm::Sha1);
        assert_eq!(sha1(b"u:p"), "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=");
        assert_eq!(sha1(b"alice:secret"), "alice:aYXlLOpEooaV1cRAvUL1fp9Qt7E=");
        assert!(sha1(b"nocolon").starts_with("nocolon:"));
        assert_eq!(digest_id(b"u:p", DigestAlgorithm::Sha256).len(), 2 + 44);
    }
}
