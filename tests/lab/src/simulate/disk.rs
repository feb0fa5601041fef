//! The model of the ledger and journal: what survives the coordinator's end.

use std::collections::{BTreeMap, BTreeSet};

use common::id::{Epoch, ShardId};

use super::chain::BlockNumber;
use schedule::StrikeRecord;

/// How a block has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It became the head of the chain.
    Committed,
    /// It is valid, but its branch was not the heaviest.
    SideBlock,
    Refused,
    Parked,
}

/// The coordinator's epoch is no longer the ledger's: another coordinator has taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fenced;

/// An accepted block in the journal. It stays there after it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Journaled {
    pub(super) block: BlockNumber,
    sequence: u64,
    pub(super) ending: Option<Ending>,
}

/// The ledger and its journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// The epoch of the coordinator that owns the ledger.
    pub(super) epoch: u64,
    /// The accepted blocks, in order of acceptance.
    pub(super) journal: Vec<Journaled>,
    /// The chain's newest block; `None` at the origin.
    pub(super) head: Option<BlockNumber>,
    /// The origin's height and state digest.
    pub(super) origin: (u64, u64),
    /// The height and state digest after each block of the chain and after each side block.
    pub(super) states: BTreeMap<BlockNumber, (u64, u64)>,
    /// How many coordinator starts found each block first in line.
    pub(super) starts: BTreeMap<BlockNumber, u32>,
    pub(super) strikes: BTreeMap<ShardId, StrikeRecord>,
    /// The shards that have done sound work.
    pub(super) proven: BTreeSet<ShardId>,
}

impl Disk {
    /// Begins a new epoch and returns it.
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

    /// The state after a block, or at the origin; `None` if the block is neither on the chain nor a side
    /// block.
    pub(super) fn state_after(&self, block: Option<BlockNumber>) -> Option<(u64, u64)> {
        block.map_or(Some(self.origin), |block| self.states.get(&block).copied())
    }

    /// The state after the head.
    pub(super) fn head_state(&self) -> (u64, u64) {
        self.state_after(self.head).unwrap_or(self.origin)
    }

    /// The accepted blocks that have not ended, in order.
    pub(super) fn pending(&self) -> Vec<(u64, BlockNumber)> {
        let pending = self.journal.iter().filter(|entry| entry.ending.is_none());
        let mut pending: Vec<_> = pending.map(|entry| (entry.sequence, entry.block)).collect();
        pending.sort_unstable();
        pending
    }

    pub(super) fn ending(&self, block: BlockNumber) -> Option<Ending> {
        self.journal.iter().find(|entry| entry.block == block).and_then(|entry| entry.ending)
    }

    /// Ends a block, with the state after it if it is valid. It compares the epoch and keeps the state in one
    /// step.
    pub(super) fn end(
        &mut self,
        epoch: Epoch,
        block: BlockNumber,
        ending: Ending,
        state: Option<(u64, u64)>,
    ) -> Result<(), Fenced> {
        self.check(epoch)?;
        if let Some(entry) = self.journal.iter_mut().find(|entry| entry.block == block) {
            entry.ending = Some(ending);
        }
        self.states.extend(state.map(|state| (block, state)));
        if ending == Ending::Committed {
            self.head = Some(block);
        }
        Ok(())
    }
}
