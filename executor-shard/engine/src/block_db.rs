//! The database for execution outside of transactions (system calls). It commits into the overlay at
//! once and records no reads.

use alloy_primitives::map::AddressMap;
use alloy_primitives::{Address, B256, U256};
use revm::primitives::hardfork::SpecId;
use revm::state::{Account as EvmAccount, AccountInfo, Bytecode};
use revm::{Database, DatabaseCommit};

use super::effects::write_set;
use super::overlay::Layered;
use super::recording::account_info;
use super::view::{StateError, StateView};

/// An overlay above a base, in the form that alloy-evm's system calls require.
#[derive(Debug)]
pub struct BlockDb<V> {
    view: Layered<V>,
    spec: SpecId,
}

impl<V> BlockDb<V> {
    /// Wraps a view. `spec` is the fork whose rules interpret the code.
    #[must_use]
    pub fn new(view: Layered<V>, spec: SpecId) -> Self {
        Self { view, spec }
    }

    /// The view, including everything committed so far.
    #[must_use]
    pub fn view(&self) -> &Layered<V> {
        &self.view
    }

    /// Returns the view, including everything committed.
    #[must_use]
    pub fn into_view(self) -> Layered<V> {
        self.view
    }
}

impl<V: StateView> Database for BlockDb<V> {
    type Error = StateError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StateError> {
        Ok(self.view.account(&address)?.as_ref().map(account_info))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StateError> {
        Ok(self.view.code(&code_hash)?.under(self.spec))
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, StateError> {
        self.view.slot(&address, &slot)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StateError> {
        self.view.block_hash(number)
    }
}

impl<V: StateView> DatabaseCommit for BlockDb<V> {
    fn commit(&mut self, changes: AddressMap<EvmAccount>) {
        let Layered { overlay, base } = &mut self.view;
        // Only additions need the base, and a write set made here has none.
        let applied = overlay.apply(base, &write_set(&changes));
        debug_assert!(applied.is_ok(), "{applied:?}");
    }
}
