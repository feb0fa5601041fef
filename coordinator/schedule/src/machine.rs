//! The state machine itself: handles events, admits shards and loses them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::id::{AssignmentId, Epoch, Incarnation, RoundId, ShardId, WorkId};

use super::evidence::{BlockDeaths, Evidence};
use super::finished::Finished;
use super::fleet::{Shard, Shards};
use super::medians::Medians;
use super::round::{Control, Round};
use super::strikes::Strikes;
use super::turn::Turn;
use super::work::Work;
use super::{Command, Event, LossCause, ScheduleLimits, StrikeRecord};

/// What the scheduler counts since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Second results that were equal to the first.
    pub equal_results: u64,
    /// Second results that differed from the first.
    pub disagreements: u64,
    /// Work that a second shard got because it was overdue.
    pub duplicated: u64,
    /// How often a slot was retired. A slot that moves again still counts.
    pub retired_slots: u64,
    /// Retired slots that moved again.
    pub returned_slots: u64,
    /// Quarantines that began. A prolonged one counts once, and that of a newcomer does not count.
    pub quarantines: u64,
    /// Shards that passed their probation.
    pub released: u64,
    /// Transactions that were proven to kill the process that runs them.
    pub convictions: u64,
    /// Work that had to be verified and on which two shards agreed.
    pub verified: u64,
    /// Work that trusted code did, to verify it or to settle a disagreement.
    pub checked: u64,
}

impl Counters {
    /// The sums of both counters.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            equal_results: self.equal_results + other.equal_results,
            disagreements: self.disagreements + other.disagreements,
            duplicated: self.duplicated + other.duplicated,
            retired_slots: self.retired_slots + other.retired_slots,
            returned_slots: self.returned_slots + other.returned_slots,
            quarantines: self.quarantines + other.quarantines,
            released: self.released + other.released,
            convictions: self.convictions + other.convictions,
            verified: self.verified + other.verified,
            checked: self.checked + other.checked,
        }
    }
}

/// The state machine that decides which shard does which work, and what follows when a shard fails.
///
/// # Example
/// ```
/// use std::time::Duration;
///
/// use alloy_primitives::B256;
/// use common::id::{Epoch, Height, Incarnation, RoundId, ShardId, StateRef, WorkId, WorldId};
/// use schedule::{Command, Event, ScheduleLimits, Scheduler, WorkClass, WorkItem};
///
/// let now = Duration::ZERO;
/// let mut scheduler = Scheduler::new(Epoch::first(), ScheduleLimits::default(), now);
/// let (shard, incarnation) = (ShardId(1), Incarnation(1));
/// let commands = scheduler.handle(now, Event::Register { shard, incarnation, slots: 2 });
/// assert!(commands.contains(&Command::Admitted(shard)));
///
/// let base = StateRef { world: WorldId::default(), height: Height(7), block_hash: B256::ZERO };
/// scheduler.handle(now, Event::State { shard, incarnation, state: Some(base) });
/// let item = WorkItem {
///     id: WorkId(B256::repeat_byte(1)),
///     base: Some(base),
///     class: WorkClass::Execute,
///     cost: 1,
///     heaviest: 21_000,
///     transactions: 1,
///     verify: false,
/// };
/// let round = RoundId(1);
/// let commands = scheduler.handle(now, Event::Admit { round, block: B256::ZERO, work: vec![item] });
/// let Some(Command::Dispatch(assignment)) = commands.first() else { panic!("{commands:?}") };
/// let done = Event::Result { assignment: *assignment, digest: None };
/// assert_eq!(scheduler.handle(now, done), [Command::Use(*assignment), Command::Finish(round)]);
/// ```
#[derive(Debug, Clone)]
pub struct Scheduler {
    pub(super) epoch: Epoch,
    pub(super) limits: ScheduleLimits,
    pub(super) shards: Shards,
    pub(super) rounds: BTreeMap<RoundId, Round>,
    pub(super) work: BTreeMap<WorkId, Work>,
    pub(super) done: Finished,
    pub(super) medians: Medians,
    pub(super) strikes: Strikes,
    pub(super) evidence: Evidence,
    pub(super) control: Option<Control>,
    /// The shards that died with work of a block begun, over all rounds of the block.
    pub(super) block_deaths: BlockDeaths,
    pub(super) ticked_at: Duration,
    /// The number of the newest assignment: no two assignments of this coordinator have the same one.
    pub(super) attempts: u32,
    pub(super) counters: Counters,
}

impl Scheduler {
    /// A scheduler without shards or work.
    #[must_use]
    pub fn new(epoch: Epoch, limits: ScheduleLimits, now: Duration) -> Self {
        Self {
            epoch,
            limits,
            shards: Shards::default(),
            rounds: BTreeMap::new(),
            work: BTreeMap::new(),
            done: Finished::default(),
            medians: Medians::default(),
            strikes: Strikes::default(),
            evidence: Evidence::default(),
            control: None,
            block_deaths: BlockDeaths::default(),
            ticked_at: now,
            attempts: 0,
            counters: Counters::default(),
        }
    }

    /// Restores the strikes that an earlier coordinator held against shards; their times restart.
    pub fn restore_strikes(
        &mut self,
        records: impl IntoIterator<Item = (ShardId, StrikeRecord)>,
        now: Duration,
    ) {
        for (shard, record) in records {
            self.strikes.restore(shard, record, &self.limits, now);
        }
    }

    /// Restores which shards an earlier coordinator has seen do sound work.
    pub fn restore_proven(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        self.strikes.restore_proven(shards);
    }

    /// The shards that have done sound work, if they have changed since the last call.
    pub fn changed_proven(&mut self) -> Option<&BTreeSet<ShardId>> {
        self.strikes.changed_proven()
    }

    /// The number of assignments that a shard holds.
    #[must_use]
    pub fn outstanding(&self, shard: ShardId) -> usize {
        self.shards.alive.get(&shard).map_or(0, |known| known.outstanding.len())
    }

    /// Whether an assignment may still bring the result of open work.
    #[must_use]
    pub fn is_outstanding(&self, assignment: &AssignmentId) -> bool {
        self.work.get(&assignment.work).is_some_and(|work| work.holds(assignment))
    }

    /// The counters so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Handles an event and returns the commands that follow from it.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let mut turn = Turn::new(now);
        match event {
            Event::Register { shard, incarnation, slots } => {
                self.register(shard, incarnation, slots, &mut turn);
            }
            Event::State { shard, incarnation, state } => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.state = state;
                }
            }
            Event::Heartbeat { shard, incarnation, slots, queued } => {
                let usual_gap = self.limits.tick * 3;
                let known = self.shards.get_mut(shard, incarnation);
                let returned = known.map(|known| known.beat(now, &slots, queued, usual_gap));
                for slot in returned.unwrap_or_default() {
                    self.counters.returned_slots += 1;
                    turn.order(Command::Return { shard, incarnation, slot });
                    self.forgive(shard, format!("slot {slot} moves again"), &mut turn);
                }
            }
            Event::Lost { shard, incarnation, cause, reason } => {
                self.lose(shard, incarnation, cause, reason, &mut turn);
            }
            Event::Draining { shard, incarnation } => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.draining = true;
                }
            }
            Event::Admit { round, block, work } => {
                self.admit(round, block, work, &mut turn);
            }
            Event::Recut { round, work, parts } => self.recut(round, work, parts, &mut turn),
            Event::Abandon { round } => self.abandon(round, &mut turn),
            Event::Accepted(assignment) => self.accepted(&assignment),
            Event::Failed { assignment, fault, reason } => {
                self.failed(assignment, fault, reason, &mut turn);
            }
            Event::Result { assignment, digest } => self.result(assignment, digest, &mut turn),
            Event::Checked { work, digest } => self.checked(&work, digest, &mut turn),
            Event::Blame { shard, reason } => self.condemn(shard, reason, &mut turn),
            Event::Tick => self.tick(&mut turn),
        }
        self.judge_suspects(&mut turn);
        self.settle_spent(&mut turn);
        self.excuse_late(now);
        self.dispatch(&mut turn);
        self.note_begun(now);
        debug_assert_eq!(self.audit(), Ok(()), "the books are wrong after {turn:?}");
        turn.into_commands()
    }

    /// Rejects a newcomer with the id of a living shard once heartbeats have shown that the shard lives.
    /// Until then the newcomer must ask again: the shard may be an earlier incarnation of it whose end is not
    /// known yet. The same incarnation may register again and goes on with what it holds. It has not heard
    /// from the coordinator for a while, which may be the coordinator's own absence.
    fn register(&mut self, shard: ShardId, incarnation: Incarnation, slots: u16, turn: &mut Turn) {
        if let Some(known) = self.shards.alive.get_mut(&shard) {
            if known.incarnation != incarnation {
                let alive = known.is_alive_since_challenged(incarnation, turn.now());
                turn.order(if alive { Command::Rejected(shard) } else { Command::RetryLater(shard) });
                return;
            }
            known.heard_at = known.heard_at.max(turn.now());
            turn.order(Command::Admitted(shard));
            return;
        }
        self.retract(shard, incarnation);
        let others = self.shards.alive.keys().copied();
        for newcomer in self.strikes.arrived(shard, others, &self.limits, turn.now()) {
            self.take_back(newcomer, turn);
        }
        self.shards.alive.insert(shard, Shard::new(incarnation, slots, turn.now()));
        turn.order(Command::Admitted(shard));
        turn.order(Command::Sync(shard));
    }

    /// The only path on which a shard is lost.
    pub(super) fn lose(
        &mut self,
        shard: ShardId,
        incarnation: Incarnation,
        cause: LossCause,
        reason: String,
        turn: &mut Turn,
    ) {
        let Some(known) = self.shards.remove(shard, incarnation) else { return };
        turn.order(Command::Evict { shard, incarnation, reason });
        let alone = known.alone_with.filter(|alone| self.has_accepted(alone));
        let newcomer = self.strikes.is_newcomer(shard);
        for assignment in known.outstanding.keys() {
            self.release(assignment);
            self.spare(assignment, turn);
        }
        if newcomer {
            self.strikes.left(shard);
        }
        self.blame_for(shard, &known, (alone, newcomer), cause, turn);
    }

    /// The only path on which work becomes open again: its assignment brought no result.
    pub(super) fn release(&mut self, assignment: &AssignmentId) {
        if let Some(work) = self.work.get_mut(&assignment.work) {
            work.release(assignment);
        }
    }

    fn accepted(&mut self, assignment: &AssignmentId) {
        if let Some(work) = self.work.get_mut(&assignment.work) {
            work.accept(assignment);
        }
    }

    fn has_accepted(&self, assignment: &AssignmentId) -> bool {
        let work = self.work.get(&assignment.work);
        work.and_then(|work| work.held_as(assignment)).is_some_and(|live| live.accepted)
    }

    /// The shard no longer holds the assignment.
    pub(super) fn forget(&mut self, assignment: &AssignmentId) {
        if let Some(shard) = self.shards.get_mut(assignment.shard, assignment.incarnation) {
            shard.outstanding.remove(assignment);
            if shard.alone_with == Some(*assignment) {
                shard.alone_with = None;
            }
        }
    }

    fn tick(&mut self, turn: &mut Turn) {
        let gap = turn.now().saturating_sub(self.ticked_at);
        self.ticked_at = turn.now();
        // A gap in the driver's own ticks is the coordinator's absence, not a shard's.
        if gap > self.limits.tick * 3 {
            self.excuse(gap, turn.now());
        }
        self.overdue(turn);
        let silent: Vec<(ShardId, Incarnation, Duration)> = self
            .shards
            .alive
            .iter()
            .map(|(id, shard)| (*id, shard.incarnation, turn.now().saturating_sub(shard.heard_at)))
            .filter(|(_, _, silence)| *silence > self.limits.lost_after)
            .collect();
        for (shard, incarnation, silence) in silent {
            let reason = format!("no heartbeat for {} ms", silence.as_millis());
            self.lose(shard, incarnation, LossCause::Silent, reason, turn);
        }
        self.fail_stranded(turn);
    }

    /// Creates a new assignment of the work to the shard.
    pub(super) fn next_assignment(&mut self, work: WorkId, shard: ShardId) -> Option<AssignmentId> {
        let incarnation = self.shards.alive.get(&shard)?.incarnation;
        self.attempts = self.attempts.wrapping_add(1);
        let attempt = common::id::Attempt(self.attempts);
        Some(AssignmentId { work, shard, incarnation, attempt, epoch: self.epoch })
    }

    /// The rounds that have not ended.
    pub fn open_rounds(&self) -> impl Iterator<Item = RoundId> + '_ {
        self.rounds.keys().copied()
    }
}
