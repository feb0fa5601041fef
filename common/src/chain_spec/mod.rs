//! The chain specification: chain id and hardfork schedule, in a form that travels to the shards. It
//! comes from a geth `genesis.json` (`config`), from mainnet's constants, or from a [`Schedule`].
//!
//! [`ActiveSpec`] implements alloy's hardfork traits, so the rules themselves stay alloy's. The
//! specification does not hold the genesis state.

mod config;
pub mod networks;

use alloy_consensus::Header;
use alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS;
use alloy_eips::eip7840::BlobParams;
use alloy_hardforks::{EthereumChainHardforks, EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};

use crate::codec::word;

/// The most blobs that a schedule may allow a block. The number is far beyond any real schedule, and
/// low enough that the sum of the blobs' gas cannot overflow.
const MAX_BLOBS_PER_BLOCK: u64 = 1_000_000;

/// When a hardfork becomes active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// From this block number on.
    Block(u64),
    /// From this timestamp on.
    Time(u64),
    /// When the total difficulty is reached (the Merge): seen by a block's zero difficulty.
    Merge,
    /// Never. From this block number on, the chain rejects the blocks of those who take the fork. Only the
    /// DAO fork can be refused (EIP-779).
    Refused(u64),
}

/// The parts from which a chain specification is built.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The chain id (EIP-155).
    pub chain_id: u64,
    /// The total difficulty at which the chain merges; `None` if no difficulty decides it.
    pub terminal_total_difficulty: Option<U256>,
    /// When each fork becomes active. Each fork appears at most once; Frontier may be left out.
    pub forks: Vec<(EthereumHardfork, Activation)>,
    /// Blob parameters by the timestamp from which they apply. If two have the same timestamp, the later
    /// one in the list applies.
    pub blobs: Vec<(u64, BlobParams)>,
    /// The contract whose logs are deposits (EIP-6110), if the chain has one.
    pub deposit_contract: Option<Address>,
}

/// Blob parameters from a timestamp on (EIP-7840, EIP-7892).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct BlobStep {
    from: u64,
    target: u64,
    max: u64,
    update_fraction: u128,
    min_fee: u128,
    max_per_tx: u64,
    base_cost: u64,
}

impl BlobStep {
    fn new(from: u64, params: BlobParams) -> Self {
        Self {
            from,
            target: params.target_blob_count,
            max: params.max_blob_count,
            update_fraction: params.update_fraction,
            min_fee: params.min_blob_fee,
            max_per_tx: params.max_blobs_per_tx,
            base_cost: params.blob_base_cost,
        }
    }

    fn params(&self) -> BlobParams {
        BlobParams {
            target_blob_count: self.target,
            max_blob_count: self.max,
            update_fraction: self.update_fraction,
            min_blob_fee: self.min_fee,
            max_blobs_per_tx: self.max_per_tx,
            blob_base_cost: self.base_cost,
        }
    }
}

/// A chain's id and hardfork schedule.
///
/// ```
/// use alloy_consensus::Header;
/// use common::chain_spec::ChainSpec;
///
/// let mainnet = ChainSpec::mainnet();
/// let header = Header { number: 19_426_587, timestamp: 1_710_338_135, ..Header::default() };
/// assert_eq!(mainnet.fork_name(&header), "Cancun");
/// assert!(mainnet.blob_params(header.timestamp).is_some());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainSpec {
    /// The chain id (EIP-155).
    pub chain_id: u64,
    /// The total difficulty at which the chain merges; the greatest number if the schedule states none.
    #[serde(with = "word")]
    pub terminal_total_difficulty: U256,
    /// Activations by the fork's position in [`EthereumHardfork::VARIANTS`].
    forks: Vec<(u8, Activation)>,
    blobs: Vec<BlobStep>,
    deposit_contract: Option<Address>,
}

/// What is wrong with a genesis file's `config`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainSpecError {
    /// The config schedules a fork that this build does not know. Executing without its rules would be
    /// wrong.
    #[error(
        "config.{field} schedules a hardfork that this build does not know; remove it or use a newer build"
    )]
    UnknownFork {
        /// The field of `config` that schedules the fork, for example `verkleTime`.
        field: String,
    },
    /// The config names a consensus engine whose block rules are not Ethereum's.
    #[error(
        "config.{field}: this consensus engine, or extension, has block rules of its own, which this build does \
         not have; only chains of ethash and of the beacon chain are supported"
    )]
    OtherEngine {
        /// The field of `config` that names the engine or the extension, for example `clique`.
        field: String,
    },
    /// The config schedules a fork without one that it builds on.
    #[error("config schedules {later} without {earlier}, which it builds on")]
    Missing {
        /// The fork that is scheduled.
        later: EthereumHardfork,
        /// The fork that is missing.
        earlier: EthereumHardfork,
    },
    /// The config asks for rules that no engine here has.
    #[error("config.{field}: {reason}")]
    Unsupported {
        /// The field of `config` that asks for these rules, for example `amsterdamTime`.
        field: &'static str,
        /// Why this build cannot execute it.
        reason: &'static str,
    },
    /// The config schedules two forks in the wrong order.
    #[error("config schedules {later} before {earlier}, which it builds on")]
    OutOfOrder {
        /// The fork that comes too early.
        later: EthereumHardfork,
        /// The fork that must precede it.
        earlier: EthereumHardfork,
    },
}

impl ChainSpec {
    /// The specification of Ethereum mainnet.
    #[must_use]
    pub fn mainnet() -> Self {
        let hardforks = EthereumChainHardforks::mainnet();
        let mut forks = Vec::new();
        for (position, fork) in (0u8..).zip(EthereumHardfork::VARIANTS) {
            match hardforks.ethereum_fork_activation(*fork) {
                ForkCondition::Block(number) => forks.push((position, Activation::Block(number))),
                ForkCondition::TTD { activation_block_number, .. } => {
                    forks.push((position, Activation::Block(activation_block_number)));
                }
                ForkCondition::Timestamp(time) => forks.push((position, Activation::Time(time))),
                ForkCondition::Never => {}
            }
        }
        let mut spec = Self {
            chain_id: 1,
            terminal_total_difficulty: U256::from(58_750_000_000_000_000_000_000u128),
            forks,
            blobs: Vec::new(),
            deposit_contract: Some(MAINNET_DEPOSIT_CONTRACT_ADDRESS),
        };
        for (fork, params) in [
            (EthereumHardfork::Cancun, BlobParams::cancun()),
            (EthereumHardfork::Prague, BlobParams::prague()),
            (EthereumHardfork::Osaka, BlobParams::osaka()),
            (EthereumHardfork::Bpo1, BlobParams::bpo1()),
            (EthereumHardfork::Bpo2, BlobParams::bpo2()),
        ] {
            if let Some(Activation::Time(from)) = spec.activation(fork) {
                spec.blobs.push(BlobStep::new(from, params));
            }
        }
        spec
    }

    /// Builds the specification of a schedule.
    ///
    /// # Errors
    /// [`ChainSpecError`] for forks out of order, or without the forks they build on.
    pub fn from_schedule(schedule: Schedule) -> Result<Self, ChainSpecError> {
        let Schedule { chain_id, terminal_total_difficulty, forks: scheduled, blobs, deposit_contract } =
            schedule;
        let mut forks = Vec::new();
        for (position, fork) in (0u8..).zip(EthereumHardfork::VARIANTS) {
            let found = scheduled.iter().find(|(candidate, _)| candidate == fork);
            let frontier = (*fork == EthereumHardfork::Frontier).then_some(Activation::Block(0));
            if let Some(activation) = found.map(|(_, activation)| *activation).or(frontier) {
                forks.push((position, activation));
            }
        }
        let mut blobs: Vec<BlobStep> =
            blobs.into_iter().map(|(from, params)| BlobStep::new(from, params)).collect();
        // A stable sort: of forks at one timestamp, the later fork's parameters come last.
        blobs.sort_by_key(|step| step.from);
        let terminal_total_difficulty = terminal_total_difficulty.unwrap_or(U256::MAX);
        let spec = Self { chain_id, terminal_total_difficulty, forks, blobs, deposit_contract };
        spec.check_known()?;
        spec.check_order()?;
        spec.check_complete()?;
        spec.check_blobs()?;
        Ok(spec)
    }

    fn activation(&self, fork: EthereumHardfork) -> Option<Activation> {
        let position = EthereumHardfork::VARIANTS.iter().position(|candidate| *candidate == fork)?;
        self.forks
            .iter()
            .find(|(candidate, _)| usize::from(*candidate) == position)
            .map(|(_, activation)| *activation)
    }

    /// Rejects forks whose blocks this build cannot verify, and refusals of any fork but the DAO fork.
    fn check_known(&self) -> Result<(), ChainSpecError> {
        if self.activation(EthereumHardfork::Amsterdam).is_some() {
            return Err(ChainSpecError::Unsupported {
                field: "amsterdamTime",
                reason: "block access lists (EIP-7928) cannot be verified yet; remove it",
            });
        }
        let refused = |(position, activation): &(u8, Activation)| {
            let fork = EthereumHardfork::VARIANTS.get(usize::from(*position));
            matches!(activation, Activation::Refused(_)) && fork != Some(&EthereumHardfork::Dao)
        };
        if self.forks.iter().any(refused) {
            return Err(ChainSpecError::Unsupported {
                field: "daoForkSupport",
                reason: "only the DAO fork can be refused",
            });
        }
        Ok(())
    }

    /// Checks that block-numbered forks precede the Merge and that their numbers do not fall. The
    /// timestamps after the Merge must not fall either.
    fn check_order(&self) -> Result<(), ChainSpecError> {
        let mut earlier: Option<(EthereumHardfork, u64, bool)> = None;
        for (position, activation) in &self.forks {
            let Some(fork) = EthereumHardfork::VARIANTS.get(usize::from(*position)).copied() else {
                continue;
            };
            // `petersburgBlock` in the place of `constantinopleBlock`, and the difficulty bombs, have no
            // rules of their own that could be out of order.
            let (at, timed) = match activation {
                Activation::Block(number) | Activation::Refused(number) => (*number, false),
                Activation::Time(time) => (*time, true),
                Activation::Merge => continue,
            };
            if let Some((before, when, was_timed)) = earlier
                && ((timed == was_timed && at < when) || (was_timed && !timed))
            {
                return Err(ChainSpecError::OutOfOrder { later: fork, earlier: before });
            }
            earlier = Some((fork, at, timed));
        }
        Ok(())
    }

    /// Checks that every fork with rules of its own comes with all forks that precede it.
    fn check_complete(&self) -> Result<(), ChainSpecError> {
        use EthereumHardfork as F;
        const LADDER: [EthereumHardfork; 14] = [
            F::Homestead,
            F::Tangerine,
            F::SpuriousDragon,
            F::Byzantium,
            F::Constantinople,
            F::Petersburg,
            F::Istanbul,
            F::Berlin,
            F::London,
            F::Paris,
            F::Shanghai,
            F::Cancun,
            F::Prague,
            F::Osaka,
        ];
        if let (Some(_), None) = (self.activation(F::Dao), self.activation(F::Homestead)) {
            return Err(ChainSpecError::Missing { later: F::Dao, earlier: F::Homestead });
        }
        let mut missing: Option<EthereumHardfork> = None;
        for fork in LADDER {
            match (self.activation(fork), missing) {
                (None, None) => missing = Some(fork),
                (Some(_), Some(earlier)) => return Err(ChainSpecError::Missing { later: fork, earlier }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks the blob parameters: some are divisors, and a target above the maximum can never be met.
    fn check_blobs(&self) -> Result<(), ChainSpecError> {
        let sound = |step: &BlobStep| {
            step.update_fraction > 0
                && (1..=MAX_BLOBS_PER_BLOCK).contains(&step.max)
                && step.target <= step.max
        };
        if self.blobs.iter().all(sound) {
            return Ok(());
        }
        Err(ChainSpecError::Unsupported {
            field: "blobSchedule",
            reason: "baseFeeUpdateFraction and max must be positive, max below a million, target at most max",
        })
    }

    /// The schedule as it applies to one block. The block's own difficulty decides on the Merge.
    #[must_use]
    pub fn at<'a>(&'a self, header: &Header) -> ActiveSpec<'a> {
        ActiveSpec { spec: self, merged: header.number > 0 && header.difficulty.is_zero() }
    }

    /// The schedule as it applies to a block whose parent has this total difficulty, which decides on the
    /// Merge. Unlike [`ChainSpec::at`] it trusts no field of the block.
    #[must_use]
    pub fn after(&self, total_difficulty_of_parent: U256) -> ActiveSpec<'_> {
        ActiveSpec { spec: self, merged: total_difficulty_of_parent >= self.terminal_total_difficulty }
    }

    /// The blob parameters at a timestamp; `None` before Cancun.
    #[must_use]
    pub fn blob_params(&self, timestamp: u64) -> Option<BlobParams> {
        self.blobs.iter().rev().find(|step| step.from <= timestamp).map(BlobStep::params)
    }

    /// The name of the newest fork whose rules apply to a block.
    #[must_use]
    pub fn fork_name(&self, header: &Header) -> &'static str {
        let active = self.at(header);
        EthereumHardfork::VARIANTS
            .iter()
            .rev()
            .find(|fork| match active.ethereum_fork_activation(**fork) {
                ForkCondition::Block(number) => number <= header.number,
                ForkCondition::Timestamp(time) => time <= header.timestamp,
                ForkCondition::TTD { .. } | ForkCondition::Never => false,
            })
            .map_or("Frontier", EthereumHardfork::name)
    }
}

/// A chain's schedule as it applies to one block, with the question of the Merge already decided.
#[derive(Debug, Clone, Copy)]
pub struct ActiveSpec<'a> {
    spec: &'a ChainSpec,
    merged: bool,
}

impl ActiveSpec<'_> {
    /// The contract whose logs are deposits (EIP-6110), if the chain has one.
    #[must_use]
    pub fn deposit_contract_address(&self) -> Option<Address> {
        self.spec.deposit_contract
    }

    /// The first block from which the chain refuses the DAO fork, if it does.
    #[must_use]
    pub fn dao_fork_refused_at(&self) -> Option<u64> {
        match self.spec.activation(EthereumHardfork::Dao) {
            Some(Activation::Refused(number)) => Some(number),
            _ => None,
        }
    }
}

impl EthereumHardforks for ActiveSpec<'_> {
    fn ethereum_fork_activation(&self, fork: EthereumHardfork) -> ForkCondition {
        match self.spec.activation(fork) {
            Some(Activation::Block(number)) => ForkCondition::Block(number),
            Some(Activation::Time(time)) => ForkCondition::Timestamp(time),
            Some(Activation::Merge) if self.merged => ForkCondition::ZERO_BLOCK,
            Some(Activation::Merge | Activation::Refused(_)) | None => ForkCondition::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::codec;

    #[test]
    fn mainnet_forks_are_named_by_their_blocks() {
        let spec = ChainSpec::mainnet();
        let name = |number, timestamp, difficulty: u64| {
            let header =
                Header { number, timestamp, difficulty: U256::from(difficulty), ..Default::default() };
            spec.fork_name(&header)
        };
        assert_eq!(name(46_147, 1_438_918_233, 1), "Frontier");
        assert_eq!(name(4_370_000, 1_508_131_331, 1), "Byzantium");
        assert_eq!(name(15_537_393, 1_663_224_162, 1), "GrayGlacier");
        assert_eq!(name(15_537_394, 1_663_224_179, 0), "Paris");
        assert_eq!(name(19_426_587, 1_710_338_135, 0), "Cancun");
    }

    #[test]
    fn a_spec_survives_the_wire() {
        let spec = ChainSpec::mainnet();
        let bytes = codec::encode("spec", &spec, 1 << 16).unwrap();
        assert_eq!(codec::decode::<ChainSpec>("spec", &bytes, 1 << 16).unwrap(), spec);
    }

    #[test]
    fn blob_parameters_that_would_be_divided_by_are_not_zero() {
        for params in [
            BlobParams { update_fraction: 0, ..BlobParams::osaka() },
            BlobParams { max_blob_count: 0, target_blob_count: 0, ..BlobParams::osaka() },
            BlobParams { target_blob_count: 10, ..BlobParams::osaka() },
        ] {
            let spec = ChainSpec::from_schedule(Schedule {
                chain_id: 1,
                terminal_total_difficulty: None,
                forks: vec![],
                blobs: vec![(0, params)],
                deposit_contract: None,
            });
            assert!(matches!(spec, Err(ChainSpecError::Unsupported { field: "blobSchedule", .. })));
        }
    }

    #[test]
    fn the_merge_is_decided_by_the_parents_total_difficulty() {
        let all = EthereumHardfork::VARIANTS.iter().take_while(|fork| **fork != EthereumHardfork::Paris);
        let mut forks: Vec<_> = all.map(|fork| (*fork, Activation::Block(0))).collect();
        forks.push((EthereumHardfork::Paris, Activation::Merge));
        let spec = ChainSpec::from_schedule(Schedule {
            chain_id: 1,
            terminal_total_difficulty: Some(U256::from(100)),
            forks,
            blobs: vec![],
            deposit_contract: None,
        })
        .unwrap();
        assert!(!spec.after(U256::from(99)).is_paris_active_at_block(1));
        assert!(spec.after(U256::from(100)).is_paris_active_at_block(1));
    }
}
