//! The outcomes of blocks, as clients receive them.

use alloy_primitives::B256;
use common::block::Block;
use common::chain_spec::ChainSpec;

use crate::execute::{BlockStats, Digests};
use crate::import::Imported;
use schedule::intake::Full;

/// The outcome of a block.
#[derive(Debug, Clone)]
pub struct BlockOutcome {
    /// The block's number, as in its header.
    pub number: u64,
    /// The hash of the block's header.
    pub hash: B256,
    /// The name of the newest fork whose rules applied.
    pub fork: &'static str,
    /// The number of its transactions.
    pub transactions: usize,
    /// The gas it used.
    pub gas_used: u64,
    /// Why the block was rejected, was parked or could not be executed; `None` if it was verified.
    pub error: Option<String>,
    /// Whether the block itself is at fault. If not, the client may submit it again.
    pub refused: bool,
    /// Whether the block waits for an operator: it is parked itself, or descends from a parked block.
    pub parked: bool,
    /// The measurements of its execution.
    pub stats: BlockStats,
    /// Whether the block was executed before this submission.
    pub known: bool,
    /// The roots that were checked, if any.
    pub roots: Option<Roots>,
    /// The digests of its execution, if this process executed it.
    pub digests: Option<Digests>,
}

/// The roots of a verified block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    /// The root of its receipts.
    pub receipts: B256,
    /// The root of the state after it.
    pub state: B256,
}

impl Roots {
    fn of(block: &Block) -> Self {
        Self { receipts: block.header.receipts_root, state: block.header.state_root }
    }
}

impl BlockOutcome {
    /// The outcome of a block before anything is known about it.
    #[must_use]
    pub fn new(block: &Block, spec: &ChainSpec) -> Self {
        Self {
            number: block.header.number,
            hash: block.hash,
            fork: spec.fork_name(&block.header),
            transactions: block.transactions.len(),
            gas_used: 0,
            error: None,
            refused: false,
            parked: false,
            stats: BlockStats::default(),
            known: false,
            roots: None,
            digests: None,
        }
    }

    /// The outcome of a block that was executed and verified.
    #[must_use]
    pub fn imported(self, block: &Block, imported: &Imported) -> Self {
        Self {
            gas_used: imported.finished.gas_used.0,
            stats: imported.stats,
            roots: Some(Roots::of(block)),
            digests: Some(Digests::of(&imported.finished, &imported.tip)),
            ..self
        }
    }

    /// The outcome of a block that is already on the chain or a side block.
    #[must_use]
    pub fn known(block: &Block, spec: &ChainSpec) -> Self {
        let roots = Some(Roots::of(block));
        Self { known: true, gas_used: block.header.gas_used, roots, ..Self::new(block, spec) }
    }

    /// This outcome for a rejected block, with the reason.
    #[must_use]
    pub fn refused(self, reason: String) -> Self {
        Self { refused: true, error: Some(reason), ..self }
    }

    /// This outcome for a block that waits for an operator, with the reason.
    #[must_use]
    pub fn parked(self, reason: String) -> Self {
        Self { parked: true, error: Some(reason), ..self }
    }

    /// This outcome for a block that could not be executed for a reason outside of the block.
    #[must_use]
    pub fn failed(self, reason: String) -> Self {
        Self { error: Some(reason), ..self }
    }
}

/// The answer that a client gets when it submits a block.
#[derive(Debug, Clone)]
pub enum Acceptance {
    /// The block is in the journal, now or since an earlier submission. It will be executed even if this
    /// process ends before that.
    Accepted,
    /// The block has ended, or waits for an operator.
    Settled(Box<BlockOutcome>),
}

/// Why a block is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The intake has no room for the block.
    #[error(transparent)]
    Busy(#[from] Full),
    /// Too many submissions wait for the journal.
    #[error("more blocks are submitted than can be journaled; try again in a moment")]
    Flooded,
    /// The desk's thread has ended or is stopping.
    #[error("the coordinator is stopping; what it has accepted goes on when it is started again")]
    Stopping,
    /// This coordinator imports blocks from files and has no desk.
    #[error(
        "this coordinator imports blocks from files and takes none from clients; submit to one that serves"
    )]
    Importing,
}

/// Why a parked block cannot be retried or discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParkedError {
    /// No parked block has this hash.
    #[error("block {0} is not parked; see `coordinator parked list`")]
    NotParked(B256),
    /// No accepted block has this hash.
    #[error("block {0} is not accepted, or has ended; `coordinator submit` tells how it ended")]
    NotAccepted(B256),
    /// The block is being executed.
    #[error("block {0} is being executed; park it if it fails, or stop the coordinator first")]
    UnderWay(B256),
    /// The block is parked already.
    #[error("block {0} is parked already; see `coordinator parked list`")]
    Already(B256),
    /// The ledger cannot be read or written.
    #[error("{0}")]
    Ledger(String),
}
