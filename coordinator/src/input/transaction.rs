//! Transactions in the form of JSON-RPC answers.
//!
//! They are decoded without serde's `flatten`, so that an error contains the field's path. Each type's
//! own fields are decoded by its library. `from` is ignored, because the file cannot be trusted about
//! it.

use alloy_consensus::transaction::{RlpEcdsaDecodableTx, from_eip155_value};
use alloy_consensus::{Signed, TxEip1559, TxEip2930, TxEip4844, TxEip7702, TxLegacy};
use alloy_primitives::{B256, Signature, U64, U256};
use common::block::Transaction;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json::{FieldError, from_value};

/// The fields that all types have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    /// Absent from answers older than typed transactions.
    r#type: Option<U64>,
    hash: B256,
    r: U256,
    s: U256,
    v: Option<U256>,
    y_parity: Option<U256>,
}

impl Envelope {
    fn signature(&self, odd_y: bool) -> Signature {
        Signature::new(self.r, self.s, odd_y)
    }

    /// The parity of the signature, which typed transactions sign with. Older answers call it `v`.
    fn parity(&self) -> Result<bool, FieldError> {
        let (field, value) = match (self.y_parity, self.v) {
            (Some(parity), _) => ("yParity", parity),
            (None, Some(v)) => ("v", v),
            (None, None) => return Err(FieldError::new("yParity", "missing")),
        };
        if value > U256::ONE {
            return Err(FieldError::new(field, format!("must be 0 or 1, not {value}")));
        }
        Ok(value == U256::ONE)
    }
}

/// Decodes one transaction and checks its hash.
pub(super) fn transaction(value: &Value) -> Result<Transaction, FieldError> {
    if value.is_string() {
        let reason = "the block lists only the transaction's hash";
        let remedy = "ask for the block with eth_getBlockByNumber(number, true)";
        return Err(FieldError { field: String::new(), reason: reason.into(), remedy });
    }
    let envelope: Envelope = from_value(value)?;
    let transaction = match envelope.r#type.unwrap_or_default().to::<u64>() {
        0 => legacy(value, &envelope)?.into(),
        1 => typed::<TxEip2930>(value, &envelope)?.into(),
        2 => typed::<TxEip1559>(value, &envelope)?.into(),
        3 => typed::<TxEip4844>(value, &envelope)?.into(),
        4 => typed::<TxEip7702>(value, &envelope)?.into(),
        other => {
            let reason = format!("this build knows no transactions of type {other}");
            return Err(FieldError { field: "type".into(), reason, remedy: "use a newer build" });
        }
    };
    check_hash(&transaction, envelope.hash)?;
    Ok(transaction)
}

fn typed<T>(value: &Value, envelope: &Envelope) -> Result<Signed<T>, FieldError>
where
    T: DeserializeOwned + RlpEcdsaDecodableTx,
{
    let parity = envelope.parity()?;
    Ok(Signed::new_unhashed(from_value::<T>(value)?, envelope.signature(parity)))
}

/// Decodes a legacy transaction. Before EIP-155 `v` is 27 or 28; afterwards it contains the chain id.
fn legacy(value: &Value, envelope: &Envelope) -> Result<Signed<TxLegacy>, FieldError> {
    let mut tx: TxLegacy = from_value(value)?;
    if tx.gas_price == u128::MAX {
        // The library would saturate here instead of failing.
        return Err(FieldError::new("gasPrice", "too large"));
    }
    let v = envelope.v.ok_or_else(|| FieldError::new("v", "missing"))?;
    let (parity, chain_id) = u128::try_from(v).ok().and_then(from_eip155_value).ok_or_else(|| {
        FieldError::new(
            "v",
            format!("must be 27, 28, or at least 35 (EIP-155) for a legacy transaction, not {v}"),
        )
    })?;
    if let (Some(stated), Some(signed)) = (tx.chain_id, chain_id)
        && stated != signed
    {
        return Err(FieldError::new("chainId", format!("is {stated}, but v ({v}) means chain {signed}")));
    }
    // Some nodes state the chain id even if the signature does not cover it.
    tx.chain_id = chain_id;
    Ok(Signed::new_unhashed(tx, envelope.signature(parity)))
}

fn check_hash(transaction: &Transaction, stated: B256) -> Result<(), FieldError> {
    let computed = *transaction.hash();
    if computed == stated {
        return Ok(());
    }
    Err(FieldError {
        field: "hash".into(),
        reason: format!("is {stated}, but the transaction's other fields hash to {computed}"),
        remedy: "one of them was changed: fetch the block again",
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use alloy_consensus::{SignableTransaction, Transaction as _};
    use alloy_eips::eip2930::{AccessList, AccessListItem};
    use alloy_eips::eip7702::{Authorization, SignedAuthorization};
    use alloy_primitives::{Address, TxKind};
    use serde_json::json;

    fn signature(odd_y: bool) -> Signature {
        Signature::new(U256::from(0xabc), U256::from(0xdef), odd_y)
    }

    fn access_list() -> AccessList {
        let item = AccessListItem { address: Address::repeat_byte(9), storage_keys: vec![B256::ZERO] };
        AccessList(vec![item])
    }

    /// One transaction of every type.
    fn samples() -> Vec<Transaction> {
        let to = TxKind::Call(Address::repeat_byte(7));
        let legacy =
            TxLegacy { nonce: 3, gas_price: 10_000_000_000, gas_limit: 21_000, to, ..Default::default() };
        let replayable = legacy.clone();
        let protected = TxLegacy { chain_id: Some(1), ..legacy.clone() };
        let creation = TxLegacy { to: TxKind::Create, input: vec![1, 2].into(), ..legacy };
        let listed =
            TxEip2930 { chain_id: 1, gas_price: 5, to, access_list: access_list(), ..Default::default() };
        let priced = TxEip1559 { chain_id: 1, max_fee_per_gas: u128::MAX, to, ..Default::default() };
        let blobs = TxEip4844 {
            chain_id: 1,
            max_fee_per_blob_gas: 7,
            blob_versioned_hashes: vec![B256::repeat_byte(1)],
            ..Default::default()
        };
        let authorization = Authorization { chain_id: U256::ONE, address: Address::ZERO, nonce: 1 };
        let authorization = SignedAuthorization::new_unchecked(authorization, 1, U256::ONE, U256::ONE);
        let delegating =
            TxEip7702 { chain_id: 1, authorization_list: vec![authorization], ..Default::default() };
        vec![
            replayable.into_signed(signature(false)).into(),
            protected.into_signed(signature(true)).into(),
            creation.into_signed(signature(true)).into(),
            listed.into_signed(signature(true)).into(),
            priced.into_signed(signature(false)).into(),
            blobs.into_signed(signature(true)).into(),
            delegating.into_signed(signature(true)).into(),
        ]
    }

    fn sample(index: usize) -> Value {
        serde_json::to_value(&samples()[index]).unwrap()
    }

    #[test]
    fn every_type_survives_json() {
        for expected in samples() {
            let json = serde_json::to_value(&expected).unwrap();
            assert_eq!(transaction(&json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn a_transaction_without_type_is_legacy() {
        for (index, v, chain_id) in [(0, "0x1b", None), (1, "0x26", Some(1))] {
            let mut json = sample(index);
            assert_eq!(json["v"], v);
            json.as_object_mut().unwrap().remove("type");
            assert_eq!(transaction(&json).unwrap().chain_id(), chain_id);
            json["type"] = Value::Null;
            assert_eq!(transaction(&json).unwrap().chain_id(), chain_id);
        }
    }

    #[test]
    fn a_stated_chain_that_the_signature_does_not_cover_is_dropped() {
        let mut json = sample(0);
        json["chainId"] = json!("0x1");
        assert_eq!(transaction(&json).unwrap().chain_id(), None);
    }

    #[test]
    fn a_chain_that_disagrees_with_the_signature_is_an_error() {
        let mut json = sample(1);
        json["chainId"] = json!("0x5");
        assert_eq!(transaction(&json).unwrap_err().field, "chainId");
    }

    #[test]
    fn the_sender_is_neither_needed_nor_believed() {
        let mut json = sample(3);
        json["from"] = json!("nonsense");
        assert_eq!(transaction(&json).unwrap(), samples()[3]);
    }

    #[test]
    fn older_answers_call_the_parity_v() {
        let mut json = sample(4);
        let parity = json.as_object_mut().unwrap().remove("yParity").unwrap();
        json["v"] = parity;
        assert_eq!(transaction(&json).unwrap(), samples()[4]);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (index, field, value) in [
            (0, "gas", json!("lots")),
            (0, "v", json!("0x1d")),
            (0, "v", json!("0xffffffffffffffffffffffffff")),
            (0, "gasPrice", json!("0x100000000000000000000000000000000")),
            (1, "hash", json!(B256::ZERO)),
            (2, "input", json!("0x1")),
            (3, "type", json!("0x7e")),
            (4, "maxFeePerGas", json!("0x100000000000000000000000000000000")),
            (4, "yParity", json!("0x2")),
            (5, "to", json!(null)),
        ] {
            let mut json = sample(index);
            json[field] = value;
            let fault = transaction(&json).unwrap_err();
            assert_eq!(fault.field, field, "{fault:?}");
        }
    }

    #[test]
    fn a_wrong_field_inside_a_list_is_named_by_its_path() {
        let mut json = sample(3);
        json["accessList"][0]["storageKeys"][0] = json!("0x1");
        assert_eq!(transaction(&json).unwrap_err().field, "accessList[0].storageKeys[0]");
    }

    #[test]
    fn a_missing_field_is_named() {
        for field in ["gas", "nonce", "value", "input", "hash", "r", "v"] {
            let mut json = sample(0);
            json.as_object_mut().unwrap().remove(field);
            let fault = transaction(&json).unwrap_err();
            assert_eq!((fault.field.as_str(), fault.reason.as_str()), (field, "missing"));
        }
    }

    #[test]
    fn a_mere_hash_says_how_to_ask_for_the_transaction() {
        let fault = transaction(&json!(B256::ZERO)).unwrap_err();
        assert!(fault.remedy.contains("eth_getBlockByNumber(number, true)"));
    }
}
