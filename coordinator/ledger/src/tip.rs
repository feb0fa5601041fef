//! A tip: the state after one block, with everything needed to execute and check the next block.
//!
//! It consists of a version of the database and the steps above it. A step adds a block that is not
//! committed, or takes a block back on the way to another branch. A tip never changes, and making one
//! changes nothing in the database.

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes, U256};
use common::account::{AccountDelta, Delta};
use common::block::{Block, EncodedBlock};
use common::id::StateRef;
use common::message::StateSummary;
use common::receipt::Receipts;
use engine::StateError;
use engine::replica_view::{Consequence, ReplicaView};

use super::LedgerError;
use super::nodes::Nodes;
use super::trie::{Touched, Updated};
use common::block::{Ancestor, MAX_ANCESTORS};

/// The state after one block.
#[derive(Debug, Clone)]
pub struct Tip {
    pub(super) summary: StateSummary,
    pub(super) header: Option<Header>,
    pub(super) state_root: Option<B256>,
    pub(super) total_difficulty: U256,
    pub(super) blocks: u64,
    /// The newest ancestor first, this block included.
    pub(super) ancestors: Vec<Arc<Ancestor>>,
    pub(super) view: ReplicaView,
    pub(super) nodes: Option<Nodes>,
    /// The version of the database below the steps.
    pub(super) version: u64,
    pub(super) steps: Vec<Arc<Step>>,
}

/// The change from one tip to the next.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) delta: Arc<Delta>,
    /// The change from the state after the step back to the one before it.
    pub(super) inverse: Arc<Delta>,
    /// What the update of the state trie has touched.
    pub(super) touched: Option<Arc<Touched>>,
    /// The block that the step adds; `None` if it takes one back.
    pub(super) block: Option<AddedBlock>,
}

/// A change that becomes a step.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) delta: Arc<Delta>,
    /// The change from the state after `delta` back to the one before it.
    pub(super) inverse: Arc<Delta>,
    /// The state trie after it.
    pub(super) trie: Option<Updated>,
    /// The block that it adds; `None` if it takes one back.
    pub(super) block: Option<AddedBlock>,
}

/// A block that a step adds.
#[derive(Debug)]
pub(super) struct AddedBlock {
    pub(super) hash: B256,
    pub(super) rlp: Bytes,
    pub(super) receipts: Vec<u8>,
    pub(super) total_difficulty: U256,
    pub(super) blocks: u64,
}

/// The result of a block's changes, before the block has its hash.
#[derive(Debug)]
pub struct Draft {
    accounts: Vec<AccountDelta>,
    code: Vec<(B256, Bytes)>,
    consequence: Consequence,
    trie: Option<Updated>,
}

impl Draft {
    /// The state root; `None` if the ledger does not hold the whole state.
    #[must_use]
    pub fn state_root(&self) -> Option<B256> {
        self.trie.as_ref().map(|updated| updated.trie.root())
    }
}

impl Tip {
    /// The state's name and digest.
    #[must_use]
    pub fn summary(&self) -> StateSummary {
        self.summary
    }

    /// The block's header, if it is known.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The state root; `None` if the ledger does not hold the whole state.
    #[must_use]
    pub fn state_root(&self) -> Option<B256> {
        self.state_root
    }

    /// The total difficulty of the chain up to and including this block.
    #[must_use]
    pub fn total_difficulty(&self) -> U256 {
        self.total_difficulty
    }

    /// The number of blocks since the origin.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The block and its ancestors, newest first, as far as their headers are known and needed.
    #[must_use]
    pub fn ancestors(&self) -> &[Arc<Ancestor>] {
        &self.ancestors
    }

    /// The accounts, slots and code of the state. They stay readable while later blocks commit.
    #[must_use]
    pub fn view(&self) -> &ReplicaView {
        &self.view
    }

    /// Checks that `block` follows this tip's block.
    ///
    /// # Errors
    /// [`LedgerError::NotNext`] if it does not.
    pub fn check_next(&self, block: &Block) -> Result<(), LedgerError> {
        let at = self.summary.state;
        if block.header.parent_hash == at.block_hash
            && Some(block.header.number) == at.height.0.checked_add(1)
        {
            return Ok(());
        }
        Err(LedgerError::NotNext {
            number: block.header.number,
            hash: block.hash,
            parent: block.header.parent_hash,
            head: at.height,
            head_hash: at.block_hash,
        })
    }

    /// Computes the result of changes to this state.
    ///
    /// # Errors
    /// [`LedgerError`] if the state or the trie cannot be read.
    pub fn draft(&self, accounts: Vec<AccountDelta>, code: Vec<(B256, Bytes)>) -> Result<Draft, LedgerError> {
        let consequence = self.view.consequence(self.summary.digest, &accounts)?;
        let trie = self.nodes.as_ref().map(|nodes| nodes.update(&accounts)).transpose()?;
        Ok(Draft { accounts, code, consequence, trie })
    }

    /// The tip after `block`, whose changes to this state are in `draft`.
    #[must_use]
    pub fn seal(&self, draft: Draft, block: &EncodedBlock, receipts: &Receipts) -> Arc<Self> {
        let mut encoded = Vec::new();
        receipts.encode_list(&mut encoded);
        let ancestor = Ancestor {
            hash: block.hash,
            header: block.header.clone(),
            ommers: block.ommers.headers().iter().map(Header::hash_slow).collect(),
        };
        self.extend(draft, ancestor, block.rlp().clone(), encoded)
    }

    /// The tip after a block in its stored form.
    pub(super) fn extend(&self, draft: Draft, block: Ancestor, rlp: Bytes, receipts: Vec<u8>) -> Arc<Self> {
        let state_root = draft.state_root();
        let Draft { accounts, code, consequence, trie } = draft;
        let from = self.summary.state;
        let height = common::id::Height(block.header.number);
        let to = StateRef { world: from.world, height, block_hash: block.hash };
        let delta = Arc::new(Delta { from, to, accounts, code, digest: consequence.digest });
        let undo = Delta {
            from: to,
            to: from,
            accounts: consequence.undo,
            code: Vec::new(),
            digest: self.summary.digest,
        };
        let hash = block.hash;
        let place = self.position_after(block, state_root);
        let (total_difficulty, blocks) = (place.total_difficulty, place.blocks);
        let added = AddedBlock { hash, rlp, receipts, total_difficulty, blocks };
        let change = Change { delta, inverse: Arc::new(undo), trie, block: Some(added) };
        self.step(change, place)
    }

    /// The position in the chain after `block`.
    pub(super) fn position_after(&self, block: Ancestor, state_root: Option<B256>) -> TipPosition {
        let total_difficulty = self.total_difficulty.saturating_add(block.header.difficulty);
        let blocks = self.blocks.saturating_add(1);
        let header = Some(block.header.clone());
        let mut ancestors = vec![Arc::new(block)];
        ancestors.extend(self.ancestors.iter().take(MAX_ANCESTORS - 1).cloned());
        TipPosition { header, state_root, total_difficulty, blocks, ancestors }
    }

    /// This tip on the base of `head`, whose state is the one below `steps`: the newest of this tip's own.
    pub(super) fn on_base(&self, head: &Self, steps: &[Arc<Step>]) -> Self {
        let nodes = match (&self.nodes, &head.nodes) {
            (Some(nodes), Some(base)) => Some(nodes.rebased(base)),
            _ => None,
        };
        let view = self.view.rebased(&head.view, steps.len());
        Self { view, nodes, version: head.version, steps: steps.to_vec(), ..self.clone() }
    }

    /// This tip as the head, `steps` above the former `head`. The tables do not contain them yet.
    pub(super) fn committed(&self, head: &Self, steps: &[Arc<Step>], version: u64) -> Self {
        let tip = self.on_base(head, steps);
        Self { view: tip.view.committed(version), version, steps: Vec::new(), ..tip }
    }

    /// The tip to which a change leads.
    pub(super) fn step(&self, change: Change, place: TipPosition) -> Arc<Self> {
        let Change { delta, inverse, trie, block } = change;
        let TipPosition { header, state_root, total_difficulty, blocks, ancestors } = place;
        let nodes = match (&self.nodes, &trie) {
            (Some(nodes), Some(updated)) => Some(nodes.after(updated)),
            _ => None,
        };
        let mut steps = self.steps.clone();
        let view = self.view.after(&delta);
        let summary = StateSummary { state: delta.to, digest: delta.digest };
        let touched = trie.map(|updated| Arc::new(updated.touched));
        steps.push(Arc::new(Step { delta, inverse, touched, block }));
        Arc::new(Self {
            summary,
            header,
            state_root,
            total_difficulty,
            blocks,
            ancestors,
            view,
            nodes,
            version: self.version,
            steps,
        })
    }

    /// The change from the previous tip to this one; `None` if this is the database's own state.
    #[must_use]
    pub fn delta(&self) -> Option<Arc<Delta>> {
        self.steps.last().map(|step| Arc::clone(&step.delta))
    }

    /// The changes from the database's state to this one, in order.
    pub fn way_there(&self) -> impl Iterator<Item = Arc<Delta>> {
        self.steps.iter().map(|step| Arc::clone(&step.delta))
    }

    /// The changes from this state to the database's, in order.
    pub fn way_back(&self) -> impl Iterator<Item = Arc<Delta>> {
        self.steps.iter().rev().map(|step| Arc::clone(&step.inverse))
    }

    /// The state roots within the next block; `None` if the ledger does not hold the whole state.
    #[must_use]
    pub fn intermediate_roots(&self) -> Option<IntermediateRoots> {
        Some(IntermediateRoots { nodes: self.nodes.clone()? })
    }
}

/// State roots between the transactions of a block. Receipts before Byzantium contain them.
#[derive(Debug)]
pub struct IntermediateRoots {
    nodes: Nodes,
}

impl IntermediateRoots {
    /// The root after further changes.
    ///
    /// # Errors
    /// [`StateError::Storage`] if the trie cannot be read.
    pub fn after(&mut self, changes: &[AccountDelta]) -> Result<B256, StateError> {
        let updated = self.nodes.update(changes).map_err(|error| StateError::Storage(error.to_string()))?;
        self.nodes = self.nodes.after(&updated);
        Ok(self.nodes.root())
    }
}

/// A tip's position in its chain.
#[derive(Debug)]
pub(super) struct TipPosition {
    pub(super) header: Option<Header>,
    pub(super) state_root: Option<B256>,
    pub(super) total_difficulty: U256,
    pub(super) blocks: u64,
    pub(super) ancestors: Vec<Arc<Ancestor>>,
}
