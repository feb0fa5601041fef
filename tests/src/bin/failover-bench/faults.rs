//! Measures the cost of shards that are killed, freeze, or are slow in the middle of a block.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use shard_tests::{Chain, Moment, Scene, Signal, median};

use crate::log::{Entry, What};
use crate::stage::{BlockRun, Stage};

/// The victim is struck at the Nth piece of work that it gets in the block; N cycles from 1 to this
/// number.
const DISPATCHES: usize = 5;

/// The default silence limit of the coordinator plus one heartbeat, in milliseconds.
pub(crate) const LOST_WITHIN_MS: f64 = 1_100.0;

/// The measured cost of a kill.
pub(crate) struct Kill {
    pub(crate) notice_ms: f64,
    /// The number of transactions that the victim had been given and had not returned.
    pub(crate) outstanding: u64,
    /// The number of these transactions that were executed again.
    pub(crate) again: u64,
    /// The number of other transactions that were executed again, because they were overdue on other
    /// shards.
    pub(crate) other: u64,
    /// The number of transactions that were executed twice in the undisturbed block.
    pub(crate) usual: u64,
    pub(crate) undisturbed_ms: f64,
    pub(crate) ms: f64,
}

/// The measured cost of a freeze.
pub(crate) struct Freeze {
    /// The time from the freeze until the first of the shard's work was assigned to another shard, in
    /// milliseconds.
    pub(crate) duplicated_ms: f64,
    /// The same time as a multiple of the median time of a sub-block in the previous block.
    pub(crate) sub_blocks: f64,
    pub(crate) lost_ms: f64,
    pub(crate) undisturbed_ms: f64,
    pub(crate) ms: f64,
}

fn millis(later: Moment, earlier: Moment) -> f64 {
    later.since(earlier).as_secs_f64() * 1e3
}

/// Calls `strike` when the victim gets its Nth piece of work. Returns no moment if there was no Nth.
fn struck(
    stage: &mut Stage<'_>,
    victim: u32,
    nth: usize,
    strike: impl Fn(&mut Stage<'_>) -> Result<Moment>,
) -> Result<(BlockRun, Option<Moment>)> {
    let (mut given, mut at) = (0, None);
    let run = stage.disturbed_block(|stage, entry| {
        if matches!(entry.what, What::Dispatched { shard, .. } if shard == victim) {
            given += 1;
            if given == nth && at.is_none() {
                at = Some(strike(stage)?);
            }
        }
        Ok(())
    })?;
    Ok((run, at))
}

/// Kills shards in turn, each in the middle of a block, and executes one undisturbed block before each.
pub(crate) fn kills(scene: &Scene, chain: &Chain, wanted: usize) -> Result<Vec<Kill>> {
    let mut stage = Stage::new(scene, chain, &[None; 3])?;
    let mut kills = Vec::new();
    for number in 0..wanted {
        let victim = u32::try_from(number % 3 + 1)?;
        let undisturbed = stage.block()?;
        let strike = |stage: &mut Stage<'_>| stage.process(victim)?.strike();
        let (run, at) = struck(&mut stage, victim, number % DISPATCHES + 1, strike)?;
        let Some(at) = at else { continue };
        let is_loss = |entry: &Entry| entry.what == What::Lost { shard: victim };
        let lost = match run.log.iter().find(|entry| is_loss(entry)) {
            Some(entry) => entry.at,
            None => stage.listen(is_loss)?.at,
        };
        stage.revive(victim)?;
        let cost = cost_of(&run.log, victim, at, lost);
        kills.push(Kill {
            notice_ms: millis(lost, at),
            outstanding: cost.outstanding,
            again: cost.again,
            other: cost.other,
            usual: twice(&undisturbed.log),
            undisturbed_ms: undisturbed.millis,
            ms: run.millis,
        });
        eprint!("\rkill {} of {wanted}", number + 1);
    }
    eprintln!();
    Ok(kills)
}

/// The number of transactions in work that was assigned more than once.
fn twice(log: &[Entry]) -> u64 {
    let mut given = BTreeSet::new();
    let of = |entry: &Entry| match &entry.what {
        What::Dispatched { work, transactions, .. } if !given.insert(work.clone()) => *transactions,
        _ => 0,
    };
    log.iter().map(of).sum()
}

struct Cost {
    outstanding: u64,
    again: u64,
    other: u64,
}

/// The victim's work that was not done when it was lost, and the work that was executed again after the
/// kill.
fn cost_of(log: &[Entry], victim: u32, struck: Moment, lost: Moment) -> Cost {
    let mut open: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in log.iter().filter(|entry| entry.at <= lost) {
        match &entry.what {
            What::Dispatched { work, shard, transactions } if *shard == victim => {
                open.insert(work, *transactions);
            }
            What::Used { work, .. } => {
                open.remove(work.as_str());
            }
            _ => {}
        }
    }
    let (mut given, mut again, mut other) = (BTreeSet::new(), 0, 0);
    for entry in log {
        let What::Dispatched { work, transactions, .. } = &entry.what else { continue };
        if !given.insert(work.as_str()) && entry.at >= struck {
            let sum = if open.contains_key(work.as_str()) { &mut again } else { &mut other };
            *sum += transactions;
        }
    }
    Cost { outstanding: open.values().sum(), again, other }
}

/// Freezes shards in turn, each in the middle of a block, and executes one undisturbed block before
/// each.
pub(crate) fn freezes(scene: &Scene, chain: &Chain, wanted: usize) -> Result<Vec<Freeze>> {
    let mut stage = Stage::new(scene, chain, &[None; 3])?;
    let mut freezes = Vec::new();
    for number in 0..wanted {
        let victim = u32::try_from(number % 3 + 1)?;
        let undisturbed = stage.block()?;
        let strike = |stage: &mut Stage<'_>| {
            let at = Moment::now()?;
            stage.process(victim)?.signal(Signal::Stop)?;
            Ok(at)
        };
        let (run, at) = struck(&mut stage, victim, number % DISPATCHES + 1, strike)?;
        let Some(at) = at else { continue };
        let is_loss = |entry: &Entry| entry.what == What::Lost { shard: victim };
        let lost = match run.log.iter().find(|entry| is_loss(entry)) {
            Some(entry) => entry.at,
            None => stage.listen(is_loss)?.at,
        };
        stage.process(victim)?.signal(Signal::Continue)?;
        stage.wait_ready()?;
        let given_on =
            run.log.iter().find(|entry| entry.what == What::Reassigned { from: victim } && entry.at >= at);
        // A freeze while the shard's last result was already in flight has no cost.
        let Some(given_on) = given_on else { continue };
        let usual = median(&durations(&undisturbed.log)).context("no sub-block was done")?;
        freezes.push(Freeze {
            duplicated_ms: millis(given_on.at, at),
            sub_blocks: millis(given_on.at, at) / usual,
            lost_ms: millis(lost, at),
            undisturbed_ms: undisturbed.millis,
            ms: run.millis,
        });
        eprint!("\rfreeze {} of {wanted}", number + 1);
    }
    eprintln!();
    Ok(freezes)
}

/// The times from the dispatch of each piece of work to its result.
fn durations(log: &[Entry]) -> Vec<f64> {
    let mut given: BTreeMap<(&str, u32), Moment> = BTreeMap::new();
    let mut durations = Vec::new();
    for entry in log {
        match &entry.what {
            What::Dispatched { work, shard, .. } => {
                given.insert((work, *shard), entry.at);
            }
            What::Used { work, shard } => {
                let began = given.get(&(work.as_str(), *shard));
                durations.extend(began.map(|began| millis(entry.at, *began)));
            }
            _ => {}
        }
    }
    durations
}

/// Executes the same blocks alternately on two sound shards, and on these plus a third one that takes
/// ten times as long. Returns the times of each pair.
pub(crate) fn slow(scene: &Scene, chain: &Chain, wanted: usize) -> Result<Vec<(f64, f64)>> {
    let mut without = Stage::new(scene, chain, &[None; 2])?;
    let mut with = Stage::new(scene, chain, &[None, None, Some("slow:10x@1+")])?;
    let mut pairs = Vec::new();
    for number in 0..wanted {
        let two = without.block()?.millis;
        let three = with.block()?.millis;
        pairs.push((two, three));
        with.wait_ready()?;
        eprint!("\rslow {} of {wanted}", number + 1);
    }
    eprintln!();
    Ok(pairs)
}
