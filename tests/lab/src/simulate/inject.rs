//! Injects the faults of a history.

use std::time::Duration;

use super::fault::{Fault, FaultKind};
use super::shard::Process;
use super::world::{Happening, World};

/// The time after which a process that was asked to drain ends although a slot is stuck.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

/// The time after which its supervisor starts it again.
const BACK_AFTER_DRAIN: Duration = Duration::from_millis(50);

impl World {
    pub(super) fn inject(&mut self, fault: usize) {
        let Some(fault) = self.faults.get(fault).copied() else { return };
        self.injected.push(fault.kind);
        self.trace(|| format!("FAULT {} shard {} for {:?}", fault.kind.name(), fault.shard + 1, fault.lasts));
        match fault.kind {
            FaultKind::ShardCrash => self.kill_shard(fault.shard, Some(fault.lasts)),
            FaultKind::FleetCrash => {
                for shard in 0..self.lines.len() {
                    let back = fault.lasts + self.micros(0, 50_000);
                    self.kill_shard(shard, Some(back));
                }
            }
            FaultKind::ShardFreeze => self.freeze(&fault),
            FaultKind::PartitionBoth | FaultKind::PartitionFromShard | FaultKind::PartitionToShard => {
                self.cut(&fault);
            }
            FaultKind::Impostor => self.start_impostor(&fault),
            FaultKind::ConnectionReset => {
                if let Some(process) = self.processes.get(fault.shard).filter(|process| process.alive) {
                    let (shard, incarnation, line) = (process.shard, process.incarnation(), process.line);
                    self.break_links(shard, incarnation, line, false);
                }
            }
            FaultKind::Drop | FaultKind::Delay | FaultKind::Duplicate | FaultKind::Reorder => {
                self.worsen(&fault);
            }
            FaultKind::CoordinatorCrash => self.crash_in = Some((fault.strength, fault.lasts)),
            FaultKind::CoordinatorPause => self.pause_coordinator(fault.lasts),
            FaultKind::TakeOver => self.start_coordinator(),
            _ => self.afflict(&fault),
        }
    }

    /// Injects a fault inside one shard.
    fn afflict(&mut self, fault: &Fault) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(fault.shard).filter(|process| process.alive) else {
            return;
        };
        match fault.kind {
            FaultKind::ShardSlow => {
                process.slow_until = now + fault.lasts;
                process.slowness = 2 + 2 * fault.strength;
            }
            FaultKind::SlotHang => process.hangs += 1,
            FaultKind::SlotStall => process.stalls.push(fault.lasts * 2 + Duration::from_millis(500)),
            FaultKind::WorkerPanic => process.panics += fault.strength.div_ceil(4),
            FaultKind::ReplicaLost => process.replica = None,
            FaultKind::ReplicaDiverged => process.diverged = true,
            FaultKind::CorruptResult => process.corrupt += fault.strength.div_ceil(3),
            FaultKind::WrongResult => process.wrong += fault.strength.div_ceil(3),
            FaultKind::ShardDrain => {
                process.drain();
                let (process, incarnation) = (fault.shard, process.incarnation);
                self.after(DRAIN_GRACE, Happening::DrainOver { process, incarnation });
                self.drive(process);
            }
            _ => {}
        }
    }

    /// Ends a process that has drained for too long: a stuck slot never lets it finish.
    pub(super) fn drain_is_over(&mut self, process: usize, incarnation: u64) {
        if self.processes.get(process).is_some_and(|known| known.alive && known.incarnation == incarnation) {
            self.kill_shard(process, Some(BACK_AFTER_DRAIN));
        }
    }

    fn freeze(&mut self, fault: &Fault) {
        let until = self.now + fault.lasts;
        let Some(process) = self.processes.get_mut(fault.shard).filter(|process| process.alive) else {
            return;
        };
        process.frozen_until = process.frozen_until.max(until);
        let incarnation = process.incarnation;
        let limit = self.limits.lost_after;
        self.after(limit, Happening::PingsUnanswered { process: fault.shard, incarnation });
    }

    fn cut(&mut self, fault: &Fault) {
        let until = self.now + fault.lasts;
        let Some(line) = self.lines.get_mut(fault.shard) else { return };
        if fault.kind != FaultKind::PartitionToShard {
            line.cut_from_until = line.cut_from_until.max(until);
        }
        if fault.kind != FaultKind::PartitionFromShard {
            line.cut_to_until = line.cut_to_until.max(until);
        }
        let limit = self.limits.lost_after;
        let lines = self.lines.len();
        let on_line: Vec<(usize, u64)> = (0..)
            .zip(&self.processes)
            .filter(|(index, process)| process.line == fault.shard && *index < lines && process.alive)
            .map(|(index, process)| (index, process.incarnation))
            .collect();
        for (process, incarnation) in on_line {
            self.after(limit, Happening::PingsUnanswered { process, incarnation });
        }
    }

    fn worsen(&mut self, fault: &Fault) {
        let until = self.now + fault.lasts.min(Duration::from_millis(500));
        match fault.kind {
            FaultKind::Drop => self.weather.drops_until = until,
            FaultKind::Delay => self.weather.delays_until = until,
            FaultKind::Duplicate => self.weather.duplicates_until = until,
            _ => self.weather.reorders_until = until,
        }
    }

    fn start_impostor(&mut self, fault: &Fault) {
        let Some(victim) = self.processes.get(fault.shard) else { return };
        let mut impostor = Process::new(victim.shard, victim.slots, victim.line);
        impostor.is_impostor = true;
        self.processes.push(impostor);
        let index = self.processes.len() - 1;
        self.start_shard(index);
        // An operator notices the mistake if the coordinator does not.
        self.after(Duration::from_millis(800), Happening::PingsUnanswered { process: index, incarnation: 0 });
    }
}
