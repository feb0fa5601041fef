//! `coordinator run`: executes blocks from files, with its own shard processes.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | all recorded blocks, 2 shards; in process; sequentially | – | every block verified |
//! | all recorded blocks, 3 shards | `--kill 1@N` | reassigned, every block verified, shard restarted |
//! | a generated chain | – | no shard is reported lost |
//! | a generated chain | `--kill 2@4` | as above, including state roots |
//! | a generated chain | `--kill 2@4`, `--trace` | the trace has the lost try and its heir |
//! | a generated chain, one shard | `--kill 1@3`: no shard is left | restarted, every block verified |
//! | a generated chain | several kills, also during one block | each happens, every block verified |
//! | a shard or block that does not exist | `--kill 9@1`, `1@99` | a clear error |
//! | blocks of interest, every plan and shard count | wrong speculation | digests as executed sequentially |
//! | a run in progress | SIGTERM, SIGKILL of the coordinator | exits 3, or is killed; no shard left behind |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use shard_tests::{
    Binary, Chain, Process, Report, Scene, Signal, block_files, children_of, mainnet_dir, scenario,
    wait_until, within,
};

/// Fork boundaries, conflicts of every kind, and large blocks: few enough to be executed many times.
const OF_INTEREST: [u64; 9] =
    [930_196, 2_675_000, 4_370_000, 7_279_999, 11_814_555, 12_520_364, 15_274_915, 15_537_394, 19_426_587];

/// Starts `coordinator run --json`.
fn start(scene: &Scene, inputs: &[PathBuf], flags: &[&str]) -> Result<Process> {
    let mut line = vec!["run".into(), "--json".into()];
    line.extend(inputs.iter().map(|input| input.as_os_str().to_owned()));
    line.extend(flags.iter().map(std::ffi::OsString::from));
    Process::start(scene, "run", Binary::of(&line), line)
}

/// Runs all inputs and checks that every block was verified.
fn run(scene: &Scene, inputs: &[PathBuf], blocks: usize, flags: &[&str]) -> Result<(Report, String)> {
    let mut process = start(scene, inputs, flags)?;
    let code = process.exit_code(within(120)).with_context(|| format!("run {flags:?}"))?;
    let report = Report::parse(&process.stdout()?)?;
    report.check_verified(blocks).with_context(|| format!("run {flags:?} ended with {code}"))?;
    ensure!(code == 0, "run {flags:?} ended with {code} although every block verified");
    Ok((report, process.stderr()?))
}

/// Runs a generated chain with these flags.
fn run_chain(scene: &Scene, chain: &Chain, flags: &[&str]) -> Result<(Report, String)> {
    let genesis = chain.genesis();
    let genesis = genesis.to_str().context("the path is not UTF-8")?;
    let flags = [flags, &["--genesis", genesis]].concat();
    run(scene, &[chain.rlp()], chain.blocks(), &flags)
}

/// The position of a shard's event in the timeline.
fn event(timeline: &str, shard: u32, what: &str) -> Option<usize> {
    timeline
        .lines()
        .position(|line| line.starts_with('[') && line.contains(&format!(" shard {shard} {what}")))
}

#[test]
fn all_recorded_blocks_are_verified_on_shards_in_process_and_sequentially() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let files = block_files(&dir)?;
    scenario(|scene| {
        for flags in [&["--shards", "2"][..], &["--in-process"], &["--sequential"]] {
            // On a busy machine the coordinator may also give work to a second shard.
            let (_, said) = run(scene, &files, files.len(), flags)?;
            ensure!(
                !said.contains("LOST") && !said.contains("ALARM"),
                "{flags:?}: nothing was done to it: {said}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_shard_killed_while_it_holds_work_of_a_recorded_block_costs_nothing() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let files = block_files(&dir)?;
    scenario(|scene| {
        let last = files.len();
        for block in [1, last / 2, last] {
            let kill = format!("1@{block}");
            let (report, timeline) =
                run(scene, &files, last, &["--shards", "3", "--timeline", "--kill", &kill])?;
            ensure!(report.total("reassigned")? >= 1, "--kill {kill}: nothing was reassigned");
            let struck = report.rows[block - 1]["reassigned"].as_u64();
            ensure!(struck >= Some(1), "--kill {kill}: the block had {struck:?} reassigned");
            let lost = event(&timeline, 1, "LOST").context("the loss is not told")?;
            let back = timeline.lines().skip(lost).any(|line| line.contains(" shard 1 joined"));
            ensure!(back || block == last, "--kill {kill}: shard 1 did not come back");
        }
        Ok(())
    })
}

#[test]
fn a_chain_file_is_executed_from_its_genesis_with_a_shard_killed() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (report, _) = run_chain(scene, &chain, &["--shards", "3", "--kill", "2@4"])?;
        ensure!(report.rows[3]["reassigned"].as_u64() >= Some(1), "nothing was reassigned in block 4");
        let (sequential, _) = run_chain(scene, &chain, &["--sequential"])?;
        for column in ["hash", "state_root", "receipts_root", "receipts_digest", "delta_digest"] {
            ensure!(report.column(column)? == sequential.column(column)?, "{column} differs");
        }
        Ok(())
    })
}

#[test]
fn a_run_that_loses_no_shard_reports_none_lost() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (_, said) = run_chain(scene, &chain, &["--shards", "3"])?;
        ensure!(!said.contains("lost") && !said.contains("LOST"), "shards count as lost: {said}");
        Ok(())
    })
}

#[test]
fn a_trace_of_a_run_shows_a_killed_shard_and_its_heir() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let file = scene.path("trace.json");
        let flags = ["--shards", "3", "--kill", "2@4", "--trace", file.to_str().context("not UTF-8")?];
        run_chain(scene, &chain, &flags)?;
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let events = trace["traceEvents"].as_array().context("no events")?;
        let blocks = trace["otherData"]["blocks"].as_array().context("no blocks")?;
        ensure!(blocks.len() == chain.blocks(), "{blocks:?}");
        let lost = events.iter().find(|event| event["cat"] == "lost").context("no try was lost")?;
        ensure!(lost["pid"] == 3, "shard 2 was killed: {lost}");
        let heir = |event: &&serde_json::Value| {
            event["cat"] == "used" && event["args"]["work"] == lost["args"]["work"] && event["pid"] != 3
        };
        ensure!(events.iter().any(|event| heir(&event)), "its work was done by another shard");
        ensure!(events.iter().any(|event| event["ph"] == "f"), "an arrow leads there");
        Ok(())
    })
}

#[test]
fn the_only_shard_is_started_again_when_it_is_killed() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (report, timeline) = run_chain(scene, &chain, &["--shards", "1", "--kill", "1@3", "--timeline"])?;
        ensure!(event(&timeline, 1, "LOST").is_some(), "shard 1 was not lost:\n{timeline}");
        ensure!(report.total("reassigned")? >= 1, "nothing was reassigned");
        Ok(())
    })
}

#[test]
fn several_kills_in_different_blocks_all_happen() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let kills = ["--kill", "1@2", "--kill", "2@4", "--kill", "3@6", "--kill", "1@7"];
        let (report, _) = run_chain(scene, &chain, &[&["--shards", "3"], &kills[..]].concat())?;
        for block in [2, 4, 6, 7] {
            let struck = report.rows[block - 1]["reassigned"].as_u64();
            ensure!(struck >= Some(1), "block {block} had {struck:?} reassigned");
        }
        Ok(())
    })
}

#[test]
fn two_shards_can_be_killed_in_one_block() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let flags = ["--shards", "3", "--timeline", "--kill", "1@3", "--kill", "2@3"];
        let (_, timeline) = run_chain(scene, &chain, &flags)?;
        for shard in [1, 2] {
            ensure!(event(&timeline, shard, "LOST").is_some(), "shard {shard} was not killed:\n{timeline}");
        }
        Ok(())
    })
}

#[test]
fn a_kill_of_what_does_not_exist_is_a_clear_error() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let genesis = chain.genesis();
        let genesis = genesis.to_str().context("the path is not UTF-8")?;
        for (kill, message) in
            [("9@1", "there is no shard 9"), ("0@1", "there is no shard 0"), ("1@99", "8 blocks")]
        {
            let flags = ["--shards", "2", "--genesis", genesis, "--kill", kill];
            let mut process = start(scene, &[chain.rlp()], &flags)?;
            let code = process.exit_code(within(30))?;
            let said = process.stderr()?;
            ensure!(code == 1 && said.contains(kill) && said.contains(message), "{kill}: {code}: {said}");
        }
        for kill in ["1", "x@1", "1@0", "1@"] {
            let mut process = start(scene, &[chain.rlp()], &["--genesis", genesis, "--kill", kill])?;
            let code = process.exit_code(within(30))?;
            ensure!(code == 2 && process.stderr()?.contains("SHARD@BLOCK"), "{kill}: {code}");
        }
        Ok(())
    })
}

/// The results by block that must not depend on how the block was executed.
type Digests = BTreeMap<u64, [String; 2]>;

fn digests(report: &Report) -> Result<Digests> {
    let receipts = report.column("receipts_digest")?;
    let changes = report.column("delta_digest")?;
    Ok(receipts.into_iter().zip(changes).map(|((block, left), (_, right))| (block, [left, right])).collect())
}

/// Law: receipts and state changes equal those of sequential execution, however a block is cut, on
/// however many shards, on whatever state it was speculated.
fn check_digests(scene: &Scene, files: &[PathBuf], shards: &[&str], plans: &[&str]) -> Result<()> {
    let (sequential, _) = run(scene, files, files.len(), &["--sequential"])?;
    let expected = digests(&sequential)?;
    let mut wrong = Vec::new();
    for count in shards {
        for plan in plans {
            let flags = ["--in-process", "--shards", count, "--plan", plan];
            let (report, _) = run(scene, files, files.len(), &flags)?;
            for (block, [receipts, changes]) in digests(&report)? {
                let [right_receipts, right_changes] = expected.get(&block).context("another block")?;
                if receipts != *right_receipts {
                    wrong.push(format!("block {block}, {count} shards, plan {plan}: receipts"));
                }
                if changes != *right_changes {
                    wrong.push(format!("block {block}, {count} shards, plan {plan}: changes"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "not as executed sequentially:\n{}", wrong.join("\n"));
    Ok(())
}

/// With `SHARDS_TEST_ALL=1` all recorded blocks, otherwise the blocks of interest.
fn of_interest(dir: &Path) -> Result<Vec<PathBuf>> {
    if std::env::var_os("SHARDS_TEST_ALL").is_some() {
        return block_files(dir);
    }
    let files: Vec<_> = OF_INTEREST.iter().map(|number| dir.join(format!("{number}.json.gz"))).collect();
    Ok(files)
}

#[test]
fn receipts_and_changes_depend_on_neither_the_shard_count_nor_an_honest_plan() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let files = of_interest(&dir)?;
    scenario(|scene| check_digests(scene, &files, &["1", "2", "3", "5"], &["auto", "one", "each"]))
}

#[test]
fn receipts_and_changes_do_not_depend_on_what_was_speculated() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let files = of_interest(&dir)?;
    let plans = ["random:1", "random:2", "poison:1", "poison:2"];
    scenario(|scene| check_digests(scene, &files, &["1", "2", "3", "5"], &plans))
}

#[test]
fn shard_processes_give_what_shards_in_process_give() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let files = of_interest(&dir)?;
    scenario(|scene| {
        let (sequential, _) = run(scene, &files, files.len(), &["--sequential"])?;
        for flags in [["--shards", "3", "--plan", "random:3"], ["--shards", "2", "--plan", "poison:3"]] {
            let (report, _) = run(scene, &files, files.len(), &flags)?;
            ensure!(digests(&report)? == digests(&sequential)?, "{flags:?}: not as executed sequentially");
        }
        Ok(())
    })
}

/// Starts a long run and returns, with its shards, once it has answered some blocks.
fn run_under_way(scene: &Scene, chain: &Chain) -> Result<(Process, Vec<shard_tests::Descendant>)> {
    let genesis = chain.genesis();
    let genesis = genesis.to_str().context("the path is not UTF-8")?;
    let run = start(scene, &[chain.rlp()], &["--shards", "3", "--genesis", genesis])?;
    wait_until(within(30), "the first blocks are executed", || {
        Ok(Report::parse(&run.stdout()?)?.rows.len() >= 3)
    })?;
    let shards = children_of(run.pid())?;
    ensure!(shards.len() == 3, "the run has the children {shards:?}");
    Ok((run, shards))
}

fn wait_gone(shards: &[shard_tests::Descendant]) -> Result<()> {
    wait_until(within(10), "no shard is left", || {
        Ok(!shards.iter().any(shard_tests::Descendant::is_running))
    })?;
    Ok(())
}

#[test]
fn no_shard_outlives_a_run_that_ends_by_itself() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut run, shards) = run_under_way(scene, &chain)?;
        let code = run.exit_code(within(60))?;
        ensure!(code == 0, "the run ended with {code}");
        let left: Vec<_> = shards.iter().filter(|shard| shard.is_running()).collect();
        ensure!(left.is_empty(), "{left:?} still run when the run has ended");
        Ok(())
    })
}

#[test]
fn no_shard_outlives_a_run_that_is_asked_to_stop() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut run, shards) = run_under_way(scene, &chain)?;
        run.signal(Signal::Term)?;
        let code = run.exit_code(within(15))?;
        ensure!(code == 3, "the run ended with {code}");
        let left: Vec<_> = shards.iter().filter(|shard| shard.is_running()).collect();
        ensure!(left.is_empty(), "{left:?} still run when the run has ended");
        Ok(())
    })
}

#[test]
fn no_shard_outlives_a_run_that_is_killed() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (mut run, shards) = run_under_way(scene, &chain)?;
        run.kill()?;
        wait_gone(&shards)
    })
}
