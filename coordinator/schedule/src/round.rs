//! A round, which is one pass over one block, and the control of finished work.
//!
//! A round changes only through the methods here; `rounds` and `dispatch` decide when.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, WorkId};

use super::kept::{Kept, Visit};
use super::{ScheduleLimits, WorkItem};

/// One pass over one block.
#[derive(Debug, Clone)]
pub(super) struct Round {
    block: B256,
    /// The work that is not done, in order of preference.
    open: Vec<WorkId>,
    /// The work that is being cut; the round cannot finish without it.
    cutting: BTreeSet<WorkId>,
    /// Since when no shard could take any of its open work; `None` if one can.
    stranded_since: Option<Duration>,
    /// Since when it has had nothing in flight and unverified work; `None` if that is not so.
    unverified_since: Option<Duration>,
    /// The number of controls made in this round.
    controls: u32,
}

impl Round {
    /// A round of this block with this work, in order of preference.
    pub(super) fn new(block: B256, open: Vec<WorkId>) -> Self {
        let cutting = BTreeSet::new();
        Self { block, open, cutting, stranded_since: None, unverified_since: None, controls: 0 }
    }

    /// Shows `visit` every time that is kept of the round.
    pub(super) fn for_each_time(&mut self, limits: &ScheduleLimits, visit: &mut Visit<'_>) {
        let Self { stranded_since, unverified_since, block: _, open: _, cutting: _, controls: _ } = self;
        if let Some(since) = stranded_since {
            visit(Kept::moves(since, None));
        }
        if let Some(since) = unverified_since {
            let due = *since + limits.overdue_floor + Duration::from_nanos(1);
            visit(Kept::moves(since, Some(due)));
        }
    }

    pub(super) fn block(&self) -> B256 {
        self.block
    }

    /// The work that is not done, in order of preference.
    pub(super) fn open(&self) -> &[WorkId] {
        &self.open
    }

    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty() && self.cutting.is_empty()
    }

    /// The work is done. Returns whether the round is.
    pub(super) fn close(&mut self, work: &WorkId) -> bool {
        self.open.retain(|open| open != work);
        self.is_done()
    }

    pub(super) fn is_cutting(&self, work: &WorkId) -> bool {
        self.cutting.contains(work)
    }

    /// Whether some of its work is being cut.
    pub(super) fn is_cutting_any(&self) -> bool {
        !self.cutting.is_empty()
    }

    /// Notes that the work is being cut. Returns false if that was known.
    pub(super) fn begin_cut(&mut self, work: WorkId) -> bool {
        self.cutting.insert(work)
    }

    /// The work has been cut, or cannot be. Returns false if it was not being cut.
    pub(super) fn end_cut(&mut self, work: &WorkId) -> bool {
        self.cutting.remove(work)
    }

    /// The parts take the place of the whole. Returns false if the whole is not open.
    pub(super) fn replace(&mut self, whole: &WorkId, parts: &[WorkItem]) -> bool {
        let place = self.open.iter().position(|open| open == whole);
        place.map(|place| self.open.splice(place..=place, parts.iter().map(|part| part.id))).is_some()
    }

    /// Notes whether the round stands still because no shard can take its work, and because none can verify it.
    pub(super) fn note_standstill(&mut self, stranded: bool, unverified: bool, now: Duration) {
        let since = |is: bool, since: Option<Duration>| if is { since.or(Some(now)) } else { None };
        self.stranded_since = since(stranded, self.stranded_since);
        self.unverified_since = since(unverified, self.unverified_since);
    }

    /// Since when no shard could take any of its open work.
    pub(super) fn stranded_since(&self) -> Option<Duration> {
        self.stranded_since
    }

    /// Since when it has had nothing in flight and unverified work.
    pub(super) fn unverified_since(&self) -> Option<Duration> {
        self.unverified_since
    }

    /// The number of controls made in this round.
    pub(super) fn controls(&self) -> u32 {
        self.controls
    }

    /// One more control is made.
    pub(super) fn count_control(&mut self) {
        self.controls += 1;
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
