//! `coordinator import`: imports chain files into the ledger of a data directory. It executes them on
//! shards that it starts itself, and on shards that join.
//!
//! It resumes where an earlier import stopped, because it skips blocks that are on the chain. It
//! reports a block only when the block is durable, so a report stays true after a crash.

mod source;
mod tally;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::ProgressBar;
use net::identity::Security;
use net::serve::Bound;
use net::wire::fleet_service;
use tasks::descriptors::raise_open_files;
use tasks::launch::{ParentWatch, stop_asked};
use tasks::supervise::{Exit, Outcome, Signals, Supervisor, SupervisorHandle};
use tasks::telemetry::TelemetryArgs;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::children::Children;
use super::doors::DoorArgs;
use super::fleet::{self, Crew, FleetArgs};
use super::run::complaint;
use super::serve::open_ledger;
use super::timeline;
use crate::api::{ChainHandle, StepDown, blocks_service};
use crate::execute::{BlockEngine, BlockExecutor};
use crate::fleet::{Fleet, FleetError, FleetOptions};
use crate::import::{ForkChoice, ImportStop, Importer};
use ledger::Ledger;
use source::Source;
use tally::Tally;
use tasks::console::tell_as_program;

/// The number of shards to start if the command line gives none.
const SHARDS: u32 = 2;

/// How long the import waits for all shards; after that, one shard is enough to begin.
const ALL_WITHIN: Duration = Duration::from_secs(30);

/// The longest time for the first shard to get the whole state.
const FIRST_WITHIN: Duration = Duration::from_secs(3600);

/// How often the wait for shards checks whether the import must stop.
const LOOK: Duration = Duration::from_millis(200);

/// The longest time after a signal for the block in flight and the pending commits.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Options of `coordinator import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// RLP chain files (geth export), plain or gzip, in the order of the chain
    #[arg(value_name = "CHAIN", required = true)]
    pub inputs: Vec<PathBuf>,

    /// The chain's geth genesis.json
    #[arg(long, value_name = "FILE")]
    pub genesis: PathBuf,

    /// Keep the chain in this folder, which is created if missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// The options of its shards and of block execution
    #[command(flatten)]
    pub fleet: FleetArgs,

    /// Serve further shards and `coordinator status` at this address; port 0 takes any free port
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Who the coordinator is, and how its callers prove who they are.
    #[command(flatten)]
    pub doors: DoorArgs,

    /// Write the bound address to this file once it is served
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub address_file: Option<PathBuf>,

    /// Print one JSON object for each block that is durable, and a last one with "summary": true
    #[arg(long)]
    pub json: bool,

    /// Stop when standard input ends, for a process that another one starts
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,
}

/// Imports the files until they end, a block is rejected, or the process is asked to stop.
///
/// # Errors
/// The reason why the import stopped, including a rejected block. Every reported block is durable.
pub async fn import(
    args: ImportArgs,
    telemetry: TelemetryArgs,
    baseline: Option<Box<dyn BlockEngine>>,
) -> anyhow::Result<Exit> {
    let mut signals = Signals::new()?;
    let parent = ParentWatch::start_if(args.exit_with_parent)?;
    let crew = match &baseline {
        Some(_) => Crew::empty(),
        None => args.fleet.crew(SHARDS, &telemetry)?,
    };
    let bar = tally::progress_bar(source::total_bytes(&args.inputs)?);
    let supervisor = Supervisor::new("coordinator");
    let (bound, security) = bind(&args, &crew, &supervisor.handle()).await?;
    let stop = CancellationToken::new();
    let setting = start(args, crew, baseline, (bound, security), &bar, &supervisor.handle()).await?;
    let (fleet, ledger) = (setting.fleet.clone(), Arc::downgrade(setting.importer.ledger()));
    let job = setting.job(bar, stop.clone());
    let mut worker = tokio::task::spawn_blocking(move || job.run());
    let exit = tokio::select! {
        done = &mut worker => done.context("the import panicked")?,
        outcome = supervisor.run_until_stopped(stop_asked(&mut signals, &parent)) => {
            stop.cancel();
            // The block in flight is finished, and all executed blocks are made durable.
            let done = tokio::select! {
                done = &mut worker => Some(done.context("the import panicked")?),
                _ = signals.next() => None,
                () = tokio::time::sleep(STOP_WITHIN) => None,
            };
            match (outcome, done) {
                (Outcome::Failed(failure), _) => Err(anyhow!("{failure}")),
                (Outcome::Stopped(_), Some(done)) => done,
                (Outcome::Stopped(reason), None) => {
                    tell_as_program!("{reason}: ended at once; what was reported is durable");
                    Ok(Exit::DrainedLate)
                }
            }
        }
    };
    let drained = supervisor.drain(Duration::from_secs(5), signals.next()).await;
    fleet::close(fleet, ledger).await;
    exit.map(|exit| if exit == Exit::Clean { drained.exit() } else { exit })
}

/// The parts of a started import.
struct Setting {
    args: ImportArgs,
    fleet: Fleet,
    importer: Importer,
    wanted: usize,
    /// Held to the end; tasks of their own watch the processes.
    children: Option<Children>,
}

/// Binds the address at which shards join, and reads how this process and they prove who they are.
async fn bind(
    args: &ImportArgs,
    crew: &Crew,
    supervisor: &SupervisorHandle,
) -> anyhow::Result<(Option<Bound>, Security)> {
    let Some(listen) = args.listen else {
        if args.doors.has_tls() || args.doors.tokens.is_some() {
            bail!("--tls-cert and --tokens are for those who connect: give --listen too");
        }
        return Ok((crew.bind(None).await?, Security::default()));
    };
    if args.doors.has_tls() && crew.has_processes() {
        bail!(
            "with TLS the shard processes that an import starts would need certificates: add --in-process, and \
             let further shards join at {listen}"
        );
    }
    let (door, security) = args.doors.open(listen, supervisor)?;
    let limits = args.doors.limits(raise_open_files());
    Ok((crew.bind(Some(listen)).await?.map(|bound| bound.behind(door).limited(limits)), security))
}

async fn start(
    args: ImportArgs,
    crew: Crew,
    baseline: Option<Box<dyn BlockEngine>>,
    (bound, security): (Option<Bound>, Security),
    bar: &ProgressBar,
    supervisor: &SupervisorHandle,
) -> anyhow::Result<Setting> {
    let (genesis, folder) = (args.genesis.clone(), args.data_dir.clone());
    let opened = tokio::task::spawn_blocking(move || open_ledger(&genesis, Some(&folder))).await?;
    let (ledger, epoch) = opened.map(|(ledger, epoch)| (Arc::new(ledger), epoch))?;
    let shard_networks = args.doors.shard_network.clone();
    let options = FleetOptions { security, shard_networks, ..args.fleet.options() };
    let fleet = Fleet::start(epoch, options, supervisor)?;
    let told = timeline::tell(fleet.events(), bar.clone(), false, supervisor.shutdown_token());
    supervisor.spawn_critical("timeline", told);
    let engine =
        baseline.unwrap_or_else(|| Box::new(BlockExecutor::new(fleet.clone(), args.fleet.execute.options())));
    let importer = Importer::new(fleet.clone(), engine, Arc::clone(&ledger), ForkChoice::Heaviest)?;
    let chain = ChainHandle::importing(ledger);
    let mut routes = Routes::builder();
    routes.add_service(fleet_service(fleet.endpoint(), fleet.admission(), supervisor.shutdown_token()));
    routes.add_service(blocks_service(chain, fleet.clone(), StepDown::never()));
    let wanted = crew.count();
    let address = bound.as_ref().map(Bound::address);
    let children = crew.start(&fleet, bound, routes.routes(), supervisor)?;
    if let (Some(file), Some(address)) = (&args.address_file, address) {
        std::fs::write(file, format!("{address}\n"))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(Setting { args, fleet, importer, wanted, children })
}

impl Setting {
    fn job(self, bar: ProgressBar, stop: CancellationToken) -> FileImport {
        let tally = Tally::new(self.args.json, bar, stop.clone());
        FileImport { setting: self, tally, stop }
    }
}

/// The import itself, which runs on its own thread.
struct FileImport {
    setting: Setting,
    tally: Tally,
    stop: CancellationToken,
}

/// The end of an import.
enum FileImportEnd {
    Complete,
    Stopped,
    Failed(anyhow::Error),
}

impl FileImport {
    fn run(mut self) -> anyhow::Result<Exit> {
        let end = self.blocks();
        let ledger = Arc::clone(self.setting.importer.ledger());
        let error = match &end {
            FileImportEnd::Failed(error) => Some(format!("{error:#}")),
            _ => None,
        };
        self.tally.finish(&ledger, error)?;
        drop(self.setting.children);
        match end {
            FileImportEnd::Complete => Ok(Exit::Clean),
            FileImportEnd::Stopped => {
                tell_as_program!("stopped before every block was imported; import again to go on");
                Ok(Exit::DrainedLate)
            }
            FileImportEnd::Failed(error) => Err(error),
        }
    }

    fn blocks(&mut self) -> FileImportEnd {
        let Self { setting, tally, stop } = self;
        match wait_for_shards(&setting.fleet, setting.wanted, stop) {
            Ok(true) => {}
            Ok(false) => return FileImportEnd::Stopped,
            Err(error) => return FileImportEnd::Failed(error.into()),
        }
        let origin = setting.importer.ledger().origin().block_hash;
        let mut source = match Source::start(&setting.args.inputs, origin, tally.bar().clone(), stop.clone())
        {
            Ok(source) => source,
            Err(error) => return FileImportEnd::Failed(error),
        };
        tally.begin();
        let halt = stop.clone();
        let end = setting.importer.import_all(source.by_ref(), &|| halt.is_cancelled(), &mut |durable| {
            tally.add(durable);
        });
        tally.count(end.count);
        let failure = match end.stop {
            None => tally.broken().map(|error| anyhow::Error::new(error).context("standard output")),
            Some(ImportStop::Source(error)) => Some(error),
            Some(ImportStop::Commit(error)) => Some(error.into()),
            Some(ImportStop::Block { number, hash, error }) => {
                let file = source.file_of(&hash).display().to_string();
                Some(anyhow!(complaint(&file, Some(number), &error.to_string())))
            }
        };
        match failure {
            Some(error) => FileImportEnd::Failed(error),
            None if end.complete && source.is_exhausted() => FileImportEnd::Complete,
            None => FileImportEnd::Stopped,
        }
    }
}

/// Waits until all shards hold the state, or, after a time limit, at least one. Returns false if the
/// import is asked to stop meanwhile.
fn wait_for_shards(fleet: &Fleet, wanted: usize, stop: &CancellationToken) -> Result<bool, FleetError> {
    let began = Instant::now();
    loop {
        if stop.is_cancelled() {
            return Ok(false);
        }
        let enough = if began.elapsed() < ALL_WITHIN { wanted } else { wanted.min(1) };
        match fleet.wait_ready(enough, LOOK) {
            Ok(()) => return Ok(true),
            Err(FleetError::NotReady { .. }) if began.elapsed() < FIRST_WITHIN => {}
            Err(error) => return Err(error),
        }
    }
}

/// The ledger's head for the report at the end of a command: number, hash and state root.
pub(super) fn head_of(ledger: &Ledger) -> (u64, String, Option<String>) {
    let head = ledger.head();
    let state = head.summary().state;
    (state.height.0, state.block_hash.to_string(), head.state_root().map(|root| root.to_string()))
}
