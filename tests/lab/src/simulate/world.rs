//! The world of a history: its clock, its queue of happenings, and its end.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, ShardId, WorkId};

use super::chain::{self, Block, BlockNumber, HEAVY_GAS};
use super::check::{Check, Violation};
use super::coordinator::Coordinator;
use super::disk::{Disk, Ending, Journaled};
use super::fault::{self, Fault, FaultKind};
use super::message::{Answer, ToCoordinator, ToShard};
use super::network::{Line, Weather};
use super::random::{Random, join};
use super::shard::Process;
use super::verify::Verification;
use schedule::{Counters, ScheduleLimits, Transition};

/// How often shards send heartbeats in the simulator.
pub(super) const BEAT: Duration = Duration::from_millis(50);

/// How long a call waits for its answer.
pub(super) const CALL_LIMIT: Duration = Duration::from_millis(250);

/// After the last fault every block must end within this time.
const PATIENCE: Duration = Duration::from_secs(25);

/// The additional time for each heavy transaction.
const HEAVY_PATIENCE: Duration = Duration::from_secs(15);

/// A slot that works gets work again within this time, whatever strikes its shard has.
const RETURNS_WITHIN: Duration = Duration::from_secs(2);

/// The most happenings of one history: far more than any history needs.
const MOST_HAPPENINGS: u64 = 400_000;

/// An event of the simulation, with its own time.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    Fault(usize),
    Submit(BlockNumber),
    ShardStart(usize),
    ShardWake {
        process: usize,
        incarnation: u64,
    },
    SlotDone {
        process: usize,
        incarnation: u64,
        slot: usize,
        token: u64,
    },
    /// A shard's call stays without an answer.
    CallLost {
        process: usize,
        incarnation: u64,
        call: u64,
    },
    Answered {
        process: usize,
        incarnation: u64,
        call: u64,
        answer: Box<Answer>,
    },
    ToShard {
        process: usize,
        from: usize,
        packet: ToShard,
    },
    ToCoordinator {
        packet: Box<ToCoordinator>,
    },
    /// The answer to a command of this coordinator.
    Obeyed {
        coordinator: usize,
        packet: Box<ToCoordinator>,
    },
    /// A coordinator's command stays without an answer.
    CommandLost {
        coordinator: usize,
        assignment: AssignmentId,
    },
    SyncLost {
        coordinator: usize,
        shard: ShardId,
        incarnation: Incarnation,
    },
    LinkBroken {
        coordinator: usize,
        shard: ShardId,
        incarnation: Incarnation,
        died: bool,
    },
    PingsUnanswered {
        process: usize,
        incarnation: u64,
    },
    /// The grace period of a process that was asked to drain is over.
    DrainOver {
        process: usize,
        incarnation: u64,
    },
    CoordinatorWake {
        coordinator: usize,
        at: Duration,
    },
    CoordinatorStart,
    CommitDone {
        coordinator: usize,
        block: BlockNumber,
        digest: u64,
    },
    /// Trusted code has done a piece of work for which these shards gave answers.
    Settled {
        coordinator: usize,
        work: WorkId,
        answers: Vec<(ShardId, B256)>,
    },
    TryAgain {
        coordinator: usize,
    },
    ZombieEnds {
        coordinator: usize,
    },
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    number: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The outcome of a history.
#[derive(Debug, Clone)]
pub struct History {
    /// The seed, which alone determines the history.
    pub seed: u64,
    /// The invariant that it violated, if any.
    pub violation: Option<Violation>,
    /// The kinds of the injected faults, in the order of injection.
    pub faults: Vec<FaultKind>,
    /// The number of its blocks.
    pub blocks: usize,
    /// The number of its shards.
    pub shards: usize,
    /// The number of blocks committed, kept as side blocks, rejected and parked, in this order.
    pub endings: [usize; 4],
    /// The number of happenings.
    pub steps: u64,
    /// Its length in virtual time.
    pub lasted: Duration,
    /// The scheduler's transitions, with how often each occurred.
    pub transitions: BTreeMap<Transition, u64>,
    /// The sum of its schedulers' counters.
    pub counters: Counters,
    /// One line for each happening, if the caller asked for a trace.
    pub trace: Vec<String>,
}

/// One history in progress: its clock, its queue of happenings, and every modelled part.
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) random: Random,
    queue: BinaryHeap<Reverse<Entry>>,
    numbered: u64,
    pub(super) limits: ScheduleLimits,
    pub(super) blocks: Vec<Block>,
    pub(super) genesis: u64,
    pub(super) acknowledged: Vec<bool>,
    pub(super) disk: Disk,
    pub(super) coordinators: Vec<Coordinator>,
    pub(super) processes: Vec<Process>,
    pub(super) lines: Vec<Line>,
    pub(super) weather: Weather,
    pub(super) incarnations: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) injected: Vec<FaultKind>,
    /// After this many more steps the coordinator's process ends.
    pub(super) crash_in: Option<(u64, Duration)>,
    pub(super) verification: Verification,
    /// Whether shards are threads of one process: stuck threads lose their slots to new ones.
    pub(super) in_process: bool,
    pub(super) check: Check,
    pub(super) transitions: BTreeMap<Transition, u64>,
    pub(super) counters: Counters,
    trace: Option<Vec<String>>,
}

/// The scheduler's limits in the simulator: the real ones with shorter times.
fn limits(random: &mut Random) -> ScheduleLimits {
    ScheduleLimits {
        depth: random.between(1, 3) as usize,
        lost_after: Duration::from_millis(300),
        longest_pause: Duration::from_millis(200),
        no_shard_wait: Duration::from_millis(700),
        when_no_shards: match random.between(0, 5) {
            0 => schedule::NoShards::Local,
            1 => schedule::NoShards::Fail,
            _ => schedule::NoShards::Wait,
        },
        tick: BEAT,
        overdue_after: Duration::from_millis(500),
        stuck_floor: Duration::from_millis(250),
        // A heavy transaction may take four seconds, and is overdue after two.
        slowest_gas: HEAVY_GAS / 4,
        heavy_gas: HEAVY_GAS / 2,
        strike_decay: Duration::from_secs(5),
        quarantine: Duration::from_millis(400),
        longest_quarantine: Duration::from_secs(2),
        blame_window: Duration::from_millis(100),
        done_kept: 64,
        ..ScheduleLimits::default()
    }
}

/// Runs the history of a seed.
#[must_use]
pub fn simulate(seed: u64, trace: bool) -> History {
    let mut world = World::new(seed, trace);
    let steps = world.run();
    world.finish(seed, steps)
}

impl World {
    fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(join(seed, 0x5eed));
        let shards = random.between(2, 4) as usize;
        let blocks = chain::draw(&mut random);
        let faults = fault::draw(&mut random, shards, Duration::from_millis(600));
        let limits = limits(&mut random);
        let genesis = random.next();
        let mut world = Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            numbered: 0,
            limits,
            acknowledged: vec![false; blocks.len()],
            blocks,
            genesis,
            disk: Disk { origin: (0, genesis), ..Disk::default() },
            coordinators: Vec::new(),
            processes: Vec::new(),
            lines: vec![Line::default(); shards],
            weather: Weather::default(),
            incarnations: 0,
            faults,
            injected: Vec::new(),
            crash_in: None,
            verification: Verification::draw(seed),
            in_process: random.one_in(4),
            check: Check::default(),
            transitions: BTreeMap::new(),
            counters: Counters::default(),
            trace: trace.then(Vec::new),
            random,
        };
        for index in 0..shards {
            let slots = world.random.between(1, 2) as u16;
            world.processes.push(Process::new(ShardId(index as u32 + 1), slots, index));
            let at = Duration::from_micros(world.random.between(0, 30_000));
            world.at(at, Happening::ShardStart(index));
        }
        world.at(Duration::ZERO, Happening::CoordinatorStart);
        for block in 0..world.blocks.len() {
            let at = Duration::from_micros(world.random.between(0, 150_000) * block as u64);
            world.at(at, Happening::Submit(block));
        }
        for fault in 0..world.faults.len() {
            let at = world.faults.get(fault).map_or(Duration::ZERO, |fault| fault.at);
            world.at(at, Happening::Fault(fault));
        }
        world
    }

    pub(super) fn at(&mut self, at: Duration, happening: Happening) {
        self.numbered += 1;
        self.queue.push(Reverse(Entry { at: at.max(self.now), number: self.numbered, happening }));
    }

    pub(super) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub(super) fn micros(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.random.between(low, high))
    }

    pub(super) fn trace(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} ms  {}", now.as_secs_f64() * 1000.0, line()));
        }
    }

    pub(super) fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    fn run(&mut self) -> u64 {
        let mut steps = 0;
        let last_fault = self.faults.iter().map(|fault| fault.at + fault.lasts).max().unwrap_or_default();
        let heavy = self.blocks.iter().filter(|block| block.heavy.is_some()).count() as u32;
        let deadline = last_fault + PATIENCE + HEAVY_PATIENCE * heavy;
        let mut ends_at: Option<Duration> = None;
        while let Some(Reverse(entry)) = self.queue.pop() {
            self.now = entry.at;
            if self.check.violation.is_some() {
                break;
            }
            if let Some(end) = ends_at.filter(|end| self.now > *end) {
                let left_out = self.left_out();
                if self.now > end + RETURNS_WITHIN
                    && let Some((shard, slot)) = left_out
                {
                    self.check.fail(self.now, format!("slot {slot} of shard {shard} works and gets no work"));
                }
                if left_out.is_none() || self.now > end + RETURNS_WITHIN {
                    break;
                }
            }
            if self.now > deadline || steps > MOST_HAPPENINGS {
                self.complain_of_the_unfinished();
                break;
            }
            steps += 1;
            self.happen(entry.happening);
            if ends_at.is_none() && self.injected.len() == self.faults.len() && self.all_ended() {
                // Long enough for messages in flight.
                ends_at = Some(self.now + Duration::from_millis(150));
            }
        }
        steps
    }

    fn all_ended(&self) -> bool {
        (0..self.blocks.len())
            .all(|block| self.acknowledged.get(block) == Some(&true) && self.has_ended_or_must_wait(block))
    }

    /// Whether a block has ended, or waits for an ancestor that will not become valid: one that is parked, or
    /// was rejected before this block was accepted.
    fn has_ended_or_must_wait(&self, block: BlockNumber) -> bool {
        let ending = |block: BlockNumber| self.disk.ending(block);
        let mut at = Some(block);
        while let Some(number) = at {
            match ending(number) {
                Some(Ending::Parked | Ending::Refused) => return true,
                Some(Ending::Committed | Ending::SideBlock) => return number == block,
                None => at = self.blocks.get(number).and_then(|block| block.parent),
            }
        }
        false
    }

    fn complain_of_the_unfinished(&mut self) {
        let open: Vec<BlockNumber> =
            (0..self.blocks.len()).filter(|block| !self.has_ended_or_must_wait(*block)).collect();
        let acknowledged: Vec<&BlockNumber> =
            open.iter().filter(|block| self.acknowledged.get(**block) == Some(&true)).collect();
        let text = format!(
            "blocks {open:?} have not ended long after the last fault; of these {acknowledged:?} were acknowledged"
        );
        self.check.fail(self.now, text);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Fault(fault) => self.inject(fault),
            Happening::Submit(block) => self.submit(block),
            Happening::ShardStart(process) => self.start_shard(process),
            Happening::ShardWake { .. }
            | Happening::SlotDone { .. }
            | Happening::CallLost { .. }
            | Happening::Answered { .. }
            | Happening::ToShard { .. } => self.at_shard(happening),
            Happening::PingsUnanswered { process, incarnation } => {
                self.pings_unanswered(process, incarnation)
            }
            Happening::DrainOver { process, incarnation } => self.drain_is_over(process, incarnation),
            Happening::CoordinatorStart => self.start_coordinator(),
            other => self.at_coordinator(other),
        }
    }

    fn finish(mut self, seed: u64, steps: u64) -> History {
        for coordinator in std::mem::take(&mut self.coordinators) {
            self.count(&coordinator.scheduler.counters());
        }
        self.check_result();
        let ended = |ending| move |entry: &&Journaled| entry.ending == Some(ending);
        let count = |ending| self.disk.journal.iter().filter(ended(ending)).count();
        History {
            seed,
            violation: self.check.violation.clone(),
            blocks: self.blocks.len(),
            shards: self.lines.len(),
            endings: [Ending::Committed, Ending::SideBlock, Ending::Refused, Ending::Parked].map(count),
            faults: self.injected,
            steps,
            lasted: self.now,
            transitions: self.transitions,
            counters: self.counters,
            trace: self.trace.unwrap_or_default(),
        }
    }

    /// Checks that the chain is the heaviest branch of valid blocks, that its state is that of sequential
    /// execution, and that only invalid blocks and their descendants were rejected.
    fn check_result(&mut self) {
        let valid = |entry: &&Journaled| matches!(entry.ending, Some(Ending::Committed | Ending::SideBlock));
        let weights = self.disk.journal.iter().filter(valid).map(|entry| self.weight(Some(entry.block)));
        let heaviest = weights.max().unwrap_or_default();
        let mut chain: Vec<&Block> = self.branch(self.disk.head).collect();
        chain.reverse();
        let digest = chain.iter().fold(self.genesis, |digest, block| block.after(digest));
        let state = (chain.len() as u64, digest);
        let refused = |entry: &&Journaled| entry.ending == Some(Ending::Refused);
        let lost = self
            .disk
            .journal
            .iter()
            .filter(refused)
            .find(|entry| !self.branch(Some(entry.block)).any(|block| block.invalid))
            .map(|entry| entry.block);
        let weight = self.weight(self.disk.head);
        if self.disk.head_state() != state {
            self.check.fail(self.now, "the state is not that of sequential execution");
        }
        if weight != heaviest {
            let text = format!("the chain weighs {weight}, a branch of accepted blocks weighs {heaviest}");
            self.check.fail(self.now, text);
        }
        if let Some(block) = lost {
            self.check.fail(self.now, format!("block {block} was refused, and is valid like its ancestors"));
        }
    }

    pub(super) fn count(&mut self, more: &Counters) {
        self.counters = self.counters.plus(more);
    }
}
