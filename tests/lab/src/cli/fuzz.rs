//! `lab fuzz`: the differential fuzzer on the command line.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tasks::supervise::Exit;

use crate::fuzz::{Feature, Fork, FuzzOptions, FuzzSummary, Scope, fuzz};
use crate::plan::LabPlan;
use tasks::console::{print_json, print_line};

/// The number of seeds if the command line sets no bound.
const USUAL_SEEDS: u64 = 1_000;

/// Options of `lab fuzz`.
#[derive(Debug, Clone, Args)]
pub struct FuzzArgs {
    /// The first seed; the others follow it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// The number of seeds, each a chain of a few blocks [default: 1000, unless another bound is given]
    #[arg(long, value_name = "N", help_heading = "How much (the first bound that is reached)")]
    pub seeds: Option<u64>,

    /// Stop once this many transactions were compared
    #[arg(long, value_name = "N", help_heading = "How much (the first bound that is reached)")]
    pub transactions: Option<u64>,

    /// Stop after this many minutes
    #[arg(long, value_name = "M", help_heading = "How much (the first bound that is reached)",
        value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub minutes: Option<u64>,

    /// Only this fork, by name: frontier … osaka [default: each seed chooses]
    #[arg(long, value_name = "NAME")]
    pub fork: Option<Fork>,

    /// Only this plan: auto, one, each, random:SEED or poison:SEED [default: each block chooses two]
    #[arg(long, value_name = "PLAN")]
    pub plan: Option<LabPlan>,

    /// The number of threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub jobs: Option<u16>,

    /// Print the summary as one line of JSON
    #[arg(long)]
    pub json: bool,
}

impl FuzzArgs {
    fn options(&self) -> FuzzOptions {
        let unbounded = self.transactions.is_none() && self.minutes.is_none();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        FuzzOptions {
            seed: self.seed,
            scope: Scope {
                seeds: self.seeds.or(unbounded.then_some(USUAL_SEEDS)),
                transactions: self.transactions,
                time: self.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
            },
            fork: self.fork,
            plan: self.plan,
            jobs: self.jobs.map_or(cores, usize::from),
        }
    }
}

/// Runs the fuzzer. Fails if there is a difference.
pub(super) fn run(args: &FuzzArgs) -> anyhow::Result<Exit> {
    let options = args.options();
    let bar = bar(&options.scope);
    let by_transactions = options.scope.seeds.is_none();
    let summary = with_quiet_panics(|| {
        fuzz(&options, &|summary| {
            bar.set_position(if by_transactions { summary.report.transactions } else { summary.seeds });
            bar.set_message(rate(summary));
        })
    })?;
    bar.finish_and_clear();
    if args.json {
        print_json(&json(&summary))?;
    } else {
        print_line(text(&summary).trim_end())?;
    }
    match summary.difference {
        None => Ok(Exit::Clean),
        Some(difference) => bail!("{difference}"),
    }
}

/// Runs `work` without panic messages: a panic within a seed is caught and reported as a difference.
fn with_quiet_panics<T>(work: impl FnOnce() -> T) -> T {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = work();
    std::panic::set_hook(usual);
    result
}

/// A progress bar on standard error, if that is a terminal.
fn bar(scope: &Scope) -> ProgressBar {
    let (length, unit) = match (scope.seeds, scope.transactions) {
        (Some(seeds), _) => (Some(seeds), "seeds"),
        (None, Some(transactions)) => (Some(transactions), "transactions"),
        (None, None) => (None, "seeds"),
    };
    let bar = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = match length {
        Some(_) => format!("{{bar:30}} {{pos}}/{{len}} {unit}, {{msg}}, {{eta}} left"),
        None => format!("{{spinner}} {{pos}} {unit}, {{msg}}, {{elapsed}}"),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-6)
}

fn rate(summary: &FuzzSummary) -> String {
    let FuzzSummary { report, elapsed, .. } = summary;
    let (blocks, transactions) =
        (per_second(report.blocks, *elapsed), per_second(report.transactions, *elapsed));
    format!("{blocks:.0} blocks/s, {transactions:.0} transactions/s")
}

fn text(summary: &FuzzSummary) -> String {
    let FuzzSummary { seeds, report, difference, elapsed } = summary;
    let mut text = format!(
        "{seeds} seeds, {} blocks ({} refused), {} transactions in {:.1} s: {}\n\
         {} executions of blocks by the system, {} transactions executed again\n",
        report.blocks,
        report.refused,
        report.transactions,
        elapsed.as_secs_f64(),
        rate(summary),
        report.executions,
        report.reexecuted,
    );
    for feature in Feature::ALL {
        text += &format!("  {:>10}  {}\n", report.coverage.of(*feature), feature.text());
    }
    text + if difference.is_none() { "no difference\n" } else { "" }
}

fn json(summary: &FuzzSummary) -> serde_json::Value {
    let FuzzSummary { seeds, report, difference, elapsed } = summary;
    let coverage: serde_json::Map<_, _> = Feature::ALL
        .iter()
        .map(|feature| (feature.name().to_owned(), report.coverage.of(*feature).into()))
        .collect();
    let difference = difference.as_ref().map(|found| {
        serde_json::json!({
            "seed": found.seed,
            "fork": found.fork.name(),
            "plan": found.plan.map(|plan| plan.to_string()),
            "block": found.block,
            "transactions": found.transactions,
            "field": found.mismatch.field,
            "system": found.mismatch.system,
            "baseline": found.mismatch.baseline,
            "replay": found.replay(),
        })
    });
    serde_json::json!({
        "summary": true,
        "seeds": seeds,
        "blocks": report.blocks,
        "refused": report.refused,
        "transactions": report.transactions,
        "executions": report.executions,
        "reexecuted": report.reexecuted,
        "seconds": elapsed.as_secs_f64(),
        "coverage": coverage,
        "difference": difference,
    })
}
