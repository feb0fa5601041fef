//! The scheduler's view of its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::id::{AssignmentId, Incarnation, ShardId, SlotIndex, StateRef};
use common::message::SlotProgress;

use super::kept::{Kept, Pause, Visit};
use super::work::Work;
use super::{ScheduleLimits, WorkItem};

/// One slot, as heartbeats show it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotWatch {
    pub(super) slot: SlotIndex,
    pub(super) transactions: u64,
    pub(super) current: Option<AssignmentId>,
    /// The gas limit of the transaction that the slot runs, as the shard reports it.
    gas: u64,
    /// The time since which the slot has stood there.
    pub(super) since: Duration,
    pub(super) struck: bool,
}

impl SlotWatch {
    /// How long the slot may stand still before it counts as stuck. `held` is what the scheduler knows
    /// of the work: a shard cannot claim more gas than that has.
    pub(super) fn longest(&self, held: Option<&WorkItem>, limits: &ScheduleLimits) -> Duration {
        let gas = held.map_or(self.gas, |item| item.heaviest.min(self.gas));
        if self.current.is_some() { limits.stuck_floor + limits.longest(gas) } else { Duration::ZERO }
    }

    fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        let Self { since, slot: _, transactions: _, current: _, gas: _, struck: _ } = self;
        visit(Kept::moves(since, None));
    }
}

/// The scheduler's record of one live shard. Each incarnation starts a new one.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    pub(super) incarnation: Incarnation,
    pub(super) slots: u16,
    pub(super) state: Option<StateRef>,
    pub(super) draining: bool,
    pub(super) heard_at: Duration,
    /// The arrival time of its last heartbeat.
    pub(super) beat_at: Duration,
    /// Another process that asks for its place, and since when.
    challenged: Option<(Incarnation, Duration)>,
    pub(super) watches: BTreeMap<SlotIndex, SlotWatch>,
    pub(super) retired: BTreeSet<SlotIndex>,
    /// The shard rests after a refusal: it gets no work before this time.
    pub(super) rests_until: Duration,
    /// The shard's work was overdue: it gets no new work until it answers or is idle, or until this time.
    pub(super) late_until: Duration,
    /// The last time that it became late with work, or its arrival.
    pub(super) late_at: Duration,
    /// It was late, and heartbeats have shown it idle since. It has not answered yet.
    idle_after_late: bool,
    /// The number of failures in a row.
    pub(super) failures: u32,
    /// The number of its sound results that were used or that agreed with another.
    pub(super) results: u64,
    /// The assignments that it holds.
    pub(super) outstanding: BTreeMap<AssignmentId, WorkItem>,
    /// The assignments that its slots should have begun, with the time: the oldest that it holds, one for
    /// each slot.
    pub(super) begun: BTreeMap<AssignmentId, Duration>,
    /// The suspect that it runs alone; it gets nothing else meanwhile.
    pub(super) alone_with: Option<AssignmentId>,
    /// Whether heartbeats had shown it idle when it was assigned that suspect. Only then is it clear which
    /// work killed the shard if it dies.
    pub(super) was_idle: bool,
    /// The number of heartbeats in a row that show nothing in flight while the scheduler has nothing in
    /// flight there.
    pub(super) quiet_beats: u32,
}

impl Shard {
    pub(super) fn new(incarnation: Incarnation, slots: u16, now: Duration) -> Self {
        Self {
            incarnation,
            slots: slots.max(1),
            state: None,
            draining: false,
            heard_at: now,
            beat_at: now,
            challenged: None,
            watches: BTreeMap::new(),
            retired: BTreeSet::new(),
            rests_until: now,
            late_until: now,
            late_at: now,
            idle_after_late: false,
            failures: 0,
            results: 0,
            outstanding: BTreeMap::new(),
            begun: BTreeMap::new(),
            alone_with: None,
            was_idle: false,
            quiet_beats: 0,
        }
    }

    /// Shows `visit` every time that is kept of the shard.
    pub(super) fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        let Self {
            heard_at,
            beat_at,
            challenged,
            watches,
            rests_until,
            late_until,
            late_at,
            begun,
            idle_after_late: _,
            incarnation: _,
            slots: _,
            state: _,
            draining: _,
            retired: _,
            failures: _,
            results: _,
            outstanding: _,
            alone_with: _,
            was_idle: _,
            quiet_beats: _,
        } = self;
        visit(Kept { time: heard_at, pause: Pause::MovesButOneTick, due: None });
        // These two are compared with each other only.
        visit(Kept::stays(beat_at, None));
        if let Some((_, since)) = challenged {
            visit(Kept::stays(since, None));
        }
        for watch in watches.values_mut() {
            watch.for_each_time(visit);
        }
        let rested = Some((*rests_until).max(*late_until));
        visit(Kept::stays(rests_until, rested));
        visit(Kept::stays(late_until, rested));
        // Compared with the times at which work was given.
        visit(Kept::moves(late_at, None));
        for begun in begun.values_mut() {
            visit(Kept::moves(begun, None));
        }
    }

    /// The number of slots that are not retired.
    pub(super) fn working_slots(&self) -> usize {
        usize::from(self.slots).saturating_sub(self.retired.len())
    }

    /// Whether all its working slots seem stuck: new work would only wait behind them.
    pub(super) fn is_stuck(&self) -> bool {
        let stuck = |watch: &&SlotWatch| watch.struck && !self.retired.contains(&watch.slot);
        self.watches.values().filter(stuck).count() >= self.working_slots()
    }

    /// Applies a heartbeat; returns the retired slots that move again. A long gap before the heartbeat says
    /// nothing about the slots: the whole process, or the network to it, stood still.
    pub(super) fn beat(
        &mut self,
        now: Duration,
        slots: &[SlotProgress],
        queued: u32,
        usual_gap: Duration,
    ) -> Vec<SlotIndex> {
        let idle = queued == 0 && slots.iter().all(|slot| slot.current.is_none());
        self.quiet_beats =
            if idle && self.outstanding.is_empty() { self.quiet_beats.saturating_add(1) } else { 0 };
        // What it was late with, it no longer runs. Only an answer shows that its answers arrive, so the next time
        // that it is late its heartbeats count for nothing.
        if self.is_idle() && self.late_until > now && !self.idle_after_late {
            (self.late_until, self.idle_after_late) = (now, true);
        }
        let gap = now.saturating_sub(self.heard_at);
        let absence = if gap > usual_gap { gap } else { Duration::ZERO };
        self.heard_at = self.heard_at.max(now);
        self.beat_at = self.beat_at.max(now);
        let mut returned = Vec::new();
        // A shard cannot report more slots than it has offered.
        for report in slots.iter().filter(|report| report.slot.0 < self.slots) {
            let current = report.current.map(|(assignment, _)| assignment);
            let SlotProgress { slot, transactions, gas, .. } = *report;
            let fresh = SlotWatch { slot, transactions, current, gas: gas.0, since: now, struck: false };
            match self.watches.get_mut(&slot) {
                Some(watch) if (watch.transactions, watch.current) == (transactions, current) => {
                    watch.since = (watch.since + absence).min(now);
                }
                Some(watch) => {
                    *watch = fresh;
                    if self.retired.remove(&slot) {
                        returned.push(slot);
                    }
                }
                None => drop(self.watches.insert(slot, fresh)),
            }
        }
        returned
    }

    /// Whether the shard gets no work for now, after a refusal or because it is late.
    pub(super) fn rests_longer(&self, now: Duration) -> bool {
        self.rests_until > now || self.late_until > now
    }

    /// Whether the shard holds a state and is not about to leave.
    pub(super) fn is_in_service(&self) -> bool {
        !self.draining && self.state.is_some()
    }

    /// Notes that the shard has answered the assignment: a slot that ran it has gone on to something that no
    /// heartbeat has named yet.
    pub(super) fn has_answered(&mut self, now: Duration, assignment: &AssignmentId) {
        let retired = &self.retired;
        // A retired slot returns only with a heartbeat that shows that it has moved.
        let was_at = |watch: &&mut SlotWatch| {
            watch.current.as_ref() == Some(assignment) && !retired.contains(&watch.slot)
        };
        for watch in self.watches.values_mut().filter(was_at) {
            (watch.current, watch.since, watch.struck) = (None, now, false);
        }
    }

    /// Notes that the shard has answered with a result: it is not late any more.
    pub(super) fn is_in_time(&mut self, now: Duration) {
        (self.late_until, self.idle_after_late) = (self.late_until.min(now), false);
    }

    /// Whether a heartbeat has arrived since another process first asked for its place.
    pub(super) fn is_alive_since_challenged(&mut self, challenger: Incarnation, now: Duration) -> bool {
        match self.challenged.filter(|(known, _)| *known == challenger) {
            Some((_, since)) => self.beat_at > since,
            None => {
                self.challenged = Some((challenger, now));
                false
            }
        }
    }

    /// Whether enough heartbeats in a row show nothing in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.quiet_beats >= QUIET_BEATS
    }

    /// Whether heartbeats show a slot at this assignment.
    pub(super) fn is_at(&self, assignment: &AssignmentId) -> bool {
        self.watches.values().any(|watch| watch.current.as_ref() == Some(assignment))
    }

    /// Whether heartbeats show a slot at this assignment, for no longer than the transaction's gas allows.
    pub(super) fn is_busy_with(&self, assignment: &AssignmentId, limits: &ScheduleLimits) -> bool {
        let held = self.outstanding.get(assignment);
        self.watches.values().any(|watch| {
            let still = self.beat_at.saturating_sub(watch.since);
            watch.current.as_ref() == Some(assignment) && still <= watch.longest(held, limits)
        })
    }

    /// The assignments that the process may have begun: those that its heartbeats named, and the oldest ones,
    /// one for each slot, because its queue is in order of arrival.
    pub(super) fn started(&self) -> Vec<AssignmentId> {
        let mut held: Vec<AssignmentId> = self.outstanding.keys().copied().collect();
        held.sort_unstable_by_key(|assignment| assignment.attempt);
        let named = |assignment: &AssignmentId| self.is_at(assignment);
        let slots = self.working_slots().max(1);
        let oldest = held.iter().enumerate();
        oldest.filter(|(place, held)| *place < slots || named(held)).map(|(_, held)| *held).collect()
    }

    /// Whether every slot has stood still for longer than `limit`, and longer than the transaction that it
    /// runs may take.
    pub(super) fn stands_still(&self, now: Duration, limit: Duration, limits: &ScheduleLimits) -> bool {
        self.watches.values().all(|watch| {
            let held = watch.current.and_then(|current| self.outstanding.get(&current));
            now.saturating_sub(watch.since) > limit.max(watch.longest(held, limits))
        })
    }

    /// The number of slots that have run unwanted work, which cannot be stopped, for longer than `long`.
    fn occupied(&self, now: Duration, long: Duration) -> usize {
        let in_vain = |watch: &&SlotWatch| {
            let wanted = |current: &AssignmentId| self.outstanding.contains_key(current);
            watch.current.is_some_and(|current| !wanted(&current)) && now.saturating_sub(watch.since) > long
        };
        self.watches.values().filter(in_vain).count()
    }
}

/// The number of heartbeats in a row after which a shard that shows nothing in flight counts as idle. A
/// single one may have been sent before the last command arrived.
const QUIET_BEATS: u32 = 2;

/// More results than this say nothing more of a shard. Half as many are enough to be trusted with overdue work.
const MANY_RESULTS: u64 = 32;

/// What else a shard may do beside a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Anything but a suspect.
    Any,
    /// No assignment that is still wanted.
    Alone,
    /// Nothing at all, not even a cancelled assignment or one of an earlier coordinator: what happens then is
    /// evidence.
    Nothing,
}

/// The requirements on a shard for a piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) base: Option<StateRef>,
    pub(super) depth: usize,
    pub(super) now: Duration,
    /// How long a slot must have run unwanted work to count as busy.
    pub(super) long: Duration,
    /// The assignments of the shards that hold the work already.
    pub(super) holders: &'a [AssignmentId],
    pub(super) lost_by: Option<ShardId>,
    /// The shards that must not get work: in quarantine, or kept free for a suspect.
    pub(super) barred: &'a BTreeSet<ShardId>,
    /// What else the shard may do meanwhile.
    pub(super) company: Company,
}

impl<'a> Wanted<'a> {
    /// The requirements for this work, which no other shard holds, in any company.
    pub(super) fn of(
        work: &Work,
        now: Duration,
        limits: &ScheduleLimits,
        barred: &'a BTreeSet<ShardId>,
    ) -> Self {
        Self { lost_by: work.lost_by(), ..Self::with_base(work.item().base, now, limits, barred) }
    }

    /// The requirements for any work on this state.
    pub(super) fn with_base(
        base: Option<StateRef>,
        now: Duration,
        limits: &ScheduleLimits,
        barred: &'a BTreeSet<ShardId>,
    ) -> Self {
        Self {
            base,
            depth: limits.depth,
            now,
            long: limits.lost_after,
            holders: &[],
            lost_by: None,
            barred,
            company: Company::Any,
        }
    }
}

impl Wanted<'_> {
    /// Whether the shard could take the work now if it held nothing else.
    pub(super) fn fits(&self, id: ShardId, shard: &Shard) -> bool {
        !shard.rests_longer(self.now) && !shard.is_stuck() && self.suits(id, shard)
    }

    /// Whether the shard could take the work sooner or later.
    pub(super) fn suits(&self, id: ShardId, shard: &Shard) -> bool {
        !shard.draining
            && self.base.is_none_or(|base| shard.state == Some(base))
            // Work without a base fits any state of any world, but the shard must hold one.
            && shard.state.is_some()
            && shard.working_slots() > 0
            && !self.barred.contains(&id)
            && !self.holders.iter().any(|assignment| assignment.shard == id)
    }

    /// Whether the shard has room for the work beside what it holds.
    pub(super) fn has_room(&self, shard: &Shard) -> bool {
        match self.company {
            Company::Any => {
                shard.alone_with.is_none() && shard.outstanding.len() < self.depth * shard.working_slots()
            }
            Company::Alone => shard.outstanding.is_empty(),
            Company::Nothing => shard.outstanding.is_empty() && shard.is_idle(),
        }
    }
}

/// The shards that are alive.
#[derive(Debug, Clone, Default)]
pub(super) struct Shards {
    pub(super) alive: BTreeMap<ShardId, Shard>,
}

impl Shards {
    /// The shard, if it is alive with this incarnation.
    pub(super) fn get_mut(&mut self, shard: ShardId, incarnation: Incarnation) -> Option<&mut Shard> {
        self.alive.get_mut(&shard).filter(|known| known.incarnation == incarnation)
    }

    /// Removes the shard, if it is alive with this incarnation.
    pub(super) fn remove(&mut self, shard: ShardId, incarnation: Incarnation) -> Option<Shard> {
        self.get_mut(shard, incarnation)?;
        self.alive.remove(&shard)
    }

    /// Those of the shards that could take the work, now or when they have room, that have brought less than half as
    /// many results as the one that has brought most, and few in all. They are no help for work that is overdue: they
    /// may be silent too.
    pub(super) fn little_tried(&self, wanted: &Wanted<'_>) -> BTreeSet<ShardId> {
        let able = || self.alive.iter().filter(|(id, shard)| wanted.fits(**id, shard));
        let results = |shard: &Shard| shard.results.min(MANY_RESULTS);
        let most = able().map(|(_, shard)| results(shard)).max().unwrap_or_default();
        able().filter(|(_, shard)| results(shard) < most / 2).map(|(id, _)| *id).collect()
    }

    /// The shard that could take work now and has the fewest outstanding assignments per slot. Excludes
    /// shards that hold the work; the shard that has just lost it is the last choice.
    pub(super) fn choose(&self, wanted: &Wanted<'_>) -> Option<ShardId> {
        let able = self.alive.iter().filter(|(id, shard)| wanted.fits(**id, shard) && wanted.has_room(shard));
        // Compares a/b with c/d as a·d with c·b: exact, and no division.
        let best = able.min_by(|(left_id, left), (right_id, right)| {
            let load = |shard: &Shard| shard.outstanding.len() + shard.occupied(wanted.now, wanted.long);
            let a = load(left) * right.working_slots();
            let b = load(right) * left.working_slots();
            let lost = |id: &ShardId| wanted.lost_by == Some(*id);
            lost(left_id).cmp(&lost(right_id)).then(a.cmp(&b)).then(left_id.cmp(right_id))
        });
        best.map(|(id, _)| *id)
    }

    /// The shard to keep free for work that must run alone: the one with the fewest outstanding assignments.
    pub(super) fn to_be_freed(&self, wanted: &Wanted<'_>) -> Option<ShardId> {
        let able = self.alive.iter().filter(|(id, shard)| wanted.fits(**id, shard));
        let key = |id: ShardId, shard: &Shard| (wanted.lost_by == Some(id), shard.outstanding.len(), id);
        able.min_by_key(|(id, shard)| key(**id, shard)).map(|(id, _)| *id)
    }
}
