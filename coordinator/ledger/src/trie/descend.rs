//! Applies one sorted batch to one trie. It descends from the root to the places that the batch names,
//! and encodes the changed nodes on the way back.
//!
//! This module knows leaves only as keys and values. `update` combines accounts and their storage.
//!
//! Invariant: some functions take a path and what was stored there ([`Before`], or `old`) and return a
//! [`Shape`]. Such a function has settled everything below that path, and the path itself only if the
//! shape is a branch. Otherwise its caller settles the path, because only the caller knows whether the
//! node stays.

use std::borrow::Cow;

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_rlp::Encodable;
use alloy_trie::nodes::{
    BranchNode, BranchNodeRef, ExtensionNodeRef, LeafNode, LeafNodeRef, RlpNode, TrieNode,
};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieMask};

use super::fan_out;
use super::node::{Entry, Loader, Shape, Value, step};
use super::{NodeSource, TrieError};

/// The smallest batch, in entries, that is worth dividing among threads.
pub(super) const WORTH_DIVIDING: usize = 512;

/// A write to the store: the path of a node, and the node or its removal.
pub(super) type Write = (Nibbles, Option<Bytes>);

/// The content of a place in the trie before the batch.
#[derive(Debug, Clone)]
enum Before {
    Nothing,
    /// A node, as its parent refers to it.
    Node(RlpNode),
    /// The rest of an extension whose first part now ends further up. It is not a node of its own yet.
    Tail {
        key: Nibbles,
        child: RlpNode,
    },
}

impl Before {
    /// The node stored at the place itself, or inlined there.
    fn node(&self) -> Option<&RlpNode> {
        match self {
            Self::Node(node) => Some(node),
            Self::Nothing | Self::Tail { .. } => None,
        }
    }
}

/// One child of a future branch: its old content, and the entries that change it, if any. If the place
/// was empty, no entry is a removal.
struct Slot<'e> {
    nibble: u8,
    before: Before,
    entries: Cow<'e, [Entry]>,
}

impl Slot<'_> {
    /// Whether the place is certainly occupied after the batch.
    fn stays(&self) -> bool {
        matches!(self.before, Before::Nothing) || self.entries.is_empty()
    }
}

/// A slot after its entries are applied.
struct Grown {
    nibble: u8,
    before: Before,
    now: Now,
}

enum Now {
    Untouched,
    Shape(Shape),
    /// Settled already, because the branch above is certain to stay.
    Placed(Option<RlpNode>),
}

impl Grown {
    fn is_live(&self) -> bool {
        !matches!(self.now, Now::Shape(Shape::Empty) | Now::Placed(None))
    }
}

/// Applies `entries`, which are ascending by key without repetition, to the trie with this root.
/// Returns the new root and the writes, nearly or wholly in descending order of their places.
pub(super) fn descend<S: NodeSource>(
    loader: Loader<'_, S>,
    root: B256,
    entries: &[Entry],
    threads: usize,
) -> Result<(B256, Vec<Write>), TrieError> {
    let mut descent = Descent::new(&loader, threads);
    let top = Nibbles::new();
    let old = (root != EMPTY_ROOT_HASH).then(|| RlpNode::word_rlp(&root));
    let shape = match &old {
        Some(node) => descent.subtree(&top, node, entries)?,
        None => descent.build(&top, None, &without_removals(Cow::Borrowed(entries)))?,
    };
    let placed = descent.place(&top, shape, old.as_ref())?;
    // The root is always referred to by its hash. No root means the empty trie.
    let root = placed.and_then(|node| node.as_hash()).unwrap_or(EMPTY_ROOT_HASH);
    Ok((root, descent.writes))
}

struct Descent<'a, S> {
    loader: &'a Loader<'a, S>,
    threads: usize,
    writes: Vec<Write>,
    buffer: Vec<u8>,
}

impl<'a, S: NodeSource> Descent<'a, S> {
    fn new(loader: &'a Loader<'a, S>, threads: usize) -> Self {
        Self { loader, threads, writes: Vec::new(), buffer: Vec::new() }
    }

    fn subtree(&mut self, path: &Nibbles, old: &RlpNode, entries: &[Entry]) -> Result<Shape, TrieError> {
        match self.loader.load(path, old)? {
            TrieNode::EmptyRoot => Ok(Shape::Empty),
            TrieNode::Leaf(leaf) => self.edit_leaf(path, leaf, old, entries),
            TrieNode::Extension(node) => {
                self.edit_extension(path, &node.key, &node.child, Some(old), entries)
            }
            TrieNode::Branch(node) => self.edit_branch(path, &node, old, entries),
        }
    }

    /// Treats the old leaf as one more entry of the batch, unless the batch contains its key.
    fn edit_leaf(
        &mut self,
        path: &Nibbles,
        leaf: LeafNode,
        old: &RlpNode,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let here = path.join(&leaf.key);
        let mut values = Vec::with_capacity(entries.len() + 1);
        let split = entries.partition_point(|entry| entry.key < here);
        let (lower, rest) = entries.split_at(split);
        values.extend(lower.iter().filter(|entry| !entry.value.is_removal()).cloned());
        let rest = match rest.split_first() {
            Some((entry, higher)) if entry.key == here => {
                let value = entry.value.encode(Some(&leaf.value));
                if let Some(value) = value.map_err(|error| self.loader.bad_value(path, error))? {
                    values.push(Entry { key: here, value: Value::Encoded(value) });
                }
                higher
            }
            _ => {
                values.push(Entry { key: here, value: Value::Encoded(leaf.value) });
                rest
            }
        };
        values.extend(rest.iter().filter(|entry| !entry.value.is_removal()).cloned());
        self.build(path, Some(old), &values)
    }

    /// Applies entries that may pass through the extension, or leave it and so put a branch in its middle.
    fn edit_extension(
        &mut self,
        path: &Nibbles,
        key: &Nibbles,
        child: &RlpNode,
        old: Option<&RlpNode>,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let end = path.join(key);
        let misses = |entry: &Entry| entry.value.is_removal() && !entry.key.starts_with(&end);
        let entries = if entries.iter().any(misses) {
            Cow::Owned(entries.iter().filter(|entry| !misses(entry)).cloned().collect::<Vec<_>>())
        } else {
            Cow::Borrowed(entries)
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(Shape::Extension { key: *key, child: child.clone() });
        };
        let shared = end.common_prefix_length(&first.key).min(end.common_prefix_length(&last.key));
        let Some(nibble) = end.get(shared) else {
            let shape = self.subtree(&end, child, &entries)?;
            if !shape.is_branch() {
                self.place(&end, Shape::Empty, Some(child))?;
            }
            return Ok(shape.lifted(key));
        };
        let rest = end.slice(shared + 1..);
        let before = match rest.is_empty() {
            true => Before::Node(child.clone()),
            false => Before::Tail { key: rest, child: child.clone() },
        };
        let mut slots = slots_of(&entries, shared);
        match slots.iter_mut().find(|slot| slot.nibble == nibble) {
            Some(slot) => slot.before = before,
            None => slots.push(Slot { nibble, before, entries: Cow::Borrowed(&[]) }),
        }
        slots.sort_unstable_by_key(|slot| slot.nibble);
        let old = old.filter(|_| shared == path.len());
        let shape = self.branch(&end.slice(..shared), old, slots)?;
        Ok(shape.lifted(&end.slice(path.len()..shared)))
    }

    fn edit_branch(
        &mut self,
        path: &Nibbles,
        node: &BranchNode,
        old: &RlpNode,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let mut touched = slots_of(entries, path.len()).into_iter().peekable();
        let mut slots = Vec::with_capacity(16);
        for (nibble, child) in node.as_ref().children() {
            let before = child.map_or(Before::Nothing, |node| Before::Node(node.clone()));
            let entries = match (touched.next_if(|slot| slot.nibble == nibble), child) {
                (Some(slot), Some(_)) => slot.entries,
                (Some(slot), None) => without_removals(slot.entries),
                (None, _) => Cow::Borrowed(&[][..]),
            };
            if child.is_some() || !entries.is_empty() {
                slots.push(Slot { nibble, before, entries });
            }
        }
        self.branch(path, Some(old), slots)
    }

    /// Builds a subtree in an empty place. No entry is a removal.
    fn build(
        &mut self,
        path: &Nibbles,
        old: Option<&RlpNode>,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let (first, last) = match entries {
            [] => return Ok(Shape::Empty),
            [one] => return self.leaf(path, one),
            [first, .., last] => (first, last),
        };
        let shared = first.key.common_prefix_length(&last.key);
        let old = old.filter(|_| shared == path.len());
        let shape = self.branch(&first.key.slice(..shared), old, slots_of(entries, shared))?;
        Ok(shape.lifted(&first.key.slice(path.len()..shared)))
    }

    fn leaf(&self, path: &Nibbles, entry: &Entry) -> Result<Shape, TrieError> {
        let value = entry.value.encode(None).map_err(|error| self.loader.bad_value(path, error))?;
        Ok(value.map_or(Shape::Empty, |value| Shape::Leaf { key: entry.key.slice(path.len()..), value }))
    }

    /// The shape of an old or new branch with these slots: a branch, the shape of its only child, or empty.
    fn branch(
        &mut self,
        path: &Nibbles,
        old: Option<&RlpNode>,
        slots: Vec<Slot<'_>>,
    ) -> Result<Shape, TrieError> {
        let grown = self.grow_all(path, slots)?;
        if grown.iter().filter(|child| child.is_live()).count() < 2 {
            return self.collapse(path, grown);
        }
        let mut stack = Vec::with_capacity(grown.len());
        let mut mask = TrieMask::default();
        for Grown { nibble, before, now } in grown {
            let node = match (now, before) {
                (Now::Placed(node), _) => node,
                (Now::Shape(shape), before) => self.place(&step(path, nibble), shape, before.node())?,
                (Now::Untouched, Before::Node(node)) => Some(node),
                (Now::Untouched, Before::Tail { key, child }) => {
                    self.place(&step(path, nibble), Shape::Extension { key, child }, None)?
                }
                (Now::Untouched, Before::Nothing) => None,
            };
            if let Some(node) = node {
                stack.push(node);
                mask.set_bit(nibble);
            }
        }
        self.buffer.clear();
        BranchNodeRef::new(&stack, mask).encode(&mut self.buffer);
        Ok(Shape::Branch(self.settle(path, old)))
    }

    /// Replaces a branch with at most one child: the child moves up.
    fn collapse(&mut self, path: &Nibbles, grown: Vec<Grown>) -> Result<Shape, TrieError> {
        let mut left = Shape::Empty;
        for Grown { nibble, before, now } in grown {
            let place = step(path, nibble);
            let shape = match (now, &before) {
                (Now::Shape(shape), _) => shape,
                (Now::Untouched, Before::Node(node)) => match self.loader.load(&place, node)? {
                    TrieNode::EmptyRoot => Shape::Empty,
                    TrieNode::Leaf(leaf) => Shape::Leaf { key: leaf.key, value: leaf.value },
                    TrieNode::Extension(node) => Shape::Extension { key: node.key, child: node.child },
                    TrieNode::Branch(_) => Shape::Branch(node.clone()),
                },
                (Now::Untouched, Before::Tail { key, child }) => {
                    Shape::Extension { key: *key, child: child.clone() }
                }
                (Now::Untouched, Before::Nothing) | (Now::Placed(_), _) => Shape::Empty,
            };
            if !shape.is_branch() {
                self.place(&place, Shape::Empty, before.node())?;
            }
            if !matches!(shape, Shape::Empty) {
                left = shape.lifted(&step(&Nibbles::new(), nibble));
            }
        }
        Ok(left)
    }

    /// Applies each slot's entries, and divides a large batch that splits here among threads. The last slot
    /// comes first, and a branch comes after everything below it. So a bulk build writes in exactly the
    /// reverse order of the store and, once reversed, needs no sorting.
    fn grow_all(&mut self, path: &Nibbles, slots: Vec<Slot<'_>>) -> Result<Vec<Grown>, TrieError> {
        let busy = slots.iter().filter(|slot| !slot.entries.is_empty()).count();
        let entries: usize = slots.iter().map(|slot| slot.entries.len()).sum();
        let settled = slots.iter().filter(|slot| slot.stays()).count() >= 2;
        let slots = slots.into_iter().rev();
        let mut grown = Vec::with_capacity(slots.len());
        if self.threads < 2 || busy < 2 || entries < WORTH_DIVIDING {
            for slot in slots {
                grown.push(self.grow(path, slot, settled)?);
            }
        } else {
            let budget = (self.threads / busy).max(1);
            let loader = self.loader;
            let parts = fan_out::each(self.threads, slots.collect(), |slot| {
                let mut part = Descent::new(loader, budget);
                let grown = part.grow(path, slot, settled)?;
                Ok::<_, TrieError>((grown, part.writes))
            });
            for part in parts {
                let (child, mut writes) = part?;
                self.writes.append(&mut writes);
                grown.push(child);
            }
        }
        grown.reverse();
        Ok(grown)
    }

    fn grow(&mut self, path: &Nibbles, slot: Slot<'_>, settled: bool) -> Result<Grown, TrieError> {
        let Slot { nibble, before, entries } = slot;
        if entries.is_empty() {
            return Ok(Grown { nibble, before, now: Now::Untouched });
        }
        let place = step(path, nibble);
        let shape = match &before {
            Before::Nothing => self.build(&place, None, &entries)?,
            Before::Node(node) => self.subtree(&place, node, &entries)?,
            Before::Tail { key, child } => self.edit_extension(&place, key, child, None, &entries)?,
        };
        let now = match settled {
            true => Now::Placed(self.place(&place, shape, before.node())?),
            false => Now::Shape(shape),
        };
        Ok(Grown { nibble, before, now })
    }

    /// Writes the node that `path` holds from now on, or the removal of the old one. Returns the reference
    /// for the parent.
    fn place(
        &mut self,
        path: &Nibbles,
        shape: Shape,
        old: Option<&RlpNode>,
    ) -> Result<Option<RlpNode>, TrieError> {
        self.buffer.clear();
        match &shape {
            Shape::Empty => {
                if old.is_some_and(RlpNode::is_hash) {
                    self.writes.push((*path, None));
                }
                return Ok(None);
            }
            Shape::Branch(node) => return Ok(Some(node.clone())),
            Shape::Leaf { key, value } => LeafNodeRef::new(key, value).encode(&mut self.buffer),
            Shape::Extension { key, child } => ExtensionNodeRef::new(key, child).encode(&mut self.buffer),
        }
        Ok(Some(self.settle(path, old)))
    }

    /// Computes the reference of the node in the buffer. Writes the node if it must be stored and is not
    /// stored already.
    fn settle(&mut self, path: &Nibbles, old: Option<&RlpNode>) -> RlpNode {
        let node = match path.is_empty() {
            true => RlpNode::word_rlp(&keccak256(&self.buffer)),
            false => RlpNode::from_rlp(&self.buffer),
        };
        if let Some(hash) = node.as_hash() {
            if old != Some(&node) {
                let bytes = Bytes::copy_from_slice(&self.buffer);
                self.loader.source.keep_verified(&hash, &bytes);
                self.writes.push((*path, Some(bytes)));
            }
        } else if old.is_some_and(RlpNode::is_hash) {
            self.writes.push((*path, None));
        }
        node
    }
}

/// The batch without removals, which have no effect in an empty place.
fn without_removals(entries: Cow<'_, [Entry]>) -> Cow<'_, [Entry]> {
    if entries.iter().any(|entry| entry.value.is_removal()) {
        Cow::Owned(entries.iter().filter(|entry| !entry.value.is_removal()).cloned().collect())
    } else {
        entries
    }
}

/// The entries grouped by the nibble after the first `depth` ones, which they share.
fn slots_of(entries: &[Entry], depth: usize) -> Vec<Slot<'_>> {
    let mut slots = Vec::with_capacity(16.min(entries.len()));
    let mut rest = entries;
    while let Some(nibble) = rest.first().and_then(|entry| entry.key.get(depth)) {
        let (group, others) =
            rest.split_at(rest.partition_point(|entry| entry.key.get(depth) == Some(nibble)));
        slots.push(Slot { nibble, before: Before::Nothing, entries: Cow::Borrowed(group) });
        rest = others;
    }
    slots
}
