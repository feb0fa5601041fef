//! The overdue rule: a slow slot or a lost message costs a second try elsewhere, not the block.
//!
//! Overdue is judged against the running median of the work's kind, scaled by its cost. First the
//! work is given to another shard as well. Where the slot stands still for longer the work is given
//! up there, the shard gets a strike, and then the slot is retired: a thread cannot be killed.

use std::collections::VecDeque;
use std::time::Duration;

use common::id::{AssignmentId, ShardId, SlotIndex};

use super::machine::Scheduler;
use super::rounds::Work;
use super::{Command, ScheduleLimits, WorkClass, WorkItem};

/// Durations that a median is taken of.
const SAMPLES: usize = 64;

/// With fewer there is no median.
const ENOUGH: usize = 5;

/// A slot that stands still for so many limits has its work given up and gets a strike.
const STRIKE_AFTER: u32 = 3;

/// And after so many it is retired.
const RETIRE_AFTER: u32 = 6;

/// The running median of the time per unit of cost of one kind of work.
#[derive(Debug, Clone, Default)]
struct Median {
    samples: VecDeque<u64>,
    median: Option<u64>,
}

impl Median {
    fn add(&mut self, nanos_per_unit: u64) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(nanos_per_unit);
        if self.samples.len() >= ENOUGH {
            let mut sorted: Vec<u64> = self.samples.iter().copied().collect();
            let middle = sorted.len() / 2;
            self.median = Some(*sorted.select_nth_unstable(middle).1);
        }
    }
}

/// The medians of the kinds of work.
#[derive(Debug, Clone, Default)]
pub(super) struct Medians {
    recover: Median,
    execute: Median,
}

impl Medians {
    pub(super) fn add(&mut self, item: &WorkItem, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let median = match item.class {
            WorkClass::Recover => &mut self.recover,
            WorkClass::Execute => &mut self.execute,
        };
        median.add((nanos / item.cost.max(1)).max(1));
    }

    /// How long an assignment of this work may take.
    pub(super) fn limit(&self, item: &WorkItem, limits: &ScheduleLimits) -> Duration {
        let median = match item.class {
            WorkClass::Recover => self.recover.median,
            WorkClass::Execute => self.execute.median,
        };
        let Some(median) = median else { return limits.overdue_after };
        let usual = median.saturating_mul(item.cost.max(1));
        let limit = Duration::from_nanos(usual.saturating_mul(u64::from(limits.overdue_factor)));
        limit.min(limits.overdue_after).max(limits.overdue_floor)
    }
}

impl Scheduler {
    /// When this work is to be given to another shard as well.
    pub(super) fn overdue_at(&self, work: &Work) -> Option<Duration> {
        let [only] = work.live.as_slice() else { return None };
        let calm = !work.duplicate && work.suspicion.is_none();
        calm.then(|| only.since + self.medians.limit(&work.item, &self.limits) + Duration::from_nanos(1))
    }

    pub(super) fn overdue(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let due: Vec<_> = self
            .work
            .values()
            .filter(|work| self.overdue_at(work).is_some_and(|at| at <= now))
            .map(|work| work.item.id)
            .collect();
        for id in due {
            if let Some(work) = self.work.get_mut(&id) {
                work.duplicate = true;
            }
        }
        for assignment in self.hopeless(now) {
            self.forget(&assignment);
            self.release(&assignment);
            self.spare(now, &assignment, commands);
            commands.push(Command::Cancel(assignment));
        }
        self.watch_slots(now, commands);
    }

    /// Assignments of shards that stand still, long past their time.
    fn hopeless(&self, now: Duration) -> Vec<AssignmentId> {
        let mut found = Vec::new();
        for work in self.work.values() {
            let limit = self.medians.limit(&work.item, &self.limits);
            let patience = (limit * STRIKE_AFTER).max(self.limits.stuck_floor);
            for live in &work.live {
                let shard = self.shards.alive.get(&live.assignment.shard);
                let still = shard
                    .and_then(|shard| shard.stands_still_since())
                    .is_none_or(|since| now.saturating_sub(since) > limit);
                if now.saturating_sub(live.since) > patience && still {
                    found.push(live.assignment);
                }
            }
        }
        found
    }

    fn watch_slots(&mut self, now: Duration, commands: &mut Vec<Command>) {
        let (mut strikes, mut retired) = (Vec::new(), Vec::new());
        for (id, shard) in &mut self.shards.alive {
            for watch in &mut shard.watches {
                let Some(current) = watch.current else { continue };
                if shard.retired.contains(&watch.slot) {
                    continue;
                }
                if watch.limit.is_none() {
                    // Another shard may have done it since, or another process of this one.
                    let done = self.done.by_id.get(&current.work).map(|done| &done.item);
                    let item = shard.outstanding.get(&current).or(done);
                    watch.limit = item.map(|item| self.medians.limit(item, &self.limits));
                }
                let limit = watch.limit.unwrap_or(self.limits.overdue_after);
                let still = now.saturating_sub(watch.since);
                if !watch.struck && still > (limit * STRIKE_AFTER).max(self.limits.stuck_floor) {
                    watch.struck = true;
                    strikes.push((*id, watch.slot, still));
                } else if watch.struck && still > (limit * RETIRE_AFTER).max(self.limits.stuck_floor * 2) {
                    retired.push((*id, watch.slot));
                }
            }
        }
        for (shard, slot, still) in strikes {
            self.strike(now, shard, format!("slot {slot} has stood still for {still:?}"), commands);
        }
        for (shard, slot) in retired {
            self.retire(now, shard, slot, commands);
        }
    }

    /// The shard offers one slot less; with none left it is asked to leave.
    fn retire(&mut self, now: Duration, shard: ShardId, slot: SlotIndex, commands: &mut Vec<Command>) {
        let Some(known) = self.shards.alive.get_mut(&shard) else { return };
        known.retired.insert(slot);
        self.counters.retired_slots += 1;
        let left = u16::try_from(known.working_slots()).unwrap_or(u16::MAX);
        let incarnation = known.incarnation;
        commands.push(Command::Retire { shard, incarnation, slot, left });
        if left > 0 {
            return;
        }
        known.draining = true;
        for assignment in std::mem::take(&mut known.outstanding).into_keys() {
            self.forget(&assignment);
            self.release(&assignment);
            self.spare(now, &assignment, commands);
            commands.push(Command::Cancel(assignment));
        }
    }
}
