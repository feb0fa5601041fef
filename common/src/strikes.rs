//! What is held against a shard, in the form in which the ledger keeps it.

use serde::{Deserialize, Serialize};

/// A shard's strikes, as they outlive the coordinator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrikeRecord {
    /// How many there are.
    pub strikes: u32,
    /// How often the shard was put into quarantine, or its probation failed, since it last passed one.
    pub quarantines: u32,
    /// Whether it is in quarantine.
    pub quarantined: bool,
}
