//! Measures the cost of failover: shards that are killed, frozen or slow in the middle of large blocks,
//! each compared with an undisturbed block. It also measures the cost of an idle fleet.
//!
//! It uses real processes on loopback, and knows the binaries only by their command lines. Every block
//! is verified.

mod faults;
mod idle;
mod log;
mod stage;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use shard_tests::{Chain, Size, median, scenario};

use crate::faults::{Freeze, Kill, LOST_WITHIN_MS};

/// The least time of a block, in milliseconds, for which the limits apply.
const LARGE_MS: f64 = 200.0;

/// Measures the cost of failover.
#[derive(Debug, Clone, Parser)]
#[command(name = "failover-bench", version)]
struct Args {
    /// How often to kill one of three shards
    #[arg(long, value_name = "N", default_value_t = 50)]
    kills: usize,

    /// How often to freeze one of three shards
    #[arg(long, value_name = "N", default_value_t = 10)]
    freezes: usize,

    /// How many blocks to execute on a fleet with a slow shard, and without it
    #[arg(long, value_name = "N", default_value_t = 20)]
    slow_blocks: usize,

    /// How long to observe the idle fleet
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    idle: u64,

    /// The number of transactions of a block
    #[arg(long, value_name = "N", default_value_t = 6_000)]
    txs: u32,

    /// Measure only this part
    #[arg(long, value_name = "PART", value_enum)]
    only: Vec<Part>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The parts of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Shards that get SIGKILL.
    Kills,
    /// Shards that get SIGSTOP.
    Freezes,
    /// A shard that takes ten times as long.
    Slow,
    /// A fleet that only sends heartbeats.
    Idle,
}

/// A measured number, with its limit if it has one.
struct Figure {
    what: &'static str,
    value: f64,
    unit: &'static str,
    limit: Option<f64>,
}

impl Figure {
    const fn of(what: &'static str, value: f64, unit: &'static str) -> Self {
        Self { what, value, unit, limit: None }
    }

    const fn at_most(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    fn holds(&self) -> Option<bool> {
        self.limit.map(|limit| self.value <= limit)
    }

    fn line(&self) -> String {
        let limit = self.limit.map_or_else(|| "–".to_owned(), |limit| format!("{limit} {}", self.unit));
        let holds = match self.holds() {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        format!("| {} | {:.2} {} | {limit} | {holds} |", self.what, self.value, self.unit)
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what, "value": self.value, "unit": self.unit, "limit": self.limit, "holds": self.holds(),
        })
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let figures = scenario(|scene| measure(scene, &args))?;
    if args.json {
        let values: Vec<Value> = figures.iter().map(Figure::json).collect();
        println!("{}", json!({ "figures": values }));
        return Ok(());
    }
    println!("| what | measured | limit | holds |\n|---|---:|---:|---|");
    for figure in &figures {
        println!("{}", figure.line());
    }
    Ok(())
}

fn measure(scene: &shard_tests::Scene, args: &Args) -> Result<Vec<Figure>> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    let mut figures = Vec::new();
    let disturbed = args.kills.max(args.freezes).max(args.slow_blocks);
    eprintln!("generating a chain");
    let size = Size { blocks: disturbed * 2 + 2, txs: args.txs, gas: 400 };
    let chain = Chain::sized(size)?;
    if wanted(Part::Kills) {
        figures.extend(of_kills(&faults::kills(scene, &chain, args.kills)?)?);
    }
    if wanted(Part::Freezes) {
        figures.extend(of_freezes(&faults::freezes(scene, &chain, args.freezes)?)?);
    }
    if wanted(Part::Slow) {
        figures.extend(of_slow(&faults::slow(scene, &chain, args.slow_blocks)?)?);
    }
    if wanted(Part::Idle) {
        let share = idle::idle(scene, &chain, Duration::from_secs(args.idle))?;
        figures.push(
            Figure::of("idle: processor time of 3 shards and a coordinator", share * 100.0, "%").at_most(1.0),
        );
    }
    Ok(figures)
}

/// The median of `of` over all items.
fn middle<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    median(&all.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
}

/// The maximum of `of` over all items.
fn largest<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    all.iter().map(of).fold(0.0, f64::max)
}

/// The 90th percentile of `of` over all items.
fn most<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    let mut sorted: Vec<f64> = all.iter().map(of).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * 9).div_ceil(10).saturating_sub(1)).copied().unwrap_or_default()
}

fn of_kills(kills: &[Kill]) -> Result<Vec<Figure>> {
    ensure!(!kills.is_empty(), "no shard was killed in the middle of a block");
    let ratio = |kill: &Kill| kill.ms / kill.undisturbed_ms;
    let sum = |of: fn(&Kill) -> u64| kills.iter().map(of).sum::<u64>() as f64;
    let beyond = sum(|kill| kill.again.saturating_sub(kill.outstanding));
    let large = kills.iter().filter(|kill| kill.undisturbed_ms >= LARGE_MS).count();
    Ok(vec![
        Figure::of("SIGKILL: shards killed in the middle of a block", kills.len() as f64, ""),
        Figure::of("SIGKILL: of that, beside a block of 200 ms or more", large as f64, ""),
        Figure::of("SIGKILL: noticed after, median", middle(kills, |kill| kill.notice_ms), "ms")
            .at_most(10.0),
        Figure::of("SIGKILL: noticed after, 9 in 10", most(kills, |kill| kill.notice_ms), "ms"),
        Figure::of("SIGKILL: noticed after, longest", largest(kills, |kill| kill.notice_ms), "ms"),
        Figure::of(
            "SIGKILL: transactions that the victim had, median",
            middle(kills, |kill| kill.outstanding as f64),
            "",
        ),
        Figure::of("SIGKILL: of those executed again, median", middle(kills, |kill| kill.again as f64), ""),
        Figure::of("SIGKILL: executed again of the victim's work beyond that, in all", beyond, "")
            .at_most(0.0),
        Figure::of("SIGKILL: other shards' overdue work executed twice, in all", sum(|kill| kill.other), ""),
        Figure::of("SIGKILL: the same in the undisturbed blocks", sum(|kill| kill.usual), ""),
        Figure::of("SIGKILL: undisturbed block, median", middle(kills, |kill| kill.undisturbed_ms), "ms"),
        Figure::of(
            "SIGKILL: block time against the undisturbed one before, median",
            middle(kills, ratio),
            "times",
        )
        .at_most(1.5),
        Figure::of("SIGKILL: the same, 9 in 10", most(kills, ratio), "times"),
        Figure::of("SIGKILL: the same, longest", largest(kills, ratio), "times"),
    ])
}

fn of_freezes(freezes: &[Freeze]) -> Result<Vec<Figure>> {
    ensure!(!freezes.is_empty(), "no shard was frozen in the middle of a block");
    let ratio = |freeze: &Freeze| freeze.ms / freeze.undisturbed_ms;
    Ok(vec![
        Figure::of("SIGSTOP: shards frozen in the middle of a block", freezes.len() as f64, ""),
        Figure::of(
            "SIGSTOP: its work given to another after, median",
            middle(freezes, |freeze| freeze.duplicated_ms),
            "ms",
        ),
        Figure::of(
            "SIGSTOP: that is so many median sub-blocks",
            middle(freezes, |freeze| freeze.sub_blocks),
            "",
        ),
        Figure::of(
            "SIGSTOP: block time against the undisturbed one before, median",
            middle(freezes, ratio),
            "times",
        )
        .at_most(2.0),
        Figure::of("SIGSTOP: the same, longest", largest(freezes, ratio), "times"),
        Figure::of("SIGSTOP: declared lost after, median", middle(freezes, |freeze| freeze.lost_ms), "ms")
            .at_most(LOST_WITHIN_MS),
        Figure::of("SIGSTOP: declared lost after, longest", largest(freezes, |freeze| freeze.lost_ms), "ms")
            .at_most(LOST_WITHIN_MS),
    ])
}

fn of_slow(pairs: &[(f64, f64)]) -> Result<Vec<Figure>> {
    ensure!(!pairs.is_empty(), "no block was executed");
    let ratio = |(without, with): &(f64, f64)| with / without;
    Ok(vec![
        Figure::of("one of 3 shards 10 times slower: block, median", middle(pairs, |pair| pair.1), "ms"),
        Figure::of("the 2 others without it: block, median", middle(pairs, |pair| pair.0), "ms"),
        Figure::of(
            "one of 3 shards 10 times slower: against the 2 others, median",
            middle(pairs, ratio),
            "times",
        )
        .at_most(1.5),
        Figure::of("one of 3 shards 10 times slower: the same, 9 in 10", most(pairs, ratio), "times"),
    ])
}
