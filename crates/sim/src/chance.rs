//! All chance of a run: one stream of numbers from one seed, the same on every machine and in every version.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Chance {
        Chance(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A stream of its own for a part of the run, so that more or fewer draws in one part change no other.
    #[must_use]
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The bias of a plain remainder is far below anything a run could show.
        if n == 0 { 0 } else { self.bits() % n }
    }

    /// An index into something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// A number of a range; its start if the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of them, if there is any.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let index = self.index(all.len());
        all.get(index)
    }

    /// One of a few numbers.
    pub fn one_of<const N: usize>(&mut self, all: [u64; N]) -> u64 {
        self.pick(&all).copied().unwrap_or(0)
    }

    /// A waiting time with this mean, of the kind that has no memory.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let u = 1.0 - self.unit();
        (-(u.ln()) * mean as f64) as u64
    }

    /// A number whose order of magnitude is equally likely to be any between the two.
    pub fn log_uniform(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = ((low.max(1)) as f64, (high.max(1)) as f64);
        (low * (high / low).powf(self.unit())) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_the_same_numbers_for_good() {
        let mut chance = Chance::new(7);
        assert_eq!([chance.bits(), chance.bits()], {
            let mut again = Chance::new(7);
            [again.bits(), again.bits()]
        });
        assert_ne!(Chance::new(7).bits(), Chance::new(8).bits());
        let mut fork = Chance::new(7).fork();
        assert_ne!(fork.bits(), Chance::new(7).bits());
    }

    #[test]
    fn draws_stay_within_their_bounds() {
        let mut chance = Chance::new(1);
        for _ in 0..1000 {
            assert!((3..9).contains(&chance.within(3..9)));
            assert!((10..=1000).contains(&chance.log_uniform(10, 1000)));
            assert!(chance.index(5) < 5);
        }
        assert_eq!((chance.below(0), chance.within(4..4)), (0, 4));
        let mean = (0..4000).map(|_| chance.exponential(1000)).sum::<u64>() / 4000;
        assert!((900..1100).contains(&mean), "{mean}");
    }
}
