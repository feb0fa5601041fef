//! Decides when an ended task may start again: a sliding window and a doubling, capped delay.
//!
//! The decision is pure: it knows no clock (times come in as durations since a fixed start), starts no
//! task and does not wait. Invariant: a task that always ends at once is given up after exactly `limit`
//! restarts. Settings that would restart it for ever cannot be built.

use std::collections::VecDeque;
use std::time::Duration;

/// The greatest restart limit that a [`Restart`] may have.
pub const MAX_RESTART_LIMIT: u32 = 1000;

/// A delay that doubles from `first` and never exceeds `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// Creates a backoff from `first` up to `cap`.
    ///
    /// # Errors
    /// An error if `first` is zero or greater than `cap`.
    pub fn new(first: Duration, cap: Duration) -> Result<Self, RestartError> {
        if first.is_zero() {
            return Err(RestartError::ZeroDelay);
        }
        if first > cap {
            return Err(RestartError::FirstExceedsCap { first, cap });
        }
        Ok(Self { first, cap })
    }

    /// The delay that follows `before` earlier delays.
    #[must_use]
    pub fn delay(&self, before: u32) -> Duration {
        let factor = 2u32.checked_pow(before).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.cap)
    }
}

/// How often a task is started again, and after which delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    limit: u32,
    within: Duration,
    backoff: Backoff,
}

impl Restart {
    /// Allows at most `limit` restarts within any period of length `within`, each after its delay.
    ///
    /// # Errors
    /// An error if `limit` is zero (such a task is a critical one) or above [`MAX_RESTART_LIMIT`], or if
    /// the delays alone fill the window, so that the limit could never be reached.
    pub fn new(limit: u32, within: Duration, backoff: Backoff) -> Result<Self, RestartError> {
        if limit == 0 || limit > MAX_RESTART_LIMIT {
            return Err(RestartError::Limit(limit));
        }
        let delays = (0..limit).fold(Duration::ZERO, |sum, before| sum.saturating_add(backoff.delay(before)));
        if delays >= within {
            return Err(RestartError::NeverGivesUp { delays, within });
        }
        Ok(Self { limit, within, backoff })
    }

    /// The maximum number of restarts within the window.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// Why restart settings are rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// The first delay is zero: restarts would spin.
    #[error("the first restart delay is zero; give at least a millisecond")]
    ZeroDelay,
    /// The first delay exceeds the cap.
    #[error("the first restart delay {first:?} exceeds the cap {cap:?}")]
    FirstExceedsCap {
        /// The first delay.
        first: Duration,
        /// The cap.
        cap: Duration,
    },
    /// The restart limit is zero or too large.
    #[error("restart limit {0} is not within 1 to {MAX_RESTART_LIMIT}; a task without restarts is critical")]
    Limit(u32),
    /// The delays fill the window: a task that always fails at once would restart for ever.
    #[error(
        "the restart delays add up to {delays:?}, not less than the window of {within:?}; widen the window"
    )]
    NeverGivesUp {
        /// The sum of all delays up to the restart limit.
        delays: Duration,
        /// The window.
        within: Duration,
    },
}

/// The decision about an ended task with the restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this delay.
    RestartAfter(Duration),
    /// The window's restarts are used up.
    GiveUp,
}

/// The restarts granted within the current window.
#[derive(Debug, Clone)]
pub struct RestartWindow {
    restart: Restart,
    granted: VecDeque<Duration>,
}

impl RestartWindow {
    /// A window without any restart so far.
    #[must_use]
    pub fn new(restart: Restart) -> Self {
        Self { restart, granted: VecDeque::new() }
    }

    /// Decides about a task that ended at time `at`. A restart granted exactly `within` ago no longer
    /// counts.
    pub fn ended(&mut self, at: Duration) -> Verdict {
        let within = self.restart.within;
        while self.granted.front().is_some_and(|granted| at.saturating_sub(*granted) >= within) {
            self.granted.pop_front();
        }
        let before = u32::try_from(self.granted.len()).unwrap_or(u32::MAX);
        if before >= self.restart.limit {
            return Verdict::GiveUp;
        }
        self.granted.push_back(at);
        Verdict::RestartAfter(self.restart.backoff.delay(before))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn window(limit: u32) -> RestartWindow {
        let backoff = Backoff::new(ms(100), ms(400)).unwrap();
        RestartWindow::new(Restart::new(limit, ms(10_000), backoff).unwrap())
    }

    #[test]
    fn the_delay_doubles_up_to_the_cap() {
        let backoff = Backoff::new(ms(100), ms(350)).unwrap();
        let delays: Vec<_> = (0..4).map(|before| backoff.delay(before)).collect();
        assert_eq!(delays, [ms(100), ms(200), ms(350), ms(350)]);
        assert_eq!(backoff.delay(u32::MAX), ms(350));
    }

    #[test]
    fn the_limit_is_granted_and_one_more_is_not() {
        let mut window = window(3);
        assert_eq!(window.ended(ms(0)), Verdict::RestartAfter(ms(100)));
        assert_eq!(window.ended(ms(1)), Verdict::RestartAfter(ms(200)));
        assert_eq!(window.ended(ms(2)), Verdict::RestartAfter(ms(400)));
        assert_eq!(window.ended(ms(3)), Verdict::GiveUp);
    }

    #[test]
    fn a_restart_leaves_the_window_exactly_at_its_length() {
        let mut early = window(1);
        assert_eq!(early.ended(ms(5)), Verdict::RestartAfter(ms(100)));
        let mut late = early.clone();
        assert_eq!(early.ended(ms(10_004)), Verdict::GiveUp);
        assert_eq!(late.ended(ms(10_005)), Verdict::RestartAfter(ms(100)));
    }

    #[test]
    fn the_window_slides_rather_than_resets() {
        let mut window = window(2);
        assert_eq!(window.ended(ms(0)), Verdict::RestartAfter(ms(100)));
        assert_eq!(window.ended(ms(6_000)), Verdict::RestartAfter(ms(200)));
        assert_eq!(window.ended(ms(11_000)), Verdict::RestartAfter(ms(200)));
        assert_eq!(window.ended(ms(12_000)), Verdict::GiveUp);
    }

    #[test]
    fn a_time_that_goes_backwards_is_not_an_error() {
        let mut window = window(1);
        assert_eq!(window.ended(ms(9)), Verdict::RestartAfter(ms(100)));
        assert_eq!(window.ended(ms(3)), Verdict::GiveUp);
    }

    #[test]
    fn nonsense_cannot_be_built() {
        let backoff = Backoff::new(ms(100), ms(400)).unwrap();
        assert_eq!(Backoff::new(ms(0), ms(1)), Err(RestartError::ZeroDelay));
        let exceeds = RestartError::FirstExceedsCap { first: ms(2), cap: ms(1) };
        assert_eq!(Backoff::new(ms(2), ms(1)), Err(exceeds));
        assert_eq!(Restart::new(0, ms(1), backoff), Err(RestartError::Limit(0)));
        let above = MAX_RESTART_LIMIT + 1;
        assert_eq!(Restart::new(above, Duration::MAX, backoff), Err(RestartError::Limit(above)));
    }

    #[test]
    fn a_window_shorter_than_the_delays_is_refused() {
        let backoff = Backoff::new(ms(100), ms(400)).unwrap();
        let refused = RestartError::NeverGivesUp { delays: ms(700), within: ms(700) };
        assert_eq!(Restart::new(3, ms(700), backoff), Err(refused));
        let mut window = RestartWindow::new(Restart::new(3, ms(701), backoff).unwrap());
        // The task ends at once every time: the next end comes one delay after the last.
        let mut at = Duration::ZERO;
        let mut restarts = 0;
        while let Verdict::RestartAfter(delay) = window.ended(at) {
            at += delay;
            restarts += 1;
        }
        assert_eq!(restarts, 3);
    }
}
