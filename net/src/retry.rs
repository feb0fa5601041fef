//! The retrying sender: an outbox that sends each entry until the peer takes it or rejects it for good,
//! with a limit on entries in flight.
//!
//! The outbox is a pure state machine without clock, randomness and connection. A driver sends the
//! entries that [`Outbox::due`] returns, reports the outcome, and waits until [`Outbox::next_due`]. An
//! unreachable peer is a normal state: the entries wait, and none is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backoff::{BackoffPolicy, Delays};

/// An entry's position in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// The outcome of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The peer has taken the item.
    Taken,
    /// The peer rejects the item for good: the outbox drops it.
    RefusedForGood,
    /// The peer is unreachable or busy: the outbox retries later.
    TryAgain,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    delays: Delays,
    due: Duration,
    under_way: bool,
    tries: u32,
}

/// The outbox is full.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full at {limit} entries")]
pub struct OutboxFull {
    /// The maximum number of entries.
    pub limit: usize,
}

/// The entries that wait for delivery, in order of arrival, and their delays.
///
/// ```
/// use std::time::Duration;
///
/// use net::backoff::BackoffPolicy;
/// use net::retry::{Outbox, OutboxFull, SendOutcome};
///
/// let mut now = Duration::ZERO;
/// let mut outbox = Outbox::new(64, 2, BackoffPolicy::default());
/// outbox.push("a result", now)?;
/// // The first try finds no peer, the second does.
/// for outcome in [SendOutcome::TryAgain, SendOutcome::Taken] {
///     for (id, _result) in outbox.due(now) {
///         outbox.finished(id, outcome, now, 0);
///     }
///     now = outbox.next_due().unwrap_or(now);
/// }
/// assert!(outbox.is_empty());
/// # Ok::<(), OutboxFull>(())
/// ```
#[derive(Debug)]
pub struct Outbox<T> {
    entries: BTreeMap<EntryId, Entry<T>>,
    next_id: u64,
    limit: usize,
    parallel: usize,
    policy: BackoffPolicy,
    paused: bool,
}

impl<T> Outbox<T> {
    /// Creates an empty outbox for at most `limit` entries, of which at most `parallel` are in flight at
    /// once. Both are raised to at least one.
    #[must_use]
    pub fn new(limit: usize, parallel: usize, policy: BackoffPolicy) -> Self {
        let (limit, parallel) = (limit.max(1), parallel.max(1));
        Self { entries: BTreeMap::new(), next_id: 0, limit, parallel, policy, paused: false }
    }

    /// Appends an item, which is due at once.
    ///
    /// # Errors
    /// [`OutboxFull`] if the outbox is full; it then stays unchanged.
    pub fn push(&mut self, item: T, now: Duration) -> Result<EntryId, OutboxFull> {
        if self.entries.len() >= self.limit {
            return Err(OutboxFull { limit: self.limit });
        }
        let id = EntryId(self.next_id);
        self.next_id += 1;
        let entry = Entry { item, delays: Delays::new(self.policy), due: now, under_way: false, tries: 0 };
        self.entries.insert(id, entry);
        Ok(id)
    }

    /// The number of entries, both in flight and waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every entry has been delivered or rejected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Pauses the outbox: the peer is known to be away, so no entry is due.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Ends the pause: the peer is back. All entries are due at once, and their delays start from the
    /// first.
    pub fn resume(&mut self, now: Duration) {
        self.paused = false;
        for entry in self.entries.values_mut() {
            entry.delays.reset();
            entry.due = now;
        }
    }

    /// Returns the entries to send now, in order of arrival. They are in flight until [`Outbox::finished`]
    /// reports their outcome.
    pub fn due(&mut self, now: Duration) -> Vec<(EntryId, T)>
    where
        T: Clone,
    {
        if self.paused {
            return Vec::new();
        }
        let mut room = self.parallel.saturating_sub(self.under_way());
        let mut ready = Vec::new();
        for (id, entry) in &mut self.entries {
            if room == 0 {
                break;
            }
            if !entry.under_way && entry.due <= now {
                entry.under_way = true;
                entry.tries = entry.tries.saturating_add(1);
                room -= 1;
                ready.push((*id, entry.item.clone()));
            }
        }
        ready
    }

    /// The time when the next entry that is not in flight becomes due; `None` while paused, empty or at the
    /// parallel limit.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if self.paused || self.under_way() >= self.parallel {
            return None;
        }
        self.entries.values().filter(|entry| !entry.under_way).map(|entry| entry.due).min()
    }

    /// Records the outcome of a try. `random` feeds the jitter of the next delay. Returns the item once it
    /// has left the outbox. Reports about unknown entries are ignored.
    pub fn finished(&mut self, id: EntryId, outcome: SendOutcome, now: Duration, random: u64) -> Option<T> {
        match outcome {
            SendOutcome::Taken | SendOutcome::RefusedForGood => {
                self.entries.remove(&id).map(|entry| entry.item)
            }
            SendOutcome::TryAgain => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.under_way = false;
                    entry.due = now + entry.delays.next(random);
                }
                None
            }
        }
    }

    fn under_way(&self) -> usize {
        self.entries.values().filter(|entry| entry.under_way).count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn outbox(limit: usize) -> Outbox<u32> {
        Outbox::new(limit, 2, BackoffPolicy::new(ms(10), ms(80), 0.0).unwrap())
    }

    #[test]
    fn an_entry_is_sent_until_it_is_taken() {
        let mut outbox = outbox(4);
        let id = outbox.push(7, ms(0)).unwrap();
        assert_eq!(outbox.due(ms(0)), [(id, 7)]);
        assert_eq!(outbox.due(ms(0)), [], "it is under way");
        outbox.finished(id, SendOutcome::TryAgain, ms(5), 0);
        assert_eq!(outbox.next_due(), Some(ms(15)));
        assert_eq!(outbox.due(ms(14)), []);
        assert_eq!(outbox.due(ms(15)), [(id, 7)]);
        assert_eq!(outbox.finished(id, SendOutcome::Taken, ms(16), 0), Some(7));
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_permanent_refusal_is_not_retried() {
        let mut outbox = outbox(4);
        let id = outbox.push(7, ms(0)).unwrap();
        outbox.due(ms(0));
        assert_eq!(outbox.finished(id, SendOutcome::RefusedForGood, ms(1), 0), Some(7));
        assert_eq!(outbox.next_due(), None);
    }

    #[test]
    fn a_full_outbox_refuses_and_forgets_nothing() {
        let mut outbox = outbox(1);
        outbox.push(1, ms(0)).unwrap();
        assert_eq!(outbox.push(2, ms(0)), Err(OutboxFull { limit: 1 }));
        assert_eq!(outbox.len(), 1);
    }

    #[test]
    fn a_peer_that_returns_gets_everything_at_once() {
        let mut outbox = outbox(4);
        let id = outbox.push(1, ms(0)).unwrap();
        outbox.due(ms(0));
        outbox.finished(id, SendOutcome::TryAgain, ms(1), 0);
        outbox.pause();
        assert_eq!(outbox.due(ms(500)), []);
        assert_eq!(outbox.next_due(), None);
        outbox.resume(ms(600));
        assert_eq!(outbox.due(ms(600)), [(id, 1)]);
    }

    proptest! {
        // Law: whatever the network does, every entry is finally delivered exactly once, and the parallel
        // limit is never exceeded.
        #[test]
        fn everything_is_delivered_in_the_end(fates in proptest::collection::vec(0u8..4, 1..200)) {
            let mut outbox = outbox(64);
            let mut now = ms(0);
            let mut delivered = Vec::new();
            let mut fates = fates.into_iter();
            for item in 0..20 {
                outbox.push(item, now).unwrap();
            }
            while !outbox.is_empty() {
                let due = outbox.due(now);
                prop_assert!(due.len() <= 2);
                for (id, _) in due {
                    // Three of four fates are failures. Once the fates run out, every try succeeds.
                    let taken = fates.next().is_none_or(|fate| fate == 0);
                    let outcome = if taken { SendOutcome::Taken } else { SendOutcome::TryAgain };
                    delivered.extend(outbox.finished(id, outcome, now, 0));
                }
                now = outbox.next_due().map_or(now, |due| due.max(now));
            }
            delivered.sort_unstable();
            prop_assert_eq!(delivered, (0..20).collect::<Vec<_>>());
        }
    }
}
