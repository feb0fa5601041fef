//! Runs many seeds on several threads, until a bound is reached or a difference is found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::chain_spec::ChainSpecError;
use parking_lot::Mutex;

use super::chain::{ChainReport, Difference, fuzz_seed};
use super::fork::Fork;
use crate::plan::LabPlan;

/// The bounds of a run. The first bound that is reached ends the run; started seeds are finished.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// The maximum number of seeds.
    pub seeds: Option<u64>,
    /// The number of compared transactions after which the run ends.
    pub transactions: Option<u64>,
    /// The duration after which no further seed is started; `None` for no limit.
    pub time: Option<Duration>,
}

/// The settings of a run.
#[derive(Debug, Clone, Copy)]
pub struct FuzzOptions {
    /// The first seed; the others follow it.
    pub seed: u64,
    /// The bounds of the run.
    pub scope: Scope,
    /// Only this fork; otherwise each seed chooses one.
    pub fork: Option<Fork>,
    /// Only this plan; otherwise each block chooses two.
    pub plan: Option<LabPlan>,
    /// The number of threads.
    pub jobs: usize,
}

/// The result of a run.
#[derive(Debug, Clone, Default)]
pub struct FuzzSummary {
    /// The number of seeds that were run.
    pub seeds: u64,
    /// The sum of their reports.
    pub report: ChainReport,
    /// The difference that ended the run, if there was one. Of several, the one with the lowest seed.
    pub difference: Option<Difference>,
    /// The duration of the run.
    pub elapsed: Duration,
}

/// Why a run has no summary.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// This build rejects a fork's schedule.
    #[error(transparent)]
    Spec(#[from] ChainSpecError),
    /// A thread could not be started.
    #[error("a thread for fuzzing cannot be started: {0}; try fewer jobs")]
    Thread(std::io::Error),
    /// A thread panicked outside of a seed. A panic within a seed is a difference instead.
    #[error("a fuzzing thread panicked outside of a seed")]
    Panicked,
}

/// The data that the threads share.
struct Shared<'a> {
    options: &'a FuzzOptions,
    began: Instant,
    /// The number of seeds given out.
    begun: AtomicU64,
    summary: Mutex<FuzzSummary>,
    progress: &'a (dyn Fn(&FuzzSummary) + Sync),
}

/// Runs the fuzzer. Calls `progress` after every seed.
///
/// # Errors
/// [`FuzzError`] if the run fails. A difference is not an error.
pub fn fuzz(
    options: &FuzzOptions,
    progress: &(dyn Fn(&FuzzSummary) + Sync),
) -> Result<FuzzSummary, FuzzError> {
    let shared = Shared {
        options,
        began: Instant::now(),
        begun: AtomicU64::new(0),
        summary: Mutex::default(),
        progress,
    };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..options.jobs.max(1) {
            let builder = thread::Builder::new().name(format!("fuzz-{number}")).stack_size(16 << 20);
            threads.push(builder.spawn_scoped(scope, || shared.work()).map_err(FuzzError::Thread)?);
        }
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| FuzzError::Panicked)?)
    })?;
    let mut summary = shared.summary.into_inner();
    summary.elapsed = shared.began.elapsed();
    Ok(summary)
}

impl Shared<'_> {
    /// Runs seeds until a bound is reached.
    fn work(&self) -> Result<(), FuzzError> {
        while !self.is_enough() {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if self.options.scope.seeds.is_some_and(|seeds| number >= seeds) {
                break;
            }
            let seed = self.options.seed.wrapping_add(number);
            let (report, difference) = fuzz_seed(seed, self.options.fork, self.options.plan)?;
            let mut summary = self.summary.lock();
            summary.seeds += 1;
            summary.report.add(&report);
            summary.elapsed = self.began.elapsed();
            if let Some(found) = difference
                && summary.difference.as_ref().is_none_or(|known| found.seed < known.seed)
            {
                summary.difference = Some(found);
            }
            (self.progress)(&summary);
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        let scope = self.options.scope;
        let summary = self.summary.lock();
        summary.difference.is_some()
            || scope.transactions.is_some_and(|most| summary.report.transactions >= most)
            || scope.time.is_some_and(|most| self.began.elapsed() >= most)
    }
}
