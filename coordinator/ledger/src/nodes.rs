//! The storage of the trie's nodes: one version of the database, and the trie of a state, as far as it is in
//! memory.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};
use common::account::{AccountDelta, hashed_address, hashed_slot};
use redb::{ReadOnlyTable, ReadTransaction, Table, TableDefinition, WriteTransaction};

use super::LedgerError;
use super::trie::{
    AccountChange, AccountFields, NodeChanges, NodeSource, NodeSourceError, Subtree, Tree, TrieError,
    UpdateOptions, Updated, account_key, storage_key, update,
};

/// The nodes of the account trie by path, one byte per nibble.
const ACCOUNT_NODES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("account_nodes");

/// The nodes of storage tries by hashed address and path.
const STORAGE_NODES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("storage_nodes");

/// The nodes of one version of the database.
pub(super) struct StoredNodes {
    accounts: ReadOnlyTable<&'static [u8], &'static [u8]>,
    storage: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl std::fmt::Debug for StoredNodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredNodes").finish_non_exhaustive()
    }
}

impl StoredNodes {
    pub(super) fn open(transaction: &ReadTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            accounts: transaction.open_table(ACCOUNT_NODES)?,
            storage: transaction.open_table(STORAGE_NODES)?,
        })
    }
}

impl NodeSource for StoredNodes {
    fn node(&self, tree: &Tree, path: &Nibbles) -> Result<Option<Bytes>, NodeSourceError> {
        let found = match tree {
            Tree::Accounts => self.accounts.get(account_key(path).as_slice()),
            Tree::Storage(address) => self.storage.get(storage_key(address, path).as_slice()),
        };
        let found = found.map_err(NodeSourceError::new)?;
        Ok(found.map(|node| Bytes::copy_from_slice(node.value())))
    }
}

/// The state trie of one tip, and the stored nodes that are not in memory.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    stored: Arc<StoredNodes>,
    trie: Subtree,
    /// The number of nodes in memory, roughly.
    held: i64,
    generation: u64,
}

impl Nodes {
    pub(super) fn new(stored: StoredNodes, root: B256) -> Self {
        Self { stored: Arc::new(stored), trie: Subtree::of_root(root), held: 0, generation: 0 }
    }

    /// These nodes with the trie in memory that has just been built and stored, if it has at most `limit` nodes.
    pub(super) fn with_built(self, built: &Updated, limit: usize) -> Self {
        let fits = usize::try_from(built.grown).is_ok_and(|nodes| nodes <= limit);
        if fits && built.trie.root() == self.root() { self.after(built) } else { self }
    }

    /// The root of the trie, which is the state root of its tip.
    pub(super) fn root(&self) -> B256 {
        self.trie.root()
    }

    /// The state trie, as far as it is in memory. [`Self::source`] has the rest.
    pub(super) fn trie(&self) -> &Subtree {
        &self.trie
    }

    /// The nodes after an update of these.
    pub(super) fn after(&self, updated: &Updated) -> Self {
        Self { trie: updated.trie.clone(), held: self.held + updated.grown, ..self.clone() }
    }

    /// The same trie above a later version of the database: that of the state of `base`, from which the trie
    /// was derived. What is not in memory has not changed since.
    pub(super) fn rebased(&self, base: &Self) -> Self {
        Self { stored: Arc::clone(&base.stored), generation: base.generation, ..self.clone() }
    }

    /// The same trie, all of which the database now contains, with at most about `limit` nodes in memory.
    pub(super) fn stored_as(&self, stored: StoredNodes, limit: usize) -> Self {
        let stored = Arc::new(stored);
        let mut next = Self { stored, generation: self.generation + 1, ..self.clone() };
        for age in RECENT {
            if usize::try_from(next.held).unwrap_or_default() <= limit {
                break;
            }
            let (trie, held) = next.trie.without_older(next.generation.saturating_sub(age));
            (next.trie, next.held) = (trie, i64::try_from(held).unwrap_or(i64::MAX));
        }
        next
    }

    /// Checks that the stored root node has the hash of the root.
    pub(super) fn check_root(&self) -> Result<(), LedgerError> {
        let root = self.root();
        let node = self.stored.node(&Tree::Accounts, &Nibbles::default()).map_err(TrieError::from)?;
        let found = node.map_or(EMPTY_ROOT_HASH, keccak256);
        if found == root {
            return Ok(());
        }
        let reason = format!("its root node has hash {found}, the head names {root}");
        Err(LedgerError::Damaged { what: "the account trie".into(), reason })
    }

    /// The source of the nodes that are not in memory.
    pub(super) fn source(&self) -> &StoredNodes {
        &self.stored
    }

    /// The trie after `changes`.
    pub(super) fn update(&self, changes: &[AccountDelta]) -> Result<Updated, TrieError> {
        update_from(self.source(), &self.trie, changes, self.generation)
    }
}

/// The generations that stay in memory when there are too many nodes: fewer until it suffices.
const RECENT: [u64; 4] = [64, 16, 4, 1];

/// The trie after applying `changes` to `trie`, whose other nodes are in `source`.
pub(super) fn update_from(
    source: &impl NodeSource,
    trie: &Subtree,
    changes: &[AccountDelta],
    generation: u64,
) -> Result<Updated, TrieError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = UpdateOptions { threads, generation };
    update(source, trie, changes.iter().map(change_of).collect(), options)
}

/// An account's change in the form that the trie uses: keyed by hashes.
fn change_of(delta: &AccountDelta) -> AccountChange {
    AccountChange {
        hashed_address: hashed_address(&delta.address),
        account: delta.account.map(|account| AccountFields {
            nonce: account.nonce,
            balance: account.balance,
            code_hash: account.code_hash,
        }),
        wiped: delta.wiped || delta.account.is_none(),
        slots: delta.storage.iter().map(|entry| (hashed_slot(&entry.slot), entry.value)).collect(),
    }
}

/// The tables of nodes, opened for writing.
#[derive(Debug)]
pub(super) struct NodeWriter<'t> {
    accounts: Table<'t, &'static [u8], &'static [u8]>,
    storage: Table<'t, &'static [u8], &'static [u8]>,
}

impl<'t> NodeWriter<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, LedgerError> {
        Ok(Self {
            accounts: transaction.open_table(ACCOUNT_NODES)?,
            storage: transaction.open_table(STORAGE_NODES)?,
        })
    }

    pub(super) fn apply(&mut self, changes: &NodeChanges) -> Result<(), LedgerError> {
        for address in &changes.wiped {
            // A path has at most 64 nibbles, each at most 15, so all keys of the trie lie in this range.
            let (first, mut last) = (address.to_vec(), address.to_vec());
            last.push(0xff);
            self.storage.retain_in(first.as_slice()..last.as_slice(), |_, _| false)?;
        }
        for ((tree, path), node) in &changes.nodes {
            let (table, key) = match tree {
                Tree::Accounts => (&mut self.accounts, account_key(path)),
                Tree::Storage(address) => (&mut self.storage, storage_key(address, path)),
            };
            match node {
                Some(node) => drop(table.insert(key.as_slice(), node.as_ref())?),
                None => drop(table.remove(key.as_slice())?),
            }
        }
        Ok(())
    }
}
