//! What the scheduler is told, and what it tells.

use alloy_primitives::B256;
use common::endpoint::PeerError;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, SlotIndex, StateRef, WorkId};
use common::message::{Refusal, SlotProgress};
use common::strikes::StrikeRecord;
use common::work::WorkFailure;

/// Kinds of work that take comparable times for comparable costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkClass {
    /// Recovering senders; its cost is a count of transactions.
    Recover,
    /// Executing a sub-block; its cost is gas.
    Execute,
}

/// One piece of work, as far as the scheduler needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkItem {
    /// Which work.
    pub id: WorkId,
    /// The state that a shard must hold to do it; none to recover senders.
    pub base: Option<StateRef>,
    /// What kind of work.
    pub class: WorkClass,
    /// How much of it, in units of its kind; at least one.
    pub cost: u64,
    /// The greatest gas limit of its transactions; zero where none is executed.
    pub heaviest: u64,
    /// How many transactions it covers.
    pub transactions: u32,
    /// Whether two shards have to agree about it, or trusted code with one, before it is done.
    pub verify: bool,
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
    /// A worker thread of the shard panicked at it: try another. Where it happens again and again, the
    /// coordinator's own process must not run it.
    Panicked,
    /// What the shard delivered is damaged: try another, and a strike against this one.
    Corrupt,
    /// The command itself makes no sense: every shard would refuse it.
    Hopeless,
    /// The shard serves a newer coordinator.
    Superseded,
}

impl From<&PeerError> for Fault {
    /// Of a command that was refused, or that failed.
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

impl From<&WorkFailure> for Fault {
    /// Of work that was accepted, and that failed.
    fn from(failure: &WorkFailure) -> Self {
        match failure {
            WorkFailure::BaseGone | WorkFailure::State(_) => Self::WrongState,
            WorkFailure::WorkerPanicked { .. } => Self::Panicked,
            WorkFailure::Damaged => Self::Corrupt,
        }
    }
}

/// How a shard was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossCause {
    /// Its process has ended: the transport says so. The only cause that is evidence of anything.
    Died,
    /// It is not heard of any more.
    Silent,
    /// It said goodbye.
    Left,
    /// It serves a newer coordinator.
    Superseded,
    /// It is not to be worked with: its link is stuck, or it is another process than it says.
    Unfit,
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
        /// What its slots do.
        slots: Vec<SlotProgress>,
        /// Work that it has accepted and not begun.
        queued: u32,
    },
    /// A shard is gone.
    Lost {
        /// Who.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// In which way.
        cause: LossCause,
        /// In words.
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
        /// Of which block.
        block: B256,
        /// Its work, in order of preference.
        work: Vec<WorkItem>,
    },
    /// The work of a [`Command::Recut`] was cut into these pieces, one transaction each.
    Recut {
        /// Of which round.
        round: RoundId,
        /// What was cut.
        work: WorkId,
        /// Into what; nothing if it cannot be cut.
        parts: Vec<WorkItem>,
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
    Result {
        /// Of which assignment.
        assignment: AssignmentId,
        /// A digest of its deterministic part, where [`super::Scheduler::wants_digest`] asks for it.
        digest: Option<B256>,
    },
    /// Trusted code has done the work of a [`Command::Check`] or a [`Command::Disagreement`].
    Checked {
        /// Which work.
        work: WorkId,
        /// The digest of the right result.
        digest: B256,
    },
    /// Trusted execution has shown that the shard returned something wrong: quarantine, at once.
    Blame {
        /// Who.
        shard: ShardId,
        /// What was wrong.
        reason: String,
    },
    /// Time has passed.
    Tick,
}

/// Why a round fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailCause {
    /// No shard could take its work.
    Stranded,
    /// No shard could take its work: the coordinator is to execute the block itself.
    Local,
    /// Shards tried too often, or cannot do it at all.
    Spent,
    /// It holds a transaction that kills, or seems to kill, whoever runs it: the block is parked and
    /// never executed in the coordinator's process.
    Parked {
        /// The work that the transaction is in: one piece if it is proven, else all that it may be.
        suspects: Vec<WorkId>,
        /// Whether it is proven, or tries have run out before.
        convicted: bool,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The shard is part of the fleet.
    Admitted(ShardId),
    /// The shard is not taken: another process with its id is alive.
    Turned(ShardId),
    /// Another process has the shard's place, and whether it still lives is not known yet: to be asked
    /// again.
    Deferred(ShardId),
    /// Send the work to the shard.
    Dispatch(AssignmentId),
    /// The shard need not finish it.
    Cancel(AssignmentId),
    /// The result counts.
    Use(AssignmentId),
    /// The result does not count: its work is done, abandoned or unknown, or it is not trusted.
    Ignore(AssignmentId),
    /// The work is to be verified, and no second shard can do it: trusted code has to. Answered by
    /// [`Event::Checked`].
    Check {
        /// Which work.
        work: WorkId,
        /// Of which round.
        round: RoundId,
        /// Whose result is to be checked.
        first: AssignmentId,
    },
    /// Two results of the same work differ. It is recomputed by trusted code; [`Event::Checked`]
    /// answers.
    Disagreement {
        /// Of which work.
        work: WorkId,
        /// Of which round.
        round: RoundId,
        /// Whose result came first.
        first: AssignmentId,
        /// Whose second.
        second: AssignmentId,
        /// The digests of the two.
        digests: [B256; 2],
    },
    /// Work that one shard had is given to another.
    Reassigned {
        /// Which work.
        work: WorkId,
        /// Of which round.
        round: RoundId,
        /// Who had it.
        from: ShardId,
    },
    /// The work is to be cut into single transactions; [`Event::Recut`] answers.
    Recut {
        /// Of which round.
        round: RoundId,
        /// Which work.
        work: WorkId,
    },
    /// The work's one transaction has killed two shards that did nothing else.
    Convict {
        /// Of which round.
        round: RoundId,
        /// The work of that transaction.
        work: WorkId,
    },
    /// A shard's slot stands still, as it seems for good: it gets no more work unless it moves again.
    /// With none left, the shard's process has to be started again, or its threads have.
    Retire {
        /// Whose.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// Which slot.
        slot: SlotIndex,
        /// How many are left.
        left: u16,
    },
    /// A retired slot moves again, and gets work again.
    Return {
        /// Whose.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
        /// Which slot.
        slot: SlotIndex,
    },
    /// A shard's strikes have changed: to be kept.
    Strikes {
        /// Whose.
        shard: ShardId,
        /// What they are now.
        record: StrikeRecord,
        /// What has changed.
        reason: String,
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
        /// In which way.
        cause: FailCause,
        /// Why not.
        reason: String,
    },
}
