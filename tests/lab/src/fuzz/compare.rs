//! Compares two results of one block and finds the first difference.

use alloy_consensus::ReceiptEnvelope;
use alloy_consensus::proofs::calculate_receipt_root;
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::B256;
use common::account::AccountDelta;

use coordinator::validate::{Finished, ValidateError};

/// The results of a block, or the reason for its rejection.
pub(super) type Verdict = Result<Finished, ValidateError>;

/// The first difference between two results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The name of the field.
    pub field: String,
    /// The value that this system computed. It is cut after 1500 characters.
    pub system: String,
    /// The value that alloy-evm computed. It is cut after 1500 characters.
    pub baseline: String,
}

impl Mismatch {
    pub(super) fn new(
        field: impl Into<String>,
        system: impl Into<String>,
        baseline: impl Into<String>,
    ) -> Self {
        Self { field: field.into(), system: clipped(system.into()), baseline: clipped(baseline.into()) }
    }
}

/// The first difference between two verdicts, if there is one. The caller compares state roots. Code
/// that is `known` before the block may be listed again or not: it changes nothing.
pub(super) fn first_difference(
    system: &Verdict,
    baseline: &Verdict,
    known: &dyn Fn(&B256) -> bool,
) -> Option<Mismatch> {
    match (system, baseline) {
        (Ok(system), Ok(baseline)) => results(system, baseline, known),
        (Err(ours), Err(theirs)) if place(ours).is_some() && place(ours) == place(theirs) => {
            let agree = have_one_reason(ours, theirs);
            (!agree).then(|| Mismatch::new("reason of the refusal", verdict(system), verdict(baseline)))
        }
        _ => Some(Mismatch::new("verdict", verdict(system), verdict(baseline))),
    }
}

/// Pairs of reasons that mean the same although the words are not revm's: the system's words, and the
/// baseline's.
const SYNONYMS: &[(&str, &str)] = &[
    ("left in the block", "more than blocks available gas"),
    // The drafter checks the sum of a block's blobs, and does so first.
    ("left in the block", TOO_MANY_BLOBS),
];

/// The drafter's reason for a block with too many blobs.
pub(super) const TOO_MANY_BLOBS: &str = "too many blobs in the block";

/// Whether two rejections at the same place have the same reason. For transactions both sides quote
/// revm; alloy-evm adds its own words before the quotation. For blocks that are rejected as a whole
/// only the place is compared.
fn have_one_reason(system: &ValidateError, baseline: &ValidateError) -> bool {
    use coordinator::rules::Rejection::Transaction;
    match (system, baseline) {
        (
            ValidateError::Rejected(Transaction { reason: ours, .. }),
            ValidateError::Rejected(Transaction { reason: theirs, .. }),
        ) => {
            let synonyms = |(our, their): &(&str, &str)| ours.contains(our) && theirs.contains(their);
            theirs.ends_with(ours.as_str()) || SYNONYMS.iter().any(synonyms)
        }
        _ => true,
    }
}

/// The place of a rejection: a transaction, or the block as a whole. `None` for a state that cannot be
/// read.
fn place(error: &ValidateError) -> Option<Option<u32>> {
    match error {
        ValidateError::Rejected(coordinator::rules::Rejection::Transaction { index, .. }) => {
            Some(Some(index.0))
        }
        ValidateError::Rejected(_) => Some(None),
        ValidateError::State(_) => None,
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Ok(_) => "accepted".into(),
        Err(ValidateError::Rejected(rejection)) => format!("refused: {rejection}"),
        Err(ValidateError::State(error)) => format!("broken: {error}"),
    }
}

fn results(system: &Finished, baseline: &Finished, known: &dyn Fn(&B256) -> bool) -> Option<Mismatch> {
    let code = |finished: &Finished| {
        finished.code.iter().filter(|(hash, _)| !known(hash)).cloned().collect::<Vec<_>>()
    };
    let receipts = system.receipts.iter().zip(baseline.receipts.iter()).zip(0..);
    for ((ours, theirs), index) in receipts {
        if ours != theirs {
            let field = format!("receipt of transaction {index}");
            return Some(Mismatch::new(field, receipt(ours), receipt(theirs)));
        }
    }
    // The library computes the baseline's root, ours is our own.
    let root = system.rooted.then(|| system.receipts.root());
    let decoded = baseline.receipts.decode().unwrap_or_default();
    let expected = baseline.rooted.then(|| calculate_receipt_root(&decoded));
    differ("number of receipts", &system.receipts.len(), &baseline.receipts.len())
        .or_else(|| differ("receiptsRoot", &root, &expected))
        .or_else(|| differ("gasUsed", &system.gas_used, &baseline.gas_used))
        .or_else(|| differ("blobGasUsed", &system.blob_gas_used, &baseline.blob_gas_used))
        .or_else(|| differ("logsBloom", &system.receipts.bloom(), &baseline.receipts.bloom()))
        .or_else(|| differ("requests", &system.requests, &baseline.requests))
        .or_else(|| changes(&system.changes, &baseline.changes))
        .or_else(|| differ("code", &code(system), &code(baseline)))
}

/// A receipt without its bloom, which is useless to a reader.
fn receipt(mut bytes: &[u8]) -> String {
    let receipt = match ReceiptEnvelope::decode_2718(&mut bytes) {
        Ok(receipt) => receipt,
        Err(error) => return format!("no receipt: {error}"),
    };
    let (kind, status, gas) = (receipt.tx_type(), receipt.status(), receipt.cumulative_gas_used());
    format!("{kind}, success {status}, {gas} gas so far, logs {:?}", receipt.logs())
}

fn differ<T: PartialEq + std::fmt::Debug>(field: &str, system: &T, baseline: &T) -> Option<Mismatch> {
    (system != baseline).then(|| Mismatch::new(field, format!("{system:?}"), format!("{baseline:?}")))
}

/// Compares changes by account. Both lists are in ascending order of address.
fn changes(system: &[AccountDelta], baseline: &[AccountDelta]) -> Option<Mismatch> {
    let of = |list: &[AccountDelta], delta: &AccountDelta| {
        list.iter().find(|other| other.address == delta.address).cloned()
    };
    for delta in system.iter().chain(baseline) {
        let (ours, theirs) = (of(system, delta), of(baseline, delta));
        if ours != theirs {
            let field = format!("change of account {}", delta.address);
            return Some(Mismatch::new(field, format!("{ours:?}"), format!("{theirs:?}")));
        }
    }
    differ("number of changed accounts", &system.len(), &baseline.len())
}

/// Compares the state roots after a block.
pub(super) fn roots(system: B256, baseline: B256) -> Option<Mismatch> {
    differ("stateRoot", &system, &baseline)
}

/// Cuts a long value to a readable length.
fn clipped(mut text: String) -> String {
    const MOST: usize = 1_500;
    if text.chars().count() > MOST {
        text = text.chars().take(MOST).collect::<String>() + " …";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::id::TxIndex;

    fn refused(index: u32, reason: &str) -> Verdict {
        Err(coordinator::rules::Rejection::Transaction { index: TxIndex(index), reason: reason.into() }
            .into())
    }

    #[test]
    fn refusals_agree_when_transaction_and_reason_are_the_same() {
        let agree = |ours: Verdict, theirs: Verdict| first_difference(&ours, &theirs, &|_| false).is_none();
        assert!(agree(refused(3, "nonce 2 too low"), refused(3, "invalid: nonce 2 too low")));
        assert!(agree(refused(3, "5 left in the block"), refused(3, "more than blocks available gas 5")));
        assert!(!agree(refused(3, "nonce 2 too low"), refused(2, "nonce 2 too low")));
        assert!(!agree(refused(3, "nonce 2 too low"), refused(3, "lack of funds (1) for max fee (2)")));
    }

    #[test]
    fn a_broken_state_agrees_with_nothing() {
        use engine::StateError;
        let broken: Verdict = Err(StateError::MissingCode(B256::ZERO).into());
        assert!(first_difference(&broken, &broken, &|_| false).is_some());
    }
}
