//! One node: a batch's change to a leaf, the form of a subtree while its parent is still open, and the
//! loading of stored nodes, which are checked before use.

use alloy_primitives::{B256, U256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};

use super::{AccountFields, Damage, NodeSource, Tree, TrieError};

/// A batch's change at one key.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The whole path of the leaf.
    pub(super) key: Nibbles,
    /// The value after the change.
    pub(super) value: Value,
}

/// The value of a leaf after a batch.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// No value: the leaf is removed.
    Remove,
    /// A slot's value, never zero.
    Slot(U256),
    /// An account. Without a storage root it keeps the one it had.
    Account(AccountFields, Option<B256>),
    /// A value as its leaf encodes it.
    Encoded(Vec<u8>),
}

impl Value {
    pub(super) fn is_removal(&self) -> bool {
        matches!(self, Self::Remove)
    }

    /// The bytes for the leaf, given its old bytes; `None` if the leaf is removed.
    pub(super) fn encode(&self, before: Option<&[u8]>) -> Result<Option<Vec<u8>>, alloy_rlp::Error> {
        Ok(match self {
            Self::Remove => None,
            Self::Slot(value) => Some(alloy_rlp::encode(value)),
            Self::Account(fields, storage_root) => {
                let storage_root = match (storage_root, before) {
                    (Some(root), _) => *root,
                    (None, Some(leaf)) => storage_root_of(leaf)?,
                    (None, None) => EMPTY_ROOT_HASH,
                };
                let AccountFields { nonce, balance, code_hash } = *fields;
                Some(alloy_rlp::encode(TrieAccount { nonce, balance, storage_root, code_hash }))
            }
            Self::Encoded(bytes) => Some(bytes.clone()),
        })
    }
}

/// The storage root in an account's leaf.
pub(super) fn storage_root_of(leaf: &[u8]) -> Result<B256, alloy_rlp::Error> {
    Ok(alloy_rlp::decode_exact::<TrieAccount>(leaf)?.storage_root)
}

/// A subtree after a batch. A branch stays at its place and is already written. A leaf or an extension
/// may still merge into a parent that loses its other children, so its parent writes it.
#[derive(Debug)]
pub(super) enum Shape {
    Empty,
    Leaf { key: Nibbles, value: Vec<u8> },
    Extension { key: Nibbles, child: RlpNode },
    Branch(RlpNode),
}

impl Shape {
    pub(super) fn is_branch(&self) -> bool {
        matches!(self, Self::Branch(_))
    }

    /// This subtree moved up by `prefix`, if it has no sibling there.
    pub(super) fn lifted(self, prefix: &Nibbles) -> Self {
        match self {
            Self::Empty => Self::Empty,
            unmoved if prefix.is_empty() => unmoved,
            Self::Leaf { key, value } => Self::Leaf { key: prefix.join(&key), value },
            Self::Extension { key, child } => Self::Extension { key: prefix.join(&key), child },
            Self::Branch(child) => Self::Extension { key: *prefix, child },
        }
    }
}

/// Loads and checks the nodes of one trie.
#[derive(Debug)]
pub(super) struct Loader<'a, S> {
    pub(super) source: &'a S,
    pub(super) tree: Tree,
    /// The length of this trie's keys in nibbles, at most 64.
    pub(super) key_len: usize,
}

impl<S: NodeSource> Loader<'_, S> {
    /// Loads the node at `path`. `named` is its parent's reference to it: its hash, or the node itself if
    /// it is small.
    pub(super) fn load(&self, path: &Nibbles, named: &RlpNode) -> Result<TrieNode, TrieError> {
        let Some(expected) = named.as_hash() else { return self.decode(path, named.as_slice()) };
        if let Some(bytes) = self.source.verified(&expected) {
            return self.decode(path, &bytes);
        }
        let Some(bytes) = self.source.node(&self.tree, path)? else {
            return Err(self.damaged(path, Damage::Missing { expected }));
        };
        let found = keccak256(&bytes);
        if found != expected {
            return Err(self.damaged(path, Damage::Hash { expected, found }));
        }
        self.source.keep_verified(&expected, &bytes);
        self.decode(path, &bytes)
    }

    /// The error for a leaf at `path` whose value cannot be decoded.
    pub(super) fn bad_value(&self, path: &Nibbles, error: alloy_rlp::Error) -> TrieError {
        self.damaged(path, Damage::Encoding(error))
    }

    /// Decodes a node and checks that no path through it is longer or shorter than the keys.
    fn decode(&self, path: &Nibbles, mut bytes: &[u8]) -> Result<TrieNode, TrieError> {
        let node = TrieNode::decode(&mut bytes).map_err(|error| self.bad_value(path, error))?;
        let room = self.key_len.saturating_sub(path.len());
        let fault = match &node {
            _ if !bytes.is_empty() => Some("bytes follow it"),
            TrieNode::EmptyRoot => Some("an empty node inside a trie"),
            TrieNode::Leaf(leaf) if leaf.key.len() != room => Some("a leaf whose key has the wrong length"),
            TrieNode::Extension(extension) if extension.key.is_empty() => Some("an extension by nothing"),
            TrieNode::Extension(extension) if extension.key.len() >= room => {
                Some("an extension longer than the keys")
            }
            TrieNode::Branch(branch) if branch.state_mask.count_ones() < 2 => {
                Some("a branch with fewer than two children")
            }
            TrieNode::Branch(_) if room == 0 => Some("a branch longer than the keys"),
            _ => None,
        };
        match fault {
            Some(fault) => Err(self.damaged(path, Damage::Shape(fault))),
            None => Ok(node),
        }
    }

    fn damaged(&self, path: &Nibbles, damage: Damage) -> TrieError {
        TrieError::Damaged { tree: self.tree, path: *path, damage }
    }
}

/// A path as hex digits.
pub(super) fn path_text(path: &Nibbles) -> String {
    path.iter().map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('?')).collect()
}

/// `path` extended by one nibble.
pub(super) fn step(path: &Nibbles, nibble: u8) -> Nibbles {
    let mut longer = *path;
    longer.push_unchecked(nibble);
    longer
}
