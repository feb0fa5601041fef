//! What clients are told of their blocks.

use alloy_primitives::B256;
use common::block::Block;
use common::chain_spec::ChainSpec;

use crate::execute::{BlockStats, Digests};
use crate::import::Imported;
use schedule::intake::Full;

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
    /// Whether it waits for an operator: it is parked itself, or follows one that is.
    pub parked: bool,
    /// How it went.
    pub stats: BlockStats,
    /// Whether it had been committed before.
    pub known: bool,
    /// The roots that were checked.
    pub roots: Option<Roots>,
    /// What its execution gave, if it was executed by this process.
    pub digests: Option<Digests>,
}

/// The roots of a block that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    /// Of its receipts.
    pub receipts: B256,
    /// Of the state after it.
    pub state: B256,
}

impl Roots {
    fn of(block: &Block) -> Self {
        Self { receipts: block.header.receipts_root, state: block.header.state_root }
    }
}

impl BlockOutcome {
    /// Of a block of which nothing is known yet.
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

    /// Of a block that was executed and verified.
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

    /// Of a block that is on the chain, or beside it, already.
    #[must_use]
    pub fn known(block: &Block, spec: &ChainSpec) -> Self {
        let roots = Some(Roots::of(block));
        Self { known: true, gas_used: block.header.gas_used, roots, ..Self::new(block, spec) }
    }

    /// The same, with a reason why it was refused.
    #[must_use]
    pub fn refused(self, reason: String) -> Self {
        Self { refused: true, error: Some(reason), ..self }
    }

    /// The same, with a reason why it waits for an operator.
    #[must_use]
    pub fn parked(self, reason: String) -> Self {
        Self { parked: true, error: Some(reason), ..self }
    }

    /// The same, with a reason why it could not be executed, which is not the block's fault.
    #[must_use]
    pub fn failed(self, reason: String) -> Self {
        Self { error: Some(reason), ..self }
    }
}

/// What a client is told when its block was taken in.
#[derive(Debug, Clone)]
pub enum Acceptance {
    /// It is in the journal, now or since an earlier submission, and will be executed, also if this
    /// process ends before that.
    Accepted,
    /// It has ended, or waits for an operator.
    Settled(Box<BlockOutcome>),
}

/// Why a block is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is no place for it.
    #[error(transparent)]
    Busy(#[from] Full),
    /// Too many blocks wait to be taken in.
    #[error("more blocks are submitted than can be journaled; try again in a moment")]
    Flooded,
    /// The thread is gone.
    #[error("the coordinator is stopping; what it has accepted goes on when it is started again")]
    Stopping,
    /// There is none: its blocks come from files.
    #[error(
        "this coordinator imports blocks from files and takes none from clients; submit to one that serves"
    )]
    Importing,
}

/// Why a parked block cannot be dealt with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParkedError {
    /// There is no such block.
    #[error("block {0} is not parked; see `coordinator parked list`")]
    NotParked(B256),
    /// The ledger fails.
    #[error("{0}")]
    Ledger(String),
}
