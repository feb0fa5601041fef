//! The rows about shards that die, freeze, are cut off, or hold another state than they should.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use shard_tests::{
    Chain, Coordinator, Direction, Measured, Moment, Proxy, Scene, Shape, Shard, Signal, scenario,
    wait_until, within,
};

use super::{Play, large};

#[test]
fn a_shard_that_dies_is_lost_at_once() -> Result<()> {
    scenario(|scene| {
        let mut play = Play::with_shards(scene, &[], 3)?;
        let mut client = play.in_a_block(scene, 2)?;
        let since = play.shards[1].process.strike()?;
        let lost = play.wait_told(since, &["event=shard_lost shard=2"])?;
        let done = play.next_block(lost)?;
        play.coordinator.check_submitted(&play.chain, &mut client)?;
        play.coordinator.wait_ready(&[1, 3])?;
        Measured::since(since, 10, "shard process dies", "SIGKILL in the middle of a block, 3 shards")
            .noticed("its connection ends: `shard_lost`", lost)
            .finished(done)
            .record()
    })
}

#[test]
fn a_frozen_shards_work_is_done_elsewhere_before_the_shard_is_lost() -> Result<()> {
    scenario(|scene| {
        let mut play = Play::with_shards(scene, &[], 3)?;
        let mut client = play.in_a_block(scene, 2)?;
        let since = Moment::now()?;
        play.shards[1].process.signal(Signal::Stop)?;
        let overdue = play.wait_told(since, &["event=reassigned shard=2"])?;
        let done = play.next_block(overdue)?;
        let lost = play.wait_told(since, &["event=shard_lost shard=2"])?;
        play.coordinator.check_submitted(&play.chain, &mut client)?;
        ensure!(overdue < lost, "its work waited until the shard was lost");
        let thawed = Moment::now()?;
        play.shards[1].process.signal(Signal::Continue)?;
        let joined = play.wait_told(thawed, &["event=shard_joined shard=2"])?;
        play.coordinator.wait_ready(&[1, 2, 3])?;
        Measured::since(since, 20, "shard frozen: its work", "SIGSTOP in the middle of a block, 3 shards")
            .noticed("overdue: given to another shard as well", overdue)
            .finished(done)
            .record()?;
        Measured::since(since, 21, "shard frozen: the shard", "the same")
            .noticed("no pong or no heartbeat for 1 s: `shard_lost`", lost)
            .record()?;
        Measured::since(thawed, 22, "the frozen shard thaws", "SIGCONT")
            .noticed("it registers again: `shard_joined`", joined)
            .record()
    })
}

/// Starts a shard with two proxies: one for the link to the coordinator, and one for the link from it.
fn behind_proxies(scene: &Scene, id: u32, coordinator: &Coordinator) -> Result<(Shard, Proxy, Proxy)> {
    let (mut out, mut back) = (Proxy::start()?, Proxy::start()?);
    out.lead_to(Some(coordinator.address.parse()?))?;
    let file = scene.path("shard.address").display().to_string();
    let advertised = back.address().to_string();
    let line = ["--advertise", &advertised, "--address-file", &file];
    let shard = Shard::start(scene, id, &out.url(), &line)?;
    wait_until(within(20), "the shard serves", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let bound = text.ends_with('\n');
        if bound {
            back.lead_to(Some(text.trim().parse()?))?;
        }
        Ok(bound)
    })?;
    Ok((shard, out, back))
}

/// Cuts one direction in the middle of a block. Returns the time of the cut, and the times when the
/// shard was lost and for what reason.
fn cut_off(scene: &Scene, heartbeats: bool) -> Result<[Moment; 3]> {
    let chain = Chain::sized(large())?;
    let coordinator = Coordinator::start_telling(scene, &chain, "127.0.0.1:0", &[])?;
    let (behind, mut out, mut back) = behind_proxies(scene, 2, &coordinator)?;
    let shards = vec![Shard::start(scene, 1, &coordinator.url(), &[])?, behind];
    coordinator.wait_ready(&[1, 2])?;
    let play = Play { chain, coordinator, shards };
    let mut client = play.in_a_block(scene, 2)?;
    let since = Moment::now()?;
    let (proxy, direction, why) = if heartbeats {
        (&mut out, Direction::ToTarget, "no heartbeat")
    } else {
        (&mut back, Direction::ToClient, "no pong")
    };
    proxy.shape(direction, Shape { cut: true, ..Shape::default() })?;
    let lost = play.wait_told(since, &[why, "event=shard_lost shard=2"])?;
    let done = play.next_block(since)?;
    play.coordinator.check_submitted(&play.chain, &mut client)?;
    proxy.shape(direction, Shape::default())?;
    play.coordinator.wait_ready(&[1, 2])?;
    Ok([since, lost, done])
}

#[test]
fn a_shard_whose_heartbeats_do_not_arrive_is_lost() -> Result<()> {
    scenario(|scene| {
        let [since, lost, done] = cut_off(scene, true)?;
        Measured::since(
            since,
            30,
            "cut off towards the coordinator",
            "a proxy holds what the shard sends, 2 shards",
        )
        .noticed("no heartbeat for 1 s although pings are answered: `shard_lost`", lost)
        .finished(done)
        .record()
    })
}

#[test]
fn a_shard_whose_pongs_do_not_arrive_is_lost() -> Result<()> {
    scenario(|scene| {
        let [since, lost, done] = cut_off(scene, false)?;
        Measured::since(
            since,
            31,
            "cut off from the coordinator",
            "a proxy holds what the shard answers, 2 shards",
        )
        .noticed("no pong for 1 s although heartbeats arrive: `shard_lost`", lost)
        .finished(done)
        .record()
    })
}

#[test]
fn a_replica_that_diverged_is_synced_again() -> Result<()> {
    scenario(|scene| {
        let play = Play::with_faults(scene, &[], &[None, Some("diverge@30")])?;
        let since = play.run_into_the_fault(scene, 1)?;
        let alarm =
            play.wait_told(since, &["its replica is not what it should be", "event=alarm shard=2"])?;
        let synced = play.wait_told(alarm, &["event=shard_synced shard=2"])?;
        play.coordinator.wait_ready(&[1, 2])?;
        play.coordinator.submit_all(scene, &play.chain)?;
        Measured::since(
            since,
            100,
            "replica diverged",
            "`--fault diverge@N`: heartbeats tell of another digest",
        )
        .noticed("three heartbeats that differ: alarm", alarm)
        .finished(synced)
        .record()
    })
}

#[test]
fn no_shard_is_lost_when_the_coordinator_is_paused_in_a_block() -> Result<()> {
    scenario(|scene| {
        let mut play = Play::with_shards(scene, &[], 3)?;
        let mut client = play.in_a_block(scene, 2)?;
        let began = Moment::now()?;
        play.coordinator.process.signal(Signal::Stop)?;
        // The length of the pause is the fault.
        let pause = Instant::now();
        wait_until(within(10), "the pause is over", || Ok(pause.elapsed() > within(3)))?;
        let since = Moment::now()?;
        play.coordinator.process.signal(Signal::Continue)?;
        let done = play.next_block(since)?;
        play.coordinator.check_submitted(&play.chain, &mut client)?;
        play.coordinator.wait_ready(&[1, 2, 3])?;
        let lost = play.coordinator.process.told(began, &["event=shard_lost"])?;
        ensure!(lost.is_none(), "a shard counts as lost");
        Measured::since(
            since,
            170,
            "coordinator paused",
            "SIGSTOP for 3 s in the middle of a block; from SIGCONT on",
        )
        .unnoticed("a gap in its own ticks: no shard is lost")
        .finished(done)
        .record()
    })
}

#[test]
fn a_shard_that_is_started_again_before_its_end_is_known_is_taken() -> Result<()> {
    scenario(|scene| {
        let mut play = Play::with_shards(scene, &[], 2)?;
        play.coordinator.process.signal(Signal::Stop)?;
        let since = Moment::now()?;
        let Some(shard) = play.shards.get_mut(1) else { bail!("there is no second shard") };
        shard.process.kill()?;
        let file = scene.path("again.address").display().to_string();
        *shard = Shard::start(scene, 2, &play.coordinator.url(), &["--address-file", &file])?;
        wait_until(within(20), "the new life serves", || Ok(std::fs::exists(&file)?))?;
        play.coordinator.process.signal(Signal::Continue)?;
        let lost = play.wait_told(since, &["event=shard_lost shard=2"])?;
        let joined = play.wait_told(lost, &["event=shard_joined shard=2"])?;
        play.coordinator.wait_ready(&[1, 2])?;
        play.coordinator.submit_all(scene, &play.chain)?;
        Measured::since(
            since,
            15,
            "a shard is started again before its end is known",
            "SIGKILL and a new process while the coordinator is stopped",
        )
        .noticed("its former life's connection has ended: `shard_lost`", lost)
        .finished(joined)
        .record()
    })
}
