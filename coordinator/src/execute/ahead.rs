//! Recovery of senders for the block that probably comes next, while the shards have time for it.
//!
//! Signatures do not depend on the state, so this work can begin before the parent is executed. It is a
//! round like any other; what was begun for a block that does not come is given up.

use alloy_primitives::B256;
use common::block::CheckedBlock;
use common::id::StateRef;
use schedule::planner;

use super::ExecuteError;
use super::rounds::{self, OpenRound, RoundClient};

/// A block whose senders are being recovered.
#[derive(Debug)]
struct Begun {
    block: B256,
    round: OpenRound,
}

/// The block that is expected next, and what has been begun for it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    expected: Option<CheckedBlock>,
    begun: Option<Begun>,
}

impl Ahead {
    /// Notes the block that probably follows the one that is executed next.
    pub(super) fn announce(&mut self, block: CheckedBlock) {
        self.expected = Some(block);
    }

    /// Begins the expected block. The work of the block that is executing must have been sent before: it
    /// goes first.
    pub(super) fn begin(
        &mut self,
        rounds: &mut RoundClient,
        base: StateRef,
        slots: usize,
    ) -> Result<(), ExecuteError> {
        let Some(block) = self.expected.take() else { return Ok(()) };
        if block.transactions.is_empty() || slots == 0 {
            return Ok(());
        }
        self.give_up(rounds)?;
        let parts = planner::recovery_ahead(block.transactions.len(), slots);
        let work = rounds::recovery_work(base, &block, &parts)?;
        let round = rounds.open(block.header.number, block.hash, work, &[].into())?;
        self.begun = Some(Begun { block: block.hash, round });
        Ok(())
    }

    /// What was begun for this block. Gives up what was begun for another.
    pub(super) fn take(
        &mut self,
        block: B256,
        rounds: &RoundClient,
    ) -> Result<Option<OpenRound>, ExecuteError> {
        // Its turn has come, whether it was begun or not.
        self.expected.take_if(|expected| expected.hash == block);
        match self.begun.take_if(|begun| begun.block == block) {
            Some(begun) => Ok(Some(begun.round)),
            None => self.give_up(rounds).map(|()| None),
        }
    }

    fn give_up(&mut self, rounds: &RoundClient) -> Result<(), ExecuteError> {
        match self.begun.take() {
            Some(begun) => Ok(rounds.forget(&begun.round)?),
            None => Ok(()),
        }
    }
}
