//! The scheduler's events (input) and commands (output).

use alloy_primitives::B256;
use common::endpoint::PeerError;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, SlotIndex, StateRef, WorkId};
use common::message::{Refusal, SlotProgress};
use common::strikes::StrikeRecord;
use common::work::WorkFailure;

use super::RoundFailure;

/// A kind of work: pieces of one kind take comparable times for comparable costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkClass {
    /// Recovering senders; its cost is a count of transactions.
    Recover,
    /// Executing a sub-block; its cost is gas.
    Execute,
}

/// One piece of work, as far as the scheduler must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkItem {
    /// A hash of the computation. The same work in a later round has the same id.
    pub id: WorkId,
    /// The state that a shard must hold to do it; `None` for recovering senders.
    pub base: Option<StateRef>,
    /// The kind of work.
    pub class: WorkClass,
    /// The amount of work in units of its class (transactions or gas); at least one.
    pub cost: u64,
    /// The greatest gas limit of its transactions; zero if it executes none.
    pub heaviest: u64,
    /// The number of transactions that it covers.
    pub transactions: u32,
    /// Whether two shards must agree on the result, or trusted code must confirm it, before the work is done.
    pub verify: bool,
}

/// Why an assignment brought no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignmentFault {
    /// The shard is busy: retry later.
    Busy,
    /// The shard is at another state and must be synced.
    WrongState,
    /// The shard is draining.
    Draining,
    /// The shard failed at it, or is unreachable: try another shard.
    Failed,
    /// A worker thread of the shard panicked at it: try another shard. If this happens repeatedly, the
    /// coordinator's own process must not run the work.
    Panicked,
    /// The shard delivered damaged bytes: try another shard and give this one a strike.
    Corrupt,
    /// The shard calls the command itself invalid. If another shard does too, every shard would.
    Hopeless,
    /// The shard serves a newer coordinator.
    Superseded,
}

impl From<&PeerError> for AssignmentFault {
    /// Classifies the error of a command that a shard rejected or failed to carry out.
    fn from(error: &PeerError) -> Self {
        match error {
            PeerError::Command(Refusal::QueueFull { .. }) | PeerError::Overloaded(_) => Self::Busy,
            PeerError::Command(Refusal::NotAtBase { .. }) => Self::WrongState,
            PeerError::Command(Refusal::Draining) => Self::Draining,
            PeerError::Command(Refusal::Malformed { .. }) => Self::Hopeless,
            PeerError::Command(Refusal::StaleEpoch { .. } | Refusal::WrongShard { .. }) => Self::Superseded,
            _ => Self::Failed,
        }
    }
}

impl From<&WorkFailure> for AssignmentFault {
    /// Classifies the failure of work that the shard had accepted.
    fn from(failure: &WorkFailure) -> Self {
        match failure {
            WorkFailure::BaseGone | WorkFailure::State(_) => Self::WrongState,
            WorkFailure::WorkerPanicked { .. } => Self::Panicked,
            WorkFailure::Damaged => Self::Corrupt,
            WorkFailure::Memory(_) => Self::Failed,
        }
    }
}

/// How a shard was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// Its process has ended, as the transport reports. Only this cause is evidence against the shard's work.
    Died,
    /// The coordinator no longer hears from it.
    Silent,
    /// It sent a leave notice: it finishes nothing more.
    Left,
    /// It serves a newer coordinator.
    Superseded,
    /// The coordinator cannot work with it: its link is stuck, or it is not the process that it claims to be.
    Unfit,
}

/// An input of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A shard asks to join.
    Register {
        /// The id under which the shard asks to join.
        shard: ShardId,
        /// The incarnation of the process that asks. The same one may register again.
        incarnation: Incarnation,
        /// The number of its slots.
        slots: u16,
    },
    /// A shard reports the state that its replica holds now.
    State {
        /// The shard that the replica belongs to.
        shard: ShardId,
        /// The incarnation that holds the state. The event counts only while that one is alive.
        incarnation: Incarnation,
        /// The state; `None` if it is not known.
        state: Option<StateRef>,
    },
    /// A heartbeat arrived. The time passed in is that of arrival, not that of handling.
    Heartbeat {
        /// The shard that sent it.
        shard: ShardId,
        /// The incarnation that sent it. The heartbeat counts only while that one is alive.
        incarnation: Incarnation,
        /// The progress of each of its slots.
        slots: Vec<SlotProgress>,
        /// The number of pieces of work that it has accepted and not begun.
        queued: u32,
    },
    /// A shard is gone.
    Lost {
        /// The shard that was lost.
        shard: ShardId,
        /// The incarnation that was lost. If another one is alive, the event has no effect.
        incarnation: Incarnation,
        /// How it was lost.
        cause: LossCause,
        /// An explanation for the log.
        reason: String,
    },
    /// A shard takes no new work.
    Draining {
        /// The shard that only finishes the work that it holds.
        shard: ShardId,
        /// The incarnation that drains. A later one takes work again.
        incarnation: Incarnation,
    },
    /// The scheduler must have shards do a round.
    Admit {
        /// The id that the caller gives the round. Commands and later events name it.
        round: RoundId,
        /// The hash of its block.
        block: B256,
        /// Its work, in order of preference.
        work: Vec<WorkItem>,
    },
    /// The work of a [`Command::Recut`] was cut into these pieces, one transaction each.
    Recut {
        /// The round that the work belongs to.
        round: RoundId,
        /// The work that was cut.
        work: WorkId,
        /// The pieces; empty if the work cannot be cut.
        parts: Vec<WorkItem>,
    },
    /// The caller no longer wants a round's results.
    Abandon {
        /// The round that ends now. The scheduler cancels its assignments.
        round: RoundId,
    },
    /// A shard has accepted an assignment.
    Accepted(AssignmentId),
    /// An assignment brought no result.
    Failed {
        /// The assignment that failed. It may be cancelled already.
        assignment: AssignmentId,
        /// The kind of failure, which decides what happens to the work and the shard.
        fault: AssignmentFault,
        /// An explanation for the log.
        reason: String,
    },
    /// A sound result arrived: undamaged, but not verified.
    Result {
        /// The assignment that it answers.
        assignment: AssignmentId,
        /// A digest of its deterministic part, if [`super::Scheduler::wants_digest`] asks for it.
        digest: Option<B256>,
    },
    /// Trusted code has done the work of a [`Command::Check`] or a [`Command::Disagreement`].
    Checked {
        /// The work that trusted code has done.
        work: WorkId,
        /// The digest of the right result.
        digest: B256,
    },
    /// Trusted execution has shown that a shard returned a wrong result: the scheduler quarantines it at
    /// once.
    Blame {
        /// The shard that returned the wrong result.
        shard: ShardId,
        /// What was wrong, for the log.
        reason: String,
    },
    /// Time has passed: the scheduler looks for silent shards, overdue work and rounds that no shard can take.
    Tick,
}

/// What a change of a shard's strikes says of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrikeChange {
    /// It has done wrong, or one of its slots stands still.
    Struck,
    /// It was late several times and must prove itself. Nothing shows that it is wrong.
    Doubted,
    /// It has proven itself, or its slot moves again.
    Cleared,
}

/// An output of the scheduler: what its driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The shard is part of the fleet.
    Admitted(ShardId),
    /// Reject the shard's registration: another process with its id is alive.
    Rejected(ShardId),
    /// The shard must ask again: another process holds its place, and the scheduler does not know yet whether
    /// that process is alive.
    RetryLater(ShardId),
    /// Send the work to the shard.
    Dispatch(AssignmentId),
    /// The shard need not finish it.
    Cancel(AssignmentId),
    /// The driver must use the result: it is the first sound one of its work.
    Use(AssignmentId),
    /// The result does not count: its work is done, abandoned or unknown, or the shard is not trusted.
    Ignore(AssignmentId),
    /// No second shard can verify the work: trusted code must do it. [`Event::Checked`] answers.
    Check {
        /// The work whose only result must be checked.
        work: WorkId,
        /// The round that the work belongs to.
        round: RoundId,
        /// The assignment whose result trusted code must check.
        first: AssignmentId,
    },
    /// Two results of the same work differ: trusted code must recompute it. [`Event::Checked`] answers.
    Disagreement {
        /// The work whose results differ.
        work: WorkId,
        /// The round that the work belongs to. It may have ended.
        round: RoundId,
        /// The assignment whose result came first.
        first: AssignmentId,
        /// The assignment whose result came second.
        second: AssignmentId,
        /// The digests of the two results, in the same order.
        digests: [B256; 2],
    },
    /// Another shard gets work that one shard had.
    Reassigned {
        /// The work that the other shard gets now.
        work: WorkId,
        /// The round that the work belongs to.
        round: RoundId,
        /// The shard that had it before.
        from: ShardId,
    },
    /// The work must be cut into single transactions; [`Event::Recut`] answers.
    Recut {
        /// The round that the work belongs to.
        round: RoundId,
        /// The work to cut, which covers more than one transaction.
        work: WorkId,
    },
    /// The work's only transaction has killed two shards that did nothing else.
    Convict {
        /// The round that the work belongs to. [`Command::Fail`] for this round follows.
        round: RoundId,
        /// The work that consists of the transaction.
        work: WorkId,
    },
    /// A shard's slot stands still, apparently for good. It gets no more work unless it moves again. If no
    /// slot is left, the shard's process, or its threads, must be restarted.
    Retire {
        /// The shard whose slot stands still.
        shard: ShardId,
        /// The incarnation that the slot belongs to. A later one starts with all slots in service.
        incarnation: Incarnation,
        /// The slot that gets no more work.
        slot: SlotIndex,
        /// The number of slots that still work.
        left: u16,
    },
    /// A retired slot moves again and gets work again.
    Return {
        /// The shard whose slot moves again.
        shard: ShardId,
        /// The incarnation that the slot belongs to.
        incarnation: Incarnation,
        /// The slot that gets work again.
        slot: SlotIndex,
    },
    /// A shard's strikes have changed, and the record must be kept.
    Strikes {
        /// The shard that the record is about, which need not be alive.
        shard: ShardId,
        /// The whole record after the change. It replaces the one that was kept.
        record: StrikeRecord,
        /// Whether the change is bad news.
        change: StrikeChange,
        /// Why they changed, for the log.
        reason: String,
    },
    /// The shard must be brought to the current state.
    Sync(ShardId),
    /// The shard is no longer part of the fleet.
    Evict {
        /// The shard that was lost.
        shard: ShardId,
        /// The incarnation that was lost. A later one may register.
        incarnation: Incarnation,
        /// Why it was lost, for the log.
        reason: String,
    },
    /// All work of the round has its result.
    Finish(RoundId),
    /// Shards cannot do the round.
    Fail {
        /// The round that ends without all its results.
        round: RoundId,
        /// Why shards cannot do it, and what follows for the block.
        failure: RoundFailure,
    },
}
