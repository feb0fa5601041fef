//! Executes one block on the fleet: recover, plan, speculate, validate, repair, verify.
//!
//! It runs on the caller's thread and waits with time limits. What shards return is checked
//! against the block's header before it counts; what no header field covers (the state behind a
//! stand-alone pre-state) rests on the shards' engine, and on the share of work that is verified.

mod digests;
mod fraction;
mod referee;
mod roots;
mod rounds;

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_consensus::Transaction;
use alloy_primitives::{Address, B256};
use common::block::{Block, BlockError, BlockPayload};
use common::chain_spec::ChainSpec;
use common::codec::CodecError;
use common::id::{TxIndex, TxRange};
use common::work::{TxOutcome, WorkOutput};
use engine::replica_view::ReplicaView;
use engine::{StateError, recover_sender};

use crate::fleet::{EventKind, Fleet, FleetError, KillDrill};
use crate::rules::Rejection;
use crate::rules::{Parentage, check_block};
use crate::validate::{Finished, ValidateError, Validator, execute_trusted, verify_header};
use ledger::{LedgerError, Tip};
use referee::Referee;
use rounds::{RoundClient, RoundError};
use schedule::planner::{self, Plan};

pub use digests::Digests;
pub use fraction::{NotAFraction, VerifyFraction};
pub use roots::state_roots;

/// How blocks are executed.
#[derive(Debug, Clone, Copy)]
pub struct ExecuteOptions {
    /// How blocks are cut.
    pub plan: Plan,
    /// How long a round may be waited for before it is given up, beside the time that the gas of its
    /// transactions may take at the slowest rate; far beyond what any block needs.
    pub round_limit: Duration,
    /// The share of work that is executed a second time elsewhere and compared.
    pub verify: VerifyFraction,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self { plan: Plan::Auto, round_limit: Duration::from_secs(300), verify: VerifyFraction::NONE }
    }
}

/// A block that was executed and verified, ready to be committed.
#[derive(Debug)]
pub struct Verified {
    /// The state after it, on the way to be committed.
    pub tip: Arc<Tip>,
    /// What it leads to.
    pub finished: Finished,
    /// The state root, where the whole state is known.
    pub state_root: Option<B256>,
    /// How it went.
    pub stats: BlockStats,
}

/// How the execution of a block went.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockStats {
    /// From the block's bytes in memory to the verified result.
    pub elapsed: Duration,
    /// Of that, recovering the senders.
    pub recovery: Duration,
    /// Of that, executing and validating transactions.
    pub execution: Duration,
    /// Into how many sub-blocks it was cut.
    pub sub_blocks: u32,
    /// Of these, verified: two shards agreed about them, or this process and one shard.
    pub verified_sub_blocks: u32,
    /// Transactions executed again by the coordinator.
    pub reexecuted: u32,
    /// Assignments given to another shard.
    pub reassigned: u32,
}

/// Why a block was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The block is wrong by itself.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The block is refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The block does not fit the ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The state is broken.
    #[error(transparent)]
    State(#[from] StateError),
    /// The fleet is gone.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// There is no shard to do it.
    #[error("there is no shard to execute the block: {0}")]
    NoShard(String),
    /// There is no shard, and the coordinator is to do it.
    #[error("there is no shard to execute the block: {0}")]
    Local(String),
    /// A transaction kills, or seems to kill, whoever runs it: the block is not to be executed in
    /// this process.
    #[error("the block is parked: {among}: {reason}")]
    Parked {
        /// The transaction, or those that it is among.
        among: TxRange,
        /// Whether it is proven.
        convicted: bool,
        /// In words.
        reason: String,
    },
    /// The shards could not do it.
    #[error("the shards could not execute the block: {0}")]
    Round(String),
    /// The sequential baseline has not all rules.
    #[error(
        "the sequential baseline cannot execute the block: {0}; execute it on shards, without --sequential"
    )]
    Unsupported(String),
    /// The parent is not committed, and nothing covers its whole state.
    #[error("the parent block is not committed, and its state is not known as a whole; commit it first")]
    Unrooted,
    /// Something is larger than it may be.
    #[error(transparent)]
    Size(#[from] CodecError),
}

impl ExecuteError {
    /// Whether it may be otherwise later, with more shards or luck: the block is not at fault.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoShard(_) | Self::Local(_) | Self::Round(_) | Self::Fleet(_))
    }

    /// Whether the block's parent is not known, so that nothing can be said of the block.
    #[must_use]
    pub fn is_unknown_parent(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::UnknownParent { .. }))
    }

    /// Whether the block itself is at fault, so that it is refused for good.
    #[must_use]
    pub fn is_invalid_block(&self) -> bool {
        matches!(self, Self::Block(_) | Self::Rejected(_) | Self::Ledger(LedgerError::NotNext { .. }))
    }
}

impl From<ValidateError> for ExecuteError {
    fn from(error: ValidateError) -> Self {
        match error {
            ValidateError::Rejected(rejection) => Self::Rejected(rejection),
            ValidateError::State(error) => Self::State(error),
        }
    }
}

impl From<RoundError> for ExecuteError {
    fn from(error: RoundError) -> Self {
        match error {
            RoundError::Fleet(error) => Self::Fleet(error),
            RoundError::NoShard(reason) => Self::NoShard(reason),
            RoundError::Local(reason) => Self::Local(reason),
            RoundError::Parked { among, convicted, reason } => Self::Parked { among, convicted, reason },
            RoundError::Failed(reason) => Self::Round(reason),
            RoundError::Size(error) => Self::Size(error),
        }
    }
}

/// Executes blocks on a fleet.
#[derive(Debug)]
pub struct BlockExecutor {
    fleet: Fleet,
    options: ExecuteOptions,
    rounds: RoundClient,
}

/// One block under way.
struct Run<'a> {
    block: &'a Block,
    spec: &'a ChainSpec,
    parent: &'a Tip,
    stats: BlockStats,
}

/// What executes a block on its parent's state: the fleet, or what measurements compare it with.
pub trait BlockEngine: std::fmt::Debug + Send {
    /// Executes and verifies a block. Nothing is committed.
    ///
    /// # Errors
    /// [`ExecuteError`]; the state has not moved.
    fn execute(&mut self, block: &Block, spec: &ChainSpec, parent: &Tip) -> Result<Verified, ExecuteError>;
}

impl BlockEngine for BlockExecutor {
    fn execute(&mut self, block: &Block, spec: &ChainSpec, parent: &Tip) -> Result<Verified, ExecuteError> {
        Self::execute(self, block, spec, parent, Vec::new())
    }
}

impl BlockEngine for Box<dyn BlockEngine> {
    fn execute(&mut self, block: &Block, spec: &ChainSpec, parent: &Tip) -> Result<Verified, ExecuteError> {
        self.as_mut().execute(block, spec, parent)
    }
}

impl BlockExecutor {
    /// An executor on `fleet`.
    #[must_use]
    pub fn new(fleet: Fleet, options: ExecuteOptions) -> Self {
        let rounds = RoundClient::new(fleet.clone(), options.round_limit, options.verify);
        Self { fleet, options, rounds }
    }

    /// Executes and verifies a block on its parent's state, which the fleet's shards hold or are
    /// on the way to. Nothing is committed.
    ///
    /// # Errors
    /// [`ExecuteError`]; the state has not moved.
    pub fn execute(
        &mut self,
        block: &Block,
        spec: &ChainSpec,
        parent: &Tip,
        kills: Vec<KillDrill>,
    ) -> Result<Verified, ExecuteError> {
        let started = Instant::now();
        admit(block, spec, parent)?;
        let mut run = Run { block, spec, parent, stats: BlockStats::default() };
        let mut referee = Referee::new(self.fleet.clone(), spec, parent.view(), block.header.number);
        let outcome =
            self.speculate(&mut run, &mut referee, kills).and_then(|finished| verify(&run, finished));
        let (finished, tip) = match outcome {
            Ok(verified) => verified,
            // No block is refused, or given up, on a shard's word.
            Err(error @ (ExecuteError::Rejected(_) | ExecuteError::State(_) | ExecuteError::Round(_))) => {
                self.judge(&run, &mut referee, &error)?
            }
            Err(ExecuteError::Local(reason)) => {
                let text = format!("executed by the coordinator: {reason}");
                self.fleet.announce(EventKind::Alarm, Some(block.header.number), text);
                execute_alone(&run)?
            }
            Err(error) => return Err(error),
        };
        run.stats.reexecuted = finished.reexecuted;
        run.stats.elapsed = started.elapsed();
        Ok(Verified { state_root: tip.state_root(), tip, finished, stats: run.stats })
    }

    /// Runs the block through the shards and the validator.
    fn speculate(
        &mut self,
        run: &mut Run<'_>,
        referee: &mut Referee<'_>,
        kills: Vec<KillDrill>,
    ) -> Result<Finished, ExecuteError> {
        let block = run.block;
        let mut validator =
            Validator::begin(block, run.spec, run.parent.view().clone(), state_roots(run.parent))?;
        let payload = Arc::new(BlockPayload::new(block, validator.prelude()?));
        referee.begin(&payload);
        let inputs = payload.digest()?;
        let slots = self.fleet.slots()?;
        let began = Instant::now();
        let senders = self.recover(run, referee, &payload, inputs, slots)?;
        run.stats.recovery = began.elapsed();
        let began = Instant::now();
        let sub_blocks = planner::plan(self.options.plan, &block.transactions, &senders, slots);
        run.stats.sub_blocks = u32::try_from(sub_blocks.len()).unwrap_or(u32::MAX);
        let work = rounds::execution_work(
            run.parent.summary().state,
            block.hash,
            inputs,
            &sub_blocks,
            &senders,
            self.options.plan,
        )?;
        let mut outcomes: Vec<Option<TxOutcome>> = vec![None; block.transactions.len()];
        let mut arrived = vec![false; block.transactions.len()];
        let gas: Arc<[u64]> = block.transactions.iter().map(Transaction::gas_limit).collect();
        let end = self.rounds.run(&payload, work, &gas, kills, referee, |indices, output| {
            let WorkOutput::Executed(outputs) = output else { return Ok(()) };
            let of_work: std::collections::BTreeSet<TxIndex> = indices.iter().copied().collect();
            for output in outputs.into_iter().filter(|output| of_work.contains(&output.index)) {
                if let Some(place) = outcomes.get_mut(output.index.0 as usize) {
                    *place = Some(output.outcome);
                }
            }
            for index in indices {
                if let Some(place) = arrived.get_mut(index.0 as usize) {
                    *place = true;
                }
            }
            advance(&mut validator, &senders, &mut outcomes, &arrived)
        })?;
        run.stats.reassigned += end.reassigned;
        if let Some(dispute) = end.disputed {
            return Err(ExecuteError::Round(dispute));
        }
        run.stats.verified_sub_blocks = end.verified;
        // Whatever is left could not be done by shards.
        advance(&mut validator, &senders, &mut outcomes, &vec![true; block.transactions.len()])?;
        run.stats.execution = began.elapsed();
        Ok(validator.finish()?)
    }

    /// Has the senders recovered by the shards. A signature that a shard finds bad is looked at
    /// here again, and so are all where a shard was caught.
    fn recover(
        &mut self,
        run: &mut Run<'_>,
        referee: &mut Referee<'_>,
        payload: &Arc<BlockPayload>,
        inputs: B256,
        slots: usize,
    ) -> Result<Vec<Address>, ExecuteError> {
        let block = run.block;
        let parts = planner::recovery(block.transactions.len(), slots);
        let work = rounds::recovery_work(run.parent.summary().state, block.hash, inputs, &parts)?;
        let mut senders: Vec<Option<Address>> = vec![None; block.transactions.len()];
        let end =
            self.rounds.run(payload, work, &Arc::default(), Vec::new(), referee, |indices, output| {
                let WorkOutput::Recovered(found) = output else { return Ok(()) };
                for (index, sender) in indices.iter().zip(found) {
                    if let (Some(place), Ok(sender)) = (senders.get_mut(index.0 as usize), sender) {
                        *place = Some(sender);
                    }
                }
                Ok(())
            })?;
        run.stats.reassigned += end.reassigned;
        match end.disputed {
            Some(dispute) if end.nobody_left => return Err(ExecuteError::Round(dispute)),
            Some(_) => senders.fill(None),
            None => {}
        }
        let fork = engine::spec_id(run.spec, &block.header);
        let known = senders.into_iter().zip(&block.transactions).zip(0..);
        known
            .map(|((sender, transaction), index)| match sender {
                Some(sender) => Ok(sender),
                None => recover_sender(transaction, fork)
                    .map_err(|bad| Rejection::Transaction { index: TxIndex(index), reason: bad.0 }.into()),
            })
            .collect()
    }

    /// Before a block is refused or given up it is executed again without any shard. If it verifies,
    /// the fault is the shards', and those that returned something wrong are named.
    fn judge(
        &self,
        run: &Run<'_>,
        referee: &mut Referee<'_>,
        doubt: &ExecuteError,
    ) -> Result<(Finished, Arc<Tip>), ExecuteError> {
        let verified = execute_alone(run)?;
        if matches!(doubt, ExecuteError::Rejected(_))
            && let Err(error) = referee.name_the_wrong()
        {
            // The block is right whoever was wrong about it.
            tracing::error!(%error, block = run.block.header.number, "the shards at fault cannot be named");
        }
        let text = format!("shards are at fault ({doubt}); the block was executed here instead");
        self.fleet.announce(EventKind::Alarm, Some(run.block.header.number), text);
        Ok(verified)
    }
}

/// Executes and verifies a block with this process's own engine alone.
fn execute_alone(run: &Run<'_>) -> Result<(Finished, Arc<Tip>), ExecuteError> {
    let fork = engine::spec_id(run.spec, &run.block.header);
    let senders: Vec<Address> = run
        .block
        .transactions
        .iter()
        .zip(0..)
        .map(|(transaction, index)| {
            recover_sender(transaction, fork)
                .map_err(|bad| Rejection::Transaction { index: TxIndex(index), reason: bad.0 })
        })
        .collect::<Result<_, _>>()?;
    let (view, roots) = (run.parent.view().clone(), state_roots(run.parent));
    let finished = execute_trusted(run.block, run.spec, &senders, view, roots)?;
    verify(run, finished)
}

/// What a block is held to before it is executed: its own roots, its place, and where its parent's
/// header is known, the rules against that.
///
/// # Errors
/// [`ExecuteError`] with what is wrong with the block.
pub fn admit(block: &Block, spec: &ChainSpec, parent: &Tip) -> Result<(), ExecuteError> {
    parent.check_next(block)?;
    if parent.state_root().is_none() && parent.delta().is_some() {
        // No root has covered what the parent changed: it must not be built on before it is committed.
        return Err(ExecuteError::Unrooted);
    }
    block.check_body()?;
    if parent.header().is_none() {
        return Ok(());
    }
    let parentage = Parentage { total_difficulty: parent.total_difficulty(), ancestors: parent.ancestors() };
    Ok(check_block(block, block.encoded_len(), &parentage, spec)?)
}

/// Validates as far as results have arrived, in block order.
fn advance(
    validator: &mut Validator<'_, ReplicaView>,
    senders: &[Address],
    outcomes: &mut [Option<TxOutcome>],
    arrived: &[bool],
) -> Result<(), ExecuteError> {
    loop {
        let next = validator.next().0 as usize;
        let (Some(sender), Some(true)) = (senders.get(next), arrived.get(next)) else { return Ok(()) };
        let outcome = outcomes.get_mut(next).and_then(Option::take);
        validator.advance(*sender, outcome)?;
    }
}

/// Checks the header, and makes the tip.
fn verify(run: &Run<'_>, finished: Finished) -> Result<(Finished, Arc<Tip>), ExecuteError> {
    let draft = run.parent.draft(finished.changes.clone(), finished.code.clone())?;
    verify_header(run.block, run.spec, &finished, draft.state_root())?;
    let tip = run.parent.seal(draft, run.block, &finished.receipts);
    Ok((finished, tip))
}
