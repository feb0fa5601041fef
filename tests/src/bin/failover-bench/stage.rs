//! A fleet that executes the blocks of a chain one by one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shard_tests::{Chain, ChainFile, Coordinator, Process, Report, Scene, Shard, submit_to, within};

use crate::log::{Entry, Tail, What};

/// How often the log is read. The interval must be short, so that the middle of a block is not missed.
const LOOK: Duration = Duration::from_micros(300);

/// The longest time for one block.
const BLOCK_LIMIT: Duration = within(60);

/// A coordinator, its shards, and the blocks that are not submitted yet.
pub(crate) struct Stage<'a> {
    scene: &'a Scene,
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Vec<Shard>,
    faults: Vec<Option<&'static str>>,
    blocks: ChainFile,
    next: usize,
    tail: Tail,
}

/// The measurement of one block.
#[derive(Debug)]
pub(crate) struct BlockRun {
    /// The time from the block's bytes in the coordinator's memory to the verified result, in milliseconds.
    pub(crate) millis: f64,
    /// The log entries of that time.
    pub(crate) log: Vec<Entry>,
}

impl<'a> Stage<'a> {
    /// Starts a fleet, one shard per entry of `faults`. It executes the block that sets the chain up, and
    /// one more.
    pub(crate) fn new(scene: &'a Scene, chain: &Chain, faults: &[Option<&'static str>]) -> Result<Self> {
        let coordinator = Coordinator::start_telling(scene, chain, "127.0.0.1:0", &[])?;
        let tail = Tail::new(coordinator.process.log());
        let blocks = ChainFile::read(&chain.rlp())?;
        let faults = faults.to_vec();
        let mut stage = Self { scene, coordinator, shards: Vec::new(), faults, blocks, next: 0, tail };
        for place in 0..stage.faults.len() {
            let shard = stage.start(place)?;
            stage.shards.push(shard);
        }
        stage.wait_ready()?;
        for _ in 0..2 {
            stage.block()?;
        }
        Ok(stage)
    }

    fn start(&self, place: usize) -> Result<Shard> {
        let line =
            self.faults.get(place).copied().flatten().map(|fault| ["--allow-faults", "--fault", fault]);
        let line = line.as_ref().map_or(&[][..], |line| &line[..]);
        Shard::start(self.scene, u32::try_from(place + 1)?, &self.coordinator.url(), line)
    }

    /// Restarts a shard that has ended, and waits until it is ready.
    pub(crate) fn revive(&mut self, shard: u32) -> Result<()> {
        let place = shard as usize - 1;
        let fresh = self.start(place)?;
        *self.shards.get_mut(place).context("no such shard")? = fresh;
        self.wait_ready()
    }

    /// The process of a shard.
    pub(crate) fn process(&mut self, shard: u32) -> Result<&mut Process> {
        self.shards.get_mut(shard as usize - 1).map(|shard| &mut shard.process).context("no such shard")
    }

    /// Waits until all shards have joined and hold the state.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let ids: Vec<u32> = self.shards.iter().map(|shard| shard.id).collect();
        self.coordinator.wait_ready(&ids).map(|_| ())
    }

    /// Executes the next block.
    pub(crate) fn block(&mut self) -> Result<BlockRun> {
        self.disturbed_block(|_, _| Ok(()))
    }

    /// Executes the next block and calls `disturb` for each log entry.
    pub(crate) fn disturbed_block(
        &mut self,
        mut disturb: impl FnMut(&mut Self, &Entry) -> Result<()>,
    ) -> Result<BlockRun> {
        let bytes = self.blocks.bytes(self.next..self.next + 1);
        ensure!(!bytes.is_empty(), "the chain has only {} blocks", self.blocks.len());
        self.next += 1;
        let file = self.scene.write("block.rlp", bytes)?;
        self.tail.news()?;
        let mut client = submit_to(self.scene, &self.coordinator.url(), &file)?;
        let began = Instant::now();
        let mut log = Vec::new();
        while !log.iter().any(|entry: &Entry| entry.what == What::Committed) {
            ensure!(began.elapsed() < BLOCK_LIMIT, "block {} takes too long", self.next);
            for entry in self.tail.news()? {
                disturb(self, &entry)?;
                log.push(entry);
            }
            if client.exited()?.is_some_and(|status| !status.success()) {
                bail!("block {} was not committed: {}", self.next, client.stderr()?);
            }
            thread::sleep(LOOK);
        }
        client.exit_code(within(10))?;
        let report = Report::parse(&client.stdout()?)?;
        report.check_verified(1)?;
        fs::remove_file(&file)?;
        let row = report.rows.first().context("no row")?;
        Ok(BlockRun { millis: row.get("ms").and_then(serde_json::Value::as_f64).context("no time")?, log })
    }

    /// Reads the log until `done` accepts an entry, and returns that entry.
    pub(crate) fn listen(&mut self, mut done: impl FnMut(&Entry) -> bool) -> Result<Entry> {
        let began = Instant::now();
        loop {
            if let Some(entry) = self.tail.news()?.into_iter().find(|entry| done(entry)) {
                return Ok(entry);
            }
            ensure!(began.elapsed() < within(20), "waited in vain for an event");
            thread::sleep(LOOK);
        }
    }
}
