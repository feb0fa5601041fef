//! Checks a speculative result: it is valid if every value that it read is the one that sequential
//! execution would have read, or lies within the bounds that the result gives.

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, KECCAK256_EMPTY};
use common::account::{Account, AccountWrite};
use common::block::Transaction;
use common::codec::Word;
use common::work::{AccountReads, Effects, Executed, MOST_BALANCE, ReadSet, Transfer};
use engine::{StateError, StateView};

/// Whether sequential execution of `transaction` on `view` gives `executed`.
pub(super) fn is_valid<V: StateView>(
    view: &V,
    transaction: &Transaction,
    sender: Address,
    executed: &Executed,
) -> Result<bool, StateError> {
    if executed.gas_used.0 > transaction.gas_limit() {
        return Ok(false);
    }
    match &executed.effects {
        Effects::Exact { reads, writes } => {
            Ok(writes.accounts.iter().all(|(address, write)| is_covered(reads, address, write))
                && reads_hold(view, reads)?)
        }
        Effects::Transfer(transfer) => {
            // The transaction itself states these values, so they are not taken from the shard.
            let its_own = transfer.sender == sender
                && transaction.to() == Some(transfer.recipient)
                && transaction.value() == transfer.credit
                && transfer.recipient != sender;
            Ok(its_own && transfer_holds(view, transfer)?)
        }
    }
}

/// Whether a write that changes a balance by an amount is of an account of which the balance was not observed,
/// and is not more than the least that the account must have.
fn is_covered(reads: &ReadSet, address: &Address, write: &AccountWrite) -> bool {
    let AccountWrite::Add { read, debit, .. } = write else { return true };
    let entry = reads.accounts.get(*read as usize).filter(|entry| entry.address == *address);
    entry.is_some_and(|entry| {
        entry.account.flatten().is_some() && entry.least.is_some_and(|least| least.0 >= *debit)
    })
}

fn reads_hold<V: StateView>(view: &V, reads: &ReadSet) -> Result<bool, StateError> {
    for entry in &reads.accounts {
        if !account_holds(view, entry)? {
            return Ok(false);
        }
    }
    for (number, hash) in &reads.block_hashes {
        if view.block_hash(*number)? != *hash {
            return Ok(false);
        }
    }
    Ok(true)
}

fn account_holds<V: StateView>(view: &V, entry: &AccountReads) -> Result<bool, StateError> {
    if let Some(account) = &entry.account {
        let now = view.account(&entry.address)?;
        let holds = match (&entry.least, account, &now) {
            (Some(Word(least)), Some(account), Some(now)) => {
                (now.nonce, now.code_hash) == (account.nonce, account.code_hash)
                    && (*least..=MOST_BALANCE).contains(&now.balance)
            }
            _ => now == *account,
        };
        if !holds {
            return Ok(false);
        }
    }
    for read in &entry.slots {
        if view.slot(&entry.address, &read.slot)? != read.value {
            return Ok(false);
        }
    }
    match entry.has_storage {
        Some(answer) => Ok(view.any_slot(&entry.address, &|_| true)? == answer),
        None => Ok(true),
    }
}

/// A plain transfer is valid if the sender has this nonce and code and can pay, and the recipient has
/// no code.
fn transfer_holds<V: StateView>(view: &V, transfer: &Transfer) -> Result<bool, StateError> {
    let Some(sender) = view.account(&transfer.sender)? else { return Ok(false) };
    let recipient: Account = view.account(&transfer.recipient)?.unwrap_or_default();
    Ok(sender.nonce == transfer.nonce
        && sender.code_hash == transfer.code_hash
        && sender.balance >= transfer.required
        && sender.balance >= transfer.debit
        && recipient.code_hash == KECCAK256_EMPTY
        // Beyond 2²⁵⁶ the transfer would fail.
        && recipient.balance.checked_add(transfer.credit).is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::{SignableTransaction, TxLegacy};
    use alloy_primitives::{B256, Signature, U256};
    use common::account::{AccountRecord, SlotValue, WriteSet};
    use common::id::Gas;
    use common::receipt::EncodedLogs;
    use engine::MemoryState;
    use proptest::prelude::*;

    const SENDER: Address = Address::repeat_byte(1);
    const RECIPIENT: Address = Address::repeat_byte(2);

    fn state(balance: u64, nonce: u64) -> MemoryState {
        let mut state = MemoryState::default();
        let account = Account { balance: U256::from(balance), nonce, ..Default::default() };
        let storage = vec![SlotValue { slot: U256::from(1), value: U256::from(5) }];
        state.insert(AccountRecord { address: SENDER, account, storage });
        state
    }

    fn transfer() -> Transfer {
        Transfer {
            sender: SENDER,
            nonce: 3,
            code_hash: KECCAK256_EMPTY,
            required: U256::from(100),
            debit: U256::from(60),
            recipient: RECIPIENT,
            credit: U256::from(10),
        }
    }

    #[test]
    fn a_transfer_needs_the_required_balance_and_not_only_what_it_spends() {
        assert!(transfer_holds(&state(100, 3), &transfer()).unwrap());
        assert!(!transfer_holds(&state(99, 3), &transfer()).unwrap());
    }

    #[test]
    fn a_transfer_whose_sender_does_not_exist_is_stale() {
        let transfer = Transfer { nonce: 0, required: U256::ZERO, debit: U256::ZERO, ..transfer() };
        assert!(!transfer_holds(&MemoryState::default(), &transfer).unwrap());
    }

    #[test]
    fn a_transfer_that_spends_more_than_there_is_is_refused_whatever_it_says_it_requires() {
        let lie = Transfer { required: U256::from(1), debit: U256::from(101), ..transfer() };
        assert!(!transfer_holds(&state(100, 3), &lie).unwrap());
    }

    #[test]
    fn a_transfer_needs_its_senders_code() {
        let delegated = Transfer { code_hash: B256::repeat_byte(7), ..transfer() };
        assert!(!transfer_holds(&state(100, 3), &delegated).unwrap());
    }

    const OTHER: Address = Address::repeat_byte(9);

    #[test]
    fn what_a_transaction_says_itself_is_not_taken_from_a_shard() {
        use alloy_primitives::TxKind;
        let legacy = |to| TxLegacy {
            nonce: 3,
            gas_limit: 21_000,
            to: TxKind::Call(to),
            value: U256::from(10),
            ..TxLegacy::default()
        };
        let signed = |to| legacy(to).into_signed(Signature::new(U256::from(1), U256::from(1), false)).into();
        let told = |to, gas, transfer| {
            let executed = Executed {
                success: true,
                gas_used: Gas(gas),
                regular_gas: Gas(gas),
                state_gas: Gas(0),
                logs: EncodedLogs::default(),
                fee: None,
                effects: Effects::Transfer(transfer),
            };
            let mut state = state(100, 3);
            let account = Account { balance: U256::from(100), nonce: 3, ..Default::default() };
            state.insert(AccountRecord { address: OTHER, account, storage: vec![] });
            is_valid(&state, &signed(to), SENDER, &executed).unwrap()
        };
        assert!(told(RECIPIENT, 21_000, transfer()));
        assert!(!told(RECIPIENT, 21_001, transfer()));
        assert!(!told(RECIPIENT, 21_000, Transfer { sender: OTHER, ..transfer() }));
        assert!(!told(RECIPIENT, 21_000, Transfer { recipient: OTHER, ..transfer() }));
        assert!(!told(RECIPIENT, 21_000, Transfer { credit: U256::from(11), ..transfer() }));
        assert!(!told(SENDER, 21_000, Transfer { recipient: SENDER, ..transfer() }));
    }

    #[test]
    fn a_transfer_needs_its_nonce() {
        assert!(!transfer_holds(&state(100, 4), &transfer()).unwrap());
    }

    #[test]
    fn a_transfer_to_an_account_that_has_got_code_is_stale() {
        let mut state = state(100, 3);
        let account = Account { code_hash: B256::repeat_byte(7), ..Default::default() };
        state.insert(AccountRecord { address: RECIPIENT, account, storage: vec![] });
        assert!(!transfer_holds(&state, &transfer()).unwrap());
    }

    #[test]
    fn a_transfer_that_would_overflow_the_recipient_is_stale() {
        let mut state = state(100, 3);
        let account = Account { balance: U256::MAX, ..Default::default() };
        state.insert(AccountRecord { address: RECIPIENT, account, storage: vec![] });
        assert!(!transfer_holds(&state, &transfer()).unwrap());
    }

    /// The read of an account of which only a least balance matters.
    fn at_least(least: U256, account: Account) -> AccountReads {
        let (address, account, least) = (SENDER, Some(Some(account)), Some(Word(least)));
        AccountReads { address, account, least, has_storage: None, slots: vec![] }
    }

    fn exact(account: Option<Option<Account>>) -> AccountReads {
        AccountReads { account, least: None, ..at_least(U256::ZERO, Account::default()) }
    }

    #[test]
    fn an_unobserved_balance_may_differ_within_its_bounds_and_nothing_else_may() {
        let account = |nonce, balance| Account { balance, nonce, ..Account::default() };
        let read = at_least(U256::from(7), account(3, U256::from(50)));
        let holds = |now: Option<Account>| {
            let mut state = MemoryState::default();
            if let Some(account) = now {
                state.insert(AccountRecord { address: SENDER, account, storage: vec![] });
            }
            account_holds(&state, &read).unwrap()
        };
        assert!(holds(Some(account(3, U256::from(7)))) && holds(Some(account(3, MOST_BALANCE))));
        assert!(!holds(Some(account(3, U256::from(6)))));
        assert!(!holds(Some(account(3, MOST_BALANCE + U256::from(1)))));
        assert!(!holds(Some(account(4, U256::from(50)))));
        assert!(!holds(Some(Account { code_hash: B256::ZERO, ..account(3, U256::from(50)) })));
        assert!(!holds(None));
    }

    #[test]
    fn an_addition_needs_an_account_that_exists_and_has_what_is_taken() {
        let account = Account { balance: U256::from(50), nonce: 3, ..Account::default() };
        let at = |position: u32, read: AccountReads, debit: u64| {
            let (credit, debit) = (U256::ZERO, U256::from(debit));
            let write = AccountWrite::Add { read: position, nonce: 3, credit, debit, storage: vec![] };
            let writes = WriteSet { accounts: vec![(SENDER, write)], code: vec![] };
            let reads = ReadSet { accounts: vec![read], block_hashes: vec![] };
            let executed = Executed {
                success: true,
                gas_used: Gas(0),
                regular_gas: Gas(0),
                state_gas: Gas(0),
                logs: EncodedLogs::default(),
                fee: None,
                effects: Effects::Exact { reads, writes },
            };
            let tx = TxLegacy { gas_limit: 21_000, ..TxLegacy::default() };
            let tx = tx.into_signed(Signature::new(U256::from(1), U256::from(1), false)).into();
            let mut state = state(50, 3);
            state.insert(AccountRecord { address: OTHER, account, storage: vec![] });
            is_valid(&state, &tx, SENDER, &executed).unwrap()
        };
        let accepted = |read, debit| at(0, read, debit);
        assert!(accepted(at_least(U256::from(5), account), 5));
        assert!(!at(1, at_least(U256::from(5), account), 5));
        assert!(!accepted(at_least(U256::from(5), account), 6));
        assert!(!accepted(exact(Some(Some(account))), 5));
        assert!(!accepted(exact(Some(None)), 0));
        assert!(!accepted(exact(None), 0));
        let elsewhere = AccountReads { address: OTHER, ..at_least(U256::from(5), account) };
        assert!(!accepted(elsewhere, 5));
        let unread = AccountReads { account: None, ..at_least(U256::from(5), account) };
        assert!(!accepted(unread, 5));
    }

    #[test]
    fn an_absent_account_is_not_an_empty_one() {
        let reads = |account| ReadSet {
            accounts: vec![AccountReads {
                address: RECIPIENT,
                account: Some(account),
                least: None,
                has_storage: None,
                slots: vec![],
            }],
            block_hashes: vec![],
        };
        assert!(reads_hold(&state(1, 1), &reads(None)).unwrap());
        assert!(!reads_hold(&state(1, 1), &reads(Some(Account::default()))).unwrap());
    }

    proptest! {
        // Law: reads are valid if and only if each value equals the state's own.
        #[test]
        fn one_wrong_value_is_enough(balance in 0u64..3, nonce in 0u64..3, slot in 3u64..7, storage: bool, hash in 0u8..2) {
            let state = state(1, 1);
            let entry = AccountReads {
                address: SENDER,
                account: Some(Some(Account { balance: U256::from(balance), nonce, ..Default::default() })),
                least: None,
                has_storage: Some(storage),
                slots: vec![SlotValue { slot: U256::from(1), value: U256::from(slot) }],
            };
            let reads = ReadSet { accounts: vec![entry], block_hashes: vec![(9, B256::repeat_byte(hash))] };
            let right = balance == 1 && nonce == 1 && slot == 5 && storage && hash == 0;
            prop_assert_eq!(reads_hold(&state, &reads).unwrap(), right);
        }
    }
}
