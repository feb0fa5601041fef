//! The schedule as a geth genesis file's `config` gives it.

use alloy_genesis::ChainConfig;
use alloy_hardforks::EthereumHardfork;

use super::{Activation, ChainSpec, ChainSpecError, Schedule};

impl ChainSpec {
    /// The schedule of a geth genesis file's `config`.
    ///
    /// # Errors
    /// [`ChainSpecError`] for forks this build does not know, forks out of order, and consensus
    /// engines with other rules.
    pub fn from_config(config: &ChainConfig) -> Result<Self, ChainSpecError> {
        check_supported(config)?;
        let forks: Vec<(EthereumHardfork, Activation)> = EthereumHardfork::VARIANTS
            .iter()
            .filter_map(|fork| scheduled(config, *fork).map(|activation| (*fork, activation)))
            .collect();
        let schedule = config.blob_schedule_blob_params();
        let mut blobs = Vec::new();
        for (fork, params) in [
            (EthereumHardfork::Cancun, schedule.cancun),
            (EthereumHardfork::Prague, schedule.prague),
            (EthereumHardfork::Osaka, schedule.osaka),
        ] {
            if let Some((_, Activation::Time(from))) = forks.iter().find(|(candidate, _)| *candidate == fork)
            {
                blobs.push((*from, params));
            }
        }
        blobs.extend(schedule.scheduled);
        Self::from_schedule(Schedule {
            chain_id: config.chain_id,
            terminal_total_difficulty: config.terminal_total_difficulty,
            forks,
            blobs,
            deposit_contract: config.deposit_contract_address,
        })
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
    use alloy_consensus::Header;
    use alloy_hardforks::EthereumHardforks;
    use alloy_primitives::U256;

    fn config(json: &str) -> ChainConfig {
        let all = r#""homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0, "byzantiumBlock": 0, "constantinopleBlock": 0, "istanbulBlock": 0, "berlinBlock": 0, "londonBlock": 0"#;
        serde_json::from_str(&json.replace("ALL_TO_LONDON", all)).unwrap()
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
