//! A probe watches a fleet from within, and may disturb it at exact moments: planned kills on the command
//! line, measurements, tests. Nothing of the fleet depends on there being one.

use common::id::ShardId;

/// What watches a fleet. It is called on the driver's thread, and must not block.
pub trait Probe: Send + Sync + std::fmt::Debug {
    /// A shard has accepted a sub-block and now holds `held` assignments. Returns whether the probe has
    /// killed it.
    fn accepted(&self, shard: ShardId, held: usize) -> bool;

    /// Whether sub-blocks' results from this shard are refused, as if the coordinator was busy: the shard
    /// keeps them.
    fn holds_back(&self, shard: ShardId) -> bool;

    /// The shard is lost.
    fn lost(&self, shard: ShardId);
}
