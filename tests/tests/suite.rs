//! All available BlockchainTests and execution-spec-tests of Ethereum: in process, on shard processes,
//! and with speculation on a state that is deliberately wrong.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{Binary, Process, blockchain_tests, execution_spec_tests, scenario, within};

/// A suite, and the least numbers of its contents.
struct Suite {
    folder: PathBuf,
    cases: u64,
    /// The number of rejections whose reason is compared.
    reasons: u64,
}

/// Runs the whole suite. Every case must pass and none may be skipped. Every block that must be
/// rejected must be rejected for the reason that the suite expects.
fn run(suite: &Suite, options: &[&str]) -> Result<()> {
    scenario(|scene| {
        let mut line: Vec<OsString> = vec!["blocktest".into(), suite.folder.clone().into(), "--json".into()];
        line.extend(options.iter().map(OsString::from));
        let mut run = Process::start(scene, "blocktest", Binary::Lab, line)?;
        let code = run.exit_code(within(300))?;
        let said = run.stdout()?;
        let last = said.lines().last().context("it printed nothing")?;
        let summary: Value = serde_json::from_str(last)?;
        let count = |field: &str| summary.get(field).and_then(Value::as_u64);
        let failed = said.lines().find(|line| line.contains("\"fail\"")).unwrap_or_default();
        ensure!(code == 0 && count("failed") == Some(0), "exit code {code}: {last}; the first: {failed}");
        ensure!(count("passed") >= Some(suite.cases) && count("skipped") == Some(0), "{last}");
        ensure!(count("reasons_compared") >= Some(suite.reasons), "{last}");
        ensure!(count("reasons_not_compared") == Some(0), "{last}");
        Ok(())
    })
}

/// One after another, because each uses all processors.
fn in_three_ways(suite: &Suite) -> Result<()> {
    run(suite, &["--in-process"])?;
    run(suite, &["--shards", "2"])?;
    run(suite, &["--in-process", "--plan", "poison:1"])
}

#[test]
fn every_case_passes_in_process_on_shards_and_with_poisoned_speculation() -> Result<()> {
    let Some(folder) = blockchain_tests()? else { return Ok(()) };
    in_three_ways(&Suite { folder, cases: 4756, reasons: 250 })
}

#[test]
fn every_execution_spec_test_passes_in_the_same_three_ways() -> Result<()> {
    let Some(folder) = execution_spec_tests()? else { return Ok(()) };
    in_three_ways(&Suite { folder, cases: 952, reasons: 48 })
}
