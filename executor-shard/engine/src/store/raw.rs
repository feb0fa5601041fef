//! A stored state entry by entry, by the hashes that its tables are keyed by, without a cache: for
//! checking it as a whole.

use alloy_primitives::{Address, B256, U256};
use common::account::Account;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTableMetadata as _};

use super::{ACCOUNT_BYTES, ACCOUNTS, CODE, SLOTS, decode_account, decode_slot, joined, storage_error};
use crate::StateError;

/// The tables of a stored state.
pub struct RawState {
    accounts: ReadOnlyTable<&'static [u8; 32], &'static [u8; ACCOUNT_BYTES]>,
    slots: ReadOnlyTable<&'static [u8; 64], &'static [u8; 64]>,
    code: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
}

impl std::fmt::Debug for RawState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawState").finish_non_exhaustive()
    }
}

impl RawState {
    /// What `transaction` sees.
    ///
    /// # Errors
    /// [`StateError::Storage`], also when the tables are missing.
    pub fn open(transaction: &ReadTransaction) -> Result<Self, StateError> {
        Ok(Self {
            accounts: transaction.open_table(ACCOUNTS).map_err(storage_error)?,
            slots: transaction.open_table(SLOTS).map_err(storage_error)?,
            code: transaction.open_table(CODE).map_err(storage_error)?,
        })
    }

    /// How many accounts there are.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn accounts(&self) -> Result<u64, StateError> {
        self.accounts.len().map_err(storage_error)
    }

    /// How many slots there are.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn slots(&self) -> Result<u64, StateError> {
        self.slots.len().map_err(storage_error)
    }

    /// The account stored under the hash of an address, with the address that is stored with it.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn account(&self, hashed_address: &B256) -> Result<Option<(Address, Account)>, StateError> {
        let found = self.accounts.get(&hashed_address.0).map_err(storage_error)?;
        Ok(found.map(|account| decode_account(account.value())))
    }

    /// The slot stored under the hashes of address and slot, with the number that is stored with it.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn slot(
        &self,
        hashed_address: &B256,
        hashed_slot: &B256,
    ) -> Result<Option<(U256, U256)>, StateError> {
        let found = self.slots.get(&joined(hashed_address, hashed_slot)).map_err(storage_error)?;
        Ok(found.map(|slot| decode_slot(slot.value())))
    }

    /// Whether there is code with this hash.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn has_code(&self, hash: &B256) -> Result<bool, StateError> {
        Ok(self.code.get(&hash.0).map_err(storage_error)?.is_some())
    }

    /// Visits all code with the hash that it is stored under.
    ///
    /// # Errors
    /// [`StateError::Storage`].
    pub fn for_each_code(&self, visit: &mut dyn FnMut(B256, &[u8])) -> Result<(), StateError> {
        for entry in self.code.range::<&[u8; 32]>(..).map_err(storage_error)? {
            let (hash, code) = entry.map_err(storage_error)?;
            visit(B256::from(*hash.value()), code.value());
        }
        Ok(())
    }
}
