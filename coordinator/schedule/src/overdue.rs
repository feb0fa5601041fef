//! The overdue rule: a slow slot or a lost message costs a second try on another shard, not the block.
//!
//! An assignment is overdue by the running median of its work's kind, scaled by its cost and counted from
//! when a slot should have begun it. What waits behind overdue work is overdue with it. First, the scheduler
//! assigns the work to another shard too, one with many results. The late shard gets no new work until it answers,
//! its heartbeats show it idle, or a time limit has passed. If that happens several times and it never answers, it
//! must prove itself like a newcomer. If the whole shard stands still for longer, the scheduler gives up the
//! assignment.
//!
//! A slot stands still while one transaction runs, and valid transactions may run for minutes. Heartbeats
//! name the transaction's gas, and the slot is not stuck while that gas may last at the slowest rate. After
//! that the shard gets a strike, and later the scheduler retires the slot, because a thread cannot be killed.
//! A slot that moves again returns to service, and the scheduler uses its result if the work is still open.

use std::time::Duration;

use common::id::{AssignmentId, ShardId, SlotIndex};

use super::fleet::{Shard, Shards};
use super::machine::Scheduler;
use super::medians::Medians;
use super::never::never;
use super::strikes::Lateness;
use super::turn::Turn;
use super::work::{Live, Work};
use super::{Command, ScheduleLimits, WorkItem};

/// The scheduler gives up an assignment of a shard that stands still after this many times its limit.
const GIVEN_UP_AFTER: u32 = 3;

/// Overdue work goes to any other shard after this many times its limit.
const HELP_WITHIN: u32 = 3;

impl Medians {
    /// The time at which another shard must get this work too; `None` if it is not assigned to exactly one
    /// shard.
    pub(super) fn overdue_at(
        &self,
        work: &Work,
        shards: &Shards,
        limits: &ScheduleLimits,
    ) -> Option<Duration> {
        let [only] = work.live() else { return None };
        if work.is_overdue() || work.is_suspect() {
            return None;
        }
        let late =
            |since: Duration, item: &WorkItem| since + self.limit(item, limits) + Duration::from_nanos(1);
        let Some(shard) = shards.alive.get(&only.assignment.shard) else {
            return Some(late(only.since, work.item()));
        };
        if let Some(begun) = shard.begun.get(&only.assignment) {
            let heavy = *begun + limits.heavy(work.item().heaviest);
            return Some(late(*begun, work.item()).max(heavy));
        }
        // The assignment waits: a slot that is in time will get to it. It need not wait for a heavy
        // transaction.
        let ahead = shard.begun.iter().map(|(id, since)| match shard.outstanding.get(id) {
            Some(item) => late(*since, item),
            None => *since,
        });
        Some(ahead.max().unwrap_or_else(|| late(only.since, work.item())))
    }
}

impl Scheduler {
    fn overdue_at(&self, work: &Work) -> Option<Duration> {
        self.medians.overdue_at(work, &self.shards, &self.limits)
    }

    /// Whether another shard should have taken this overdue work long ago, and none has that is known to be well.
    pub(super) fn waits_too_long(&self, work: &Work, now: Duration) -> bool {
        let patience = self.medians.limit(work.item(), &self.limits) * HELP_WITHIN;
        work.live().iter().all(|live| now.saturating_sub(live.since) > patience)
    }

    /// Notes the time since which slots should run what they hold: a shard starts work in the order it was
    /// given.
    pub(super) fn note_begun(&mut self, now: Duration) {
        for shard in self.shards.alive.values_mut() {
            let mut held: Vec<AssignmentId> = shard.outstanding.keys().copied().collect();
            held.sort_unstable_by_key(|assignment| assignment.attempt);
            held.truncate(shard.working_slots());
            shard.begun.retain(|assignment, _| held.contains(assignment));
            for assignment in held {
                shard.begun.entry(assignment).or_insert(now);
            }
        }
    }

    /// How long a slot ran this work; `None` if the assignment no longer counts.
    pub(super) fn time_taken(
        &self,
        now: Duration,
        work: &Work,
        assignment: &AssignmentId,
    ) -> Option<Duration> {
        let live = work.held_as(assignment)?;
        let begun = self.shards.alive.get(&assignment.shard).and_then(|shard| shard.begun.get(assignment));
        Some(now.saturating_sub(begun.copied().unwrap_or(live.since)))
    }

    /// Notes that a shard has answered. A late shard may get work again.
    pub(super) fn answered(&mut self, now: Duration, assignment: &AssignmentId) {
        self.strikes.answers(assignment.shard);
        if let Some(shard) = self.shards.get_mut(assignment.shard, assignment.incarnation) {
            shard.has_answered(now, assignment);
            shard.is_in_time(now);
        }
    }

    /// Lets late shards get work again if no shard is in time.
    pub(super) fn excuse_late(&mut self, now: Duration) {
        let in_time = |shard: &Shard| shard.is_in_service() && shard.late_until <= now;
        if !self.shards.alive.values().any(in_time) {
            for shard in self.shards.alive.values_mut() {
                shard.late_until = shard.late_until.min(now);
            }
        }
    }

    pub(super) fn overdue(&mut self, turn: &mut Turn) {
        let due: Vec<_> = self
            .work
            .values()
            .filter(|work| self.overdue_at(work).is_some_and(|at| at <= turn.now()))
            .map(Work::id)
            .collect();
        let mut late = Vec::new();
        for id in due {
            let Some(work) = self.work.get_mut(&id) else {
                never!("overdue work {id} is not known");
                continue;
            };
            let base = work.item().base;
            let Some(Live { assignment, since, .. }) = work.becomes_overdue() else { continue };
            let Some(shard) = self.shards.alive.get_mut(&assignment.shard) else { continue };
            // What it already held when it was last late says nothing more of it, nor does what only waits there
            // for a slot.
            if since >= shard.late_at && shard.begun.contains_key(&assignment) {
                let busy = shard.is_busy_with(&assignment, &self.limits);
                let lateness = if busy { Lateness::Busy } else { Lateness::Silent };
                shard.late_at = turn.now();
                late.push((assignment.shard, base, lateness));
            }
            // The late shard gets no new work for a while.
            shard.late_until = turn.now() + self.limits.lost_after;
        }
        for (shard, base, lateness) in late {
            self.doubt(shard, base, lateness, turn);
        }
        for assignment in self.hopeless(turn.now()) {
            self.give_away(&assignment, turn);
        }
        self.watch_slots(turn);
    }

    /// The assignments, long past their limit, of shards that stand still.
    fn hopeless(&self, now: Duration) -> Vec<AssignmentId> {
        let mut found = Vec::new();
        for work in self.work.values() {
            let limit = self.medians.limit(work.item(), &self.limits);
            let patience = (limit * GIVEN_UP_AFTER).max(self.limits.stuck_floor);
            for live in work.live() {
                let shard = self.shards.alive.get(&live.assignment.shard);
                let still = shard.is_none_or(|shard| shard.stands_still(now, limit, &self.limits));
                if now.saturating_sub(live.since) > patience && still {
                    found.push(live.assignment);
                }
            }
        }
        found
    }

    fn watch_slots(&mut self, turn: &mut Turn) {
        let (mut strikes, mut retired) = (Vec::new(), Vec::new());
        for (id, shard) in &mut self.shards.alive {
            // Only heartbeats show where a slot is. Without them it may have moved; the shard's silence will
            // lose it.
            let seen_at = shard.beat_at;
            for watch in shard.watches.values_mut() {
                let Some(current) = watch.current else { continue };
                if shard.retired.contains(&watch.slot) {
                    continue;
                }
                // Another shard, or an earlier incarnation of this one, may have done it since.
                let done = self.done.get(&current.work).map(|done| &done.item);
                let held = shard.outstanding.get(&current).or(done);
                let patience = watch.longest(held, &self.limits);
                let still = seen_at.saturating_sub(watch.since);
                if !watch.struck && still > patience {
                    watch.struck = true;
                    strikes.push((*id, watch.slot, still));
                } else if watch.struck && still > patience * 2 {
                    retired.push((*id, watch.slot));
                }
            }
        }
        for (shard, slot, still) in strikes {
            let reason = format!("slot {slot} has stood still for {still:?}");
            self.strike_for_standing(shard, reason, turn);
        }
        for (shard, slot) in retired {
            self.retire(shard, slot, turn);
        }
    }

    /// Retires a slot until it moves again. If the shard has no slot left, all that it holds goes to other
    /// shards.
    fn retire(&mut self, shard: ShardId, slot: SlotIndex, turn: &mut Turn) {
        let Some(known) = self.shards.alive.get_mut(&shard) else {
            return never!("a slot of shard {shard} is retired, which is not alive");
        };
        known.retired.insert(slot);
        self.counters.retired_slots += 1;
        let left = u16::try_from(known.working_slots()).unwrap_or(u16::MAX);
        let incarnation = known.incarnation;
        turn.order(Command::Retire { shard, incarnation, slot, left });
        if left > 0 {
            return;
        }
        let held: Vec<AssignmentId> = known.outstanding.keys().copied().collect();
        for assignment in held {
            self.give_away(&assignment, turn);
        }
    }

    /// Gives up an assignment. A slot that runs it goes on: the scheduler uses its result if the work is
    /// still open.
    fn give_away(&mut self, assignment: &AssignmentId, turn: &mut Turn) {
        let shard = self.shards.get_mut(assignment.shard, assignment.incarnation);
        let is_at = shard.is_some_and(|shard| shard.is_at(assignment));
        self.forget(assignment);
        self.release(assignment);
        self.spare(assignment, turn);
        if !is_at {
            turn.order(Command::Cancel(*assignment));
        }
    }
}
