//! A short chaos run: the same as `scripts/chaos.sh`, bounded by blocks, with a fixed seed.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | blocks under way, everything behind proxies | whatever the seed draws | every block is committed, and alloy-evm's executor comes to the same head and state root |

use std::time::Duration;

use anyhow::{Result, ensure};
use shard_tests::{ChaosOptions, chaos, scenario};

/// Among the first faults that it draws are a shard that is frozen and a coordinator that is killed.
const SEED: u64 = 37;

/// As many as are executed in half a minute on two cores.
const BLOCKS: usize = 700;

/// By then the faults end in any case: what was executed until then is checked.
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
