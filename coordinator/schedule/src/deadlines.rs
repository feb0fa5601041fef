//! The times that the scheduler keeps, all in one list.
//!
//! The driver's next wake-up and the coordinator's own pauses both need every time, so both go through
//! [`Scheduler::for_each_time`]. Each struct that keeps times lists them itself, and takes itself apart
//! without `..` for this: a new field does not compile until its author has decided whether it belongs here.

use std::time::Duration;

use super::machine::Scheduler;

/// The effect that a pause of the coordinator has on a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// A limit counts from this time. The pause must not count, so it moves the time.
    Moves,
    /// A limit counts from this time, the last sign of a shard. A shard that was well gave a sign within the
    /// last tick before the pause's end, so the pause moves the time by one tick less.
    MovesButOneTick,
    /// The time when something ends or has happened. It stays: a rest is over when its time has passed, and a
    /// pause does not change when a shard was lost.
    Stays,
}

/// One time that the scheduler keeps.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) time: &'a mut Duration,
    pub(super) pause: Pause,
    /// The time at which the driver must wake up because of this one; `None` if the next tick is soon enough.
    pub(super) due: Option<Duration>,
}

impl<'a> Kept<'a> {
    /// A time that a pause moves.
    pub(super) fn moves(time: &'a mut Duration, due: Option<Duration>) -> Self {
        Self { time, pause: Pause::Moves, due }
    }

    /// A time that a pause does not move.
    pub(super) fn stays(time: &'a mut Duration, due: Option<Duration>) -> Self {
        Self { time, pause: Pause::Stays, due }
    }
}

/// A function that sees every kept time.
pub(super) type Visit<'a> = dyn FnMut(Kept<'_>) + 'a;

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
