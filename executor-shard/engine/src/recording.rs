//! The database under revm: it answers from a state view and records every answer.
//!
//! revm caches loaded values for the length of a transaction. So each key is requested and recorded
//! once per transaction.

use alloy_primitives::map::AddressMap;
use alloy_primitives::{Address, B256, U256};
use common::account::{Account, SlotValue};
use common::work::{AccountReads, ReadSet};
use revm::Database;
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, Bytecode};

use super::interrupt::Stop;
use super::view::{StateError, StateView};

/// An observation of an account's balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observed {
    /// The result may depend on the exact balance.
    Exactly,
    /// Before the transaction, it was at least this.
    AtLeast(U256),
}

impl Observed {
    /// Returns the stricter of two observations: the higher bound, or `Exactly` if either is that.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::AtLeast(one), Self::AtLeast(other)) => Self::AtLeast(one.max(other)),
            _ => Self::Exactly,
        }
    }
}

/// The reads and observations of one transaction.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) reads: ReadSet,
    /// The positions of the accounts in `reads`.
    pub(super) positions: AddressMap<usize>,
    /// The observations of balances. An account without an entry was not observed.
    pub(super) observed: AddressMap<Observed>,
    /// Whether every balance counts as observed.
    pub(super) observed_all: bool,
}

/// A recording database over a view.
#[derive(Debug)]
pub(super) struct RecordingDb<V> {
    /// The view that answers.
    pub(super) view: V,
    /// The fork whose rules interpret the code.
    spec: SpecId,
    reads: ReadSet,
    positions: AddressMap<usize>,
    observed: AddressMap<Observed>,
    observed_all: bool,
    /// Stops the transaction. The instructions reach it through their database.
    pub(super) stop: Stop,
}

impl<V> RecordingDb<V> {
    pub(super) fn new(view: V, spec: SpecId) -> Self {
        let (reads, positions, observed) = Default::default();
        Self { view, spec, reads, positions, observed, observed_all: false, stop: Stop::default() }
    }

    /// Returns the reads and observations since the last call.
    pub(super) fn take(&mut self) -> Recorded {
        Recorded {
            reads: std::mem::take(&mut self.reads),
            positions: std::mem::take(&mut self.positions),
            observed: std::mem::take(&mut self.observed),
            observed_all: std::mem::take(&mut self.observed_all),
        }
    }

    /// Records that the transaction may depend on any balance.
    pub(super) fn observe_all(&mut self) {
        self.observed_all = true;
    }

    /// Records an observation of a balance.
    pub(super) fn observe(&mut self, address: Address, observed: Observed) {
        let known = self.observed.entry(address).or_insert(observed);
        *known = known.and(observed);
    }

    /// The balance that was read of an account that exists.
    pub(super) fn balance_read(&self, address: &Address) -> Option<U256> {
        let entry = self.reads.accounts.get(*self.positions.get(address)?)?;
        entry.account.flatten().map(|account| account.balance)
    }

    fn entry(&mut self, address: Address) -> Option<&mut AccountReads> {
        let accounts = &mut self.reads.accounts;
        let position = *self.positions.entry(address).or_insert_with(|| {
            accounts.push(AccountReads {
                address,
                account: None,
                least: None,
                has_storage: None,
                slots: Vec::new(),
            });
            accounts.len() - 1
        });
        self.reads.accounts.get_mut(position)
    }
}

impl<V: StateView> RecordingDb<V> {
    /// Whether the account has storage (EIP-7610), recorded like any other read.
    pub(super) fn has_storage(&mut self, address: Address) -> Result<bool, StateError> {
        let answer = self.view.any_slot(&address, &|_| true)?;
        if let Some(entry) = self.entry(address) {
            entry.has_storage = Some(answer);
        }
        Ok(answer)
    }
}

/// An account in revm's form. Its code is loaded when it is needed.
pub(super) fn account_info(account: &Account) -> AccountInfo {
    AccountInfo {
        balance: account.balance,
        nonce: account.nonce,
        code_hash: account.code_hash,
        code: None,
        account_id: None,
    }
}

impl<V: StateView> Database for RecordingDb<V> {
    type Error = StateError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, StateError> {
        let account = self.view.account(&address)?;
        if let Some(entry) = self.entry(address) {
            entry.account = Some(account);
        }
        Ok(account.as_ref().map(account_info))
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, StateError> {
        Ok(self.view.code(&code_hash)?.under(self.spec))
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, StateError> {
        let value = self.view.slot(&address, &slot)?;
        if let Some(entry) = self.entry(address) {
            entry.slots.push(SlotValue { slot, value });
        }
        Ok(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, StateError> {
        let hash = self.view.block_hash(number)?;
        self.reads.block_hashes.push((number, hash));
        Ok(hash)
    }
}
