//! The slots: one named OS thread each, taking work from a bounded queue.
//!
//! Every thread's `JoinHandle` is kept. A supervising thread waits for threads that end, joins
//! them, reports the work they held, and starts them again a bounded number of times; beyond that
//! it ends too, and with it the process. The process is never alive and doing nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use common::block::ShardBlock;
use common::chain_spec::ChainSpec;
use common::id::{AssignmentId, SlotIndex, TxIndex};
use common::message::{SlotProgress, SubmitResult};
use common::telemetry::panic_message;
use common::work::{WorkFailure, WorkSpec};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::fault::{self, FaultKind, Faults, Slowed};
use crate::replica::ReplicaView;
use crate::sub_block::{self, Progress};

/// How often threads are started again before the process is given up.
const MAX_RESTARTS: u32 = 64;

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
}

#[derive(Debug, Default)]
struct SlotState {
    transactions: AtomicU64,
    index: AtomicU32,
    current: Mutex<Option<AssignmentId>>,
}

impl SlotState {
    fn set(&self, assignment: Option<AssignmentId>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = assignment;
    }

    fn current(&self) -> Option<AssignmentId> {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for SlotState {
    fn at(&self, index: TxIndex) {
        self.index.store(index.0, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }
}

/// The queue of the slots, and a look at what they do.
#[derive(Debug, Clone)]
pub struct Slots {
    /// `None` once the slots are closed.
    jobs: Arc<Mutex<Option<Sender<Job>>>>,
    states: Arc<[SlotState]>,
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
        let states: Arc<[SlotState]> = (0..slots.max(1)).map(|_| SlotState::default()).collect();
        let supervisor =
            SlotSupervisor { name: name.to_owned(), queue, states: Arc::clone(&states), faults, report };
        (Self { jobs: Arc::new(Mutex::new(Some(jobs))), states }, supervisor)
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

    /// Jobs that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Sender::len)
    }

    /// What each slot is doing.
    #[must_use]
    pub fn progress(&self) -> Vec<SlotProgress> {
        (0..)
            .zip(self.states.iter())
            .map(|(slot, state)| SlotProgress {
                slot: SlotIndex(slot),
                transactions: state.transactions.load(Ordering::Relaxed),
                current: state.current().map(|id| (id, TxIndex(state.index.load(Ordering::Relaxed)))),
            })
            .collect()
    }
}

/// Owns the worker threads.
pub struct SlotSupervisor {
    name: String,
    queue: Receiver<Job>,
    states: Arc<[SlotState]>,
    faults: Arc<Faults>,
    report: Reporter,
}

impl std::fmt::Debug for SlotSupervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotSupervisor").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Tells the supervisor that a thread ends, however it ends.
struct EndGuard {
    slot: usize,
    ended: Sender<usize>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // The supervisor outlives its threads; if it is gone, nobody needs to know.
        let _ = self.ended.send(self.slot);
    }
}

impl SlotSupervisor {
    /// Runs the slots until [`Slots::close`] and the queue is empty.
    ///
    /// # Errors
    /// [`SlotsError`] when threads cannot be started, or end too often.
    pub fn run(self) -> Result<(), SlotsError> {
        let (ended, ends) = bounded(self.states.len());
        let mut threads: Vec<Option<JoinHandle<()>>> = Vec::new();
        for slot in 0..self.states.len() {
            threads.push(Some(self.start(slot, ended.clone())?));
        }
        let mut restarts = 0;
        while threads.iter().any(Option::is_some) {
            // The loop holds a sender itself: this ends only with a message.
            let Ok(slot) = ends.recv() else { break };
            let Some(handle) = threads.get_mut(slot).and_then(Option::take) else { continue };
            let Err(panic) = handle.join() else { continue };
            let message = panic_message(panic.as_ref());
            self.report_panic(slot, &message);
            restarts += 1;
            if restarts > MAX_RESTARTS {
                return Err(SlotsError::TooManyPanics { restarts, last: message });
            }
            let thread = self.start(slot, ended.clone())?;
            if let Some(place) = threads.get_mut(slot) {
                *place = Some(thread);
            }
        }
        Ok(())
    }

    fn report_panic(&self, slot: usize, message: &str) {
        let Some(state) = self.states.get(slot) else { return };
        let at = TxIndex(state.index.load(Ordering::Relaxed));
        let held = state.current();
        state.set(None);
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

    fn start(&self, slot: usize, ended: Sender<usize>) -> Result<JoinHandle<()>, SlotsError> {
        let name = format!("{}-slot-{slot}", self.name);
        let (queue, states, report) =
            (self.queue.clone(), Arc::clone(&self.states), Arc::clone(&self.report));
        let faults = Arc::clone(&self.faults);
        let body = move || {
            let _guard = EndGuard { slot, ended };
            let Some(state) = states.get(slot) else { return };
            while let Ok(job) = queue.recv() {
                work_on(job, state, &faults, &report);
            }
        };
        std::thread::Builder::new()
            .name(name.clone())
            .stack_size(STACK_BYTES)
            .spawn(body)
            .map_err(|source| SlotsError::Spawn { name, source })
    }
}

fn work_on(job: Job, state: &SlotState, faults: &Faults, report: &Reporter) {
    let Job { assignment, spec, block, chain, view, cancelled } = job;
    state.set(Some(assignment));
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
    state.set(None);
    report(match outcome {
        Some(outcome) => SlotEvent::Finished(SubmitResult { assignment, outcome, digest: None }),
        None => SlotEvent::Dropped(assignment),
    });
}
