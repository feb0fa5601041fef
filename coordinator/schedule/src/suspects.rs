//! Suspects: work that may kill the process that runs it.
//!
//! Only the confirmed end of a process is evidence. The work that the dead process may have begun becomes
//! suspect and runs alone, on a shard that holds nothing else. If that shard dies too, the scheduler has the
//! work cut into single transactions, each of which runs alone. A death of a shard alone with one transaction
//! counts once it is clear that no other shard was lost within the blame window. Two such deaths on different
//! shards convict the transaction, if work done in between shows that the fleet is healthy.
//!
//! Tries at the whole do not count against its pieces: each piece has its own tries. The scheduler names no
//! transaction without proof: a block that it parks unproven names all work that may hold the transaction.
//!
//! Silence, goodbyes and drains blame no work, and neither do losses of several shards at once, nor the end of a
//! newcomer.

use std::collections::BTreeSet;
use std::time::Duration;

use common::id::{AssignmentId, Incarnation, RoundId, ShardId, WorkId};

use super::fleet::Shard;
use super::machine::Scheduler;
use super::never::never;
use super::round::Round;
use super::turn::Turn;
use super::work::Work;
use super::{Command, LossCause, RoundFailure, WorkClass, WorkItem};

impl Scheduler {
    /// Handles the loss of a shard: decides what follows for the work that it may have begun.
    pub(super) fn blame_for(
        &mut self,
        shard: ShardId,
        known: &Shard,
        (alone_with, newcomer): (Option<AssignmentId>, bool),
        cause: LossCause,
        turn: &mut Turn,
    ) {
        if !matches!(cause, LossCause::Died | LossCause::Silent) {
            return;
        }
        let many = self.evidence.note_loss(shard, self.limits.blame_window, turn.now());
        if many {
            self.acquit_the_unproven(turn.now());
        }
        if cause != LossCause::Died {
            return;
        }
        if newcomer {
            // The end of a shard that has done no sound work yet says nothing about the work that it had. Work
            // that no other shard had is counted, so that it is not tried for ever.
            for assignment in known.started() {
                let work = self.work.get_mut(&assignment.work).filter(|work| !work.is_assigned());
                work.into_iter().for_each(Work::count_death);
            }
            return;
        }
        if !many {
            self.count_deaths(known, turn);
        }
        for assignment in known.started() {
            let Some(work) = self.work.get_mut(&assignment.work) else { continue };
            work.count_death();
            if many {
                work.rest(turn.now() + self.limits.blame_window + Duration::from_nanos(1));
            }
            // If another shard has done the work and survived, one death does not make it suspect.
            if work.excuses_death(many) {
                continue;
            }
            // The shard may never have seen an assignment that it had not accepted: its death is no evidence.
            if alone_with == Some(assignment) {
                self.died_alone(&assignment, known.was_idle, turn);
            } else if !many {
                work.suspect(turn.now());
            }
        }
    }

    /// Counts a death against the block, and parks the block if it has killed too many shards over all its
    /// rounds.
    fn count_deaths(&mut self, known: &Shard, turn: &mut Turn) {
        let begun: BTreeSet<(RoundId, WorkId, bool)> = known
            .started()
            .iter()
            .filter_map(|assignment| self.work.get(&assignment.work))
            .filter(|work| work.item().class == WorkClass::Execute)
            .map(|work| (work.round(), work.id(), work.is_isolated()))
            .collect();
        let mut seen = BTreeSet::new();
        for (round, work, isolated) in begun {
            let Some(block) = self.rounds.get(&round).map(Round::block) else { continue };
            if !seen.insert(block) {
                continue;
            }
            let deaths = self.block_deaths.add(block, isolated);
            // The search may cost twice as many deaths as its last step, the short one with a single
            // transaction.
            let limit = self.limits.max_attempts;
            if deaths.isolated >= limit || deaths.searching >= limit * 2 {
                self.block_deaths.forget(&block);
                let deaths = deaths.isolated + deaths.searching;
                let reason = format!(
                    "{deaths} shards died while they executed this block; look at their logs, then retry or discard it"
                );
                self.give_up(work, RoundFailure::parked(vec![work], false, reason), turn);
            }
        }
    }

    /// Removes the deaths of a process that registers: it has not ended, only its connection had.
    pub(super) fn retract(&mut self, shard: ShardId, incarnation: Incarnation) {
        for work in self.work.values_mut() {
            work.retract(shard, incarnation);
        }
    }

    /// Clears work that became suspect by the first of several losses at once.
    fn acquit_the_unproven(&mut self, now: Duration) {
        let window = self.limits.blame_window;
        for work in self.work.values_mut() {
            work.acquit(window, now);
        }
        // Assignments that run alone continue like other work.
        for shard in self.shards.alive.values_mut() {
            shard
                .alone_with
                .take_if(|alone| self.work.get(&alone.work).is_none_or(|work| !work.is_suspect()));
        }
    }

    /// Handles the death of a shard that held only this suspect, as far as this coordinator knows. Only if
    /// the shard `was_idle` before can nothing else have been in flight: no cancelled assignment, none of an
    /// earlier coordinator, and none on a thread that lost its slot.
    fn died_alone(&mut self, assignment: &AssignmentId, was_idle: bool, turn: &mut Turn) {
        let held_until = turn.now() + self.limits.blame_window + Duration::from_nanos(1);
        let Some(work) = self.work.get_mut(&assignment.work) else { return };
        work.has_killed(held_until, turn.now());
        if work.first().is_some() {
            // The scheduler uses its result already: shards try it as a whole, then the block is parked.
            return;
        }
        if work.item().transactions <= 1 {
            // Without that evidence the work runs on idle shards only from now on.
            if was_idle {
                work.note_death(&self.evidence, assignment, turn.now());
            }
            return;
        }
        let (round, id) = (work.round(), work.id());
        self.cut(round, id, turn);
    }

    /// Has the work cut into single transactions.
    pub(super) fn cut(&mut self, round: RoundId, work: WorkId, turn: &mut Turn) {
        if self.rounds.get_mut(&round).is_some_and(|known| known.begin_cut(work)) {
            turn.order(Command::Recut { round, work });
        }
    }

    /// Replaces a suspect by its pieces, each of which is a suspect.
    pub(super) fn recut(&mut self, round: RoundId, whole: WorkId, parts: Vec<WorkItem>, turn: &mut Turn) {
        let Some(known) = self.rounds.get_mut(&round) else { return };
        if !known.end_cut(&whole) {
            return;
        }
        let Some(mut former) = self.work.remove(&whole) else {
            // The result of the whole has arrived meanwhile.
            self.finish_if_done(round, &whole, turn);
            return;
        };
        if parts.is_empty() || former.first().is_some() {
            former.cannot_be_cut();
            self.work.insert(whole, former);
            return;
        }
        if !known.replace(&whole, &parts) {
            return never!("open work {whole} is missing in its round {round}");
        }
        for part in parts {
            self.open_work(Work::cut_from(&former, part, turn.now()));
        }
    }

    /// Judges the deaths whose blame window has passed, and convicts transactions.
    pub(super) fn judge_suspects(&mut self, turn: &mut Turn) {
        if self.evidence.is_empty() {
            return;
        }
        let window = self.limits.blame_window;
        let mut proven = Vec::new();
        for work in self.work.values_mut() {
            if work.judge(&self.evidence, window, turn.now()) {
                proven.push((work.round(), work.id()));
            }
        }
        for (round, work) in proven {
            // The round may have ended with another conviction.
            if !self.work.contains_key(&work) {
                continue;
            }
            self.counters.convictions += 1;
            turn.order(Command::Convict { round, work });
            let reason = "a transaction has killed two shards that did nothing else; discard the block, or retry it with another build";
            self.give_up(work, RoundFailure::parked(vec![work], true, reason), turn);
        }
    }

    /// Whether the suspect waits for a sign that the fleet has been healthy since its first death.
    pub(super) fn wants_control(&self, work: &Work) -> bool {
        work.suspicion().is_some_and(|suspicion| self.evidence.wants_control(suspicion))
    }
}
