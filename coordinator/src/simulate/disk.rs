//! What survives the coordinator's end: the model of its ledger and journal.

use std::collections::BTreeMap;

use common::id::{Epoch, ShardId};

use super::chain::BlockNumber;
use crate::schedule::StrikeRecord;

/// How a block has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Committed,
    Refused,
    Parked,
}

/// The coordinator's epoch is not the ledger's any more: another one has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

/// The ledger and its journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// The term of whoever owns it.
    pub(super) epoch: u64,
    /// Accepted blocks in order, each with its end.
    pub(super) journal: Vec<(BlockNumber, Option<Ending>)>,
    /// Height and state digest.
    pub(super) head: (u64, u64),
    /// Starts of coordinators while a block was the first to be done.
    pub(super) starts: BTreeMap<BlockNumber, u32>,
    pub(super) strikes: BTreeMap<ShardId, StrikeRecord>,
}

impl Disk {
    /// A new term.
    pub(super) fn raise_epoch(&mut self) -> Epoch {
        self.epoch += 1;
        Epoch { number: self.epoch, instance: self.epoch }
    }

    fn check(&self, epoch: Epoch) -> Result<(), Fenced> {
        if self.epoch == epoch.number { Ok(()) } else { Err(Fenced) }
    }

    /// Journals a block; one that is known stays as it is.
    pub(super) fn accept(&mut self, epoch: Epoch, block: BlockNumber) -> Result<bool, Fenced> {
        self.check(epoch)?;
        let fresh = !self.journal.iter().any(|(known, _)| *known == block);
        if fresh {
            self.journal.push((block, None));
        }
        Ok(fresh)
    }

    /// Accepted blocks that have not ended, in order.
    pub(super) fn pending(&self) -> Vec<BlockNumber> {
        self.journal.iter().filter(|(_, ending)| ending.is_none()).map(|(block, _)| *block).collect()
    }

    pub(super) fn ending(&self, block: BlockNumber) -> Option<Ending> {
        self.journal.iter().find(|(known, _)| *known == block).and_then(|(_, ending)| *ending)
    }

    /// Ends a block, with the new head if it is committed. The epoch is compared in the same step.
    pub(super) fn end(
        &mut self,
        epoch: Epoch,
        block: BlockNumber,
        ending: Ending,
        head: Option<(u64, u64)>,
    ) -> Result<(), Fenced> {
        self.check(epoch)?;
        if let Some((_, end)) = self.journal.iter_mut().find(|(known, _)| *known == block) {
            *end = Some(ending);
        }
        self.head = head.unwrap_or(self.head);
        Ok(())
    }
}
