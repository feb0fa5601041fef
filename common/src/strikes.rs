//! A shard's strikes, in the form in which the ledger stores them.

use serde::{Deserialize, Serialize};

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
