//! The times of the latest answers.

use std::collections::VecDeque;
use std::time::Duration;

use super::Times;

/// The number of times that are kept.
const KEPT: usize = 128;

/// The latest times, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<Duration>);

impl Window {
    pub(super) fn add(&mut self, time: Duration) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    pub(super) fn times(&self) -> Option<Times> {
        let last = *self.0.back()?;
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        // The smallest time that is not below this share of the times.
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Times { median: at(50)?, p99: at(99)?, last })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn window(times: impl Iterator<Item = u64>) -> Window {
        let mut window = Window::default();
        times.for_each(|time| window.add(Duration::from_millis(time)));
        window
    }

    #[test]
    fn the_median_and_the_slow_ones_are_of_the_latest_times() {
        assert_eq!(Window::default().times(), None);
        let ms = Duration::from_millis;
        assert_eq!(window([7].into_iter()).times(), Some(Times { median: ms(7), p99: ms(7), last: ms(7) }));
        let times = window((1..=100).rev()).times().unwrap();
        assert_eq!(times, Times { median: ms(50), p99: ms(99), last: ms(1) });
        // The first thousand are forgotten.
        let times = window((0..1_000).map(|_| 500).chain((0..128).map(|_| 3))).times().unwrap();
        assert_eq!((times.median, times.p99), (ms(3), ms(3)));
    }
}
