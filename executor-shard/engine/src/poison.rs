//! A view that is deliberately wrong in places: a strong and cheap test of validation, which must notice every
//! wrong value. A selected key can still have the right value: half of a zero balance is zero.

use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use common::account::Account;

use super::code::Code;
use super::view::{StateError, StateView};

/// One in this many keys is selected.
const ONE_IN: u8 = 6;

/// A view that returns wrong values for some accounts, slots and hashes, chosen by a seed. The same
/// seed gives the same wrong values.
#[derive(Debug)]
pub struct Poisoned<V> {
    inner: V,
    seed: u64,
}

impl<V> Poisoned<V> {
    /// Wraps a view. `seed` selects about one key in six, for which the answer may be wrong. Code is never wrong.
    pub fn new(inner: V, seed: u64) -> Self {
        Self { inner, seed }
    }

    /// A byte that selects the wrong value; `None` if this key is answered correctly.
    fn lie(&self, kind: u8, parts: &[&[u8]]) -> Option<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_be_bytes()).update(&[kind]);
        for part in parts {
            hasher.update(part);
        }
        let hash = hasher.finalize();
        let [first, second, ..] = *hash.as_bytes();
        (first % ONE_IN == 0).then_some(second)
    }
}

impl<V: StateView> StateView for Poisoned<V> {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        let truth = self.inner.account(address)?;
        let Some(choice) = self.lie(1, &[address.as_slice()]) else { return Ok(truth) };
        let Some(mut account) = truth else {
            return Ok(Some(Account { balance: U256::from(choice), ..Default::default() }));
        };
        match choice % 5 {
            0 => return Ok(None),
            1 => account.balance = account.balance.wrapping_add(U256::from(1)),
            2 => account.balance /= U256::from(2),
            3 => account.nonce ^= 1,
            _ => account.code_hash = KECCAK256_EMPTY,
        }
        Ok(Some(account))
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        let truth = self.inner.slot(address, slot)?;
        let key = slot.to_be_bytes::<32>();
        Ok(match self.lie(2, &[address.as_slice(), &key]) {
            None => truth,
            Some(choice) if choice % 2 == 0 => truth.wrapping_add(U256::from(choice / 2 + 1)),
            Some(_) if truth.is_zero() => U256::from(1),
            Some(_) => U256::ZERO,
        })
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        self.inner.code(hash)
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        let truth = self.inner.block_hash(number)?;
        Ok(match self.lie(3, &[&number.to_be_bytes()]) {
            None => truth,
            Some(choice) => truth ^ B256::with_last_byte(choice | 1),
        })
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        let truth = self.inner.any_slot(address, counts)?;
        Ok(truth ^ self.lie(4, &[address.as_slice()]).is_some())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::state::MemoryState;
    use super::*;

    #[test]
    fn lies_are_some_and_always_the_same() {
        let state = MemoryState::default();
        let view = Poisoned::new(&state, 1);
        let answers = || (0..200u64).map(|n| view.block_hash(n).unwrap()).collect::<Vec<_>>();
        let lies = answers().iter().filter(|hash| **hash != B256::ZERO).count();
        assert!((10..80).contains(&lies), "{lies} lies in 200");
        assert_eq!(answers(), answers());
    }
}
