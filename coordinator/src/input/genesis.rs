//! The start of a chain: chain specification, header and state of block 0, from a geth `genesis.json`.
//!
//! The header is built exactly as geth builds it, because its hash identifies the chain.

use common::id::Height;
use std::path::Path;

use alloy_consensus::Header;
use alloy_consensus::constants::EMPTY_WITHDRAWALS;
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_primitives::{B64, B256, Bytes, U64};
use alloy_trie::TrieAccount;
use alloy_trie::root::{state_root_unhashed, storage_root_unhashed};
use common::account::AccountRecord;
use common::chain_spec::{ChainSpec, ChainSpecError};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json::from_bytes;
use super::source::Source;
use super::{InputError, MAX_INPUT_BYTES, StateBuilder};
use ledger::Origin;

/// The gas limit of a genesis that states zero.
const DEFAULT_GAS_LIMIT: u64 = 4_712_388;

/// The base fee in wei of a genesis that has London active and states none (EIP-1559).
const DEFAULT_BASE_FEE: u64 = 1_000_000_000;

/// Block 0 of a chain, and the chain's specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// The specification of the chain that the genesis begins.
    pub spec: ChainSpec,
    /// The header of block 0.
    pub header: Header,
    /// The hash of that header.
    pub hash: B256,
    /// The state after block 0, in ascending order of address.
    pub accounts: Vec<AccountRecord>,
    /// The code of these accounts, in ascending order of hash.
    pub code: Vec<(B256, Bytes)>,
}

/// Why a genesis is rejected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GenesisError {
    /// The chain's specification is not supported.
    #[error(transparent)]
    Spec(#[from] ChainSpecError),
    /// The stated number is not 0.
    #[error("number is {number}, but a chain begins with block 0; set it to 0 or remove it")]
    Number {
        /// The number that the genesis states for its block.
        number: u64,
    },
    /// The base fee does not fit into a header.
    #[error("baseFeePerGas is {base_fee}, more than a header can hold; lower it")]
    BaseFee {
        /// The stated base fee in wei.
        base_fee: u128,
    },
}

/// Fields that the library treats too leniently. geth insists on some of them, whose absence the
/// library would take as zero or as mainnet's chain id. Others belong to the header, and the library
/// leaves them out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Required {
    config: RequiredConfig,
    #[serde(rename = "gasLimit")]
    _gas_limit: IgnoredAny,
    #[serde(rename = "difficulty")]
    _difficulty: IgnoredAny,
    #[serde(rename = "alloc")]
    _alloc: IgnoredAny,
    /// A field that the library does not know at all.
    gas_used: Option<U64>,
}

#[derive(Deserialize)]
struct RequiredConfig {
    #[serde(rename = "chainId")]
    _chain_id: u64,
}

/// Reads a geth `genesis.json`, plain or packed with gzip.
///
/// # Errors
/// [`InputError`] that names the file and, if possible, the field.
pub fn read_genesis(path: &Path) -> Result<Genesis, InputError> {
    let content = Source::open(path)?.read_all(MAX_INPUT_BYTES)?;
    let Required { config: RequiredConfig { _chain_id }, gas_used, .. } = from_bytes(path, &content)?;
    let genesis: alloy_genesis::Genesis = from_bytes(path, &content)?;
    let gas_used = gas_used.map_or(0, |gas| gas.to());
    compose(&genesis, gas_used).map_err(|source| InputError::Genesis { file: path.into(), source })
}

/// Builds block 0 and its state.
///
/// The difficulty is used as stated. Only inside geth can it be absent, for geth to choose one; in a
/// file it cannot.
///
/// # Errors
/// [`GenesisError`] if no chain can start with this genesis.
pub fn genesis_from_parts(genesis: &alloy_genesis::Genesis) -> Result<Genesis, GenesisError> {
    compose(genesis, 0)
}

fn compose(genesis: &alloy_genesis::Genesis, gas_used: u64) -> Result<Genesis, GenesisError> {
    let spec = ChainSpec::from_config(&genesis.config)?;
    if let Some(number) = genesis.number.filter(|number| *number > 0) {
        return Err(GenesisError::Number { number });
    }
    let mut state = StateBuilder::default();
    for (address, account) in &genesis.alloc {
        let slots = account.storage_slots().map(|(slot, value)| (slot.into(), value));
        state.add(*address, account.balance, account.nonce.unwrap_or_default(), account.code.clone(), slots);
    }
    let (accounts, code) = state.finish();
    let header = Header { gas_used, ..header(genesis, state_root(&accounts))? };
    let hash = header.hash_slow();
    Ok(Genesis { spec, header, hash, accounts, code })
}

fn state_root(accounts: &[AccountRecord]) -> B256 {
    state_root_unhashed(accounts.iter().map(|AccountRecord { address, account, storage }| {
        let slots = storage.iter().map(|slot| (slot.slot.into(), slot.value));
        let account = TrieAccount {
            nonce: account.nonce,
            balance: account.balance,
            storage_root: storage_root_unhashed(slots),
            code_hash: account.code_hash,
        };
        (*address, account)
    }))
}

/// Builds the header that geth's `Genesis.ToBlock` builds.
fn header(genesis: &alloy_genesis::Genesis, state_root: B256) -> Result<Header, GenesisError> {
    let base_fee = match genesis.base_fee_per_gas {
        Some(base_fee) => Some(u64::try_from(base_fee).map_err(|_| GenesisError::BaseFee { base_fee })?),
        None => None,
    };
    let mut header = Header {
        parent_hash: genesis.parent_hash.unwrap_or_default(),
        beneficiary: genesis.coinbase,
        state_root,
        difficulty: genesis.difficulty,
        gas_limit: if genesis.gas_limit == 0 { DEFAULT_GAS_LIMIT } else { genesis.gas_limit },
        timestamp: genesis.timestamp,
        extra_data: genesis.extra_data.clone(),
        mix_hash: genesis.mix_hash,
        nonce: B64::from(genesis.nonce),
        base_fee_per_gas: base_fee,
        ..Header::default()
    };
    let config = &genesis.config;
    // As in geth, later forks count only if London is active too.
    if !config.is_london_active_at_block(0) {
        return Ok(header);
    }
    header.base_fee_per_gas = Some(base_fee.unwrap_or(DEFAULT_BASE_FEE));
    let active = |fork: Option<u64>| fork.is_some_and(|time| time <= genesis.timestamp);
    if active(config.shanghai_time) {
        header.withdrawals_root = Some(EMPTY_WITHDRAWALS);
    }
    if active(config.cancun_time) {
        header.blob_gas_used = Some(genesis.blob_gas_used.unwrap_or_default());
        header.excess_blob_gas = Some(genesis.excess_blob_gas.unwrap_or_default());
        header.parent_beacon_block_root = Some(B256::ZERO);
    }
    if active(config.prague_time) {
        header.requests_hash = Some(EMPTY_REQUESTS_HASH);
    }
    Ok(header)
}

/// The origin of a ledger that holds the whole chain.
impl From<Genesis> for Origin {
    fn from(genesis: Genesis) -> Self {
        let Genesis { spec, header, hash, accounts, code } = genesis;
        Self {
            spec,
            height: Height(header.number),
            block_hash: hash,
            ancestors: vec![(header.number, hash)],
            header: Some(header),
            accounts,
            code,
            complete: true,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::tests::{file, gzip};
    use super::*;
    use alloy_primitives::{Address, KECCAK256_EMPTY, U256, b256, keccak256};
    use serde_json::{Value, json};

    fn read(json: &Value) -> Result<Genesis, InputError> {
        let (_dir, path) = file(&serde_json::to_vec(json).unwrap());
        read_genesis(&path)
    }

    fn small() -> Value {
        json!({
            "config": { "chainId": 7, "homesteadBlock": 3, "ethash": {} },
            "gasLimit": "0x0",
            "difficulty": "0x20000",
            "alloc": {
                "0100000000000000000000000000000000000000": {
                    "balance": "1",
                    "storage": {
                        "0x0100000000000000000000000000000000000000000000000000000000000000":
                        "0x0100000000000000000000000000000000000000000000000000000000000000"
                    },
                },
            },
        })
    }

    /// A genesis with all forks up to Prague active from block 0.
    fn modern() -> Value {
        json!({
            "config": {
                "chainId": 1337, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0,
                "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0, "istanbulBlock": 0,
                "berlinBlock": 0, "londonBlock": 0, "terminalTotalDifficulty": 0,
                "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0,
                "blobSchedule": {
                    "cancun": { "target": 3, "max": 6, "baseFeeUpdateFraction": 3338477 },
                    "prague": { "target": 6, "max": 9, "baseFeeUpdateFraction": 5007716 },
                },
            },
            "nonce": "0x42", "timestamp": "0x10", "gasLimit": "0x1c9c380", "difficulty": "0x0",
            "extraData": "0x616263", "mixHash": B256::repeat_byte(5), "coinbase": Address::repeat_byte(6),
            "alloc": {
                (Address::repeat_byte(2).to_string()): { "balance": "0x0", "nonce": "0x1", "code": "0x6001" },
                (Address::repeat_byte(1).to_string()): { "balance": "0x0", "storage": { "0x01": "0x00", "0x02": "0x05" } },
                (Address::repeat_byte(3).to_string()): { "balance": "0x0" },
            },
        })
    }

    #[test]
    fn the_hash_is_the_one_that_the_tests_of_geth_expect() {
        let expected = b256!("89c99d90b79719238d2645c7642f2c9295246e80775b38cfd162b696817fbd50");
        assert_eq!(read(&small()).unwrap().hash, expected);
    }

    #[test]
    fn the_hash_of_sepolia_is_right() {
        let million = "0xd3c21bcecceda1000000";
        let quarter = "0x52b7d2dcc80cd2e4000000";
        let alloc = json!({
            "0xa2A6d93439144FFE4D27c9E088dCD8b783946263": { "balance": million },
            "0xBc11295936Aa79d594139de1B2e12629414F3BDB": { "balance": million },
            "0x7cF5b79bfe291A67AB02b393E456cCc4c266F753": { "balance": million },
            "0xaaec86394441f915bce3e6ab399977e9906f3b69": { "balance": million },
            "0xF47CaE1CF79ca6758Bfc787dbD21E6bdBe7112B8": { "balance": million },
            "0xd7eDDB78ED295B3C9629240E8924fb8D8874ddD8": { "balance": million },
            "0x8b7F0977Bb4f0fBE7076FA22bC24acA043583F5e": { "balance": million },
            "0xe2e2659028143784d557bcec6ff3a0721048880a": { "balance": million },
            "0xd9a5179f091d85051d3c982785efd1455cec8699": { "balance": million },
            "0xbeef32ca5b9a198d27B4e02F4c70439fE60356Cf": { "balance": million },
            "0x0000006916a87b82333f4245046623b23794c65c": { "balance": "0x84595161401484a000000" },
            "0xb21c33de1fab3fa15499c62b59fe0cc3250020d1": { "balance": quarter },
            "0x10F5d45854e038071485AC9e402308cF80D2d2fE": { "balance": quarter },
            "0xd7d76c58b3a519e9fA6Cc4D22dC017259BC49F1E": { "balance": quarter },
            "0x799D329e5f583419167cD722962485926E338F4a": { "balance": "0xde0b6b3a7640000" },
        });
        let genesis = read(&json!({
            "config": {
                "chainId": 11155111, "homesteadBlock": 0, "eip150Block": 0, "eip155Block": 0, "eip158Block": 0,
                "byzantiumBlock": 0, "constantinopleBlock": 0, "petersburgBlock": 0, "istanbulBlock": 0,
                "muirGlacierBlock": 0, "berlinBlock": 0, "londonBlock": 0, "mergeNetsplitBlock": 1735371,
                "terminalTotalDifficulty": 17000000000000000u64, "shanghaiTime": 1677557088, "ethash": {},
            },
            "nonce": "0x00", "timestamp": "0x6159af19", "gasLimit": "0x1c9c380", "difficulty": "0x20000",
            "extraData": "0x5365706f6c69612c20417468656e732c204174746963612c2047726565636521",
            "alloc": alloc,
        }));
        let expected = b256!("25a5cc106eea7138acab33231d7160d69cb777ee0c2c553fcddf5138993e6dd9");
        assert_eq!(genesis.unwrap().hash, expected);
    }

    #[test]
    fn the_fields_of_active_forks_are_in_the_header() {
        let Genesis { header, hash, .. } = read(&modern()).unwrap();
        assert_eq!(header.base_fee_per_gas, Some(1_000_000_000));
        assert_eq!(header.withdrawals_root, Some(EMPTY_WITHDRAWALS));
        assert_eq!((header.blob_gas_used, header.excess_blob_gas), (Some(0), Some(0)));
        assert_eq!(header.parent_beacon_block_root, Some(B256::ZERO));
        let sha256 = b256!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(header.requests_hash, Some(sha256));
        assert_eq!(header.nonce, B64::from(0x42u64));
        assert_eq!(hash, header.hash_slow());
    }

    #[test]
    fn forks_after_the_genesis_leave_no_trace_in_its_header() {
        let mut json = modern();
        for (field, time) in [("shanghaiTime", 0x10), ("cancunTime", 0x11), ("pragueTime", 0x12)] {
            json["config"][field] = json!(time);
        }
        let header = read(&json).unwrap().header;
        assert_eq!(header.withdrawals_root, Some(EMPTY_WITHDRAWALS));
        assert_eq!((header.parent_beacon_block_root, header.requests_hash), (None, None));
        assert_eq!((header.blob_gas_used, header.excess_blob_gas), (None, None));
    }

    #[test]
    fn the_state_holds_every_account_even_an_empty_one() {
        let Genesis { accounts, code, header, .. } = read(&modern()).unwrap();
        let addresses: Vec<_> = accounts.iter().map(|record| record.address).collect();
        assert_eq!(addresses, [1, 2, 3].map(Address::repeat_byte));
        assert_eq!(accounts[0].storage.len(), 1);
        assert_eq!(accounts[0].storage[0].value, U256::from(5));
        assert!(accounts[2].account.is_empty());
        assert_eq!(accounts[2].account.code_hash, KECCAK256_EMPTY);
        assert_eq!(code, [(keccak256([0x60, 0x01]), Bytes::from_static(&[0x60, 0x01]))]);
        let mut without = modern();
        without["alloc"].as_object_mut().unwrap().remove(&Address::repeat_byte(3).to_string());
        assert_ne!(read(&without).unwrap().header.state_root, header.state_root);
    }

    #[test]
    fn the_gas_used_that_a_genesis_states_is_in_its_header() {
        assert_eq!(read(&small()).unwrap().header.gas_used, 0);
        for stated in [json!("0x5208"), json!("21000"), json!(21_000)] {
            let mut json = small();
            json["gasUsed"] = stated;
            let genesis = read(&json).unwrap();
            assert_eq!(genesis.header.gas_used, 21_000);
            assert_eq!(genesis.hash, genesis.header.hash_slow());
        }
    }

    #[test]
    fn a_packed_genesis_reads_like_a_plain_one() {
        let (_dir, path) = file(&gzip(&serde_json::to_vec(&modern()).unwrap()));
        assert_eq!(read_genesis(&path).unwrap(), read(&modern()).unwrap());
    }

    #[test]
    fn what_geth_insists_on_must_be_there() {
        for field in ["config", "gasLimit", "difficulty", "alloc"] {
            let mut json = small();
            json.as_object_mut().unwrap().remove(field);
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(&format!("field {field}: missing")), "{error}");
        }
        let mut json = small();
        json["config"].as_object_mut().unwrap().remove("chainId");
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains("field config.chainId: missing"), "{error}");
    }

    #[test]
    fn a_wrong_field_is_named() {
        let mut json = modern();
        let address = Address::repeat_byte(2).to_string();
        json["alloc"][&address]["balance"] = json!("rich");
        let error = read(&json).unwrap_err().to_string();
        assert!(error.contains(&format!("field alloc.{address}.balance: ")), "{error}");
    }

    #[test]
    fn what_cannot_begin_a_chain_is_refused() {
        let mut json = small();
        json["number"] = json!("0x5");
        assert!(matches!(
            read(&json),
            Err(InputError::Genesis { source: GenesisError::Number { number: 5 }, .. })
        ));
        let mut json = small();
        json["config"]["clique"] = json!({ "period": 1, "epoch": 2 });
        assert!(matches!(read(&json), Err(InputError::Genesis { source: GenesisError::Spec(_), .. })));
        let mut json = modern();
        json["baseFeePerGas"] = json!("0x10000000000000000");
        assert!(matches!(read(&json), Err(InputError::Genesis { source: GenesisError::BaseFee { .. }, .. })));
    }
}
