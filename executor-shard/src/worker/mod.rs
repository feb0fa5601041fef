//! The slots: named OS threads, one per slot, that take work from a bounded queue.
//!
//! Every thread's `JoinHandle` is kept. A supervising thread joins threads that end, reports the work
//! they held, and starts them again a bounded number of times. Beyond that limit it ends too, and with
//! it the process. So the process never stays alive without doing its work.
//!
//! A thread cannot be killed. If a thread is stuck and its process cannot be restarted (a shard inside
//! the coordinator), a new thread takes over its slot ([`Slots::renew`]). A thread that still executes a
//! transaction of cancelled work when the slots close is left behind: its result has no reader.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::chain_spec::ChainSpec;
use common::id::{AssignmentId, Gas, SlotIndex, TxIndex};
use common::message::{SlotProgress, SubmitResult};
use common::panic::panic_message;
use common::sealed::Sealed;
use common::work::{WorkFailure, WorkSpec};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::{Mutex, MutexGuard};

use crate::admin::work_ended;
use crate::fault::{self, FaultKind, Faults, Slowed};
use engine::Poisoned;
use engine::replica_view::ReplicaView;
use engine::sub_block::{self, Progress};

/// The maximum number of thread restarts in one process.
const MAX_RESTARTS: u32 = 64;

/// The maximum number of stuck threads that new threads replace in one process.
const MAX_RENEWALS: u32 = 64;

/// The time that threads with cancelled work get to end once the slots are closed. They look for the
/// cancellation between transactions.
const END_WITHIN: Duration = Duration::from_secs(1);

/// The stack size of a worker thread, in bytes. The EVM recurses up to 1,024 calls deep in its own
/// frames, and precompiles need stack too.
const STACK_BYTES: usize = 16 << 20;

/// One assignment with everything that its execution needs.
#[derive(Debug)]
pub struct PreparedWork {
    /// The id under which the slot reports the result.
    pub assignment: AssignmentId,
    /// The work. The node has checked that it is the work that the assignment names.
    pub spec: Sealed<WorkSpec>,
    /// The specification of the chain.
    pub chain: Arc<ChainSpec>,
    /// The base state. Recovering senders needs none.
    pub view: Option<ReplicaView>,
    /// Set when the result is no longer wanted.
    pub cancelled: Arc<AtomicBool>,
}

/// A report from a slot.
#[derive(Debug)]
pub enum SlotEvent {
    /// An assignment has a result.
    Finished(SubmitResult),
    /// An assignment was cancelled and has none.
    Dropped(AssignmentId),
}

/// Handles the reports of slots. It runs on their threads and may block them for a moment.
pub type Reporter = Arc<dyn Fn(SlotEvent) + Send + Sync>;

/// Why the slots have ended or cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// A thread cannot be started.
    #[error("worker thread {name} cannot be started: {source}")]
    Spawn {
        /// The thread's name, for example `shard-1-slot-0`.
        name: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The threads panicked too often.
    #[error("worker threads ended {restarts} times, the last with: {last}")]
    TooManyPanics {
        /// The number of restarts.
        restarts: u32,
        /// The message of the last panic.
        last: String,
    },
    /// The threads were stuck too often.
    #[error(
        "{renewals} worker threads were stuck; look at the alarms before this, and start the process again"
    )]
    TooManyStuck {
        /// The number of stuck threads.
        renewals: u32,
    },
}

/// The activity of one thread, as heartbeats report it.
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
    /// Set when the result of the current work is no longer wanted.
    cancelled: Arc<AtomicBool>,
    /// A new thread has taken over this one's slot: this one finishes its current work, then ends.
    superseded: bool,
}

impl SlotState {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    fn begin(&self, assignment: AssignmentId, cancelled: Arc<AtomicBool>) {
        // The values of the previous work do not apply to this one.
        self.gas.store(0, Ordering::Relaxed);
        let mut held = self.held();
        held.current = Some(assignment);
        held.cancelled = cancelled;
    }

    /// Whether the thread executes work whose result is no longer wanted.
    fn works_in_vain(&self) -> bool {
        let held = self.held();
        held.current.is_some() && held.cancelled.load(Ordering::Relaxed)
    }

    /// Records the end of the work. Returns whether the thread goes on with other work.
    fn end(&self) -> bool {
        let mut held = self.held();
        held.current = None;
        !held.superseded
    }

    fn current(&self) -> Option<AssignmentId> {
        self.held().current
    }

    /// Marks the thread as superseded if it runs work. Returns whether it did.
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

/// The activity of each slot's current thread.
type SlotStates = Arc<[Mutex<Arc<SlotState>>]>;

/// The activity of threads that have lost their slots; at most [`MAX_RENEWALS`].
type FormerStates = Arc<Mutex<Vec<Weak<SlotState>>>>;

/// A message to the supervisor of the threads.
#[derive(Debug, Clone, Copy)]
enum Notice {
    /// The thread with this number has ended, with or without a panic.
    Ended(u64),
    /// The threads that run work are stuck: new threads must take over their slots.
    Renew,
    /// The queue is closed: the threads end once it is empty.
    Closed,
}

/// The queue of the slots, and a view of their activity.
#[derive(Debug, Clone)]
pub struct Slots {
    /// `None` once the slots are closed.
    jobs: Arc<Mutex<Option<Sender<PreparedWork>>>>,
    states: SlotStates,
    former: FormerStates,
    notices: Sender<Notice>,
}

impl Slots {
    /// Creates slots with a queue of `queue` assignments. They run once [`SlotSupervisor::run`] runs.
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
        // Threads end and are replaced a bounded number of times, and the queue is closed once: the channel
        // has room for every notice.
        let (notices, noticed) = bounded(states.len() + 2 * (MAX_RESTARTS + MAX_RENEWALS) as usize + 1);
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

    /// Puts work into the queue if there is room.
    ///
    /// # Errors
    /// Returns the work if the queue is full or the slots have ended.
    #[allow(clippy::result_large_err)]
    pub fn offer(&self, job: PreparedWork) -> Result<(), PreparedWork> {
        match self.jobs.lock().as_ref() {
            Some(jobs) => jobs.try_send(job).map_err(crossbeam_channel::TrySendError::into_inner),
            None => Err(job),
        }
    }

    /// Closes the queue: the threads end once it is empty.
    pub fn close(&self) {
        if self.jobs.lock().take().is_some() {
            // A full channel of notices means that the supervisor has ended.
            let _ = self.notices.try_send(Notice::Closed);
        }
    }

    /// Gives the slots of all threads that run work to new threads. A thread cannot be killed, so the old
    /// ones end after they finish and deliver their work, if ever.
    pub fn renew(&self) {
        // A full channel of notices means that the supervisor has ended.
        let _ = self.notices.try_send(Notice::Renew);
    }

    /// The number of accepted, unfinished assignments without a slot: they wait in the queue, or a thread
    /// that has lost its slot still runs them. A process with such work is not idle.
    #[must_use]
    pub fn queued(&self) -> usize {
        let waiting = self.jobs.lock().as_ref().map_or(0, Sender::len);
        let former = self.former.lock();
        let working = former.iter().filter_map(Weak::upgrade).filter(|state| state.current().is_some());
        waiting + working.count()
    }

    /// The progress of each slot.
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

/// The state of a slot's current thread.
fn present(state: &Mutex<Arc<SlotState>>) -> Arc<SlotState> {
    Arc::clone(&state.lock())
}

/// Owns the worker threads and replaces those that end or get stuck.
pub struct SlotSupervisor {
    name: String,
    queue: Receiver<PreparedWork>,
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

/// Notifies the supervisor that a thread ends, with or without a panic.
struct EndGuard {
    number: u64,
    ended: Sender<Notice>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // The supervisor outlives its threads. If it has ended, the notice is not needed.
        let _ = self.ended.send(Notice::Ended(self.number));
    }
}

/// A worker thread that has not been joined yet.
struct Worker {
    slot: usize,
    state: Arc<SlotState>,
    /// Whether another thread has taken over its slot.
    superseded: bool,
    handle: JoinHandle<()>,
}

/// The running threads by number, and the counts of threads started, restarted and renewed.
#[derive(Default)]
struct Workers {
    running: BTreeMap<u64, Worker>,
    started: u64,
    restarts: u32,
    renewals: u32,
}

impl Workers {
    /// Whether the supervisor must wait for any thread. `closed` is when the slots were closed.
    fn any_wanted(&self, closed: Option<Instant>) -> bool {
        let late = closed.is_some_and(|closed| closed.elapsed() >= END_WITHIN);
        self.running.values().any(|worker| !(worker.superseded || late && worker.state.works_in_vain()))
    }
}

impl SlotSupervisor {
    /// Runs the slots until [`Slots::close`] is called and the queue is empty. A thread that is stuck by
    /// then is left behind if it has lost its slot, or if its work has been cancelled.
    ///
    /// # Errors
    /// [`SlotsError`] if threads cannot be started, end too often or are stuck too often.
    pub fn run(self) -> Result<(), SlotsError> {
        let mut workers = Workers::default();
        for slot in 0..self.states.len() {
            self.start(&mut workers, slot)?;
        }
        let mut closed = None;
        while workers.any_wanted(closed) {
            // The supervisor holds a sender itself, so the channel stays open.
            let noticed = match closed {
                None => self.noticed.recv().map_err(RecvTimeoutError::from),
                Some(_) => self.noticed.recv_timeout(END_WITHIN),
            };
            match noticed {
                Ok(Notice::Ended(number)) => self.ended(&mut workers, number)?,
                Ok(Notice::Renew) => self.renew(&mut workers)?,
                Ok(Notice::Closed) => closed = Some(Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        for worker in workers.running.values() {
            tracing::warn!(slot = worker.slot, held = ?worker.state.current().map(|id| id.to_string()),
                "a thread still executes a transaction whose result has no reader; it is left behind");
        }
        Ok(())
    }

    fn ended(&self, workers: &mut Workers, number: u64) -> Result<(), SlotsError> {
        let Some(worker) = workers.running.remove(&number) else { return Ok(()) };
        let Err(panic) = worker.handle.join() else { return Ok(()) };
        let message = panic_message(panic.as_ref());
        workers.restarts += 1;
        let last = workers.restarts > MAX_RESTARTS;
        let next = if last {
            "the shard ends, because this was one panic too many"
        } else if worker.superseded {
            "nothing: another thread has its slot already"
        } else {
            "a new thread takes its slot"
        };
        self.report_panic(worker.slot, &worker.state, &message, next);
        if last {
            return Err(SlotsError::TooManyPanics { restarts: workers.restarts, last: message });
        }
        if worker.superseded { Ok(()) } else { self.start(workers, worker.slot) }
    }

    fn renew(&self, workers: &mut Workers) -> Result<(), SlotsError> {
        let present = workers.running.values_mut().filter(|worker| !worker.superseded);
        let mut stuck = Vec::new();
        for worker in present.filter(|worker| worker.state.supersede()) {
            worker.superseded = true;
            let mut former = self.former.lock();
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

    /// Logs the panic and what follows from it for the slot, and reports the work that the thread held.
    fn report_panic(&self, slot: usize, state: &SlotState, message: &str, next: &str) {
        let at = TxIndex(state.index.load(Ordering::Relaxed));
        let held = state.current();
        state.end();
        tracing::error!(slot, message, transaction = at.0, held = ?held.map(|id| id.to_string()), next,
            "a worker thread panicked");
        if let Some(assignment) = held {
            let failure = WorkFailure::WorkerPanicked { message: message.to_owned(), at: Some(at) };
            (self.report)(SlotEvent::Finished(SubmitResult {
                assignment,
                outcome: Err(failure),
                digest: None,
            }));
        }
    }

    /// Starts a thread, which takes over the slot.
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
        *place.lock() = Arc::clone(&state);
        workers.running.insert(number, Worker { slot, state, superseded: false, handle });
        Ok(())
    }
}

/// Runs the work of an assignment. Returns whether the thread goes on with another.
fn work_on(job: PreparedWork, state: &SlotState, faults: &Faults, report: &Reporter) -> bool {
    let PreparedWork { assignment, spec, chain, view, cancelled } = job;
    state.begin(assignment, Arc::clone(&cancelled));
    let began = Instant::now();
    // A panic ends this thread and leaves `current` set: the supervisor reads which work the thread held.
    let planned = faults.begin(&spec);
    if let Some(fault) = planned {
        // Measurements need the time at which the fault occurred.
        if !matches!(fault, FaultKind::Poison(_)) {
            tracing::info!(%assignment, ?fault, "a planned fault");
        }
        fault::before(fault);
    }
    let mut outcome = match planned {
        Some(FaultKind::SlowTimes(times)) => {
            sub_block::run(&spec, &chain, view, &cancelled, &Slowed::new(state, times))
        }
        Some(FaultKind::Poison(seed)) => {
            let view = view.map(|view| Poisoned::new(view, seed));
            sub_block::run(&spec, &chain, view, &cancelled, state)
        }
        _ => sub_block::run(&spec, &chain, view, &cancelled, state),
    };
    match (planned, &mut outcome) {
        (Some(FaultKind::Wrong), Some(Ok(output))) => fault::falsify(output),
        (Some(FaultKind::Corrupt), _) => faults.damage(assignment),
        (Some(FaultKind::Diverge), _) => faults.diverge(),
        _ => {}
    }
    let goes_on = state.end();
    work_ended(&spec.kind, spec.indices.len(), outcome.as_ref(), began.elapsed());
    report(match outcome {
        Some(outcome) => SlotEvent::Finished(SubmitResult { assignment, outcome, digest: None }),
        None => SlotEvent::Dropped(assignment),
    });
    goes_on
}

#[cfg(test)]
mod tests;
