//! Ethereum's BlockchainTests, all of them: in process, on shard processes, and speculating on a
//! state that is wrong on purpose.

use std::ffi::OsString;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{Binary, Process, blockchain_tests, scenario, within};

/// Runs the whole suite; every case must pass, and none may be passed over.
fn suite(options: &[&str]) -> Result<()> {
    let Some(folder) = blockchain_tests()? else { return Ok(()) };
    scenario(|scene| {
        let mut line: Vec<OsString> = vec!["blocktest".into(), folder.clone().into(), "--json".into()];
        line.extend(options.iter().map(OsString::from));
        let mut run = Process::start(scene, "blocktest", Binary::Coordinator, line)?;
        let code = run.exit_code(within(300))?;
        let said = run.stdout()?;
        let last = said.lines().last().context("it printed nothing")?;
        let summary: Value = serde_json::from_str(last)?;
        let count = |field: &str| summary.get(field).and_then(Value::as_u64);
        let failed = said.lines().find(|line| line.contains("\"fail\"")).unwrap_or_default();
        ensure!(code == 0 && count("failed") == Some(0), "exit code {code}: {last}; the first: {failed}");
        ensure!(count("passed") > Some(4000) && count("skipped") == Some(0), "{last}");
        Ok(())
    })
}

/// One after another: each takes all processors.
#[test]
fn every_case_passes_in_process_on_shards_and_with_poisoned_speculation() -> Result<()> {
    suite(&["--in-process"])?;
    suite(&["--shards", "2"])?;
    suite(&["--in-process", "--plan", "poison:1"])
}
