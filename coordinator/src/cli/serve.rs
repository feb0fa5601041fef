//! `coordinator serve`: the service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::id::Epoch;
use net::limits::PeerLimits;
use net::serve::{Bound, Health};
use net::wire::fleet_service;
use tasks::launch::{ParentWatch, stop_asked};
use tasks::supervise::{Exit, Outcome, Signals, StopReason, Supervisor, SupervisorHandle};
use tonic::service::Routes;

use super::fleet::{self, DetectionArgs, ExecuteArgs, reachable};
use super::take_over::take_over;
use crate::api::{Chain, ChainHandle, StepDown, blocks_service};
use crate::execute::BlockExecutor;
use crate::fleet::{Fleet, FleetOptions};
use crate::import::{ForkChoice, Importer};
use crate::input::read_genesis;
use ledger::{Holder, Ledger, LedgerError, LedgerOptions, Origin};
use schedule::{NoShards, ScheduleLimits};

/// How long tasks and threads may take to end when they are told to.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Options of `coordinator serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The chain's geth genesis.json
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,

    /// The address to serve shards and clients on; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,

    /// Keep the chain in this folder, made if it is not there; without it the chain is gone at the end
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// How blocks are executed
    #[command(flatten)]
    pub execute: ExecuteArgs,

    /// What a block does when there is no shard: wait up to the limit and fail then, be executed by
    /// the coordinator itself after the limit (local), or fail at once
    #[arg(long, value_name = "POLICY", default_value_t = NoShards::Wait)]
    pub when_no_shards: NoShards,

    /// How long a block waits for a shard when there is none
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub no_shard_wait: u64,

    /// How often shards send heartbeats and are pinged
    #[arg(long, value_name = "MS", default_value_t = 100, help_heading = "Failure detection")]
    pub heartbeat_ms: u64,

    /// Silence after which a shard is lost
    #[arg(long, value_name = "MS", default_value_t = 1000, help_heading = "Failure detection")]
    pub lost_after_ms: u64,

    /// For tests
    #[command(flatten)]
    pub detection: DetectionArgs,

    /// How long SIGTERM waits for the block in hand
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub grace: u64,

    /// Take the data directory over from the process that has it: a coordinator is asked to step down, an
    /// import gets SIGTERM; what does not end in time gets SIGKILL
    #[arg(long, requires = "data_dir", help_heading = "Taking over")]
    pub take_over: bool,

    /// How long it may take to step down
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 25,
        requires = "take_over",
        help_heading = "Taking over"
    )]
    pub take_over_grace: u64,

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
            when_no_shards: self.when_no_shards,
            no_shard_wait: Duration::from_secs(self.no_shard_wait),
            ..FleetOptions::default().schedule
        };
        self.detection.adjust(FleetOptions { peer, schedule })
    }
}

/// The ledger in the data directory, or one in memory.
pub(super) fn open_ledger(genesis: &Path, folder: Option<&Path>) -> anyhow::Result<(Ledger, Epoch)> {
    let origin = read_genesis(genesis)?.into();
    let Some(folder) = folder else { return Ok((Ledger::begin(origin)?, Epoch::first())) };
    Ok(begin_term(folder, origin)?)
}

/// The ledger in the data directory, in a new term.
fn begin_term(folder: &Path, origin: Origin) -> Result<(Ledger, Epoch), LedgerError> {
    let ledger = Ledger::open(folder, origin, LedgerOptions::default())?;
    let epoch = ledger.raise_epoch()?;
    Ok((ledger, epoch))
}

/// A service that was started.
struct Service {
    fleet: Fleet,
    chain: ChainHandle,
    step_down: StepDown,
}

/// Opens the ledger, from another coordinator's hands if need be.
async fn open(args: &ServeArgs) -> anyhow::Result<(Arc<Ledger>, Epoch)> {
    let (genesis, folder) = (args.genesis.clone(), args.data_dir.clone());
    let (ledger, epoch) = match (args.take_over, folder) {
        (true, Some(folder)) => {
            let patience = Duration::from_secs(args.take_over_grace);
            let (origin, at) = (read_genesis(&genesis)?, folder.clone());
            take_over(&folder, patience, move || begin_term(&at, origin.clone().into())).await?
        }
        (_, folder) => {
            tokio::task::spawn_blocking(move || open_ledger(&genesis, folder.as_deref())).await??
        }
    };
    Ok((Arc::new(ledger), epoch))
}

/// Starts the service on a ledger.
fn start(
    args: &ServeArgs,
    bound: Bound,
    (ledger, epoch): (Arc<Ledger>, Epoch),
    supervisor: &SupervisorHandle,
) -> anyhow::Result<Service> {
    let address = bound.address();
    let fleet = Fleet::start(epoch, args.fleet_options(), supervisor)?;
    let executor = BlockExecutor::new(fleet.clone(), args.execute.options());
    let importer = Importer::new(fleet.clone(), executor, Arc::clone(&ledger), ForkChoice::Heaviest)?;
    let (chain, intake, handle) = Chain::new(importer)?;
    let (stop, stop_intake) = (supervisor.shutdown_token(), supervisor.shutdown_token());
    supervisor.spawn_thread("intake", move || intake.run(&stop_intake));
    supervisor.spawn_thread("chain", move || chain.run(&stop));
    let step_down = if args.data_dir.is_some() { StepDown::with_secret() } else { StepDown::never() };
    let (health, _reporter) = Health::new();
    let mut routes = Routes::builder();
    routes.add_service(fleet_service(fleet.endpoint()));
    routes.add_service(blocks_service(handle.clone(), fleet.clone(), step_down.clone()));
    supervisor.spawn_critical("server", bound.serve(routes.routes(), health, supervisor.shutdown_token()));
    if let Some(folder) = &args.data_dir {
        let (pid, secret) = (std::process::id(), step_down.secret());
        Holder { pid, address: reachable(address).to_string(), secret, epoch: epoch.number }.note(folder)?;
    }
    if let Some(file) = &args.address_file {
        std::fs::write(file, format!("{address}\n"))?;
    }
    tracing::info!(
        %address, epoch = %epoch, chain = ledger.spec().chain_id, head = %ledger.head().summary().state, "serving"
    );
    Ok(Service { fleet, chain: handle, step_down })
}

/// Runs the service until it is asked to stop.
pub(super) async fn serve(args: ServeArgs) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let parent = ParentWatch::start_if(args.exit_with_parent)?;
    let supervisor = Supervisor::new("coordinator");
    // First the ledger: whoever holds it may have the address too.
    let (ledger, epoch) = tokio::select! {
        opened = open(&args) => opened?,
        reason = stop_asked(&mut signals, &parent) => {
            tracing::info!(%reason, "asked to stop before the data directory was open");
            return Ok(Exit::Clean);
        }
    };
    let bound = Bound::bind(args.listen).await?;
    let held = Arc::downgrade(&ledger);
    let Service { fleet, chain, step_down } = start(&args, bound, (ledger, epoch), &supervisor.handle())?;
    let asked = async {
        tokio::select! {
            reason = stop_asked(&mut signals, &parent) => reason,
            () = step_down.asked() => {
                tracing::warn!("another coordinator takes the data directory over: stepping down");
                StopReason::Requested
            }
        }
    };
    let outcome = supervisor.run_until_stopped(asked).await;
    let (mut exit, mut patience) = (Exit::Clean, DRAIN_WITHIN);
    if matches!(outcome, Outcome::Stopped(_)) {
        // First the block in hand, then what it needs. It is not waited for shards that do not come.
        if let Err(error) = fleet.wait_no_longer() {
            tracing::warn!(%error, "the fleet cannot be told to wait no longer");
        }
        tokio::select! {
            () = chain.finish() => {}
            reason = signals.next() => {
                tracing::warn!(%reason, "asked again: the block in hand is given up");
                (exit, patience) = (Exit::DrainedLate, Duration::ZERO);
            }
            () = tokio::time::sleep(Duration::from_secs(args.grace)) => {
                tracing::warn!("the block in hand was not finished in time");
                exit = Exit::DrainedLate;
            }
        }
    }
    drop(chain);
    let drained = supervisor.drain(patience, signals.next()).await.exit();
    fleet::close(fleet, held).await;
    Ok(if drained == Exit::Clean { exit } else { drained })
}
