//! The attacks, each a process that goes on until it is killed.

mod calls;
mod connections;
mod forged;
mod silent;
mod tally;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tonic::transport::Endpoint;

pub(crate) use tally::Acts;

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attack {
    /// The control: two processes that only keep cores busy.
    Busy,
    /// 1,000 connections that say nothing, opened again when they are closed.
    IdleConnections,
    /// 500 calls whose only message is half sent.
    HalfMessages,
    /// 128 blocks of 15 MiB are announced, and 14 MiB of each are sent.
    HalfBlocks,
    /// 1,000 clients that ask for the status without a pause.
    GreedyStatus,
    /// 64 tasks that give up each call at once (rapid reset).
    RapidReset,
    /// Damaged results in the name of the honest shards.
    ForgedResults,
    /// `Draining` in the name of the honest shards.
    ForgedDraining,
    /// `Leave` in the name of the honest shards, and registrations with their ids.
    ForgedPlaces,
    /// Heartbeats of 1,024 slots in the name of the honest shards.
    ForgedHeartbeats,
    /// Registrations of ever new ids.
    EndlessShards,
    /// Strangers that have joined: heartbeats of invented states, snapshots that are not read, results of no work.
    RegisteredStrangers,
    /// 40 shards of four slots that do one piece of work right, and then take work and never answer.
    SilentShards,
    /// 150 snapshots that are not read.
    UnreadSnapshots,
    /// 1,000 streams of events that are not read.
    UnreadEvents,
    /// Commands to the shards: drain, sync to an invented state, damaged work.
    FakeCoordinator,
}

impl Attack {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Whether every call of it must be refused: it has no right to any.
    pub(crate) fn has_no_right(self) -> bool {
        matches!(
            self,
            Self::ForgedResults
                | Self::ForgedDraining
                | Self::ForgedPlaces
                | Self::ForgedHeartbeats
                | Self::UnreadSnapshots
                | Self::FakeCoordinator
        )
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Starts its processes against a coordinator and its shards.
    pub(crate) fn start(self, coordinator: &str, shards: &[String]) -> Result<Attackers> {
        let program = std::env::current_exe().context("this program has no path")?;
        let count = if self == Self::Busy { 2 } else { 1 };
        let mut attackers = Attackers(Vec::new());
        for _ in 0..count {
            let mut command = Command::new(&program);
            command.arg("attack").arg(self.name()).arg(coordinator).args(shards);
            command.stdout(Stdio::piped());
            attackers.0.push(command.spawn().context("the attacker cannot be started")?);
        }
        Ok(attackers)
    }

    /// Attacks until the process is killed.
    pub(crate) fn run(self, target: &Target) -> Result<()> {
        if self == Self::Busy {
            loop {
                std::hint::spin_loop();
            }
        }
        std::thread::Builder::new().name("tally".into()).spawn(tally::report)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self {
                Self::Busy => Ok(()),
                Self::IdleConnections => connections::idle(target).await,
                Self::HalfMessages => connections::half_messages(target).await,
                Self::RapidReset => connections::rapid_reset(target).await,
                Self::HalfBlocks => calls::half_blocks(target).await,
                Self::GreedyStatus => calls::greedy_status(target).await,
                Self::UnreadEvents => calls::unread_events(target).await,
                Self::UnreadSnapshots => calls::unread_snapshots(target).await,
                Self::EndlessShards => forged::endless_shards(target).await,
                Self::RegisteredStrangers => forged::registered(target).await,
                Self::SilentShards => silent::shards(target).await,
                Self::ForgedResults => forged::results(target).await,
                Self::ForgedDraining => forged::draining(target).await,
                Self::ForgedPlaces => forged::places(target).await,
                Self::ForgedHeartbeats => forged::heartbeats(target).await,
                Self::FakeCoordinator => forged::commands(target).await,
            }
        })
    }
}

/// The processes of an attack. They are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Attackers(Vec<Child>);

impl Attackers {
    /// Ends the attack. Returns what the attackers did.
    pub(crate) fn end(mut self) -> Result<Acts> {
        let mut acts = Acts::default();
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("an attacker ended by itself with {status}");
            }
            child.kill()?;
            let mut report = String::new();
            child.stdout.take().context("the attacker has no output")?.read_to_string(&mut report)?;
            acts = Acts::parse(&report);
        }
        Ok(acts)
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended needs no kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An honest shard, as the status shows it to everybody.
#[derive(Debug, Clone)]
pub(crate) struct Victim {
    pub(crate) id: u32,
    pub(crate) incarnation: u64,
    /// The URL at which it serves its coordinator.
    pub(crate) url: String,
}

/// What is attacked.
#[derive(Debug)]
pub(crate) struct Target {
    /// The coordinator's URL.
    pub(crate) coordinator: String,
    pub(crate) shards: Vec<Victim>,
}

impl Target {
    /// The coordinator's URL, then ID@INCARNATION@ADDRESS for each shard.
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        let Some((coordinator, shards)) = texts.split_first() else { bail!("there is no coordinator's URL") };
        let victim = |text: &String| {
            let mut parts = text.splitn(3, '@');
            let mut part = || parts.next().with_context(|| format!("{text} is not ID@INCARNATION@ADDRESS"));
            let (id, incarnation, address) = (part()?.parse()?, part()?.parse()?, part()?);
            let url = match address.contains("://") {
                true => address.to_owned(),
                false => format!("http://{address}"),
            };
            Ok(Victim { id, incarnation, url })
        };
        let shards = shards.iter().map(victim).collect::<Result<Vec<_>>>()?;
        Ok(Self { coordinator: coordinator.clone(), shards })
    }

    /// Host and port of the coordinator.
    pub(crate) fn address(&self) -> &str {
        self.coordinator.rsplit('/').next().unwrap_or_default()
    }
}

/// The address that attacks come from. The honest client and the shards have 127.0.0.1: without certificates a peer is
/// its address, and has its share of what all peers share.
pub(crate) const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// The way from the attacker's address to a server.
pub(crate) fn endpoint(url: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(url.to_owned())?.local_address(Some(ATTACKER)))
}

/// Runs this many copies of a task, which go on until the process is killed. A task that ends is started again.
pub(crate) async fn many<F: Future<Output = ()> + 'static>(count: usize, task: impl Fn() -> F) -> Result<()> {
    let set = tokio::task::LocalSet::new();
    set.run_until(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            tasks.spawn_local(task());
        }
        while tasks.join_next().await.is_some() {
            // An attacker that is refused at once must not only burn its own processor time.
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            tasks.spawn_local(task());
        }
    })
    .await;
    Ok(())
}
