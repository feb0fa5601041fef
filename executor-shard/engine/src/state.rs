//! A whole state in memory: the form that a replica and the coordinator's in-memory ledger hold.
//!
//! Only deltas move it (and one snapshot fills it), and each change updates its content digest. It
//! knows nothing of blocks or of the rights to move it.

use std::collections::BTreeMap;

use alloy_primitives::map::{AddressMap, B256Map, HashMap};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use common::account::{Account, AccountDelta, AccountRecord};
use common::digest::ContentDigest;

use super::code::Code;
use super::view::{StateError, StateView};

/// The number of stored ancestors: the 256 that BLOCKHASH can see (Yellow Paper, section 9.4.2), and
/// 1024 more for blocks that are unwound.
pub const ANCESTORS_KEPT: usize = 256 + 1024;

/// An account with its storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredAccount {
    /// The account's own values, without its storage.
    pub account: Account,
    /// Its non-zero slots and their values. A slot that is absent here is zero.
    pub storage: HashMap<U256, U256>,
}

/// A whole state: accounts, storage and code, with the hashes of ancestors and the content digest.
#[derive(Debug, Clone, Default)]
pub struct MemoryState {
    accounts: AddressMap<StoredAccount>,
    code: B256Map<Code>,
    ancestors: BTreeMap<u64, B256>,
    digest: ContentDigest,
}

impl MemoryState {
    /// The content digest of accounts and storage.
    #[must_use]
    pub fn digest(&self) -> U256 {
        self.digest.word()
    }

    /// The number of accounts that exist, including empty ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there are no accounts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// All accounts, in no particular order.
    pub fn accounts(&self) -> impl Iterator<Item = (&Address, &StoredAccount)> {
        self.accounts.iter()
    }

    /// The ancestors' hashes, by number.
    pub fn ancestors(&self) -> impl Iterator<Item = (u64, B256)> + '_ {
        self.ancestors.iter().map(|(number, hash)| (*number, *hash))
    }

    /// An account's non-zero slots.
    pub fn slots(&self, address: &Address) -> impl Iterator<Item = (&U256, &U256)> {
        self.accounts.get(address).into_iter().flat_map(|stored| stored.storage.iter())
    }

    /// Adds an account, or more slots of an existing one.
    pub fn insert(&mut self, record: AccountRecord) {
        let stored = self.accounts.entry(record.address);
        let known = matches!(stored, alloy_primitives::map::Entry::Occupied(_));
        let stored = stored.or_default();
        let before = known.then_some(stored.account);
        self.digest.account(record.address, before.as_ref(), Some(&record.account));
        stored.account = record.account;
        for entry in record.storage {
            let before = set_slot(&mut stored.storage, entry.slot, entry.value);
            self.digest.slot(record.address, entry.slot, before, entry.value);
        }
    }

    /// Adds code under its hash.
    pub fn insert_code(&mut self, hash: B256, code: Bytes) {
        self.code.entry(hash).or_insert_with(|| Code::new(code));
    }

    /// Adds the hash of an ancestor and drops the hashes that are no longer needed.
    pub fn insert_ancestor(&mut self, number: u64, hash: B256) {
        self.ancestors.insert(number, hash);
        let oldest = number.saturating_sub(ANCESTORS_KEPT as u64 - 1);
        self.ancestors.retain(|kept, _| *kept >= oldest);
    }

    /// Makes this block the newest ancestor and drops every block above it.
    pub fn set_newest_ancestor(&mut self, number: u64, hash: B256) {
        drop(self.ancestors.split_off(&number));
        self.insert_ancestor(number, hash);
    }

    /// Applies the changes of one account.
    pub fn apply(&mut self, delta: &AccountDelta) {
        let address = delta.address;
        let stored = self.accounts.entry(address);
        let known = matches!(stored, alloy_primitives::map::Entry::Occupied(_));
        if !known && delta.account.is_none() {
            return;
        }
        let stored = stored.or_default();
        let before = known.then_some(stored.account);
        self.digest.account(address, before.as_ref(), delta.account.as_ref());
        if delta.wiped || delta.account.is_none() {
            for (slot, value) in stored.storage.drain() {
                self.digest.slot(address, slot, value, U256::ZERO);
            }
        }
        let Some(account) = delta.account else {
            self.accounts.remove(&address);
            return;
        };
        stored.account = account;
        for entry in &delta.storage {
            let before = set_slot(&mut stored.storage, entry.slot, entry.value);
            self.digest.slot(address, entry.slot, before, entry.value);
        }
    }
}

/// Sets a slot; zero removes it. Returns the old value.
fn set_slot(storage: &mut HashMap<U256, U256>, slot: U256, value: U256) -> U256 {
    let before = if value.is_zero() { storage.remove(&slot) } else { storage.insert(slot, value) };
    before.unwrap_or_default()
}

impl StateView for MemoryState {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        Ok(self.accounts.get(address).map(|stored| stored.account))
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        let stored = self.accounts.get(address);
        Ok(stored.and_then(|stored| stored.storage.get(slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        if *hash == KECCAK256_EMPTY {
            return Ok(Code::default());
        }
        self.code.get(hash).cloned().ok_or(StateError::MissingCode(*hash))
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        Ok(self.ancestors.get(&number).copied().unwrap_or_default())
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        Ok(self.accounts.get(address).is_some_and(|stored| stored.storage.keys().any(counts)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::account::SlotValue;

    fn record(byte: u8, balance: u64, slots: &[(u64, u64)]) -> AccountRecord {
        AccountRecord {
            address: Address::repeat_byte(byte),
            account: Account { balance: U256::from(balance), ..Default::default() },
            storage: slots
                .iter()
                .map(|(slot, value)| SlotValue { slot: U256::from(*slot), value: U256::from(*value) })
                .collect(),
        }
    }

    #[test]
    fn equal_content_has_equal_digests_whatever_the_way_there() {
        let mut direct = MemoryState::default();
        direct.insert(record(1, 7, &[(2, 9)]));
        let mut moved = MemoryState::default();
        moved.insert(record(2, 1, &[]));
        moved.insert(record(1, 5, &[(2, 3), (4, 4)]));
        let AccountRecord { address, account, storage } = record(1, 7, &[(2, 9)]);
        moved.apply(&AccountDelta { address, account: Some(account), wiped: true, storage });
        let gone = Address::repeat_byte(2);
        moved.apply(&AccountDelta { address: gone, account: None, wiped: true, storage: vec![] });
        assert_eq!(direct.digest(), moved.digest());
        assert_eq!(moved.len(), 1);
    }

    #[test]
    fn a_wiped_account_has_only_its_new_slots() {
        let mut state = MemoryState::default();
        state.insert(record(1, 7, &[(2, 9), (3, 9)]));
        let AccountRecord { address, account, storage } = record(1, 7, &[(3, 1)]);
        state.apply(&AccountDelta { address, account: Some(account), wiped: true, storage });
        assert_eq!(state.slot(&address, &U256::from(2)).unwrap(), U256::ZERO);
        assert_eq!(state.slot(&address, &U256::from(3)).unwrap(), U256::from(1));
        assert!(!state.any_slot(&address, &|slot| *slot == U256::from(2)).unwrap());
    }

    #[test]
    fn old_ancestors_are_dropped() {
        let mut state = MemoryState::default();
        let kept = ANCESTORS_KEPT as u64;
        for number in 0..kept + 44 {
            state.insert_ancestor(number, B256::repeat_byte(1));
        }
        assert_eq!(state.ancestors().count(), ANCESTORS_KEPT);
        assert_eq!(state.block_hash(43).unwrap(), B256::ZERO);
        assert_eq!(state.block_hash(44).unwrap(), B256::repeat_byte(1));
    }
}
