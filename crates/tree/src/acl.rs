//! Who may do what: the table of distinct lists, the check, and what becomes of a list that a client sends.
//!
//! Source: `ReferenceCountedACLCache`, `ZooKeeperServer.checkACL`, `PrepRequestProcessor.fixupACL`, 3.9.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use oxkeeper_proto::{Acl, AclList, ErrorCode, wire};

use crate::hash::{Map, Seeded};

/// What `auth` entries may come to. A longer list could not be read by any client, and many entries times many
/// identities are more than a server should hold. The same goes for all lists of one request.
pub(crate) const EXPANDED_BYTES_MAX: usize = wire::JUTE_MAXBUFFER;
/// Permissions and two lengths.
const ENTRY_BYTES: usize = 12;

/// Someone a connection has proved to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// How it was proved: `ip`, `digest`, `super`, …
    pub scheme: Cow<'static, str>,
    /// The id in the form of the scheme.
    pub id: String,
}

/// The schemes that a server can check, besides `world`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schemes {
    /// `ip`: the peer's address.
    pub ip: bool,
    /// `digest`: user and hash.
    pub digest: bool,
}

/// The id of `world:anyone:cdrwa` in the table.
pub(crate) const OPEN: u32 = 0;
/// The id of a list that a fuzzy snapshot refers to but does not hold. Nobody passes it.
pub(crate) const MISSING: u32 = u32::MAX;

/// The distinct lists in use, each under a number.
#[derive(Debug)]
pub(crate) struct AclTable {
    lists: Map<u32, Counted>,
    ids: Map<Box<[u8]>, u32>,
    last: u32,
}

#[derive(Debug)]
struct Counted {
    list: AclList<'static>,
    references: u32,
}

static OPEN_LIST: AclList<'static> = AclList::OPEN;

impl AclTable {
    pub(crate) fn new(seeded: &Seeded) -> AclTable {
        AclTable { lists: Map::with_hasher(seeded.clone()), ids: Map::with_hasher(seeded.clone()), last: 0 }
    }

    /// The number of `list`, with one more reference to it.
    pub(crate) fn acquire(&mut self, list: &AclList<'_>) -> u32 {
        if list.is_open() {
            return OPEN;
        }
        if let Some(&id) = self.ids.get(list.as_bytes()) {
            self.retain(id);
            return id;
        }
        self.last += 1;
        assert!(self.last < MISSING, "more access control lists than 32 bits can number");
        self.ids.insert(list.as_bytes().into(), self.last);
        self.lists.insert(self.last, Counted { list: list.clone().into_owned(), references: 1 });
        self.last
    }

    fn retain(&mut self, id: u32) {
        if let Some(counted) = self.lists.get_mut(&id) {
            counted.references += 1;
        }
    }

    /// Takes one reference back; a list without references goes.
    pub(crate) fn release(&mut self, id: u32) {
        if id == OPEN || id == MISSING {
            return;
        }
        let Some(counted) = self.lists.get_mut(&id) else { return };
        counted.references -= 1;
        if counted.references == 0
            && let Some(gone) = self.lists.remove(&id)
        {
            self.ids.remove(gone.list.as_bytes());
        }
    }

    /// The list under a number; `None` only for [`MISSING`].
    pub(crate) fn get(&self, id: u32) -> Option<&AclList<'static>> {
        if id == OPEN { Some(&OPEN_LIST) } else { self.lists.get(&id).map(|counted| &counted.list) }
    }

    /// All lists but the open one, by number.
    pub(crate) fn sorted(&self) -> Vec<(u32, &AclList<'static>)> {
        let mut all: Vec<_> = self.lists.iter().map(|(id, counted)| (*id, &counted.list)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }
}

/// Whether one of `identities` has one of the `wanted` permissions.
#[must_use]
#[inline]
pub fn allows(list: &AclList<'_>, wanted: i32, identities: &[Identity], schemes: Schemes) -> bool {
    list.is_open() && wanted & 31 != 0
        || list.is_empty()
        || identities.iter().any(|identity| identity.scheme == "super")
        || list.iter().any(|acl| acl.perms & wanted != 0 && matches(&acl, identities, schemes))
}

fn matches(acl: &Acl<'_>, identities: &[Identity], schemes: Schemes) -> bool {
    let (Some(scheme), Some(id)) = (acl.scheme.as_deref(), acl.id.as_deref()) else { return false };
    let mut same = identities.iter().filter(|identity| identity.scheme == scheme);
    match scheme {
        "world" => id == "anyone",
        "ip" => {
            schemes.ip && same.any(|identity| Network::parse(id).is_some_and(|net| net.holds(&identity.id)))
        }
        "digest" => schemes.digest && same.any(|identity| identity.id == id),
        _ => false,
    }
}

/// What a list becomes when a client sets it: duplicates go, `auth` becomes the connection's identities.
///
/// # Errors
/// `INVALIDACL` for an empty list, an unknown scheme, a malformed id, or `auth` without an identity;
/// `MARSHALLINGERROR` for `world` without an id, which trips Java up.
pub fn fix_up<'a>(
    list: Option<&'a AclList<'_>>,
    identities: &[Identity],
    schemes: Schemes,
) -> Result<AclList<'a>, ErrorCode> {
    let list = list.filter(|list| !list.is_empty()).ok_or(ErrorCode::INVALIDACL)?;
    if list.is_open() {
        return Ok(AclList::OPEN);
    }
    let mut seen = BTreeSet::new();
    let mut fixed: Vec<Acl<'_>> = Vec::new();
    let mut granted_bytes = 0;
    for acl in list.iter().filter(|acl| seen.insert((acl.perms, acl.scheme.clone(), acl.id.clone()))) {
        let Some(scheme) = acl.scheme.as_deref() else { return Err(ErrorCode::INVALIDACL) };
        match (scheme, acl.id.as_deref()) {
            ("world", None) => return Err(ErrorCode::MARSHALLINGERROR),
            ("world", Some("anyone")) => fixed.push(acl),
            ("auth", _) => {
                let before = fixed.len();
                for identity in identities.iter().filter(|i| i.scheme == "digest" && schemes.digest) {
                    fixed.push(Acl::new(acl.perms, &identity.scheme, &identity.id));
                    granted_bytes += identity.scheme.len() + identity.id.len() + ENTRY_BYTES;
                    if granted_bytes > EXPANDED_BYTES_MAX {
                        return Err(ErrorCode::INVALIDACL);
                    }
                }
                if fixed.len() == before {
                    return Err(ErrorCode::INVALIDACL);
                }
            }
            ("ip", Some(id)) if schemes.ip && Network::parse(id).is_some() => fixed.push(acl),
            ("digest", Some(id)) if schemes.digest && is_digest_id(id) => fixed.push(acl),
            _ => return Err(ErrorCode::INVALIDACL),
        }
    }
    Ok(AclList::from_entries(fixed.iter()))
}

/// What Java's `split(":")` calls two parts: trailing empty ones do not count.
fn is_digest_id(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2 && !id.trim_end_matches(':').is_empty()
}

/// An address of the `ip` scheme, perhaps with a length of prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: Address,
    bits: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    V4(u32),
    V6(u128),
}

impl Address {
    fn parse(text: &str) -> Option<Address> {
        if text.contains(':') {
            let zoneless = text.split('%').next().unwrap_or(text);
            return zoneless.parse::<Ipv6Addr>().ok().map(|v6| match v6.to_ipv4_mapped() {
                Some(v4) => Address::V4(v4.to_bits()),
                None => Address::V6(v6.to_bits()),
            });
        }
        let mut octets = [0u8; 4];
        let mut parts = text.split('.');
        for octet in &mut octets {
            // Leading zeros are decimal to Java.
            *octet = parts.next()?.parse::<u8>().ok()?;
        }
        parts.next().is_none().then(|| Address::V4(Ipv4Addr::from(octets).to_bits()))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (Address::parse(address)?, Some(bits.parse::<u32>().ok()?)),
            None => (Address::parse(text)?, None),
        };
        let most = if matches!(address, Address::V4(_)) { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Network { address, bits })
    }

    fn holds(&self, peer: &str) -> bool {
        match (self.address, Address::parse(peer)) {
            (Address::V4(net), Some(Address::V4(peer))) => {
                (net ^ peer).checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (Address::V6(net), Some(Address::V6(peer))) => {
                (net ^ peer).checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The list as someone without ADMIN may see it: digests are hidden.
#[must_use]
pub fn masked(list: &AclList<'_>) -> AclList<'static> {
    let entries: Vec<Acl<'_>> = list
        .iter()
        .map(|acl| match (acl.scheme.as_deref(), acl.id.as_deref()) {
            (Some("digest"), Some(id)) if id.contains(':') => {
                let user = id.split(':').next().unwrap_or_default();
                Acl { id: Some(Cow::Owned(format!("{user}:x"))), ..acl }
            }
            _ => acl,
        })
        .collect();
    AclList::from_entries(entries.iter())
}

#[cfg(test)]
mod tests {
    use oxkeeper_proto::perms;

    use super::*;

    const ALL: Schemes = Schemes { ip: true, digest: true };

    fn list(entries: &[(i32, &str, &str)]) -> AclList<'static> {
        let entries: Vec<Acl<'_>> = entries.iter().map(|(p, s, i)| Acl::new(*p, s, i)).collect();
        AclList::from_entries(entries.iter())
    }

    fn identity(scheme: &'static str, id: &str) -> Identity {
        Identity { scheme: scheme.into(), id: id.to_owned() }
    }

    #[test]
    fn networks_match_by_prefix_within_their_family() {
        for (net, peer, holds) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.0/8", "127.9.9.9", true),
            ("127.0.0.0/8", "128.0.0.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("::1", "::1", true),
            ("fe80::/10", "fe80::1", true),
            ("::/0", "127.0.0.1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
        ] {
            assert_eq!(Network::parse(net).unwrap().holds(peer), holds, "{net} {peer}");
        }
        for bad in ["1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.4/33", "::1/129", "x", "1.2.3.4/", ""] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn digest_ids_follow_javas_split() {
        for (id, good) in [
            ("a:b", true),
            (":b", true),
            ("a:b:", true),
            ("a:b:c", false),
            ("abc", false),
            ("a:", false),
            (":", false),
        ] {
            assert_eq!(is_digest_id(id), good, "{id}");
        }
    }

    #[test]
    fn fix_up_expands_auth_and_drops_duplicates() {
        let me = [
            identity("ip", "127.0.0.1"),
            identity("digest", "a:x"),
            identity("digest", "b:y"),
            identity("super", ""),
        ];
        let sent = list(&[(31, "auth", ""), (1, "world", "anyone"), (1, "world", "anyone")]);
        let stored = fix_up(Some(&sent), &me, ALL).unwrap();
        assert_eq!(stored, list(&[(31, "digest", "a:x"), (31, "digest", "b:y"), (1, "world", "anyone")]));
        let no_one = [identity("ip", "127.0.0.1")];
        assert_eq!(fix_up(Some(&sent), &no_one, ALL), Err(ErrorCode::INVALIDACL));
        for bad in
            [list(&[]), list(&[(1, "world", "me")]), list(&[(1, "nope", "x")]), list(&[(1, "ip", "x")])]
        {
            assert_eq!(fix_up(Some(&bad), &me, ALL), Err(ErrorCode::INVALIDACL));
        }
        assert_eq!(fix_up(None, &me, ALL), Err(ErrorCode::INVALIDACL));
    }

    /// As many entries as a frame holds: comparing all with all would take half a minute.
    #[test]
    fn very_many_entries_are_told_apart_without_comparing_all_with_all() {
        let entries: Vec<Acl<'_>> = (0..60_000).map(|perms| Acl::new(perms, "ip", "")).collect();
        let sent = AclList::from_entries(entries.iter());
        assert_eq!(fix_up(Some(&sent), &[], ALL), Err(ErrorCode::INVALIDACL), "no address is empty");
        let entries: Vec<Acl<'_>> = (0..50_000).map(|perms| Acl::new(perms, "ip", "::1")).collect();
        let sent = AclList::from_entries(entries.iter().chain(&entries).collect::<Vec<_>>().into_iter());
        let stored = fix_up(Some(&sent), &[], ALL).unwrap();
        assert_eq!(stored, AclList::from_entries(entries.iter()));
    }

    #[test]
    fn many_entries_times_many_identities_are_refused() {
        let me: Vec<Identity> = (0..1000).map(|n| identity("digest", &format!("user{n}:hash"))).collect();
        let sent = |entries| {
            let entries: Vec<Acl<'_>> = (0..entries).map(|perms| Acl::new(perms, "auth", "")).collect();
            AclList::from_entries(entries.iter())
        };
        assert_eq!(fix_up(Some(&sent(20)), &me, ALL).unwrap().iter().count(), 20_000);
        assert_eq!(fix_up(Some(&sent(50)), &me, ALL), Err(ErrorCode::INVALIDACL));
        assert_eq!(fix_up(Some(&sent(60_000)), &me, ALL), Err(ErrorCode::INVALIDACL));
    }

    #[test]
    fn checks_follow_the_algorithm() {
        let mine = list(&[(perms::READ, "digest", "a:x"), (perms::WRITE, "ip", "10.0.0.0/8")]);
        let a = [identity("digest", "a:x")];
        let ten = [identity("ip", "10.1.1.1")];
        let root = [identity("super", "")];
        assert!(allows(&mine, perms::READ, &a, ALL) && !allows(&mine, perms::WRITE, &a, ALL));
        assert!(allows(&mine, perms::WRITE, &ten, ALL) && !allows(&mine, perms::READ, &ten, ALL));
        assert!(allows(&mine, perms::ADMIN, &root, ALL));
        assert!(allows(&list(&[]), perms::ADMIN, &[], ALL));
        assert!(!allows(&mine, perms::READ, &a, Schemes { ip: true, digest: false }));
        assert!(allows(&mine, perms::READ | perms::ADMIN, &a, ALL), "wanted bits are alternatives");
    }

    #[test]
    fn masking_hides_hashes_only() {
        let seen = masked(&list(&[(31, "digest", "u:h"), (1, "ip", "::1"), (1, "digest", ":b")]));
        assert_eq!(seen, list(&[(31, "digest", "u:x"), (1, "ip", "::1"), (1, "digest", ":x")]));
    }

    #[test]
    fn table_counts_references() {
        let mut table = AclTable::new(&Seeded::new(1));
        let read = AclList::READ_ONLY;
        assert_eq!(table.acquire(&AclList::OPEN), OPEN);
        let id = table.acquire(&read);
        assert_eq!(table.acquire(&read), id);
        table.release(id);
        assert!(table.get(id).is_some());
        table.release(id);
        assert!(table.get(id).is_none() && table.sorted().is_empty());
        assert_ne!(table.acquire(&read), id, "numbers are not used again");
    }
}
