//! Embeds coordinator and shards in one process: imports a chain file with two in-process shards.
//!
//! `cargo run --release --example embed -- GENESIS.json CHAIN.rlp`

use common::id::{Epoch, Incarnation, ShardId};
use common::token::SessionToken;
use coordinator::execute::{BlockExecutor, ExecuteOptions};
use coordinator::fleet::{Fleet, FleetOptions};
use coordinator::import::{ForkChoice, Importer};
use coordinator::input::{ChainReader, read_genesis};
use executor_shard::node::NodeConfig;
use ledger::Ledger;
use std::{path::Path, sync::Arc, time::Duration};
use tasks::supervise::SupervisorHandle;

fn import(genesis: &Path, chain: &Path, supervisor: &SupervisorHandle) -> anyhow::Result<()> {
    let fleet = Fleet::start(Epoch::first(), FleetOptions::default(), supervisor)?;
    for shard in 1..=2 {
        fleet.start_local(NodeConfig {
            shard: ShardId(shard),
            incarnation: Incarnation::fresh(),
            slots: 1,
            advertise: String::new(), // empty: within this process
            lost_after: Duration::from_secs(1),
            chain_id: None,
            token: SessionToken::fresh(),
        });
    }
    let ledger = Arc::new(Ledger::begin(read_genesis(genesis)?.into())?);
    let executor = BlockExecutor::new(fleet.clone(), ExecuteOptions::default());
    let mut importer = Importer::new(fleet.clone(), executor, ledger, ForkChoice::default())?;
    fleet.wait_ready(2, Duration::from_secs(30))?;
    for block in ChainReader::open(chain)? {
        importer.import(block?)?; // checked, executed, verified, committed
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut paths = std::env::args_os().skip(1).map(std::path::PathBuf::from);
    let (Some(genesis), Some(chain)) = (paths.next(), paths.next()) else {
        anyhow::bail!("usage: embed GENESIS.json CHAIN.rlp");
    };
    let supervisor = tasks::supervise::Supervisor::new("embed");
    let handle = supervisor.handle();
    let imported = tokio::task::spawn_blocking(move || import(&genesis, &chain, &handle)).await?;
    let drained = supervisor.drain(Duration::from_secs(5), std::future::pending()).await;
    imported?;
    anyhow::ensure!(drained.is_clean(), "the shards did not end cleanly: {drained:?}");
    println!("imported");
    Ok(())
}
