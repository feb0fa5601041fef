//! The block environment of the EVM, which follows from the header and the chain's schedule.

use alloy_consensus::Header;
use alloy_evm::EvmEnv;
use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_evm::revm::context_interface::cfg::GasId;
use alloy_evm::revm::primitives::hardfork::SpecId;
use alloy_hardforks::{EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::Address;
use common::chain_spec::{ActiveSpec, ChainSpec};

/// The gas that an SSTORE without a change costs under EIP-1283.
pub(crate) const EIP1283_SLOAD_GAS: u64 = 200;

/// The execution environment of a block.
#[must_use]
pub fn evm_env(spec: &ChainSpec, header: &Header) -> EvmEnv {
    let blobs = spec.blob_params(header.timestamp);
    let active = spec.at(header);
    let mut env = EvmEnv::for_eth_block(header, active, spec.chain_id, blobs);
    // revm's own limit would be a result of the transaction. The executor has another, which is an error.
    env.cfg_env.memory_limit = u64::MAX;
    if active.is_constantinople_active_at_block(header.number)
        && !active.is_petersburg_active_at_block(header.number)
    {
        constantinople(&mut env);
    }
    env
}

/// The EVM's rule set for a block.
#[must_use]
pub fn spec_id(spec: &ChainSpec, header: &Header) -> SpecId {
    evm_env(spec, header).cfg_env.spec
}

/// Sets the environment of Constantinople as it was before Petersburg withdrew EIP-1283, which revm
/// does not know: Petersburg, with that EIP's gas for SSTORE. (`net_gas` counts by it.)
fn constantinople(env: &mut EvmEnv) {
    const SET: u64 = 20_000 - EIP1283_SLOAD_GAS;
    const RESET: u64 = 5_000 - EIP1283_SLOAD_GAS;
    env.cfg_env.set_spec_and_mainnet_gas_params(SpecId::PETERSBURG);
    env.cfg_env.gas_params.override_gas([
        (GasId::sstore_static(), EIP1283_SLOAD_GAS),
        (GasId::sstore_set_without_load_cost(), SET),
        (GasId::sstore_reset_without_cold_load_cost(), RESET),
        (GasId::sstore_set_refund(), SET),
        (GasId::sstore_reset_refund(), RESET),
    ]);
}

/// A chain's schedule at one block, in the form that alloy-evm's executors require.
#[derive(Debug, Clone, Copy)]
pub struct ExecutorSpec<'a>(pub ActiveSpec<'a>);

impl EthereumHardforks for ExecutorSpec<'_> {
    fn ethereum_fork_activation(&self, fork: EthereumHardfork) -> ForkCondition {
        self.0.ethereum_fork_activation(fork)
    }
}

impl EthExecutorSpec for ExecutorSpec<'_> {
    fn deposit_contract_address(&self) -> Option<Address> {
        self.0.deposit_contract_address()
    }
}
