//! The rows about work that panics, hangs, is late, damaged or wrong, is delivered late or twice, or
//! kills.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{
    Chain, Coordinator, Direction, Measured, Moment, Process, Proxy, Scene, Shape, Shard, first_fault,
    scenario, wait_until, within,
};

use super::{Play, large};

/// Executes a chain on two shards, the second with a fault. Returns the times of the fault, of the log
/// line with `words`, and of the next committed block.
fn measure(scene: &Scene, fault: &str, words: &[&str]) -> Result<([Moment; 3], Play)> {
    let play = Play::with_faults(scene, &[], &[None, Some(fault)])?;
    let since = play.run_into_the_fault(scene, 1)?;
    let noticed = play.wait_told(since, words)?;
    let done = play.next_block(since)?;
    Ok(([since, noticed, done], play))
}

#[test]
fn a_worker_that_panics_is_reported_at_once() -> Result<()> {
    scenario(|scene| {
        let words = ["an assignment failed", "a worker thread panicked"];
        let ([since, noticed, done], mut play) = measure(scene, "panic@30", &words)?;
        play.coordinator.wait_ready(&[1, 2])?;
        ensure!(play.shards[1].process.exited()?.is_none(), "the shard has ended");
        Measured::since(since, 40, "worker panics", "`--fault panic@N`, 2 shards")
            .noticed("its `JoinHandle`; the shard reports it", noticed)
            .finished(done)
            .record()
    })
}

#[test]
fn a_slot_that_stands_still_is_retired_and_its_shard_leaves() -> Result<()> {
    scenario(|scene| {
        let words = ["event=reassigned shard=2"];
        let ([since, noticed, done], mut play) = measure(scene, "hang@30", &words)?;
        let strike = play.wait_told(since, &["has stood still", "event=alarm shard=2"])?;
        let retired = play.wait_told(strike, &["is stuck and gets no more work; 0 left", "shard=2"])?;
        let process = &mut play.shards[1].process;
        let status = process.wait(within(30))?;
        let left = Moment::now()?;
        ensure!(!status.success(), "a shard with a thread that hangs ended with {status}");
        play.coordinator.wait_ready(&[1])?;
        Measured::since(
            since,
            50,
            "worker stuck while heartbeats flow: its work",
            "`--fault hang@N`, 2 shards",
        )
        .noticed("overdue: given to another shard as well", noticed)
        .finished(done)
        .record()?;
        Measured::since(
            since,
            51,
            "worker stuck while heartbeats flow: its slot",
            "the same; its last slot, so the process ends",
        )
        .noticed("the counter stands still in heartbeats: retired", retired)
        .finished(left)
        .record()
    })
}

#[test]
fn work_that_is_overdue_is_given_to_another_shard_as_well() -> Result<()> {
    scenario(|scene| {
        let words = ["event=reassigned shard=2"];
        let ([since, noticed, done], play) = measure(scene, "slow:800@30", &words)?;
        play.coordinator.wait_ready(&[1, 2])?;
        Measured::since(since, 60, "work overdue", "`--fault slow:800@N`: 0.8 s more, 2 shards")
            .noticed("elapsed against the median: given to another shard as well", noticed)
            .finished(done)
            .record()
    })
}

/// Starts a coordinator with one shard behind a proxy and, if `other` is set, a second shard without
/// one.
fn behind_a_proxy(scene: &Scene, other: bool) -> Result<(Play, Proxy)> {
    let chain = Chain::sized(large())?;
    let coordinator = Coordinator::start_telling(scene, &chain, "127.0.0.1:0", &["--lost-after-ms", "5000"])?;
    let mut proxy = Proxy::start()?;
    proxy.lead_to(Some(coordinator.address.parse()?))?;
    let mut shards = vec![Shard::start(scene, 1, &proxy.url(), &[])?];
    if other {
        shards.push(Shard::start(scene, 2, &coordinator.url(), &[])?);
    }
    let ids: Vec<u32> = shards.iter().map(|shard| shard.id).collect();
    coordinator.wait_ready(&ids)?;
    Ok((Play { chain, coordinator, shards }, proxy))
}

#[test]
fn a_result_that_cannot_be_delivered_is_offered_until_it_can() -> Result<()> {
    scenario(|scene| {
        let (play, mut proxy) = behind_a_proxy(scene, false)?;
        let mut client = play.in_a_block(scene, 1)?;
        let since = Moment::now()?;
        proxy.lead_to(None)?;
        proxy.reset();
        let noticed = play.shards[0].process.wait_told(within(10), since, &["a result was not delivered"])?;
        proxy.lead_to(Some(play.coordinator.address.parse()?))?;
        let done = play.next_block(since)?;
        let report = play.coordinator.check_submitted(&play.chain, &mut client)?;
        ensure!(report.total("reassigned")? == 0, "the work was given away");
        let lost = play.coordinator.process.told(since, &["event=shard_lost"])?;
        ensure!(lost.is_none(), "the shard counts as lost");
        Measured::since(
            since,
            70,
            "result cannot be delivered",
            "a proxy closes the only shard's connections to the coordinator",
        )
        .noticed("the shard's calls fail: it keeps the results and offers them again", noticed)
        .finished(done)
        .record()
    })
}

#[test]
fn a_result_that_comes_twice_has_no_effect() -> Result<()> {
    scenario(|scene| {
        let (play, mut proxy) = behind_a_proxy(scene, true)?;
        let mut client = play.in_a_block(scene, 1)?;
        let held = Moment::now()?;
        proxy.shape(Direction::ToTarget, Shape { cut: true, ..Shape::default() })?;
        play.wait_told(held, &["event=reassigned shard=1"])?;
        play.next_block(held)?;
        let since = Moment::now()?;
        proxy.shape(Direction::ToTarget, Shape::default())?;
        let ignored = play.wait_told(since, &["a result was not needed", "@1"])?;
        play.coordinator.check_submitted(&play.chain, &mut client)?;
        let alarm = play.coordinator.process.told(held, &["event=alarm"])?;
        ensure!(alarm.is_none(), "an equal result is no alarm");
        Measured::since(
            since,
            80,
            "duplicate or stale message",
            "a proxy holds results until others have done the work; from their arrival on",
        )
        .noticed("the work is done: ignored, compared", ignored)
        .record()
    })
}

#[test]
fn a_corrupt_result_is_refused() -> Result<()> {
    scenario(|scene| {
        // A single damaged result may lose against a duplicate of its work on the other shard, and is not read.
        let words = ["delivered damaged bytes", "event=alarm shard=2"];
        let ([since, noticed, done], _play) = measure(scene, "corrupt@30+", &words)?;
        Measured::since(since, 90, "corrupt result", "`--fault corrupt@N+`, 2 shards")
            .noticed("digest: refused, a strike", noticed)
            .finished(done)
            .record()
    })
}

#[test]
fn a_wrong_result_never_counts() -> Result<()> {
    scenario(|scene| {
        // A single wrong result may lose against a duplicate of its work on the other shard, and never count.
        let words = ["shards are at fault", "event=alarm"];
        let ([since, noticed, done], _play) = measure(scene, "wrong@30+", &words)?;
        Measured::since(since, 95, "wrong result", "`--fault wrong@N+`, 2 shards")
            .noticed("the header does not fit: the block is executed without shards; alarm", noticed)
            .finished(done)
            .record()
    })
}

#[test]
fn a_shard_that_returns_wrong_results_is_named_when_its_work_is_verified() -> Result<()> {
    scenario(|scene| {
        let more = ["--verify-fraction", "1"];
        let play = Play::with_faults(scene, &more, &[None, None, Some("wrong@30+")])?;
        let since = play.run_into_the_fault(scene, 2)?;
        let noticed = play.wait_told(since, &["returned a wrong result", "event=alarm shard=3"])?;
        let done = play.next_block(since)?;
        let status = play.coordinator.status()?;
        let liar = status.shard(3).context("the shard is gone")?;
        ensure!(liar.quarantined, "{liar:?}");
        Measured::since(
            since,
            96,
            "wrong result of work that is verified",
            "`--fault wrong@N+`, 3 shards, `--verify-fraction 1`",
        )
        .noticed(
            "two digests that differ, settled by trusted execution: the shard is named and in quarantine",
            noticed,
        )
        .finished(done)
        .record()
    })
}

/// Restarts shards that die of a transaction, until `done` returns true. Returns the number of deaths.
fn keep_alive(
    scene: &Scene,
    play: &mut Play,
    fault: &str,
    mut done: impl FnMut(&Play) -> Result<bool>,
) -> Result<u32> {
    let mut deaths = 0;
    wait_until(within(60), "the block is parked", || {
        for place in 0..play.shards.len() {
            let Some(shard) = play.shards.get_mut(place) else { continue };
            if let Some(status) = shard.process.exited()? {
                ensure!(status.code() == Some(70), "a shard ended with {status}");
                deaths += 1;
                let line = ["--allow-faults", "--fault", fault];
                *shard = Shard::start(scene, shard.id, &play.coordinator.url(), &line)?;
            }
        }
        done(play)
    })?;
    Ok(deaths)
}

#[test]
fn a_block_whose_transaction_kills_its_shards_is_parked_and_the_fleet_lives() -> Result<()> {
    scenario(|scene| {
        let fault = "exit@5/100";
        let mut play = Play::on(Chain::of(8)?, scene, &[], &[Some(fault); 3])?;
        let mut client: Process = play.coordinator.begin_submit(scene, &play.chain)?;
        let began = Moment::now()?;
        let parked = ["transaction 100", "event=block_parked"];
        let deaths = keep_alive(scene, &mut play, fault, |play| {
            let alone = play.coordinator.process.told(began, &["executed here instead"])?;
            ensure!(alone.is_none(), "the coordinator has executed a transaction that kills");
            Ok(play.coordinator.process.told(began, &parked)?.is_some())
        })?;
        ensure!(deaths >= 2, "parked after {deaths} deaths");
        let noticed = play.coordinator.process.told(began, &parked)?.context("it was told")?;
        let code = client.exit_code(within(15))?;
        let done = Moment::now()?;
        let said = client.stderr()?;
        ensure!(code == 1 && said.contains("block 5") && said.contains("transaction 100"), "{code}: {said}");
        ensure!(play.coordinator.process.exited()?.is_none(), "the coordinator has ended");
        ensure!(play.coordinator.status()?.head == 4, "the head has moved");
        let logs = (1..=3).map(|id| std::fs::read_to_string(scene.path(&format!("shard-{id}.log"))));
        let logs = logs.collect::<Result<Vec<_>, _>>()?;
        let met = logs.iter().filter_map(|log| first_fault(log)).min();
        let since = met.context("no shard met the transaction")?;
        // Shards without the fault continue the chain.
        for shard in &mut play.shards {
            shard.process.kill()?;
        }
        play.coordinator.wait_status(within(10), "no shard is left", |status| status.shards.is_empty())?;
        play.shards = Shard::start_all(scene, 3, &play.coordinator.url())?;
        play.coordinator.wait_ready(&[1, 2, 3])?;
        let listed = play.coordinator.ask(&["parked", "list", "--json"], &[])?;
        let listed: Value =
            serde_json::from_str(&listed).with_context(|| format!("not one line: {listed}"))?;
        ensure!(listed.get("transaction").and_then(Value::as_u64) == Some(100), "{listed}");
        let hash = listed.get("hash").and_then(Value::as_str).context("no hash")?;
        play.coordinator.ask(&["parked", "retry"], &[hash])?;
        play.coordinator.submit_all(scene, &play.chain)?;
        Measured::since(
            since,
            110,
            "transaction that kills the shard that runs it",
            "`--fault exit@HEIGHT/INDEX` on 3 shards that are started again whenever they end",
        )
        .noticed(
            "shards that die alone with it: convicted by two, or given up after 8 tries; parked",
            noticed,
        )
        .finished(done)
        .record()
    })
}
