//! `coordinator drain`: has a shard of a running coordinator finish its work and leave.

use clap::Args;
use net::wire::reason;
use proto::v1;
use tasks::console::tell_as_program;
use tasks::supervise::Exit;

use super::client::{Target, connect};

/// Options of `coordinator drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// The coordinator to call.
    #[command(flatten)]
    pub target: Target,

    /// The shard's number
    #[arg(value_name = "SHARD")]
    pub shard: u32,
}

/// Asks for the drain. `status` and the log show when the shard has left.
pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<Exit> {
    let shard = args.shard;
    let mut client = connect(&args.target).await?;
    let asked = client.drain_shard(v1::DrainShardRequest { shard }).await;
    asked.map_err(|status| anyhow::anyhow!("{}", reason(&status)))?;
    tell_as_program!("shard {shard} finishes what it holds, and leaves");
    Ok(Exit::Clean)
}
