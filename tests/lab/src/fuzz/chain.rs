//! Runs one seed: a small chain, block by block, on both sides.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use alloy_primitives::B256;
use common::chain_spec::{ChainSpec, ChainSpecError};
use engine::MemoryState;

use super::compare::{self, Mismatch, Verdict, first_difference};
use super::coverage::{Coverage, Feature};
use super::draft::{Draft, Drafter, header, shell};
use super::draw::Draw;
use super::fork::Fork;
use super::mirror::{Mirror, root_of};
use super::system::Case;
use super::transaction::Stage;
use super::world::World;
use crate::plan::LabPlan;
use crate::sequential::{execute_from, execute_sequentially};
use coordinator::validate::Finished;
use schedule::planner::Plan;

/// The random streams of a seed. Separate streams ensure that more draws in one place do not change
/// another.
const WORLD: u64 = 0;
const SHAPE: u64 = 1;
const BLOCKS: u64 = 1_000;

/// A difference between the system and alloy-evm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The seed of the chain.
    pub seed: u64,
    /// The fork of the chain.
    pub fork: Fork,
    /// The plan that showed the difference; `None` if it does not depend on a plan.
    pub plan: Option<LabPlan>,
    /// The block's position in the chain, from 0.
    pub block: u32,
    /// The number of the block's transactions.
    pub transactions: usize,
    /// The first field that differs, with both values.
    pub mismatch: Mismatch,
}

impl Difference {
    /// The command that reproduces this difference.
    #[must_use]
    pub fn replay(&self) -> String {
        let plan = self.plan.map(|plan| format!(" --plan {plan}")).unwrap_or_default();
        format!("lab fuzz --seed {} --seeds 1 --fork {}{plan}", self.seed, self.fork)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, fork, block, transactions, mismatch, .. } = self;
        let plan = self.plan.map_or("any plan".into(), |plan| format!("plan {plan}"));
        writeln!(f, "DIFFERENCE in {}", mismatch.field)?;
        writeln!(f, "  seed {seed}, {fork}, {plan}, block {block} of {transactions} transactions")?;
        writeln!(f, "  this system: {}", mismatch.system)?;
        writeln!(f, "  alloy-evm:   {}", mismatch.baseline)?;
        write!(f, "  replay:      {}", self.replay())
    }
}

/// The result of one seed.
#[derive(Debug, Clone, Default)]
pub struct ChainReport {
    /// The number of blocks executed on both sides.
    pub blocks: u64,
    /// The number of their transactions.
    pub transactions: u64,
    /// The number of executions by the system: one for each block and plan.
    pub executions: u64,
    /// The number of transactions that the system executed again because their results were stale or
    /// missing.
    pub reexecuted: u64,
    /// The number of rejected blocks.
    pub refused: u64,
    /// The features that were reached.
    pub coverage: Coverage,
}

impl ChainReport {
    /// Adds another report's counts.
    pub fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.transactions += other.transactions;
        self.executions += other.executions;
        self.reexecuted += other.reexecuted;
        self.refused += other.refused;
        self.coverage.add(&other.coverage);
    }
}

/// One chain in progress.
struct Chain<'a> {
    seed: u64,
    fork: Fork,
    spec: &'a ChainSpec,
    plan: Option<LabPlan>,
    world: World,
    state: MemoryState,
    /// The state before the last block, as a shard that lags behind would hold it.
    behind: MemoryState,
    mirror: Mirror,
    parent: (u64, B256),
    signed: bool,
    report: ChainReport,
}

/// Runs one seed on `fork` and under `plan`; without them, on a fork that the seed chooses and under
/// several plans. A panic counts as a difference.
///
/// # Errors
/// [`ChainSpecError`] if this build rejects the fork's schedule.
pub fn fuzz_seed(
    seed: u64,
    fork: Option<Fork>,
    plan: Option<LabPlan>,
) -> Result<(ChainReport, Option<Difference>), ChainSpecError> {
    let mut draw = Draw::new(seed, SHAPE);
    let place = draw.below(Fork::ALL.len() as u64) as usize;
    let fork = fork.or_else(|| Fork::ALL.get(place).copied()).unwrap_or(Fork::Frontier);
    let spec = fork.spec()?;
    let blocks = draw.between(2, 8) as u32;
    let signed = draw.one_in(24);
    let mut chain = Chain::new(seed, fork, &spec, plan, signed);
    for number in 0..blocks {
        let stepped = catch_unwind(AssertUnwindSafe(|| chain.step(number)));
        let found = stepped.unwrap_or_else(|panic| Some(chain.panicked(number, panic.as_ref())));
        if found.is_some() {
            return Ok((chain.report, found));
        }
    }
    Ok((chain.report, None))
}

impl<'a> Chain<'a> {
    fn new(seed: u64, fork: Fork, spec: &'a ChainSpec, plan: Option<LabPlan>, signed: bool) -> Self {
        let world = World::new(fork, &mut Draw::new(seed, WORLD));
        let (state, mirror) = (world.state(), world.mirror());
        let parent = world.ancestors.last().copied().unwrap_or_default();
        let behind = state.clone();
        let report = ChainReport::default();
        Self { seed, fork, spec, plan, world, state, behind, mirror, parent, signed, report }
    }

    /// Drafts the next block, executes it on both sides and compares the results.
    fn step(&mut self, number: u32) -> Option<Difference> {
        let mut draw = Draw::new(self.seed, BLOCKS + u64::from(number));
        let header = header(self.fork, &self.world, self.parent, &mut draw);
        let mut block = shell(self.fork, header, &self.world, &mut draw);
        let stage = Stage { fork: self.fork, world: &self.world, header: &block.header, signed: self.signed };
        let mut drafter = Drafter::new(stage, self.spec, draw, &mut self.report.coverage);
        let rule = self.world.rule.clone();
        let baseline = execute_from(&block, self.spec, &self.mirror, &mut drafter, rule);
        let Draft { transactions, senders } = drafter.finish(&baseline);
        block.transactions = transactions;
        self.report.blocks += 1;
        self.report.transactions += block.transactions.len() as u64;
        self.report.refused += u64::from(baseline.is_err());
        let count = block.transactions.len();
        let known = |hash: &B256| self.mirror.has_code(hash);
        let known: &dyn Fn(&B256) -> bool = &known;
        let differs = |seed, fork, plan, mismatch| Difference {
            seed,
            fork,
            plan,
            block: number,
            transactions: count,
            mismatch,
        };
        if self.signed && self.world.rule.is_empty() && !self.blobs_refuse(&baseline) {
            // Runs the baseline through its public function too, which recovers the senders.
            let again = execute_sequentially(&block, self.spec, &self.mirror);
            if let Some(mismatch) = first_difference(&again, &baseline, known) {
                return Some(differs(self.seed, self.fork, None, mismatch));
            }
        }
        let mut last = None;
        for (plan, mut draw) in self.plans(number) {
            let case = Case {
                block: &block,
                spec: self.spec,
                senders: &senders,
                base: &self.state,
                behind: &self.behind,
                plan,
                signed: self.signed,
            };
            let system = case.execute(&mut draw, &mut self.report.coverage);
            self.report.executions += 1;
            if let Some(mismatch) = first_difference(&system, &baseline, known) {
                return Some(differs(self.seed, self.fork, Some(plan), mismatch));
            }
            self.report.reexecuted += system.as_ref().map_or(0, |finished| u64::from(finished.reexecuted));
            last = system.ok();
        }
        let (system, baseline) = last.zip(baseline.ok())?;
        let mismatch = self.commit(block.header.number, block.hash, &system, &baseline)?;
        Some(differs(self.seed, self.fork, None, mismatch))
    }

    /// Whether the drafter's own rule rejected the block. alloy-evm lacks that rule.
    fn blobs_refuse(&self, baseline: &Verdict) -> bool {
        baseline.as_ref().is_err_and(|error| error.to_string().contains(compare::TOO_MANY_BLOBS))
    }

    /// The plans of one block. Each has its own random stream, which does not depend on the other plans.
    fn plans(&self, number: u32) -> Vec<(LabPlan, Draw)> {
        let mut draw = Draw::new(self.seed, BLOCKS * 2 + u64::from(number));
        let seed = draw.below(1 << 16);
        let honest = [(3, Plan::Each), (3, Plan::Random(seed)), (2, Plan::Auto), (1, Plan::One)];
        let plans = match self.plan {
            Some(plan) => vec![plan],
            None => vec![LabPlan::Honest(draw.weighted(&honest, Plan::Each)), LabPlan::Poison(seed)],
        };
        let with_draws = |plan: LabPlan| {
            let kind = match plan {
                LabPlan::Honest(Plan::Auto) => 1,
                LabPlan::Honest(Plan::One) => 2,
                LabPlan::Honest(Plan::Each) => 3,
                LabPlan::Honest(Plan::Random(seed)) => 4 + seed * 2,
                LabPlan::Poison(seed) => 5 + seed * 2,
            };
            (plan, Draw::new(self.seed ^ kind << 32, BLOCKS * 3 + u64::from(number)))
        };
        plans.into_iter().map(with_draws).collect()
    }

    /// Applies each side's changes to its own state, and compares the state roots.
    fn commit(
        &mut self,
        number: u64,
        hash: B256,
        system: &Finished,
        baseline: &Finished,
    ) -> Option<Mismatch> {
        self.behind = self.state.clone();
        system.code.iter().for_each(|(hash, code)| self.state.insert_code(*hash, code.clone()));
        system.changes.iter().for_each(|delta| self.state.apply(delta));
        self.state.insert_ancestor(number, hash);
        self.mirror.add_code(&baseline.code);
        self.mirror.apply(&baseline.changes);
        self.mirror.add_ancestor(number, hash);
        self.parent = (number, hash);
        let requested = system.requests.as_ref().is_some_and(|requests| !requests.is_empty());
        self.report.coverage.count(Feature::Requests, u64::from(requested));
        compare::roots(root_of(&self.state), self.mirror.root())
    }

    fn panicked(&self, block: u32, panic: &(dyn std::any::Any + Send)) -> Difference {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        let mismatch = Mismatch::new("execution", format!("a panic: {text}"), "unknown");
        let Self { seed, fork, plan, .. } = *self;
        Difference { seed, fork, plan, block, transactions: 0, mismatch }
    }
}
