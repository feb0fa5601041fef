//! The parts of a block before and after its transactions: system calls, the DAO fork's irregular
//! change, requests, rewards and withdrawals. alloy-evm computes the rewards and withdrawals; this
//! module applies them to the overlay.

use alloy_eips::eip6110::DEPOSIT_REQUEST_TYPE;
use alloy_eips::eip7685::Requests;
use alloy_evm::EvmEnv;
use alloy_evm::block::calc::{base_block_reward, block_reward};
use alloy_evm::block::state_changes::post_block_balance_increments;
use alloy_evm::eth::dao_fork::{DAO_HARDFORK_ACCOUNTS, DAO_HARDFORK_BENEFICIARY};
use alloy_hardforks::{EthereumHardfork, EthereumHardforks};
use alloy_primitives::{Address, U256};
use common::account::Account;
use common::block::{Block, Ommers};
use common::chain_spec::ChainSpec;
use common::receipt::Receipts;
use engine::{CommitRules, Layered, Overlay, StateView};

use super::deposit::deposits;
use super::system_call::SystemCalls;
use super::{Rejection, ValidateError};

/// Applies the changes before the transactions: the DAO fork's drain (EIP-779), the beacon root
/// (EIP-4788) and the parent's hash (EIP-2935), in this order.
pub(super) fn before_transactions<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    env: EvmEnv,
    base: &V,
) -> Result<Overlay, ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    let mut layers = Layered { overlay: Overlay::default(), base };
    if active.ethereum_fork_activation(EthereumHardfork::Dao).transitions_at_block(header.number) {
        drain_the_dao(&mut layers)?;
    }
    let mut calls = SystemCalls::new(env, layers);
    if active.is_cancun_active_at_timestamp(header.timestamp) {
        let root = header.parent_beacon_block_root.ok_or_else(|| {
            let reason = "is absent, but the block's fork demands it".into();
            Rejection::Block { field: "parentBeaconBlockRoot", reason }
        })?;
        calls.beacon_root(root)?;
    }
    if active.is_prague_active_at_timestamp(header.timestamp) {
        calls.parent_hash(header.parent_hash)?;
    }
    Ok(calls.into_layers().overlay)
}

/// EIP-779: moves the accounts' balances to the refund contract. The accounts stay.
fn drain_the_dao<V: StateView>(layers: &mut Layered<&V>) -> Result<(), ValidateError> {
    let overflows = || credit_overflows(DAO_HARDFORK_BENEFICIARY);
    let mut drained = U256::ZERO;
    for address in DAO_HARDFORK_ACCOUNTS {
        let account = layers.account(&address)?.unwrap_or_default();
        drained = drained.checked_add(account.balance).ok_or_else(overflows)?;
        layers.overlay.set_account(address, Account { balance: U256::ZERO, ..account });
    }
    let fits = layers.overlay.credit(&layers.base, DAO_HARDFORK_BENEFICIARY, drained, false)?;
    if fits { Ok(()) } else { Err(overflows().into()) }
}

/// Applies the changes after the transactions: execution requests from Prague on, then proof-of-work
/// rewards and withdrawals.
pub(super) fn after_transactions<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    env: EvmEnv,
    layers: Layered<V>,
    receipts: &Receipts,
) -> Result<(Layered<V>, Option<Requests>), ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    let rules = CommitRules::of(&env);
    let increments = balance_increments(block, spec, &env);
    let (mut layers, requests) = if active.is_prague_active_at_timestamp(header.timestamp) {
        let mut requests = Requests::default();
        let deposits = deposits(active, receipts)?;
        if !deposits.is_empty() {
            requests.push_request_with_type(DEPOSIT_REQUEST_TYPE, deposits);
        }
        let mut calls = SystemCalls::new(env, layers);
        calls.requests(&mut requests)?;
        (calls.into_layers(), Some(requests))
    } else {
        (layers, None)
    };
    for (address, amount) in increments {
        if !layers.overlay.credit(&layers.base, address, U256::from(amount), rules.state_clear)? {
            return Err(credit_overflows(address).into());
        }
    }
    Ok((layers, requests))
}

/// No account can hold 2²⁵⁶ wei. The specification does not define this case, and clients differ.
pub fn credit_overflows(address: Address) -> Rejection {
    let reason = format!("{address} would hold 2^256 wei or more, which no state can hold");
    Rejection::Block { field: "balance", reason }
}

/// The reward if only the ommers' hashes are known. Their beneficiaries are unknown, but the block's
/// own miner still gets the reward for including them.
pub fn unknown_ommers_reward(block: &Block, spec: &ChainSpec) -> Option<(Address, u128)> {
    let Ommers::Hashes(hashes) = &block.ommers else { return None };
    let base = base_block_reward(spec.at(&block.header), block.header.number)?;
    let extra = block_reward(base, hashes.len()) - block_reward(base, 0);
    Some((block.header.beneficiary, extra))
}

fn balance_increments(block: &Block, spec: &ChainSpec, env: &EvmEnv) -> Vec<(Address, u128)> {
    let header = &block.header;
    let active = spec.at(header);
    let mut increments: Vec<(Address, u128)> = post_block_balance_increments(
        active,
        &env.block_env,
        block.ommers.headers(),
        block.withdrawals.as_deref(),
    )
    .into_iter()
    .collect();
    increments.extend(unknown_ommers_reward(block, spec));
    increments
}
