//! Reads the hardfork schedule from the `config` of a geth genesis file.

use alloy_genesis::ChainConfig;
use alloy_hardforks::EthereumHardfork;
use alloy_primitives::Address;

use super::{Activation, ChainSpec, ChainSpecError, Schedule};

impl ChainSpec {
    /// Reads the schedule from the `config` of a geth genesis file.
    ///
    /// # Errors
    /// [`ChainSpecError`] for forks that this build does not know, for forks out of order, and for
    /// consensus engines with other rules.
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
            deposit_contract: deposit_contract(config),
        })
    }
}

/// Fields that hold an object, that other clients know, and that change no rule.
const HARMLESS_OBJECTS: [&str; 2] = ["checkpoint", "discovery"];

/// Fields of other clients (Besu, Quorum) that change rules without being a fork or an engine.
const RULE_CHANGES: [&str; 8] = [
    "contractSizeLimit",
    "ecCurve",
    "evmStackSize",
    "fixedBaseFee",
    "isQuorum",
    "maxCodeSize",
    "txnSizeLimit",
    "zeroBaseFee",
];

/// geth's rule: if the genesis names no deposit contract, it is the zero address.
fn deposit_contract(config: &ChainConfig) -> Option<Address> {
    config.deposit_contract_address.or_else(|| config.prague_time.map(|_| Address::ZERO))
}

/// Rejects engines and fields whose rules this build does not have.
fn check_supported(config: &ChainConfig) -> Result<(), ChainSpecError> {
    for (field, present) in [("clique", config.clique.is_some()), ("parlia", config.parlia.is_some())] {
        if present {
            return Err(ChainSpecError::OtherEngine { field: field.into() });
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
    if config.eip155_block != config.eip158_block {
        return Err(ChainSpecError::Unsupported {
            field: "eip155Block",
            reason: "must be the same as eip158Block: EIP-155 and EIP-158 begin together (Spurious Dragon), \
                     one of them alone cannot be executed",
        });
    }
    config.extra_fields.iter().try_for_each(|(field, value)| check_extra(field, value))
}

/// Checks a field that the library does not know. geth ignores such fields; this build rejects those
/// that would change a rule.
fn check_extra(field: &str, value: &serde_json::Value) -> Result<(), ChainSpecError> {
    // `null` means the same as an absent field.
    if value.is_null() {
        return Ok(());
    }
    if field.ends_with("Block") || field.ends_with("Time") {
        return Err(ChainSpecError::UnknownFork { field: field.into() });
    }
    let object = value.is_object() && !HARMLESS_OBJECTS.contains(&field);
    if object || RULE_CHANGES.contains(&field) {
        return Err(ChainSpecError::OtherEngine { field: field.into() });
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
        F::Dao if config.dao_fork_support => block(config.dao_fork_block),
        F::Dao => config.dao_fork_block.map(Activation::Refused),
        F::Tangerine => block(config.eip150_block),
        F::SpuriousDragon => block(config.eip158_block),
        F::Byzantium => block(config.byzantium_block),
        F::Constantinople => block(config.constantinople_block),
        // geth's rule: without a block number of its own, Petersburg comes with Constantinople.
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
            // `mergeNetsplitBlock` only tells networks apart. Without a total difficulty no chain merges.
            None => None,
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
    use alloy_hardforks::{EthereumHardforks, ForkCondition};
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

    fn refusal(json: &str) -> ChainSpecError {
        ChainSpec::from_config(&config(json)).unwrap_err()
    }

    #[test]
    fn amsterdam_is_refused_whenever_it_begins() {
        let json = r#"{"chainId": 5, ALL_TO_LONDON, "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 0,
            "pragueTime": 0, "osakaTime": 0, "amsterdamTime": 9999999999}"#;
        assert!(matches!(refusal(json), ChainSpecError::Unsupported { field: "amsterdamTime", .. }));
    }

    #[test]
    fn other_engines_are_refused_by_name() {
        for (field, value) in [
            ("clique", r#"{"period": 1, "epoch": 2}"#),
            ("ibft2", r#"{"blockperiodseconds": 2}"#),
            ("qbft", "{}"),
            ("aura", "{}"),
            ("istanbul", r#"{"epoch": 30000, "policy": 0}"#),
            ("optimism", r#"{"eip1559Elasticity": 6}"#),
            ("somethingNew", "{}"),
            ("contractSizeLimit", "2147483647"),
            ("zeroBaseFee", "true"),
        ] {
            let error = refusal(&format!(r#"{{"chainId": 5, "{field}": {value}}}"#));
            assert!(error.to_string().contains(&format!("config.{field}: ")), "{error}");
        }
    }

    #[test]
    fn fields_that_change_no_rule_are_passed_over() {
        let json = r#"{"chainId": 5, "ethash": {}, "ewasmBlock": null, "aura": null, "clique": null,
            "eip150Hash": "0x0000000000000000000000000000000000000000000000000000000000000000",
            "terminalTotalDifficultyPassed": true, "discovery": {"bootnodes": []}, "comment": "text"}"#;
        ChainSpec::from_config(&config(json)).unwrap();
    }

    #[test]
    fn eip_155_and_eip_158_begin_together_or_are_refused() {
        let begin = r#"{"chainId": 5, "homesteadBlock": 0, "eip150Block": 0"#;
        for rest in
            [r#", "eip155Block": 0}"#, r#", "eip158Block": 0}"#, r#", "eip155Block": 1, "eip158Block": 2}"#]
        {
            let error = refusal(&format!("{begin}{rest}"));
            assert!(
                matches!(error, ChainSpecError::Unsupported { field: "eip155Block", .. }),
                "{rest}: {error}"
            );
        }
    }

    #[test]
    fn a_netsplit_block_without_a_total_difficulty_is_no_merge() {
        let json = r#"{"chainId": 5, ALL_TO_LONDON, "mergeNetsplitBlock": 0}"#;
        let spec = ChainSpec::from_config(&config(json)).unwrap();
        let header = Header { number: 1, difficulty: U256::from(131_072), ..Default::default() };
        assert!(!spec.at(&header).is_paris_active_at_block(1));
        assert!(!spec.after(U256::MAX).is_paris_active_at_block(1));
    }

    #[test]
    fn a_chain_that_does_not_support_the_dao_fork_refuses_it() {
        let json = r#"{"chainId": 5, "homesteadBlock": 0, "daoForkBlock": 5, "daoForkSupport": SUPPORT}"#;
        let of = |support| ChainSpec::from_config(&config(&json.replace("SUPPORT", support))).unwrap();
        let header = Header::default();
        let (pro, contra) = (of("true"), of("false"));
        assert_eq!(pro.at(&header).ethereum_fork_activation(EthereumHardfork::Dao), ForkCondition::Block(5));
        assert_eq!(pro.at(&header).dao_fork_refused_at(), None);
        assert_eq!(contra.at(&header).ethereum_fork_activation(EthereumHardfork::Dao), ForkCondition::Never);
        assert_eq!(contra.at(&header).dao_fork_refused_at(), Some(5));
        // A chain that does not say that it supports the DAO fork refuses it.
        let unsaid =
            ChainSpec::from_config(&config(r#"{"chainId": 5, "homesteadBlock": 0, "daoForkBlock": 5}"#));
        assert_eq!(unsaid.unwrap(), contra);
    }

    #[test]
    fn the_dao_fork_has_its_place_among_the_forks() {
        for json in [
            r#"{"chainId": 5, "daoForkBlock": 5, "daoForkSupport": true}"#,
            r#"{"chainId": 5, "homesteadBlock": 9, "daoForkBlock": 5}"#,
            r#"{"chainId": 5, "homesteadBlock": 0, "daoForkBlock": 5, "eip150Block": 4}"#,
        ] {
            let error = refusal(json);
            assert!(
                matches!(error, ChainSpecError::Missing { .. } | ChainSpecError::OutOfOrder { .. }),
                "{json}: {error}"
            );
        }
    }

    #[test]
    fn the_deposit_contract_is_the_named_one_or_the_zero_address() {
        let prague = r#"{"chainId": 5, ALL_TO_LONDON, "terminalTotalDifficulty": 0, "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0 NAMED}"#;
        let of = |named: &str| {
            let spec = ChainSpec::from_config(&config(&prague.replace("NAMED", named))).unwrap();
            spec.at(&Header::default()).deposit_contract_address()
        };
        assert_eq!(of(""), Some(Address::ZERO));
        let named = r#", "depositContractAddress": "0x00000000219ab540356cbb839cbe05303d7705fa""#;
        assert_eq!(of(named), Some(alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS));
    }
}
