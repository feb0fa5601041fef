//! A bounded flat cache in front of the database. The views of all versions share it.
//!
//! An entry holds a value and the version since which the value holds. A view may use the entry if the
//! view is at least as new as that version. Only views of the newest version fill the cache. So a view
//! never sees a value of another version, however far the state has moved on.

use alloy_primitives::{Address, B256, U256};
use common::account::{Account, AccountDelta};
use parking_lot::RwLock;
use quick_cache::sync::Cache;

use crate::Code;

/// The maximum number of contracts whose code is kept ready to run: about 100 MiB if all have the
/// largest size.
const CODES: usize = 2048;

/// A value, preceded by the version since which it holds.
type Since<T> = (u64, T);

/// The cache of one database.
#[derive(Debug)]
pub struct StateCache {
    /// The newest version. A reader holds this lock while it fills in an entry; a writer holds it while the
    /// state moves. So no stale value can get in between.
    newest: RwLock<u64>,
    accounts: Cache<Address, Since<Option<Account>>>,
    slots: Cache<(Address, U256), Since<U256>>,
    code: Cache<B256, Code>,
}

impl StateCache {
    /// A cache for `accounts` accounts and four times as many slots.
    #[must_use]
    pub fn new(accounts: usize) -> Self {
        Self {
            newest: RwLock::new(0),
            accounts: Cache::new(accounts),
            slots: Cache::new(accounts.saturating_mul(4)),
            code: Cache::new(CODES.min(accounts)),
        }
    }

    /// The version of the database's current state, from 0. Every move and every reset adds 1.
    #[must_use]
    pub fn newest(&self) -> u64 {
        *self.newest.read()
    }

    /// Records that the database has moved. Call it after the database's commit and before any read of the
    /// new state. Returns the new version.
    pub fn advance<'a>(&self, changes: impl IntoIterator<Item = &'a AccountDelta>) -> u64 {
        let mut newest = self.newest.write();
        *newest += 1;
        for delta in changes {
            self.accounts.insert(delta.address, (*newest, delta.account));
            if delta.wiped || delta.account.is_none() {
                // The cache cannot tell which of the account's slots it holds.
                self.slots.clear();
            }
            for entry in &delta.storage {
                self.slots.insert((delta.address, entry.slot), (*newest, entry.value));
            }
        }
        *newest
    }

    /// Empties the cache: the database now holds an unrelated state.
    pub fn forget(&self) {
        let mut newest = self.newest.write();
        *newest += 1;
        self.accounts.clear();
        self.slots.clear();
        self.code.clear();
    }

    pub(super) fn account(&self, version: u64, address: &Address) -> Option<Option<Account>> {
        self.accounts.get(address).filter(|(since, _)| *since <= version).map(|(_, account)| account)
    }

    pub(super) fn slot(&self, version: u64, address: &Address, slot: &U256) -> Option<U256> {
        self.slots.get(&(*address, *slot)).filter(|(since, _)| *since <= version).map(|(_, value)| value)
    }

    pub(super) fn code(&self, hash: &B256) -> Option<Code> {
        self.code.get(hash)
    }

    pub(super) fn fill_account(&self, version: u64, address: &Address, account: Option<Account>) {
        let newest = self.newest.read();
        if *newest == version {
            self.accounts.insert(*address, (version, account));
        }
    }

    pub(super) fn fill_slot(&self, version: u64, address: &Address, slot: &U256, value: U256) {
        let newest = self.newest.read();
        if *newest == version {
            self.slots.insert((*address, *slot), (version, value));
        }
    }

    pub(super) fn fill_code(&self, hash: &B256, code: Code) {
        self.code.insert(*hash, code);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ADDRESS: Address = Address::repeat_byte(1);

    fn delta(balance: u64) -> AccountDelta {
        let account = Account { balance: U256::from(balance), ..Default::default() };
        AccountDelta { address: ADDRESS, account: Some(account), wiped: false, storage: vec![] }
    }

    #[test]
    fn an_older_view_does_not_see_newer_values_and_does_not_fill() {
        let cache = StateCache::new(100);
        cache.fill_account(0, &ADDRESS, None);
        assert_eq!(cache.account(0, &ADDRESS), Some(None));
        let newer = cache.advance(&[delta(5)]);
        assert_eq!(cache.account(0, &ADDRESS), None);
        assert_eq!(cache.account(newer, &ADDRESS).unwrap().unwrap().balance, U256::from(5));
        cache.fill_account(0, &ADDRESS, None);
        assert_eq!(cache.account(newer, &ADDRESS).unwrap().unwrap().balance, U256::from(5));
    }

    #[test]
    fn a_wipe_forgets_slots() {
        let cache = StateCache::new(100);
        cache.fill_slot(0, &ADDRESS, &U256::from(1), U256::from(7));
        let newer =
            cache.advance(&[AccountDelta { address: ADDRESS, account: None, wiped: true, storage: vec![] }]);
        assert_eq!(cache.slot(newer, &ADDRESS, &U256::from(1)), None);
    }
}
