//! The slots: one named OS thread each, taking work from a bounded queue.
//!
//! Every thread's `JoinHandle` is kept. A supervising thread waits for threads that end, joins
//! them, reports the work they held, and starts them again a bounded number of times; beyond that
//! it ends too, and with it the process. The process is never alive and doing nothing.
//!
//! A thread cannot be killed. Where it is stuck and its process cannot be started again (a shard
//! within the coordinator), its slot is given to a new thread ([`Slots::renew`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use common::block::ShardBlock;
use common::chain_spec::ChainSpec;
use common::id::{AssignmentId, Gas, SlotIndex, TxIndex};
use common::message::{SlotProgress, SubmitResult};
use common::panic::panic_message;
use common::work::{WorkFailure, WorkSpec};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::fault::{self, FaultKind, Faults, Slowed};
use engine::replica_view::ReplicaView;
use engine::sub_block::{self, Progress};

/// How often threads are started again before the process is given up.
const MAX_RESTARTS: u32 = 64;

/// How many stuck threads lose their slot to another one before the process is given up.
const MAX_RENEWALS: u32 = 64;

/// The stack of a worker thread: the EVM recurses up to 1,024 calls deep in its own frames, and
/// precompiles take their share.
const STACK_BYTES: usize = 16 << 20;

/// One assignment, with all that is needed to do it.
#[derive(Debug)]
pub struct Job {
    /// Which assignment.
    pub assignment: AssignmentId,
    /// The work.
    pub spec: WorkSpec,
    /// Its block.
    pub block: Arc<ShardBlock>,
    /// The chain's rules.
    pub chain: Arc<ChainSpec>,
    /// The base state; none is needed to recover senders.
    pub view: Option<ReplicaView>,
    /// Set when the result is no longer wanted.
    pub cancelled: Arc<AtomicBool>,
}

/// What a slot reports.
#[derive(Debug)]
pub enum SlotEvent {
    /// An assignment has a result.
    Finished(SubmitResult),
    /// An assignment was cancelled and has none.
    Dropped(AssignmentId),
}

/// Takes up what slots report; called on their threads, and may block them for a moment.
pub type Reporter = Arc<dyn Fn(SlotEvent) + Send + Sync>;

/// The slots are all gone, or cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// A thread cannot be started.
    #[error("worker thread {name} cannot be started: {source}")]
    Spawn {
        /// Its name.
        name: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Threads ended too often.
    #[error("worker threads ended {restarts} times, the last with: {last}")]
    TooManyPanics {
        /// How often they were started again.
        restarts: u32,
        /// The last message.
        last: String,
    },
    /// Threads were stuck too often.
    #[error(
        "{renewals} worker threads were stuck; look at the alarms before this, and start the process again"
    )]
    TooManyStuck {
        /// How many.
        renewals: u32,
    },
}

/// What one thread does; heartbeats tell it.
#[derive(Debug, Default)]
struct SlotState {
    transactions: AtomicU64,
    index: AtomicU32,
    gas: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    current: Option<AssignmentId>,
    /// Another thread has taken this one's slot: it finishes what it is at, and ends.
    superseded: bool,
}

impl SlotState {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, assignment: AssignmentId) {
        // What the former work left here says nothing about this one.
        self.gas.store(0, Ordering::Relaxed);
        self.held().current = Some(assignment);
    }

    /// The work is done. Whether the thread goes on with another.
    fn end(&self) -> bool {
        let mut held = self.held();
        held.current = None;
        !held.superseded
    }

    fn current(&self) -> Option<AssignmentId> {
        self.held().current
    }

    /// Whether the thread was at work, and is to end after it.
    fn supersede(&self) -> bool {
        let mut held = self.held();
        held.superseded = held.current.is_some();
        held.superseded
    }
}

impl Progress for SlotState {
    fn at(&self, index: TxIndex, gas: Gas) {
        self.index.store(index.0, Ordering::Relaxed);
        self.gas.store(gas.0, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }
}

/// What each slot's present thread does.
type SlotStates = Arc<[Mutex<Arc<SlotState>>]>;

/// What threads do that have lost their slots; at most [`MAX_RENEWALS`].
type FormerStates = Arc<Mutex<Vec<Weak<SlotState>>>>;

/// What the supervisor of the threads is told.
#[derive(Debug, Clone, Copy)]
enum Notice {
    /// The thread with this number has ended, however that came about.
    Ended(u64),
    /// Threads that are at work are stuck: others take their slots.
    Renew,
}

/// The queue of the slots, and a look at what they do.
#[derive(Debug, Clone)]
pub struct Slots {
    /// `None` once the slots are closed.
    jobs: Arc<Mutex<Option<Sender<Job>>>>,
    states: SlotStates,
    former: FormerStates,
    notices: Sender<Notice>,
}

impl Slots {
    /// Slots, not yet running, with a queue of `queue` jobs; [`SlotSupervisor::run`] runs them.
    #[must_use]
    pub fn new(
        name: &str,
        slots: u16,
        queue: usize,
        faults: Arc<Faults>,
        report: Reporter,
    ) -> (Self, SlotSupervisor) {
        let (jobs, queue) = bounded(queue.max(1));
        let states: SlotStates = (0..slots.max(1)).map(|_| Mutex::default()).collect();
        // Threads end, and are replaced, a bounded number of times: there is room for all of it.
        let (notices, noticed) = bounded(states.len() + 2 * (MAX_RESTARTS + MAX_RENEWALS) as usize);
        let former = FormerStates::default();
        let supervisor = SlotSupervisor {
            name: name.to_owned(),
            queue,
            states: Arc::clone(&states),
            former: Arc::clone(&former),
            faults,
            report,
            notices: notices.clone(),
            noticed,
        };
        (Self { jobs: Arc::new(Mutex::new(Some(jobs))), states, former, notices }, supervisor)
    }

    /// Puts a job into the queue, unless it is full.
    ///
    /// # Errors
    /// The job, when the queue is full or the slots have ended.
    #[allow(clippy::result_large_err)]
    pub fn offer(&self, job: Job) -> Result<(), Job> {
        match self.jobs.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(jobs) => jobs.try_send(job).map_err(crossbeam_channel::TrySendError::into_inner),
            None => Err(job),
        }
    }

    /// Takes no more jobs: the threads end when the queue is empty.
    pub fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Gives the slots of all threads that are at work to new threads. The old ones finish and deliver
    /// what they are at, if they ever do, and end then: a thread cannot be killed.
    pub fn renew(&self) {
        // A full queue of notices means that the supervisor has ended.
        let _ = self.notices.try_send(Notice::Renew);
    }

    /// Work that was accepted, is not finished and is in no slot: it waits in the queue, or a thread
    /// that has lost its slot is still at it. A process with such work is not idle.
    #[must_use]
    pub fn queued(&self) -> usize {
        let waiting =
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Sender::len);
        let former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        let working = former.iter().filter_map(Weak::upgrade).filter(|state| state.current().is_some());
        waiting + working.count()
    }

    /// What each slot is doing.
    #[must_use]
    pub fn progress(&self) -> Vec<SlotProgress> {
        (0..)
            .zip(self.states.iter())
            .map(|(slot, state)| {
                let state = present(state);
                SlotProgress {
                    slot: SlotIndex(slot),
                    transactions: state.transactions.load(Ordering::Relaxed),
                    current: state.current().map(|id| (id, TxIndex(state.index.load(Ordering::Relaxed)))),
                    gas: Gas(state.gas.load(Ordering::Relaxed)),
                }
            })
            .collect()
    }
}

/// The state of a slot's present thread.
fn present(state: &Mutex<Arc<SlotState>>) -> Arc<SlotState> {
    Arc::clone(&state.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Owns the worker threads.
pub struct SlotSupervisor {
    name: String,
    queue: Receiver<Job>,
    states: SlotStates,
    former: FormerStates,
    faults: Arc<Faults>,
    report: Reporter,
    notices: Sender<Notice>,
    noticed: Receiver<Notice>,
}

impl std::fmt::Debug for SlotSupervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotSupervisor").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Tells the supervisor that a thread ends, however it ends.
struct EndGuard {
    number: u64,
    ended: Sender<Notice>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // The supervisor outlives its threads; if it is gone, nobody needs to know.
        let _ = self.ended.send(Notice::Ended(self.number));
    }
}

/// A thread that runs.
struct Worker {
    slot: usize,
    state: Arc<SlotState>,
    /// Another thread has its slot.
    superseded: bool,
    handle: JoinHandle<()>,
}

/// The threads by number, and how often any was started beyond the first of each slot.
#[derive(Default)]
struct Workers {
    running: BTreeMap<u64, Worker>,
    started: u64,
    restarts: u32,
    renewals: u32,
}

impl SlotSupervisor {
    /// Runs the slots until [`Slots::close`] and the queue is empty. A thread that is stuck then, and
    /// has lost its slot, is left behind.
    ///
    /// # Errors
    /// [`SlotsError`] when threads cannot be started, end too often or are stuck too often.
    pub fn run(self) -> Result<(), SlotsError> {
        let mut workers = Workers::default();
        for slot in 0..self.states.len() {
            self.start(&mut workers, slot)?;
        }
        while workers.running.values().any(|worker| !worker.superseded) {
            // The supervisor holds a sender itself: this ends only with a message.
            match self.noticed.recv() {
                Ok(Notice::Ended(number)) => self.ended(&mut workers, number)?,
                Ok(Notice::Renew) => self.renew(&mut workers)?,
                Err(_) => break,
            }
        }
        for worker in workers.running.values() {
            tracing::warn!(slot = worker.slot, "a thread that is stuck is left behind");
        }
        Ok(())
    }

    fn ended(&self, workers: &mut Workers, number: u64) -> Result<(), SlotsError> {
        let Some(worker) = workers.running.remove(&number) else { return Ok(()) };
        let Err(panic) = worker.handle.join() else { return Ok(()) };
        let message = panic_message(panic.as_ref());
        self.report_panic(worker.slot, &worker.state, &message);
        workers.restarts += 1;
        if workers.restarts > MAX_RESTARTS {
            return Err(SlotsError::TooManyPanics { restarts: workers.restarts, last: message });
        }
        if worker.superseded { Ok(()) } else { self.start(workers, worker.slot) }
    }

    fn renew(&self, workers: &mut Workers) -> Result<(), SlotsError> {
        let present = workers.running.values_mut().filter(|worker| !worker.superseded);
        let mut stuck = Vec::new();
        for worker in present.filter(|worker| worker.state.supersede()) {
            worker.superseded = true;
            let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
            former.retain(|state| state.strong_count() > 0);
            former.push(Arc::downgrade(&worker.state));
            stuck.push(worker.slot);
        }
        for slot in stuck {
            workers.renewals += 1;
            if workers.renewals > MAX_RENEWALS {
                return Err(SlotsError::TooManyStuck { renewals: workers.renewals });
            }
            tracing::error!(slot, "a worker thread is stuck; another one takes its slot");
            self.start(workers, slot)?;
        }
        Ok(())
    }

    fn report_panic(&self, slot: usize, state: &SlotState, message: &str) {
        let at = TxIndex(state.index.load(Ordering::Relaxed));
        let held = state.current();
        state.end();
        tracing::error!(slot, message, transaction = at.0, held = ?held.map(|id| id.to_string()),
            "a worker thread panicked and is started again");
        if let Some(assignment) = held {
            let failure = WorkFailure::WorkerPanicked { message: message.to_owned(), at: Some(at) };
            (self.report)(SlotEvent::Finished(SubmitResult {
                assignment,
                outcome: Err(failure),
                digest: None,
            }));
        }
    }

    /// Starts a thread, which has the slot from now on.
    fn start(&self, workers: &mut Workers, slot: usize) -> Result<(), SlotsError> {
        let Some(place) = self.states.get(slot) else { return Ok(()) };
        let state = Arc::new(SlotState::default());
        let number = workers.started;
        workers.started += 1;
        let guard = EndGuard { number, ended: self.notices.clone() };
        let (queue, own, report) = (self.queue.clone(), Arc::clone(&state), Arc::clone(&self.report));
        let faults = Arc::clone(&self.faults);
        let body = move || {
            let _guard = guard;
            while let Ok(job) = queue.recv() {
                if !work_on(job, &own, &faults, &report) {
                    return;
                }
            }
        };
        let name = format!("{}-slot-{slot}", self.name);
        let builder = std::thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES);
        let handle = builder.spawn(body).map_err(|source| SlotsError::Spawn { name, source })?;
        *place.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&state);
        workers.running.insert(number, Worker { slot, state, superseded: false, handle });
        Ok(())
    }
}

/// Does a job. Whether the thread goes on with another.
fn work_on(job: Job, state: &SlotState, faults: &Faults, report: &Reporter) -> bool {
    let Job { assignment, spec, block, chain, view, cancelled } = job;
    state.begin(assignment);
    // A panic ends this thread and leaves `current` set: the supervisor reads what it held.
    let planned = faults.begin(&spec);
    if let Some(fault) = planned {
        // Whoever measures what follows has to know since when.
        tracing::info!(%assignment, ?fault, "a planned fault");
        fault::before(fault);
    }
    let mut outcome = if let Some(FaultKind::SlowTimes(times)) = planned {
        sub_block::run(&spec, &block, &chain, view, &cancelled, &Slowed::new(state, times))
    } else {
        sub_block::run(&spec, &block, &chain, view, &cancelled, state)
    };
    match (planned, &mut outcome) {
        (Some(FaultKind::Wrong), Some(Ok(output))) => fault::falsify(output),
        (Some(FaultKind::Corrupt), _) => faults.damage(assignment),
        (Some(FaultKind::Diverge), _) => faults.diverge(),
        _ => {}
    }
    let goes_on = state.end();
    report(match outcome {
        Some(outcome) => SlotEvent::Finished(SubmitResult { assignment, outcome, digest: None }),
        None => SlotEvent::Dropped(assignment),
    });
    goes_on
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_consensus::Header;
    use alloy_primitives::B256;
    use common::block::Prelude;
    use common::id::{Attempt, Epoch, Height, Incarnation, ShardId, StateRef, WorkId, WorldId};
    use common::work::WorkKind;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(30);

    fn job(number: u8) -> Job {
        let (world, block_hash) = (WorldId::default(), B256::ZERO);
        let base = StateRef { world, height: Height(0), block_hash };
        let (block, inputs) = (B256::ZERO, B256::ZERO);
        let spec = WorkSpec { base, block, inputs, kind: WorkKind::Recover, indices: vec![] };
        let empty = ShardBlock {
            hash: B256::ZERO,
            header: Header::default(),
            transactions: vec![],
            prelude: Prelude::default(),
            inputs,
        };
        let assignment = AssignmentId {
            work: WorkId(B256::repeat_byte(number)),
            shard: ShardId(1),
            incarnation: Incarnation(1),
            attempt: Attempt(1),
            epoch: Epoch { number: 1, instance: 1 },
        };
        let chain = Arc::new(ChainSpec::mainnet());
        Job { assignment, spec, block: Arc::new(empty), chain, view: None, cancelled: Arc::default() }
    }

    #[test]
    fn a_stuck_thread_loses_its_slot_and_still_delivers() {
        let (sender, reports) = bounded(8);
        let report: Reporter = Arc::new(move |event| {
            if let SlotEvent::Finished(result) = event {
                let _ = sender.send(result.assignment);
            }
        });
        let faults = Arc::new(Faults::new(vec!["slow:1500@1".parse().unwrap()]));
        let (slots, supervisor) = Slots::new("test", 1, 4, faults, report);
        let threads = std::thread::spawn(move || supervisor.run());
        let (slow, next) = (job(1), job(2));
        let names = [slow.assignment, next.assignment];
        slots.offer(slow).unwrap();
        while slots.progress().iter().all(|slot| slot.current.is_none()) {
            std::thread::yield_now();
        }
        slots.renew();
        while slots.progress().iter().any(|slot| slot.current.is_some()) {
            std::thread::yield_now();
        }
        assert_eq!(slots.queued(), 1, "the process is not idle while the old thread works");
        slots.offer(next).unwrap();
        let order = [reports.recv_timeout(SOON).unwrap(), reports.recv_timeout(SOON).unwrap()];
        assert_eq!(order, [names[1], names[0]], "the new thread does not wait for the old one");
        let deadline = std::time::Instant::now() + SOON;
        while slots.queued() > 0 {
            assert!(std::time::Instant::now() < deadline, "the old thread's work still counts");
            std::thread::yield_now();
        }
        slots.close();
        threads.join().unwrap().unwrap();
    }

    #[test]
    fn a_slot_that_is_idle_keeps_its_thread() {
        let report: Reporter = Arc::new(|_| {});
        let (slots, supervisor) = Slots::new("test", 2, 4, Arc::default(), report);
        // As many as would be too much if each was a new thread.
        for _ in 0..MAX_RENEWALS {
            slots.renew();
        }
        slots.close();
        supervisor.run().unwrap();
    }
}
