//! What a model shard sends: the calls of its session, and its answers to commands.

use std::sync::Arc;
use std::time::Duration;

use common::id::ShardId;
use common::message::SubmitResult;
use common::work::WorkFailure;
use executor_shard::session::{Action, Session};

use super::message::{Answer, Call, ToCoordinator, ToShard};
use super::network::{Way, arrivals};
use super::world::{CALL_LIMIT, Happening, World};

impl World {
    /// Carries out what the session asks for, and wakes it when it asks to be woken.
    pub(super) fn drive(&mut self, index: usize) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(index).filter(|process| process.alive) else { return };
        let Some(session) = &mut process.session else { return };
        let actions = session.poll(now);
        let wake = session.next_wake();
        let incarnation = process.incarnation;
        for action in actions {
            self.act(index, action);
        }
        let Some(process) = self.processes.get_mut(index).filter(|process| process.alive) else { return };
        if let Some(wake) = wake.map(|wake| wake.max(now + Duration::from_micros(1)))
            && process.wake_at.is_none_or(|at| at > wake)
        {
            process.wake_at = Some(wake);
            self.at(wake, Happening::ShardWake { process: index, incarnation });
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(index) else { return };
        let (shard, incarnation) = (process.shard, process.incarnation());
        let epoch = process.session.as_ref().and_then(Session::epoch);
        let (slots, state) = (process.progress(&self.blocks, now), process.summary());
        let queued = (process.queue.len() + process.detached_count()) as u32;
        match action {
            Action::Register => {
                let slots = process.slots;
                self.call(index, Call::Register, |call| ToCoordinator::Register { call, slots });
            }
            Action::Heartbeat => {
                self.call(index, Call::Beat, |call| ToCoordinator::Heartbeat {
                    call,
                    epoch,
                    slots,
                    queued,
                    state,
                });
            }
            Action::Submit(entry, result) => {
                let damaged = process.corrupt > 0 && result.outcome.is_ok();
                process.corrupt -= u64::from(damaged);
                let result = if damaged { damage(&result) } else { result };
                self.call(index, Call::Submit(entry), |call| ToCoordinator::Submit { call, result });
            }
            Action::AnnounceDraining => {
                self.say(index, ToCoordinator::Draining { shard, incarnation });
            }
            Action::Leave => {
                self.say(index, ToCoordinator::Leave { shard, incarnation });
                self.end_process(index);
            }
            Action::GiveUp(reason) => {
                self.trace(|| format!("shard {shard} gives up: {reason}"));
                self.end_process(index);
            }
        }
    }

    /// The process ends by itself; its operator restarts it unless it is an impostor.
    fn end_process(&mut self, index: usize) {
        let impostor = self.processes.get(index).is_some_and(|process| process.is_impostor);
        let back = self.micros(50_000, 400_000);
        self.stop_shard(index, (!impostor).then_some(back));
    }

    fn call(&mut self, index: usize, kind: Call, packet: impl FnOnce(CallId) -> ToCoordinator) {
        let Some(process) = self.processes.get_mut(index) else { return };
        process.next_call += 1;
        let call = CallId { process: index, incarnation: process.incarnation, call: process.next_call };
        process.calls.insert(call.call, kind);
        if !self.say(index, packet(call)) {
            self.after(CALL_LIMIT, call.lost());
        }
    }

    /// Sends to the process that is the coordinator when the message arrives. Returns false if it is lost on
    /// the way.
    fn say(&mut self, index: usize, packet: ToCoordinator) -> bool {
        let Some(process) = self.processes.get(index) else { return false };
        let line = self.lines.get(process.line).copied().unwrap_or_default();
        let copies = arrivals(&mut self.random, &self.weather, &line, Way::FromShard, self.now);
        for at in copies.into_iter().flatten() {
            self.at(at, Happening::ToCoordinator { packet: Box::new(packet.clone()) });
        }
        copies.iter().any(Option::is_some)
    }

    /// Sends the answer to a command back to the coordinator that gave it.
    pub(super) fn obeyed(&mut self, index: usize, coordinator: usize, packet: ToCoordinator) {
        let Some(process) = self.processes.get(index) else { return };
        let line = self.lines.get(process.line).copied().unwrap_or_default();
        let [first, _] = arrivals(&mut self.random, &self.weather, &line, Way::FromShard, self.now);
        match (first, packet) {
            (Some(at), packet) => self.at(at, Happening::Obeyed { coordinator, packet: Box::new(packet) }),
            (None, ToCoordinator::Executed { assignment, .. }) => {
                self.after(CALL_LIMIT, Happening::CommandLost { coordinator, assignment });
            }
            (None, ToCoordinator::Synced { shard, incarnation, .. }) => {
                self.after(CALL_LIMIT, Happening::SyncLost { coordinator, shard, incarnation });
            }
            (None, _) => {}
        }
    }

    /// Reports to the coordinator that its command has found a dead process.
    pub(super) fn no_process_there(&mut self, coordinator: usize, index: usize, packet: ToShard) {
        let shard = self.processes.get(index).map_or(ShardId(0), |process| process.shard);
        match packet {
            ToShard::Execute(assignment) => {
                self.after(Duration::from_millis(1), Happening::CommandLost { coordinator, assignment });
            }
            ToShard::Sync { incarnation, .. } | ToShard::Advance { incarnation, .. } => {
                let lost = Happening::SyncLost { coordinator, shard, incarnation };
                self.after(Duration::from_millis(1), lost);
            }
            ToShard::Cancel(_) | ToShard::Drain { .. } => {}
        }
    }
}

/// One call of one incarnation of a shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallId {
    pub(super) process: usize,
    pub(super) incarnation: u64,
    pub(super) call: u64,
}

impl CallId {
    pub(super) fn lost(self) -> Happening {
        Happening::CallLost { process: self.process, incarnation: self.incarnation, call: self.call }
    }

    pub(super) fn answered(self, answer: Answer) -> Happening {
        let Self { process, incarnation, call } = self;
        Happening::Answered { process, incarnation, call, answer: Box::new(answer) }
    }
}

/// A result whose bytes do not fit their digest, as the transport reports it.
fn damage(result: &Arc<SubmitResult>) -> Arc<SubmitResult> {
    Arc::new(SubmitResult { assignment: result.assignment, outcome: Err(WorkFailure::Damaged), digest: None })
}
