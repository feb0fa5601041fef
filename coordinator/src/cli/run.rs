//! `coordinator run`: executes blocks from files on its own shards.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use common::block::Block;
use common::id::Epoch;
use indicatif::{ProgressBar, ProgressStyle};
use net::wire::fleet_service;
use tasks::supervise::{Exit, Outcome, Signals, Supervisor, SupervisorHandle};
use tasks::telemetry::TelemetryArgs;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::cases::{Case, Cases, Unreadable};
use super::children::Children;
use super::fleet::FleetArgs;
use super::kills::{Kill, Killer, PlannedKills};
use super::report::{Report, Row, Status};
use super::timeline;
use crate::execute::{BlockEngine, BlockExecutor, Digests, ExecuteError, Verified};
use crate::fleet::{EventKind, Fleet, Probe};
use ledger::Ledger;
use tasks::console::millis;
use tasks::console::tell_as_program;

/// The number of shards of a run if the command line gives none.
const SHARDS: u32 = 3;

/// The longest time for shards to join and hold the state before the first block.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// The longest time after a signal for the block in flight.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Options of `coordinator run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// {block, prestate, blockHashes} JSON files (plain or gzip), or RLP chain files with --genesis
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,

    /// The chain's geth genesis.json, for chain files
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,

    /// The options of its shards and of block execution
    #[command(flatten)]
    pub fleet: FleetArgs,

    /// Kill shard SHARD with SIGKILL during the BLOCKth block, while it holds sub-blocks of it, or at the
    /// block's end if it got none (may be given more than once)
    #[arg(long, value_name = "SHARD@BLOCK", conflicts_with = "in_process")]
    pub kill: Vec<Kill>,

    /// Print one JSON object per block, and a last one with "summary": true
    #[arg(long)]
    pub json: bool,

    /// Print every event of the fleet when it happens
    #[arg(long)]
    pub timeline: bool,

    /// Write how the last 64 blocks were executed to this file, for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

impl RunArgs {
    fn shards(&self) -> u32 {
        self.fleet.shards.unwrap_or(SHARDS)
    }
}

/// Runs the blocks on shards, or on the baseline that measurements compare with.
///
/// # Errors
/// The error that stops the run. A block that fails becomes a row of the report instead.
pub async fn run(
    args: RunArgs,
    telemetry: TelemetryArgs,
    baseline: Option<Box<dyn BlockEngine>>,
) -> anyhow::Result<Exit> {
    for kill in &args.kill {
        let shards = args.shards();
        if kill.shard.0 == 0 || kill.shard.0 > shards {
            bail!(
                "--kill {}@{}: there is no shard {}; this run has shards 1 to {shards}",
                kill.shard,
                kill.block,
                kill.shard
            );
        }
    }
    if baseline.is_some() && args.trace.is_some() {
        bail!("--trace: the baseline has no shards whose work could be shown");
    }
    let cases = Cases::open(&args.inputs, args.genesis.as_deref())?;
    if let Some(count) = cases.known_count()
        && let Some(kill) = args.kill.iter().find(|kill| kill.block > count)
    {
        bail!("--kill {}@{}: the run has only {count} blocks", kill.shard, kill.block);
    }
    let mut signals = Signals::new()?;
    let supervisor = Supervisor::new("coordinator");
    let bar = progress(&args);
    let engine = match baseline {
        Some(baseline) => RunEngine::Baseline(baseline),
        None => fleet_engine(&args, &telemetry, &supervisor.handle(), &bar).await?,
    };
    let fleet = match &engine {
        RunEngine::Fleet { fleet, .. } => Some(fleet.clone()),
        RunEngine::Baseline(_) => None,
    };
    // A critical failure cancels this token too, before the failure shows in a block.
    let stop = supervisor.handle().shutdown_token().child_token();
    let task = FileRun { args, engine, cases, bar, ordinal: 0, world: None, stop: stop.clone() };
    let mut job = tokio::task::spawn_blocking(move || task.run());
    let exit = tokio::select! {
        done = &mut job => done.context("the run panicked")??,
        outcome = supervisor.run_until_stopped(signals.next()) => {
            stop.cancel();
            if let Some(Err(error)) = fleet.map(|fleet| fleet.wait_no_longer()) {
                tracing::debug!(%error, "the fleet has ended already");
            }
            // The block in flight is finished, and the results so far are printed.
            let done = tokio::select! {
                done = &mut job => done.context("the run panicked")?.map(|_| ()),
                _ = signals.next() => Ok(()),
                () = tokio::time::sleep(STOP_WITHIN) => Ok(()),
            };
            match outcome {
                Outcome::Failed(failure) => bail!("{failure}"),
                Outcome::Stopped(reason) => {
                    done?;
                    tell_as_program!("{reason}: stopped before every block was executed");
                    Exit::DrainedLate
                }
            }
        }
    };
    let drained = supervisor.drain(Duration::from_secs(5), signals.next()).await;
    Ok(if exit == Exit::Clean { drained.exit() } else { exit })
}

/// A progress bar on a terminal, nothing in a pipe.
fn progress(args: &RunArgs) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {pos} blocks, {elapsed} {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    if args.inputs.len() > 1 {
        bar.set_length(args.inputs.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} blocks, {eta} left {msg}") {
            bar.set_style(style);
        }
    }
    bar
}

/// Starts the fleet and its shards.
async fn fleet_engine(
    args: &RunArgs,
    telemetry: &TelemetryArgs,
    supervisor: &SupervisorHandle,
    bar: &ProgressBar,
) -> anyhow::Result<RunEngine> {
    let crew = args.fleet.crew(SHARDS, telemetry)?;
    let kills = Arc::new(PlannedKills::default());
    let probe = Arc::clone(&kills) as Arc<dyn Probe>;
    let fleet = Fleet::start_probed(Epoch::first(), args.fleet.options(), Some(probe), supervisor)?;
    let stop = supervisor.shutdown_token();
    let all = args.timeline;
    supervisor.spawn_critical("timeline", timeline::tell(fleet.events(), bar.clone(), all, stop));
    let bound = crew.bind(None).await?;
    let routes = Routes::new(fleet_service(fleet.endpoint(), fleet.admission(), supervisor.shutdown_token()));
    let children = crew.start(&fleet, bound, routes, supervisor)?;
    let executor = BlockExecutor::new(fleet.clone(), args.fleet.execute.options());
    Ok(RunEngine::Fleet { fleet, executor: Box::new(executor), children, kills })
}

/// The engine that executes the blocks.
enum RunEngine {
    Baseline(Box<dyn BlockEngine>),
    Fleet { fleet: Fleet, executor: Box<BlockExecutor>, children: Option<Children>, kills: Arc<PlannedKills> },
}

/// The run itself, which runs on its own thread.
struct FileRun {
    args: RunArgs,
    engine: RunEngine,
    cases: Cases,
    bar: ProgressBar,
    ordinal: u64,
    /// The ledger that the fleet currently executes on.
    world: Option<Arc<Ledger>>,
    /// Cancelled when the run must stop after the block in flight.
    stop: CancellationToken,
}

impl FileRun {
    /// Executes every block. The results so far are printed, however the run ends.
    fn run(mut self) -> anyhow::Result<Exit> {
        let mut report = Report::new(self.args.json);
        let done = self.blocks(&mut report);
        self.bar.finish_and_clear();
        let verified = report.finish()?;
        let traced = self.write_trace();
        done?;
        traced?;
        Ok(if verified { Exit::Clean } else { Exit::Failed })
    }

    /// Writes how the latest blocks were executed, if that was asked for.
    fn write_trace(&self) -> anyhow::Result<()> {
        let Some(file) = &self.args.trace else { return Ok(()) };
        let RunEngine::Fleet { fleet, .. } = &self.engine else { return Ok(()) };
        let trace = fleet.trace_all().context("--trace: no block was executed")?;
        std::fs::write(file, trace.to_string())
            .with_context(|| format!("{} cannot be written", file.display()))
    }

    fn blocks(&mut self, report: &mut Report) -> anyhow::Result<()> {
        let mut broken: Option<Arc<Ledger>> = None;
        let mut ahead = None;
        while let Some(case) = ahead.take().or_else(|| self.cases.next()) {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            self.ordinal += 1;
            if self.cases.is_in_chain() {
                ahead = self.cases.next();
                self.announce(&ahead);
            }
            let row = match case {
                Ok(case) => {
                    // The blocks after a rejected block of a chain have no parent.
                    if broken.as_ref().is_some_and(|ledger| Arc::ptr_eq(ledger, &case.ledger)) {
                        continue;
                    }
                    let row = match self.execute(&case) {
                        // The fleet may have ended during the block; then the error is not a verdict on the
                        // block.
                        Ok(row) if row.error.is_some() && self.stop.is_cancelled() => return Ok(()),
                        Err(_) if self.stop.is_cancelled() => return Ok(()),
                        row => row?,
                    };
                    if !row.verified {
                        broken = Some(case.ledger);
                    }
                    row
                }
                Err(unreadable) => unreadable_row(unreadable.file.display().to_string(), &unreadable.error),
            };
            if let Some(error) = &row.error {
                self.bar.suspend(|| tell_as_program!("{}", complaint(&row.file, row.number, error)));
            }
            report.add(&row)?;
            self.bar.inc(1);
        }
        if let Some(unused) = self.args.kill.iter().find(|kill| kill.block > self.ordinal) {
            bail!("--kill {}@{}: the run has only {} blocks", unused.shard, unused.block, self.ordinal);
        }
        Ok(())
    }

    /// Announces the next block of the chain to the engine.
    fn announce(&mut self, next: &Option<Result<Case, Unreadable>>) {
        if let (RunEngine::Fleet { executor, .. }, Some(Ok(case))) = (&mut self.engine, next)
            && let Ok(block) = &case.checked
        {
            executor.announce_next(block);
        }
    }

    /// Executes one block. An error is fatal. A block that fails is a row with the reason.
    fn execute(&mut self, case: &Case) -> anyhow::Result<Row> {
        let mut row = empty_row(case);
        let ordinal = self.ordinal;
        let wanted_kills: Vec<Kill> =
            self.args.kill.iter().filter(|kill| kill.block == ordinal).copied().collect();
        let loading = Instant::now();
        let done = match &mut self.engine {
            RunEngine::Baseline(baseline) => {
                row.load_ms = millis(case.load);
                without_fleet(case, baseline.as_mut())
            }
            RunEngine::Fleet { fleet, executor, children, kills } => {
                let new_world = self.world.as_ref().is_none_or(|world| !Arc::ptr_eq(world, &case.ledger));
                if new_world {
                    fleet.set_world(Arc::clone(&case.ledger))?;
                    self.world = Some(Arc::clone(&case.ledger));
                }
                let wanted =
                    if new_world || !wanted_kills.is_empty() { self.args.shards() as usize } else { 1 };
                fleet.wait_ready(wanted, JOIN_WITHIN)?;
                row.load_ms = millis(case.load + loading.elapsed());
                if let Some(children) = children {
                    for kill in &wanted_kills {
                        kills.plan(kill.shard, killer(*kill, children)?);
                    }
                }
                let done = on_fleet(case, fleet, executor);
                for shard in kills.end_block() {
                    let (height, text) = (Some(case.block.header.number), "it got no sub-block");
                    fleet.announce_shard(EventKind::PlannedKill, shard, height, text.into());
                }
                done
            }
        };
        match done {
            Ok(verified) => fill(&mut row, &case.block, &verified),
            Err(error) => row.error = Some(format!("{error:#}")),
        }
        Ok(row)
    }
}

/// A message that names the file and the block, each once.
pub(super) fn complaint(file: &str, number: Option<u64>, error: &str) -> String {
    let mut text = error.to_owned();
    if let Some(number) = number.filter(|number| !text.contains(&format!("block {number}"))) {
        text = format!("block {number}: {text}");
    }
    if text.contains(file) { text } else { format!("{file}: {text}") }
}

fn killer(kill: Kill, children: &Children) -> anyhow::Result<Killer> {
    children.killer(kill.shard).with_context(|| format!("there is no shard {}", kill.shard))
}

fn on_fleet(case: &Case, fleet: &Fleet, executor: &mut BlockExecutor) -> anyhow::Result<Verified> {
    let height = Some(case.block.header.number);
    let verified = match execute_on(case, &mut *executor) {
        Ok(verified) => verified,
        Err(error) => {
            let kind = if error.is_invalid_block() { EventKind::BlockRefused } else { EventKind::Alarm };
            fleet.announce(kind, height, error.to_string());
            return Err(error.into());
        }
    };
    // A stand-alone pre-state ends with its block, so committing that block has no use.
    if case.ledger.is_complete() {
        case.ledger.commit(&verified.tip)?;
        verified.tip.delta().map_or(Ok(()), |delta| fleet.advance(delta))?;
    }
    let stats = verified.stats;
    let text = format!(
        "{} transactions in {:.1} ms, {} sub-blocks, {} reassigned",
        case.block.transactions.len(),
        millis(stats.elapsed),
        stats.sub_blocks,
        stats.reassigned
    );
    fleet.announce(EventKind::BlockCommitted, height, text);
    Ok(verified)
}

fn execute_on(case: &Case, engine: &mut dyn BlockEngine) -> Result<Verified, ExecuteError> {
    let block = case.checked.clone()?;
    engine.execute(&block, case.ledger.spec(), &case.ledger.head())
}

fn without_fleet(case: &Case, baseline: &mut dyn BlockEngine) -> anyhow::Result<Verified> {
    let verified = execute_on(case, baseline)?;
    if case.ledger.is_complete() {
        case.ledger.commit(&verified.tip)?;
    }
    Ok(verified)
}

fn empty_row(case: &Case) -> Row {
    let header = &case.block.header;
    Row {
        file: case.file.display().to_string(),
        number: Some(header.number),
        hash: Some(case.block.hash.to_string()),
        fork: Some(case.ledger.spec().fork_name(header).into()),
        txs: case.block.transactions.len(),
        ..Row::default()
    }
}

fn unreadable_row(file: String, error: &anyhow::Error) -> Row {
    Row { file, error: Some(format!("{error:#}")), ..Row::default() }
}

fn fill(row: &mut Row, block: &Block, verified: &Verified) {
    let Verified { tip, finished, state_root, stats } = verified;
    row.verified = true;
    row.gas_used = finished.gas_used.0;
    row.ms = millis(stats.elapsed);
    row.mgas_per_s = (finished.gas_used.0 as f64 / row.ms.max(0.001)).round() / 1e3;
    row.recovery_ms = millis(stats.recovery);
    row.execution_ms = millis(stats.execution);
    row.sub_blocks = stats.sub_blocks;
    row.verified_sub_blocks = stats.verified_sub_blocks;
    row.reexecuted = stats.reexecuted;
    row.reassigned = stats.reassigned;
    row.receipts_root = finished.rooted.then(|| block.header.receipts_root.to_string());
    row.state_root = state_root.map(|root| root.to_string());
    let digests = Digests::of(finished, tip);
    row.receipts_digest = Some(digests.receipts.to_string());
    row.delta_digest = digests.delta.map(|digest| digest.to_string());
    row.status = Status::Verified;
}
