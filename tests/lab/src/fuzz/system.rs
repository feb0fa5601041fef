//! The system's own path, in this process and without a network: planner, sub-blocks on the engine,
//! results that arrive late, reordered, from another base or not at all, and the validator.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use common::account::Account;
use common::block::{Block, EncodedBlock, Prelude};
use common::chain_spec::ChainSpec;
use common::codec::{self, MAX_PAYLOAD_BYTES};
use common::id::{Gas, Height, StateRef, TxIndex};
use common::work::{TxOutcome, WorkKind, WorkOutput, WorkSpec};
use engine::sub_block::{self, Progress};
use engine::{Code, MemoryState, Poisoned, StateError, StateView, recover_sender};

use super::coverage::{Coverage, Feature};
use super::draw::Draw;
use crate::plan::LabPlan;
use coordinator::rules::Rejection;
use coordinator::validate::{Finished, ValidateError, Validator};
use schedule::planner;

/// Ignores the reports of progress, because the fuzzer watches no slot.
struct Unwatched;

impl Progress for Unwatched {
    fn at(&self, _: TxIndex, _: Gas) {}
}

/// A block to execute, with the states to execute it on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) block: &'a Block,
    pub(super) spec: &'a ChainSpec,
    pub(super) senders: &'a [Address],
    /// The state before the block.
    pub(super) base: &'a MemoryState,
    /// An earlier state, which a shard that lags behind would read.
    pub(super) behind: &'a MemoryState,
    pub(super) plan: LabPlan,
    /// Whether the signatures are real.
    pub(super) signed: bool,
}

/// The fate of a sub-block's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It arrives as it was computed, without an encoding in between.
    Arrives,
    /// It arrives through the wire encoding.
    Wired,
    /// It was computed on an earlier base.
    Behind,
    /// It was computed on a base where accounts have more, for example on another branch.
    Richer,
    /// It never arrives, so the validator executes the transactions itself.
    Lost,
}

/// The weights of the fates. Some further results are lost.
const FATES: [(u64, Fate); 4] = [(12, Fate::Arrives), (3, Fate::Wired), (2, Fate::Behind), (2, Fate::Richer)];

/// The amount by which accounts are richer, in wei: more than the gas of a fuzzed transaction costs.
const RICHER_BY: u64 = 1 << 50;

/// A state in which every existing account has a greater balance.
#[derive(Debug)]
struct Richer<'a> {
    state: &'a MemoryState,
    more: U256,
}

impl StateView for Richer<'_> {
    fn account(&self, address: &Address) -> Result<Option<Account>, StateError> {
        let account = self.state.account(address)?;
        let enrich =
            |account: Account| Account { balance: account.balance.saturating_add(self.more), ..account };
        Ok(account.map(enrich))
    }

    fn slot(&self, address: &Address, slot: &U256) -> Result<U256, StateError> {
        self.state.slot(address, slot)
    }

    fn code(&self, hash: &B256) -> Result<Code, StateError> {
        self.state.code(hash)
    }

    fn block_hash(&self, number: u64) -> Result<B256, StateError> {
        self.state.block_hash(number)
    }

    fn any_slot(&self, address: &Address, counts: &dyn Fn(&U256) -> bool) -> Result<bool, StateError> {
        self.state.any_slot(address, counts)
    }
}

impl Case<'_> {
    /// Executes the block like the system does.
    pub(super) fn execute(
        &self,
        draw: &mut Draw,
        coverage: &mut Coverage,
    ) -> Result<Finished, ValidateError> {
        let Self { block, spec, senders, base, plan, .. } = *self;
        let mut validator = Validator::begin(block, spec, base, None)?;
        let prelude = validator.prelude()?;
        let bytes = EncodedBlock::new(block.clone());
        if self.signed {
            self.check_senders(coverage)?;
        }
        let slots = draw.between(1, 6) as usize;
        let mut sub_blocks = planner::plan(plan.cut(), &block.transactions, senders, slots);
        // Results arrive reordered: the order of arrival is independent of the block's order.
        draw.shuffle(&mut sub_blocks);
        let count = block.transactions.len();
        let mut outcomes: Vec<Option<TxOutcome>> = vec![None; count];
        let mut arrived = vec![false; count];
        for indices in sub_blocks {
            let fate = draw.weighted(&FATES, Fate::Lost);
            let fate = if draw.one_in(12) { Fate::Lost } else { fate };
            if let Some(output) = self.speculate(&bytes, &prelude, &indices, fate)? {
                self.deliver(output, &mut outcomes, coverage);
            }
            for index in &indices {
                if let Some(place) = arrived.get_mut(index.0 as usize) {
                    *place = true;
                }
            }
            self.advance(&mut validator, &mut outcomes, &arrived)?;
        }
        self.advance(&mut validator, &mut outcomes, &vec![true; count])?;
        validator.finish()
    }

    /// Recovers the senders and compares them with the signers.
    fn check_senders(&self, coverage: &mut Coverage) -> Result<(), ValidateError> {
        let fork = engine::spec_id(self.spec, &self.block.header);
        for ((transaction, sender), index) in self.block.transactions.iter().zip(self.senders).zip(0..) {
            let recovered = recover_sender(transaction, fork)
                .map_err(|bad| Rejection::Transaction { index: TxIndex(index), reason: bad.0 })?;
            if recovered != *sender {
                let reason = format!("its sender is {sender}, {recovered} was recovered");
                return Err(Rejection::Transaction { index: TxIndex(index), reason }.into());
            }
            coverage.count(Feature::Recovered, 1);
        }
        Ok(())
    }

    /// Executes one sub-block like a slot does.
    fn speculate(
        &self,
        block: &EncodedBlock,
        prelude: &Prelude,
        indices: &[TxIndex],
        fate: Fate,
    ) -> Result<Option<WorkOutput>, ValidateError> {
        let senders =
            indices.iter().filter_map(|index| self.senders.get(index.0 as usize).copied()).collect();
        let base = StateRef { world: Default::default(), height: Height::default(), block_hash: B256::ZERO };
        let kind = WorkKind::Execute { senders, prelude: prelude.clone() };
        let work = WorkSpec::of(base, block, kind, indices);
        let work = if fate == Fate::Wired { wire("work", &work)? } else { work };
        let view: Box<dyn StateView + '_> = match fate {
            Fate::Lost => return Ok(None),
            Fate::Behind => Box::new(self.behind),
            Fate::Richer => Box::new(Richer { state: self.base, more: U256::from(RICHER_BY) }),
            Fate::Arrives | Fate::Wired => Box::new(self.base),
        };
        let view: Box<dyn StateView + '_> = match self.plan.poison() {
            Some(seed) => Box::new(Poisoned::new(view, seed)),
            None => view,
        };
        let result = sub_block::run(&work, self.spec, Some(view), &Arc::default(), &Unwatched);
        // A failure of a shard gives no result, so its work is executed again.
        let Some(Ok(output)) = result else {
            let failed = matches!(fate, Fate::Arrives | Fate::Wired) && self.plan.poison().is_none();
            return if failed { Err(broken(&format!("a sub-block gave {result:?}"))) } else { Ok(None) };
        };
        if fate == Fate::Wired { wire("result", &output).map(Some) } else { Ok(Some(output)) }
    }

    fn deliver(&self, output: WorkOutput, outcomes: &mut [Option<TxOutcome>], coverage: &mut Coverage) {
        let WorkOutput::Executed(outputs) = output else { return };
        for output in outputs {
            coverage.see(&output.outcome, self.block.header.beneficiary);
            if let Some(place) = outcomes.get_mut(output.index.0 as usize) {
                *place = Some(output.outcome);
            }
        }
    }

    /// Validates results in block order, as far as they have arrived, like the block executor does.
    fn advance(
        &self,
        validator: &mut Validator<'_, &MemoryState>,
        outcomes: &mut [Option<TxOutcome>],
        arrived: &[bool],
    ) -> Result<(), ValidateError> {
        loop {
            let next = validator.next().0 as usize;
            let (Some(sender), Some(true)) = (self.senders.get(next), arrived.get(next)) else {
                return Ok(());
            };
            let outcome = outcomes.get_mut(next).and_then(Option::take);
            validator.advance(*sender, outcome)?;
        }
    }
}

/// Encodes and decodes a value, as the wire would.
fn wire<T: serde::Serialize + serde::de::DeserializeOwned>(
    what: &'static str,
    value: &T,
) -> Result<T, ValidateError> {
    let bytes = codec::encode(what, value, MAX_PAYLOAD_BYTES).map_err(|error| broken(&error))?;
    codec::decode(what, &bytes, MAX_PAYLOAD_BYTES).map_err(|error| broken(&error))
}

/// A fault of the system itself, not of the block.
fn broken(reason: &impl std::fmt::Display) -> ValidateError {
    StateError::Evm(reason.to_string()).into()
}
