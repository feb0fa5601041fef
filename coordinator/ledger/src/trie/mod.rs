//! The incremental Merkle-Patricia trie: from the tree of one state and the changes of a block it computes
//! the tree of the next. Its work grows with the changes and the trie's depth, never with the size of the
//! state.
//!
//! A tree is partly in memory ([`Subtree`]); what is missing is read from a [`NodeSource`]. Trees of
//! different states share their equal nodes. [`writes`] compares two trees and gives the writes that bring a
//! store from one to the other.
//!
//! There is one trie of accounts and one storage trie per account, all keyed by hashes. A node is
//! stored under its path, so a newer node replaces the older one and no garbage remains. The store
//! holds the root node of every non-empty trie and every node of at least 32 bytes; smaller nodes lie
//! inside their parent. The set of stored nodes depends only on the state, not on the history that led
//! to it.
//!
//! The trie writes nothing, stores no history, and knows addresses and slots only by their hashes. It does
//! not trust the nodes that it reads: each node must hash to the value that its parent names.

mod descend;
mod fan_out;
mod key;
mod memory;
mod node;
mod seal;
mod tree;
mod update;
mod walk;
mod writes;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

use std::fmt;

use alloy_primitives::{B256, Bytes, U256};
use alloy_trie::Nibbles;

pub use key::{KeyError, account_key, decode_account_key, decode_storage_key, storage_key};
pub use memory::MemoryNodes;
pub use tree::Subtree;
pub use update::{UpdateOptions, update};
pub use walk::{AccountLeaf, find_account, find_slot, for_each_account, for_each_slot};
pub use writes::writes;

/// One of a state's tries. The account trie sorts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tree {
    /// The trie of all accounts; its root is the state root.
    Accounts,
    /// The storage trie of the account with this hashed address.
    Storage(B256),
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accounts => f.write_str("the account trie"),
            Self::Storage(owner) => write!(f, "the storage trie of hashed address {owner}"),
        }
    }
}

/// The source of stored nodes: the nodes of one state, which do not change while an update reads them.
pub trait NodeSource: Sync {
    /// The node stored at `path`, if there is one.
    ///
    /// # Errors
    /// [`NodeSourceError`] if the store cannot be read.
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError>;
}

impl<S: NodeSource + ?Sized> NodeSource for &S {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        (**self).node(tree, path)
    }
}

/// The store of nodes cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored trie nodes cannot be read: {0}")]
pub struct NodeSourceError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl NodeSourceError {
    /// Wraps the store's error.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// An account without its storage root, which the trie computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountFields {
    /// The nonce that the account's next transaction or contract creation uses.
    pub nonce: u64,
    /// The balance in wei.
    pub balance: U256,
    /// The hash of its code; that of the empty string for an account without code.
    pub code_hash: B256,
}

/// The change of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// The hash of the account's address.
    pub hashed_address: B256,
    /// The account after the change; `None` if it no longer exists. Then its storage is deleted too, and
    /// `slots` is ignored.
    pub account: Option<AccountFields>,
    /// Whether all former slots are deleted before `slots` apply.
    pub wiped: bool,
    /// The changed slots by the hash of their index, in any order. Zero removes a slot.
    pub slots: Vec<(B256, U256)>,
}

/// The writes of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChanges {
    /// The hashed addresses of storage tries whose old nodes are all removed, ascending. The removal comes
    /// before `nodes` are written, which may contain new nodes of the same trie.
    pub wiped: Vec<B256>,
    /// The nodes by place, in the order of a store keyed by [`account_key`] and [`storage_key`], each place
    /// at most once. `None` removes a node.
    pub nodes: Vec<((Tree, Nibbles), Option<Bytes>)>,
}

/// What an update has touched, as far as the new tree does not show it.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// The hashed addresses of storage tries whose old nodes are all removed.
    wiped: Vec<B256>,
    /// The storage tries that may have changed: hashed address, and the trie before the update.
    storage: Vec<(B256, Subtree)>,
    /// The places at which a node was stored and none is any more.
    removed: Vec<(Tree, Nibbles)>,
}

/// The result of [`update`].
#[derive(Debug, Clone)]
pub struct Updated {
    /// The state trie after the changes.
    pub trie: Subtree,
    /// What [`writes`] must know of the update.
    pub touched: Touched,
    /// By how much the number of nodes in memory has grown, roughly.
    pub grown: i64,
}

/// Why the trie cannot be updated.
#[derive(Debug, thiserror::Error)]
pub enum TrieError {
    /// A stored node differs from the one that its parent names.
    #[error(
        "the database is damaged at {tree}, node at path [{}]: {damage}; restore the database from a \
         copy or import the chain again",
        node::path_text(path)
    )]
    Damaged {
        /// The trie that contains the damaged node.
        tree: Tree,
        /// The path of the node in it.
        path: Nibbles,
        /// The kind of damage.
        damage: Damage,
    },
    /// One batch contains a key twice, so that its value is ambiguous.
    #[error("{key} is changed twice in one batch, in {tree}; merge the two changes into one")]
    Repeated {
        /// The trie in which the key is changed twice.
        tree: Tree,
        /// The hashed address or slot.
        key: B256,
    },
    /// Nodes cannot be read.
    #[error(transparent)]
    Source(#[from] NodeSourceError),
}

/// The kind of damage to a stored node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The node is missing.
    #[error("no node is stored there, one with hash {expected} should be")]
    Missing {
        /// The hash that the parent names.
        expected: B256,
    },
    /// Another node is stored there.
    #[error("the node there has hash {found}, should have {expected}")]
    Hash {
        /// The hash that the parent names.
        expected: B256,
        /// The hash of the stored node.
        found: B256,
    },
    /// The bytes do not encode a node or its value.
    #[error("the node there cannot be decoded: {0}")]
    Encoding(alloy_rlp::Error),
    /// The bytes encode a node that cannot occur there.
    #[error("the node there is malformed: {0}")]
    Shape(&'static str),
}
