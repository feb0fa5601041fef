//! The effects of a transaction that was executed: the values that its result depends on, and its changes.
//!
//! Where it can, this module writes changes of balances as additions: their results hold for other balances
//! too, so that transactions which only pay the same account do not conflict.

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use common::account::{Account, AccountWrite, SlotValue, WriteSet};
use common::block::Transaction;
use common::codec::Word;
use common::work::{Effects, MOST_BALANCE, ReadSet, Transfer};
use revm::primitives::hardfork::SpecId;
use revm::state::{Account as EvmAccount, EvmState};

use super::balances::least;
use super::recording::Recorded;

/// A transaction that was executed, with revm's state and the recorded reads.
pub(super) struct ExecutedTx<'t> {
    pub(super) transaction: &'t Transaction,
    pub(super) sender: Address,
    /// Whether it succeeded and has no logs.
    pub(super) succeeded_silently: bool,
    /// The accounts and slots that it loaded, with revm's flags.
    pub(super) state: EvmState,
    pub(super) recorded: Recorded,
    /// The most that it may take from its sender, in wei.
    pub(super) required: U256,
    pub(super) beneficiary: Address,
    /// The fee owed to the beneficiary, in wei.
    pub(super) fee: U256,
    /// Whether the beneficiary was loaded, so that its balance in `state` already contains the fee.
    pub(super) is_paid: bool,
}

impl ExecutedTx<'_> {
    /// The effects, and the fee; `None` if the writes already contain it.
    pub(super) fn effects(mut self, spec: SpecId) -> (Effects, Option<U256>) {
        // Amsterdam prices a transfer by whether the recipient exists, and logs the transfer.
        let adds = !spec.is_enabled_in(SpecId::AMSTERDAM);
        if let Some(transfer) = self.as_transfer().filter(|_| adds) {
            return (Effects::Transfer(transfer), Some(self.fee));
        }
        if adds {
            self.loosen();
        }
        let is_apart = !self.is_paid || self.added(&self.beneficiary).is_some();
        let mut writes = write_set(&self.state);
        for (address, write) in &mut writes.accounts {
            if let (AccountWrite::Update { account, storage }, Some((read, before))) =
                (&mut *write, self.added(address))
            {
                let paid = if self.is_paid && *address == self.beneficiary { self.fee } else { U256::ZERO };
                let after = account.balance.saturating_sub(paid);
                *write = AccountWrite::Add {
                    read,
                    nonce: account.nonce,
                    credit: after.saturating_sub(before.balance),
                    debit: before.balance.saturating_sub(after),
                    storage: std::mem::take(storage),
                };
            }
        }
        (Effects::Exact { reads: self.recorded.reads, writes }, is_apart.then_some(self.fee))
    }

    /// Marks the accounts of which the balance was not observed.
    fn loosen(&mut self) {
        let Recorded { reads, observed, observed_all, .. } = &mut self.recorded;
        // Whether the transaction's own payment overflows the recipient depends on the recipient's balance.
        if *observed_all || self.required > MOST_BALANCE {
            return;
        }
        for entry in &mut reads.accounts {
            // Whether an account has storage is asked of one at whose address a contract is created.
            let (Some(Some(account)), None) = (&entry.account, entry.has_storage) else { continue };
            let Some(after) = self.state.get(&entry.address) else { continue };
            let spent = (entry.address == self.sender).then_some(self.required);
            let observed = observed.get(&entry.address).copied();
            entry.least = least(account, after, observed, spent).map(Word);
        }
    }

    /// The account before the transaction and its position among the reads, if its balance was not observed.
    fn added(&self, address: &Address) -> Option<(u32, Account)> {
        let position = *self.recorded.positions.get(address)?;
        let entry = self.recorded.reads.accounts.get(position)?;
        let account = entry.least.as_ref().and(entry.account?)?;
        Some((u32::try_from(position).ok()?, account))
    }

    /// The transaction as additions, if that form is exact: it succeeded, sets no code, and loaded only its
    /// sender and a recipient without code, which is not the beneficiary.
    fn as_transfer(&self) -> Option<Transfer> {
        let Self { sender, state, .. } = self;
        let reads = &self.recorded.reads;
        let recipient = self.transaction.to()?;
        let plain = self.succeeded_silently
            && !self.transaction.is_eip7702()
            && recipient != *sender
            // Whether a payment leaves an empty recipient depends on the fee then.
            && recipient != self.beneficiary
            && state.len() == 2
            && reads.accounts.len() == 2
            && reads.block_hashes.is_empty();
        if !plain {
            return None;
        }
        let payer = read_account(reads, sender)??;
        let payee = read_account(reads, &recipient)?;
        let (after_sender, after_recipient) = (state.get(sender)?, state.get(&recipient)?);
        let untangled = |account: &EvmAccount| account.storage.is_empty() && !account.is_selfdestructed();
        let exact = untangled(after_sender)
            && untangled(after_recipient)
            && payee.is_none_or(|account| account.code_hash == KECCAK256_EMPTY)
            && after_recipient.info.code_hash == KECCAK256_EMPTY
            && after_sender.info.code_hash == payer.code_hash
            && after_sender.info.nonce == payer.nonce.checked_add(1)?
            && after_recipient.info.nonce == payee.map_or(0, |account| account.nonce);
        if !exact {
            return None;
        }
        // The sender is the only one of the two that can be the beneficiary.
        let earned = if self.is_paid { self.fee } else { U256::ZERO };
        let debit = payer.balance.checked_sub(after_sender.info.balance.checked_sub(earned)?)?;
        let credit =
            after_recipient.info.balance.checked_sub(payee.map_or(U256::ZERO, |account| account.balance))?;
        // A blob transaction also pays for its blobs, at a price that depends only on the header.
        Some(Transfer {
            sender: *sender,
            nonce: payer.nonce,
            code_hash: payer.code_hash,
            required: self.required,
            debit,
            recipient,
            credit,
        })
    }
}

/// The value that was read of an account, if the account as a whole was read and nothing else of it.
fn read_account(reads: &ReadSet, address: &Address) -> Option<Option<Account>> {
    let entry = reads.accounts.iter().find(|entry| entry.address == *address)?;
    let alone = entry.slots.is_empty() && entry.has_storage.is_none();
    if alone { entry.account } else { None }
}

/// Derives a transaction's writes from revm's flags, not from differences of values.
pub(super) fn write_set(state: &EvmState) -> WriteSet {
    let mut accounts = Vec::with_capacity(state.len());
    let mut code: Vec<(B256, Bytes)> = Vec::new();
    for (address, account) in state {
        if !account.is_touched() {
            continue;
        }
        let value = Account {
            balance: account.info.balance,
            nonce: account.info.nonce,
            code_hash: account.info.code_hash,
        };
        let write = if account.is_selfdestructed() {
            AccountWrite::Delete
        } else if account.is_created() {
            AccountWrite::Create { account: value, storage: changed_slots(account) }
        } else if value.is_empty() {
            AccountWrite::Delete
        } else {
            AccountWrite::Update { account: value, storage: changed_slots(account) }
        };
        if !matches!(write, AccountWrite::Delete)
            && value.code_hash != KECCAK256_EMPTY
            && (account.is_created() || account.original_info().code_hash != value.code_hash)
            && let Some(bytes) = &account.info.code
        {
            code.push((value.code_hash, bytes.original_bytes()));
        }
        accounts.push((*address, write));
    }
    accounts.sort_unstable_by_key(|(address, _)| *address);
    code.sort_unstable_by_key(|(hash, _)| *hash);
    code.dedup_by_key(|(hash, _)| *hash);
    WriteSet { accounts, code }
}

fn changed_slots(account: &EvmAccount) -> Vec<SlotValue> {
    let mut slots: Vec<SlotValue> = account
        .changed_storage_slots()
        .map(|(slot, value)| SlotValue { slot: *slot, value: value.present_value })
        .collect();
    slots.sort_unstable();
    slots
}
