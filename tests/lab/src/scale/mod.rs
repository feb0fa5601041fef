//! The yardstick of sharding: real processes execute generated chains, and the sequential baseline
//! executes the same chains in the same run.
//!
//! With slices, each process gets the same small share of a core, so that two cores stand for many
//! machines. Then the busy shares say which process limits the fleet. Times of one round are noisy on a
//! shared machine: a figure is the median of several rounds, and modes take turns within a round.
//!
//! This module starts the shipped programs and reads their output. It measures nothing inside of them.

mod process;
mod report;
mod slice;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::generate::{ChainBuilder, Mix, TrafficOptions};
use coordinator::input::write_block;

pub use report::{Measured, table};
pub use slice::{NoSlices, Slices};

use process::{Fleet, sequential};

/// A kind of chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Plain transfers between random accounts
    Transfers,
    /// Transfers of one ERC-20 token between random accounts
    Erc20,
    /// Swaps on one pair: every transaction conflicts with the one before
    AmmHot,
    /// 60 % transfers, 30 % ERC-20, 10 % swaps
    Mixed,
}

impl Workload {
    fn mix(self) -> &'static str {
        match self {
            Self::Transfers => "transfers=100",
            Self::Erc20 => "erc20=100",
            Self::AmmHot => "amm=100",
            Self::Mixed => "transfers=60,erc20=30,amm=10",
        }
    }
}

/// The chains and the fleets to measure, and the processor time that each process gets.
#[derive(Debug, Clone)]
pub struct ScaleOptions {
    /// The kinds of chains. One chain of each kind is generated and measured.
    pub workloads: Vec<Workload>,
    /// The numbers of shards.
    pub shards: Vec<u32>,
    /// The number of blocks of each chain; the first deploys the contracts.
    pub blocks: u32,
    /// The number of transactions of each further block.
    pub txs: u32,
    /// The gas limit of each block.
    pub gas_limit: u64,
    /// The number of funded accounts.
    pub accounts: usize,
    /// How often everything is measured.
    pub rounds: u32,
    /// The share of a core that each process gets, in percent; `None` for whole cores.
    pub slice: Option<f64>,
    /// How many such shares the coordinator gets.
    pub coordinator_slices: f64,
}

/// Where the programs and a chain lie.
#[derive(Debug)]
struct Setting<'s> {
    /// The folder of the programs.
    programs: PathBuf,
    /// The folder of the chain.
    chain: PathBuf,
    slices: Option<&'s Slices>,
    options: &'s ScaleOptions,
}

/// Measures everything and passes each result on when it is complete.
///
/// # Errors
/// An error if there are no slices, a program fails, or a block does not verify.
pub fn measure(options: &ScaleOptions, mut done: impl FnMut(&Measured)) -> anyhow::Result<Vec<Measured>> {
    let slices = options.slice.map(Slices::open).transpose()?;
    let programs = std::env::current_exe().context("the path of this program is unknown")?;
    let programs = programs.parent().context("this program lies in no folder")?.to_path_buf();
    let mut all = Vec::new();
    for workload in &options.workloads {
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        let chain = folder.path().to_path_buf();
        generate(*workload, options, &chain)?;
        let setting = Setting { programs: programs.clone(), chain, slices: slices.as_ref(), options };
        let mut rows: Vec<Measured> =
            options.shards.iter().map(|shards| Measured::new(*workload, *shards)).collect();
        for _ in 0..options.rounds.max(1) {
            let baseline = sequential(&setting)?;
            for row in &mut rows {
                let fleet = Fleet::start(&setting, row.shards)?;
                let sample = fleet.submit(&setting)?;
                ensure!(
                    sample.verified == u64::from(options.blocks),
                    "{:?}: not all blocks verified",
                    workload
                );
                row.add(&baseline, &sample);
            }
        }
        rows.iter().for_each(&mut done);
        all.extend(rows);
    }
    Ok(all)
}

fn generate(workload: Workload, options: &ScaleOptions, folder: &Path) -> anyhow::Result<()> {
    let mix: Mix = workload.mix().parse().map_err(anyhow::Error::new)?;
    let ScaleOptions { gas_limit, accounts, .. } = *options;
    let mut chain = ChainBuilder::new(TrafficOptions { seed: 1, mix, accounts, chain_id: 1337, gas_limit })?;
    let genesis = std::fs::File::create(folder.join("genesis.json"))?;
    serde_json::to_writer(std::io::BufWriter::new(genesis), chain.genesis())?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(folder.join("chain.rlp"))?);
    for _ in 0..options.blocks {
        write_block(&mut out, &chain.next_block(options.txs as usize)?)?;
    }
    Ok(std::io::Write::flush(&mut out)?)
}

/// One execution of the chain by the sequential baseline.
#[derive(Debug, Clone, Copy)]
pub struct Baseline {
    /// The sum of the blocks' times.
    pub time: Duration,
    /// The number of transactions.
    pub txs: u64,
}

/// One execution of the chain by a fleet.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The time from the first submission to the last answer.
    pub time: Duration,
    /// The processor time of the coordinator.
    pub coordinator: Duration,
    /// The processor time of each shard.
    pub shards: Vec<Duration>,
    /// The bytes that crossed the loopback device, the submission of the blocks included.
    pub wire: u64,
    /// The number of verified blocks.
    pub verified: u64,
    /// The number of transactions that were executed again.
    pub reexecuted: u64,
    /// The share of a core that the coordinator had.
    pub coordinator_share: f64,
    /// The share of a core that each shard had.
    pub shard_share: f64,
}
