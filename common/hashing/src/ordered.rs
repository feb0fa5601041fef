//! The root of a trie whose keys are the RLP encodings of the values' indices, as headers contain it for
//! transactions and receipts (Yellow Paper, section 4.3.2).
//!
//! The keys are known as soon as the number of values is, and so is the shape of the trie. Its nodes are
//! encoded and hashed level by level from the leaves up, those of a level several at once.

use alloy_primitives::B256;
use alloy_rlp::{EMPTY_STRING_CODE, Encodable, Header};
use alloy_trie::Nibbles;
use alloy_trie::nodes::{ExtensionNodeRef, LeafNodeRef};
use alloy_trie::root::{adjust_index_for_rlp, ordered_trie_root_encoded};

use crate::{Encodings, keccak256_each};

/// The number of nodes that are encoded before they are hashed.
const NODES_AT_ONCE: usize = 128;

/// A node with a shorter encoding is part of its parent.
const HASHED_FROM: usize = 32;

/// The number of children of a branch.
const CHILDREN: usize = 16;

/// The root of the trie that maps the RLP encoding of each index to the value there.
#[must_use]
pub fn ordered_root<V: AsRef<[u8]>>(values: &[V]) -> B256 {
    // A single leaf is hashed whatever its length is.
    let root = if values.len() < 2 { None } else { Trie::of(values).root() };
    root.unwrap_or_else(|| ordered_trie_root_encoded(values))
}

/// A node whose children come before it.
enum Node<'v> {
    /// The rest of the key, and the value.
    Leaf(Nibbles, &'v [u8]),
    /// The part of the key that all keys below share, and the branch below.
    Extension(Nibbles, usize),
    /// The children by their nibble.
    Branch([Option<usize>; CHILDREN]),
}

/// The nodes of a trie. The root is the last.
#[derive(Default)]
struct Trie<'v> {
    nodes: Vec<Node<'v>>,
    /// The indices of the nodes by the length of the longest path to a leaf.
    levels: Vec<Vec<usize>>,
}

impl<'v> Trie<'v> {
    fn of<V: AsRef<[u8]>>(values: &'v [V]) -> Self {
        let ordered = (0..values.len()).map(|place| adjust_index_for_rlp(place, values.len()));
        let keyed: Vec<(Nibbles, &[u8])> = ordered
            .filter_map(|index| {
                let key = Nibbles::unpack(alloy_rlp::encode_fixed_size(&index));
                Some((key, values.get(index)?.as_ref()))
            })
            .collect();
        let mut trie = Self { nodes: Vec::with_capacity(keyed.len() + keyed.len() / 8), ..Self::default() };
        trie.add(&keyed, 0);
        trie
    }

    /// Adds the nodes of all keys in `keyed`, which are in order and share their first `depth` nibbles.
    /// Returns the index of the topmost, and its level.
    fn add(&mut self, keyed: &[(Nibbles, &'v [u8])], depth: usize) -> Option<(usize, usize)> {
        let ((first, value), (last, _)) = (keyed.first()?, keyed.last()?);
        if keyed.len() == 1 {
            return Some(self.push(Node::Leaf(first.slice(depth..), value), 0));
        }
        let shared = first.common_prefix_length(last);
        if shared > depth {
            let (branch, level) = self.add(keyed, shared)?;
            return Some(self.push(Node::Extension(first.slice(depth..shared), branch), level + 1));
        }
        let (mut children, mut level) = ([None; CHILDREN], 0);
        // No key is the beginning of another, so each has a nibble here.
        for below in keyed.chunk_by(|(one, _), (next, _)| one.get(depth) == next.get(depth)) {
            let nibble = below.first().and_then(|(key, _)| key.get(depth))?;
            let (child, height) = self.add(below, depth + 1)?;
            *children.get_mut(usize::from(nibble))? = Some(child);
            level = level.max(height);
        }
        Some(self.push(Node::Branch(children), level + 1))
    }

    fn push(&mut self, node: Node<'v>, level: usize) -> (usize, usize) {
        let index = self.nodes.len();
        self.nodes.push(node);
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        if let Some(nodes) = self.levels.get_mut(level) {
            nodes.push(index);
        }
        (index, level)
    }

    /// The hash of the root; `None` if the encoding of a node is too short to be hashed.
    fn root(&self) -> Option<B256> {
        let mut hashes = vec![B256::ZERO; self.nodes.len()];
        let mut encodings = Encodings::default();
        for group in self.levels.iter().flat_map(|level| level.chunks(NODES_AT_ONCE)) {
            encodings.clear();
            for index in group {
                let node = self.nodes.get(*index)?;
                if encodings.push(|bytes| node.encode(&hashes, bytes)) < HASHED_FROM {
                    return None;
                }
            }
            for (index, hash) in group.iter().zip(keccak256_each(&encodings.slices())) {
                *hashes.get_mut(*index)? = hash;
            }
        }
        hashes.last().copied()
    }
}

impl Node<'_> {
    /// Appends the node's encoding, given the hashes of the nodes below it.
    fn encode(&self, hashes: &[B256], bytes: &mut Vec<u8>) {
        let hash = |index: &usize| hashes.get(*index).copied().unwrap_or_default();
        match self {
            Self::Leaf(rest, value) => LeafNodeRef::new(rest, value).encode(bytes),
            Self::Extension(shared, branch) => {
                let reference = alloy_rlp::encode_fixed_size(&hash(branch));
                ExtensionNodeRef::new(shared, &reference).encode(bytes);
            }
            Self::Branch(children) => {
                let some = children.iter().flatten().count();
                let payload_length = some * B256::ZERO.length() + (CHILDREN - some) + 1;
                Header { list: true, payload_length }.encode(bytes);
                for child in children {
                    match child {
                        Some(child) => hash(child).encode(bytes),
                        None => bytes.push(EMPTY_STRING_CODE),
                    }
                }
                // No value ends at a branch.
                bytes.push(EMPTY_STRING_CODE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn roots_of_all_small_numbers_of_values_are_those_of_the_library() {
        for count in 0..300_usize {
            let values: Vec<Vec<u8>> = (0..count).map(|index| vec![index as u8; 40 + index % 200]).collect();
            assert_eq!(ordered_root(&values), ordered_trie_root_encoded(&values), "{count} values");
        }
    }

    #[test]
    fn indices_of_three_bytes_have_their_places() {
        let values: Vec<[u8; 33]> = (0..65_800_u32).map(|index| [index as u8; 33]).collect();
        assert_eq!(ordered_root(&values), ordered_trie_root_encoded(&values));
    }

    #[test]
    fn leaves_around_the_length_from_which_they_are_hashed_are_where_they_belong() {
        for (count, length) in
            [2, 17, 130].into_iter().flat_map(|count| (0..40).map(move |length| (count, length)))
        {
            let values = vec![vec![0x55; length]; count];
            assert_eq!(
                ordered_root(&values),
                ordered_trie_root_encoded(&values),
                "{count} of {length} bytes"
            );
        }
    }

    proptest! {
        #[test]
        fn roots_are_those_of_the_library(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..400)
        ) {
            prop_assert_eq!(ordered_root(&values), ordered_trie_root_encoded(&values));
        }

        #[test]
        fn values_too_short_to_be_hashed_have_the_same_root(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..300)
        ) {
            prop_assert_eq!(ordered_root(&values), ordered_trie_root_encoded(&values));
        }
    }
}
