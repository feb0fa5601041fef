//! Verified work: done when two shards agree about it, or trusted code with one.
//!
//! The first result is used at once, so that validation goes on; the work stays open, and its round
//! with it. A second shard, never the same one, gets it when nothing is left that nobody has. Where
//! there is no second shard, or none brings a result within the bounds, [`Command::Check`] asks for
//! trusted code, which also decides between results that differ.
//!
//! Work that may kill whoever runs it never comes to trusted code from here: one death is excused by
//! the shard that did the work and lived, a second is not.

use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, RoundId, WorkId};

use super::Command;
use super::machine::Scheduler;
use super::rounds::Work;
use super::suspects::Suspicion;

/// Deaths with verified work begun, from which on trusted code must not touch it.
const DEADLY: u32 = 2;

/// The result of verified work that is used already.
#[derive(Debug, Clone, Copy)]
pub(super) struct First {
    pub(super) assignment: AssignmentId,
    pub(super) digest: Option<B256>,
    /// Trusted code has it.
    pub(super) checking: bool,
    /// Shards that died with the work begun.
    deaths: u32,
}

/// The round, the first result and its digest of some work.
type Reference = (RoundId, AssignmentId, Option<B256>);

impl Work {
    /// Whether trusted code has it.
    pub(super) fn is_checked(&self) -> bool {
        self.first.is_some_and(|first| first.checking)
    }

    /// Whether shards have died with it in a way that speaks against it.
    pub(super) fn may_kill(&self) -> bool {
        let killed = self.suspicion.as_ref().is_some_and(Suspicion::has_killed);
        killed || self.deaths >= DEADLY || self.first.is_some_and(|first| first.deaths >= DEADLY)
    }

    /// Whether trusted code may have it.
    pub(super) fn may_be_checked(&self) -> bool {
        let calm = self.suspicion.is_none();
        self.first.is_some_and(|first| calm && !first.checking && first.deaths < DEADLY)
    }
}

impl Scheduler {
    /// The first result of verified work: it is used, and the work stays open.
    pub(super) fn first_of_two(
        &mut self,
        now: Duration,
        assignment: AssignmentId,
        digest: Option<B256>,
        commands: &mut Vec<Command>,
    ) {
        let Some(work) = self.work.get_mut(&assignment.work) else { return };
        let killed = work.suspicion.take().is_some_and(|suspicion: Suspicion| suspicion.has_killed());
        let deaths = if killed { DEADLY } else { 0 };
        work.first = Some(First { assignment, digest, checking: false, deaths });
        work.lost_by = None;
        work.duplicate = false;
        work.complaint = None;
        // A shard does not confirm itself.
        let (own, others): (Vec<_>, Vec<_>) =
            work.live.drain(..).partition(|live| live.assignment.shard == assignment.shard);
        work.live = others;
        for own in own.into_iter().filter(|own| own.assignment != assignment) {
            self.forget(&own.assignment);
            self.spare(now, &own.assignment, commands);
            commands.push(Command::Cancel(own.assignment));
        }
        self.stays_on_probation(&assignment, digest);
    }

    /// A further result of verified work, from a shard that is not in quarantine.
    pub(super) fn second_of_two(
        &mut self,
        now: Duration,
        assignment: AssignmentId,
        digest: Option<B256>,
        commands: &mut Vec<Command>,
    ) {
        let Some(known) = self.unverified(&assignment) else { return };
        let (_, first, reference) = known;
        if first == assignment {
            return;
        }
        self.learn_from(now, &assignment);
        if let Some(work) = self.work.get_mut(&assignment.work) {
            work.live.retain(|live| live.assignment != assignment);
        }
        let equal = self.compare(assignment, digest, Some(known), commands);
        let known = reference.is_some() && digest.is_some();
        let checked = self.work.get(&assignment.work).is_some_and(Work::is_checked);
        if equal && known && !checked && first.shard != assignment.shard {
            self.counters.verified += 1;
            self.close(now, first, reference, true, commands);
        }
    }

    /// What is known of work that is used and not verified yet.
    pub(super) fn unverified(&self, assignment: &AssignmentId) -> Option<Reference> {
        let work = self.work.get(&assignment.work)?;
        work.first.map(|first| (work.round, first.assignment, first.digest))
    }

    /// Compares a result with the first. False if they differ: then trusted code decides.
    pub(super) fn compare(
        &mut self,
        second: AssignmentId,
        digest: Option<B256>,
        known: Option<Reference>,
        commands: &mut Vec<Command>,
    ) -> bool {
        let Some((round, first, Some(one))) = known else { return true };
        let Some(other) = digest.filter(|_| first != second) else { return true };
        if one == other {
            self.counters.equal_results += 1;
            return true;
        }
        self.counters.disagreements += 1;
        let work = second.work;
        commands.push(Command::Disagreement { work, round, first, second, digests: [one, other] });
        self.settle(&work, commands);
        false
    }

    /// Asks for trusted code, as there is no second shard.
    pub(super) fn check(&mut self, id: WorkId, commands: &mut Vec<Command>) {
        let Some(work) = self.work.get(&id) else { return };
        let Some(first) = work.first else { return };
        commands.push(Command::Check { work: id, round: work.round, first: first.assignment });
        self.settle(&id, commands);
    }

    /// Trusted code has the work: nobody else need do it.
    fn settle(&mut self, id: &WorkId, commands: &mut Vec<Command>) {
        let Some(work) = self.work.get_mut(id) else { return };
        let Some(first) = &mut work.first else { return };
        first.checking = true;
        work.duplicate = false;
        for live in std::mem::take(&mut work.live) {
            self.forget(&live.assignment);
            commands.push(Command::Cancel(live.assignment));
        }
    }

    /// Trusted code has done the work: what comes yet is compared with that.
    pub(super) fn checked(&mut self, now: Duration, id: &WorkId, digest: B256, commands: &mut Vec<Command>) {
        let first = self.work.get(id).and_then(|work| work.first).filter(|first| first.checking);
        if let Some(first) = first {
            self.counters.checked += 1;
            self.close(now, first.assignment, Some(digest), true, commands);
        } else if let Some(done) = self.done.by_id.get_mut(id) {
            self.counters.checked += 1;
            done.digest = Some(digest);
        }
    }

    /// A shard has died with this work begun, which another had done before: whether that is excused.
    pub(super) fn is_excused(&mut self, id: &WorkId, many: bool) -> bool {
        let first = self.work.get_mut(id).and_then(|work| work.first.as_mut());
        first.is_some_and(|first| {
            first.deaths += u32::from(!many);
            first.deaths < DEADLY
        })
    }

    /// A shard on probation that is alone has brought the first result: it is judged when that is
    /// verified.
    fn stays_on_probation(&mut self, assignment: &AssignmentId, digest: Option<B256>) {
        let standing = self.standing.get_mut(&assignment.shard);
        if let Some(probation) = standing.and_then(|standing| standing.probation.as_mut())
            && probation.assignment == *assignment
        {
            probation.delivered = digest;
        }
    }
}
