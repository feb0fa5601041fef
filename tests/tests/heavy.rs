//! Heavy transactions: valid ones that keep a slot busy for longer than the limit for ordinary ones.
//! Limits and transactions are scaled down; `scripts/heavy.sh` runs the full size.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | heavy and ordinary transactions, 2 shards | – | blocks verified, no slot stuck, both shards used |
//! | the same in process | – | the same |
//! | in process, one slot | every heavy transaction counts as stuck | new threads, every block verified |
//! | the same, one shard process | the same | it is asked to leave, started again, every block verified |
//! | ordinary blocks, two slots | one stands still for seconds | retired, then back: ready without a strike |

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use shard_tests::{Binary, Chain, Coordinator, Moment, Process, Report, Scene, Shard, scenario, within};

/// The number of BLAKE2F rounds in each heavy transaction: about two seconds.
const ROUNDS: &str = "200000000";

/// The number of blocks: the first sets the chain up, and each other one has a heavy transaction.
const BLOCKS: usize = 3;

/// A slot may stand still for one second, or longer if its transaction's gas allows it.
const LIMITS: [&str; 2] = ["--stuck-after-ms", "1000"];

/// Limits that every heavy transaction exceeds.
const TIGHT: [&str; 4] = ["--stuck-after-ms", "300", "--slowest-gas", "1000000000000"];

fn chain() -> Result<Arc<Chain>> {
    let options = ["--txs", "60", "--gas-limit", "400000000", "--seed", "5", "--heavy", ROUNDS];
    Chain::generate(BLOCKS, &options).map(Arc::new)
}

/// Runs the chain with `coordinator run`. Returns its messages.
fn run(scene: &Scene, chain: &Chain, flags: &[&str]) -> Result<String> {
    let (file, genesis) = (chain.rlp().display().to_string(), chain.genesis().display().to_string());
    let mut line = vec!["run", "--json", &file, "--genesis", &genesis];
    line.extend(flags);
    let mut process = Process::start(scene, "run", Binary::of(&line), line)?;
    let code = process.exit_code(within(120))?;
    let report = Report::parse(&process.stdout()?)?;
    report.check_verified(BLOCKS).with_context(|| format!("run {flags:?} ended with {code}"))?;
    ensure!(code == 0, "run {flags:?} ended with {code} although every block verified");
    process.stderr()
}

#[test]
fn heavy_transactions_leave_no_shard_out() -> Result<()> {
    let chain = chain()?;
    scenario(|scene| {
        let coordinator = Coordinator::start_telling(scene, &chain, "127.0.0.1:0", &LIMITS)?;
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        coordinator.wait_ready(&[1, 2])?;
        coordinator.submit_all(scene, &chain)?;
        coordinator.wait_ready(&[1, 2])?;
        let log = coordinator.process.stderr()?;
        ensure!(!log.contains("event=alarm"), "a heavy transaction is no alarm");
        ensure!(!log.contains("event=shard_lost"), "a shard was lost");
        Ok(())
    })?;
    scenario(|scene| {
        let said = run(scene, &chain, &[&["--shards", "2", "--in-process"], &LIMITS[..]].concat())?;
        ensure!(!said.contains("ALARM") && !said.contains("LOST"), "{said}");
        Ok(())
    })
}

#[test]
fn shards_whose_slots_are_all_stuck_begin_anew() -> Result<()> {
    let chain = chain()?;
    scenario(|scene| {
        let said = run(scene, &chain, &[&["--shards", "1", "--in-process"], &TIGHT[..]].concat())?;
        ensure!(said.contains("is stuck and gets no more work; 0 left"), "nothing was stuck: {said}");
        Ok(())
    })?;
    scenario(|scene| {
        let flags = [&["--shards", "1", "--timeline"], &TIGHT[..]].concat();
        let said = run(scene, &chain, &flags)?;
        ensure!(said.contains("is stuck and gets no more work; 0 left"), "nothing was stuck: {said}");
        ensure!(said.matches("shard 1 joined").count() > 1, "the shard was not started again: {said}");
        Ok(())
    })
}

#[test]
fn a_slot_that_finishes_after_all_returns_to_service() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(10)?;
        let limits = ["--stuck-after-ms", "1000"];
        let coordinator = Coordinator::start_telling(scene, &chain, "127.0.0.1:0", &limits)?;
        let line = ["--threads", "2", "--allow-faults", "--fault", "slow:6000@4"];
        let shard = Shard::start(scene, 1, &coordinator.url(), &line)?;
        coordinator.wait_ready(&[1])?;
        let began = Moment::now()?;
        coordinator.submit_all(scene, &chain)?;
        shard.check_faulted()?;
        let told = |words: &[&str]| coordinator.process.wait_told(within(30), began, words);
        told(&["is stuck and gets no more work; 1 left", "event=alarm shard=1"])?;
        told(&["moves again, and gets work again", "event=slot_returned shard=1"])?;
        told(&["moves again; 0 strikes", "event=shard_cleared shard=1"])?;
        coordinator.wait_ready(&[1]).map(drop)
    })
}
