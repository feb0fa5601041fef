//! Node sources other than the database: committed changes stacked above another source, and a map in
//! memory.
//!
//! These sources do not check their nodes; the reader of a node does.

use std::collections::HashMap;
use std::sync::Arc;

use alloy_primitives::map::FbBuildHasher;
use alloy_primitives::{B256, Bytes};
use alloy_trie::Nibbles;

use super::{NodeChanges, NodeSource, NodeSourceError, Tree};

/// A source with the changes of blocks that it does not contain yet on top.
#[derive(Debug, Clone)]
pub struct NodeLayers<S> {
    newest_first: Vec<Arc<NodeChanges>>,
    base: S,
}

impl<S> NodeLayers<S> {
    /// Stacks `newest_first` above `base`. The first layer that mentions a node decides its content.
    pub fn new(newest_first: Vec<Arc<NodeChanges>>, base: S) -> Self {
        Self { newest_first, base }
    }

    /// The layers, newest first.
    #[must_use]
    pub fn into_layers(self) -> Vec<Arc<NodeChanges>> {
        self.newest_first
    }
}

impl<S: NodeSource> NodeSource for NodeLayers<S> {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        for layer in &self.newest_first {
            if let Some(node) = layer.nodes.get(&(*tree, *path)) {
                return Ok(node.clone());
            }
            if let Tree::Storage(owner) = tree
                && layer.wiped.binary_search(owner).is_ok()
            {
                return Ok(None);
            }
        }
        self.base.node(tree, path)
    }
}

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
