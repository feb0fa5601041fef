//! `lab simulate`: runs thousands of histories of the failure model, or one with its trace.

use std::num::NonZeroUsize;

use clap::Args;
use serde_json::json;
use tasks::supervise::Exit;

use crate::simulate::{Campaign, CampaignReport, FaultKind, simulate as simulate_one};
use tasks::console::{OutputError, print_json, print_line, tell};

/// Options of `lab simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// The number of histories to run
    #[arg(long, value_name = "N", default_value_t = 10_000, conflicts_with = "trace")]
    pub seeds: u64,

    /// The first history's seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,

    /// The number of threads [default: all cores]
    #[arg(long, value_name = "J", conflicts_with = "trace")]
    pub jobs: Option<NonZeroUsize>,

    /// Run only the first history, and print every event of it
    #[arg(long)]
    pub trace: bool,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the histories and prints a report.
pub(super) fn simulate(args: &SimulateArgs) -> anyhow::Result<Exit> {
    if args.trace {
        return Ok(trace(args.seed)?);
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let jobs = args.jobs.map_or(cores, NonZeroUsize::get);
    let report = Campaign { first: args.seed, seeds: args.seeds, jobs, stop_at_failure: false }.run();
    if args.json {
        print_json(&as_json(&report))?;
    } else {
        print_line(as_text(&report).trim_end())?;
    }
    for failure in &report.failures {
        tell!("seed {} failed {}", failure.seed, failure.violation);
        tell!("  replay it with: lab simulate --trace --seed {}", failure.seed);
    }
    Ok(if report.violations == 0 { Exit::Clean } else { Exit::Failed })
}

fn trace(seed: u64) -> Result<Exit, OutputError> {
    let history = simulate_one(seed, true);
    for line in &history.trace {
        print_line(line)?;
    }
    let [committed, aside, refused, parked] = history.endings;
    print_line(format_args!(
        "seed {seed}: {} blocks, {} shards, {} faults, {} steps, {:?} of virtual time: {committed} committed, {aside} side blocks, {refused} refused, {parked} parked",
        history.blocks,
        history.shards,
        history.faults.len(),
        history.steps,
        history.lasted
    ))?;
    match history.violation {
        None => Ok(Exit::Clean),
        Some(violation) => {
            print_line(format_args!("VIOLATION {violation}"))?;
            Ok(Exit::Failed)
        }
    }
}

fn per_second(report: &CampaignReport) -> f64 {
    report.histories as f64 / report.elapsed.as_secs_f64().max(1e-9)
}

fn as_json(report: &CampaignReport) -> serde_json::Value {
    let [committed, aside, refused, parked] = report.endings;
    let faults: serde_json::Map<_, _> =
        report.faults.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
    let transitions: serde_json::Map<_, _> = report
        .transitions
        .iter()
        .map(|(transition, count)| (format!("{} / {:?}", transition.event, transition.state), json!(count)))
        .collect();
    json!({
        "histories": report.histories,
        "violations": report.violations,
        "seconds": report.elapsed.as_secs_f64(),
        "histories_per_second": per_second(report),
        "steps": report.steps,
        "virtual_seconds": report.virtual_time.as_secs_f64(),
        "blocks": report.blocks,
        "committed": committed,
        "side_blocks": aside,
        "refused": refused,
        "parked": parked,
        "convictions": report.counters.convictions,
        "disagreements": report.counters.disagreements,
        "verified": report.counters.verified,
        "checked": report.counters.checked,
        "faults": faults,
        "transitions": transitions,
        "failing_seeds": report.failures.iter().map(|failure| failure.seed).collect::<Vec<_>>(),
    })
}

fn as_text(report: &CampaignReport) -> String {
    let [committed, aside, refused, parked] = report.endings;
    let injected: u64 = report.faults.values().sum();
    let each = |sum: u64| sum as f64 / report.histories.max(1) as f64;
    let counters = report.counters;
    let mut text = format!(
        "{} histories in {:.1?}: {:.0} a second, {:.0} steps each, {:.0} s of virtual time\n{} violations\n",
        report.histories,
        report.elapsed,
        per_second(report),
        each(report.steps),
        report.virtual_time.as_secs_f64(),
        report.violations
    );
    text += &format!(
        "blocks: {} submitted, {committed} committed, {aside} side blocks, {refused} refused, {parked} parked ({} convictions)\n",
        report.blocks, counters.convictions
    );
    text += &format!(
        "scheduler: {} duplicated, {} equal second results, {} disagreements, {} slots retired, {} quarantines, {} released, {} verified by a second shard, {} by trusted code\n",
        counters.duplicated,
        counters.equal_results,
        counters.disagreements,
        counters.retired_slots,
        counters.quarantines,
        counters.released,
        counters.verified,
        counters.checked
    );
    text += &format!("faults: {injected}, {:.2} a history\n", each(injected));
    for kind in FaultKind::ALL {
        text += &format!("  {:<22} {}\n", kind.name(), report.faults.get(&kind).copied().unwrap_or(0));
    }
    text += &format!("transitions of the scheduler met: {}\n", report.transitions.len());
    for (transition, count) in &report.transitions {
        text += &format!("  {:<22} {:<22} {count}\n", transition.event, format!("{:?}", transition.state));
    }
    text
}
