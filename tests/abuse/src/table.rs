//! What an attack cost, as a row of the table.

use anyhow::Result;
use serde_json::json;

use crate::attack::{Acts, Attack};

/// The most that the time of one in a hundred blocks may grow against the control.
const MOST_SLOWER: f64 = 2.0;

/// The least limit of that time, in milliseconds: below it the machine's other work decides.
const LEAST_LIMIT_MS: f64 = 250.0;

/// The most memory that a process may have beyond that of before, 10 s after an attack.
const MOST_KEPT: u64 = 64 << 20;

/// The most memory that a process may have beyond that of before at any time: the budgets of what is received, which
/// docs/security.md lists, together.
const MOST_PEAK: u64 = (net::limits::BLOCKS_IN_FLIGHT + net::limits::RESULTS_IN_FLIGHT + (128 << 20)) as u64;

/// The longest time without a heartbeat, in milliseconds: half of what makes a shard lost.
const LONGEST_GAP_MS: u64 = 500;

/// The measurements of one attack.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) attack: Attack,
    /// What the attacker did.
    pub(crate) acts: Acts,
    /// The client's times of blocks during the attack, in milliseconds, ascending.
    pub(crate) times: Vec<f64>,
    /// How often a block of the client was refused or failed.
    pub(crate) refused: usize,
    /// Shards that were lost, and that went into quarantine or were named in an alarm.
    pub(crate) lost: usize,
    pub(crate) alarms: usize,
    /// The longest time without a heartbeat of a shard, in milliseconds.
    pub(crate) gap: u64,
    /// Memory of the coordinator and of the shards: before, at most, and 10 s after; in bytes.
    pub(crate) coordinator: [u64; 3],
    pub(crate) shards: [u64; 3],
    /// Whether all shards were ready at the end, and every block that was answered is on the chain.
    pub(crate) whole: bool,
}

impl Row {
    /// The time that this share of the blocks did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        self.times.get(place).copied().unwrap_or(f64::INFINITY)
    }

    /// What is required and was not reached.
    pub(crate) fn missed(&self, control: &Self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.attack != Attack::Busy && self.acts.sum() == 0 {
            missed.push("the attacker did nothing".into());
        }
        let (limit, slowest) =
            ((control.quantile(0.99) * MOST_SLOWER).max(LEAST_LIMIT_MS), self.quantile(0.99));
        if slowest > limit {
            missed.push(format!("one in a hundred blocks took {slowest:.0} ms, {limit:.0} at most"));
        }
        if self.lost > 0 {
            missed.push(format!("{} shards were lost", self.lost));
        }
        if self.refused > 0 {
            missed.push(format!("{} blocks of the honest client were refused", self.refused));
        }
        if !self.whole {
            missed.push("the fleet was not whole at the end".into());
        }
        if self.gap > LONGEST_GAP_MS {
            missed.push(format!("no heartbeat for {} ms, {LONGEST_GAP_MS} at most", self.gap));
        }
        if self.attack.has_no_right() && self.acts.answered > 0 {
            missed.push(format!("{} calls without a right were answered", self.acts.answered));
        }
        for (what, [before, peak, after]) in [("the coordinator", self.coordinator), ("a shard", self.shards)]
        {
            if peak > before + MOST_PEAK {
                missed.push(format!(
                    "{what} had {} MB more, {} at most",
                    (peak - before) >> 20,
                    MOST_PEAK >> 20
                ));
            }
            if after > before + MOST_KEPT {
                missed.push(format!("{what} kept {} MB", (after - before) >> 20));
            }
        }
        missed
    }
}

/// Prints the rows, as Markdown or as JSON objects.
pub(crate) fn print(rows: &[Row], control: &Row, as_json: bool) -> Result<()> {
    let mebibytes = |values: [u64; 3]| values.map(|bytes| (bytes >> 20).to_string()).join(" / ");
    if !as_json {
        println!(
            "| attack | answered, refused, opened | blocks | ms: median / 99 in 100 / longest | lost, alarms | longest heartbeat gap, ms | coordinator MB: before / peak / after | shard MB | |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---|");
    }
    for row in rows {
        let missed = row.missed(control);
        if as_json {
            let value = json!({
                "attack": row.attack.name(), "answered": row.acts.answered, "calls_refused": row.acts.refused,
                "opened": row.acts.opened, "blocks": row.times.len(), "refused": row.refused,
                "ms": [row.quantile(0.5), row.quantile(0.99), row.quantile(1.0)],
                "lost": row.lost, "alarms": row.alarms, "longest_gap_ms": row.gap, "whole": row.whole,
                "coordinator_bytes": row.coordinator, "shard_bytes": row.shards, "missed": missed,
            });
            println!("{value}");
        } else {
            println!(
                "| {} | {}, {}, {} | {} | {:.0} / {:.0} / {:.0} | {}, {} | {} | {} | {} | {} |",
                row.attack.name(),
                row.acts.answered,
                row.acts.refused,
                row.acts.opened,
                row.times.len(),
                row.quantile(0.5),
                row.quantile(0.99),
                row.quantile(1.0),
                row.lost,
                row.alarms,
                row.gap,
                mebibytes(row.coordinator),
                mebibytes(row.shards),
                missed.join("; "),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(times: &[f64]) -> Row {
        Row {
            attack: Attack::Busy,
            acts: Acts::default(),
            times: times.to_vec(),
            refused: 0,
            lost: 0,
            alarms: 0,
            gap: 0,
            coordinator: [1 << 20; 3],
            shards: [1 << 20; 3],
            whole: true,
        }
    }

    #[test]
    fn what_is_required_is_compared_with_the_control() {
        let control = row(&[100.0, 110.0, 200.0]);
        assert!(control.missed(&control).is_empty());
        assert_eq!(row(&[100.0, 399.0]).missed(&control).len(), 0);
        assert_eq!(row(&[100.0, 401.0]).missed(&control).len(), 1);
        assert_eq!(row(&[]).missed(&control).len(), 1, "no block at all");
        let idle = Row { attack: Attack::GreedyStatus, ..row(&[1.0]) };
        assert_eq!(idle.missed(&control), ["the attacker did nothing"]);
        let kept = Row { coordinator: [1 << 20, 1 << 30, 100 << 20], lost: 1, ..row(&[1.0]) };
        assert_eq!(kept.missed(&control).len(), 3, "the peak, what was kept, and the shard");
        let served = Row {
            attack: Attack::ForgedDraining,
            acts: Acts { answered: 1, refused: 9, opened: 0 },
            gap: 501,
            ..row(&[1.0])
        };
        assert_eq!(served.missed(&control).len(), 2);
    }
}
