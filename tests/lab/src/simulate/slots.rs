//! The model of slots that stand still: the effect of a retirement, and whether it was right.

use common::id::{Incarnation, ShardId, SlotIndex};

use super::chain::HEAVY_GAS;
use super::message::ToShard;
use super::network::Way;
use super::shard::gas_of;
use super::world::World;
use schedule::Event;

impl World {
    fn process_of(&self, shard: ShardId, incarnation: Incarnation) -> Option<usize> {
        self.processes.iter().position(|process| {
            process.shard == shard && process.incarnation() == incarnation && process.alive
        })
    }

    /// Handles the retirement of a slot; if the shard has no slot left it restarts.
    pub(super) fn retired(
        &mut self,
        index: usize,
        shard: ShardId,
        incarnation: Incarnation,
        slot: SlotIndex,
        none_left: bool,
    ) {
        let now = self.now;
        let Some(process) = self.process_of(shard, incarnation) else { return };
        let standing = self.processes.get(process).and_then(|known| known.standing(slot, now));
        if let Some((piece, at, stood)) = standing
            && gas_of(&self.blocks, &piece, at) == HEAVY_GAS
            && stood < self.limits.longest(HEAVY_GAS)
            // No heartbeat may have reported yet that the slot has only just moved there.
            && stood > self.limits.stuck_floor
        {
            let what =
                format!("slot {slot} of shard {shard} was retired in the time of its heavy transaction");
            self.check.fail(now, what);
        }
        if !none_left {
            return;
        }
        if self.in_process {
            self.renew_slots(process);
            return;
        }
        self.send(index, shard, incarnation, ToShard::Drain { incarnation });
        self.tell(index, Event::Draining { shard, incarnation });
        // The stuck slot never lets it finish, so the process ends after its own grace period.
        let back = self.micros(10_000, 100_000);
        self.kill_shard(process, Some(back));
    }

    /// Gives the slots to new threads; the old ones deliver what they run if they ever finish.
    fn renew_slots(&mut self, process: usize) {
        self.trace(|| format!("process {process} gets new threads"));
        if let Some(known) = self.processes.get_mut(process) {
            let stuck: Vec<_> = known.running.iter_mut().filter_map(Option::take).collect();
            known.detach(stuck);
        }
        self.begin_work(process);
    }

    /// A slot that the scheduler gives no work although it could work.
    pub(super) fn left_out(&self) -> Option<(ShardId, SlotIndex)> {
        let now = self.now;
        let front = self.coordinators.get(self.front()).filter(|known| known.alive)?;
        let works = |(shard, incarnation, slot): &(ShardId, Incarnation, SlotIndex)| {
            let process = self.process_of(*shard, *incarnation).and_then(|index| self.processes.get(index));
            process.is_some_and(|process| {
                let line = self.lines.get(process.line).copied().unwrap_or_default();
                let reachable = !line.is_cut(Way::FromShard, now) && process.frozen_until <= now;
                reachable && process.standing(*slot, now).is_none()
            })
        };
        let retired = front.scheduler.retired_slots().find(works)?;
        Some((retired.0, retired.2))
    }
}
