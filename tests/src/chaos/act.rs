//! One act of a chaos run: one chain and one fleet, with faults until the chain or the time ends.

use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::client::Client;
use super::fault::{Drawn, Fault};
use super::random::Random;
use super::summary::Summary;
use super::world::World;
use crate::chain::Chain;
use crate::chain_file::ChainFile;
use crate::fleet::Status;
use crate::scene::Scene;
use crate::wait::{scaled, wait_until, within};

/// The longest time without a committed block while there is no fault.
const STANDSTILL: Duration = within(30);

/// The longest time without a committed block in any case.
const LONG_STANDSTILL: Duration = within(120);

/// The longest time that an act may take to end once its time is over.
const ENDS_WITHIN: Duration = within(180);

/// The longest time until the whole fleet is ready again.
const READY_WITHIN: Duration = within(60);

/// The interval of progress lines on a terminal.
const PROGRESS: Duration = within(10);

/// The settings of an act.
pub(super) struct Script {
    pub(super) number: usize,
    pub(super) shards: u32,
    pub(super) blocks: usize,
    /// The longest time with faults.
    pub(super) lasts: Duration,
}

/// A fault that has begun.
struct Active {
    drawn: Drawn,
    ends: Instant,
    lifted: bool,
}

/// An act in progress.
pub(super) struct Act<'a> {
    scene: &'a Scene,
    pub(super) summary: &'a mut Summary,
    random: &'a mut Random,
    shards: usize,
    pub(super) chain: Chain,
    pub(super) data: PathBuf,
    pub(super) world: World<'a>,
    pub(super) client: Client,
    pub(super) plan: String,
    active: Vec<Active>,
    /// The next fault begins at this number of blocks or at this time, whichever is first.
    next: (usize, Instant),
    lasts: Duration,
    until: Instant,
    closing: bool,
    /// The time of the last committed block.
    moved: Instant,
    /// The end and the kind of the last fault, until the next block is committed.
    cleared: Option<(Instant, String)>,
    told: Instant,
    notes: PathBuf,
}

impl<'a> Act<'a> {
    /// Generates a chain and starts a fleet.
    ///
    /// # Errors
    /// An error if either fails.
    pub(super) fn begin(
        scene: &'a Scene,
        summary: &'a mut Summary,
        random: &'a mut Random,
        script: &Script,
    ) -> Result<Self> {
        let (seed, txs) = (random.between(1, 1 << 40).to_string(), random.between(20, 60).to_string());
        let mixes = ["transfers=20,erc20=70,amm=10", "transfers=95,erc20=5", "transfers=40,erc20=20,amm=40"];
        let mix = random.one_of("transfers=60,erc20=30,amm=10", &mixes);
        let accounts = random.one_of("200", &["40", "1000"]);
        let options = ["--seed", &seed, "--txs", &txs, "--mix", mix, "--accounts", accounts];
        let chain = Chain::generate(script.blocks, &options)?;
        let random_plan = format!("random:{seed}");
        let plan = random.one_of("auto", &["auto", "auto", "each", &random_plan]).to_owned();
        let data = scene.path(&format!("chain-{}", script.number));
        let verify = random.one_of("0", &["0", "0.2", "1"]);
        let world = World::start(scene, chain.genesis(), data.clone(), [&plan, verify], script.shards)?;
        let plan = format!("{plan}, {verify} verified");
        let client = Client::new(ChainFile::read(&chain.rlp())?);
        let now = Instant::now();
        let notes = scene.path(&format!("faults-{}.log", script.number));
        scene.register_log(&notes);
        let mut act = Self {
            scene,
            summary,
            random,
            shards: script.shards as usize,
            chain,
            data,
            world,
            client,
            plan,
            active: Vec::new(),
            next: (0, now),
            until: now,
            lasts: script.lasts,
            closing: false,
            moved: now,
            cleared: None,
            told: now,
            notes,
        };
        act.note(&format!("chain {options:?}, plan {}", act.plan))?;
        Ok(act)
    }

    /// Waits for the fleet, and makes it execute blocks under faults until the time is over or the chain is
    /// committed. Then it lifts all faults, and every process must recover.
    ///
    /// # Errors
    /// An error if the fleet breaks one of the run's conditions.
    pub(super) fn play(&mut self) -> Result<Status> {
        wait_until(READY_WITHIN, "every process serves", || {
            self.world.look()?;
            Ok(self.world.is_whole())
        })?;
        self.wait_ready()?;
        self.world.returned = false;
        self.plan_next();
        self.moved = Instant::now();
        self.until = self.moved + self.lasts;
        wait_until(self.lasts + ENDS_WITHIN, "all faults are lifted and the last blocks committed", || {
            self.tick()
        })?;
        self.summary.under_faults += Instant::now() - (self.until - self.lasts);
        let waited = self.wait_ready()?;
        self.summary.ready_again = self.summary.ready_again.max(waited);
        let url = self.world.direct_url().context("the coordinator does not serve")?;
        let status = Status::of(&url)?;
        self.client.settle(&status)?;
        self.world.stop()?;
        Ok(status)
    }

    /// Checks every process and the client once. Returns whether the act is over.
    fn tick(&mut self) -> Result<bool> {
        self.world.look()?;
        if self.client.look(self.scene, self.world.client_url())? {
            self.has_moved()?;
        }
        self.check_returned()?;
        let now = Instant::now();
        if !self.closing && (now >= self.until || self.client.is_done()) {
            self.closing = true;
            self.client.close();
            self.active.iter_mut().for_each(|active| active.ends = now);
            self.note("the act ends")?;
        }
        self.lift_due(now)?;
        if !self.closing {
            self.draw_due(now)?;
        }
        self.check_standstill(now)?;
        self.tell(now);
        Ok(self.closing && self.active.is_empty() && self.client.is_idle() && self.world.is_whole())
    }

    /// Records that a block was committed.
    fn has_moved(&mut self) -> Result<()> {
        let now = Instant::now();
        self.summary.longest_standstill = self.summary.longest_standstill.max(now - self.moved);
        self.moved = now;
        if let Some((since, after)) = self.cleared.take() {
            let recovery = now - since;
            if recovery > self.summary.longest_recovery.0 {
                self.summary.longest_recovery = (recovery, after.clone());
            }
            if recovery > within(2) {
                self.note(&format!("{:.1} s until the first block after {after}", recovery.as_secs_f64()))?;
            }
        }
        Ok(())
    }

    /// Checks that a restarted coordinator has every block that the client got an answer for.
    fn check_returned(&mut self) -> Result<()> {
        let Some(url) = self.world.direct_url().filter(|_| self.world.returned) else { return Ok(()) };
        self.world.returned = false;
        self.summary.coordinator_restarts += 1;
        let (head, committed) = (Status::of(&url)?.head, self.client.committed as u64);
        self.note(&format!("the coordinator is back at block {head}, answered were {committed}"))?;
        ensure!(head >= committed, "block {committed} was answered, and the head is {head} after a restart");
        Ok(())
    }

    fn lift_due(&mut self, now: Instant) -> Result<()> {
        let mut over = None;
        let active = std::mem::take(&mut self.active);
        for mut active in active {
            if !active.lifted && active.ends <= now {
                active.lifted = true;
                self.world.lift(&active.drawn)?;
                self.note(&format!("lifted: {:?}", active.drawn.fault))?;
            }
            let served = active.drawn.subjects().into_iter().all(|subject| self.world.serves(subject));
            if active.lifted && served {
                over = Some(active.drawn.kind().to_owned());
            } else {
                self.active.push(active);
            }
        }
        if let Some(kind) = over
            && self.active.is_empty()
        {
            self.cleared = Some((Instant::now(), kind));
        }
        Ok(())
    }

    fn draw_due(&mut self, now: Instant) -> Result<()> {
        let (blocks, at) = self.next;
        if self.client.committed < blocks && now < at {
            return Ok(());
        }
        // Waits for a block after the last fault, so that the recovery time belongs to that fault.
        if self.cleared.is_some() {
            return Ok(());
        }
        self.plan_next();
        let drawn = Drawn::draw(self.random, self.shards);
        let subjects = drawn.subjects();
        let busy = self.active.iter().flat_map(|active| active.drawn.subjects());
        let taken = busy.into_iter().any(|subject| subjects.contains(&subject));
        if taken || !subjects.iter().all(|subject| self.world.serves(*subject)) {
            return Ok(());
        }
        self.note(&format!("begins, for {} ms: {:?}", drawn.lasts.as_millis(), drawn.fault))?;
        self.world.begin(&drawn)?;
        *self.summary.faults.entry(drawn.kind()).or_default() += 1;
        self.active.push(Active { ends: now + drawn.lasts, lifted: false, drawn });
        Ok(())
    }

    /// Plans the next fault after some blocks or a pause; one time in six at once.
    fn plan_next(&mut self) {
        let blocks = if self.random.one_in(6) { 0 } else { self.random.between(3, 80) };
        let pause = Duration::from_millis(self.random.between(300, 3_000));
        let blocks = usize::try_from(blocks).unwrap_or_default();
        self.next = (self.client.committed + blocks, Instant::now() + pause);
    }

    fn check_standstill(&self, now: Instant) -> Result<()> {
        if let Some((since, after)) = &self.cleared
            && !self.closing
            && now - *since > scaled(STANDSTILL)
        {
            bail!("no block was committed for {STANDSTILL:?} after {after}, the last fault, was over");
        }
        let faults: Vec<&Fault> = self.active.iter().map(|active| &active.drawn.fault).collect();
        ensure!(
            now - self.moved < scaled(LONG_STANDSTILL),
            "no block for {LONG_STANDSTILL:?}; active: {faults:?}"
        );
        Ok(())
    }

    /// Waits until every shard, including those in quarantine, is in the fleet and holds the current state,
    /// and no block is in flight.
    fn wait_ready(&mut self) -> Result<Duration> {
        let ids = self.world.ids();
        let mut last = None;
        let ready = wait_until(READY_WITHIN, "the whole fleet is ready", || {
            self.world.look()?;
            let Some(url) = self.world.direct_url() else { return Ok(false) };
            let status = Status::of(&url)?;
            let current = status.shards.iter().all(|shard| shard.height == status.head);
            let ready = status.whole() == ids && current && status.accepted == 0;
            last = Some(status);
            Ok(ready)
        });
        ready.with_context(|| format!("the last status was {last:?}"))
    }

    fn tell(&mut self, now: Instant) {
        if now - self.told < PROGRESS || !stderr().is_terminal() {
            return;
        }
        self.told = now;
        let (blocks, faults) = (self.client.committed, self.summary.faults.values().sum::<u64>());
        let left = self.until.saturating_duration_since(now).as_secs();
        // A failure to print is ignored: the terminal may be closed.
        let _ = writeln!(
            stderr(),
            "{blocks} blocks of this chain committed, {faults} faults so far, {left} s left"
        );
    }

    /// Writes a note about an event, to be read beside the logs.
    fn note(&mut self, text: &str) -> Result<()> {
        self.summary.note(&self.notes, self.client.committed, text)
    }
}
