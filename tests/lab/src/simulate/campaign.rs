//! Campaigns: many histories on several threads, and the sums over them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::check::Violation;
use super::fault::FaultKind;
use super::world::{History, simulate};
use parking_lot::Mutex;
use schedule::{Counters, Transition};

/// The number of seeds that a thread takes at once.
const BATCH: u64 = 64;

/// The number of failing seeds that a report keeps.
const FAILURES_KEPT: usize = 8;

/// The histories to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The seed of the first history. The seeds of the others follow it.
    pub first: u64,
    /// The number of seeds.
    pub seeds: u64,
    /// The number of threads.
    pub jobs: usize,
    /// Whether to stop at the first failure.
    pub stop_at_failure: bool,
}

/// A seed that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed of the history, which reproduces the failure.
    pub seed: u64,
    /// The first invariant that the history violated.
    pub violation: Violation,
}

/// The sums over a campaign's histories.
#[derive(Debug, Clone, Default)]
pub struct CampaignReport {
    /// The number of histories that were run: at most one for each seed, fewer after a stop at a failure.
    pub histories: u64,
    /// The number of histories that violated an invariant.
    pub violations: u64,
    /// The first failures, at most eight.
    pub failures: Vec<Failure>,
    /// How long the campaign took, in real time.
    pub elapsed: Duration,
    /// Faults injected, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// The number of blocks submitted.
    pub blocks: u64,
    /// The number of blocks committed, kept as side blocks, rejected and parked, in this order.
    pub endings: [u64; 4],
    /// The number of happenings.
    pub steps: u64,
    /// The sum of the virtual time of all histories.
    pub virtual_time: Duration,
    /// The scheduler's transitions, and how often each occurred.
    pub transitions: BTreeMap<Transition, u64>,
    /// The sum of the schedulers' counters.
    pub counters: Counters,
}

impl Campaign {
    /// Runs the campaign. The histories do not depend on the number of threads.
    #[must_use]
    pub fn run(&self) -> CampaignReport {
        let began = Instant::now();
        let next = AtomicU64::new(0);
        let stopped = AtomicBool::new(false);
        let whole = Mutex::new(CampaignReport::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    let mut part = CampaignReport::default();
                    while !stopped.load(Ordering::Relaxed) {
                        let from = next.fetch_add(BATCH, Ordering::Relaxed);
                        if from >= self.seeds {
                            break;
                        }
                        for seed in from..(from + BATCH).min(self.seeds) {
                            part.add(simulate(self.first.wrapping_add(seed), false));
                        }
                        if self.stop_at_failure && part.violations > 0 {
                            stopped.store(true, Ordering::Relaxed);
                        }
                    }
                    whole.lock().join(part);
                });
            }
        });
        let mut report = whole.into_inner();
        report.failures.sort_by_key(|failure| failure.seed);
        report.elapsed = began.elapsed();
        report
    }
}

impl CampaignReport {
    fn add(&mut self, history: History) {
        self.histories += 1;
        self.steps += history.steps;
        self.virtual_time += history.lasted;
        self.blocks += history.blocks as u64;
        for (sum, count) in self.endings.iter_mut().zip(history.endings) {
            *sum += count as u64;
        }
        for fault in history.faults {
            *self.faults.entry(fault).or_default() += 1;
        }
        for (transition, count) in history.transitions {
            *self.transitions.entry(transition).or_default() += count;
        }
        self.counters = self.counters.plus(&history.counters);
        if let Some(violation) = history.violation {
            self.violations += 1;
            self.failures.push(Failure { seed: history.seed, violation });
            self.failures.sort_by_key(|failure| failure.seed);
            self.failures.truncate(FAILURES_KEPT);
        }
    }

    fn join(&mut self, other: Self) {
        self.histories += other.histories;
        self.violations += other.violations;
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.blocks += other.blocks;
        for (sum, count) in self.endings.iter_mut().zip(other.endings) {
            *sum += count;
        }
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        for (transition, count) in other.transitions {
            *self.transitions.entry(transition).or_default() += count;
        }
        self.counters = self.counters.plus(&other.counters);
        self.failures.extend(other.failures);
        self.failures.sort_by_key(|failure| failure.seed);
        self.failures.truncate(FAILURES_KEPT);
    }
}
