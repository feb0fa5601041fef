//! One block with the state that it reads, as JSON: `{block, prestate, blockHashes}`.
//!
//! `block` is the answer of `eth_getBlockByNumber(number, true)`, `prestate` has the form of a
//! `prestateTracer` result, and `blockHashes` holds the ancestors that BLOCKHASH reads. The hashes of
//! the block and of its transactions are recomputed. This module does not check whether the block's
//! content matches its header.

use std::path::Path;

use alloy_consensus::Header;
use alloy_eips::eip2718::Encodable2718;
use alloy_eips::eip4895::Withdrawal;
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use common::account::AccountRecord;
use common::block::{Block, MAX_BLOCK_BYTES, MAX_TRANSACTIONS, Ommers, Transaction};
use serde::Deserialize;
use serde_json::Value;

use super::json::{Entries, FieldError, Number, Word, from_bytes, from_value};
use super::source::Source;
use super::transaction::transaction;
use super::{InputError, InputPosition, MAX_INPUT_BYTES, StateBuilder};

/// A block and all state that its execution reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrestateCase {
    /// The block that the file gives with the state before it.
    pub block: Block,
    /// The accounts and slots that it reads, with their values before the block, in ascending order of
    /// address.
    pub accounts: Vec<AccountRecord>,
    /// The code of these accounts, in ascending order of hash.
    pub code: Vec<(B256, Bytes)>,
    /// Hashes of ancestors by number, ascending.
    pub ancestors: Vec<(u64, B256)>,
}

/// The content of the file. Other fields are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonFile {
    block: Option<Value>,
    prestate: Option<Entries<Address, JsonAccount>>,
    block_hashes: Option<Entries<Number, B256>>,
}

#[derive(Deserialize)]
struct JsonAccount {
    balance: U256,
    nonce: Option<U64>,
    code: Option<Bytes>,
    storage: Option<Entries<Word, Word>>,
}

/// The fields of a block's JSON besides header and transactions.
#[derive(Deserialize)]
struct JsonBlock {
    hash: B256,
    uncles: Option<Vec<B256>>,
    withdrawals: Option<Vec<Withdrawal>>,
}

/// Reads a block with its pre-state from a file, plain or packed with gzip.
///
/// # Errors
/// [`InputError`] that names the file and, if possible, the block, the transaction and the field.
pub fn read_prestate(path: &Path) -> Result<PrestateCase, InputError> {
    parse(path, &Source::open(path)?.read_all(MAX_INPUT_BYTES)?)
}

/// Reads a block with its pre-state from bytes, plain or packed with gzip. Errors use `name` as the
/// file's name.
///
/// # Errors
/// As [`read_prestate`].
pub fn parse_prestate(name: &Path, bytes: &[u8]) -> Result<PrestateCase, InputError> {
    let source = Source::new(name, bytes, Some(bytes.len() as u64))?;
    parse(name, &source.read_all(MAX_INPUT_BYTES)?)
}

fn parse(file: &Path, content: &[u8]) -> Result<PrestateCase, InputError> {
    let JsonFile { block, prestate, block_hashes } = from_bytes(file, content)?;
    let absent = |field| {
        let remedy = "the file must be an object {block, prestate, blockHashes}: collect it again";
        FieldError { field, reason: "missing".into(), remedy }.at(file, InputPosition::default())
    };
    let block = block.filter(|block| !block.is_null()).ok_or_else(|| absent("block".into()))?;
    let prestate = prestate.ok_or_else(|| absent("prestate".into()))?;
    let block = read_block(file, block)?;
    let mut state = StateBuilder::default();
    for (address, account) in prestate.0 {
        let JsonAccount { balance, nonce, code, storage } = account;
        let slots = storage.unwrap_or_default().0.into_iter().map(|(slot, value)| (slot.0, value.0));
        state.add(address, balance, nonce.unwrap_or_default().to(), code, slots);
    }
    let (accounts, code) = state.finish();
    let ancestors =
        block_hashes.unwrap_or_default().0.into_iter().map(|(number, hash)| (number.0, hash)).collect();
    Ok(PrestateCase { block, accounts, code, ancestors })
}

fn read_block(file: &Path, mut value: Value) -> Result<Block, InputError> {
    let number = value.get("number").and_then(|number| from_value::<U64>(number).ok());
    let place = InputPosition { block: number.map(|number| number.to()), transaction: None };
    let in_block = |mut fault: FieldError| {
        fault.field = if fault.field.is_empty() { "block".into() } else { format!("block.{}", fault.field) };
        fault.at(file, place)
    };
    let transactions = take_transactions(&mut value).map_err(in_block)?;
    let header: Header = from_value(&value).map_err(in_block)?;
    let JsonBlock { hash, uncles, withdrawals } = from_value(&value).map_err(in_block)?;
    check_hash(&header, hash).map_err(in_block)?;
    let transactions = (0..)
        .zip(&transactions)
        .map(|(index, json)| {
            let place = InputPosition { transaction: Some(index), ..place };
            transaction(json).map_err(|fault| fault.at(file, place))
        })
        .collect::<Result<Vec<_>, _>>()?;
    check_size(&transactions).map_err(in_block)?;
    let uncles = uncles.unwrap_or_default();
    let ommers = if uncles.is_empty() { Ommers::Headers(Vec::new()) } else { Ommers::Hashes(uncles) };
    Ok(Block { header, hash, transactions, ommers, withdrawals })
}

/// Takes the list out of the block, so that each transaction can be decoded separately.
fn take_transactions(block: &mut Value) -> Result<Vec<Value>, FieldError> {
    match block.get_mut("transactions").map(Value::take) {
        Some(Value::Array(transactions)) if transactions.len() <= MAX_TRANSACTIONS => Ok(transactions),
        Some(Value::Array(transactions)) => {
            let reason = format!("{} are more than a block can have", transactions.len());
            Err(FieldError::new("transactions", reason))
        }
        Some(_) => Err(FieldError::new("transactions", "not a list")),
        None if block.is_object() => Err(FieldError::new("transactions", "missing")),
        None => Err(FieldError::new("", "not an object")),
    }
}

fn check_hash(header: &Header, stated: B256) -> Result<(), FieldError> {
    let computed = header.hash_slow();
    if computed == stated {
        return Ok(());
    }
    Err(FieldError {
        field: "hash".into(),
        reason: format!("is {stated}, but the header's other fields hash to {computed}"),
        remedy: "a field was changed, or is of a fork that this build does not know: \
                 fetch the block again, or use a newer build",
    })
}

fn check_size(transactions: &[Transaction]) -> Result<(), FieldError> {
    let bytes: usize = transactions.iter().map(Encodable2718::encode_2718_len).sum();
    if bytes <= MAX_BLOCK_BYTES {
        return Ok(());
    }
    let reason = format!("{bytes} bytes are more than the {MAX_BLOCK_BYTES} that a block can have");
    Err(FieldError::new("transactions", reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::tests::{file, gzip};
    use super::*;
    use alloy_consensus::{SignableTransaction, TxLegacy};
    use alloy_primitives::{B64, KECCAK256_EMPTY, Signature, keccak256};
    use common::account::SlotValue;
    use serde_json::json;
    use shard_tests::mainnet_dir;
    use std::fs;

    fn header() -> Header {
        Header {
            number: 17,
            nonce: B64::from(0x0102_0304_0506_0708u64),
            base_fee_per_gas: Some(7),
            withdrawals_root: Some(B256::repeat_byte(1)),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(9),
            parent_beacon_block_root: Some(B256::repeat_byte(2)),
            requests_hash: Some(B256::repeat_byte(3)),
            block_access_list_hash: Some(B256::repeat_byte(4)),
            slot_number: Some(11),
            ..Default::default()
        }
    }

    fn case() -> Value {
        let header = header();
        let mut block = serde_json::to_value(&header).unwrap();
        let tx = TxLegacy { gas_limit: 21_000, ..Default::default() };
        let signed = |s: u64| {
            let signature = Signature::new(U256::ONE, U256::from(s), false);
            serde_json::to_value(Transaction::from(tx.clone().into_signed(signature))).unwrap()
        };
        block["hash"] = json!(header.hash_slow());
        block["transactions"] = json!([signed(1), signed(2)]);
        block["uncles"] = json!([]);
        block["totalDifficulty"] = json!("0x1");
        let address = |byte| Address::repeat_byte(byte).to_string();
        json!({
            "block": block,
            "prestate": {
                (address(3)): { "balance": "0x0", "code": "0x", "storage": {} },
                (address(1)): {
                    "balance": "0xde0b6b3a7640000", "nonce": 5, "code": "0x6001",
                    "storage": { "0x02": "0x1", "0x1": format!("{:#066x}", 9), "0x3": "0x0" },
                },
                (address(2)): { "balance": "0x1", "nonce": "0x6", "code": "0x6001" },
            },
            "blockHashes": { "16": B256::repeat_byte(6), "0xf": B256::repeat_byte(5) },
            "comment": "ignored",
        })
    }

    fn read(case: &Value) -> Result<PrestateCase, InputError> {
        parse_prestate(Path::new("case.json"), &serde_json::to_vec(case).unwrap())
    }

    /// The field and the place that the error names.
    fn fault(case: &Value) -> (String, InputPosition) {
        match read(case).unwrap_err() {
            InputError::Field { field, place, .. } => (field, place),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_block_is_read_with_all_fields_of_its_header() {
        let block = read(&case()).unwrap().block;
        assert_eq!(block.header, header());
        assert_eq!(block.hash, header().hash_slow());
        assert_eq!(block.transactions.len(), 2);
        assert_eq!(block.ommers, Ommers::Headers(Vec::new()));
        assert_eq!(block.withdrawals, None);
    }

    #[test]
    fn accounts_slots_and_code_are_in_canonical_form() {
        let PrestateCase { accounts, code, ancestors, .. } = read(&case()).unwrap();
        let addresses: Vec<_> = accounts.iter().map(|record| record.address).collect();
        assert_eq!(addresses, [1, 2, 3].map(Address::repeat_byte));
        let slot = |slot, value| SlotValue { slot: U256::from(slot), value: U256::from(value) };
        assert_eq!(accounts[0].storage, [slot(1, 9), slot(2, 1)]);
        assert_eq!(accounts[0].account.nonce, 5);
        assert_eq!(accounts[1].account.nonce, 6);
        assert_eq!(accounts[2].account.code_hash, KECCAK256_EMPTY);
        assert_eq!(code, [(keccak256([0x60, 0x01]), Bytes::from_static(&[0x60, 0x01]))]);
        assert_eq!(ancestors, [(15, B256::repeat_byte(5)), (16, B256::repeat_byte(6))]);
    }

    #[test]
    fn uncles_and_withdrawals_are_kept_as_far_as_the_answer_tells_them() {
        let mut case = case();
        case["block"]["uncles"] = json!([B256::repeat_byte(8)]);
        case["block"]["withdrawals"] = json!([
            { "index": "0x1", "validatorIndex": "0x2", "address": Address::repeat_byte(4), "amount": "0x3" }
        ]);
        let block = read(&case).unwrap().block;
        assert_eq!(block.ommers, Ommers::Hashes(vec![B256::repeat_byte(8)]));
        assert_eq!(block.withdrawals.unwrap()[0].amount, 3);
    }

    #[test]
    fn a_packed_file_reads_like_a_plain_one() {
        let bytes = serde_json::to_vec(&case()).unwrap();
        let (_dir, path) = file(&gzip(&bytes));
        assert_eq!(read_prestate(&path).unwrap(), read(&case()).unwrap());
    }

    #[test]
    fn a_file_without_block_or_prestate_says_so_and_block_hashes_are_optional() {
        for field in ["block", "prestate"] {
            let mut case = case();
            case.as_object_mut().unwrap().remove(field);
            assert_eq!(fault(&case), (field.into(), InputPosition::default()));
            case[field] = Value::Null;
            assert_eq!(fault(&case), (field.into(), InputPosition::default()));
        }
        let mut case = case();
        case.as_object_mut().unwrap().remove("blockHashes");
        assert_eq!(read(&case).unwrap().ancestors, []);
    }

    #[test]
    fn a_changed_header_is_a_mismatch_of_the_hash() {
        for (field, value) in [("gasUsed", "0x1"), ("slotNumber", "0xc"), ("nonce", "0x0000000000000001")] {
            let mut case = case();
            case["block"][field] = json!(value);
            let block = InputPosition { block: Some(17), transaction: None };
            assert_eq!(fault(&case), ("block.hash".into(), block), "{field}");
        }
    }

    #[test]
    fn a_wrong_field_is_named_with_its_block_and_transaction() {
        let mut broken = case();
        broken["block"]["transactions"][1]["value"] = json!("plenty");
        let error = read(&broken).unwrap_err().to_string();
        assert!(error.starts_with("case.json: block 17, transaction 1: field value: "), "{error}");
        assert!(error.ends_with("; correct the file or fetch it again"), "{error}");

        let block = InputPosition { block: Some(17), transaction: None };
        for (field, value) in [("gasLimit", json!("x")), ("hash", json!(null)), ("withdrawals", json!(1))] {
            let mut broken = case();
            broken["block"][field] = value;
            assert_eq!(fault(&broken), (format!("block.{field}"), block));
        }
        let mut broken = case();
        let address = Address::repeat_byte(1).to_string();
        broken["prestate"][&address]["storage"]["0x2"] = json!("zz");
        broken["prestate"][&address]["storage"].as_object_mut().unwrap().remove("0x02");
        assert_eq!(fault(&broken).0, format!("prestate.{address}.storage.0x2"));
    }

    #[test]
    fn a_changed_transaction_is_a_mismatch_of_its_hash() {
        let mut case = case();
        case["block"]["transactions"][1]["gas"] = json!("0x5209");
        let place = InputPosition { block: Some(17), transaction: Some(1) };
        assert_eq!(fault(&case), ("hash".into(), place));
    }

    #[test]
    fn transactions_must_be_a_list() {
        let mut case = case();
        case["block"]["transactions"] = json!({});
        assert_eq!(fault(&case).0, "block.transactions");
        case["block"].as_object_mut().unwrap().remove("transactions");
        assert_eq!(fault(&case).0, "block.transactions");
        case["block"] = json!("0x1");
        assert_eq!(fault(&case).0, "block");
    }

    #[test]
    fn an_account_that_is_there_twice_is_an_error() {
        let text = serde_json::to_string(&case()).unwrap();
        let address = Address::repeat_byte(1).to_string();
        let double = format!(r#""prestate":{{"{}":{{"balance":"0x0"}},"#, address.to_lowercase());
        let text = text.replace(r#""prestate":{"#, &double);
        let error = parse_prestate(Path::new("f"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("field prestate: ") && error.contains("is there twice"), "{error}");
    }

    #[test]
    fn damaged_json_says_where() {
        let text = serde_json::to_string_pretty(&case()).unwrap();
        for end in [0, 1, text.len() / 2, text.len() - 1] {
            let error = parse_prestate(Path::new("f"), &text.as_bytes()[..end]).unwrap_err();
            assert!(matches!(error, InputError::Json { .. }), "{error}");
        }
        let error = parse_prestate(Path::new("f"), text.replacen(':', ";", 1).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("at line 2 column"), "{error}");
    }

    #[test]
    fn all_recorded_mainnet_blocks_are_read_and_their_bodies_fit_their_headers() {
        let Some(dir) = mainnet_dir().unwrap() else { return };
        let mut count = 0;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let case = read_prestate(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(name, format!("{}.json.gz", case.block.header.number));
            assert_eq!(case.block.header.hash_slow(), case.block.hash);
            assert_eq!(common::block::EncodedBlock::new(case.block).check_body(), Ok(()), "{name}");
            assert!(case.accounts.is_sorted_by(|one, next| one.address < next.address));
            count += 1;
        }
        assert_eq!(count, 41);
    }

    #[test]
    fn every_truncation_of_a_recorded_file_is_an_error() {
        let Some(dir) = mainnet_dir().unwrap() else { return };
        let bytes = fs::read(dir.join("46147.json.gz")).unwrap();
        for end in 0..bytes.len() {
            let error = parse_prestate(Path::new("f"), &bytes[..end]).unwrap_err();
            assert!(matches!(error, InputError::Gzip { .. }) || end < 2, "{end}: {error}");
        }
    }
}
