//! The root of a trie whose keys are the RLP encodings of the values' indices, as headers contain it for
//! transactions and receipts (Yellow Paper, section 4.3.2).
//!
//! The keys are known as soon as the number of values is, and so is the place of every leaf. The leaves are
//! encoded and hashed first, several at once. The library then builds the few nodes above them.

use alloy_primitives::B256;
use alloy_rlp::Encodable;
use alloy_trie::nodes::LeafNodeRef;
use alloy_trie::root::{adjust_index_for_rlp, ordered_trie_root_encoded};
use alloy_trie::{HashBuilder, Nibbles};

use crate::{Encodings, keccak256_each};

/// The number of leaves that are encoded before they are hashed.
const LEAVES_AT_ONCE: usize = 128;

/// A node with a shorter encoding is part of its parent.
const HASHED_FROM: usize = 32;

/// The root of the trie that maps the RLP encoding of each index to the value there.
#[must_use]
pub fn ordered_root<V: AsRef<[u8]>>(values: &[V]) -> B256 {
    let Some(leaves) = leaves(values) else { return ordered_trie_root_encoded(values) };
    let mut builder = HashBuilder::default();
    let mut encodings = Encodings::default();
    for group in leaves.chunks(LEAVES_AT_ONCE) {
        encodings.clear();
        for leaf in group {
            let length = encodings.push(|bytes| LeafNodeRef::new(&leaf.rest, leaf.value).encode(bytes));
            if length < HASHED_FROM {
                return ordered_trie_root_encoded(values);
            }
        }
        for (leaf, hash) in group.iter().zip(keccak256_each(&encodings.slices())) {
            builder.add_branch(leaf.path, hash, false);
        }
    }
    builder.root()
}

/// A leaf of the trie.
struct Leaf<'v> {
    /// The path of the node.
    path: Nibbles,
    /// The rest of its key.
    rest: Nibbles,
    value: &'v [u8],
}

/// The leaves in the order of their keys; `None` if there are fewer than two, so that no branch is above them.
fn leaves<V: AsRef<[u8]>>(values: &[V]) -> Option<Vec<Leaf<'_>>> {
    if values.len() < 2 {
        return None;
    }
    let ordered = (0..values.len()).map(|place| adjust_index_for_rlp(place, values.len()));
    let keyed: Vec<(Nibbles, &[u8])> = ordered
        .filter_map(|index| {
            let key = Nibbles::unpack(alloy_rlp::encode_fixed_size(&index));
            Some((key, values.get(index)?.as_ref()))
        })
        .collect();
    let mut shared_with_last = 0;
    let mut leaves = Vec::with_capacity(keyed.len());
    for (place, (key, value)) in keyed.iter().enumerate() {
        let next = keyed.get(place + 1);
        let shared_with_next = next.map_or(0, |(next, _)| key.common_prefix_length(next));
        // The leaf hangs on the branch at which its key leaves that of a neighbour.
        let depth = shared_with_last.max(shared_with_next) + 1;
        leaves.push(Leaf { path: key.slice(..depth), rest: key.slice(depth..), value });
        shared_with_last = shared_with_next;
    }
    Some(leaves)
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
