//! The difficulty of proof-of-work blocks.

use alloy_consensus::Header;
use alloy_consensus::constants::EMPTY_OMMER_ROOT_HASH;
use alloy_hardforks::{EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::U256;
use common::chain_spec::ActiveSpec;

/// The lowest difficulty of a block.
const MINIMUM: U256 = U256::from_limbs([131_072, 0, 0, 0]);

/// The parent's difficulty divided by this is one step of adjustment.
const STEP_DIVISOR: U256 = U256::from_limbs([2048, 0, 0, 0]);

/// In Frontier, a block within this many seconds after its parent raises the difficulty.
const FRONTIER_LIMIT: u64 = 13;

/// The lowest factor of a step, however late a block is (EIP-2).
const LOWEST_FACTOR: i64 = -99;

/// The number of blocks after which the difficulty bomb doubles.
const BOMB_PERIOD: u64 = 100_000;

/// The total delay of the bomb since each fork, in blocks, the latest fork first: EIP-5133, EIP-4345,
/// EIP-3554, EIP-2384, EIP-1234, EIP-649.
const BOMB_DELAYS: [(EthereumHardfork, u64); 6] = [
    (EthereumHardfork::GrayGlacier, 11_400_000),
    (EthereumHardfork::ArrowGlacier, 10_700_000),
    (EthereumHardfork::London, 9_700_000),
    (EthereumHardfork::MuirGlacier, 9_000_000),
    (EthereumHardfork::Constantinople, 5_000_000),
    (EthereumHardfork::Byzantium, 3_000_000),
];

/// The difficulty of the block after `parent` at `timestamp`: zero after the Merge (EIP-3675). `None`
/// if it exceeds 256 bits, so that no header can hold it.
#[must_use]
pub fn next_difficulty(parent: &Header, timestamp: u64, active: ActiveSpec<'_>) -> Option<U256> {
    let number = parent.number.saturating_add(1);
    if active.is_paris_active_at_block(number) {
        return Some(U256::ZERO);
    }
    let elapsed = timestamp.saturating_sub(parent.timestamp);
    let factor = if active.is_byzantium_active_at_block(number) {
        // EIP-100: a parent with ommers raises the factor by one.
        let most = if parent.ommers_hash == EMPTY_OMMER_ROOT_HASH { 1 } else { 2 };
        factor(most, elapsed / 9)
    } else if active.is_homestead_active_at_block(number) {
        factor(1, elapsed / 10)
    } else if elapsed < FRONTIER_LIMIT {
        1
    } else {
        -1
    };
    let step = (parent.difficulty / STEP_DIVISOR).checked_mul(U256::from(factor.unsigned_abs()))?;
    let moved = if factor < 0 {
        parent.difficulty.saturating_sub(step)
    } else {
        parent.difficulty.checked_add(step)?
    };
    moved.max(MINIMUM).checked_add(bomb(number, active)?)
}

/// `most` less the time passed in the fork's units, but at least [`LOWEST_FACTOR`].
fn factor(most: i64, units: u64) -> i64 {
    i64::try_from(units).map_or(LOWEST_FACTOR, |units| (most - units).max(LOWEST_FACTOR))
}

/// The amount that the difficulty bomb adds to block `number`; `None` if it exceeds 256 bits.
fn bomb(number: u64, active: ActiveSpec<'_>) -> Option<U256> {
    let delay = BOMB_DELAYS.iter().find(|(fork, _)| is_active(*fork, number, active));
    let delayed = number.saturating_sub(delay.map_or(0, |(_, blocks)| *blocks));
    match (delayed / BOMB_PERIOD).checked_sub(2) {
        None => Some(U256::ZERO),
        Some(exponent) => U256::ONE.checked_shl(usize::try_from(exponent).ok()?),
    }
}

fn is_active(fork: EthereumHardfork, number: u64, active: ActiveSpec<'_>) -> bool {
    matches!(active.ethereum_fork_activation(fork), ForkCondition::Block(from) if from <= number)
}
