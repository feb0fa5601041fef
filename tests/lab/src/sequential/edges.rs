//! The baseline's steps before and after a block's transactions, on revm's `State`.
//!
//! alloy-evm's block executor has these steps too, but differs from the specification. It drains the
//! DAO accounts at the end of the block and deletes them. Its system calls have more than 30 million
//! gas. It accepts absent system contracts, and deposit events of any layout.

use std::collections::BTreeMap;

use alloy_consensus::ReceiptEnvelope;
use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_eips::eip4788::BEACON_ROOTS_ADDRESS;
use alloy_eips::eip6110::DEPOSIT_REQUEST_TYPE;
use alloy_eips::eip7002::{WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_TYPE};
use alloy_eips::eip7251::{CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_TYPE};
use alloy_eips::eip7685::Requests;
use alloy_evm::EvmEnv;
use alloy_evm::block::StateDB;
use alloy_evm::block::state_changes::post_block_balance_increments;
use alloy_evm::eth::EthEvmBuilder;
use alloy_evm::eth::dao_fork::{DAO_HARDFORK_ACCOUNTS, DAO_HARDFORK_BENEFICIARY};
use alloy_hardforks::{EthereumHardfork, EthereumHardforks};
use alloy_primitives::{Address, Bytes, KECCAK256_EMPTY, U256};
use common::account::Account;
use common::block::Block;
use common::chain_spec::ChainSpec;
use engine::{StateError, StateView};
use revm::ExecuteEvm;
use revm::context::TxEnv;
use revm::context::result::{EVMError, ExecutionResult, HaltReason};
use revm::database_interface::DatabaseCommitExt;
use revm::handler::{EthFrame, Handler, MainnetHandler, SystemCallTx};

use coordinator::rules::Rejection;
use coordinator::validate::{
    SYSTEM_CALL_GAS, ValidateError, credit_overflows, deposits, unknown_ommers_reward,
};

/// The accounts that the DAO fork changes in this block (EIP-779), with their values after the change.
pub(super) fn dao_fork<V: StateView>(
    block: &Block,
    spec: &ChainSpec,
    view: &V,
) -> Result<BTreeMap<Address, Account>, ValidateError> {
    let fork = spec.at(&block.header).ethereum_fork_activation(EthereumHardfork::Dao);
    let mut altered = BTreeMap::new();
    if !fork.transitions_at_block(block.header.number) {
        return Ok(altered);
    }
    let mut refund = view.account(&DAO_HARDFORK_BENEFICIARY)?.unwrap_or_default();
    for address in DAO_HARDFORK_ACCOUNTS {
        let account = view.account(&address)?.unwrap_or_default();
        let overflows = || credit_overflows(DAO_HARDFORK_BENEFICIARY);
        refund.balance = refund.balance.checked_add(account.balance).ok_or_else(overflows)?;
        altered.insert(address, Account { balance: U256::ZERO, ..account });
    }
    altered.insert(DAO_HARDFORK_BENEFICIARY, refund);
    Ok(altered)
}

/// Stores the beacon root (EIP-4788) and the parent's hash (EIP-2935). Either call may fail.
pub(super) fn before_transactions<D: StateDB>(
    block: &Block,
    spec: &ChainSpec,
    env: &EvmEnv,
    db: &mut D,
) -> Result<(), ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    if active.is_cancun_active_at_timestamp(header.timestamp) {
        let root = header.parent_beacon_block_root.unwrap_or_default();
        system_call(env, db, BEACON_ROOTS_ADDRESS, root.0.into())?;
    }
    if active.is_prague_active_at_timestamp(header.timestamp) {
        system_call(env, db, HISTORY_STORAGE_ADDRESS, header.parent_hash.0.into())?;
    }
    Ok(())
}

/// Collects requests from Prague on, then pays rewards and withdrawals.
pub(super) fn after_transactions<D: StateDB>(
    block: &Block,
    spec: &ChainSpec,
    env: &EvmEnv,
    db: &mut D,
    receipts: &[ReceiptEnvelope],
) -> Result<Option<Requests>, ValidateError> {
    let header = &block.header;
    let active = spec.at(header);
    let requests = if active.is_prague_active_at_timestamp(header.timestamp) {
        let mut requests = Requests::default();
        let deposits = deposits(active, &receipts.iter().collect())?;
        if !deposits.is_empty() {
            requests.push_request_with_type(DEPOSIT_REQUEST_TYPE, deposits);
        }
        for (address, request_type, eip) in [
            (WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_TYPE, "EIP-7002"),
            (CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_TYPE, "EIP-7251"),
        ] {
            let output = demand(env, db, address, eip)?;
            if !output.is_empty() {
                requests.push_request_with_type(request_type, output);
            }
        }
        Some(requests)
    } else {
        None
    };
    let ommers = block.ommers.headers();
    let withdrawals = block.withdrawals.as_deref();
    let mut increments = post_block_balance_increments(active, &env.block_env, ommers, withdrawals);
    if let Some((address, amount)) = unknown_ommers_reward(block, spec) {
        let sum = increments.entry(address).or_default();
        *sum = sum.saturating_add(amount);
    }
    for (address, amount) in &increments {
        let balance = db.basic(*address).map_err(broken)?.map_or(U256::ZERO, |account| account.balance);
        balance.checked_add(U256::from(*amount)).ok_or_else(|| credit_overflows(*address))?;
    }
    db.increment_balances(increments).map_err(broken)?;
    Ok(requests)
}

/// Calls a system contract that must have code and succeed, and returns its output.
fn demand<D: StateDB>(
    env: &EvmEnv,
    db: &mut D,
    address: Address,
    eip: &'static str,
) -> Result<Bytes, ValidateError> {
    let contract = db.basic(address).map_err(broken)?;
    if contract.is_none_or(|account| account.code_hash == KECCAK256_EMPTY) {
        return Err(Rejection::SystemContractEmpty { address, eip }.into());
    }
    let reason = match system_call(env, db, address, Bytes::new())? {
        ExecutionResult::Success { output, .. } => return Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => format!("it reverts with {output}"),
        ExecutionResult::Halt { reason, .. } => format!("it halts: {reason:?}"),
    };
    Err(Rejection::SystemCallFailed { address, eip, reason }.into())
}

/// Calls a contract as the system, and commits its changes.
fn system_call<D: StateDB>(
    env: &EvmEnv,
    db: &mut D,
    address: Address,
    data: Bytes,
) -> Result<ExecutionResult<HaltReason>, ValidateError> {
    let mut evm = EthEvmBuilder::new(&mut *db, env.clone()).build().into_inner();
    evm.ctx.tx = TxEnv::new_system_tx(address, data);
    evm.ctx.tx.gas_limit = SYSTEM_CALL_GAS;
    let mut handler = MainnetHandler::<_, EVMError<_>, EthFrame>::default();
    let result = handler.run_system_call(&mut evm).map_err(broken)?;
    let state = evm.finalize();
    drop(evm);
    db.commit(state);
    Ok(result)
}

fn broken(error: impl std::fmt::Debug) -> ValidateError {
    StateError::Evm(format!("{error:?}")).into()
}
