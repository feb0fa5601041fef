//! The failure model, row by row. Each test injects a fault in real processes and asserts the
//! consequences. It records two times: until the fault was noticed, and until the interrupted work was
//! done. `scripts/failure-table.sh` makes a table of them.
//!
//! | row | file |
//! |---|---|
//! | shards that die, freeze, are cut off, diverge | `shards` |
//! | work that panics, hangs, is late, damaged, wrong, delivered twice, or kills | `work` |
//! | the coordinator, its clients and its disk | `coordinator` |

mod coordinator;
mod shards;
mod work;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use shard_tests::{Chain, Coordinator, Moment, Process, Scene, Shard, Size, slowness, wait_until, within};

/// A chain whose blocks are large enough for an event in the middle of one. On a busy machine it has
/// more blocks, because the test that watches them also gets less time.
fn large() -> Size {
    let more = ((slowness() - 1.0) * 4.0).ceil().min(8.0);
    Size { blocks: 8 + more as usize, txs: 1_200, gas: 60 }
}

/// The number of blocks that are committed before the fault.
const BEFORE: usize = 3;

/// A coordinator that logs every assignment, its shards, and a chain for them.
struct Play {
    chain: Arc<Chain>,
    coordinator: Coordinator,
    shards: Vec<Shard>,
}

impl Play {
    /// Starts shards 1, 2, … with these faults, if any, and waits until all are ready.
    fn with_faults(scene: &Scene, more: &[&str], faults: &[Option<&str>]) -> Result<Self> {
        Self::on(Chain::sized(large())?, scene, more, faults)
    }

    fn on(chain: Arc<Chain>, scene: &Scene, more: &[&str], faults: &[Option<&str>]) -> Result<Self> {
        let coordinator = Coordinator::start_telling(scene, &chain, "127.0.0.1:0", more)?;
        let mut shards = Vec::new();
        for (id, fault) in (1..).zip(faults) {
            let line = fault.map(|fault| ["--grace", "2", "--allow-faults", "--fault", fault]);
            let line = line.as_ref().map_or(&[][..], |line| &line[..]);
            shards.push(Shard::start(scene, id, &coordinator.url(), line)?);
        }
        let ids: Vec<u32> = shards.iter().map(|shard| shard.id).collect();
        coordinator.wait_ready(&ids)?;
        Ok(Self { chain, coordinator, shards })
    }

    fn with_shards(scene: &Scene, more: &[&str], count: usize) -> Result<Self> {
        Self::with_faults(scene, more, &vec![None; count])
    }

    /// Starts to submit the chain, and returns in the middle of a block, when this shard has just got work.
    fn in_a_block(&self, scene: &Scene, shard: u32) -> Result<Process> {
        let client = self.coordinator.begin_submit(scene, &self.chain)?;
        wait_until(within(30), "the shard has work of a block", || {
            let log = self.coordinator.process.stderr()?;
            let done = log.lines().filter(|line| line.contains("event=block_committed")).count();
            let busy = log.lines().rev().take_while(|line| !line.contains("event=block_committed"));
            let to_shard = format!("@{shard} transactions=");
            ensure!(done < self.chain.blocks(), "the chain is too short for this test");
            Ok(done >= BEFORE && busy.into_iter().any(|line| line.contains(&to_shard)))
        })?;
        Ok(client)
    }

    /// The time when the first block after `since` was committed: the one in flight, or the next.
    fn next_block(&self, since: Moment) -> Result<Moment> {
        self.coordinator.process.wait_told(within(60), since, &["event=block_committed"])
    }

    /// Executes the chain, during which a planned fault of a shard occurs. Returns the time of the fault.
    fn run_into_the_fault(&self, scene: &Scene, shard: usize) -> Result<Moment> {
        self.coordinator.submit_all(scene, &self.chain)?;
        self.shards.get(shard).context("no such shard")?.check_faulted()
    }

    /// Waits until the coordinator logs all of `words` in one line. Returns the line's time.
    fn wait_told(&self, since: Moment, words: &[&str]) -> Result<Moment> {
        self.coordinator.process.wait_told(within(30), since, words)
    }
}
