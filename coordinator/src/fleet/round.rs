//! A round as the driver holds it: the pieces of work of one pass over a block.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use alloy_primitives::B256;
use common::id::{RoundId, ShardId, TxIndex, TxRange, WorkId};
use common::message::SubmitResult;
use common::sealed::Sealed;
use common::work::{WorkKind, WorkSpec};
use crossbeam_channel::Sender;
use schedule::{WorkClass, WorkItem, planner};

/// A round that shards must do.
#[derive(Debug)]
pub struct RoundRequest {
    /// The round to open, unique within the coordinator's epoch.
    pub round: RoundId,
    /// The height of its block, for events.
    pub height: u64,
    /// The hash of its block.
    pub block: B256,
    /// Its work, in order of preference.
    pub work: Vec<(WorkId, Sealed<WorkSpec>)>,
    /// The work that must be verified.
    pub verify: HashSet<WorkId>,
    /// The gas limit of each transaction of the block.
    pub gas: Arc<[u64]>,
}

/// Why shards could not do a round. The suspects of a parked block are the range of its transactions that
/// holds the one that kills.
pub type RoundFailure = schedule::RoundFailure<TxRange>;

/// An event of a round, for its owner.
#[derive(Debug)]
pub enum RoundEvent {
    /// The result of a piece of work.
    Output {
        /// The result; its outcome is `Ok`.
        result: Arc<SubmitResult>,
        /// The digest of the outcome; `None` if the result came from within this process and needs no
        /// comparison.
        digest: Option<B256>,
    },
    /// Another shard got work of the round.
    Reassigned,
    /// A piece of work was cut into single transactions.
    Recut {
        /// The work that was cut.
        work: WorkId,
        /// The pieces in the order of their transactions, each with its specification.
        parts: Vec<(WorkId, Sealed<WorkSpec>)>,
    },
    /// No second shard can verify the work: trusted code must do it.
    Check {
        /// The work whose first result is used and unverified.
        work: WorkId,
        /// The shard whose result must be verified.
        first: ShardId,
    },
    /// Shards returned different results for the same work: trusted code must decide.
    Disputed {
        /// The work whose results differ.
        work: WorkId,
        /// The two shards and the digests of their results, first result first.
        answers: [(ShardId, B256); 2],
    },
    /// All work is done, and all work that must be verified is verified.
    Finished,
    /// Shards cannot do the round.
    Failed(RoundFailure),
}

/// The evidence against the block of an abandoned round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abandoned {
    /// The range of the open work that shards have died at; the coordinator must not execute the block in its
    /// own process.
    pub deadly: Option<TxRange>,
    /// Whether some of its work was suspect, proven or not.
    pub suspect: bool,
}

/// A round, as the driver holds it.
#[derive(Debug)]
pub(super) struct HeldRound {
    pub(super) height: u64,
    /// The hash of its block.
    pub(super) block: B256,
    pub(super) work: HashMap<WorkId, Sealed<WorkSpec>>,
    pub(super) gas: Arc<[u64]>,
    pub(super) events: RoundEvents,
}

/// The channel of a round's events to the round's owner, and the most events that it may hold.
#[derive(Debug)]
pub(super) struct RoundEvents {
    pub(super) events: Sender<RoundEvent>,
    pub(super) room: usize,
}

impl HeldRound {
    /// Sends an event to the round's owner. If the owner no longer listens, it will abandon the round soon.
    pub(super) fn notify(&self, event: RoundEvent) {
        let RoundEvents { events, room } = &self.events;
        if events.len() >= *room || events.send(event).is_err() {
            tracing::debug!("a round's listener is gone or full");
        }
    }
}

/// A piece of work, as far as the scheduler must know it. `gas` holds the gas limits of the block's
/// transactions.
pub(super) fn work_item(id: WorkId, spec: &WorkSpec, gas: &[u64], verify: bool) -> WorkItem {
    let transactions = u32::try_from(spec.indices.len()).unwrap_or(u32::MAX);
    let limits = || spec.indices.iter().filter_map(|index: &TxIndex| gas.get(index.0 as usize).copied());
    let (class, base, cost, heaviest) = match spec.kind {
        WorkKind::Recover => (WorkClass::Recover, None, u64::from(transactions), 0),
        WorkKind::Execute { .. } => {
            let cost = limits().map(planner::cost).fold(0, u64::saturating_add);
            (WorkClass::Execute, Some(spec.base), cost, limits().max().unwrap_or(0))
        }
    };
    WorkItem { id, base, class, cost: cost.max(1), heaviest, transactions, verify }
}

/// The work cut into single transactions; empty if it cannot be cut.
pub(super) fn singles(spec: &WorkSpec) -> Vec<(WorkId, Sealed<WorkSpec>)> {
    let one = |(place, index): (usize, &TxIndex)| {
        let kind = match &spec.kind {
            WorkKind::Recover => WorkKind::Recover,
            WorkKind::Execute { senders, prelude } => {
                WorkKind::Execute { senders: vec![*senders.get(place)?], prelude: prelude.clone() }
            }
        };
        let (base, header) = (spec.base, spec.header.clone());
        let transactions = vec![spec.transactions.get(place)?.clone()];
        let part = Sealed::new(WorkSpec { base, header, kind, indices: vec![*index], transactions });
        Some((part.id().ok()?, part))
    };
    spec.indices.iter().enumerate().map(one).collect::<Option<_>>().unwrap_or_default()
}
