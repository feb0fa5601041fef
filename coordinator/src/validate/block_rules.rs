//! What happens in a block before and after its transactions: system calls, the DAO fork's
//! irregular change, requests, rewards and withdrawals. The rules are alloy-evm's; this module
//! applies them to the overlay.

use alloy_consensus::ReceiptEnvelope;
use alloy_eips::eip7685::Requests;
use alloy_evm::block::calc::{base_block_reward, block_reward};
use alloy_evm::block::state_changes::post_block_balance_increments;
use alloy_evm::block::{BlockExecutionError, InternalBlockExecutionError, SystemCaller};
use alloy_evm::eth::dao_fork::{DAO_HARDFORK_ACCOUNTS, DAO_HARDFORK_BENEFICIARY};
use alloy_evm::eth::{EthEvmBuilder, eip6110};
use alloy_evm::{Evm, EvmEnv};
use alloy_hardforks::{EthereumHardfork, EthereumHardforks};
use alloy_primitives::{Address, U256};
use common::account::Account;
use common::block::{Block, Ommers};
use common::chain_spec::ChainSpec;
use executor_shard::engine::{BlockDb, CommitRules, Layered, Overlay, StateError, StateView};

use super::{Rejection, ValidateError};

/// What precedes the transactions: the DAO fork's drain (EIP-779), the parent's hash (EIP-2935)
/// and the beacon root (EIP-4788).
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
    let mut evm = EthEvmBuilder::new(BlockDb::new(layers, env.cfg_env.spec), env).build();
    let mut caller = SystemCaller::new(active);
    // At the genesis block there is no parent to tell of, and both calls see to that themselves.
    caller.apply_blockhashes_contract_call(header.parent_hash, &mut evm).map_err(system_call)?;
    caller.apply_beacon_root_contract_call(header.parent_beacon_block_root, &mut evm).map_err(system_call)?;
    Ok(evm.into_db().into_view().overlay)
}

/// EIP-779: the accounts' balances go to the refund contract, and the accounts stay.
fn drain_the_dao<V: StateView>(layers: &mut Layered<&V>) -> Result<(), StateError> {
    let mut drained = U256::ZERO;
    for address in DAO_HARDFORK_ACCOUNTS {
        let account = layers.account(&address)?.unwrap_or_default();
        drained += account.balance;
        layers.overlay.set_account(address, Account { balance: U256::ZERO, ..account });
    }
    layers.overlay.credit(&layers.base, DAO_HARDFORK_BENEFICIARY, drained, false)
}

/// What follows the transactions: execution requests from Prague on, then rewards of
/// proof-of-work and withdrawals.
pub(super) fn after_transactions<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    env: EvmEnv,
    layers: Layered<V>,
    receipts: &[ReceiptEnvelope],
) -> Result<(Layered<V>, Option<Requests>), ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    let rules = CommitRules::of(&env);
    let increments = balance_increments(block, spec, &env);
    let (mut layers, requests) = if active.is_prague_active_at_timestamp(header.timestamp) {
        let mut requests = Requests::default();
        let deposits = eip6110::parse_deposits_from_receipts(active, receipts)
            .map_err(|error| Rejection::Block { field: "receipts", reason: error.to_string() })?;
        if !deposits.is_empty() {
            requests.push_request_with_type(eip6110::DEPOSIT_REQUEST_TYPE, deposits);
        }
        let mut evm = EthEvmBuilder::new(BlockDb::new(layers, env.cfg_env.spec), env).build();
        SystemCaller::new(active)
            .append_post_execution_changes(&mut evm, &mut requests)
            .map_err(system_call)?;
        (evm.into_db().into_view(), Some(requests))
    } else {
        (layers, None)
    };
    for (address, amount) in increments {
        layers.overlay.credit(&layers.base, address, U256::from(amount), rules.state_clear)?;
    }
    Ok((layers, requests))
}

/// Of ommers that are known only by their hashes: whom they belong to is unknown, what the block's
/// own miner gets for including them is not.
pub(crate) fn unknown_ommers_reward(block: &Block, spec: &ChainSpec) -> Option<(Address, u128)> {
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

/// A failing system call makes the block invalid; a broken state does not.
fn system_call(error: BlockExecutionError) -> ValidateError {
    match error {
        BlockExecutionError::Validation(error) => {
            Rejection::Block { field: "system call", reason: error.to_string() }.into()
        }
        BlockExecutionError::Internal(InternalBlockExecutionError::EVM { error, .. }) => {
            StateError::Evm(error.to_string()).into()
        }
        BlockExecutionError::Internal(error) => StateError::Evm(error.to_string()).into(),
    }
}
