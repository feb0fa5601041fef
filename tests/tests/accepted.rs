//! Blocks that are accepted and not committed yet, and coordinators that are replaced.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | accepted blocks, no shard yet | SIGKILL of the coordinator | the next one executes them by itself |
//! | accepted blocks, no shard yet | SIGTERM of the coordinator | the same, and it exits 0 |
//! | blocks submitted twice, and out of order | – | each is executed once |
//! | a block that is first at too many starts | SIGKILL of each coordinator | parked; retry or discard work |
//! | an operator parks an accepted block | SIGKILL of the coordinator | it and what follows wait until retried |
//! | a data directory that is in use | `--take-over` | the holder steps down and exits 0 |
//! | a data directory whose holder hangs | SIGSTOP, `--take-over` | holder killed, its blocks executed |

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{Chain, Coordinator, Scene, Shard, Signal, scenario, within};

/// The number of blocks of a chain.
const BLOCKS: usize = 8;

/// The number of starts after which a block is suspect.
const MOST_STARTS: usize = 6;

fn start(scene: &Scene, chain: &Chain, more: &[&str]) -> Result<Coordinator> {
    let folder = scene.path("chain").display().to_string();
    Coordinator::start(scene, chain, &[&["--data-dir", folder.as_str()], more].concat())
}

/// Waits until all blocks are committed and none is accepted or parked.
fn wait_committed(coordinator: &Coordinator) -> Result<()> {
    coordinator.wait_status(within(30), "every accepted block is committed", |status| {
        status.head == BLOCKS as u64 && status.accepted == 0 && status.parked == 0
    })?;
    Ok(())
}

#[test]
fn accepted_blocks_are_executed_by_the_next_coordinator_after_a_kill() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let mut first = start(scene, &chain, &[])?;
        first.accept_all(&chain)?;
        ensure!(first.status()?.accepted == BLOCKS as u64, "{:?}", first.status()?);
        first.process.kill()?;
        let second = start(scene, &chain, &[])?;
        ensure!(second.status()?.accepted == BLOCKS as u64, "{:?}", second.status()?);
        let _shards = Shard::start_all(scene, 2, &second.url())?;
        wait_committed(&second)
    })
}

#[test]
fn accepted_blocks_are_executed_by_the_next_coordinator_after_an_orderly_end() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let mut first = start(scene, &chain, &["--when-no-shards", "fail"])?;
        first.accept_all(&chain)?;
        first.process.signal(Signal::Term)?;
        let code = first.process.exit_code(within(15))?;
        ensure!(code == 0, "it ended with {code}");
        let second = start(scene, &chain, &[])?;
        let _shards = Shard::start_all(scene, 1, &second.url())?;
        wait_committed(&second)
    })
}

#[test]
fn blocks_that_are_submitted_again_are_executed_once() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let coordinator = start(scene, &chain, &[])?;
        coordinator.accept_all(&chain)?;
        coordinator.accept_all(&chain)?;
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        // A waiting client gets the outcomes of blocks that other clients submitted.
        coordinator.submit_all(scene, &chain)?;
        wait_committed(&coordinator)?;
        let log = coordinator.process.stderr()?;
        ensure!(!log.contains("ERROR"), "{log}");
        Ok(())
    })
}

#[test]
fn an_operator_can_park_an_accepted_block() -> Result<()> {
    const PARKED: usize = 4;
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let mut coordinator = start(scene, &chain, &[])?;
        let file = chain.rlp().display().to_string();
        let accepted = coordinator.ask(&["submit", "--no-wait", "--json"], &[&file])?;
        let row = accepted.lines().nth(PARKED - 1).context("too few blocks were accepted")?;
        let block: Value = serde_json::from_str(row)?;
        ensure!(field(&block, "number") == PARKED, "{block}");
        let add = |coordinator: &Coordinator, hash: &str| {
            coordinator.ask(&["parked", "add", "--reason", "wait for the new build"], &[hash])
        };
        add(&coordinator, hash(&block)?)?;
        let again = add(&coordinator, hash(&block)?).err().context("it was parked twice")?;
        ensure!(format!("{again:#}").contains("is parked already"), "{again:#}");
        let unknown = add(&coordinator, &format!("0x{}", "12".repeat(32))).err().context("unknown")?;
        ensure!(format!("{unknown:#}").contains("is not accepted"), "{unknown:#}");
        for reason in ["two\nlines".to_owned(), "x".repeat(1_025)] {
            let line = ["parked", "add", "--reason", reason.as_str()];
            let refused = coordinator.ask(&line, &[hash(&block)?]).err().context("the reason was taken")?;
            ensure!(format!("{refused:#}").contains("longer than 1 KiB, or not on one line"), "{refused:#}");
        }
        coordinator.process.kill()?;

        let coordinator = start(scene, &chain, &[])?;
        let listed: Value = serde_json::from_str(&coordinator.ask(&["parked", "list", "--json"], &[])?)?;
        let reason = "parked by an operator: wait for the new build";
        ensure!(field(&listed, "reason") == reason && field(&listed, "number") == PARKED, "{listed}");
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        coordinator.wait_status(within(30), "all blocks before the parked one are committed", |status| {
            status.head == PARKED as u64 - 1
                && status.accepted == (BLOCKS - PARKED) as u64
                && status.parked == 1
        })?;
        coordinator.ask(&["parked", "retry"], &[hash(&block)?])?;
        wait_committed(&coordinator)
    })
}

/// A coordinator whose first block has had too many starts.
fn with_parked_block(scene: &Scene, chain: &Chain) -> Result<(Coordinator, Value)> {
    let mut coordinator = start(scene, chain, &[])?;
    coordinator.accept_all(chain)?;
    // At its first start the coordinator did not have the block yet.
    for _ in 0..=MOST_STARTS {
        coordinator.process.kill()?;
        coordinator = start(scene, chain, &[])?;
    }
    let status = coordinator.status()?;
    ensure!(status.parked == 1 && status.accepted == BLOCKS as u64 - 1, "{status:?}");
    let listed = coordinator.ask(&["parked", "list", "--json"], &[])?;
    let block: Value = serde_json::from_str(&listed).with_context(|| format!("not one line: {listed}"))?;
    ensure!(field(&block, "number") == 1 && field(&block, "waiting") == BLOCKS as u64 - 1, "{block}");
    ensure!(field(&block, "convicted") == false && field(&block, "transaction").is_null(), "{block}");
    Ok((coordinator, block))
}

fn field<'v>(block: &'v Value, name: &str) -> &'v Value {
    block.get(name).unwrap_or(&Value::Null)
}

fn hash(block: &Value) -> Result<&str> {
    field(block, "hash").as_str().context("the parked block has no hash")
}

#[test]
fn a_block_that_may_kill_coordinators_is_parked_and_can_be_retried() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let (coordinator, block) = with_parked_block(scene, &chain)?;
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        coordinator.wait_ready(&[1, 2])?;
        // A client that submits the block or a descendant gets an answer without waiting.
        let mut client = coordinator.begin_submit(scene, &chain)?;
        let code = client.exit_code(within(20))?;
        ensure!(code == 1 && client.stderr()?.contains("it is parked"), "{code}: {}", client.stderr()?);
        ensure!(coordinator.status()?.head == 0, "it was executed although it is parked");
        coordinator.ask(&["parked", "retry"], &[hash(&block)?])?;
        wait_committed(&coordinator)?;
        let again = coordinator.ask(&["parked", "retry"], &[hash(&block)?]);
        ensure!(again.is_err(), "a block that is not parked was retried");
        Ok(())
    })
}

#[test]
fn what_follows_a_discarded_block_waits_until_that_is_submitted_again() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let (mut coordinator, block) = with_parked_block(scene, &chain)?;
        coordinator.ask(&["parked", "discard"], &[hash(&block)?])?;
        let waiting = |coordinator: &Coordinator| {
            coordinator.wait_status(within(20), "all but the discarded block wait", |status| {
                status.accepted == BLOCKS as u64 - 1 && status.parked == 0 && status.head == 0
            })
        };
        waiting(&coordinator)?;
        coordinator.process.kill()?;
        let coordinator = start(scene, &chain, &[])?;
        waiting(&coordinator)?;
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        coordinator.wait_ready(&[1, 2])?;
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn a_holder_that_is_asked_steps_down() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let mut holder = start(scene, &chain, &[])?;
        holder.accept_all(&chain)?;
        let next = start(scene, &chain, &["--take-over"])?;
        let code = holder.process.exit_code(within(15))?;
        ensure!(code == 0, "the holder ended with {code}");
        let _shards = Shard::start_all(scene, 2, &next.url())?;
        wait_committed(&next)
    })
}

#[test]
fn a_holder_that_hangs_is_ended() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let mut holder = start(scene, &chain, &[])?;
        holder.accept_all(&chain)?;
        holder.process.signal(Signal::Stop)?;
        let next = start(scene, &chain, &["--take-over", "--take-over-grace", "1"])?;
        let status = holder.process.wait(within(10))?;
        ensure!(status.code().is_none(), "the holder ended by itself: {status}");
        let _shards = Shard::start_all(scene, 2, &next.url())?;
        wait_committed(&next)
    })
}
