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

use super::evidence::Suspicion;
use super::fleet::Shard;
use super::machine::Scheduler;
use super::never::never;
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
                let work = self.work.get_mut(&assignment.work).filter(|work| work.live.is_empty());
                work.into_iter().for_each(|work| work.deaths += 1);
            }
            return;
        }
        if !many {
            self.count_deaths(known, turn);
        }
        for assignment in known.started() {
            if let Some(work) = self.work.get_mut(&assignment.work) {
                work.deaths += 1;
                if many {
                    work.rests_until = turn.now() + self.limits.blame_window + Duration::from_nanos(1);
                }
            }
            // If another shard has done the work and survived, one death does not make it suspect.
            if self.is_excused(&assignment.work, many) {
                continue;
            }
            // The shard may never have seen an assignment that it had not accepted: its death is no evidence.
            if alone_with == Some(assignment) {
                self.died_alone(&assignment, known.was_idle, turn);
            } else if !many && let Some(work) = self.work.get_mut(&assignment.work) {
                work.suspicion.get_or_insert_with(|| Suspicion::new(turn.now(), turn.now(), false));
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
            .filter(|work| work.item.class == WorkClass::Execute)
            .map(|work| (work.round, work.item.id, work.is_isolated()))
            .collect();
        let mut seen = BTreeSet::new();
        for (round, work, isolated) in begun {
            let Some(block) = self.rounds.get(&round).map(|round| round.block) else { continue };
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
        for suspicion in self.work.values_mut().filter_map(|work| work.suspicion.as_mut()) {
            suspicion.retract(shard, incarnation);
        }
    }

    /// Clears work that became suspect by the first of several losses at once.
    fn acquit_the_unproven(&mut self, now: Duration) {
        let window = self.limits.blame_window;
        for work in self.work.values_mut() {
            if work.suspicion.take_if(|suspicion| suspicion.may_be_chance(window, now)).is_some() {
                work.rests_until = now + window + Duration::from_nanos(1);
            }
        }
        // Assignments that run alone continue like other work.
        for shard in self.shards.alive.values_mut() {
            shard
                .alone_with
                .take_if(|alone| self.work.get(&alone.work).is_none_or(|work| work.suspicion.is_none()));
        }
    }

    /// Handles the death of a shard that held only this suspect, as far as this coordinator knows. Only if
    /// the shard `was_idle` before can nothing else have been in flight: no cancelled assignment, none of an
    /// earlier coordinator, and none on a thread that lost its slot.
    fn died_alone(&mut self, assignment: &AssignmentId, was_idle: bool, turn: &mut Turn) {
        let held_until = turn.now() + self.limits.blame_window + Duration::from_nanos(1);
        let Some(work) = self.work.get_mut(&assignment.work) else { return };
        let suspicion = work.suspicion.get_or_insert_with(|| Suspicion::new(turn.now(), turn.now(), true));
        suspicion.has_killed_at(held_until);
        if work.first.is_some() {
            // The scheduler uses its result already: shards try it as a whole, then the block is parked.
            return;
        }
        if work.item.transactions <= 1 {
            // Without that evidence the work runs on idle shards only from now on.
            if was_idle {
                self.evidence.note_death(suspicion, assignment, turn.now());
            }
            return;
        }
        let (round, id) = (work.round, work.item.id);
        self.cut(round, id, turn);
    }

    /// Has the work cut into single transactions.
    pub(super) fn cut(&mut self, round: RoundId, work: WorkId, turn: &mut Turn) {
        if let Some(known) = self.rounds.get_mut(&round).filter(|known| !known.cutting.contains(&work)) {
            known.cutting.insert(work);
            turn.order(Command::Recut { round, work });
        }
    }

    /// Replaces a suspect by its pieces, each of which is a suspect.
    pub(super) fn recut(&mut self, round: RoundId, whole: WorkId, parts: Vec<WorkItem>, turn: &mut Turn) {
        let Some(known) = self.rounds.get_mut(&round) else { return };
        if !known.cutting.remove(&whole) {
            return;
        }
        let Some(former) = self.work.remove(&whole) else {
            // The result of the whole has arrived meanwhile.
            self.finish_if_done(round, &whole, turn);
            return;
        };
        if parts.is_empty() || former.first.is_some() {
            self.work.insert(whole, Work { indivisible: true, ..former });
            return;
        }
        let Some(place) = known.open.iter().position(|open| *open == whole) else {
            return never!("open work {whole} is missing in its round {round}");
        };
        known.open.splice(place..=place, parts.iter().map(|part| part.id));
        let held_until = former.suspicion.map_or(turn.now(), |suspicion| suspicion.held_until());
        for part in parts {
            let item = WorkItem { verify: former.item.verify, ..part };
            let mut work = Work::new(item, round);
            // This piece may hold the transaction that kills; tries at the whole do not count against it.
            work.deaths = former.deaths;
            work.suspicion = Some(Suspicion::new(turn.now(), held_until, true));
            self.open_work(work);
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
            let Some(suspicion) = &mut work.suspicion else { continue };
            if self.evidence.judge(suspicion, window, turn.now()) {
                proven.push((work.round, work.item.id));
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
        work.suspicion.as_ref().is_some_and(|suspicion| self.evidence.wants_control(suspicion))
    }
}
