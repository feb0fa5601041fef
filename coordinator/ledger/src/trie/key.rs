//! The keys of nodes in a store of ordered keys. A path is written with one byte per nibble, so that
//! keys sort like paths and each trie is one contiguous range.
//!
//! Account keys and storage keys belong to two different tables. The store chooses the table.

use alloy_primitives::B256;
use alloy_trie::Nibbles;

/// The length of a full path in nibbles: that of a hash.
pub(super) const FULL_PATH: usize = 64;

/// Why bytes are not a node's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is too short to hold the hashed address of a storage trie.
    #[error("a storage node's key has {0} bytes, it needs at least 32 for the hashed address")]
    Short(usize),
    /// The path is longer than a hash.
    #[error("a node's path has {0} nibbles, the longest has 64")]
    Long(usize),
    /// A byte of the path is not a nibble.
    #[error("byte {byte:#04x} at position {at} of a node's path is not a nibble (0 to 15)")]
    NotNibble {
        /// The position in the path.
        at: usize,
        /// The byte at that position, which is greater than 15.
        byte: u8,
    },
}

/// The key of a node of the account trie.
pub fn account_key(path: &Nibbles) -> Vec<u8> {
    path.to_vec()
}

/// The key of a node of a storage trie. The keys of one account all begin with its hashed address.
pub fn storage_key(hashed_address: &B256, path: &Nibbles) -> Vec<u8> {
    let mut key = Vec::with_capacity(32 + path.len());
    key.extend_from_slice(hashed_address.as_slice());
    key.extend_from_slice(&path.to_vec());
    key
}

/// Decodes the path that [`account_key`] wrote.
///
/// # Errors
/// [`KeyError`] if the bytes are not such a key.
pub fn decode_account_key(key: &[u8]) -> Result<Nibbles, KeyError> {
    if key.len() > FULL_PATH {
        return Err(KeyError::Long(key.len()));
    }
    match key.iter().enumerate().find(|(_, byte)| **byte > 0xf) {
        Some((at, byte)) => Err(KeyError::NotNibble { at, byte: *byte }),
        None => Ok(Nibbles::from_nibbles_unchecked(key)),
    }
}

/// Decodes the hashed address and the path that [`storage_key`] wrote.
///
/// # Errors
/// [`KeyError`] if the bytes are not such a key.
pub fn decode_storage_key(key: &[u8]) -> Result<(B256, Nibbles), KeyError> {
    let (owner, path) = key.split_first_chunk::<32>().ok_or(KeyError::Short(key.len()))?;
    Ok((B256::from(*owner), decode_account_key(path)?))
}
