//! The ledger's trie as the validator asks for it.

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

/// State roots within the block that follows this state, where the whole state is known.
#[must_use]
pub fn state_roots(tip: &Tip) -> Option<Box<dyn StateRoots>> {
    tip.intermediate_roots().map(|roots| Box::new(roots) as Box<dyn StateRoots>)
}
