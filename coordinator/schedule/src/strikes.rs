//! Strikes: the record against a shard, over all its incarnations. Strikes fade with time. Enough of them put
//! the shard into quarantine: it stays in the fleet and synced, gets no work, and its results do not count.
//! When the quarantine is over the shard is on probation: it does one piece of work that another shard does
//! too. If the results agree the scheduler releases it, else it prolongs the quarantine.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, ShardId, WorkId};

use super::machine::Scheduler;
use super::turn::Turn;
use super::{Command, ScheduleLimits, StrikeRecord};

/// A shard's probation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probation {
    pub(super) assignment: AssignmentId,
    pub(super) since: Duration,
    /// The digest that the shard delivered, while the result to compare it with is still missing.
    pub(super) delivered: Option<B256>,
    /// No other shard can do the work: the scheduler uses this shard's result, and trusted code verifies it.
    pub(super) trusted: bool,
}

/// The record against one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    strikes: u32,
    /// The time from which the next strike fades.
    counted_at: Duration,
    quarantines: u32,
    /// The time when the quarantine ends and a probation may begin; `None` outside of quarantine.
    pub(super) quarantined_until: Option<Duration>,
    pub(super) probation: Option<Probation>,
}

impl Standing {
    pub(super) fn restored(record: StrikeRecord, limits: &ScheduleLimits, now: Duration) -> Self {
        let mut standing = Self {
            strikes: record.strikes,
            counted_at: now,
            quarantines: record.quarantines,
            quarantined_until: None,
            probation: None,
        };
        if record.quarantined {
            standing.quarantined_until = Some(now + standing.length(limits));
        }
        standing
    }

    fn record(&self) -> StrikeRecord {
        StrikeRecord {
            strikes: self.strikes,
            quarantines: self.quarantines,
            quarantined: self.quarantined_until.is_some(),
        }
    }

    fn length(&self, limits: &ScheduleLimits) -> Duration {
        let doublings = self.quarantines.saturating_sub(1).min(16);
        (limits.quarantine * (1 << doublings)).min(limits.longest_quarantine)
    }

    fn fade(&mut self, now: Duration, decay: Duration) {
        while self.strikes > 0 && now.saturating_sub(self.counted_at) >= decay {
            self.strikes -= 1;
            self.counted_at += decay;
        }
    }
}

impl Scheduler {
    /// The shards in quarantine, which get no ordinary work.
    pub(super) fn quarantined(&self) -> BTreeSet<ShardId> {
        let quarantined = self.standing.iter().filter(|(_, standing)| standing.quarantined_until.is_some());
        quarantined.map(|(shard, _)| *shard).collect()
    }

    /// Whether the result of this assignment does not count.
    pub(super) fn distrusts(&self, assignment: &AssignmentId) -> bool {
        self.standing.get(&assignment.shard).is_some_and(|standing| {
            let trusted = |probation: &Probation| probation.trusted && probation.assignment == *assignment;
            standing.quarantined_until.is_some() && !standing.probation.as_ref().is_some_and(trusted)
        })
    }

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
        let limits = self.limits;
        let standing = self
            .standing
            .entry(shard)
            .or_insert_with(|| Standing::restored(StrikeRecord::default(), &limits, turn.now()));
        standing.fade(turn.now(), limits.strike_decay);
        if standing.strikes == 0 {
            standing.counted_at = turn.now();
        }
        standing.strikes = standing.strikes.saturating_add(1).min(most.max(standing.strikes));
        let caught = standing.quarantined_until.is_none() && standing.strikes >= limits.max_strikes;
        if caught {
            standing.quarantines = standing.quarantines.saturating_add(1);
            standing.quarantined_until = Some(turn.now() + standing.length(&limits));
        }
        let record = standing.record();
        turn.order(Command::Strikes { shard, record, reason });
        if caught {
            self.counters.quarantines += 1;
            self.take_back(shard, turn);
        }
    }

    /// Takes back the strike for a slot that stood still and moves again.
    pub(super) fn forgive(&mut self, shard: ShardId, reason: String, turn: &mut Turn) {
        let free = |standing: &&mut Standing| standing.strikes > 0 && standing.quarantined_until.is_none();
        let Some(standing) = self.standing.get_mut(&shard).filter(free) else { return };
        standing.strikes -= 1;
        let record = standing.record();
        turn.order(Command::Strikes { shard, record, reason });
    }

    /// Quarantines a shard that trusted execution has found wrong.
    pub(super) fn condemn(&mut self, shard: ShardId, reason: String, turn: &mut Turn) {
        let limits = self.limits;
        let fresh = || Standing::restored(StrikeRecord::default(), &limits, turn.now());
        let standing = self.standing.entry(shard).or_insert_with(fresh);
        standing.fade(turn.now(), limits.strike_decay);
        if standing.strikes == 0 {
            standing.counted_at = turn.now();
        }
        standing.strikes = standing.strikes.saturating_add(1).max(limits.max_strikes);
        let probation = standing.probation.take();
        let caught = standing.quarantined_until.is_none();
        // Of several faults found at once, only the first prolongs the quarantine.
        if caught || probation.is_some() {
            standing.quarantines = standing.quarantines.saturating_add(1);
            standing.quarantined_until = Some(turn.now() + standing.length(&limits));
        }
        let record = standing.record();
        turn.order(Command::Strikes { shard, record, reason });
        self.counters.quarantines += u64::from(caught);
        if let Some(probation) = probation {
            self.forget(&probation.assignment);
            self.release(&probation.assignment);
        }
        self.take_back(shard, turn);
    }

    /// Whether the shard is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self, shard: ShardId) -> bool {
        self.standing.get(&shard).is_some_and(|standing| standing.quarantined_until.is_some())
    }

    /// Takes back all assignments of a quarantined shard; other shards get the work.
    fn take_back(&mut self, shard: ShardId, turn: &mut Turn) {
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

    /// Whether a shard on probation has this work, so that its result must be compared.
    pub(super) fn is_on_probation_with(&self, work: &WorkId) -> bool {
        let probations = self.standing.values().filter_map(|standing| standing.probation);
        probations.into_iter().any(|probation| probation.assignment.work == *work)
    }

    /// Handles a control or a probation that brought no result.
    pub(super) fn spare(&mut self, assignment: &AssignmentId, turn: &mut Turn) {
        self.control_done(assignment, false);
        let on_probation = |probation: &Probation| probation.assignment == *assignment;
        let probation = self.standing.get(&assignment.shard).and_then(|standing| standing.probation);
        if probation.as_ref().is_some_and(on_probation) {
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
        let Some(standing) = self.standing.get_mut(&assignment.shard) else { return };
        let Some(probation) = standing.probation.as_mut().filter(|known| known.assignment == *assignment)
        else {
            return;
        };
        if fine.is_some() {
            self.end_probation(assignment.shard, fine, turn);
        } else if self.work.contains_key(&assignment.work) {
            probation.delivered = digest;
        } else {
            // The right result is no longer known: another piece of work will decide.
            self.end_probation(assignment.shard, None, turn);
        }
    }

    /// Compares the first sound result with those that shards on probation delivered for the same work.
    pub(super) fn judge_probations(&mut self, first: AssignmentId, digest: Option<B256>, turn: &mut Turn) {
        let verdicts: Vec<(ShardId, bool)> = self
            .standing
            .iter()
            .filter_map(|(shard, standing)| {
                let probation = standing.probation?;
                if probation.assignment == first {
                    // The shard's own result was the first: compare what it delivered with the verified
                    // digest.
                    let delivered = probation.delivered.unwrap_or_default();
                    let right = digest.is_none_or(|digest| digest == delivered);
                    return Some((*shard, probation.delivered.is_none() || right));
                }
                let same_work = probation.assignment.work == first.work;
                let delivered = probation.delivered.filter(|_| same_work)?;
                Some((*shard, digest.is_none_or(|digest| digest == delivered)))
            })
            .collect();
        for (shard, fine) in verdicts {
            self.end_probation(shard, Some(fine), turn);
        }
    }

    /// Ends probations that take too long (failed) and those whose work is no longer known (void).
    pub(super) fn expire_probations(&mut self, turn: &mut Turn) {
        let ended: Vec<(ShardId, Option<bool>)> = self
            .standing
            .iter()
            .filter_map(|(shard, standing)| {
                let probation = standing.probation?;
                let work = probation.assignment.work;
                let open = self.work.get(&work).map(|work| &work.item);
                let Some(item) = open.or_else(|| self.done.by_id.get(&work).map(|done| &done.item)) else {
                    return Some((*shard, None));
                };
                let limit = self.limits.overdue_after + self.limits.longest(item.heaviest);
                let late = turn.now().saturating_sub(probation.since) > limit;
                // The shard that should confirm the result may be lost: that is not this shard's fault.
                let verdict = if probation.delivered.is_some() { None } else { Some(false) };
                late.then_some((*shard, verdict))
            })
            .collect();
        for (shard, verdict) in ended {
            self.end_probation(shard, verdict, turn);
        }
    }

    fn end_probation(&mut self, shard: ShardId, fine: Option<bool>, turn: &mut Turn) {
        let limits = self.limits;
        let Some(standing) = self.standing.get_mut(&shard) else { return };
        let Some(probation) = standing.probation.take() else { return };
        let reason = match fine {
            Some(true) => {
                standing.strikes = 0;
                standing.quarantines = 0;
                standing.quarantined_until = None;
                self.counters.released += 1;
                "passed its probation"
            }
            Some(false) => {
                standing.quarantines = standing.quarantines.saturating_add(1);
                standing.quarantined_until = Some(turn.now() + standing.length(&limits));
                "failed its probation"
            }
            None => "",
        };
        let record = standing.record();
        self.forget(&probation.assignment);
        self.release(&probation.assignment);
        if fine.is_some() {
            turn.order(Command::Strikes { shard, record, reason: reason.to_owned() });
        }
    }
}
