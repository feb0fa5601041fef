//! Trie nodes that were checked once: a bounded cache by hash, in front of any source of nodes.
//!
//! A node is in it if this process has computed it or has compared it with its hash. So it needs no
//! second check, and it does not matter which state it belongs to. Whoever looks for damage in the
//! database must read the database, not this cache.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use alloy_trie::Nibbles;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::trie::{NodeSource, NodeSourceError, Tree};

/// About the memory that an entry takes besides the node's bytes.
const ENTRY_BYTES: u64 = 128;

/// About the size of a node, for the number of entries that the cache prepares for.
const TYPICAL_BYTES: usize = 400;

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<B256, Bytes> for ByBytes {
    fn weight(&self, _: &B256, node: &Bytes) -> u64 {
        node.len() as u64 + ENTRY_BYTES
    }
}

/// The cache. Its copies share the nodes.
#[derive(Debug, Clone)]
pub(super) struct VerifiedNodes(Arc<Cache<B256, Bytes, ByBytes>>);

impl VerifiedNodes {
    /// A cache of at most about `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Cache::with_weighter(bytes / TYPICAL_BYTES, bytes as u64, ByBytes)))
    }

    /// `source` with this cache in front.
    pub(super) fn before<S: NodeSource>(&self, source: S) -> Remembering<'_, S> {
        Remembering { source, nodes: self }
    }
}

/// A source with the cache in front.
#[derive(Debug)]
pub(super) struct Remembering<'c, S> {
    source: S,
    nodes: &'c VerifiedNodes,
}

impl<S: NodeSource> NodeSource for Remembering<'_, S> {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        self.source.node(tree, path)
    }

    fn verified(&self, hash: &B256) -> Option<Bytes> {
        self.nodes.0.get(hash)
    }

    fn keep_verified(&self, hash: &B256, node: &Bytes) {
        self.nodes.0.insert(*hash, node.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::keccak256;

    #[test]
    fn the_cache_stays_within_its_size() {
        let cache = VerifiedNodes::new(64 << 10);
        for number in 0u64..10_000 {
            let node = Bytes::copy_from_slice(&number.to_be_bytes());
            cache.0.insert(keccak256(&node), node);
        }
        assert!(cache.0.weight() <= 64 << 10, "{}", cache.0.weight());
        assert!(cache.0.len() > 100, "{}", cache.0.len());
    }
}
