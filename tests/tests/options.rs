//! Options from the command line, the environment and a file, and what the binaries say of them.
//!
//! | scenario | expectation |
//! |---|---|
//! | an option in several places | the command line goes before the environment, and that before the file |
//! | a service whose options are all in a file | it serves, and shards with variables join it |
//! | the log filter in the file changes, SIGHUP | it holds; a file that is wrong changes nothing |
//! | a value that is wrong, in each place | exit code 2; option, value, bound and place are named |
//! | variables that a shard's options would have | they do not reach the shards that `run` starts |
//! | `completions`, `man`, `--version` | what shells, `man` and people need |

use anyhow::{Context, Result, ensure};
use shard_tests::{Binary, Chain, Process, Scene, Signal, Status, scenario, wait_until, within};

/// Runs a binary to its end.
fn ended(scene: &Scene, line: &[&str], environment: &[(&str, &str)]) -> Result<(i32, String, String)> {
    let binary =
        if line.first() == Some(&"--shard-id") { Binary::ExecutorShard } else { Binary::Coordinator };
    let mut process = Process::start_with(scene, "options", binary, line, environment)?;
    let code = process.exit_code(within(60)).with_context(|| format!("{line:?}"))?;
    Ok((code, process.stdout()?, process.stderr()?))
}

fn utf8(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() -> Result<()> {
    scenario(|scene| {
        let file = scene.write(
            "shards.toml",
            "[coordinator.serve]\ngenesis = 'a.json'\ngrace = '1min'\nheartbeat-ms = 50\nlost-after-ms = '2s'\n",
        )?;
        let line = ["serve", "--dump-config", "--lost-after-ms", "3s"];
        let environment = [("SHARDS_CONFIG", utf8(&file)?), ("SHARDS_HEARTBEAT_MS", "70ms")];
        let (code, said, errors) = ended(scene, &line, &environment)?;
        ensure!(code == 0, "it ended with {code}: {errors}");
        for (wanted, source) in [
            ("genesis = \"a.json\"", "[coordinator.serve] of"),
            ("grace = \"1min\"", "[coordinator.serve] of"),
            ("heartbeat-ms = \"70ms\"", "SHARDS_HEARTBEAT_MS"),
            ("lost-after-ms = \"3s\"", "the command line"),
            ("reorg = \"any\"", "default"),
        ] {
            let found = said.lines().find(|line| line.starts_with(wanted));
            ensure!(found.is_some_and(|line| line.contains(&format!("# {source}"))), "{wanted}: {said}");
        }
        Ok(())
    })
}

#[test]
fn a_service_takes_its_options_from_a_file_and_a_shard_from_variables() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let (genesis, address) = (chain.genesis(), scene.path("address"));
        let text = format!(
            "[coordinator.serve]\ngenesis = {genesis:?}\nlisten = '127.0.0.1:0'\naddress-file = {address:?}\n"
        );
        let file = scene.write("shards.toml", text)?;
        let line = ["--config", utf8(&file)?, "serve"];
        let mut service = Process::start(scene, "service", Binary::Coordinator, line)?;
        wait_until(within(30), "the service serves", || {
            Ok(std::fs::read_to_string(&address).is_ok_and(|text| text.ends_with('\n')))
        })?;
        let url = format!("http://{}", std::fs::read_to_string(&address)?.trim());
        let variables =
            [("SHARDS_COORDINATOR", url.as_str()), ("SHARDS_SHARD_ID", "7"), ("SHARDS_THREADS", "2")];
        let mut shard = Process::start_with::<&str>(scene, "shard", Binary::ExecutorShard, [], &variables)?;
        wait_until(within(30), "the shard has joined with two slots", || {
            Ok(Status::of(&url)?.shard(7).is_some_and(|shard| shard.slots == 2))
        })?;
        for process in [&mut shard, &mut service] {
            process.signal(Signal::Term)?;
            process.ended(within(30))?.succeeded("the end")?;
        }
        Ok(())
    })
}

#[test]
fn a_service_takes_its_log_filter_again_at_sighup() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(1)?;
        let (genesis, address) = (chain.genesis(), scene.path("address"));
        let write = |log: &str| {
            scene.write(
                "shards.toml",
                format!(
                    "[coordinator.serve]\ngenesis = {genesis:?}\nlisten = '127.0.0.1:0'\n\
                     address-file = {address:?}\nlog = '{log}'\n"
                ),
            )
        };
        let file = write("error")?;
        let line = ["--config", utf8(&file)?, "serve"];
        let mut service = Process::start(scene, "service", Binary::Coordinator, line)?;
        wait_until(within(30), "the service serves", || {
            Ok(std::fs::read_to_string(&address).is_ok_and(|text| text.ends_with('\n')))
        })?;
        ensure!(!service.stderr()?.contains("INFO"), "{}", service.stderr()?);
        let mut hangup = |wanted: &str| {
            service.signal(Signal::Hangup)?;
            wait_until(within(30), wanted, || Ok(service.stderr()?.contains(wanted)))
        };
        write("info")?;
        hangup("the options were read again log=\"info\"")?;
        write("loud")?;
        hangup("the former ones count on")?;
        service.signal(Signal::Term)?;
        service.ended(within(30))?.succeeded("the end")?;
        ensure!(service.stderr()?.contains("asked to stop"), "the filter of before does not hold");
        Ok(())
    })
}

/// A command line, its environment, and what must be said of it.
type Case<'c> = (&'c [&'c str], &'c [(&'c str, &'c str)], &'c [&'c str]);

#[test]
fn a_wrong_value_is_named_with_its_place() -> Result<()> {
    scenario(|scene| {
        let file = scene
            .write("shards.toml", "[executor-shard]\nthreads = 2000\n[coordinator.serve]\nlisen = 'x'\n")?;
        let file = utf8(&file)?;
        let shard = ["--shard-id", "1", "--coordinator", "http://127.0.0.1:1"];
        let with_file = [&shard[..], &["--config", file]].concat();
        let with_grace = [&shard[..], &["--grace", "2 weeks"]].concat();
        let cases: [Case<'_>; 5] = [
            (
                &with_file,
                &[],
                &["2000", "--threads", "1..=1024", "`threads` is from [executor-shard] of", file],
            ),
            (
                &shard,
                &[("SHARDS_THREADS", "0")],
                &["'0'", "--threads", "1..=1024", "`threads` is from SHARDS_THREADS"],
            ),
            (&with_grace, &[], &["2 weeks", "--grace", "ms, s, min, h, d"]),
            (
                &["--config", file, "serve"],
                &[],
                &[file, "[coordinator.serve]", "`lisen`", "did you mean `listen`?"],
            ),
            (&["--config", "/no/such", "serve"], &[], &["/no/such: it cannot be read"]),
        ];
        for (line, environment, words) in cases {
            let (code, _, said) = ended(scene, line, environment)?;
            let missing = words.iter().find(|word| !said.contains(**word));
            ensure!(code == 2 && missing.is_none(), "{line:?} ended with {code} without {missing:?}: {said}");
        }
        Ok(())
    })
}

#[test]
fn shards_that_a_command_starts_take_nothing_from_its_variables() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let (rlp, genesis) = (chain.rlp(), chain.genesis());
        let line = ["run", utf8(&rlp)?, "--genesis", utf8(&genesis)?, "--shards", "1"];
        // A shard with either of these would not join.
        let variables = [("SHARDS_CHAIN_ID", "424242"), ("SHARDS_ADVERTISE", "203.0.113.1:1")];
        let (code, _, said) = ended(scene, &line, &variables)?;
        ensure!(code == 0, "it ended with {code}: {said}");
        Ok(())
    })
}

#[test]
fn completions_and_manual_pages_name_all_commands() -> Result<()> {
    scenario(|scene| {
        for shell in ["bash", "zsh", "fish"] {
            let (code, said, _) = ended(scene, &["completions", shell], &[])?;
            let whole =
                ["heartbeat-ms", "shard-id", "dump-config"].iter().all(|option| said.contains(option));
            ensure!(code == 0 && whole, "the completions for {shell} ended with {code}");
        }
        let folder = scene.path("man");
        let (code, _, said) = ended(scene, &["man", utf8(&folder)?], &[])?;
        let page = std::fs::read_to_string(folder.join("coordinator-serve.1"))?;
        ensure!(code == 0 && page.contains("heartbeat"), "it ended with {code}: {said}");
        ensure!(folder.join("executor-shard.1").exists(), "executor-shard has no page");
        let (_, said, _) = ended(scene, &["--version"], &[])?;
        for field in ["coordinator ", "commit: ", "profile: release", "engine: revm-", "protocol: "] {
            ensure!(said.contains(field), "{field:?} is not in: {said}");
        }
        Ok(())
    })
}
