//! Strikes: the record against each shard, over all its incarnations.
//!
//! Strikes fade with time. Enough of them put the shard into quarantine: it stays in the fleet and synced,
//! gets no work, and its results do not count. When the quarantine is over the shard is on probation: it
//! does one piece of work that another shard does too. If the results agree the quarantine ends, else it is
//! prolonged.
//!
//! A newcomer is on probation too: a shard that has never done sound work, in a fleet with shards that have. So
//! shards that take work and never answer, however many they are, hold up no block. A shard that was late several
//! times in a row and has never answered meanwhile is a newcomer again.
//!
//! This module keeps the records and decides. It knows neither work nor rounds; `quarantine` acts on what it
//! decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, ShardId, WorkId};

use super::kept::{Kept, Visit};
use super::{ScheduleLimits, StrikeRecord};

/// The most shards that are remembered to have done sound work.
const MOST_PROVEN: usize = 4096;

/// The most shards against which there are records. Ids cost nothing, so the lightest record makes room.
pub const MOST_RECORDS: usize = 4096;

/// What heartbeats say of a shard that is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lateness {
    /// No slot is at the work, or one for longer than the gas of its transaction allows.
    Silent,
    /// A slot is at the work. The transaction may be slow, or the shard only claims it.
    Busy,
}

impl Lateness {
    const fn weight(self) -> u32 {
        match self {
            Self::Silent => 4,
            Self::Busy => 1,
        }
    }
}

/// A shard whose lateness in a row, without an answer, has this weight must prove itself again.
const MOST_UNANSWERED: u32 = 3 * Lateness::Silent.weight();

/// The assignment with which a shard in quarantine must prove itself.
#[derive(Debug, Clone, Copy)]
struct Probation {
    assignment: AssignmentId,
    since: Duration,
    /// The digest that the shard delivered, while the result to compare it with is still missing.
    delivered: Option<B256>,
    /// No other shard can do the work now: the scheduler uses this shard's result, and verifies it.
    trusted: bool,
}

/// A shard that may begin a probation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) shard: ShardId,
    /// Whether its last probation was in vain: it brought a result, and there was none in time to compare it with.
    pub(super) in_vain: bool,
}

/// The record against one shard.
#[derive(Debug, Clone, Copy)]
struct Standing {
    strikes: u32,
    /// The time from which the next strike fades.
    counted_at: Duration,
    quarantines: u32,
    /// The time when the quarantine ends and a probation may begin; `None` outside of quarantine.
    quarantined_until: Option<Duration>,
    probation: Option<Probation>,
    /// Its last probation brought a result, and there was none in time to compare it with.
    in_vain: bool,
    /// It is in quarantine only because it has not done any sound work yet.
    newcomer: bool,
    /// The weight of its lateness in a row without a result between, in all its incarnations.
    unanswered: u32,
}

impl Standing {
    fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        let Self {
            counted_at,
            quarantined_until,
            probation,
            in_vain: _,
            newcomer: _,
            unanswered: _,
            strikes: _,
            quarantines: _,
        } = self;
        visit(Kept::stays(counted_at, None));
        if let Some(until) = quarantined_until {
            visit(Kept::stays(until, None));
        }
        if let Some(Probation { since, assignment: _, delivered: _, trusted: _ }) = probation {
            visit(Kept::moves(since, None));
        }
    }

    fn restored(record: StrikeRecord, limits: &ScheduleLimits, now: Duration) -> Self {
        let mut standing = Self {
            strikes: record.strikes,
            counted_at: now,
            quarantines: record.quarantines,
            quarantined_until: None,
            probation: None,
            in_vain: false,
            newcomer: false,
            unanswered: 0,
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
            quarantined: self.quarantined_until.is_some() && !self.newcomer,
        }
    }

    /// The length of a quarantine that begins now.
    fn length(&self, limits: &ScheduleLimits) -> Duration {
        let doublings = self.quarantines.saturating_sub(1).min(16);
        (limits.quarantine * (1 << doublings)).min(limits.longest_quarantine)
    }

    /// Forgets the strikes that have faded. Without strikes, the next one fades from now on.
    fn fade(&mut self, decay: Duration, now: Duration) {
        while self.strikes > 0 && now.saturating_sub(self.counted_at) >= decay {
            self.strikes -= 1;
            self.counted_at += decay;
        }
        if self.strikes == 0 {
            self.counted_at = now;
        }
    }

    /// Begins a quarantine, or prolongs it.
    fn quarantine(&mut self, limits: &ScheduleLimits, now: Duration) {
        self.newcomer = false;
        self.quarantines = self.quarantines.saturating_add(1);
        self.quarantined_until = Some(now + self.length(limits));
    }
}

/// The consequence of a strike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Struck {
    /// The shard's record now.
    pub(super) record: StrikeRecord,
    /// Whether the shard's quarantine begins with this strike.
    pub(super) caught: bool,
    /// The assignment of the probation that the strike has ended, if any.
    pub(super) probation: Option<AssignmentId>,
}

/// The end of a probation.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbationEnd {
    /// The assignment that the shard had to prove itself with.
    pub(super) assignment: AssignmentId,
    /// The shard's record now.
    pub(super) record: StrikeRecord,
    /// Whether the shard was a newcomer.
    pub(super) newcomer: bool,
}

/// The records against all shards.
#[derive(Debug, Clone, Default)]
pub(super) struct Strikes {
    shards: BTreeMap<ShardId, Standing>,
    /// The shards that have done sound work.
    proven: BTreeSet<ShardId>,
    proven_changed: bool,
    /// An earlier coordinator has seen shards do sound work, and none of them has joined yet.
    awaited: bool,
}

impl Strikes {
    /// Shows `visit` every time that is kept of shards' records.
    pub(super) fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        for standing in self.shards.values_mut() {
            standing.for_each_time(visit);
        }
    }

    /// Restores a record that an earlier coordinator kept; its times restart.
    pub(super) fn restore(
        &mut self,
        shard: ShardId,
        record: StrikeRecord,
        limits: &ScheduleLimits,
        now: Duration,
    ) {
        self.make_room(&shard);
        self.shards.insert(shard, Standing::restored(record, limits, now));
    }

    /// Forgets the lightest record if there are as many as there may be and `shard` has none.
    fn make_room(&mut self, shard: &ShardId) {
        if self.shards.len() < MOST_RECORDS || self.shards.contains_key(shard) {
            return;
        }
        let idle = self.shards.iter().filter(|(_, standing)| standing.probation.is_none());
        let weight = |standing: &Standing| (standing.quarantined_until, standing.strikes);
        let lightest = idle.min_by_key(|(_, standing)| weight(standing)).map(|(shard, _)| *shard);
        if let Some(lightest) = lightest {
            self.shards.remove(&lightest);
        }
    }

    /// Notes that a shard has joined. It is a newcomer if it has never done sound work and one of `others` has. The
    /// first one to join that an earlier coordinator has seen do sound work makes newcomers of those others that have
    /// done none: when they joined, the scheduler could not tell strangers from others. Returns them.
    pub(super) fn arrived(
        &mut self,
        shard: ShardId,
        others: impl Iterator<Item = ShardId>,
        limits: &ScheduleLimits,
        now: Duration,
    ) -> Vec<ShardId> {
        let (proven, mut unproven): (Vec<_>, Vec<_>) = others.partition(|other| self.proven.contains(other));
        if self.proven.contains(&shard) {
            if !std::mem::take(&mut self.awaited) {
                return Vec::new();
            }
            unproven.retain(|unproven| self.must_prove_itself(*unproven, limits, now));
            return unproven;
        }
        if !proven.is_empty() {
            self.must_prove_itself(shard, limits, now);
        }
        Vec::new()
    }

    /// Makes the shard a newcomer. Returns false if it is in quarantine anyway.
    fn must_prove_itself(&mut self, shard: ShardId, limits: &ScheduleLimits, now: Duration) -> bool {
        let standing = self.faded(shard, limits, now);
        let free = standing.quarantined_until.is_none();
        if free {
            (standing.newcomer, standing.quarantined_until) = (true, Some(now));
        }
        free
    }

    /// Restores which shards an earlier coordinator has seen do sound work.
    pub(super) fn restore_proven(&mut self, shards: impl IntoIterator<Item = ShardId>) {
        shards.into_iter().for_each(|shard| self.proves(shard));
        self.awaited = !self.proven.is_empty();
    }

    /// Forgets a newcomer that has left without any work: ids cost nothing, and each would leave a record.
    pub(super) fn left(&mut self, shard: ShardId) {
        let blank =
            |standing: &Standing| standing.newcomer && standing.probation.is_none() && standing.strikes == 0;
        if self.shards.get(&shard).is_some_and(blank) {
            self.shards.remove(&shard);
        }
    }

    /// Notes that the shard has done sound work.
    pub(super) fn proves(&mut self, shard: ShardId) {
        if self.proven.len() < MOST_PROVEN {
            self.proven_changed |= self.proven.insert(shard);
        }
    }

    /// The shards that have done sound work, if they have changed since the last call.
    pub(super) fn changed_proven(&mut self) -> Option<&BTreeSet<ShardId>> {
        std::mem::take(&mut self.proven_changed).then_some(&self.proven)
    }

    /// Notes that the shard is late with its work. If it was late too often in a row it is a newcomer again:
    /// returns its record then.
    pub(super) fn late(
        &mut self,
        shard: ShardId,
        lateness: Lateness,
        limits: &ScheduleLimits,
        now: Duration,
    ) -> Option<StrikeRecord> {
        let standing = self.faded(shard, limits, now);
        standing.unanswered = standing.unanswered.saturating_add(lateness.weight());
        if standing.unanswered < MOST_UNANSWERED || standing.quarantined_until.is_some() {
            return None;
        }
        standing.unanswered = 0;
        (standing.newcomer, standing.quarantined_until) = (true, Some(now));
        let record = standing.record();
        self.proven_changed |= self.proven.remove(&shard);
        Some(record)
    }

    /// Notes that the shard has brought a result.
    pub(super) fn answers(&mut self, shard: ShardId) {
        if let Some(standing) = self.shards.get_mut(&shard) {
            standing.unanswered = 0;
        }
    }

    /// Whether the shard has never done sound work, and must first.
    pub(super) fn is_newcomer(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(|standing| standing.newcomer)
    }

    /// The shards in quarantine, which get no ordinary work.
    pub(super) fn quarantined(&self) -> BTreeSet<ShardId> {
        let quarantined = self.shards.iter().filter(|(_, standing)| standing.quarantined_until.is_some());
        quarantined.map(|(shard, _)| *shard).collect()
    }

    /// Whether the shard is in quarantine.
    pub(super) fn is_quarantined(&self, shard: ShardId) -> bool {
        self.shards.get(&shard).is_some_and(|standing| standing.quarantined_until.is_some())
    }

    /// Whether the result of this assignment does not count.
    pub(super) fn distrusts(&self, assignment: &AssignmentId) -> bool {
        self.shards.get(&assignment.shard).is_some_and(|standing| {
            let trusted = |probation: &Probation| probation.trusted && probation.assignment == *assignment;
            standing.quarantined_until.is_some() && !standing.probation.as_ref().is_some_and(trusted)
        })
    }

    /// Adds a strike, up to `most` strikes in all.
    pub(super) fn add(
        &mut self,
        shard: ShardId,
        most: u32,
        limits: &ScheduleLimits,
        now: Duration,
    ) -> Struck {
        let standing = self.faded(shard, limits, now);
        standing.strikes = standing.strikes.saturating_add(1).min(most.max(standing.strikes));
        let caught = standing.quarantined_until.is_none() && standing.strikes >= limits.max_strikes;
        if caught {
            standing.quarantine(limits, now);
        }
        Struck { record: standing.record(), caught, probation: None }
    }

    /// Quarantines a shard that trusted execution has found wrong, and ends its probation.
    pub(super) fn condemn(&mut self, shard: ShardId, limits: &ScheduleLimits, now: Duration) -> Struck {
        let standing = self.faded(shard, limits, now);
        standing.strikes = standing.strikes.saturating_add(1).max(limits.max_strikes);
        let probation = standing.probation.take().map(|probation| probation.assignment);
        let caught = standing.quarantined_until.is_none();
        // Of several faults found at once, only the first prolongs the quarantine.
        if caught || probation.is_some() {
            standing.quarantine(limits, now);
        }
        Struck { record: standing.record(), caught, probation }
    }

    /// The shard's record, without the strikes that have faded.
    fn faded(&mut self, shard: ShardId, limits: &ScheduleLimits, now: Duration) -> &mut Standing {
        self.make_room(&shard);
        let fresh = || Standing::restored(StrikeRecord::default(), limits, now);
        let standing = self.shards.entry(shard).or_insert_with(fresh);
        standing.fade(limits.strike_decay, now);
        standing
    }

    /// Takes back one strike of a shard that is not in quarantine; returns its record if it had one.
    pub(super) fn forgive(&mut self, shard: ShardId) -> Option<StrikeRecord> {
        let free = |standing: &&mut Standing| standing.strikes > 0 && standing.quarantined_until.is_none();
        let standing = self.shards.get_mut(&shard).filter(free)?;
        standing.strikes -= 1;
        Some(standing.record())
    }

    /// The shards whose quarantine is over and that are not on probation yet.
    pub(super) fn due(&self, now: Duration) -> Vec<Due> {
        let is_due = |standing: &Standing| {
            standing.probation.is_none() && standing.quarantined_until.is_some_and(|until| until <= now)
        };
        let due = self.shards.iter().filter(|(_, standing)| is_due(standing));
        due.map(|(shard, standing)| Due { shard: *shard, in_vain: standing.in_vain }).collect()
    }

    /// Puts the shard of the assignment on probation. `trusted` says that no other shard can do the work.
    pub(super) fn begin_probation(&mut self, assignment: AssignmentId, trusted: bool, now: Duration) {
        if let Some(standing) = self.shards.get_mut(&assignment.shard) {
            standing.probation = Some(Probation { assignment, since: now, delivered: None, trusted });
        }
    }

    /// Whether the assignment is its shard's probation.
    pub(super) fn is_probation(&self, assignment: &AssignmentId) -> bool {
        let probation = self.shards.get(&assignment.shard).and_then(|standing| standing.probation);
        probation.is_some_and(|probation| probation.assignment == *assignment)
    }

    /// Whether a shard on probation has this work, so that its result must be compared.
    pub(super) fn is_on_probation_with(&self, work: &WorkId) -> bool {
        let mut probations = self.shards.values().filter_map(|standing| standing.probation);
        probations.any(|probation| probation.assignment.work == *work)
    }

    /// The work of all probations.
    pub(super) fn on_probation(&self) -> BTreeSet<WorkId> {
        let probations = self.shards.values().filter_map(|standing| standing.probation);
        probations.map(|probation| probation.assignment.work).collect()
    }

    /// Keeps the digest that a shard delivered for its probation, until it can be compared.
    pub(super) fn deliver(&mut self, assignment: &AssignmentId, digest: Option<B256>) {
        let standing = self.shards.get_mut(&assignment.shard);
        if let Some(probation) = standing.and_then(|standing| standing.probation.as_mut())
            && probation.assignment == *assignment
        {
            probation.delivered = digest;
        }
    }

    /// Judges the probations with the work of `first`, whose right result has this digest.
    pub(super) fn verdicts(&self, first: AssignmentId, digest: Option<B256>) -> Vec<(ShardId, bool)> {
        let verdict = |(shard, standing): (&ShardId, &Standing)| {
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
        };
        self.shards.iter().filter_map(verdict).collect()
    }

    /// The probations that end now without a result: those that take too long (failed) and those whose work
    /// is no longer known (void, `None`). `longest` is how long a probation with this work may take.
    pub(super) fn expired(
        &self,
        now: Duration,
        longest: impl Fn(&WorkId) -> Option<Duration>,
    ) -> Vec<(ShardId, Option<bool>)> {
        let verdict = |(shard, standing): (&ShardId, &Standing)| {
            let probation = standing.probation?;
            let Some(limit) = longest(&probation.assignment.work) else { return Some((*shard, None)) };
            let late = now.saturating_sub(probation.since) > limit;
            match probation.delivered {
                // The result is used, and the work stays open until it is verified.
                Some(_) if probation.trusted => None,
                // The shard that should confirm the result may be lost: that is not this shard's fault.
                Some(_) => late.then_some((*shard, None)),
                None => late.then_some((*shard, Some(false))),
            }
        };
        self.shards.iter().filter_map(verdict).collect()
    }

    /// Ends a probation: `passed` releases the shard, or prolongs its quarantine; `None` leaves its record as
    /// it is. Returns `None` if the shard is not on probation.
    pub(super) fn end_probation(
        &mut self,
        shard: ShardId,
        passed: Option<bool>,
        limits: &ScheduleLimits,
        now: Duration,
    ) -> Option<ProbationEnd> {
        let standing = self.shards.get_mut(&shard)?;
        let (probation, newcomer) = (standing.probation.take()?, standing.newcomer);
        standing.in_vain = passed.is_none() && probation.delivered.is_some();
        match passed {
            Some(true) => {
                // A newcomer's probation does not clear the strikes that it had before.
                if !newcomer {
                    (standing.strikes, standing.quarantines) = (0, 0);
                }
                (standing.newcomer, standing.quarantined_until) = (false, None);
            }
            Some(false) => standing.quarantine(limits, now),
            None => {}
        }
        let record = standing.record();
        if passed == Some(true) {
            self.proves(shard);
        }
        Some(ProbationEnd { assignment: probation.assignment, record, newcomer })
    }
}

#[cfg(test)]
mod tests {
    use common::id::{Attempt, Epoch, Incarnation};

    use super::*;

    #[test]
    fn only_silence_without_a_result_between_makes_a_newcomer() {
        let (mut strikes, limits, shard) = (Strikes::default(), ScheduleLimits::default(), ShardId(1));
        for (lateness, most) in [(Lateness::Silent, 3), (Lateness::Busy, 12)] {
            let mut is_late = || strikes.late(shard, lateness, &limits, Duration::ZERO).is_some();
            assert!((1..most).all(|_| !is_late()), "{lateness:?}");
            strikes.answers(shard);
            let mut is_late = || strikes.late(shard, lateness, &limits, Duration::ZERO).is_some();
            assert!((1..most).all(|_| !is_late()) && is_late(), "{lateness:?}");
            assert!(strikes.is_newcomer(shard));
            strikes = Strikes::default();
        }
    }

    #[test]
    fn a_newcomer_that_proves_itself_keeps_its_strikes() {
        let (mut strikes, limits, shard) = (Strikes::default(), ScheduleLimits::default(), ShardId(1));
        strikes.add(shard, u32::MAX, &limits, Duration::ZERO);
        while strikes.late(shard, Lateness::Silent, &limits, Duration::ZERO).is_none() {}
        let (work, incarnation, attempt) = (WorkId::default(), Incarnation(1), Attempt(1));
        let assignment = AssignmentId { work, shard, incarnation, attempt, epoch: Epoch::first() };
        strikes.begin_probation(assignment, false, Duration::ZERO);
        let ended = strikes.end_probation(shard, Some(true), &limits, Duration::ZERO);
        assert_eq!(ended.map(|ended| ended.record.strikes), Some(1));
        assert!(!strikes.is_quarantined(shard));
    }
}
