//! Computes the state root of a whole state from scratch. Tests check the incremental trie against it.
//! Its cost grows with the state.

use alloy_consensus::constants::EMPTY_ROOT_HASH;
use alloy_primitives::{B256, keccak256};
use alloy_trie::TrieAccount;
use alloy_trie::root::{state_root_unsorted, storage_root_unsorted};
use engine::replica_view::ReplicaView;
use engine::{StateError, StateView};

/// The state root of a complete state. Its cost grows with the state.
///
/// # Errors
/// [`StateError`] if the state cannot be read.
pub fn state_root(view: &ReplicaView) -> Result<B256, StateError> {
    let mut leaves = Vec::new();
    for address in view.addresses()? {
        let Some(account) = view.account(&address)? else { continue };
        let storage = view.storage(&address)?;
        let storage_root = if storage.is_empty() {
            EMPTY_ROOT_HASH
        } else {
            let hashed = storage.iter().map(|entry| (keccak256(entry.slot.to_be_bytes::<32>()), entry.value));
            storage_root_unsorted(hashed)
        };
        let leaf = TrieAccount {
            nonce: account.nonce,
            balance: account.balance,
            storage_root,
            code_hash: account.code_hash,
        };
        leaves.push((keccak256(address), leaf));
    }
    Ok(state_root_unsorted(leaves))
}
