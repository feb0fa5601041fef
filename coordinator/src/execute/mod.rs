//! Executes one block on the fleet: recover, plan, speculate, validate, repair, verify.
//!
//! It runs on the caller's thread, and every wait has a time limit. The results of shards count only
//! after the block's header confirms them. If no header field covers a result (the state after a
//! stand-alone pre-state), it relies on the shards' engine and on the share of work that is verified.

mod ahead;
mod digests;
mod fraction;
mod referee;
mod roots;
mod rounds;

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_consensus::Transaction;
use alloy_primitives::{Address, B256};
use common::block::{BlockError, CheckedBlock};
use common::chain_spec::ChainSpec;
use common::codec::CodecError;
use common::id::{TxIndex, TxRange};
use common::work::{TxOutcome, WorkOutput};
use engine::replica_view::ReplicaView;
use engine::{StateError, recover_sender};

use crate::fleet::{EventKind, Fleet, FleetError, RoundFailure};
use crate::rules::Rejection;
use crate::rules::{Parentage, check_block};
use crate::validate::{Finished, ValidateError, Validator, execute_trusted, verify_header};
use ahead::Ahead;
use ledger::{LedgerError, Tip};
use referee::Referee;
use rounds::{OpenRound, RoundClient};
use schedule::FailCause;
use schedule::planner::{self, Plan};

pub use digests::Digests;
pub use fraction::{NotAFraction, VerifyFraction};
pub use roots::state_roots;

/// The options of block execution.
#[derive(Debug, Clone, Copy)]
pub struct ExecuteOptions {
    /// The plan that cuts blocks into sub-blocks.
    pub plan: Plan,
    /// The time limit of a round, in addition to the time that its transactions' gas may take at the
    /// slowest rate. It is far beyond the need of any block.
    pub round_limit: Duration,
    /// The share of work that another shard executes a second time for comparison.
    pub verify: VerifyFraction,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self { plan: Plan::Auto, round_limit: Duration::from_secs(300), verify: VerifyFraction::NONE }
    }
}

/// A block that was executed and verified, and can be committed.
#[derive(Debug)]
pub struct Verified {
    /// The state after the block, not committed yet.
    pub tip: Arc<Tip>,
    /// The results of its execution.
    pub finished: Finished,
    /// The state root; `None` if the whole state is not known.
    pub state_root: Option<B256>,
    /// The measurements of its execution.
    pub stats: BlockStats,
}

/// The measurements of a block's execution.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockStats {
    /// The time from the checked block to the verified result.
    pub elapsed: Duration,
    /// The part of `elapsed` spent on recovering the senders.
    pub recovery: Duration,
    /// The part of `elapsed` spent on executing and validating transactions.
    pub execution: Duration,
    /// The part of `elapsed` spent on the roots, and on comparing them and the rest with the header.
    pub roots: Duration,
    /// The time that it took to make the block durable, after `elapsed`; zero if it was not.
    pub commit: Duration,
    /// The number of its sub-blocks.
    pub sub_blocks: u32,
    /// The number of verified sub-blocks: two shards agreed on the result, or this process and one shard.
    pub verified_sub_blocks: u32,
    /// The number of transactions that the coordinator executed again.
    pub reexecuted: u32,
    /// The number of assignments that moved to another shard.
    pub reassigned: u32,
}

/// Why a block was not executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The block contradicts itself.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The block breaks a rule.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The block does not fit the ledger, or the ledger fails.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The fleet has ended.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// No shard can execute the block.
    #[error("there is no shard to execute the block: {0}")]
    NoShard(String),
    /// No shard can execute the block, and the options tell the coordinator to do it.
    #[error("there is no shard to execute the block: {0}")]
    Local(String),
    /// A transaction kills, or seems to kill, every shard that runs it. This process must not execute the
    /// block.
    #[error("the block is parked: {among}: {reason}")]
    Parked {
        /// The transaction, or the range that contains it.
        among: TxRange,
        /// Whether the transaction is proven to kill.
        convicted: bool,
        /// The reason in words.
        reason: String,
    },
    /// The shards failed to execute the block.
    #[error("the shards could not execute the block: {0}")]
    Round(String),
    /// The sequential baseline lacks a rule that the block needs.
    #[error(
        "the sequential baseline cannot execute the block: {0}; execute it on shards, without --sequential"
    )]
    Unsupported(String),
    /// The parent is not committed, and no root covers its whole state.
    #[error("the parent block is not committed, and its state is not known as a whole; commit it first")]
    Unrooted,
    /// A value is larger than its limit.
    #[error(transparent)]
    Size(#[from] CodecError),
}

impl ExecuteError {
    /// Whether a later try may succeed, with other shards. The block is not at fault.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NoShard(_) | Self::Local(_) | Self::Round(_) | Self::Fleet(_))
    }

    /// Whether the block's parent is unknown, so that the block cannot be judged.
    #[must_use]
    pub fn is_unknown_parent(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::UnknownParent { .. }))
    }

    /// Whether the block itself is at fault, so that it is rejected for good.
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

impl From<RoundFailure> for ExecuteError {
    fn from(RoundFailure { cause, reason }: RoundFailure) -> Self {
        match cause {
            FailCause::Stranded => Self::NoShard(reason),
            FailCause::Local => Self::Local(reason),
            FailCause::Spent => Self::Round(reason),
            FailCause::Parked { suspects, convicted } => Self::Parked { among: suspects, convicted, reason },
        }
    }
}

/// Executes blocks on a fleet.
///
/// ```no_run
/// # use common::block::{Block, CheckedBlock};
/// # use coordinator::execute::{BlockExecutor, ExecuteError, ExecuteOptions};
/// # use coordinator::fleet::Fleet;
/// # use ledger::Ledger;
/// # fn example(fleet: Fleet, ledger: &Ledger, block: Block) -> Result<(), ExecuteError> {
/// let mut executor = BlockExecutor::new(fleet, ExecuteOptions::default());
/// let block = CheckedBlock::new(block)?;
/// let verified = executor.execute(&block, ledger.spec(), &ledger.head())?;
/// // The block is valid, and nothing has moved yet. The caller decides whether to commit.
/// ledger.commit(&verified.tip)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BlockExecutor {
    fleet: Fleet,
    options: ExecuteOptions,
    rounds: RoundClient,
    ahead: Ahead,
}

/// One block in flight.
struct InFlight<'a> {
    block: &'a CheckedBlock,
    spec: &'a ChainSpec,
    parent: &'a Tip,
    stats: BlockStats,
}

/// Executes a block on its parent's state: the fleet, or the baseline that measurements compare with.
pub trait BlockEngine: std::fmt::Debug + Send {
    /// Executes and verifies a block without committing it.
    ///
    /// # Errors
    /// [`ExecuteError`]; then the state has not moved.
    fn execute(
        &mut self,
        block: &CheckedBlock,
        spec: &ChainSpec,
        parent: &Tip,
    ) -> Result<Verified, ExecuteError>;

    /// Announces the block that probably comes after the next one that is executed. The engine may begin
    /// what does not depend on the state.
    fn announce_next(&mut self, _block: &CheckedBlock) {}
}

impl BlockEngine for BlockExecutor {
    fn execute(
        &mut self,
        block: &CheckedBlock,
        spec: &ChainSpec,
        parent: &Tip,
    ) -> Result<Verified, ExecuteError> {
        Self::execute(self, block, spec, parent)
    }

    fn announce_next(&mut self, block: &CheckedBlock) {
        self.ahead.announce(block.clone());
    }
}

impl From<BlockExecutor> for Box<dyn BlockEngine> {
    fn from(executor: BlockExecutor) -> Self {
        Box::new(executor)
    }
}

impl BlockExecutor {
    /// Creates an executor on `fleet`.
    #[must_use]
    pub fn new(fleet: Fleet, options: ExecuteOptions) -> Self {
        let rounds = RoundClient::new(fleet.clone(), options.round_limit, options.verify);
        Self { fleet, options, rounds, ahead: Ahead::default() }
    }

    /// Executes and verifies a block on its parent's state without committing it. The fleet's shards hold
    /// that state or are syncing to it.
    ///
    /// # Errors
    /// [`ExecuteError`]; then the state has not moved.
    pub fn execute(
        &mut self,
        block: &CheckedBlock,
        spec: &ChainSpec,
        parent: &Tip,
    ) -> Result<Verified, ExecuteError> {
        let started = Instant::now();
        admit(block, spec, parent)?;
        let mut run = InFlight { block, spec, parent, stats: BlockStats::default() };
        let mut referee = Referee::new(self.fleet.clone(), spec, parent.view(), block.header.number);
        let outcome = self.speculate(&mut run, &mut referee).and_then(|finished| {
            let began = Instant::now();
            let verified = verify(&run, finished);
            run.stats.roots = began.elapsed();
            self.fleet.trace_stage(block, "roots", began);
            verified
        });
        let (finished, tip) = match outcome {
            Ok(verified) => verified,
            // A shard's result alone is never enough to reject or give up a block.
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

    /// Executes the block through the shards and the validator.
    fn speculate(
        &mut self,
        run: &mut InFlight<'_>,
        referee: &mut Referee<'_>,
    ) -> Result<Finished, ExecuteError> {
        let block = run.block;
        let mut validator =
            Validator::begin(block, run.spec, run.parent.view().clone(), state_roots(run.parent))?;
        let begun = self.ahead.take(block.hash, &self.rounds)?;
        let slots = self.fleet.slots()?;
        let began = Instant::now();
        let senders = self.recover(run, referee, begun, slots)?;
        run.stats.recovery = began.elapsed();
        self.fleet.trace_stage(block, "recover", began);
        let began = Instant::now();
        let sub_blocks = planner::plan(self.options.plan, &block.transactions, &senders, slots);
        run.stats.sub_blocks = u32::try_from(sub_blocks.len()).unwrap_or(u32::MAX);
        let (base, prelude) = (run.parent.summary().state, validator.prelude()?);
        let work = rounds::execution_work(base, block, &sub_blocks, &senders, &prelude)?;
        let mut outcomes: Vec<Option<TxOutcome>> = vec![None; block.transactions.len()];
        let mut arrived = vec![false; block.transactions.len()];
        let gas: Arc<[u64]> = block.transactions.iter().map(Transaction::gas_limit).collect();
        let round = self.rounds.open(block.header.number, block.hash, work, &gas)?;
        if let Err(error) = self.ahead.begin(&mut self.rounds, base, slots) {
            // The next block is recovered at its turn; this one does not depend on it.
            tracing::debug!(%error, "the recovery of the next block has not begun");
        }
        let end = self.rounds.finish(round, referee, |indices, output| {
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
        // The remaining transactions have no result from a shard.
        advance(&mut validator, &senders, &mut outcomes, &vec![true; block.transactions.len()])?;
        run.stats.execution = began.elapsed();
        self.fleet.trace_stage(block, "execute", began);
        Ok(validator.finish()?)
    }

    /// Recovers the senders on the shards. The coordinator checks every signature that a shard calls bad,
    /// and all of them if a shard was caught returning a wrong result.
    fn recover(
        &mut self,
        run: &mut InFlight<'_>,
        referee: &mut Referee<'_>,
        begun: Option<OpenRound>,
        slots: usize,
    ) -> Result<Vec<Address>, ExecuteError> {
        let block = run.block;
        let mut senders: Vec<Option<Address>> = vec![None; block.transactions.len()];
        let mut take = |indices: &[TxIndex], output: WorkOutput| {
            let WorkOutput::Recovered(found) = output else { return Ok(()) };
            for (index, sender) in indices.iter().zip(found) {
                if let (Some(place), Ok(sender)) = (senders.get_mut(index.0 as usize), sender) {
                    *place = Some(sender);
                }
            }
            Ok(())
        };
        let early = begun.map(|round| self.rounds.finish(round, referee, &mut take)).transpose();
        let end = match early {
            Ok(Some(end)) => end,
            // Without shards at that time, say. This is the first try that the block is waited for.
            Err(error) if !error.may_pass() => return Err(error),
            Ok(None) | Err(_) => {
                let parts = planner::recovery(block.transactions.len(), slots);
                let base = run.parent.summary().state;
                let work = rounds::recovery_work(base, block, &parts)?;
                let round = self.rounds.open(block.header.number, block.hash, work, &Arc::default())?;
                self.rounds.finish(round, referee, &mut take)?
            }
        };
        run.stats.reassigned += end.reassigned;
        match end.disputed {
            Some(dispute) if end.no_shard_left => return Err(ExecuteError::Round(dispute)),
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

    /// Executes a block again without shards before it is rejected or given up. If it verifies, shards are
    /// at fault, and those that returned wrong results are named.
    fn judge(
        &self,
        run: &InFlight<'_>,
        referee: &mut Referee<'_>,
        doubt: &ExecuteError,
    ) -> Result<(Finished, Arc<Tip>), ExecuteError> {
        let verified = execute_alone(run)?;
        if matches!(doubt, ExecuteError::Rejected(_))
            && let Err(error) = referee.name_the_wrong()
        {
            // The block is valid, whichever shards were wrong about it.
            tracing::error!(%error, block = run.block.header.number, "the shards at fault cannot be named");
        }
        let text = format!("shards are at fault ({doubt}); the block was executed here instead");
        self.fleet.announce(EventKind::Alarm, Some(run.block.header.number), text);
        Ok(verified)
    }
}

/// Executes and verifies a block with this process's own engine alone.
fn execute_alone(run: &InFlight<'_>) -> Result<(Finished, Arc<Tip>), ExecuteError> {
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

/// Checks a block before its execution: its place after the parent and, if the parent's
/// header is known, the rules that relate both headers.
///
/// # Errors
/// [`ExecuteError`] with the rule that the block breaks.
pub fn admit(block: &CheckedBlock, spec: &ChainSpec, parent: &Tip) -> Result<(), ExecuteError> {
    parent.check_next(block)?;
    if parent.state_root().is_none() && parent.delta().is_some() {
        // No root covers the parent's changes: the parent must be committed before another block builds on
        // it.
        return Err(ExecuteError::Unrooted);
    }
    if parent.header().is_none() {
        return Ok(());
    }
    let parentage = Parentage { total_difficulty: parent.total_difficulty(), ancestors: parent.ancestors() };
    Ok(check_block(block, block.rlp().len(), &parentage, spec)?)
}

/// Validates results in block order, as far as they have arrived.
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

/// Checks the header and makes the tip.
fn verify(run: &InFlight<'_>, finished: Finished) -> Result<(Finished, Arc<Tip>), ExecuteError> {
    let draft = run.parent.draft(finished.changes.clone(), finished.code.clone())?;
    verify_header(run.block, run.spec, &finished, draft.state_root())?;
    let tip = run.parent.seal(draft, run.block, &finished.receipts);
    Ok((finished, tip))
}
