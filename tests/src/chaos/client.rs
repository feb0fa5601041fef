//! The client of a chaos run. It submits one part of a chain after another, and resumes after the last
//! answer when it is interrupted.
//!
//! Usually it waits for the answer to each block. Every third part is only journaled: accepted blocks
//! are never submitted again, and must be committed all the same.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::kind::kind_of;
use crate::artefacts::Binary;
use crate::chain_file::ChainFile;
use crate::fleet::{Status, number, text};
use crate::process::Process;
use crate::scene::Scene;

/// The maximum number of blocks in a part whose blocks are answered one by one.
const PART: usize = 200;

/// The maximum number of blocks in a part that is only journaled: fewer than a coordinator lets wait.
const JOURNALED_PART: usize = 50;

/// The pause after an interruption, and between two checks of the head.
const PAUSE: Duration = Duration::from_millis(50);

/// The text in the answer to a block that seemed to kill too many processes.
const PARKED: &str = "is parked";

/// The texts in an answer that is not a verdict on the block.
const EXCUSES: [&str; 2] = ["no shard", PARKED];

/// The messages of a command that is interrupted.
const INTERRUPTIONS: [&str; 4] = [
    "unknown: ",
    "not accepted: ",
    "the coordinator does not answer: ",
    "the coordinator does not tell its status: ",
];

/// The client, and the answers it has received.
#[derive(Debug)]
pub(super) struct Client {
    chain: ChainFile,
    part: Option<Part>,
    parts: usize,
    starts_at: Instant,
    /// Whether the client submits no further part.
    closing: bool,
    /// The hash of a parked block that the client will retry, as an operator would.
    parked: Option<String>,
    /// The number of blocks at the start of the chain that must not be submitted again.
    accepted: usize,
    /// The number of blocks at the start of the chain that are known to be committed.
    pub(super) committed: usize,
    /// The hash of the last committed block.
    pub(super) hash: String,
    /// The number of blocks that were accepted first and committed without an answer.
    pub(super) journaled: u64,
    /// The number of assignments that moved to another shard, according to the answers.
    pub(super) reassigned: u64,
    /// The number of times that a block was parked and retried.
    pub(super) retried: u64,
    /// The interruptions, counted by kind.
    pub(super) interrupted: BTreeMap<String, u64>,
}

/// The purpose of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// Submits blocks and waits for each.
    Submit,
    /// Submits blocks without waiting for their results: the coordinator only journals them.
    Accept,
    /// Checks how many accepted blocks are committed.
    Look,
    /// Retries a parked block.
    Retry,
}

/// A running `coordinator` command of the client, with its task and its progress.
#[derive(Debug)]
struct Part {
    task: Task,
    process: Process,
    file: Option<PathBuf>,
    until: usize,
    read: u64,
    /// The last answer that was not a verdict.
    excuse: Option<String>,
}

impl Client {
    pub(super) fn new(chain: ChainFile) -> Self {
        Self {
            chain,
            part: None,
            parts: 0,
            starts_at: Instant::now(),
            closing: false,
            parked: None,
            accepted: 0,
            committed: 0,
            hash: String::new(),
            journaled: 0,
            reassigned: 0,
            retried: 0,
            interrupted: BTreeMap::new(),
        }
    }

    /// The bytes of the blocks that are known to be committed, as they were submitted.
    pub(super) fn submitted(&self) -> Vec<u8> {
        self.chain.bytes(0..self.committed)
    }

    /// Whether every block of the chain is committed.
    pub(super) fn is_done(&self) -> bool {
        self.committed == self.chain.len()
    }

    /// Starts no further part. The client still waits for accepted blocks.
    pub(super) const fn close(&mut self) {
        self.closing = true;
    }

    /// Whether no command runs and every accepted block is committed.
    pub(super) const fn is_idle(&self) -> bool {
        self.part.is_none() && self.committed >= self.accepted
    }

    /// Counts the last blocks whose answers were lost, once no block is in flight any more.
    ///
    /// # Errors
    /// An error if the head is behind the last answered block, or if it is not a block of the chain.
    pub(super) fn settle(&mut self, status: &Status) -> Result<()> {
        let (head, committed) = (usize::try_from(status.head)?, self.committed);
        let follows = head > committed || (head == committed && status.head_hash == self.hash);
        ensure!(follows, "block {committed} with {} was answered, the head is {status:?}", self.hash);
        self.journaled += (head - committed) as u64;
        (self.committed, self.hash) = (head, status.head_hash.clone());
        Ok(())
    }

    /// Reads new answers, and keeps blocks in flight while there is a coordinator. Returns whether a block
    /// was committed.
    ///
    /// # Errors
    /// An error if a block was rejected or lost, or if a command failed in a way that no fault explains.
    pub(super) fn look(&mut self, scene: &Scene, url: Option<String>) -> Result<bool> {
        let before = self.committed;
        if let Some(mut part) = self.part.take() {
            // The exit is checked before the last answers are read, so that none is missed.
            let ended = part.process.exited()?;
            let lines = part.process.lines_from(part.read)?;
            part.read += lines.len() as u64;
            for line in lines.lines() {
                let row = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
                self.answered(&mut part, &row)?;
            }
            match ended {
                None => self.part = Some(part),
                Some(status) => self.ended(&part, status.code())?,
            }
        } else if let Some(url) = url.filter(|_| self.starts_at <= Instant::now()) {
            self.begin(scene, &url)?;
        }
        Ok(self.committed > before)
    }

    /// Starts the next command.
    fn begin(&mut self, scene: &Scene, url: &str) -> Result<()> {
        let (task, command, more) = if let Some(hash) = self.parked.take() {
            self.retried += 1;
            (Task::Retry, &["parked", "retry"][..], Some(hash.into()))
        } else if self.committed < self.accepted {
            (Task::Look, &["status", "--json"][..], None)
        } else if self.closing || self.is_done() {
            return Ok(());
        } else {
            self.parts += 1;
            match self.parts % 3 {
                0 => (Task::Accept, &["submit", "--no-wait", "--retry-for", "0", "--json"][..], None),
                _ => (Task::Submit, &["submit", "--retry-for", "0", "--json"][..], None),
            }
        };
        let count = if task == Task::Accept { JOURNALED_PART } else { PART };
        let until = (self.committed + count).min(self.chain.len());
        let submits = matches!(task, Task::Submit | Task::Accept);
        let blocks = submits.then(|| self.chain.bytes(self.committed..until));
        let file = blocks.map(|blocks| scene.write(&scene.fresh_name("part.rlp"), blocks)).transpose()?;
        let mut line: Vec<OsString> = command.iter().map(OsString::from).collect();
        line.extend(["--coordinator", url].map(OsString::from));
        line.extend(file.clone().map(OsString::from).or(more));
        let process = Process::start(scene, "client", Binary::Coordinator, line)?;
        self.part = Some(Part { task, process, file, until, read: 0, excuse: None });
        Ok(())
    }

    /// Handles a line that a command has printed.
    fn answered(&mut self, part: &mut Part, row: &Value) -> Result<()> {
        match part.task {
            Task::Submit if row.get("summary").is_none() => self.block_answered(part, row),
            Task::Accept if row.get("summary").is_some() || !row["error"].is_null() => Ok(()),
            Task::Accept => {
                self.accepted += 1;
                let block = self.accepted as u64;
                ensure!(number(row, "number")? == block, "block {block} was to be accepted: {row}");
                Ok(())
            }
            Task::Look => self.head_is(row),
            Task::Submit | Task::Retry => Ok(()),
        }
    }

    fn block_answered(&mut self, part: &mut Part, row: &Value) -> Result<()> {
        if let Ok(error) = text(row, "error") {
            if row["status"] == "unknown" {
                part.excuse = error.strip_prefix("unknown: ").map(str::to_owned);
                return Ok(());
            }
            ensure!(EXCUSES.iter().any(|excuse| error.contains(excuse)), "a block was refused: {row}");
            if error.contains(PARKED) {
                self.parked = Some(text(row, "hash")?);
            }
            part.excuse = Some(error);
            return Ok(());
        }
        let block = self.committed as u64 + 1;
        ensure!(number(row, "number")? == block, "block {block} was to be answered: {row}");
        let verified = row.get("verified").and_then(Value::as_bool);
        ensure!(verified == Some(true), "a block was not verified: {row}");
        self.hash = text(row, "hash")?;
        self.reassigned += number(row, "reassigned")?;
        self.committed += 1;
        self.accepted = self.accepted.max(self.committed);
        Ok(())
    }

    fn head_is(&mut self, status: &Value) -> Result<()> {
        let head = usize::try_from(number(status, "head")?)?;
        let committed = self.committed;
        ensure!(head >= committed, "block {committed} was committed, and now the head is {head}");
        self.journaled += (head - committed) as u64;
        self.committed = head;
        self.hash = text(status, "head_hash")?;
        self.accepted = self.accepted.max(head);
        // Submitting the blocks again shows which one is parked; the client then retries it.
        if number(status, "parked")? > 0 {
            self.accepted = head;
        }
        Ok(())
    }

    fn ended(&mut self, part: &Part, code: Option<i32>) -> Result<()> {
        self.starts_at = Instant::now() + if part.task == Task::Submit { Duration::ZERO } else { PAUSE };
        if let Some(file) = &part.file {
            // The file is not needed any more. If it stays, it is removed with the folder.
            let _ = fs::remove_file(file);
        }
        if code == Some(0) {
            let complete = match part.task {
                Task::Submit => self.committed == part.until,
                Task::Accept => self.accepted == part.until,
                Task::Look | Task::Retry => true,
            };
            ensure!(complete, "{} has left blocks out", part.process.name());
            return Ok(());
        }
        self.starts_at = Instant::now() + PAUSE;
        let said = part.process.stderr()?;
        let interrupted = said.lines().rev().find_map(|line| {
            let after = |word: &&str| line.split_once(*word).map(|(_, reason)| reason.to_owned());
            INTERRUPTIONS.iter().find_map(after).or_else(|| line.contains(PARKED).then(|| line.to_owned()))
        });
        let reason = match (part.excuse.clone().or(interrupted), part.task) {
            (Some(reason), _) => reason,
            // The next answer shows whether the parked block is tried again.
            (None, Task::Retry) => return Ok(()),
            (None, _) => {
                bail!("{} ended with {code:?}, which no fault explains: {said}", part.process.name())
            }
        };
        *self.interrupted.entry(kind_of(&reason)).or_default() += 1;
        Ok(())
    }
}
