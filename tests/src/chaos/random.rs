//! The random numbers of a chaos run: a plan follows from its seed, on every machine.

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A generator whose numbers are the same in every version of its library.
#[derive(Debug, Clone)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number from `from` to `to`, inclusive; `from` if there is none.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..=to.max(from))
    }

    /// True in one of `cases` cases, at random.
    pub(super) fn one_in(&mut self, cases: u32) -> bool {
        self.0.random_ratio(1, cases.max(1))
    }

    /// A random index below `count`; 0 if `count` is 0.
    pub(super) fn index(&mut self, count: usize) -> usize {
        self.0.random_range(0..count.max(1))
    }

    /// The first value or one of the others, at random.
    pub(super) fn one_of<T: Copy>(&mut self, first: T, others: &[T]) -> T {
        let all: Vec<T> = std::iter::once(&first).chain(others).copied().collect();
        all.choose(&mut self.0).copied().unwrap_or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.between(0, u64::MAX)).collect();
        assert_eq!(first, [4_949_556_339_754_410_917, 15_024_033_290_008_477_395, 1_841_961_641_832_425_365]);
    }

    #[test]
    fn both_bounds_are_reached() {
        let mut random = Random::new(7);
        let drawn: Vec<u64> = (0..200).map(|_| random.between(3, 5)).collect();
        assert!((3..=5).all(|number| drawn.contains(&number)));
        assert!(drawn.iter().all(|number| (3..=5).contains(number)));
    }
}
