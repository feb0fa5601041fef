//! A trie in memory. A subtree knows how its parent refers to it, and its top node if that node has been
//! read or computed. Nodes never change, so the trees of different states share those that are equal.
//!
//! A node that is not in memory is stored under its path. This module neither reads nor writes it.
//!
//! New nodes are first open: no hash names them yet. `seal` hashes many of them at once.

use std::sync::Arc;

use alloy_primitives::B256;
use alloy_rlp::{EMPTY_STRING_CODE, Encodable, Header};
use alloy_trie::nodes::{ExtensionNodeRef, LeafNodeRef, RlpNode, TrieNode};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieMask};

/// A subtree, or a whole trie.
#[derive(Debug, Clone)]
pub struct Subtree {
    /// The hash of the top node, or the node itself if it has less than 32 bytes. Nothing as long as the
    /// subtree is open.
    pub(super) reference: RlpNode,
    pub(super) node: Option<Arc<Node>>,
}

impl Subtree {
    /// A whole trie of which nothing but the root is known.
    #[must_use]
    pub fn of_root(root: B256) -> Self {
        Self::stored(RlpNode::word_rlp(&root))
    }

    /// The root, if this is a whole trie.
    #[must_use]
    pub fn root(&self) -> B256 {
        self.reference.as_hash().unwrap_or(EMPTY_ROOT_HASH)
    }

    /// Whether this is the empty trie.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.node.is_none() && self.reference.as_hash() == Some(EMPTY_ROOT_HASH)
    }

    pub(super) fn stored(reference: RlpNode) -> Self {
        Self { reference, node: None }
    }

    /// Whether the top node is new and not hashed yet. Its encoding has at least 32 bytes, or it is a root.
    pub(super) fn is_open(&self) -> bool {
        self.reference.is_empty()
    }

    /// Whether the top node is stored under its own path, and not inside its parent.
    pub(super) fn has_own_place(&self) -> bool {
        self.reference.is_hash()
    }

    /// The same tree without the nodes of a generation before `oldest`, and the number of nodes that it has in
    /// memory. A node that is left out must be stored.
    pub(crate) fn without_older(&self, oldest: u64) -> (Self, usize) {
        let recent = self.node.as_ref().filter(|node| node.generation >= oldest);
        let Some(node) = recent else { return (Self::stored(self.reference.clone()), 0) };
        let mut count = 1;
        let mut keep = |child: &Self| {
            let (child, nodes) = child.without_older(oldest);
            count += nodes;
            child
        };
        let form = match &node.form {
            Form::Leaf(leaf) => Form::Leaf(Leaf { storage: leaf.storage.as_ref().map(keep), ..leaf.clone() }),
            Form::Extension(extension) => {
                Form::Extension(Extension { key: extension.key, child: keep(&extension.child) })
            }
            Form::Branch(branch) => Form::Branch(Branch {
                mask: branch.mask,
                children: branch.children.iter().map(keep).collect(),
            }),
        };
        let node = Arc::new(Node { generation: node.generation, form });
        (Self { reference: self.reference.clone(), node: Some(node) }, count)
    }
}

/// A node, and the generation in which it was read or computed.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) generation: u64,
    pub(super) form: Form,
}

#[derive(Debug, Clone)]
pub(super) enum Form {
    Leaf(Leaf),
    Extension(Extension),
    Branch(Branch),
}

#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) key: Nibbles,
    pub(super) value: Vec<u8>,
    /// The storage trie of an account, as far as it is in memory.
    pub(super) storage: Option<Subtree>,
}

#[derive(Debug, Clone)]
pub(super) struct Extension {
    pub(super) key: Nibbles,
    pub(super) child: Subtree,
}

#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) mask: TrieMask,
    /// The children in the order of their nibbles.
    pub(super) children: Vec<Subtree>,
}

impl Branch {
    /// The child behind a nibble.
    pub(super) fn child(&self, nibble: u8) -> Option<&Subtree> {
        if !self.mask.is_bit_set(nibble) {
            return None;
        }
        let below = self.mask.get() & ((1 << nibble) - 1);
        self.children.get(below.count_ones() as usize)
    }

    /// The length of the encodings of all children and of the missing value, in bytes.
    fn payload_length(&self) -> usize {
        let children: usize = self.children.iter().map(|child| child.reference.len()).sum();
        // Each nibble without a child takes one byte, and so does the missing value.
        children + 17 - self.children.len()
    }

    /// The children with their nibbles.
    pub(super) fn each(&self) -> impl DoubleEndedIterator<Item = (u8, &Subtree)> {
        (0..16).filter_map(|nibble| Some((nibble, self.child(nibble)?)))
    }
}

impl Form {
    /// The form of a decoded node; `None` for the empty one.
    pub(super) fn of(node: TrieNode) -> Option<Self> {
        Some(match node {
            TrieNode::EmptyRoot => return None,
            TrieNode::Leaf(leaf) => Self::Leaf(Leaf { key: leaf.key, value: leaf.value, storage: None }),
            TrieNode::Extension(node) => {
                Self::Extension(Extension { key: node.key, child: Subtree::stored(node.child) })
            }
            TrieNode::Branch(node) => Self::Branch(Branch {
                mask: node.state_mask,
                children: node.stack.into_iter().map(Subtree::stored).collect(),
            }),
        })
    }

    /// The child on the way to `place`, given that this node lies on it at `depth`, and the child's depth;
    /// `None` if the way ends here.
    pub(super) fn toward(&self, place: &Nibbles, depth: usize) -> Option<(&Subtree, usize)> {
        match self {
            Self::Leaf(_) => None,
            // No extension is empty, so every step leads deeper.
            Self::Extension(node) => {
                place.slice(depth..).starts_with(&node.key).then_some((&node.child, depth + node.key.len()))
            }
            Self::Branch(branch) => Some((branch.child(place.get(depth)?)?, depth + 1)),
        }
    }

    /// The subtrees directly below the node, in order.
    pub(super) fn children_mut(&mut self) -> &mut [Subtree] {
        match self {
            Self::Leaf(_) => &mut [],
            Self::Extension(node) => std::slice::from_mut(&mut node.child),
            Self::Branch(branch) => &mut branch.children,
        }
    }

    /// Whether the node's encoding has less than 32 bytes, so that it lies inside its parent. Subtrees below it
    /// may be open.
    pub(super) fn is_short(&self) -> bool {
        let length = match self {
            Self::Leaf(leaf) => LeafNodeRef::new(&leaf.key, &leaf.value).length(),
            Self::Extension(node) if node.child.is_open() => return false,
            Self::Extension(node) => ExtensionNodeRef::new(&node.key, &node.child.reference).length(),
            Self::Branch(branch) if branch.children.iter().any(Subtree::is_open) => return false,
            Self::Branch(branch) => 1 + branch.payload_length(),
        };
        length < B256::len_bytes()
    }

    /// Appends the node's encoding to `out`. No subtree below it is open.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Leaf(leaf) => LeafNodeRef::new(&leaf.key, &leaf.value).encode(out),
            Self::Extension(node) => ExtensionNodeRef::new(&node.key, &node.child.reference).encode(out),
            Self::Branch(branch) => {
                Header { list: true, payload_length: branch.payload_length() }.encode(out);
                for nibble in 0..16 {
                    match branch.child(nibble) {
                        Some(child) => out.extend_from_slice(&child.reference),
                        None => out.push(EMPTY_STRING_CODE),
                    }
                }
                // No key ends at a branch, so it has no value.
                out.push(EMPTY_STRING_CODE);
            }
        }
    }
}
