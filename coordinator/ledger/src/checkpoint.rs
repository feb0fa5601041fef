//! Checkpoints: the tables of state and trie follow the chain in steps of several blocks.
//!
//! A commit makes a block durable in the journal. Its changes reach the tables with the next checkpoint,
//! together with those of the blocks around it, so that what several blocks change is written once. Between
//! two checkpoints memory holds the difference, and after a crash the journal has it.

use std::sync::Arc;

use common::account::Delta;
use engine::store::StateWriter;
use redb::{Durability, ReadTransaction, WriteTransaction};

use super::branch::ancestor_of;
use super::nodes::{NodeWriter, Nodes};
use super::records::{CheckpointRecord, HeadRecord, JournalEntry, RecordWriter, Records};
use super::tip::{Change, Step};
use super::trie::{Touched, writes};
use super::{Ledger, LedgerError, Tip, damaged};

/// The maximum weight of blocks between two checkpoints, in bytes of their deltas.
const MAX_WEIGHT: usize = 64 << 20;

/// The blocks that are durable in the journal and not yet in the tables.
#[derive(Debug, Default)]
pub(super) struct Pending {
    deltas: Vec<Arc<Delta>>,
    touched: Vec<Arc<Touched>>,
    weight: usize,
    /// The trie as the tables hold it.
    stored: Option<Nodes>,
}

impl Pending {
    /// Nothing: the tables hold the state of this trie.
    pub(super) fn above(stored: Option<Nodes>) -> Self {
        Self { stored, ..Self::default() }
    }

    /// The number of blocks.
    pub(super) fn len(&self) -> usize {
        self.deltas.len()
    }

    /// Adds blocks, whose deltas have this weight together.
    pub(super) fn extend(&mut self, steps: &[Arc<Step>], weight: usize) {
        self.weight += weight;
        for step in steps {
            self.deltas.push(Arc::clone(&step.delta));
            self.touched.extend(step.touched.clone());
        }
    }
}

/// The weight of the steps' deltas, in bytes.
pub(super) fn weight_of(steps: &[Arc<Step>]) -> usize {
    steps.iter().map(|step| step.delta.weight()).sum()
}

impl Ledger {
    /// Whether the tables must follow with the commit of these steps, whose deltas have this weight together.
    pub(super) fn is_due(&self, pending: &Pending, steps: &[Arc<Step>], weight: usize) -> bool {
        // Every pending block must be in the journal, which leads forward only.
        let most = usize::try_from(self.options.checkpoint.min(self.reach())).unwrap_or(usize::MAX);
        let leads_back = steps.iter().any(|step| step.block.is_none());
        !self.complete
            || leads_back
            || pending.len() + steps.len() >= most
            || pending.weight + weight > MAX_WEIGHT
    }

    /// Writes the pending blocks and then `steps`, which lead to `tip`, to the tables.
    pub(super) fn write_tables(
        &self,
        transaction: &WriteTransaction,
        records: &mut RecordWriter<'_>,
        (pending, steps): (&Pending, &[Arc<Step>]),
        tip: &Tip,
    ) -> Result<(), LedgerError> {
        let deltas = pending.deltas.iter().chain(steps.iter().map(|step| &step.delta));
        StateWriter::open(transaction)?.apply_all(deltas.map(Arc::as_ref))?;
        if let (Some(before), Some(after)) = (&pending.stored, &tip.nodes) {
            let touched = pending.touched.iter().chain(steps.iter().filter_map(|step| step.touched.as_ref()));
            let changes = writes(before.source(), (before.trie(), after.trie()), touched.map(Arc::as_ref))?;
            NodeWriter::open(transaction)?.apply(&changes)?;
        }
        let state_root = tip.state_root.unwrap_or_default();
        records.checkpoint(&CheckpointRecord { summary: tip.summary, state_root })
    }

    /// Writes all pending blocks to the tables. Returns the head, whose state the tables then hold.
    ///
    /// # Errors
    /// [`LedgerError`] if the database cannot be written; then nothing has changed.
    pub fn checkpoint(&self) -> Result<Arc<Tip>, LedgerError> {
        let mut pending = self.turn.lock();
        let head = self.head();
        if pending.len() == 0 {
            return Ok(head);
        }
        self.check_term()?;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut records = RecordWriter::open(&transaction)?;
            self.write_tables(&transaction, &mut records, (&pending, &[]), &head)?;
        }
        self.check_term()?;
        transaction.commit()?;
        // The state is the same, so it keeps its version.
        let head = self.rebased(&head, head.version)?;
        *pending = Pending::above(head.nodes.clone());
        *self.head.lock() = Arc::clone(&head);
        Ok(head)
    }

    /// The head's state, from that of the tables and the journal's blocks above it. It reads no values of the
    /// tables: each state root shows that the changes are those of the block.
    pub(super) fn replay(
        &self,
        transaction: &ReadTransaction,
        tables: Tip,
        head: &HeadRecord,
    ) -> Result<Arc<Tip>, LedgerError> {
        let records = Records(transaction);
        let mut tip = Arc::new(tables);
        while tip.summary.state.height < head.summary.state.height {
            let number = tip.summary.state.height.0 + 1;
            let place = format!("the journal's entry of block {number}");
            let Some(JournalEntry { redo, undo }) =
                records.journal(number)?.filter(|entry| entry.redo.from == tip.summary.state)
            else {
                return Err(damaged(&place, "it does not lead on from the state of the tables"));
            };
            let hash = redo.to.block_hash;
            let rlp =
                records.block(&hash)?.ok_or_else(|| damaged(&format!("block {hash}"), "it is missing"))?;
            let block = ancestor_of(&rlp)?;
            let trie = tip.nodes.as_ref().map(|nodes| nodes.update(&redo.accounts)).transpose()?;
            let root = trie.as_ref().map(|updated| updated.trie.root());
            let back = (undo.from, undo.to, undo.digest) == (redo.to, redo.from, tip.summary.digest);
            if block.hash != hash || !back || root.is_some_and(|root| root != block.header.state_root) {
                return Err(damaged(&place, "its changes are not those that the block's hash covers"));
            }
            let (delta, inverse) = (Arc::new(redo), Arc::new(undo));
            let position = tip.position_after(block, root);
            tip = tip.step(Change { delta, inverse, trie, block: None }, position);
        }
        Ok(tip)
    }
}
