//! A batch's change to a leaf, the form of a subtree while its parent is still open, and the loading of
//! stored nodes, which are checked before use.

use std::borrow::Cow;
use std::sync::Arc;

use alloy_primitives::{U256, keccak256};
use alloy_rlp::Decodable;
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};

use super::tree::{Extension, Form, Leaf, Node, Subtree};
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
    /// An account. Without a storage trie it keeps the one it had.
    Account(AccountFields, Option<Subtree>),
    /// A value as its leaf has it.
    Encoded(Vec<u8>, Option<Subtree>),
}

impl Value {
    pub(super) fn is_removal(&self) -> bool {
        matches!(self, Self::Remove)
    }

    /// The leaf with this value, given the old leaf there; `None` if the leaf is removed.
    pub(super) fn leaf(&self, key: Nibbles, before: Option<&Leaf>) -> Result<Option<Leaf>, alloy_rlp::Error> {
        let (value, storage) = match self {
            Self::Remove => return Ok(None),
            Self::Slot(value) => (alloy_rlp::encode(value), None),
            Self::Account(fields, storage) => {
                let storage = storage.as_ref().or_else(|| before?.storage.as_ref()).cloned();
                let storage_root = match (&storage, before) {
                    (Some(trie), _) => trie.root(),
                    (None, Some(leaf)) => storage_of(leaf)?.root(),
                    (None, None) => EMPTY_ROOT_HASH,
                };
                let AccountFields { nonce, balance, code_hash } = *fields;
                (alloy_rlp::encode(TrieAccount { nonce, balance, storage_root, code_hash }), storage)
            }
            Self::Encoded(bytes, storage) => (bytes.clone(), storage.clone()),
        };
        Ok(Some(Leaf { key, value, storage }))
    }
}

/// The storage trie of an account's leaf.
pub(super) fn storage_of(leaf: &Leaf) -> Result<Subtree, alloy_rlp::Error> {
    match &leaf.storage {
        Some(trie) => Ok(trie.clone()),
        None => Ok(Subtree::of_root(alloy_rlp::decode_exact::<TrieAccount>(&leaf.value)?.storage_root)),
    }
}

/// A subtree after a batch. A branch stays at its place. A leaf or an extension may still merge into a
/// parent that loses its other children.
#[derive(Debug)]
pub(super) enum Shape {
    Empty,
    Leaf(Leaf),
    Extension(Extension),
    Branch(Subtree),
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
            Self::Leaf(leaf) => Self::Leaf(Leaf { key: prefix.join(&leaf.key), ..leaf }),
            Self::Extension(Extension { key, child }) => {
                Self::Extension(Extension { key: prefix.join(&key), child })
            }
            Self::Branch(child) => Self::Extension(Extension { key: *prefix, child }),
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
    /// The generation of the nodes that are read or computed.
    pub(super) generation: u64,
}

impl<S: NodeSource> Loader<'_, S> {
    /// The top node of the subtree at `path`: the one in memory, or the stored one.
    pub(super) fn load<'s>(&self, path: &Nibbles, subtree: &'s Subtree) -> Result<Cow<'s, Form>, TrieError> {
        match &subtree.node {
            Some(node) => Ok(Cow::Borrowed(&node.form)),
            None => self.read(path, &subtree.reference).map(Cow::Owned),
        }
    }

    /// The subtree at `path` with this top node.
    pub(super) fn held(&self, reference: RlpNode, form: Form) -> Subtree {
        Subtree { reference, node: Some(Arc::new(Node { generation: self.generation, form })) }
    }

    /// A subtree whose top node is new and not hashed yet.
    pub(super) fn open(&self, form: Form) -> Subtree {
        self.held(RlpNode::default(), form)
    }

    fn read(&self, path: &Nibbles, named: &RlpNode) -> Result<Form, TrieError> {
        let Some(expected) = named.as_hash() else { return self.decode(path, named.as_slice()) };
        let Some(bytes) = self.source.node(&self.tree, path)? else {
            return Err(self.damaged(path, Damage::Missing { expected }));
        };
        let found = keccak256(&bytes);
        if found != expected {
            return Err(self.damaged(path, Damage::Hash { expected, found }));
        }
        self.decode(path, &bytes)
    }

    /// The error for a leaf at `path` whose value cannot be decoded.
    pub(super) fn bad_value(&self, path: &Nibbles, error: alloy_rlp::Error) -> TrieError {
        self.damaged(path, Damage::Encoding(error))
    }

    /// Decodes a node and checks that no path through it is longer or shorter than the keys.
    fn decode(&self, path: &Nibbles, mut bytes: &[u8]) -> Result<Form, TrieError> {
        let node = TrieNode::decode(&mut bytes).map_err(|error| self.bad_value(path, error))?;
        let room = self.key_len.saturating_sub(path.len());
        let fault = match &node {
            _ if !bytes.is_empty() => Some("bytes follow it"),
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
        match (fault, Form::of(node)) {
            (None, Some(form)) => Ok(form),
            (Some(fault), _) => Err(self.damaged(path, Damage::Shape(fault))),
            (None, None) => Err(self.damaged(path, Damage::Shape("an empty node inside a trie"))),
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
