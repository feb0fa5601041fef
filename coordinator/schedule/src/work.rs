//! A piece of open work: its assignments, how it is verified, and the evidence against it.
//!
//! A piece changes only through the methods here, each of which is one thing that happens to it. The other modules
//! decide when, and what follows.

use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, WorkId};

use super::evidence::{Evidence, Suspicion};
use super::kept::{Kept, Visit};
use super::{WorkClass, WorkItem};

/// The number of deaths with verified work begun from which trusted code must not run it.
pub(super) const DEADLY: u32 = 2;

/// The result of verified work that the scheduler uses already.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    pub(super) assignment: AssignmentId,
    pub(super) digest: Option<B256>,
    /// Whether trusted code verifies it now.
    pub(super) checking: bool,
    /// The count of shards that died with the work begun. It starts at `DEADLY` if the work had killed
    /// before.
    pub(super) deaths: u32,
}

/// One assignment that may still bring a result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) assignment: AssignmentId,
    pub(super) since: Duration,
    /// Whether the shard has acknowledged the assignment.
    pub(super) accepted: bool,
}

/// A piece of work that is not done.
#[derive(Debug, Clone)]
pub(super) struct Work {
    item: WorkItem,
    round: RoundId,
    /// The number of assignments that were made of it and begun.
    tries: u32,
    /// Assignments that may still bring its result.
    live: Vec<Live>,
    /// The last assignment that brought no result, until another shard gets the work.
    lost_by: Option<AssignmentId>,
    /// The only assignment takes too long: another shard must get the work too.
    overdue: bool,
    /// The result that the scheduler uses while the work waits to be verified.
    first: Option<First>,
    /// The work is a suspect: it may kill the process that runs it.
    suspicion: Option<Suspicion>,
    /// The reason of the last failure.
    complaint: Option<String>,
    /// The first shard that has called the command invalid.
    hopeless_to: Option<ShardId>,
    /// No shard gets the work before this time. Several shards were lost at once, and only a try apart from
    /// those losses shows whether this work killed them.
    rests_until: Duration,
    /// The count of processes and worker threads that ended with the work begun, whether or not many ended at
    /// once. It is no evidence against the work, but it is reason enough to keep it out of the coordinator's
    /// own process.
    deaths: u32,
    /// The work cannot be cut into single transactions.
    indivisible: bool,
}

/// What a piece of work is, and what is known of it.
impl Work {
    pub(super) fn new(item: WorkItem, round: RoundId) -> Self {
        Self {
            item,
            round,
            tries: 0,
            live: Vec::new(),
            lost_by: None,
            overdue: false,
            first: None,
            suspicion: None,
            complaint: None,
            hopeless_to: None,
            rests_until: Duration::ZERO,
            deaths: 0,
            indivisible: false,
        }
    }

    /// A piece of a suspect that was cut. The piece is a suspect too, because it may hold the transaction that
    /// kills; tries at the whole do not count against it.
    pub(super) fn cut_from(whole: &Self, part: WorkItem, now: Duration) -> Self {
        let held_until = whole.suspicion.as_ref().map_or(now, Suspicion::held_until);
        let item = WorkItem { verify: whole.item.verify, ..part };
        let suspicion = Some(Suspicion::new(now, held_until, true));
        Self { deaths: whole.deaths, suspicion, ..Self::new(item, whole.round) }
    }

    /// Shows `visit` every time that is kept of the work. `overdue` is when another shard must get it too.
    pub(super) fn for_each_time(&mut self, overdue: Option<Duration>, visit: &mut Visit<'_>) {
        let Self {
            live,
            suspicion,
            rests_until,
            item: _,
            round: _,
            tries: _,
            lost_by: _,
            overdue: _,
            first: _,
            complaint: _,
            hopeless_to: _,
            deaths: _,
            indivisible: _,
        } = self;
        let is_assigned = !live.is_empty();
        for Live { since, assignment: _, accepted: _ } in live {
            visit(Kept::moves(since, overdue));
        }
        if let Some(suspicion) = suspicion {
            suspicion.for_each_time(is_assigned, visit);
        }
        visit(Kept::stays(rests_until, None));
    }

    pub(super) fn id(&self) -> WorkId {
        self.item.id
    }

    pub(super) fn item(&self) -> &WorkItem {
        &self.item
    }

    pub(super) fn round(&self) -> RoundId {
        self.round
    }

    /// The number of assignments that were made of it and begun.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// The assignments that may still bring its result.
    pub(super) fn live(&self) -> &[Live] {
        &self.live
    }

    pub(super) fn holders(&self) -> Vec<AssignmentId> {
        self.live.iter().map(|live| live.assignment).collect()
    }

    pub(super) fn is_assigned(&self) -> bool {
        !self.live.is_empty()
    }

    pub(super) fn held_as(&self, assignment: &AssignmentId) -> Option<&Live> {
        self.live.iter().find(|live| live.assignment == *assignment)
    }

    pub(super) fn holds(&self, assignment: &AssignmentId) -> bool {
        self.held_as(assignment).is_some()
    }

    /// The shard whose assignment was the last that brought no result, until another shard gets the work.
    pub(super) fn lost_by(&self) -> Option<ShardId> {
        self.lost_by.map(|lost| lost.shard)
    }

    /// Whether its assignment takes so long that another shard must get it too.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue
    }

    /// The result that the scheduler uses while the work waits to be verified.
    pub(super) fn first(&self) -> Option<First> {
        self.first
    }

    /// The reason of the last failure.
    pub(super) fn complaint(&self) -> Option<&str> {
        self.complaint.as_deref()
    }

    /// No shard gets the work before this time.
    pub(super) fn rests_until(&self) -> Duration {
        self.rests_until
    }

    /// The suspicion against the work, if it may kill the process that runs it.
    pub(super) fn suspicion(&self) -> Option<&Suspicion> {
        self.suspicion.as_ref()
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspicion.is_some()
    }

    /// Whether the work is one transaction that runs alone because it may kill.
    pub(super) fn is_isolated(&self) -> bool {
        self.item.transactions <= 1 && self.is_suspect()
    }

    /// Whether the scheduler can search the work for the transaction that kills, by cutting it.
    pub(super) fn can_be_searched(&self) -> bool {
        let whole = self.item.transactions > 1 && !self.indivisible;
        whole && self.deaths > 0 && self.first.is_none() && self.item.class == WorkClass::Execute
    }

    /// The time until which a suspect waits for the judgement of its last death; `None` if it is no suspect
    /// or is assigned.
    pub(super) fn held_until(&self) -> Option<Duration> {
        self.suspicion.as_ref().filter(|_| self.live.is_empty()).map(Suspicion::held_until)
    }

    /// Whether trusted code verifies the work now.
    pub(super) fn is_checked(&self) -> bool {
        self.first.is_some_and(|first| first.checking)
    }

    /// Whether deaths of shards give reason to expect that the work kills.
    pub(super) fn may_kill(&self) -> bool {
        let killed = self.suspicion.as_ref().is_some_and(Suspicion::has_killed);
        killed || self.deaths >= DEADLY || self.first.is_some_and(|first| first.deaths >= DEADLY)
    }

    /// Whether trusted code may run the work.
    pub(super) fn may_be_checked(&self) -> bool {
        let calm = self.suspicion.is_none();
        self.first.is_some_and(|first| calm && !first.checking && first.deaths < DEADLY)
    }

    /// Whether shards have tried the work `most` times, and neither a shard nor trusted code has it or may get it.
    pub(super) fn is_spent(&self, most: u32) -> bool {
        !self.is_assigned() && self.tries >= most && !self.may_be_checked() && !self.is_checked()
    }
}

/// What happens to its assignments.
impl Work {
    /// A shard gets the work. Returns the assignment that this one follows or helps.
    pub(super) fn assign(&mut self, assignment: AssignmentId, now: Duration) -> Option<AssignmentId> {
        let holder = self.live.first().map(|live| live.assignment);
        self.tries += 1;
        self.overdue = false;
        self.live.push(Live { assignment, since: now, accepted: false });
        self.lost_by.take().or(holder)
    }

    /// The shard has acknowledged the assignment.
    pub(super) fn accept(&mut self, assignment: &AssignmentId) {
        if let Some(live) = self.live.iter_mut().find(|live| live.assignment == *assignment) {
            live.accepted = true;
        }
    }

    /// The assignment brings no result. If it was the only one, the work is open to all shards again.
    pub(super) fn release(&mut self, assignment: &AssignmentId) {
        if let Some(position) = self.live.iter().position(|live| live.assignment == *assignment) {
            self.live.swap_remove(position);
            if self.live.is_empty() {
                (self.lost_by, self.overdue) = (Some(*assignment), false);
            }
        }
    }

    /// The released assignment was refused by a busy shard, which never began it: it was no try.
    pub(super) fn uncount(&mut self) {
        self.tries = self.tries.saturating_sub(1);
        self.lost_by = None;
    }

    /// The released assignment failed for this reason.
    pub(super) fn complain(&mut self, reason: &str) {
        self.complaint = Some(reason.to_owned());
    }

    /// A shard has called the command invalid. Returns whether another one had before.
    pub(super) fn is_called_hopeless(&mut self, shard: ShardId) -> bool {
        *self.hopeless_to.get_or_insert(shard) != shard
    }

    /// The only assignment takes too long. Returns it.
    pub(super) fn becomes_overdue(&mut self) -> Option<Live> {
        self.overdue = true;
        self.live.first().copied()
    }

    /// No shard may get the work before this time.
    pub(super) fn rest(&mut self, until: Duration) {
        self.rests_until = until;
    }
}

/// How it is verified.
impl Work {
    /// A single result does not finish the work from now on.
    pub(super) fn must_be_verified(&mut self) {
        self.item.verify = true;
    }

    /// The scheduler uses this result, and the work waits to be verified. Returns the other assignments of the same
    /// shard, which no longer count: a shard does not confirm itself.
    pub(super) fn use_first(&mut self, assignment: AssignmentId, digest: Option<B256>) -> Vec<AssignmentId> {
        let killed = self.suspicion.take().is_some_and(|suspicion| suspicion.has_killed());
        let deaths = if killed { DEADLY } else { 0 };
        self.first = Some(First { assignment, digest, checking: false, deaths });
        (self.lost_by, self.overdue, self.complaint) = (None, false, None);
        let own = |live: &mut Live| live.assignment.shard == assignment.shard;
        let own = self.live.extract_if(.., own).map(|own| own.assignment);
        own.filter(|own| *own != assignment).collect()
    }

    /// The assignment has brought a further result.
    pub(super) fn answered_by(&mut self, assignment: &AssignmentId) {
        self.live.retain(|live| live.assignment != *assignment);
    }

    /// Trusted code verifies the first result from now on. Returns the assignments, none of which counts any longer;
    /// `None` if there is no result.
    pub(super) fn leave_to_trusted_code(&mut self) -> Option<Vec<AssignmentId>> {
        self.first.as_mut()?.checking = true;
        self.overdue = false;
        Some(std::mem::take(&mut self.live).into_iter().map(|live| live.assignment).collect())
    }

    /// Counts a death, unless `many` shards were lost at once, against work that another shard had done before.
    /// Returns whether the death is excused.
    pub(super) fn excuses_death(&mut self, many: bool) -> bool {
        self.first.as_mut().is_some_and(|first| {
            first.deaths += u32::from(!many);
            first.deaths < DEADLY
        })
    }
}

/// The evidence that it kills the process that runs it.
impl Work {
    /// A process or a worker thread has ended with the work begun.
    pub(super) fn count_death(&mut self) {
        self.deaths += 1;
    }

    /// The work is a suspect from now on, if it was none.
    pub(super) fn suspect(&mut self, now: Duration) {
        self.suspicion.get_or_insert_with(|| Suspicion::new(now, now, false));
    }

    /// A shard has died that held nothing but this work. The work is held until the death can be judged.
    pub(super) fn has_killed(&mut self, held_until: Duration, now: Duration) {
        let suspicion = self.suspicion.get_or_insert_with(|| Suspicion::new(now, now, true));
        suspicion.has_killed_at(held_until);
    }

    /// The death of the assignment's shard is evidence: nothing else was in flight there.
    pub(super) fn note_death(&mut self, evidence: &Evidence, assignment: &AssignmentId, now: Duration) {
        if let Some(suspicion) = &mut self.suspicion {
            evidence.note_death(suspicion, assignment, now);
        }
    }

    /// Removes the deaths of a process that has not ended.
    pub(super) fn retract(&mut self, shard: ShardId, incarnation: Incarnation) {
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.retract(shard, incarnation);
        }
    }

    /// Clears the work, and lets it rest for a window, if only the first of several losses at once made it a suspect.
    pub(super) fn acquit(&mut self, window: Duration, now: Duration) {
        if self.suspicion.take_if(|suspicion| suspicion.may_be_chance(window, now)).is_some() {
            self.rest(now + window + Duration::from_nanos(1));
        }
    }

    /// Judges the deaths whose blame window has passed. Returns whether the work is proven to kill.
    pub(super) fn judge(&mut self, evidence: &Evidence, window: Duration, now: Duration) -> bool {
        self.suspicion.as_mut().is_some_and(|suspicion| evidence.judge(suspicion, window, now))
    }

    /// Notes that the work cannot be cut.
    pub(super) fn cannot_be_cut(&mut self) {
        self.indivisible = true;
    }
}
