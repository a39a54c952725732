//! Where znodes live: slots in chunks, linked by 32-bit numbers, found by the hash of their full path.
//!
//! No full path is stored. A path is compared with a znode by walking up: the names must match from the
//! last component to the first. A znode costs a slot of 96 bytes, an index entry of about 14, and one
//! allocation that holds its name and data together.

use hashbrown::HashTable;
use oxkeeper_proto::{StatPersisted, Zxid};
use slab::Slab;

use crate::hash::Seeded;
use crate::names::EncodedNames;

/// A znode's place. 0 is the root and, in links, "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    pub(crate) const ROOT: Slot = Slot(0);
}

const NONE: u32 = 0;
const VACANT: u32 = u32::MAX;
const CHUNK_BITS: u32 = 10;
const CHUNK: usize = 1 << CHUNK_BITS;
const NULL_DATA: u32 = 1 << 31;
const OWNED: u32 = 1 << 30;
const NAME_MASK: u32 = OWNED - 1;
/// From so many children on their names are kept as replies carry them; until they are a quarter of that. To visit
/// fewer takes a millisecond at most, and they cost nothing when they come and go.
const LISTED_CHILDREN: u32 = 16_384;

/// One znode. What few have (children, an owner) lies elsewhere.
#[derive(Debug)]
pub(crate) struct Znode {
    pub(crate) czxid: Zxid,
    pub(crate) mzxid: Zxid,
    pub(crate) pzxid: Zxid,
    pub(crate) ctime: i64,
    pub(crate) mtime: i64,
    /// Name, then data.
    content: Box<[u8]>,
    /// Length of the name in the low bits, then whether it has an owner, then whether the data is null.
    name_len: u32,
    pub(crate) version: i32,
    /// Children ever created.
    pub(crate) cversion: i32,
    pub(crate) aversion: i32,
    /// An id of the ACL table.
    pub(crate) acl: u32,
    /// CRC-32 of path and data: what a change of the stat alone leaves as it is.
    pub(crate) prefix_crc: u32,
    parent: u32,
    next: u32,
    previous: u32,
    /// Index into the families, plus one; 0 for a znode without children.
    family: u32,
}

/// What only a znode with children has.
#[derive(Debug, Default)]
struct Family {
    first: u32,
    children: u32,
    descendants: u32,
    /// Of data of all descendants.
    bytes: u64,
    /// The children's names, once they are many.
    names: Option<Box<EncodedNames>>,
}

/// What a new znode starts with.
pub(crate) struct Birth<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: Option<&'a [u8]>,
    /// Everything but the owner, which the tree keeps beside.
    pub(crate) stat: StatPersisted,
    pub(crate) acl: u32,
    pub(crate) prefix_crc: u32,
}

impl Znode {
    fn new(birth: &Birth<'_>, parent: Slot) -> Znode {
        let mut node = Znode {
            czxid: birth.stat.czxid,
            mzxid: birth.stat.mzxid,
            pzxid: birth.stat.pzxid,
            ctime: birth.stat.ctime,
            mtime: birth.stat.mtime,
            content: Box::default(),
            name_len: 0,
            version: birth.stat.version,
            cversion: birth.stat.cversion,
            aversion: birth.stat.aversion,
            acl: birth.acl,
            prefix_crc: birth.prefix_crc,
            parent: parent.0,
            next: NONE,
            previous: NONE,
            family: NONE,
        };
        node.fill(birth.name.as_bytes(), birth.data);
        node.set_owned(birth.stat.ephemeral_owner != 0);
        node
    }

    fn fill(&mut self, name: &[u8], data: Option<&[u8]>) {
        let bytes = data.unwrap_or_default();
        let mut content = Vec::with_capacity(name.len() + bytes.len());
        content.extend_from_slice(name);
        content.extend_from_slice(bytes);
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        assert!(name_len <= NAME_MASK, "a name of {} bytes cannot come in a frame", name.len());
        self.content = content.into_boxed_slice();
        self.name_len = name_len | self.name_len & OWNED | if data.is_none() { NULL_DATA } else { 0 };
    }

    fn name_end(&self) -> usize {
        (self.name_len & NAME_MASK) as usize
    }

    #[inline]
    pub(crate) fn name(&self) -> &[u8] {
        self.content.get(..self.name_end()).unwrap_or_default()
    }

    /// The data, null kept apart from empty.
    #[inline]
    pub(crate) fn data(&self) -> Option<&[u8]> {
        (self.name_len & NULL_DATA == 0).then(|| self.content.get(self.name_end()..).unwrap_or_default())
    }

    #[inline]
    pub(crate) fn data_len(&self) -> usize {
        self.content.len() - self.name_end()
    }

    /// Whether the tree keeps an owner for it.
    #[inline]
    pub(crate) fn is_owned(&self) -> bool {
        self.name_len & OWNED != 0
    }

    pub(crate) fn set_owned(&mut self, owned: bool) {
        self.name_len = self.name_len & !OWNED | if owned { OWNED } else { 0 };
    }

    #[inline]
    pub(crate) fn parent(&self) -> Slot {
        Slot(self.parent)
    }

    fn is_vacant(&self) -> bool {
        self.parent == VACANT
    }
}

/// All znodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    chunks: Vec<Vec<Znode>>,
    vacant: Vec<u32>,
    families: Slab<Family>,
    index: Index,
    live: usize,
    /// Bytes of names and data, for the "approximate size" that operators watch.
    bytes: u64,
}

impl Nodes {
    /// The nodes of a tree that has only a root.
    pub(crate) fn new(seeded: Seeded) -> Nodes {
        let mut nodes = Nodes {
            chunks: Vec::new(),
            vacant: Vec::new(),
            families: Slab::new(),
            index: Index::new(seeded),
            live: 1,
            bytes: 0,
        };
        let birth =
            Birth { name: "", data: Some(b""), stat: StatPersisted::default(), acl: 0, prefix_crc: 0 };
        nodes.place(Znode::new(&birth, Slot::ROOT));
        nodes
    }

    /// Number of znodes, the root included.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// One more than the highest slot ever used.
    pub(crate) fn high_water(&self) -> u32 {
        self.chunks.iter().map(|chunk| chunk.len() as u32).sum()
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> &Znode {
        &self.chunks[(slot.0 >> CHUNK_BITS) as usize][slot.0 as usize & (CHUNK - 1)]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Znode {
        &mut self.chunks[(slot.0 >> CHUNK_BITS) as usize][slot.0 as usize & (CHUNK - 1)]
    }

    /// The znode in a slot below the high water, if there is one.
    pub(crate) fn live(&self, slot: Slot) -> Option<&Znode> {
        let node = self.get(slot);
        (!node.is_vacant()).then_some(node)
    }

    /// The znode at `path`; the empty string is another name of the root.
    #[inline]
    pub(crate) fn find(&self, path: &str) -> Option<Slot> {
        if path.len() <= 1 {
            return (path.is_empty() || path == "/").then_some(Slot::ROOT);
        }
        let hash = self.index.seeded.path(path);
        self.index.find(hash, |slot| self.is_at(slot, path))
    }

    fn is_at(&self, mut slot: Slot, path: &str) -> bool {
        let mut rest = path.as_bytes();
        while slot != Slot::ROOT {
            let node = self.get(slot);
            match rest.strip_suffix(node.name()) {
                Some([head @ .., b'/']) => rest = head,
                _ => return false,
            }
            slot = node.parent();
        }
        rest.is_empty()
    }

    /// The path of a znode.
    pub(crate) fn path(&self, slot: Slot) -> String {
        if slot == Slot::ROOT {
            return "/".to_owned();
        }
        let mut out = Vec::new();
        self.write_path(slot, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Appends the path of a znode; nothing for the root.
    pub(crate) fn write_path(&self, slot: Slot, out: &mut Vec<u8>) {
        let mut len = 0;
        let mut at = slot;
        while at != Slot::ROOT {
            let node = self.get(at);
            len += node.name().len() + 1;
            at = node.parent();
        }
        let start = out.len();
        out.resize(start + len, b'/');
        let mut end = out.len();
        at = slot;
        while at != Slot::ROOT {
            let node = self.get(at);
            let name = node.name();
            if let Some(place) = out.get_mut(end - name.len()..end) {
                place.copy_from_slice(name);
            }
            end -= name.len() + 1;
            at = node.parent();
        }
    }

    /// Adds a znode that is not there yet. `path` is its full path, `parent` its parent's slot.
    pub(crate) fn insert(&mut self, parent: Slot, path: &str, birth: &Birth<'_>) -> Slot {
        let slot = self.place(Znode::new(birth, parent));
        self.index.insert(path, slot);
        self.live += 1;
        self.bytes += self.get(slot).content.len() as u64;
        if self.get(parent).family == NONE {
            let key = self.families.insert(Family::default()) as u32;
            self.get_mut(parent).family = key + 1;
        }
        let family = self.family_mut(parent);
        let first = family.first;
        family.first = slot.0;
        family.children += 1;
        self.get_mut(slot).next = first;
        if first != NONE {
            self.get_mut(Slot(first)).previous = slot.0;
        }
        self.list_name(parent, slot, birth.name.as_bytes());
        self.count_descendants(parent, 1, birth.data.map_or(0, <[u8]>::len) as i64);
        slot
    }

    fn list_name(&mut self, parent: Slot, slot: Slot, name: &[u8]) {
        let family = self.family_mut(parent);
        if let Some(names) = &mut family.names {
            names.insert(slot, name);
        } else if family.children == LISTED_CHILDREN {
            let mut names = EncodedNames::new(&self.index.seeded);
            for (slot, child) in self.children(parent) {
                names.insert(slot, child.name());
            }
            self.family_mut(parent).names = Some(Box::new(names));
        }
    }

    fn unlist_name(&mut self, parent: Slot, slot: Slot, name: &[u8]) {
        let family = self.family_mut(parent);
        if family.children < LISTED_CHILDREN / 4 {
            family.names = None;
        } else if let Some(names) = &mut family.names {
            names.remove(slot, name);
        }
    }

    /// Removes a znode without children.
    pub(crate) fn remove(&mut self, slot: Slot, path: &str) {
        self.index.remove(path, slot);
        let node = self.get_mut(slot);
        debug_assert_eq!(node.family, NONE, "a znode with children cannot go");
        let (parent, next, previous) = (node.parent(), node.next, node.previous);
        let content = std::mem::take(&mut node.content);
        let (name, data) = content.split_at_checked(node.name_end()).unwrap_or_default();
        node.name_len = 0;
        node.parent = VACANT;
        self.bytes -= content.len() as u64;
        self.live -= 1;
        self.vacant.push(slot.0);
        if next != NONE {
            self.get_mut(Slot(next)).previous = previous;
        }
        if previous != NONE {
            self.get_mut(Slot(previous)).next = next;
        } else {
            self.family_mut(parent).first = next;
        }
        self.count_descendants(parent, -1, -(data.len() as i64));
        let family = self.family_mut(parent);
        family.children -= 1;
        let children = family.children;
        self.unlist_name(parent, slot, name);
        if children == 0 {
            let key = self.get(parent).family - 1;
            self.families.remove(key as usize);
            self.get_mut(parent).family = NONE;
        }
    }

    fn count_descendants(&mut self, mut slot: Slot, by: i32, bytes: i64) {
        loop {
            let family = self.family_mut(slot);
            family.descendants = family.descendants.wrapping_add_signed(by);
            family.bytes = family.bytes.wrapping_add_signed(bytes);
            if slot == Slot::ROOT {
                return;
            }
            slot = self.get(slot).parent();
        }
    }

    /// Replaces the data. The caller keeps `prefix_crc` and the stat.
    pub(crate) fn set_data(&mut self, slot: Slot, data: Option<&[u8]>) {
        let node = self.get_mut(slot);
        let before = node.content.len();
        let end = node.name_end();
        let parent = node.parent();
        match data {
            Some(bytes) if node.data_len() == bytes.len() && node.data().is_some() => {
                if let Some(place) = node.content.get_mut(end..) {
                    place.copy_from_slice(bytes);
                }
            }
            _ => {
                let old = std::mem::take(&mut node.content);
                node.fill(old.get(..end).unwrap_or_default(), data);
            }
        }
        let after = node.content.len();
        if before != after {
            let change = after as i64 - before as i64;
            self.bytes = self.bytes.wrapping_add_signed(change);
            if slot != Slot::ROOT {
                self.count_descendants(parent, 0, change);
            }
        }
    }

    fn family(&self, slot: Slot) -> Option<&Family> {
        let key = self.get(slot).family.checked_sub(1)?;
        self.families.get(key as usize)
    }

    fn family_mut(&mut self, slot: Slot) -> &mut Family {
        let key = (self.get(slot).family as usize).wrapping_sub(1);
        match self.families.get_mut(key) {
            Some(family) => family,
            None => panic!("{slot:?} has children but no family"),
        }
    }

    pub(crate) fn children_len(&self, slot: Slot) -> u32 {
        self.family(slot).map_or(0, |family| family.children)
    }

    pub(crate) fn descendants_len(&self, slot: Slot) -> u32 {
        self.family(slot).map_or(0, |family| family.descendants)
    }

    /// Bytes of data of the znode and all below it.
    pub(crate) fn data_bytes_below(&self, slot: Slot) -> u64 {
        self.get(slot).data_len() as u64 + self.family(slot).map_or(0, |family| family.bytes)
    }

    /// The names of the children as replies carry them, if they are so many that these are kept.
    pub(crate) fn encoded_names(&self, slot: Slot) -> Option<&EncodedNames> {
        self.family(slot)?.names.as_deref()
    }

    pub(crate) fn children(&self, slot: Slot) -> Children<'_> {
        Children { nodes: self, at: self.family(slot).map_or(NONE, |family| family.first) }
    }

    fn place(&mut self, node: Znode) -> Slot {
        if let Some(slot) = self.vacant.pop() {
            *self.get_mut(Slot(slot)) = node;
            return Slot(slot);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunks = self.chunks.len();
        let slot = match self.chunks.last_mut() {
            Some(chunk) => {
                chunk.push(node);
                (chunks - 1) * CHUNK + chunk.len() - 1
            }
            None => 0,
        };
        assert!(slot < VACANT as usize, "more znodes than 32 bits can number");
        Slot(slot as u32)
    }
}

/// The children of a znode, in no order that means anything.
pub(crate) struct Children<'a> {
    nodes: &'a Nodes,
    at: u32,
}

impl<'a> Iterator for Children<'a> {
    type Item = (Slot, &'a Znode);

    fn next(&mut self) -> Option<(Slot, &'a Znode)> {
        if self.at == NONE {
            return None;
        }
        let slot = Slot(self.at);
        let node = self.nodes.get(slot);
        self.at = node.next;
        Some((slot, node))
    }
}

/// From the hash of a full path to a slot. Many small tables: one that grows holds up the loop for well
/// under a millisecond, where a single one of a million entries would take tens.
#[derive(Debug)]
struct Index {
    seeded: Seeded,
    shards: Vec<HashTable<Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    slot: Slot,
}

const SHARD_BITS: u32 = 8;

impl Index {
    fn new(seeded: Seeded) -> Index {
        Index { seeded, shards: (0..1 << SHARD_BITS).map(|_| HashTable::new()).collect() }
    }

    #[inline]
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    #[inline]
    fn shard(hash: u32) -> usize {
        (hash >> (32 - SHARD_BITS)) as usize
    }

    #[inline]
    fn find(&self, hash: u32, is_it: impl Fn(Slot) -> bool) -> Option<Slot> {
        let found = |entry: &Entry| entry.hash == hash && is_it(entry.slot);
        self.shards[Index::shard(hash)].find(Index::spread(hash), found).map(|entry| entry.slot)
    }

    fn insert(&mut self, path: &str, slot: Slot) {
        let hash = self.seeded.path(path);
        let entry = Entry { hash, slot };
        self.shards[Index::shard(hash)].insert_unique(Index::spread(hash), entry, |e| Index::spread(e.hash));
    }

    fn remove(&mut self, path: &str, slot: Slot) {
        let hash = self.seeded.path(path);
        let shard = &mut self.shards[Index::shard(hash)];
        match shard.find_entry(Index::spread(hash), |entry| entry.slot == slot) {
            Ok(entry) => {
                entry.remove();
            }
            Err(_) => panic!("{path} is in the tree but not in its index"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth<'a>(name: &'a str, data: Option<&'a [u8]>) -> Birth<'a> {
        Birth { name, data, stat: StatPersisted::default(), acl: 0, prefix_crc: 0 }
    }

    #[test]
    fn a_slot_is_as_small_as_promised() {
        assert_eq!(size_of::<Znode>(), 96);
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn finds_by_full_path_only() {
        let mut nodes = Nodes::new(Seeded::new(1));
        let a = nodes.insert(Slot::ROOT, "/a", &birth("a", None));
        let b = nodes.insert(a, "/a/b", &birth("b", Some(b"data")));
        assert_eq!(nodes.find("/a/b"), Some(b));
        for absent in ["/b", "a/b", "/a/b/", "//a/b", "/a/bb", "/ab", "x/a/b"] {
            assert_eq!(nodes.find(absent), None, "{absent}");
        }
        assert_eq!((nodes.find(""), nodes.find("/")), (Some(Slot::ROOT), Some(Slot::ROOT)));
        assert_eq!(nodes.path(b), "/a/b");
        assert_eq!((nodes.get(a).data(), nodes.get(b).data()), (None, Some(&b"data"[..])));
        assert_eq!((nodes.descendants_len(Slot::ROOT), nodes.children_len(Slot::ROOT)), (2, 1));
        nodes.remove(b, "/a/b");
        assert_eq!((nodes.find("/a/b"), nodes.children_len(a), nodes.len()), (None, 0, 2));
        assert_eq!(nodes.insert(a, "/a/c", &birth("c", None)), b, "slots are used again");
    }

    #[test]
    fn siblings_can_go_in_any_order() {
        let mut nodes = Nodes::new(Seeded::new(2));
        let paths: Vec<String> = (0..5).map(|i| format!("/n{i}")).collect();
        for gone in 0..5 {
            let slots: Vec<Slot> =
                paths.iter().map(|p| nodes.insert(Slot::ROOT, p, &birth(&p[1..], Some(b"")))).collect();
            nodes.remove(slots[gone], &paths[gone]);
            let mut left: Vec<Slot> = nodes.children(Slot::ROOT).map(|(slot, _)| slot).collect();
            left.sort();
            let mut expected = slots.clone();
            expected.remove(gone);
            expected.sort();
            assert_eq!(left, expected);
            for slot in left {
                let path = nodes.path(slot);
                nodes.remove(slot, &path);
            }
        }
        assert_eq!((nodes.len(), nodes.bytes()), (1, 0));
    }

    #[test]
    fn very_many_children_are_listed_as_they_are() {
        let mut nodes = Nodes::new(Seeded::new(5));
        let parent = nodes.insert(Slot::ROOT, "/p", &birth("p", None));
        let listed = |nodes: &Nodes| {
            let parts: Vec<u8> =
                nodes.encoded_names(parent)?.parts().iter().flat_map(|part| part.to_vec()).collect();
            Some((
                parts.len(),
                nodes.children(parent).map(|(_, child)| child.name().len() + 4).sum::<usize>(),
            ))
        };
        let name = |n: u32| format!("/p/child{n}");
        let slots: Vec<Slot> = (0..20_000)
            .map(|n| nodes.insert(parent, &name(n), &birth(&name(n)[3..], Some(b"12345"))))
            .collect();
        assert_eq!(nodes.data_bytes_below(Slot::ROOT), 100_000);
        nodes.set_data(slots[7], Some(b"1"));
        assert_eq!((nodes.data_bytes_below(Slot::ROOT), nodes.data_bytes_below(slots[7])), (99_996, 1));
        let (kept, right) = listed(&nodes).unwrap();
        assert_eq!(kept, right);
        for n in 0..19_900 {
            nodes.remove(slots[n as usize], &name(n));
            assert_eq!(nodes.encoded_names(parent).is_none(), n >= 15_904, "{n}");
            assert!(n % 100 > 0 || listed(&nodes).is_none_or(|(kept, right)| kept == right));
        }
        assert_eq!(nodes.data_bytes_below(parent), 500);
    }

    #[test]
    fn data_changes_in_place_and_by_size() {
        let mut nodes = Nodes::new(Seeded::new(3));
        let a = nodes.insert(Slot::ROOT, "/a", &birth("a", Some(b"one")));
        for data in [Some(&b"two"[..]), Some(b"longer"), None, Some(b""), None] {
            nodes.set_data(a, data);
            assert_eq!((nodes.get(a).data(), nodes.get(a).name()), (data, &b"a"[..]));
        }
        assert_eq!(nodes.bytes(), 1);
    }
}
