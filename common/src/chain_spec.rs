//! The chain specification: chain id and hardfork schedule, read from a geth `genesis.json` or
//! taken from mainnet's constants, in a form that travels to the shards.
//!
//! It answers alloy's hardfork traits, so the rules themselves stay alloy's. It does not hold the
//! genesis state.

use alloy_consensus::Header;
use alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS;
use alloy_eips::eip7840::BlobParams;
use alloy_evm::EvmEnv;
use alloy_evm::eth::spec::EthExecutorSpec;
use alloy_genesis::ChainConfig;
use alloy_hardforks::{EthereumChainHardforks, EthereumHardfork, EthereumHardforks, ForkCondition};
use alloy_primitives::{Address, U256};
use serde::{Deserialize, Serialize};

use crate::codec::word;

/// When a hardfork becomes active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Activation {
    /// From this block number on.
    Block(u64),
    /// From this timestamp on.
    Time(u64),
    /// When the total difficulty is reached (the Merge): seen by a block's zero difficulty.
    Merge,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainSpec {
    /// The chain id (EIP-155).
    pub chain_id: u64,
    /// The total difficulty at which the chain merges, where the schedule says so.
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
    /// A fork that this build does not know: executing without its rules would be wrong.
    #[error(
        "config.{field} schedules a hardfork that this build does not know; remove it or use a newer build"
    )]
    UnknownFork {
        /// The field's name.
        field: String,
    },
    /// A consensus engine whose block rules are not Ethereum's.
    #[error("config.{field}: chains of this consensus engine have other block rewards and are not supported")]
    OtherEngine {
        /// The field's name.
        field: &'static str,
    },
    /// A fork builds on one that is not scheduled.
    #[error("config schedules {later} without {earlier}, which it builds on")]
    Missing {
        /// The fork that is scheduled.
        later: EthereumHardfork,
        /// The fork that is not.
        earlier: EthereumHardfork,
    },
    /// Rules that no engine here has.
    #[error("config.{field}: {reason}")]
    Unsupported {
        /// The field's name.
        field: &'static str,
        /// Why it cannot be executed.
        reason: &'static str,
    },
    /// Forks must be scheduled in their order.
    #[error("config schedules {later} before {earlier}, which it builds on")]
    OutOfOrder {
        /// The fork that comes too early.
        later: EthereumHardfork,
        /// The fork that should precede it.
        earlier: EthereumHardfork,
    },
}

impl ChainSpec {
    /// Ethereum mainnet.
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

    /// The schedule of a geth genesis file's `config`.
    ///
    /// # Errors
    /// [`ChainSpecError`] for forks this build does not know, forks out of order, and consensus
    /// engines with other rules.
    pub fn from_config(config: &ChainConfig) -> Result<Self, ChainSpecError> {
        check_supported(config)?;
        let mut forks = Vec::new();
        for (position, fork) in (0u8..).zip(EthereumHardfork::VARIANTS) {
            if let Some(activation) = scheduled(config, *fork) {
                forks.push((position, activation));
            }
        }
        let mut spec = Self {
            chain_id: config.chain_id,
            terminal_total_difficulty: config.terminal_total_difficulty.unwrap_or(U256::MAX),
            forks,
            blobs: Vec::new(),
            deposit_contract: config.deposit_contract_address,
        };
        spec.check_order()?;
        spec.check_complete()?;
        let schedule = config.blob_schedule_blob_params();
        for (fork, params) in [
            (EthereumHardfork::Cancun, schedule.cancun),
            (EthereumHardfork::Prague, schedule.prague),
            (EthereumHardfork::Osaka, schedule.osaka),
        ] {
            if let Some(Activation::Time(from)) = spec.activation(fork) {
                spec.blobs.push(BlobStep::new(from, params));
            }
        }
        spec.blobs.extend(schedule.scheduled.iter().map(|(from, params)| BlobStep::new(*from, *params)));
        // Stable, so that of forks at one timestamp the later fork's parameters come last.
        spec.blobs.sort_by_key(|step| step.from);
        Ok(spec)
    }

    fn activation(&self, fork: EthereumHardfork) -> Option<Activation> {
        let position = EthereumHardfork::VARIANTS.iter().position(|candidate| *candidate == fork)?;
        self.forks
            .iter()
            .find(|(candidate, _)| usize::from(*candidate) == position)
            .map(|(_, activation)| *activation)
    }

    /// Block-numbered forks precede the Merge, and among themselves the numbers do not fall; nor
    /// do the timestamps after it.
    fn check_order(&self) -> Result<(), ChainSpecError> {
        let mut earlier: Option<(EthereumHardfork, u64, bool)> = None;
        for (position, activation) in &self.forks {
            let Some(fork) = EthereumHardfork::VARIANTS.get(usize::from(*position)).copied() else {
                continue;
            };
            // A petersburgBlock at constantinopleBlock's place, and the difficulty bombs, have no
            // rules of their own that could be out of order; the DAO fork may be anywhere.
            if matches!(fork, EthereumHardfork::Dao) {
                continue;
            }
            let (at, timed) = match activation {
                Activation::Block(number) => (*number, false),
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

    /// Every fork with rules of its own builds on all that precede it.
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

    /// The schedule as it applies to one block.
    #[must_use]
    pub fn at<'a>(&'a self, header: &Header) -> ActiveSpec<'a> {
        ActiveSpec { spec: self, merged: header.number > 0 && header.difficulty.is_zero() }
    }

    /// The blob parameters at a timestamp, from Cancun on.
    #[must_use]
    pub fn blob_params(&self, timestamp: u64) -> Option<BlobParams> {
        self.blobs.iter().rev().find(|step| step.from <= timestamp).map(BlobStep::params)
    }

    /// The execution environment of a block: everything that the EVM is told besides state and
    /// transaction.
    #[must_use]
    pub fn evm_env(&self, header: &Header) -> EvmEnv {
        let blobs = self.blob_params(header.timestamp);
        EvmEnv::for_eth_block(header, self.at(header), self.chain_id, blobs)
    }

    /// The newest fork whose rules apply to a block, by name.
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

/// A chain's schedule as it applies to one block: the Merge is decided by the block itself.
#[derive(Debug, Clone, Copy)]
pub struct ActiveSpec<'a> {
    spec: &'a ChainSpec,
    merged: bool,
}

impl EthereumHardforks for ActiveSpec<'_> {
    fn ethereum_fork_activation(&self, fork: EthereumHardfork) -> ForkCondition {
        match self.spec.activation(fork) {
            Some(Activation::Block(number)) => ForkCondition::Block(number),
            Some(Activation::Time(time)) => ForkCondition::Timestamp(time),
            Some(Activation::Merge) if self.merged => ForkCondition::ZERO_BLOCK,
            Some(Activation::Merge) | None => ForkCondition::Never,
        }
    }
}

impl EthExecutorSpec for ActiveSpec<'_> {
    fn deposit_contract_address(&self) -> Option<Address> {
        self.spec.deposit_contract
    }
}

/// Refuses what cannot be executed faithfully.
fn check_supported(config: &ChainConfig) -> Result<(), ChainSpecError> {
    for (field, present) in [("clique", config.clique.is_some()), ("parlia", config.parlia.is_some())] {
        if present {
            return Err(ChainSpecError::OtherEngine { field });
        }
    }
    if config.bogota_time.is_some() {
        return Err(ChainSpecError::UnknownFork { field: "bogotaTime".into() });
    }
    let petersburg = config.petersburg_block.or(config.constantinople_block);
    if config.constantinople_block < petersburg {
        return Err(ChainSpecError::Unsupported {
            field: "petersburgBlock",
            reason: "Constantinople without Petersburg (EIP-1283) cannot be executed; mainnet never had it",
        });
    }
    if config.eip155_block.is_some()
        && config.eip158_block.is_some()
        && config.eip155_block != config.eip158_block
    {
        return Err(ChainSpecError::Unsupported {
            field: "eip155Block",
            reason: "EIP-155 and EIP-158 must begin at the same block (Spurious Dragon)",
        });
    }
    for field in config.extra_fields.keys() {
        // Known to every client and without rules: the hash of the EIP-150 block, and whether the
        // merge has passed.
        let fork = (field.ends_with("Block") || field.ends_with("Time")) && field != "eip150HashBlock";
        if fork {
            return Err(ChainSpecError::UnknownFork { field: field.clone() });
        }
    }
    Ok(())
}

fn scheduled(config: &ChainConfig, fork: EthereumHardfork) -> Option<Activation> {
    use EthereumHardfork as F;
    let block = |number: Option<u64>| number.map(Activation::Block);
    let time = |time: Option<u64>| time.map(Activation::Time);
    match fork {
        F::Frontier => Some(Activation::Block(0)),
        F::Homestead => block(config.homestead_block),
        F::Dao => block(config.dao_fork_block.filter(|_| config.dao_fork_support)),
        F::Tangerine => block(config.eip150_block),
        F::SpuriousDragon => block(config.eip158_block.or(config.eip155_block)),
        F::Byzantium => block(config.byzantium_block),
        F::Constantinople => block(config.constantinople_block),
        // geth: without a block of its own it comes with Constantinople.
        F::Petersburg => block(config.petersburg_block.or(config.constantinople_block)),
        F::Istanbul => block(config.istanbul_block),
        F::MuirGlacier => block(config.muir_glacier_block),
        F::Berlin => block(config.berlin_block),
        F::London => block(config.london_block),
        F::ArrowGlacier => block(config.arrow_glacier_block),
        F::GrayGlacier => block(config.gray_glacier_block),
        F::Paris => match config.terminal_total_difficulty {
            Some(difficulty) if difficulty.is_zero() => Some(Activation::Block(0)),
            Some(_) => Some(Activation::Merge),
            None => block(config.merge_netsplit_block),
        },
        F::Shanghai => time(config.shanghai_time),
        F::Cancun => time(config.cancun_time),
        F::Prague => time(config.prague_time),
        F::Osaka => time(config.osaka_time),
        F::Bpo1 => time(config.bpo1_time),
        F::Bpo2 => time(config.bpo2_time),
        F::Bpo3 => time(config.bpo3_time),
        F::Bpo4 => time(config.bpo4_time),
        F::Bpo5 => time(config.bpo5_time),
        F::Amsterdam => time(config.amsterdam_time),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::codec;

    fn config(json: &str) -> ChainConfig {
        let all = r#""homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0"#;
        serde_json::from_str(&json.replace("ALL_TO_LONDON", all)).unwrap()
    }

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
    fn an_unknown_fork_in_the_genesis_is_refused_by_name() {
        let config = config(r#"{"chainId": 5, "homesteadBlock": 0, "verkleTime": 99}"#);
        let error = ChainSpec::from_config(&config).unwrap_err();
        assert_eq!(error, ChainSpecError::UnknownFork { field: "verkleTime".into() });
    }

    #[test]
    fn forks_out_of_order_are_refused() {
        let config = config(r#"{"chainId": 5, "homesteadBlock": 9, "byzantiumBlock": 3}"#);
        assert!(matches!(ChainSpec::from_config(&config), Err(ChainSpecError::OutOfOrder { .. })));
    }

    #[test]
    fn a_fork_without_what_it_builds_on_is_refused() {
        let config = config(r#"{"chainId": 5, "homesteadBlock": 0, "londonBlock": 0}"#);
        assert!(matches!(ChainSpec::from_config(&config), Err(ChainSpecError::Missing { .. })));
    }

    #[test]
    fn constantinople_brings_petersburg_with_it() {
        let spec = ChainSpec::from_config(&config(r#"{"chainId": 5, ALL_TO_LONDON}"#)).unwrap();
        assert!(spec.at(&Header::default()).is_petersburg_active_at_block(0));
    }

    #[test]
    fn the_merge_by_difficulty_is_seen_by_the_block() {
        let spec = ChainSpec::from_config(&config(
            r#"{"chainId": 5, ALL_TO_LONDON, "terminalTotalDifficulty": 131072}"#,
        ))
        .unwrap();
        let before = Header { number: 1, difficulty: U256::from(131_072), ..Default::default() };
        let after = Header { number: 2, ..Default::default() };
        assert!(!spec.at(&before).is_paris_active_at_block(1));
        assert!(spec.at(&after).is_paris_active_at_block(2));
    }

    #[test]
    fn blob_parameters_follow_the_schedule() {
        let spec = ChainSpec::from_config(&config(
            r#"{"chainId": 5, ALL_TO_LONDON, "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 100, "pragueTime": 200,
                "blobSchedule": {"cancun": {"target": 3, "max": 6, "baseFeeUpdateFraction": 3338477},
                                 "prague": {"target": 6, "max": 9, "baseFeeUpdateFraction": 5007716}}}"#,
        ))
        .unwrap();
        assert_eq!(spec.blob_params(99), None);
        assert_eq!(spec.blob_params(100).unwrap().max_blob_count, 6);
        assert_eq!(spec.blob_params(200).unwrap().max_blob_count, 9);
    }
}
