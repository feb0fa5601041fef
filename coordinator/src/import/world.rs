//! The ledger as the fleet sees it.

use std::sync::Arc;

use common::account::Delta;
use common::chain_spec::ChainSpec;
use common::id::StateRef;
use common::message::StateSummary;
use engine::replica_view::Base;
use ledger::Ledger;

use crate::fleet::{Version, World, WorldError};

impl World for Ledger {
    fn spec(&self) -> &Arc<ChainSpec> {
        Self::spec(self)
    }

    fn newest(&self) -> StateSummary {
        self.head().summary()
    }

    fn deltas_from(&self, from: StateRef) -> Result<Option<Vec<Arc<Delta>>>, WorldError> {
        Self::deltas_from(self, from).map_err(|error| WorldError(error.to_string()))
    }

    fn snapshot(&self) -> Result<Option<Version>, WorldError> {
        // A snapshot is read from the tables.
        let head = self.checkpoint().map_err(|error| WorldError(error.to_string()))?;
        Ok(match head.view().base() {
            Base::Disk(state) => Some(Version { summary: head.summary(), state: Arc::clone(state) }),
            Base::Memory(_) => None,
        })
    }
}
