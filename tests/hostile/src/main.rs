//! `hostile`: feeds every decoder with hostile bytes for a while, and reports what it has stood.

use std::alloc::System;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use common::codec::payload_digest;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use hostile::measure::keep_panics;
use hostile::run::{Limits, Report, corpus_of, feed};
use hostile::target;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Feeds every decoder that a peer or a file can reach with damaged and invented bytes. An input that makes one
/// panic, allocate far more than it was given, or take long is kept in tests/hostile/corpus, and the command fails.
#[derive(Debug, Parser)]
#[command(name = "hostile", version)]
struct Args {
    /// Only the targets whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,

    /// The number of mutated inputs of each target
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    executions: u64,

    /// The longest time for each target
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u64,

    /// The seed of the mutations
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,

    /// A folder of inputs to begin with, one folder for each target. Those that have reached new code are added, if
    /// this is a guided build (scripts/hostile.sh --guided)
    #[arg(long, value_name = "FOLDER")]
    corpus: Option<PathBuf>,

    /// Print one JSON object for each target
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    keep_panics();
    // In memory where there is such a folder: the targets of files write each input.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let limits = Limits { executions: args.executions, time: Duration::from_secs(args.seconds) };
    let (mut executions, mut elapsed, mut failed) = (0, Duration::ZERO, Vec::new());
    if !args.json {
        println!(
            "{:<22} {:>11} {:>8} {:>9} {:>12} {:>10} {:>9} {:>7}",
            "target", "executions", "s", "accepted", "allocated", "longest", "branches", "inputs"
        );
    }
    let targets = target::all(folder.path())?;
    for target in targets.iter().filter(|target| target.name.contains(&args.only)) {
        let corpus = args.corpus.as_ref().map(|corpus| corpus.join(target.name));
        let report = feed(target, limits, args.seed, corpus.as_deref(), ALLOCATOR);
        print(&report, args.json);
        if let (Some(corpus), Some(_)) = (corpus, report.reached) {
            let pool = report.pool.iter().skip(target.valid.len());
            pool.filter(|input| !input.is_empty()).try_for_each(|input| store(&corpus, input).map(drop))?;
        }
        (executions, elapsed) = (executions + report.executions, elapsed + report.elapsed);
        failed.extend(keep(&report)?);
    }
    if !args.json {
        println!("{executions} executions in {:.0} s", elapsed.as_secs_f64());
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

fn print(report: &Report, json: bool) {
    let Report { target, executions, accepted, elapsed, most_allocated, longest, reached, pool, found } =
        report;
    let (seconds, longest) = (elapsed.as_secs_f64(), longest.as_secs_f64() * 1e3);
    if json {
        let finding = found.as_ref().map(|(finding, _)| finding.to_string());
        println!(
            "{}",
            serde_json::json!({
                "target": target, "executions": executions, "seconds": seconds, "accepted": accepted,
                "most_allocated_bytes": most_allocated, "longest_ms": longest, "branches": reached,
                "inputs": pool.len(), "finding": finding,
            })
        );
    } else {
        println!(
            "{target:<22} {executions:>11} {seconds:>8.1} {accepted:>9} {most_allocated:>12} {longest:>7.1} ms \
             {:>9} {:>7}",
            reached.map_or_else(|| "-".into(), |reached| reached.to_string()),
            pool.len()
        );
    }
}

/// Keeps the input of a finding. Returns what was found, and where it is kept.
fn keep(report: &Report) -> Result<Option<String>> {
    let Some((finding, input)) = &report.found else { return Ok(None) };
    let path = store(&corpus_of(report.target), input)?;
    Ok(Some(format!("{}: {finding}; its input is {}", report.target, path.display())))
}

/// Writes an input to a folder, under a name that says nothing but which input it is.
fn store(folder: &Path, input: &[u8]) -> Result<PathBuf> {
    let name = format!("{:.16}", payload_digest(input).to_string().trim_start_matches("0x").to_owned());
    let path = folder.join(name);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, input))
        .with_context(|| format!("{}", path.display()))?;
    Ok(path)
}
