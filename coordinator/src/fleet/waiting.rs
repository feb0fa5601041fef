//! Reports a long wait for shards, and its reasons, to watchers.

use std::time::Duration;

use super::driver::Driver;
use super::event::{EventKind, publish};

/// How long too few shards must hold the state before the driver reports it.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// The time within which a client that still waits asks again.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

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
    fn wanted(&self, now: Duration, rounds: bool) -> usize {
        let asked = self.asked.filter(|(_, until)| *until > now).map_or(0, |(wanted, _)| wanted);
        asked.max(usize::from(rounds))
    }

    /// Whether too few shards have held the state for long enough to report it.
    fn is_long(&mut self, now: Duration, ready: usize, wanted: usize) -> bool {
        if ready >= wanted {
            self.since = None;
            self.said.clear();
            return false;
        }
        now.saturating_sub(*self.since.get_or_insert(now)) >= SILENT_FOR
    }
}

impl Driver {
    /// Reports to watchers that the fleet waits for shards, once for each reason.
    pub(super) fn report_wait(&mut self, now: Duration) {
        let wanted = self.waiting_for.wanted(now, !self.rounds.is_empty());
        let ready = self.ready_shards();
        if !self.waiting_for.is_long(now, ready, wanted) {
            return;
        }
        let text = self.why_not_ready(ready, wanted);
        if text != self.waiting_for.said {
            publish(&self.shared, EventKind::Waiting, None, None, text.clone());
            self.waiting_for.said = text;
        }
    }

    /// Why too few shards hold the current state.
    fn why_not_ready(&self, ready: usize, wanted: usize) -> String {
        let mut shards: Vec<_> = self.links.iter().collect();
        shards.sort_by_key(|(shard, _)| **shard);
        let reasons: Vec<String> = shards
            .into_iter()
            .filter_map(|(shard, link)| {
                let why = match self.replicas.trouble(*shard) {
                    _ if link.draining => "is stopping".to_owned(),
                    _ if self.scheduler.is_quarantined(*shard) && !self.scheduler.is_newcomer(*shard) => {
                        "is in quarantine".to_owned()
                    }
                    Some(reason) => format!("joined, but did not reach the state: {reason}"),
                    None if self.is_ready(link) => return None,
                    None => "joined, and is fetching the state".to_owned(),
                };
                Some(format!("shard {shard} {why}"))
            })
            .collect();
        let reasons =
            if self.links.is_empty() { "no shard has joined".to_owned() } else { reasons.join("; ") };
        let reasons = if reasons.is_empty() { "no other shard has joined".to_owned() } else { reasons };
        format!("waiting for shards, {ready} of {wanted} are ready: {reasons}")
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
