//! An operator's actions on blocks that wait: park, list, retry and discard. They include orphans, which wait
//! for a parent that was not submitted.

use std::time::Duration;

use alloy_primitives::B256;

use super::desk::{Desk, unix_now};
use super::outcome::ParkedError;
use ledger::{Ledger, LedgerError, Parked};
use schedule::intake::NotHeld;

/// A block that waits for an operator: shards died at it, its verification failed, or an operator has parked it.
#[derive(Debug, Clone)]
pub struct ParkedBlock {
    /// The block's number, as in its header.
    pub number: u64,
    /// The hash of the block's header; operators name the block by it.
    pub hash: B256,
    /// The reason and time of parking.
    pub parked: Parked,
    /// The number of accepted blocks that wait for it.
    pub waiting: usize,
}

impl Desk {
    /// The parked blocks, and the orphans, which wait for a parent that was not submitted.
    pub(super) fn parked(&self) -> Vec<ParkedBlock> {
        let state = self.state();
        let orphans = state.intake.orphans().map(|(hash, parent)| {
            let reason = format!("it waits for its parent {parent}, which is not known; submit that one");
            (hash, Parked { index: None, convicted: false, reason, at: 0 })
        });
        let parked = state.parked.iter().map(|(hash, parked)| (*hash, parked.clone()));
        let mut parked: Vec<ParkedBlock> = parked
            .chain(orphans)
            .map(|(hash, parked)| ParkedBlock {
                number: state.blocks.get(&hash).map_or(0, |block| block.header.number),
                hash,
                parked,
                waiting: state.intake.descendants(&hash).len(),
            })
            .collect();
        parked.sort_by_key(|parked| (parked.number, parked.hash));
        parked
    }

    /// Parks an accepted block that has not been executed yet, and returns its number. The change is durable when
    /// this returns.
    pub(super) fn hold(&self, hash: &B256, reason: String) -> Result<u64, ParkedError> {
        let mut state = self.state();
        // From here on the chain thread does not begin it.
        state.intake.hold(hash).map_err(|why| match why {
            NotHeld::Unknown => ParkedError::NotAccepted(*hash),
            NotHeld::UnderWay => ParkedError::UnderWay(*hash),
            NotHeld::Parked => ParkedError::Already(*hash),
        })?;
        let number = state.blocks.get(hash).map_or(0, |block| block.header.number);
        let parked = Parked { index: None, convicted: false, reason, at: unix_now() };
        // A client that submits it meanwhile learns that it is parked, and does not have it tried.
        state.parked.insert(*hash, parked.clone());
        drop(state);
        match self.park(hash, parked) {
            Ok(true) => Ok(number),
            // Its parent was refused meanwhile, and it with it.
            Ok(false) => Err(ParkedError::NotAccepted(*hash)),
            Err(error) => {
                let mut state = self.state();
                state.parked.remove(hash);
                state.intake.retry(hash);
                drop(state);
                self.wake();
                Err(ParkedError::Ledger(error.to_string()))
            }
        }
    }

    /// Retries a parked block at its old position. The change is durable when this returns.
    pub(super) fn retry(&self, hash: &B256) -> Result<(), ParkedError> {
        self.change_parked(hash, |ledger| {
            ledger.change_accepted(hash, |record| {
                record.parked = None;
                record.starts = 0;
            })
        })?;
        let mut state = self.state();
        state.parked.remove(hash);
        if !state.intake.retry(hash) {
            state.intake.again(hash, Duration::ZERO);
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// Discards a parked block or an orphan. The change is durable when this returns. Its descendants stay
    /// accepted. They wait until the block is submitted again, or until they are discarded too.
    pub(super) fn discard(&self, hash: &B256) -> Result<(), ParkedError> {
        self.change_parked(hash, |ledger| ledger.discard_accepted(hash))?;
        let mut state = self.state();
        state.intake.ended(hash);
        state.forget(hash);
        drop(state);
        self.wake();
        Ok(())
    }

    fn change_parked(
        &self,
        hash: &B256,
        change: impl FnOnce(&Ledger) -> Result<(), LedgerError>,
    ) -> Result<(), ParkedError> {
        let state = self.state();
        let waits = state.parked.contains_key(hash) || state.intake.waits_for_orphan(hash) == Some(*hash);
        drop(state);
        if !waits {
            return Err(ParkedError::NotParked(*hash));
        }
        change(&self.ledger).map_err(|error| ParkedError::Ledger(error.to_string()))
    }
}
