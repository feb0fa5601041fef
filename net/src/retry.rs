//! The retrying sender: an outbox whose entries are sent until they are taken or refused for
//! good, with a bounded number under way.
//!
//! A pure state machine: it holds no clock, no randomness and no connection. A driver sends what
//! [`Outbox::due`] names, reports what became of it, and waits until [`Outbox::next_due`].
//! An unreachable peer is a state to be in: entries wait, none is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backoff::{BackoffPolicy, Delays};

/// An entry's place in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// What became of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The peer has it.
    Taken,
    /// The peer does not want it, now or ever: it is dropped.
    RefusedForGood,
    /// The peer could not be reached or is busy: again later.
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

/// The outbox is at its bound.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full at {limit} entries")]
pub struct OutboxFull {
    /// The bound.
    pub limit: usize,
}

/// The outbox.
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
    /// An empty outbox for at most `limit` entries, `parallel` of them under way at once. Either
    /// is at least one.
    #[must_use]
    pub fn new(limit: usize, parallel: usize, policy: BackoffPolicy) -> Self {
        let (limit, parallel) = (limit.max(1), parallel.max(1));
        Self { entries: BTreeMap::new(), next_id: 0, limit, parallel, policy, paused: false }
    }

    /// Puts an item at the end, to be sent at once.
    ///
    /// # Errors
    /// [`OutboxFull`] with nothing changed.
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

    /// Entries held, under way or waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything was delivered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// While paused (the peer is known to be away) nothing is due.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// The peer is back: everything is due at once, from the beginning of its delays.
    pub fn resume(&mut self, now: Duration) {
        self.paused = false;
        for entry in self.entries.values_mut() {
            entry.delays.reset();
            entry.due = now;
        }
    }

    /// The entries to send now, in order of arrival. They are under way until
    /// [`Outbox::finished`] says otherwise.
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

    /// When something will be due that is not under way, if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if self.paused || self.under_way() >= self.parallel {
            return None;
        }
        self.entries.values().filter(|entry| !entry.under_way).map(|entry| entry.due).min()
    }

    /// What became of a try. `random` feeds the jitter of the next delay. Returns the item when
    /// it has left the outbox. Reports about unknown entries are ignored.
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
        // Law: whatever the network does, every entry is delivered exactly once in the end, in
        // no more tries at a time than allowed.
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
                    // Three fates in four are failures; when they run out the network is well.
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
