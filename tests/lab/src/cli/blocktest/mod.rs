//! `lab blocktest`: runs Ethereum's BlockchainTests through the real path.

mod tally;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use common::id::Epoch;
use crossbeam_channel::{Receiver, Sender, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use net::wire::fleet_service;
use regex::Regex;
use tasks::supervise::{Exit, Outcome, Signals, Supervisor};
use tasks::telemetry::TelemetryArgs;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use walkdir::WalkDir;

use crate::blocktest::{
    CaseOutcome, CompareReasons, Entry, FileError, Reasons, Verdict, idle_importer, read_file, run_case,
};
use coordinator::cli::fleet::Children;
use coordinator::cli::fleet::FleetArgs;
use coordinator::execute::BlockExecutor;
use coordinator::fleet::Fleet;
use coordinator::import::Importer;
use tally::Tally;
use tasks::console::{OutputError, tell_as_program};

/// The number of shards if the command line gives none.
const SHARDS: u32 = 2;

/// The number of files that are read and decoded ahead.
const FILES_AHEAD: usize = 8;

/// The longest time that the running case may take once it is asked to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// The longest time to print the last line after a stop.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// Options of `lab blocktest`.
#[derive(Debug, Clone, Args)]
pub struct BlocktestArgs {
    /// Files of BlockchainTests, and folders that contain some
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// The shards that execute
    #[command(flatten)]
    pub fleet: FleetArgs,

    /// Only cases of this network, for example Cancun or BerlinToLondonAt5
    #[arg(long, value_name = "NAME")]
    pub fork: Option<String>,

    /// Only cases whose FILE::NAME matches
    #[arg(long, value_name = "REGEX")]
    pub filter: Option<Regex>,

    /// What to do if a block is rejected for another reason than the suite expects: fail the case (strict),
    /// only count and show it (report), or not compare reasons (off)
    #[arg(long, value_name = "HOW", value_enum, default_value_t = CompareReasons::Strict)]
    pub reasons: CompareReasons,

    /// Print one JSON object per case, and a last one with "summary": true
    #[arg(long)]
    pub json: bool,

    /// On a terminal, also list the cases that pass
    #[arg(long, short)]
    pub verbose: bool,
}

/// Runs the cases and prints the results.
pub(super) async fn run(args: BlocktestArgs, telemetry: TelemetryArgs) -> anyhow::Result<Exit> {
    let files = find_files(&args.paths)?;
    let mut signals = Signals::new()?;
    let supervisor = Supervisor::new("lab");
    let fleet = Fleet::start(Epoch::first(), args.fleet.options(), &supervisor.handle())?;
    let crew = args.fleet.crew(SHARDS, &telemetry)?;
    let bound = crew.bind(None).await?;
    let routes =
        Routes::new(fleet_service(fleet.endpoint(), fleet.admission(), supervisor.handle().shutdown_token()));
    let children = crew.start(&fleet, bound, routes, &supervisor.handle())?;
    let options = args.fleet.execute.options();
    let importer = idle_importer(fleet.clone(), BlockExecutor::new(fleet.clone(), options))?;
    let tally = Tally::new(files.len(), progress(files.len()), args.json, args.verbose);
    // A critical failure cancels this token too, before the failure shows in a case.
    let stop = supervisor.handle().shutdown_token().child_token();
    let job = SuiteRun { args, importer, _children: children, tally: tally.clone(), stop: stop.clone() };
    let mut worker = tokio::task::spawn_blocking(move || job.run(files));
    let outcome = tokio::select! {
        done = &mut worker => {
            done.context("the run panicked")??;
            None
        }
        outcome = supervisor.run_until_stopped(signals.next()) => Some(outcome),
    };
    if outcome.is_some() {
        stop.cancel();
        wait_for_the_case(&mut worker, &fleet, &mut signals).await?;
    }
    let stopped = outcome.is_some();
    let told = tokio::task::spawn_blocking(move || tally.finish(stopped));
    // A slow reader of the output gets time, but a request to stop does not wait for the reader.
    let limit = if stopped { TOLD_WITHIN } else { Duration::MAX };
    let counts = match tokio::time::timeout(limit, told).await {
        Ok(counts) => counts.context("the run panicked")??,
        Err(_) => bail!("standard output is blocked: the last line could not be printed"),
    };
    let drained = supervisor.drain(Duration::from_secs(5), signals.next()).await;
    match outcome {
        Some(Outcome::Failed(failure)) => bail!("{failure}"),
        _ if counts.any_failed() => Ok(Exit::Failed),
        Some(Outcome::Stopped(reason)) => {
            tell_as_program!("{reason}: stopped before every case was run");
            Ok(Exit::DrainedLate)
        }
        None if counts.is_empty() => bail!("no case was chosen; look at --fork and --filter"),
        None => Ok(drained.exit()),
    }
}

/// After a request to stop, waits until the running case has ended: for a limited time, and not past a
/// second signal.
async fn wait_for_the_case(
    worker: &mut JoinHandle<anyhow::Result<()>>,
    fleet: &Fleet,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    // An error means that the fleet has ended, and the case with it.
    if let Err(error) = fleet.wait_no_longer() {
        tracing::debug!(%error, "the fleet has ended already");
    }
    tokio::select! {
        done = worker => done.context("the run panicked")?,
        _ = signals.next() => Ok(()),
        () = tokio::time::sleep(STOP_WITHIN) => Ok(()),
    }
}

/// Every JSON file that is named or lies in a named folder. The files of each folder are in order of
/// path.
fn find_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
        if !metadata.is_dir() {
            found.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        // Links to folders are not followed, so that the walk ends.
        for entry in WalkDir::new(path) {
            let entry = entry.with_context(|| format!("{} cannot be searched", path.display()))?;
            let is_json = entry.path().extension().is_some_and(|extension| extension == "json");
            if is_json && !entry.file_type().is_dir() {
                inside.push(entry.into_path());
            }
        }
        if inside.is_empty() {
            bail!("{} holds no .json file; name a folder of BlockchainTests", path.display());
        }
        inside.sort_unstable();
        found.extend(inside);
    }
    Ok(found)
}

/// A bar over the files on a terminal, nothing in a pipe.
fn progress(files: usize) -> ProgressBar {
    let bar = ProgressBar::new(files as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} files, {eta} left, {msg}") {
        bar.set_style(style);
    }
    bar
}

type ReadFile = (PathBuf, Result<Vec<(String, Entry)>, FileError>);

/// The run itself, which runs on its own thread.
struct SuiteRun {
    args: BlocktestArgs,
    importer: Importer,
    /// Held as long as the run lasts.
    _children: Option<Children>,
    tally: Tally,
    stop: CancellationToken,
}

impl SuiteRun {
    /// Runs the files until all are done, it is asked to stop, or its output has no reader any more.
    fn run(mut self, files: Vec<PathBuf>) -> anyhow::Result<()> {
        let (read, ready) = bounded::<ReadFile>(FILES_AHEAD);
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("blocktest-reader".into())
                .spawn_scoped(scope, move || read_ahead(files, &read))
                .context("the reader's thread cannot be started")?;
            // The receiver ends with this call. The reader thread waits for a place in the queue, or sees
            // that the receiver has ended. The scope waits for the thread.
            self.all(ready)
        })
    }

    fn all(&mut self, ready: Receiver<ReadFile>) -> anyhow::Result<()> {
        for (file, entries) in ready {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            match entries {
                Ok(entries) => {
                    let mut entries = entries;
                    entries.retain(|(name, entry)| self.is_wanted(&file, name, entry));
                    self.tally.begin_file(entries.len());
                    for (name, entry) in entries {
                        if self.stop.is_cancelled() {
                            return Ok(());
                        }
                        self.entry(&file, &name, &entry)?;
                    }
                }
                Err(error) => {
                    self.tally.begin_file(1);
                    self.tally.add(&file, "", "", &outcome(Verdict::Fail(error.to_string())))?;
                }
            }
            self.tally.end_file();
        }
        Ok(())
    }

    /// Whether the options select this entry.
    fn is_wanted(&self, file: &Path, name: &str, entry: &Entry) -> bool {
        let of_fork = |fork: &String| network(entry).eq_ignore_ascii_case(fork);
        let matches = |filter: &Regex| filter.is_match(&format!("{}::{name}", file.display()));
        self.args.fork.as_ref().is_none_or(of_fork) && self.args.filter.as_ref().is_none_or(matches)
    }

    /// Runs one entry of a file.
    fn entry(&mut self, file: &Path, name: &str, entry: &Entry) -> Result<(), OutputError> {
        let outcome = match entry {
            Entry::Case(case) => run_case(case, &mut self.importer, self.args.reasons),
            Entry::Skip(reason) => outcome(Verdict::Skip(reason.clone())),
            Entry::Broken(reason) => outcome(Verdict::Fail(reason.clone())),
        };
        // The fleet may have ended during the case; then a failure is not a verdict.
        if self.stop.is_cancelled() && matches!(outcome.verdict, Verdict::Fail(_)) {
            return self.tally.not_run(file, name, network(entry));
        }
        self.tally.add(file, name, network(entry), &outcome)
    }
}

fn network(entry: &Entry) -> &str {
    match entry {
        Entry::Case(case) => case.network.as_deref().unwrap_or_default(),
        Entry::Skip(_) | Entry::Broken(_) => "",
    }
}

fn outcome(verdict: Verdict) -> CaseOutcome {
    CaseOutcome { verdict, blocks: 0, elapsed: Duration::ZERO, reasons: Reasons::default() }
}

/// Reads the files in order until all are read or the receiver has ended.
fn read_ahead(files: Vec<PathBuf>, read: &Sender<ReadFile>) {
    for file in files {
        let entries = read_file(&file);
        if read.send((file, entries)).is_err() {
            return;
        }
    }
}
