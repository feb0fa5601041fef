//! The content digest of a state: the sum, modulo 2²⁵⁶, of a hash of every `key‖value`. The order does
//! not matter, so each change can update the digest.
//!
//! Two holders with equal digests hold the same state, so the digest catches bugs and damage. A shard
//! computes its own digest, so it proves nothing about a dishonest shard. It is not Ethereum's state
//! root.

use alloy_primitives::{Address, U256};

use crate::account::Account;

/// A content digest under construction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContentDigest(U256);

impl ContentDigest {
    /// Continues from a known digest.
    #[must_use]
    pub fn from_word(word: U256) -> Self {
        Self(word)
    }

    /// The digest as a 256-bit word, the form that travels.
    #[must_use]
    pub fn word(self) -> U256 {
        self.0
    }

    /// Records that the account at `address` changes from `before` to `after`.
    pub fn account(&mut self, address: Address, before: Option<&Account>, after: Option<&Account>) {
        if before == after {
            return;
        }
        if let Some(account) = before {
            self.0 = self.0.wrapping_sub(account_term(address, account));
        }
        if let Some(account) = after {
            self.0 = self.0.wrapping_add(account_term(address, account));
        }
    }

    /// Records that a slot of `address` changes from `before` to `after`. Zero means absent.
    pub fn slot(&mut self, address: Address, slot: U256, before: U256, after: U256) {
        if before == after {
            return;
        }
        if !before.is_zero() {
            self.0 = self.0.wrapping_sub(slot_term(address, slot, before));
        }
        if !after.is_zero() {
            self.0 = self.0.wrapping_add(slot_term(address, slot, after));
        }
    }
}

fn account_term(address: Address, account: &Account) -> U256 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&[1])
        .update(address.as_slice())
        .update(&account.balance.to_be_bytes::<32>())
        .update(&account.nonce.to_be_bytes())
        .update(account.code_hash.as_slice());
    U256::from_be_bytes(*hasher.finalize().as_bytes())
}

fn slot_term(address: Address, slot: U256, value: U256) -> U256 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&[2])
        .update(address.as_slice())
        .update(&slot.to_be_bytes::<32>())
        .update(&value.to_be_bytes::<32>());
    U256::from_be_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Law: the digest depends on the content, not on the order or the history of changes.
        #[test]
        fn the_order_of_changes_does_not_matter(values in proptest::collection::vec((0u64..50, 1u64..9), 1..40)) {
            let address = Address::repeat_byte(9);
            let mut held = std::collections::BTreeMap::new();
            let mut walked = ContentDigest::default();
            for (slot, value) in &values {
                let before = held.insert(*slot, *value).unwrap_or(0);
                walked.slot(address, U256::from(*slot), U256::from(before), U256::from(*value));
            }
            let mut direct = ContentDigest::default();
            for (slot, value) in held.iter().rev() {
                direct.slot(address, U256::from(*slot), U256::ZERO, U256::from(*value));
            }
            prop_assert_eq!(walked, direct);
        }
    }

    #[test]
    fn an_empty_account_is_not_an_absent_one() {
        let mut digest = ContentDigest::default();
        digest.account(Address::ZERO, None, Some(&Account::default()));
        assert_ne!(digest, ContentDigest::default());
        digest.account(Address::ZERO, Some(&Account::default()), None);
        assert_eq!(digest, ContentDigest::default());
    }
}
