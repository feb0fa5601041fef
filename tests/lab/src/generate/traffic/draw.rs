//! Draws one random transaction of each kind.
//!
//! A drawn transaction certainly succeeds if all previous ones were executed in order. This module
//! signs nothing and changes no counts: a plan states the changes, and the caller applies them if it
//! sends the transaction.

use alloy_eips::eip2930::{AccessList, AccessListItem};
use alloy_primitives::{Address, Bytes, TxKind, U256, address};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    TrafficError,
    accounts::{Accounts, Draft, Style},
    market::{Market, Side},
};
use crate::generate::contracts;

/// Gas of a transfer of ether to an account without code.
const TRANSFER_GAS: u64 = 21_000;
/// Gas limit of a token transfer: a bit more than a transfer to a new holder needs.
const ERC20_GAS: u64 = 60_000;
/// Gas limit of a swap: well above the 70 thousand that a swap needs.
const AMM_GAS: u64 = 100_000;

/// The precompile BLAKE2F, and the length of its input in bytes (EIP-152).
const BLAKE2F: Address = address!("0x0000000000000000000000000000000000000009");
const BLAKE2F_INPUT: usize = 213;
/// Gas of a BLAKE2F call without its rounds: a bit more than the call and its data need.
const HEAVY_GAS: u64 = 40_000;

/// The greatest value of a transfer, in wei: a tenth of an ether. The least is 1 wei.
const MAX_VALUE: u64 = 100_000_000_000_000_000;
/// One in this many recipients is a fresh address.
const FRESH_EVERY: u32 = 16;
/// The greatest share of the sender's balance in a token transfer, in millionths.
const MAX_MILLIONTHS: u32 = 1000;

/// A drawn transaction, and its changes if it is sent.
pub(crate) struct DrawnTransaction {
    pub(crate) draft: Draft,
    pub(crate) effect: Effect,
}

/// The change that a transaction makes to the generator's records.
pub(crate) enum Effect {
    Ether { to: Option<usize>, value: U256 },
    Tokens { side: Side, from: usize, to: Option<usize>, amount: U256 },
    Swap { side: Side, holder: usize, amount_in: U256 },
}

/// Draws a transfer of ether from any account to another one or to a fresh address.
pub(crate) fn transfer(rng: &mut ChaCha8Rng, accounts: &Accounts) -> Result<DrawnTransaction, TrafficError> {
    let sender = rng.random_range(0..accounts.len());
    let (to, recipient) = recipient(rng, accounts, sender)?;
    let value = U256::from(rng.random_range(1..=MAX_VALUE));
    let touched = AccessListItem { address: recipient, storage_keys: Vec::new() };
    let draft = draft(rng, sender, recipient, Bytes::new(), TRANSFER_GAS, vec![touched]);
    let draft = Draft { value, ..draft };
    Ok(DrawnTransaction { draft, effect: Effect::Ether { to, value } })
}

/// Draws a transfer of tokens from a holder to any account or to a fresh address.
pub(crate) fn erc20(
    rng: &mut ChaCha8Rng,
    accounts: &Accounts,
    market: &Market,
) -> Result<DrawnTransaction, TrafficError> {
    let side = side(rng);
    let from = rng.random_range(0..market.holders());
    let (to, recipient) = recipient(rng, accounts, from)?;
    let amount = part(rng, market.balance(from, side)?);
    let token = market.token(side);
    let touched = AccessListItem {
        address: token,
        storage_keys: vec![
            contracts::balance_key(accounts.address(from)?),
            contracts::balance_key(recipient),
        ],
    };
    let input = contracts::transfer(recipient, amount);
    let draft = draft(rng, from, token, input, ERC20_GAS, vec![touched]);
    Ok(DrawnTransaction { draft, effect: Effect::Tokens { side, from, to, amount } })
}

/// Draws a swap of a holder, paid out to the holder, with a tolerance of one hundredth. `None` if the
/// holder's part is so small that the swap would pay nothing.
pub(crate) fn swap(
    rng: &mut ChaCha8Rng,
    accounts: &Accounts,
    market: &Market,
) -> Result<Option<DrawnTransaction>, TrafficError> {
    let side = side(rng);
    let holder = rng.random_range(0..market.holders());
    let address = accounts.address(holder)?;
    let amount_in = part(rng, market.balance(holder, side)?);
    let amount_out = market.quote(side, amount_in);
    if amount_out.is_zero() {
        return Ok(None);
    }
    let min_out = amount_out - amount_out / U256::from(100);
    let input = contracts::swap(market.token(side), amount_in, min_out, address);
    let keys = vec![contracts::balance_key(address), contracts::balance_key(market.pair())];
    let touched = [side, side.other()]
        .map(|side| AccessListItem { address: market.token(side), storage_keys: keys.clone() });
    let draft = draft(rng, holder, market.pair(), input, AMM_GAS, touched.into());
    Ok(Some(DrawnTransaction { draft, effect: Effect::Swap { side, holder, amount_in } }))
}

/// A call of BLAKE2F with this many rounds, of one gas each.
pub(crate) fn heavy(sender: usize, rounds: u32) -> Draft {
    let mut input = rounds.to_be_bytes().to_vec();
    // The state, the message and two counters; then the flag of the last block.
    input.resize(BLAKE2F_INPUT - 1, 0x5a);
    input.push(1);
    let gas_limit = HEAVY_GAS + u64::from(rounds);
    let to = TxKind::Call(BLAKE2F);
    Draft { sender, to, value: U256::ZERO, input: input.into(), gas_limit, style: Style::FeeMarket }
}

/// Draws a recipient other than the sender: an account (with its index) or a fresh address.
fn recipient(
    rng: &mut ChaCha8Rng,
    accounts: &Accounts,
    sender: usize,
) -> Result<(Option<usize>, Address), TrafficError> {
    if rng.random_ratio(1, FRESH_EVERY) {
        return Ok((None, Address::from(rng.random::<[u8; 20]>())));
    }
    // One of the other accounts, counted from the sender on.
    let step = rng.random_range(1..accounts.len());
    let index = (sender + step) % accounts.len();
    Ok((Some(index), accounts.address(index)?))
}

fn side(rng: &mut ChaCha8Rng) -> Side {
    if rng.random() { Side::First } else { Side::Second }
}

/// A small part of a balance. It never exceeds the balance, so the balance never runs out.
fn part(rng: &mut ChaCha8Rng, balance: U256) -> U256 {
    let millionths = U256::from(rng.random_range(1..=MAX_MILLIONTHS));
    balance / U256::from(1_000_000) * millionths
}

/// A draft of a random type: usually EIP-1559, one in ten legacy, one in ten EIP-2930. The latter has
/// `touched` as its access list and more gas to pay for it.
fn draft(
    rng: &mut ChaCha8Rng,
    sender: usize,
    to: Address,
    input: Bytes,
    gas_limit: u64,
    touched: Vec<AccessListItem>,
) -> Draft {
    let (style, extra) = match rng.random_range(0..10) {
        0 => (Style::Legacy, 0),
        1 => {
            let extra = touched.iter().map(|item| 2400 + 1900 * item.storage_keys.len() as u64).sum();
            (Style::AccessList(AccessList(touched)), extra)
        }
        _ => (Style::FeeMarket, 0),
    };
    let gas_limit = gas_limit + extra;
    Draft { sender, to: TxKind::Call(to), value: U256::ZERO, input, gas_limit, style }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::SeedableRng;

    use super::*;
    use crate::generate::traffic::{market::Both, setup};

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(1)
    }

    #[test]
    fn no_account_sends_to_itself() {
        let accounts = Accounts::derive(1, 3, 1).unwrap();
        let mut rng = rng();
        for _ in 0..200 {
            let DrawnTransaction { draft, .. } = transfer(&mut rng, &accounts).unwrap();
            assert_ne!(draft.to, TxKind::Call(accounts.address(draft.sender).unwrap()));
            assert!(!draft.value.is_zero());
        }
    }

    #[test]
    fn some_recipients_are_fresh_and_most_are_not() {
        let accounts = Accounts::derive(1, 3, 1).unwrap();
        let mut rng = rng();
        let fresh = (0..1600).filter(|_| recipient(&mut rng, &accounts, 0).unwrap().0.is_none());
        assert!((60..140).contains(&fresh.count()));
    }

    #[test]
    fn a_part_is_small_and_never_more_than_there_is() {
        let mut rng = rng();
        for balance in [0, 1, 999_999, 1_000_000, u64::MAX] {
            let balance = U256::from(balance);
            assert!(part(&mut rng, balance) * U256::from(1000) <= balance);
        }
    }

    #[test]
    fn both_directions_are_swapped() {
        let accounts = Accounts::derive(1, 3, 1).unwrap();
        let (_, market) = setup::plan(&accounts).unwrap();
        let mut rng = rng();
        let mut seen = Both { first: 0, second: 0 };
        for _ in 0..100 {
            match swap(&mut rng, &accounts, &market).unwrap().unwrap().effect {
                Effect::Swap { side: Side::First, .. } => seen.first += 1,
                Effect::Swap { side: Side::Second, .. } => seen.second += 1,
                _ => unreachable!(),
            }
        }
        assert!(seen.first > 30 && seen.second > 30, "{seen:?}");
    }

    #[test]
    fn a_swap_for_nothing_is_not_drawn() {
        let accounts = Accounts::derive(1, 2, 1).unwrap();
        let none = Both { first: U256::ZERO, second: U256::ZERO };
        let tokens = Both { first: Address::ZERO, second: Address::ZERO };
        let market = Market::new(tokens, Address::ZERO, none, 2, none);
        assert!(swap(&mut rng(), &accounts, &market).unwrap().is_none());
    }
}
