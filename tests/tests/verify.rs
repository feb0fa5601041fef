//! Verified execution (`--verify-fraction`): shards that return wrong results are caught and named.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | service, all verified, two shards | one returns wrong results | named, quarantined; blocks verified |
//! | service, all verified, one shard | wrong results | trusted code names it, every block verified |
//! | service, none verified | wrong senders or results from one of two | the header catches it, it is named |
//! | service, all verified | SIGKILL of one of two shards | every block verified, no shard is named |
//! | a stand-alone pre-state, one shard | a false balance | passes unverified; caught with verification |
//! | recorded blocks, verified, two and three shards | – | every block and sub-block verified, no alarm |
//! | an invalid fraction | – | the command line is rejected |

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use shard_tests::{
    Binary, Chain, Coordinator, Process, Report, Scene, Shard, block_files, mainnet_dir, scenario,
    wait_until, within,
};

/// The number of blocks of a chain.
const BLOCKS: usize = 10;

const ALL: [&str; 2] = ["--verify-fraction", "1"];

/// The words of the log that name a shard as wrong.
const NAMED: &str = "returned a wrong result in block";

/// The lines of a log that name a shard as wrong.
fn named(log: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains(NAMED)).map(str::to_owned).collect()
}

/// Whether a line of the log, which may be coloured, names this shard.
fn is_about(line: &str, shard: u32) -> bool {
    let mut plain = String::new();
    let mut escape = false;
    for letter in line.chars() {
        match letter {
            '\u{1b}' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            _ => plain.push(letter),
        }
    }
    plain.contains(&format!("shard={shard} ")) || plain.contains(&format!(" shard {shard} ALARM"))
}

/// Checks that exactly this shard is named.
fn check_named(log: &str, shard: u32) -> Result<()> {
    let lines = named(log);
    ensure!(!lines.is_empty(), "no shard is named");
    let other = lines.iter().find(|line| !is_about(line, shard));
    ensure!(other.is_none(), "another shard than {shard} is named: {other:?}");
    Ok(())
}

/// The result of sequential execution of a chain.
fn sequential(scene: &Scene, chain: &Chain) -> Result<Report> {
    let flags = ["--sequential".into(), "--genesis".into(), chain.genesis().into()];
    Ok(run(scene, &[chain.rlp()], &flags, None)?.0)
}

/// Runs `coordinator run --json`, with the binary `shards` instead of `executor-shard` if it is given.
fn run(
    scene: &Scene,
    inputs: &[PathBuf],
    flags: &[OsString],
    shards: Option<&Path>,
) -> Result<(Report, String)> {
    let mut line: Vec<OsString> = vec!["run".into(), "--json".into()];
    line.extend(inputs.iter().map(|input| input.as_os_str().to_owned()));
    line.extend_from_slice(flags);
    let shards = shards.and_then(Path::to_str);
    let environment: Vec<(&str, &str)> =
        shards.map(|path| ("EXECUTOR_SHARD_BIN", path)).into_iter().collect();
    let mut process = Process::start_with(scene, "run", Binary::of(&line), line, &environment)?;
    process.exit_code(within(120))?;
    Ok((Report::parse(&process.stdout()?)?, process.stderr()?))
}

/// Writes a program that acts as `executor-shard`, with a fault for the shard with id `liar`. The shards
/// of `run` log only errors, so the coordinator's alarm about the shard is the evidence of the fault
/// ([`check_named`]).
fn with_a_liar(scene: &Scene, liar: u32, fault: &str) -> Result<PathBuf> {
    let real = Binary::ExecutorShard.path()?.display().to_string();
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in\n*\" --shard-id {liar} \"*) exec '{real}' \"$@\" --allow-faults --fault '{fault}' ;;\n\
         *) exec '{real}' \"$@\" ;;\nesac\n"
    );
    let path = scene.write("executor-shard", text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Executes a chain on two shards, the second with a fault, which must occur.
fn chain_with(scene: &Scene, options: &[&str], fault: &str) -> Result<(Coordinator, [Shard; 2])> {
    let chain = Chain::of(BLOCKS)?;
    let coordinator = Coordinator::start(scene, &chain, options)?;
    let sound = Shard::start(scene, 1, &coordinator.url(), &[])?;
    let faulty = Shard::start(scene, 2, &coordinator.url(), &["--allow-faults", "--fault", fault])?;
    coordinator.wait_ready(&[1, 2])?;
    let report = coordinator.submit_all(scene, &chain)?;
    faulty.check_faulted()?;
    let alone = sequential(scene, &chain)?;
    ensure!(report.column("hash")? == alone.column("hash")?, "the chains differ");
    let roots = alone.column("state_root")?;
    let last = roots.last().map(|(_, root)| root.clone()).context("there is no root")?;
    coordinator
        .wait_status(within(5), "the head is the last block", |status| status.head == BLOCKS as u64)?;
    ensure!(last.starts_with("0x"), "no state root: {last}");
    Ok((coordinator, [sound, faulty]))
}

#[test]
fn a_shard_that_lies_is_named_and_put_into_quarantine() -> Result<()> {
    scenario(|scene| {
        let (coordinator, _shards) = chain_with(scene, &ALL, "wrong@3+")?;
        check_named(&coordinator.process.stderr()?, 2)?;
        let status = coordinator.status()?;
        let quarantined = |id| status.shard(id).is_some_and(|shard| shard.quarantined);
        ensure!(quarantined(2) && !quarantined(1), "{status:?}");
        Ok(())
    })
}

#[test]
fn the_only_shard_is_checked_by_trusted_code() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let options = [&ALL[..], &["--when-no-shards", "local", "--no-shard-wait", "0"]].concat();
        let coordinator = Coordinator::start(scene, &chain, &options)?;
        let fault = ["--allow-faults", "--fault", "wrong@3+"];
        let shard = Shard::start(scene, 1, &coordinator.url(), &fault)?;
        coordinator.wait_ready(&[1])?;
        coordinator.submit_all(scene, &chain)?;
        shard.check_faulted()?;
        check_named(&coordinator.process.stderr()?, 1)?;
        let status = coordinator.status()?;
        ensure!(status.shard(1).is_some_and(|shard| shard.quarantined), "{status:?}");
        Ok(())
    })
}

#[test]
fn a_lie_that_the_header_shows_names_its_shard_too() -> Result<()> {
    scenario(|scene| {
        let (coordinator, _shards) = chain_with(scene, &[], "wrong@1+")?;
        check_named(&coordinator.process.stderr()?, 2)?;
        let status = coordinator.status()?;
        ensure!(status.shard(2).is_some_and(|shard| shard.quarantined), "{status:?}");
        Ok(())
    })
}

#[test]
fn losing_a_shard_while_everything_is_verified_costs_nothing_but_time() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(BLOCKS)?;
        let coordinator = Coordinator::start(scene, &chain, &ALL)?;
        let _first = Shard::start(scene, 1, &coordinator.url(), &[])?;
        let mut second = Shard::start(scene, 2, &coordinator.url(), &[])?;
        coordinator.wait_ready(&[1, 2])?;
        let mut client = coordinator.begin_submit(scene, &chain)?;
        wait_until(within(20), "a block is committed", || Ok(coordinator.status()?.head > 0))?;
        second.process.kill()?;
        coordinator.check_submitted(&chain, &mut client)?;
        ensure!(named(&coordinator.process.stderr()?).is_empty(), "a shard is named");
        Ok(())
    })
}

#[test]
fn a_false_balance_that_no_header_covers_is_caught() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let block = [dir.join("12243999.json.gz")];
    scenario(|scene| {
        // Three parts of sender recovery come first, then the sub-blocks.
        let liar = with_a_liar(scene, 1, "wrong@4+")?;
        let one = ["--shards", "1"].map(OsString::from);
        let (right, _) = run(scene, &block, &["--sequential".into()], None)?;
        let (believed, _) = run(scene, &block, &one, Some(&liar))?;
        believed.check_verified(1)?;
        ensure!(
            believed.column("delta_digest")? != right.column("delta_digest")?,
            "the fault changes nothing: there is nothing to be caught"
        );
        let (verified, said) =
            run(scene, &block, &[&one[..], &ALL.map(OsString::from)].concat(), Some(&liar))?;
        verified.check_verified(1)?;
        ensure!(verified.column("delta_digest")? == right.column("delta_digest")?, "a lie passed");
        check_named(&said, 1)
    })
}

#[test]
fn two_shards_of_which_one_lies_give_what_sequential_execution_gives() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let blocks = ["12243999.json.gz", "9069000.json.gz", "16257471.json.gz"].map(|name| dir.join(name));
    scenario(|scene| {
        let liar = with_a_liar(scene, 2, "wrong@5+")?;
        let (right, _) = run(scene, &blocks, &["--sequential".into()], None)?;
        let flags =
            [&["--shards", "2"], &ALL[..]].concat().into_iter().map(OsString::from).collect::<Vec<_>>();
        let (verified, said) = run(scene, &blocks, &flags, Some(&liar))?;
        verified.check_verified(blocks.len())?;
        for column in ["receipts_digest", "delta_digest"] {
            ensure!(verified.column(column)? == right.column(column)?, "{column} differs");
        }
        check_named(&said, 2)
    })
}

#[test]
fn honest_shards_agree_about_everything() -> Result<()> {
    let Some(dir) = mainnet_dir()? else { return Ok(()) };
    let files = block_files(&dir)?;
    scenario(|scene| {
        for shards in ["2", "3"] {
            let flags = [&["--shards", shards], &ALL[..]].concat();
            let flags: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
            let (report, said) = run(scene, &files, &flags, None)?;
            report.check_verified(files.len())?;
            ensure!(!said.contains("ALARM"), "{said}");
            let all: u64 = report.rows.iter().filter_map(|row| row["sub_blocks"].as_u64()).sum();
            ensure!(report.total("verified_sub_blocks")? == all, "not all of {all}: {:?}", report.summary);
        }
        Ok(())
    })
}

#[test]
fn what_is_no_fraction_is_refused() -> Result<()> {
    scenario(|scene| {
        for fraction in ["2", "-1", "x", "NaN"] {
            let option = format!("--verify-fraction={fraction}");
            let line = ["serve", "--genesis", "none.json", &option];
            let mut process = Process::start(scene, "coordinator", Binary::Coordinator, line)?;
            let code = process.exit_code(within(10))?;
            let said = process.stderr()?;
            ensure!(code == 2 && said.contains("fraction from 0 to 1"), "{fraction}: {code}, {said}");
        }
        Ok(())
    })
}
