//! The fleet's events, for watchers and the log.

use std::fmt;
use std::time::Duration;

use common::id::ShardId;

use super::Shared;

/// The kind of a fleet event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A shard has joined the fleet.
    ShardJoined,
    /// A shard holds the current state.
    ShardSynced,
    /// A shard is lost.
    ShardLost,
    /// A shard takes no new work.
    ShardDraining,
    /// A shard has said goodbye.
    ShardLeft,
    /// A slot that stood still moves again.
    SlotReturned,
    /// A shard was late several times and must prove itself.
    ShardDoubted,
    /// A shard has proven itself, or a strike for a slot that stood still is taken back.
    ShardCleared,
    /// A probe killed a shard, as planned.
    PlannedKill,
    /// Another shard got the work of a shard.
    Reassigned,
    /// The coordinator verified a block and committed it.
    BlockCommitted,
    /// The coordinator keeps a valid block as a side block.
    SideBlockKept,
    /// The coordinator rejected a block.
    BlockRefused,
    /// A block could not be executed now: it stays accepted, and is tried again.
    BlockPostponed,
    /// A block waits for an operator: it kills, or seems to kill, the process that executes it.
    BlockParked,
    /// Too few shards hold the current state; the text says why.
    Waiting,
    /// A condition that an operator must look at.
    Alarm,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::ShardJoined,
        Self::ShardSynced,
        Self::ShardLost,
        Self::ShardDraining,
        Self::ShardLeft,
        Self::SlotReturned,
        Self::ShardDoubted,
        Self::ShardCleared,
        Self::PlannedKill,
        Self::Reassigned,
        Self::BlockCommitted,
        Self::SideBlockKept,
        Self::BlockRefused,
        Self::BlockPostponed,
        Self::BlockParked,
        Self::Waiting,
        Self::Alarm,
    ];

    /// The kind's name, as watchers and metrics get it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ShardJoined => "shard_joined",
            Self::ShardSynced => "shard_synced",
            Self::ShardLost => "shard_lost",
            Self::ShardDraining => "shard_draining",
            Self::ShardLeft => "shard_left",
            Self::SlotReturned => "slot_returned",
            Self::ShardDoubted => "shard_doubted",
            Self::ShardCleared => "shard_cleared",
            Self::PlannedKill => "planned_kill",
            Self::Reassigned => "reassigned",
            Self::BlockCommitted => "block_committed",
            Self::SideBlockKept => "block_aside",
            Self::BlockRefused => "block_refused",
            Self::BlockPostponed => "block_postponed",
            Self::BlockParked => "block_parked",
            Self::Waiting => "waiting",
            Self::Alarm => "alarm",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One event in the fleet.
#[derive(Debug, Clone)]
pub struct FleetEvent {
    /// The time since the fleet started.
    pub at: Duration,
    /// The kind of event.
    pub kind: EventKind,
    /// The shard that it is about, if any.
    pub shard: Option<ShardId>,
    /// The height of the block that it is about, if any.
    pub block: Option<u64>,
    /// A description in words.
    pub text: String,
}

/// Sends the event to watchers and writes it to the log.
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
        EventKind::Waiting | EventKind::ShardLost | EventKind::ShardDoubted | EventKind::BlockPostponed => {
            tracing::warn!(event = %kind, shard = number, block, "{text}");
        }
        EventKind::Reassigned => {
            tracing::debug!(event = %kind, shard = number, block, "{text}");
        }
        _ => tracing::info!(event = %kind, shard = number, block, "{text}"),
    }
    metrics::counter!("shardexec_events_total", "kind" => kind.name()).increment(1);
    // Without a watcher the event is dropped.
    let _ = shared.events.send(FleetEvent { at: shared.now(), kind, shard, block, text });
}
