//! Computes one piece of work on the calling thread: recovers senders, or executes a sub-block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy_consensus::Transaction as _;
use common::chain_spec::ChainSpec;
use common::id::{Gas, TxIndex};
use common::work::{TxOutcome, TxOutput, WorkFailure, WorkInputs, WorkKind, WorkOutput, WorkSpec};

use crate::{Executor, Overlay, StateError, StateView, recover_sender};

/// Receives the progress of a worker.
pub trait Progress {
    /// Called when a transaction begins, with its gas limit; zero gas if only its sender is recovered.
    fn at(&self, index: TxIndex, gas: Gas);
}

/// The result of a piece of work.
pub type WorkResult = Result<WorkOutput, WorkFailure>;

/// Computes the result of a piece of work; `None` if it was cancelled meanwhile.
pub fn run<V: StateView>(
    spec: &WorkSpec,
    chain: &ChainSpec,
    view: Option<V>,
    cancelled: &Arc<AtomicBool>,
    progress: &impl Progress,
) -> Option<WorkResult> {
    let inputs = match spec.open() {
        Ok(inputs) => inputs,
        Err(error) => return Some(Err(WorkFailure::State(error.to_string()))),
    };
    match (&spec.kind, view) {
        (WorkKind::Recover, _) => recover(spec, &inputs, chain, cancelled, progress),
        (WorkKind::Execute { .. }, None) => Some(Err(WorkFailure::BaseGone)),
        (WorkKind::Execute { .. }, Some(view)) => execute(spec, &inputs, chain, view, cancelled, progress),
    }
}

fn recover(
    spec: &WorkSpec,
    inputs: &WorkInputs,
    chain: &ChainSpec,
    cancelled: &Arc<AtomicBool>,
    progress: &impl Progress,
) -> Option<WorkResult> {
    let fork = crate::spec_id(chain, &inputs.header);
    let mut senders = Vec::with_capacity(spec.indices.len());
    for (index, transaction) in spec.indices.iter().zip(&inputs.transactions) {
        if cancelled.load(Ordering::Relaxed) {
            return None;
        }
        progress.at(*index, Gas(0));
        senders.push(recover_sender(transaction, fork));
    }
    Some(Ok(WorkOutput::Recovered(senders)))
}

fn execute<V: StateView>(
    spec: &WorkSpec,
    inputs: &WorkInputs,
    chain: &ChainSpec,
    view: V,
    cancelled: &Arc<AtomicBool>,
    progress: &impl Progress,
) -> Option<WorkResult> {
    let WorkKind::Execute { senders, prelude } = &spec.kind else { return Some(Err(WorkFailure::BaseGone)) };
    let mut overlay = Overlay::default();
    for delta in &prelude.accounts {
        overlay.apply_delta(delta);
    }
    let env = crate::evm_env(chain, &inputs.header);
    let mut executor = Executor::new(env, view, overlay).stop_when(Arc::clone(cancelled));
    let mut outputs = Vec::with_capacity(spec.indices.len());
    for ((index, transaction), sender) in spec.indices.iter().zip(&inputs.transactions).zip(senders) {
        if cancelled.load(Ordering::Relaxed) {
            return None;
        }
        progress.at(*index, Gas(transaction.gas_limit()));
        let outcome = match executor.execute(transaction, *sender) {
            Ok(outcome) => outcome,
            Err(StateError::Stopped) => return None,
            Err(StateError::Memory) => return Some(Err(WorkFailure::Memory(*index))),
            Err(error) => return Some(Err(WorkFailure::State(error.to_string()))),
        };
        if let TxOutcome::Executed(executed) = &outcome
            && let Err(error) = executor.commit(executed)
        {
            return Some(Err(WorkFailure::State(error.to_string())));
        }
        outputs.push(TxOutput { index: *index, outcome });
    }
    Some(Ok(WorkOutput::Executed(outputs)))
}
