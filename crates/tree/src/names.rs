//! The names of very many children, kept as a reply carries them: a list of a million is handed out without
//! visiting a single znode or copying a name.
//!
//! Names lie in buckets of a few KiB, by the place of their znode: children that come one after the other share a
//! bucket, so adding a name touches memory that is warm, and a removal looks through one bucket only.

use std::sync::Arc;

use crate::hash::{Map, Seeded};
use crate::nodes::Slot;

/// Neighbouring slots share a bucket: of names of 20 bytes it holds 6 KiB at most.
const SLOT_BITS: u32 = 8;
/// Bytes of the length before each name.
const LENGTH: usize = 4;

/// Encoded names: each a big-endian length and its bytes.
#[derive(Debug)]
pub(crate) struct EncodedNames {
    /// By slot. Shared with replies on their way: one that changes while it is gets copied.
    buckets: Map<u32, Arc<Vec<u8>>>,
    /// The bucket that names come to now. Nobody shares it, so that adding a name needs no atomic operation, which
    /// would wait for all that was written before it.
    open: (u32, Vec<u8>),
}

impl EncodedNames {
    pub(crate) fn new(seeded: &Seeded) -> EncodedNames {
        EncodedNames { buckets: Map::with_hasher(seeded.clone()), open: (0, Vec::new()) }
    }

    /// The encoded names, in parts whose order means nothing.
    pub(crate) fn parts(&self) -> Vec<Arc<Vec<u8>>> {
        let open = Some(&self.open.1).filter(|names| !names.is_empty());
        self.buckets.values().cloned().chain(open.map(|names| Arc::new(names.clone()))).collect()
    }

    /// Adds the name of the znode in `slot`, which is not there.
    pub(crate) fn insert(&mut self, slot: Slot, name: &[u8]) {
        let key = slot.0 >> SLOT_BITS;
        if self.open.0 != key {
            let next = self.buckets.remove(&key).map(Arc::unwrap_or_clone).unwrap_or_default();
            let (before, names) = std::mem::replace(&mut self.open, (key, next));
            if !names.is_empty() {
                self.buckets.insert(before, Arc::new(names));
            }
        }
        put(&mut self.open.1, name);
    }

    /// Removes the name of the znode in `slot`.
    ///
    /// # Panics
    /// It is not there: the names and the znodes differ.
    pub(crate) fn remove(&mut self, slot: Slot, name: &[u8]) {
        let key = slot.0 >> SLOT_BITS;
        if self.open.0 == key {
            return cut_out(&mut self.open.1, name);
        }
        let Some(bucket) = self.buckets.get_mut(&key) else { missing(name) };
        let bucket = Arc::make_mut(bucket);
        cut_out(bucket, name);
        if bucket.is_empty() {
            self.buckets.remove(&key);
        }
    }
}

fn cut_out(bucket: &mut Vec<u8>, name: &[u8]) {
    let mut at = 0;
    let found = entries(bucket).any(|known| {
        let is_it = known == name;
        at += if is_it { 0 } else { LENGTH + known.len() };
        is_it
    });
    if !found {
        missing(name);
    }
    bucket.drain(at..at + LENGTH + name.len());
    if bucket.len() < bucket.capacity() / 4 {
        bucket.shrink_to(bucket.len() * 2);
    }
}

fn missing(name: &[u8]) -> ! {
    panic!("{:?} is a child but not among the names of its parent", String::from_utf8_lossy(name))
}

fn put(bucket: &mut Vec<u8>, name: &[u8]) {
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    bucket.extend_from_slice(&len.to_be_bytes());
    bucket.extend_from_slice(name);
}

fn entries(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first_chunk::<LENGTH>()?;
        let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        bytes = rest;
        Some(name)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(of: &EncodedNames) -> BTreeSet<Vec<u8>> {
        let all: Vec<Vec<u8>> =
            of.parts().iter().flat_map(|part| entries(part).map(<[u8]>::to_vec)).collect();
        let set: BTreeSet<Vec<u8>> = all.iter().cloned().collect();
        assert_eq!(set.len(), all.len(), "a name twice");
        set
    }

    #[test]
    fn holds_what_was_put_in_and_not_taken_out() {
        let (mut encoded, mut model) = (EncodedNames::new(&Seeded::new(9)), BTreeSet::new());
        let mut random = fastrand::Rng::with_seed(4);
        for step in 0..60_000 {
            let slot = random.u32(..40_000);
            let name = format!("n{slot}").into_bytes();
            if model.remove(&name) {
                encoded.remove(Slot(slot), &name);
            } else {
                encoded.insert(Slot(slot), &name);
                model.insert(name);
            }
            if step % 10_000 == 0 {
                assert_eq!(names(&encoded), model);
            }
        }
        assert_eq!(names(&encoded), model);
        for name in model {
            let slot = std::str::from_utf8(&name[1..]).unwrap().parse().unwrap();
            encoded.remove(Slot(slot), &name);
        }
        assert!(encoded.parts().is_empty(), "empty buckets go");
    }

    #[test]
    #[should_panic(expected = "not among the names")]
    fn a_name_that_is_not_there_stops_the_node() {
        let mut encoded = EncodedNames::new(&Seeded::new(9));
        encoded.insert(Slot(1), b"a");
        encoded.remove(Slot(2), b"b");
    }

    #[test]
    fn a_list_on_its_way_does_not_change() {
        let mut encoded = EncodedNames::new(&Seeded::new(9));
        encoded.insert(Slot(1), b"a");
        encoded.insert(Slot(300), b"c");
        let mut on_its_way = encoded.parts();
        on_its_way.sort();
        encoded.insert(Slot(2), b"b");
        encoded.remove(Slot(1), b"a");
        encoded.remove(Slot(300), b"c");
        assert_eq!(on_its_way, [&b"\0\0\0\x01a"[..], b"\0\0\0\x01c"].map(|names| Arc::new(names.to_vec())));
        assert_eq!(encoded.parts(), [Arc::new(b"\0\0\0\x01b".to_vec())]);
    }
}
