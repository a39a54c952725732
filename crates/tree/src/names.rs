//! The names of very many children, kept as a reply carries them: a list of a million is handed out without
//! visiting a single znode or copying a name.
//!
//! Names lie in buckets of a few KiB, found by linear hashing: buckets are split one at a time as names come,
//! so no single insertion ever pays for all of them, and a removal looks through one bucket only.

use std::sync::Arc;

use crate::hash::Seeded;

/// Bytes per bucket, on average, at which another one is split.
const BUCKET_BYTES: usize = 4096;
/// Bytes of the length before each name.
const LENGTH: usize = 4;

/// Encoded names: each a big-endian length and its bytes.
#[derive(Debug)]
pub(crate) struct EncodedNames {
    /// Shared with replies on their way: one that changes while it is gets copied.
    buckets: Vec<Arc<Vec<u8>>>,
    bytes: usize,
    /// Buckets before this one are split already in this round.
    split: usize,
    /// The round started with `1 << level` buckets.
    level: u32,
}

impl EncodedNames {
    pub(crate) fn new() -> EncodedNames {
        EncodedNames { buckets: vec![Arc::default()], bytes: 0, split: 0, level: 0 }
    }

    /// The encoded names, in parts whose order means nothing.
    pub(crate) fn parts(&self) -> &[Arc<Vec<u8>>] {
        &self.buckets
    }

    /// Adds a name that is not there.
    pub(crate) fn insert(&mut self, seeded: &Seeded, name: &[u8]) {
        let bucket = self.bucket(seeded.bytes(name));
        put(Arc::make_mut(&mut self.buckets[bucket]), name);
        self.bytes += LENGTH + name.len();
        if self.bytes > self.buckets.len() * BUCKET_BYTES {
            self.split_next(seeded);
        }
    }

    /// Removes a name.
    ///
    /// # Panics
    /// It is not there: the names and the znodes differ.
    pub(crate) fn remove(&mut self, seeded: &Seeded, name: &[u8]) {
        let bucket = self.bucket(seeded.bytes(name));
        let bucket = Arc::make_mut(&mut self.buckets[bucket]);
        let mut at = 0;
        let found = entries(bucket).any(|known| {
            let is_it = known == name;
            at += if is_it { 0 } else { LENGTH + known.len() };
            is_it
        });
        assert!(
            found,
            "{:?} is a child but not among the names of its parent",
            String::from_utf8_lossy(name)
        );
        bucket.drain(at..at + LENGTH + name.len());
        if bucket.len() < bucket.capacity() / 4 {
            bucket.shrink_to(bucket.len() * 2);
        }
        self.bytes -= LENGTH + name.len();
    }

    fn bucket(&self, hash: u32) -> usize {
        let hash = hash as usize;
        let bucket = hash & ((1 << self.level) - 1);
        if bucket < self.split { hash & ((2 << self.level) - 1) } else { bucket }
    }

    /// Divides the next bucket of this round in two.
    fn split_next(&mut self, seeded: &Seeded) {
        let bit = 1 << self.level;
        let half = self.buckets[self.split].len() / 2 + BUCKET_BYTES / 4;
        let (mut stay, mut go) = (Vec::with_capacity(half), Vec::with_capacity(half));
        for name in entries(&self.buckets[self.split]) {
            put(if seeded.bytes(name) as usize & bit == 0 { &mut stay } else { &mut go }, name);
        }
        self.buckets[self.split] = Arc::new(stay);
        self.buckets.push(Arc::new(go));
        self.split += 1;
        if self.split == bit {
            self.split = 0;
            self.level += 1;
        }
    }
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
        let seeded = Seeded::new(9);
        let (mut encoded, mut model) = (EncodedNames::new(), BTreeSet::new());
        let mut random = fastrand::Rng::with_seed(4);
        for step in 0..60_000 {
            let name = format!("n{}", random.u32(..40_000)).into_bytes();
            if model.remove(&name) {
                encoded.remove(&seeded, &name);
            } else {
                encoded.insert(&seeded, &name);
                model.insert(name);
            }
            if step % 10_000 == 0 {
                assert_eq!(names(&encoded), model);
            }
        }
        assert_eq!(names(&encoded), model);
        let largest = encoded.parts().iter().map(|part| part.len()).max().unwrap();
        assert!(largest < 8 * BUCKET_BYTES, "a bucket of {largest} bytes is no small one");
        for name in model {
            encoded.remove(&seeded, &name);
        }
        assert_eq!((names(&encoded).len(), encoded.bytes), (0, 0));
    }
}
