//! Recovers senders with libsecp256k1, under the signature rules of the block's fork.

use alloy_consensus::Transaction as _;
use alloy_consensus::transaction::SignerRecoverable;
use alloy_primitives::Address;
use common::block::Transaction;
use common::work::BadSignature;
use revm::primitives::hardfork::SpecId;

/// Recovers the sender of a transaction.
///
/// Signatures with a high `s` are legal before Homestead (EIP-2). Replay protection exists from
/// Spurious Dragon on (EIP-155).
///
/// # Errors
/// [`BadSignature`] if the signature is not valid under these rules.
pub fn recover_sender(transaction: &Transaction, spec: SpecId) -> Result<Address, BadSignature> {
    if let Transaction::Legacy(legacy) = transaction
        && legacy.chain_id().is_some()
        && !spec.is_enabled_in(SpecId::SPURIOUS_DRAGON)
    {
        return Err(BadSignature("it names a chain id, which this fork does not know (EIP-155)".into()));
    }
    let sender = if spec.is_enabled_in(SpecId::HOMESTEAD) {
        transaction.recover_signer()
    } else {
        transaction.recover_signer_unchecked()
    };
    sender.map_err(|error| BadSignature(format!("the signature has no sender: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::{SignableTransaction, TxLegacy};
    use alloy_primitives::{Signature, U256, uint};

    /// The order of secp256k1, less one: the highest possible `s`.
    const HIGH_S: U256 = uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364140_U256);

    fn signed(chain_id: Option<u64>, s: U256) -> Transaction {
        let tx = TxLegacy { chain_id, gas_limit: 21_000, ..Default::default() };
        tx.into_signed(Signature::new(U256::from(1), s, false)).into()
    }

    #[test]
    fn a_high_s_is_legal_only_before_homestead() {
        let tx = signed(None, HIGH_S);
        assert!(recover_sender(&tx, SpecId::HOMESTEAD).is_err());
        let frontier = recover_sender(&tx, SpecId::FRONTIER);
        assert!(frontier.is_ok(), "{frontier:?}");
    }

    #[test]
    fn a_chain_id_is_legal_only_from_spurious_dragon_on() {
        let tx = signed(Some(1), U256::from(9));
        assert!(recover_sender(&tx, SpecId::TANGERINE).is_err());
        assert!(recover_sender(&tx, SpecId::SPURIOUS_DRAGON).is_ok());
    }
}
