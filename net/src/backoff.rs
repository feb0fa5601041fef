//! Delays between retries: exponential, capped, with jitter, without an end.
//!
//! This is the only module that knows the `backoff` crate, which has no maintainer. The crate gives the
//! series. This module applies the jitter from a number that the caller passes in, so that a simulator
//! can replay it.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// The growth of the delays: the first delay, the cap and the jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    first: Duration,
    most: Duration,
    jitter: f64,
}

/// Why a policy is rejected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BackoffError {
    /// The first delay is zero, which would be a busy loop.
    #[error("the first delay must be more than zero")]
    NoDelay,
    /// The cap is below the first delay.
    #[error("the longest delay ({most:?}) is shorter than the first ({first:?})")]
    CapTooLow {
        /// The delay before the first retry, without jitter.
        first: Duration,
        /// The longest delay, without jitter.
        most: Duration,
    },
    /// The jitter is not between 0 and 0.9.
    #[error("the jitter must be between 0 and 0.9")]
    Jitter,
}

impl BackoffPolicy {
    /// Creates a policy: delays double from `first` up to `most`, and each varies by up to the share
    /// `jitter`.
    ///
    /// # Errors
    /// [`BackoffError`] for contradictory or out-of-range values.
    pub fn new(first: Duration, most: Duration, jitter: f64) -> Result<Self, BackoffError> {
        if first.is_zero() {
            return Err(BackoffError::NoDelay);
        }
        if most < first {
            return Err(BackoffError::CapTooLow { first, most });
        }
        if !(0.0..=0.9).contains(&jitter) {
            return Err(BackoffError::Jitter);
        }
        Ok(Self { first, most, jitter })
    }
}

impl Default for BackoffPolicy {
    /// From 20 ms, doubling up to 2 s, with a jitter of 0.25.
    fn default() -> Self {
        Self { first: Duration::from_millis(20), most: Duration::from_secs(2), jitter: 0.25 }
    }
}

/// One series of delays between the retries of one call.
#[derive(Debug)]
pub struct Delays {
    series: ExponentialBackoff,
    policy: BackoffPolicy,
}

impl Delays {
    /// Starts a series from its first delay.
    #[must_use]
    pub fn new(policy: BackoffPolicy) -> Self {
        let series = ExponentialBackoff {
            initial_interval: policy.first,
            current_interval: policy.first,
            max_interval: policy.most,
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { series, policy }
    }

    /// Returns the next delay. `random` is any number; equal numbers give equal delays.
    pub fn next(&mut self, random: u64) -> Duration {
        let delay = self.series.next_backoff().unwrap_or(self.policy.most);
        // A number between -1 and 1.
        let swing = (random >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        delay.mul_f64(1.0 + swing * self.policy.jitter)
    }

    /// Starts the series again from its first delay, after a success.
    pub fn reset(&mut self) {
        self.series.reset();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn delays_double_up_to_the_cap() {
        let policy = BackoffPolicy::new(Duration::from_millis(10), Duration::from_millis(50), 0.0).unwrap();
        let mut delays = Delays::new(policy);
        let millis: Vec<u128> = (0..5).map(|_| delays.next(0).as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 50, 50]);
        delays.reset();
        assert_eq!(delays.next(0).as_millis(), 10);
    }

    #[test]
    fn a_policy_that_makes_no_sense_cannot_exist() {
        let ms = Duration::from_millis;
        assert_eq!(BackoffPolicy::new(ms(0), ms(5), 0.1), Err(BackoffError::NoDelay));
        assert!(matches!(BackoffPolicy::new(ms(9), ms(5), 0.1), Err(BackoffError::CapTooLow { .. })));
        assert_eq!(BackoffPolicy::new(ms(1), ms(5), 2.0), Err(BackoffError::Jitter));
    }

    proptest! {
        // Law: the jitter moves a delay by no more than its share.
        #[test]
        fn jitter_stays_within_its_share(random: u64) {
            let policy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(1), 0.25).unwrap();
            let delay = Delays::new(policy).next(random).as_micros();
            prop_assert!((75_000..=125_000).contains(&delay), "{}", delay);
        }
    }
}
