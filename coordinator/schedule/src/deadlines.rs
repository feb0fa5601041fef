//! The times that the scheduler keeps, all in one list.
//!
//! The driver's next wake-up and the coordinator's own pauses both need every time, so both go through
//! [`Scheduler::for_each_time`]. Each struct that keeps times lists them itself, and takes itself apart
//! without `..` for this: a new field does not compile until its author has decided whether it belongs here.

use std::time::Duration;

use super::kept::{Pause, Visit};
use super::machine::Scheduler;

impl Scheduler {
    /// Shows `visit` every time that the scheduler keeps, except `ticked_at`, which only ticks move.
    pub(super) fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        let Self {
            limits,
            shards,
            rounds,
            work,
            medians,
            strikes,
            evidence,
            control,
            // These keep no times.
            epoch: _,
            done: _,
            block_deaths: _,
            ticked_at: _,
            attempts: _,
            counters: _,
        } = self;
        for work in work.values_mut() {
            let overdue = medians.overdue_at(work, shards, limits);
            work.for_each_time(overdue, visit);
        }
        for round in rounds.values_mut() {
            round.for_each_time(limits, visit);
        }
        for shard in shards.alive.values_mut() {
            shard.for_each_time(visit);
        }
        if let Some(control) = control {
            control.for_each_time(visit);
        }
        strikes.for_each_time(visit);
        evidence.for_each_time(visit);
    }

    /// The next time at which [`super::Event::Tick`] has something to do, if no other event comes before. It
    /// changes nothing; the list of times is one for reading and for changing.
    #[must_use]
    pub fn next_deadline(&mut self) -> Duration {
        let ticked_at = self.ticked_at;
        let mut next = ticked_at + self.limits.tick;
        self.for_each_time(&mut |kept| {
            if let Some(due) = kept.due.filter(|due| *due > ticked_at) {
                next = next.min(due);
            }
        });
        next
    }

    /// Extends every deadline by the time that the coordinator was absent.
    pub(super) fn excuse(&mut self, gap: Duration, now: Duration) {
        let tick = self.limits.tick;
        self.for_each_time(&mut |kept| {
            let by = match kept.pause {
                Pause::Moves => gap,
                Pause::MovesButOneTick => gap.saturating_sub(tick),
                Pause::Stays => return,
            };
            *kept.time = (*kept.time + by).min(now);
        });
    }
}
