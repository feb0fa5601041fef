//! The state in the form that revm requires, and its changes in this project's canonical form.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use common::account::{Account, AccountDelta, SlotValue};
use engine::{StateError, StateView};
use revm::DatabaseRef;
use revm::database::BundleState;
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, Bytecode};

/// A view as a database that cannot fail: it records a failed read and answers as if the value were
/// absent.
#[derive(Debug)]
pub(super) struct PlainState<'a, V> {
    pub(super) view: &'a V,
    /// The fork whose rules interpret the code.
    fork: SpecId,
    /// The accounts that the block changes before revm sees them (the DAO fork).
    altered: BTreeMap<Address, Account>,
    /// The first failed read.
    fault: RefCell<Option<StateError>>,
}

impl<'a, V: StateView> PlainState<'a, V> {
    pub(super) fn new(view: &'a V, fork: SpecId, altered: BTreeMap<Address, Account>) -> Self {
        Self { view, fork, altered, fault: RefCell::default() }
    }

    /// Takes the first failed read. A result that was computed after it is not a verdict.
    pub(super) fn take_fault(&self) -> Option<StateError> {
        self.fault.take()
    }

    /// The changes that are made before revm sees the accounts.
    pub(super) fn alterations(&self) -> Vec<AccountDelta> {
        let delta = |(address, account): (&Address, &Account)| AccountDelta {
            address: *address,
            account: Some(*account),
            wiped: false,
            storage: Vec::new(),
        };
        self.altered.iter().map(delta).collect()
    }

    /// Whether a creation at this address would meet storage from before the block (EIP-7610), while
    /// neither code nor nonce prevents the creation anyway.
    pub(super) fn is_bare(&self, address: &Address) -> bool {
        let bare = |account: Account| account.nonce == 0 && account.code_hash == KECCAK256_EMPTY;
        self.known(self.view.account(address)).is_some_and(bare)
            && self.known(self.view.any_slot(address, &|_| true))
    }

    /// The block's changes, in the same form as the overlay's.
    pub(super) fn net_changes(&self, bundle: &BundleState) -> Vec<AccountDelta> {
        let mut deltas: Vec<AccountDelta> = self.alterations();
        deltas.retain(|delta| !bundle.state.contains_key(&delta.address));
        deltas.retain(|delta| self.known(self.view.account(&delta.address)) != delta.account);
        for (address, changed) in &bundle.state {
            let before = self.known(self.view.account(address));
            let account = changed.info.as_ref().map(account);
            let gone = (changed.was_destroyed() || account.is_none()) && before.is_some();
            let wiped = gone && self.known(self.view.any_slot(address, &|_| true));
            let mut storage: Vec<SlotValue> = changed
                .storage
                .iter()
                .map(|(slot, value)| SlotValue { slot: *slot, value: value.present_value })
                .filter(|entry| {
                    let was =
                        if wiped { U256::ZERO } else { self.known(self.view.slot(address, &entry.slot)) };
                    was != entry.value
                })
                .collect();
            storage.sort_unstable();
            if before != account || wiped || !storage.is_empty() {
                deltas.push(AccountDelta { address: *address, account, wiped, storage });
            }
        }
        deltas.sort_unstable_by_key(|delta| delta.address);
        deltas
    }

    /// The answer, or the default if the read failed; records the failure.
    fn known<T: Default>(&self, answer: Result<T, StateError>) -> T {
        answer.unwrap_or_else(|error| {
            self.fault.borrow_mut().get_or_insert(error);
            T::default()
        })
    }
}

/// An account without revm's additional fields.
pub(super) fn account(info: &AccountInfo) -> Account {
    Account { balance: info.balance, nonce: info.nonce, code_hash: info.code_hash }
}

impl<V: StateView> DatabaseRef for &PlainState<'_, V> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        let found = match self.altered.get(&address) {
            Some(account) => Some(*account),
            None => self.known(self.view.account(&address)),
        };
        Ok(found.map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: (account.code_hash == KECCAK256_EMPTY).then(Bytecode::default),
            account_id: None,
        }))
    }

    fn code_by_hash_ref(&self, hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.known(self.view.code(&hash)).under(self.fork))
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.known(self.view.slot(&address, &slot)))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(self.known(self.view.block_hash(number)))
    }
}
