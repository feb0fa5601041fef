//! `lab scale` and `lab bench`: how much faster a fleet is than sequential execution.

use anyhow::ensure;
use clap::Args;
use serde_json::json;
use tasks::console::{print_json, print_line, tell};
use tasks::supervise::Exit;

use crate::scale::{Measured, ScaleOptions, Workload, measure, table};

/// The options that both commands share.
#[derive(Debug, Clone, Args)]
pub struct FleetSizes {
    /// The chains
    #[arg(
        long,
        value_name = "CHAIN",
        value_enum,
        value_delimiter = ',',
        default_value = "transfers,erc20,mixed"
    )]
    pub workload: Vec<Workload>,

    /// The numbers of blocks in each chain; the first deploys the contracts
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub blocks: u32,

    /// The number of transactions in each further block, as far as its gas limit allows
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub txs: u32,

    /// The gas limit of every block
    #[arg(long, value_name = "GAS", default_value_t = 100_000_000, value_parser = clap::value_parser!(u64).range(60_000_000..=10_000_000_000))]
    pub gas_limit: u64,

    /// The number of funded accounts
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub accounts: usize,

    /// How often everything is measured; figures are medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,

    /// Print one JSON line per result instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Options of `lab scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// The numbers of shards, each a process with one thread
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: Vec<u32>,

    /// The share of a core that each process gets, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 8.0)]
    pub slice: f64,

    /// The number of such shares that the coordinator gets
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    pub coordinator_slices: f64,

    /// The chains and the rounds
    #[command(flatten)]
    pub sizes: FleetSizes,
}

/// Options of `lab bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// The numbers of shards, each a process with one thread
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: Vec<u32>,

    /// The chains and the rounds
    #[command(flatten)]
    pub sizes: FleetSizes,
}

fn options(
    sizes: &FleetSizes,
    shards: Vec<u32>,
    slice: Option<f64>,
    coordinator_slices: f64,
) -> ScaleOptions {
    let FleetSizes { blocks, txs, gas_limit, accounts, rounds, .. } = *sizes;
    let workloads = sizes.workload.clone();
    ScaleOptions { workloads, shards, blocks, txs, gas_limit, accounts, rounds, slice, coordinator_slices }
}

pub(super) fn scale(args: &ScaleArgs) -> anyhow::Result<Exit> {
    ensure!(args.coordinator_slices > 0.0, "--coordinator-slices must be above 0");
    let options = options(&args.sizes, args.shards.clone(), Some(args.slice), args.coordinator_slices);
    run(&options, args.sizes.json)
}

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<Exit> {
    run(&options(&args.sizes, args.shards.clone(), None, 1.0), args.sizes.json)
}

fn run(options: &ScaleOptions, as_json: bool) -> anyhow::Result<Exit> {
    let json = |row: &Measured| {
        let (low, high) = row.spread();
        json!({ "chain": format!("{:?}", row.workload), "shards": row.shards, "figures": row.medians(),
                "lowest_speed_up": low, "highest_speed_up": high })
    };
    let rows = measure(options, |row| {
        let figures = row.medians();
        tell!(
            "{:?}, {} shards: {:.2} times as fast, the coordinator {:.0} % busy",
            row.workload,
            row.shards,
            figures.speed_up,
            figures.coordinator_busy * 100.0
        );
    })?;
    if as_json {
        rows.iter().try_for_each(|row| print_json(&json(row)))?;
    } else {
        print_line(table(&rows).trim_end())?;
    }
    Ok(Exit::Clean)
}
