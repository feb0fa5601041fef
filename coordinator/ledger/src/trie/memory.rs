//! All stored nodes of a state in a map, for tests and for a state that is not in a database yet.
//!
//! It does not check its nodes; the reader of a node does.

use std::collections::HashMap;

use alloy_primitives::map::FbBuildHasher;
use alloy_primitives::{B256, Bytes};
use alloy_trie::Nibbles;

use super::{NodeChanges, NodeSource, NodeSourceError, Tree};

type Nodes = HashMap<Nibbles, Bytes>;

/// All stored nodes of one state, in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryNodes {
    accounts: Nodes,
    storage: HashMap<B256, Nodes, FbBuildHasher<32>>,
}

impl MemoryNodes {
    /// The nodes of the empty state: none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `changes` to these nodes.
    pub fn apply(&mut self, changes: &NodeChanges) {
        for owner in &changes.wiped {
            self.storage.remove(owner);
        }
        for ((tree, path), node) in &changes.nodes {
            self.put(tree, path, node.as_ref());
        }
    }

    /// Stores a node, or removes it.
    pub fn put(&mut self, tree: &Tree, path: &Nibbles, node: Option<&Bytes>) {
        let nodes = match tree {
            Tree::Accounts => &mut self.accounts,
            Tree::Storage(owner) => self.storage.entry(*owner).or_default(),
        };
        match node {
            Some(node) => nodes.insert(*path, node.clone()),
            None => nodes.remove(path),
        };
        if let Tree::Storage(owner) = tree
            && nodes.is_empty()
        {
            self.storage.remove(owner);
        }
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.accounts.len() + self.storage.values().map(Nodes::len).sum::<usize>()
    }

    /// Whether these are the nodes of the empty state.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.storage.is_empty()
    }

    /// Every node with its place, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Tree, &Nibbles, &Bytes)> {
        let accounts = self.accounts.iter().map(|(path, node)| (Tree::Accounts, path, node));
        let storage = self
            .storage
            .iter()
            .flat_map(|(owner, nodes)| nodes.iter().map(|(path, node)| (Tree::Storage(*owner), path, node)));
        accounts.chain(storage)
    }
}

impl NodeSource for MemoryNodes {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        let nodes = match tree {
            Tree::Accounts => Some(&self.accounts),
            Tree::Storage(owner) => self.storage.get(owner),
        };
        Ok(nodes.and_then(|nodes| nodes.get(path)).cloned())
    }
}
