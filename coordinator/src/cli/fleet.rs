//! The shards that a command starts itself: their options and their start, as processes beside this one
//! or as threads inside it.
//!
//! This module starts nothing else and makes no decisions about blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Weak;
use std::time::{Duration, Instant};

use clap::Args;
use common::id::{Incarnation, ShardId};
use common::token::SessionToken;
use executor_shard::node::NodeConfig;
use net::connections::ConnectionLimits;
use net::serve::{Bound, Health};
use tasks::descriptors::raise_open_files;
use tasks::options::millis;
use tasks::supervise::SupervisorHandle;
use tasks::telemetry::TelemetryArgs;
use tonic::service::Routes;

pub use super::children::Children;
use super::children::{ChildOptions, find_binary};
use crate::execute::{ExecuteOptions, VerifyFraction};
use crate::fleet::{Fleet, FleetOptions};
use executor_shard::fault::PlannedFault;
use ledger::Ledger;
use schedule::planner::{Plan, PlanError};

/// The loopback address with any free port.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The longest time that ending connections may hold the ledger.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// Options of a command that starts its own shards.
#[derive(Debug, Clone, Args)]
pub struct FleetArgs {
    /// The number of executor shards to start, numbered from 1 (default: 3 for run, 2 otherwise)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub shards: Option<u32>,

    /// The number of worker threads of each shard
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,

    /// Run the shards inside this process instead of starting processes
    #[arg(long)]
    pub in_process: bool,

    /// The options of block execution
    #[command(flatten)]
    pub execute: ExecuteArgs,

    /// Limits of failure detection that tests shorten.
    #[command(flatten)]
    pub detection: DetectionArgs,

    /// Faults that every shard has. No option of the command line sets them; the lab does.
    #[arg(skip)]
    pub faults: Vec<PlannedFault>,
}

/// Options of a command that executes blocks.
#[derive(Debug, Clone, Copy, Args)]
pub struct ExecuteArgs {
    /// How to cut blocks into sub-blocks: auto, one, each or random:SEED
    #[arg(long, value_name = "PLAN", default_value_t = Plan::Auto, value_parser = production_plan)]
    pub plan: Plan,

    /// Execute this share of all sub-blocks a second time on another shard and compare, from 0 to 1.
    /// The coordinator draws them at random. If results differ, or no other shard can execute it, the
    /// coordinator executes the sub-block itself. A shard that was wrong is quarantined and named
    #[arg(long, value_name = "F", default_value_t = VerifyFraction::NONE)]
    pub verify_fraction: VerifyFraction,
}

impl ExecuteArgs {
    /// The options of the block executor.
    #[must_use]
    pub fn options(&self) -> ExecuteOptions {
        ExecuteOptions { plan: self.plan, verify: self.verify_fraction, ..ExecuteOptions::default() }
    }
}

/// A plan for production. One that makes speculation wrong belongs to the lab.
fn production_plan(text: &str) -> Result<Plan, String> {
    if text.starts_with("poison:") {
        return Err(format!("{text} is a plan for tests: use `lab run --plan {text}`"));
    }
    text.parse().map_err(|error: PlanError| error.to_string())
}

/// Limits that tests shorten.
#[derive(Debug, Clone, Copy, Args)]
pub struct DetectionArgs {
    /// How long a slot may make no progress beyond the time that its transaction's gas allows
    #[arg(long, value_name = "MS", hide = true, value_parser = millis(0..=86_400_000))]
    pub stuck_after_ms: Option<u64>,

    /// The lowest gas per second that any valid transaction is assumed to burn
    #[arg(long, value_name = "GAS", hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub slowest_gas: Option<u64>,
}

impl DetectionArgs {
    /// The fleet's options with these limits applied.
    pub fn adjust(self, mut options: FleetOptions) -> FleetOptions {
        let schedule = &mut options.schedule;
        if let Some(millis) = self.stuck_after_ms {
            schedule.stuck_floor = Duration::from_millis(millis);
        }
        schedule.slowest_gas = self.slowest_gas.unwrap_or(schedule.slowest_gas);
        options
    }
}

impl FleetArgs {
    /// The options of the fleet that these arguments state.
    pub fn options(&self) -> FleetOptions {
        self.detection.adjust(FleetOptions::default())
    }

    /// The shards to start, `default` of them if the command line gives no number. Nothing is started yet.
    pub fn crew(&self, default: u32, telemetry: &TelemetryArgs) -> anyhow::Result<Crew> {
        let place = if self.in_process {
            ShardHost::InProcess
        } else {
            ShardHost::Processes { binary: find_binary()?, telemetry: telemetry.clone() }
        };
        let count = self.shards.unwrap_or(default);
        Ok(Crew { count, threads: self.threads, faults: self.faults.clone(), place })
    }
}

/// The shards of a command before their start.
#[derive(Debug)]
pub struct Crew {
    count: u32,
    threads: u16,
    faults: Vec<PlannedFault>,
    place: ShardHost,
}

#[derive(Debug)]
enum ShardHost {
    InProcess,
    Processes { binary: PathBuf, telemetry: TelemetryArgs },
}

impl Crew {
    /// A crew without shards.
    pub fn empty() -> Self {
        Self { count: 0, threads: 1, faults: Vec::new(), place: ShardHost::InProcess }
    }

    /// Whether it has shards that are processes.
    pub fn has_processes(&self) -> bool {
        self.count > 0 && matches!(self.place, ShardHost::Processes { .. })
    }

    /// The number of shards.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Binds the address at which shards reach the coordinator: `listen` if given; otherwise any loopback
    /// port if its own shards need one; otherwise none.
    pub async fn bind(&self, listen: Option<SocketAddr>) -> anyhow::Result<Option<Bound>> {
        let address = match (&self.place, listen) {
            (_, Some(listen)) => listen,
            (ShardHost::Processes { .. }, None) => LOOPBACK,
            (ShardHost::InProcess, None) => return Ok(None),
        };
        let limits = ConnectionLimits::default().within(raise_open_files());
        Ok(Some(Bound::bind(address).await?.limited(limits)))
    }

    /// Serves `routes` on the bound address, if any, and starts the shards.
    pub fn start(
        self,
        fleet: &Fleet,
        bound: Option<Bound>,
        routes: Routes,
        supervisor: &SupervisorHandle,
    ) -> anyhow::Result<Option<Children>> {
        let address = bound.as_ref().map(Bound::address);
        if let Some(bound) = bound {
            let health = Health::new();
            supervisor.spawn_critical("server", bound.serve(routes, health, supervisor.shutdown_token()));
        }
        match (self.place, address) {
            (ShardHost::Processes { binary, telemetry }, Some(address)) => {
                let coordinator = format!("http://{}", reachable(address));
                let (threads, faults) = (self.threads, self.faults);
                let options = ChildOptions { coordinator, threads, telemetry, binary, faults };
                Ok(Some(Children::start(self.count, &options, fleet, supervisor)?))
            }
            _ => {
                for shard in 1..=self.count {
                    fleet.start_local_with(node(ShardId(shard), self.threads), self.faults.clone());
                }
                Ok(None)
            }
        }
    }
}

/// Waits until the ledger is closed, after everything else has ended. An unclosed ledger must be
/// repaired at its next opening, which takes time in proportion to its size.
pub async fn close(fleet: Fleet, ledger: Weak<Ledger>) {
    fleet.leave_world();
    drop(fleet);
    let began = Instant::now();
    while ledger.strong_count() > 0 {
        if began.elapsed() > CLOSE_WITHIN {
            tracing::warn!("the ledger is still in use at the end; it is repaired when it is opened again");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The configuration of a shard inside this process.
fn node(shard: ShardId, threads: u16) -> NodeConfig {
    NodeConfig {
        shard,
        incarnation: Incarnation::fresh(),
        slots: threads,
        advertise: String::new(),
        lost_after: FleetOptions::default().peer.lost_after,
        chain_id: None,
        token: SessionToken::fresh(),
    }
}

/// The address at which a process on this machine reaches `address`, which may stand for all
/// interfaces.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn children_of_a_coordinator_on_all_interfaces_use_loopback() {
        for (bound, reached) in
            [("0.0.0.0:7", "127.0.0.1:7"), ("[::]:7", "[::1]:7"), ("10.0.0.1:7", "10.0.0.1:7")]
        {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
