//! The importer: it takes blocks one after another, checks them against their parents, has them
//! executed, and commits those that become the chain, including branches and reorganisations.
//!
//! The importer executes nothing itself and knows no files.

mod pipeline;
mod world;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use alloy_primitives::{Address, U256};
use common::block::{Block, CheckedBlock, EncodedBlock};
use common::chain_spec::ChainSpec;
use common::id::Height;
use common::strikes::FleetRecord;
use engine::{StateError, recover_sender};

use crate::execute::{BlockEngine, BlockStats, ExecuteError, Verified, state_roots};
use crate::fleet::{Fleet, FleetError};
use crate::validate::{Finished, execute_trusted};
use ledger::{AuditedView, Ledger, LedgerError, Tip};

pub use pipeline::{Durable, ImportCount, ImportEnd, ImportStop};

/// Looks for damage before a block is rejected because of its execution. If the state that the block reads
/// differs from the one that the parent's root covers, the ledger is damaged and the block is not at fault.
fn damage_behind(block: &Block, spec: &ChainSpec, parent: &Tip) -> Option<ExecuteError> {
    let view = AuditedView::of(parent)?;
    let fork = engine::spec_id(spec, &block.header);
    let senders = block.transactions.iter().map(|transaction| recover_sender(transaction, fork));
    // A bad signature is bad on every state.
    let senders: Vec<Address> = senders.collect::<Result<_, _>>().ok()?;
    // The result is already known; only the reads count here.
    let _ = execute_trusted(block, spec, &senders, &view, state_roots(parent));
    view.into_damage().map(ExecuteError::from)
}

/// The rule that chooses between two branches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForkChoice {
    /// The branch with the greater total difficulty. If that is equal, as it always is after the Merge, the
    /// branch with more blocks. If that is equal too, the one seen first.
    #[default]
    Heaviest,
    /// Like [`ForkChoice::Heaviest`] before the Merge. After it the latest block, as if a consensus layer
    /// had chosen it.
    Latest,
}

/// How many blocks of the chain another branch may take back. A branch that would take back more is kept as
/// side blocks, however heavy it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReorgLimit {
    /// As many as the journal can take back.
    #[default]
    Any,
    /// At most this many; with 0 the chain only grows.
    Blocks(u64),
}

impl ReorgLimit {
    fn allows(self, back: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Blocks(most) => back <= most,
        }
    }
}

impl fmt::Display for ReorgLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Blocks(0) => f.write_str("none"),
            Self::Blocks(most) => write!(f, "{most}"),
        }
    }
}

/// A text is not a [`ReorgLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a limit of reorganisations: none, any, or the number of blocks that may be taken back")]
pub struct ReorgLimitError(String);

impl FromStr for ReorgLimit {
    type Err = ReorgLimitError;

    fn from_str(text: &str) -> Result<Self, ReorgLimitError> {
        match text {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::Blocks(0)),
            number => number.parse().map(Self::Blocks).map_err(|_| ReorgLimitError(text.to_owned())),
        }
    }
}

/// The place of an imported block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// It follows the previous blocks and is not durable yet.
    Executed,
    /// It is the new head, on top of the former one.
    Head,
    /// It is the new head, and this many blocks of another branch were taken back for it.
    Reorganised(u64),
    /// It is a side block: valid, and on a branch other than the chain.
    SideBlock,
}

/// A block that has been imported, with its result.
#[derive(Debug)]
pub struct Imported {
    /// The place of the block.
    pub place: Placement,
    /// The state after the block.
    pub tip: Arc<Tip>,
    /// The results of its execution.
    pub finished: Finished,
    /// The measurements of its execution.
    pub stats: BlockStats,
}

/// Imports blocks into a ledger through a fleet.
///
/// ```no_run
/// # use coordinator::execute::{BlockExecutor, ExecuteOptions};
/// # use coordinator::fleet::Fleet;
/// use coordinator::import::{ForkChoice, Importer};
/// use coordinator::input::{ChainReader, read_genesis};
/// use ledger::Ledger;
/// # use std::{path::Path, sync::Arc};
///
/// # fn example(fleet: Fleet, genesis: &Path, chain: &Path) -> anyhow::Result<()> {
/// let ledger = Arc::new(Ledger::begin(read_genesis(genesis)?.into())?);
/// let executor = BlockExecutor::new(fleet.clone(), ExecuteOptions::default());
/// let mut importer = Importer::new(fleet, executor, ledger, ForkChoice::default())?;
/// for block in ChainReader::open(chain)? {
///     importer.import(block?)?; // checked, executed, verified, committed
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Importer {
    fleet: Fleet,
    engine: Box<dyn BlockEngine>,
    ledger: Arc<Ledger>,
    choice: ForkChoice,
    reorg: ReorgLimit,
    /// What is known of the shards, as the ledger stores it.
    record: FleetRecord,
}

impl Importer {
    /// Creates an importer into `ledger`. The fleet's shards are told to hold its head state, and the fleet
    /// gets what the ledger stores of shards.
    ///
    /// # Errors
    /// [`ExecuteError`] if the fleet has ended, or if the ledger cannot be read.
    pub fn new(
        fleet: Fleet,
        engine: impl Into<Box<dyn BlockEngine>>,
        ledger: Arc<Ledger>,
        choice: ForkChoice,
    ) -> Result<Self, ExecuteError> {
        let record = ledger.fleet_record()?;
        fleet.restore(record.clone())?;
        fleet.set_world(Arc::clone(&ledger))?;
        let reorg = ReorgLimit::default();
        Ok(Self { fleet, engine: engine.into(), ledger, choice, reorg, record })
    }

    /// Limits how many blocks of the chain another branch may take back.
    #[must_use]
    pub fn with_reorg_limit(self, reorg: ReorgLimit) -> Self {
        Self { reorg, ..self }
    }

    /// The ledger that receives the blocks.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The fleet that executes the blocks.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Switches to another ledger. The shards are told to hold its head state.
    ///
    /// # Errors
    /// [`FleetError`] if the fleet has ended.
    pub fn change_world(&mut self, ledger: Arc<Ledger>) -> Result<(), FleetError> {
        self.fleet.set_world(Arc::clone(&ledger))?;
        self.ledger = ledger;
        Ok(())
    }

    /// Stores in the ledger what is known of the shards, if it has changed.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be written.
    pub fn keep_fleet_record(&mut self) -> Result<(), LedgerError> {
        let record = self.fleet.record();
        if record != self.record {
            self.ledger.keep_fleet_record(&record)?;
            self.record = record;
        }
        Ok(())
    }

    /// Imports a block; returns `None` if it is already known. If the block becomes part of the chain, it
    /// is durable when this returns.
    ///
    /// # Errors
    /// [`ExecuteError`]; then neither the ledger nor the chain has moved.
    pub fn import(&mut self, block: impl Into<Arc<EncodedBlock>>) -> Result<Option<Imported>, ExecuteError> {
        let block = block.into();
        // A known block needs no check of its content.
        if self.knows(&block)? {
            return Ok(None);
        }
        self.import_checked(&CheckedBlock::new(block)?)
    }

    fn knows(&self, block: &Block) -> Result<bool, LedgerError> {
        Ok(self.ledger.origin().block_hash == block.hash || self.ledger.knows(block.height(), block.hash)?)
    }

    /// Imports a block like [`Importer::import`] whose content has been checked.
    ///
    /// # Errors
    /// As [`Importer::import`].
    pub fn import_checked(&mut self, block: &CheckedBlock) -> Result<Option<Imported>, ExecuteError> {
        if self.knows(block)? {
            return Ok(None);
        }
        let head = self.ledger.head();
        let parent = self.parent(block, &head)?;
        self.lead(parent.way_there())?;
        let verified = self.execute(block, &parent);
        let verified = match verified {
            Ok(verified) => verified,
            Err(error) => {
                self.lead(parent.way_back())?;
                return Err(error);
            }
        };
        self.adopt(block, &head, &parent, verified).map(Some)
    }

    /// Announces the block that probably comes after the next one. The shards may recover its senders while
    /// they have nothing else to do.
    pub fn announce_next(&mut self, block: &CheckedBlock) {
        self.engine.announce_next(block);
    }

    fn execute(&mut self, block: &CheckedBlock, parent: &Tip) -> Result<Verified, ExecuteError> {
        let spec = self.ledger.spec();
        match self.engine.execute(block, spec, parent) {
            Err(error @ (ExecuteError::Rejected(_) | ExecuteError::State(_))) => {
                Err(damage_behind(block, spec, parent).unwrap_or(error))
            }
            executed => executed,
        }
    }

    /// Executes a block on the state that the fleet holds, which may not be committed yet, and moves the
    /// fleet on. Commits nothing.
    fn execute_next(&mut self, block: &CheckedBlock, parent: &Tip) -> Result<Imported, ExecuteError> {
        let verified = self.execute(block, parent)?;
        let Verified { tip, finished, stats, .. } = verified;
        self.lead(tip.delta().into_iter())?;
        Ok(Imported { place: Placement::Executed, tip, finished, stats })
    }

    /// The state on which the block is executed. An unknown parent is not the block's fault; a parent whose
    /// number does not fit is.
    fn parent(&self, block: &Block, head: &Arc<Tip>) -> Result<Arc<Tip>, ExecuteError> {
        let hash = block.header.parent_hash;
        let unknown = || LedgerError::UnknownParent {
            number: block.header.number,
            hash: block.hash,
            parent: hash,
            head: head.summary().state.height,
        };
        if hash == head.summary().state.block_hash {
            head.check_next(block)?;
            return Ok(Arc::clone(head));
        }
        let height = self.ledger.height_of(&hash)?.ok_or_else(unknown)?;
        if Some(block.header.number) != height.0.checked_add(1) {
            head.check_next(block)?;
        }
        let parent = self.ledger.tip_at(height, hash)?.ok_or_else(unknown)?;
        parent.check_next(block)?;
        Ok(parent)
    }

    /// Moves the fleet along these deltas.
    fn lead(&self, way: impl Iterator<Item = Arc<common::account::Delta>>) -> Result<(), ExecuteError> {
        way.into_iter().try_for_each(|delta| self.fleet.advance(delta)).map_err(ExecuteError::from)
    }

    /// Makes a verified block the head, or stores it as a side block: if the chain is heavier, or if the
    /// block's branch would take back more blocks than it may.
    fn adopt(
        &self,
        block: &Block,
        head: &Arc<Tip>,
        parent: &Tip,
        verified: Verified,
    ) -> Result<Imported, ExecuteError> {
        let Verified { tip, finished, stats, .. } = verified;
        let forward = parent.summary() == head.summary();
        let common = tip.way_there().map(|delta| delta.to.height.0).min().unwrap_or_default();
        let back = if forward { 0 } else { head.summary().state.height.0.saturating_sub(common) };
        let replaces = forward || (self.prefers(&tip, head) && self.reorg.allows(back));
        if !replaces {
            if let Err(error) = self.ledger.keep_side_block(&tip) {
                self.lead(parent.way_back())?;
                return Err(error.into());
            }
            self.lead(parent.way_back())?;
            return Ok(Imported { place: Placement::SideBlock, tip, finished, stats });
        }
        let began = Instant::now();
        if let Err(error) = self.ledger.commit(&tip) {
            self.lead(parent.way_back())?;
            return Err(error.into());
        }
        let stats = BlockStats { commit: began.elapsed(), ..stats };
        self.fleet.trace_stage(block, "commit", began);
        self.lead(tip.delta().into_iter())?;
        let place = if forward { Placement::Head } else { Placement::Reorganised(back) };
        Ok(Imported { place, tip, finished, stats })
    }

    fn prefers(&self, tip: &Tip, head: &Tip) -> bool {
        let rank = |tip: &Tip| -> (U256, Height) { (tip.total_difficulty(), tip.summary().state.height) };
        let merged = tip.header().is_some_and(|header| header.difficulty.is_zero());
        match self.choice {
            ForkChoice::Latest if merged => true,
            ForkChoice::Heaviest if merged => rank(tip) > rank(head),
            _ => tip.total_difficulty() > head.total_difficulty(),
        }
    }
}

/// Whether an error means that the ledger cannot continue.
#[must_use]
pub fn is_fatal(error: &ExecuteError) -> bool {
    match error {
        ExecuteError::Fleet(_) => true,
        ExecuteError::Ledger(error) => LedgerError::is_storage(error),
        ExecuteError::State(StateError::Storage(_)) => true,
        _ => false,
    }
}
