//! Checks one header against its parent's.

use alloy_consensus::Header;
use alloy_consensus::constants::{EMPTY_OMMER_ROOT_HASH, MAXIMUM_EXTRA_DATA_SIZE};
use alloy_eips::eip1559::{BaseFeeParams, GAS_LIMIT_BOUND_DIVISOR};
use alloy_eips::eip4844::DATA_GAS_PER_BLOB;
use alloy_hardforks::{EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::B64;
use common::chain_spec::{ActiveSpec, ChainSpec};

use super::{Fields, broken, expect, next_base_fee, next_difficulty, next_excess_blob_gas};
use crate::rules::Rejection;

/// The lowest gas limit of a block (Yellow Paper, equation 47).
const MIN_GAS_LIMIT: u64 = 5000;

/// The highest gas limit of a block (EIP-1985).
const MAX_GAS_LIMIT: u64 = i64::MAX as u64;

/// The extra data that the first blocks of the DAO fork must carry (EIP-779), and the number of these
/// blocks.
const DAO_EXTRA_DATA: &[u8] = b"dao-hard-fork";
const DAO_EXTRA_RANGE: u64 = 10;

/// Checks the header of a block or an ommer against its parent's. The caller has found the parent by
/// its hash.
pub(super) fn check_header(
    header: &Header,
    parent: &Header,
    spec: &ChainSpec,
    active: ActiveSpec<'_>,
) -> Result<(), Rejection> {
    // These come first, because number and timestamp decide which rules apply to the other fields.
    expect("number", header.number, parent.number.saturating_add(1), "one more than the parent's")?;
    if header.timestamp <= parent.timestamp {
        let reason = format!("is {}, must be later than the parent's {}", header.timestamp, parent.timestamp);
        return Err(broken("timestamp", reason));
    }
    Fields::of(header.number, header.timestamp, active).check(header)?;
    check_extra_data(header, active)?;
    check_gas(header, parent, active)?;
    check_seal(header, parent, active)?;
    if let (Some(base_fee), Some(wanted)) = (header.base_fee_per_gas, next_base_fee(parent, active)) {
        expect("baseFeePerGas", u128::from(base_fee), wanted, "EIP-1559")?;
    }
    check_blobs(header, parent, spec)
}

fn check_extra_data(header: &Header, active: ActiveSpec<'_>) -> Result<(), Rejection> {
    let len = header.extra_data.len();
    if len > MAXIMUM_EXTRA_DATA_SIZE {
        return Err(broken(
            "extraData",
            format!("has {len} bytes, at most {MAXIMUM_EXTRA_DATA_SIZE} are allowed"),
        ));
    }
    if let ForkCondition::Block(fork) = active.ethereum_fork_activation(EthereumHardfork::Dao)
        && (fork..fork.saturating_add(DAO_EXTRA_RANGE)).contains(&header.number)
        && header.extra_data.as_ref() != DAO_EXTRA_DATA
    {
        let reason = format!("is {}, must be \"dao-hard-fork\" (EIP-779)", header.extra_data);
        return Err(broken("extraData", reason));
    }
    if let Some(fork) = active.dao_fork_refused_at()
        && (fork..fork.saturating_add(DAO_EXTRA_RANGE)).contains(&header.number)
        && header.extra_data.as_ref() == DAO_EXTRA_DATA
    {
        return Err(broken("extraData", "is \"dao-hard-fork\", but this chain refuses that fork (EIP-779)"));
    }
    Ok(())
}

/// Checks that the gas limit is within its bounds, and that the gas used is within the limit.
fn check_gas(header: &Header, parent: &Header, active: ActiveSpec<'_>) -> Result<(), Rejection> {
    let limit = header.gas_limit;
    if !(MIN_GAS_LIMIT..=MAX_GAS_LIMIT).contains(&limit) {
        return Err(broken(
            "gasLimit",
            format!("is {limit}, must be from {MIN_GAS_LIMIT} to {MAX_GAS_LIMIT}"),
        ));
    }
    // London's first block may keep its parent's target (EIP-1559).
    let is_first =
        active.is_london_active_at_block(header.number) && !active.is_london_active_at_block(parent.number);
    let elasticity = u64::try_from(BaseFeeParams::ethereum().elasticity_multiplier).unwrap_or(1);
    let before = if is_first { parent.gas_limit.saturating_mul(elasticity) } else { parent.gas_limit };
    if limit.abs_diff(before) >= before / GAS_LIMIT_BOUND_DIVISOR {
        let reason = format!(
            "is {limit}, must differ from {before} by less than {}",
            before / GAS_LIMIT_BOUND_DIVISOR
        );
        return Err(broken("gasLimit", reason));
    }
    if header.gas_used > limit {
        return Err(broken(
            "gasUsed",
            format!("is {}, more than the block's gas limit {limit}", header.gas_used),
        ));
    }
    Ok(())
}

/// Checks the difficulty, and the fields that replace the seal after the Merge. Does not check the seal
/// itself.
fn check_seal(header: &Header, parent: &Header, active: ActiveSpec<'_>) -> Result<(), Rejection> {
    let Some(wanted) = next_difficulty(parent, header.timestamp, active) else {
        return Err(broken("difficulty", "would have to be 2^256 or more, which no header can hold"));
    };
    if !active.is_paris_active_at_block(header.number) {
        return expect("difficulty", header.difficulty, wanted, "proof of work");
    }
    expect("difficulty", header.difficulty, wanted, "after the Merge, EIP-3675")?;
    expect("nonce", header.nonce, B64::ZERO, "after the Merge, EIP-3675")?;
    expect("sha3Uncles", header.ommers_hash, EMPTY_OMMER_ROOT_HASH, "no ommers after the Merge, EIP-3675")
}

fn check_blobs(header: &Header, parent: &Header, spec: &ChainSpec) -> Result<(), Rejection> {
    let wanted = next_excess_blob_gas(parent, header.timestamp, spec);
    if let (Some(excess), Some(wanted)) = (header.excess_blob_gas, wanted) {
        expect("excessBlobGas", u128::from(excess), wanted, "EIP-4844")?;
    }
    if let (Some(excess), Some(params)) = (header.excess_blob_gas, spec.blob_params(header.timestamp))
        && params.calc_blob_fee(excess) == u128::MAX
    {
        let reason =
            format!("is {excess}: blob gas would cost 2^128 wei or more, which this build cannot count");
        return Err(broken("excessBlobGas", reason));
    }
    let Some(used) = header.blob_gas_used else { return Ok(()) };
    let most = spec.blob_params(header.timestamp).map_or(0, |params| params.max_blob_gas_per_block());
    if used > most {
        return Err(broken("blobGasUsed", format!("is {used}, at most {most} are allowed")));
    }
    if used % DATA_GAS_PER_BLOB != 0 {
        return Err(broken("blobGasUsed", format!("is {used}, not a multiple of {DATA_GAS_PER_BLOB}")));
    }
    Ok(())
}
