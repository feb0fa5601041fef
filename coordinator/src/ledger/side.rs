//! Blocks that were executed and are not on the chain: other branches, and what a reorganisation
//! took back; and the tips of states that are not the head's.
//!
//! A side block's changes are kept, so that a branch that becomes the chain need not be executed
//! again. They are in memory and bounded: after a restart they have to be submitted again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use alloy_consensus::Header;
use alloy_primitives::{B256, U256};
use alloy_rlp::Decodable as _;
use common::account::Delta;
use common::block::Block;
use common::id::Height;
use redb::{ReadTransaction, ReadableDatabase};

use super::records::Records;
use super::tip::{Place, Step};
use super::{Ledger, LedgerError, Tip};
use crate::rules::{Ancestor, MAX_ANCESTORS};

/// Side blocks that are kept, at most.
const MOST: usize = 256;

/// A block that is not on the chain.
#[derive(Debug)]
pub(super) struct SideBlock {
    pub(super) hash: B256,
    pub(super) parent: B256,
    pub(super) rlp: Vec<u8>,
    pub(super) receipts: Vec<u8>,
    /// What it changes about its parent's state.
    pub(super) delta: Arc<Delta>,
}

/// The side blocks; the oldest go first.
#[derive(Debug, Default)]
pub(super) struct SideBlocks {
    blocks: HashMap<B256, Arc<SideBlock>>,
    order: VecDeque<B256>,
}

impl SideBlocks {
    pub(super) fn insert(&mut self, block: SideBlock) {
        let hash = block.hash;
        if self.blocks.insert(hash, Arc::new(block)).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front() {
                self.blocks.remove(&oldest);
            }
        }
    }

    pub(super) fn remove(&mut self, hash: &B256) {
        if self.blocks.remove(hash).is_some() {
            self.order.retain(|kept| kept != hash);
        }
    }

    fn get(&self, hash: &B256) -> Option<Arc<SideBlock>> {
        self.blocks.get(hash).cloned()
    }
}

impl Ledger {
    /// Keeps the newest block of `tip` beside the chain.
    pub fn keep_aside(&self, tip: &Tip) {
        let Some(step) = tip.steps.last() else { return };
        let Some(added) = &step.block else { return };
        let block = SideBlock {
            hash: added.hash,
            parent: step.delta.from.block_hash,
            rlp: added.rlp.clone(),
            receipts: added.receipts.clone(),
            delta: Arc::clone(&step.delta),
        };
        self.side.lock().unwrap_or_else(PoisonError::into_inner).insert(block);
    }

    /// Whether the block was executed before: it is on the chain, or on a branch that is kept.
    ///
    /// # Errors
    /// [`LedgerError`] when the database cannot be read.
    pub fn knows(&self, height: Height, hash: B256) -> Result<bool, LedgerError> {
        let aside = self.side.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).is_some();
        Ok(aside || self.contains(height, hash)?)
    }

    /// The state after a block of the chain, or of a branch that is kept. Nothing when the block is
    /// not known.
    ///
    /// # Errors
    /// [`LedgerError::TooFarBack`] when it is older than the journal.
    pub fn tip_at(&self, height: Height, hash: B256) -> Result<Option<Arc<Tip>>, LedgerError> {
        let mut branch = Vec::new();
        let (mut height, mut hash) = (height, hash);
        let head = self.head();
        loop {
            let at = head.summary.state;
            if at.block_hash == hash || self.contains(height, hash)? {
                break;
            }
            let side = self.side.lock().unwrap_or_else(PoisonError::into_inner).get(&hash);
            let Some(block) = side else { return Ok(None) };
            (height, hash) = (block.delta.from.height, block.parent);
            branch.push(block);
        }
        let mut tip = self.unwound(&head, height)?;
        for block in branch.iter().rev() {
            let draft = tip.draft(block.delta.accounts.clone(), block.delta.code.clone())?;
            let ancestor = ancestor_of(&block.rlp)?;
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
                return Err(LedgerError::TooFarBack {
                    block: to,
                    kept: self.options.journal.max(self.options.unwind),
                });
            };
            let nodes = match (&tip.nodes, tip.state_root) {
                (Some(nodes), Some(root)) => Some(nodes.update(root, &entry.undo.accounts)?),
                _ => None,
            };
            let place = self.place(&transaction, entry.undo.to.height, entry.undo.to.block_hash)?;
            let root = nodes.as_ref().map(|nodes| nodes.root);
            if place.state_root.is_some() && root != place.state_root {
                let reason = format!("taking block {height} back does not lead to its parent's state root");
                return Err(LedgerError::Damaged { what: "the journal".into(), reason });
            }
            let nodes = nodes.map(|nodes| Arc::new(nodes.changes));
            let (delta, inverse) = (Arc::new(entry.undo), Arc::new(entry.redo));
            tip = tip.step(Step { delta, inverse, nodes, block: None }, place);
        }
        Ok(tip)
    }

    /// Where a block of the chain stands.
    pub(super) fn place(
        &self,
        transaction: &ReadTransaction,
        height: Height,
        hash: B256,
    ) -> Result<Place, LedgerError> {
        let records = Records(transaction);
        let ancestors = load_ancestors(&records, height, hash)?;
        let header = ancestors.first().map(|ancestor| ancestor.header.clone());
        let (total_difficulty, blocks) = match records.info(&hash)? {
            Some(info) => (info.total_difficulty.0, info.blocks),
            None => (header.as_ref().map_or(U256::ZERO, |header| header.difficulty), 0),
        };
        let state_root = header.as_ref().filter(|_| self.complete).map(|header| header.state_root);
        Ok(Place { header, state_root, total_difficulty, blocks, ancestors })
    }
}

/// The block and those before it, newest first, down to the origin at most.
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
            Some(rlp) => ancestor_of(&rlp)?,
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

fn ancestor_of(rlp: &[u8]) -> Result<Ancestor, LedgerError> {
    let mut bytes = rlp;
    let block = Block::decode(&mut bytes)?;
    let ommers = block.ommers.headers().iter().map(Header::hash_slow).collect();
    Ok(Ancestor { hash: block.hash, header: block.header, ommers })
}
