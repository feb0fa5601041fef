//! The summary of a chaos run.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::client::Client;
use super::world::World;

/// The end of one chain of the run, and the result of alloy-evm's executor for the same blocks.
#[derive(Debug, Clone)]
pub struct ChainEnd {
    /// The number of its blocks.
    pub blocks: u64,
    /// The plan that cut its blocks into sub-blocks.
    pub plan: String,
    /// The hash of its head.
    pub head: String,
    /// The state root after the head.
    pub state_root: String,
    /// The hash of the head when alloy-evm executes the blocks one after another.
    pub sequential_head: String,
    /// The state root in that case.
    pub sequential_root: String,
}

/// The counts and measurements of a run.
#[derive(Debug, Clone)]
pub struct Summary {
    began: Instant,
    /// The seed of the run's random choices. It does not determine the timing.
    pub seed: u64,
    /// The duration of the whole run.
    pub elapsed: Duration,
    /// The time during which blocks were executed under faults.
    pub under_faults: Duration,
    /// The number of blocks that the fleet executed and committed and the client got answers for.
    pub blocks: u64,
    /// The number of these blocks that the client had journaled without waiting.
    pub journaled: u64,
    /// The number of transactions in the confirmed chains.
    pub transactions: u64,
    /// The number of faults of each kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// The number of restarts after which a coordinator had every answered block.
    pub coordinator_restarts: u64,
    /// The number of assignments that moved to another shard.
    pub reassigned: u64,
    /// The number of times that a shard was rejected because its former incarnation was still in the fleet,
    /// and was restarted.
    pub turned_away: u64,
    /// The number of times that a block was parked and retried.
    pub retried: u64,
    /// The interruptions of the client, counted by kind.
    pub interrupted: BTreeMap<String, u64>,
    /// The coordinators' alarms, counted by kind.
    pub alarms: BTreeMap<String, u64>,
    /// The longest time without a committed block.
    pub longest_standstill: Duration,
    /// The longest time without a committed block after all faults were over, and the last of these faults.
    pub longest_recovery: (Duration, String),
    /// The longest time until all shards were ready after the last fault of a chain.
    pub ready_again: Duration,
    /// The number of differences between the submitted chain, the fleet's result and alloy-evm's result.
    pub differences: u64,
    /// The chains for which alloy-evm's executor reached the same head and state root.
    pub chains: Vec<ChainEnd>,
    /// The reason why the run failed, if it did.
    pub failure: Option<String>,
    /// The logs that may contain the panic of a thread.
    pub(super) may_panic: Vec<String>,
}

impl Summary {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            began: Instant::now(),
            seed,
            elapsed: Duration::ZERO,
            under_faults: Duration::ZERO,
            blocks: 0,
            journaled: 0,
            transactions: 0,
            faults: BTreeMap::new(),
            coordinator_restarts: 0,
            reassigned: 0,
            turned_away: 0,
            retried: 0,
            interrupted: BTreeMap::new(),
            alarms: BTreeMap::new(),
            longest_standstill: Duration::ZERO,
            longest_recovery: (Duration::ZERO, "nothing".to_owned()),
            ready_again: Duration::ZERO,
            differences: 0,
            chains: Vec::new(),
            failure: None,
            may_panic: Vec::new(),
        }
    }

    /// The total number of faults.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Adds the counts of an act.
    pub(super) fn count(&mut self, client: &Client, world: &World<'_>) {
        self.blocks += client.committed as u64;
        self.journaled += client.journaled;
        self.reassigned += client.reassigned;
        self.retried += client.retried;
        for (kind, count) in &client.interrupted {
            *self.interrupted.entry(kind.clone()).or_default() += count;
        }
        self.turned_away += world.turned_away;
        self.may_panic.extend(world.may_panic.iter().cloned());
    }

    pub(super) fn finish(&mut self, end: &Result<()>) {
        self.elapsed = self.began.elapsed();
        self.failure = end.as_ref().err().map(|error| format!("{error:#}"));
    }

    /// Checks a condition on a chain. If it does not hold, counts a difference and fails.
    pub(super) fn hold(&mut self, holds: bool, difference: impl FnOnce() -> String) -> Result<()> {
        if holds {
            return Ok(());
        }
        self.differences += 1;
        bail!(difference())
    }

    /// Writes a line into a file of notes, with the time and the chain's height.
    pub(super) fn note(&self, file: &Path, height: usize, text: &str) -> Result<()> {
        let mut notes = OpenOptions::new().create(true).append(true).open(file)?;
        // The wall clock, as in the logs.
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let of_day = clock.as_secs() % 86_400;
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let millis = clock.subsec_millis();
        writeln!(notes, "{hour:02}:{minute:02}:{second:02}.{millis:03} block {height}: {text}")?;
        Ok(())
    }

    /// The summary as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let chains: Vec<_> = self
            .chains
            .iter()
            .map(|chain| {
                json!({
                    "blocks": chain.blocks, "plan": chain.plan, "head": chain.head,
                    "state_root": chain.state_root, "sequential_head": chain.sequential_head,
                    "sequential_state_root": chain.sequential_root,
                })
            })
            .collect();
        json!({
            "seed": self.seed, "seconds": self.elapsed.as_secs(),
            "seconds_under_faults": self.under_faults.as_secs(), "blocks": self.blocks, "journaled": self.journaled, "txs": self.transactions,
            "faults": self.faults(), "faults_by_kind": self.faults,
            "coordinator_restarts": self.coordinator_restarts, "reassigned": self.reassigned,
            "turned_away": self.turned_away, "retried": self.retried,
            "interrupted": self.interrupted, "alarms": self.alarms,
            "longest_standstill_ms": millis(self.longest_standstill),
            "longest_recovery_ms": millis(self.longest_recovery.0),
            "longest_recovery_after": self.longest_recovery.1,
            "ready_again_ms": millis(self.ready_again), "differences": self.differences,
            "chains": chains, "failure": self.failure,
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<46} {value}");
        row("seed", &self.seed)?;
        row("seconds under faults", &self.under_faults.as_secs())?;
        row("seconds, chains generated and checked", &self.elapsed.as_secs())?;
        row("blocks executed and committed", &self.blocks)?;
        row("  of these journaled, and not waited for", &self.journaled)?;
        row("transactions", &self.transactions)?;
        row("faults", &self.faults())?;
        for (kind, count) in &self.faults {
            row(&format!("  {kind}"), count)?;
        }
        row("coordinator restarts", &self.coordinator_restarts)?;
        row("work reassigned", &self.reassigned)?;
        row("shards turned away and started again", &self.turned_away)?;
        row("blocks parked and tried again", &self.retried)?;
        row("client interrupted", &self.interrupted.values().sum::<u64>())?;
        for (kind, count) in &self.interrupted {
            row(&format!("  {count} times"), kind)?;
        }
        row("alarms", &self.alarms.values().sum::<u64>())?;
        for (kind, count) in &self.alarms {
            row(&format!("  {count} times"), kind)?;
        }
        let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
        row("longest time without a block, seconds", &seconds(self.longest_standstill))?;
        let (time, after) = &self.longest_recovery;
        row("longest such with no fault there, seconds", &format!("{}, after {after}", seconds(*time)))?;
        row("all shards ready at the end within, seconds", &seconds(self.ready_again))?;
        for chain in &self.chains {
            row("chain", &format!("{} blocks, plan {}", chain.blocks, chain.plan))?;
            row("  head", &chain.head)?;
            row("  head, alloy-evm sequentially", &chain.sequential_head)?;
            row("  state root", &chain.state_root)?;
            row("  state root, alloy-evm sequentially", &chain.sequential_root)?;
        }
        row("differences", &self.differences)?;
        match &self.failure {
            Some(failure) => row("FAILED", failure),
            None => row("passed", &"every block confirmed"),
        }
    }
}
