//! The chain thread: takes blocks from a bounded queue, executes, verifies and commits them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::B256;
use common::block::Block;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::execute::{BlockStats, ExecuteError};
use crate::fleet::{EventKind, FleetError};
use crate::import::{Imported, Importer, Place, is_fatal};
use crate::ledger::Ledger;

/// Blocks that wait, at most.
const QUEUE: usize = 64;

/// Committed blocks whose results are remembered, so that submitting one again is answered.
const REMEMBERED: usize = 4096;

/// How often the thread looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

/// What became of a block.
#[derive(Debug, Clone)]
pub struct BlockOutcome {
    /// The block's number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// The newest fork whose rules applied.
    pub fork: &'static str,
    /// How many transactions it has.
    pub transactions: usize,
    /// Gas it used.
    pub gas_used: u64,
    /// Why it was refused or could not be executed, if so.
    pub error: Option<String>,
    /// Whether the block itself is at fault; if not, it may be submitted again.
    pub refused: bool,
    /// How it went.
    pub stats: BlockStats,
    /// Whether it had been committed before.
    pub known: bool,
}

/// Why a block is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{QUEUE} blocks are waiting already; try again in a moment")]
    Busy,
    /// The thread is gone.
    #[error("the coordinator is stopping")]
    Stopping,
    /// There is none: its blocks come from files.
    #[error(
        "this coordinator imports blocks from files and takes none from clients; submit to one that serves"
    )]
    Importing,
}

/// Why the chain cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The fleet is gone.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A block cannot be made durable, or the ledger cannot be read.
    #[error("the ledger fails, so no block is taken any more: {0}")]
    Ledger(ExecuteError),
}

struct Submission {
    block: Block,
    reply: oneshot::Sender<BlockOutcome>,
}

/// How the chain is.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChainStatus {
    /// Assignments given to another shard.
    pub reassigned: u64,
}

/// The way to the chain thread.
#[derive(Debug, Clone)]
pub struct ChainHandle {
    queue: Sender<Submission>,
    status: Arc<Mutex<ChainStatus>>,
    ledger: Arc<Ledger>,
    /// Whether blocks come from elsewhere.
    importing: bool,
    /// Cancelled when no more blocks are taken.
    admission: CancellationToken,
    /// Cancelled when the block in hand is done after that.
    idle: CancellationToken,
}

impl std::fmt::Debug for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submission").field("block", &self.block.hash).finish_non_exhaustive()
    }
}

impl ChainHandle {
    /// A handle to a chain whose blocks come from elsewhere: it tells how the chain is and takes
    /// no blocks.
    #[must_use]
    pub fn importing(ledger: Arc<Ledger>) -> Self {
        let (queue, _) = bounded(0);
        let (admission, idle) = (CancellationToken::new(), CancellationToken::new());
        idle.cancel();
        Self { queue, status: Arc::default(), ledger, importing: true, admission, idle }
    }

    /// Counts assignments that were given to another shard.
    pub fn count_reassigned(&self, count: u32) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).reassigned += u64::from(count);
    }

    /// Puts a block into the queue. Its outcome comes later; dropping the receiver does not stop it.
    ///
    /// # Errors
    /// [`SubmitError`] when there is no place.
    pub fn submit(&self, block: Block) -> Result<oneshot::Receiver<BlockOutcome>, SubmitError> {
        if self.importing {
            return Err(SubmitError::Importing);
        }
        if self.admission.is_cancelled() {
            return Err(SubmitError::Stopping);
        }
        let (reply, outcome) = oneshot::channel();
        self.queue.try_send(Submission { block, reply }).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Busy,
            TrySendError::Disconnected(_) => SubmitError::Stopping,
        })?;
        Ok(outcome)
    }

    /// Takes no more blocks; resolves when the one in hand is done.
    pub async fn finish(&self) {
        self.admission.cancel();
        self.idle.cancelled().await;
    }

    /// How the chain is.
    #[must_use]
    pub fn status(&self) -> ChainStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// The chain.
#[derive(Debug)]
pub struct Chain {
    importer: Importer,
    queue: Receiver<Submission>,
    status: Arc<Mutex<ChainStatus>>,
    remembered: HashMap<B256, BlockOutcome>,
    order: VecDeque<B256>,
    admission: CancellationToken,
    idle: CancellationToken,
}

impl Chain {
    /// A chain of the blocks that `importer` takes; [`Chain::run`] runs it.
    #[must_use]
    pub fn new(importer: Importer) -> (Self, ChainHandle) {
        let (sender, queue) = bounded(QUEUE);
        let status: Arc<Mutex<ChainStatus>> = Arc::default();
        let handle = ChainHandle {
            queue: sender,
            status: Arc::clone(&status),
            ledger: Arc::clone(importer.ledger()),
            importing: false,
            admission: CancellationToken::new(),
            idle: CancellationToken::new(),
        };
        let (admission, idle) = (handle.admission.clone(), handle.idle.clone());
        let (remembered, order) = (HashMap::new(), VecDeque::new());
        (Self { importer, queue, status, remembered, order, admission, idle }, handle)
    }

    /// Executes blocks until `stop`.
    ///
    /// # Errors
    /// [`ChainError`] when the fleet is gone, or the disk fails.
    pub fn run(mut self, stop: &CancellationToken) -> Result<(), ChainError> {
        let admission = self.admission.clone();
        let idle = self.idle.clone();
        while !stop.is_cancelled() {
            if admission.is_cancelled() {
                idle.cancel();
                // Whoever waits is told that this process is stopping.
                while self.queue.try_recv().is_ok() {}
            }
            match self.queue.recv_timeout(LOOK) {
                Ok(_) if admission.is_cancelled() => {}
                Ok(Submission { block, reply }) => {
                    let outcome = self.execute(&block)?;
                    // The client may have stopped waiting.
                    let _ = reply.send(outcome);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
        Ok(())
    }

    fn execute(&mut self, block: &Block) -> Result<BlockOutcome, ChainError> {
        if let Some(outcome) = self.remembered.get(&block.hash) {
            return Ok(BlockOutcome { known: true, ..outcome.clone() });
        }
        let number = block.header.number;
        let mut outcome = BlockOutcome {
            number,
            hash: block.hash,
            fork: self.importer.ledger().spec().fork_name(&block.header),
            transactions: block.transactions.len(),
            gas_used: 0,
            error: None,
            refused: false,
            stats: BlockStats::default(),
            known: false,
        };
        match self.importer.import(block) {
            // An export begins with the genesis block, which is there from the beginning.
            Ok(None) => {
                outcome.known = true;
                outcome.gas_used = block.header.gas_used;
                return Ok(outcome);
            }
            Ok(Some(imported)) => self.imported(&mut outcome, &imported),
            Err(ExecuteError::Fleet(error @ (FleetError::Ended | FleetError::Overloaded))) => {
                return Err(error.into());
            }
            // A disk that fails once is not trusted again.
            Err(error) if is_fatal(&error) => return Err(ChainError::Ledger(error)),
            Err(error) => {
                outcome.refused = error.is_invalid_block();
                let kind = if outcome.refused { EventKind::BlockRefused } else { EventKind::Alarm };
                self.importer.fleet().announce(kind, Some(number), error.to_string());
                outcome.error = Some(error.to_string());
            }
        }
        Ok(outcome)
    }

    fn imported(&mut self, outcome: &mut BlockOutcome, imported: &Imported) {
        outcome.gas_used = imported.finished.gas_used.0;
        outcome.stats = imported.stats;
        self.remember(outcome.clone());
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.reassigned += u64::from(imported.stats.reassigned);
        drop(status);
        let (kind, how) = match imported.place {
            Place::Head | Place::Executed => (EventKind::BlockCommitted, String::new()),
            Place::Reorganised(back) => (EventKind::BlockCommitted, format!(", {back} blocks taken back")),
            Place::Aside => (EventKind::BlockAside, String::new()),
        };
        let text = format!("{} transactions, {} gas{how}", outcome.transactions, outcome.gas_used);
        self.importer.fleet().announce(kind, Some(outcome.number), text);
    }

    fn remember(&mut self, outcome: BlockOutcome) {
        self.order.push_back(outcome.hash);
        self.remembered.insert(outcome.hash, outcome);
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.remembered.remove(&oldest);
            }
        }
    }
}
