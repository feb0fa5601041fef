//! A whole state in an embedded redb database: the replica of a shard with its own folder, and the flat
//! part of the coordinator's ledger.
//!
//! The keys of accounts and slots are the hashes that order Ethereum's tries; the value contains the
//! plain address or slot. The holder opens the database, ends the transactions, and may store other
//! data in it.

mod cache;
mod disk;
mod file;
mod raw;
mod write;

use alloy_primitives::{Address, B256, U256};
use common::account::{Account, hashed_address, hashed_slot};
use redb::TableDefinition;

use crate::StateError;

pub use cache::StateCache;
pub use disk::{Cursor, DiskState};
pub use file::private_file;
pub use raw::RawState;
pub use write::StateWriter;

/// Accounts by the hash of their address: address, nonce, balance, code hash.
const ACCOUNTS: TableDefinition<'_, &[u8; 32], &[u8; ACCOUNT_BYTES]> = TableDefinition::new("accounts");

/// Non-zero slots by the hashes of address and slot: slot, value.
const SLOTS: TableDefinition<'_, &[u8; 64], &[u8; 64]> = TableDefinition::new("slots");

/// Code by its hash. It is never removed, because other accounts may have the same code.
const CODE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("code");

/// Hashes of this block and its ancestors, by number.
const ANCESTORS: TableDefinition<'_, u64, &[u8; 32]> = TableDefinition::new("ancestors");

const ACCOUNT_BYTES: usize = 20 + 8 + 32 + 32;

/// Converts an error of redb to the error that readers of a state get.
pub fn storage_error(error: impl Into<redb::Error>) -> StateError {
    StateError::Storage(error.into().to_string())
}

fn slot_key(address: &Address, slot: &U256) -> [u8; 64] {
    slot_key_of(&hashed_address(address), slot)
}

fn slot_key_of(hashed_address: &B256, slot: &U256) -> [u8; 64] {
    joined(hashed_address, &hashed_slot(slot))
}

/// The range that contains the keys of all slots of one account.
fn slot_range(hashed_address: &B256) -> std::ops::RangeInclusive<[u8; 64]> {
    joined(hashed_address, &B256::ZERO)..=joined(hashed_address, &B256::repeat_byte(0xff))
}

fn joined(left: &B256, right: &B256) -> [u8; 64] {
    let mut key = [0; 64];
    let (head, tail) = key.split_at_mut(32);
    head.copy_from_slice(left.as_slice());
    tail.copy_from_slice(right.as_slice());
    key
}

fn encode_account(address: &Address, account: &Account) -> [u8; ACCOUNT_BYTES] {
    let mut bytes = [0; ACCOUNT_BYTES];
    let (head, rest) = bytes.split_at_mut(20);
    head.copy_from_slice(address.as_slice());
    let (nonce, rest) = rest.split_at_mut(8);
    nonce.copy_from_slice(&account.nonce.to_be_bytes());
    let (balance, code_hash) = rest.split_at_mut(32);
    balance.copy_from_slice(&account.balance.to_be_bytes::<32>());
    code_hash.copy_from_slice(account.code_hash.as_slice());
    bytes
}

fn decode_account(bytes: &[u8; ACCOUNT_BYTES]) -> (Address, Account) {
    let (address, rest) = bytes.split_at(20);
    let (nonce, rest) = rest.split_at(8);
    let (balance, code_hash) = rest.split_at(32);
    let account = Account {
        nonce: nonce.iter().fold(0, |nonce, byte| (nonce << 8) | u64::from(*byte)),
        balance: U256::from_be_slice(balance),
        code_hash: B256::from_slice(code_hash),
    };
    (Address::from_slice(address), account)
}

fn encode_slot(slot: &U256, value: &U256) -> [u8; 64] {
    joined(&B256::from(*slot), &B256::from(*value))
}

fn decode_slot(bytes: &[u8; 64]) -> (U256, U256) {
    let (slot, value) = bytes.split_at(32);
    (U256::from_be_slice(slot), U256::from_be_slice(value))
}
