//! The simulator's only source of randomness: a history follows from its seed alone.

/// A small generator (SplitMix64) that never changes: a seed always gives the same history.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        random.next();
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).saturating_add(1).max(1);
        // The bias of the product is far below what a simulation could detect.
        let scaled = (u128::from(self.next()) * u128::from(span)) >> 64;
        low + u64::try_from(scaled).unwrap_or(0)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.between(1, n.max(1)) == 1
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        self.between(0, len.saturating_sub(1) as u64) as usize
    }
}

/// Mixes the bits of a number.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Combines two numbers into one.
pub(super) fn join(left: u64, right: u64) -> u64 {
    mix(left.rotate_left(17) ^ mix(right.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}
