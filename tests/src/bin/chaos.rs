//! The chaos run as a command: real processes, proxies between them, faults from a seed.
//!
//! Exit code 0 only if every chain is confirmed and nothing happened that no fault explains.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shard_tests::{ChaosOptions, chaos, scenario};

/// Has a coordinator and shards execute blocks while processes are killed and frozen and connections
/// are cut, delayed, narrowed and reset; then has alloy-evm's executor confirm the result.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long blocks are executed under faults; chains are generated and checked besides
    #[arg(long, value_name = "M", default_value_t = 10)]
    minutes: u64,

    /// What everything is drawn from
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// How many shards
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=16))]
    shards: u32,

    /// Blocks of each chain: when one is executed, the next one begins
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
