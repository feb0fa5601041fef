//! `coordinator serve`: runs the service that shards join and to which clients submit blocks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::id::Epoch;
use net::admin::{AdminArgs, BoundAdmin};
use net::identity::Security;
use net::limits::PeerLimits;
use net::serve::{BLOCKS_SERVICE, Health};
use net::wire::fleet_service;
use tasks::launch::{ParentWatch, stop_asked};
use tasks::manager;
use tasks::options::{millis, reload_on_hangup, seconds};
use tasks::supervise::{Exit, Outcome, Signals, StopReason, Supervisor, SupervisorHandle};
use tonic::service::Routes;

use super::Cli;
use super::admin::{Served, unready};
use super::doors::{DoorArgs, ListenerArgs, Listeners};
use super::fleet::{self, DetectionArgs, ExecuteArgs, reachable};
use super::take_over::take_over;
use crate::api::{COORDINATOR_METRICS, Chain, ChainHandle, StepDown, blocks_service, count_from_zero};
use crate::execute::BlockExecutor;
use crate::fleet::{Fleet, FleetOptions};
use crate::import::{ForkChoice, Importer, ReorgLimit};
use crate::input::read_genesis;
use ledger::{Holder, Ledger, LedgerError, LedgerOptions, Origin};
use schedule::{NoShards, ScheduleLimits};

/// The longest time that tasks and threads may take to end once they are asked to.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// The files that connections to the administration may take.
const ADMIN_FILES: u64 = 256;

/// Options of `coordinator serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The chain's geth genesis.json
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,

    /// The address on which to serve shards and clients; port 0 takes any free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7700")]
    pub listen: SocketAddr,

    /// The addresses for certain roles only.
    #[command(flatten)]
    pub listeners: ListenerArgs,

    /// The administration: pages with health, metrics and status
    #[command(flatten)]
    pub admin: AdminArgs,

    /// Keep the chain in this folder, which is created if missing; without it the chain is lost at the end
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// The options of block execution
    #[command(flatten)]
    pub execute: ExecuteArgs,

    /// What a block does if there is no shard: wait up to the limit and then fail (wait), let the
    /// coordinator execute it after the limit (local), or fail at once (fail)
    #[arg(long, value_name = "POLICY", default_value_t = NoShards::Wait)]
    pub when_no_shards: NoShards,

    /// How long a block waits for a shard if there is none
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = seconds(0..=86_400))]
    pub no_shard_wait: u64,

    /// The interval of the shards' heartbeats and of the pings to them
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = millis(0..=3_600_000), help_heading = "Failure detection")]
    pub heartbeat_ms: u64,

    /// The silence after which a shard is lost
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = millis(0..=3_600_000), help_heading = "Failure detection")]
    pub lost_after_ms: u64,

    /// Limits of failure detection that tests shorten.
    #[command(flatten)]
    pub detection: DetectionArgs,

    /// How long SIGTERM waits for the block in flight
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = seconds(0..=86_400))]
    pub grace: u64,

    /// How many blocks of the chain a heavier branch may take back: none, any, or a number. A branch that would
    /// take back more stays beside the chain
    #[arg(long, value_name = "LIMIT", default_value_t = ReorgLimit::Any)]
    pub reorg: ReorgLimit,

    /// Take the data directory over from the process that holds it: a coordinator is asked to step down, an
    /// import gets SIGTERM, and either gets SIGKILL if it does not end in time
    #[arg(long, requires = "data_dir", help_heading = "Taking over")]
    pub take_over: bool,

    /// How long the holder may take to step down
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 25,
        value_parser = seconds(0..=86_400),
        requires = "take_over",
        help_heading = "Taking over"
    )]
    pub take_over_grace: u64,

    /// Who the coordinator is, and how its callers prove who they are.
    #[command(flatten)]
    pub doors: DoorArgs,

    /// Give up core dumps and new privileges
    #[arg(long, help_heading = "TLS")]
    pub hardened: bool,

    /// Write the bound address to this file once it is served, and those of clients and operators behind it
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,

    /// Stop when standard input ends, for a process that another one starts
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

impl ServeArgs {
    /// The options as JSON. None of them is a secret: keys and tokens are in files.
    fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "genesis": self.genesis, "listen": self.listen, "listen_clients": self.listeners.listen_clients,
            "listen_operators": self.listeners.listen_operators, "admin": self.admin.admin,
            "data_dir": self.data_dir, "when_no_shards": self.when_no_shards.to_string(),
            "no_shard_wait": self.no_shard_wait, "heartbeat_ms": self.heartbeat_ms,
            "lost_after_ms": self.lost_after_ms, "grace": self.grace, "reorg": self.reorg.to_string(),
            "tls": self.doors.has_tls(), "tokens": self.doors.tokens, "hardened": self.hardened,
            "execute": format!("{:?}", self.execute.options()),
        })
    }

    fn fleet_options(&self, security: Security) -> FleetOptions {
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
        let shard_networks = self.doors.shard_network.clone();
        self.detection.adjust(FleetOptions { peer, schedule, security, shard_networks })
    }
}

/// Opens the ledger in the data directory, or creates one in memory.
pub(super) fn open_ledger(genesis: &Path, folder: Option<&Path>) -> anyhow::Result<(Ledger, Epoch)> {
    let origin = read_genesis(genesis)?.into();
    let Some(folder) = folder else { return Ok((Ledger::begin(origin)?, Epoch::first())) };
    Ok(begin_term(folder, origin)?)
}

/// Opens the ledger in the data directory and starts a new epoch.
fn begin_term(folder: &Path, origin: Origin) -> Result<(Ledger, Epoch), LedgerError> {
    let ledger = Ledger::open(folder, origin, LedgerOptions::default())?;
    let epoch = ledger.raise_epoch()?;
    Ok((ledger, epoch))
}

/// The parts of a started service.
struct Service {
    fleet: Fleet,
    chain: ChainHandle,
    step_down: StepDown,
}

/// Opens the ledger, taking it over from another coordinator if asked to.
async fn open(args: &ServeArgs, security: &Security) -> anyhow::Result<(Arc<Ledger>, Epoch)> {
    let (genesis, folder) = (args.genesis.clone(), args.data_dir.clone());
    let (ledger, epoch) = match (args.take_over, folder) {
        (true, Some(folder)) => {
            let patience = Duration::from_secs(args.take_over_grace);
            let (origin, at) = (read_genesis(&genesis)?, folder.clone());
            take_over(&folder, patience, security, move || begin_term(&at, origin.clone().into())).await?
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
    (listeners, admin): (Listeners, Option<BoundAdmin>),
    (ledger, epoch): (Arc<Ledger>, Epoch),
    security: Security,
    supervisor: &SupervisorHandle,
) -> anyhow::Result<Service> {
    let address = listeners.address();
    let fleet = Fleet::start(epoch, args.fleet_options(security), supervisor)?;
    let executor = BlockExecutor::new(fleet.clone(), args.execute.options());
    let importer = Importer::new(fleet.clone(), executor, Arc::clone(&ledger), ForkChoice::Heaviest)?
        .with_reorg_limit(args.reorg);
    let (chain, intake, handle) = Chain::new(importer)?;
    let (stop, stop_intake) = (supervisor.shutdown_token(), supervisor.shutdown_token());
    supervisor.spawn_thread("intake", move || intake.run(&stop_intake));
    supervisor.spawn_thread("chain", move || chain.run(&stop));
    let step_down = if args.data_dir.is_some() { StepDown::with_secret() } else { StepDown::never() };
    let mut routes = Routes::builder();
    routes.add_service(fleet_service(fleet.endpoint(), fleet.admission(), supervisor.shutdown_token()));
    routes.add_service(blocks_service(handle.clone(), fleet.clone(), step_down.clone()));
    if let Some(folder) = &args.data_dir {
        let (pid, secret) = (std::process::id(), step_down.secret());
        Holder { pid, address: reachable(address).to_string(), secret, epoch: epoch.number }.note(folder)?;
    }
    if let Some(file) = &args.address_file {
        listeners.note(file)?;
    }
    if let Some(admin) = admin {
        let served = Served::new(handle.clone(), fleet.clone(), args.data_dir.as_ref(), args.config());
        admin.serve(served, supervisor);
    }
    let (health, (of_chain, of_fleet)) = (Health::new(), (handle.clone(), fleet.clone()));
    health.follow(BLOCKS_SERVICE, move || unready(&of_chain, &of_fleet).is_empty(), supervisor);
    listeners.serve(&routes.routes(), &health, supervisor);
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
    reload_on_hangup(&supervisor.handle(), |cli: &Cli| cli.telemetry.log.clone().unwrap_or_default())?;
    let (door, security) = args.doors.open(args.listen, &supervisor.handle())?;
    // First the ledger: its holder may hold the address too.
    let (ledger, epoch) = tokio::select! {
        opened = open(&args, &security) => opened?,
        reason = stop_asked(&mut signals, &parent) => {
            tracing::info!(%reason, "asked to stop before the data directory was open");
            return Ok(Exit::Clean);
        }
    };
    let listeners = args.listeners.bind(args.listen, &door, &args.doors).await?;
    // Before the chain begins: what the journal holds counts as well.
    let (pages, listen) = (args.doors.limits(ADMIN_FILES), &args.doors.server.listen);
    let measured = ("coordinator", &COORDINATOR_METRICS[..]);
    let admin = args.admin.bind(&door, pages, listen, measured, &supervisor.handle()).await?;
    count_from_zero();
    let held = Arc::downgrade(&ledger);
    let Service { fleet, chain, step_down } =
        start(&args, (listeners, admin), (ledger, epoch), security, &supervisor.handle())?;
    let driver = fleet.clone();
    manager::serves(&supervisor.handle(), move || driver.shards().is_ok());
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
    manager::stops();
    let (mut exit, mut patience) = (Exit::Clean, DRAIN_WITHIN);
    if matches!(outcome, Outcome::Stopped(_)) {
        // First the block in flight, then the parts it needs. The block no longer waits for shards to come.
        if let Err(error) = fleet.wait_no_longer() {
            tracing::warn!(%error, "the fleet's driver could not be notified of the stop");
        }
        tokio::select! {
            () = chain.finish() => {}
            reason = signals.next() => {
                tracing::warn!(%reason, "a second signal: the block in flight is given up");
                (exit, patience) = (Exit::DrainedLate, Duration::ZERO);
            }
            () = tokio::time::sleep(Duration::from_secs(args.grace)) => {
                tracing::warn!("the block in flight did not finish within the grace period");
                exit = Exit::DrainedLate;
            }
        }
    }
    drop(chain);
    let drained = supervisor.drain(patience, signals.next()).await.exit();
    fleet::close(fleet, held).await;
    Ok(if drained == Exit::Clean { exit } else { drained })
}
