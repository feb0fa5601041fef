//! Checks the flat state against the trie, and the trie's nodes against the state root.
//!
//! The check walks the trie from the root, and each node must hash to the value that its parent names.
//! Each leaf must have the same value in the flat state, and there must be as many leaves as flat
//! entries. So the flat state is the one that the root covers.

use alloy_primitives::{B256, KECCAK256_EMPTY, U256, keccak256};
use common::digest::ContentDigest;
use engine::store::RawState;
use redb::ReadTransaction;

use super::super::LedgerError;
use super::super::audit::difference;
use super::super::nodes::StoredNodes;
use super::super::records::CheckpointRecord;
use super::super::records::Records;
use super::super::trie::{AccountLeaf, Subtree, TrieError, for_each_account, for_each_slot};
use super::Check;

/// The interval between two progress reports, in accounts.
const STEP: u64 = 1024;

impl Check<'_> {
    /// Checks stored code against its hash.
    pub(super) fn code(&mut self) -> Result<(), LedgerError> {
        let raw = RawState::open(&self.ledger.reading()?)?;
        let report = &mut self.report;
        raw.for_each_code(&mut |hash, code| {
            let found = keccak256(code);
            if found != hash {
                report.add(format!("the code with hash {hash}"), format!("its bytes have hash {found}"));
            }
            report.counts.codes += 1;
        })?;
        Ok(())
    }

    /// Checks the flat state and the trie.
    pub(super) fn state(&mut self) -> Result<(), LedgerError> {
        let transaction = self.ledger.reading()?;
        let raw = RawState::open(&transaction)?;
        let tables = Records(&transaction).checkpoint()?;
        let trie = Subtree::of_root(tables.state_root);
        // All tables are read from one version of the database.
        let source = StoredNodes::open(&transaction)?;
        self.check_header(&transaction, &tables)?;
        let total = raw.accounts()?;
        let mut digest = ContentDigest::default();
        let (mut leaves, mut slots) = (0_u64, 0_u64);
        let before = self.report.findings.len();
        for_each_account(&source, &trie, &mut |leaf: Result<(B256, AccountLeaf), TrieError>| {
            let (hashed, leaf) = match leaf {
                Ok(leaf) => leaf,
                Err(error) => return self.trie_error(error),
            };
            if leaves.is_multiple_of(STEP) {
                (self.progress)("state", leaves, total);
            }
            leaves += 1;
            let flat = raw.account(&hashed)?;
            let place = || match &flat {
                Some((address, _)) => format!("account {address}"),
                None => format!("the account with hashed address {hashed}"),
            };
            let account = flat.as_ref().map(|(_, account)| account);
            if let Some(reason) = difference(account, Some(&leaf.fields)) {
                self.report.add(place(), reason);
            }
            let Some((address, account)) = flat else { return Ok(()) };
            if keccak256(address) != hashed {
                self.report.add(place(), format!("it is stored under {hashed}, the hash of another address"));
            }
            digest.account(address, None, Some(&account));
            if account.code_hash != KECCAK256_EMPTY && !raw.has_code(&account.code_hash)? {
                self.report.add(place(), format!("its code with hash {} is missing", account.code_hash));
            }
            for_each_slot(&source, &hashed, &leaf.storage, &mut |slot| {
                let (hashed_slot, value) = match slot {
                    Ok(slot) => slot,
                    Err(error) => return self.trie_error(error),
                };
                slots += 1;
                let flat = raw.slot(&hashed, &hashed_slot)?;
                let (number, found) = flat.unwrap_or_default();
                if flat.is_none() || found != value {
                    let place = format!("slot {number:#x} of account {address}");
                    self.report.add(place, format!("it is {found:#x}, the trie has {value:#x}"));
                } else if keccak256(number.to_be_bytes::<32>()) != hashed_slot {
                    let place = format!("slot {number:#x} of account {address}");
                    self.report.add(place, "it is stored under the hash of another slot");
                }
                digest.slot(address, number, U256::ZERO, found);
                Ok::<(), LedgerError>(())
            })
        })?;
        self.report.counts.accounts += leaves;
        self.report.counts.slots += slots;
        for (what, flat, trie) in [("accounts", total, leaves), ("slots", raw.slots()?, slots)] {
            if flat != trie {
                self.report.add("flat state", format!("it has {flat} {what}, the trie has {trie}"));
            }
        }
        let whole = self.report.findings.len() == before;
        if whole && digest.word() != tables.summary.digest {
            let (found, named) = (digest.word(), tables.summary.digest);
            self.report
                .add("checkpoint", format!("its content digest is {named:#x}, the state has {found:#x}"));
        }
        Ok(())
    }

    /// The header of the block whose state the tables hold must name their root.
    fn check_header(
        &mut self,
        transaction: &ReadTransaction,
        tables: &CheckpointRecord,
    ) -> Result<(), LedgerError> {
        let at = tables.summary.state;
        let place = self.ledger.place(transaction, at.height, at.block_hash)?;
        let (root, header) = (tables.state_root, place.header);
        if let Some(header) = header.filter(|header| header.state_root != root) {
            let reason = format!("it names state root {root}, its header {}", header.state_root);
            self.report.add("checkpoint", reason);
        }
        Ok(())
    }

    /// Turns a damaged node into a finding. A database that cannot be read ends the part.
    fn trie_error(&mut self, error: TrieError) -> Result<(), LedgerError> {
        match error {
            TrieError::Damaged { tree, path, damage } => {
                let path: String = path.iter().map(|nibble| format!("{nibble:x}")).collect();
                self.report.add(format!("{tree}, node at path [{path}]"), damage);
                Ok(())
            }
            other => Err(other.into()),
        }
    }
}
