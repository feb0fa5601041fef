//! The prices in a header: base fee (EIP-1559) and excess blob gas (EIP-4844, EIP-7918).
//!
//! The rules are alloy's, but alloy's arithmetic has 64 bits and wraps. Here it has 128 bits, which
//! hold every product of header fields. So a value that does not fit into a header stays visible as
//! such.

use alloy_consensus::Header;
use alloy_eips::eip1559::{BaseFeeParams, INITIAL_BASE_FEE};
use alloy_eips::eip4844::DATA_GAS_PER_BLOB;
use alloy_eips::eip7840::BlobParams;
use alloy_hardforks::EthereumHardforks;
use alloy_primitives::U256;
use common::chain_spec::{ActiveSpec, ChainSpec};

/// The base fee in wei of the block after `parent`; `None` before London. London's first block has a
/// fixed base fee. If the result exceeds 64 bits, no header can hold it.
#[must_use]
pub fn next_base_fee(parent: &Header, active: ActiveSpec<'_>) -> Option<u128> {
    if !active.is_london_active_at_block(parent.number.saturating_add(1)) {
        return None;
    }
    let before = parent.base_fee_per_gas.filter(|_| active.is_london_active_at_block(parent.number));
    let Some(before) = before else { return Some(u128::from(INITIAL_BASE_FEE)) };
    let BaseFeeParams { max_change_denominator, elasticity_multiplier } = BaseFeeParams::ethereum();
    let (before, used) = (u128::from(before), u128::from(parent.gas_used));
    // Only a genesis can have a gas limit whose target is zero: the lowest limit of a block is 5000.
    let Some(target) = u128::from(parent.gas_limit).checked_div(elasticity_multiplier).filter(|gas| *gas > 0)
    else {
        return Some(before);
    };
    let moved = used.abs_diff(target);
    // Each factor is below 2⁶⁴.
    let step = before.saturating_mul(moved) / target / max_change_denominator;
    Some(if used > target { before.saturating_add(step.max(1)) } else { before.saturating_sub(step) })
}

/// The excess blob gas of the block after `parent` at `timestamp`; `None` before Cancun. Cancun's first
/// block inherits none. If the result exceeds 64 bits, no header can hold it.
#[must_use]
pub fn next_excess_blob_gas(parent: &Header, timestamp: u64, spec: &ChainSpec) -> Option<u128> {
    let params = spec.blob_params(timestamp)?;
    let excess = parent.excess_blob_gas.unwrap_or_default();
    let used = u128::from(parent.blob_gas_used.unwrap_or_default());
    let sum = u128::from(excess).saturating_add(used);
    let target = u128::from(params.target_blob_count).saturating_mul(u128::from(DATA_GAS_PER_BLOB));
    if sum < target {
        return Some(0);
    }
    if is_execution_dear(&params, excess, parent.base_fee_per_gas.unwrap_or_default()) {
        let (most, aim) = (u128::from(params.max_blob_count), u128::from(params.target_blob_count));
        let scaled = used.saturating_mul(most.saturating_sub(aim)).checked_div(most).unwrap_or_default();
        return Some(u128::from(excess).saturating_add(scaled));
    }
    Some(sum.saturating_sub(target))
}

/// EIP-7918: whether a blob's reserve price, which follows the base fee, exceeds the price of blobs.
fn is_execution_dear(params: &BlobParams, excess: u64, base_fee: u64) -> bool {
    let reserve = U256::from(params.blob_base_cost).saturating_mul(U256::from(base_fee));
    reserve > U256::from(DATA_GAS_PER_BLOB).saturating_mul(U256::from(params.calc_blob_fee(excess)))
}
