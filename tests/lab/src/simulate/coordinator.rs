//! A model coordinator around the real scheduler. It models the driver, block executor and ledger, and may
//! end between any two steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, Epoch, Incarnation, RoundId, ShardId, StateRef, WorkId};

use super::calls::CallId;
use super::chain::{BlockNumber, block_hash, candidate, state, summary_of};
use super::check::Loss;
use super::disk::{Ending, Fenced};
use super::message::{Answer, ToShard};
use super::network::{Way, arrivals};
use super::trace::{command_line, event_line};
use super::world::{CALL_LIMIT, Happening, World};
use schedule::intake::{Client, Intake, Lineage, Offer, Sequence, Start};
use schedule::replicas::{ReplicaLimits, Replicas};
use schedule::{AssignmentFault, Command, Event, LossCause, Scheduler};

/// The real limits, scaled to the simulator's times.
const REPLICA_LIMITS: ReplicaLimits = ReplicaLimits { sync_pause: Duration::from_millis(40), mismatches: 3 };

/// What the driver keeps of a shard.
#[derive(Debug, Clone)]
pub(super) struct Link {
    process: usize,
    pub(super) incarnation: Incarnation,
}

impl Link {
    pub(super) fn new(process: usize, incarnation: Incarnation) -> Self {
        Self { process, incarnation }
    }
}

/// A pass over a block.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) block: BlockNumber,
    pub(super) round: RoundId,
    pub(super) execute: bool,
    /// Whether a used result is known to be wrong, so that trusted code must execute the block.
    pub(super) disputed: bool,
    pub(super) results: Vec<Option<u64>>,
    pub(super) open: BTreeSet<WorkId>,
    /// The work that must be verified.
    pub(super) verify: BTreeSet<WorkId>,
    /// Used results of shards in quarantine that neither another shard nor trusted code has confirmed.
    pub(super) doubtful: BTreeSet<WorkId>,
    /// The shards whose results were used, in this round and in the block's earlier rounds.
    pub(super) answers: BTreeMap<WorkId, (ShardId, B256)>,
}

/// A process of the model coordinator, with all that it holds in memory. It may have ended.
pub(super) struct Coordinator {
    pub(super) epoch: Epoch,
    pub(super) alive: bool,
    paused_until: Duration,
    pub(super) scheduler: Scheduler,
    pub(super) links: BTreeMap<ShardId, Link>,
    pub(super) replicas: Replicas,
    pub(super) in_flight: BTreeSet<AssignmentId>,
    /// The registration call that the coordinator is deciding.
    pub(super) admitting: Option<CallId>,
    /// Whether the shard must ask again.
    pub(super) retry_later: bool,
    pub(super) intake: Intake,
    pub(super) run: Option<Run>,
    pub(super) committing: bool,
    /// Height and digest of the state that shards must hold: the head's, or that of the parent of the block
    /// under way.
    pub(super) base: (u64, u64),
    /// The state before `base`, if shards moved on from there by a delta.
    pub(super) advances_from: StateRef,
    pub(super) rounds: u64,
    wake_at: Option<Duration>,
}

impl World {
    pub(super) fn front(&self) -> usize {
        self.coordinators.len().saturating_sub(1)
    }

    pub(super) fn coordinator(&mut self, index: usize) -> Option<&mut Coordinator> {
        self.coordinators.get_mut(index).filter(|coordinator| coordinator.alive)
    }

    /// Starts a process on the ledger; shards' calls no longer reach a process that still runs.
    pub(super) fn start_coordinator(&mut self) {
        let former = self.front();
        if self.coordinator(former).is_some() {
            let ends = Happening::ZombieEnds { coordinator: former };
            self.after(Duration::from_millis(1500), ends);
        }
        let epoch = self.disk.raise_epoch();
        let now = self.now;
        let strikes: Vec<_> = self.disk.strikes.iter().map(|(shard, record)| (*shard, *record)).collect();
        let mut intake = Intake::default();
        for (sequence, block) in self.disk.pending() {
            intake.restore(candidate(block, &self.blocks), Sequence(sequence), false);
        }
        for (hash, _) in intake.unparented() {
            if self.block_of(&hash).is_some_and(|block| self.parent_state(block).is_none()) {
                intake.orphaned(&hash);
            }
        }
        let first = intake.started(&self.head_hash(), |hash| {
            self.block_of(hash).and_then(|block| self.disk.starts.get(&block)).copied().unwrap_or(0)
        });
        let mut scheduler = Scheduler::new(epoch, self.limits, now);
        for (shard, record) in &strikes {
            self.check.struck(epoch, *shard, record.quarantined);
        }
        scheduler.restore_strikes(strikes, now);
        scheduler.restore_proven(self.disk.proven.iter().copied());
        let (height, digest) = self.disk.head_state();
        let mut replicas = Replicas::new(REPLICA_LIMITS);
        replicas.lead_to(now, summary_of(state(height, digest)));
        self.coordinators.push(Coordinator {
            epoch,
            alive: true,
            paused_until: Duration::ZERO,
            scheduler,
            links: BTreeMap::new(),
            replicas,
            in_flight: BTreeSet::new(),
            admitting: None,
            retry_later: false,
            intake,
            run: None,
            committing: false,
            base: self.disk.head_state(),
            advances_from: state(0, 0),
            rounds: 0,
            wake_at: None,
        });
        self.trace(|| format!("COORDINATOR starts, epoch {epoch}"));
        let index = self.front();
        match first {
            Some(Start::Count(hash, starts)) => {
                if let Some(block) = self.block_of(&hash) {
                    self.disk.starts.insert(block, starts);
                }
                self.next_block(index);
            }
            Some(Start::Park(hash, _)) => {
                if let Some(block) = self.block_of(&hash) {
                    self.end_block(index, block, Ending::Parked);
                }
            }
            None => {}
        }
        self.wake(index);
    }

    /// The block with this hash.
    pub(super) fn block_of(&self, hash: &B256) -> Option<BlockNumber> {
        (0..self.blocks.len()).find(|block| block_hash(*block) == *hash)
    }

    /// The hash of the chain's head, as the intake knows it.
    pub(super) fn head_hash(&self) -> B256 {
        self.disk.head.map(block_hash).unwrap_or_default()
    }

    /// What the ledger knows of a block's parent.
    fn lineage(&self, block: BlockNumber) -> Lineage {
        match self.blocks.get(block) {
            Some(known) if known.parent == self.disk.head => Lineage::Chain,
            _ if self.parent_state(block).is_some() => Lineage::Side,
            _ => Lineage::Orphan,
        }
    }

    pub(super) fn parent_state(&self, block: BlockNumber) -> Option<(u64, u64)> {
        self.disk.state_after(self.blocks.get(block)?.parent)
    }

    /// Ends the process here if a crash is due; returns whether the process is dead. Called between any two
    /// steps.
    pub(super) fn ends_here(&mut self, index: usize) -> bool {
        if self.coordinator(index).is_none() {
            return true;
        }
        let Some((steps, pause)) = &mut self.crash_in else { return false };
        if *steps > 0 {
            *steps -= 1;
            return false;
        }
        let pause = *pause;
        self.crash_in = None;
        self.kill_coordinator(index, pause);
        true
    }

    pub(super) fn kill_coordinator(&mut self, index: usize, back_after: Duration) {
        let (is_front, limits, now) = (index == self.front(), self.limits, self.now);
        let Some(coordinator) = self.coordinator(index) else { return };
        coordinator.alive = false;
        let (epoch, counters) = (coordinator.epoch, coordinator.scheduler.counters());
        coordinator.scheduler = Scheduler::new(epoch, limits, now);
        self.count(&counters);
        self.trace(|| format!("COORDINATOR of epoch {epoch} dies"));
        if is_front {
            self.after(back_after, Happening::CoordinatorStart);
        }
    }

    pub(super) fn pause_coordinator(&mut self, lasts: Duration) {
        let (now, front) = (self.now, self.front());
        if let Some(coordinator) = self.coordinator(front) {
            coordinator.paused_until = now + lasts;
        }
    }

    /// Submits a block as a client, until it is acknowledged.
    pub(super) fn submit(&mut self, block: BlockNumber) {
        let (now, front) = (self.now, self.front());
        if self.acknowledged.get(block) == Some(&true) {
            return;
        }
        let again = self.micros(30_000, 80_000);
        self.after(again, Happening::Submit(block));
        let Some(coordinator) = self.coordinator(front).filter(|known| known.paused_until <= now) else {
            return;
        };
        let epoch = coordinator.epoch;
        if self.ends_here(front) {
            return;
        }
        // The ledger answers for a block that has ended.
        let offer = if self.disk.ending(block).is_some() {
            Offer::Open
        } else {
            let (offered, lineage) = (candidate(block, &self.blocks), self.lineage(block));
            let client = Client::from("the simulated client");
            let offered =
                self.coordinator(front).map(|known| known.intake.offer(offered, lineage, &client, now));
            let Some(Ok(offer)) = offered else { return };
            offer
        };
        let accepted = match offer {
            Offer::Fresh(sequence) => self.disk.accept(epoch, block, sequence.0),
            Offer::Open | Offer::Parked => Ok(()),
        };
        if self.ends_here(front) {
            return;
        }
        match accepted {
            Ok(()) => {
                self.trace(|| format!("block {block} is journaled: {offer:?}"));
                let lost = self.random.one_in(8);
                if let Some(acknowledged) = self.acknowledged.get_mut(block).filter(|_| !lost) {
                    *acknowledged = true;
                }
                if let Some(coordinator) = self.coordinator(front) {
                    coordinator.intake.confirm(&block_hash(block));
                    self.next_block(front);
                }
            }
            Err(Fenced) => self.stop_fenced(front),
        }
        self.wake(front);
    }

    pub(super) fn at_coordinator(&mut self, happening: Happening) {
        let now = self.now;
        let index = match &happening {
            Happening::ToCoordinator { .. } => self.front(),
            Happening::Obeyed { coordinator, .. }
            | Happening::CommandLost { coordinator, .. }
            | Happening::SyncLost { coordinator, .. }
            | Happening::LinkBroken { coordinator, .. }
            | Happening::CoordinatorWake { coordinator, .. }
            | Happening::CommitDone { coordinator, .. }
            | Happening::Settled { coordinator, .. }
            | Happening::TryAgain { coordinator }
            | Happening::ZombieEnds { coordinator } => *coordinator,
            _ => return,
        };
        let Some(coordinator) = self.coordinator(index) else {
            if let Happening::ToCoordinator { packet } = happening {
                self.answer_call(&packet, Answer::Refused);
            }
            return;
        };
        if coordinator.paused_until > now {
            let resumes = coordinator.paused_until;
            if let Happening::ToCoordinator { packet } = &happening
                && let Some(call) = packet.call()
            {
                self.after(CALL_LIMIT, call.lost());
            }
            self.at(resumes, happening);
            return;
        }
        let call = match &happening {
            Happening::ToCoordinator { packet } => packet.call(),
            _ => None,
        };
        if self.ends_here(index) {
            // The call's connection broke with the process.
            if let Some(call) = call {
                self.after(CALL_LIMIT, call.lost());
            }
            return;
        }
        self.take_at_coordinator(index, happening);
        self.wake(index);
    }

    fn take_at_coordinator(&mut self, index: usize, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::ToCoordinator { packet } => self.called(index, *packet),
            Happening::Obeyed { packet, .. } => self.answered_command(index, *packet),
            Happening::CommandLost { assignment, .. } => {
                let in_flight =
                    self.coordinator(index).is_some_and(|known| known.in_flight.remove(&assignment));
                if in_flight {
                    let reason = "no answer to the command".to_owned();
                    self.tell(index, Event::Failed { assignment, fault: AssignmentFault::Failed, reason });
                }
            }
            Happening::SyncLost { shard, incarnation, .. } => {
                self.synced(index, shard, incarnation, Err("no answer".to_owned()));
            }
            Happening::LinkBroken { shard, incarnation, died, .. } => {
                self.trace(|| format!("the connection to shard {shard} broke, really dead: {died}"));
                let reason = "the connection broke".to_owned();
                // A living process answers when it is asked again.
                let cause = if died { LossCause::Died } else { LossCause::Silent };
                self.tell(index, Event::Lost { shard, incarnation, cause, reason });
            }
            Happening::CoordinatorWake { at, .. } => {
                let Some(coordinator) = self.coordinator(index) else { return };
                if coordinator.wake_at == Some(at) {
                    coordinator.wake_at = None;
                }
                if coordinator.scheduler.next_deadline() <= now {
                    self.tell(index, Event::Tick);
                    self.housekeep(index);
                }
            }
            Happening::CommitDone { block, digest, .. } => self.commit(index, block, digest),
            Happening::Settled { work, answers, .. } => self.settle(index, &work, &answers),
            Happening::TryAgain { .. } => self.next_block(index),
            Happening::ZombieEnds { .. } if index != self.front() => {
                self.kill_coordinator(index, Duration::ZERO);
            }
            _ => {}
        }
    }

    /// Reports a shard whose pings have gone unanswered for too long, if it or its line still stands still.
    pub(super) fn pings_unanswered(&mut self, process: usize, incarnation: u64) {
        let now = self.now;
        let Some(known) = self.processes.get(process) else { return };
        if known.is_impostor && incarnation == 0 {
            self.kill_shard(process, None);
            return;
        }
        let line = self.lines.get(known.line).copied().unwrap_or_default();
        let silent =
            known.frozen_until > now || line.is_cut(Way::FromShard, now) || line.is_cut(Way::ToShard, now);
        if !known.alive || known.incarnation != incarnation || !silent {
            return;
        }
        let (shard, incarnation) = (known.shard, known.incarnation());
        for index in 0..self.coordinators.len() {
            let reason = "pings are not answered".to_owned();
            let awake = self.coordinator(index).is_some_and(|known| known.paused_until <= now);
            if awake {
                self.tell(index, Event::Lost { shard, incarnation, cause: LossCause::Silent, reason });
                self.wake(index);
            }
        }
    }

    fn wake(&mut self, index: usize) {
        let now = self.now;
        let Some(coordinator) = self.coordinator(index) else { return };
        let at = coordinator.scheduler.next_deadline().max(now + Duration::from_micros(1));
        if coordinator.wake_at.is_none_or(|known| known > at || known <= now) {
            coordinator.wake_at = Some(at);
            self.at(at, Happening::CoordinatorWake { coordinator: index, at });
        }
    }

    /// Gives the scheduler an event, and carries out its commands step by step.
    pub(super) fn tell(&mut self, index: usize, event: Event) {
        let now = self.now;
        if self.is_traced() && !matches!(event, Event::Tick | Event::Heartbeat { .. }) {
            self.trace(|| format!("  scheduler <- {}", event_line(&event)));
        }
        let Some(coordinator) = self.coordinators.get_mut(index).filter(|known| known.alive) else { return };
        let transition = coordinator.scheduler.transition(&event);
        *self.transitions.entry(transition).or_default() += 1;
        let cause = match &event {
            Event::Lost { cause, .. } => Some(*cause),
            _ => None,
        };
        let is_tick = matches!(event, Event::Tick);
        let commands = coordinator.scheduler.handle(now, event);
        if let Some(proven) = coordinator.scheduler.changed_proven() {
            self.disk.proven.clone_from(proven);
        }
        let epoch = coordinator.epoch;
        for command in &commands {
            if let Command::Evict { shard, incarnation, .. } = command
                && (matches!(cause, Some(LossCause::Died | LossCause::Silent)) || is_tick)
            {
                let (shard, incarnation, died) = (*shard, *incarnation, cause == Some(LossCause::Died));
                self.check.losses.push(Loss { at: now, epoch, shard, incarnation, died });
            }
        }
        let Some(coordinator) = self.coordinators.get_mut(index) else { return };
        if let Err(wrong) = coordinator.scheduler.audit() {
            self.check.fail(now, wrong);
        }
        for command in commands {
            if self.ends_here(index) {
                return;
            }
            self.obey(index, command);
        }
    }

    pub(super) fn obey(&mut self, index: usize, command: Command) {
        let now = self.now;
        if self.is_traced() {
            self.trace(|| format!("  scheduler -> {}", command_line(&command)));
        }
        match command {
            Command::Rejected(_) | Command::Ignore(_) | Command::Reassigned { .. } => {}
            Command::RetryLater(_) => {
                if let Some(known) = self.coordinator(index) {
                    known.retry_later = true;
                }
            }
            Command::Admitted(shard) => self.connect(index, shard),
            Command::Dispatch(assignment) => self.dispatch(index, assignment),
            Command::Cancel(assignment) => {
                self.send(index, assignment.shard, assignment.incarnation, ToShard::Cancel(assignment));
            }
            Command::Use(_) => {}
            Command::Check { work, .. } => self.check_here(index, work),
            Command::Disagreement { work, first, second, digests: [one, other], .. } => {
                self.recompute(index, work, vec![(first.shard, one), (second.shard, other)]);
            }
            Command::Recut { round, work } => self.recut(index, round, work),
            Command::Convict { work, .. } => {
                let epoch = self.coordinator(index).map(|known| known.epoch);
                // A coordinator that was replaced no longer parks a block, whatever it believes.
                if let Some(epoch) = epoch.filter(|epoch| epoch.number == self.disk.epoch) {
                    self.check.convicted(now, epoch, work, self.limits.blame_window);
                }
            }
            Command::Retire { shard, incarnation, slot, left } => {
                self.retired(index, shard, incarnation, slot, left == 0);
            }
            Command::Return { .. } => {}
            Command::Strikes { shard, record, .. } => {
                if let Some(epoch) = self.coordinator(index).map(|known| known.epoch) {
                    self.check.struck(epoch, shard, record.quarantined);
                }
                self.disk.strikes.insert(shard, record);
            }
            Command::Sync(shard) => {
                let now = self.now;
                let commands = self.coordinator(index).map(|known| known.replicas.doubt(now, shard));
                self.follow(index, commands.unwrap_or_default());
            }
            Command::Evict { shard, incarnation, .. } => {
                if let Some(known) = self.coordinator(index) {
                    known.links.retain(|id, link| *id != shard || link.incarnation != incarnation);
                    known.replicas.lose(shard, incarnation);
                }
            }
            Command::Finish(round) => self.round_done(index, round),
            Command::Fail { round, failure } => self.round_failed(index, round, failure.cause),
        }
    }

    fn dispatch(&mut self, index: usize, assignment: AssignmentId) {
        let now = self.now;
        let Some(known) = self.coordinator(index) else { return };
        known.in_flight.insert(assignment);
        let epoch = known.epoch;
        self.check.sent(now, epoch, assignment.work);
        let sent = self.send(index, assignment.shard, assignment.incarnation, ToShard::Execute(assignment));
        if !sent {
            self.after(CALL_LIMIT, Happening::CommandLost { coordinator: index, assignment });
        }
    }

    /// Sends a command to a shard. Returns false if no copy arrives.
    pub(super) fn send(
        &mut self,
        index: usize,
        shard: ShardId,
        incarnation: Incarnation,
        packet: ToShard,
    ) -> bool {
        let link = self.coordinator(index).and_then(|known| known.links.get(&shard));
        let Some(process) = link.filter(|link| link.incarnation == incarnation).map(|link| link.process)
        else {
            return false;
        };
        let line = self.processes.get(process).and_then(|process| self.lines.get(process.line));
        let line = line.copied().unwrap_or_default();
        let copies = arrivals(&mut self.random, &self.weather, &line, Way::ToShard, self.now);
        for at in copies.into_iter().flatten() {
            self.at(at, Happening::ToShard { process, from: index, packet: packet.clone() });
        }
        copies.iter().any(Option::is_some)
    }
}
