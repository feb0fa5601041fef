//! Decides when an ended task may start again: a sliding window, and a delay for each restart in it.
//!
//! The decision is pure: it knows no clock (times come in as durations since a fixed start), starts no
//! task and does not wait. Invariant: a task that always ends at once is given up after exactly `limit`
//! restarts. Settings that would restart it for ever cannot be built.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The greatest restart limit that a [`Restart`] may have.
pub const MAX_RESTART_LIMIT: usize = 1000;

/// How often a task is started again, and after which delay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    delays: Arc<[Duration]>,
    within: Duration,
}

impl Restart {
    /// Allows one restart for each of `delays` within any period of length `within`, each after its delay.
    /// `net::backoff` gives such a series.
    ///
    /// # Errors
    /// An error if there is no delay (such a task is a critical one), if there are more than
    /// [`MAX_RESTART_LIMIT`], if one is zero, or if the delays alone fill the window, so that the limit
    /// could never be reached.
    pub fn new(delays: impl Into<Arc<[Duration]>>, within: Duration) -> Result<Self, RestartError> {
        let delays = delays.into();
        if delays.is_empty() || delays.len() > MAX_RESTART_LIMIT {
            return Err(RestartError::Limit(delays.len()));
        }
        if delays.iter().any(Duration::is_zero) {
            return Err(RestartError::ZeroDelay);
        }
        let sum = delays.iter().fold(Duration::ZERO, |sum, delay| sum.saturating_add(*delay));
        if sum >= within {
            return Err(RestartError::NeverGivesUp { delays: sum, within });
        }
        Ok(Self { delays, within })
    }

    /// The maximum number of restarts within the window.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.delays.len()
    }
}

/// Why restart settings are rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// A delay is zero: restarts would spin.
    #[error("a restart delay is zero; give at least a millisecond")]
    ZeroDelay,
    /// The restart limit is zero or too large.
    #[error("restart limit {0} is not within 1 to {MAX_RESTART_LIMIT}; a task without restarts is critical")]
    Limit(usize),
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
pub enum RestartVerdict {
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
    pub fn ended(&mut self, at: Duration) -> RestartVerdict {
        let within = self.restart.within;
        while self.granted.front().is_some_and(|granted| at.saturating_sub(*granted) >= within) {
            self.granted.pop_front();
        }
        let Some(delay) = self.restart.delays.get(self.granted.len()) else { return RestartVerdict::GiveUp };
        self.granted.push_back(at);
        RestartVerdict::RestartAfter(*delay)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing)]

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const DELAYS: [Duration; 3] =
        [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

    fn window(limit: usize) -> RestartWindow {
        RestartWindow::new(Restart::new(&DELAYS[..limit], ms(10_000)).unwrap())
    }

    #[test]
    fn the_limit_is_granted_and_one_more_is_not() {
        let mut window = window(3);
        assert_eq!(window.ended(ms(0)), RestartVerdict::RestartAfter(ms(100)));
        assert_eq!(window.ended(ms(1)), RestartVerdict::RestartAfter(ms(200)));
        assert_eq!(window.ended(ms(2)), RestartVerdict::RestartAfter(ms(400)));
        assert_eq!(window.ended(ms(3)), RestartVerdict::GiveUp);
    }

    #[test]
    fn a_restart_leaves_the_window_exactly_at_its_length() {
        let mut early = window(1);
        assert_eq!(early.ended(ms(5)), RestartVerdict::RestartAfter(ms(100)));
        let mut late = early.clone();
        assert_eq!(early.ended(ms(10_004)), RestartVerdict::GiveUp);
        assert_eq!(late.ended(ms(10_005)), RestartVerdict::RestartAfter(ms(100)));
    }

    #[test]
    fn the_window_slides_rather_than_resets() {
        let mut window = window(2);
        assert_eq!(window.ended(ms(0)), RestartVerdict::RestartAfter(ms(100)));
        assert_eq!(window.ended(ms(6_000)), RestartVerdict::RestartAfter(ms(200)));
        assert_eq!(window.ended(ms(11_000)), RestartVerdict::RestartAfter(ms(200)));
        assert_eq!(window.ended(ms(12_000)), RestartVerdict::GiveUp);
    }

    #[test]
    fn a_time_that_goes_backwards_is_not_an_error() {
        let mut window = window(1);
        assert_eq!(window.ended(ms(9)), RestartVerdict::RestartAfter(ms(100)));
        assert_eq!(window.ended(ms(3)), RestartVerdict::GiveUp);
    }

    #[test]
    fn nonsense_cannot_be_built() {
        assert_eq!(Restart::new([], ms(1)), Err(RestartError::Limit(0)));
        assert_eq!(Restart::new([ms(0)], ms(1)), Err(RestartError::ZeroDelay));
        let above = MAX_RESTART_LIMIT + 1;
        assert_eq!(Restart::new(vec![ms(1); above], Duration::MAX), Err(RestartError::Limit(above)));
    }

    #[test]
    fn a_window_shorter_than_the_delays_is_refused() {
        let refused = RestartError::NeverGivesUp { delays: ms(700), within: ms(700) };
        assert_eq!(Restart::new(DELAYS, ms(700)), Err(refused));
        let mut window = RestartWindow::new(Restart::new(DELAYS, ms(701)).unwrap());
        // The task ends at once every time: the next end comes one delay after the last.
        let mut at = Duration::ZERO;
        let mut restarts = 0;
        while let RestartVerdict::RestartAfter(delay) = window.ended(at) {
            at += delay;
            restarts += 1;
        }
        assert_eq!(restarts, 3);
    }
}
