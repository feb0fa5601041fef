//! Dispatch: assigns open work to shards that can take it. Suspects come first and run alone.

use std::collections::BTreeSet;
use std::time::Duration;

use common::id::{AssignmentId, RoundId, ShardId, WorkId};

use super::evidence::Suspicion;
use super::fleet::{Company, Shard, Wanted};
use super::machine::Scheduler;
use super::never::never;
use super::round::{Control, Round};
use super::turn::Turn;
use super::work::{First, Work};
use super::{Command, NoShards};

/// The outcome of the search for a shard that can verify work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// This shard can verify it now.
    Shard(ShardId),
    /// A shard exists that can verify it, but not now.
    Later,
    /// No shard can verify it.
    NoShard,
}

/// The standing of a round after its work was assigned.
#[derive(Debug, Clone, Copy, Default)]
struct Standstill {
    /// No shard could take some of its work.
    waits: bool,
    /// Some of its work is in flight, or the scheduler holds it back on purpose.
    moves: bool,
    /// Some of its work has a result, and no second shard could take it.
    unverified: bool,
}

impl Scheduler {
    /// Assigns open work to shards that can take it.
    pub(super) fn dispatch(&mut self, turn: &mut Turn) {
        self.expire_probations(turn);
        self.expire_control(turn.now());
        let mut barred = self.strikes.quarantined();
        let mut rounds = std::mem::take(&mut self.rounds);
        for (id, round) in &mut rounds {
            let mut standstill = Standstill::default();
            self.dispatch_suspects(*id, round, &mut barred, &mut standstill, turn);
            self.dispatch_round(round, &barred, &mut standstill, turn);
            self.dispatch_verifications(round, &barred, &mut standstill, turn);
            self.dispatch_probations(round, turn);
            let live = |id: &WorkId| self.work.get(id).is_some_and(Work::is_assigned);
            let moving = standstill.moves || round.open().iter().any(live) || round.is_cutting_any();
            // A stuck shard soon moves again or restarts.
            let stuck = |shard: &Shard| !shard.draining && shard.state.is_some() && shard.is_stuck();
            let moving = moving
                || self.shards.alive.values().any(stuck)
                || self.will_be_tried(round, &barred, turn.now());
            // A round is stranded if its work waits while none of it is in flight.
            round.note_standstill(standstill.waits && !moving, standstill.unverified && !moving, turn.now());
        }
        self.rounds = rounds;
    }

    /// Whether the policy is to fail without shards, and a shard that rests or is late will take work of the round. With
    /// the other policies such a shard has long had its rest when the wait for shards is over.
    fn will_be_tried(&self, round: &Round, barred: &BTreeSet<ShardId>, now: Duration) -> bool {
        let waiting = |id: &&WorkId| self.work.get(id).is_some_and(|work| !work.is_assigned());
        let Some(work) = round.open().iter().find(waiting).and_then(|id| self.work.get(id)) else {
            return false;
        };
        let wanted = Wanted::of(work, now, &self.limits, barred);
        let rests = |(id, shard): (&ShardId, &Shard)| shard.rests_longer(now) && wanted.suits(*id, shard);
        self.limits.when_no_shards == NoShards::Fail && self.shards.alive.iter().any(rests)
    }

    fn dispatch_round(
        &mut self,
        round: &Round,
        barred: &BTreeSet<ShardId>,
        standstill: &mut Standstill,
        turn: &mut Turn,
    ) {
        for id in round.open() {
            let Some(work) = self.work.get(id) else {
                never!("open work {id} is not known");
                continue;
            };
            let is_wanted = !work.is_assigned() || work.is_overdue();
            if !is_wanted || work.is_suspect() || work.first().is_some() {
                continue;
            }
            if work.rests_until() > turn.now() {
                standstill.moves = true;
                continue;
            }
            let spent = work.tries() >= self.limits.max_attempts;
            let holders = work.holders();
            let wanted = Wanted { holders: &holders, ..Wanted::of(work, turn.now(), &self.limits, barred) };
            let mut chosen = self.shards.choose(&wanted);
            if chosen.is_some() && work.is_overdue() && !self.waits_too_long(work, turn.now()) {
                let mut barred = self.shards.little_tried(&wanted);
                barred.extend(wanted.barred);
                chosen = self.shards.choose(&Wanted { barred: &barred, ..wanted });
            }
            let Some(shard) = chosen.filter(|_| !spent) else {
                if work.is_overdue() {
                    continue;
                }
                standstill.waits = true;
                // All work of a round has one base: if no shard can take this piece, none can take the next.
                break;
            };
            self.assign(*id, shard, false, turn);
        }
    }

    /// Assigns suspects, which run alone. If no shard is idle, keeps one free of other work.
    fn dispatch_suspects(
        &mut self,
        id: RoundId,
        round: &mut Round,
        barred: &mut BTreeSet<ShardId>,
        standstill: &mut Standstill,
        turn: &mut Turn,
    ) {
        let is_waiting = |work: &&Work| {
            !work.is_assigned() && work.is_suspect() && work.round() == id && !work.is_checked()
        };
        let suspects: Vec<Work> = round
            .open()
            .iter()
            .filter(|id| !round.is_cutting(id))
            .filter_map(|id| self.work.get(id))
            .filter(is_waiting)
            .cloned()
            .collect();
        for work in suspects {
            if work.held_until().is_some_and(|until| until > turn.now()) {
                standstill.moves = true;
                continue;
            }
            if self.wants_control(&work) && self.make_control(id, round, barred, standstill, turn) {
                continue;
            }
            let has_killed = work.suspicion().is_some_and(Suspicion::has_killed);
            let company = if has_killed { Company::Nothing } else { Company::Alone };
            let mut barred_here = barred.clone();
            barred_here.extend(work.first().map(|first| first.assignment.shard));
            self.bar_victims(turn.now(), &work, &mut barred_here);
            let wanted = Wanted { company, ..Wanted::of(&work, turn.now(), &self.limits, &barred_here) };
            if let Some(shard) = self.shards.choose(&wanted) {
                self.assign(work.id(), shard, true, turn);
            } else {
                standstill.waits = true;
                let freed = self.shards.to_be_freed(&wanted);
                barred.extend(freed);
            }
        }
    }

    /// Assigns work whose result is used but unverified to a second shard. The caller assigns the round's
    /// open work first: no shard can take now what is still unassigned, or the scheduler holds it back.
    fn dispatch_verifications(
        &mut self,
        round: &Round,
        barred: &BTreeSet<ShardId>,
        standstill: &mut Standstill,
        turn: &mut Turn,
    ) {
        let patience = self.limits.overdue_floor;
        let tired = round.unverified_since().is_some_and(|since| turn.now().saturating_sub(since) > patience);
        // If no shard has room for this work now, none will have room later in this pass.
        let mut full = BTreeSet::new();
        for id in round.open() {
            let Some(work) = self.work.get(id) else {
                never!("open work {id} is not known");
                continue;
            };
            let Some(first) = work.first() else { continue };
            standstill.moves |= first.checking;
            if first.checking || work.is_suspect() || (work.is_assigned() && !work.is_overdue()) {
                continue;
            }
            let key = (first.assignment.shard, work.lost_by());
            if full.contains(&key) && work.tries() < self.limits.max_attempts {
                standstill.unverified |= !work.is_assigned();
                continue;
            }
            match self.second_shard(turn.now(), work, &first, barred) {
                Second::Shard(shard) => self.assign(*id, shard, false, turn),
                _ if work.is_assigned() => {}
                Second::Later if !tired => {
                    full.insert(key);
                    standstill.unverified = true;
                }
                _ if work.may_be_checked() => {
                    standstill.moves = true;
                    self.check(*id, turn);
                }
                _ => standstill.waits = true,
            }
        }
    }

    /// The shard that can do the work a second time.
    fn second_shard(&self, now: Duration, work: &Work, first: &First, barred: &BTreeSet<ShardId>) -> Second {
        if work.tries() >= self.limits.max_attempts || first.digest.is_none() {
            return Second::NoShard;
        }
        // Never the same shard, whatever its incarnation. A shard that has just failed at the work gets it
        // only if no other shard is left.
        let mut others = barred.clone();
        others.insert(first.assignment.shard);
        if work.may_be_checked() {
            others.extend(work.lost_by());
        }
        let holders = work.holders();
        let wanted = Wanted { holders: &holders, ..Wanted::of(work, now, &self.limits, &others) };
        if let Some(shard) = self.shards.choose(&wanted) {
            return Second::Shard(shard);
        }
        // A shard that is kept free for a suspect is only busy, and a shard at another state may be on its
        // way.
        let mut others = self.strikes.quarantined();
        others.insert(first.assignment.shard);
        others.extend(work.lost_by());
        let wanted = Wanted { base: None, barred: &others, ..wanted };
        let able = self.shards.alive.iter().any(|(id, shard)| wanted.suits(*id, shard));
        if able { Second::Later } else { Second::NoShard }
    }

    /// Bars the shards that the suspect has already killed, because two deaths convict only on different
    /// shards. They stay eligible if no other shard will be able to take the suspect.
    fn bar_victims(&self, now: Duration, work: &Work, barred: &mut BTreeSet<ShardId>) {
        let Some(suspicion) = work.suspicion() else { return };
        let mut with_victims = barred.clone();
        with_victims.extend(suspicion.victims());
        let company = Company::Nothing;
        let wanted = Wanted { company, ..Wanted::of(work, now, &self.limits, &with_victims) };
        if self.shards.alive.iter().any(|(id, shard)| wanted.suits(*id, shard)) {
            *barred = with_victims;
        }
    }

    /// Assigns the work to the shard; `alone` if it gets nothing else meanwhile.
    pub(super) fn assign(&mut self, id: WorkId, shard: ShardId, alone: bool, turn: &mut Turn) {
        let Some(assignment) = self.next_assignment(id, shard) else {
            return never!("work {id} is assigned to shard {shard}, which is not alive");
        };
        let Some(work) = self.work.get_mut(&id) else {
            return never!("work {id} is assigned and not known");
        };
        if work.is_assigned() {
            self.counters.duplicated += 1;
        }
        let from = work.assign(assignment, turn.now());
        if let Some(from) =
            from.filter(|from| (from.shard, from.incarnation) != (shard, assignment.incarnation))
        {
            turn.order(Command::Reassigned { work: id, round: work.round(), from: from.shard });
        }
        let item = *work.item();
        if let Some(known) = self.shards.alive.get_mut(&shard) {
            let was_idle = known.is_idle();
            known.quiet_beats = 0;
            known.outstanding.insert(assignment, item);
            if alone {
                known.was_idle = was_idle;
                known.alone_with = Some(assignment);
            }
        }
        turn.order(Command::Dispatch(assignment));
    }

    /// Has a shard do finished work of the round once more. Returns false if that is not possible.
    fn make_control(
        &mut self,
        id: RoundId,
        round: &mut Round,
        barred: &BTreeSet<ShardId>,
        standstill: &mut Standstill,
        turn: &mut Turn,
    ) -> bool {
        let others = round.open().iter().filter_map(|id| self.work.get(id));
        let other_work = others.into_iter().any(|work| !work.is_suspect());
        if self.control.is_some() || other_work {
            // The work that is already in flight will show whether the fleet is healthy.
            standstill.moves |= self.control.is_some();
            standstill.waits |= self.control.is_none();
            return true;
        }
        let Some((work, done)) = self.done.any_of(id) else { return false };
        if round.controls() >= self.limits.max_attempts {
            return false;
        }
        let wanted = Wanted::with_base(done.item.base, turn.now(), &self.limits, barred);
        let Some(shard) = self.shards.choose(&wanted) else {
            standstill.waits = true;
            return true;
        };
        let Some(assignment) = self.next_assignment(work, shard) else {
            never!("a control is assigned to shard {shard}, which is not alive");
            return false;
        };
        round.count_control();
        standstill.moves = true;
        self.control = Some(Control { assignment, since: turn.now() });
        if let Some(known) = self.shards.alive.get_mut(&shard) {
            known.outstanding.insert(assignment, done.item);
        }
        turn.order(Command::Dispatch(assignment));
        true
    }

    pub(super) fn control_done(&mut self, assignment: &AssignmentId, fine: bool) {
        if self.control.take_if(|control| control.assignment == *assignment).is_some() && fine {
            self.evidence.note_health();
        }
    }

    fn expire_control(&mut self, now: Duration) {
        let done = self.control.and_then(|control| self.done.get(&control.assignment.work));
        let limit = self.limits.overdue_after
            + done.map_or(Duration::ZERO, |done| self.limits.longest(done.item.heaviest));
        if let Some(late) = self.control.take_if(|control| now.saturating_sub(control.since) > limit) {
            self.forget(&late.assignment);
        }
    }
}
