//! What a header says of prices: base fee (EIP-1559) and excess blob gas (EIP-4844, EIP-7918).

use alloy_consensus::Header;
use alloy_eips::eip1559::{BaseFeeParams, INITIAL_BASE_FEE, calc_next_block_base_fee};
use alloy_hardforks::EthereumHardforks;
use common::chain_spec::{ActiveSpec, ChainSpec};

/// The base fee of the block that follows `parent`; none before London. London's first block has
/// a fixed one.
#[must_use]
pub fn next_base_fee(parent: &Header, active: ActiveSpec<'_>) -> Option<u64> {
    if !active.is_london_active_at_block(parent.number.saturating_add(1)) {
        return None;
    }
    let before = parent.base_fee_per_gas.filter(|_| active.is_london_active_at_block(parent.number));
    let Some(base_fee) = before else { return Some(INITIAL_BASE_FEE) };
    let params = BaseFeeParams::ethereum();
    Some(calc_next_block_base_fee(parent.gas_used, parent.gas_limit, base_fee, params))
}

/// The excess blob gas of the block that follows `parent` at `timestamp`; none before Cancun.
/// Cancun's first block has none to inherit.
#[must_use]
pub fn next_excess_blob_gas(parent: &Header, timestamp: u64, spec: &ChainSpec) -> Option<u64> {
    let params = spec.blob_params(timestamp)?;
    Some(params.next_block_excess_blob_gas_osaka(
        parent.excess_blob_gas.unwrap_or_default(),
        parent.blob_gas_used.unwrap_or_default(),
        parent.base_fee_per_gas.unwrap_or_default(),
    ))
}
