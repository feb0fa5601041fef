//! A pause of the coordinator counts against no shard and no round, at any state of random runs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use common::id::{AssignmentId, Gas, Incarnation, RoundId, ShardId, SlotIndex, TxIndex, WorkId};
use common::message::SlotProgress;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::kept::Pause;
use super::tests::{EPOCH, base, item, ms};
use super::{
    AssignmentFault, Command, Event, FailCause, LossCause, RoundFailure, ScheduleLimits, Scheduler, WorkItem,
};

/// A fleet of three shards that does random things.
struct Run {
    scheduler: Scheduler,
    random: ChaCha8Rng,
    now: u64,
    incarnations: [u64; 3],
    rounds: u64,
    sent: Vec<AssignmentId>,
    questions: Vec<Event>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let limits = ScheduleLimits { quarantine: ms(300), max_strikes: 2, ..ScheduleLimits::default() };
        Self {
            scheduler: Scheduler::new(EPOCH, limits, ms(0)),
            random: ChaCha8Rng::seed_from_u64(seed),
            now: 0,
            incarnations: [0; 3],
            rounds: 0,
            sent: Vec::new(),
            questions: Vec::new(),
        }
    }

    fn any_sent(&mut self) -> Option<AssignmentId> {
        let recent = self.sent.len().saturating_sub(6);
        let held = &self.sent[recent..];
        (!held.is_empty()).then(|| held[self.random.random_range(0..held.len())])
    }

    fn digest(&mut self, work: WorkId) -> Option<B256> {
        let right = !self.random.random_ratio(1, 8);
        Some(if right { work.0 } else { B256::repeat_byte(0xee) })
    }

    fn event(&mut self) -> Option<Event> {
        let number = self.random.random_range(0..3u32);
        let (shard, incarnation) = (ShardId(number), Incarnation(self.incarnations[number as usize]));
        match self.random.random_range(0..12) {
            0 => {
                self.incarnations[number as usize] += 1;
                let incarnation = Incarnation(self.incarnations[number as usize]);
                Some(Event::Register { shard, incarnation, slots: 2 })
            }
            1 => Some(Event::State { shard, incarnation, state: Some(base()) }),
            2 | 3 => {
                let held = self.any_sent().filter(|held| held.shard == shard);
                let slots = held.map(|held| SlotProgress {
                    slot: SlotIndex(0),
                    transactions: 1,
                    current: Some((held, TxIndex(0))),
                    gas: Gas(21_000),
                });
                let slots = slots.into_iter().collect();
                Some(Event::Heartbeat { shard, incarnation, slots, queued: 0 })
            }
            4..=6 => {
                let assignment = self.any_sent()?;
                let digest = self.digest(assignment.work);
                Some(Event::Result { assignment, digest })
            }
            7 => {
                let faults = [
                    AssignmentFault::Busy,
                    AssignmentFault::Failed,
                    AssignmentFault::Panicked,
                    AssignmentFault::Corrupt,
                ];
                let (assignment, fault) = (self.any_sent()?, faults[self.random.random_range(0..4)]);
                Some(Event::Failed { assignment, fault, reason: "random".into() })
            }
            8 if self.random.random_ratio(1, 4) => {
                let cause = if self.random.random() { LossCause::Died } else { LossCause::Silent };
                Some(Event::Lost { shard, incarnation, cause, reason: "random".into() })
            }
            9 => {
                self.rounds += 1;
                let pieces = self.random.random_range(1..4u8);
                let piece = |n: u8| {
                    let id = WorkId(keccak256([self.rounds.to_be_bytes().as_slice(), &[n]].concat()));
                    WorkItem { id, verify: n == 1, ..item(n) }
                };
                let (round, work) = (RoundId(self.rounds), (1..=pieces).map(piece).collect());
                Some(Event::Admit { round, block: B256::ZERO, work })
            }
            10 => self.any_sent().map(Event::Accepted),
            _ => self.questions.pop(),
        }
    }

    fn note(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Dispatch(assignment) => self.sent.push(assignment),
                Command::Recut { round, work } => {
                    let id = |n: u8| WorkId(keccak256([work.0.as_slice(), &[n]].concat()));
                    let part = |n: u8| WorkItem { id: id(n), transactions: 1, ..item(n) };
                    self.questions.push(Event::Recut { round, work, parts: (1..=4).map(part).collect() });
                }
                Command::Check { work, .. } | Command::Disagreement { work, .. } => {
                    self.questions.push(Event::Checked { work, digest: work.0 });
                }
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        self.now += self.random.random_range(0..30);
        if ms(self.now) >= self.scheduler.next_deadline() {
            let commands = self.scheduler.handle(ms(self.now), Event::Tick);
            self.note(commands);
        }
        if let Some(event) = self.event() {
            let commands = self.scheduler.handle(ms(self.now), event);
            self.note(commands);
        }
    }
}

fn times(scheduler: &mut Scheduler) -> Vec<(Duration, Pause)> {
    let mut times = Vec::new();
    scheduler.for_each_time(&mut |kept| times.push((*kept.time, kept.pause)));
    times
}

#[test]
fn a_pause_moves_every_time_that_a_limit_counts_from() {
    let mut seen = [0; 3];
    for seed in 0..60 {
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step();
            let (gap, tick) = (ms(10_000), ms(100));
            let mut paused = run.scheduler.clone();
            paused.excuse(gap, ms(run.now) + gap);
            let before = times(&mut run.scheduler);
            for ((before, pause), (after, _)) in before.into_iter().zip(times(&mut paused)) {
                let (kind, moved) = match pause {
                    Pause::Moves => (0, before + gap),
                    Pause::MovesButOneTick => (1, before + gap - tick),
                    Pause::Stays => (2, before),
                };
                assert_eq!(after, moved, "seed {seed} at {} ms: {pause:?}", run.now);
                seen[kind] += 1;
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 1_000), "{seen:?}");
}

/// What a tick may do to a shard or a round because a limit has passed.
fn is_harm(command: &Command) -> bool {
    matches!(
        command,
        Command::Evict { .. }
            | Command::Cancel(_)
            | Command::Strikes { .. }
            | Command::Retire { .. }
            | Command::Fail {
                failure: RoundFailure { cause: FailCause::Stranded | FailCause::Local, .. },
                ..
            }
    )
}

#[test]
fn a_tick_after_a_pause_does_no_harm_that_a_tick_without_it_would_not_do() {
    let mut seen = 0;
    for seed in 0..25 {
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step();
            let mut usual = run.scheduler.clone();
            let usual = usual.handle(run.scheduler.ticked_at + ms(100), Event::Tick);
            let mut paused = run.scheduler.clone();
            let paused = paused.handle(ms(run.now + 60_000), Event::Tick);
            let harm = |commands: &[Command]| commands.iter().filter(|command| is_harm(command)).count();
            assert!(
                harm(&paused) <= harm(&usual),
                "seed {seed} at {} ms: {paused:?} instead of {usual:?}",
                run.now
            );
            seen += harm(&usual);
        }
    }
    assert!(seen > 100, "{seen}");
}
