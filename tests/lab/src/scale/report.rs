//! Medians over rounds, and the tables made of them.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Baseline, Sample, Workload};

/// The rounds of one workload on one number of shards.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The kind of the chain that was executed.
    pub workload: Workload,
    /// The number of shards.
    pub shards: u32,
    rounds: Vec<Figures>,
}

/// The figures of one round, and the medians of all.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Figures {
    /// The sequential time divided by the fleet's.
    pub speed_up: f64,
    /// The share of its processor time that the coordinator used.
    pub coordinator_busy: f64,
    /// The same of the busiest shard.
    pub busiest_shard: f64,
    /// Sequential execution, microseconds per transaction.
    pub sequential_us: f64,
    /// The coordinator's processor time, microseconds per transaction.
    pub coordinator_us: f64,
    /// All shards' processor time, microseconds per transaction.
    pub shards_us: f64,
    /// The coordinator's processor time divided by that of sequential execution.
    pub coordinator_ratio: f64,
    /// Bytes on the wire per transaction.
    pub wire_bytes: f64,
    /// The share of transactions that were executed more than once.
    pub reexecuted: f64,
}

impl Measured {
    pub(super) fn new(workload: Workload, shards: u32) -> Self {
        Self { workload, shards, rounds: Vec::new() }
    }

    pub(super) fn add(&mut self, baseline: &Baseline, sample: &Sample) {
        let (txs, time) = (baseline.txs.max(1) as f64, sample.time.as_secs_f64());
        let per_tx = |seconds: f64| seconds * 1e6 / txs;
        let (sequential, coordinator) = (baseline.time.as_secs_f64(), sample.coordinator.as_secs_f64());
        let shards: Vec<f64> = sample.shards.iter().map(std::time::Duration::as_secs_f64).collect();
        self.rounds.push(Figures {
            speed_up: sequential / time,
            coordinator_busy: coordinator / (time * sample.coordinator_share),
            busiest_shard: shards.iter().copied().fold(0.0, f64::max) / (time * sample.shard_share),
            sequential_us: per_tx(sequential) * sample.shard_share,
            coordinator_us: per_tx(coordinator),
            shards_us: per_tx(shards.iter().sum()),
            coordinator_ratio: coordinator / (sequential * sample.shard_share),
            wire_bytes: sample.wire as f64 / txs,
            reexecuted: sample.reexecuted as f64 / txs,
        });
    }

    /// The median of each figure.
    #[must_use]
    pub fn medians(&self) -> Figures {
        let of = |figure: fn(&Figures) -> f64| median(self.rounds.iter().map(figure).collect());
        Figures {
            speed_up: of(|round| round.speed_up),
            coordinator_busy: of(|round| round.coordinator_busy),
            busiest_shard: of(|round| round.busiest_shard),
            sequential_us: of(|round| round.sequential_us),
            coordinator_us: of(|round| round.coordinator_us),
            shards_us: of(|round| round.shards_us),
            coordinator_ratio: of(|round| round.coordinator_ratio),
            wire_bytes: of(|round| round.wire_bytes),
            reexecuted: of(|round| round.reexecuted),
        }
    }

    /// The lowest and the highest speed-up of the rounds.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let speeds = || self.rounds.iter().map(|round| round.speed_up);
        (speeds().fold(f64::INFINITY, f64::min), speeds().fold(0.0, f64::max))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or_default();
    if values.len() % 2 == 1 {
        upper
    } else {
        (values.get(middle.wrapping_sub(1)).copied().unwrap_or_default() + upper) / 2.0
    }
}

/// The results as a Markdown table.
#[must_use]
pub fn table(rows: &[Measured]) -> String {
    let mut text = String::from(
        "| chain | shards | speed-up | from … to | coordinator busy | busiest shard | sequential µs/tx | \
         coordinator µs/tx | ratio | shards µs/tx | wire B/tx | again |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let (figures, (low, high)) = (row.medians(), row.spread());
        let Figures { speed_up, sequential_us, coordinator_us, shards_us, coordinator_ratio, .. } = figures;
        let _ = writeln!(
            text,
            "| {:?} | {} | {speed_up:.2} | {low:.2} … {high:.2} | {:.0} % | {:.0} % | {sequential_us:.1} | \
             {coordinator_us:.1} | {coordinator_ratio:.2} | {shards_us:.1} | {:.0} | {:.1} % |",
            row.workload,
            row.shards,
            figures.coordinator_busy * 100.0,
            figures.busiest_shard * 100.0,
            figures.wire_bytes,
            figures.reexecuted * 100.0,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(seconds: f64) -> Sample {
        Sample {
            time: Duration::from_secs_f64(seconds),
            coordinator: Duration::from_secs(1),
            shards: vec![Duration::from_secs(2), Duration::from_secs(1)],
            wire: 4000,
            verified: 1,
            reexecuted: 1,
            coordinator_share: 1.0,
            shard_share: 1.0,
        }
    }

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        let baseline = Baseline { time: Duration::from_secs(8), txs: 10 };
        let mut row = Measured::new(Workload::Mixed, 2);
        for seconds in [2.0, 4.0, 16.0] {
            row.add(&baseline, &sample(seconds));
        }
        let figures = row.medians();
        assert!((figures.speed_up - 2.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.busiest_shard - 0.5).abs() < 1e-9, "{figures:?}");
        assert!((figures.coordinator_ratio - 0.125).abs() < 1e-9, "{figures:?}");
        assert_eq!(row.spread(), (0.5, 4.0));
        assert!(table(&[row]).contains("| Mixed | 2 | 2.00 | 0.50 … 4.00 | 25 % | 50 % |"));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).abs() < 1e-9);
    }
}
