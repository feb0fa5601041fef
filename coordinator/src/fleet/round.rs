//! A round: the pieces of work of one pass over a block, as the driver holds them.

use std::collections::HashMap;
use std::sync::Arc;

use common::block::BlockPayload;
use common::id::{RoundId, ShardId, WorkId};
use common::message::SubmitResult;
use common::work::WorkSpec;
use crossbeam_channel::Sender;

/// A round to be done.
#[derive(Debug)]
pub struct RoundRequest {
    /// Which round.
    pub round: RoundId,
    /// The height of its block, for events.
    pub height: u64,
    /// The bytes of its block.
    pub payload: Arc<BlockPayload>,
    /// Its work, in order of preference.
    pub work: Vec<(WorkId, Arc<WorkSpec>)>,
    /// Shards to kill while they hold some of it.
    pub kills: Vec<KillDrill>,
}

/// A drill: a shard is killed at a moment when it holds work that it has accepted and not
/// answered.
#[derive(Clone)]
pub struct KillDrill {
    /// Who is to die.
    pub shard: ShardId,
    /// Kills it.
    pub kill: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for KillDrill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KillDrill").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// What a round tells whoever opened it.
#[derive(Debug)]
pub enum RoundEvent {
    /// The result of a piece of work: its outcome is `Ok`.
    Output(Arc<SubmitResult>),
    /// Work was given to another shard.
    Reassigned,
    /// The round cannot be done by shards.
    Failed {
        /// Whether it is for want of shards.
        stranded: bool,
        /// Why not.
        reason: String,
    },
}

/// A drill under way.
#[derive(Debug)]
pub(super) struct Drill {
    pub(super) plan: KillDrill,
    pub(super) fired: bool,
}

/// A round, as the driver holds it.
#[derive(Debug)]
pub(super) struct OpenRound {
    pub(super) height: u64,
    pub(super) payload: Arc<BlockPayload>,
    pub(super) work: HashMap<WorkId, Arc<WorkSpec>>,
    pub(super) events: Sender<RoundEvent>,
    pub(super) drills: Vec<Drill>,
}

impl OpenRound {
    /// Tells whoever opened the round; if nobody listens any more, the round is abandoned soon.
    pub(super) fn tell(&self, event: RoundEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("a round's listener is gone or full");
        }
    }
}
