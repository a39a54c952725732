//! What the `ephemeralOwner` field of a stored stat says: besides sessions it marks containers and times
//! to live.
//!
//! Source: `EphemeralType`, 3.9.

use oxkeeper_proto::SessionId;

/// The stored value of a container.
pub(crate) const CONTAINER: i64 = i64::MIN;
/// The longest time to live, in ms: 40 bits.
pub const TTL_MS_MAX: i64 = (1 << 40) - 1;
const EXTENDED: i64 = 0xff << 56;
const FEATURE_MASK: i64 = 0xffff << 40;

/// Which stored values are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerRules {
    /// `zookeeper.extendedTypesEnabled`: znodes may have a time to live.
    pub extended_types: bool,
    /// `zookeeper.emulate353TTLNodes`: the form of 3.5.3 is understood too.
    pub emulate_353: bool,
}

/// Who or what a znode's life hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nothing: it is persistent.
    None,
    /// A session: it is ephemeral.
    Session(SessionId),
    /// Its children.
    Container,
    /// Time without children and changes, in ms.
    Ttl(i64),
}

impl Owner {
    /// Reads a stored value.
    #[must_use]
    pub fn from_stored(stored: i64, rules: OwnerRules) -> Owner {
        if stored == 0 {
            return Owner::None;
        }
        if stored == CONTAINER {
            return Owner::Container;
        }
        if rules.extended_types {
            let is_ttl = stored & EXTENDED == EXTENDED && stored & FEATURE_MASK == 0;
            if is_ttl || rules.emulate_353 && stored < 0 {
                return Owner::Ttl(stored & TTL_MS_MAX);
            }
        }
        Owner::Session(SessionId(stored))
    }

    /// The stored value.
    #[must_use]
    pub fn stored(self) -> i64 {
        match self {
            Owner::None => 0,
            Owner::Session(session) => session.0,
            Owner::Container => CONTAINER,
            Owner::Ttl(ms) => EXTENDED | ms,
        }
    }

    /// Whether a stored value looks like a time to live, whatever is enabled.
    #[must_use]
    pub fn looks_like_ttl(stored: i64) -> bool {
        stored & EXTENDED == EXTENDED && stored & FEATURE_MASK == 0
    }

    /// What clients see: the session of an ephemeral and 0 for all others.
    #[must_use]
    pub fn seen_by_clients(self) -> i64 {
        match self {
            Owner::Session(session) => session.0,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_forms_are_javas() {
        let on = OwnerRules { extended_types: true, emulate_353: false };
        let off = OwnerRules { extended_types: false, emulate_353: false };
        // Seen in a snapshot of a real server: a time to live of one day.
        assert_eq!(Owner::from_stored(-72_057_593_951_527_936, on), Owner::Ttl(86_400_000));
        assert_eq!(Owner::Ttl(86_400_000).stored(), -72_057_593_951_527_936);
        assert!(matches!(Owner::from_stored(-72_057_593_951_527_936, off), Owner::Session(_)));
        assert_eq!(Owner::from_stored(i64::MIN, off), Owner::Container);
        assert_eq!(Owner::from_stored(0, on), Owner::None);
        let old = OwnerRules { extended_types: true, emulate_353: true };
        assert_eq!(Owner::from_stored(i64::MIN | 77, old), Owner::Ttl(77));
    }
}
