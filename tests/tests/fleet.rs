//! A fleet that serves: a coordinator, shards, a client that submits a generated chain, and faults.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | three shards | – | every block verified, the head is the chain's last block |
//! | the chain again | submitted twice | the same answers, the head does not move |
//! | shards first | no coordinator yet | they wait, then join |
//! | coordinator first | no shard yet | blocks wait for the first shard |
//! | no shard ever | – | a clear error after the limit; blocks go on once a shard joins |
//! | blocks in flight | SIGKILL of one shard | every block verified |
//! | blocks in flight | SIGKILL of all but one | every block verified |
//! | blocks in flight | SIGKILL of all, one comes back | every block verified |
//! | idle fleet | SIGKILL of a shard | it leaves the status at once, blocks go on |
//! | blocks in flight | a shard joins late | it takes part |
//! | blocks in flight | a shard is killed and restarted | it joins with a new incarnation and takes part |
//! | blocks in flight | SIGSTOP of a shard | lost after the limit, every block verified; rejoins at SIGCONT |
//! | blocks in flight | SIGTERM of a shard | it drains and exits 0, every block verified |
//! | blocks in flight | an operator drains a shard | it leaves and exits 75, every block verified |
//! | two shards, one id | – | the newcomer exits 1 with the reason, the first goes on |

use anyhow::{Result, ensure};
use shard_tests::{Chain, Coordinator, Shard, Signal, scenario, within};

/// The number of blocks of a chain that is only executed.
const SHORT: usize = 8;

/// The number of blocks of a chain during which a fault occurs.
const LONG: usize = 40;

/// The block of a long chain during which the fault occurs.
const DURING: usize = 5;

#[test]
fn every_block_is_verified_and_a_second_submission_changes_nothing() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(SHORT)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 3)?;
        let first = coordinator.submit_all(scene, &chain)?;
        let before = coordinator.status()?;
        let second = coordinator.submit_all(scene, &chain)?;
        let after = coordinator.status()?;
        for field in ["hash", "fork"] {
            ensure!(first.column(field)? == second.column(field)?, "{field} differs at the second time");
        }
        ensure!(first.total("gas_used")? == second.total("gas_used")?, "the gas differs at the second time");
        ensure!(before.head_hash == after.head_hash, "the head has moved");
        let results =
            |status: &shard_tests::Status| status.shards.iter().map(|shard| shard.results).sum::<u64>();
        ensure!(results(&before) == results(&after), "known blocks were executed again");
        Ok(())
    })
}

#[test]
fn shards_that_start_before_the_coordinator_wait_and_join() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(SHORT)?;
        // The address of a coordinator that has ended, so that no other process is likely to use it.
        let former = Coordinator::start(scene, &chain, &[])?;
        let (address, url) = (former.address.clone(), former.url());
        drop(former);
        let first = Shard::start_serving(scene, 1, &url)?;
        let second = Shard::start_serving(scene, 2, &url)?;
        let coordinator = Coordinator::start_at(scene, &chain, &address, &[])?;
        coordinator.wait_ready(&[first.id, second.id])?;
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn blocks_submitted_before_any_shard_is_there_wait_for_the_first_one() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(SHORT)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let mut client = coordinator.begin_submit(scene, &chain)?;
        // Whether or not the block has arrived by then, no answer is possible.
        ensure!(coordinator.status()?.head == 0);
        ensure!(client.stdout()?.is_empty(), "a block was answered without shards");
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        coordinator.check_submitted(&chain, &mut client)?;
        Ok(())
    })
}

#[test]
fn without_shards_a_block_is_refused_after_the_limit_and_can_be_submitted_again() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(SHORT)?;
        let coordinator = Coordinator::start(scene, &chain, &["--no-shard-wait", "1"])?;
        let mut client = coordinator.begin_submit(scene, &chain)?;
        let code = client.exit_code(within(15))?;
        let said = client.stderr()?;
        ensure!(code == 1, "submit ended with {code}");
        ensure!(said.contains("block 1: ") && said.contains("no shard"), "unclear: {said}");
        ensure!(coordinator.status()?.head == 0, "the head has moved");
        let _shard = Shard::start(scene, 1, &coordinator.url(), &[])?;
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn a_shard_killed_while_blocks_are_under_way_costs_nothing() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 3)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        shards[1].process.kill()?;
        coordinator.check_submitted(&chain, &mut client)?;
        coordinator.wait_ready(&[1, 3])?;
        Ok(())
    })
}

#[test]
fn one_shard_of_three_is_enough_when_the_others_are_killed() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 3)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        shards[0].process.kill()?;
        shards[2].process.kill()?;
        coordinator.check_submitted(&chain, &mut client)?;
        coordinator.wait_ready(&[2])?;
        Ok(())
    })
}

#[test]
fn when_all_shards_are_killed_blocks_wait_until_one_comes_back() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        for shard in &mut shards {
            shard.process.kill()?;
        }
        coordinator.wait_status(within(10), "no shard is left", |status| status.shards.is_empty())?;
        ensure!(client.exited()?.is_none(), "the client did not wait");
        let _shard = Shard::start(scene, 2, &coordinator.url(), &[])?;
        coordinator.check_submitted(&chain, &mut client)?;
        Ok(())
    })
}

#[test]
fn an_idle_shard_that_is_killed_is_noticed_before_its_heartbeats_are_missed() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(SHORT)?;
        // The limit is far beyond the deadline below, so only the end of the connection can show the loss.
        let coordinator = Coordinator::start(scene, &chain, &["--lost-after-ms", "60000"])?;
        let mut shards = Shard::start_all(scene, 3, &coordinator.url())?;
        coordinator.wait_ready(&[1, 2, 3])?;
        shards[2].process.kill()?;
        coordinator.wait_status(within(10), "shard 3 is lost", |status| status.shard(3).is_none())?;
        coordinator.wait_ready(&[1, 2])?;
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn a_shard_that_joins_late_takes_part() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, _shards) = Coordinator::with_shards(scene, &chain, &[], 1)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        let _late = Shard::start(scene, 7, &coordinator.url(), &[])?;
        coordinator.wait_status(within(20), "shard 7 has given results", |status| {
            status.shard(7).is_some_and(|shard| shard.results > 0)
        })?;
        coordinator.check_submitted(&chain, &mut client)?;
        coordinator.wait_ready(&[1, 7])?;
        Ok(())
    })
}

#[test]
fn a_killed_shard_that_is_started_again_joins_in_a_new_life() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 2)?;
        let former = coordinator.status()?.shard(2).map(|shard| shard.incarnation);
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        shards[1].process.kill()?;
        let _again = Shard::start(scene, 2, &coordinator.url(), &[])?;
        coordinator.wait_status(within(20), "shard 2 gives results again", |status| {
            status.shard(2).is_some_and(|shard| Some(shard.incarnation) != former && shard.results > 0)
        })?;
        coordinator.check_submitted(&chain, &mut client)?;
        coordinator.wait_ready(&[1, 2])?;
        Ok(())
    })
}

#[test]
fn a_frozen_shard_is_lost_after_the_limit_and_rejoins_when_it_thaws() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 3)?;
        let before = coordinator.status()?.shard(1).map(|shard| shard.incarnation);
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        shards[0].process.signal(Signal::Stop)?;
        let noticed = coordinator
            .wait_status(within(10), "the frozen shard is lost", |status| status.shard(1).is_none())?;
        ensure!(noticed < within(4), "a limit of one second took {noticed:?}");
        coordinator.check_submitted(&chain, &mut client)?;
        shards[0].process.signal(Signal::Continue)?;
        coordinator.wait_ready(&[1, 2, 3])?;
        let after = coordinator.status()?.shard(1).map(|shard| shard.incarnation);
        ensure!(before == after, "the process is the same, its incarnation is not");
        Ok(())
    })
}

#[test]
fn a_shard_asked_to_stop_drains_and_exits_cleanly_while_blocks_go_on() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (mut coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 3)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        let process = &mut shards[0].process;
        process.signal(Signal::Term)?;
        let code = process.exit_code(within(15))?;
        ensure!(code == 0, "the shard ended with {code}");
        coordinator.check_submitted(&chain, &mut client)?;
        coordinator.wait_ready(&[2, 3])?;
        let log = coordinator.process.stderr()?;
        ensure!(!log.contains("shard_lost"), "a drained shard counts as lost");
        ensure!(coordinator.process.exited()?.is_none());
        Ok(())
    })
}

#[test]
fn a_shard_that_an_operator_drains_leaves_for_its_supervisor_while_blocks_go_on() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(LONG)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 3)?;
        let mut client = coordinator.begin_and_wait(scene, &chain, DURING)?;
        coordinator.ask(&["drain", "2"], &[])?;
        let code = shards[1].process.exit_code(within(15))?;
        ensure!(code == 75, "the shard ended with {code}, which starts it again");
        coordinator.check_submitted(&chain, &mut client)?;
        coordinator.wait_ready(&[1, 3])?;
        let log = coordinator.process.stderr()?;
        ensure!(!log.contains("shard_lost") && log.contains("has asked it to leave"), "{log}");
        Ok(())
    })
}

#[test]
fn the_second_of_two_shards_with_one_id_is_turned_away() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(SHORT)?;
        let (coordinator, mut shards) = Coordinator::with_shards(scene, &chain, &[], 1)?;
        let first = coordinator.status()?.shard(1).map(|shard| shard.incarnation);
        let mut second = Shard::start(scene, 1, &coordinator.url(), &[])?;
        let code = second.process.exit_code(within(15))?;
        ensure!(code == 1, "the second shard ended with {code}");
        let said = second.process.stderr()?;
        ensure!(said.contains("shard 1 is alive in another process"), "unclear: {said}");
        ensure!(shards[0].process.exited()?.is_none(), "the first shard has ended");
        let now = coordinator.status()?.shard(1).map(|shard| shard.incarnation);
        ensure!(now == first, "the second shard has taken the first one's place");
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}
