//! Digests of what a block leads to: equal under every plan, so that two executions can be compared.

use alloy_primitives::B256;
use common::codec;

use crate::validate::Finished;
use ledger::Tip;

/// Digests of what one block leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// Of every receipt's encoding, in order.
    pub receipts: B256,
    /// Of all changes to the state; none where they are too large to be encoded.
    pub delta: Option<B256>,
}

impl Digests {
    /// The digests of a block that was executed; `tip` is the state after it.
    #[must_use]
    pub fn of(finished: &Finished, tip: &Tip) -> Self {
        let mut bytes = Vec::new();
        alloy_rlp::encode_list(&finished.receipts, &mut bytes);
        let receipts = codec::payload_digest(&bytes);
        let changes = tip.delta().and_then(|delta| {
            codec::encode("changes", &(&delta.accounts, &delta.code), codec::MAX_PAYLOAD_BYTES).ok()
        });
        Self { receipts, delta: changes.map(|bytes| codec::payload_digest(&bytes)) }
    }
}
