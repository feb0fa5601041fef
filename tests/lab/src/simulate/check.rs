//! The invariants of every history, checked by an observer that knows what really happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::id::{Epoch, Incarnation, ShardId, WorkId};

use super::chain::{BlockNumber, Piece};

/// An invariant that a history has violated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {at:?}: {what}")]
pub struct Violation {
    /// The virtual time of the violation.
    pub at: Duration,
    /// The violation in words, for example which piece of work was sent too often.
    pub what: String,
}

/// The real death of a process.
#[derive(Debug, Clone)]
pub(super) struct TrueDeath {
    pub(super) at: Duration,
    pub(super) shard: ShardId,
    pub(super) incarnation: Incarnation,
    /// The work that it had accepted and not finished.
    pub(super) held: Vec<WorkId>,
}

/// The loss of a shard that was part of a coordinator's fleet, as the coordinator noticed it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    pub(super) at: Duration,
    pub(super) epoch: Epoch,
    pub(super) shard: ShardId,
    pub(super) incarnation: Incarnation,
    /// Whether the coordinator was notified that the process has ended.
    pub(super) died: bool,
}

/// The observer of one history. It keeps only the first violation.
#[derive(Debug, Clone, Default)]
pub(super) struct Check {
    pub(super) violation: Option<Violation>,
    pub(super) deaths: Vec<TrueDeath>,
    pub(super) losses: Vec<Loss>,
    /// The arrival times of results.
    pub(super) results_at: Vec<Duration>,
    /// How often each coordinator sent a piece of work, less what shards rejected as busy.
    tries: BTreeMap<(Epoch, WorkId), i64>,
    pub(super) used: BTreeSet<(Epoch, u64, WorkId)>,
    /// The shards in quarantine, as each coordinator has reported.
    quarantined: BTreeSet<(Epoch, ShardId)>,
}

/// The most sendings of one piece of work by one coordinator until its round is given up: the scheduler's
/// tries, its controls and probations.
const MOST_SENDINGS: i64 = 24;

impl Check {
    pub(super) fn fail(&mut self, at: Duration, what: impl Into<String>) {
        if self.violation.is_none() {
            self.violation = Some(Violation { at, what: what.into() });
        }
    }

    /// Notes a shard's quarantine, or its end, as a coordinator reports it.
    pub(super) fn struck(&mut self, epoch: Epoch, shard: ShardId, quarantined: bool) {
        if quarantined {
            self.quarantined.insert((epoch, shard));
        } else {
            self.quarantined.remove(&(epoch, shard));
        }
    }

    pub(super) fn is_struck(&self, epoch: Epoch, shard: ShardId) -> bool {
        self.quarantined.contains(&(epoch, shard))
    }

    pub(super) fn sent(&mut self, now: Duration, epoch: Epoch, work: WorkId) {
        let tries = self.tries.entry((epoch, work)).or_default();
        *tries += 1;
        if *tries > MOST_SENDINGS {
            self.fail(
                now,
                format!("work {:?} was sent out {MOST_SENDINGS} times and again", Piece::of(&work)),
            );
        }
    }

    pub(super) fn not_begun(&mut self, epoch: Epoch, work: WorkId) {
        *self.tries.entry((epoch, work)).or_default() -= 1;
    }

    /// A block's round was given up: the tries of its work restart.
    pub(super) fn tries_again(&mut self, block: BlockNumber) {
        self.tries.retain(|(_, work), _| Piece::of(work).block != block);
    }

    pub(super) fn used(&mut self, now: Duration, epoch: Epoch, round: u64, work: WorkId, open: bool) {
        if !open {
            self.fail(now, format!("a result was used for {:?}, which is not open", Piece::of(&work)));
        }
        if !self.used.insert((epoch, round, work)) {
            self.fail(now, format!("two results were used for {:?}", Piece::of(&work)));
        }
    }

    /// Checks a conviction: two processes of different shards must have ended while they held nothing but
    /// this work. Each death must have been noticed apart from the losses of other shards, and the fleet must
    /// have done something in between.
    pub(super) fn convicted(&mut self, now: Duration, epoch: Epoch, work: WorkId, window: Duration) {
        let known: Vec<Loss> = self.losses.iter().copied().filter(|loss| loss.epoch == epoch).collect();
        let apart = |loss: &Loss| {
            !known.iter().any(|other| other.shard != loss.shard && other.at.abs_diff(loss.at) <= window)
        };
        // A command that the network duplicated may have restarted work that was done.
        let done = |held: &WorkId| self.used.iter().any(|(_, _, used)| used == held);
        let alone = |loss: &Loss| {
            self.deaths.iter().any(|death| {
                (death.shard, death.incarnation) == (loss.shard, loss.incarnation)
                    && death.at <= loss.at
                    && death.held.iter().all(|held| *held == work || done(held))
            })
        };
        let evidence: Vec<&Loss> =
            known.iter().filter(|loss| loss.died && apart(loss) && alone(loss)).collect();
        let proven = evidence.iter().any(|first| {
            evidence.iter().any(|second| {
                let control = self.results_at.iter().any(|at| *at >= first.at && *at <= second.at);
                first.at < second.at && first.shard != second.shard && control
            })
        });
        if !proven {
            self.fail(now, format!("{:?} was convicted without evidence", Piece::of(&work)));
        }
    }
}
