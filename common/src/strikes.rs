//! What a coordinator knows of shards and the next one must know too, in the form in which the ledger stores it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::ShardId;

/// A shard's strikes. They survive a restart of the coordinator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrikeRecord {
    /// The number of strikes.
    pub strikes: u32,
    /// How often the shard entered quarantine or failed its probation since it last passed a probation.
    pub quarantines: u32,
    /// Whether the shard is in quarantine.
    pub quarantined: bool,
}

/// What is known of all shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetRecord {
    /// The strikes of each shard that has had some.
    pub strikes: BTreeMap<ShardId, StrikeRecord>,
    /// The shards that have done sound work. All others are newcomers while one of these is in the fleet.
    pub proven: BTreeSet<ShardId>,
}
