//! Connects the ledger's trie to the interface that the validator uses.

use alloy_primitives::B256;
use common::account::AccountDelta;
use engine::StateError;
use ledger::{IntermediateRoots, Tip};

use crate::validate::StateRoots;

impl StateRoots for IntermediateRoots {
    fn after(&mut self, changes: &[AccountDelta]) -> Result<B256, StateError> {
        Self::after(self, changes)
    }
}

/// The state roots within the block after this state; `None` if the whole state is not known.
#[must_use]
pub fn state_roots(tip: &Tip) -> Option<Box<dyn StateRoots>> {
    tip.intermediate_roots().map(|roots| Box::new(roots) as Box<dyn StateRoots>)
}
