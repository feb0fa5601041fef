//! Quarantine: the scheduler strikes shards, takes their work back, and puts them on probation.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, ShardId, StateRef, WorkId};

use super::Command;
use super::event::StrikeChange;
use super::fleet::{Company, Shard, Wanted};
use super::machine::Scheduler;
use super::never::never;
use super::round::Round;
use super::strikes::{Due, Lateness};
use super::turn::Turn;
use super::work::Work;

/// The use of the result that a shard on probation brings for a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stake {
    /// Another shard holds the work, and the result is only compared.
    Copy,
    /// The shard that holds the work is late, so the result may be needed.
    Late,
    /// No other shard can do the work, at all or for a while, so the result is needed.
    Free,
}

impl Scheduler {
    /// Adds a strike for a result that must not be trusted.
    pub(super) fn strike(&mut self, shard: ShardId, reason: String, turn: &mut Turn) {
        self.strike_up_to(u32::MAX, shard, reason, turn);
    }

    /// Adds a strike for a slot that stands still. Such strikes alone put no shard into quarantine: its
    /// results are as good as others', and all shards may be stuck in the same transaction.
    pub(super) fn strike_for_standing(&mut self, shard: ShardId, reason: String, turn: &mut Turn) {
        self.strike_up_to(self.limits.max_strikes.saturating_sub(1), shard, reason, turn);
    }

    fn strike_up_to(&mut self, most: u32, shard: ShardId, reason: String, turn: &mut Turn) {
        let struck = self.strikes.add(shard, most, &self.limits, turn.now());
        turn.order(Command::Strikes { shard, record: struck.record, change: StrikeChange::Struck, reason });
        if struck.caught {
            self.counters.quarantines += 1;
            self.take_back(shard, turn);
        }
    }

    /// Takes back the strike for a slot that stood still and moves again.
    pub(super) fn forgive(&mut self, shard: ShardId, reason: String, turn: &mut Turn) {
        if let Some(record) = self.strikes.forgive(shard) {
            turn.order(Command::Strikes { shard, record, change: StrikeChange::Cleared, reason });
        }
    }

    /// Quarantines a shard that trusted execution has found wrong.
    pub(super) fn condemn(&mut self, shard: ShardId, reason: String, turn: &mut Turn) {
        let struck = self.strikes.condemn(shard, &self.limits, turn.now());
        turn.order(Command::Strikes { shard, record: struck.record, change: StrikeChange::Struck, reason });
        self.counters.quarantines += u64::from(struck.caught);
        if let Some(probation) = struck.probation {
            self.forget(&probation);
            self.release(&probation);
        }
        self.take_back(shard, turn);
    }

    /// Notes that the shard is late with work on this base. If it was late too often in a row and has not answered, it
    /// must prove itself like a newcomer, as long as there are others that can do the work.
    pub(super) fn doubt(
        &mut self,
        shard: ShardId,
        base: Option<StateRef>,
        lateness: Lateness,
        turn: &mut Turn,
    ) {
        let mut barred = self.strikes.quarantined();
        barred.insert(shard);
        let others = Wanted::with_base(base, turn.now(), &self.limits, &barred);
        if !self.shards.alive.iter().any(|(id, known)| others.fits(*id, known)) {
            return;
        }
        if let Some(record) = self.strikes.late(shard, lateness, &self.limits, turn.now()) {
            let reason = "was late with its work several times and has not answered: it must prove itself";
            let change = StrikeChange::Doubted;
            turn.order(Command::Strikes { shard, record, change, reason: reason.to_owned() });
            self.take_back(shard, turn);
        }
    }

    /// Whether the shard must still prove that it does sound work. Until then it counts as in quarantine.
    #[must_use]
    pub fn is_newcomer(&self, shard: ShardId) -> bool {
        self.strikes.is_newcomer(shard)
    }

    /// Whether the shard is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self, shard: ShardId) -> bool {
        self.strikes.is_quarantined(shard)
    }

    /// Takes back all assignments of a quarantined shard; other shards get the work.
    pub(super) fn take_back(&mut self, shard: ShardId, turn: &mut Turn) {
        let held = self.shards.alive.get(&shard);
        let held: Vec<AssignmentId> =
            held.map_or_else(Vec::new, |known| known.outstanding.keys().copied().collect());
        for assignment in held {
            self.forget(&assignment);
            self.release(&assignment);
            self.spare(&assignment, turn);
            turn.order(Command::Cancel(assignment));
        }
    }

    /// Handles a control or a probation that brought no result.
    pub(super) fn spare(&mut self, assignment: &AssignmentId, turn: &mut Turn) {
        self.control_done(assignment, false);
        if self.strikes.is_probation(assignment) {
            self.end_probation(assignment.shard, Some(false), turn);
        }
    }

    /// Handles the result of a shard on probation. `fine` says whether it equals the other result; `None` if
    /// that is not known yet.
    pub(super) fn probation_result(
        &mut self,
        assignment: &AssignmentId,
        digest: Option<B256>,
        fine: Option<bool>,
        turn: &mut Turn,
    ) {
        if !self.strikes.is_probation(assignment) {
            return;
        }
        if fine.is_none() && self.work.contains_key(&assignment.work) {
            self.strikes.deliver(assignment, digest);
            return;
        }
        // If the right result is not known and never will be, another piece of work decides.
        self.end_probation(assignment.shard, fine, turn);
    }

    /// Compares the first sound result with those that shards on probation delivered for the same work.
    pub(super) fn judge_probations(&mut self, first: AssignmentId, digest: Option<B256>, turn: &mut Turn) {
        for (shard, fine) in self.strikes.verdicts(first, digest) {
            self.end_probation(shard, Some(fine), turn);
        }
    }

    /// Ends probations that take too long (failed) and those whose work is no longer known (void).
    pub(super) fn expire_probations(&mut self, turn: &mut Turn) {
        let longest = |id: &WorkId| {
            let open = self.work.get(id).map(Work::item);
            let item = open.or_else(|| self.done.get(id).map(|done| &done.item))?;
            Some(self.limits.overdue_after + self.limits.longest(item.heaviest))
        };
        for (shard, verdict) in self.strikes.expired(turn.now(), longest) {
            self.end_probation(shard, verdict, turn);
        }
    }

    fn end_probation(&mut self, shard: ShardId, passed: Option<bool>, turn: &mut Turn) {
        let ended = self.strikes.end_probation(shard, passed, &self.limits, turn.now());
        let Some(ended) = ended else {
            return never!("the probation of shard {shard} ends and never began");
        };
        self.forget(&ended.assignment);
        self.release(&ended.assignment);
        let Some(passed) = passed else { return };
        if passed && ended.newcomer {
            return;
        }
        self.counters.released += u64::from(passed);
        let (change, reason) = match passed {
            true => (StrikeChange::Cleared, "passed its probation"),
            false => (StrikeChange::Struck, "failed its probation"),
        };
        turn.order(Command::Strikes { shard, record: ended.record, change, reason: reason.to_owned() });
    }

    /// Gives each shard whose quarantine is over, and each newcomer, one piece of work that another shard holds
    /// too. There may be many such shards, and each piece goes to one of them.
    ///
    /// The shard's own result counts if no other shard can do work at all. It also counts if the shard that holds the
    /// piece is late, no other has room, and this one has done its last piece in vain. Trusted code or the other shard
    /// verifies such a result.
    pub(super) fn dispatch_probations(&mut self, round: &Round, turn: &mut Turn) {
        let alive = &self.shards.alive;
        let due: Vec<Due> =
            self.strikes.due(turn.now()).into_iter().filter(|due| alive.contains_key(&due.shard)).collect();
        if due.is_empty() {
            return;
        }
        let mut pieces = self.probation_pieces(round, turn.now());
        for Due { shard, in_vain } in due {
            if pieces.is_empty() {
                return;
            }
            let suits = |(id, _): &(WorkId, Stake)| self.can_prove_itself(shard, id, turn.now());
            let Some(place) = pieces.iter().position(suits) else { continue };
            let (id, stake) = pieces.remove(place);
            let trusted = match stake {
                Stake::Copy => false,
                Stake::Late => in_vain,
                Stake::Free => true,
            };
            self.begin_probation(id, shard, trusted, turn);
        }
    }

    /// The pieces of the round that a shard may do as its probation.
    fn probation_pieces(&self, round: &Round, now: Duration) -> Vec<(WorkId, Stake)> {
        let quarantined = self.strikes.quarantined();
        let cannot = |id: &ShardId, shard: &Shard| quarantined.contains(id) || !shard.is_in_service();
        let alone = self.shards.alive.iter().all(|(id, shard)| cannot(id, shard));
        // A shard at another state is usually on its way to this one.
        let patience = self.limits.lost_after;
        let waits = round.stranded_since().is_some_and(|since| now.saturating_sub(since) > patience);
        let on_probation = self.strikes.on_probation();
        let stake = |work: &Work| {
            if work.is_suspect() || work.first().is_some() || on_probation.contains(&work.id()) {
                return None;
            }
            let has_tries = work.tries() < self.limits.max_attempts;
            match work.live() {
                [] => ((alone || waits) && has_tries).then_some(Stake::Free),
                [only] if quarantined.contains(&only.assignment.shard) => None,
                // No shard outside of quarantine has taken it, although it is overdue.
                [_] if work.is_overdue() => has_tries.then_some(Stake::Late),
                [_] => Some(Stake::Copy),
                _ => None,
            }
        };
        let open = round.open().iter().filter_map(|id| self.work.get(id));
        open.filter_map(|work| Some((work.id(), stake(work)?))).collect()
    }

    /// Whether the shard can do this work now, and nothing else.
    fn can_prove_itself(&self, shard: ShardId, id: &WorkId, now: Duration) -> bool {
        let (Some(known), Some(work)) = (self.shards.alive.get(&shard), self.work.get(id)) else {
            return false;
        };
        let (barred, holders) = (BTreeSet::new(), work.holders());
        let company = Company::Alone;
        let wanted = Wanted { holders: &holders, company, ..Wanted::of(work, now, &self.limits, &barred) };
        wanted.fits(shard, known) && wanted.has_room(known)
    }

    /// Assigns this work to the shard as its probation. If it is `trusted`, the shard's result counts.
    fn begin_probation(&mut self, id: WorkId, shard: ShardId, trusted: bool, turn: &mut Turn) {
        let Some(work) = self.work.get_mut(&id) else {
            return never!("work {id} of a probation is not known");
        };
        let item = *work.item();
        let assignment = if trusted {
            // The shard's own result is no proof: trusted code will verify it.
            work.must_be_verified();
            self.assign(id, shard, false, turn);
            self.work.get(&id).and_then(|work| work.live().last()).map(|live| live.assignment)
        } else {
            self.next_assignment(id, shard)
        };
        let Some(assignment) = assignment else {
            return never!("a probation is assigned to shard {shard}, which is not alive");
        };
        if !trusted {
            turn.order(Command::Dispatch(assignment));
        }
        if let Some(known) = self.shards.alive.get_mut(&shard) {
            known.outstanding.insert(assignment, item);
        }
        self.strikes.begin_probation(assignment, trusted, turn.now());
    }
}
