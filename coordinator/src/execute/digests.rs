//! Digests of a block's results. They are equal under every plan, so they can compare two executions.

use alloy_primitives::B256;
use common::codec;

use crate::validate::Finished;
use ledger::Tip;

/// The digests of one block's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// The digest of every receipt's encoding, in order.
    pub receipts: B256,
    /// The digest of all changes to the state; `None` if they are too large to encode.
    pub delta: Option<B256>,
}

impl Digests {
    /// Computes the digests of an executed block; `tip` is the state after it.
    #[must_use]
    pub fn of(finished: &Finished, tip: &Tip) -> Self {
        let mut bytes = Vec::new();
        finished.receipts.encode_list(&mut bytes);
        let receipts = codec::payload_digest(&bytes);
        let changes = tip.delta().and_then(|delta| {
            codec::encode("changes", &(&delta.accounts, &delta.code), codec::MAX_PAYLOAD_BYTES).ok()
        });
        Self { receipts, delta: changes.map(|bytes| codec::payload_digest(&bytes)) }
    }
}
