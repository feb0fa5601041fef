//! Keeps messages that strangers can cause from filling the log.

use std::time::{Duration, Instant};

/// The messages that are logged in each period.
const AT_MOST: u32 = 10;

/// The length of a period. A period begins with the first message after the last period's end.
const PERIOD: Duration = Duration::from_secs(10);

/// Counts messages of one kind.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    since: Option<Instant>,
    logged: u32,
    hidden: u64,
}

impl Rare {
    /// Whether to log the message that occurs now; with the number of those that were hidden before it.
    pub(crate) fn now(&mut self) -> Option<u64> {
        self.at(Instant::now())
    }

    fn at(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= PERIOD) {
            (self.since, self.logged) = (Some(now), 0);
        }
        if self.logged >= AT_MOST {
            self.hidden += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_logged() {
        let (mut rare, begin) = (Rare::default(), Instant::now());
        let logged = (0..1000).filter_map(|_| rare.at(begin)).count();
        assert_eq!(logged, AT_MOST as usize);
        assert_eq!(rare.at(begin + PERIOD), Some(1000 - u64::from(AT_MOST)));
        assert_eq!(rare.at(begin + PERIOD), Some(0));
    }
}
