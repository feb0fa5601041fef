//! Hashes the new nodes of tries, many at once: first all that have no open node below them, then those whose
//! children are hashed, and so on up to the roots.
//!
//! This module changes no node. It only fills in the references to open ones.

use std::sync::Arc;

use alloy_trie::nodes::RlpNode;
use hashing::{Encodings, keccak256_each};

use super::fan_out;
use super::tree::{Node, Subtree};

/// The most nodes that are encoded before they are hashed.
const NODES_AT_ONCE: usize = 256;

/// Seals tries on at most `threads` threads.
pub(super) fn seal_all(threads: usize, tries: &mut [Subtree]) {
    let share = tries.len().div_ceil(threads.max(1)).max(1);
    fan_out::each(threads, tries.chunks_mut(share).collect(), seal);
}

/// Seals one trie on at most `threads` threads: first the subtrees below its root, then the root.
pub(super) fn seal_one(threads: usize, trie: &mut Subtree) {
    if threads > 1
        && trie.is_open()
        && let Some(node) = &mut trie.node
    {
        seal_all(threads, Arc::make_mut(node).form.children_mut());
    }
    seal(std::slice::from_mut(trie));
}

/// Where the reference to an open node is missing.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the trie with this index.
    Trie(usize),
    /// In a child of an open node, both by index.
    Child(usize, usize),
}

/// An open node outside its trie.
#[derive(Debug)]
struct Open {
    node: Arc<Node>,
    place: Place,
}

/// Seals tries on this thread.
fn seal(tries: &mut [Subtree]) {
    let mut waves = Waves::default();
    for (index, trie) in tries.iter_mut().enumerate() {
        waves.take(trie, Place::Trie(index));
    }
    let Waves { mut nodes, levels } = waves;
    let mut encodings = Encodings::default();
    for group in levels.iter().flat_map(|level| level.chunks(NODES_AT_ONCE)) {
        encodings.clear();
        let open: Vec<Open> = group.iter().filter_map(|index| nodes.get_mut(*index)?.take()).collect();
        for Open { node, .. } in &open {
            encodings.push(|bytes| node.form.encode(bytes));
        }
        let hashes = keccak256_each(&encodings.slices());
        for (Open { node, place }, hash) in open.into_iter().zip(hashes) {
            let sealed = Subtree { reference: RlpNode::word_rlp(&hash), node: Some(node) };
            let missing = match place {
                Place::Trie(index) => tries.get_mut(index),
                Place::Child(parent, child) => {
                    let parent = nodes.get_mut(parent).and_then(Option::as_mut);
                    parent
                        .and_then(|parent| Arc::make_mut(&mut parent.node).form.children_mut().get_mut(child))
                }
            };
            if let Some(missing) = missing {
                *missing = sealed;
            }
        }
    }
}

/// The open nodes of tries, and in which order they can be hashed.
#[derive(Debug, Default)]
struct Waves {
    nodes: Vec<Option<Open>>,
    /// By the length of the longest path to a leaf or to a node that is not open: the nodes' indices.
    levels: Vec<Vec<usize>>,
}

impl Waves {
    /// Takes the open nodes out of a subtree, and returns the number of levels that they fill.
    fn take(&mut self, subtree: &mut Subtree, place: Place) -> usize {
        if !subtree.is_open() {
            return 0;
        }
        let Some(mut node) = taken(subtree).node else { return 0 };
        let index = self.nodes.len();
        self.nodes.push(None);
        let mut level = 0;
        // No other tree shares a node that is open.
        for (child, below) in Arc::make_mut(&mut node).form.children_mut().iter_mut().enumerate() {
            level = level.max(self.take(below, Place::Child(index, child)));
        }
        if let Some(slot) = self.nodes.get_mut(index) {
            *slot = Some(Open { node, place });
        }
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        if let Some(nodes) = self.levels.get_mut(level) {
            nodes.push(index);
        }
        level + 1
    }
}

/// Takes a subtree out of its place, which refers to nothing until it is filled again.
fn taken(subtree: &mut Subtree) -> Subtree {
    std::mem::replace(subtree, Subtree::stored(RlpNode::default()))
}
