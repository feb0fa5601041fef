//! Rounds as the block executor sees them: work goes out, outputs come back, in any order, until
//! all are there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use common::block::BlockPayload;
use common::codec::CodecError;
use common::id::{AssignmentId, RoundId, StateRef, TxIndex, TxRange, WorkId};
use common::work::{WorkKind, WorkOutput, WorkSpec};
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::ExecuteError;
use super::fraction::{Lottery, VerifyFraction};
use super::referee::Referee;
use crate::fleet::{Abandoned, Fleet, FleetError, KillDrill, RoundEvent, RoundFailure, RoundRequest};
use schedule::planner::{Plan, SubBlock};

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// No shard could take the work.
    #[error("{0}")]
    NoShard(String),
    /// No shard could take the work, and the coordinator is to do it.
    #[error("{0}")]
    Local(String),
    #[error("{0}")]
    Failed(String),
    /// A transaction kills, or seems to kill, whoever runs it.
    #[error("{among}: {reason}")]
    Parked { among: TxRange, convicted: bool, reason: String },
    #[error(transparent)]
    Size(#[from] CodecError),
}

impl RoundError {
    fn of(cause: RoundFailure, reason: String) -> Self {
        match cause {
            RoundFailure::NoShard => Self::NoShard(reason),
            RoundFailure::Local => Self::Local(reason),
            RoundFailure::Spent => Self::Failed(reason),
            RoundFailure::Parked { among, convicted } => Self::Parked { among, convicted, reason },
        }
    }
}

pub(super) type Work = Vec<(WorkId, Arc<WorkSpec>)>;

/// How a round went.
#[derive(Debug, Default)]
pub(super) struct RoundEnd {
    /// Assignments that were given to another shard.
    pub(super) reassigned: u32,
    /// Pieces of work that were verified.
    pub(super) verified: u32,
    /// A result that was used turned out wrong: nothing of this round counts.
    pub(super) disputed: Option<String>,
    /// And no shard was left that is trusted: the round was given up.
    pub(super) nobody_left: bool,
}

/// The work of recovering senders.
pub(super) fn recovery_work(
    base: StateRef,
    block: B256,
    inputs: B256,
    parts: &[SubBlock],
) -> Result<Work, CodecError> {
    parts
        .iter()
        .map(|indices| {
            named(WorkSpec { base, block, inputs, kind: WorkKind::Recover, indices: indices.clone() })
        })
        .collect()
}

/// The work of executing sub-blocks.
pub(super) fn execution_work(
    base: StateRef,
    block: B256,
    inputs: B256,
    sub_blocks: &[SubBlock],
    senders: &[Address],
    plan: Plan,
) -> Result<Work, CodecError> {
    sub_blocks
        .iter()
        .map(|indices| {
            let senders = indices.iter().filter_map(|index| senders.get(index.0 as usize).copied()).collect();
            let kind = WorkKind::Execute { senders, poison: plan.poison() };
            named(WorkSpec { base, block, inputs, kind, indices: indices.clone() })
        })
        .collect()
}

fn named(spec: WorkSpec) -> Result<(WorkId, Arc<WorkSpec>), CodecError> {
    Ok((spec.id()?, Arc::new(spec)))
}

/// Opens rounds and waits for them.
#[derive(Debug)]
pub(super) struct RoundClient {
    fleet: Fleet,
    limit: Duration,
    lottery: Lottery,
    next: u64,
}

impl RoundClient {
    pub(super) fn new(fleet: Fleet, limit: Duration, fraction: VerifyFraction) -> Self {
        Self { fleet, limit, lottery: Lottery::new(fraction), next: 1 }
    }

    /// Has the work done, and hands each output to `take` as it comes, until something is disputed.
    /// A disputed round goes on without its outputs: what kills whoever runs it is to show on shards.
    pub(super) fn run(
        &mut self,
        payload: &Arc<BlockPayload>,
        work: Work,
        gas: &Arc<[u64]>,
        kills: Vec<KillDrill>,
        referee: &mut Referee<'_>,
        mut take: impl FnMut(&[TxIndex], WorkOutput) -> Result<(), ExecuteError>,
    ) -> Result<RoundEnd, ExecuteError> {
        let mut end = RoundEnd::default();
        if work.is_empty() {
            return Ok(end);
        }
        let round = RoundId(self.next);
        self.next += 1;
        let mut open: HashMap<WorkId, Arc<WorkSpec>> = work.iter().cloned().collect();
        let verify: HashSet<WorkId> =
            work.iter().map(|(id, _)| *id).filter(|id| self.lottery.draws(round, id)).collect();
        let verified = u32::try_from(verify.len()).unwrap_or(u32::MAX);
        let height = open.values().next().map_or(0, |spec| spec.base.height.0 + 1);
        let request = RoundRequest {
            round,
            height,
            payload: Arc::clone(payload),
            work,
            verify,
            gas: Arc::clone(gas),
            kills,
        };
        let events = self.fleet.open_round(request).map_err(RoundError::Fleet)?;
        let limit = self.limit + self.fleet.longest(gas.iter().copied().fold(0, u64::saturating_add));
        // The round's time is what is waited for shards: this thread executes again what is stale meanwhile.
        let mut left = limit;
        loop {
            let began = Instant::now();
            let event = events.recv_timeout(left);
            left = left.saturating_sub(began.elapsed());
            let heeded = match event {
                Ok(event) => heed(event, &mut open, &mut end, referee, &mut take),
                Err(RecvTimeoutError::Timeout) => {
                    Err(RoundError::Failed(format!("the round took longer than {limit:?}")).into())
                }
                // The driver drops rounds only when it ends.
                Err(RecvTimeoutError::Disconnected) => return Err(FleetError::Ended.into()),
            };
            match heeded {
                Ok(Heeded::GoOn) => {}
                Ok(Heeded::Over) => break,
                Ok(Heeded::NobodyLeft) => {
                    if self.abandon(round, &events)?.suspect {
                        let reason = "none is left that is trusted, and some of the block is suspect";
                        return Err(RoundError::NoShard(reason.into()).into());
                    }
                    end.nobody_left = true;
                    return Ok(end);
                }
                Err(error) => {
                    self.abandon(round, &events)?;
                    return Err(error);
                }
            }
        }
        if !open.is_empty() {
            let missing = open.len();
            return Err(
                RoundError::Failed(format!("the round ended without {missing} of its results")).into()
            );
        }
        end.verified = verified;
        Ok(end)
    }
}

impl RoundClient {
    /// Gives a round up. A block that shards have died at is parked then: what follows a round that was
    /// given up is executed in this process.
    fn abandon(&self, round: RoundId, events: &Receiver<RoundEvent>) -> Result<Abandoned, RoundError> {
        let abandoned = self.fleet.abandon_round(round)?;
        // It may have been parked already, unheard.
        for event in events.try_iter() {
            if let RoundEvent::Failed { cause: cause @ RoundFailure::Parked { .. }, reason } = event {
                return Err(RoundError::of(cause, reason));
            }
        }
        let Some(among) = abandoned.deadly else { return Ok(abandoned) };
        let reason = "shards died at it before its round was given up; look at their logs, then retry or discard the block".to_owned();
        Err(RoundError::Parked { among, convicted: false, reason })
    }
}

/// What follows from an event of a round.
enum Heeded {
    GoOn,
    /// All is done.
    Over,
    /// The round is disputed, and no shard is left that is trusted.
    NobodyLeft,
}

/// Takes up an event of a round.
fn heed(
    event: RoundEvent,
    open: &mut HashMap<WorkId, Arc<WorkSpec>>,
    end: &mut RoundEnd,
    referee: &mut Referee<'_>,
    take: &mut impl FnMut(&[TxIndex], WorkOutput) -> Result<(), ExecuteError>,
) -> Result<Heeded, ExecuteError> {
    let wrong = match event {
        RoundEvent::Finished => return Ok(Heeded::Over),
        RoundEvent::Failed { cause, reason } => return Err(RoundError::of(cause, reason).into()),
        RoundEvent::Reassigned => {
            end.reassigned += 1;
            None
        }
        RoundEvent::Recut { work, parts } => {
            if open.remove(&work).is_some() {
                open.extend(parts);
            }
            None
        }
        RoundEvent::Output { result, digest } => {
            let AssignmentId { work, shard, .. } = result.assignment;
            let Some(spec) = open.remove(&work) else { return Ok(Heeded::GoOn) };
            referee.delivered(work, &spec, shard, digest);
            let result = Arc::try_unwrap(result).unwrap_or_else(|shared| (*shared).clone());
            if let (Ok(output), None) = (result.outcome, &end.disputed) {
                take(&spec.indices, output)?;
            }
            None
        }
        RoundEvent::Check { work, first } => {
            let right = referee.check(work)?;
            (!right).then(|| format!("shard {first} returned a wrong result for work {work}"))
        }
        RoundEvent::Disputed { work, answers } => {
            let right = referee.settle(work, &answers)?;
            let [(first, _), (second, _)] = answers;
            (!right).then(|| format!("shards {first} and {second} disagreed about work {work}"))
        }
    };
    let Some(wrong) = wrong else { return Ok(Heeded::GoOn) };
    end.disputed.get_or_insert(wrong);
    Ok(if referee.has_shards()? { Heeded::GoOn } else { Heeded::NobodyLeft })
}
