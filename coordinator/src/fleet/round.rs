//! A round: the pieces of work of one pass over a block, as the driver holds them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use alloy_primitives::B256;
use common::block::BlockPayload;
use common::id::{RoundId, ShardId, TxIndex, TxRange, WorkId};
use common::message::SubmitResult;
use common::sealed::Sealed;
use common::work::{WorkKind, WorkSpec};
use crossbeam_channel::Sender;
use schedule::{WorkClass, WorkItem, planner};

/// A round to be done.
#[derive(Debug)]
pub struct RoundRequest {
    /// Which round.
    pub round: RoundId,
    /// The height of its block, for events.
    pub height: u64,
    /// The bytes of its block.
    pub payload: Sealed<BlockPayload>,
    /// Its work, in order of preference.
    pub work: Vec<(WorkId, Sealed<WorkSpec>)>,
    /// What of it is to be verified.
    pub verify: HashSet<WorkId>,
    /// The gas limit of each transaction of the block.
    pub gas: Arc<[u64]>,
}

/// Why shards could not do a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundFailure {
    /// There was none to take its work.
    NoShard,
    /// There was none, and the coordinator is to execute the block itself.
    Local,
    /// They tried too often, or cannot do it.
    Spent,
    /// A transaction kills, or seems to kill, whoever runs it: the block is to be parked.
    Parked {
        /// The transaction that does, or those that it is among.
        among: TxRange,
        /// Whether it is proven.
        convicted: bool,
    },
}

/// What a round tells whoever opened it.
#[derive(Debug)]
pub enum RoundEvent {
    /// The result of a piece of work.
    Output {
        /// Whose outcome is `Ok`.
        result: Arc<SubmitResult>,
        /// The digest of that; there is one if it came over the network or is to be compared.
        digest: Option<B256>,
    },
    /// Work was given to another shard.
    Reassigned,
    /// A piece of work was cut into single transactions.
    Recut {
        /// What was cut.
        work: WorkId,
        /// Into what.
        parts: Vec<(WorkId, Sealed<WorkSpec>)>,
    },
    /// No second shard can verify the work: trusted code has to.
    Check {
        /// Which work.
        work: WorkId,
        /// Whose result is to be verified.
        first: ShardId,
    },
    /// Shards returned different results for the same work: trusted code has to decide.
    Disputed {
        /// For which work.
        work: WorkId,
        /// Who returned what: the digests of the results.
        answers: [(ShardId, B256); 2],
    },
    /// All is done, and what is to be verified is verified.
    Finished,
    /// The round cannot be done by shards.
    Failed {
        /// In which way.
        cause: RoundFailure,
        /// Why not.
        reason: String,
    },
}

/// What is held against a round that is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abandoned {
    /// The transactions of open work that shards have died at: the block must not be executed in the
    /// coordinator's process.
    pub deadly: Option<TxRange>,
    /// Whether some of its work was suspect, proven or not.
    pub suspect: bool,
}

/// A round, as the driver holds it.
#[derive(Debug)]
pub(super) struct OpenRound {
    pub(super) height: u64,
    pub(super) payload: Sealed<BlockPayload>,
    pub(super) work: HashMap<WorkId, Sealed<WorkSpec>>,
    pub(super) gas: Arc<[u64]>,
    pub(super) events: Sender<RoundEvent>,
}

impl OpenRound {
    /// Tells whoever opened the round; if nobody listens any more, the round is abandoned soon.
    pub(super) fn tell(&self, event: RoundEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("a round's listener is gone or full");
        }
    }
}

/// What the scheduler has to know of a piece of work. `gas` are the gas limits of the block's
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

/// The work cut into single transactions; nothing if it cannot be.
pub(super) fn singles(spec: &WorkSpec) -> Vec<(WorkId, Sealed<WorkSpec>)> {
    let one = |(place, index): (usize, &TxIndex)| {
        let kind = match &spec.kind {
            WorkKind::Recover => WorkKind::Recover,
            WorkKind::Execute { senders } => WorkKind::Execute { senders: vec![*senders.get(place)?] },
        };
        let part = Sealed::new(WorkSpec { kind, indices: vec![*index], ..spec.clone() });
        Some((part.id().ok()?, part))
    };
    spec.indices.iter().enumerate().map(one).collect::<Option<_>>().unwrap_or_default()
}
