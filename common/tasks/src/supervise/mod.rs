//! Owns every tokio task and every OS thread of a process, by name and policy.
//!
//! The end of each task has a consequence, which its policy decides. A critical task ends the process. A
//! failed job is logged. So a process either works or shuts down, and never stays alive without doing its work.
//!
//! The supervisor is deliberately not a scheduler and carries no messages between tasks. It does not
//! exit the process: it reports, and `main` returns the [`Exit`].
//!
//! Invariants: no handle of a task or thread is dropped while the task runs (except a straggler's,
//! after the grace period). The shutdown token is cancelled before a failure becomes visible. Only the
//! supervisor can cancel it. Panics are caught only under `panic = "unwind"`.
//!
//! A task stuck in a blocking call cannot be aborted and delays the drop of the runtime. So `main` ends
//! its runtime with `Runtime::shutdown_background` after the drain.

mod registry;
mod signals;
mod task;
mod thread;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::registry::{Consequence, Registry};
pub use self::registry::{Failure, Policy, TaskEnd, TaskKind, TaskState, TaskStatus};
pub use self::signals::{Signals, StopReason};
pub use self::task::SupervisorHandle;

/// Why [`Supervisor::run_until_stopped`] returned. In both cases the process must drain next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process was asked to stop.
    Stopped(StopReason),
    /// A critical task or thread ended, and shutdown has begun.
    Failed(Failure),
}

/// The result of the drain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the process's exit code is in here"]
pub struct Drained {
    /// The names of the tasks and threads that were still running when the drain ended.
    pub stragglers: Vec<String>,
    /// The first critical failure, before or during the drain.
    pub failure: Option<Failure>,
    /// What cut the drain short, if anything did.
    pub interrupted: Option<StopReason>,
}

impl Drained {
    /// Whether every task ended in time and no critical one failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit() == Exit::Clean
    }

    /// The exit code for the process. A failure takes precedence over a late drain.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.failure.is_some() {
            Exit::Failed
        } else if !self.stragglers.is_empty() {
            Exit::DrainedLate
        } else {
            Exit::Clean
        }
    }
}

/// The exit codes of all our processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: the process was asked to stop, and every task ended in time.
    Clean,
    /// 1: the process could not start, or a critical task ended.
    Failed,
    /// 2: the command line is wrong. clap uses the same code.
    BadCommandLine,
    /// 3: the process was asked to stop, but a task was still running at the end of the grace period (or at
    /// a second signal). Its work may be incomplete.
    DrainedLate,
    /// 75: the process was asked by its peer to end, and its supervisor should start it again (`EX_TEMPFAIL`
    /// of `sysexits.h`).
    Dismissed,
    /// 141: the reader of standard output closed it, for example `head -1` after its line. Shells report
    /// the same code for a program that SIGPIPE ends (128 + 13).
    OutputClosed,
}

impl Exit {
    /// The code as a number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed => 1,
            Self::BadCommandLine => 2,
            Self::DrainedLate => 3,
            Self::Dismissed => 75,
            Self::OutputClosed => 141,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Owns the tasks and threads of one process. If it is dropped without a drain, it cancels the token
/// and aborts every task.
///
/// ```
/// use std::time::Duration;
///
/// use tasks::supervise::{Exit, Supervisor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let supervisor = Supervisor::new("example");
/// let tasks = supervisor.handle();
/// let stop = tasks.shutdown_token();
/// tasks.spawn_critical("clock", async move {
///     stop.cancelled().await;
///     Ok::<(), std::io::Error>(())
/// });
/// // A process waits in `run_until_stopped` before it drains, and gives `drain` its signals.
/// let drained = supervisor.drain(Duration::from_secs(5), std::future::pending()).await;
/// assert_eq!(drained.exit(), Exit::Clean);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping the supervisor aborts its tasks"]
pub struct Supervisor {
    shared: Arc<Shared>,
}

impl Supervisor {
    /// Creates a supervisor whose log lines carry `name`. Call it within a tokio runtime: the supervisor
    /// keeps that runtime's handle so that other threads can spawn too. Without one, each spawn uses the
    /// caller's runtime.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                name: name.into(),
                runtime: Handle::try_current().ok(),
                stop: CancellationToken::new(),
                changed: Notify::new(),
                registry: Mutex::default(),
                tasks: Mutex::default(),
            }),
        }
    }

    /// Returns a handle that spawns tasks and threads. Any number of handles may exist.
    #[must_use]
    pub fn handle(&self) -> SupervisorHandle {
        SupervisorHandle::new(self.shared.clone())
    }

    /// Waits until `stop` resolves or a critical task ends, whichever is first. A failure before the call
    /// counts too. Tasks go on until [`drain`](Self::drain), except after a failure, which has already
    /// cancelled the shutdown token. Cancel safe.
    pub async fn run_until_stopped(&self, stop: impl Future<Output = StopReason>) -> Outcome {
        let supervisor = &*self.shared.name;
        tokio::select! {
            biased;
            failure = self.shared.until(Registry::failure) => Outcome::Failed(failure),
            reason = stop => {
                tracing::info!(supervisor, %reason, "asked to stop");
                Outcome::Stopped(reason)
            }
        }
    }

    /// Cancels the shutdown token and waits until all tasks and threads have ended, the grace period is
    /// over, or `again` (a second signal) resolves. Then it aborts the remaining tasks, leaves the
    /// remaining threads behind, and names both in the report. `again` must not resolve for a reason that
    /// already holds, such as a parent that has ended.
    pub async fn drain(self, grace: Duration, again: impl Future<Output = StopReason>) -> Drained {
        let shared = &*self.shared;
        let supervisor = &*shared.name;
        shared.stop.cancel();
        let interrupted = tokio::select! {
            biased;
            () = shared.until(|registry| registry.is_idle().then_some(())) => None,
            reason = again => Some(reason),
            () = tokio::time::sleep(grace) => None,
        };
        let (stragglers, failure) = shared.close();
        if let Some(reason) = interrupted {
            tracing::warn!(supervisor, %reason, "drain cut short");
        }
        let mut tasks = std::mem::take(&mut *shared.tasks.lock());
        if stragglers.is_empty() {
            // All tasks have settled, so each is at its last instruction.
            while tasks.join_next().await.is_some() {}
        }
        for task in &stragglers {
            tracing::error!(supervisor, task, "did not end in time");
        }
        let drained = Drained { stragglers, failure, interrupted };
        tracing::info!(supervisor, exit = drained.exit().code(), "drained");
        drained
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.stop.cancel();
        // The tasks hold the state that holds the set, so the set must be emptied explicitly. Dropping it
        // aborts the tasks.
        let tasks = std::mem::take(&mut *self.shared.tasks.lock());
        drop(tasks);
    }
}

/// The state that the supervisor and its handles share.
struct Shared {
    name: Arc<str>,
    runtime: Option<Handle>,
    stop: CancellationToken,
    /// Notified after every change of the registry.
    changed: Notify,
    registry: Mutex<Registry>,
    /// Never lock this while holding the registry: spawning may drop a future, and its `Watch` then locks
    /// the registry.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    /// Waits until `check` returns a value for the registry.
    async fn until<T>(&self, check: impl Fn(&Registry) -> Option<T>) -> T {
        loop {
            // Created before the check, so that a change after the check is not missed.
            let changed = self.changed.notified();
            let found = check(&self.registry.lock());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    /// Records the end of a task and applies its consequence.
    fn settle(&self, id: u64, task: &str, end: TaskEnd) {
        let supervisor = &*self.name;
        let (consequence, stopping) = {
            let mut registry = self.registry.lock();
            let stopping = self.stop.is_cancelled();
            let consequence = registry.settle(id, end.clone(), stopping);
            if matches!(consequence, Consequence::Shutdown(_)) {
                self.stop.cancel();
            }
            (consequence, stopping)
        };
        match consequence {
            Consequence::None => tracing::debug!(supervisor, task, stopping, "ended"),
            Consequence::JobFailed => tracing::error!(supervisor, task, "job {end}"),
            Consequence::Shutdown(Failure { kind, .. }) => {
                tracing::error!(supervisor, task, stopping, "critical {kind} {end}");
            }
        }
        self.changed.notify_waiters();
    }

    /// Stops admitting tasks. Returns the names of those still running, and the first failure.
    fn close(&self) -> (Vec<String>, Option<Failure>) {
        let mut registry = self.registry.lock();
        registry.close();
        (registry.live(), registry.failure())
    }
}
