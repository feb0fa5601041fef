//! Many seeds on several threads, until enough is done or a difference is found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::chain_spec::ChainSpecError;
use parking_lot::Mutex;

use super::chain::{ChainReport, Difference, fuzz_seed};
use super::fork::Fork;
use schedule::planner::Plan;

/// How much is fuzzed. Whichever bound is reached first ends it; seeds that are begun are finished.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    /// At most this many seeds.
    pub seeds: Option<u64>,
    /// Until this many transactions were compared.
    pub transactions: Option<u64>,
    /// At most this long.
    pub time: Option<Duration>,
}

/// What is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct FuzzOptions {
    /// The first seed; the others follow it.
    pub seed: u64,
    /// How much.
    pub scope: Scope,
    /// Only this fork; otherwise each seed chooses one.
    pub fork: Option<Fork>,
    /// Only this plan; otherwise each block chooses two.
    pub plan: Option<Plan>,
    /// On how many threads.
    pub jobs: usize,
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub struct FuzzSummary {
    /// Seeds that were run.
    pub seeds: u64,
    /// The sum of their figures.
    pub report: ChainReport,
    /// The difference that ended it, if there was one; of several, that of the lowest seed.
    pub difference: Option<Difference>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// A fork's schedule is not accepted.
    #[error(transparent)]
    Spec(#[from] ChainSpecError),
    /// A thread could not be started.
    #[error("a thread for fuzzing cannot be started: {0}; try fewer jobs")]
    Thread(std::io::Error),
    /// A thread ended without a word; panics of seeds are differences and do not do that.
    #[error("a fuzzing thread panicked outside of a seed")]
    Panicked,
}

/// What the threads share.
struct Shared<'a> {
    options: &'a FuzzOptions,
    began: Instant,
    /// Seeds given out.
    begun: AtomicU64,
    summary: Mutex<FuzzSummary>,
    progress: &'a (dyn Fn(&FuzzSummary) + Sync),
}

/// Fuzzes. `progress` is told after every seed how far it is.
///
/// # Errors
/// [`FuzzError`] when it cannot be done at all; a difference is not an error.
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
    /// Takes seeds until there is enough.
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
