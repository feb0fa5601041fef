//! Committing: the steps of a tip become the database's next version, all of them or none.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use common::message::StateSummary;
use executor_shard::replica::{Base, ReplicaView};
use executor_shard::store::{DiskState, StateWriter};
use redb::{Durability, ReadableDatabase};

use super::accepted::AcceptedWriter;
use super::nodes::{NodeWriter, Nodes, StoredNodes};
use super::records::{BlockInfo, HeadRecord, JournalEntry, RecordWriter, Records, word};
use super::side::SideBlock;
use super::tip::{Step, Tip};
use super::{Ledger, LedgerError};

impl Ledger {
    /// Makes `tip` the head: durable when this returns. It may be one block ahead of the head, or
    /// several, or on another branch; whatever it is, it is one transaction. Returns the head.
    ///
    /// # Errors
    /// [`LedgerError::Outdated`] when the tip does not lead on from the head. Nothing has changed
    /// after an error.
    pub fn commit(&self, tip: &Arc<Tip>) -> Result<Arc<Tip>, LedgerError> {
        // Those who ask for the head meanwhile need not wait.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.head();
        let steps = new_steps(&head, tip)?;
        if steps.is_empty() {
            return Ok(head);
        }
        let began = Instant::now();
        self.check_term()?;
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut removed = Vec::new();
        {
            let mut state = StateWriter::open(&transaction)?;
            let mut nodes = NodeWriter::open(&transaction)?;
            let mut records = RecordWriter::open(&transaction)?;
            let mut accepted = AcceptedWriter::open(&transaction)?;
            let before = self.database.begin_read()?;
            for step in steps {
                state.apply(&step.delta)?;
                if let Some(changes) = &step.nodes {
                    nodes.apply(changes)?;
                }
                self.record(&mut records, &Records(&before), step, &mut removed)?;
                if let Some(block) = &step.block {
                    accepted.end(&block.hash)?;
                }
            }
            records.head(&HeadRecord {
                summary: tip.summary,
                state_root: tip.state_root.unwrap_or_default(),
                total_difficulty: word(tip.total_difficulty),
                blocks: tip.blocks,
            })?;
        }
        // Another one may have taken over while this was written.
        self.check_term()?;
        transaction.commit()?;
        let version = self.cache.advance(steps.iter().flat_map(|step| step.delta.accounts.iter()));
        let mut side = self.side.lock().unwrap_or_else(PoisonError::into_inner);
        removed.into_iter().for_each(|block| side.insert(block));
        steps.iter().filter_map(|step| step.block.as_ref()).for_each(|block| side.remove(&block.hash));
        drop(side);
        let rebased = self.rebased(tip, version)?;
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&rebased);
        let took = began.elapsed();
        tracing::debug!(head = %tip.summary.state.height, blocks = steps.len(), ?took, "committed");
        Ok(rebased)
    }

    /// Blocks, receipts and journal as a step changes them.
    fn record(
        &self,
        records: &mut RecordWriter<'_>,
        before: &Records<'_>,
        step: &Step,
        removed: &mut Vec<SideBlock>,
    ) -> Result<(), LedgerError> {
        let Some(added) = &step.block else {
            let (number, hash) = (step.delta.from.height.0, step.delta.from.block_hash);
            if let (Some(rlp), Some(receipts), Some(entry)) =
                (before.block(&hash)?, before.receipts(&hash)?, before.journal(number)?)
            {
                let parent = entry.redo.from.block_hash;
                removed.push(SideBlock { hash, parent, rlp, receipts, delta: Arc::new(entry.redo) });
            }
            records.unlog(number)?;
            return records.remove(&hash);
        };
        let number = step.delta.to.height.0;
        let info = BlockInfo { number, total_difficulty: word(added.total_difficulty), blocks: added.blocks };
        records.add(&added.hash, &added.rlp, &info, &added.receipts)?;
        let entry = JournalEntry { redo: step.delta.as_ref().clone(), undo: step.inverse.as_ref().clone() };
        records.log(number, &entry, self.options.journal.max(self.options.unwind))
    }

    /// The tip on the newest version of the database, without steps.
    pub(super) fn rebased(&self, tip: &Tip, version: u64) -> Result<Arc<Tip>, LedgerError> {
        let transaction = self.database.begin_read()?;
        let state = DiskState::open(&transaction, version, Arc::clone(&self.cache))?;
        let nodes = if self.complete { Some(Nodes::new(StoredNodes::open(&transaction)?)) } else { None };
        Ok(Arc::new(Tip {
            view: ReplicaView::new(Base::Disk(Arc::new(state))),
            nodes,
            version,
            steps: Vec::new(),
            ..tip.clone()
        }))
    }
}

/// The steps of `tip` that are not in the database yet.
fn new_steps<'t>(head: &Tip, tip: &'t Tip) -> Result<&'t [Arc<Step>], LedgerError> {
    if tip.version == head.version {
        return Ok(&tip.steps);
    }
    // The tip was made on an older version: what has been committed since must be its own steps.
    let reached =
        |step: &Arc<Step>| head.summary == StateSummary { state: step.delta.to, digest: step.delta.digest };
    let done = tip.steps.iter().position(reached);
    match done.and_then(|done| tip.steps.get(done + 1..)) {
        Some(steps) => Ok(steps),
        None => Err(LedgerError::Outdated { tip: tip.summary.state, head: head.summary.state }),
    }
}
