//! The storage of the trie's nodes: one version of the database, and the changes of the blocks above
//! it.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};
use common::account::{AccountDelta, hashed_address, hashed_slot};
use redb::{ReadOnlyTable, ReadTransaction, Table, TableDefinition, WriteTransaction};

use super::LedgerError;
use super::trie::{
    AccountChange, AccountFields, NodeChanges, NodeLayers, NodeSource, NodeSourceError, Tree, TrieError,
    Updated, account_key, storage_key, update,
};
use super::verified::VerifiedNodes;

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

/// The nodes of one state: the stored nodes, and the changes of the blocks above.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    stored: Arc<StoredNodes>,
    verified: VerifiedNodes,
    newest_first: Vec<Arc<NodeChanges>>,
}

impl Nodes {
    pub(super) fn new(stored: StoredNodes, verified: VerifiedNodes) -> Self {
        Self { stored: Arc::new(stored), verified, newest_first: Vec::new() }
    }

    /// The nodes after further changes.
    pub(super) fn after(&self, changes: Arc<NodeChanges>) -> Self {
        let mut newest_first = vec![changes];
        newest_first.extend(self.newest_first.iter().cloned());
        Self { stored: Arc::clone(&self.stored), verified: self.verified.clone(), newest_first }
    }

    /// These nodes on another base: `base` with the changes of the newest `layers` blocks on top.
    pub(super) fn rebased(&self, base: &Self, layers: usize) -> Self {
        let newest = self.newest_first.iter().take(layers);
        Self { newest_first: newest.chain(&base.newest_first).cloned().collect(), ..base.clone() }
    }

    /// Checks that the root node has the hash `root`.
    pub(super) fn check_root(&self, root: B256) -> Result<(), LedgerError> {
        let node = self.stored.node(&Tree::Accounts, &Nibbles::default()).map_err(TrieError::from)?;
        let found = node.map_or(EMPTY_ROOT_HASH, keccak256);
        if found == root {
            return Ok(());
        }
        let reason = format!("its root node has hash {found}, the head names {root}");
        Err(LedgerError::Damaged { what: "the account trie".into(), reason })
    }

    /// The source from which the nodes are read, without a cache: damage in it shows.
    pub(super) fn source(&self) -> NodeLayers<&StoredNodes> {
        NodeLayers::new(self.newest_first.clone(), self.stored.as_ref())
    }

    /// The root after `changes`, and the nodes that change with it.
    pub(super) fn update(&self, root: B256, changes: &[AccountDelta]) -> Result<Updated, TrieError> {
        update_from(&self.verified.before(self.source()), root, changes)
    }
}

/// The root after applying `changes` to the trie in `source`, and the nodes that change with it.
pub(super) fn update_from(
    source: &impl NodeSource,
    root: B256,
    changes: &[AccountDelta],
) -> Result<Updated, TrieError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    update(source, root, changes.iter().map(change_of).collect(), threads)
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
