//! The chain thread: it takes accepted blocks one after another, has each executed and committed, and
//! reports the outcome of each.

use std::sync::Arc;

use alloy_primitives::B256;
use common::block::{CheckedBlock, EncodedBlock};
use crossbeam_channel::{Receiver, bounded};
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, LOOK, Submissions, Ticket, unix_now};
use super::metrics::{Ending, block_kept};
use super::outcome::{BlockOutcome, ParkedError, SubmitError};
use super::parked::ParkedBlock;
use super::recent::RecentBlocks;
use crate::execute::ExecuteError;
use crate::fleet::{EventKind, FleetError};
use crate::import::{Imported, Importer, Placement, is_fatal};
use ledger::{Ledger, LedgerError, Parked};
use schedule::intake::{Client, IntakeLimits};

/// Why the chain cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The fleet has ended.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A block cannot be made durable, or the ledger cannot be read.
    #[error("the ledger fails, so no block is taken any more: {0}")]
    Ledger(#[from] LedgerError),
    /// The ledger failed while a block was executed.
    #[error("the ledger fails, so no block is taken any more: {0}")]
    Execute(ExecuteError),
}

/// The counts of a running chain.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChainStatus {
    /// The number of accepted blocks that have neither ended nor been parked.
    pub accepted: usize,
    /// The number of blocks that wait for an operator.
    pub parked: usize,
}

/// A handle to the chain, for clients' calls.
#[derive(Debug, Clone)]
pub struct ChainHandle {
    /// `None` if the blocks come from files.
    desk: Option<Arc<Desk>>,
    ledger: Arc<Ledger>,
    recent: RecentBlocks,
    /// Cancelled once no more blocks are taken and the block in flight is done.
    idle: CancellationToken,
}

impl ChainHandle {
    /// Creates a handle to a chain whose blocks come from files. It reports the status and accepts no
    /// blocks.
    #[must_use]
    pub fn importing(ledger: Arc<Ledger>) -> Self {
        let idle = CancellationToken::new();
        idle.cancel();
        Self { desk: None, ledger, recent: RecentBlocks::default(), idle }
    }

    /// Submits a client's block. Acceptance and outcome come later. Dropping the ticket does not stop the block.
    ///
    /// # Errors
    /// [`SubmitError`] if the block cannot be queued.
    pub fn submit(&self, block: EncodedBlock, client: Client) -> Result<Ticket, SubmitError> {
        self.desk.as_ref().ok_or(SubmitError::Importing)?.submit(block, client)
    }

    /// The parked blocks, and the orphans.
    #[must_use]
    pub fn parked(&self) -> Vec<ParkedBlock> {
        self.desk.as_ref().map(|desk| desk.parked()).unwrap_or_default()
    }

    /// Parks an accepted block that has not been executed yet, and returns its number. The change is durable when
    /// this returns.
    ///
    /// # Errors
    /// [`ParkedError`] if the block does not wait for its execution, or if the ledger fails.
    pub fn park(&self, hash: &B256, reason: String) -> Result<u64, ParkedError> {
        self.desk.as_ref().ok_or(ParkedError::NotAccepted(*hash))?.hold(hash, reason)
    }

    /// Retries a parked block. The change is durable when this returns.
    ///
    /// # Errors
    /// [`ParkedError`] if the block is not parked, or if the ledger fails.
    pub fn retry(&self, hash: &B256) -> Result<(), ParkedError> {
        self.desk.as_ref().ok_or(ParkedError::NotParked(*hash))?.retry(hash)
    }

    /// Discards a parked block. The change is durable when this returns.
    ///
    /// # Errors
    /// [`ParkedError`] if the block is not parked, or if the ledger fails.
    pub fn discard(&self, hash: &B256) -> Result<(), ParkedError> {
        self.desk.as_ref().ok_or(ParkedError::NotParked(*hash))?.discard(hash)
    }

    /// Stops taking blocks, and resolves when the block in flight is done. Accepted blocks that have not
    /// started stay in the journal.
    pub async fn finish(&self) {
        if let Some(desk) = &self.desk {
            desk.admission.cancel();
        }
        self.idle.cancelled().await;
    }

    /// The current counts.
    #[must_use]
    pub fn status(&self) -> ChainStatus {
        let (accepted, parked) = self.desk.as_ref().map(|desk| desk.counts()).unwrap_or_default();
        ChainStatus { accepted, parked }
    }

    /// Whether the chain takes no more blocks because the process stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.desk.as_ref().is_some_and(|desk| desk.admission.is_cancelled())
    }

    /// The latest blocks that have ended.
    #[must_use]
    pub fn recent(&self) -> &RecentBlocks {
        &self.recent
    }

    /// The ledger that the chain is written to.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// The thread that accepts blocks.
#[derive(Debug)]
pub struct IntakeThread {
    desk: Arc<Desk>,
    submissions: Submissions,
}

impl IntakeThread {
    /// Accepts blocks until `stop`.
    ///
    /// # Errors
    /// [`ChainError::Ledger`] if they cannot be journaled.
    pub fn run(self, stop: &CancellationToken) -> Result<(), ChainError> {
        Ok(self.desk.run(&self.submissions, stop)?)
    }
}

/// The thread that executes accepted blocks.
#[derive(Debug)]
pub struct Chain {
    importer: Importer,
    desk: Arc<Desk>,
    work: Receiver<()>,
    handle: ChainHandle,
}

impl Chain {
    /// Creates a chain of the blocks that `importer` imports, starting with those accepted before.
    /// [`Chain::run`] and [`IntakeThread::run`] run it.
    ///
    /// # Errors
    /// [`ChainError`] if the journal cannot be read.
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
            ledger,
            recent: RecentBlocks::default(),
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
    /// [`ChainError`] if the fleet has ended, or if the ledger fails.
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), ChainError> {
        while !stop.is_cancelled() {
            if self.desk.admission.is_cancelled() {
                self.desk.send_away();
                self.importer.keep_fleet_record()?;
                self.desk.close()?;
                self.handle.idle.cancel();
                return self.rest(stop);
            }
            match self.desk.next() {
                Some((block, quiet)) => match self.take(&block, quiet) {
                    // The process is stopping and did not wait for the block in flight.
                    Err(ChainError::Fleet(FleetError::Ended)) if stop.is_cancelled() => return Ok(()),
                    taken => taken?,
                },
                // Checks the desk again, whether a notification came or not.
                None => drop(self.work.recv_timeout(LOOK)),
            }
            self.importer.keep_fleet_record()?;
        }
        self.importer.keep_fleet_record()?;
        Ok(self.desk.close()?)
    }

    /// Waits for `stop` after the work is done, because a critical thread must not end early.
    fn rest(&self, stop: &CancellationToken) -> Result<(), ChainError> {
        while !stop.is_cancelled() {
            let _ = self.work.recv_timeout(LOOK);
            self.desk.send_away();
        }
        Ok(())
    }

    fn take(&mut self, block: &CheckedBlock, quiet: bool) -> Result<(), ChainError> {
        // Every client already knows that there is no shard, so it gets no further message until there is
        // one.
        if quiet && self.importer.fleet().slots()? == 0 {
            self.desk.postponed(None, &block.hash);
            return Ok(());
        }
        let number = block.header.number;
        let mut outcome = BlockOutcome::new(block, self.importer.ledger().spec());
        if let Some(next) = self.desk.after(&block.hash) {
            self.importer.announce_next(&next);
        }
        match self.importer.import_checked(block) {
            Ok(None) => {
                let known = BlockOutcome::known(block, self.importer.ledger().spec());
                self.importer.ledger().end_accepted([&block.hash])?;
                self.desk.committed(known);
            }
            Ok(Some(imported)) => self.imported(outcome.imported(block, &imported), &imported)?,
            Err(ExecuteError::Fleet(error @ (FleetError::Ended | FleetError::Overloaded))) => {
                return Err(error.into());
            }
            // After one failure the disk is not trusted again.
            Err(error) if is_fatal(&error) => return Err(ChainError::Execute(error)),
            Err(ExecuteError::Parked { among, convicted, reason }) => {
                let text = format!("{among}: {reason}");
                let parked = Parked { index: among.one(), convicted, reason: text.clone(), at: unix_now() };
                self.desk.park(&block.hash, parked)?;
                announce_parked(&self.importer, number, block.hash, &text);
                self.handle.recent.add(outcome.parked(text));
            }
            Err(error) if error.may_pass() => {
                self.importer.fleet().announce(EventKind::BlockPostponed, Some(number), error.to_string());
                outcome = outcome.failed(format!("{error}; it stays accepted, and is tried again"));
                self.desk.postponed(Some(&outcome), &block.hash);
            }
            Err(error) if error.is_unknown_parent() => {
                tracing::info!(block = number, hash = %block.hash, %error, "an accepted block waits for its parent");
                self.desk.orphaned(&outcome, &error.to_string())?;
            }
            Err(error) if !error.is_invalid_block() => {
                // The cause is unknown, so the block is parked instead of lost.
                let reason = error.to_string();
                let parked = Parked { index: None, convicted: false, reason: reason.clone(), at: unix_now() };
                self.desk.park(&block.hash, parked)?;
                announce_parked(&self.importer, number, block.hash, &reason);
                self.handle.recent.add(outcome.parked(reason));
            }
            Err(error) => {
                let kind = EventKind::BlockRefused;
                self.importer.fleet().announce(kind, Some(number), error.to_string());
                let outcome = outcome.refused(error.to_string());
                self.desk.refused(&outcome)?;
                self.handle.recent.add(outcome);
            }
        }
        Ok(())
    }

    fn imported(&self, outcome: BlockOutcome, imported: &Imported) -> Result<(), ChainError> {
        let (kind, how) = match imported.place {
            Placement::Head | Placement::Executed => (EventKind::BlockCommitted, String::new()),
            Placement::Reorganised(back) => {
                (EventKind::BlockCommitted, format!(", {back} blocks taken back"))
            }
            Placement::SideBlock => (EventKind::SideBlockKept, String::new()),
        };
        let BlockOutcome { transactions, gas_used, stats, .. } = &outcome;
        let (ms, again) = (stats.elapsed.as_millis(), stats.reexecuted);
        let text =
            format!("{transactions} transactions, {gas_used} gas in {ms} ms, {again} executed again{how}");
        self.importer.fleet().announce(kind, Some(outcome.number), text);
        self.desk.committed(outcome.clone());
        block_kept(
            &outcome,
            if kind == EventKind::SideBlockKept { Ending::Aside } else { Ending::Committed },
        );
        self.handle.recent.add(outcome);
        Ok(())
    }
}

fn announce_parked(importer: &Importer, number: u64, hash: B256, reason: &str) {
    let text = format!("{hash}: {reason}");
    importer.fleet().announce(EventKind::BlockParked, Some(number), text);
}
