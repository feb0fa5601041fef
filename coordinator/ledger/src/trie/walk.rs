//! Reads the trie: one leaf by its key, or all leaves. Every node on the way is checked against the
//! hash that its parent names.

use alloy_primitives::{B256, U256};
use alloy_trie::{Nibbles, TrieAccount};

use super::key::FULL_PATH;
use super::node::{Loader, step, storage_of};
use super::tree::{Form, Leaf, Subtree};
use super::{AccountFields, NodeSource, Tree, TrieError};

/// An account as its leaf contains it.
#[derive(Debug, Clone)]
pub struct AccountLeaf {
    /// The account's nonce, balance and code hash.
    pub fields: AccountFields,
    /// The account's storage trie. [`for_each_slot`] reads the nodes that are not in memory.
    pub storage: Subtree,
}

fn loader<S>(source: &S, tree: Tree) -> Loader<'_, S> {
    Loader { source, tree, key_len: FULL_PATH, generation: 0 }
}

fn account_of<S: NodeSource>(
    loader: &Loader<'_, S>,
    path: &Nibbles,
    leaf: &Leaf,
) -> Result<AccountLeaf, TrieError> {
    let bad = |error| loader.bad_value(path, error);
    let TrieAccount { nonce, balance, code_hash, .. } = alloy_rlp::decode_exact(&leaf.value).map_err(bad)?;
    let storage = storage_of(leaf).map_err(bad)?;
    Ok(AccountLeaf { fields: AccountFields { nonce, balance, code_hash }, storage })
}

fn slot_of<S: NodeSource>(loader: &Loader<'_, S>, path: &Nibbles, leaf: &Leaf) -> Result<U256, TrieError> {
    alloy_rlp::decode_exact(&leaf.value).map_err(|error| loader.bad_value(path, error))
}

/// The account with this hashed address in this state.
///
/// # Errors
/// [`TrieError`] if a node on the way cannot be read or is damaged.
pub fn find_account<S: NodeSource>(
    source: &S,
    trie: &Subtree,
    hashed_address: &B256,
) -> Result<Option<AccountLeaf>, TrieError> {
    let loader = loader(source, Tree::Accounts);
    match find(&loader, trie, hashed_address)? {
        Some((path, leaf)) => account_of(&loader, &path, &leaf).map(Some),
        None => Ok(None),
    }
}

/// The value of a slot in a storage trie; zero if the slot is absent.
///
/// # Errors
/// [`TrieError`] if a node on the way cannot be read or is damaged.
pub fn find_slot<S: NodeSource>(
    source: &S,
    owner: &B256,
    trie: &Subtree,
    hashed_slot: &B256,
) -> Result<U256, TrieError> {
    let loader = loader(source, Tree::Storage(*owner));
    match find(&loader, trie, hashed_slot)? {
        Some((path, leaf)) => slot_of(&loader, &path, &leaf),
        None => Ok(U256::ZERO),
    }
}

/// Finds the leaf with this key. Returns it and the path of its node.
fn find<S: NodeSource>(
    loader: &Loader<'_, S>,
    trie: &Subtree,
    key: &B256,
) -> Result<Option<(Nibbles, Leaf)>, TrieError> {
    if trie.is_empty() {
        return Ok(None);
    }
    let key = Nibbles::unpack_array(&key.0);
    let (mut depth, mut subtree) = (0, trie.clone());
    // Every step lengthens the path, and no path is longer than a key.
    loop {
        let path = key.slice(..depth);
        let form = loader.load(&path, &subtree)?;
        if let Form::Leaf(leaf) = &*form {
            return Ok((path.join(&leaf.key) == key).then(|| (path, leaf.clone())));
        }
        let Some((child, below)) = form.toward(&key, depth) else { return Ok(None) };
        let child = child.clone();
        (subtree, depth) = (child, below);
    }
}

/// Visits every account of a state, in the order of the hashed addresses. For a
/// damaged subtree `visit` gets an error, and the walk goes on after it. The walk stops when `visit`
/// returns an error.
///
/// # Errors
/// The errors of `visit`.
pub fn for_each_account<S: NodeSource, E>(
    source: &S,
    trie: &Subtree,
    visit: &mut dyn FnMut(Result<(B256, AccountLeaf), TrieError>) -> Result<(), E>,
) -> Result<(), E> {
    let loader = loader(source, Tree::Accounts);
    for_each(&loader, trie, &mut |leaf| {
        visit(leaf.and_then(|(path, key, leaf)| Ok((key, account_of(&loader, &path, &leaf)?))))
    })
}

/// Visits every slot of a storage trie in the same way.
///
/// # Errors
/// The errors of `visit`.
pub fn for_each_slot<S: NodeSource, E>(
    source: &S,
    owner: &B256,
    trie: &Subtree,
    visit: &mut dyn FnMut(Result<(B256, U256), TrieError>) -> Result<(), E>,
) -> Result<(), E> {
    let loader = loader(source, Tree::Storage(*owner));
    for_each(&loader, trie, &mut |leaf| {
        visit(leaf.and_then(|(path, key, leaf)| Ok((key, slot_of(&loader, &path, &leaf)?))))
    })
}

/// A leaf of a walk: the path of its node, its key, and the leaf.
type Visited = (Nibbles, B256, Leaf);

fn for_each<S: NodeSource, E>(
    loader: &Loader<'_, S>,
    trie: &Subtree,
    visit: &mut dyn FnMut(Result<Visited, TrieError>) -> Result<(), E>,
) -> Result<(), E> {
    if trie.is_empty() {
        return Ok(());
    }
    // Depth first: the next node is the last of the list.
    let mut open = vec![(Nibbles::new(), trie.clone())];
    while let Some((path, subtree)) = open.pop() {
        let form = match loader.load(&path, &subtree) {
            Ok(form) => form,
            Err(error) => {
                visit(Err(error))?;
                continue;
            }
        };
        match &*form {
            Form::Leaf(leaf) => {
                let key = B256::from_slice(&path.join(&leaf.key).pack());
                visit(Ok((path, key, leaf.clone())))?;
            }
            Form::Extension(extension) => {
                open.push((path.join(&extension.key), extension.child.clone()));
            }
            Form::Branch(branch) => {
                open.extend(branch.each().rev().map(|(nibble, child)| (step(&path, nibble), child.clone())));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::keccak256;

    use alloy_trie::EMPTY_ROOT_HASH;

    use super::super::{AccountChange, MemoryNodes, UpdateOptions, update, writes};
    use super::*;

    fn fields(number: u64) -> AccountFields {
        AccountFields { nonce: number, balance: U256::from(number), code_hash: keccak256([]) }
    }

    fn key(number: u64) -> B256 {
        keccak256(number.to_be_bytes())
    }

    /// Accounts with 1, 2, 3, … slots, at most 40 each.
    fn state(accounts: u64) -> (MemoryNodes, Subtree) {
        let changes = (1..=accounts).map(|number| AccountChange {
            hashed_address: key(number),
            account: Some(fields(number)),
            wiped: false,
            slots: (1..=number % 41).map(|slot| (key(slot), U256::from(slot + number))).collect(),
        });
        let mut nodes = MemoryNodes::new();
        let nothing = Subtree::of_root(EMPTY_ROOT_HASH);
        let options = UpdateOptions { threads: 1, generation: 0 };
        let updated = update(&nodes, &nothing, changes.collect(), options).unwrap();
        let touched = std::iter::once(&updated.touched);
        nodes.apply(&writes(&nodes, (&nothing, &updated.trie), touched).unwrap());
        (nodes, Subtree::of_root(updated.trie.root()))
    }

    #[test]
    fn every_leaf_is_found_by_its_key_and_by_the_walk_and_no_other() {
        for accounts in [0, 1, 2, 90] {
            let (nodes, root) = state(accounts);
            let mut walked = Vec::new();
            let mut visit = |leaf: Result<(B256, AccountLeaf), TrieError>| -> Result<(), TrieError> {
                walked.push(leaf?);
                Ok(())
            };
            for_each_account(&nodes, &root, &mut visit).unwrap();
            let mut keys: Vec<B256> = (1..=accounts).map(key).collect();
            keys.sort_unstable();
            assert_eq!(walked.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys);
            for number in 1..=accounts {
                let leaf = find_account(&nodes, &root, &key(number)).unwrap().unwrap();
                assert_eq!(leaf.fields, fields(number));
                let mut slots = 0;
                let mut visit = |slot: Result<(B256, U256), TrieError>| -> Result<(), TrieError> {
                    slots += u64::from(!slot?.1.is_zero());
                    Ok(())
                };
                for_each_slot(&nodes, &key(number), &leaf.storage, &mut visit).unwrap();
                assert_eq!(slots, number % 41);
                for slot in 1..=number % 41 {
                    let value = find_slot(&nodes, &key(number), &leaf.storage, &key(slot)).unwrap();
                    assert_eq!(value, U256::from(slot + number));
                }
                let other = find_slot(&nodes, &key(number), &leaf.storage, &key(1000)).unwrap();
                assert_eq!(other, U256::ZERO);
            }
            assert!(find_account(&nodes, &root, &key(1000)).unwrap().is_none());
        }
    }

    #[test]
    fn a_damaged_node_hides_its_subtree_only() {
        let (whole, root) = state(90);
        let (_, path, _) =
            whole.iter().find(|(tree, path, _)| *tree == Tree::Accounts && path.len() == 1).unwrap();
        let mut nodes = whole.clone();
        nodes.put(&Tree::Accounts, path, Some(&vec![0xc0].into()));
        let (mut leaves, mut errors) = (0, 0);
        let mut visit = |leaf: Result<(B256, AccountLeaf), TrieError>| -> Result<(), TrieError> {
            match leaf {
                Ok(_) => leaves += 1,
                Err(_) => errors += 1,
            }
            Ok(())
        };
        for_each_account(&nodes, &root, &mut visit).unwrap();
        assert_eq!(errors, 1);
        assert!(leaves > 50 && leaves < 90, "{leaves}");
    }
}
