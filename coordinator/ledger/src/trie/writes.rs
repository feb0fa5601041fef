//! What a store must write so that it holds the nodes of a later tree instead of an earlier one. Blocks
//! may lie between the two: a node that several blocks have changed is written once.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{B256, Bytes};
use alloy_trie::Nibbles;

use super::key::FULL_PATH;
use super::node::{Loader, step};
use super::tree::{Form, Subtree};
use super::update::{find_held, path_of};
use super::{NodeChanges, NodeSource, Touched, Tree, TrieError};

/// The writes that lead from the stored nodes of `before` to those of `after`. `touched` lists what each
/// update between the two has touched, the oldest first. `source` holds the nodes of `before`.
///
/// # Errors
/// [`TrieError`] if a node cannot be read.
pub fn writes<'t, S: NodeSource>(
    source: &S,
    (before, after): (&Subtree, &Subtree),
    touched: impl Iterator<Item = &'t Touched>,
) -> Result<NodeChanges, TrieError> {
    let (mut wiped, mut storage) = (BTreeSet::<B256>::new(), BTreeMap::<B256, &Subtree>::new());
    let mut removed = BTreeSet::<(Tree, Nibbles)>::new();
    for touched in touched {
        wiped.extend(&touched.wiped);
        for (owner, before) in &touched.storage {
            storage.entry(*owner).or_insert(before);
        }
        removed.extend(touched.removed.iter().copied());
    }
    let storage_after = |owner: &B256| find_held(after, &path_of(owner))?.storage.as_ref();

    let mut walk = Walk { tree: Tree::Accounts, nodes: Vec::new() };
    walk.changed(&Nibbles::new(), after, Some(before));
    for (owner, before) in storage {
        let Some(trie) = storage_after(&owner) else { continue };
        walk.tree = Tree::Storage(owner);
        // The store removes the nodes of a wiped trie before it writes the new ones.
        walk.changed(&Nibbles::new(), trie, (!wiped.contains(&owner)).then_some(before));
    }
    let mut nodes = walk.nodes;
    for (tree, path) in removed {
        let trie = match tree {
            Tree::Accounts => Some(after),
            Tree::Storage(owner) if wiped.contains(&owner) => continue,
            Tree::Storage(owner) => storage_after(&owner),
        };
        let loader = Loader { source, tree, key_len: FULL_PATH, generation: 0 };
        let taken = trie.map(|trie| holds_node(&loader, trie, &path)).transpose()?;
        if taken != Some(true) {
            nodes.push(((tree, path), None));
        }
    }
    nodes.sort_by_key(|(place, _)| *place);
    Ok(NodeChanges { wiped: wiped.into_iter().collect(), nodes })
}

struct Walk {
    tree: Tree,
    nodes: Vec<((Tree, Nibbles), Option<Bytes>)>,
}

impl Walk {
    /// Adds the nodes of `after` that differ from those of `before` at the same place. What is not in
    /// memory is stored already. If the node at that place before is not known, one that is in memory is
    /// written, even if it is stored.
    fn changed(&mut self, path: &Nibbles, after: &Subtree, before: Option<&Subtree>) {
        if before.is_some_and(|before| before.reference == after.reference) {
            return;
        }
        // A node inside its parent has no children elsewhere.
        let (Some(node), true) = (&after.node, after.has_own_place()) else { return };
        let mut bytes = Vec::new();
        node.form.encode(&mut bytes);
        self.nodes.push(((self.tree, *path), Some(bytes.into())));
        match &node.form {
            Form::Leaf(_) => {}
            Form::Extension(extension) => {
                let end = path.join(&extension.key);
                self.changed(&end, &extension.child, before.and_then(|before| below(before, path, &end)));
            }
            Form::Branch(branch) => {
                for (nibble, child) in branch.each() {
                    let place = step(path, nibble);
                    self.changed(&place, child, before.and_then(|before| below(before, path, &place)));
                }
            }
        }
    }
}

/// The subtree at `place`, which lies below `path`, in the subtree at `path`; `None` if there is none or
/// if it is not in memory.
fn below<'t>(subtree: &'t Subtree, path: &Nibbles, place: &Nibbles) -> Option<&'t Subtree> {
    let (mut subtree, mut depth) = (subtree, path.len());
    while depth < place.len() {
        (subtree, depth) = subtree.node.as_ref()?.form.toward(place, depth)?;
    }
    Some(subtree)
}

/// Whether a trie has a node of its own at `place`.
fn holds_node<S: NodeSource>(
    loader: &Loader<'_, S>,
    trie: &Subtree,
    place: &Nibbles,
) -> Result<bool, TrieError> {
    if trie.is_empty() {
        return Ok(false);
    }
    let (mut subtree, mut depth) = (trie.clone(), 0);
    while depth < place.len() {
        let form = loader.load(&place.slice(..depth), &subtree)?;
        let Some((child, below)) = form.toward(place, depth) else { return Ok(false) };
        let child = child.clone();
        (subtree, depth) = (child, below);
    }
    Ok(subtree.has_own_place())
}
