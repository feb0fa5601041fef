//! Why a round fails. The same value goes from the scheduler through the fleet to the block executor.

use common::id::WorkId;

/// The kind of a round's failure. `S` names the work that may kill its process: the scheduler names pieces of
/// work, the fleet names transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailCause<S = Vec<WorkId>> {
    /// No shard could take its work.
    Stranded,
    /// No shard could take its work: the coordinator must execute the block itself.
    Local,
    /// Shards tried too often, or cannot do its work at all.
    Spent,
    /// It holds a transaction that kills, or seems to kill, every process that runs it. The coordinator parks
    /// the block and never executes it in its own process.
    Parked {
        /// The work that holds the transaction: one piece if that is proven, else every piece that may hold
        /// it.
        suspects: S,
        /// Whether the transaction is proven to kill; false if the tries ran out first.
        convicted: bool,
    },
}

/// The failure of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundFailure<S = Vec<WorkId>> {
    /// The kind of failure.
    pub cause: FailCause<S>,
    /// An explanation for the client and the log.
    pub reason: String,
}

impl<S> RoundFailure<S> {
    /// No shard could take the round's work.
    #[must_use]
    pub fn stranded(reason: impl Into<String>) -> Self {
        Self { cause: FailCause::Stranded, reason: reason.into() }
    }

    /// Shards tried too often, or cannot do the round's work at all.
    #[must_use]
    pub fn spent(reason: impl Into<String>) -> Self {
        Self { cause: FailCause::Spent, reason: reason.into() }
    }

    /// Shards died at these suspects. `convicted` says whether the suspect is proven to kill.
    #[must_use]
    pub fn parked(suspects: S, convicted: bool, reason: impl Into<String>) -> Self {
        Self { cause: FailCause::Parked { suspects, convicted }, reason: reason.into() }
    }

    /// Whether the block must be parked.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        matches!(self.cause, FailCause::Parked { .. })
    }

    /// The same failure with another name for the suspects.
    #[must_use]
    pub fn map_suspects<T>(self, name: impl FnOnce(S) -> T) -> RoundFailure<T> {
        let cause = match self.cause {
            FailCause::Stranded => FailCause::Stranded,
            FailCause::Local => FailCause::Local,
            FailCause::Spent => FailCause::Spent,
            FailCause::Parked { suspects, convicted } => {
                FailCause::Parked { suspects: name(suspects), convicted }
            }
        };
        RoundFailure { cause, reason: self.reason }
    }
}
