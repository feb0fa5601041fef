//! What a coordinator measures.

use metrics::{counter, gauge, histogram};
use net::admin::{Kind, Metric, metric};
use proto::v1;

use super::outcome::BlockOutcome;
use crate::fleet::EventKind;

/// The metrics of a coordinator, besides those of every process.
pub const COORDINATOR_METRICS: [Metric; 26] = [
    metric(
        Kind::Counter,
        "shardexec_blocks_total",
        "Blocks that have ended, by outcome; a block that is parked has not ended and counts again later",
    ),
    metric(Kind::Counter, "shardexec_transactions_total", "Transactions of verified blocks"),
    metric(Kind::Counter, "shardexec_gas_total", "Gas used by verified blocks"),
    metric(Kind::Histogram, "shardexec_block_seconds", "Time from a block's turn to its durable result"),
    metric(Kind::Histogram, "shardexec_block_stage_seconds", "Time of a verified block's stages"),
    metric(Kind::Counter, "shardexec_sub_blocks_total", "Sub-blocks of verified blocks"),
    metric(
        Kind::Counter,
        "shardexec_verified_sub_blocks_total",
        "Sub-blocks whose results two shards, or a shard and the coordinator, agreed on",
    ),
    metric(
        Kind::Counter,
        "shardexec_reexecuted_transactions_total",
        "Transactions that the coordinator executed again",
    ),
    metric(Kind::Counter, "shardexec_reassigned_total", "Assignments that moved to another shard"),
    metric(Kind::Counter, "shardexec_events_total", "Events by kind, as /events tells them"),
    metric(Kind::Gauge, "shardexec_epoch", "The epoch of this coordinator"),
    metric(Kind::Gauge, "shardexec_head_height", "The number of the newest committed block"),
    metric(
        Kind::Gauge,
        "shardexec_accepted_blocks",
        "Blocks that are accepted, and neither ended nor parked",
    ),
    metric(Kind::Gauge, "shardexec_parked_blocks", "Blocks that wait for an operator"),
    metric(Kind::Gauge, "shardexec_shards", "Shards by state"),
    metric(Kind::Gauge, "shardexec_shard_slots", "Worker threads of a shard"),
    metric(Kind::Gauge, "shardexec_shard_outstanding", "Assignments that a shard holds"),
    metric(Kind::Gauge, "shardexec_shard_results", "Results of a shard that were used, since it joined"),
    metric(Kind::Gauge, "shardexec_shard_height", "The block after which a shard holds the state"),
    metric(Kind::Gauge, "shardexec_shard_lag_blocks", "Blocks that a shard's state is behind the head"),
    metric(
        Kind::Gauge,
        "shardexec_shard_longest_heartbeat_gap_seconds",
        "The longest time without a heartbeat since a shard joined",
    ),
    metric(
        Kind::Counter,
        "shardexec_peer_requests_total",
        "Pings and requests for node information to shards, by kind and outcome",
    ),
    metric(
        Kind::Gauge,
        "shardexec_shard_rtt_seconds",
        "Time in which a shard has answered that share of the latest pings",
    ),
    metric(Kind::Gauge, "shardexec_shard_memory_bytes", "Memory of a shard's process, as it says"),
    metric(
        Kind::Gauge,
        "shardexec_shard_failures_in_a_row",
        "Requests for its node information in a row that a shard has not answered",
    ),
    metric(
        Kind::Gauge,
        "shardexec_ledger_bytes",
        "Size of the ledger's file; absent without a data directory",
    ),
];

/// How a block has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Committed,
    Aside,
    Refused,
    Parked,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Committed, Self::Aside, Self::Refused, Self::Parked];

    const fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aside => "aside",
            Self::Refused => "refused",
            Self::Parked => "parked",
        }
    }
}

/// Counts blocks.
pub(super) fn blocks_ended(ending: Ending, blocks: usize) {
    counter!("shardexec_blocks_total", "outcome" => ending.name()).increment(blocks as u64);
}

/// Counts a block that was executed and kept.
pub(super) fn block_kept(outcome: &BlockOutcome, ending: Ending) {
    blocks_ended(ending, 1);
    let stats = &outcome.stats;
    counter!("shardexec_transactions_total").increment(outcome.transactions as u64);
    counter!("shardexec_gas_total").increment(outcome.gas_used);
    counter!("shardexec_sub_blocks_total").increment(u64::from(stats.sub_blocks));
    counter!("shardexec_verified_sub_blocks_total").increment(u64::from(stats.verified_sub_blocks));
    counter!("shardexec_reexecuted_transactions_total").increment(u64::from(stats.reexecuted));
    histogram!("shardexec_block_seconds").record((stats.elapsed + stats.commit).as_secs_f64());
    let stages = [
        ("recover", stats.recovery),
        ("execute", stats.execution),
        ("roots", stats.roots),
        ("commit", stats.commit),
    ];
    for (stage, time) in stages {
        histogram!("shardexec_block_stage_seconds", "stage" => stage).record(time.as_secs_f64());
    }
}

/// Begins the counters of rare events at zero: one that was not seen at zero has no increase at its first step.
pub fn count_from_zero() {
    counter!("shardexec_reassigned_total").increment(0);
    for kind in EventKind::ALL {
        counter!("shardexec_events_total", "kind" => kind.name()).increment(0);
    }
    for ending in Ending::ALL {
        counter!("shardexec_blocks_total", "outcome" => ending.name()).increment(0);
    }
}

/// Sets the gauges that follow from the status.
pub fn set_gauges(status: &v1::StatusReply) {
    let head = status.head.as_ref().and_then(|head| head.state.as_ref()).map_or(0, |state| state.height);
    gauge!("shardexec_epoch").set(status.epoch.unwrap_or_default().number as f64);
    gauge!("shardexec_head_height").set(head as f64);
    gauge!("shardexec_accepted_blocks").set(f64::from(status.accepted));
    gauge!("shardexec_parked_blocks").set(f64::from(status.parked));
    for state in ["ready", "syncing", "draining", "quarantined"] {
        let count = status.shards.iter().filter(|shard| shard.state == state).count();
        gauge!("shardexec_shards", "state" => state).set(count as f64);
    }
    for shard in &status.shards {
        let label = [("shard", shard.shard.to_string())];
        gauge!("shardexec_shard_slots", &label).set(f64::from(shard.slots));
        gauge!("shardexec_shard_outstanding", &label).set(f64::from(shard.outstanding));
        gauge!("shardexec_shard_results", &label).set(shard.results as f64);
        gauge!("shardexec_shard_height", &label).set(shard.height as f64);
        gauge!("shardexec_shard_lag_blocks", &label).set(head.saturating_sub(shard.height) as f64);
        let gap = f64::from(shard.longest_gap_ms) / 1e3;
        gauge!("shardexec_shard_longest_heartbeat_gap_seconds", &label).set(gap);
        gauge!("shardexec_shard_failures_in_a_row", &label).set(shard.failures_in_a_row as f64);
        for (quantile, ms) in [("0.5", shard.rtt_ms), ("0.99", shard.rtt_p99_ms)] {
            let labels = [("shard", shard.shard.to_string()), ("quantile", quantile.to_owned())];
            ms.into_iter().for_each(|ms| gauge!("shardexec_shard_rtt_seconds", &labels).set(ms / 1e3));
        }
        if let Some(memory) = shard.node.as_ref().and_then(|node| node.memory_bytes) {
            gauge!("shardexec_shard_memory_bytes", &label).set(memory as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use net::admin::{PROCESS, WITH_TLS, markdown};

    use super::*;

    #[test]
    fn the_manual_has_the_tables() {
        let manual = include_str!("../../../docs/monitoring.md");
        let tables: [&[Metric]; 4] =
            [&PROCESS, &WITH_TLS, &COORDINATOR_METRICS, &executor_shard::admin::SHARD_METRICS];
        for table in tables {
            let table = markdown(table);
            assert!(manual.contains(&table), "docs/monitoring.md does not have this table:\n{table}");
        }
    }
}
