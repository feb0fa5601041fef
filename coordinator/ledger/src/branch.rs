//! The states of blocks other than the head: earlier blocks of the chain, and side blocks. Such a state
//! is the head's state with blocks taken back, and then with the blocks of a branch on top.

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_primitives::{B256, U256};
use alloy_rlp::Decodable as _;
use common::block::{Block, BlockError};
use common::id::Height;
use redb::{ReadTransaction, ReadableDatabase};

use super::records::Records;
use super::tip::{Change, TipPosition};
use super::{Ledger, LedgerError, Tip, damaged};
use common::block::{Ancestor, MAX_ANCESTORS};

impl Ledger {
    /// The state after a block of the chain or a side block; `None` if the block is unknown.
    ///
    /// # Errors
    /// [`LedgerError::TooFarBack`] if the block is older than the journal, [`LedgerError::Damaged`] if a
    /// block's record does not match its hash.
    pub fn tip_at(&self, height: Height, hash: B256) -> Result<Option<Arc<Tip>>, LedgerError> {
        let mut branch = Vec::new();
        let (mut height, mut hash) = (height, hash);
        let head = self.head();
        loop {
            let at = head.summary.state;
            if at.block_hash == hash || self.contains(height, hash)? {
                break;
            }
            let Some(block) = self.side_block(&hash)? else { return Ok(None) };
            (height, hash) = (block.delta.from.height, block.parent);
            branch.push(block);
        }
        let mut tip = self.unwound(&head, height)?;
        for block in branch.iter().rev() {
            let draft = tip.draft(block.delta.accounts.clone(), block.delta.code.clone())?;
            let ancestor = ancestor_of(&block.rlp)?;
            if ancestor.hash != block.hash
                || draft.state_root().is_some_and(|root| root != ancestor.header.state_root)
            {
                let reason = "its bytes or its changes are not those that its hash covers";
                return Err(damaged(&format!("side block {}", block.hash), reason));
            }
            tip = tip.extend(draft, ancestor, block.rlp.clone(), block.receipts.clone());
        }
        Ok(Some(tip))
    }

    /// The state after an earlier block of the head's chain.
    fn unwound(&self, head: &Arc<Tip>, to: Height) -> Result<Arc<Tip>, LedgerError> {
        let mut tip = Arc::clone(head);
        if tip.summary.state.height == to {
            return Ok(tip);
        }
        let transaction = self.database.begin_read()?;
        let records = Records(&transaction);
        while tip.summary.state.height > to {
            let height = tip.summary.state.height;
            let Some(entry) = records.journal(height.0)?.filter(|entry| entry.undo.from == tip.summary.state)
            else {
                return Err(LedgerError::TooFarBack { block: to, kept: self.reach() });
            };
            let trie = tip.nodes.as_ref().map(|nodes| nodes.update(&entry.undo.accounts)).transpose()?;
            let place = self.place(&transaction, entry.undo.to.height, entry.undo.to.block_hash)?;
            let root = trie.as_ref().map(|updated| updated.trie.root());
            if place.state_root.is_some() && root != place.state_root {
                let reason = format!("taking block {height} back does not lead to its parent's state root");
                return Err(LedgerError::Damaged { what: "the journal".into(), reason });
            }
            let (delta, inverse) = (Arc::new(entry.undo), Arc::new(entry.redo));
            tip = tip.step(Change { delta, inverse, trie, block: None }, place);
        }
        Ok(tip)
    }

    /// The place of a block of the chain.
    pub(super) fn place(
        &self,
        transaction: &ReadTransaction,
        height: Height,
        hash: B256,
    ) -> Result<TipPosition, LedgerError> {
        let records = Records(transaction);
        let ancestors = load_ancestors(&records, height, hash)?;
        let header = ancestors.first().map(|ancestor| ancestor.header.clone());
        let (total_difficulty, blocks) = match records.info(&hash)? {
            Some(info) => (info.total_difficulty.0, info.blocks),
            None => (header.as_ref().map_or(U256::ZERO, |header| header.difficulty), 0),
        };
        let state_root = header.as_ref().filter(|_| self.complete).map(|header| header.state_root);
        Ok(TipPosition { header, state_root, total_difficulty, blocks, ancestors })
    }
}

/// The block and its ancestors, newest first, down to the origin at most.
fn load_ancestors(
    records: &Records<'_>,
    height: Height,
    hash: B256,
) -> Result<Vec<Arc<Ancestor>>, LedgerError> {
    let identity = records.identity()?;
    let (mut height, mut hash) = (height, hash);
    let mut ancestors: Vec<Arc<Ancestor>> = Vec::new();
    while ancestors.len() < MAX_ANCESTORS && height >= identity.origin.state.height {
        let ancestor = match records.block(&hash)? {
            Some(rlp) => {
                let what = format!("block {height} ({hash})");
                let ancestor = ancestor_of(&rlp).map_err(|error| damaged(&what, error))?;
                if ancestor.hash != hash {
                    return Err(damaged(&what, format!("its bytes have hash {}", ancestor.hash)));
                }
                ancestor
            }
            None if hash == identity.origin.state.block_hash && !identity.header.is_empty() => {
                let header = Header::decode(&mut identity.header.as_slice()).map_err(|error| {
                    LedgerError::Damaged { what: "the origin's header".into(), reason: error.to_string() }
                })?;
                Ancestor { hash, header, ommers: Vec::new() }
            }
            None => break,
        };
        hash = ancestor.header.parent_hash;
        ancestors.push(Arc::new(ancestor));
        let Some(below) = height.0.checked_sub(1) else { break };
        height = Height(below);
    }
    Ok(ancestors)
}

pub(super) fn ancestor_of(rlp: &[u8]) -> Result<Ancestor, BlockError> {
    let mut bytes = rlp;
    let block = Block::decode(&mut bytes)?;
    let ommers = block.ommers.headers().iter().map(Header::hash_slow).collect();
    Ok(Ancestor { hash: block.hash, header: block.header, ommers })
}
