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
//! Silence, goodbyes and drains blame no work, and neither do losses of several shards at once.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, WorkId};

use super::fleet::Shard;
use super::machine::Scheduler;
use super::rounds::Work;
use super::turn::Turn;
use super::{Command, FailCause, LossCause, WorkClass, WorkItem};

/// The number of blocks whose count of deaths is remembered.
const TOLLS_KEPT: usize = 64;

/// The number of losses that are remembered.
const LOSSES_KEPT: usize = 64;

/// The death of an idle shard that held nothing but one suspect transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) shard: ShardId,
    incarnation: Incarnation,
    pub(super) at: Duration,
    /// The scheduler's count of results used and controls passed at that time.
    pub(super) healthy: u64,
}

/// The evidence against a piece of work.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    since: Duration,
    /// No shard gets the work before this time: the scheduler still judges its last death.
    pub(super) held_until: Duration,
    /// Deaths that may still turn out to be one of several at once.
    pending: Vec<Death>,
    /// Deaths that count as evidence.
    pub(super) deaths: Vec<Death>,
    /// Whether a shard has died alone with it.
    killed: bool,
}

impl Suspicion {
    fn new(since: Duration, held_until: Duration, killed: bool) -> Self {
        Self { since, held_until, pending: Vec::new(), deaths: Vec::new(), killed }
    }

    /// The shards whose death alone with the suspect counts, or may still count.
    pub(super) fn victims(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.deaths.iter().chain(&self.pending).map(|death| death.shard)
    }

    pub(super) fn has_killed(&self) -> bool {
        self.killed
    }

    fn is_proven(&self) -> bool {
        self.deaths.iter().any(|first| {
            self.deaths.iter().any(|second| second.shard != first.shard && second.healthy > first.healthy)
        })
    }
}

/// The count of deaths of shards with work of a block begun.
#[derive(Debug, Clone, Copy, Default)]
struct Deaths {
    /// Deaths with work whose deadly transaction was not known yet.
    searching: u32,
    /// Deaths alone with one transaction.
    isolated: u32,
}

/// The counts of deaths of blocks, over all their rounds: a round that fails because shards are missing must
/// not reset the count.
#[derive(Debug, Clone, Default)]
pub(super) struct Toll {
    blocks: VecDeque<(B256, Deaths)>,
    /// Blocks whose rounds ended because shards were missing, while some of their work was suspect.
    feared: VecDeque<B256>,
}

impl Toll {
    fn add(&mut self, block: B256, isolated: bool) -> Deaths {
        let known = self.blocks.iter().position(|(known, _)| *known == block);
        let mut deaths = known.and_then(|at| self.blocks.remove(at)).unwrap_or_default().1;
        deaths.isolated += u32::from(isolated);
        deaths.searching += u32::from(!isolated);
        if self.blocks.len() >= TOLLS_KEPT {
            self.blocks.pop_front();
        }
        self.blocks.push_back((block, deaths));
        deaths
    }

    pub(super) fn forget(&mut self, block: &B256) {
        self.blocks.retain(|(known, _)| known != block);
        self.feared.retain(|known| known != block);
    }

    pub(super) fn fear(&mut self, block: B256) {
        if self.fears(&block) {
            return;
        }
        if self.feared.len() >= TOLLS_KEPT {
            self.feared.pop_front();
        }
        self.feared.push_back(block);
    }

    pub(super) fn fears(&self, block: &B256) -> bool {
        self.feared.contains(block)
    }
}

impl Scheduler {
    /// Handles the loss of a shard: decides what follows for the work that it may have begun.
    pub(super) fn blame_for(
        &mut self,
        shard: ShardId,
        known: &Shard,
        alone_with: Option<AssignmentId>,
        cause: LossCause,
        turn: &mut Turn,
    ) {
        if !matches!(cause, LossCause::Died | LossCause::Silent) {
            return;
        }
        let many = self.others_lost_around(turn.now(), shard);
        self.losses.push_back((turn.now(), shard));
        if self.losses.len() > LOSSES_KEPT {
            self.losses.pop_front();
        }
        if many {
            self.acquit_the_unproven(turn.now());
        }
        if cause != LossCause::Died {
            return;
        }
        if !many {
            self.take_toll(known, turn);
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
    fn take_toll(&mut self, known: &Shard, turn: &mut Turn) {
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
            let deaths = self.toll.add(block, isolated);
            // The search may cost twice as many deaths as its last step, the short one with a single
            // transaction.
            let limit = self.limits.max_attempts;
            if deaths.isolated >= limit || deaths.searching >= limit * 2 {
                self.toll.forget(&block);
                let cause = FailCause::Parked { suspects: vec![work], convicted: false };
                let deaths = deaths.isolated + deaths.searching;
                let reason = format!(
                    "{deaths} shards died while they executed this block; look at their logs, then retry or discard it"
                );
                self.give_up(work, cause, reason, turn);
            }
        }
    }

    /// Whether another shard was lost within the blame window before or after.
    fn others_lost_around(&self, at: Duration, shard: ShardId) -> bool {
        let window = self.limits.blame_window;
        self.losses.iter().any(|(lost_at, lost)| *lost != shard && lost_at.abs_diff(at) <= window)
    }

    /// Removes the deaths of a process that registers: it has not ended, only its connection had.
    pub(super) fn retract(&mut self, shard: ShardId, incarnation: Incarnation) {
        let other = |death: &Death| (death.shard, death.incarnation) != (shard, incarnation);
        for suspicion in self.work.values_mut().filter_map(|work| work.suspicion.as_mut()) {
            suspicion.pending.retain(other);
            suspicion.deaths.retain(other);
        }
    }

    /// Clears work that became suspect by the first of several losses at once.
    fn acquit_the_unproven(&mut self, now: Duration) {
        let window = self.limits.blame_window;
        for work in self.work.values_mut() {
            let fresh = |suspicion: &mut Suspicion| {
                !suspicion.killed && now.saturating_sub(suspicion.since) <= window
            };
            if work.suspicion.take_if(fresh).is_some() {
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
        let healthy = self.healthy;
        let Some(work) = self.work.get_mut(&assignment.work) else { return };
        let suspicion = work.suspicion.get_or_insert_with(|| Suspicion::new(turn.now(), turn.now(), true));
        suspicion.killed = true;
        suspicion.held_until = held_until;
        if work.first.is_some() {
            // The scheduler uses its result already: shards try it as a whole, then the block is parked.
            return;
        }
        if work.item.transactions <= 1 {
            if !was_idle {
                // From now on the work runs on idle shards only.
                return;
            }
            suspicion.pending.push(Death {
                shard: assignment.shard,
                incarnation: assignment.incarnation,
                at: turn.now(),
                healthy,
            });
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
        let Some(former) = self.work.get(&whole).cloned() else {
            // The result of the whole has arrived meanwhile.
            self.finish_if_done(round, &whole, turn);
            return;
        };
        if parts.is_empty() || former.first.is_some() {
            if let Some(work) = self.work.get_mut(&whole) {
                work.indivisible = true;
            }
            return;
        }
        if let Some(known) = self.rounds.get_mut(&round) {
            let place = known.open.iter().position(|open| *open == whole).unwrap_or(known.open.len());
            let end = (place + 1).min(known.open.len());
            known.open.splice(place..end, parts.iter().map(|part| part.id));
        }
        self.work.remove(&whole);
        let held_until = former.suspicion.map_or(turn.now(), |suspicion| suspicion.held_until);
        for part in parts {
            let item = WorkItem { verify: former.item.verify, ..part };
            let mut work = Work::new(item, round);
            // This piece may hold the transaction that kills; tries at the whole do not count against it.
            work.deaths = former.deaths;
            work.suspicion = Some(Suspicion::new(turn.now(), held_until, true));
            self.work.insert(item.id, work);
        }
    }

    /// Judges the deaths whose blame window has passed, and convicts transactions.
    pub(super) fn judge_suspects(&mut self, turn: &mut Turn) {
        if self.losses.is_empty() {
            return;
        }
        let window = self.limits.blame_window;
        let mut proven = Vec::new();
        let losses = &self.losses;
        for work in self.work.values_mut() {
            let Some(suspicion) = &mut work.suspicion else { continue };
            let due = |death: &Death| turn.now().saturating_sub(death.at) > window;
            let judged: Vec<Death> = suspicion.pending.iter().copied().filter(due).collect();
            suspicion.pending.retain(|death| !due(death));
            for death in judged {
                let one_of_many =
                    losses.iter().any(|(at, lost)| *lost != death.shard && at.abs_diff(death.at) <= window);
                if !one_of_many {
                    suspicion.deaths.push(death);
                }
            }
            if suspicion.is_proven() {
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
            let cause = FailCause::Parked { suspects: vec![work], convicted: true };
            let reason = "a transaction has killed two shards that did nothing else; discard the block, or retry it with another build".to_owned();
            self.give_up(work, cause, reason, turn);
        }
    }

    /// Whether the suspect waits for a sign that the fleet has been healthy since its first death.
    pub(super) fn wants_control(&self, work: &Work) -> bool {
        let deaths = work.suspicion.as_ref().map(|suspicion| suspicion.deaths.as_slice());
        deaths.and_then(<[Death]>::first).is_some_and(|first| self.healthy <= first.healthy)
    }
}
