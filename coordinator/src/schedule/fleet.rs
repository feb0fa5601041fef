//! The scheduler's picture of its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::id::{AssignmentId, Incarnation, ShardId, StateRef};

/// One shard.
#[derive(Debug, Clone)]
pub(super) struct Shard {
    pub(super) incarnation: Incarnation,
    pub(super) slots: u16,
    pub(super) state: Option<StateRef>,
    pub(super) draining: bool,
    pub(super) heard_at: Duration,
    /// Transactions done, and since when that many.
    pub(super) progress: (u64, Duration),
    /// After a refusal it is left alone until then.
    pub(super) rests_until: Duration,
    pub(super) outstanding: BTreeSet<AssignmentId>,
}

/// The shards that are alive.
#[derive(Debug, Clone, Default)]
pub(super) struct Shards {
    pub(super) alive: BTreeMap<ShardId, Shard>,
}

impl Shards {
    /// The shard, if it is alive and this is its life.
    pub(super) fn get_mut(&mut self, shard: ShardId, incarnation: Incarnation) -> Option<&mut Shard> {
        self.alive.get_mut(&shard).filter(|known| known.incarnation == incarnation)
    }

    /// The least busy shard that could take work on `base` now, by outstanding assignments per
    /// slot. None of `busy_with_it`; the one that has just lost it only if there is no other.
    pub(super) fn choose(
        &self,
        base: Option<StateRef>,
        depth: usize,
        now: Duration,
        prefer: &[ShardId],
        busy_with_it: &[AssignmentId],
        lost_by: Option<ShardId>,
    ) -> Option<ShardId> {
        let mut able: Vec<(&ShardId, &Shard)> = self
            .alive
            .iter()
            .filter(|(id, shard)| {
                !shard.draining
                    && shard.rests_until <= now
                    && base.is_none_or(|base| shard.state == Some(base))
                    // Without a base any state of any world will do, but there must be one.
                    && shard.state.is_some()
                    && shard.outstanding.len() < depth * usize::from(shard.slots)
                    && !busy_with_it.iter().any(|assignment| assignment.shard == **id)
            })
            .collect();
        let idle =
            |wanted: &ShardId| able.iter().any(|(id, shard)| *id == wanted && shard.outstanding.is_empty());
        if let Some(wanted) = prefer.iter().find(|wanted| idle(wanted)) {
            return Some(*wanted);
        }
        // Compares a/b with c/d as a·d with c·b: exact, and no division.
        able.sort_by(|(left_id, left), (right_id, right)| {
            let a = left.outstanding.len() * usize::from(right.slots);
            let b = right.outstanding.len() * usize::from(left.slots);
            let lost = |id: &ShardId| lost_by == Some(*id);
            lost(left_id).cmp(&lost(right_id)).then(a.cmp(&b)).then(left_id.cmp(right_id))
        });
        able.first().map(|(id, _)| **id)
    }
}
