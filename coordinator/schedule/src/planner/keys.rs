//! Predicts the keys that a transaction reads and writes, from its calldata and its access list. A contract
//! usually stores an account's data under the account's address, and calls pass that address as an argument.
//!
//! Nothing here executes code or knows a state. A wrong guess costs time and changes no result.

use alloy_consensus::Transaction as _;
use alloy_primitives::map::HashMap;
use alloy_primitives::{Address, B256, TxKind};
use common::block::Transaction;

/// A predicted key: a contract, and the word under which it stores data (an account's address, or a slot).
type Key = (Address, B256);

/// The most words of a call, and slots of an access list, that are looked at.
const MOST: usize = 16;

/// The length of a function selector, which comes before the words of a call.
const SELECTOR: usize = 4;

/// The indices of the transactions that share a key, for each key that several have, in ascending order.
/// Keys of few transactions come first: they say more about a conflict than those of many.
pub(super) fn shared_keys(transactions: &[Transaction], senders: &[Address]) -> Vec<Vec<usize>> {
    let mut sharers: HashMap<Key, Vec<usize>> = HashMap::default();
    for (index, (transaction, sender)) in transactions.iter().zip(senders).enumerate() {
        each_key(transaction, *sender, |key| {
            let sharers = sharers.entry(key).or_default();
            if sharers.last() != Some(&index) {
                sharers.push(index);
            }
        });
    }
    let mut shared: Vec<Vec<usize>> = sharers.into_values().filter(|sharers| sharers.len() > 1).collect();
    shared.sort_unstable_by(|one, other| one.len().cmp(&other.len()).then_with(|| one.cmp(other)));
    shared
}

/// Calls `take` with every key of a transaction. A plain transfer has none: its credit conflicts with nothing.
fn each_key(transaction: &Transaction, sender: Address, mut take: impl FnMut(Key)) {
    if let Some(list) = transaction.access_list() {
        let slots = list.iter().flat_map(|item| item.storage_keys.iter().map(|slot| (item.address, *slot)));
        slots.take(MOST).for_each(&mut take);
    }
    let TxKind::Call(to) = transaction.kind() else { return };
    if transaction.input().is_empty() {
        return;
    }
    take((to, sender.into_word()));
    let (words, _) = transaction.input().get(SELECTOR..).unwrap_or_default().as_chunks::<32>();
    words.iter().take(MOST).map(|word| B256::new(*word)).filter(is_account).for_each(|word| take((to, word)));
}

/// Whether a word of a call looks like an account: twelve zeros and a long number. Amounts are shorter.
fn is_account(word: &B256) -> bool {
    let (zeros, address) = word.split_at(B256::len_bytes() - Address::len_bytes());
    zeros.iter().all(|byte| *byte == 0) && address.iter().take(4).any(|byte| *byte != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::{SignableTransaction, TxEip2930, TxLegacy};
    use alloy_eips::eip2930::{AccessList, AccessListItem};
    use alloy_primitives::{Bytes, Signature, U256};

    const TOKEN: Address = Address::repeat_byte(0xcc);

    fn account(number: u8) -> Address {
        Address::repeat_byte(number)
    }

    fn send(to: Address, input: Bytes) -> Transaction {
        let tx = TxLegacy { to: to.into(), input, ..TxLegacy::default() };
        tx.into_signed(Signature::new(U256::from(1), U256::from(2), false)).into()
    }

    /// A call with these words behind a selector.
    fn call(to: Address, words: &[B256]) -> Transaction {
        let input: Vec<u8> = [9; SELECTOR].into_iter().chain(words.iter().flat_map(|word| word.0)).collect();
        send(to, input.into())
    }

    fn token(to: Address) -> Transaction {
        call(TOKEN, &[to.into_word(), B256::from(U256::from(10).pow(U256::from(24)))])
    }

    #[test]
    fn transfers_of_a_token_share_the_accounts_that_they_name_and_not_the_amounts() {
        let transactions = [token(account(1)), token(account(2)), token(account(1)), token(account(9))];
        let senders = [account(5), account(6), account(7), account(2)];
        assert_eq!(shared_keys(&transactions, &senders), [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn the_same_account_in_another_contract_is_another_key() {
        let transactions = [token(account(1)), call(account(0xdd), &[account(1).into_word()])];
        assert!(shared_keys(&transactions, &[account(5), account(6)]).is_empty());
    }

    #[test]
    fn plain_transfers_share_nothing() {
        let transactions =
            [send(account(5), Bytes::new()), token(account(5)), send(account(5), Bytes::new())];
        assert!(shared_keys(&transactions, &[account(3), account(5), account(3)]).is_empty());
    }

    #[test]
    fn slots_of_access_lists_are_keys() {
        let listed = |slot: u8| -> Transaction {
            let item = AccessListItem { address: TOKEN, storage_keys: vec![B256::repeat_byte(slot)] };
            let tx = TxEip2930 { access_list: AccessList(vec![item]), ..TxEip2930::default() };
            tx.into_signed(Signature::new(U256::from(1), U256::from(2), false)).into()
        };
        let senders = [account(1), account(2), account(3)];
        assert_eq!(shared_keys(&[listed(1), listed(2), listed(1)], &senders), [vec![0, 2]]);
    }

    #[test]
    fn rare_keys_come_before_frequent_ones() {
        let transactions = [token(account(1)), token(account(1)), token(account(1)), token(account(2))];
        let senders = [account(4), account(5), account(6), account(6)];
        assert_eq!(shared_keys(&transactions, &senders), [vec![2, 3], vec![0, 1, 2]]);
    }

    #[test]
    fn only_the_first_words_of_a_long_call_are_looked_at() {
        let words: Vec<B256> = (1..=MOST as u8 + 1).map(|number| account(number).into_word()).collect();
        let (last, next) = (account(MOST as u8), account(MOST as u8 + 1));
        let shares = |with| {
            let transactions = [call(TOKEN, &words), token(with)];
            !shared_keys(&transactions, &[account(100), account(101)]).is_empty()
        };
        assert!(shares(last) && !shares(next));
    }
}
