//! A short chaos run: like `scripts/chaos.sh`, limited by the number of blocks, with a fixed seed.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | blocks in flight, proxies on all links | drawn from the seed | all committed; alloy-evm agrees |

use std::time::Duration;

use anyhow::{Result, ensure};
use shard_tests::{ChaosOptions, chaos, scenario};

/// A seed whose first faults include a frozen shard and a killed coordinator.
const SEED: u64 = 37;

/// About as many as two cores execute in half a minute.
const BLOCKS: usize = 700;

/// The time after which the faults end in any case; all blocks executed until then are checked.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn nothing_of_the_chaos_is_seen_in_the_chain() -> Result<()> {
    scenario(|scene| {
        let options = ChaosOptions { seed: SEED, duration: LIMIT, blocks: BLOCKS, chains: 1, shards: 3 };
        let (summary, end) = chaos(scene, &options);
        println!("{summary}");
        end?;
        ensure!(summary.blocks > 0 && summary.faults() > 1, "nothing has happened");
        ensure!(summary.coordinator_restarts > 0, "the coordinator was not killed");
        ensure!(summary.differences == 0 && summary.chains.len() == 1, "it was not confirmed");
        Ok(())
    })
}
