//! Seeded transaction traffic: a genesis, a set-up block, and then block after block of signed
//! transactions that all succeed.
//!
//! The traffic depends only on the options and on the order of calls: the same calls give the same
//! bytes on every machine. It has no pool and does not track what happens to a transaction. The caller
//! must put all transactions of each call into the next block, in their order. If it leaves some out,
//! later ones may be invalid. The traffic contains no failing transactions, no blob transactions and no
//! EIP-7702 delegations.

mod accounts;
mod draw;
mod genesis;
mod market;
mod mix;
mod setup;

use alloy_consensus::{EthereumTxEnvelope, TxEip4844};
use alloy_genesis::Genesis;
use alloy_primitives::{Address, hex, keccak256};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::{
    accounts::{Accounts, Price},
    draw::{DrawnTransaction, Effect},
    market::Market,
    mix::Kind,
};

pub use self::mix::{Mix, MixError};

/// A signed transaction of any type, as a block contains it: without a blob sidecar.
pub type Envelope = EthereumTxEnvelope<TxEip4844>;

/// The lowest and the default gas limit. The set-up must fit into it.
pub const GAS_LIMIT: u64 = 60_000_000;
/// The lowest number of accounts: a transfer needs a second account.
pub const MIN_ACCOUNTS: usize = 2;
/// The highest number of accounts: all keys are derived at the start.
pub const MAX_ACCOUNTS: usize = 1_000_000;

/// The prefix that separates the seed of the draws from all other hashes.
const DRAW_DOMAIN: &[u8] = b"generated traffic: draws";

/// The greatest tip in wei: 2 gwei. The least is 1 wei.
const MAX_TIP: u64 = 2_000_000_000;
/// The tip in the set-up, in wei: 1 gwei.
const SET_UP_TIP: u64 = 1_000_000_000;
/// A block ends after this many drafts in a row whose senders cannot pay for them.
const MAX_UNPAID: u32 = 1000;

/// The settings of the traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficOptions {
    /// The seed of all keys and all draws.
    pub seed: u64,
    /// The weights of the kinds of transactions.
    pub mix: Mix,
    /// The number of funded accounts, from [`MIN_ACCOUNTS`] to [`MAX_ACCOUNTS`].
    pub accounts: usize,
    /// The id of the chain for which the transactions are signed.
    pub chain_id: u64,
    /// The gas limit of every block.
    pub gas_limit: u64,
}

/// Why traffic cannot be generated.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The number of accounts is too low or too high.
    #[error("{got} accounts: there must be from {MIN_ACCOUNTS} to {MAX_ACCOUNTS}")]
    Accounts {
        /// The requested number of accounts.
        got: usize,
    },
    /// No transaction can be drawn from the mix.
    #[error(transparent)]
    Mix(#[from] MixError),
    /// No valid key was found for an account.
    #[error("no valid key for account {index}")]
    NoKey {
        /// Index of the account.
        index: usize,
    },
    /// A heavy transaction does not fit into a block.
    #[error(
        "a heavy transaction has a gas limit of {gas}, a block has {limit}; give it a greater --gas-limit"
    )]
    TooHeavy {
        /// The gas limit of the transaction.
        gas: u64,
        /// The rest of the block's gas limit.
        limit: u64,
    },
    /// The index names no account.
    #[error("there is no account {index}")]
    NoSuchAccount {
        /// Index of the account.
        index: usize,
    },
    /// A transaction could not be signed.
    #[error("cannot sign for {address}: {reason}")]
    Signing {
        /// The account that must sign.
        address: Address,
        /// The signing library's message.
        reason: String,
    },
    /// The compiled code of a contract is not hex.
    #[error("the compiled code of {contract} is not hex")]
    Bytecode {
        /// Name of the contract.
        contract: &'static str,
        /// The position of the error.
        source: hex::FromHexError,
    },
    /// An account cannot pay for its part of the set-up.
    #[error("no account can pay for the set-up at a base fee of {base_fee} wei")]
    TooExpensive {
        /// The base fee that was given, in wei.
        base_fee: u64,
    },
    /// The mix calls contracts, but the set-up that deploys them has not run yet.
    #[error("traffic with contracts before the set-up that deploys them")]
    NotSetUp,
    /// The set-up was requested a second time.
    #[error("the set-up was already generated")]
    AlreadySetUp,
}

/// A source of transactions.
#[derive(Debug, Clone)]
pub struct Traffic {
    mix: Mix,
    chain_id: u64,
    gas_limit: u64,
    accounts: Accounts,
    market: Option<Market>,
    rng: ChaCha8Rng,
    /// The number of rounds of the BLAKE2F call at the start of each block; `None` without such calls.
    heavy: Option<u32>,
    heavy_sent: usize,
}

impl Traffic {
    /// Checks the options and derives all accounts.
    ///
    /// # Errors
    /// An error if the number of accounts is out of bounds, or if every weight of the mix is zero.
    pub fn new(options: TrafficOptions) -> Result<Self, TrafficError> {
        let TrafficOptions { seed, mix, accounts, chain_id, gas_limit } = options;
        if !(MIN_ACCOUNTS..=MAX_ACCOUNTS).contains(&accounts) {
            return Err(TrafficError::Accounts { got: accounts });
        }
        mix.check()?;
        let draws = keccak256([DRAW_DOMAIN, &seed.to_be_bytes()].concat());
        Ok(Self {
            mix,
            chain_id,
            gas_limit,
            accounts: Accounts::derive(seed, accounts, chain_id)?,
            market: None,
            rng: ChaCha8Rng::from_seed(draws.0),
            heavy: None,
            heavy_sent: 0,
        })
    }

    /// Begins each further block with a call of BLAKE2F with this many rounds, of one gas each.
    pub fn begin_heavy(&mut self, rounds: u32) {
        self.heavy = Some(rounds);
    }

    /// The genesis of the chain. Every call returns the same.
    pub fn genesis(&self) -> Genesis {
        genesis::genesis(self.chain_id, self.gas_limit, self.accounts.addresses())
    }

    /// The transactions of block 1: they deploy the contracts and distribute tokens. The sum of their gas
    /// limits is less than 35 million, whatever the number of accounts.
    ///
    /// `base_fee` is the base fee of their block, in wei.
    ///
    /// # Errors
    /// An error if it was called before, if an account cannot pay for its part at this base fee, or if the
    /// embedded contract code is damaged. After an error the traffic cannot continue.
    pub fn set_up(&mut self, base_fee: u64) -> Result<Vec<Envelope>, TrafficError> {
        if self.market.is_some() {
            return Err(TrafficError::AlreadySetUp);
        }
        let (drafts, market) = setup::plan(&self.accounts)?;
        let price = Price::new(base_fee, SET_UP_TIP);
        let mut block = Vec::with_capacity(drafts.len());
        for draft in drafts {
            if !self.accounts.can_pay(&draft, price)? {
                return Err(TrafficError::TooExpensive { base_fee });
            }
            block.push(self.accounts.issue(draft, price)?);
        }
        self.market = Some(market);
        Ok(block)
    }

    /// The transactions of the next block: up to `txs`. There are fewer if the next one would raise the sum
    /// of gas limits above `gas_budget`, or if the base fee is so high that no sender can pay it.
    ///
    /// `base_fee` is the base fee of their block, in wei.
    ///
    /// # Errors
    /// An error if the mix calls contracts and [`Traffic::set_up`] was not called before.
    pub fn next_block(
        &mut self,
        base_fee: u64,
        gas_budget: u64,
        txs: usize,
    ) -> Result<Vec<Envelope>, TrafficError> {
        if self.market.is_none() && self.mix.calls_contracts() {
            return Err(TrafficError::NotSetUp);
        }
        let mut block = Vec::new();
        let mut left = gas_budget;
        let mut unpaid = 0;
        if let Some(rounds) = self.heavy {
            let draft = draw::heavy(self.heavy_sent % self.accounts.len(), rounds);
            let price = Price::new(base_fee, 1);
            if draft.gas_limit > left {
                return Err(TrafficError::TooHeavy { gas: draft.gas_limit, limit: left });
            }
            if !self.accounts.can_pay(&draft, price)? {
                return Err(TrafficError::TooExpensive { base_fee });
            }
            left -= draft.gas_limit;
            self.heavy_sent += 1;
            block.push(self.accounts.issue(draft, price)?);
        }
        while block.len() < txs && unpaid < MAX_UNPAID {
            let price = Price::new(base_fee, self.rng.random_range(1..=MAX_TIP));
            let DrawnTransaction { draft, effect } = self.draw()?;
            if draft.gas_limit > left {
                break;
            }
            if !self.accounts.can_pay(&draft, price)? {
                unpaid += 1;
                continue;
            }
            unpaid = 0;
            left -= draft.gas_limit;
            block.push(self.accounts.issue(draft, price)?);
            self.apply(effect);
        }
        Ok(block)
    }

    /// Draws one transaction. If its kind is not possible at the moment, draws a plain transfer instead.
    fn draw(&mut self) -> Result<DrawnTransaction, TrafficError> {
        let kind = self.mix.draw(&mut self.rng);
        let plan = match (kind, &self.market) {
            (Kind::Erc20, Some(market)) => Some(draw::erc20(&mut self.rng, &self.accounts, market)?),
            (Kind::Amm, Some(market)) => draw::swap(&mut self.rng, &self.accounts, market)?,
            _ => None,
        };
        match plan {
            Some(plan) => Ok(plan),
            None => draw::transfer(&mut self.rng, &self.accounts),
        }
    }

    fn apply(&mut self, effect: Effect) {
        match (effect, &mut self.market) {
            (Effect::Ether { to: Some(to), value }, _) => self.accounts.credit(to, value),
            (Effect::Tokens { side, from, to, amount }, Some(market)) => {
                market.transferred(side, from, to, amount);
            }
            (Effect::Swap { side, holder, amount_in }, Some(market)) => {
                market.swapped(side, holder, amount_in);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use alloy_consensus::{Transaction as _, transaction::SignerRecoverable as _};
    use alloy_eips::eip2718::Encodable2718;

    use super::*;

    const GWEI: u64 = 1_000_000_000;

    fn traffic(seed: u64, mix: Mix, accounts: usize) -> Traffic {
        Traffic::new(TrafficOptions { seed, mix, accounts, chain_id: 1337, gas_limit: GAS_LIMIT }).unwrap()
    }

    #[test]
    fn the_same_options_give_the_same_bytes() {
        let bytes = |seed| {
            let mut traffic = traffic(seed, Mix::default(), 20);
            let mut blocks = traffic.set_up(GWEI).unwrap();
            blocks.extend(traffic.next_block(GWEI, 30_000_000, 50).unwrap());
            blocks.iter().map(Encodable2718::encoded_2718).collect::<Vec<_>>()
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }

    #[test]
    fn nonces_of_every_sender_count_up_from_zero() {
        let mut traffic = traffic(3, Mix::default(), 10);
        let mut sent = traffic.set_up(GWEI).unwrap();
        for _ in 0..3 {
            sent.extend(traffic.next_block(GWEI, 30_000_000, 60).unwrap());
        }
        let mut nonces = HashMap::<Address, u64>::new();
        for transaction in sent {
            let nonce = nonces.entry(transaction.recover_signer().unwrap()).or_default();
            assert_eq!(transaction.nonce(), *nonce);
            *nonce += 1;
        }
        assert_eq!(nonces.len(), 10);
    }

    #[test]
    fn a_block_stays_within_its_gas_and_its_length() {
        let mut traffic = traffic(4, Mix::default(), 10);
        traffic.set_up(GWEI).unwrap();
        let gas = |block: &[Envelope]| block.iter().map(|tx| tx.gas_limit()).sum::<u64>();
        let tight = traffic.next_block(GWEI, 1_000_000, 1000).unwrap();
        assert!((800_000..=1_000_000).contains(&gas(&tight)));
        assert_eq!(traffic.next_block(GWEI, 60_000_000, 7).unwrap().len(), 7);
        assert!(traffic.next_block(GWEI, 20_999, 7).unwrap().is_empty());
        assert!(traffic.next_block(GWEI, 60_000_000, 0).unwrap().is_empty());
    }

    #[test]
    fn all_three_types_are_sent_and_most_are_of_type_two() {
        let mut traffic = traffic(5, Mix::default(), 10);
        traffic.set_up(GWEI).unwrap();
        let block = traffic.next_block(GWEI, 60_000_000, 300).unwrap();
        let count = |kind: u8| block.iter().filter(|tx| tx.tx_type() as u8 == kind).count();
        assert!(count(0) > 5 && count(1) > 5 && count(2) > 200);
        assert_eq!(count(0) + count(1) + count(2), 300);
    }

    #[test]
    fn contracts_are_called_only_after_the_set_up_and_that_is_once() {
        let mut traffic = traffic(6, Mix::default(), 2);
        let early = traffic.next_block(GWEI, 60_000_000, 1);
        assert!(matches!(early, Err(TrafficError::NotSetUp)));
        traffic.set_up(GWEI).unwrap();
        assert!(matches!(traffic.set_up(GWEI), Err(TrafficError::AlreadySetUp)));
        assert_eq!(traffic.next_block(GWEI, 60_000_000, 20).unwrap().len(), 20);
    }

    #[test]
    fn transfers_alone_need_no_set_up() {
        let mut traffic = traffic(7, "transfers=1".parse().unwrap(), 2);
        let block = traffic.next_block(GWEI, 60_000_000, 20).unwrap();
        assert!(block.iter().all(|tx| tx.input().is_empty() && !tx.value().is_zero()));
    }

    #[test]
    fn no_account_sends_what_it_cannot_pay_for() {
        let mut traffic = traffic(8, "transfers=1".parse().unwrap(), 2);
        assert!(traffic.next_block(u64::MAX, 60_000_000, 20).unwrap().len() < 20);
        assert!(matches!(traffic.set_up(u64::MAX), Err(TrafficError::TooExpensive { .. })));
    }

    #[test]
    fn options_out_of_bounds_are_refused() {
        let make = |accounts, mix| {
            Traffic::new(TrafficOptions { seed: 0, mix, accounts, chain_id: 1, gas_limit: GAS_LIMIT })
        };
        assert!(matches!(make(1, Mix::default()), Err(TrafficError::Accounts { got: 1 })));
        assert!(matches!(make(MAX_ACCOUNTS + 1, Mix::default()), Err(TrafficError::Accounts { .. })));
        let nothing = Mix { transfers: 0, erc20: 0, amm: 0 };
        assert!(matches!(make(2, nothing), Err(TrafficError::Mix(MixError::AllZero))));
    }

    #[test]
    fn the_genesis_is_the_same_before_and_after_traffic() {
        let mut traffic = traffic(9, Mix::default(), 5);
        let before = traffic.genesis();
        traffic.set_up(GWEI).unwrap();
        assert_eq!(traffic.genesis(), before);
        assert_eq!(before.alloc.len(), 5 + 4);
    }
}
