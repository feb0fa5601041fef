//! Reads the trie: one leaf by its key, or all leaves. Every node on the way is checked against the
//! hash that its parent names.

use alloy_primitives::{B256, U256};
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles, TrieAccount};

use super::key::FULL_PATH;
use super::node::{Loader, step};
use super::{AccountFields, NodeSource, Tree, TrieError};

/// An account as its leaf contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLeaf {
    /// The account.
    pub fields: AccountFields,
    /// The root of its storage trie.
    pub storage_root: B256,
}

fn loader<S>(source: &S, tree: Tree) -> Loader<'_, S> {
    Loader { source, tree, key_len: FULL_PATH }
}

fn account_of<S: NodeSource>(
    loader: &Loader<'_, S>,
    path: &Nibbles,
    value: &[u8],
) -> Result<AccountLeaf, TrieError> {
    let leaf: TrieAccount = alloy_rlp::decode_exact(value).map_err(|error| loader.bad_value(path, error))?;
    let TrieAccount { nonce, balance, storage_root, code_hash } = leaf;
    Ok(AccountLeaf { fields: AccountFields { nonce, balance, code_hash }, storage_root })
}

fn slot_of<S: NodeSource>(loader: &Loader<'_, S>, path: &Nibbles, value: &[u8]) -> Result<U256, TrieError> {
    alloy_rlp::decode_exact(value).map_err(|error| loader.bad_value(path, error))
}

/// The account with this hashed address in the state with this root.
///
/// # Errors
/// [`TrieError`] if a node on the way cannot be read or is damaged.
pub fn find_account<S: NodeSource>(
    source: &S,
    root: B256,
    hashed_address: &B256,
) -> Result<Option<AccountLeaf>, TrieError> {
    let loader = loader(source, Tree::Accounts);
    match find(&loader, root, hashed_address)? {
        Some((path, value)) => account_of(&loader, &path, &value).map(Some),
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
    storage_root: B256,
    hashed_slot: &B256,
) -> Result<U256, TrieError> {
    let loader = loader(source, Tree::Storage(*owner));
    match find(&loader, storage_root, hashed_slot)? {
        Some((path, value)) => slot_of(&loader, &path, &value),
        None => Ok(U256::ZERO),
    }
}

/// Finds the leaf with this key. Returns its path and its value.
fn find<S: NodeSource>(
    loader: &Loader<'_, S>,
    root: B256,
    key: &B256,
) -> Result<Option<(Nibbles, Vec<u8>)>, TrieError> {
    if root == EMPTY_ROOT_HASH {
        return Ok(None);
    }
    let key = Nibbles::unpack_array(&key.0);
    let (mut path, mut named) = (Nibbles::new(), RlpNode::word_rlp(&root));
    // Every step lengthens the path, and no path is longer than a key.
    for _ in 0..=FULL_PATH {
        match loader.load(&path, &named)? {
            TrieNode::EmptyRoot => return Ok(None),
            TrieNode::Leaf(leaf) => {
                let here = path.join(&leaf.key) == key;
                return Ok(here.then_some((path, leaf.value)));
            }
            TrieNode::Extension(extension) => {
                path = path.join(&extension.key);
                if !key.starts_with(&path) {
                    return Ok(None);
                }
                named = extension.child;
            }
            TrieNode::Branch(branch) => {
                let Some(nibble) = key.get(path.len()) else { return Ok(None) };
                let node = branch.as_ref();
                let child = node.children().find(|(at, _)| *at == nibble).and_then(|(_, child)| child);
                let Some(child) = child else { return Ok(None) };
                path = step(&path, nibble);
                named = child.clone();
            }
        }
    }
    Ok(None)
}

/// Visits every account of the state with this root, in the order of the hashed addresses. For a
/// damaged subtree `visit` gets an error, and the walk goes on after it. The walk stops when `visit`
/// returns an error.
///
/// # Errors
/// The errors of `visit`.
pub fn for_each_account<S: NodeSource, E>(
    source: &S,
    root: B256,
    visit: &mut dyn FnMut(Result<(B256, AccountLeaf), TrieError>) -> Result<(), E>,
) -> Result<(), E> {
    let loader = loader(source, Tree::Accounts);
    for_each(&loader, root, &mut |leaf| {
        visit(leaf.and_then(|(path, key, value)| Ok((key, account_of(&loader, &path, &value)?))))
    })
}

/// Visits every slot of a storage trie in the same way.
///
/// # Errors
/// The errors of `visit`.
pub fn for_each_slot<S: NodeSource, E>(
    source: &S,
    owner: &B256,
    storage_root: B256,
    visit: &mut dyn FnMut(Result<(B256, U256), TrieError>) -> Result<(), E>,
) -> Result<(), E> {
    let loader = loader(source, Tree::Storage(*owner));
    for_each(&loader, storage_root, &mut |leaf| {
        visit(leaf.and_then(|(path, key, value)| Ok((key, slot_of(&loader, &path, &value)?))))
    })
}

/// A leaf: its path, its key and its value.
type Leaf = (Nibbles, B256, Vec<u8>);

fn for_each<S: NodeSource, E>(
    loader: &Loader<'_, S>,
    root: B256,
    visit: &mut dyn FnMut(Result<Leaf, TrieError>) -> Result<(), E>,
) -> Result<(), E> {
    if root == EMPTY_ROOT_HASH {
        return Ok(());
    }
    // Depth first: the next node is the last of the list.
    let mut open = vec![(Nibbles::new(), RlpNode::word_rlp(&root))];
    while let Some((path, named)) = open.pop() {
        match loader.load(&path, &named) {
            Err(error) => visit(Err(error))?,
            Ok(TrieNode::EmptyRoot) => {}
            Ok(TrieNode::Leaf(leaf)) => {
                let key = B256::from_slice(&path.join(&leaf.key).pack());
                visit(Ok((path, key, leaf.value)))?;
            }
            Ok(TrieNode::Extension(extension)) => {
                open.push((path.join(&extension.key), extension.child));
            }
            Ok(TrieNode::Branch(branch)) => {
                let children: Vec<_> = branch
                    .as_ref()
                    .children()
                    .filter_map(|(nibble, child)| Some((step(&path, nibble), child?.clone())))
                    .collect();
                open.extend(children.into_iter().rev());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloy_primitives::keccak256;

    use super::super::{AccountChange, MemoryNodes, update};
    use super::*;

    fn fields(number: u64) -> AccountFields {
        AccountFields { nonce: number, balance: U256::from(number), code_hash: keccak256([]) }
    }

    fn key(number: u64) -> B256 {
        keccak256(number.to_be_bytes())
    }

    /// Accounts with 1, 2, 3, … slots, at most 40 each.
    fn state(accounts: u64) -> (MemoryNodes, B256) {
        let changes = (1..=accounts).map(|number| AccountChange {
            hashed_address: key(number),
            account: Some(fields(number)),
            wiped: false,
            slots: (1..=number % 41).map(|slot| (key(slot), U256::from(slot + number))).collect(),
        });
        let mut nodes = MemoryNodes::new();
        let updated = update(&nodes, EMPTY_ROOT_HASH, changes.collect(), 1).unwrap();
        nodes.apply(&updated.changes);
        (nodes, updated.root)
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
            for_each_account(&nodes, root, &mut visit).unwrap();
            let mut keys: Vec<B256> = (1..=accounts).map(key).collect();
            keys.sort_unstable();
            assert_eq!(walked.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys);
            for number in 1..=accounts {
                let leaf = find_account(&nodes, root, &key(number)).unwrap().unwrap();
                assert_eq!(leaf.fields, fields(number));
                let mut slots = 0;
                let mut visit = |slot: Result<(B256, U256), TrieError>| -> Result<(), TrieError> {
                    slots += u64::from(!slot?.1.is_zero());
                    Ok(())
                };
                for_each_slot(&nodes, &key(number), leaf.storage_root, &mut visit).unwrap();
                assert_eq!(slots, number % 41);
                for slot in 1..=number % 41 {
                    let value = find_slot(&nodes, &key(number), leaf.storage_root, &key(slot)).unwrap();
                    assert_eq!(value, U256::from(slot + number));
                }
                let other = find_slot(&nodes, &key(number), leaf.storage_root, &key(1000)).unwrap();
                assert_eq!(other, U256::ZERO);
            }
            assert_eq!(find_account(&nodes, root, &key(1000)).unwrap(), None);
        }
    }

    #[test]
    fn a_damaged_node_hides_its_subtree_only() {
        let (whole, root) = state(90);
        let (_, path, _) =
            whole.iter().find(|(tree, path, _)| *tree == Tree::Accounts && path.len() == 1).unwrap();
        let mut changes = super::super::NodeChanges::default();
        changes.nodes.insert((Tree::Accounts, *path), Some(vec![0xc0].into()));
        let mut nodes = whole.clone();
        nodes.apply(&changes);
        let (mut leaves, mut errors) = (0, 0);
        let mut visit = |leaf: Result<(B256, AccountLeaf), TrieError>| -> Result<(), TrieError> {
            match leaf {
                Ok(_) => leaves += 1,
                Err(_) => errors += 1,
            }
            Ok(())
        };
        for_each_account(&nodes, root, &mut visit).unwrap();
        assert_eq!(errors, 1);
        assert!(leaves > 50 && leaves < 90, "{leaves}");
    }
}
