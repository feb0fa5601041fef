//! The scheduler's picture of its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::id::{AssignmentId, Incarnation, ShardId, SlotIndex, StateRef};
use common::message::SlotProgress;

use super::rounds::Work;
use super::{ScheduleLimits, WorkItem};

/// One slot, as heartbeats show it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotWatch {
    pub(super) slot: SlotIndex,
    pub(super) transactions: u64,
    pub(super) current: Option<AssignmentId>,
    /// The gas limit of the transaction that it is at, as the shard says.
    gas: u64,
    /// Since when it stands there.
    pub(super) since: Duration,
    pub(super) struck: bool,
}

impl SlotWatch {
    /// How long it may stand there until it is stuck. `held` is what the scheduler knows
    /// of the work: a shard cannot claim more gas than that has.
    pub(super) fn longest(&self, held: Option<&WorkItem>, limits: &ScheduleLimits) -> Duration {
        let gas = held.map_or(self.gas, |item| item.heaviest.min(self.gas));
        if self.current.is_some() { limits.stuck_floor + limits.longest(gas) } else { Duration::ZERO }
    }
}

/// One shard.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    pub(super) incarnation: Incarnation,
    pub(super) slots: u16,
    pub(super) state: Option<StateRef>,
    pub(super) draining: bool,
    pub(super) heard_at: Duration,
    /// When its last heartbeat arrived.
    pub(super) beat_at: Duration,
    /// Another process that wants its place, and since when.
    challenged: Option<(Incarnation, Duration)>,
    pub(super) watches: Vec<SlotWatch>,
    pub(super) retired: BTreeSet<SlotIndex>,
    /// After a refusal it is left alone until then.
    pub(super) rests_until: Duration,
    /// Its work was overdue: it gets nothing new until it answers, or until then.
    pub(super) late_until: Duration,
    /// Failures in a row.
    pub(super) failures: u32,
    /// What it holds.
    pub(super) outstanding: BTreeMap<AssignmentId, WorkItem>,
    /// What its slots should be at, and since when: the oldest of what it holds, one for each slot.
    pub(super) begun: BTreeMap<AssignmentId, Duration>,
    /// A suspect, beside which it gets nothing.
    pub(super) alone_with: Option<AssignmentId>,
    /// Whether heartbeats had shown it idle when it was given that suspect: if it dies, only then is
    /// it clear what it died of.
    pub(super) was_idle: bool,
    /// Heartbeats in a row that show nothing under way, while nothing should be.
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
            watches: Vec::new(),
            retired: BTreeSet::new(),
            rests_until: now,
            late_until: now,
            failures: 0,
            outstanding: BTreeMap::new(),
            begun: BTreeMap::new(),
            alone_with: None,
            was_idle: false,
            quiet_beats: 0,
        }
    }

    /// Slots that can still work.
    pub(super) fn working_slots(&self) -> usize {
        usize::from(self.slots).saturating_sub(self.retired.len())
    }

    /// Whether its slots are all stuck, as it seems: new work would only wait behind them.
    pub(super) fn is_stuck(&self) -> bool {
        let stuck = |watch: &&SlotWatch| watch.struck && !self.retired.contains(&watch.slot);
        self.watches.iter().filter(stuck).count() >= self.working_slots()
    }

    /// Takes up a heartbeat; the retired slots that move again. A long gap before it says nothing about
    /// the slots: the whole process, or the way to it, stood still.
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
        let gap = now.saturating_sub(self.heard_at);
        let absence = if gap > usual_gap { gap } else { Duration::ZERO };
        self.heard_at = self.heard_at.max(now);
        self.beat_at = self.beat_at.max(now);
        let mut returned = Vec::new();
        for report in slots.iter().take(usize::from(self.slots)) {
            let current = report.current.map(|(assignment, _)| assignment);
            let SlotProgress { slot, transactions, gas, .. } = *report;
            let fresh = SlotWatch { slot, transactions, current, gas: gas.0, since: now, struck: false };
            match self.watches.iter_mut().find(|watch| watch.slot == slot) {
                Some(watch) if (watch.transactions, watch.current) == (transactions, current) => {
                    watch.since = (watch.since + absence).min(now);
                }
                Some(watch) => {
                    *watch = fresh;
                    if self.retired.remove(&slot) {
                        returned.push(slot);
                    }
                }
                None => self.watches.push(fresh),
            }
        }
        returned
    }

    /// Takes up that the shard has answered for this assignment: a slot that was at it has gone on, to
    /// what no heartbeat has named yet.
    pub(super) fn has_answered(&mut self, now: Duration, assignment: &AssignmentId) {
        let retired = &self.retired;
        // A retired slot returns with the heartbeat that shows that it has moved.
        let was_at = |watch: &&mut SlotWatch| {
            watch.current.as_ref() == Some(assignment) && !retired.contains(&watch.slot)
        };
        for watch in self.watches.iter_mut().filter(was_at) {
            (watch.current, watch.since, watch.struck) = (None, now, false);
        }
    }

    /// Whether its heartbeats have come since another process first asked for its place.
    pub(super) fn is_alive_since_challenged(&mut self, challenger: Incarnation, now: Duration) -> bool {
        match self.challenged.filter(|(known, _)| *known == challenger) {
            Some((_, since)) => self.beat_at > since,
            None => {
                self.challenged = Some((challenger, now));
                false
            }
        }
    }

    /// Whether its heartbeats show nothing under way, for long enough to be believed.
    pub(super) fn is_idle(&self) -> bool {
        self.quiet_beats >= QUIET_BEATS
    }

    /// Whether a slot is at this assignment, as heartbeats show it.
    pub(super) fn is_at(&self, assignment: &AssignmentId) -> bool {
        self.watches.iter().any(|watch| watch.current.as_ref() == Some(assignment))
    }

    /// What the process may have begun: what its heartbeats named, and, as its queue is in order of
    /// arrival, the oldest assignments, one for each slot.
    pub(super) fn started(&self) -> Vec<AssignmentId> {
        let mut held: Vec<AssignmentId> = self.outstanding.keys().copied().collect();
        held.sort_unstable_by_key(|assignment| assignment.attempt);
        let named = |assignment: &AssignmentId| self.is_at(assignment);
        let slots = self.working_slots().max(1);
        let oldest = held.iter().enumerate();
        oldest.filter(|(place, held)| *place < slots || named(held)).map(|(_, held)| *held).collect()
    }

    /// Whether nothing moves on it, and nothing has for longer than `limit` and than the transactions
    /// that its slots are at may take.
    pub(super) fn stands_still(&self, now: Duration, limit: Duration, limits: &ScheduleLimits) -> bool {
        self.watches.iter().all(|watch| {
            let held = watch.current.and_then(|current| self.outstanding.get(&current));
            now.saturating_sub(watch.since) > limit.max(watch.longest(held, limits))
        })
    }

    /// Slots that have been for long at what is not wanted any more, and cannot be stopped.
    fn occupied(&self, now: Duration, long: Duration) -> usize {
        let in_vain = |watch: &&SlotWatch| {
            let wanted = |current: &AssignmentId| self.outstanding.contains_key(current);
            watch.current.is_some_and(|current| !wanted(&current)) && now.saturating_sub(watch.since) > long
        };
        self.watches.iter().filter(in_vain).count()
    }
}

/// Heartbeats after which a shard that shows nothing under way is believed to be quiet: one may have
/// been on its way before the last command arrived.
const QUIET_BEATS: u32 = 2;

/// What else a shard may be doing beside a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Anything but a suspect.
    Any,
    /// Nothing that it was given and that is still wanted.
    Alone,
    /// Nothing at all, not even what was cancelled or is left from an earlier coordinator: what
    /// happens then is evidence.
    Nothing,
}

/// Which shard is wanted for a piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) base: Option<StateRef>,
    pub(super) depth: usize,
    pub(super) now: Duration,
    /// How long a slot must have been at what is not wanted any more to count as busy.
    pub(super) long: Duration,
    /// Who has it already.
    pub(super) holders: &'a [AssignmentId],
    pub(super) lost_by: Option<ShardId>,
    /// Who is not to get work: in quarantine, or kept free for a suspect.
    pub(super) barred: &'a BTreeSet<ShardId>,
    /// In which company it may be.
    pub(super) company: Company,
}

impl<'a> Wanted<'a> {
    /// A shard for this work, which nobody else has, in any company.
    pub(super) fn of(
        work: &Work,
        now: Duration,
        limits: &ScheduleLimits,
        barred: &'a BTreeSet<ShardId>,
    ) -> Self {
        let lost_by = work.lost_by.map(|lost| lost.shard);
        Self { lost_by, ..Self::with_base(work.item.base, now, limits, barred) }
    }

    /// A shard for any work on this state.
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
    /// Whether the shard could take it if it were not for what it holds.
    pub(super) fn fits(&self, id: ShardId, shard: &Shard) -> bool {
        let rested = shard.rests_until <= self.now && shard.late_until <= self.now;
        rested && !shard.is_stuck() && self.suits(id, shard)
    }

    /// Whether the shard could take it sooner or later, as things are.
    pub(super) fn suits(&self, id: ShardId, shard: &Shard) -> bool {
        !shard.draining
            && self.base.is_none_or(|base| shard.state == Some(base))
            // Without a base any state of any world will do, but there must be one.
            && shard.state.is_some()
            && shard.working_slots() > 0
            && !self.barred.contains(&id)
            && !self.holders.iter().any(|assignment| assignment.shard == id)
    }

    fn has_room(&self, shard: &Shard) -> bool {
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
    /// The shard, if it is alive and this is its life.
    pub(super) fn get_mut(&mut self, shard: ShardId, incarnation: Incarnation) -> Option<&mut Shard> {
        self.alive.get_mut(&shard).filter(|known| known.incarnation == incarnation)
    }

    /// The least busy shard that could take work now, by outstanding assignments per slot. None of
    /// those that have it; the one that has just lost it only if there is no other.
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

    /// The shard to keep free for work that has to run alone: the one with least to finish.
    pub(super) fn to_be_freed(&self, wanted: &Wanted<'_>) -> Option<ShardId> {
        let able = self.alive.iter().filter(|(id, shard)| wanted.fits(**id, shard));
        let key = |id: ShardId, shard: &Shard| (wanted.lost_by == Some(id), shard.outstanding.len(), id);
        able.min_by_key(|(id, shard)| key(**id, shard)).map(|(id, _)| *id)
    }
}
