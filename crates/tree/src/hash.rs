//! The one hasher of this crate. It takes the node's seed, so that clients cannot choose collisions and
//! an outcome that depends on the order of a map shows as soon as two nodes are compared.

use std::hash::{BuildHasher, Hasher};

use foldhash::SharedSeed;
use foldhash::fast::{FoldHasher, SeedableRandomState};

/// Builds hashers from the node's seed.
#[derive(Clone, Debug)]
pub struct Seeded(SeedableRandomState);

impl Seeded {
    /// A builder for one node.
    #[must_use]
    pub fn new(seed: u64) -> Seeded {
        Seeded(SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()))
    }

    /// The hash of a path, of which the index keeps 32 bits.
    #[inline]
    pub(crate) fn path(&self, path: &str) -> u32 {
        self.bytes(path.as_bytes())
    }

    /// The hash of a name.
    #[inline]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> u32 {
        let mut hasher = self.0.build_hasher();
        hasher.write(bytes);
        let hash = hasher.finish();
        (hash >> 32) as u32 ^ hash as u32
    }
}

impl BuildHasher for Seeded {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// A hash map with the node's seed.
pub type Map<K, V> = hashbrown::HashMap<K, V, Seeded>;
