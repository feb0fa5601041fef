//! The funded accounts: their keys, their nonces, their remaining funds, and signing.
//!
//! The keys depend only on the seed, so everyone who knows the seed owns the accounts. They are for
//! generated chains and must never hold anything of value.

use std::num::NonZero;
use std::thread;

use alloy_consensus::{
    EthereumTypedTransaction, SignableTransaction, TxEip1559, TxEip2930, TxEip4844, TxLegacy,
    crypto::secp256k1, transaction::RlpEcdsaEncodableTx,
};
use alloy_eips::eip2930::AccessList;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};

use super::{Envelope, TrafficError};

/// The prefix that separates the hashes of keys from all other hashes.
const KEY_DOMAIN: &[u8] = b"generated traffic: account key";

/// The smallest number of keys that is worth a thread.
const MIN_SHARE: usize = 1000;

/// The balance of each account at genesis, in wei: a million ether.
pub(crate) const INITIAL_BALANCE: U256 = U256::from_limbs([0x1bce_cced_a100_0000, 0xd3c2, 0, 0]);

/// A transaction before it has a nonce, a price and a signature.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// The index of the account that sends it.
    pub(crate) sender: usize,
    pub(crate) to: TxKind,
    pub(crate) value: U256,
    pub(crate) input: Bytes,
    pub(crate) gas_limit: u64,
    pub(crate) style: Style,
}

/// The type of transaction that a draft becomes.
#[derive(Debug, Clone)]
pub(crate) enum Style {
    /// Untyped, with the chain id in the signature (EIP-155).
    Legacy,
    /// Type 1, with an access list (EIP-2930).
    AccessList(AccessList),
    /// Type 2, with a maximum fee and a tip (EIP-1559).
    FeeMarket,
}

/// The price that a transaction offers per unit of gas.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Price {
    tip: u128,
    max_fee: u128,
}

impl Price {
    /// The tip plus twice the base fee. The transaction stays valid even if the base fee rises for a few
    /// blocks before it is included.
    pub(crate) fn new(base_fee: u64, tip: u64) -> Self {
        let tip = u128::from(tip);
        Self { tip, max_fee: 2 * u128::from(base_fee) + tip }
    }
}

/// One funded account, with its key and the nonce of its next transaction.
#[derive(Debug, Clone)]
struct Account {
    secret: B256,
    address: Address,
    nonce: u64,
    /// A lower bound of the balance in wei: each transaction counts with its highest possible cost.
    funds: U256,
}

/// All funded accounts, by index.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    chain_id: u64,
    accounts: Vec<Account>,
}

impl Accounts {
    /// Derives `count` accounts from the seed, on all processors. One key takes about 0.1 ms.
    pub(crate) fn derive(seed: u64, count: usize, chain_id: u64) -> Result<Self, TrafficError> {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = count.div_ceil(threads).max(MIN_SHARE);
        let derive = |from: usize| -> Result<Vec<Account>, TrafficError> {
            (from..count.min(from + share)).map(|index| Account::derive(seed, index)).collect()
        };
        let mut accounts = Vec::with_capacity(count);
        thread::scope(|scope| {
            let derive = &derive;
            let shares: Vec<_> =
                (share..count).step_by(share).map(|from| scope.spawn(move || derive(from))).collect();
            accounts.extend(derive(0)?);
            for share in shares {
                let derived = share.join().map_err(|_| TrafficError::NoKey { index: accounts.len() })?;
                accounts.extend(derived?);
            }
            Ok(Self { chain_id, accounts: std::mem::take(&mut accounts) })
        })
    }

    /// The number of accounts.
    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Every address, in order of index.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.accounts.iter().map(|account| account.address)
    }

    /// The address of one account.
    pub(crate) fn address(&self, index: usize) -> Result<Address, TrafficError> {
        Ok(self.account(index)?.address)
    }

    /// The nonce of the next transaction of one account.
    pub(crate) fn nonce(&self, index: usize) -> Result<u64, TrafficError> {
        Ok(self.account(index)?.nonce)
    }

    /// Whether the sender certainly has the highest possible cost of the draft.
    pub(crate) fn can_pay(&self, draft: &Draft, price: Price) -> Result<bool, TrafficError> {
        Ok(self.account(draft.sender)?.funds >= cost(draft, price))
    }

    /// Records that an account receives ether.
    pub(crate) fn credit(&mut self, index: usize, value: U256) {
        if let Some(account) = self.accounts.get_mut(index) {
            account.funds = account.funds.saturating_add(value);
        }
    }

    /// Signs the draft as the next transaction of its sender.
    pub(crate) fn issue(&mut self, draft: Draft, price: Price) -> Result<Envelope, TrafficError> {
        let chain_id = self.chain_id;
        let index = draft.sender;
        let account = self.accounts.get_mut(index).ok_or(TrafficError::NoSuchAccount { index })?;
        let cost = cost(&draft, price);
        let envelope = account.sign(draft, price, chain_id)?;
        account.nonce += 1;
        account.funds = account.funds.saturating_sub(cost);
        Ok(envelope)
    }

    fn account(&self, index: usize) -> Result<&Account, TrafficError> {
        self.accounts.get(index).ok_or(TrafficError::NoSuchAccount { index })
    }
}

impl Account {
    /// Derives a key: the first hash of seed, index and attempt that is a valid key. Of all 256-bit numbers
    /// about one in 2^128 is invalid, so a second attempt is hardly ever needed.
    fn derive(seed: u64, index: usize) -> Result<Self, TrafficError> {
        (0..=u8::MAX)
            .map(|attempt| {
                let index = (index as u64).to_be_bytes();
                keccak256([KEY_DOMAIN, &seed.to_be_bytes(), &index, &[attempt]].concat())
            })
            .find_map(|secret| Some((secret, address_of(secret)?)))
            .map(|(secret, address)| Self { secret, address, nonce: 0, funds: INITIAL_BALANCE })
            .ok_or(TrafficError::NoKey { index })
    }

    fn sign(&self, draft: Draft, price: Price, chain_id: u64) -> Result<Envelope, TrafficError> {
        let nonce = self.nonce;
        let Draft { to, value, input, gas_limit, style, .. } = draft;
        let gas_price = price.max_fee;
        match style {
            Style::Legacy => {
                let chain_id = Some(chain_id);
                self.seal(TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input })
            }
            Style::AccessList(access_list) => {
                self.seal(TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, access_list, input })
            }
            Style::FeeMarket => self.seal(TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: price.max_fee,
                max_priority_fee_per_gas: price.tip,
                to,
                value,
                access_list: AccessList::default(),
                input,
            }),
        }
    }

    /// Signs a transaction. The signature depends only on key and content (RFC 6979), and has a low `s`.
    fn seal<T>(&self, transaction: T) -> Result<Envelope, TrafficError>
    where
        T: SignableTransaction<Signature> + RlpEcdsaEncodableTx,
        EthereumTypedTransaction<TxEip4844>: From<T>,
    {
        let signature = secp256k1::sign_message(self.secret, transaction.signature_hash())
            .map_err(|error| TrafficError::Signing { address: self.address, reason: error.to_string() })?;
        Ok(transaction.into_signed(signature).into())
    }
}

/// The address of a key; `None` if the key is zero or too great.
fn address_of(secret: B256) -> Option<Address> {
    let key = secret.as_slice().try_into().ok()?;
    Some(Address::from_private_key(&key))
}

/// The highest possible cost of the draft for its sender, in wei.
fn cost(draft: &Draft, price: Price) -> U256 {
    U256::from(draft.gas_limit).saturating_mul(U256::from(price.max_fee)).saturating_add(draft.value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use alloy_consensus::{Transaction as _, crypto::SECP256K1N_HALF, transaction::SignerRecoverable as _};
    use alloy_primitives::{address, b256};

    use super::*;

    fn draft(style: Style) -> Draft {
        Draft {
            sender: 0,
            to: TxKind::Call(Address::repeat_byte(1)),
            value: U256::from(5),
            input: Bytes::new(),
            gas_limit: 21_000,
            style,
        }
    }

    #[test]
    fn the_initial_balance_is_a_million_ether() {
        assert_eq!(INITIAL_BALANCE, U256::from(10).pow(U256::from(24)));
    }

    #[test]
    fn an_address_is_that_of_the_well_known_key() {
        // The first account of the widespread mnemonic "test test … junk".
        let secret = b256!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        let address = address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        assert_eq!(address_of(secret), Some(address));
    }

    #[test]
    fn zero_and_the_order_are_not_keys() {
        let order = b256!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
        assert_eq!(address_of(B256::ZERO), None);
        assert_eq!(address_of(order), None);
    }

    #[test]
    fn accounts_depend_on_seed_and_index_alone() {
        let some: Vec<_> = Accounts::derive(7, 3, 1).unwrap().addresses().collect();
        let more: Vec<_> = Accounts::derive(7, 5, 2).unwrap().addresses().collect();
        let other: Vec<_> = Accounts::derive(8, 3, 1).unwrap().addresses().collect();
        assert_eq!(some[..], more[..3]);
        assert!(some.iter().all(|address| !other.contains(address)));
    }

    #[test]
    fn accounts_are_the_same_on_one_thread_and_on_many() {
        let count = MIN_SHARE * 2 + 1;
        let accounts = Accounts::derive(3, count, 1).unwrap();
        assert_eq!(accounts.len(), count);
        for index in [0, MIN_SHARE - 1, MIN_SHARE, count - 1] {
            assert_eq!(accounts.address(index).unwrap(), Account::derive(3, index).unwrap().address);
        }
    }

    #[test]
    fn every_style_recovers_to_the_sender_with_a_low_s() {
        let mut accounts = Accounts::derive(1, 1, 1337).unwrap();
        let address = accounts.address(0).unwrap();
        let styles = [Style::Legacy, Style::AccessList(AccessList::default()), Style::FeeMarket];
        for (nonce, style) in styles.into_iter().enumerate() {
            let envelope = accounts.issue(draft(style), Price::new(10, 3)).unwrap();
            assert_eq!(envelope.recover_signer().unwrap(), address);
            assert_eq!(envelope.chain_id(), Some(1337));
            assert_eq!(envelope.nonce(), nonce as u64);
            assert_eq!(envelope.max_fee_per_gas(), 23);
            assert!(envelope.signature().s() <= SECP256K1N_HALF);
        }
    }

    #[test]
    fn funds_fall_by_the_most_a_transaction_can_cost() {
        let mut accounts = Accounts::derive(1, 1, 1).unwrap();
        let mut draft = draft(Style::FeeMarket);
        draft.value = INITIAL_BALANCE - U256::from(21_000);
        assert!(accounts.can_pay(&draft, Price::new(0, 1)).unwrap());
        assert!(!accounts.can_pay(&draft, Price::new(1, 0)).unwrap());
        accounts.issue(draft.clone(), Price::new(0, 1)).unwrap();
        assert!(!accounts.can_pay(&draft, Price::new(0, 1)).unwrap());
        accounts.credit(0, INITIAL_BALANCE);
        assert!(accounts.can_pay(&draft, Price::new(0, 1)).unwrap());
    }
}
