//! `coordinator blocktest`: Ethereum's BlockchainTests through the real path.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use common::id::Epoch;
use common::supervise::{Exit, Outcome, Signals, Supervisor};
use common::telemetry::TelemetryArgs;
use crossbeam_channel::{Receiver, Sender, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use net::wire::fleet_service;
use regex::Regex;
use serde::Serialize;
use tonic::service::Routes;

use super::children::Children;
use super::fleet::FleetArgs;
use super::report::millis;
use crate::blocktest::{CaseOutcome, Entry, FileError, Verdict, idle_importer, read_file, run_case};
use crate::execute::BlockExecutor;
use crate::fleet::Fleet;
use crate::import::Importer;

/// Shards, if the command line does not say.
const SHARDS: u32 = 2;

/// Files that are read and decoded ahead of the one that is run.
const FILES_AHEAD: usize = 8;

/// Options of `coordinator blocktest`.
#[derive(Debug, Clone, Args)]
pub struct BlocktestArgs {
    /// Files of BlockchainTests, and folders that hold some
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,

    /// The shards that execute.
    #[command(flatten)]
    pub fleet: FleetArgs,

    /// Only cases of this network, for example Cancun or BerlinToLondonAt5
    #[arg(long, value_name = "NAME")]
    pub fork: Option<String>,

    /// Only cases whose FILE::NAME matches
    #[arg(long, value_name = "REGEX")]
    pub filter: Option<Regex>,

    /// Print one JSON object a case, and a last one with "summary": true
    #[arg(long)]
    pub json: bool,

    /// On a terminal, list also what passes
    #[arg(long, short)]
    pub verbose: bool,
}

/// Runs the cases.
pub(super) async fn run(args: BlocktestArgs, telemetry: TelemetryArgs) -> anyhow::Result<Exit> {
    let files = find_files(&args.paths)?;
    let mut signals = Signals::new()?;
    let supervisor = Supervisor::new("coordinator");
    let fleet = Fleet::start(Epoch::first(), args.fleet.options(), &supervisor.handle())?;
    let crew = args.fleet.crew(SHARDS, &telemetry)?;
    let bound = crew.bind(None).await?;
    let routes = Routes::new(fleet_service(fleet.endpoint()));
    let children = crew.start(&fleet, bound, routes, &supervisor.handle())?;
    let options = args.fleet.execute_options();
    let importer = idle_importer(fleet.clone(), BlockExecutor::new(fleet, options))?;
    let bar = progress(files.len());
    let job = Job { args, importer, _children: children, report: Report::default(), bar: bar.clone() };
    let job = tokio::task::spawn_blocking(move || job.run(files));
    let exit = tokio::select! {
        done = job => done.context("the run panicked")??,
        outcome = supervisor.run_until_stopped(signals.next()) => match outcome {
            Outcome::Stopped(reason) => {
                bar.abandon();
                eprintln!("coordinator: {reason}: stopped before every case was run");
                Exit::DrainedLate
            }
            Outcome::Failed(failure) => bail!("{failure}"),
        },
    };
    let drained = supervisor.drain(Duration::from_secs(5), signals.next()).await;
    Ok(if exit == Exit::Clean { drained.exit() } else { exit })
}

/// Every JSON file that is named or lies in a named folder, each folder's in order of path.
fn find_files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
        if !metadata.is_dir() {
            found.push(path.clone());
            continue;
        }
        let mut folders = VecDeque::from([path.clone()]);
        let mut inside = Vec::new();
        while let Some(folder) = folders.pop_front() {
            let entries =
                fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("{} cannot be read", folder.display()))?;
                // Links to folders are not followed, so that the walk ends.
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    folders.push_back(path);
                } else if path.extension().is_some_and(|extension| extension == "json") {
                    inside.push(path);
                }
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

/// The run itself, on a thread of its own.
struct Job {
    args: BlocktestArgs,
    importer: Importer,
    /// Held so that they live as long as the run.
    _children: Option<Children>,
    report: Report,
    bar: ProgressBar,
}

/// What has been counted so far.
#[derive(Debug, Default, Serialize)]
struct Report {
    summary: bool,
    passed: u64,
    failed: u64,
    skipped: u64,
    blocks: u64,
    elapsed_ms: f64,
}

/// One case's line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: std::borrow::Cow<'a, str>,
    case: &'a str,
    network: &'a str,
    result: &'static str,
    reason: Option<&'a str>,
    blocks: u64,
    ms: f64,
}

impl Job {
    fn run(mut self, files: Vec<PathBuf>) -> anyhow::Result<Exit> {
        let began = Instant::now();
        let (read, ready) = bounded::<ReadFile>(FILES_AHEAD);
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("blocktest-reader".into())
                .spawn_scoped(scope, move || read_ahead(files, &read))
                .context("the reader's thread cannot be started")?;
            self.all(&ready)
        })?;
        self.report.elapsed_ms = millis(began.elapsed());
        self.finish()
    }

    fn all(&mut self, ready: &Receiver<ReadFile>) -> anyhow::Result<()> {
        for (file, entries) in ready {
            match entries {
                Ok(entries) => {
                    for (name, entry) in entries {
                        self.entry(&file, &name, &entry)?;
                    }
                }
                Err(error) => {
                    let reason = error.to_string();
                    self.tell(&file, "", "", &outcome(Verdict::Fail(reason)))?;
                }
            }
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Runs one entry of a file, if it is wanted.
    fn entry(&mut self, file: &Path, name: &str, entry: &Entry) -> anyhow::Result<()> {
        let network = match entry {
            Entry::Case(case) => case.network.as_deref().unwrap_or_default(),
            Entry::Skip(_) | Entry::Broken(_) => "",
        };
        let of_fork = |fork: &String| network.eq_ignore_ascii_case(fork);
        let matches = |filter: &Regex| filter.is_match(&format!("{}::{name}", file.display()));
        if !self.args.fork.as_ref().is_none_or(of_fork) || !self.args.filter.as_ref().is_none_or(matches) {
            return Ok(());
        }
        let outcome = match entry {
            Entry::Case(case) => run_case(case, &mut self.importer),
            Entry::Skip(reason) => outcome(Verdict::Skip(reason.clone())),
            Entry::Broken(reason) => outcome(Verdict::Fail(reason.clone())),
        };
        self.tell(file, name, network, &outcome)
    }

    /// Counts a case and prints its line.
    fn tell(&mut self, file: &Path, case: &str, network: &str, outcome: &CaseOutcome) -> anyhow::Result<()> {
        let report = &mut self.report;
        report.blocks += outcome.blocks;
        let (count, result, reason) = match &outcome.verdict {
            Verdict::Pass => (&mut report.passed, "pass", None),
            Verdict::Fail(reason) => (&mut report.failed, "fail", Some(reason.as_str())),
            Verdict::Skip(reason) => (&mut report.skipped, "skipped", Some(reason.as_str())),
        };
        *count += 1;
        self.bar.set_message(format!(
            "{} passed, {} failed, {} skipped",
            report.passed, report.failed, report.skipped
        ));
        let (blocks, ms) = (outcome.blocks, millis(outcome.elapsed));
        let line = Line { file: file.to_string_lossy(), case, network, result, reason, blocks, ms };
        let quiet = reason.is_none() && !self.args.verbose && io::stdout().is_terminal();
        if self.args.json {
            return print(&serde_json::to_string(&line)?);
        }
        if quiet {
            return Ok(());
        }
        let text = match reason {
            Some(reason) => format!("{result:<7} {}::{case}: {reason}", line.file),
            None => format!("{result:<7} {}::{case}", line.file),
        };
        self.bar.suspend(|| print(&text))
    }

    /// Prints the end. A run without a single case proves nothing, and fails.
    fn finish(mut self) -> anyhow::Result<Exit> {
        self.bar.finish_and_clear();
        let report = &mut self.report;
        report.summary = true;
        if self.args.json {
            print(&serde_json::to_string(report)?)?;
        } else {
            print(&format!(
                "{} passed, {} failed, {} skipped; {} blocks in {:.1} s",
                report.passed,
                report.failed,
                report.skipped,
                report.blocks,
                report.elapsed_ms / 1e3
            ))?;
        }
        if report.passed + report.failed + report.skipped == 0 {
            bail!("no case was chosen; look at --fork and --filter");
        }
        Ok(if report.failed == 0 { Exit::Clean } else { Exit::Failed })
    }
}

fn outcome(verdict: Verdict) -> CaseOutcome {
    CaseOutcome { verdict, blocks: 0, elapsed: Duration::ZERO }
}

/// Reads the files in order until all are read or nobody takes them any more.
fn read_ahead(files: Vec<PathBuf>, read: &Sender<ReadFile>) {
    for file in files {
        let entries = read_file(&file);
        if read.send((file, entries)).is_err() {
            return;
        }
    }
}

fn print(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
