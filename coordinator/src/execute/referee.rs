//! The referee of one block. It records which shard returned which result, computes disputed work again
//! with this process's own engine, and names the shards whose results differ.
//!
//! It runs on the executing thread. It repeats only work that a shard has executed and survived.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use alloy_primitives::B256;
use common::chain_spec::ChainSpec;
use common::id::{Gas, ShardId, TxIndex, WorkId};
use common::sealed::Sealed;
use common::work::{WorkKind, WorkSpec, outcome_digest};
use engine::replica_view::ReplicaView;
use engine::sub_block::{self, Progress};

use super::ExecuteError;
use crate::fleet::{Fleet, FleetError};

/// Ignores the progress of a block: nothing watches the referee.
struct Unwatched;

impl Progress for Unwatched {
    fn at(&self, _: TxIndex, _: Gas) {}
}

/// A result that the block used.
#[derive(Debug)]
struct Delivered {
    spec: Sealed<WorkSpec>,
    shard: ShardId,
    digest: Option<B256>,
}

/// The shards' results for one block, and the right results as far as they were computed.
#[derive(Debug)]
pub(super) struct Referee<'a> {
    fleet: Fleet,
    chain: &'a ChainSpec,
    view: &'a ReplicaView,
    block: u64,
    delivered: HashMap<WorkId, Delivered>,
    truths: HashMap<WorkId, B256>,
}

impl<'a> Referee<'a> {
    pub(super) fn new(fleet: Fleet, chain: &'a ChainSpec, view: &'a ReplicaView, block: u64) -> Self {
        Self { fleet, chain, view, block, delivered: HashMap::new(), truths: HashMap::new() }
    }

    /// Records a result that the block used.
    pub(super) fn delivered(
        &mut self,
        work: WorkId,
        spec: &Sealed<WorkSpec>,
        shard: ShardId,
        digest: Option<B256>,
    ) {
        self.delivered.insert(work, Delivered { spec: spec.clone(), shard, digest });
    }

    /// Computes the work of a used result again and reports the right digest to the fleet. Returns whether
    /// the used result was right; if not, blames its shard.
    pub(super) fn check(&mut self, work: WorkId) -> Result<bool, ExecuteError> {
        let known = self.delivered.get(&work).and_then(|known| Some((known.shard, known.digest?)));
        let answer = known.ok_or_else(|| unknown(&work))?;
        self.settle(work, &[answer])
    }

    /// Computes the work again, blames every shard whose answer differs, and reports the right digest to
    /// the fleet. Returns whether the used result was right.
    pub(super) fn settle(&mut self, work: WorkId, answers: &[(ShardId, B256)]) -> Result<bool, ExecuteError> {
        let truth = self.truth(&work)?;
        for (shard, digest) in answers {
            if *digest != truth {
                self.blame(*shard, &work, 1)?;
            }
        }
        self.fleet.checked(work, truth)?;
        Ok(self.delivered.get(&work).is_some_and(|delivered| delivered.digest == Some(truth)))
    }

    /// Computes all work of the block again and blames the shards whose results differ. The block itself
    /// has turned out valid.
    pub(super) fn name_the_wrong(&mut self) -> Result<(), FleetError> {
        let mut wrong: BTreeMap<ShardId, (WorkId, usize)> = BTreeMap::new();
        let works: Vec<WorkId> = self.delivered.keys().copied().collect();
        for work in works {
            if let Ok(truth) = self.truth(&work)
                && let Some(delivered) = self.delivered.get(&work)
                && delivered.digest.is_some_and(|digest| digest != truth)
            {
                wrong.entry(delivered.shard).or_insert((work, 0)).1 += 1;
            }
        }
        for (shard, (work, count)) in &wrong {
            self.blame(*shard, work, *count)?;
        }
        Ok(())
    }

    /// Whether a trusted shard is ready for work.
    pub(super) fn has_shards(&self) -> Result<bool, FleetError> {
        Ok(self.fleet.ready()?.0 > 0)
    }

    fn blame(&self, shard: ShardId, work: &WorkId, count: usize) -> Result<(), FleetError> {
        let kind = self.delivered.get(work).map_or("work", |delivered| match delivered.spec.kind {
            WorkKind::Recover => "senders",
            WorkKind::Execute { .. } => "sub-block",
        });
        let block = self.block;
        let more = if count > 1 { format!(" and for {} more", count - 1) } else { String::new() };
        let reason = format!(
            "returned a wrong result in block {block} for {kind} {work}{more}: trusted execution differs"
        );
        self.fleet.blame(shard, block, reason)
    }

    /// The digest of the right result.
    fn truth(&mut self, work: &WorkId) -> Result<B256, ExecuteError> {
        if let Some(truth) = self.truths.get(work) {
            return Ok(*truth);
        }
        let delivered = self.delivered.get(work).ok_or_else(|| unknown(work))?;
        let spec = &delivered.spec;
        let view = matches!(spec.kind, WorkKind::Execute { .. }).then(|| self.view.clone());
        let outcome = sub_block::run(spec, self.chain, view, &Arc::default(), &Unwatched);
        // A failure here says nothing about shards.
        let output = match outcome {
            Some(Ok(output)) => output,
            failed => {
                return Err(ExecuteError::Round(format!("work {work} cannot be done here: {failed:?}")));
            }
        };
        let truth = outcome_digest(Ok(&output))?;
        self.truths.insert(*work, truth);
        Ok(truth)
    }
}

fn unknown(work: &WorkId) -> ExecuteError {
    ExecuteError::Round(format!("work {work} has no result to look at"))
}
