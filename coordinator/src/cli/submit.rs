//! `coordinator submit` and `coordinator status`: the clients of a running service.

use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::{B256, hex};
use anyhow::bail;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use common::block::Block;
use common::supervise::Exit;
use net::channel;
use net::limits::{MAX_MESSAGE_BYTES, PeerLimits};
use net::wire::chunks;
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::console::{OutputError, print_json, print_line, tell};
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

    /// Do not wait for results: a block counts when it is journaled, and is executed from then on
    #[arg(long)]
    pub no_wait: bool,

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

pub(super) async fn connect(url: &str) -> anyhow::Result<BlocksClient<Channel>> {
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
    if args.no_wait {
        return accept(&mut client, &args).await;
    }
    let mut report = Report::new(args.json);
    'files: for input in &args.inputs {
        for block in ChainReader::open(input)? {
            let block = block?;
            let number = block.header.number;
            let chunks = encoded(&block);
            let reply = patiently(&mut client, async |client| {
                client.submit_block(tokio_stream::iter(chunks.clone())).await
            });
            let reply = reply.await.map_err(|error| {
                let error = format!("not committed: {error:#}");
                anyhow::anyhow!(complaint(&input.display().to_string(), Some(number), &error))
            })?;
            let row = row(input, &reply);
            if let Some(error) = &row.error {
                tell!("coordinator: {}", complaint(&row.file, row.number, error));
            }
            report.add(&row)?;
            if row.error.is_some() {
                break 'files;
            }
        }
    }
    Ok(if report.finish()? { Exit::Clean } else { Exit::Failed })
}

/// Has every block of the files journaled, in order, and stops at the first that is not.
async fn accept(client: &mut BlocksClient<Channel>, args: &SubmitArgs) -> anyhow::Result<Exit> {
    let mut accepted = 0_u64;
    for input in &args.inputs {
        for block in ChainReader::open(input)? {
            let block = block?;
            let chunks = encoded(&block);
            let told = |error: &str| {
                anyhow::anyhow!(complaint(&input.display().to_string(), Some(block.header.number), error))
            };
            let reply = patiently(client, async |client| {
                client.accept_block(tokio_stream::iter(chunks.clone())).await
            });
            let reply = reply.await.map_err(|error| told(&format!("not accepted: {error:#}")))?;
            let settled = reply.settled.unwrap_or_default();
            if args.json {
                let hash = hex::encode_prefixed(&reply.hash);
                print_json(&json!({ "number": reply.number, "hash": hash, "known": settled.known }))?;
            }
            if !settled.error.is_empty() {
                return Err(told(&settled.error));
            }
            accepted += 1;
        }
    }
    tell!("coordinator: {accepted} blocks are accepted");
    Ok(Exit::Clean)
}

fn encoded(block: &Block) -> Vec<v1::PayloadChunk> {
    let mut bytes = Vec::new();
    block.encode(&mut bytes);
    chunks(bytes, None, None).collect()
}

/// Calls again while the coordinator is busy.
async fn patiently<T>(
    client: &mut BlocksClient<Channel>,
    call: impl AsyncFn(&mut BlocksClient<Channel>) -> Result<Response<T>, Status>,
) -> anyhow::Result<T> {
    for _ in 0..BUSY_TRIES {
        match call(client).await {
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
            "state_root": root, "blocks": status.blocks, "reassigned": status.reassigned,
            "accepted": status.accepted, "parked": status.parked, "shards": shards,
        });
        print_json(&value)?;
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
    print_line(table)
}

fn shard_json(shard: &v1::ShardStatus) -> serde_json::Value {
    json!({
        "shard": shard.shard, "incarnation": shard.incarnation, "state": shard.state, "synced": shard.synced,
        "height": shard.height, "slots": shard.slots, "outstanding": shard.outstanding,
        "results": shard.results, "address": shard.address, "quarantined": shard.quarantined,
    })
}
