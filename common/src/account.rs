//! Accounts, the write set of one transaction, and the delta of one block.
//!
//! These types are plain data in canonical form. The overlay (in the engine) applies write sets.
//! Replicas and the ledger apply deltas.

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256, utils::keccak256_cached};
use serde::{Deserialize, Serialize};

use crate::codec::{self, word};
use crate::id::StateRef;
use crate::sealed::Payload;

/// The hash under which Ethereum's account trie, and the stored state, keep an account.
///
/// Reading, writing and hashing a state ask for the same few hashes again, so a bounded cache of the
/// process remembers them.
#[must_use]
pub fn hashed_address(address: &Address) -> B256 {
    keccak256_cached(address)
}

/// The hash under which an account's storage trie, and the stored state, keep a slot. Cached like
/// [`hashed_address`].
#[must_use]
pub fn hashed_slot(slot: &U256) -> B256 {
    keccak256_cached(slot.to_be_bytes::<32>())
}

/// An account as one value. `None` stands for an account that does not exist, which differs from an
/// account that exists and is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Account {
    /// The amount of ether that the account owns, in wei.
    #[serde(with = "word")]
    pub balance: U256,
    /// Number of transactions sent, or contracts created.
    pub nonce: u64,
    /// Keccak-256 of the code; [`KECCAK256_EMPTY`] for an account without code.
    #[serde(with = "codec::code_hash")]
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self { balance: U256::ZERO, nonce: 0, code_hash: KECCAK256_EMPTY }
    }
}

impl Account {
    /// Whether the account is empty as EIP-161 defines it: no balance, no nonce, no code.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.balance.is_zero() && self.nonce == 0 && self.code_hash == KECCAK256_EMPTY
    }
}

/// One storage slot and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotValue {
    /// The slot's number in the account's storage, not its hash.
    #[serde(with = "word")]
    pub slot: U256,
    /// The value. Zero means that the slot is absent.
    #[serde(with = "word")]
    pub value: U256,
}

/// What one transaction does to one account. It carries the EVM's own flags, not differences of values:
/// a transaction that touches an account and leaves it empty deletes it, whatever the account was
/// before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountWrite {
    /// The transaction deletes the account and its storage (SELFDESTRUCT, or touched and empty under
    /// EIP-161).
    Delete,
    /// The transaction creates the account: its storage consists of exactly the listed slots.
    Create {
        /// The account after the transaction.
        account: Account,
        /// All its non-zero slots, in ascending order.
        storage: Vec<SlotValue>,
    },
    /// The transaction changes or touches an account whose balance it did not observe. The code stays.
    Add {
        /// The account's position in the transaction's read set.
        read: u32,
        /// The nonce after the transaction.
        nonce: u64,
        /// The amount that the balance grows by, in wei.
        #[serde(with = "word")]
        credit: U256,
        /// The amount that the balance shrinks by, in wei. One of the two amounts is zero.
        #[serde(with = "word")]
        debit: U256,
        /// The slots that changed, in ascending order.
        storage: Vec<SlotValue>,
    },
    /// The transaction changes or touches the account in any other way.
    Update {
        /// The account after the transaction.
        account: Account,
        /// The slots that changed, in ascending order.
        storage: Vec<SlotValue>,
    },
}

/// The write set of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSet {
    /// One entry per account, in ascending order of address.
    pub accounts: Vec<(Address, AccountWrite)>,
    /// The code whose hash an account took on in this transaction: by creation, or by a set-code
    /// authorisation (EIP-7702). In ascending order of hash.
    pub code: Vec<(B256, Bytes)>,
}

/// What one block changed about one account, against the state before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDelta {
    /// The address of the changed account, not its hash.
    pub address: Address,
    /// The account after the block; `None` if it no longer exists.
    pub account: Option<Account>,
    /// Whether all storage from before the block is deleted before `storage` applies.
    pub wiped: bool,
    /// The slots whose value differs from before the block (or that exist again after a wipe), in ascending
    /// order.
    pub storage: Vec<SlotValue>,
}

/// What one block changes: it carries the state `from` to the state `to`. It is canonical: sorted, and
/// without entries that change nothing. Equal changes therefore have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The state that the delta applies to.
    pub from: StateRef,
    /// The state that the delta leads to.
    pub to: StateRef,
    /// The changed accounts, in ascending order of address.
    pub accounts: Vec<AccountDelta>,
    /// The code that is new, in ascending order of hash.
    pub code: Vec<(B256, Bytes)>,
    /// The content digest of the state `to`.
    #[serde(with = "word")]
    pub digest: U256,
}

impl Payload for Delta {
    const WHAT: &'static str = "delta";
    const LIMIT: usize = codec::MAX_PAYLOAD_BYTES;
}

impl Delta {
    /// The approximate size of the delta's encoding, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let accounts = self.accounts.iter().map(|account| 110 + account.storage.len() * 66);
        let code = self.code.iter().map(|(_, code)| 40 + code.len());
        accounts.chain(code).sum()
    }

    /// Splits the delta into parts of about `weight` bytes, which [`Delta::append`] joins again. The parts
    /// of one account follow each other, and only the first of them can say that the storage is wiped.
    #[must_use]
    pub fn split(&self, weight: usize) -> Vec<Self> {
        let empty = || Self {
            from: self.from,
            to: self.to,
            accounts: Vec::new(),
            code: Vec::new(),
            digest: self.digest,
        };
        let slots = (weight.saturating_sub(110) / 66).max(1);
        let (mut parts, mut part, mut size) = (Vec::new(), empty(), 0_usize);
        let mut full = |part: &mut Self, size: &mut usize, more: usize| {
            if *size > 0 && size.saturating_add(more) > weight {
                parts.push(std::mem::replace(part, empty()));
                *size = 0;
            }
            *size = size.saturating_add(more);
        };
        for (hash, code) in &self.code {
            full(&mut part, &mut size, 40 + code.len());
            part.code.push((*hash, code.clone()));
        }
        for account in &self.accounts {
            let mut first = true;
            // An account without slots still needs one part.
            let mut rest = account.storage.as_slice();
            while first || !rest.is_empty() {
                let (storage, others) = rest.split_at(rest.len().min(slots));
                full(&mut part, &mut size, 110 + storage.len() * 66);
                let wiped = account.wiped && first;
                part.accounts.push(AccountDelta { wiped, storage: storage.to_vec(), ..account.bare() });
                (rest, first) = (others, false);
            }
        }
        parts.push(part);
        parts
    }

    /// Adds the part that follows. Returns false if that part belongs to another delta.
    #[must_use]
    pub fn append(&mut self, part: Self) -> bool {
        if (self.from, self.to, self.digest) != (part.from, part.to, part.digest) {
            return false;
        }
        self.code.extend(part.code);
        for account in part.accounts {
            match self.accounts.last_mut().filter(|last| last.address == account.address) {
                Some(last) => last.storage.extend(account.storage),
                None => self.accounts.push(account),
            }
        }
        true
    }
}

impl AccountDelta {
    /// The same change without its slots.
    fn bare(&self) -> Self {
        Self { address: self.address, account: self.account, wiped: self.wiped, storage: Vec::new() }
    }
}

/// One account of a whole state with its storage, as snapshots and pre-states list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// The account's address, not its hash.
    pub address: Address,
    /// The account's own values, without its storage.
    pub account: Account,
    /// Some or all of its non-zero slots.
    pub storage: Vec<SlotValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> StateRef {
        StateRef {
            world: crate::id::WorldId::default(),
            height: crate::id::Height(1),
            block_hash: B256::ZERO,
        }
    }

    fn delta(accounts: &[(usize, bool)], code: usize) -> Delta {
        let of = |(number, (slots, wiped)): (u8, &(usize, bool))| AccountDelta {
            address: Address::repeat_byte(number),
            account: (slots % 3 > 0).then(Account::default),
            wiped: *wiped,
            storage: (0..*slots)
                .map(|slot| SlotValue { slot: U256::from(slot), value: U256::from(slot + 1) })
                .collect(),
        };
        Delta {
            from: state(),
            to: state(),
            accounts: (0..).zip(accounts).map(of).collect(),
            code: (0..code)
                .map(|number| (B256::repeat_byte(number as u8), Bytes::from(vec![1; 50])))
                .collect(),
            digest: U256::from(7),
        }
    }

    proptest! {
        // Law: the parts of a delta, joined in order, give the delta back, and no part is much larger than
        // requested.
        #[test]
        fn a_delta_that_was_split_is_joined_to_the_same(
            accounts in prop::collection::vec((0_usize..40, any::<bool>()), 0..8),
            code in 0_usize..4,
            weight in 1_usize..4000,
        ) {
            let whole = delta(&accounts, code);
            let parts = whole.split(weight);
            for part in &parts {
                prop_assert!(part.weight() <= weight.max(110 + 66));
            }
            let mut parts = parts.into_iter();
            let mut joined = parts.next().unwrap_or_else(|| delta(&[], 0));
            for part in parts {
                prop_assert!(joined.append(part));
            }
            prop_assert_eq!(joined, whole);
        }
    }

    #[test]
    fn parts_of_different_deltas_are_not_joined() {
        let mut one = delta(&[(1, false)], 0);
        let other = Delta { digest: U256::from(8), ..one.clone() };
        assert!(!one.append(other));
    }
}
