//! The books of open work: each piece with its assignments and its evidence, the rounds that the pieces belong
//! to, and the control. The methods here answer questions about one entry; the other modules decide.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, RoundId, WorkId};

use super::evidence::Suspicion;
use super::kept::{Kept, Visit};
use super::{ScheduleLimits, WorkClass, WorkItem};

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
    pub(super) item: WorkItem,
    pub(super) round: RoundId,
    pub(super) tries: u32,
    /// Assignments that may still bring its result.
    pub(super) live: Vec<Live>,
    /// The last assignment that brought no result, until another shard gets the work.
    pub(super) lost_by: Option<AssignmentId>,
    /// The work is overdue: another shard must get it too.
    pub(super) duplicate: bool,
    /// The result that the scheduler uses while the work waits to be verified.
    pub(super) first: Option<First>,
    /// The work is a suspect: it may kill the process that runs it.
    pub(super) suspicion: Option<Suspicion>,
    /// The reason of the last failure.
    pub(super) complaint: Option<String>,
    /// No shard gets the work before this time. Several shards were lost at once, and only a try apart from
    /// those losses shows whether this work killed them.
    pub(super) rests_until: Duration,
    /// The count of processes and worker threads that ended with the work begun, whether or not many ended at
    /// once. It is no evidence against the work, but it is reason enough to keep it out of the coordinator's
    /// own process.
    pub(super) deaths: u32,
    /// The work cannot be cut into single transactions.
    pub(super) indivisible: bool,
}

impl Work {
    pub(super) fn new(item: WorkItem, round: RoundId) -> Self {
        Self {
            item,
            round,
            tries: 0,
            live: Vec::new(),
            lost_by: None,
            duplicate: false,
            first: None,
            suspicion: None,
            complaint: None,
            rests_until: Duration::ZERO,
            deaths: 0,
            indivisible: false,
        }
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
            duplicate: _,
            first: _,
            complaint: _,
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

    /// Whether the work is one transaction that runs alone because it may kill.
    pub(super) fn is_isolated(&self) -> bool {
        self.item.transactions <= 1 && self.suspicion.is_some()
    }

    /// Whether the scheduler can search the work for the transaction that kills, by cutting it.
    pub(super) fn can_be_searched(&self) -> bool {
        let whole = self.item.transactions > 1 && !self.indivisible;
        whole && self.deaths > 0 && self.first.is_none() && self.item.class == WorkClass::Execute
    }

    pub(super) fn holders(&self) -> Vec<AssignmentId> {
        self.live.iter().map(|live| live.assignment).collect()
    }

    pub(super) fn holds(&self, assignment: &AssignmentId) -> bool {
        self.live.iter().any(|live| live.assignment == *assignment)
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
}

/// One pass over one block.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// The work that is not done, in order of preference.
    pub(super) open: Vec<WorkId>,
    /// The work that is being cut; the round cannot finish without it.
    pub(super) cutting: BTreeSet<WorkId>,
    /// Since when no shard could take any of its open work; `None` if one can.
    pub(super) stranded_since: Option<Duration>,
    /// Since when it has had nothing in flight and unverified work; `None` if that is not so.
    pub(super) unverified_since: Option<Duration>,
    /// The number of controls made in this round.
    pub(super) controls: u32,
    pub(super) block: B256,
}

impl Round {
    /// Shows `visit` every time that is kept of the round.
    pub(super) fn for_each_time(&mut self, limits: &ScheduleLimits, visit: &mut Visit<'_>) {
        let Self { stranded_since, unverified_since, open: _, cutting: _, controls: _, block: _ } = self;
        if let Some(since) = stranded_since {
            visit(Kept::moves(since, None));
        }
        if let Some(since) = unverified_since {
            let due = *since + limits.overdue_floor + Duration::from_nanos(1);
            visit(Kept::moves(since, Some(due)));
        }
    }
}

/// Finished work that a shard does once more, only to show whether the fleet is healthy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control {
    pub(super) assignment: AssignmentId,
    pub(super) since: Duration,
}

impl Control {
    /// Shows `visit` the time that is kept of the control.
    pub(super) fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        let Self { since, assignment: _ } = self;
        visit(Kept::moves(since, None));
    }
}
