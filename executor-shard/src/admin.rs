//! What a shard measures, and what it tells over HTTP.

use std::sync::Arc;
use std::time::Duration;

use common::work::{WorkFailure, WorkKind, WorkOutput};
use metrics::{counter, gauge, histogram};
use net::admin::{Kind, Metric, Subject, metric};
use serde_json::{Value, json};

use crate::node::ShardNode;

/// The metrics of a shard, besides those of every process.
pub const SHARD_METRICS: [Metric; 15] = [
    metric(
        Kind::Counter,
        "shardexec_work_total",
        "Pieces of work that a slot has ended, by kind and outcome",
    ),
    metric(
        Kind::Counter,
        "shardexec_work_transactions_total",
        "Transactions of the work that slots have ended",
    ),
    metric(Kind::Histogram, "shardexec_work_seconds", "Time of a piece of work on its slot"),
    metric(Kind::Counter, "shardexec_deliveries_total", "Tries to deliver a result, by outcome"),
    metric(Kind::Counter, "shardexec_registrations_total", "Tries to register, by outcome"),
    metric(Kind::Counter, "shardexec_deltas_total", "Changes of the state that were applied to the replica"),
    metric(Kind::Gauge, "shardexec_joined", "Whether the shard is registered with a coordinator"),
    metric(Kind::Gauge, "shardexec_epoch", "The epoch of the coordinator that the shard last joined"),
    metric(Kind::Gauge, "shardexec_slots", "Worker threads by state: busy or idle"),
    metric(Kind::Gauge, "shardexec_queued_work", "Accepted work without a slot"),
    metric(Kind::Gauge, "shardexec_undelivered_results", "Results that the coordinator has not confirmed"),
    metric(Kind::Gauge, "shardexec_replica_height", "The block after which the replica holds the state"),
    metric(
        Kind::Counter,
        "shardexec_peer_requests_total",
        "Heartbeats to the coordinator, by kind and outcome",
    ),
    metric(
        Kind::Gauge,
        "shardexec_coordinator_rtt_seconds",
        "Time in which the coordinator has answered that share of the latest heartbeats",
    ),
    metric(Kind::Gauge, "shardexec_draining", "Whether the shard takes no new work"),
];

/// Counts a piece of work that a slot has ended; `None` if it was cancelled.
pub(crate) fn work_ended(
    kind: &WorkKind,
    transactions: usize,
    outcome: Option<&Result<WorkOutput, WorkFailure>>,
    time: Duration,
) {
    let kind = match kind {
        WorkKind::Recover => "recover",
        WorkKind::Execute { .. } => "execute",
    };
    let outcome = match outcome {
        Some(Ok(_)) => "done",
        Some(Err(_)) => "failed",
        None => "cancelled",
    };
    counter!("shardexec_work_total", "kind" => kind, "outcome" => outcome).increment(1);
    counter!("shardexec_work_transactions_total", "kind" => kind).increment(transactions as u64);
    histogram!("shardexec_work_seconds", "kind" => kind).record(time.as_secs_f64());
}

/// Counts a try to call the coordinator.
pub(crate) fn called(name: &'static str, worked: bool) {
    counter!(name, "outcome" => if worked { "done" } else { "failed" }).increment(1);
}

/// A shard that serves a coordinator.
#[derive(Debug)]
pub(crate) struct Joined {
    node: Arc<ShardNode>,
    config: Value,
}

impl Joined {
    pub(crate) fn new(node: Arc<ShardNode>, config: Value) -> Arc<Self> {
        Arc::new(Self { node, config })
    }
}

impl Subject for Joined {
    fn unready(&self) -> Vec<String> {
        self.node.status().unready()
    }

    fn status(&self) -> Result<Value, String> {
        let status = self.node.status();
        let (times, ms) = (status.coordinator.times, |time: Duration| time.as_secs_f64() * 1e3);
        Ok(json!({
            "shard": status.shard.0, "incarnation": status.incarnation.0, "joined": status.joined,
            "epoch": status.epoch, "draining": status.draining, "height": status.height,
            "slots": status.slots, "busy": status.busy, "queued": status.queued,
            "undelivered": status.undelivered,
            "coordinator": {
                "rtt_ms": times.map(|times| ms(times.median)), "rtt_p99_ms": times.map(|times| ms(times.p99)),
                "failures_in_a_row": status.coordinator.failures_in_a_row,
            },
        }))
    }

    fn config(&self) -> Value {
        self.config.clone()
    }

    fn measure(&self) {
        let status = self.node.status();
        if let Some(times) = status.coordinator.times {
            for (quantile, time) in [("0.5", times.median), ("0.99", times.p99)] {
                gauge!("shardexec_coordinator_rtt_seconds", "quantile" => quantile).set(time.as_secs_f64());
            }
        }
        gauge!("shardexec_joined").set(if status.joined { 1.0 } else { 0.0 });
        gauge!("shardexec_draining").set(if status.draining { 1.0 } else { 0.0 });
        gauge!("shardexec_epoch").set(status.epoch.unwrap_or_default() as f64);
        gauge!("shardexec_slots", "state" => "busy").set(status.busy as f64);
        gauge!("shardexec_slots", "state" => "idle").set(status.slots.saturating_sub(status.busy) as f64);
        gauge!("shardexec_queued_work").set(status.queued as f64);
        gauge!("shardexec_undelivered_results").set(status.undelivered as f64);
        gauge!("shardexec_replica_height").set(status.height.unwrap_or_default() as f64);
    }
}
