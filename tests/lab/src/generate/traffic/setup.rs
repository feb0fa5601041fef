//! Block 1: the transactions that must precede any traffic with contracts.
//!
//! Account 0 deploys the tokens and the pair, gives tokens to the holders and adds the liquidity. Every
//! holder allows the pair to take its tokens. This module plans the transactions; the traffic signs
//! them like all others.

use alloy_primitives::{Address, Bytes, TxKind, U256};

use super::{
    TrafficError,
    accounts::{Accounts, Draft, Style},
    market::{Both, Market},
};
use crate::generate::contracts;

/// The maximum number of accounts that get tokens, so that the set-up fits in one block: with this
/// number the sum of its gas limits is less than 35 million.
const MAX_HOLDERS: usize = 128;

/// The account that deploys the contracts.
const DEPLOYER: usize = 0;

/// One token, in its smallest unit.
const UNIT: u64 = 1_000_000_000_000_000_000;
/// The whole tokens of each holder at the start.
const STAKE: Both<u64> = Both { first: 1_000_000, second: 2_000_000 };
/// The whole tokens in the pair at the start.
const LIQUIDITY: Both<u64> = Both { first: 100_000_000, second: 200_000_000 };

const DEPLOY_TOKEN_GAS: u64 = 1_000_000;
const DEPLOY_PAIR_GAS: u64 = 1_500_000;
const ADD_LIQUIDITY_GAS: u64 = 400_000;
const APPROVE_GAS: u64 = 55_000;
const HAND_OUT_GAS: u64 = 60_000;

/// The transactions of the set-up, in order, and the market after them.
pub(crate) fn plan(accounts: &Accounts) -> Result<(Vec<Draft>, Market), TrafficError> {
    let deployer = accounts.address(DEPLOYER)?;
    let nonce = accounts.nonce(DEPLOYER)?;
    let tokens = Both { first: deployer.create(nonce), second: deployer.create(nonce + 1) };
    let pair = deployer.create(nonce + 2);
    let holders = accounts.len().min(MAX_HOLDERS);
    let stake = Both { first: whole(STAKE.first), second: whole(STAKE.second) };
    let liquidity = Both { first: whole(LIQUIDITY.first), second: whole(LIQUIDITY.second) };

    let mut drafts = deployments(tokens, stake, liquidity, holders)?;
    for (token, amount) in [(tokens.first, stake.first), (tokens.second, stake.second)] {
        for holder in accounts.addresses().take(holders).filter(|holder| *holder != deployer) {
            let input = contracts::transfer(holder, amount);
            drafts.push(call(DEPLOYER, token, input, HAND_OUT_GAS));
        }
    }
    for holder in 0..holders {
        for token in [tokens.first, tokens.second] {
            let input = contracts::approve(pair, U256::MAX);
            drafts.push(call(holder, token, input, APPROVE_GAS));
        }
    }
    let input = contracts::add_liquidity(liquidity.first, liquidity.second, U256::from(1));
    drafts.push(call(DEPLOYER, pair, input, ADD_LIQUIDITY_GAS));

    Ok((drafts, Market::new(tokens, pair, liquidity, holders, stake)))
}

/// Deploys the pair and the tokens. Each token's supply is exactly the distributed amount.
fn deployments(
    tokens: Both<Address>,
    stake: Both<U256>,
    liquidity: Both<U256>,
    holders: usize,
) -> Result<Vec<Draft>, TrafficError> {
    let token = |name, symbol, stake: U256, liquidity: U256| {
        let supply = stake.saturating_mul(U256::from(holders)).saturating_add(liquidity);
        contracts::token_creation(name, symbol, supply)
            .map_err(|source| TrafficError::Bytecode { contract: "Token", source })
    };
    let first = token("First generated token", "ONE", stake.first, liquidity.first)?;
    let second = token("Second generated token", "TWO", stake.second, liquidity.second)?;
    let pair = contracts::pair_creation(tokens.first, tokens.second)
        .map_err(|source| TrafficError::Bytecode { contract: "Pair", source })?;
    Ok(vec![deploy(first, DEPLOY_TOKEN_GAS), deploy(second, DEPLOY_TOKEN_GAS), deploy(pair, DEPLOY_PAIR_GAS)])
}

fn whole(tokens: u64) -> U256 {
    U256::from(tokens).saturating_mul(U256::from(UNIT))
}

fn deploy(input: Bytes, gas_limit: u64) -> Draft {
    draft(DEPLOYER, TxKind::Create, input, gas_limit)
}

fn call(sender: usize, contract: Address, input: Bytes, gas_limit: u64) -> Draft {
    draft(sender, TxKind::Call(contract), input, gas_limit)
}

fn draft(sender: usize, to: TxKind, input: Bytes, gas_limit: u64) -> Draft {
    Draft { sender, to, value: U256::ZERO, input, gas_limit, style: Style::FeeMarket }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_largest_set_up_fits_in_a_block_with_room_to_spare() {
        let accounts = Accounts::derive(1, 2 * MAX_HOLDERS, 1).unwrap();
        let (drafts, market) = plan(&accounts).unwrap();
        assert_eq!(market.holders(), MAX_HOLDERS);
        assert_eq!(drafts.len(), 4 + 2 * (MAX_HOLDERS - 1) + 2 * MAX_HOLDERS);
        assert!(drafts.iter().map(|draft| draft.gas_limit).sum::<u64>() < 35_000_000);
    }

    #[test]
    fn with_few_accounts_all_of_them_are_holders() {
        let accounts = Accounts::derive(1, 2, 1).unwrap();
        let (drafts, market) = plan(&accounts).unwrap();
        assert_eq!(market.holders(), 2);
        assert_eq!(drafts.len(), 4 + 2 + 4);
    }
}
