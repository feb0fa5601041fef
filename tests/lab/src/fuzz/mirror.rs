//! A state for the baseline that shares no code with the engine's: plain maps, and its own computation
//! of the state root. So a fault in the engine's state cannot hide itself.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, keccak256};
use alloy_trie::root::{state_root_unsorted, storage_root_unhashed};
use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount};
use common::account::{Account, AccountDelta, AccountRecord};
use engine::{Code, MemoryState, StateError, StateView};

/// A whole state: accounts, slots, code, and the hashes of the last 256 blocks.
#[derive(Debug, Clone, Default)]
pub(super) struct Mirror {
    accounts: BTreeMap<Address, Account>,
    slots: BTreeMap<(Address, U256), U256>,
    code: BTreeMap<B256, Code>,
    ancestors: BTreeMap<u64, B256>,
}

impl Mirror {
    pub(super) fn insert(&mut self, record: &AccountRecord) {
        self.accounts.insert(record.address, record.account);
        self.slots.extend(record.storage.iter().map(|entry| ((record.address, entry.slot), entry.value)));
    }

    pub(super) fn add_code(&mut self, code: &[(B256, Bytes)]) {
        self.code.extend(code.iter().map(|(hash, code)| (*hash, Code::new(code.clone()))));
    }

    pub(super) fn has_code(&self, hash: &B256) -> bool {
        self.code.contains_key(hash)
    }

    pub(super) fn add_ancestor(&mut self, number: u64, hash: B256) {
        self.ancestors.insert(number, hash);
        self.ancestors.retain(|kept, _| *kept + 256 > number);
    }

    /// Applies a block's changes.
    pub(super) fn apply(&mut self, changes: &[AccountDelta]) {
        for delta in changes {
            if delta.wiped || delta.account.is_none() {
                let whole = (delta.address, U256::ZERO)..=(delta.address, U256::MAX);
                let keys: Vec<_> = self.slots.range(whole).map(|(key, _)| *key).collect();
                for key in keys {
                    self.slots.remove(&key);
                }
            }
            match delta.account {
                Some(account) => self.accounts.insert(delta.address, account),
                None => self.accounts.remove(&delta.address),
            };
            for entry in delta.storage.iter().filter(|_| delta.account.is_some()) {
                self.slots.insert((delta.address, entry.slot), entry.value);
            }
        }
        self.slots.retain(|_, value| !value.is_zero());
    }

    /// The state root, computed from scratch.
    pub(super) fn root(&self) -> B256 {
        let leaf = |(address, account): (&Address, &Account)| {
            let whole = (*address, U256::ZERO)..=(*address, U256::MAX);
            let slots = self.slots.range(whole).map(|((_, slot), value)| (B256::from(*slot), *value));
            (keccak256(address), trie_account(account, storage_root(slots.collect())))
        };
        state_root_unsorted(self.accounts.iter().map(leaf).collect::<Vec<_>>())
    }
}

/// The state root of a state in the engine's form, computed from scratch.
pub(super) fn root_of(state: &MemoryState) -> B256 {
    let leaf = |(address, _): (&Address, &_)| {
        let account = state.account(address).ok().flatten().unwrap_or_default();
        let slots = state.slots(address).map(|(slot, value)| (B256::from(*slot), *value));
        (keccak256(address), trie_account(&account, storage_root(slots.collect())))
    };
    let leaves = state.accounts().map(|(address, stored)| leaf((address, stored)));
    state_root_unsorted(leaves.collect::<Vec<_>>())
}

fn storage_root(slots: Vec<(B256, U256)>) -> B256 {
    if slots.is_empty() { EMPTY_ROOT_HASH } else { storage_root_unhashed(slots) }
}

fn trie_account(account: &Account, storage_root: B256) -> TrieAccount {
    let Account { balance, nonce, code_hash } = *account;
    TrieAccount { nonce, balance, storage_root, code_hash }
}

impl StateView for Mirror {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        Ok(self.accounts.get(address).copied())
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        Ok(self.slots.get(&(*address, *slot)).copied().unwrap_or_default())
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
        let whole = (*address, U256::ZERO)..=(*address, U256::MAX);
        Ok(self.slots.range(whole).any(|((_, slot), _)| counts(slot)))
    }
}
