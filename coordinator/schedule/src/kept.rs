//! One time that the scheduler keeps, and the effect that a pause of the coordinator has on it. `deadlines`
//! visits all of them.

use std::time::Duration;

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
