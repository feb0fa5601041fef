//! `coordinator serve`: the service.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::block::Block;
use common::id::Epoch;
use common::launch::{ParentWatch, stop_asked};
use common::supervise::{Exit, Outcome, Signals, Supervisor};
use net::limits::PeerLimits;
use net::serve::{Bound, Health};
use net::wire::fleet_service;
use tonic::service::Routes;

use super::cases::genesis_ledger;
use crate::api::{Chain, blocks_service};
use crate::execute::{BlockExecutor, ExecuteError, ExecuteOptions, replay};
use crate::fleet::{Fleet, FleetOptions};
use crate::ledger::{BlockLog, Ledger};
use crate::planner::Plan;
use crate::schedule::ScheduleLimits;

/// Blocks of the log that are remembered after a start.
const RECENT_BLOCKS: usize = 256;

/// Options of `coordinator serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The chain's geth genesis.json
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,

    /// The address to serve shards and clients on; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,

    /// Keep the chain's blocks in this folder, made if it is not there; without it they are gone at the end
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// How blocks are cut: auto, one, each, random:SEED or poison:SEED
    #[arg(long, value_name = "PLAN", default_value_t = Plan::Auto)]
    pub plan: Plan,

    /// How long a block waits for a shard when there is none
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub no_shard_wait: u64,

    /// How often shards send heartbeats and are pinged
    #[arg(long, value_name = "MS", default_value_t = 100, help_heading = "Failure detection")]
    pub heartbeat_ms: u64,

    /// Silence after which a shard is lost
    #[arg(long, value_name = "MS", default_value_t = 1000, help_heading = "Failure detection")]
    pub lost_after_ms: u64,

    /// How long SIGTERM waits for the block in hand
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub grace: u64,

    /// Write the address that was bound to this file, once it is served
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,

    /// End when standard input does: for processes that another one starts
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

impl ServeArgs {
    fn fleet_options(&self) -> FleetOptions {
        let peer = PeerLimits {
            beat: Duration::from_millis(self.heartbeat_ms),
            lost_after: Duration::from_millis(self.lost_after_ms),
            ..PeerLimits::default()
        };
        let schedule = ScheduleLimits {
            lost_after: peer.lost_after,
            tick: peer.beat.min(ScheduleLimits::default().tick),
            no_shard_wait: Duration::from_secs(self.no_shard_wait),
            ..ScheduleLimits::default()
        };
        FleetOptions { peer, schedule }
    }
}

/// Opens the data directory, and brings the ledger to where it was. The newest blocks are given
/// back, so that submitting them again is answered.
fn rebuild(folder: &Path, ledger: &Ledger) -> Result<(BlockLog, VecDeque<Block>), ExecuteError> {
    let mut recent = VecDeque::new();
    let log = BlockLog::open(folder, ledger.origin().block_hash, |block| {
        replay(&block, ledger)?;
        recent.push_back(block);
        if recent.len() > RECENT_BLOCKS {
            recent.pop_front();
        }
        Ok::<(), ExecuteError>(())
    })?;
    tracing::info!(blocks = ledger.head().blocks, head = %ledger.head().summary.state, "the chain was rebuilt from its log");
    Ok((log, recent))
}

/// Runs the service until it is asked to stop.
pub(super) async fn serve(args: ServeArgs) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let parent = ParentWatch::start_if(args.exit_with_parent)?;
    let supervisor = Supervisor::new("coordinator");
    let handle = supervisor.handle();
    let ledger = genesis_ledger(&args.genesis)?;
    let bound = Bound::bind(args.listen).await?;
    let address = bound.address();
    let (log, recent) = match args.data_dir.clone() {
        Some(folder) => {
            let ledger = Arc::clone(&ledger);
            let (log, recent) = tokio::task::spawn_blocking(move || rebuild(&folder, &ledger)).await??;
            (Some(log), recent)
        }
        None => (None, VecDeque::new()),
    };
    let epoch = log.as_ref().map_or_else(Epoch::first, BlockLog::epoch);
    let fleet = Fleet::start(epoch, args.fleet_options(), &handle)?;
    fleet.set_world(Arc::clone(&ledger))?;
    let options = ExecuteOptions { plan: args.plan, ..ExecuteOptions::default() };
    let executor = BlockExecutor::new(fleet.clone(), options);
    let (mut chain, submissions) = Chain::new(fleet.clone(), executor, Arc::clone(&ledger), log);
    for block in &recent {
        chain.remember_committed(block);
    }
    let stop = handle.shutdown_token();
    let chain_end = submissions.clone();
    handle.spawn_thread("chain", move || chain.run(&stop));
    let (health, _reporter) = Health::new();
    let mut routes = Routes::builder();
    routes.add_service(fleet_service(fleet.endpoint()));
    routes.add_service(blocks_service(submissions, fleet.clone()));
    let routes: Routes = routes.routes();
    handle.spawn_critical("server", bound.serve(routes, health, handle.shutdown_token()));
    if let Some(file) = &args.address_file {
        std::fs::write(file, format!("{address}\n"))?;
    }
    tracing::info!(
        %address, epoch = %fleet.epoch(), chain = ledger.spec().chain_id, head = %ledger.head().summary.state, "serving"
    );
    let outcome = supervisor.run_until_stopped(stop_asked(&mut signals, &parent)).await;
    let mut exit = Exit::Clean;
    if matches!(outcome, Outcome::Stopped(_)) {
        // First the block in hand, then what it needs.
        tokio::select! {
            () = chain_end.finish() => {}
            reason = signals.next() => {
                tracing::warn!(%reason, "asked again: the block in hand is given up");
                exit = Exit::DrainedLate;
            }
            () = tokio::time::sleep(Duration::from_secs(args.grace)) => {
                tracing::warn!("the block in hand was not finished in time");
                exit = Exit::DrainedLate;
            }
        }
    }
    let drained = supervisor.drain(Duration::from_secs(5), signals.next()).await.exit();
    Ok(if drained == Exit::Clean { exit } else { drained })
}
