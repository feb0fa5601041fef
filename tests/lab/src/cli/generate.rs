//! `lab generate`: generates a chain for demos, tests and benchmarks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tasks::supervise::Exit;

use crate::generate::{ChainBuilder, GAS_LIMIT, Mix, TrafficOptions};
use coordinator::input::write_block;
use ledger::Replacement;
use tasks::console::tell;

/// Options of `lab generate`.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// The folder for genesis.json and chain.rlp, which is created if missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// The number of blocks; the first deploys the contracts
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub blocks: u32,

    /// The number of transactions in each further block, as far as its gas limit allows
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub txs: u32,

    /// The weights of the kinds of transactions
    #[arg(long, value_name = "MIX", default_value_t = Mix::default())]
    pub mix: Mix,

    /// The seed of all random choices
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// The number of funded accounts
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub accounts: usize,

    /// The gas limit of every block
    #[arg(long, value_name = "GAS", default_value_t = GAS_LIMIT, value_parser = clap::value_parser!(u64).range(GAS_LIMIT..=10_000_000_000))]
    pub gas_limit: u64,

    /// Begin each further block with a heavy transaction: a call of BLAKE2F with this many rounds, of one
    /// gas each. About 100 million rounds take a second
    #[arg(long, value_name = "ROUNDS")]
    pub heavy: Option<u32>,

    /// The chain id
    #[arg(long, value_name = "ID", default_value_t = 1337)]
    pub chain_id: u64,
}

/// Generates the chain. The files get their names only when they are complete.
pub(super) fn generate(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let GenerateArgs { out, blocks, txs, mix, seed, accounts, gas_limit, heavy, chain_id } = args.clone();
    let mut chain = ChainBuilder::new(TrafficOptions { seed, mix, accounts, chain_id, gas_limit })?;
    if let Some(rounds) = heavy {
        chain = chain.with_heavy(rounds);
    }
    fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    let bar = ProgressBar::new(u64::from(blocks));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} blocks, {eta} left") {
        bar.set_style(style);
    }
    let (genesis_path, chain_path) = (out.join("genesis.json"), out.join("chain.rlp"));
    let begin = |path: &Path| {
        Replacement::create(path).with_context(|| format!("{} cannot be written", path.display()))
    };
    let (mut genesis, mut writer) = (begin(&genesis_path)?, begin(&chain_path)?);
    serde_json::to_writer_pretty(&mut genesis, chain.genesis())?;
    let (mut transactions, mut gas) = (0, 0);
    for _ in 0..blocks {
        let block = chain.next_block(txs as usize)?;
        transactions += block.transactions.len();
        gas += block.header.gas_used;
        write_block(&mut writer, &block)?;
        bar.inc(1);
    }
    genesis.commit().context("the genesis file cannot be written")?;
    writer.commit().context("the chain file cannot be written")?;
    bar.finish_and_clear();
    tell!(
        "{}: {blocks} blocks, {transactions} transactions, {:.1} Mgas (mix {mix}, seed {seed})",
        chain_path.display(),
        gas as f64 / 1e6
    );
    Ok(Exit::Clean)
}
