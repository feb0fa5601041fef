//! The shard process: its options, its start and its orderly end.

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use common::endpoint::CoordinatorEndpoint;
use common::id::{Incarnation, ShardId};
use common::message::PROTOCOL_VERSION;
use common::token::SessionToken;
use net::admin::AdminArgs;
use net::channel;
use net::connections::ConnectionLimits;
use net::identity::{Door, Expect, Roles, Security, ServerArgs, TlsArgs};
use net::limits::PeerLimits;
use net::monitor::Vitals;
use net::serve::{Bound, Health, SHARD_SERVICE};
use net::wire::{FleetClient, NodeIdentity, shard_service};
use tasks::descriptors::raise_open_files;
use tasks::harden::{Sandbox, harden};
use tasks::launch::{ParentWatch, stop_asked};
use tasks::manager;
use tasks::options::{reload_on_hangup, seconds};
use tasks::supervise::{Exit, Outcome, Signals, StopReason, Supervisor, SupervisorHandle};
use tasks::telemetry::TelemetryArgs;
use tonic::service::Routes;

use crate::admin::{Joined, SHARD_METRICS};
use crate::fault::{DamagingLine, Faults, PlannedFault};
use crate::node::{NodeConfig, ShardNode};
use crate::replica::Replica;
use engine::ENGINE_VERSION;

/// The longest time that tasks and threads may take to end once they are asked to.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// The files that connections to the administration may take.
const ADMIN_FILES: u64 = 256;

/// What `--version` prints: all that decides whether two processes understand each other, and what they were built
/// from. `scripts/release.sh` records the commit.
#[must_use]
pub fn long_version() -> String {
    format!(
        "{}\ncommit: {}\nprofile: {}\nengine: {ENGINE_VERSION}\nprotocol: {PROTOCOL_VERSION}",
        env!("CARGO_PKG_VERSION"),
        option_env!("SHARDEXEC_COMMIT").unwrap_or("not recorded"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
    )
}

/// Executes sub-blocks of Ethereum blocks for a coordinator.
///
/// It joins the coordinator's fleet, holds a replica of the state, and executes the work that the
/// coordinator sends. It may start before the coordinator, and may be killed at any moment: the
/// coordinator then gives its work to another shard. SIGTERM lets it finish its accepted work first.
///
/// Exit codes: 0 stopped cleanly, 1 failed or rejected by the coordinator, 2 bad command line, 3
/// stopped before all work was finished, 75 asked by the coordinator to leave (start it again).
#[derive(Debug, Clone, Parser)]
#[command(version, long_version = long_version(), name = "executor-shard")]
pub struct ShardArgs {
    /// This shard's number, unique in its fleet.
    #[arg(long, value_name = "N")]
    pub shard_id: u32,

    /// The coordinator's address.
    #[arg(long, value_name = "URL")]
    pub coordinator: String,

    /// The address to serve on; port 0 takes any free port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// The address that the coordinator must use for this shard, if it differs from --listen.
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,

    /// Where the shard tells how it is.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// The shard's identity, and where it may serve.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Give up core dumps, new privileges, all files but the data directory and the certificates, and all
    /// connections but those to the coordinator's port (Linux, as far as the kernel has Landlock).
    #[arg(long, help_heading = "TLS")]
    pub hardened: bool,

    /// Worker threads.
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Serve only the chain with this id and reject coordinators of other chains.
    #[arg(long, value_name = "ID")]
    pub chain_id: Option<u64>,

    /// Keep the replica in this folder, which is created if missing, so that a restart fetches only the
    /// missing blocks; without it the replica is in memory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Go wrong on purpose, for tests: wrong, corrupt, slow:MILLISECONDS, slow:TIMESx, hang, panic, exit,
    /// diverge or poison:SEED, then @N for the Nth assignment, @N+ from it on, or @HEIGHT/INDEX for a transaction
    #[arg(long, value_name = "FAULT", hide = true, requires = "allow_faults")]
    pub fault: Vec<PlannedFault>,

    /// Allow --fault.
    #[arg(long, hide = true)]
    pub allow_faults: bool,

    /// How long SIGTERM waits for accepted work to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = seconds(0..=86_400))]
    pub grace: u64,

    /// Write the bound address to this file once the shard serves on it.
    #[arg(long, value_name = "FILE")]
    pub address_file: Option<PathBuf>,

    /// Stop when standard input ends, for a shard that another process starts.
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,

    /// How to log.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

impl ShardArgs {
    /// The options as JSON. None of them is a secret: keys are in files.
    fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "shard_id": self.shard_id, "coordinator": self.coordinator, "listen": self.listen,
            "advertise": self.advertise, "admin": self.admin.admin, "threads": self.threads,
            "chain_id": self.chain_id, "data_dir": self.data_dir, "grace": self.grace,
            "tls": self.server.tls.tls_cert.is_some(), "hardened": self.hardened,
        })
    }

    /// Takes the restrictions of `--hardened`, if they are asked for. There must be no other threads yet.
    ///
    /// # Errors
    /// An error if the system refuses, or the data directory cannot be created.
    pub fn harden(&self) -> anyhow::Result<()> {
        if !self.hardened {
            return Ok(());
        }
        // A folder must exist before it can be allowed.
        if let Some(folder) = &self.data_dir {
            let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            created.with_context(|| format!("{} cannot be created", folder.display()))?;
        }
        let folder_of = |file: &PathBuf| match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        // Files that are replaced are new files in their folders.
        let TlsArgs { tls_cert, tls_key, tls_ca, tls_crl } = &self.server.tls;
        let read = [tls_cert, tls_key, tls_ca, tls_crl].into_iter().flatten().map(folder_of).collect();
        let noted = [&self.address_file, &self.admin.admin_address_file];
        let write = noted.into_iter().flatten().map(folder_of).chain(self.data_dir.clone()).collect();
        let port = self.coordinator.trim_end_matches('/').rsplit(':').next();
        let port = port.and_then(|port| port.parse().ok());
        let connect = vec![port.context("--hardened: --coordinator has no port: write HOST:PORT")?];
        harden(Some(&Sandbox { read, write, connect }))?;
        Ok(())
    }
}

/// Runs a shard until it is asked to stop, then drains it.
///
/// # Errors
/// An error if the shard cannot start.
pub async fn run(args: ShardArgs) -> anyhow::Result<Exit> {
    Vitals::begin();
    let mut signals = Signals::new()?;
    let parent = ParentWatch::start_if(args.exit_with_parent)?;
    let supervisor = Supervisor::new("executor-shard");
    reload_on_hangup(&supervisor.handle(), |args: &ShardArgs| {
        args.telemetry.log.clone().unwrap_or_default()
    })?;
    // To open a large replica may take long.
    let handle = supervisor.handle();
    let node = tokio::select! {
        node = start(&args, &handle) => node?,
        reason = stop_asked(&mut signals, &parent) => {
            tracing::info!(%reason, "asked to stop before the shard served");
            return Ok(Exit::Clean);
        }
    };
    let (left, dismissed) = (node.left(), node.dismissed());
    let was_dismissed = dismissed.clone();
    // A drain that the coordinator asked for also ends the process within the grace time, because a stuck
    // slot never lets the drain finish.
    let asked = async {
        tokio::select! {
            reason = stop_asked(&mut signals, &parent) => reason,
            () = dismissed.cancelled() => {
                tracing::warn!("the coordinator has asked this shard to leave");
                StopReason::Requested
            }
            () = left.cancelled() => StopReason::Requested,
        }
    };
    let grace = Duration::from_secs(args.grace);
    // Slots that are stuck are the coordinator's to judge; this only shows that tasks still run.
    manager::serves(&supervisor.handle(), || true);
    let outcome = supervisor.run_until_stopped(asked).await;
    manager::stops();
    // If the parent has ended, finishing the work is pointless.
    let mut patience = DRAIN_WITHIN;
    let finish = !matches!(outcome, Outcome::Failed(_) | Outcome::Stopped(StopReason::ParentGone));
    if finish {
        node.begin_drain();
        tokio::select! {
            () = left.cancelled() => {}
            reason = signals.next() => {
                tracing::warn!(%reason, "asked again: stopping at once");
                patience = Duration::ZERO;
            }
            () = tokio::time::sleep(grace) => tracing::warn!("the work in flight did not finish within the grace period"),
        }
    }
    drop(node);
    match supervisor.drain(patience, signals.next()).await.exit() {
        Exit::Clean if was_dismissed.is_cancelled() => Ok(Exit::Dismissed),
        exit => Ok(exit),
    }
}

/// Binds the address, serves on it and joins the fleet.
async fn start(args: &ShardArgs, supervisor: &SupervisorHandle) -> anyhow::Result<Arc<ShardNode>> {
    let limits = PeerLimits::default().checked()?;
    let shard = ShardId(args.shard_id);
    let credentials = args.server.credentials(args.listen, Roles::SHARD, Some(shard))?;
    let door = Door::new(credentials.clone(), None)?;
    supervisor.spawn_critical("door", door.clone().watch(supervisor.shutdown_token()));
    let connections = ConnectionLimits::default().within(raise_open_files());
    let (pages, listen) = (ConnectionLimits::default().within(ADMIN_FILES), &args.server.listen);
    let measured = ("executor-shard", &SHARD_METRICS[..]);
    let admin = args.admin.bind(&door, pages, listen, measured, supervisor).await?;
    let bound = Bound::bind(args.listen).await?.behind(door).limited(connections);
    let address = bound.address();
    if args.advertise.is_none() && address.ip().is_unspecified() {
        bail!("--listen {address} is no address that a coordinator can reach; give --advertise HOST:PORT");
    }
    let config = NodeConfig {
        shard,
        incarnation: Incarnation::fresh(),
        slots: args.threads,
        advertise: args.advertise.clone().unwrap_or_else(|| address.to_string()),
        lost_after: limits.lost_after,
        chain_id: args.chain_id,
        token: SessionToken::fresh(),
    };
    let faults = Arc::new(Faults::new(args.fault.clone()));
    let security = Security::new(credentials, None);
    let channel = channel::lazy(&args.coordinator, &limits, &security, Expect::Coordinator)?;
    let client = FleetClient::new(channel, limits, config.token);
    let mut coordinator: Arc<dyn CoordinatorEndpoint> = Arc::new(client);
    if !args.fault.is_empty() {
        tracing::warn!(faults = ?args.fault, "this shard goes wrong on purpose");
        coordinator = Arc::new(DamagingLine::new(coordinator, Arc::clone(&faults)));
    }
    let identity = NodeIdentity {
        shard: config.shard,
        incarnation: config.incarnation,
        slots: config.slots,
        build: NodeConfig::build().to_owned(),
        engine: ENGINE_VERSION.to_owned(),
        folder: args.data_dir.clone(),
    };
    let replica = match args.data_dir.clone() {
        Some(folder) => tokio::task::spawn_blocking(move || Replica::open(&folder)).await??,
        None => Replica::default(),
    };
    let node = ShardNode::start(config.clone(), coordinator, Arc::new(replica), faults, supervisor);
    let health = Health::new();
    let status = Arc::clone(&node);
    health.follow(SHARD_SERVICE, move || status.status().unready().is_empty(), supervisor);
    let stop = supervisor.shutdown_token();
    let routes = Routes::new(shard_service(Arc::clone(&node) as _, identity, config.token, stop.clone()));
    supervisor.spawn_critical("server", bound.serve(routes, health, stop));
    if let Some(file) = &args.address_file {
        std::fs::write(file, format!("{address}\n"))?;
    }
    if let Some(admin) = admin {
        let joined = Joined::new(Arc::clone(&node), args.config());
        admin.serve(joined, supervisor);
    }
    tracing::info!(
        shard = %config.shard, incarnation = config.incarnation.0, %address, threads = config.slots,
        coordinator = args.coordinator, "serving"
    );
    Ok(node)
}
