//! Access control lists, kept in their encoded form: most znodes share a few lists, and comparing or
//! storing one is then comparing or copying one run of bytes.

use std::borrow::Cow;
use std::fmt;

use crate::codes::perms;
use crate::wire::{DecodeError, Put, Reader};

/// One entry, as the wire may hold it: scheme and id can be null.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Acl<'a> {
    /// Permission bits; unknown bits are kept.
    pub perms: i32,
    /// Who vouches: `world`, `ip`, `digest`, `auth`, `x509`, `sasl`.
    pub scheme: Option<Cow<'a, str>>,
    /// Whom: its form depends on the scheme.
    pub id: Option<Cow<'a, str>>,
}

impl<'a> Acl<'a> {
    /// An entry without nulls.
    #[must_use]
    pub fn new(perms: i32, scheme: &'a str, id: &'a str) -> Acl<'a> {
        Acl { perms, scheme: Some(Cow::Borrowed(scheme)), id: Some(Cow::Borrowed(id)) }
    }

    /// Reads `ACL { perms, Id { scheme, id } }`.
    ///
    /// # Errors
    /// The bytes are no entry.
    pub fn decode(r: &mut Reader<'a>) -> Result<Acl<'a>, DecodeError> {
        Ok(Acl { perms: r.int()?, scheme: r.string_or_null()?, id: r.string_or_null()? })
    }

    /// Writes the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.perms);
        out.put_buffer(self.scheme.as_deref().map(str::as_bytes));
        out.put_buffer(self.id.as_deref().map(str::as_bytes));
    }
}

/// `world:anyone` with every permission, encoded.
const OPEN: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";
/// `world:anyone` with READ, encoded.
const READ_ONLY: &[u8] = b"\0\0\0\x01\0\0\0\x01\0\0\0\x05world\0\0\0\x06anyone";

/// A list in its encoded form, count included, known to be well formed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AclList<'a>(Cow<'a, [u8]>);

impl<'a> AclList<'a> {
    /// `world:anyone:cdrwa`, what most clients send.
    pub const OPEN: AclList<'static> = AclList(Cow::Borrowed(OPEN));
    /// `world:anyone:r`, what `/zookeeper/config` is born with.
    pub const READ_ONLY: AclList<'static> = AclList(Cow::Borrowed(READ_ONLY));

    /// Reads `vector<ACL>`; `None` for a null vector.
    ///
    /// # Errors
    /// The bytes are no list.
    #[inline]
    pub fn decode(r: &mut Reader<'a>) -> Result<Option<AclList<'a>>, DecodeError> {
        if r.rest().starts_with(OPEN) {
            return Ok(Some(AclList(Cow::Borrowed(r.take(OPEN.len())?))));
        }
        let start = r.offset();
        let Some(count) = r.count(12)? else { return Ok(None) };
        let mut replaced = false;
        for _ in 0..count {
            let acl = Acl::decode(r)?;
            replaced |= [&acl.scheme, &acl.id].into_iter().any(|t| matches!(t, Some(Cow::Owned(_))));
        }
        let raw = r.since(start);
        let canonical =
            raw.get(..4) == i32::try_from(count).ok().map(i32::to_be_bytes).as_ref().map(|b| &b[..]);
        if replaced || !canonical {
            let entries: Vec<Acl<'_>> = Entries::new(raw).collect();
            return Ok(Some(AclList::from_entries(entries.iter())));
        }
        Ok(Some(AclList(Cow::Borrowed(raw))))
    }

    /// A list of the given entries.
    #[must_use]
    pub fn from_entries<'e, 'b: 'e>(entries: impl ExactSizeIterator<Item = &'e Acl<'b>>) -> AclList<'static> {
        let mut out = Vec::new();
        out.put_length(entries.len());
        for acl in entries {
            acl.encode(&mut out);
        }
        AclList(Cow::Owned(out))
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Acl<'_>> {
        Entries::new(&self.0)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len() <= 4
    }

    /// The encoded form, count included.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A list that owns its bytes.
    #[must_use]
    pub fn into_owned(self) -> AclList<'static> {
        AclList(Cow::Owned(self.0.into_owned()))
    }

    /// The same list, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> AclList<'_> {
        AclList(Cow::Borrowed(&self.0))
    }

    /// Whether the list gives `world:anyone` everything, the common case that needs no identities.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.0 == *OPEN
    }

    /// Writes `vector<ACL>`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_raw(&self.0);
    }

    /// Writes `vector<ACL>`, which may be null.
    pub fn encode_nullable(list: Option<&AclList<'_>>, out: &mut Vec<u8>) {
        match list {
            Some(list) => list.encode(out),
            None => out.put_int(-1),
        }
    }
}

impl fmt::Debug for AclList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for acl in self.iter() {
            let scheme = acl.scheme.as_deref().unwrap_or("null");
            // Ids of the digest scheme hold a password's hash.
            let id = if scheme == "digest" { "…" } else { acl.id.as_deref().unwrap_or("null") };
            list.entry(&format_args!("{scheme}:{id}:{}", letters(acl.perms)));
        }
        list.finish()
    }
}

/// The permission letters as tools print them, in the order `cdrwa`.
#[must_use]
pub fn letters(bits: i32) -> String {
    let table = [
        (perms::CREATE, 'c'),
        (perms::DELETE, 'd'),
        (perms::READ, 'r'),
        (perms::WRITE, 'w'),
        (perms::ADMIN, 'a'),
    ];
    table.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| letter).collect()
}

struct Entries<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Entries<'a> {
    fn new(encoded: &'a [u8]) -> Entries<'a> {
        let mut reader = Reader::new(encoded);
        let left = reader.count(12).ok().flatten().unwrap_or(0);
        Entries { reader, left }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Acl<'a>;

    fn next(&mut self) -> Option<Acl<'a>> {
        self.left = self.left.checked_sub(1)?;
        Acl::decode(&mut self.reader).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_what_they_say() {
        let open = AclList::from_entries([Acl::new(31, "world", "anyone")].iter());
        assert_eq!(open, AclList::OPEN);
        assert!(open.is_open());
        let read = AclList::from_entries([Acl::new(1, "world", "anyone")].iter());
        assert_eq!(read, AclList::READ_ONLY);
        assert_eq!(letters(31), "cdrwa");
    }

    #[test]
    fn lists_round_trip_with_nulls() {
        let entries = [Acl { perms: 99, scheme: None, id: None }, Acl::new(1, "ip", "10.0.0.0/8")];
        let list = AclList::from_entries(entries.iter());
        let mut out = Vec::new();
        list.encode(&mut out);
        let again = AclList::decode(&mut Reader::new(&out)).unwrap().unwrap();
        assert_eq!(again, list);
        assert_eq!(again.iter().collect::<Vec<_>>(), entries);
    }

    #[test]
    fn malformed_text_and_counts_become_canonical() {
        let mut out = Vec::new();
        out.put_int(-7);
        let empty = AclList::decode(&mut Reader::new(&out)).unwrap().unwrap();
        assert_eq!(empty.as_bytes(), [0, 0, 0, 0]);
        assert!(empty.is_empty());
        let mut out = Vec::new();
        out.put_int(1);
        out.put_int(1);
        out.put_buffer(Some(&[0xff]));
        out.put_buffer(Some(b"x"));
        let list = AclList::decode(&mut Reader::new(&out)).unwrap().unwrap();
        assert_eq!(list.iter().next().unwrap().scheme.as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn debug_hides_digests() {
        let list = AclList::from_entries([Acl::new(31, "digest", "u:hash")].iter());
        assert_eq!(format!("{list:?}"), "[digest:…:cdrwa]");
    }
}
