//! Verified work: done when two shards agree on its result, or trusted code has confirmed it.
//!
//! The scheduler uses the first result at once, so that validation goes on; the work and its round stay open.
//! A second shard, never the same one, gets the work only when no shard can take unassigned work of the
//! round. If there is no second shard, or none brings a result within the bounds, [`Command::Check`] asks for
//! trusted code. Trusted code also decides between results that differ.
//!
//! From here, work that may kill its process never comes to trusted code. One death is excused, because a
//! shard did the work and survived; a second one is not.

use alloy_primitives::B256;
use common::id::{AssignmentId, RoundId, WorkId};

use super::Command;
use super::machine::Scheduler;
use super::never::never;
use super::turn::Turn;
use super::work::Work;

/// The round, the first result and its digest of some work.
type Reference = (RoundId, AssignmentId, Option<B256>);

impl Scheduler {
    /// Handles the first result of verified work: the scheduler uses it, and the work stays open.
    pub(super) fn first_of_two(&mut self, assignment: AssignmentId, digest: Option<B256>, turn: &mut Turn) {
        let Some(work) = self.work.get_mut(&assignment.work) else {
            return never!("{assignment} brought the first result of work that is not open");
        };
        for own in work.use_first(assignment, digest) {
            self.forget(&own);
            self.spare(&own, turn);
            turn.order(Command::Cancel(own));
        }
        // A shard on probation is judged when this result is verified.
        self.strikes.deliver(&assignment, digest);
    }

    /// Handles a further result of verified work, from a shard that is not in quarantine.
    pub(super) fn second_of_two(&mut self, assignment: AssignmentId, digest: Option<B256>, turn: &mut Turn) {
        let Some(known) = self.unverified(&assignment) else {
            return never!("{assignment} brought a second result of work that has no first");
        };
        let (_, first, reference) = known;
        if first == assignment {
            return;
        }
        self.learn_from(turn.now(), &assignment);
        // A shard on probation is judged when the work is verified.
        self.strikes.deliver(&assignment, digest);
        if let Some(work) = self.work.get_mut(&assignment.work) {
            work.answered_by(&assignment);
        }
        let equal = self.compare(assignment, digest, Some(known), turn);
        let known = reference.is_some() && digest.is_some();
        let checked = self.work.get(&assignment.work).is_some_and(Work::is_checked);
        if equal && known && !checked && first.shard != assignment.shard {
            self.counters.verified += 1;
            self.close(first, reference, true, turn);
        }
    }

    /// The first result of work that is not verified yet.
    pub(super) fn unverified(&self, assignment: &AssignmentId) -> Option<Reference> {
        let work = self.work.get(&assignment.work)?;
        work.first().map(|first| (work.round(), first.assignment, first.digest))
    }

    /// Compares a result with the first. Returns false if they differ: then trusted code decides.
    pub(super) fn compare(
        &mut self,
        second: AssignmentId,
        digest: Option<B256>,
        known: Option<Reference>,
        turn: &mut Turn,
    ) -> bool {
        let Some((round, first, Some(one))) = known else { return true };
        let Some(other) = digest.filter(|_| first != second) else { return true };
        if one == other {
            self.counters.equal_results += 1;
            return true;
        }
        self.counters.disagreements += 1;
        let work = second.work;
        turn.order(Command::Disagreement { work, round, first, second, digests: [one, other] });
        self.settle(&work, turn);
        false
    }

    /// Asks for trusted code, because no second shard can verify the work.
    pub(super) fn check(&mut self, id: WorkId, turn: &mut Turn) {
        let Some((work, first)) = self.work.get(&id).and_then(|work| Some((work, work.first()?))) else {
            return never!("work {id} has no result that trusted code could check");
        };
        turn.order(Command::Check { work: id, round: work.round(), first: first.assignment });
        self.settle(&id, turn);
    }

    /// Leaves the work to trusted code: cancels the assignments of all shards.
    fn settle(&mut self, id: &WorkId, turn: &mut Turn) {
        // The work may be done: then its result only turned out to be disputed.
        let Some(work) = self.work.get_mut(id) else { return };
        let Some(assignments) = work.leave_to_trusted_code() else {
            return never!("work {id} is disputed and has no result");
        };
        for assignment in assignments {
            self.forget(&assignment);
            turn.order(Command::Cancel(assignment));
        }
    }

    /// Handles the result of trusted code: later results are compared with it.
    pub(super) fn checked(&mut self, id: &WorkId, digest: B256, turn: &mut Turn) {
        let first = self.work.get(id).and_then(Work::first).filter(|first| first.checking);
        if let Some(first) = first {
            self.counters.checked += 1;
            self.close(first.assignment, Some(digest), true, turn);
        } else if self.done.correct(id, digest) {
            self.counters.checked += 1;
        }
    }
}
