//! `coordinator status`: shows the status of a running service.

use alloy_primitives::{B256, hex};
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use net::wire::reason;
use proto::v1;
use tasks::supervise::Exit;

use super::client::{Target, connect};
use crate::api::status_json;
use tasks::console::{OutputError, print_json, print_line};

/// Options of `coordinator status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The coordinator to call.
    #[command(flatten)]
    pub target: Target,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the status of the coordinator and its shards.
pub(super) async fn status(args: StatusArgs) -> anyhow::Result<Exit> {
    let mut client = connect(&args.target).await?;
    let status = client
        .status(v1::StatusRequest {})
        .await
        .map_err(|status| anyhow::anyhow!("the coordinator does not tell its status: {}", reason(&status)))?
        .into_inner();
    let head = status.head.clone().and_then(|head| head.state).unwrap_or_default();
    let hash = B256::try_from(head.block_hash.as_ref()).unwrap_or_default();
    let root = (!status.state_root.is_empty()).then(|| hex::encode_prefixed(&status.state_root));
    if args.json {
        print_json(&status_json(&status))?;
        return Ok(Exit::Clean);
    }
    print_status(&status, &head, hash, root)?;
    Ok(Exit::Clean)
}

fn print_status(
    status: &v1::StatusReply,
    head: &v1::StateRef,
    hash: B256,
    root: Option<String>,
) -> Result<(), OutputError> {
    let epoch = status.epoch.unwrap_or_default();
    print_line(format_args!(
        "chain {} at block {} ({hash}), epoch {}",
        status.chain_id, head.height, epoch.number
    ))?;
    if let Some(root) = root {
        print_line(format_args!("state root {root}"))?;
    }
    print_line(format_args!(
        "{} blocks committed, {} assignments reassigned",
        status.blocks, status.reassigned
    ))?;
    print_line(format_args!("{} blocks accepted and waiting, {} parked", status.accepted, status.parked))?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "shard",
        "state",
        "height",
        "slots",
        "outstanding",
        "results",
        "longest gap",
        "rtt",
        "memory",
        "address",
    ]);
    for shard in &status.shards {
        let memory = shard.node.as_ref().and_then(|node| node.memory_bytes);
        table.add_row([
            shard.shard.to_string(),
            shard.state.clone(),
            shard.height.to_string(),
            shard.slots.to_string(),
            shard.outstanding.to_string(),
            shard.results.to_string(),
            format!("{} ms", shard.longest_gap_ms),
            shard.rtt_ms.map_or_else(String::new, |ms| format!("{ms:.1} ms")),
            memory.map_or_else(String::new, |bytes| format!("{} MB", bytes / 1_000_000)),
            shard.address.clone(),
        ]);
    }
    print_line(table)
}
