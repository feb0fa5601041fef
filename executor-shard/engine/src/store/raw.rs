//! Reads a stored state entry by entry, by the hashes that key its tables and without a cache. The
//! check of a whole ledger uses it.

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
    /// The state that `transaction` sees.
    ///
    /// # Errors
    /// [`StateError::Storage`], also if the tables are missing.
    pub fn open(transaction: &ReadTransaction) -> Result<Self, StateError> {
        Ok(Self {
            accounts: transaction.open_table(ACCOUNTS).map_err(storage_error)?,
            slots: transaction.open_table(SLOTS).map_err(storage_error)?,
            code: transaction.open_table(CODE).map_err(storage_error)?,
        })
    }

    /// The number of accounts.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn accounts(&self) -> Result<u64, StateError> {
        self.accounts.len().map_err(storage_error)
    }

    /// The number of slots.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn slots(&self) -> Result<u64, StateError> {
        self.slots.len().map_err(storage_error)
    }

    /// The account stored under a hashed address, with the plain address stored with it.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn account(&self, hashed_address: &B256) -> Result<Option<(Address, Account)>, StateError> {
        let found = self.accounts.get(&hashed_address.0).map_err(storage_error)?;
        Ok(found.map(|account| decode_account(account.value())))
    }

    /// The slot stored under a hashed address and a hashed slot, with the plain index stored with it.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn slot(
        &self,
        hashed_address: &B256,
        hashed_slot: &B256,
    ) -> Result<Option<(U256, U256)>, StateError> {
        let found = self.slots.get(&joined(hashed_address, hashed_slot)).map_err(storage_error)?;
        Ok(found.map(|slot| decode_slot(slot.value())))
    }

    /// Whether code with this hash is stored.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn has_code(&self, hash: &B256) -> Result<bool, StateError> {
        Ok(self.code.get(&hash.0).map_err(storage_error)?.is_some())
    }

    /// Visits all code, each with the hash under which it is stored.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn for_each_code(&self, visit: &mut dyn FnMut(B256, &[u8])) -> Result<(), StateError> {
        for entry in self.code.range::<&[u8; 32]>(..).map_err(storage_error)? {
            let (hash, code) = entry.map_err(storage_error)?;
            visit(B256::from(*hash.value()), code.value());
        }
        Ok(())
    }
}
