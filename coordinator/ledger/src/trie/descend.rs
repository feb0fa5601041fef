//! Applies one sorted batch to one trie. It descends from the root to the places that the batch names,
//! and makes the changed nodes on the way back. The old tree stays as it is. The new nodes are open: `seal`
//! hashes them.
//!
//! This module knows leaves only as keys and values. `update` combines accounts and their storage.
//!
//! Invariant: some functions take a path and what was there ([`Before`], or `old`) and return a
//! [`Shape`]. Such a function has settled everything below that path, and the path itself only if the
//! shape is a branch. Otherwise its caller settles the path, because only the caller knows whether the
//! node stays.

use std::borrow::Cow;

use alloy_trie::nodes::RlpNode;
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieMask};

use super::fan_out;
use super::node::{Entry, Loader, Shape, Value, step};
use super::tree::{Branch, Extension, Form, Leaf, Subtree};
use super::{NodeSource, TrieError};

/// The smallest batch, in entries, that is worth dividing among threads.
pub(super) const WORTH_DIVIDING: usize = 512;

/// A trie after a batch.
#[derive(Debug)]
pub(super) struct Descended {
    /// The new trie, open if it has changed.
    pub(super) trie: Subtree,
    /// The paths at which a node was stored and none is stored any more. A later node may have taken such a
    /// place again.
    pub(super) removed: Vec<Nibbles>,
    /// By how much the number of nodes in memory has grown, roughly.
    pub(super) grown: i64,
}

/// The content of a place in the trie before the batch.
#[derive(Debug, Clone)]
enum Before {
    Nothing,
    Node(Subtree),
    /// The rest of an extension whose first part now ends further up. It is not a node of its own yet.
    Tail(Extension),
}

impl Before {
    /// The node at the place itself.
    fn node(&self) -> Option<&Subtree> {
        match self {
            Self::Node(node) => Some(node),
            Self::Nothing | Self::Tail(_) => None,
        }
    }
}

/// One child of a branch: its old content, and the entries that change it, if any. If the place was
/// empty, no entry is a removal.
struct Slot<'e> {
    nibble: u8,
    before: Before,
    entries: Cow<'e, [Entry]>,
}

/// A slot after its entries are applied; without a shape it is as before.
struct Grown {
    nibble: u8,
    before: Before,
    shape: Option<Shape>,
}

impl Grown {
    fn is_live(&self) -> bool {
        !matches!(self.shape, Some(Shape::Empty))
    }
}

/// The entries of a batch that go through one child of a branch.
#[derive(Debug, Clone, Copy)]
struct Group<'e> {
    nibble: u8,
    entries: &'e [Entry],
}

impl Group<'_> {
    /// Whether there is certainly a node after the batch.
    fn fills(&self) -> bool {
        self.entries.iter().any(|entry| !entry.value.is_removal())
    }
}

/// Applies `entries`, which are ascending by key without repetition, to a trie.
pub(super) fn descend<S: NodeSource>(
    loader: &Loader<'_, S>,
    trie: &Subtree,
    entries: &[Entry],
    threads: usize,
) -> Result<Descended, TrieError> {
    let mut descent = Descent::new(loader, threads);
    let top = Nibbles::new();
    let old = (!trie.is_empty()).then_some(trie);
    let shape = match old {
        Some(node) => descent.subtree(&top, node, entries)?,
        None => descent.build(&top, None, &without_removals(Cow::Borrowed(entries)))?,
    };
    let placed = descent.place(&top, shape, old);
    let trie = placed.unwrap_or_else(|| Subtree::of_root(EMPTY_ROOT_HASH));
    Ok(Descended { trie, removed: descent.removed, grown: descent.grown })
}

struct Descent<'a, S> {
    loader: &'a Loader<'a, S>,
    threads: usize,
    removed: Vec<Nibbles>,
    grown: i64,
    buffer: Vec<u8>,
}

impl<'a, S: NodeSource> Descent<'a, S> {
    fn new(loader: &'a Loader<'a, S>, threads: usize) -> Self {
        Self { loader, threads, removed: Vec::new(), grown: 0, buffer: Vec::new() }
    }

    fn subtree(&mut self, path: &Nibbles, old: &Subtree, entries: &[Entry]) -> Result<Shape, TrieError> {
        match &*self.loader.load(path, old)? {
            Form::Leaf(leaf) => self.edit_leaf(path, leaf, old, entries),
            Form::Extension(node) => self.edit_extension(path, node, Some(old), entries),
            Form::Branch(node) => self.edit_branch(path, node, old, entries),
        }
    }

    /// Treats the old leaf as one more entry of the batch, unless the batch contains its key.
    fn edit_leaf(
        &mut self,
        path: &Nibbles,
        leaf: &Leaf,
        old: &Subtree,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let here = path.join(&leaf.key);
        if let [entry] = entries
            && entry.key == here
        {
            let leaf = entry.value.leaf(leaf.key, Some(leaf));
            let leaf = leaf.map_err(|error| self.loader.bad_value(path, error))?;
            return Ok(leaf.map_or(Shape::Empty, Shape::Leaf));
        }
        let encoded = |leaf: Leaf| Entry { key: here, value: Value::Encoded(leaf.value, leaf.storage) };
        let mut values = Vec::with_capacity(entries.len() + 1);
        let split = entries.partition_point(|entry| entry.key < here);
        let (lower, rest) = entries.split_at(split);
        values.extend(lower.iter().filter(|entry| !entry.value.is_removal()).cloned());
        let rest = match rest.split_first() {
            Some((entry, higher)) if entry.key == here => {
                let changed = entry.value.leaf(leaf.key, Some(leaf));
                values.extend(changed.map_err(|error| self.loader.bad_value(path, error))?.map(encoded));
                higher
            }
            _ => {
                values.push(encoded(leaf.clone()));
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
        extension: &Extension,
        old: Option<&Subtree>,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let Extension { key, child } = extension;
        let end = path.join(key);
        let misses = |entry: &Entry| entry.value.is_removal() && !entry.key.starts_with(&end);
        let entries = if entries.iter().any(misses) {
            Cow::Owned(entries.iter().filter(|entry| !misses(entry)).cloned().collect::<Vec<_>>())
        } else {
            Cow::Borrowed(entries)
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(Shape::Extension(extension.clone()));
        };
        let shared = end.common_prefix_length(&first.key).min(end.common_prefix_length(&last.key));
        let Some(nibble) = end.get(shared) else {
            let shape = self.subtree(&end, child, &entries)?;
            if !shape.is_branch() {
                self.place(&end, Shape::Empty, Some(child));
            }
            return Ok(shape.lifted(key));
        };
        let rest = end.slice(shared + 1..);
        let before = match rest.is_empty() {
            true => Before::Node(child.clone()),
            false => Before::Tail(Extension { key: rest, child: child.clone() }),
        };
        let mut slots: Vec<_> = groups_of(&entries, shared).map(slot_of).collect();
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
        branch: &Branch,
        old: &Subtree,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let groups: Vec<_> = groups_of(entries, path.len()).collect();
        let touched = groups.iter().filter(|group| branch.child(group.nibble).is_some()).count();
        let filled = groups.iter().filter(|group| group.fills()).count();
        if branch.children.len() - touched + filled >= 2 {
            return self.rewrite(path, branch, old, groups);
        }
        // Perhaps at most one child is left.
        let mut groups = groups.into_iter().peekable();
        let mut slots = Vec::with_capacity(16);
        for nibble in 0..16 {
            let group = groups.next_if(|group| group.nibble == nibble);
            let entries = Cow::Borrowed(group.map_or(&[][..], |group| group.entries));
            match branch.child(nibble) {
                Some(child) => slots.push(Slot { nibble, before: Before::Node(child.clone()), entries }),
                None => {
                    let entries = without_removals(entries);
                    if !entries.is_empty() {
                        slots.push(Slot { nibble, before: Before::Nothing, entries });
                    }
                }
            }
        }
        self.branch(path, Some(old), slots)
    }

    /// Changes the children of a branch that certainly stays one.
    fn rewrite(
        &mut self,
        path: &Nibbles,
        branch: &Branch,
        old: &Subtree,
        groups: Vec<Group<'_>>,
    ) -> Result<Shape, TrieError> {
        let changed = self.each(
            groups,
            |group| group.entries.len(),
            |descent, group| {
                let place = step(path, group.nibble);
                let child = branch.child(group.nibble);
                let shape = match child {
                    Some(child) => descent.subtree(&place, child, group.entries)?,
                    None => descent.build(&place, None, &without_removals(Cow::Borrowed(group.entries)))?,
                };
                Ok((group.nibble, descent.place(&place, shape, child)))
            },
        )?;
        let mut changed = changed.into_iter().peekable();
        let mut children = Vec::with_capacity(branch.children.len() + changed.len());
        let mut mask = TrieMask::default();
        for nibble in 0..16 {
            let child = match changed.next_if(|(at, _)| *at == nibble) {
                Some((_, child)) => child,
                None => branch.child(nibble).cloned(),
            };
            if let Some(child) = child {
                mask.set_bit(nibble);
                children.push(child);
            }
        }
        Ok(Shape::Branch(self.settle(path, Form::Branch(Branch { mask, children }), Some(old))))
    }

    /// Builds a subtree in an empty place. No entry is a removal.
    fn build(
        &mut self,
        path: &Nibbles,
        old: Option<&Subtree>,
        entries: &[Entry],
    ) -> Result<Shape, TrieError> {
        let (first, last) = match entries {
            [] => return Ok(Shape::Empty),
            [one] => return self.leaf(path, one),
            [first, .., last] => (first, last),
        };
        let shared = first.key.common_prefix_length(&last.key);
        let old = old.filter(|_| shared == path.len());
        let slots = groups_of(entries, shared).map(slot_of).collect();
        let shape = self.branch(&first.key.slice(..shared), old, slots)?;
        Ok(shape.lifted(&first.key.slice(path.len()..shared)))
    }

    fn leaf(&self, path: &Nibbles, entry: &Entry) -> Result<Shape, TrieError> {
        let leaf = entry.value.leaf(entry.key.slice(path.len()..), None);
        let leaf = leaf.map_err(|error| self.loader.bad_value(path, error))?;
        Ok(leaf.map_or(Shape::Empty, Shape::Leaf))
    }

    /// The shape of an old or new branch with these slots: a branch, the shape of its only child, or empty.
    fn branch(
        &mut self,
        path: &Nibbles,
        old: Option<&Subtree>,
        slots: Vec<Slot<'_>>,
    ) -> Result<Shape, TrieError> {
        let grown = self.each(slots, |slot| slot.entries.len(), |descent, slot| descent.grow(path, slot))?;
        if grown.iter().filter(|child| child.is_live()).count() < 2 {
            return self.collapse(path, grown);
        }
        let mut children = Vec::with_capacity(grown.len());
        let mut mask = TrieMask::default();
        for Grown { nibble, before, shape } in grown {
            let place = step(path, nibble);
            let child = match (shape, before) {
                (Some(shape), before) => self.place(&place, shape, before.node()),
                (None, Before::Node(node)) => Some(node),
                (None, Before::Tail(tail)) => self.place(&place, Shape::Extension(tail), None),
                (None, Before::Nothing) => None,
            };
            if let Some(child) = child {
                children.push(child);
                mask.set_bit(nibble);
            }
        }
        Ok(Shape::Branch(self.settle(path, Form::Branch(Branch { mask, children }), old)))
    }

    /// Replaces a branch with at most one child: the child moves up.
    fn collapse(&mut self, path: &Nibbles, grown: Vec<Grown>) -> Result<Shape, TrieError> {
        let mut left = Shape::Empty;
        for Grown { nibble, before, shape } in grown {
            let place = step(path, nibble);
            let shape = match (shape, &before) {
                (Some(shape), _) => shape,
                (None, Before::Node(node)) => match self.loader.load(&place, node)?.into_owned() {
                    Form::Leaf(leaf) => Shape::Leaf(leaf),
                    Form::Extension(extension) => Shape::Extension(extension),
                    Form::Branch(_) => Shape::Branch(node.clone()),
                },
                (None, Before::Tail(tail)) => Shape::Extension(tail.clone()),
                (None, Before::Nothing) => Shape::Empty,
            };
            if !shape.is_branch() {
                self.place(&place, Shape::Empty, before.node());
            }
            if !matches!(shape, Shape::Empty) {
                left = shape.lifted(&step(&Nibbles::new(), nibble));
            }
        }
        Ok(left)
    }

    /// Does `work` on each part of a batch, in order. Divides a large batch among threads.
    fn each<P: Send, R: Send>(
        &mut self,
        parts: Vec<P>,
        entries: impl Fn(&P) -> usize,
        work: impl Fn(&mut Self, P) -> Result<R, TrieError> + Sync,
    ) -> Result<Vec<R>, TrieError> {
        let busy = parts.iter().filter(|part| entries(part) > 0).count();
        let all: usize = parts.iter().map(entries).sum();
        if self.threads < 2 || busy < 2 || all < WORTH_DIVIDING {
            return parts.into_iter().map(|part| work(self, part)).collect();
        }
        let budget = (self.threads / busy).max(1);
        let loader = self.loader;
        let parts = fan_out::each(self.threads, parts, |part| {
            let mut own = Self::new(loader, budget);
            let result = work(&mut own, part)?;
            Ok::<_, TrieError>((result, own.removed, own.grown))
        });
        let mut results = Vec::with_capacity(parts.len());
        for part in parts {
            let (result, removed, grown) = part?;
            self.removed.extend(removed);
            self.grown += grown;
            results.push(result);
        }
        Ok(results)
    }

    fn grow(&mut self, path: &Nibbles, slot: Slot<'_>) -> Result<Grown, TrieError> {
        let Slot { nibble, before, entries } = slot;
        if entries.is_empty() {
            return Ok(Grown { nibble, before, shape: None });
        }
        let place = step(path, nibble);
        let shape = match &before {
            Before::Nothing => self.build(&place, None, &entries)?,
            Before::Node(node) => self.subtree(&place, node, &entries)?,
            Before::Tail(tail) => self.edit_extension(&place, tail, None, &entries)?,
        };
        Ok(Grown { nibble, before, shape: Some(shape) })
    }

    /// Settles what `path` holds from now on. Returns the subtree for the parent.
    fn place(&mut self, path: &Nibbles, shape: Shape, old: Option<&Subtree>) -> Option<Subtree> {
        match shape {
            Shape::Empty => {
                if let Some(old) = old {
                    self.grown -= i64::from(old.node.is_some());
                    if old.has_own_place() {
                        self.removed.push(*path);
                    }
                }
                None
            }
            Shape::Branch(subtree) => Some(subtree),
            Shape::Leaf(leaf) => Some(self.settle(path, Form::Leaf(leaf), old)),
            Shape::Extension(extension) => Some(self.settle(path, Form::Extension(extension), old)),
        }
    }

    /// The subtree with this top node at `path`.
    fn settle(&mut self, path: &Nibbles, form: Form, old: Option<&Subtree>) -> Subtree {
        self.grown += i64::from(old.is_none_or(|old| old.node.is_none()));
        // The root is always referred to by its hash.
        if !path.is_empty() && form.is_short() {
            self.buffer.clear();
            form.encode(&mut self.buffer);
            if old.is_some_and(Subtree::has_own_place) {
                self.removed.push(*path);
            }
            return self.loader.held(RlpNode::from_rlp(&self.buffer), form);
        }
        self.loader.open(form)
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
fn groups_of(entries: &[Entry], depth: usize) -> impl Iterator<Item = Group<'_>> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let nibble = rest.first()?.key.get(depth)?;
        let (entries, others) =
            rest.split_at(rest.partition_point(|entry| entry.key.get(depth) == Some(nibble)));
        rest = others;
        Some(Group { nibble, entries })
    })
}

fn slot_of(group: Group<'_>) -> Slot<'_> {
    Slot { nibble: group.nibble, before: Before::Nothing, entries: Cow::Borrowed(group.entries) }
}
