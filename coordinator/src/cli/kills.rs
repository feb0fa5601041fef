//! Planned kills: `--kill SHARD@BLOCK` ends a shard's process while it holds sub-blocks that it has
//! accepted and not answered.

use std::str::FromStr;
use std::sync::Arc;

use common::id::ShardId;
use parking_lot::Mutex;

use crate::fleet::Probe;

/// A shard to kill, and during which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// The shard whose process is killed.
    pub(super) shard: ShardId,
    /// The ordinal of the block in the run, from 1.
    pub(super) block: u64,
}

impl FromStr for Kill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not SHARD@BLOCK, for example 1@7");
        let (shard, block) = text.split_once('@').ok_or_else(error)?;
        let shard = ShardId(shard.parse().map_err(|_| error())?);
        let block = block.parse().ok().filter(|block| *block > 0).ok_or_else(error)?;
        Ok(Self { shard, block })
    }
}

/// Ends a shard's process.
pub(super) type Killer = Arc<dyn Fn() + Send + Sync>;

struct Planned {
    shard: ShardId,
    killer: Killer,
    done: bool,
}

/// The kills of the block that is executed.
#[derive(Default)]
pub(super) struct PlannedKills {
    planned: Mutex<Vec<Planned>>,
}

impl std::fmt::Debug for PlannedKills {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shards: Vec<ShardId> = self.planned.lock().iter().map(|planned| planned.shard).collect();
        f.debug_struct("PlannedKills").field("shards", &shards).finish()
    }
}

impl PlannedKills {
    /// Kills this shard as soon as it has accepted a sub-block.
    pub(super) fn plan(&self, shard: ShardId, killer: Killer) {
        self.planned.lock().push(Planned { shard, killer, done: false });
    }

    /// The block has ended: shards that have accepted no sub-block of it are killed now, and named.
    pub(super) fn end_block(&self) -> Vec<ShardId> {
        let planned = std::mem::take(&mut *self.planned.lock());
        let idle = planned.into_iter().filter(|planned| !planned.done);
        idle.inspect(|planned| (planned.killer)()).map(|planned| planned.shard).collect()
    }
}

impl Probe for PlannedKills {
    fn accepted(&self, shard: ShardId, _: usize) -> bool {
        let mut planned = self.planned.lock();
        let due = planned.iter_mut().find(|planned| planned.shard == shard && !planned.done);
        let Some(due) = due else { return false };
        due.done = true;
        (due.killer)();
        true
    }

    /// From the start of the block on: the shard is killed while it holds all that it was given.
    fn holds_back(&self, shard: ShardId) -> bool {
        self.planned.lock().iter().any(|planned| planned.shard == shard)
    }

    fn lost(&self, shard: ShardId) {
        self.planned.lock().retain(|planned| planned.shard != shard || !planned.done);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_shard_is_killed_once_and_while_it_holds_what_it_was_given() {
        let kills = PlannedKills::default();
        let count = Arc::new(AtomicU32::new(0));
        let (shard, counted) = (ShardId(1), Arc::clone(&count));
        kills.plan(
            shard,
            Arc::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
        assert!(!kills.accepted(ShardId(2), 1) && !kills.holds_back(ShardId(2)));
        assert!(kills.holds_back(shard) && kills.accepted(shard, 1));
        assert!(kills.holds_back(shard) && !kills.accepted(shard, 2));
        kills.lost(shard);
        assert!(!kills.holds_back(shard), "what its next process returns counts");
        assert_eq!((kills.end_block(), count.load(Ordering::Relaxed)), (vec![], 1));
    }

    #[test]
    fn a_shard_without_work_is_killed_at_the_end_of_the_block() {
        let kills = PlannedKills::default();
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        kills.plan(
            ShardId(3),
            Arc::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
        assert_eq!(kills.end_block(), [ShardId(3)]);
        assert_eq!((kills.end_block(), count.load(Ordering::Relaxed)), (vec![], 1));
    }
}
