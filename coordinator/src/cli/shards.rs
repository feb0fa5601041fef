//! Starts the shards of a command that brings its own: within this process, or as children.

use clap::Args;
use common::id::{Incarnation, ShardId};
use common::supervise::SupervisorHandle;
use common::telemetry::TelemetryArgs;
use executor_shard::node::NodeConfig;
use net::serve::{Bound, Health};
use net::wire::fleet_service;
use tonic::service::Routes;

use super::children::{ChildOptions, Children, find_binary};
use crate::fleet::{Fleet, FleetOptions};

/// How many shards a command brings, and of what kind.
#[derive(Debug, Clone, Args)]
pub struct ShardArgs {
    /// How many executor shards to start, numbered from 1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub shards: u32,

    /// Worker threads of each shard
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Run the shards within this process instead of starting processes
    #[arg(long)]
    pub in_process: bool,
}

/// Starts the shards, and returns the processes among them.
pub(super) async fn start_shards(
    fleet: &Fleet,
    args: &ShardArgs,
    telemetry: TelemetryArgs,
    supervisor: &SupervisorHandle,
) -> anyhow::Result<Option<Children>> {
    if args.in_process {
        for shard in (1..=args.shards).map(ShardId) {
            fleet.start_local(NodeConfig {
                shard,
                incarnation: Incarnation::fresh(),
                slots: args.threads,
                advertise: String::new(),
                lost_after: FleetOptions::default().peer.lost_after,
                chain_id: None,
            });
        }
        return Ok(None);
    }
    let binary = find_binary()?;
    let bound = Bound::bind(([127, 0, 0, 1], 0).into()).await?;
    let coordinator = format!("http://{}", bound.address());
    let (health, _reporter) = Health::new();
    let routes = Routes::new(fleet_service(fleet.endpoint()));
    supervisor.spawn_critical("server", bound.serve(routes, health, supervisor.shutdown_token()));
    let options = ChildOptions { coordinator, threads: args.threads, telemetry, binary };
    Ok(Some(Children::start(args.shards, &options, supervisor)?))
}
