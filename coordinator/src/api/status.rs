//! How the coordinator and its shards are, as a message and as JSON.

use alloy_primitives::{B256, hex};
use net::wire::{epoch_message, summary_message};
use proto::v1;
use serde_json::{Value, json};

use super::chain::ChainHandle;
use crate::fleet::{Fleet, FleetError, ShardView};
use common::id::{Incarnation, ShardId};
use common::message::{PROTOCOL_VERSION, StateSummary};
use net::monitor::NodeReport;

/// The status of the chain and its fleet. It waits for the fleet's driver.
///
/// # Errors
/// [`FleetError`] if the driver does not answer.
pub fn status(chain: &ChainHandle, fleet: &Fleet) -> Result<v1::StatusReply, FleetError> {
    let shards = fleet.shards()?;
    let committed = chain.ledger().head();
    let head = committed.summary();
    let counts = chain.status();
    Ok(v1::StatusReply {
        epoch: Some(epoch_message(fleet.epoch())),
        chain_id: chain.ledger().spec().chain_id,
        head: Some(summary_message(head)),
        state_root: committed.state_root().map(|root| root.to_vec().into()).unwrap_or_default(),
        blocks: committed.blocks(),
        reassigned: fleet.reassigned(),
        accepted: u32::try_from(counts.accepted).unwrap_or(u32::MAX),
        parked: u32::try_from(counts.parked).unwrap_or(u32::MAX),
        shards: shards.into_iter().map(|shard| shard_status(shard, head)).collect(),
    })
}

fn shard_status(shard: ShardView, head: StateSummary) -> v1::ShardStatus {
    v1::ShardStatus {
        shard: shard.shard.0,
        incarnation: shard.incarnation.0,
        // During an import the shards are ahead of the committed head.
        synced: shard.ready || shard.state == Some(head.state),
        quarantined: shard.quarantined,
        state: match (shard.draining, shard.state) {
            (true, _) => "draining",
            _ if shard.quarantined => "quarantined",
            (false, Some(state)) if shard.ready || state == head.state => "ready",
            _ => "syncing",
        }
        .into(),
        address: shard.address,
        slots: u32::from(shard.slots),
        outstanding: u32::try_from(shard.outstanding).unwrap_or(u32::MAX),
        results: shard.results,
        longest_gap_ms: u32::try_from(shard.longest_gap.as_millis()).unwrap_or(u32::MAX),
        height: shard.state.map_or(0, |state| state.height.0),
        rtt_ms: shard.peer.latency.times.map(|times| times.median.as_secs_f64() * 1e3),
        rtt_p99_ms: shard.peer.latency.times.map(|times| times.p99.as_secs_f64() * 1e3),
        failures_in_a_row: shard.peer.node.failures_in_a_row,
        node: shard.peer.report.map(|report| node_info(shard.shard, shard.incarnation, shard.slots, report)),
    }
}

fn node_info(
    shard: ShardId,
    incarnation: Incarnation,
    slots: u16,
    NodeReport { build, engine, vitals }: NodeReport,
) -> v1::NodeInfoReply {
    v1::NodeInfoReply {
        protocol: PROTOCOL_VERSION,
        build,
        engine,
        shard: shard.0,
        incarnation: incarnation.0,
        slots: u32::from(slots),
        uptime_ms: u64::try_from(vitals.uptime.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: vitals.memory,
        threads: vitals.threads,
        load: vitals.load,
        disk_free_bytes: vitals.disk_free,
    }
}

/// A status as JSON: `coordinator status --json` and the page `/status` show the same.
#[must_use]
pub fn status_json(status: &v1::StatusReply) -> Value {
    let head = status.head.clone().and_then(|head| head.state).unwrap_or_default();
    let hash = B256::try_from(head.block_hash.as_ref()).unwrap_or_default();
    let root = (!status.state_root.is_empty()).then(|| hex::encode_prefixed(&status.state_root));
    let shards: Vec<_> = status.shards.iter().map(shard_json).collect();
    json!({
        "epoch": status.epoch.unwrap_or_default().number, "chain_id": status.chain_id, "head": head.height,
        "head_hash": hash, "state_root": root, "blocks": status.blocks, "reassigned": status.reassigned,
        "accepted": status.accepted, "parked": status.parked, "shards": shards,
    })
}

fn shard_json(shard: &v1::ShardStatus) -> Value {
    json!({
        "shard": shard.shard, "incarnation": shard.incarnation, "state": shard.state, "synced": shard.synced,
        "height": shard.height, "slots": shard.slots, "outstanding": shard.outstanding,
        "results": shard.results, "address": shard.address, "quarantined": shard.quarantined,
        "longest_gap_ms": shard.longest_gap_ms, "rtt_ms": shard.rtt_ms, "rtt_p99_ms": shard.rtt_p99_ms,
        "failures_in_a_row": shard.failures_in_a_row, "node": shard.node.as_ref().map(node_json),
    })
}

fn node_json(node: &v1::NodeInfoReply) -> Value {
    // A load has two digits, as the system tells it; as 64 bits it would have noise behind them.
    let load = node.load.map(|load| (f64::from(load) * 100.0).round() / 100.0);
    json!({
        "build": node.build, "engine": node.engine, "uptime_ms": node.uptime_ms, "memory_bytes": node.memory_bytes,
        "threads": node.threads, "load": load, "disk_free_bytes": node.disk_free_bytes,
    })
}
