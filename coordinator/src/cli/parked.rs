//! `coordinator parked`: parks, lists, retries and discards blocks that wait for an operator.

use alloy_primitives::{B256, hex};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use net::wire::reason;
use proto::v1;
use serde_json::json;
use tasks::supervise::Exit;

use super::client::{Target, connect};
use tasks::console::{print_json, print_line, tell_as_program};

/// Options of `coordinator parked`.
#[derive(Debug, Clone, Args)]
pub struct ParkedArgs {
    /// The action on parked blocks
    #[command(subcommand)]
    pub command: ParkedCommand,
}

/// The actions on parked blocks.
#[derive(Debug, Clone, Subcommand)]
pub enum ParkedCommand {
    /// Show the parked blocks, the reasons, and how many blocks wait for each
    List {
        /// The coordinator to call.
        #[command(flatten)]
        target: Box<Target>,
        /// Print one JSON object per block
        #[arg(long)]
        json: bool,
    },
    /// Park an accepted block before it is executed: it and its descendants wait
    Add {
        /// The block and the coordinator
        #[command(flatten)]
        block: Box<OneBlock>,
        /// The reason, which `parked list` shows
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Retry a block, after a new build was rolled out or if the fault was not the block's
    Retry(Box<OneBlock>),
    /// Discard a block: it is removed from the accepted blocks, and its descendants wait for it
    Discard(Box<OneBlock>),
}

/// The block to park, retry or discard.
#[derive(Debug, Clone, Args)]
pub struct OneBlock {
    /// The coordinator to call.
    #[command(flatten)]
    pub target: Target,

    /// The block's hash
    #[arg(value_name = "HASH")]
    pub hash: B256,
}

/// Parks a block, or lists, retries or discards parked blocks at a running coordinator.
pub(super) async fn parked(args: ParkedArgs) -> anyhow::Result<Exit> {
    match args.command {
        ParkedCommand::List { target, json } => list(&target, json).await?,
        ParkedCommand::Add { block, reason } => {
            let OneBlock { target, hash } = *block;
            let request = v1::ParkRequest { hash: hash.to_vec().into(), reason };
            connect(&target).await?.park_block(request).await.map_err(told)?;
            tell_as_program!("block {hash} is parked");
        }
        ParkedCommand::Retry(block) => {
            let OneBlock { target, hash } = *block;
            let request = v1::ParkedRequest { hash: hash.to_vec().into() };
            connect(&target).await?.retry_parked(request).await.map_err(told)?;
            tell_as_program!("block {hash} is tried again");
        }
        ParkedCommand::Discard(block) => {
            let OneBlock { target, hash } = *block;
            let request = v1::ParkedRequest { hash: hash.to_vec().into() };
            connect(&target).await?.discard_parked(request).await.map_err(told)?;
            tell_as_program!("block {hash} is given up");
        }
    }
    Ok(Exit::Clean)
}

fn told(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", reason(&status))
}

async fn list(target: &Target, as_json: bool) -> anyhow::Result<()> {
    let mut client = connect(target).await?;
    let reply = client.list_parked(v1::ListParkedRequest {}).await.map_err(told)?;
    let blocks = reply.into_inner().blocks;
    if as_json {
        for block in &blocks {
            let value = json!({
                "number": block.number, "hash": hex::encode_prefixed(&block.hash), "transaction": block.transaction,
                "convicted": block.convicted, "reason": block.reason, "parked_at": block.parked_at,
                "waiting": block.waiting,
            });
            print_json(&value)?;
        }
        return Ok(());
    }
    if blocks.is_empty() {
        tell_as_program!("no block is parked");
        return Ok(());
    }
    let mut table = Table::new();
    let header = ["block", "hash", "transaction", "proven", "waiting", "reason"];
    table.load_style(UTF8_FULL_CONDENSED).set_header(header);
    for block in &blocks {
        table.add_row([
            block.number.to_string(),
            hex::encode_prefixed(&block.hash),
            block.transaction.map_or_else(|| "not known".into(), |index| index.to_string()),
            if block.convicted { "yes" } else { "no" }.into(),
            block.waiting.to_string(),
            block.reason.clone(),
        ]);
    }
    Ok(print_line(table)?)
}
