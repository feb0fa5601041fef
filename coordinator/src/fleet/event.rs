//! What happens in a fleet, for those who watch.

use std::fmt;
use std::time::Duration;

use common::id::ShardId;

use super::Shared;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A shard is part of the fleet.
    ShardJoined,
    /// A shard holds the current state.
    ShardSynced,
    /// A shard is gone.
    ShardLost,
    /// A shard takes nothing new.
    ShardDraining,
    /// A shard has said goodbye.
    ShardLeft,
    /// A slot that stood still moves again.
    SlotReturned,
    /// A probe kills a shard, as planned.
    PlannedKill,
    /// Work was given to another shard.
    Reassigned,
    /// A block was verified and committed.
    BlockCommitted,
    /// A valid block is kept beside the chain.
    BlockAside,
    /// A block was refused.
    BlockRefused,
    /// A block waits for an operator: it kills, or seems to kill, whoever executes it.
    BlockParked,
    /// Shards are waited for, and why they do not come.
    Waiting,
    /// Something that an operator has to look at.
    Alarm,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShardJoined => "shard_joined",
            Self::ShardSynced => "shard_synced",
            Self::ShardLost => "shard_lost",
            Self::ShardDraining => "shard_draining",
            Self::ShardLeft => "shard_left",
            Self::SlotReturned => "slot_returned",
            Self::PlannedKill => "planned_kill",
            Self::Reassigned => "reassigned",
            Self::BlockCommitted => "block_committed",
            Self::BlockAside => "block_aside",
            Self::BlockRefused => "block_refused",
            Self::BlockParked => "block_parked",
            Self::Waiting => "waiting",
            Self::Alarm => "alarm",
        })
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
pub struct FleetEvent {
    /// When, since the fleet started.
    pub at: Duration,
    /// What.
    pub kind: EventKind,
    /// The shard it is about.
    pub shard: Option<ShardId>,
    /// The block it is about.
    pub block: Option<u64>,
    /// In words.
    pub text: String,
}

/// Tells watchers, and the log.
pub(super) fn publish(
    shared: &Shared,
    kind: EventKind,
    shard: Option<ShardId>,
    block: Option<u64>,
    text: String,
) {
    let number = shard.map(|shard| shard.0);
    match kind {
        EventKind::Alarm | EventKind::BlockParked => {
            tracing::error!(event = %kind, shard = number, block, "{text}")
        }
        EventKind::Waiting => tracing::warn!(event = %kind, shard = number, block, "{text}"),
        EventKind::Reassigned | EventKind::BlockCommitted => {
            tracing::debug!(event = %kind, shard = number, block, "{text}");
        }
        _ => tracing::info!(event = %kind, shard = number, block, "{text}"),
    }
    // Without a watcher nobody needs it.
    let _ = shared.events.send(FleetEvent { at: shared.now(), kind, shard, block, text });
}
