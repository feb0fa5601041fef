//! Rounds as the block executor sees them: work goes out, outputs come back, in any order, until
//! all are there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use common::block::BlockPayload;
use common::codec::CodecError;
use common::id::{RoundId, StateRef, TxIndex, WorkId};
use common::work::{WorkKind, WorkOutput, WorkSpec};
use crossbeam_channel::RecvTimeoutError;

use super::ExecuteError;
use crate::fleet::{Fleet, FleetError, KillDrill, RoundEvent, RoundFailure, RoundRequest};
use crate::planner::{Plan, SubBlock};

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
    #[error("transaction {index}: {reason}")]
    Parked { index: TxIndex, convicted: bool, reason: String },
    #[error(transparent)]
    Size(#[from] CodecError),
}

impl RoundError {
    fn of(cause: RoundFailure, reason: String) -> Self {
        match cause {
            RoundFailure::NoShard => Self::NoShard(reason),
            RoundFailure::Local => Self::Local(reason),
            RoundFailure::Spent => Self::Failed(reason),
            RoundFailure::Parked { index, convicted } => Self::Parked { index, convicted, reason },
        }
    }
}

pub(super) type Work = Vec<(WorkId, Arc<WorkSpec>)>;

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
    next: u64,
}

impl RoundClient {
    pub(super) fn new(fleet: Fleet, limit: Duration) -> Self {
        Self { fleet, limit, next: 1 }
    }

    /// Has the work done, and hands each output to `take` as it comes. Returns how many
    /// assignments were given to another shard.
    pub(super) fn run(
        &mut self,
        payload: &Arc<BlockPayload>,
        work: Work,
        weights: &Arc<[u64]>,
        kills: Vec<KillDrill>,
        mut take: impl FnMut(&[TxIndex], WorkOutput) -> Result<(), ExecuteError>,
    ) -> Result<u32, ExecuteError> {
        if work.is_empty() {
            return Ok(0);
        }
        let round = RoundId(self.next);
        self.next += 1;
        let mut open: HashMap<WorkId, Arc<WorkSpec>> = work.iter().cloned().collect();
        let height = open.values().next().map_or(0, |spec| spec.base.height.0 + 1);
        let request = RoundRequest {
            round,
            height,
            payload: Arc::clone(payload),
            work,
            weights: Arc::clone(weights),
            kills,
        };
        let events = self.fleet.open_round(request).map_err(RoundError::Fleet)?;
        let deadline = Instant::now() + self.limit;
        let mut reassigned = 0;
        while !open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(RoundEvent::Output(result)) => {
                    let Some(spec) = open.remove(&result.assignment.work) else { continue };
                    let result = Arc::try_unwrap(result).unwrap_or_else(|shared| (*shared).clone());
                    let Ok(output) = result.outcome else { continue };
                    if let Err(error) = take(&spec.indices, output) {
                        self.fleet.abandon_round(round).map_err(RoundError::Fleet)?;
                        return Err(error);
                    }
                }
                Ok(RoundEvent::Reassigned) => reassigned += 1,
                Ok(RoundEvent::Recut { work, parts }) => {
                    if open.remove(&work).is_some() {
                        open.extend(parts);
                    }
                }
                Ok(RoundEvent::Disputed { work, first, second }) => {
                    self.fleet.abandon_round(round).map_err(RoundError::Fleet)?;
                    let text = format!("shards {first} and {second} disagree about work {work}");
                    return Err(RoundError::Failed(text).into());
                }
                Ok(RoundEvent::Failed { cause, reason }) => return Err(RoundError::of(cause, reason).into()),
                Err(RecvTimeoutError::Timeout) => {
                    self.fleet.abandon_round(round).map_err(RoundError::Fleet)?;
                    let limit = self.limit;
                    return Err(RoundError::Failed(format!("the round took longer than {limit:?}")).into());
                }
                // The driver drops rounds only when it ends.
                Err(RecvTimeoutError::Disconnected) => return Err(FleetError::Ended.into()),
            }
        }
        Ok(reassigned)
    }
}
