//! A chaos run: a coordinator with a data directory, shards and a client, proxies between all of them,
//! and faults at random moments over thousands of blocks. The faults must not change the result.
//!
//! A run is a sequence of acts. Each act generates a chain of its own kind, starts a fleet, and goes on
//! until the chain is committed or the time is over. Then all faults are lifted, and every process must
//! recover. The exported chain must equal the submitted one byte for byte, and `lab import
//! --sequential` (alloy-evm's executor on one thread) must reach the same head and state root.
//!
//! The seed determines the random choices: chains, plans, faults, their targets, their durations, and
//! the number of blocks before the next one. The timing depends on the machine. So the same seed gives
//! the same kind of run, not the same history.

mod act;
mod client;
mod fault;
mod kind;
mod post;
mod random;
mod summary;
mod verdict;
mod world;

use std::time::Duration;

use anyhow::Result;

pub use summary::{ChainEnd, Summary};

use act::{Act, Script};
use random::Random;
use verdict::{Played, confirm, read_logs};

use crate::scene::Scene;
use crate::wait::within;

/// The least duration of an act, except the first.
const LEAST: Duration = within(10);

/// The settings of a run.
#[derive(Debug, Clone)]
pub struct ChaosOptions {
    /// The seed of all random choices.
    pub seed: u64,
    /// The time with faults. Generating and checking chains takes additional time.
    pub duration: Duration,
    /// The number of blocks of each chain.
    pub blocks: usize,
    /// The maximum number of chains.
    pub chains: usize,
    /// The number of shards.
    pub shards: u32,
}

/// Performs a run. The summary contains all counts, even if the run fails.
pub fn chaos(scene: &Scene, options: &ChaosOptions) -> (Summary, Result<()>) {
    let mut summary = Summary::new(options.seed);
    let played = play(scene, options, &mut summary);
    // A panic in a log explains more than its consequences.
    let end = read_logs(scene, &mut summary).and(played);
    summary.finish(&end);
    (summary, end)
}

fn play(scene: &Scene, options: &ChaosOptions, summary: &mut Summary) -> Result<()> {
    let mut random = Random::new(options.seed);
    for number in 1..=options.chains {
        let lasts = options.duration.saturating_sub(summary.under_faults);
        // The remaining time is too short for another chain.
        if number > 1 && lasts < LEAST {
            break;
        }
        let script = Script { number, shards: options.shards, blocks: options.blocks, lasts };
        let act = Act::begin(scene, summary, &mut random, &script)?;
        let played = Played::from(act)?;
        let end = confirm(scene, summary, &played)?;
        summary.chains.push(end);
    }
    Ok(())
}
