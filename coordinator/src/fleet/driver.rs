//! The driver: the thread that runs the scheduler and carries out its commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::account::Delta;
use common::endpoint::PeerError;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, WorkId};
use common::message::{Register, Registered, ResultReceipt, StateSummary, SubmitResult};
use common::sealed::Sealed;
use common::strikes::FleetRecord;
use common::work::{WorkFailure, WorkKind, outcome_digest};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use engine::MAX_MEMORY;
use net::limits::PeerLimits;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::event::{EventKind, publish};
use super::link::{LINK_QUEUE, Link, LinkCommand, run_link};
use super::message::{Beat, LinkId, Message};
use super::round::{Abandoned, HeldRound, RoundEvent, RoundEvents, RoundRequest, work_item};
use super::trace::Ended;
use super::waiting::{Waiter, Waiting};
use super::{FleetError, Shared};
use schedule::replicas::{ReplicaCommand, ReplicaLimits, Replicas};
use schedule::{AssignmentFault, Command, Event, Scheduler};

/// The driver's state, owned by its thread.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    messages: Receiver<Message>,
    pub(super) scheduler: Scheduler,
    pub(super) links: HashMap<ShardId, Link>,
    pub(super) rounds: HashMap<RoundId, HeldRound>,
    pub(super) replicas: Replicas,
    pub(super) waiters: Vec<Waiter>,
    pub(super) waiting_for: Waiting,
    links_made: u64,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, messages: Receiver<Message>) -> Self {
        let scheduler = Scheduler::new(shared.epoch, shared.options.schedule, Duration::ZERO);
        let (links, rounds) = (HashMap::new(), HashMap::new());
        Self {
            shared,
            messages,
            scheduler,
            links,
            rounds,
            replicas: Replicas::new(ReplicaLimits::default()),
            waiters: Vec::new(),
            waiting_for: Waiting::default(),
            links_made: 0,
        }
    }

    /// Runs until `stop`, which it notices within a tick.
    pub(super) fn run(mut self, stop: &CancellationToken) -> Result<(), FleetError> {
        while !stop.is_cancelled() {
            if let Some(damage) = self.shared.damage.get() {
                return Err(FleetError::Damaged(damage.clone()));
            }
            let wait = self.scheduler.next_deadline().saturating_sub(self.shared.now());
            match self.messages.recv_timeout(wait) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(FleetError::Ended),
            }
            // Take all messages that have arrived before judging any deadline.
            while let Ok(message) = self.messages.try_recv() {
                self.take(message);
            }
            let now = self.shared.now();
            if self.scheduler.next_deadline() <= now {
                self.handle(now, Event::Tick);
                self.housekeep(now);
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        let now = self.shared.now();
        match message {
            Message::Event(at, event) => self.event(at, event),
            Message::Register(request, reply) => self.register(now, request, reply),
            Message::Result(result, reply) => self.result(now, result, reply),
            Message::Heartbeat(shard) => self.heartbeat(now, shard),
            Message::LinkEnded { link, cause, reason } => {
                // If a newer link has replaced this one, its end says nothing about the shard.
                if self.by_id(link).is_some() {
                    let LinkId { shard, incarnation, .. } = link;
                    self.handle(now, Event::Lost { shard, incarnation, cause, reason });
                }
            }
            Message::Reached { link, answer } => self.reached(now, link, answer),
            Message::Open(request, events) => self.open(now, request, events),
            Message::Abandon(round, reply) => {
                let deadly = self.range(round, &self.scheduler.deadly_work(round));
                let _ = reply.send(Abandoned { deadly, suspect: self.scheduler.is_suspect(round) });
                self.rounds.remove(&round);
                self.handle(now, Event::Abandon { round });
            }
            Message::Target(target) => {
                let commands = self.replicas.lead_to(now, target);
                self.follow(commands, None);
                self.check_waiting();
            }
            Message::Advance(delta) => {
                let target = StateSummary { state: delta.to, digest: delta.digest };
                let commands = self.replicas.advance(now, delta.from, target);
                self.follow(commands, Some(&delta));
            }
            Message::Blame { shard, block, reason } => self.blame(shard, block, reason),
            Message::Checked { work, digest } => self.handle(now, Event::Checked { work, digest }),
            Message::Restore(FleetRecord { strikes, proven }) => {
                self.scheduler.restore_strikes(strikes, now);
                self.scheduler.restore_proven(proven);
            }
            Message::WaitNoLonger => self.scheduler.wait_no_longer(),
            Message::Drain(shard, reply) => {
                let incarnation = self.links.get(&shard).map(|link| link.incarnation);
                incarnation.into_iter().for_each(|incarnation| self.dismiss(shard, incarnation));
                let _ = reply.send(incarnation.is_some());
            }
            Message::Shards(reply) => {
                let _ = reply.send(self.views());
            }
            Message::WhenReady { wanted, until, reply } => {
                self.waiting_for.ask(wanted, until);
                self.waiters.push(Waiter { wanted, until, reply });
                self.check_waiting();
            }
        }
    }

    fn heartbeat(&mut self, now: Duration, shard: ShardId) {
        let beat = self.shared.beats.lock().remove(&shard);
        let Some(Beat { incarnation, at, state, slots, queued }) = beat else { return };
        if let Some(link) = self.link(shard, incarnation) {
            link.longest_gap = link.longest_gap.max(at.saturating_sub(link.heard_at));
            link.heard_at = link.heard_at.max(at);
        }
        self.handle(at, Event::Heartbeat { shard, incarnation, slots, queued });
        let commands = self.replicas.heartbeat(now, shard, incarnation, state);
        self.follow(commands, None);
    }

    /// Gives the scheduler an event and carries out its commands.
    pub(super) fn handle(&mut self, now: Duration, event: Event) {
        if let Event::Failed { assignment, reason, .. } = &event {
            self.shared.trace.ended(now, assignment, Ended::Failed(reason.clone()));
        }
        let commands = self.decide(now, event);
        commands.into_iter().for_each(|command| self.obey(command));
    }

    /// The scheduler's commands that follow from the event.
    fn decide(&mut self, now: Duration, event: Event) -> Vec<Command> {
        let commands = self.scheduler.handle(now, event);
        // Before anybody hears of the result that has proven a shard, and stores what is known of shards.
        if let Some(proven) = self.scheduler.changed_proven() {
            self.shared.record.lock().proven.clone_from(proven);
        }
        commands
    }

    pub(super) fn event(&mut self, at: Duration, event: Event) {
        match &event {
            Event::Draining { shard, incarnation } => {
                if let Some(link) = self.link(*shard, *incarnation).filter(|link| !link.draining) {
                    link.draining = true;
                    publish(
                        &self.shared,
                        EventKind::ShardDraining,
                        Some(*shard),
                        None,
                        "finishes what it holds".into(),
                    );
                }
            }
            Event::Accepted(assignment) => self.probe(*assignment),
            _ => {}
        }
        self.handle(at, event);
    }

    /// Does the driver's own work at every tick, besides the scheduler's.
    fn housekeep(&mut self, now: Duration) {
        self.waiters.retain(|waiter| waiter.until > now);
        let commands = self.replicas.tick(now);
        self.follow(commands, None);
        self.report_wait(now);
    }

    fn by_id(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id.shard).filter(|link| link.id == id)
    }

    pub(super) fn link(&mut self, shard: ShardId, incarnation: Incarnation) -> Option<&mut Link> {
        self.links.get_mut(&shard).filter(|link| link.incarnation == incarnation)
    }

    /// The round of a sub-block; `None` if the work recovers senders or is not known.
    fn executing(&self, work: &WorkId) -> Option<&HeldRound> {
        let is_it = |round: &&HeldRound| {
            round.work.get(work).is_some_and(|spec| matches!(spec.kind, WorkKind::Execute { .. }))
        };
        self.rounds.values().find(is_it)
    }

    /// Notifies the probe that a shard has accepted a sub-block.
    fn probe(&self, assignment: AssignmentId) {
        let Some(probe) = &self.shared.probe else { return };
        let Some(round) = self.executing(&assignment.work) else { return };
        let (shard, held) = (assignment.shard, self.scheduler.outstanding(assignment.shard));
        if self.scheduler.is_outstanding(&assignment) && probe.accepted(shard, held) {
            let text = format!("it holds {held} assignments");
            publish(&self.shared, EventKind::PlannedKill, Some(shard), Some(round.height), text);
        }
    }

    fn is_held_back(&self, assignment: &AssignmentId) -> bool {
        let probe = self.shared.probe.as_ref();
        probe.is_some_and(|probe| probe.holds_back(assignment.shard))
            && self.executing(&assignment.work).is_some()
    }

    fn register(
        &mut self,
        now: Duration,
        request: Register,
        reply: oneshot::Sender<Result<Registered, PeerError>>,
    ) {
        let (shard, incarnation, slots) = (request.shard, request.incarnation, request.slots);
        if let Err(error) = self.shared.members.may_join(shard, incarnation, &request.token) {
            let _ = reply.send(Err(error));
            return;
        }
        let mut answer = Err(PeerError::Refused(format!(
            "shard {shard} is alive in another process; give this one another --shard-id"
        )));
        let mut request = Some(request);
        for command in self.scheduler.handle(now, Event::Register { shard, incarnation, slots }) {
            if command == Command::Admitted(shard)
                && let Some(request) = request.take()
            {
                // The same incarnation keeps its link when it registers again; a broken link reports its end
                // itself.
                if self.link(shard, incarnation).is_none() {
                    self.connect(request);
                }
                let PeerLimits { beat, lost_after, .. } = self.shared.options.peer;
                answer = Ok(Registered { epoch: self.shared.epoch, heartbeat_every: beat, lost_after });
            } else {
                if command == Command::RetryLater(shard) {
                    let text = format!(
                        "another process is shard {shard}; the coordinator is finding out whether that process is alive"
                    );
                    answer = Err(PeerError::Overloaded(text));
                }
                self.obey(command);
            }
        }
        let _ = reply.send(answer);
    }

    fn connect(&mut self, request: Register) {
        let (commands, queue) = mpsc::channel(LINK_QUEUE);
        let stop = CancellationToken::new();
        let shard = request.shard;
        self.links_made += 1;
        let id = LinkId { shard, incarnation: request.incarnation, number: self.links_made };
        let link = Link {
            id,
            incarnation: request.incarnation,
            address: request.advertise.clone(),
            slots: request.slots,
            draining: false,
            results: 0,
            heard_at: self.shared.now(),
            longest_gap: Duration::ZERO,
            commands,
            stop: stop.clone(),
        };
        self.shared.members.join(shard, request.incarnation, request.token);
        self.shared.count_join(shard);
        let place = if link.address.is_empty() { "this process".to_owned() } else { link.address.clone() };
        let text = format!("{} with {} slots at {place}", request.build, request.slots);
        publish(&self.shared, EventKind::ShardJoined, Some(shard), None, text);
        self.replicas.join(shard, request.incarnation);
        self.links.insert(shard, link);
        let shared = Arc::clone(&self.shared);
        self.shared.supervisor.spawn_job(format!("link-{shard}"), async move {
            run_link(shared, request, id, queue, stop).await;
            Ok::<(), FleetError>(())
        });
    }

    fn open(&mut self, now: Duration, request: RoundRequest, events: RoundEvents) {
        let RoundRequest { round, height, block, work, verify, gas } = request;
        let item = |(id, spec): &(WorkId, Sealed<_>)| work_item(*id, spec, &gas, verify.contains(id));
        let items = work.iter().map(item).collect();
        let work = work.into_iter().collect();
        self.rounds.insert(round, HeldRound { height, block, work, gas, events });
        self.handle(now, Event::Admit { round, block, work: items });
    }

    fn result(
        &mut self,
        now: Duration,
        result: Arc<SubmitResult>,
        reply: oneshot::Sender<Result<ResultReceipt, PeerError>>,
    ) {
        let assignment = result.assignment;
        if self.is_held_back(&assignment) {
            let _ = reply.send(Err(PeerError::Overloaded("a probe holds results back".into())));
            return;
        }
        let receipt = match &result.outcome {
            Err(failure) => {
                self.failed(now, assignment, failure);
                ResultReceipt::Ignored
            }
            Ok(output) => {
                let mut digest = result.digest;
                if digest.is_none() && self.scheduler.wants_digest(&assignment.work) {
                    // The result comes from a shard within this process: it was never encoded.
                    digest = outcome_digest(Ok(output)).ok();
                }
                let commands = self.decide(now, Event::Result { assignment, digest });
                let used = commands.contains(&Command::Use(assignment));
                let ended = if used { Ended::Used } else { Ended::NotNeeded };
                self.shared.trace.ended(now, &assignment, ended);
                if used {
                    tracing::debug!(%assignment, "a result is used");
                    if let Some(link) = self.link(assignment.shard, assignment.incarnation) {
                        link.results += 1;
                    }
                    let round = self.rounds.values().find(|round| round.work.contains_key(&assignment.work));
                    if let Some(round) = round {
                        round.notify(RoundEvent::Output { result: Arc::clone(&result), digest });
                    }
                }
                for command in commands {
                    self.obey(command);
                }
                if used { ResultReceipt::Used } else { ResultReceipt::Ignored }
            }
        };
        let _ = reply.send(Ok(receipt));
    }

    fn failed(&mut self, now: Duration, assignment: AssignmentId, failure: &WorkFailure) {
        let reason = match failure {
            WorkFailure::WorkerPanicked { message, at } => {
                let at = at.map_or_else(String::new, |index| format!(" at transaction {index}"));
                format!("a worker thread panicked{at}: {message}")
            }
            WorkFailure::Damaged => "its result arrived damaged".to_owned(),
            WorkFailure::BaseGone => "the base state is gone".to_owned(),
            WorkFailure::State(reason) => reason.clone(),
            WorkFailure::Memory(index) => {
                format!("transaction {index} needs more than {MAX_MEMORY} bytes of EVM memory")
            }
        };
        tracing::warn!(%assignment, reason, "an assignment failed");
        self.handle(now, Event::Failed { assignment, fault: AssignmentFault::from(failure), reason });
    }

    /// Carries out the commands about replicas. `delta` is the step by which the fleet advances.
    pub(super) fn follow(&mut self, commands: Vec<ReplicaCommand>, delta: Option<&Sealed<Delta>>) {
        for command in commands {
            match command {
                ReplicaCommand::Sync { shard, incarnation, target } => {
                    self.command(shard, incarnation, LinkCommand::Sync(target));
                }
                ReplicaCommand::Advance { shard, incarnation } => {
                    if let Some(delta) = delta {
                        self.command(shard, incarnation, LinkCommand::Advance(delta.clone()));
                    }
                }
                ReplicaCommand::Holds { shard, incarnation, state } => {
                    self.handle(self.shared.now(), Event::State { shard, incarnation, state });
                }
                ReplicaCommand::AtTarget { shard, fresh } => {
                    if let Some(held) = self.replicas.state(shard).filter(|_| fresh) {
                        let text = format!("block {}", held.state.height);
                        publish(&self.shared, EventKind::ShardSynced, Some(shard), None, text);
                    }
                    self.check_waiting();
                }
                ReplicaCommand::Diverged { shard } => {
                    let text = "its replica is not what it should be; it is synced again".to_owned();
                    publish(&self.shared, EventKind::Alarm, Some(shard), None, text);
                }
            }
        }
    }

    /// Handles a shard's answer to a sync or a delta.
    fn reached(&mut self, now: Duration, id: LinkId, answer: Result<StateSummary, String>) {
        if self.by_id(id).is_none() {
            return;
        }
        let LinkId { shard, incarnation, .. } = id;
        if let Err(reason) = &answer {
            tracing::warn!(shard = shard.0, reason, "a shard did not reach the state");
        }
        let commands = self.replicas.reached(now, shard, incarnation, answer);
        self.follow(commands, None);
    }
}
