//! Updates all tries of a state: first the storage tries, then the account trie, whose leaves contain
//! their roots. It sorts the changes, reads the accounts whose storage changes, and gathers the writes.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256};
use alloy_trie::nodes::{RlpNode, TrieNode};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};

use super::descend::{WORTH_DIVIDING, Write, descend};
use super::fan_out;
use super::key::FULL_PATH;
use super::node::{Entry, Loader, Value, step, storage_root_of};
use super::{AccountChange, NodeChanges, NodeSource, Tree, TrieError, Updated};

/// The smallest total number of slots for which threads save more than they cost.
const SLOTS_WORTH_THREADS: usize = 64;

/// Computes the state root and the nodes to write after `changes` (in any order) to the state with this
/// root. `source` holds that state's nodes. At most `threads` threads work on it, including the
/// caller's.
///
/// # Errors
/// [`TrieError`] if a node cannot be read or is damaged, or if a key occurs twice.
pub fn update<S: NodeSource>(
    source: &S,
    root: B256,
    mut changes: Vec<AccountChange>,
    threads: usize,
) -> Result<Updated, TrieError> {
    if changes.is_empty() {
        return Ok(Updated { root, changes: NodeChanges::default() });
    }
    changes.sort_unstable_by_key(|change| change.hashed_address);
    refuse_repeated(Tree::Accounts, changes.iter().map(|change| &change.hashed_address))?;
    let loader = Loader { source, tree: Tree::Accounts, key_len: FULL_PATH };
    let storage = update_storage(&loader, root, &mut changes, threads)?;

    let mut entries = Vec::with_capacity(changes.len());
    let mut tries = storage.iter().peekable();
    for change in &changes {
        let trie = tries.next_if(|trie| trie.owner == change.hashed_address);
        let value = match change.account {
            Some(fields) => Value::Account(fields, trie.map(|trie| trie.root)),
            None => Value::Remove,
        };
        entries.push(Entry { key: path_of(&change.hashed_address), value });
    }
    let (root, writes) = descend(loader, root, &entries, threads)?;
    Ok(Updated { root, changes: gather(writes, storage) })
}

/// The result of updating one storage trie.
struct StorageUpdate {
    owner: B256,
    root: B256,
    wiped: bool,
    writes: Vec<Write>,
}

/// A storage trie that changes.
struct StorageJob {
    owner: B256,
    root: B256,
    /// Whether the old trie has stored nodes, all of which must be removed.
    wiped: bool,
    slots: Vec<(B256, U256)>,
}

/// Updates the storage tries of all accounts whose storage changes, in the order of the accounts. Takes
/// the slots out of the changes.
fn update_storage<S: NodeSource>(
    accounts: &Loader<'_, S>,
    root: B256,
    changes: &mut [AccountChange],
    threads: usize,
) -> Result<Vec<StorageUpdate>, TrieError> {
    let affected: Vec<_> = changes
        .iter_mut()
        .filter(|change| change.account.is_none() || change.wiped || !change.slots.is_empty())
        .collect();
    let keys: Vec<_> = affected.iter().map(|change| path_of(&change.hashed_address)).collect();
    let roots = storage_roots(accounts, root, &keys, threads)?;
    let mut jobs = Vec::with_capacity(affected.len());
    for (change, root) in affected.into_iter().zip(roots) {
        let gone = change.wiped || change.account.is_none();
        let slots = if change.account.is_some() { std::mem::take(&mut change.slots) } else { Vec::new() };
        let wiped = gone && root != EMPTY_ROOT_HASH;
        let root = if gone { EMPTY_ROOT_HASH } else { root };
        jobs.push(StorageJob { owner: change.hashed_address, root, wiped, slots });
    }

    let all: usize = jobs.iter().map(|job| job.slots.len()).sum();
    let threads = if all < SLOTS_WORTH_THREADS { 1 } else { threads };
    // A large trie is divided by itself, so that one thread does not stay busy after the others.
    let (large, small): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| threads > 1 && job.slots.len() >= WORTH_DIVIDING);
    let mut updates = Vec::with_capacity(large.len() + small.len());
    for job in large {
        updates.push(update_one(accounts.source, job, threads)?);
    }
    for update in fan_out::each(threads, small, |job| update_one(accounts.source, job, 1)) {
        updates.push(update?);
    }
    updates.sort_unstable_by_key(|update| update.owner);
    Ok(updates)
}

fn update_one<S: NodeSource>(
    source: &S,
    job: StorageJob,
    threads: usize,
) -> Result<StorageUpdate, TrieError> {
    let StorageJob { owner, root, wiped, mut slots } = job;
    let tree = Tree::Storage(owner);
    if slots.is_empty() {
        return Ok(StorageUpdate { owner, root, wiped, writes: Vec::new() });
    }
    slots.sort_unstable_by_key(|(slot, _)| *slot);
    refuse_repeated(tree, slots.iter().map(|(slot, _)| slot))?;
    let entry = |(slot, value): &(B256, U256)| {
        let value = if value.is_zero() { Value::Remove } else { Value::Slot(*value) };
        Entry { key: path_of(slot), value }
    };
    let entries: Vec<_> = slots.iter().map(entry).collect();
    let (root, writes) = descend(Loader { source, tree, key_len: FULL_PATH }, root, &entries, threads)?;
    Ok(StorageUpdate { owner, root, wiped, writes })
}

/// The storage roots of the accounts with these keys, ascending; the root of the empty trie for an
/// account that does not exist.
fn storage_roots<S: NodeSource>(
    loader: &Loader<'_, S>,
    root: B256,
    keys: &[Nibbles],
    threads: usize,
) -> Result<Vec<B256>, TrieError> {
    if root == EMPTY_ROOT_HASH {
        return Ok(vec![EMPTY_ROOT_HASH; keys.len()]);
    }
    let share = keys.len().div_ceil(threads.max(1)).max(WORTH_DIVIDING);
    let parts = fan_out::each(threads, keys.chunks(share).collect(), |part| {
        let mut roots = Vec::with_capacity(part.len());
        let top = RlpNode::word_rlp(&root);
        find_roots(loader, &Nibbles::new(), &top, part, &mut roots)?;
        Ok::<_, TrieError>(roots)
    });
    let mut roots = Vec::with_capacity(keys.len());
    for part in parts {
        roots.extend(part?);
    }
    Ok(roots)
}

/// Appends one root for each key. All keys pass through `path`.
fn find_roots<S: NodeSource>(
    loader: &Loader<'_, S>,
    path: &Nibbles,
    node: &RlpNode,
    keys: &[Nibbles],
    roots: &mut Vec<B256>,
) -> Result<(), TrieError> {
    match loader.load(path, node)? {
        TrieNode::EmptyRoot => roots.extend(keys.iter().map(|_| EMPTY_ROOT_HASH)),
        TrieNode::Leaf(leaf) => {
            let here = path.join(&leaf.key);
            let found = storage_root_of(&leaf.value).map_err(|error| loader.bad_value(path, error))?;
            roots.extend(keys.iter().map(|key| if *key == here { found } else { EMPTY_ROOT_HASH }));
        }
        TrieNode::Extension(extension) => {
            let end = path.join(&extension.key);
            let (lower, rest) = keys.split_at(keys.partition_point(|key| *key < end));
            let (inside, higher) = rest.split_at(rest.partition_point(|key| key.starts_with(&end)));
            roots.extend(lower.iter().map(|_| EMPTY_ROOT_HASH));
            if !inside.is_empty() {
                find_roots(loader, &end, &extension.child, inside, roots)?;
            }
            roots.extend(higher.iter().map(|_| EMPTY_ROOT_HASH));
        }
        TrieNode::Branch(branch) => {
            let mut rest = keys;
            for (nibble, child) in branch.as_ref().children() {
                let end = rest.partition_point(|key| key.get(path.len()) == Some(nibble));
                let (inside, others) = rest.split_at(end);
                rest = others;
                match child {
                    Some(child) if !inside.is_empty() => {
                        find_roots(loader, &step(path, nibble), child, inside, roots)?;
                    }
                    _ => roots.extend(inside.iter().map(|_| EMPTY_ROOT_HASH)),
                }
            }
        }
    }
    Ok(())
}

/// All writes in the store's order.
fn gather(accounts: Vec<Write>, storage: Vec<StorageUpdate>) -> NodeChanges {
    let wiped = storage.iter().filter(|trie| trie.wiped).map(|trie| trie.owner).collect();
    // The map sorts its input, at little cost if that is one ascending run.
    let accounts = accounts.into_iter().rev().map(|(path, node)| ((Tree::Accounts, path), node));
    let storage = storage.into_iter().flat_map(|trie| {
        let tree = Tree::Storage(trie.owner);
        trie.writes.into_iter().rev().map(move |(path, node)| ((tree, path), node))
    });
    NodeChanges { wiped, nodes: accounts.chain(storage).collect::<BTreeMap<_, _>>() }
}

fn path_of(hash: &B256) -> Nibbles {
    Nibbles::unpack_array(&hash.0)
}

/// Checks that sorted keys are unique.
fn refuse_repeated<'k>(tree: Tree, keys: impl Iterator<Item = &'k B256>) -> Result<(), TrieError> {
    let mut last = None;
    for key in keys {
        if last == Some(key) {
            return Err(TrieError::Repeated { tree, key: *key });
        }
        last = Some(key);
    }
    Ok(())
}
