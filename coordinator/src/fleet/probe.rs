//! A probe watches a fleet from within, and may disturb it at exact moments: for planned kills on the command
//! line, measurements and tests. The fleet works the same without one.

use common::id::ShardId;

/// A watcher of a fleet. The driver's thread calls it, so it must not block.
pub trait Probe: Send + Sync + std::fmt::Debug {
    /// A shard has accepted a sub-block and now holds `held` assignments. Returns whether the probe has
    /// killed it.
    fn accepted(&self, shard: ShardId, held: usize) -> bool;

    /// Whether the coordinator must reject this shard's results of sub-blocks as if it was busy. The shard
    /// keeps them and retries later.
    fn holds_back(&self, shard: ShardId) -> bool;

    /// Notes that the shard is lost.
    fn lost(&self, shard: ShardId);
}
