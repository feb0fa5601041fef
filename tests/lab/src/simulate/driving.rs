//! The model of the coordinator's endpoint and links: calls of shards, answers to commands, and replicas on
//! their way to the head.

use std::sync::Arc;

use common::endpoint::PeerError;
use common::id::{AssignmentId, Incarnation, ShardId};
use common::message::{Registered, ResultReceipt, StateSummary, SubmitResult};

use super::calls::CallId;
use super::chain::{Piece, digest, numbers, state};
use super::coordinator::Link;
use super::message::{Answer, ToCoordinator, ToShard};
use super::network::{Way, arrivals};
use super::world::{BEAT, CALL_LIMIT, Happening, World};
use schedule::replicas::ReplicaCommand;
use schedule::{AssignmentFault, Command, Event, LossCause};

impl ToCoordinator {
    /// The call that waits for an answer to this message.
    pub(super) fn call(&self) -> Option<CallId> {
        match self {
            Self::Register { call, .. } | Self::Heartbeat { call, .. } | Self::Submit { call, .. } => {
                Some(*call)
            }
            _ => None,
        }
    }
}

impl World {
    pub(super) fn answer_call(&mut self, packet: &ToCoordinator, answer: Answer) {
        if let Some(call) = packet.call() {
            self.answer(call, answer);
        }
    }

    fn answer(&mut self, call: CallId, answer: Answer) {
        let line = self.processes.get(call.process).and_then(|process| self.lines.get(process.line));
        let line = line.copied().unwrap_or_default();
        let copies = arrivals(&mut self.random, &self.weather, &line, Way::ToShard, self.now);
        if copies.iter().all(Option::is_none) {
            self.after(CALL_LIMIT, call.lost());
        }
        for at in copies.into_iter().flatten() {
            self.at(at, call.answered(answer.clone()));
        }
    }

    /// Handles a call of a shard.
    pub(super) fn called(&mut self, index: usize, packet: ToCoordinator) {
        match packet {
            ToCoordinator::Register { call, slots } => self.register(index, call, slots),
            ToCoordinator::Heartbeat { call, epoch, slots, queued, state } => {
                let Some((shard, incarnation)) = self.caller(call) else { return };
                let known = self.check_known(index, shard, incarnation);
                let ours = self.coordinator(index).map(|known| known.epoch);
                let answer = match known {
                    Ok(()) if epoch != ours => Err(PeerError::NotRegistered("another epoch".into())),
                    known => known,
                };
                if answer.is_ok() {
                    self.tell(index, Event::Heartbeat { shard, incarnation, slots, queued });
                    let now = self.now;
                    let commands = self
                        .coordinator(index)
                        .map(|known| known.replicas.heartbeat(now, shard, incarnation, state));
                    self.follow(index, commands.unwrap_or_default());
                }
                self.answer(call, Answer::Beat(answer));
            }
            ToCoordinator::Submit { call, result } => self.result(index, call, &result),
            ToCoordinator::Draining { shard, incarnation } => {
                if self.check_known(index, shard, incarnation).is_ok() {
                    self.tell(index, Event::Draining { shard, incarnation });
                }
            }
            ToCoordinator::Leave { shard, incarnation } => {
                if self.check_known(index, shard, incarnation).is_ok() {
                    self.tell(index, Event::Draining { shard, incarnation });
                    let reason = "drained".to_owned();
                    self.tell(index, Event::Lost { shard, incarnation, cause: LossCause::Left, reason });
                }
            }
            ToCoordinator::Executed { .. } | ToCoordinator::Synced { .. } => {}
        }
    }

    fn caller(&self, call: CallId) -> Option<(ShardId, Incarnation)> {
        self.processes.get(call.process).map(|process| (process.shard, Incarnation(call.incarnation)))
    }

    fn check_known(
        &mut self,
        index: usize,
        shard: ShardId,
        incarnation: Incarnation,
    ) -> Result<(), PeerError> {
        let link = self.coordinator(index).and_then(|known| known.links.get(&shard));
        match link.map(|link| link.incarnation) {
            Some(known) if known == incarnation => Ok(()),
            Some(_) => Err(PeerError::Refused("another process has its place".into())),
            None => Err(PeerError::NotRegistered("not part of the fleet".into())),
        }
    }

    fn register(&mut self, index: usize, call: CallId, slots: u16) {
        let Some((shard, incarnation)) = self.caller(call) else { return };
        if let Some(known) = self.coordinator(index) {
            known.admitting = Some(call);
            known.retry_later = false;
        }
        self.tell(index, Event::Register { shard, incarnation, slots });
        let Some(known) = self.coordinator(index) else {
            self.after(CALL_LIMIT, call.lost());
            return;
        };
        known.admitting = None;
        let (epoch, retry_later) = (known.epoch, known.retry_later);
        let taken = known.links.get(&shard).is_some_and(|link| link.incarnation == incarnation);
        let answer = if taken {
            Ok(Registered { epoch, heartbeat_every: BEAT, lost_after: self.limits.lost_after })
        } else if retry_later {
            Err(PeerError::Overloaded("perhaps alive in another process".into()))
        } else {
            Err(PeerError::Refused("alive in another process".into()))
        };
        self.answer(call, Answer::Registered(answer));
    }

    /// Connects to a shard that the scheduler has admitted.
    pub(super) fn connect(&mut self, index: usize, shard: ShardId) {
        let Some(known) = self.coordinator(index) else { return };
        let Some(call) = known.admitting else { return };
        let incarnation = Incarnation(call.incarnation);
        if known.links.get(&shard).is_none_or(|link| link.incarnation != incarnation) {
            let link = Link::new(call.process, incarnation);
            known.links.insert(shard, link);
            known.replicas.join(shard, incarnation);
        }
    }

    fn result(&mut self, index: usize, call: CallId, result: &Arc<SubmitResult>) {
        let now = self.now;
        let assignment = result.assignment;
        self.check.results_at.push(now);
        let receipt = match &result.outcome {
            Err(failure) => {
                let fault = AssignmentFault::from(failure);
                let reason = format!("{failure:?}");
                self.tell(index, Event::Failed { assignment, fault, reason });
                ResultReceipt::Ignored
            }
            Ok(_) => self.sound_result(index, assignment, &numbers(&result.outcome)),
        };
        if self.coordinator(index).is_some() {
            self.answer(call, Answer::Submitted(Ok(receipt)));
        } else {
            self.after(CALL_LIMIT, call.lost());
        }
    }

    fn sound_result(&mut self, index: usize, assignment: AssignmentId, found: &[u64]) -> ResultReceipt {
        let now = self.now;
        let work = assignment.work;
        let wire = self.verification.wire;
        let Some(known) = self.coordinator(index) else { return ResultReceipt::Ignored };
        // A result over the network carries its digest; one from within the process does not.
        let wanted = wire || known.scheduler.wants_digest(&work);
        let digest = wanted.then(|| digest(found));
        let event = Event::Result { assignment, digest };
        let transition = known.scheduler.transition(&event);
        let verified = known.scheduler.counters().verified;
        let commands = known.scheduler.handle(now, event);
        let agreed = known.scheduler.counters().verified > verified;
        let audit = known.scheduler.audit();
        *self.transitions.entry(transition).or_default() += 1;
        if let Err(wrong) = audit {
            self.check.fail(now, wrong);
        }
        let uses = commands.iter().filter(|command| matches!(command, Command::Use(_))).count();
        for _ in 0..uses {
            self.use_result(index, assignment, found);
        }
        if agreed && let Some(run) = self.coordinators.get_mut(index).and_then(|known| known.run.as_mut()) {
            run.doubtful.remove(&work);
        }
        for command in commands {
            if self.ends_here(index) {
                break;
            }
            self.obey(index, command);
        }
        if uses > 0 { ResultReceipt::Used } else { ResultReceipt::Ignored }
    }

    fn use_result(&mut self, index: usize, assignment: AssignmentId, found: &[u64]) {
        let now = self.now;
        let work = assignment.work;
        let Some(known) = self.coordinators.get_mut(index) else { return };
        let epoch = known.epoch;
        let Some(run) = &mut known.run else {
            return self.check.fail(now, "a result was used while no round was open");
        };
        let (open, round) = (run.open.remove(&work), run.round.0);
        let first = usize::from(Piece::of(&work).first);
        for (place, number) in run.results.iter_mut().skip(first).zip(found) {
            *place = Some(*number);
        }
        run.answers.insert(work, (assignment.shard, digest(found)));
        if self.check.is_struck(epoch, assignment.shard) && !run.verify.contains(&work) {
            run.doubtful.insert(work);
        }
        self.check.used(now, epoch, round, work, open);
        if assignment.epoch > epoch {
            self.check.fail(now, "a result of a later epoch was used");
        }
    }

    pub(super) fn answered_command(&mut self, index: usize, packet: ToCoordinator) {
        match packet {
            ToCoordinator::Executed { assignment, answer } => {
                let Some(known) = self.coordinator(index) else { return };
                let (was_in_flight, epoch) = (known.in_flight.remove(&assignment), known.epoch);
                if !was_in_flight {
                    return;
                }
                let event = match answer {
                    Ok(()) => Event::Accepted(assignment),
                    Err(error) => {
                        let fault = AssignmentFault::from(&error);
                        if fault == AssignmentFault::Busy {
                            self.check.not_begun(epoch, assignment.work);
                        }
                        Event::Failed { assignment, fault, reason: error.to_string() }
                    }
                };
                self.tell(index, event);
            }
            ToCoordinator::Synced { shard, incarnation, answer } => {
                self.synced(index, shard, incarnation, answer);
            }
            _ => {}
        }
    }

    /// Carries out the commands about replicas, as the real driver does.
    pub(super) fn follow(&mut self, index: usize, commands: Vec<ReplicaCommand>) {
        for command in commands {
            let Some(epoch) = self.coordinator(index).map(|known| known.epoch) else { return };
            match command {
                ReplicaCommand::Sync { shard, incarnation, target } => {
                    let packet = ToShard::Sync { epoch, incarnation, target: target.state };
                    self.move_replica(index, shard, incarnation, packet);
                }
                ReplicaCommand::Advance { shard, incarnation } => {
                    let Some(known) = self.coordinator(index) else { return };
                    let (from, target) = (known.advances_from, state(known.base.0, known.base.1));
                    let packet = ToShard::Advance { epoch, incarnation, from, target };
                    self.move_replica(index, shard, incarnation, packet);
                }
                ReplicaCommand::Holds { shard, incarnation, state } => {
                    self.tell(index, Event::State { shard, incarnation, state });
                }
                ReplicaCommand::AtTarget { .. } | ReplicaCommand::Diverged { .. } => {}
            }
        }
    }

    fn move_replica(&mut self, index: usize, shard: ShardId, incarnation: Incarnation, packet: ToShard) {
        if !self.send(index, shard, incarnation, packet) {
            self.after(CALL_LIMIT, Happening::SyncLost { coordinator: index, shard, incarnation });
        }
    }

    pub(super) fn synced(
        &mut self,
        index: usize,
        shard: ShardId,
        incarnation: Incarnation,
        answer: Result<StateSummary, String>,
    ) {
        let now = self.now;
        let Some(known) = self.coordinator(index) else { return };
        let commands = known.replicas.reached(now, shard, incarnation, answer);
        self.follow(index, commands);
    }

    pub(super) fn housekeep(&mut self, index: usize) {
        let now = self.now;
        let commands = self.coordinator(index).map(|known| known.replicas.tick(now));
        self.follow(index, commands.unwrap_or_default());
    }
}
