//! Commands whose output has no reader, that are interrupted, or that have nothing to do.
//!
//! | scenario | fault | expectation |
//! |---|---|---|
//! | every command that prints | standard output is closed by its reader | exits with 141, no message |
//! | `blocktest`, `run` | Ctrl-C | 3; cases that did not run are not failures; a last line in any case |
//! | an empty chain file | `import`, `submit`, `run` | 1, the file is named |
//! | a directory that an import holds | `--take-over` | the import ends in good order, the service goes on |
//! | a directory whose holder hangs | `--take-over`, SIGTERM during the wait | ends at once, with 0 |

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{
    Binary, Chain, Coordinator, Process, Report, Scene, Shard, Signal, blockchain_tests, scenario, submit_to,
    wait_until, within,
};

/// The exit code that shells report for a program that SIGPIPE ends.
const OUTPUT_CLOSED: i32 = 141;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

/// Runs a command whose output has no reader. It must end quietly.
fn check_unread(scene: &Scene, line: &[&str]) -> Result<()> {
    let mut process = Process::start_unread(scene, "unread", Binary::of(line), line)?;
    let code = process.exit_code(within(30)).with_context(|| format!("{line:?}"))?;
    let said = process.stderr()?;
    let loud = ["panicked", "ipe", "coordinator: ", "lab: "].iter().any(|word| said.contains(word));
    ensure!(code == OUTPUT_CLOSED && !loud, "{line:?} ended with {code}: {said}");
    Ok(())
}

#[test]
fn the_coordinator_names_the_lab_command_for_what_has_moved() -> Result<()> {
    scenario(|scene| {
        let lines: [&[&str]; 6] = [
            &["generate", "--out", "x"],
            &["blocktest", "x", "--json"],
            &["fuzz", "--help"],
            &["simulate", "--seed", "1"],
            &["run", "--sequential", "x"],
            &["run", "--plan", "poison:1", "x"],
        ];
        for line in lines {
            let mut process = Process::start(scene, "moved", Binary::Coordinator, line)?;
            let code = process.exit_code(within(10))?;
            let said = process.stderr()?;
            let named = format!("`lab {}", line[0]);
            ensure!(code == 2 && said.contains(&named), "{line:?} ended with {code}: {said}");
        }
        Ok(())
    })
}

#[test]
fn commands_end_quietly_without_a_reader_of_their_output() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let (genesis, rlp) = (chain.genesis(), chain.rlp());
        let (genesis, rlp) = (text(&genesis)?, text(&rlp)?);
        let data = scene.path("data");
        let data = text(&data)?;
        let import = ["import", "--in-process", "--genesis", genesis, "--data-dir", data, rlp];
        check_unread(scene, &[&import[..], &["--json"]].concat())?;
        check_unread(scene, &import)?;
        check_unread(scene, &["export", "--data-dir", data])?;
        check_unread(scene, &["unwind", "--data-dir", data, "--to", "5"])?;
        for more in [&["--in-process"][..], &["--shards", "2", "--json"], &["--sequential"]] {
            check_unread(scene, &[&["run", "--genesis", genesis, rlp], more].concat())?;
        }
        check_unread(scene, &["simulate", "--seed", "7", "--trace"])?;
        check_unread(scene, &["simulate", "--seeds", "20"])?;
        check_unread(scene, &["fuzz", "--seeds", "2", "--json"])
    })
}

#[test]
fn clients_end_quietly_when_their_output_has_no_reader() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let _shards = Shard::start_all(scene, 1, &coordinator.url())?;
        coordinator.wait_ready(&[1])?;
        let (url, rlp) = (coordinator.url(), chain.rlp());
        for command in [&["status"][..], &["status", "--json"], &["submit", text(&rlp)?]] {
            check_unread(scene, &[command, &["--coordinator", &url]].concat())?;
        }
        // A client that has stopped does not stop the service.
        coordinator.submit_all(scene, &chain)?;
        check_unread(scene, &["submit", "--json", "--no-wait", "--coordinator", &url, text(&rlp)?])
    })
}

#[test]
fn a_suite_ends_quietly_when_its_results_have_no_reader() -> Result<()> {
    let Some(folder) = blockchain_tests()? else { return Ok(()) };
    scenario(|scene| {
        let folder = text(&folder)?;
        for more in [&["--in-process"][..], &["--shards", "2"], &["--in-process", "--json"]] {
            check_unread(scene, &[&["blocktest", folder], more].concat())?;
        }
        Ok(())
    })
}

#[test]
fn cases_that_were_not_run_have_not_failed() -> Result<()> {
    let Some(folder) = blockchain_tests()? else { return Ok(()) };
    scenario(|scene| {
        for more in [&["--in-process"][..], &["--shards", "2", "--plan", "each"]] {
            let line = [&["blocktest", text(&folder)?, "--json"], more].concat();
            let mut run = Process::start(scene, "blocktest", Binary::Lab, line)?;
            wait_until(within(30), "some cases are run", || Ok(run.stdout()?.lines().count() >= 20))?;
            run.signal(Signal::Interrupt)?;
            let code = run.exit_code(within(15))?;
            ensure!(code == 3, "{more:?} ended with {code}: {}", run.stderr()?);
            let rows: Vec<Value> =
                run.stdout()?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
            let (summary, cases) = rows.split_last().context("it printed nothing")?;
            let with = |result: &str| cases.iter().filter(|row| row["result"] == result).count();
            ensure!(with("fail") == 0, "cases have failed: {:?}", cases.last());
            ensure!(summary["summary"] == true && summary["stopped"] == true, "{summary}");
            ensure!(summary["passed"] == with("pass") && summary["failed"] == 0, "{summary}");
            ensure!(summary["files_not_run"].as_u64() > Some(0), "{summary}");
        }
        Ok(())
    })
}

#[test]
fn a_run_that_is_interrupted_prints_what_it_has() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(40)?;
        let (genesis, rlp) = (chain.genesis(), chain.rlp());
        let line = ["run", "--json", "--shards", "2", "--genesis", text(&genesis)?, text(&rlp)?];
        let mut run = Process::start(scene, "run", Binary::of(&line), line)?;
        wait_until(within(30), "the first blocks are executed", || {
            Ok(Report::parse(&run.stdout()?)?.rows.len() >= 3)
        })?;
        run.signal(Signal::Interrupt)?;
        let code = run.exit_code(within(20))?;
        ensure!(code == 3, "it ended with {code}: {}", run.stderr()?);
        let report = Report::parse(&run.stdout()?)?;
        let rows = report.rows.len() as u64;
        ensure!(report.total("verified")? == rows && report.total("failed")? == 0, "{:?}", report.summary);
        Ok(())
    })
}

#[test]
fn a_chain_file_without_blocks_is_named() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let empty = scene.write("empty.rlp", "")?;
        let (genesis, data) = (chain.genesis(), scene.path("data"));
        let line = ["import", "--in-process", "--genesis", text(&genesis)?, "--data-dir", text(&data)?];
        let import = [&line[..], &[text(&empty)?]].concat();
        let run = ["run", "--in-process", "--genesis", text(&genesis)?, text(&empty)?];
        let mut processes = vec![
            Process::start(scene, "import", Binary::Coordinator, import)?,
            Process::start(scene, "run", Binary::Coordinator, run)?,
            submit_to(scene, &coordinator.url(), &empty)?,
        ];
        for process in &mut processes {
            let code = process.exit_code(within(30))?;
            let said = process.stderr()?;
            ensure!(code == 1 && said.contains("empty.rlp"), "{} ended with {code}: {said}", process.name());
        }
        Ok(())
    })
}

/// Starts an import that holds its directory: its chain comes through a pipe without data.
fn holding_import(scene: &Scene, chain: &Chain, data: &Path) -> Result<Process> {
    let pipe: PathBuf = scene.path(&scene.fresh_name("pipe"));
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo ended with {made}");
    let (genesis, address) = (chain.genesis(), scene.path(&scene.fresh_name("import.address")));
    let line = [
        "import",
        "--in-process",
        "--exit-with-parent",
        "--genesis",
        text(&genesis)?,
        "--data-dir",
        text(data)?,
        "--listen",
        "127.0.0.1:0",
        "--address-file",
        text(&address)?,
        text(&pipe)?,
    ];
    let import = Process::start(scene, "import", Binary::of(&line), line)?;
    // The import serves once the directory is open.
    wait_until(within(20), "the import holds its directory", || Ok(address.is_file()))?;
    Ok(import)
}

#[test]
fn an_import_makes_way_for_a_service_that_takes_its_directory_over() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let data = scene.path("data");
        let mut import = holding_import(scene, &chain, &data)?;
        let coordinator = Coordinator::start(scene, &chain, &["--data-dir", text(&data)?, "--take-over"])?;
        let code = import.exit_code(within(15))?;
        ensure!(code == 3, "the import ended with {code}: {}", import.stderr()?);
        let _shards = Shard::start_all(scene, 1, &coordinator.url())?;
        coordinator.wait_ready(&[1])?;
        coordinator.submit_all(scene, &chain)?;
        Ok(())
    })
}

#[test]
fn a_service_that_waits_for_a_directory_can_be_asked_to_stop() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(8)?;
        let data = scene.path("data");
        let mut import = holding_import(scene, &chain, &data)?;
        import.signal(Signal::Stop)?;
        let file = scene.path("never.address");
        let more = ["--data-dir", text(&data)?, "--take-over", "--take-over-grace", "600"];
        let mut waiting = Coordinator::spawn(scene, &chain, "127.0.0.1:0", &file, &more)?;
        wait_until(within(20), "it waits", || Ok(waiting.stderr()?.contains("SIGTERM")))?;
        waiting.signal(Signal::Term)?;
        let code = waiting.exit_code(within(10))?;
        ensure!(code == 0 && !file.exists(), "it ended with {code}: {}", waiting.stderr()?);
        Ok(())
    })
}
