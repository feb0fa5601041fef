//! The evidence against work that may kill the process that runs it: losses of shards, deaths alone with a
//! piece of work, and the count of deaths of each block.
//!
//! This module keeps the evidence and judges it; `suspects` acts on the judgement. Times are those at which
//! the coordinator noticed a loss.

use std::collections::VecDeque;
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, ShardId};

use super::kept::{Kept, Visit};

/// The number of blocks whose count of deaths is remembered.
const BLOCKS_COUNTED: usize = 64;

/// The number of losses that are remembered.
const LOSSES_KEPT: usize = 64;

/// The death of an idle shard that held nothing but one suspect transaction.
#[derive(Debug, Clone, Copy)]
struct Death {
    shard: ShardId,
    incarnation: Incarnation,
    at: Duration,
    /// The count of signs of health at that time.
    healthy: u64,
}

/// The evidence against one piece of work, which makes it a suspect.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    since: Duration,
    /// No shard gets the work before this time: the scheduler still judges its last death.
    held_until: Duration,
    /// Deaths that may still turn out to be one of several at once.
    pending: Vec<Death>,
    /// Deaths that count as evidence.
    deaths: Vec<Death>,
    /// Whether a shard has died alone with it.
    killed: bool,
}

impl Suspicion {
    /// A suspicion without deaths that count. `killed` says whether a shard has died alone with the work, or
    /// with the larger piece that it was cut from.
    pub(super) fn new(since: Duration, held_until: Duration, killed: bool) -> Self {
        Self { since, held_until, pending: Vec::new(), deaths: Vec::new(), killed }
    }

    /// Shows `visit` every time that is kept of the suspicion. `is_assigned` says whether a shard has the
    /// suspect now.
    pub(super) fn for_each_time(&mut self, is_assigned: bool, visit: &mut Visit<'_>) {
        let Self { since, held_until, pending, deaths, killed: _ } = self;
        visit(Kept::stays(since, None));
        let due = (!is_assigned).then_some(*held_until);
        visit(Kept::stays(held_until, due));
        for Death { at, shard: _, incarnation: _, healthy: _ } in pending.iter_mut().chain(deaths) {
            visit(Kept::stays(at, None));
        }
    }

    /// No shard gets the work before this time.
    pub(super) fn held_until(&self) -> Duration {
        self.held_until
    }

    /// The shards whose death alone with the suspect counts, or may still count.
    pub(super) fn victims(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.deaths.iter().chain(&self.pending).map(|death| death.shard)
    }

    /// Whether a shard has died alone with the suspect.
    pub(super) fn has_killed(&self) -> bool {
        self.killed
    }

    /// Whether the suspicion rests only on a loss within the window before now, so that further losses may
    /// clear the work.
    pub(super) fn may_be_chance(&self, window: Duration, now: Duration) -> bool {
        !self.killed && now.saturating_sub(self.since) <= window
    }

    /// Notes that a shard has died alone with the suspect, which is held until the death can be judged.
    pub(super) fn has_killed_at(&mut self, held_until: Duration) {
        self.killed = true;
        self.held_until = held_until;
    }

    /// Removes the deaths of a process that has not ended.
    pub(super) fn retract(&mut self, shard: ShardId, incarnation: Incarnation) {
        let other = |death: &Death| (death.shard, death.incarnation) != (shard, incarnation);
        self.pending.retain(other);
        self.deaths.retain(other);
    }

    fn is_proven(&self) -> bool {
        self.deaths.iter().any(|first| {
            self.deaths.iter().any(|second| second.shard != first.shard && second.healthy > first.healthy)
        })
    }
}

/// The count of deaths of shards with work of one block begun.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DeathCount {
    /// Deaths with work whose deadly transaction was not known yet.
    pub(super) searching: u32,
    /// Deaths alone with one transaction.
    pub(super) isolated: u32,
}

/// The counts of deaths of blocks, over all their rounds: a round that fails because shards are missing must
/// not reset the count.
#[derive(Debug, Clone, Default)]
pub(super) struct BlockDeaths {
    counts: VecDeque<(B256, DeathCount)>,
    /// Blocks whose rounds ended because shards were missing, while some of their work was suspect.
    suspect: VecDeque<B256>,
}

impl BlockDeaths {
    /// Counts a death; returns the block's count.
    pub(super) fn add(&mut self, block: B256, isolated: bool) -> DeathCount {
        let known = self.counts.iter().position(|(known, _)| *known == block);
        let mut count = known.and_then(|at| self.counts.remove(at)).unwrap_or_default().1;
        count.isolated += u32::from(isolated);
        count.searching += u32::from(!isolated);
        if self.counts.len() >= BLOCKS_COUNTED {
            self.counts.pop_front();
        }
        self.counts.push_back((block, count));
        count
    }

    /// Forgets the block: it is done, or a client that retries it wants it judged from the start.
    pub(super) fn forget(&mut self, block: &B256) {
        self.counts.retain(|(known, _)| known != block);
        self.suspect.retain(|known| known != block);
    }

    /// Notes that the block's round ended while some of its work was suspect.
    pub(super) fn note_suspect(&mut self, block: B256) {
        if self.was_suspect(&block) {
            return;
        }
        if self.suspect.len() >= BLOCKS_COUNTED {
            self.suspect.pop_front();
        }
        self.suspect.push_back(block);
    }

    /// Whether an earlier round of the block ended while some of its work was suspect.
    pub(super) fn was_suspect(&self, block: &B256) -> bool {
        self.suspect.contains(block)
    }
}

/// What the scheduler has seen of losses and of health.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// Recent losses, to tell a single death from several at once.
    losses: VecDeque<(Duration, ShardId)>,
    /// The number of results used and controls passed: it shows whether the fleet was healthy between two
    /// deaths.
    healthy: u64,
}

impl Evidence {
    /// Shows `visit` the times of all losses.
    pub(super) fn for_each_time(&mut self, visit: &mut Visit<'_>) {
        let Self { losses, healthy: _ } = self;
        for (at, _) in losses {
            visit(Kept::stays(at, None));
        }
    }

    /// Notes a result that was used or a control that was passed.
    pub(super) fn note_health(&mut self) {
        self.healthy += 1;
    }

    /// Notes a loss. Returns whether another shard was lost within the window before.
    pub(super) fn note_loss(&mut self, shard: ShardId, window: Duration, now: Duration) -> bool {
        let many = self.losses.iter().any(|(at, lost)| *lost != shard && at.abs_diff(now) <= window);
        self.losses.push_back((now, shard));
        if self.losses.len() > LOSSES_KEPT {
            self.losses.pop_front();
        }
        many
    }

    /// Whether no shard has been lost.
    pub(super) fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    /// Notes the death of the assignment's shard, alone with the suspect. The death is judged later.
    pub(super) fn note_death(&self, suspicion: &mut Suspicion, assignment: &AssignmentId, now: Duration) {
        let AssignmentId { shard, incarnation, .. } = *assignment;
        suspicion.pending.push(Death { shard, incarnation, at: now, healthy: self.healthy });
    }

    /// Judges the deaths of a suspect whose blame window has passed. Returns whether the suspect is proven to
    /// kill.
    pub(super) fn judge(&self, suspicion: &mut Suspicion, window: Duration, now: Duration) -> bool {
        let due = |death: &Death| now.saturating_sub(death.at) > window;
        let judged: Vec<Death> = suspicion.pending.iter().copied().filter(due).collect();
        suspicion.pending.retain(|death| !due(death));
        for death in judged {
            let one_of_many =
                self.losses.iter().any(|(at, lost)| *lost != death.shard && at.abs_diff(death.at) <= window);
            if !one_of_many {
                suspicion.deaths.push(death);
            }
        }
        suspicion.is_proven()
    }

    /// Whether nothing has shown since the suspect's first death that the fleet is healthy.
    pub(super) fn wants_control(&self, suspicion: &Suspicion) -> bool {
        suspicion.deaths.first().is_some_and(|first| self.healthy <= first.healthy)
    }
}
