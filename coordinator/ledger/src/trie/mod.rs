//! The incremental Merkle-Patricia trie: from the nodes of one state and the changes of a block to
//! the new state root and the nodes to write. Its work grows with the changes and the trie's depth,
//! never with the state.
//!
//! There is one trie of accounts and one storage trie per account, all keyed by hashes. A node is
//! kept under its path, so a newer one takes the older one's place and nothing has to be collected:
//! stored are the root node of every trie that isn't empty and every node of at least 32 bytes;
//! smaller ones lie inside their parent. The set of stored nodes depends on the state alone, not on
//! the way that led to it.
//!
//! It writes nothing ([`update`] returns [`NodeChanges`]), keeps no history, and knows neither
//! addresses nor slots before they are hashed. What it reads is not trusted: each node loaded must
//! hash to what its parent says.

mod descend;
mod fan_out;
mod key;
mod layers;
mod node;
mod update;
mod walk;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use alloy_primitives::{B256, Bytes, U256};
use alloy_trie::Nibbles;

pub use key::{KeyError, account_key, decode_account_key, decode_storage_key, storage_key};
pub use layers::{MemoryNodes, NodeLayers};
pub use update::update;
pub use walk::{AccountLeaf, find_account, find_slot, for_each_account, for_each_slot};

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

/// Where stored nodes are read: one state's nodes, which don't change while an update reads them.
pub trait NodeSource: Sync {
    /// The node stored at `path`, if there is one.
    ///
    /// # Errors
    /// [`NodeSourceError`] when the store can't be read.
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError>;
}

impl<S: NodeSource + ?Sized> NodeSource for &S {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        (**self).node(tree, path)
    }
}

/// The store of nodes can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored trie nodes cannot be read: {0}")]
pub struct NodeSourceError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl NodeSourceError {
    /// Wraps what the store said.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// An account without its storage root, which the trie works out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountFields {
    /// The nonce.
    pub nonce: u64,
    /// The balance.
    pub balance: U256,
    /// The hash of its code, that of the empty string for none.
    pub code_hash: B256,
}

/// What happened to one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// The hash of its address.
    pub hashed_address: B256,
    /// The account as it is now; `None`: it is gone, its storage with it, and `slots` is not read.
    pub account: Option<AccountFields>,
    /// Whether all former slots are gone before `slots` apply.
    pub wiped: bool,
    /// Changed slots by the hash of their number, in any order; zero removes.
    pub slots: Vec<(B256, U256)>,
}

/// The nodes that an update writes and removes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChanges {
    /// Owners of the storage tries whose old nodes are all gone, ascending. They go before `nodes`
    /// are written, which may hold new nodes of the same trie.
    pub wiped: Vec<B256>,
    /// Nodes by place, in the order of a store keyed by [`account_key`] and [`storage_key`];
    /// `None`: removed.
    pub nodes: BTreeMap<(Tree, Nibbles), Option<Bytes>>,
}

/// What [`update`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The state root after the changes.
    pub root: B256,
    /// What to write to make the stored nodes those of that state.
    pub changes: NodeChanges,
}

/// Why the trie can't be updated.
#[derive(Debug, thiserror::Error)]
pub enum TrieError {
    /// A stored node is not the one that its parent names.
    #[error(
        "the database is damaged at {tree}, node at path [{}]: {damage}; restore the database from a \
         copy or import the chain again",
        node::path_text(path)
    )]
    Damaged {
        /// The trie.
        tree: Tree,
        /// Where in it.
        path: Nibbles,
        /// What is wrong there.
        damage: Damage,
    },
    /// A key is twice in one batch, so that it is unclear which value holds.
    #[error("{key} is changed twice in one batch, in {tree}; merge the two changes into one")]
    Repeated {
        /// The trie.
        tree: Tree,
        /// The hashed address or slot.
        key: B256,
    },
    /// Nodes can't be read.
    #[error(transparent)]
    Source(#[from] NodeSourceError),
}

/// What is wrong with a stored node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// There is none.
    #[error("no node is stored there, one with hash {expected} should be")]
    Missing {
        /// The hash that the parent names.
        expected: B256,
    },
    /// It is another node.
    #[error("the node there has hash {found}, should have {expected}")]
    Hash {
        /// The hash that the parent names.
        expected: B256,
        /// The hash of what is stored.
        found: B256,
    },
    /// It is not the encoding of a node or of its value.
    #[error("the node there cannot be decoded: {0}")]
    Encoding(alloy_rlp::Error),
    /// It is a node, but none that can stand there.
    #[error("the node there is malformed: {0}")]
    Shape(&'static str),
}
