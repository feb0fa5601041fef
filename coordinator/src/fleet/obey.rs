//! Carries out the scheduler's commands.

use std::sync::atomic::Ordering;

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, TxRange, WorkId};
use common::sealed::Sealed;
use common::work::{ExecuteBlock, WorkSpec};

use super::driver::Driver;
use super::event::{EventKind, publish};
use super::link::LinkCommand;
use super::message::Message;
use super::round::{RoundEvent, singles, work_item};
use super::trace::Ended;
use schedule::{Command, Event, LossCause, StrikeChange, StrikeRecord};

impl Driver {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Admitted(_) | Command::Rejected(_) | Command::RetryLater(_) | Command::Use(_) => {}
            Command::Ignore(assignment) => tracing::debug!(%assignment, "a result was not needed"),
            Command::Dispatch(assignment) => self.dispatch(assignment),
            Command::Cancel(assignment) => {
                self.shared.trace.ended(self.shared.now(), &assignment, Ended::NotNeeded);
                self.command(assignment.shard, assignment.incarnation, LinkCommand::Cancel(assignment));
            }
            Command::Sync(shard) => {
                let commands = self.replicas.doubt(self.shared.now(), shard);
                self.follow(commands, None);
            }
            Command::Reassigned { work, round, from } => {
                self.shared.reassigned.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("shardexec_reassigned_total").increment(1);
                if let Some(round) = self.rounds.get(&round) {
                    let text = format!("work {work} goes to another shard");
                    publish(&self.shared, EventKind::Reassigned, Some(from), Some(round.height), text);
                    round.notify(RoundEvent::Reassigned);
                }
            }
            Command::Evict { shard, incarnation, reason } => self.evict(shard, incarnation, reason),
            Command::Finish(round) => {
                if let Some(round) = self.rounds.remove(&round) {
                    round.notify(RoundEvent::Finished);
                }
            }
            Command::Fail { round, failure } => self.fail(round, failure),
            Command::Check { work, round, first } => {
                if let Some(round) = self.rounds.get(&round) {
                    round.notify(RoundEvent::Check { work, first: first.shard });
                }
            }
            Command::Disagreement { work, round, first, second, digests: [one, other] } => {
                self.dispute(work, round, [(first.shard, one), (second.shard, other)]);
            }
            Command::Recut { round, work } => self.recut(round, work),
            Command::Convict { round, work } => {
                let killer = self.range(round, &[work]).map_or("a transaction".into(), |one| one.to_string());
                let text = format!("{killer} has killed two shards; its block is parked");
                self.alarm(None, text);
            }
            Command::Retire { shard, incarnation, slot, left } => {
                self.alarm(
                    Some(shard),
                    format!("its slot {slot} is stuck and gets no more work; {left} left"),
                );
                if left == 0 {
                    self.restart(shard, incarnation);
                }
            }
            Command::Return { shard, slot, .. } => {
                let text = format!("its slot {slot} moves again, and gets work again");
                publish(&self.shared, EventKind::SlotReturned, Some(shard), None, text);
            }
            Command::Strikes { shard, record, change, reason } => {
                self.struck((shard, None), record, change, &reason)
            }
        }
    }

    /// Restarts a shard whose slots are all stuck. A process is asked to leave, and its supervisor restarts
    /// it; a shard within this process gets new threads.
    fn restart(&mut self, shard: ShardId, incarnation: Incarnation) {
        let local = self.shared.local.lock().get(&shard).cloned();
        match local {
            Some(node) => node.renew_slots(),
            None => self.dismiss(shard, incarnation),
        }
    }

    /// Asks a shard to finish what it holds and to leave.
    pub(super) fn dismiss(&mut self, shard: ShardId, incarnation: Incarnation) {
        self.command(shard, incarnation, LinkCommand::Drain);
        self.event(self.shared.now(), Event::Draining { shard, incarnation });
    }

    fn alarm(&self, shard: Option<ShardId>, text: String) {
        publish(&self.shared, EventKind::Alarm, shard, None, text);
    }

    fn struck(
        &mut self,
        (shard, block): (ShardId, Option<u64>),
        record: StrikeRecord,
        change: StrikeChange,
        reason: &str,
    ) {
        self.shared.keep_strikes(shard, record);
        let state = if record.quarantined { ", in quarantine" } else { "" };
        let text = format!("{reason}; {} strikes{state}", record.strikes);
        let kind = match change {
            StrikeChange::Struck => EventKind::Alarm,
            StrikeChange::Doubted => EventKind::ShardDoubted,
            StrikeChange::Cleared => EventKind::ShardCleared,
        };
        publish(&self.shared, kind, Some(shard), block, text);
    }

    /// Quarantines a shard that trusted execution has found wrong. The alarm names shard and block.
    pub(super) fn blame(&mut self, shard: ShardId, block: u64, reason: String) {
        let now = self.shared.now();
        for command in self.scheduler.handle(now, Event::Blame { shard, reason }) {
            match command {
                Command::Strikes { shard: named, record, change, reason } if named == shard => {
                    self.struck((shard, Some(block)), record, change, &reason);
                }
                other => self.obey(other),
            }
        }
    }

    fn dispute(&mut self, work: WorkId, round: RoundId, answers: [(ShardId, B256); 2]) {
        let [(first, _), (second, _)] = answers;
        let text = format!("shards {first} and {second} returned different results for work {work}");
        let Some(round) = self.rounds.get(&round) else { return self.alarm(None, text) };
        publish(&self.shared, EventKind::Alarm, None, Some(round.height), text);
        round.notify(RoundEvent::Disputed { work, answers });
    }

    /// The range of transactions of these pieces of work.
    pub(super) fn range(&self, round: RoundId, works: &[WorkId]) -> Option<TxRange> {
        let round = self.rounds.get(&round)?;
        let specs = works.iter().filter_map(|work| round.work.get(work));
        TxRange::around(specs.flat_map(|spec| spec.indices.iter().copied()))
    }

    fn fail(&mut self, round: RoundId, failure: schedule::RoundFailure) {
        let failure = failure.map_suspects(|works| self.range(round, &works).unwrap_or_default());
        if let Some(round) = self.rounds.remove(&round) {
            round.notify(RoundEvent::Failed(failure));
        }
    }

    /// Cuts work into single transactions, and notifies the scheduler and the round's owner.
    fn recut(&mut self, id: RoundId, work: WorkId) {
        let now = self.shared.now();
        let mut items = Vec::new();
        if let Some(round) = self.rounds.get_mut(&id)
            && let Some(spec) = round.work.get(&work).cloned()
        {
            let parts = singles(&spec);
            // The scheduler knows which work it must verify, and marks the pieces itself.
            let item = |(id, spec): &(WorkId, Sealed<WorkSpec>)| work_item(*id, spec, &round.gas, false);
            items = parts.iter().map(item).collect();
            // Without pieces the scheduler keeps the work whole, and so must the round's owner.
            if !parts.is_empty() {
                round.work.extend(parts.iter().cloned());
                round.notify(RoundEvent::Recut { work, parts });
            }
        }
        self.handle(now, Event::Recut { round: id, work, parts: items });
    }

    fn evict(&mut self, shard: ShardId, incarnation: Incarnation, reason: String) {
        if self.link(shard, incarnation).is_none() {
            return;
        }
        let Some(link) = self.links.remove(&shard) else { return };
        self.replicas.lose(shard, incarnation);
        self.shared.members.lose(shard, &reason);
        if let Some(probe) = &self.shared.probe {
            probe.lost(shard);
        }
        self.shared.trace.lost(self.shared.now(), shard, incarnation, &reason);
        let kind = if link.draining { EventKind::ShardLeft } else { EventKind::ShardLost };
        publish(&self.shared, kind, Some(shard), None, reason);
    }

    /// Sends a command down a link. If the link's queue is full, the shard no longer listens.
    pub(super) fn command(&mut self, shard: ShardId, incarnation: Incarnation, command: LinkCommand) {
        let Some(link) = self.link(shard, incarnation) else { return };
        if link.commands.try_send(command).is_err() && !self.shared.supervisor.shutdown_token().is_cancelled()
        {
            let reason = "its link takes no more commands".to_owned();
            let lost = Event::Lost { shard, incarnation, cause: LossCause::Unfit, reason };
            let lost = Message::Event(self.shared.now(), lost);
            if let Err(error) = self.shared.send(lost) {
                tracing::error!(%error, "the driver cannot report a lost shard to itself");
            }
        }
    }

    fn dispatch(&mut self, assignment: AssignmentId) {
        let held = self.rounds.values().find_map(|round| Some((round, round.work.get(&assignment.work)?)));
        let Some((round, spec)) = held.map(|(round, spec)| ((round.height, round.block), spec.clone()))
        else {
            return;
        };
        tracing::debug!(%assignment, transactions = spec.indices.len(), "dispatched");
        self.shared.members.assign(assignment);
        self.shared.trace.sent(self.shared.now(), round, assignment, &spec);
        let command = ExecuteBlock { assignment, spec };
        let (shard, incarnation) = (assignment.shard, assignment.incarnation);
        self.command(shard, incarnation, LinkCommand::Execute(Box::new(command)));
    }
}
