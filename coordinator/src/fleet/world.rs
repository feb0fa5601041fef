//! What the fleet needs of a chain's state: where shards must be led, and how they get there.
//!
//! The ledger is one such world. The fleet neither executes nor commits, so it sees no more of it.

use std::fmt::Debug;
use std::sync::Arc;

use common::account::Delta;
use common::chain_spec::ChainSpec;
use common::id::StateRef;
use common::message::StateSummary;
use engine::store::DiskState;

/// The world cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WorldError(pub String);

/// One version of the state, which stays readable while later blocks commit.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its name and its digest.
    pub summary: StateSummary,
    /// The accounts, storage and code of the state.
    pub state: Arc<DiskState>,
}

/// The state that shards hold.
pub trait World: Debug + Send + Sync {
    /// The specification of the chain that the state belongs to.
    fn spec(&self) -> &Arc<ChainSpec>;

    /// The newest committed state.
    fn newest(&self) -> StateSummary;

    /// The changes from a state to the newest one, in order; `None` if they are not kept.
    ///
    /// # Errors
    /// [`WorldError`] if they cannot be read.
    fn deltas_from(&self, from: StateRef) -> Result<Option<Vec<Arc<Delta>>>, WorldError>;

    /// The newest committed state as a whole; `None` if it cannot be streamed. This may write to a disk.
    ///
    /// # Errors
    /// [`WorldError`] if the state cannot be read or written.
    fn snapshot(&self) -> Result<Option<Version>, WorldError>;
}
