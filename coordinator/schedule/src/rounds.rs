//! Rounds and their work: the scheduler admits them, tries them, and finishes them or gives them up.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, RoundId, WorkId};

use super::finished::Done;
use super::machine::Scheduler;
use super::never::never;
use super::round::Round;
use super::turn::Turn;
use super::work::Work;
use super::{AssignmentFault, Command, FailCause, LossCause, NoShards, RoundFailure, WorkClass, WorkItem};

impl Scheduler {
    pub(super) fn admit(&mut self, round: RoundId, block: B256, items: Vec<WorkItem>, turn: &mut Turn) {
        if items.is_empty() {
            turn.order(Command::Finish(round));
            return;
        }
        // A round that is opened again replaces the one that had its work.
        let former: BTreeSet<RoundId> =
            items.iter().filter_map(|item| self.work.get(&item.id)).map(Work::round).collect();
        for former in former {
            self.abandon(former, turn);
        }
        let open = items.iter().map(|item| item.id).collect();
        for item in items {
            self.open_work(Work::new(item, round));
        }
        self.rounds.insert(round, Round::new(block, open));
    }

    /// Opens work of a round. A result of the same work in an earlier round of its block no longer counts.
    pub(super) fn open_work(&mut self, work: Work) {
        self.done.reopen(&work.id());
        self.work.insert(work.id(), work);
    }

    /// The open work of the round that shards have died at. The coordinator must not execute it in its own
    /// process, whatever happens to the round.
    #[must_use]
    pub fn deadly_work(&self, round: RoundId) -> Vec<WorkId> {
        let deadly = self.work.values().filter(|work| work.round() == round && work.may_kill());
        deadly.map(Work::id).collect()
    }

    /// Whether some work of the round may have killed the process that ran it, proven or not.
    #[must_use]
    pub fn is_suspect(&self, round: RoundId) -> bool {
        self.work.values().any(|work| work.round() == round && (work.may_kill() || work.is_suspect()))
    }

    pub(super) fn abandon(&mut self, round: RoundId, turn: &mut Turn) {
        let Some(round) = self.rounds.remove(&round) else { return };
        for id in round.open() {
            let Some(work) = self.work.remove(id) else {
                never!("open work {id} is not known");
                continue;
            };
            for assignment in work.holders() {
                self.forget(&assignment);
                turn.order(Command::Cancel(assignment));
            }
        }
    }

    pub(super) fn failed(
        &mut self,
        assignment: AssignmentId,
        fault: AssignmentFault,
        reason: String,
        turn: &mut Turn,
    ) {
        self.forget(&assignment);
        let AssignmentId { shard, incarnation, work: id, .. } = assignment;
        if let Some(known) = self.shards.get_mut(shard, incarnation) {
            known.has_answered(turn.now(), &assignment);
        }
        if fault == AssignmentFault::Corrupt {
            self.strike(shard, format!("delivered damaged bytes: {reason}"), turn);
        }
        if fault == AssignmentFault::Superseded {
            self.lose(shard, incarnation, LossCause::Superseded, reason.clone(), turn);
        }
        self.spare(&assignment, turn);
        if fault == AssignmentFault::Panicked
            && let Some(work) = self.work.get_mut(&id).filter(|work| work.holds(&assignment))
        {
            work.count_death();
        }
        self.release_failed(&assignment, fault, &reason);
        match fault {
            AssignmentFault::Busy
            | AssignmentFault::Failed
            | AssignmentFault::Panicked
            | AssignmentFault::Corrupt => {
                self.rest(turn.now(), &assignment, fault);
            }
            AssignmentFault::WrongState => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.state = None;
                    turn.order(Command::Sync(shard));
                }
            }
            AssignmentFault::Draining => {
                if let Some(known) = self.shards.get_mut(shard, incarnation) {
                    known.draining = true;
                }
            }
            AssignmentFault::Hopeless => {
                self.rest(turn.now(), &assignment, fault);
                // One shard alone may be wrong, or lie. If another shard has done the work, the command was valid.
                let counts = !self.is_newcomer(shard) && !self.is_quarantined(shard);
                let agreed = self.work.get_mut(&id).filter(|work| counts && work.first().is_none());
                if agreed.is_some_and(|work| work.is_called_hopeless(shard)) {
                    self.give_up(id, RoundFailure::spent(reason), turn);
                }
            }
            AssignmentFault::Superseded => {}
        }
    }

    fn release_failed(&mut self, assignment: &AssignmentId, fault: AssignmentFault, reason: &str) {
        if !self.is_outstanding(assignment) {
            return;
        }
        self.release(assignment);
        let Some(work) = self.work.get_mut(&assignment.work) else {
            return never!("{assignment} is in flight for work that is not known");
        };
        if fault == AssignmentFault::Busy {
            work.uncount();
        } else {
            work.complain(reason);
        }
    }

    /// Lets a shard rest after a failure, twice as long after each one in a row. Being busy is no failure.
    fn rest(&mut self, now: Duration, assignment: &AssignmentId, fault: AssignmentFault) {
        let limits = self.limits;
        let Some(known) = self.shards.get_mut(assignment.shard, assignment.incarnation) else { return };
        let doublings = if fault == AssignmentFault::Busy { 0 } else { known.failures.min(16) };
        let pause = limits.refused_pause * (1 << doublings);
        known.rests_until = now + pause.min(limits.longest_pause);
        if fault != AssignmentFault::Busy {
            known.failures = known.failures.saturating_add(1);
        }
    }

    /// Gives up the round of this work: shards cannot do it.
    pub(super) fn give_up(&mut self, id: WorkId, failure: RoundFailure, turn: &mut Turn) {
        let Some(round) = self.work.get(&id).map(Work::round) else {
            return never!("work {id} is given up and not known");
        };
        // The coordinator executes a spent round in its own process, all of it.
        let mut deadly = self.deadly_work(round);
        let RoundFailure { cause, reason } = failure;
        let failure = match cause {
            FailCause::Spent if !deadly.is_empty() => {
                let text = format!(
                    "{reason}; shards died at its block: look at their logs, then retry or discard it"
                );
                RoundFailure::parked(deadly, false, text)
            }
            FailCause::Parked { suspects, convicted: false } => {
                // Without proof, any of these may hold the transaction.
                deadly.extend(suspects);
                RoundFailure::parked(deadly, false, reason)
            }
            cause => RoundFailure { cause, reason },
        };
        if let Some(parked) = self.rounds.get(&round).filter(|_| failure.is_parked()) {
            // A client that retries the block wants it judged from the start.
            self.block_deaths.forget(&parked.block());
        }
        self.abandon(round, turn);
        turn.order(Command::Fail { round, failure });
    }

    /// Gives up work that shards have tried `max_attempts` times. If the work may kill its process, the
    /// coordinator must not execute it: the block is parked instead.
    pub(super) fn settle_spent(&mut self, turn: &mut Turn) {
        let limit = self.limits.max_attempts;
        let spent = self.work.values().filter(|work| work.is_spent(limit));
        let spent: Vec<WorkId> = spent.map(Work::id).collect();
        for id in spent {
            let Some(work) = self.work.get(&id) else { continue };
            if work.can_be_searched() {
                // The deaths came too fast to show their cause: the pieces will show it.
                self.cut(work.round(), id, turn);
                continue;
            }
            let last = work.complaint().unwrap_or("its shard was lost").to_owned();
            let awaits_verification = work.first().is_some();
            let failure = if awaits_verification {
                let text = format!(
                    "{limit} attempts to verify it failed; look at the shards' logs, then retry or discard the block"
                );
                RoundFailure::parked(vec![id], false, text)
            } else {
                RoundFailure::spent(format!("{limit} attempts failed, the last: {last}"))
            };
            self.give_up(id, failure, turn);
        }
    }

    /// Makes rounds without shards fail at the next tick from now on, because the process is about to end.
    pub fn wait_no_longer(&mut self) {
        self.limits.no_shard_wait = Duration::ZERO;
    }

    pub(super) fn fail_stranded(&mut self, turn: &mut Turn) {
        let (policy, limit) = (self.limits.when_no_shards, self.limits.no_shard_wait);
        let over = |since: Duration| policy == NoShards::Fail || turn.now().saturating_sub(since) > limit;
        let stranded: Vec<(RoundId, B256, Option<Duration>)> = self
            .rounds
            .iter()
            .filter(|(_, round)| round.stranded_since().is_some_and(over))
            .map(|(id, round)| (*id, round.block(), round.stranded_since()))
            .collect();
        for (round, block, since) in stranded {
            // The coordinator must not execute work that may kill its process.
            if self.is_suspect(round) {
                self.block_deaths.note_suspect(block);
            }
            let deadly = self.block_deaths.was_suspect(&block);
            self.abandon(round, turn);
            let local = policy == NoShards::Local && !deadly;
            let cause = if local { FailCause::Local } else { FailCause::Stranded };
            let waited = since.map_or(0.0, |since| turn.now().saturating_sub(since).as_secs_f64());
            // A round that does not wait, or waits no longer, has no time to state.
            let waited = if waited < 0.1 { String::new() } else { format!(" for {waited:.1} s") };
            let reason = format!("no shard could take its work{waited}; start one, or look why none joins");
            turn.order(Command::Fail { round, failure: RoundFailure { cause, reason } });
        }
    }

    /// Whether a result of this work must come with a digest: there is, or may be, another result to compare
    /// it with.
    #[must_use]
    pub fn wants_digest(&self, work: &WorkId) -> bool {
        self.strikes.is_on_probation_with(work)
            || self.work.get(work).is_some_and(|known| known.tries() > 1 || known.item().verify)
            || self.done.get(work).is_some_and(|done| done.digest.is_some())
    }

    /// Handles a sound result. The first one for a piece of work counts, whichever shard sent it, unless that
    /// shard is in quarantine.
    pub(super) fn result(&mut self, assignment: AssignmentId, digest: Option<B256>, turn: &mut Turn) {
        self.forget(&assignment);
        self.answered(turn.now(), &assignment);
        let distrusted = self.strikes.distrusts(&assignment);
        // Work of a later epoch does not belong to this coordinator, whatever its id.
        let ours = assignment.epoch <= self.epoch;
        let open = self.work.get(&assignment.work).map(|work| (work.item().verify, work.first().is_some()));
        match open.filter(|_| ours && !distrusted) {
            None => {
                turn.order(Command::Ignore(assignment));
                if ours {
                    self.second_result(assignment, digest, turn);
                }
            }
            Some((_, true)) => {
                turn.order(Command::Ignore(assignment));
                self.second_of_two(assignment, digest, turn);
            }
            Some((verify, false)) => {
                turn.order(Command::Use(assignment));
                self.learn_from(turn.now(), &assignment);
                if verify {
                    self.first_of_two(assignment, digest, turn);
                } else {
                    self.close(assignment, digest, false, turn);
                }
            }
        }
    }

    /// Learns from a sound result how long such work takes, and that the fleet and the shard are healthy.
    pub(super) fn learn_from(&mut self, now: Duration, assignment: &AssignmentId) {
        self.evidence.note_health();
        if !self.strikes.is_quarantined(assignment.shard) {
            self.strikes.proves(assignment.shard);
        }
        let took = self.work.get(&assignment.work).and_then(|work| {
            let took = self.time_taken(now, work, assignment)?;
            Some((*work.item(), took))
        });
        if let Some((item, took)) = took {
            self.medians.add(&item, took);
        }
        if let Some(shard) = self.shards.get_mut(assignment.shard, assignment.incarnation) {
            shard.failures = 0;
            shard.results += 1;
        }
    }

    /// Finishes the work with the result that `first` brought. `digest` is the digest that this result has,
    /// or should have had.
    pub(super) fn close(
        &mut self,
        first: AssignmentId,
        digest: Option<B256>,
        verified: bool,
        turn: &mut Turn,
    ) {
        let Some(work) = self.work.remove(&first.work) else {
            return never!("work {} is done and was not open", first.work);
        };
        for other in work.holders().into_iter().filter(|other| *other != first) {
            self.forget(&other);
            turn.order(Command::Cancel(other));
        }
        let done = Done { item: *work.item(), round: work.round(), first, digest, verified };
        self.done.remember(first.work, done, self.limits.done_kept);
        self.judge_probations(first, digest, turn);
        self.finish_if_done(work.round(), &first.work, turn);
    }

    pub(super) fn finish_if_done(&mut self, id: RoundId, work: &WorkId, turn: &mut Turn) {
        let Some(round) = self.rounds.get_mut(&id) else {
            return never!("work {work} is done and its round {id} is not open");
        };
        if round.close(work) {
            let block = round.block();
            self.rounds.remove(&id);
            if self.done.get(work).is_some_and(|done| done.item.class == WorkClass::Execute) {
                self.block_deaths.forget(&block);
            }
            turn.order(Command::Finish(id));
        }
    }

    /// Compares a result that is not used with the one that was.
    fn second_result(&mut self, assignment: AssignmentId, digest: Option<B256>, turn: &mut Turn) {
        let done = self.done.get(&assignment.work).copied();
        let known = done.map(|done| (done.round, done.first, done.digest));
        let fine = self.compare(assignment, digest, known.or_else(|| self.unverified(&assignment)), turn);
        self.control_done(&assignment, fine);
        self.probation_result(&assignment, digest, done.is_some().then_some(fine), turn);
    }
}
