//! Recognises a long wait for shards, so that the driver reports it once for each reason.

use std::time::Duration;

use crossbeam_channel::Sender;

/// How long too few shards must hold the state before the driver reports it.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// The time within which a client that still waits asks again.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// A caller that waits until `wanted` shards hold the current state.
pub(super) struct Waiter {
    pub(super) wanted: usize,
    pub(super) until: Duration,
    pub(super) reply: Sender<()>,
}

/// The current wait for shards.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// The number of shards that a client asked for, and until when.
    asked: Option<(usize, Duration)>,
    /// Since when too few shards hold the state.
    since: Option<Duration>,
    /// The last reported text.
    said: String,
}

impl Waiting {
    /// Notes that a client waits for `wanted` shards until `until`.
    pub(super) fn ask(&mut self, wanted: usize, until: Duration) {
        self.asked = Some((wanted, until + ASKED_AGAIN));
    }

    /// The number of shards wanted at `now`. An open round needs one.
    pub(super) fn wanted(&self, now: Duration, rounds: bool) -> usize {
        let asked = self.asked.filter(|(_, until)| *until > now).map_or(0, |(wanted, _)| wanted);
        asked.max(usize::from(rounds))
    }

    /// Whether too few shards have held the state for long enough to report it.
    pub(super) fn is_long(&mut self, now: Duration, ready: usize, wanted: usize) -> bool {
        if ready >= wanted {
            self.since = None;
            self.said.clear();
            return false;
        }
        now.saturating_sub(*self.since.get_or_insert(now)) >= SILENT_FOR
    }

    /// Notes the reason of a long wait. Returns whether it is another one than the last.
    pub(super) fn is_news(&mut self, reason: &str) -> bool {
        let news = self.said != reason;
        if news {
            reason.clone_into(&mut self.said);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waiting_is_said_after_two_seconds_without_enough_shards_and_not_before() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.wanted(seconds(0), false), 0);
        waiting.ask(2, seconds(1));
        assert_eq!(waiting.wanted(seconds(1), false), 2);
        // The client has not asked again.
        assert_eq!(waiting.wanted(seconds(2), false), 0);
        assert_eq!(waiting.wanted(seconds(2), true), 1);
        assert!(!waiting.is_long(seconds(2), 1, 2));
        assert!(!waiting.is_long(seconds(3), 1, 2));
        assert!(waiting.is_long(seconds(4), 1, 2));
        // The wait restarts once enough shards were there.
        assert!(!waiting.is_long(seconds(5), 2, 2));
        assert!(!waiting.is_long(seconds(6), 1, 2));
    }
}
