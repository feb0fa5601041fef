//! The scheduler: decides which shard does which work, and what follows when one fails.
//!
//! A pure state machine: events in, commands out, time passed in. It knows no clock, no network,
//! no thread and no randomness, and it never sees a result's content. There is one path by which a
//! shard is lost, and one by which work is given to another.

mod fleet;
mod machine;
#[cfg(test)]
mod tests;

use std::time::Duration;

use common::id::{AssignmentId, Incarnation, RoundId, ShardId, StateRef, WorkId};

pub use machine::Scheduler;

/// Bounds of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// Assignments outstanding per slot: one being done and one waiting hide the round trip.
    pub depth: usize,
    /// Tries at one piece of work before its round is given up.
    pub max_attempts: u32,
    /// Silence after which a shard is lost.
    pub lost_after: Duration,
    /// How long a shard that refused is left alone.
    pub refused_pause: Duration,
    /// How long a round waits with no shard that could take its work.
    pub no_shard_wait: Duration,
    /// How often the driver ticks; a longer gap is the coordinator's own absence.
    pub tick: Duration,
    /// How long an assignment may take before it is given to another shard as well. It is given up
    /// after three times as long, if its shard stands still.
    pub overdue_after: Duration,
}

impl Default for ScheduleLimits {
    fn default() -> Self {
        Self {
            depth: 2,
            max_attempts: 8,
            lost_after: Duration::from_secs(1),
            refused_pause: Duration::from_millis(5),
            no_shard_wait: Duration::from_secs(30),
            tick: Duration::from_millis(100),
            overdue_after: Duration::from_secs(5),
        }
    }
}

/// One piece of work, as far as the scheduler needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkItem {
    /// Which work.
    pub id: WorkId,
    /// The state that a shard must hold to do it; none to recover senders.
    pub base: Option<StateRef>,
}

/// Why an assignment came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The shard is busy: again later.
    Busy,
    /// The shard is at another state, and has to be synced.
    WrongState,
    /// The shard is draining.
    Draining,
    /// The shard failed at it, or cannot be reached: try another.
    Failed,
    /// The shard serves a newer coordinator.
    Superseded,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A shard asks to join.
    Register {
        /// Who.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// With how many slots.
        slots: u16,
    },
    /// A shard's replica holds this state now, or none that is known.
    State {
        /// Who.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// Which state.
        state: Option<StateRef>,
    },
    /// A heartbeat arrived (at the time that is passed in, not when it is looked at).
    Heartbeat {
        /// Whose.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// Transactions it has done since it started.
        progress: u64,
    },
    /// A shard is gone: its connection broke, or it said goodbye.
    Lost {
        /// Who.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// How it showed.
        reason: String,
    },
    /// A shard takes nothing new.
    Draining {
        /// Who.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
    },
    /// A round is to be done.
    Admit {
        /// Which round.
        round: RoundId,
        /// Its work, in order of preference.
        work: Vec<WorkItem>,
        /// Shards that are to get work of it first, if they can.
        prefer: Vec<ShardId>,
    },
    /// A round's results are no longer wanted.
    Abandon {
        /// Which round.
        round: RoundId,
    },
    /// A shard has accepted an assignment.
    Accepted(AssignmentId),
    /// An assignment came to nothing.
    Failed {
        /// Which.
        assignment: AssignmentId,
        /// Why.
        fault: Fault,
        /// In words.
        reason: String,
    },
    /// A sound result arrived.
    Result(AssignmentId),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The shard is part of the fleet.
    Admitted(ShardId),
    /// The shard is not taken: another process with its id is alive.
    Turned(ShardId),
    /// Send the work to the shard.
    Dispatch(AssignmentId),
    /// The shard need not finish it.
    Cancel(AssignmentId),
    /// The result counts.
    Use(AssignmentId),
    /// The result does not count: its work is done, abandoned or unknown.
    Ignore(AssignmentId),
    /// Work that one shard had is given to another.
    Reassigned {
        /// Which work.
        work: WorkId,
        /// Of which round.
        round: RoundId,
        /// Who had it.
        from: ShardId,
    },
    /// The shard has to be brought to the current state.
    Sync(ShardId),
    /// The shard is no longer part of the fleet.
    Evict {
        /// Who.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// Why.
        reason: String,
    },
    /// All work of the round has its result.
    Finish(RoundId),
    /// The round cannot be done by shards.
    Fail {
        /// Which round.
        round: RoundId,
        /// Whether it is for want of shards.
        stranded: bool,
        /// Why not.
        reason: String,
    },
}
