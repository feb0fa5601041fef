//! Selects the work to verify: a random share that no shard can predict.

use std::fmt;
use std::str::FromStr;

use common::id::{RoundId, WorkId};

/// The share of work that is executed a second time elsewhere, from 0 (none) to 1 (all).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct VerifyFraction(f64);

/// The value is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fraction from 0 to 1, for example 0.05")]
pub struct NotAFraction(String);

impl VerifyFraction {
    /// No work is verified.
    pub const NONE: Self = Self(0.0);

    /// All work is verified.
    pub const ALL: Self = Self(1.0);

    /// Creates a fraction with this share.
    ///
    /// # Errors
    /// [`NotAFraction`] for any value but a number from 0 to 1.
    pub fn new(share: f64) -> Result<Self, NotAFraction> {
        // Comparisons with NaN are false.
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(NotAFraction(share.to_string())) }
    }
}

impl FromStr for VerifyFraction {
    type Err = NotAFraction;

    fn from_str(text: &str) -> Result<Self, NotAFraction> {
        let share = text.parse().map_err(|_| NotAFraction(text.to_owned()))?;
        Self::new(share).map_err(|_| NotAFraction(text.to_owned()))
    }
}

impl fmt::Display for VerifyFraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Draws the share by a keyed hash of round and work. The key never leaves this process.
#[derive(Clone)]
pub(super) struct Lottery {
    fraction: VerifyFraction,
    secret: [u8; 32],
}

impl fmt::Debug for Lottery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lottery").field("fraction", &self.fraction).finish_non_exhaustive()
    }
}

impl Lottery {
    pub(super) fn new(fraction: VerifyFraction) -> Self {
        Self { fraction, secret: rand::random() }
    }

    /// Whether this work is verified in this round.
    pub(super) fn draws(&self, round: RoundId, work: &WorkId) -> bool {
        let VerifyFraction(share) = self.fraction;
        if share <= 0.0 || share >= 1.0 {
            return share > 0.0;
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&round.0.to_le_bytes()).update(work.0.as_slice());
        let drawn =
            hasher.finalize().as_bytes().iter().take(8).fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        // Compares both sides with 53 bits, which a double can hold.
        ((drawn >> 11) as f64) < share * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::B256;

    fn drawn(fraction: &str) -> usize {
        let lottery = Lottery::new(fraction.parse().unwrap());
        let work = |n: u32| WorkId(B256::left_padding_from(&n.to_be_bytes()));
        (0..10_000).filter(|n| lottery.draws(RoundId(1), &work(*n))).count()
    }

    #[test]
    fn the_share_that_is_drawn_is_the_fraction() {
        assert_eq!((drawn("0"), drawn("1")), (0, 10_000));
        // Nine standard deviations are 270.
        assert!(drawn("0.1").abs_diff(1_000) < 270);
    }

    #[test]
    fn two_processes_draw_differently() {
        let (one, other) = (Lottery::new(VerifyFraction(0.5)), Lottery::new(VerifyFraction(0.5)));
        let draws = |lottery: &Lottery| {
            (0..128).map(|n| lottery.draws(RoundId(n), &WorkId(B256::ZERO))).collect::<Vec<_>>()
        };
        assert_ne!(draws(&one), draws(&other));
    }

    #[test]
    fn what_is_no_fraction_is_named() {
        for text in ["", "x", "-0.1", "1.01", "NaN", "inf"] {
            let error = text.parse::<VerifyFraction>().unwrap_err().to_string();
            assert!(error.contains("from 0 to 1"), "{text}: {error}");
        }
        assert_eq!("0.25".parse::<VerifyFraction>().unwrap().to_string(), "0.25");
    }
}
