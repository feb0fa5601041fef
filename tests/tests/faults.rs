//! Shards with planned faults (`executor-shard --fault`), and replicas that come back.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | blocks in flight | wrong results from one of two shards | every block verified |
//! | blocks in flight | damaged results from one of two shards | every block verified |
//! | blocks in flight | a worker that panics now and then | every block verified, the shard stays alive |
//! | blocks in flight | a worker that hangs | every block verified |
//! | blocks in flight | a worker that hangs on the only slot | slot retired, the shard exits 3 |
//! | blocks in flight | a shard that exits during a block | every block verified, exit code of the fault |
//! | blocks in flight | one slow shard | every block verified |
//! | `--fault` without `--allow-faults` | – | the command line is rejected |
//! | restart of a shard with `--data-dir` | SIGTERM | it comes back with its replica and takes part |

use anyhow::{Result, ensure};
use shard_tests::{Chain, Coordinator, Scene, Shard, Signal, scenario, within};

/// The number of blocks of a chain.
const BLOCKS: usize = 10;

/// Executes a chain on one sound shard and one with a fault. The fault must occur, and every block must
/// be verified.
fn chain_with(scene: &Scene, fault: &str) -> Result<(Coordinator, Shard, Shard)> {
    let chain = Chain::of(BLOCKS)?;
    let coordinator = Coordinator::start(scene, &chain, &[])?;
    let sound = Shard::start(scene, 1, &coordinator.url(), &[])?;
    let faulty = Shard::start(scene, 2, &coordinator.url(), &["--allow-faults", "--fault", fault])?;
    coordinator.wait_ready(&[1, 2])?;
    coordinator.submit_all(scene, &chain)?;
    faulty.check_faulted()?;
    Ok((coordinator, sound, faulty))
}

#[test]
fn wrong_results_of_a_shard_never_reach_the_chain() -> Result<()> {
    scenario(|scene| chain_with(scene, "wrong@3+").map(drop))
}

#[test]
fn damaged_results_of_a_shard_cost_only_time() -> Result<()> {
    scenario(|scene| chain_with(scene, "corrupt@2+").map(drop))
}

#[test]
fn a_worker_that_panics_is_started_again() -> Result<()> {
    scenario(|scene| {
        let (coordinator, _sound, _faulty) = chain_with(scene, "panic@4")?;
        coordinator.wait_ready(&[1, 2])?;
        Ok(())
    })
}

#[test]
fn work_of_a_worker_that_hangs_is_done_elsewhere() -> Result<()> {
    scenario(|scene| chain_with(scene, "hang@4").map(drop))
}

#[test]
fn a_shard_whose_last_slot_is_stuck_is_asked_to_leave_and_ends() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let _sound = Shard::start(scene, 1, &coordinator.url(), &[])?;
        let more = ["--allow-faults", "--fault", "hang@4", "--grace", "1"];
        let mut stuck = Shard::start(scene, 2, &coordinator.url(), &more)?;
        coordinator.wait_ready(&[1, 2])?;
        coordinator.submit_all(scene, &chain)?;
        stuck.check_faulted()?;
        // Its heartbeats continue; only its slot's counter stands still.
        let code = stuck.process.exit_code(within(40))?;
        ensure!(code == 75, "it ended with {code}");
        ensure!(coordinator.process.stderr()?.contains("is stuck"), "the alarm does not name the slot");
        let _again = Shard::start(scene, 2, &coordinator.url(), &[])?;
        coordinator.wait_ready(&[1, 2])?;
        Ok(())
    })
}

#[test]
fn a_shard_that_ends_itself_is_done_without() -> Result<()> {
    scenario(|scene| {
        let (_coordinator, _sound, mut faulty) = chain_with(scene, "exit@4")?;
        let code = faulty.process.exit_code(within(10))?;
        ensure!(code == 70, "it ended with {code}");
        Ok(())
    })
}

#[test]
fn a_slow_shard_holds_no_block_up_for_ever() -> Result<()> {
    scenario(|scene| chain_with(scene, "slow:60@1+").map(drop))
}

#[test]
fn faults_have_to_be_allowed() -> Result<()> {
    scenario(|scene| {
        let line = ["--shard-id", "1", "--coordinator", "http://127.0.0.1:1", "--fault", "panic@1"];
        let mut shard = shard_tests::Process::start(
            scene,
            "shard",
            shard_tests::Binary::ExecutorShard,
            line.map(std::ffi::OsString::from).to_vec(),
        )?;
        let code = shard.exit_code(within(10))?;
        ensure!(code == 2, "it ended with {code}");
        Ok(())
    })
}

#[test]
fn a_shard_with_a_folder_comes_back_with_its_replica() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let folder = scene.path("replica").display().to_string();
        let more = ["--data-dir", folder.as_str()];
        let mut first = Shard::start(scene, 1, &coordinator.url(), &more)?;
        coordinator.wait_ready(&[1])?;
        coordinator.submit_all(scene, &chain)?;
        first.process.signal(Signal::Term)?;
        let code = first.process.exit_code(within(15))?;
        ensure!(code == 0, "it ended with {code}");
        let again = Shard::start(scene, 1, &coordinator.url(), &more)?;
        coordinator.wait_ready(&[1])?;
        let said = again.process.stderr()?;
        ensure!(!said.contains("cannot be read"), "the replica was not there any more: {said}");
        Ok(())
    })
}
