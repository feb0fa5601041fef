//! Strikes: what is held against a shard, over its lives. They fade with time; enough of them put
//! the shard into quarantine: it stays in the fleet and synced, gets no work, and its results do not
//! count. After a while it is on probation: one piece of work that another shard does as well. If the
//! results agree it is released, else the quarantine is prolonged.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, ShardId, WorkId};

use super::machine::Scheduler;
use super::{Command, ScheduleLimits, StrikeRecord};

/// A shard's probation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probation {
    pub(super) assignment: AssignmentId,
    pub(super) since: Duration,
    /// What it delivered, while the result it is compared with is still to come.
    pub(super) delivered: Option<B256>,
    /// Nobody else can do the work: its result counts.
    pub(super) trusted: bool,
}

/// What is held against one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    strikes: u32,
    /// Since when that many.
    counted_at: Duration,
    quarantines: u32,
    /// In quarantine: on probation from then on.
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
    /// Shards that get no ordinary work.
    pub(super) fn quarantined(&self) -> BTreeSet<ShardId> {
        let quarantined = self.standing.iter().filter(|(_, standing)| standing.quarantined_until.is_some());
        quarantined.map(|(shard, _)| *shard).collect()
    }

    /// Whether results of this assignment do not count.
    pub(super) fn distrusts(&self, assignment: &AssignmentId) -> bool {
        self.standing.get(&assignment.shard).is_some_and(|standing| {
            let trusted = |probation: &Probation| probation.trusted && probation.assignment == *assignment;
            standing.quarantined_until.is_some() && !standing.probation.as_ref().is_some_and(trusted)
        })
    }

    /// One more strike against the shard, for results that are not to be trusted.
    pub(super) fn strike(
        &mut self,
        now: Duration,
        shard: ShardId,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        self.strike_up_to(u32::MAX, now, shard, reason, commands);
    }

    /// One more strike for a slot that stands still. That alone puts no shard into quarantine: its results
    /// are as good as others', and all shards may be stuck in the same transaction.
    pub(super) fn strike_for_standing(
        &mut self,
        now: Duration,
        shard: ShardId,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        self.strike_up_to(self.limits.max_strikes.saturating_sub(1), now, shard, reason, commands);
    }

    fn strike_up_to(
        &mut self,
        most: u32,
        now: Duration,
        shard: ShardId,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        let limits = self.limits;
        let standing = self
            .standing
            .entry(shard)
            .or_insert_with(|| Standing::restored(StrikeRecord::default(), &limits, now));
        standing.fade(now, limits.strike_decay);
        if standing.strikes == 0 {
            standing.counted_at = now;
        }
        standing.strikes = standing.strikes.saturating_add(1).min(most.max(standing.strikes));
        let caught = standing.quarantined_until.is_none() && standing.strikes >= limits.max_strikes;
        if caught {
            standing.quarantines = standing.quarantines.saturating_add(1);
            standing.quarantined_until = Some(now + standing.length(&limits));
        }
        let record = standing.record();
        commands.push(Command::Strikes { shard, record, reason });
        if caught {
            self.counters.quarantines += 1;
            self.take_back(now, shard, commands);
        }
    }

    /// A slot that stood still moves again: the strike for it is taken back.
    pub(super) fn forgive(&mut self, shard: ShardId, reason: String, commands: &mut Vec<Command>) {
        let free = |standing: &&mut Standing| standing.strikes > 0 && standing.quarantined_until.is_none();
        let Some(standing) = self.standing.get_mut(&shard).filter(free) else { return };
        standing.strikes -= 1;
        let record = standing.record();
        commands.push(Command::Strikes { shard, record, reason });
    }

    /// Trusted execution has found the shard wrong: it is not trusted for a while.
    pub(super) fn condemn(
        &mut self,
        now: Duration,
        shard: ShardId,
        reason: String,
        commands: &mut Vec<Command>,
    ) {
        let limits = self.limits;
        let fresh = || Standing::restored(StrikeRecord::default(), &limits, now);
        let standing = self.standing.entry(shard).or_insert_with(fresh);
        standing.fade(now, limits.strike_decay);
        if standing.strikes == 0 {
            standing.counted_at = now;
        }
        standing.strikes = standing.strikes.saturating_add(1).max(limits.max_strikes);
        let probation = standing.probation.take();
        let caught = standing.quarantined_until.is_none();
        // Of several faults that are found at once, only the first counts.
        if caught || probation.is_some() {
            standing.quarantines = standing.quarantines.saturating_add(1);
            standing.quarantined_until = Some(now + standing.length(&limits));
        }
        let record = standing.record();
        commands.push(Command::Strikes { shard, record, reason });
        self.counters.quarantines += u64::from(caught);
        if let Some(probation) = probation {
            self.forget(&probation.assignment);
            self.release(&probation.assignment);
        }
        self.take_back(now, shard, commands);
    }

    /// Whether the shard is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self, shard: ShardId) -> bool {
        self.standing.get(&shard).is_some_and(|standing| standing.quarantined_until.is_some())
    }

    /// What a quarantined shard holds is given to others.
    fn take_back(&mut self, now: Duration, shard: ShardId, commands: &mut Vec<Command>) {
        let held = self.shards.alive.get(&shard);
        let held: Vec<AssignmentId> =
            held.map_or_else(Vec::new, |known| known.outstanding.keys().copied().collect());
        for assignment in held {
            self.forget(&assignment);
            self.release(&assignment);
            self.spare(now, &assignment, commands);
            commands.push(Command::Cancel(assignment));
        }
    }

    /// Whether a shard's probation is to be compared on this work.
    pub(super) fn is_on_probation_with(&self, work: &WorkId) -> bool {
        let probations = self.standing.values().filter_map(|standing| standing.probation);
        probations.into_iter().any(|probation| probation.assignment.work == *work)
    }

    /// A control or a probation that came to nothing.
    pub(super) fn spare(&mut self, now: Duration, assignment: &AssignmentId, commands: &mut Vec<Command>) {
        self.control_done(assignment, false);
        let on_probation = |probation: &Probation| probation.assignment == *assignment;
        let probation = self.standing.get(&assignment.shard).and_then(|standing| standing.probation);
        if probation.as_ref().is_some_and(on_probation) {
            self.end_probation(now, assignment.shard, Some(false), commands);
        }
    }

    /// The shard on probation has delivered. `fine` tells how its result compares, where the other
    /// is known.
    pub(super) fn probation_result(
        &mut self,
        now: Duration,
        assignment: &AssignmentId,
        digest: Option<B256>,
        fine: Option<bool>,
        commands: &mut Vec<Command>,
    ) {
        let Some(standing) = self.standing.get_mut(&assignment.shard) else { return };
        let Some(probation) = standing.probation.as_mut().filter(|known| known.assignment == *assignment)
        else {
            return;
        };
        if fine.is_some() {
            self.end_probation(now, assignment.shard, fine, commands);
        } else if self.work.contains_key(&assignment.work) {
            probation.delivered = digest;
        } else {
            // Nobody knows the right result any more: another piece will tell.
            self.end_probation(now, assignment.shard, None, commands);
        }
    }

    /// The first sound result has come: shards on probation with the same work are compared with it.
    pub(super) fn judge_probations(
        &mut self,
        now: Duration,
        first: AssignmentId,
        digest: Option<B256>,
        commands: &mut Vec<Command>,
    ) {
        let verdicts: Vec<(ShardId, bool)> = self
            .standing
            .iter()
            .filter_map(|(shard, standing)| {
                let probation = standing.probation?;
                if probation.assignment == first {
                    // Verified by trusted code, it has delivered what it is to be compared with.
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
            self.end_probation(now, shard, Some(fine), commands);
        }
    }

    /// Probations that take too long have failed; those whose work is no longer known are void.
    pub(super) fn expire_probations(&mut self, now: Duration, commands: &mut Vec<Command>) {
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
                let late = now.saturating_sub(probation.since) > limit;
                // Whoever was to confirm it may be gone: that is not its fault.
                let verdict = if probation.delivered.is_some() { None } else { Some(false) };
                late.then_some((*shard, verdict))
            })
            .collect();
        for (shard, verdict) in ended {
            self.end_probation(now, shard, verdict, commands);
        }
    }

    fn end_probation(
        &mut self,
        now: Duration,
        shard: ShardId,
        fine: Option<bool>,
        commands: &mut Vec<Command>,
    ) {
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
                standing.quarantined_until = Some(now + standing.length(&limits));
                "failed its probation"
            }
            None => "",
        };
        let record = standing.record();
        self.forget(&probation.assignment);
        self.release(&probation.assignment);
        if fine.is_some() {
            commands.push(Command::Strikes { shard, record, reason: reason.to_owned() });
        }
    }
}
