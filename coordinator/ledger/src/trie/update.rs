//! Updates all tries of a state: first the storage tries, then the account trie, whose leaves contain
//! their roots. It sorts the changes, and reads the accounts whose storage changes.

use alloy_primitives::{B256, U256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};

use super::descend::{Descended, WORTH_DIVIDING, descend};
use super::fan_out;
use super::key::FULL_PATH;
use super::node::{Entry, Loader, Value, step, storage_of};
use super::seal::{seal_all, seal_one};
use super::tree::{Branch, Extension, Form, Leaf, Subtree};
use super::{AccountChange, NodeSource, Touched, Tree, TrieError, Updated};

/// The smallest total number of slots for which threads save more than they cost.
const SLOTS_WORTH_THREADS: usize = 64;

/// The smallest number of changed leaves whose nodes are worth hashing on several threads.
const LEAVES_WORTH_THREADS: usize = 4096;

/// How an update is to run.
#[derive(Debug, Clone, Copy)]
pub struct UpdateOptions {
    /// The maximum number of threads, including the caller's.
    pub threads: usize,
    /// The generation of the nodes that are read or computed.
    pub generation: u64,
}

/// Computes the state trie after `changes` (in any order) to `trie`. `source` holds the nodes of that trie
/// that are not in memory.
///
/// # Errors
/// [`TrieError`] if a node cannot be read or is damaged, or if a key occurs twice.
pub fn update<S: NodeSource>(
    source: &S,
    trie: &Subtree,
    mut changes: Vec<AccountChange>,
    options: UpdateOptions,
) -> Result<Updated, TrieError> {
    if changes.is_empty() {
        return Ok(Updated { trie: trie.clone(), touched: Touched::default(), grown: 0 });
    }
    changes.sort_unstable_by_key(|change| change.hashed_address);
    refuse_repeated(Tree::Accounts, changes.iter().map(|change| &change.hashed_address))?;
    let UpdateOptions { threads, generation } = options;
    let loader = Loader { source, tree: Tree::Accounts, key_len: FULL_PATH, generation };
    let Storage { accounts, tries, mut touched, mut grown } =
        update_storage(&loader, trie, &mut changes, threads)?;

    let mut entries = Vec::with_capacity(changes.len());
    let mut tries = tries.into_iter().peekable();
    for change in &changes {
        let changed = tries.next_if(|(owner, _)| *owner == change.hashed_address);
        let value = match change.account {
            Some(fields) => Value::Account(fields, changed.map(|(_, trie)| trie)),
            None => Value::Remove,
        };
        entries.push(Entry { key: path_of(&change.hashed_address), value });
    }
    let mut descended = descend(&loader, &accounts, &entries, threads)?;
    seal_one(threads_to_seal(entries.len(), threads), &mut descended.trie);
    touched.removed.extend(descended.removed.into_iter().map(|path| (Tree::Accounts, path)));
    grown += descended.grown;
    Ok(Updated { trie: descended.trie, touched, grown })
}

/// The result of updating the storage tries.
struct Storage {
    /// The account trie, with the accounts whose storage changes in memory.
    accounts: Subtree,
    /// The new storage tries by hashed address, ascending.
    tries: Vec<(B256, Subtree)>,
    touched: Touched,
    grown: i64,
}

/// A storage trie that changes.
struct StorageJob {
    owner: B256,
    trie: Subtree,
    slots: Vec<(B256, U256)>,
}

/// Updates the storage tries of all accounts whose storage changes, in the order of the accounts. Takes
/// the slots out of the changes.
fn update_storage<S: NodeSource>(
    loader: &Loader<'_, S>,
    accounts: &Subtree,
    changes: &mut [AccountChange],
    threads: usize,
) -> Result<Storage, TrieError> {
    let affected: Vec<_> = changes
        .iter_mut()
        .filter(|change| change.account.is_none() || change.wiped || !change.slots.is_empty())
        .collect();
    let keys: Vec<_> = affected.iter().map(|change| path_of(&change.hashed_address)).collect();
    let mut grown = 0;
    let accounts = hold(loader, &Nibbles::new(), accounts, &keys, &mut grown)?;
    let (mut jobs, mut touched) = (Vec::with_capacity(affected.len()), Touched::default());
    for (change, key) in affected.into_iter().zip(&keys) {
        let owner = change.hashed_address;
        let trie = match find_held(&accounts, key) {
            Some(leaf) => storage_of(leaf).map_err(|error| loader.bad_value(key, error))?,
            None => Subtree::of_root(EMPTY_ROOT_HASH),
        };
        let gone = change.wiped || change.account.is_none();
        if gone && !trie.is_empty() {
            touched.wiped.push(owner);
        }
        touched.storage.push((owner, trie.clone()));
        let trie = if gone { Subtree::of_root(EMPTY_ROOT_HASH) } else { trie };
        let slots = if change.account.is_some() { std::mem::take(&mut change.slots) } else { Vec::new() };
        jobs.push(StorageJob { owner, trie, slots });
    }

    let all: usize = jobs.iter().map(|job| job.slots.len()).sum();
    let threads = if all < SLOTS_WORTH_THREADS { 1 } else { threads };
    // A large trie is divided by itself, so that one thread does not stay busy after the others.
    let (large, small): (Vec<_>, Vec<_>) =
        jobs.into_iter().partition(|job| threads > 1 && job.slots.len() >= WORTH_DIVIDING);
    let mut updates = Vec::with_capacity(large.len() + small.len());
    for job in large {
        let threads_to_seal = threads_to_seal(job.slots.len(), threads);
        let (owner, mut update) = update_one(loader, job, threads)?;
        seal_one(threads_to_seal, &mut update.trie);
        updates.push((owner, update));
    }
    for update in fan_out::each(threads, small, |job| update_one(loader, job, 1)) {
        updates.push(update?);
    }
    updates.sort_unstable_by_key(|(owner, _)| *owner);
    let (mut owners, mut tries) = (Vec::with_capacity(updates.len()), Vec::with_capacity(updates.len()));
    for (owner, update) in updates {
        let tree = Tree::Storage(owner);
        touched.removed.extend(update.removed.into_iter().map(|path| (tree, path)));
        grown += update.grown;
        owners.push(owner);
        tries.push(update.trie);
    }
    // Most storage tries change in a few places: their nodes are hashed together.
    seal_all(threads_to_seal(all, threads), &mut tries);
    let tries = owners.into_iter().zip(tries).collect();
    Ok(Storage { accounts, tries, touched, grown })
}

fn threads_to_seal(leaves: usize, threads: usize) -> usize {
    if leaves < LEAVES_WORTH_THREADS { 1 } else { threads }
}

fn update_one<S: NodeSource>(
    accounts: &Loader<'_, S>,
    job: StorageJob,
    threads: usize,
) -> Result<(B256, Descended), TrieError> {
    let StorageJob { owner, trie, mut slots } = job;
    let tree = Tree::Storage(owner);
    if slots.is_empty() {
        return Ok((owner, Descended { trie, removed: Vec::new(), grown: 0 }));
    }
    slots.sort_unstable_by_key(|(slot, _)| *slot);
    refuse_repeated(tree, slots.iter().map(|(slot, _)| slot))?;
    let entry = |(slot, value): &(B256, U256)| {
        let value = if value.is_zero() { Value::Remove } else { Value::Slot(*value) };
        Entry { key: path_of(slot), value }
    };
    let entries: Vec<_> = slots.iter().map(entry).collect();
    let loader = Loader { tree, ..*accounts };
    Ok((owner, descend(&loader, &trie, &entries, threads)?))
}

/// The subtree with all nodes on the ways to `keys` in memory. All keys pass through `path`.
fn hold<S: NodeSource>(
    loader: &Loader<'_, S>,
    path: &Nibbles,
    subtree: &Subtree,
    keys: &[Nibbles],
    grown: &mut i64,
) -> Result<Subtree, TrieError> {
    if subtree.is_empty() || keys.iter().all(|key| is_held(subtree, path.len(), key)) {
        return Ok(subtree.clone());
    }
    *grown += i64::from(subtree.node.is_none());
    let form = match loader.load(path, subtree)?.into_owned() {
        Form::Leaf(leaf) => Form::Leaf(leaf),
        Form::Extension(Extension { key, child }) => {
            let end = path.join(&key);
            let (_, rest) = keys.split_at(keys.partition_point(|key| *key < end));
            let (inside, _) = rest.split_at(rest.partition_point(|key| key.starts_with(&end)));
            let child = if inside.is_empty() { child } else { hold(loader, &end, &child, inside, grown)? };
            Form::Extension(Extension { key, child })
        }
        Form::Branch(branch) => {
            let mut children = Vec::with_capacity(branch.children.len());
            let mut rest = keys;
            for (nibble, child) in branch.each() {
                rest = rest.split_at(rest.partition_point(|key| key.get(path.len()) < Some(nibble))).1;
                let (inside, others) =
                    rest.split_at(rest.partition_point(|key| key.get(path.len()) == Some(nibble)));
                rest = others;
                children.push(match inside {
                    [] => child.clone(),
                    keys => hold(loader, &step(path, nibble), child, keys, grown)?,
                });
            }
            Form::Branch(Branch { mask: branch.mask, children })
        }
    };
    Ok(loader.held(subtree.reference.clone(), form))
}

/// Where the way to a key leads, as far as the nodes are in memory.
enum Way<'t> {
    Leaf(&'t Leaf),
    Nowhere,
    /// To a node that is not in memory.
    Stored,
}

/// Follows a key from the node after its first `depth` nibbles.
fn follow<'t>(subtree: &'t Subtree, depth: usize, key: &Nibbles) -> Way<'t> {
    let (mut subtree, mut depth) = (subtree, depth);
    loop {
        let Some(node) = &subtree.node else { return Way::Stored };
        if let Form::Leaf(leaf) = &node.form {
            return if key.slice(depth..) == leaf.key { Way::Leaf(leaf) } else { Way::Nowhere };
        }
        let Some(next) = node.form.toward(key, depth) else { return Way::Nowhere };
        (subtree, depth) = next;
    }
}

fn is_held(subtree: &Subtree, depth: usize, key: &Nibbles) -> bool {
    !matches!(follow(subtree, depth, key), Way::Stored)
}

/// The leaf of a key, if the way to it is in memory.
pub(super) fn find_held<'t>(trie: &'t Subtree, key: &Nibbles) -> Option<&'t Leaf> {
    match follow(trie, 0, key) {
        Way::Leaf(leaf) => Some(leaf),
        Way::Nowhere | Way::Stored => None,
    }
}

pub(super) fn path_of(hash: &B256) -> Nibbles {
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
