//! A chaos run: a coordinator with a data directory, shards and a client, proxies between all of
//! them, and faults at random moments over thousands of blocks. It is never quiet, and nothing of it
//! may be seen in the result.
//!
//! A run is a row of acts. Each generates a chain of its own kind, starts a fleet, and goes on until
//! the chain is committed or the time is over. Then all faults are lifted, the fleet must become whole
//! again, the exported chain must be what was submitted, byte for byte, and `import --sequential`
//! (alloy-evm's executor, on one thread) must come to the same head and state root.
//!
//! Everything is drawn from the seed: chains, plans, faults, their victims, how long they last, and
//! after how many blocks the next one comes. What it meets then is up to the machine: the same seed is
//! the same kind of run, not the same history.

mod act;
mod client;
mod fault;
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

/// An act goes on at least that long, but for the first.
const LEAST: Duration = within(10);

/// How a run is to be.
#[derive(Debug, Clone)]
pub struct ChaosOptions {
    /// What it is drawn from.
    pub seed: u64,
    /// How long blocks are executed under faults. Chains are generated and checked besides.
    pub duration: Duration,
    /// Blocks of each chain.
    pub blocks: usize,
    /// How many chains, at most.
    pub chains: usize,
    /// How many shards.
    pub shards: u32,
}

/// Plays a run. The summary has what was counted, also where the run fails.
pub fn chaos(scene: &Scene, options: &ChaosOptions) -> (Summary, Result<()>) {
    let mut summary = Summary::new(options.seed);
    let played = play(scene, options, &mut summary);
    // A panic explains more than what came of it.
    let end = read_logs(scene, &mut summary).and(played);
    summary.finish(&end);
    (summary, end)
}

fn play(scene: &Scene, options: &ChaosOptions, summary: &mut Summary) -> Result<()> {
    let mut random = Random::new(options.seed);
    for number in 1..=options.chains {
        let lasts = options.duration.saturating_sub(summary.under_faults);
        // What is left is too little for a chain of its own.
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
