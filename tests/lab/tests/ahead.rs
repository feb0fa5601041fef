//! The recovery of the next block's senders while a block executes: whatever is expected, and whatever a
//! shard answers, every block ends as its header says.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use common::block::CheckedBlock;
use common::id::{Epoch, Incarnation, ShardId};
use common::token::SessionToken;
use coordinator::execute::{BlockExecutor, ExecuteOptions};
use coordinator::fleet::{Fleet, FleetOptions};
use coordinator::import::{ForkChoice, Importer};
use coordinator::input::read_genesis;
use executor_shard::fault::PlannedFault;
use executor_shard::node::NodeConfig;
use lab::generate::{ChainBuilder, Mix, TrafficOptions};
use ledger::Ledger;
use tasks::supervise::Supervisor;

const BLOCKS: usize = 8;

struct Scene {
    ledger: Arc<Ledger>,
    blocks: Vec<CheckedBlock>,
}

fn scene() -> Scene {
    let mix: Mix = "transfers=60,erc20=30,amm=10".parse().unwrap();
    let options = TrafficOptions { seed: 5, mix, accounts: 200, chain_id: 1337, gas_limit: 60_000_000 };
    let mut chain = ChainBuilder::new(options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let genesis = folder.path().join("genesis.json");
    std::fs::write(&genesis, serde_json::to_vec(chain.genesis()).unwrap()).unwrap();
    let ledger = Arc::new(Ledger::begin(read_genesis(&genesis).unwrap().into()).unwrap());
    let blocks = (0..BLOCKS).map(|_| CheckedBlock::new(chain.next_block(150).unwrap()).unwrap()).collect();
    Scene { ledger, blocks }
}

/// Imports the chain on two shards, the second with faults. `expected` says which block is announced
/// before the block at an index.
fn import(scene: &Scene, faults: &[&str], expected: impl Fn(usize) -> Option<usize>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let supervisor = Supervisor::new("test");
    let fleet = Fleet::start(Epoch::first(), FleetOptions::default(), &supervisor.handle()).unwrap();
    for (shard, faults) in [(1, &[][..]), (2, faults)] {
        let node = NodeConfig {
            shard: ShardId(shard),
            incarnation: Incarnation::fresh(),
            slots: 1,
            advertise: String::new(),
            lost_after: FleetOptions::default().peer.lost_after,
            chain_id: None,
            token: SessionToken::fresh(),
        };
        let faults: Vec<PlannedFault> = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        fleet.start_local_with(node, faults);
    }
    let executor = BlockExecutor::new(fleet.clone(), ExecuteOptions::default());
    let ledger = Arc::clone(&scene.ledger);
    let mut importer = Importer::new(fleet.clone(), executor, ledger, ForkChoice::default()).unwrap();
    fleet.wait_ready(2, Duration::from_secs(60)).unwrap();
    for (index, block) in scene.blocks.iter().enumerate() {
        if let Some(next) = expected(index).and_then(|next| scene.blocks.get(next)) {
            importer.announce_next(next);
        }
        let imported = importer.import_checked(block).unwrap().unwrap();
        assert_eq!(imported.tip.state_root(), Some(block.header.state_root), "block {index}");
    }
    let drained = runtime.block_on(supervisor.drain(Duration::from_secs(30), std::future::pending()));
    assert!(drained.is_clean(), "{drained:?}");
}

#[test]
fn the_next_block_is_recovered_ahead() {
    import(&scene(), &[], |index| Some(index + 1));
}

#[test]
fn an_expected_block_need_not_come_next_or_at_all() {
    // The block itself, one much later, one that came before, and none.
    let announced = |index: usize| match index % 4 {
        0 => Some(index),
        1 => Some(BLOCKS - 1),
        2 => Some(index - 1),
        _ => None,
    };
    import(&scene(), &[], announced);
}

#[test]
fn a_lie_about_the_next_blocks_senders_never_counts() {
    import(&scene(), &["wrong@4+"], |index| Some(index + 1));
}

#[test]
fn a_worker_that_panics_at_the_next_block_costs_nothing_but_time() {
    import(&scene(), &["panic@5", "panic@9"], |index| Some(index + 1));
}
