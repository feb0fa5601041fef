//! A fleet that executes the blocks of a chain one by one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use shard_tests::{Chain, ChainFile, Coordinator, Process, Report, Scene, Shard, submit_to, within};

use crate::log::{Entry, Tail, What};

/// Between two looks at the log. A moment in the middle of a block must not be missed.
const LOOK: Duration = Duration::from_micros(300);

/// How long one block may take.
const BLOCK_LIMIT: Duration = within(60);

/// A coordinator, its shards, and the blocks that they have not had yet.
pub(crate) struct Stage<'a> {
    scene: &'a Scene,
    pub(crate) coordinator: Coordinator,
    pub(crate) shards: Vec<Shard>,
    faults: Vec<Option<&'static str>>,
    blocks: ChainFile,
    next: usize,
    tail: Tail,
}

/// One block, as it went.
#[derive(Debug)]
pub(crate) struct BlockRun {
    /// From its bytes in the coordinator's memory to the verified result.
    pub(crate) millis: f64,
    /// What the log told meanwhile.
    pub(crate) log: Vec<Entry>,
}

impl<'a> Stage<'a> {
    /// Starts a fleet with these faults, where a shard is to have one, and has it execute the block that
    /// sets the chain up and another one.
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

    /// Starts a shard again that has ended, and waits for it.
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

    /// Waits until all shards are there and hold the state.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let ids: Vec<u32> = self.shards.iter().map(|shard| shard.id).collect();
        self.coordinator.wait_ready(&ids).map(|_| ())
    }

    /// Executes the next block.
    pub(crate) fn block(&mut self) -> Result<BlockRun> {
        self.disturbed_block(|_, _| Ok(()))
    }

    /// Executes the next block; `disturb` sees each line of the log.
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

    /// What was logged since, until `done` is seen.
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
