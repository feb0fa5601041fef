//! The chaos run as a command: real processes, proxies between them, and faults drawn from a seed.
//!
//! The exit code is 0 only if every chain is confirmed and a fault explains every incident.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shard_tests::{ChaosOptions, chaos, scenario};

/// Makes a coordinator and shards execute blocks while processes are killed and frozen and connections
/// are cut, delayed, narrowed and reset; then confirms the result with alloy-evm's executor.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many minutes of faults; generating and checking chains takes additional time
    #[arg(long, value_name = "M", default_value_t = 10)]
    minutes: u64,

    /// The seed of all random choices
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// The number of shards
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    shards: u32,

    /// The number of blocks of each chain; when one chain is done, the next one begins
    #[arg(long, value_name = "N", default_value_t = 3000)]
    blocks: usize,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Arguments { minutes, seed, shards, blocks, json } = Arguments::parse();
    let duration = Duration::from_secs(minutes * 60);
    let options = ChaosOptions { seed, duration, blocks, chains: usize::MAX, shards };
    let end = scenario(|scene| {
        let (summary, end) = chaos(scene, &options);
        if json {
            println!("{}", summary.to_json());
        } else {
            print!("{summary}");
        }
        end
    });
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            eprintln!(
                "the same plan again: scripts/chaos.sh --minutes {minutes} --seed {seed} --shards {shards} --blocks {blocks}"
            );
            ExitCode::FAILURE
        }
    }
}
