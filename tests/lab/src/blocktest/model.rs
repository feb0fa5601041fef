//! The suites' file format, as far as this crate uses it: `ethereum/tests` of all years, and
//! execution-spec-tests.
//!
//! Every field is optional, because the folders also contain files of other kinds. A case checks its
//! required fields when it runs.

use std::collections::BTreeMap;
use std::fmt;

use alloy_consensus::Header;
use alloy_primitives::{Address, B64, B256, Bloom, Bytes, U256};
use common::chain_spec::networks::StatedBlobs;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// One case of a file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Case {
    /// The name of the network, which decides the rules.
    pub network: Option<String>,
    /// The header of block 0.
    pub genesis_block_header: Option<CaseHeader>,
    /// Block 0 as RLP.
    #[serde(rename = "genesisRLP")]
    pub genesis_rlp: Option<Bytes>,
    /// The state after block 0.
    pub pre: Option<BTreeMap<Address, PlainAccount>>,
    /// The blocks to import, in order. They need not form one chain.
    pub blocks: Option<Vec<CaseBlock>>,
    /// The hash of the expected head.
    pub lastblockhash: Option<B256>,
    /// The expected state after the head.
    pub post_state: Option<BTreeMap<Address, PlainAccount>>,
    /// The root of that state, for files in which the state itself would be too large.
    pub post_state_hash: Option<B256>,
    /// The engine that checks seals: `NoProof`, or `Ethash` in old files.
    pub seal_engine: Option<String>,
    /// Parameters beside the network (execution-spec-tests).
    pub config: Option<CaseConfig>,
    /// Messages of the engine API. A case with this field is not a block test.
    pub engine_new_payloads: Option<serde::de::IgnoredAny>,
}

/// An account as the file states it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PlainAccount {
    /// The balance in wei.
    pub balance: Quantity,
    /// The nonce. If it has more than 64 bits in `pre`, the case fails.
    pub nonce: Quantity,
    /// The runtime code; empty for an account without code.
    pub code: Bytes,
    /// The slots, possibly including zero ones.
    pub storage: BTreeMap<Quantity, Quantity>,
}

/// A block to import.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaseBlock {
    /// The encoded block. If it is absent, the case is skipped.
    pub rlp: Option<Bytes>,
    /// The decoded header; absent if the block must be rejected.
    pub block_header: Option<HashOnly>,
    /// The exception to expect if the block must be rejected.
    pub expect_exception: Option<String>,
    /// The same field in older files.
    #[serde(rename = "expectExceptionALL")]
    pub expect_exception_all: Option<String>,
}

impl CaseBlock {
    /// The expected exception if the block must be rejected; `None` if it must be accepted.
    #[must_use]
    pub fn must_be_refused(&self) -> Option<&str> {
        let stated = self.expect_exception.as_deref().or(self.expect_exception_all.as_deref());
        // Older files name the exception by network, or not at all.
        let unstated = self.block_header.is_none().then_some("no reason is given");
        stated.or(unstated)
    }
}

/// A header of which only the hash is needed.
#[derive(Debug, Clone, Deserialize)]
pub struct HashOnly {
    /// The hash that the imported block must have; `None` if the file does not state one.
    pub hash: Option<B256>,
}

/// Parameters beside the network.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaseConfig {
    /// The chain id that transactions are signed for; 1 if the file states none.
    #[serde(alias = "chainid")]
    pub chain_id: Option<Quantity>,
    /// Blob parameters by the fork's name.
    pub blob_schedule: BTreeMap<String, BlobEntry>,
}

/// Blob parameters of one fork (EIP-7840).
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobEntry {
    /// The target number of blobs in a block.
    pub target: Quantity,
    /// The maximum number of blobs in a block.
    pub max: Quantity,
    /// The base fee's update fraction: the greater it is, the slower the fee moves.
    pub base_fee_update_fraction: Quantity,
}

impl BlobEntry {
    /// The parameters, or the name of the field that is out of range.
    pub(super) fn stated(&self) -> Result<StatedBlobs, &'static str> {
        Ok(StatedBlobs {
            target: self.target.word("target")?,
            max: self.max.word("max")?,
            update_fraction: self.base_fee_update_fraction.word("baseFeeUpdateFraction")?,
        })
    }
}

/// A header as the file states it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaseHeader {
    hash: Option<B256>,
    parent_hash: B256,
    uncle_hash: B256,
    coinbase: Address,
    state_root: B256,
    transactions_trie: B256,
    receipt_trie: B256,
    bloom: Bloom,
    difficulty: Quantity,
    number: Quantity,
    gas_limit: Quantity,
    gas_used: Quantity,
    timestamp: Quantity,
    extra_data: Bytes,
    mix_hash: B256,
    nonce: B64,
    base_fee_per_gas: Option<Quantity>,
    withdrawals_root: Option<B256>,
    blob_gas_used: Option<Quantity>,
    excess_blob_gas: Option<Quantity>,
    parent_beacon_block_root: Option<B256>,
    requests_hash: Option<B256>,
    block_access_list_hash: Option<B256>,
    slot_number: Option<Quantity>,
}

impl CaseHeader {
    /// The hash that the file states.
    #[must_use]
    pub fn stated_hash(&self) -> Option<B256> {
        self.hash
    }

    /// The header, if every number is in range.
    ///
    /// # Errors
    /// The name of the field that is out of range.
    pub fn header(&self) -> Result<Header, &'static str> {
        let optional = |value: Option<Quantity>, field| value.map(|value| value.word(field)).transpose();
        Ok(Header {
            parent_hash: self.parent_hash,
            ommers_hash: self.uncle_hash,
            beneficiary: self.coinbase,
            state_root: self.state_root,
            transactions_root: self.transactions_trie,
            receipts_root: self.receipt_trie,
            logs_bloom: self.bloom,
            difficulty: self.difficulty.0,
            number: self.number.word("number")?,
            gas_limit: self.gas_limit.word("gasLimit")?,
            gas_used: self.gas_used.word("gasUsed")?,
            timestamp: self.timestamp.word("timestamp")?,
            extra_data: self.extra_data.clone(),
            mix_hash: self.mix_hash,
            nonce: self.nonce,
            base_fee_per_gas: optional(self.base_fee_per_gas, "baseFeePerGas")?,
            withdrawals_root: self.withdrawals_root,
            blob_gas_used: optional(self.blob_gas_used, "blobGasUsed")?,
            excess_blob_gas: optional(self.excess_blob_gas, "excessBlobGas")?,
            parent_beacon_block_root: self.parent_beacon_block_root,
            requests_hash: self.requests_hash,
            block_access_list_hash: self.block_access_list_hash,
            slot_number: optional(self.slot_number, "slotNumber")?,
        })
    }
}

/// A number in hexadecimal with any number of leading zeros (`0x` is zero), or in decimal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub U256);

impl Quantity {
    /// The value as a 64-bit number, or `field` as the error if it does not fit.
    pub(super) fn word(self, field: &'static str) -> Result<u64, &'static str> {
        u64::try_from(self.0).map_err(|_| field)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor)
    }
}

struct QuantityVisitor;

impl Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of at most 256 bits, in hexadecimal or decimal")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Quantity, E> {
        Ok(Quantity(U256::from(value)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
        let parsed = match text.strip_prefix("0x") {
            Some("") => Ok(U256::ZERO),
            Some(digits) => U256::from_str_radix(digits, 16),
            None => U256::from_str_radix(text, 10),
        };
        parsed.map(Quantity).map_err(|_| E::custom(format!("{text:?} is not a number of at most 256 bits")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn quantity(json: &str) -> Result<U256, serde_json::Error> {
        serde_json::from_str::<Quantity>(json).map(|quantity| quantity.0)
    }

    #[test]
    fn numbers_are_read_in_every_form_that_the_suites_use() {
        for (json, value) in [("\"0x\"", 0), ("\"0x00ff\"", 255), ("\"17\"", 17), ("9", 9)] {
            assert_eq!(quantity(json).unwrap(), U256::from(value), "{json}");
        }
        assert!(quantity("\"0x:bigint 0x1\"").is_err());
    }

    #[test]
    fn a_block_without_a_header_must_be_refused() {
        let block: CaseBlock = serde_json::from_str(r#"{"rlp": "0xc0"}"#).unwrap();
        assert_eq!(block.must_be_refused(), Some("no reason is given"));
        let block: CaseBlock =
            serde_json::from_str(r#"{"rlp": "0xc0", "expectExceptionALL": "TooMuch", "blockHeader": {}}"#)
                .unwrap();
        assert_eq!(block.must_be_refused(), Some("TooMuch"));
        let block: CaseBlock = serde_json::from_str(r#"{"rlp": "0xc0", "blockHeader": {}}"#).unwrap();
        assert_eq!(block.must_be_refused(), None);
    }
}
