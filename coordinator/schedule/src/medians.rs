//! How long work usually takes: running medians of the time per unit of cost, one for each kind of work.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ScheduleLimits, WorkClass, WorkItem};

/// The number of durations that a median is taken of.
const SAMPLES: usize = 64;

/// The fewest durations that give a median.
const ENOUGH: usize = 5;

/// The running median of the time per unit of cost, in nanoseconds, for one kind of work.
#[derive(Debug, Clone, Default)]
struct Median {
    samples: VecDeque<u64>,
    median: Option<u64>,
}

impl Median {
    fn add(&mut self, nanos_per_unit: u64) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(nanos_per_unit);
        if self.samples.len() >= ENOUGH {
            let mut sorted: Vec<u64> = self.samples.iter().copied().collect();
            let middle = sorted.len() / 2;
            self.median = Some(*sorted.select_nth_unstable(middle).1);
        }
    }
}

/// The medians of all kinds of work.
#[derive(Debug, Clone, Default)]
pub(super) struct Medians {
    recover: Median,
    execute: Median,
}

impl Medians {
    /// Learns from one piece of work that a slot has run.
    pub(super) fn add(&mut self, item: &WorkItem, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let median = match item.class {
            WorkClass::Recover => &mut self.recover,
            WorkClass::Execute => &mut self.execute,
        };
        median.add((nanos / item.cost.max(1)).max(1));
    }

    /// How long an assignment of this work may take before it is overdue.
    pub(super) fn limit(&self, item: &WorkItem, limits: &ScheduleLimits) -> Duration {
        let median = match item.class {
            WorkClass::Recover => self.recover.median,
            WorkClass::Execute => self.execute.median,
        };
        let Some(median) = median else { return limits.overdue_after };
        let usual = median.saturating_mul(item.cost.max(1));
        let limit = Duration::from_nanos(usual.saturating_mul(u64::from(limits.overdue_factor)));
        limit.min(limits.overdue_after).max(limits.overdue_floor)
    }
}
