//! The faults of a history: their kinds, times and durations.

use std::time::Duration;

use super::random::Random;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A shard's process ends and starts again with a new incarnation.
    ShardCrash,
    /// All shards' processes end at about the same time.
    FleetCrash,
    /// A shard stands still for a while.
    ShardFreeze,
    /// A shard is many times slower for a while.
    ShardSlow,
    /// One slot of a shard never finishes what it runs.
    SlotHang,
    /// One slot of a shard stands still for longer than any transaction may take, then goes on.
    SlotStall,
    /// A worker thread panics.
    WorkerPanic,
    /// A shard forgets its state.
    ReplicaLost,
    /// A shard's state differs from what the shard takes it for.
    ReplicaDiverged,
    /// Results of a shard arrive damaged.
    CorruptResult,
    /// Results of a shard are wrong.
    WrongResult,
    /// A shard is asked to stop, and starts again later.
    ShardDrain,
    /// A second process runs with a living shard's id.
    Impostor,
    /// A connection breaks while both sides live.
    ConnectionReset,
    /// Nothing passes between a shard and the coordinator.
    PartitionBoth,
    /// Nothing passes from a shard to the coordinator.
    PartitionFromShard,
    /// Nothing passes from the coordinator to a shard.
    PartitionToShard,
    /// Messages are dropped now and then.
    Drop,
    /// Messages take 5 to 120 ms longer for a while.
    Delay,
    /// One in three messages arrives twice for a while, except answers to commands.
    Duplicate,
    /// Messages overtake each other.
    Reorder,
    /// The coordinator's process ends between two steps and starts again.
    CoordinatorCrash,
    /// The coordinator stands still for a while.
    CoordinatorPause,
    /// Another coordinator takes over while the first still runs.
    TakeOver,
}

impl FaultKind {
    /// All kinds. Every fault of a history has each kind with the same probability.
    pub const ALL: [Self; 24] = [
        Self::ShardCrash,
        Self::FleetCrash,
        Self::ShardFreeze,
        Self::ShardSlow,
        Self::SlotHang,
        Self::SlotStall,
        Self::WorkerPanic,
        Self::ReplicaLost,
        Self::ReplicaDiverged,
        Self::CorruptResult,
        Self::WrongResult,
        Self::ShardDrain,
        Self::Impostor,
        Self::ConnectionReset,
        Self::PartitionBoth,
        Self::PartitionFromShard,
        Self::PartitionToShard,
        Self::Drop,
        Self::Delay,
        Self::Duplicate,
        Self::Reorder,
        Self::CoordinatorCrash,
        Self::CoordinatorPause,
        Self::TakeOver,
    ];

    /// The name of the kind in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ShardCrash => "shard_crash",
            Self::FleetCrash => "fleet_crash",
            Self::ShardFreeze => "shard_freeze",
            Self::ShardSlow => "shard_slow",
            Self::SlotHang => "slot_hang",
            Self::SlotStall => "slot_stall",
            Self::WorkerPanic => "worker_panic",
            Self::ReplicaLost => "replica_lost",
            Self::ReplicaDiverged => "replica_diverged",
            Self::CorruptResult => "corrupt_result",
            Self::WrongResult => "wrong_result",
            Self::ShardDrain => "shard_drain",
            Self::Impostor => "impostor",
            Self::ConnectionReset => "connection_reset",
            Self::PartitionBoth => "partition_both",
            Self::PartitionFromShard => "partition_from_shard",
            Self::PartitionToShard => "partition_to_shard",
            Self::Drop => "drop",
            Self::Delay => "delay",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::CoordinatorCrash => "coordinator_crash",
            Self::CoordinatorPause => "coordinator_pause",
            Self::TakeOver => "take_over",
        }
    }
}

/// One fault of a history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) at: Duration,
    pub(super) kind: FaultKind,
    /// The index of the shard, if the fault is about one.
    pub(super) shard: usize,
    pub(super) lasts: Duration,
    /// The strength of the fault, by kind: a count, a factor or a number of steps.
    pub(super) strength: u64,
}

/// Draws a history's faults: two to eight, five on average.
pub(super) fn draw(random: &mut Random, shards: usize, within: Duration) -> Vec<Fault> {
    let count = random.between(2, 8);
    let within = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| Fault {
            at: Duration::from_micros(random.between(0, within)),
            kind: FaultKind::ALL
                .get(random.index(FaultKind::ALL.len()))
                .copied()
                .unwrap_or(FaultKind::ShardCrash),
            shard: random.index(shards),
            lasts: Duration::from_millis(match random.between(0, 3) {
                0 => random.between(1, 20),
                1 | 2 => random.between(20, 300),
                _ => random.between(300, 1200),
            }),
            strength: random.between(1, 12),
        })
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}
