//! Accounts, what one transaction writes, and what one block changes (the delta).
//!
//! These are plain data in canonical form. How writes are applied is the overlay's business (in
//! the engine), how deltas move a state is the replica's and the ledger's.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use serde::{Deserialize, Serialize};

use crate::codec::word;
use crate::id::StateRef;

/// An account as one value. An account that does not exist is `None`, which differs from an
/// account that exists and is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Account {
    /// Balance in wei.
    #[serde(with = "word")]
    pub balance: U256,
    /// Number of transactions sent, or contracts created.
    pub nonce: u64,
    /// Keccak-256 of the code; [`KECCAK256_EMPTY`] without code.
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self { balance: U256::ZERO, nonce: 0, code_hash: KECCAK256_EMPTY }
    }
}

impl Account {
    /// Empty as EIP-161 defines it: no balance, no nonce, no code.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.balance.is_zero() && self.nonce == 0 && self.code_hash == KECCAK256_EMPTY
    }
}

/// One storage slot and a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotValue {
    /// The slot's index.
    #[serde(with = "word")]
    pub slot: U256,
    /// Its value; zero is absent.
    #[serde(with = "word")]
    pub value: U256,
}

/// What one transaction does to one account. It carries the EVM's own flags, never differences of
/// values: an account that was touched and is empty is a deletion, whatever it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountWrite {
    /// The account is gone and its storage wiped (SELFDESTRUCT, or touched and empty under
    /// EIP-161).
    Delete,
    /// The account was created in this transaction: its storage is exactly what is named.
    Create {
        /// The account afterwards.
        account: Account,
        /// Its slots, in order.
        storage: Vec<SlotValue>,
    },
    /// The account's value, and the slots that changed.
    Update {
        /// The account afterwards.
        account: Account,
        /// The slots that changed, in order.
        storage: Vec<SlotValue>,
    },
}

/// The write set of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSet {
    /// Per account, in order of address.
    pub accounts: Vec<(Address, AccountWrite)>,
    /// Code whose hash an account took on in this transaction: by creation, or by a set-code
    /// authorisation (EIP-7702). In order of hash.
    pub code: Vec<(B256, Bytes)>,
}

/// What one block changed about one account, against the state before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDelta {
    /// Whose account.
    pub address: Address,
    /// The account afterwards; `None` if it no longer exists.
    pub account: Option<Account>,
    /// Whether all storage from before is gone, before `storage` applies.
    pub wiped: bool,
    /// Slots whose value differs from before (or that exist again after a wipe), in order.
    pub storage: Vec<SlotValue>,
}

/// What one block changes: it carries the state `from` to the state `to`. Canonical: sorted, and
/// free of entries that change nothing, so that equal changes have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The state it applies to.
    pub from: StateRef,
    /// The state it leads to.
    pub to: StateRef,
    /// Changed accounts, in order of address.
    pub accounts: Vec<AccountDelta>,
    /// Code that is new, in order of hash.
    pub code: Vec<(B256, Bytes)>,
    /// The content digest of the state it leads to.
    #[serde(with = "word")]
    pub digest: U256,
}

impl Delta {
    /// About how many bytes its encoding has.
    #[must_use]
    pub fn weight(&self) -> usize {
        let accounts = self.accounts.iter().map(|account| 110 + account.storage.len() * 66);
        let code = self.code.iter().map(|(_, code)| 40 + code.len());
        accounts.chain(code).sum()
    }
}

/// One account of a whole state, with its storage, as snapshots and pre-states list them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// Whose account.
    pub address: Address,
    /// The account.
    pub account: Account,
    /// Part or all of its non-zero slots.
    pub storage: Vec<SlotValue>,
}
