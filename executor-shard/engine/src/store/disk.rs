//! One version of a stored state: it does not change while later blocks commit.

use std::sync::Arc;

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use common::account::{Account, AccountRecord, SlotValue, hashed_address};
use common::message::SnapshotChunk;
use redb::{ReadOnlyTable, ReadTransaction};

use super::cache::StateCache;
use super::{
    ACCOUNT_BYTES, ACCOUNTS, ANCESTORS, CODE, SLOTS, decode_account, decode_slot, joined, slot_key,
    slot_range, storage_error,
};
use crate::{Code, StateError, StateView};

/// The approximate size of a slot in a chunk, in bytes.
const SLOT_SIZE: usize = 66;

/// The approximate size of an account in a chunk without its slots, in bytes.
const ACCOUNT_SIZE: usize = 110;

/// A stored state at one version.
#[derive(Clone)]
pub struct DiskState {
    version: u64,
    cache: Arc<StateCache>,
    tables: Arc<Tables>,
}

struct Tables {
    accounts: ReadOnlyTable<&'static [u8; 32], &'static [u8; ACCOUNT_BYTES]>,
    slots: ReadOnlyTable<&'static [u8; 64], &'static [u8; 64]>,
    code: ReadOnlyTable<&'static [u8; 32], &'static [u8]>,
    ancestors: ReadOnlyTable<u64, &'static [u8; 32]>,
}

impl std::fmt::Debug for DiskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskState").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The position up to which a state has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Code, from this hash on.
    Code(B256),
    /// Accounts, from this hashed address on.
    Accounts(B256),
    /// The slots of one account that is larger than a chunk, from this hashed slot on.
    Slots(Address, B256),
}

impl Cursor {
    /// The position before all entries.
    pub const START: Self = Self::Code(B256::ZERO);
}

impl DiskState {
    /// The state that `transaction` sees. It has `version` in the cache.
    ///
    /// # Errors
    /// [`StateError::Storage`], also if the tables are missing.
    pub fn open(
        transaction: &ReadTransaction,
        version: u64,
        cache: Arc<StateCache>,
    ) -> Result<Self, StateError> {
        let tables = Tables {
            accounts: transaction.open_table(ACCOUNTS).map_err(storage_error)?,
            slots: transaction.open_table(SLOTS).map_err(storage_error)?,
            code: transaction.open_table(CODE).map_err(storage_error)?,
            ancestors: transaction.open_table(ANCESTORS).map_err(storage_error)?,
        };
        Ok(Self { version, cache, tables: Arc::new(tables) })
    }

    /// The same tables below a later state, which has `version` in the cache. What the tables do not have
    /// yet lies in layers above them.
    pub(crate) fn below(&self, version: u64) -> Self {
        Self { version, ..self.clone() }
    }

    pub(crate) fn cached_account(&self, address: &Address) -> Option<Option<Account>> {
        self.cache.account(self.version, address)
    }

    pub(crate) fn cached_slot(&self, address: &Address, slot: &U256) -> Option<U256> {
        self.cache.slot(self.version, address, slot)
    }

    pub(crate) fn cached_code(&self, hash: &B256) -> Option<Code> {
        self.cache.code(hash)
    }

    pub(crate) fn fill_account(&self, address: &Address, account: Option<Account>) {
        self.cache.fill_account(self.version, address, account);
    }

    pub(crate) fn fill_slot(&self, address: &Address, slot: &U256, value: U256) {
        self.cache.fill_slot(self.version, address, slot, value);
    }

    /// Visits every non-zero slot of an account.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn for_each_slot(
        &self,
        address: &Address,
        visit: &mut dyn FnMut(U256, U256),
    ) -> Result<(), StateError> {
        let range = slot_range(&hashed_address(address));
        for entry in
            self.tables.slots.range::<&[u8; 64]>(range.start()..=range.end()).map_err(storage_error)?
        {
            let (slot, value) = decode_slot(entry.map_err(storage_error)?.1.value());
            visit(slot, value);
        }
        Ok(())
    }

    /// The addresses of all accounts, in the order of their hashes.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn addresses(&self) -> Result<Vec<Address>, StateError> {
        let entries = self.tables.accounts.range::<&[u8; 32]>(..).map_err(storage_error)?;
        entries.map(|entry| Ok(decode_account(entry.map_err(storage_error)?.1.value()).0)).collect()
    }

    /// The hashes of the newest `count` blocks, by number.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn ancestors(&self, count: usize) -> Result<Vec<(u64, B256)>, StateError> {
        let newest = self.tables.ancestors.range::<u64>(..).map_err(storage_error)?.rev().take(count);
        newest
            .map(|entry| {
                let (number, hash) = entry.map_err(storage_error)?;
                Ok((number.value(), B256::from(*hash.value())))
            })
            .collect()
    }

    /// About `size` bytes of the state from `cursor` on, and the next position; `None` after the last
    /// entry.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the database cannot be read.
    pub fn chunk(&self, cursor: Cursor, size: usize) -> Result<(SnapshotChunk, Option<Cursor>), StateError> {
        let mut chunk = SnapshotChunk::default();
        let mut left = size;
        let mut next = Some(cursor);
        while let Some(cursor) = next
            && left > 0
        {
            next = match cursor {
                Cursor::Code(from) => self.some_code(from, &mut chunk, &mut left)?,
                Cursor::Accounts(from) => self.some_accounts(from, &mut chunk, &mut left)?,
                Cursor::Slots(address, from) => self.some_slots(address, from, &mut chunk, &mut left)?,
            };
        }
        Ok((chunk, next))
    }

    fn some_code(
        &self,
        from: B256,
        chunk: &mut SnapshotChunk,
        left: &mut usize,
    ) -> Result<Option<Cursor>, StateError> {
        for entry in self.tables.code.range::<&[u8; 32]>(&from.0..).map_err(storage_error)? {
            let (hash, code) = entry.map_err(storage_error)?;
            let hash = B256::from(*hash.value());
            if *left == 0 {
                return Ok(Some(Cursor::Code(hash)));
            }
            *left = left.saturating_sub(code.value().len() + 40);
            chunk.code.push((hash, Bytes::copy_from_slice(code.value())));
        }
        Ok(Some(Cursor::Accounts(B256::ZERO)))
    }

    fn some_accounts(
        &self,
        from: B256,
        chunk: &mut SnapshotChunk,
        left: &mut usize,
    ) -> Result<Option<Cursor>, StateError> {
        // Slots lie in the order of their accounts, so one pass over both needs no search per account.
        let first = joined(&from, &B256::ZERO);
        let mut slots = self.tables.slots.range::<&[u8; 64]>(&first..).map_err(storage_error)?;
        let mut slot = slots.next().transpose().map_err(storage_error)?;
        for entry in self.tables.accounts.range::<&[u8; 32]>(&from.0..).map_err(storage_error)? {
            let (hashed, account) = entry.map_err(storage_error)?;
            let hashed = B256::from(*hashed.value());
            if *left == 0 {
                return Ok(Some(Cursor::Accounts(hashed)));
            }
            let (address, account) = decode_account(account.value());
            *left = left.saturating_sub(ACCOUNT_SIZE);
            let mut record = AccountRecord { address, account, storage: Vec::new() };
            while let Some((key, value)) = &slot {
                let (owner, hashed_slot) = key.value().split_at(32);
                if owner > hashed.as_slice() {
                    break;
                }
                if owner == hashed.as_slice() {
                    if *left == 0 {
                        let rest = Cursor::Slots(address, B256::from_slice(hashed_slot));
                        chunk.accounts.push(record);
                        return Ok(Some(rest));
                    }
                    *left = left.saturating_sub(SLOT_SIZE);
                    let (slot, value) = decode_slot(value.value());
                    record.storage.push(SlotValue { slot, value });
                }
                slot = slots.next().transpose().map_err(storage_error)?;
            }
            chunk.accounts.push(record);
        }
        Ok(None)
    }

    /// Adds slots of an account to the chunk. The account is the chunk's last one, or becomes it.
    fn some_slots(
        &self,
        address: Address,
        from: B256,
        chunk: &mut SnapshotChunk,
        left: &mut usize,
    ) -> Result<Option<Cursor>, StateError> {
        let hashed = hashed_address(&address);
        if chunk.accounts.last().is_none_or(|last| last.address != address) {
            let account = self.read_account(&hashed)?.unwrap_or_default();
            chunk.accounts.push(AccountRecord { address, account, storage: Vec::new() });
        }
        let Some(record) = chunk.accounts.last_mut() else { return Ok(None) };
        let (first, range) = (joined(&hashed, &from), slot_range(&hashed));
        for entry in self.tables.slots.range::<&[u8; 64]>(&first..=range.end()).map_err(storage_error)? {
            let (key, value) = entry.map_err(storage_error)?;
            if *left == 0 {
                let (_, hashed_slot) = key.value().split_at(32);
                return Ok(Some(Cursor::Slots(address, B256::from_slice(hashed_slot))));
            }
            *left = left.saturating_sub(SLOT_SIZE);
            let (slot, value) = decode_slot(value.value());
            record.storage.push(SlotValue { slot, value });
        }
        Ok(next_hash(&hashed).map(Cursor::Accounts))
    }

    fn read_account(&self, hashed: &B256) -> Result<Option<Account>, StateError> {
        let found = self.tables.accounts.get(&hashed.0).map_err(storage_error)?;
        Ok(found.map(|account| decode_account(account.value()).1))
    }
}

/// The next hash; `None` after the greatest one.
fn next_hash(hash: &B256) -> Option<B256> {
    U256::from_be_bytes(hash.0).checked_add(U256::from(1)).map(B256::from)
}

impl StateView for DiskState {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        if let Some(account) = self.cache.account(self.version, address) {
            return Ok(account);
        }
        let account = self.read_account(&hashed_address(address))?;
        self.cache.fill_account(self.version, address, account);
        Ok(account)
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        if let Some(value) = self.cache.slot(self.version, address, slot) {
            return Ok(value);
        }
        let found = self.tables.slots.get(&slot_key(address, slot)).map_err(storage_error)?;
        let value = found.map_or(U256::ZERO, |entry| decode_slot(entry.value()).1);
        self.cache.fill_slot(self.version, address, slot, value);
        Ok(value)
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        if *hash == KECCAK256_EMPTY {
            return Ok(Code::default());
        }
        if let Some(code) = self.cache.code(hash) {
            return Ok(code);
        }
        let found =
            self.tables.code.get(&hash.0).map_err(storage_error)?.ok_or(StateError::MissingCode(*hash))?;
        let code = Code::new(Bytes::copy_from_slice(found.value()));
        self.cache.fill_code(hash, code.clone());
        Ok(code)
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        let found = self.tables.ancestors.get(number).map_err(storage_error)?;
        Ok(found.map_or(B256::ZERO, |hash| B256::from(*hash.value())))
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        let range = slot_range(&hashed_address(address));
        for entry in
            self.tables.slots.range::<&[u8; 64]>(range.start()..=range.end()).map_err(storage_error)?
        {
            if counts(&decode_slot(entry.map_err(storage_error)?.1.value()).0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
