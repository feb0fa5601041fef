//! The block executor's interface to rounds: it sends work out and receives outputs in any order, until
//! all have arrived.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use common::block::{EncodedBlock, Prelude};
use common::codec::CodecError;
use common::id::{AssignmentId, RoundId, StateRef, TxIndex, WorkId};
use common::sealed::Sealed;
use common::work::{WorkKind, WorkOutput, WorkSpec};
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::ExecuteError;
use super::fraction::{Lottery, VerifyFraction};
use super::referee::Referee;
use crate::fleet::{Abandoned, Fleet, FleetError, RoundEvent, RoundFailure, RoundRequest};
use schedule::planner::SubBlock;

pub(super) type Pieces = Vec<(WorkId, Sealed<WorkSpec>)>;

/// A round whose work the shards have or will get.
#[derive(Debug)]
pub(super) struct OpenRound {
    round: RoundId,
    events: Receiver<RoundEvent>,
    /// The work without a result.
    open: HashMap<WorkId, Sealed<WorkSpec>>,
    /// The number of pieces of work that are verified.
    verified: u32,
    /// The limit of the time spent waiting.
    limit: Duration,
}

/// The end of a round.
#[derive(Debug, Default)]
pub(super) struct RoundEnd {
    /// The number of assignments that moved to another shard.
    pub(super) reassigned: u32,
    /// The number of verified pieces of work.
    pub(super) verified: u32,
    /// The reason if a used result turned out wrong. Then no result of this round counts.
    pub(super) disputed: Option<String>,
    /// Whether the round was given up because no trusted shard was left.
    pub(super) no_shard_left: bool,
}

/// Builds the work of recovering senders.
pub(super) fn recovery_work(
    base: StateRef,
    block: &EncodedBlock,
    parts: &[SubBlock],
) -> Result<Pieces, CodecError> {
    parts.iter().map(|indices| named(WorkSpec::of(base, block, WorkKind::Recover, indices))).collect()
}

/// Builds the work of executing sub-blocks.
pub(super) fn execution_work(
    base: StateRef,
    block: &EncodedBlock,
    sub_blocks: &[SubBlock],
    senders: &[Address],
    prelude: &Prelude,
) -> Result<Pieces, CodecError> {
    sub_blocks
        .iter()
        .map(|indices| {
            let senders = indices.iter().filter_map(|index| senders.get(index.0 as usize).copied()).collect();
            let kind = WorkKind::Execute { senders, prelude: prelude.clone() };
            named(WorkSpec::of(base, block, kind, indices))
        })
        .collect()
}

fn named(spec: WorkSpec) -> Result<(WorkId, Sealed<WorkSpec>), CodecError> {
    let spec = Sealed::new(spec);
    Ok((spec.id()?, spec))
}

/// Opens rounds and waits for their ends.
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

    /// Sends work out. The round's events wait until [`RoundClient::finish`] takes them.
    pub(super) fn open(
        &mut self,
        height: u64,
        block: B256,
        work: Pieces,
        gas: &Arc<[u64]>,
    ) -> Result<OpenRound, ExecuteError> {
        let round = RoundId(self.next);
        self.next += 1;
        let open: HashMap<WorkId, Sealed<WorkSpec>> = work.iter().cloned().collect();
        let verify: HashSet<WorkId> =
            work.iter().map(|(id, _)| *id).filter(|id| self.lottery.draws(round, id)).collect();
        let verified = u32::try_from(verify.len()).unwrap_or(u32::MAX);
        let request = RoundRequest { round, height, block, work, verify, gas: Arc::clone(gas) };
        let events = self.fleet.open_round(request)?;
        let limit = self.limit + self.fleet.longest(gas.iter().copied().fold(0, u64::saturating_add));
        Ok(OpenRound { round, events, open, verified, limit })
    }

    /// Waits for the end of a round, and passes each output to `take` when it arrives, until a result is
    /// disputed. A disputed round goes on without using its outputs, so that transactions that kill do so on
    /// shards and not in this process.
    pub(super) fn finish(
        &self,
        round: OpenRound,
        referee: &mut Referee<'_>,
        mut take: impl FnMut(&[TxIndex], WorkOutput) -> Result<(), ExecuteError>,
    ) -> Result<RoundEnd, ExecuteError> {
        let mut end = RoundEnd::default();
        let OpenRound { round, events, mut open, verified, limit } = round;
        if open.is_empty() {
            // The fleet closes a round without work at once.
            return Ok(end);
        }
        // The limit covers only the time spent waiting for shards. Meanwhile this thread also repairs stale
        // results.
        let mut left = limit;
        loop {
            let began = Instant::now();
            let event = events.recv_timeout(left);
            left = left.saturating_sub(began.elapsed());
            let after = match event {
                Ok(event) => on_event(event, &mut open, &mut end, referee, &mut take),
                Err(RecvTimeoutError::Timeout) => {
                    Err(RoundFailure::spent(format!("the round took longer than {limit:?}")).into())
                }
                // The driver drops rounds only when it ends.
                Err(RecvTimeoutError::Disconnected) => return Err(FleetError::Ended.into()),
            };
            match after {
                Ok(After::Continue) => {}
                Ok(After::Done) => break,
                Ok(After::NoShardLeft) => {
                    if self.abandon(round, &events)?.suspect {
                        let reason = "none is left that is trusted, and some of the block is suspect";
                        return Err(RoundFailure::stranded(reason).into());
                    }
                    end.no_shard_left = true;
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
                RoundFailure::spent(format!("the round ended without {missing} of its results")).into()
            );
        }
        end.verified = verified;
        Ok(end)
    }
}

impl RoundClient {
    /// Gives up a round whose results are not wanted any more.
    pub(super) fn forget(&self, round: &OpenRound) -> Result<(), FleetError> {
        self.fleet.abandon_round(round.round).map(drop)
    }

    /// Gives a round up. If shards have died at the block, parks it: otherwise this process would execute
    /// the block next.
    fn abandon(&self, round: RoundId, events: &Receiver<RoundEvent>) -> Result<Abandoned, ExecuteError> {
        let abandoned = self.fleet.abandon_round(round)?;
        // The round may already have been parked, with that event still unread.
        for event in events.try_iter() {
            if let RoundEvent::Failed(failure) = event
                && failure.is_parked()
            {
                return Err(failure.into());
            }
        }
        let Some(among) = abandoned.deadly else { return Ok(abandoned) };
        let reason = "shards died at it before its round was given up; look at their logs, then retry or discard the block";
        Err(RoundFailure::parked(among, false, reason).into())
    }
}

/// The consequence of an event of a round.
enum After {
    Continue,
    /// All work is done.
    Done,
    /// The round is disputed, and no trusted shard is left.
    NoShardLeft,
}

/// Handles an event of a round.
fn on_event(
    event: RoundEvent,
    open: &mut HashMap<WorkId, Sealed<WorkSpec>>,
    end: &mut RoundEnd,
    referee: &mut Referee<'_>,
    take: &mut impl FnMut(&[TxIndex], WorkOutput) -> Result<(), ExecuteError>,
) -> Result<After, ExecuteError> {
    let wrong = match event {
        RoundEvent::Finished => return Ok(After::Done),
        RoundEvent::Failed(failure) => return Err(failure.into()),
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
            let Some(spec) = open.remove(&work) else { return Ok(After::Continue) };
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
    let Some(wrong) = wrong else { return Ok(After::Continue) };
    end.disputed.get_or_insert(wrong);
    Ok(if referee.has_shards()? { After::Continue } else { After::NoShardLeft })
}
