//! The chain thread: takes accepted blocks one after another, has them executed and committed, and says
//! how each has ended.

use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::B256;
use common::block::Block;
use crossbeam_channel::{Receiver, bounded};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, LOOK, Submissions, Ticket, unix_now};
use super::outcome::{BlockOutcome, ParkedError, SubmitError};
use super::parked::ParkedBlock;
use crate::execute::ExecuteError;
use crate::fleet::{EventKind, FleetError};
use crate::import::{Imported, Importer, Place, is_fatal};
use ledger::{Ledger, LedgerError, Parked};
use schedule::intake::IntakeLimits;

/// Why the chain cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The fleet is gone.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A block cannot be made durable, or the ledger cannot be read.
    #[error("the ledger fails, so no block is taken any more: {0}")]
    Ledger(#[from] LedgerError),
    /// The same, found while a block was executed.
    #[error("the ledger fails, so no block is taken any more: {0}")]
    Execute(ExecuteError),
}

/// How the chain is.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChainStatus {
    /// Assignments given to another shard.
    pub reassigned: u64,
    /// Blocks that are accepted, and neither ended nor parked.
    pub accepted: usize,
    /// Blocks that wait for an operator.
    pub parked: usize,
}

/// The way to the chain.
#[derive(Debug, Clone)]
pub struct ChainHandle {
    /// None where blocks come from elsewhere.
    desk: Option<Arc<Desk>>,
    reassigned: Arc<Mutex<u64>>,
    ledger: Arc<Ledger>,
    /// Cancelled when the block in hand is done, after no more are taken.
    idle: CancellationToken,
}

impl ChainHandle {
    /// A handle to a chain whose blocks come from elsewhere: it tells how the chain is and takes
    /// no blocks.
    #[must_use]
    pub fn importing(ledger: Arc<Ledger>) -> Self {
        let idle = CancellationToken::new();
        idle.cancel();
        Self { desk: None, reassigned: Arc::default(), ledger, idle }
    }

    /// Counts assignments that were given to another shard.
    pub fn count_reassigned(&self, count: u32) {
        *self.reassigned.lock().unwrap_or_else(PoisonError::into_inner) += u64::from(count);
    }

    /// Submits a block. It is accepted, and ends, later; dropping the ticket does not stop it.
    ///
    /// # Errors
    /// [`SubmitError`] when there is no place.
    pub fn submit(&self, block: Block) -> Result<Ticket, SubmitError> {
        self.desk.as_ref().ok_or(SubmitError::Importing)?.submit(block)
    }

    /// The blocks that wait for an operator.
    #[must_use]
    pub fn parked(&self) -> Vec<ParkedBlock> {
        self.desk.as_ref().map(|desk| desk.parked()).unwrap_or_default()
    }

    /// A parked block is tried again: durable when this returns.
    ///
    /// # Errors
    /// [`ParkedError`] when it is not parked, or the ledger fails.
    pub fn retry(&self, hash: &B256) -> Result<(), ParkedError> {
        self.desk.as_ref().ok_or(ParkedError::NotParked(*hash))?.retry(hash)
    }

    /// A parked block is given up: durable when this returns.
    ///
    /// # Errors
    /// [`ParkedError`] when it is not parked, or the ledger fails.
    pub fn discard(&self, hash: &B256) -> Result<(), ParkedError> {
        self.desk.as_ref().ok_or(ParkedError::NotParked(*hash))?.discard(hash)
    }

    /// Takes no more blocks; resolves when the one in hand is done. What was accepted and is not begun
    /// stays in the journal.
    pub async fn finish(&self) {
        if let Some(desk) = &self.desk {
            desk.admission.cancel();
        }
        self.idle.cancelled().await;
    }

    /// How the chain is.
    #[must_use]
    pub fn status(&self) -> ChainStatus {
        let reassigned = *self.reassigned.lock().unwrap_or_else(PoisonError::into_inner);
        let (accepted, parked) = self.desk.as_ref().map(|desk| desk.counts()).unwrap_or_default();
        ChainStatus { reassigned, accepted, parked }
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// The thread that takes blocks in.
#[derive(Debug)]
pub struct IntakeThread {
    desk: Arc<Desk>,
    submissions: Submissions,
}

impl IntakeThread {
    /// Takes blocks in until `stop`.
    ///
    /// # Errors
    /// [`ChainError::Ledger`] when they cannot be journaled.
    pub fn run(self, stop: &CancellationToken) -> Result<(), ChainError> {
        Ok(self.desk.run(&self.submissions, stop)?)
    }
}

/// The chain.
#[derive(Debug)]
pub struct Chain {
    importer: Importer,
    desk: Arc<Desk>,
    work: Receiver<()>,
    handle: ChainHandle,
}

impl Chain {
    /// A chain of the blocks that `importer` takes, beginning with those that were accepted before.
    /// [`Chain::run`] and [`IntakeThread::run`] run it.
    ///
    /// # Errors
    /// [`ChainError`] when the journal cannot be read.
    pub fn new(importer: Importer) -> Result<(Self, IntakeThread, ChainHandle), ChainError> {
        let (sender, work) = bounded(1);
        let ledger = Arc::clone(importer.ledger());
        let (desk, submissions, overburdened) =
            Desk::open(Arc::clone(&ledger), IntakeLimits::default(), sender)?;
        if let Some((hash, number, reason)) = overburdened {
            announce_parked(&importer, number, hash, &reason);
        }
        let desk = Arc::new(desk);
        let handle = ChainHandle {
            desk: Some(Arc::clone(&desk)),
            reassigned: Arc::default(),
            ledger,
            idle: CancellationToken::new(),
        };
        let intake = IntakeThread { desk: Arc::clone(&desk), submissions };
        let (accepted, parked) = desk.counts();
        if accepted + parked > 0 {
            tracing::info!(accepted, parked, "going on with blocks that were accepted before");
        }
        Ok((Self { importer, desk, work, handle: handle.clone() }, intake, handle))
    }

    /// Executes blocks until `stop`.
    ///
    /// # Errors
    /// [`ChainError`] when the fleet is gone, or the disk fails.
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), ChainError> {
        while !stop.is_cancelled() {
            if self.desk.admission.is_cancelled() {
                self.desk.send_away();
                self.importer.keep_strikes()?;
                self.desk.close()?;
                self.handle.idle.cancel();
                return self.rest(stop);
            }
            match self.desk.next() {
                Some((block, quiet)) => match self.take(&block, quiet) {
                    // The process is stopping, and did not wait for the block in hand.
                    Err(ChainError::Fleet(FleetError::Ended)) if stop.is_cancelled() => return Ok(()),
                    taken => taken?,
                },
                // Told of work or not, the desk is looked at again.
                None => drop(self.work.recv_timeout(LOOK)),
            }
            self.importer.keep_strikes()?;
        }
        self.importer.keep_strikes()?;
        Ok(self.desk.close()?)
    }

    /// Done; a critical thread stays to the end.
    fn rest(&self, stop: &CancellationToken) -> Result<(), ChainError> {
        while !stop.is_cancelled() {
            let _ = self.work.recv_timeout(LOOK);
            self.desk.send_away();
        }
        Ok(())
    }

    fn take(&mut self, block: &Block, quiet: bool) -> Result<(), ChainError> {
        // Everybody was told that there is no shard: no more words before there is one.
        if quiet && self.importer.fleet().slots()? == 0 {
            self.desk.postponed(None, &block.hash);
            return Ok(());
        }
        let number = block.header.number;
        let mut outcome = BlockOutcome::new(block, self.importer.ledger().spec());
        match self.importer.import(block) {
            Ok(None) => {
                let known = BlockOutcome::known(block, self.importer.ledger().spec());
                self.importer.ledger().end_accepted([&block.hash])?;
                self.desk.committed(known);
            }
            Ok(Some(imported)) => self.imported(outcome.imported(block, &imported), &imported)?,
            Err(ExecuteError::Fleet(error @ (FleetError::Ended | FleetError::Overloaded))) => {
                return Err(error.into());
            }
            // A disk that fails once is not trusted again.
            Err(error) if is_fatal(&error) => return Err(ChainError::Execute(error)),
            Err(ExecuteError::Parked { among, convicted, reason }) => {
                let text = format!("{among}: {reason}");
                let parked = Parked { index: among.one(), convicted, reason: text.clone(), at: unix_now() };
                self.desk.park(&block.hash, parked)?;
                announce_parked(&self.importer, number, block.hash, &text);
            }
            Err(error) if error.may_pass() => {
                self.importer.fleet().announce(EventKind::Alarm, Some(number), error.to_string());
                outcome = outcome.failed(format!("{error}; it stays accepted, and is tried again"));
                self.desk.postponed(Some(&outcome), &block.hash);
            }
            Err(error) if error.is_unknown_parent() => {
                tracing::info!(block = number, hash = %block.hash, %error, "an accepted block waits for its parent");
                self.desk.orphaned(&outcome, &error.to_string())?;
            }
            Err(error) if !error.is_invalid_block() => {
                // Whose fault that is, is not known: the block is not lost over it.
                let reason = error.to_string();
                let parked = Parked { index: None, convicted: false, reason: reason.clone(), at: unix_now() };
                self.desk.park(&block.hash, parked)?;
                announce_parked(&self.importer, number, block.hash, &reason);
            }
            Err(error) => {
                let kind = EventKind::BlockRefused;
                self.importer.fleet().announce(kind, Some(number), error.to_string());
                self.desk.refused(&outcome.refused(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn imported(&self, outcome: BlockOutcome, imported: &Imported) -> Result<(), ChainError> {
        self.handle.count_reassigned(imported.stats.reassigned);
        let (kind, how) = match imported.place {
            Place::Head | Place::Executed => (EventKind::BlockCommitted, String::new()),
            Place::Reorganised(back) => (EventKind::BlockCommitted, format!(", {back} blocks taken back")),
            Place::Aside => (EventKind::BlockAside, String::new()),
        };
        let text = format!("{} transactions, {} gas{how}", outcome.transactions, outcome.gas_used);
        self.importer.fleet().announce(kind, Some(outcome.number), text);
        self.desk.committed(outcome);
        Ok(())
    }
}

fn announce_parked(importer: &Importer, number: u64, hash: B256, reason: &str) {
    let text = format!("{hash}: {reason}");
    importer.fleet().announce(EventKind::BlockParked, Some(number), text);
}
