//! The client of a chaos run: it submits one part of a chain after another, and goes on after the
//! last answer when it is interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::summary::kind_of;
use crate::artefacts::Binary;
use crate::chain_file::ChainFile;
use crate::fleet::{number, text};
use crate::process::Process;
use crate::scene::Scene;

/// Blocks that one `submit` is given, at most.
const PART: usize = 200;

/// How long after an interruption it tries again.
const PAUSE: Duration = Duration::from_millis(50);

/// What the answer to a block may say that is no verdict on the block.
const EXCUSES: [&str; 2] = ["no shard", "is parked"];

/// What `submit` says when it is interrupted.
const INTERRUPTIONS: [&str; 2] = ["not committed: ", "the coordinator does not answer: "];

/// The client, and what it was answered.
#[derive(Debug)]
pub(super) struct Client {
    chain: ChainFile,
    part: Option<Part>,
    starts_at: Instant,
    /// Takes no further part.
    closing: bool,
    /// Blocks that were answered as committed: the first so many of the chain.
    pub(super) committed: usize,
    /// The last one's hash.
    pub(super) hash: String,
    /// Their transactions.
    pub(super) transactions: u64,
    /// Work that was given to another shard.
    pub(super) reassigned: u64,
    /// What interrupted it, and how often.
    pub(super) interrupted: BTreeMap<String, u64>,
}

/// A `submit` that runs.
#[derive(Debug)]
struct Part {
    process: Process,
    file: PathBuf,
    until: usize,
    read: u64,
}

impl Client {
    pub(super) fn new(chain: ChainFile) -> Self {
        Self {
            chain,
            part: None,
            starts_at: Instant::now(),
            closing: false,
            committed: 0,
            hash: String::new(),
            transactions: 0,
            reassigned: 0,
            interrupted: BTreeMap::new(),
        }
    }

    /// The blocks that were answered as committed, as they were submitted.
    pub(super) fn submitted(&self) -> Vec<u8> {
        self.chain.bytes(0..self.committed)
    }

    /// Whether every block of the chain is committed.
    pub(super) fn is_done(&self) -> bool {
        self.committed == self.chain.len()
    }

    /// Begins no further part.
    pub(super) const fn close(&mut self) {
        self.closing = true;
    }

    /// Whether nothing is under way.
    pub(super) const fn is_idle(&self) -> bool {
        self.part.is_none()
    }

    /// Takes the answers that have come, and keeps blocks under way while there is a coordinator.
    /// Whether a block was committed.
    ///
    /// # Errors
    /// When a block was refused, or the client failed in a way that no fault explains.
    pub(super) fn look(&mut self, scene: &Scene, url: Option<String>) -> Result<bool> {
        let before = self.committed;
        if let Some(mut part) = self.part.take() {
            // Its end comes before its last answers are read: so none is missed.
            let ended = part.process.exited()?;
            let lines = part.process.lines_from(part.read)?;
            part.read += lines.len() as u64;
            let mut excuse = None;
            for line in lines.lines() {
                excuse = self.answered(line)?.or(excuse);
            }
            match ended {
                None => self.part = Some(part),
                Some(status) => self.ended(&part, status.code(), excuse)?,
            }
        } else if let Some(url) = url.filter(|_| self.is_due()) {
            self.begin(scene, &url)?;
        }
        Ok(self.committed > before)
    }

    fn is_due(&self) -> bool {
        !self.closing && !self.is_done() && self.starts_at <= Instant::now()
    }

    fn begin(&mut self, scene: &Scene, url: &str) -> Result<()> {
        let until = (self.committed + PART).min(self.chain.len());
        let file = scene.write(&scene.fresh_name("part.rlp"), self.chain.bytes(self.committed..until))?;
        let line = ["submit", "--json", "--coordinator", url].map(Into::into);
        let line: Vec<std::ffi::OsString> = line.into_iter().chain([file.clone().into()]).collect();
        let process = Process::start(scene, "submit", Binary::Coordinator, line)?;
        self.part = Some(Part { process, file, until, read: 0 });
        Ok(())
    }

    /// Takes a line. An error in it that is no verdict on the block is returned.
    fn answered(&mut self, line: &str) -> Result<Option<String>> {
        let row: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        if row.get("summary").is_some() {
            return Ok(None);
        }
        if let Ok(error) = text(&row, "error") {
            ensure!(EXCUSES.iter().any(|excuse| error.contains(excuse)), "a block was refused: {line}");
            return Ok(Some(error));
        }
        let block = self.committed as u64 + 1;
        ensure!(number(&row, "number")? == block, "block {block} was to be answered: {line}");
        let verified = row.get("verified").and_then(Value::as_bool);
        ensure!(verified == Some(true), "a block was not verified: {line}");
        self.hash = text(&row, "hash")?;
        self.transactions += number(&row, "txs")?;
        self.reassigned += number(&row, "reassigned")?;
        self.committed += 1;
        Ok(None)
    }

    fn ended(&mut self, part: &Part, code: Option<i32>, excuse: Option<String>) -> Result<()> {
        // Not needed any more; if it stays it is removed with the folder.
        let _ = fs::remove_file(&part.file);
        if code == Some(0) {
            ensure!(self.committed == part.until, "{} has left blocks out", part.process.name());
            return Ok(());
        }
        let said = part.process.stderr()?;
        let last = said.lines().rev().find_map(|line| {
            INTERRUPTIONS.iter().find_map(|word| line.split_once(word)).map(|(_, reason)| reason)
        });
        let Some(reason) = excuse.or_else(|| last.map(str::to_owned)) else {
            bail!("{} ended with {code:?}, which no fault explains: {said}", part.process.name());
        };
        *self.interrupted.entry(kind_of(&reason)).or_default() += 1;
        self.starts_at = Instant::now() + PAUSE;
        Ok(())
    }
}
