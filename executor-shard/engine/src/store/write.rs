//! Moves a stored state, within a write transaction of its holder.

use alloy_primitives::{Address, B256, U256};
use common::account::{Account, AccountDelta, AccountRecord, Delta, SlotValue, hashed_address};
use redb::{Table, WriteTransaction};

use super::{
    ACCOUNT_BYTES, ACCOUNTS, ANCESTORS, CODE, SLOTS, encode_account, encode_slot, slot_key_of, slot_range,
    storage_error,
};
use crate::{Overlay, StateError};

/// The state's tables, opened for writing. Changes take effect when the holder commits the transaction.
#[derive(Debug)]
pub struct StateWriter<'t> {
    accounts: Table<'t, &'static [u8; 32], &'static [u8; ACCOUNT_BYTES]>,
    slots: Table<'t, &'static [u8; 64], &'static [u8; 64]>,
    code: Table<'t, &'static [u8; 32], &'static [u8]>,
    ancestors: Table<'t, u64, &'static [u8; 32]>,
}

impl<'t> StateWriter<'t> {
    /// Opens the tables, and creates missing ones.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be used.
    pub fn open(transaction: &'t WriteTransaction) -> Result<Self, StateError> {
        Ok(Self {
            accounts: transaction.open_table(ACCOUNTS).map_err(storage_error)?,
            slots: transaction.open_table(SLOTS).map_err(storage_error)?,
            code: transaction.open_table(CODE).map_err(storage_error)?,
            ancestors: transaction.open_table(ANCESTORS).map_err(storage_error)?,
        })
    }

    /// Deletes the whole state.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be written.
    pub fn clear(transaction: &WriteTransaction) -> Result<(), StateError> {
        transaction.delete_table(ACCOUNTS).map_err(storage_error)?;
        transaction.delete_table(SLOTS).map_err(storage_error)?;
        transaction.delete_table(CODE).map_err(storage_error)?;
        transaction.delete_table(ANCESTORS).map_err(storage_error)?;
        Ok(())
    }

    /// Adds an account, or more slots of an existing one.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be written.
    pub fn insert(&mut self, record: &AccountRecord) -> Result<(), StateError> {
        let hashed = hashed_address(&record.address);
        self.set_account(&hashed, &record.address, &record.account)?;
        for entry in &record.storage {
            self.set_slot(&hashed, &entry.slot, &entry.value)?;
        }
        Ok(())
    }

    /// Adds code under its hash.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be written.
    pub fn insert_code(&mut self, hash: &B256, code: &[u8]) -> Result<(), StateError> {
        self.code.insert(&hash.0, code).map_err(storage_error)?;
        Ok(())
    }

    /// Adds the hash of a block.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be written.
    pub fn insert_ancestor(&mut self, number: u64, hash: &B256) -> Result<(), StateError> {
        self.ancestors.insert(number, &hash.0).map_err(storage_error)?;
        Ok(())
    }

    /// Moves the state by one block, forward or back.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be written.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), StateError> {
        for change in &delta.accounts {
            self.change(change)?;
        }
        self.apply_rest(delta)
    }

    /// Moves the state by several blocks, of which each leads on from the one before. What several of them
    /// change is written once.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be written.
    pub fn apply_all<'d>(&mut self, deltas: impl Iterator<Item = &'d Delta>) -> Result<(), StateError> {
        let deltas: Vec<&Delta> = deltas.collect();
        if let [delta] = deltas.as_slice() {
            return self.apply(delta);
        }
        let mut all = Overlay::default();
        for delta in deltas {
            delta.accounts.iter().for_each(|change| all.apply_delta(change));
            self.apply_rest(delta)?;
        }
        for (address, entry) in all.accounts() {
            let storage = entry.storage.iter().map(|(slot, value)| SlotValue { slot: *slot, value: *value });
            let (account, wiped, storage) = (entry.account, entry.wiped, storage.collect());
            self.change(&AccountDelta { address: *address, account, wiped, storage })?;
        }
        Ok(())
    }

    /// Writes the delta's new code, and makes the block of its target state the newest ancestor.
    fn apply_rest(&mut self, delta: &Delta) -> Result<(), StateError> {
        for (hash, code) in &delta.code {
            self.insert_code(hash, code)?;
        }
        // When moving back, the block that is taken back is no longer an ancestor.
        let above = delta.to.height.0.saturating_add(1)..=delta.from.height.0;
        for number in above {
            self.ancestors.remove(number).map_err(storage_error)?;
        }
        self.insert_ancestor(delta.to.height.0, &delta.to.block_hash)
    }

    fn change(&mut self, delta: &AccountDelta) -> Result<(), StateError> {
        let hashed = hashed_address(&delta.address);
        if delta.wiped || delta.account.is_none() {
            let range = slot_range(&hashed);
            self.slots
                .retain_in::<&[u8; 64], _>(range.start()..=range.end(), |_, _| false)
                .map_err(storage_error)?;
        }
        let Some(account) = &delta.account else {
            self.accounts.remove(&hashed.0).map_err(storage_error)?;
            return Ok(());
        };
        self.set_account(&hashed, &delta.address, account)?;
        for entry in &delta.storage {
            self.set_slot(&hashed, &entry.slot, &entry.value)?;
        }
        Ok(())
    }

    fn set_account(&mut self, hashed: &B256, address: &Address, account: &Account) -> Result<(), StateError> {
        self.accounts.insert(&hashed.0, &encode_account(address, account)).map_err(storage_error)?;
        Ok(())
    }

    fn set_slot(&mut self, hashed: &B256, slot: &U256, value: &U256) -> Result<(), StateError> {
        let key = slot_key_of(hashed, slot);
        if value.is_zero() {
            self.slots.remove(&key).map_err(storage_error)?;
        } else {
            self.slots.insert(&key, &encode_slot(slot, value)).map_err(storage_error)?;
        }
        Ok(())
    }
}
