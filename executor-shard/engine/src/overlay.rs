//! The overlay: the writes of a block's transactions so far, above a base state.
//!
//! A sub-block has an overlay of its own while it speculates; the validator's overlay is the
//! authoritative one. Both commit transactions through the same code, so a write has the same effect in
//! both.

use alloy_primitives::map::{AddressMap, B256Map, HashMap};
use alloy_primitives::{Address, B256, Bytes, U256};
use common::account::{Account, AccountDelta, AccountWrite, SlotValue, WriteSet};

use super::code::Code;
use super::view::{StateError, StateView};

/// One account in the overlay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OverlayAccount {
    /// The account's current value; `None` if it does not exist (any more).
    pub account: Option<Account>,
    /// Whether the base's storage was wiped: slots that are not in `storage` are zero.
    pub wiped: bool,
    /// The slots written since.
    pub storage: HashMap<U256, U256>,
}

/// Writes above a base state.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    accounts: AddressMap<OverlayAccount>,
    code: B256Map<Code>,
}

impl Overlay {
    /// The account, if any part of it was written.
    #[must_use]
    pub fn get(&self, address: &Address) -> Option<&OverlayAccount> {
        self.accounts.get(address)
    }

    /// All written accounts, in no particular order.
    pub fn accounts(&self) -> impl Iterator<Item = (&Address, &OverlayAccount)> {
        self.accounts.iter()
    }

    /// Whether no account of the overlay is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Applies a write set above `base`.
    ///
    /// # Errors
    /// [`StateError`] if the base cannot be read.
    pub fn apply<V: StateView>(&mut self, base: &V, writes: &WriteSet) -> Result<(), StateError> {
        for (address, write) in &writes.accounts {
            self.apply_account(base, *address, write)?;
        }
        self.add_code(&writes.code);
        Ok(())
    }

    /// The account's value here or, if nothing of it was written, in the base.
    fn current<V: StateView>(&self, base: &V, address: &Address) -> Result<Option<Account>, StateError> {
        match self.accounts.get(address) {
            Some(entry) => Ok(entry.account),
            None => base.account(address),
        }
    }

    /// Applies a change to one account, such as one that precedes the block's transactions.
    pub fn apply_delta(&mut self, delta: &AccountDelta) {
        let entry = self.accounts.entry(delta.address).or_default();
        if delta.wiped {
            entry.wiped = true;
            entry.storage.clear();
        }
        entry.account = delta.account;
        extend(&mut entry.storage, &delta.storage);
    }

    /// Adds code under its hash.
    pub fn add_code(&mut self, code: &[(B256, Bytes)]) {
        for (hash, bytes) in code {
            self.code.entry(*hash).or_insert_with(|| Code::new(bytes.clone()));
        }
    }

    /// The code with this hash, if it was written.
    #[must_use]
    pub fn code(&self, hash: &B256) -> Option<&Code> {
        self.code.get(hash)
    }

    fn apply_account<V: StateView>(
        &mut self,
        base: &V,
        address: Address,
        write: &AccountWrite,
    ) -> Result<(), StateError> {
        match write {
            AccountWrite::Delete => self.delete(address),
            AccountWrite::Create { account, storage } => {
                self.delete(address);
                self.update(address, *account, storage);
            }
            AccountWrite::Update { account, storage } => self.update(address, *account, storage),
            AccountWrite::Add { nonce, credit, debit, storage, .. } => {
                let mut account = self.current(base, &address)?.unwrap_or_default();
                // The validation has checked that the sum stays within its bounds.
                account.balance = account.balance.saturating_add(*credit).saturating_sub(*debit);
                account.nonce = *nonce;
                self.update(address, account, storage);
            }
        }
        Ok(())
    }

    fn update(&mut self, address: Address, account: Account, storage: &[SlotValue]) {
        let entry = self.accounts.entry(address).or_default();
        entry.account = Some(account);
        extend(&mut entry.storage, storage);
    }

    fn delete(&mut self, address: Address) {
        let gone = OverlayAccount { account: None, wiped: true, storage: HashMap::default() };
        self.accounts.insert(address, gone);
    }

    /// Sets an account's value without changing its storage.
    pub fn set_account(&mut self, address: Address, account: Account) {
        self.accounts.entry(address).or_default().account = Some(account);
    }

    /// Touches an account and adds an amount to its balance (EIP-161). If the account is empty afterwards,
    /// it is deleted or, before Spurious Dragon, created.
    ///
    /// Returns whether the sum fits into 256 bits. If not, the balance stays unchanged.
    ///
    /// # Errors
    /// [`StateError`] if the base cannot be read.
    pub fn credit<V: StateView>(
        &mut self,
        base: &V,
        address: Address,
        amount: U256,
        state_clear: bool,
    ) -> Result<bool, StateError> {
        let before = self.current(base, &address)?;
        let mut account = before.unwrap_or_default();
        let sum = account.balance.checked_add(amount);
        account.balance = sum.unwrap_or(account.balance);
        if !account.is_empty() {
            self.set_account(address, account);
        } else if state_clear {
            if before.is_some() {
                self.delete(address);
            }
        } else if before.is_none() {
            self.set_account(address, account);
        }
        Ok(sum.is_some())
    }

    /// The overlay's net changes against `base`, in canonical form: sorted, and without entries that change
    /// nothing.
    ///
    /// # Errors
    /// [`StateError`] if the base cannot be read.
    pub fn net_changes<V: StateView>(&self, base: &V) -> Result<Vec<AccountDelta>, StateError> {
        let mut deltas = Vec::with_capacity(self.accounts.len());
        for (address, entry) in &self.accounts {
            if let Some(delta) = net_change(address, entry, base)? {
                deltas.push(delta);
            }
        }
        deltas.sort_unstable_by_key(|delta| delta.address);
        Ok(deltas)
    }

    /// The written code that an account in `changes` uses, in ascending order of hash.
    #[must_use]
    pub fn code_of(&self, changes: &[AccountDelta]) -> Vec<(B256, Bytes)> {
        let mut code: Vec<(B256, Bytes)> = changes
            .iter()
            .filter_map(|delta| delta.account.map(|account| account.code_hash))
            .filter_map(|hash| self.code.get(&hash).map(|code| (hash, code.bytes())))
            .collect();
        code.sort_unstable_by_key(|(hash, _)| *hash);
        code.dedup_by_key(|(hash, _)| *hash);
        code
    }
}

fn net_change<V: StateView>(
    address: &Address,
    entry: &OverlayAccount,
    base: &V,
) -> Result<Option<AccountDelta>, StateError> {
    let before = base.account(address)?;
    // A wipe counts only if there was storage to wipe.
    let wiped = entry.wiped && before.is_some() && base.any_slot(address, &|_| true)?;
    let mut storage = Vec::new();
    for (slot, value) in &entry.storage {
        let was = if wiped || before.is_none() { U256::ZERO } else { base.slot(address, slot)? };
        if was != *value {
            storage.push(SlotValue { slot: *slot, value: *value });
        }
    }
    storage.sort_unstable();
    let unchanged = before == entry.account && !wiped && storage.is_empty();
    let delta = AccountDelta { address: *address, account: entry.account, wiped, storage };
    Ok((!unchanged).then_some(delta))
}

fn extend(map: &mut HashMap<U256, U256>, storage: &[SlotValue]) {
    map.extend(storage.iter().map(|entry| (entry.slot, entry.value)));
}

/// An overlay above a base, as one view.
#[derive(Debug)]
pub struct Layered<V> {
    /// The writes. A read looks here before it asks the base.
    pub overlay: Overlay,
    /// The state below the writes.
    pub base: V,
}

impl<V: StateView> StateView for Layered<V> {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        match self.overlay.accounts.get(address) {
            Some(entry) => Ok(entry.account),
            None => self.base.account(address),
        }
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        if let Some(entry) = self.overlay.accounts.get(address) {
            if let Some(value) = entry.storage.get(slot) {
                return Ok(*value);
            }
            if entry.wiped {
                return Ok(U256::ZERO);
            }
        }
        self.base.slot(address, slot)
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        match self.overlay.code.get(hash) {
            Some(code) => Ok(code.clone()),
            None => self.base.code(hash),
        }
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        self.base.block_hash(number)
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        let Some(entry) = self.overlay.accounts.get(address) else {
            return self.base.any_slot(address, counts);
        };
        if entry.storage.iter().any(|(slot, value)| !value.is_zero() && counts(slot)) {
            return Ok(true);
        }
        if entry.wiped {
            return Ok(false);
        }
        self.base.any_slot(address, &|slot| !entry.storage.contains_key(slot) && counts(slot))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::state::MemoryState;
    use super::*;
    use common::account::AccountRecord;

    const ADDRESS: Address = Address::repeat_byte(7);

    fn slot(slot: u64, value: u64) -> SlotValue {
        SlotValue { slot: U256::from(slot), value: U256::from(value) }
    }

    fn base() -> MemoryState {
        let mut state = MemoryState::default();
        state.insert(AccountRecord {
            address: ADDRESS,
            account: Account { balance: U256::from(5), ..Default::default() },
            storage: vec![slot(1, 10), slot(2, 20)],
        });
        state
    }

    fn layered(overlay: Overlay) -> Layered<MemoryState> {
        Layered { overlay, base: base() }
    }

    #[test]
    fn a_deleted_account_is_absent_and_its_slots_are_zero() {
        let mut overlay = Overlay::default();
        overlay.apply_account(&base(), ADDRESS, &AccountWrite::Delete).unwrap();
        let view = layered(overlay);
        assert_eq!(view.account(&ADDRESS).unwrap(), None);
        assert_eq!(view.slot(&ADDRESS, &U256::from(1)).unwrap(), U256::ZERO);
        assert!(!view.any_slot(&ADDRESS, &|_| true).unwrap());
    }

    #[test]
    fn an_account_recreated_after_deletion_does_not_see_its_old_slots() {
        let mut overlay = Overlay::default();
        overlay.apply_account(&base(), ADDRESS, &AccountWrite::Delete).unwrap();
        let account = Account { nonce: 1, ..Default::default() };
        overlay
            .apply_account(&base(), ADDRESS, &AccountWrite::Create { account, storage: vec![slot(2, 3)] })
            .unwrap();
        let view = layered(overlay);
        assert_eq!(view.slot(&ADDRESS, &U256::from(1)).unwrap(), U256::ZERO);
        assert_eq!(view.slot(&ADDRESS, &U256::from(2)).unwrap(), U256::from(3));
        let changes = view.overlay.net_changes(&view.base).unwrap();
        assert_eq!(
            changes,
            vec![AccountDelta {
                address: ADDRESS,
                account: Some(account),
                wiped: true,
                storage: vec![slot(2, 3)]
            }]
        );
    }

    #[test]
    fn an_account_recreated_as_it_was_has_still_lost_its_slots() {
        let mut overlay = Overlay::default();
        overlay.apply_account(&base(), ADDRESS, &AccountWrite::Delete).unwrap();
        let account = Account { balance: U256::from(5), ..Default::default() };
        overlay.apply_account(&base(), ADDRESS, &AccountWrite::Create { account, storage: vec![] }).unwrap();
        let wiped = AccountDelta { address: ADDRESS, account: Some(account), wiped: true, storage: vec![] };
        assert_eq!(overlay.net_changes(&base()).unwrap(), vec![wiped]);
    }

    #[test]
    fn clearing_every_slot_leaves_no_storage() {
        let mut overlay = Overlay::default();
        let account = Account { balance: U256::from(5), ..Default::default() };
        let storage = vec![slot(1, 0), slot(2, 0)];
        overlay.apply_account(&base(), ADDRESS, &AccountWrite::Update { account, storage }).unwrap();
        assert!(!layered(overlay).any_slot(&ADDRESS, &|_| true).unwrap());
    }

    #[test]
    fn writes_of_the_same_values_are_no_net_change() {
        let mut overlay = Overlay::default();
        let account = Account { balance: U256::from(5), ..Default::default() };
        overlay
            .apply_account(&base(), ADDRESS, &AccountWrite::Update { account, storage: vec![slot(1, 10)] })
            .unwrap();
        assert_eq!(overlay.net_changes(&base()).unwrap(), vec![]);
    }

    #[test]
    fn a_zero_credit_deletes_an_empty_account_only_after_spurious_dragon() {
        let mut base = MemoryState::default();
        base.insert(AccountRecord { address: ADDRESS, account: Account::default(), storage: vec![] });
        for (state_clear, expected) in [(true, None), (false, Some(Account::default()))] {
            let mut overlay = Overlay::default();
            overlay.credit(&base, ADDRESS, U256::ZERO, state_clear).unwrap();
            let view = Layered { overlay, base: &base };
            assert_eq!(view.account(&ADDRESS).unwrap(), expected, "state clear: {state_clear}");
        }
    }

    #[test]
    fn a_zero_credit_brings_an_absent_account_into_being_only_before_spurious_dragon() {
        let base = MemoryState::default();
        for (state_clear, expected) in [(true, None), (false, Some(Account::default()))] {
            let mut overlay = Overlay::default();
            overlay.credit(&base, ADDRESS, U256::ZERO, state_clear).unwrap();
            let view = Layered { overlay, base: &base };
            assert_eq!(view.account(&ADDRESS).unwrap(), expected, "state clear: {state_clear}");
        }
    }
}
