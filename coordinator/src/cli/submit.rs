//! `coordinator submit` and `coordinator status`: the clients of a running service.

use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::{B256, hex};
use anyhow::bail;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use common::supervise::Exit;
use net::channel;
use net::limits::{MAX_MESSAGE_BYTES, PeerLimits};
use net::wire::chunks;
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use super::report::{Report, Row};
use super::run::complaint;
use crate::input::ChainReader;

/// How often a busy coordinator is asked again.
const BUSY_TRIES: u32 = 100;

/// How long to wait between those.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Options of `coordinator submit`.
#[derive(Debug, Clone, Args)]
pub struct SubmitArgs {
    /// The coordinator's address
    #[arg(long, value_name = "URL")]
    pub coordinator: String,

    /// RLP chain files (geth export), plain or gzip
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,

    /// Print one JSON object a block, and a last one with "summary": true
    #[arg(long)]
    pub json: bool,
}

/// Options of `coordinator status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The coordinator's address
    #[arg(long, value_name = "URL")]
    pub coordinator: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

async fn connect(url: &str) -> anyhow::Result<BlocksClient<Channel>> {
    let channel = channel::connect(url, &PeerLimits::default())
        .await
        .map_err(|error| anyhow::anyhow!("the coordinator does not answer: {error}"))?;
    Ok(BlocksClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// Submits every block of the files, in order, and stops at the first that is refused.
pub(super) async fn submit(args: SubmitArgs) -> anyhow::Result<Exit> {
    let mut client = connect(&args.coordinator).await?;
    let mut report = Report::new(args.json);
    'files: for input in &args.inputs {
        for block in ChainReader::open(input)? {
            let block = block?;
            let mut bytes = Vec::new();
            block.encode(&mut bytes);
            let number = block.header.number;
            let reply = submit_one(&mut client, bytes).await.map_err(|error| {
                let error = format!("not committed: {error:#}");
                anyhow::anyhow!(complaint(&input.display().to_string(), Some(number), &error))
            })?;
            let row = row(input, &reply);
            if let Some(error) = &row.error {
                eprintln!("coordinator: {}", complaint(&row.file, row.number, error));
            }
            report.add(&row)?;
            if row.error.is_some() {
                break 'files;
            }
        }
    }
    Ok(if report.finish()? { Exit::Clean } else { Exit::Failed })
}

async fn submit_one(client: &mut BlocksClient<Channel>, bytes: Vec<u8>) -> anyhow::Result<v1::BlockReply> {
    for _ in 0..BUSY_TRIES {
        let stream = tokio_stream::iter(chunks(bytes.clone(), None, None));
        match client.submit_block(stream).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if status.code() == Code::ResourceExhausted => tokio::time::sleep(BUSY_PAUSE).await,
            Err(status) => bail!("{}", status.message()),
        }
    }
    bail!("the coordinator stays busy; submit less at once")
}

fn row(input: &std::path::Path, reply: &v1::BlockReply) -> Row {
    let error = (!reply.error.is_empty()).then(|| reply.error.clone());
    Row {
        file: input.display().to_string(),
        number: Some(reply.number),
        hash: Some(hex::encode_prefixed(&reply.hash)),
        fork: Some(reply.fork.clone().into()),
        txs: reply.transactions as usize,
        gas_used: reply.gas_used,
        verified: error.is_none(),
        ms: (reply.ms * 1e3).round() / 1e3,
        mgas_per_s: (reply.gas_used as f64 / reply.ms.max(0.001)).round() / 1e3,
        sub_blocks: reply.sub_blocks,
        verified_sub_blocks: reply.verified_sub_blocks,
        reexecuted: reply.reexecuted,
        reassigned: reply.reassigned,
        error,
        ..Row::default()
    }
}

/// Shows how the coordinator and its shards are.
pub(super) async fn status(args: StatusArgs) -> anyhow::Result<Exit> {
    let mut client = connect(&args.coordinator).await?;
    let status = client
        .status(v1::StatusRequest {})
        .await
        .map_err(|status| anyhow::anyhow!("the coordinator does not tell its status: {}", status.message()))?
        .into_inner();
    let head = status.head.clone().and_then(|head| head.state).unwrap_or_default();
    let hash = B256::try_from(head.block_hash.as_ref()).unwrap_or_default();
    let epoch = status.epoch.unwrap_or_default();
    let root = (!status.state_root.is_empty()).then(|| hex::encode_prefixed(&status.state_root));
    if args.json {
        let shards: Vec<_> = status.shards.iter().map(shard_json).collect();
        let value = json!({
            "epoch": epoch.number, "chain_id": status.chain_id, "head": head.height, "head_hash": hash,
            "state_root": root, "blocks": status.blocks, "reassigned": status.reassigned, "shards": shards,
        });
        println!("{value}");
        return Ok(Exit::Clean);
    }
    println!("chain {} at block {} ({hash}), epoch {}", status.chain_id, head.height, epoch.number);
    if let Some(root) = root {
        println!("state root {root}");
    }
    println!("{} blocks committed, {} assignments reassigned", status.blocks, status.reassigned);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "shard",
        "state",
        "height",
        "slots",
        "outstanding",
        "results",
        "address",
    ]);
    for shard in &status.shards {
        table.add_row([
            shard.shard.to_string(),
            shard.state.clone(),
            shard.height.to_string(),
            shard.slots.to_string(),
            shard.outstanding.to_string(),
            shard.results.to_string(),
            shard.address.clone(),
        ]);
    }
    println!("{table}");
    Ok(Exit::Clean)
}

fn shard_json(shard: &v1::ShardStatus) -> serde_json::Value {
    json!({
        "shard": shard.shard, "incarnation": shard.incarnation, "state": shard.state, "synced": shard.synced,
        "height": shard.height, "slots": shard.slots, "outstanding": shard.outstanding,
        "results": shard.results, "address": shard.address, "quarantined": shard.quarantined,
    })
}
