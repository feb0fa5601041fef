//! Commits a tip: its steps become part of the database, either all of them or none.

use std::sync::Arc;
use std::time::Instant;

use common::message::StateSummary;
use engine::replica_view::{Base, ReplicaView};
use engine::store::DiskState;
use redb::{Durability, ReadableDatabase};

use super::accepted::AcceptedWriter;
use super::checkpoint::{Pending, weight_of};
use super::nodes::StoredNodes;
use super::records::{BlockInfo, HeadRecord, NewEntry, RecordWriter, Records, word};
use super::side::{SideBlock, SideWriter};
use super::tip::{Step, Tip};
use super::{Ledger, LedgerError};

impl Ledger {
    /// Makes `tip` the head, durably when this returns, and returns the new head. The tip may be one or
    /// several blocks ahead of the head, or on another branch; in every case one transaction writes it.
    ///
    /// # Errors
    /// [`LedgerError::Outdated`] if the tip does not descend from the head. After an error nothing has
    /// changed.
    pub fn commit(&self, tip: &Arc<Tip>) -> Result<Arc<Tip>, LedgerError> {
        self.write(tip, TakenBack::Kept)
    }

    /// Makes an earlier block the head, at the request of an operator. The blocks that it takes back are
    /// deleted, and so are all side blocks above. They are executed again if they are imported again.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub fn unwind(&self, tip: &Arc<Tip>) -> Result<Arc<Tip>, LedgerError> {
        self.write(tip, TakenBack::Forgotten)
    }

    /// The same state as `tip`, read from the newest version of the database: without the steps that have
    /// been committed since the tip was made. A chain of uncommitted tips would keep them for ever.
    #[must_use]
    pub fn onto_head(&self, tip: &Arc<Tip>) -> Arc<Tip> {
        let head = self.head();
        if tip.version == head.version {
            return Arc::clone(tip);
        }
        match new_steps(&head, tip) {
            Ok([]) => head,
            Ok(steps) => Arc::new(tip.on_base(&head, steps)),
            // The head is on another branch: the tip's own version stays readable.
            Err(_) => Arc::clone(tip),
        }
    }

    fn write(&self, tip: &Arc<Tip>, taken_back: TakenBack) -> Result<Arc<Tip>, LedgerError> {
        // Readers of the head need not wait meanwhile.
        let mut pending = self.turn.lock();
        let head = self.head();
        let steps = new_steps(&head, tip)?;
        if steps.is_empty() {
            return Ok(head);
        }
        let began = Instant::now();
        self.check_term()?;
        let weight = weight_of(steps);
        let due = self.is_due(&pending, steps, weight);
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let index = {
            let mut records = RecordWriter::open(&transaction)?;
            let mut accepted = AcceptedWriter::open(&transaction)?;
            let mut side = SideWriter::open(&transaction, self.side_index())?;
            let before = self.database.begin_read()?;
            for step in steps {
                let removed = self.record(&mut records, &Records(&before), step)?;
                if let Some(block) = removed.filter(|_| taken_back == TakenBack::Kept) {
                    side.insert(&block)?;
                }
                if let Some(block) = &step.block {
                    accepted.end(&block.hash)?;
                    side.remove(&block.hash)?;
                }
            }
            if taken_back == TakenBack::Forgotten {
                side.remove_above(tip.summary.state.height)?;
            }
            records.head(&HeadRecord {
                summary: tip.summary,
                state_root: tip.state_root.unwrap_or_default(),
                total_difficulty: word(tip.total_difficulty),
                blocks: tip.blocks,
            })?;
            if due {
                self.write_tables(&transaction, &mut records, (&pending, steps), tip)?;
            }
            side.index
        };
        // Another coordinator may have taken over during the write.
        self.check_term()?;
        transaction.commit()?;
        let version = self.cache.advance(steps.iter().flat_map(|step| step.delta.accounts.iter()));
        self.set_side_index(index);
        let next = if due {
            let next = self.rebased(tip, version)?;
            *pending = Pending::above(next.nodes.clone());
            next
        } else {
            pending.extend(steps, weight);
            Arc::new(tip.committed(&head, steps, version))
        };
        *self.head.lock() = Arc::clone(&next);
        let took = began.elapsed();
        tracing::debug!(head = %tip.summary.state.height, blocks = steps.len(), tables = due, ?took, "committed");
        Ok(next)
    }

    /// Records a step in the blocks, receipts and journal. Returns the block that it takes back, if any.
    fn record(
        &self,
        records: &mut RecordWriter<'_>,
        before: &Records<'_>,
        step: &Step,
    ) -> Result<Option<SideBlock>, LedgerError> {
        let Some(added) = &step.block else {
            let (number, hash) = (step.delta.from.height.0, step.delta.from.block_hash);
            let removed = match (before.block(&hash)?, before.receipts(&hash)?) {
                (Some(rlp), Some(receipts)) => {
                    let (parent, delta) = (step.delta.to.block_hash, Arc::clone(&step.inverse));
                    Some(SideBlock { hash, parent, rlp: rlp.into(), receipts, delta })
                }
                _ => None,
            };
            records.unlog(number)?;
            records.remove(&hash)?;
            return Ok(removed);
        };
        let number = step.delta.to.height.0;
        let info = BlockInfo { number, total_difficulty: word(added.total_difficulty), blocks: added.blocks };
        records.add(&added.hash, &added.rlp, &info, &added.receipts)?;
        let entry = NewEntry { redo: &step.delta, undo: &step.inverse };
        records.log(number, entry, self.reach())?;
        Ok(None)
    }

    /// The same tip on the newest version of the database, whose tables hold its state.
    pub(super) fn rebased(&self, tip: &Tip, version: u64) -> Result<Arc<Tip>, LedgerError> {
        let transaction = self.database.begin_read()?;
        let state = DiskState::open(&transaction, version, Arc::clone(&self.cache))?;
        let nodes = match &tip.nodes {
            Some(nodes) => Some(nodes.stored_as(StoredNodes::open(&transaction)?, self.options.held_nodes())),
            None => None,
        };
        Ok(Arc::new(Tip {
            view: ReplicaView::new(Base::Disk(Arc::new(state))),
            nodes,
            version,
            steps: Vec::new(),
            ..tip.clone()
        }))
    }
}

/// What happens to the blocks that a commit takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TakenBack {
    /// They become side blocks.
    Kept,
    /// They are deleted, and so are all side blocks above the new head.
    Forgotten,
}

/// The steps of `tip` that the database does not contain yet.
fn new_steps<'t>(head: &Tip, tip: &'t Tip) -> Result<&'t [Arc<Step>], LedgerError> {
    if tip.version == head.version {
        return Ok(&tip.steps);
    }
    // The tip was made on an older version: every block committed since must be one of its own steps.
    let reached =
        |step: &Arc<Step>| head.summary == StateSummary { state: step.delta.to, digest: step.delta.digest };
    let done = tip.steps.iter().position(reached);
    match done.and_then(|done| tip.steps.get(done + 1..)) {
        Some(steps) => Ok(steps),
        None => Err(LedgerError::Outdated { tip: tip.summary.state, head: head.summary.state }),
    }
}
