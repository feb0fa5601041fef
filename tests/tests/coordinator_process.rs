//! The coordinator's own process and the ports that the processes listen on.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | idle fleet | SIGTERM of the coordinator | exits 0; the shards wait for another one |
//! | blocks in flight | SIGTERM of the coordinator | exits 0 or 3 within its grace time, the client is told |
//! | a long block | SIGTERM of the coordinator, twice | the second one ends it at once, with 3 |
//! | long work | SIGTERM of its shard, twice | the same |
//! | blocks in flight | SIGKILL of the coordinator, restart at its port | its shards rejoin, blocks go on |
//! | idle fleet | the coordinator is paused beyond the limit | no shard is declared lost, blocks go on |
//! | coordinator gone for good | SIGTERM of a shard | exits 0 |
//! | the parent process has ended | end of the pipe | coordinator and shard stop |
//! | a port in use | coordinator, shard | exits 1, names the address |

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use shard_tests::{
    Chain, Coordinator, Process, Report, Scene, Shard, Signal, scaled, scenario, wait_until, within,
};

/// Checks that a binary ended without a panic and without threads left behind.
fn check_log(process: &Process) -> Result<()> {
    let log = process.stderr()?;
    ensure!(!log.contains("panicked") && !log.contains("ERROR"), "{} complains: {log}", process.name());
    Ok(())
}

#[test]
fn an_idle_coordinator_asked_to_stop_exits_cleanly_and_its_shards_wait() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (mut coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        coordinator.process.signal(Signal::Term)?;
        let code = coordinator.process.exit_code(within(15))?;
        ensure!(code == 0, "the coordinator ended with {code}");
        check_log(&coordinator.process)?;
        // A shard that has noticed the end joins the next coordinator.
        let next = Coordinator::start_at(scene, &chain, &coordinator.address, &[])?;
        next.wait_ready(&[1, 2])?;
        for shard in &mut shards {
            ensure!(shard.process.exited()?.is_none(), "{} has ended", shard.process.name());
        }
        Ok(())
    })
}

#[test]
fn a_coordinator_asked_to_stop_with_blocks_under_way_tells_its_client() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, 3)?;
        coordinator.process.signal(Signal::Term)?;
        let code = coordinator.process.exit_code(within(15))?;
        ensure!(code == 0 || code == 3, "the coordinator ended with {code}");
        let log = coordinator.process.stderr()?;
        ensure!(!log.contains("panicked"), "{log}");
        let code = client.exit_code(within(15))?;
        ensure!(code == 1, "submit ended with {code} although the chain was not finished");
        let said = client.stderr()?;
        ensure!(said.contains("block "), "the client does not say which block was left: {said}");
        Ok(())
    })
}

/// Starts a coordinator with a block in flight that practically never ends, and the only shard, which
/// runs it.
fn with_endless_work(scene: &Scene) -> Result<(Coordinator, Shard, Process)> {
    let chain = Chain::of(8)?;
    let coordinator = Coordinator::start(scene, &chain, &["--grace", "60"])?;
    let more = ["--allow-faults", "--fault", "slow:600000@1+", "--grace", "60"];
    let shard = Shard::start(scene, 1, &coordinator.url(), &more)?;
    coordinator.wait_ready(&[1])?;
    let client = coordinator.begin_submit(scene, &chain)?;
    shard.wait_faulted(within(20))?;
    Ok((coordinator, shard, client))
}

/// Asks a process to stop, waits until it drains, and asks it again.
fn ask_twice(process: &mut Process, drains: &str) -> Result<()> {
    process.signal(Signal::Term)?;
    wait_until(within(10), "it drains", || Ok(process.stderr()?.contains(drains)))?;
    ensure!(process.exited()?.is_none(), "it did not wait for what it has in hand");
    process.signal(Signal::Term)?;
    let began = Instant::now();
    let code = process.exit_code(within(10))?;
    ensure!(code == 3, "{} ended with {code}", process.name());
    ensure!(began.elapsed() < scaled(within(4)), "it took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn a_coordinator_asked_twice_ends_at_once() -> Result<()> {
    scenario(|scene| {
        let (mut coordinator, _shard, mut client) = with_endless_work(scene)?;
        ask_twice(&mut coordinator.process, "asked to stop")?;
        let code = client.exit_code(within(15))?;
        ensure!(code == 1, "submit ended with {code} although its block was given up");
        Ok(())
    })
}

#[test]
fn a_shard_asked_twice_ends_at_once() -> Result<()> {
    scenario(|scene| {
        let (_coordinator, mut shard, _client) = with_endless_work(scene)?;
        ask_twice(&mut shard.process, "asked to stop")
    })
}

#[test]
fn shards_rejoin_a_coordinator_that_was_killed_and_started_again() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, 3)?;
        coordinator.process.kill()?;
        let code = client.exit_code(within(15))?;
        ensure!(code == 1, "submit ended with {code} although the coordinator is gone");
        let again = Coordinator::start_at(scene, &chain, &coordinator.address, &[])?;
        again.wait_ready(&[1, 2])?;
        ensure!(again.status()?.head == 0, "the state was in memory only");
        again.submit_all(scene, &chain)?;
        for shard in &mut shards {
            ensure!(shard.process.exited()?.is_none(), "{} has ended", shard.process.name());
        }
        Ok(())
    })
}

#[test]
fn a_killed_coordinator_goes_on_where_it_was_from_its_data_directory() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let data = scene.path("data").display().to_string();
        let mut coordinator = Coordinator::start(scene, &chain, &["--data-dir", &data])?;
        let _shards = Shard::start_all(scene, 2, &coordinator.url())?;
        let mut client = coordinator.begin_and_wait(scene, &chain, 3)?;
        coordinator.process.kill()?;
        client.exit_code(within(15))?;
        let answered = Report::parse(&client.stdout()?)?.committed() as u64;
        let again = Coordinator::start_at(scene, &chain, &coordinator.address, &["--data-dir", &data])?;
        let head = again.status()?.head;
        // One block may be durable without the client having received its answer.
        ensure!(head == answered || head == answered + 1, "{answered} were acknowledged, the head is {head}");
        again.wait_ready(&[1, 2])?;
        again.submit_all(scene, &chain)?;
        ensure!(again.status()?.head == 40, "the chain is not complete");
        Ok(())
    })
}

/// Freezes the coordinator for three times the silence limit of its peers. Returns its log once the
/// fleet works again.
fn pause(scene: &Scene, chain: &Chain) -> Result<String> {
    let (mut coordinator, mut shards) = Coordinator::with_shards(scene, chain, &[], 2)?;
    coordinator.process.signal(Signal::Stop)?;
    // The length of the pause is the fault.
    let began = Instant::now();
    wait_until(within(10), "the pause is over", || Ok(began.elapsed() > within(3)))?;
    coordinator.process.signal(Signal::Continue)?;
    coordinator.wait_ready(&[1, 2])?;
    coordinator.submit_all(scene, chain)?;
    for shard in &mut shards {
        ensure!(shard.process.exited()?.is_none(), "{} has ended", shard.process.name());
    }
    coordinator.process.stderr()
}

#[test]
fn after_a_pause_of_the_coordinator_each_shard_joins_again_at_most_once() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let log = pause(scene, &chain)?;
        for shard in [1, 2] {
            let event = format!("event=shard_joined shard={shard}");
            let joined = log.lines().filter(|line| line.ends_with(&event)).count();
            ensure!((1..=2).contains(&joined), "shard {shard} joined {joined} times");
        }
        Ok(())
    })
}

#[test]
fn no_shard_is_lost_because_the_coordinator_was_paused() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let log = pause(scene, &chain)?;
        let lost: Vec<_> = log.lines().filter(|line| line.contains("shard_lost")).collect();
        let first = lost.first().copied().unwrap_or_default();
        ensure!(lost.is_empty(), "{} times a shard counts as lost, first: {first}", lost.len());
        Ok(())
    })
}

#[test]
fn a_shard_without_coordinator_can_be_asked_to_stop() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (mut coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        coordinator.process.kill()?;
        for shard in &mut shards {
            shard.process.signal(Signal::Term)?;
            let code = shard.process.exit_code(within(15))?;
            ensure!(code == 0, "{} ended with {code}", shard.process.name());
        }
        let mut never = Shard::start_serving(scene, 9, &coordinator.url())?;
        never.process.signal(Signal::Term)?;
        let code = never.process.exit_code(within(15))?;
        ensure!(code == 0, "a shard that never joined ended with {code}");
        Ok(())
    })
}

#[test]
fn processes_end_with_the_process_that_started_them() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (mut coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let mut shard = shards.remove(0).process;
        shard.close_pipe();
        let code = shard.exit_code(within(15))?;
        ensure!(code == 0 || code == 3, "the shard ended with {code}");
        coordinator.wait_ready(&[2])?;
        coordinator.process.close_pipe();
        let code = coordinator.process.exit_code(within(15))?;
        ensure!(code == 0 || code == 3, "the coordinator ended with {code}");
        Ok(())
    })
}

#[test]
fn a_port_that_is_taken_is_named() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let taken = coordinator.address.as_str();
        let file = scene.path("never.address");
        let mut second = Coordinator::spawn(scene, &chain, taken, &file, &[])?;
        let mut third = Shard::start(scene, 3, &coordinator.url(), &["--listen", taken])?;
        for process in [&mut second, &mut third.process] {
            let code = process.exit_code(within(15))?;
            ensure!(code == 1, "{} ended with {code}", process.name());
            let said = process.stderr()?;
            let last = said.lines().last().context("it says nothing")?;
            ensure!(last.contains(taken) && last.contains("in use"), "unclear: {said}");
        }
        ensure!(!file.exists(), "an address was written that was never served");
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}
