//! The genesis of a generated chain.
//!
//! Every fork up to Prague is active from the first block on. The state contains the funded
//! accounts and the system contracts that Cancun and Prague call. The genesis has geth's format.
//! It does not contain the contracts of the traffic, which block 1 deploys.

use alloy_eips::{
    eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE},
    eip4788::{BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE},
    eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS,
    eip7002::{WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE},
    eip7251::{CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, CONSOLIDATION_REQUEST_PREDEPLOY_CODE},
    eip7840::BlobParams,
};
use alloy_genesis::{ChainConfig, Genesis, GenesisAccount};
use alloy_primitives::{Address, Bytes, U256};

use super::accounts::INITIAL_BALANCE;

/// The base fee of the genesis block in wei: 1 gwei.
const BASE_FEE: u128 = 1_000_000_000;
/// The time of the genesis block, an arbitrary constant.
const TIMESTAMP: u64 = 1_750_000_000;
/// The length in bytes of the consolidation contract as deployed on mainnet.
const CONSOLIDATION_CODE_LENGTH: usize = 414;

/// The genesis with these funded accounts.
pub(crate) fn genesis(chain_id: u64, gas_limit: u64, funded: impl Iterator<Item = Address>) -> Genesis {
    let rich = GenesisAccount::default().with_balance(INITIAL_BALANCE);
    let accounts = funded.map(|address| (address, rich.clone()));
    Genesis { config: config(chain_id), ..Genesis::default() }
        .with_gas_limit(gas_limit)
        .with_base_fee(Some(BASE_FEE))
        .with_timestamp(TIMESTAMP)
        .with_difficulty(U256::ZERO)
        .extend_accounts(accounts)
        .extend_accounts(system_contracts())
}

fn config(chain_id: u64) -> ChainConfig {
    let blob_schedule = [("cancun", BlobParams::cancun()), ("prague", BlobParams::prague())]
        .map(|(fork, parameters)| (fork.to_owned(), parameters));
    ChainConfig {
        chain_id,
        homestead_block: Some(0),
        eip150_block: Some(0),
        eip155_block: Some(0),
        eip158_block: Some(0),
        byzantium_block: Some(0),
        constantinople_block: Some(0),
        petersburg_block: Some(0),
        istanbul_block: Some(0),
        muir_glacier_block: Some(0),
        berlin_block: Some(0),
        london_block: Some(0),
        merge_netsplit_block: Some(0),
        terminal_total_difficulty: Some(U256::ZERO),
        shanghai_time: Some(0),
        cancun_time: Some(0),
        prague_time: Some(0),
        deposit_contract_address: Some(MAINNET_DEPOSIT_CONTRACT_ADDRESS),
        blob_schedule: blob_schedule.into(),
        ..ChainConfig::default()
    }
}

fn system_contracts() -> [(Address, GenesisAccount); 4] {
    [
        (BEACON_ROOTS_ADDRESS, BEACON_ROOTS_CODE.clone()),
        (HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE.clone()),
        (WITHDRAWAL_REQUEST_PREDEPLOY_ADDRESS, WITHDRAWAL_REQUEST_PREDEPLOY_CODE.clone()),
        (CONSOLIDATION_REQUEST_PREDEPLOY_ADDRESS, consolidation_code()),
    ]
    .map(|(address, code)| (address, GenesisAccount::default().with_nonce(Some(1)).with_code(Some(code))))
}

/// The code of the consolidation contract. The library's constant has two more zero bytes at its end
/// than the contract on mainnet. They have no effect, but the code's hash would differ.
fn consolidation_code() -> Bytes {
    let mut code = CONSOLIDATION_REQUEST_PREDEPLOY_CODE.clone();
    code.truncate(CONSOLIDATION_CODE_LENGTH);
    code
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use alloy_primitives::keccak256;

    use super::*;

    #[test]
    fn it_survives_a_trip_through_the_json_of_geth() {
        let genesis = genesis(1337, 60_000_000, [Address::repeat_byte(1)].into_iter());
        let json = serde_json::to_value(&genesis).unwrap();
        assert_eq!(json["config"]["chainId"], 1337);
        assert_eq!(json["config"]["terminalTotalDifficulty"], 0);
        assert_eq!(json["config"]["mergeNetsplitBlock"], 0);
        assert_eq!(json["config"]["pragueTime"], 0);
        assert_eq!(json["config"]["blobSchedule"]["cancun"]["max"], 6);
        assert_eq!(json["config"]["blobSchedule"]["prague"]["max"], 9);
        assert_eq!(json["gasLimit"], "0x3938700");
        assert_eq!(json["baseFeePerGas"], "0x3b9aca00");
        assert_eq!(serde_json::from_value::<Genesis>(json).unwrap(), genesis);
    }

    #[test]
    fn it_has_the_funded_accounts_and_four_system_contracts() {
        let funded = (1..=3).map(Address::repeat_byte);
        let genesis = genesis(1, 60_000_000, funded.clone());
        assert_eq!(genesis.alloc.len(), 7);
        for address in funded {
            assert_eq!(genesis.alloc.get(&address).unwrap().balance, INITIAL_BALANCE);
        }
        let contracts = genesis.alloc.values().filter(|account| account.code.is_some());
        assert!(contracts.clone().all(|account| account.nonce == Some(1)));
        assert_eq!(contracts.count(), 4);
    }

    #[test]
    fn the_consolidation_code_ends_where_that_of_mainnet_does() {
        let code = consolidation_code();
        assert_eq!(code.len(), CONSOLIDATION_CODE_LENGTH);
        assert!(code.ends_with(&[0x5b, 0x5f, 0x5f, 0xfd]), "{}", keccak256(&code));
    }
}
