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
use crate::fleet::{Fleet, FleetError, KillDrill, RoundEvent, RoundRequest};
use crate::planner::{Plan, SubBlock};

/// Why a round came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// No shard could take the work.
    #[error("{0}")]
    NoShard(String),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Size(#[from] CodecError),
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
        let request = RoundRequest { round, height, payload: Arc::clone(payload), work, kills };
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
                Ok(RoundEvent::Failed { stranded: true, reason }) => {
                    return Err(RoundError::NoShard(reason).into());
                }
                Ok(RoundEvent::Failed { stranded: false, reason }) => {
                    return Err(RoundError::Failed(reason).into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.fleet.abandon_round(round).map_err(RoundError::Fleet)?;
                    let limit = self.limit;
                    return Err(RoundError::Failed(format!("the round took longer than {limit:?}")).into());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(RoundError::Failed("the fleet's driver dropped the round".into()).into());
                }
            }
        }
        Ok(reassigned)
    }
}
