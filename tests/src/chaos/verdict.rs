//! Checks the chain of an act against the submitted one and against alloy-evm.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::act::Act;
use super::kind::kind_of;
use super::summary::{ChainEnd, Summary};
use crate::artefacts::Binary;
use crate::chain::Chain;
use crate::fleet::{Status, number, text};
use crate::process::Process;
use crate::scene::Scene;
use crate::wait::within;

/// The longest time, in seconds, for a command that reads or executes a whole chain.
const COMMAND_WITHIN: u64 = 1_800;

/// The head of a chain according to one source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Head {
    number: u64,
    hash: String,
    root: String,
}

/// Compares the fleet's chain with the submitted one, and with the result of alloy-evm's executor on
/// one thread. Counts every difference.
///
/// # Errors
/// An error if there is a difference, or if a command fails.
pub(super) fn confirm(scene: &Scene, summary: &mut Summary, played: &Played) -> Result<ChainEnd> {
    let out = scene.path("export.rlp");
    command(scene, &["export", "--data-dir", path(&played.data)?, "--out", path(&out)?])?;
    let same = fs::read(&out)? == played.submitted;
    summary.hold(same, || "the exported chain is not what was submitted".to_owned())?;
    let fresh = scene.path("sequential");
    let line = ["import", "--sequential", "--json", "--exit-with-parent", "--genesis"];
    let line = [&line[..], &[path(&played.genesis)?, "--data-dir", path(&fresh)?, path(&out)?]].concat();
    let printed = command(scene, &line)?;
    let import: Value = serde_json::from_str(printed.lines().last().context("the import prints nothing")?)?;
    let confirmed = Head::of_import(&import)?;
    summary.transactions += number(&import, "txs")?;
    let status = &played.status;
    let root = status.state_root.clone().context("the coordinator names no state root")?;
    let head = Head { number: status.head, hash: status.head_hash.clone(), root };
    let same = head.number == played.committed && head.hash == played.hash;
    summary.hold(same, || {
        format!("answered was block {} with {}, the head is {head:?}", played.committed, played.hash)
    })?;
    summary.hold(confirmed == head, || {
        format!("the head is {head:?}, executed sequentially it is {confirmed:?}")
    })?;
    fs::remove_dir_all(&fresh)?;
    fs::remove_dir_all(&played.data)?;
    fs::remove_file(&out)?;
    Ok(ChainEnd {
        blocks: head.number,
        plan: played.plan.clone(),
        head: head.hash,
        state_root: head.root,
        sequential_head: confirmed.hash,
        sequential_root: confirmed.root,
    })
}

/// The remains of an act after its processes have ended.
#[derive(Debug)]
pub(super) struct Played {
    /// Deletes the chain's files when it is dropped.
    _chain: Chain,
    genesis: PathBuf,
    data: PathBuf,
    plan: String,
    submitted: Vec<u8>,
    committed: u64,
    hash: String,
    status: Status,
}

impl Played {
    /// Performs an act.
    ///
    /// # Errors
    /// As [`Act::play`]. The summary contains the counts up to the error.
    pub(super) fn from(mut act: Act<'_>) -> Result<Self> {
        let end = act.play();
        let Act { summary, client, world, chain, data, plan, .. } = act;
        summary.count(&client, &world);
        Ok(Self {
            genesis: chain.genesis(),
            _chain: chain,
            data,
            plan,
            submitted: client.submitted(),
            committed: client.committed as u64,
            hash: client.hash,
            status: end?,
        })
    }
}

impl Head {
    fn of_import(import: &Value) -> Result<Self> {
        let (number, hash) = (number(import, "head")?, text(import, "hash")?);
        Ok(Self { number, hash, root: text(import, "state_root")? })
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

/// Runs a command that must succeed. Returns its standard output.
fn command(scene: &Scene, line: &[&str]) -> Result<String> {
    let name = line.first().copied().unwrap_or_default();
    let mut process = Process::start(scene, name, Binary::of(line), line)?;
    let code = process.exit_code(within(COMMAND_WITHIN))?;
    ensure!(code == 0, "{name} ended with {code}: {}", process.stderr()?);
    process.stdout()
}

/// Counts the alarms in all logs.
///
/// # Errors
/// An error if a thread has panicked in an unexpected place.
pub(super) fn read_logs(scene: &Scene, summary: &mut Summary) -> Result<()> {
    let mut panics = Vec::new();
    for entry in fs::read_dir(scene.path(""))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_none_or(|extension| extension != "log") || name.starts_with("faults") {
            continue;
        }
        let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        for line in log.lines() {
            // A coordinator repeats a panic message that a shard has sent.
            let told = name.starts_with("coordinator") && !summary.may_panic.is_empty();
            let expected = told || summary.may_panic.contains(&name);
            let planned = expected && line.contains("a planned fault");
            if line.contains("panicked") && !planned {
                panics.push(format!("{name}: {line}"));
            }
            if let Some((before, _)) = line.split_once(" event=alarm")
                && let Some((_, alarm)) = before.split_once(" ERROR ")
            {
                *summary.alarms.entry(kind_of(alarm)).or_default() += 1;
            }
        }
    }
    ensure!(panics.is_empty(), "a thread panicked: {}", panics.join("; "));
    Ok(())
}
