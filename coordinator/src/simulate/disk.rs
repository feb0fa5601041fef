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

/// A journaled block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Journaled {
    pub(super) block: BlockNumber,
    sequence: u64,
    pub(super) ending: Option<Ending>,
}

/// The ledger and its journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// The term of whoever owns it.
    pub(super) epoch: u64,
    /// Accepted blocks.
    pub(super) journal: Vec<Journaled>,
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

    /// Journals a block at its place in the order; one that is known stays as it is.
    pub(super) fn accept(&mut self, epoch: Epoch, block: BlockNumber, sequence: u64) -> Result<(), Fenced> {
        self.check(epoch)?;
        if !self.journal.iter().any(|entry| entry.block == block) {
            self.journal.push(Journaled { block, sequence, ending: None });
        }
        Ok(())
    }

    /// The block that a block follows: whatever was accepted before it, or would be.
    pub(super) fn before(&self, block: BlockNumber) -> Option<BlockNumber> {
        let place = self.journal.iter().position(|entry| entry.block == block);
        let before = place.unwrap_or(self.journal.len()).checked_sub(1)?;
        self.journal.get(before).map(|entry| entry.block)
    }

    /// Accepted blocks that have not ended, in order.
    pub(super) fn pending(&self) -> Vec<(u64, BlockNumber)> {
        let pending = self.journal.iter().filter(|entry| entry.ending.is_none());
        let mut pending: Vec<_> = pending.map(|entry| (entry.sequence, entry.block)).collect();
        pending.sort_unstable();
        pending
    }

    pub(super) fn ending(&self, block: BlockNumber) -> Option<Ending> {
        self.journal.iter().find(|entry| entry.block == block).and_then(|entry| entry.ending)
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
        if let Some(entry) = self.journal.iter_mut().find(|entry| entry.block == block) {
            entry.ending = Some(ending);
        }
        self.head = head.unwrap_or(self.head);
        Ok(())
    }
}
