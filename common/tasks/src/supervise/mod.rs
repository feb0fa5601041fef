//! Owns every tokio task and every OS thread of a process, by name and policy.
//!
//! What is started through a [`SupervisorHandle`] has a consequence when it ends: a critical task
//! takes the process down, a restarting one is started again within limits and then takes it down,
//! a job is logged when it failed. So a process is at work or on its way out, never alive and doing
//! nothing.
//!
//! It is deliberately not a scheduler, not a place for messages between tasks, and it exits nothing:
//! it reports, and `main` returns the [`Exit`].
//!
//! Invariants: no handle of a task or thread is dropped while it runs (except a straggler's, after
//! the grace period); the shutdown token is cancelled before a failure becomes visible; nobody but
//! the supervisor can cancel it. Panics are seen only under `panic = "unwind"`.
//!
//! A task stuck in a blocking call cannot be aborted and holds up the drop of the runtime, so `main`
//! ends its runtime with `Runtime::shutdown_background` after the drain.

mod registry;
mod restart;
mod signals;
mod task;
mod thread;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::registry::{Consequence, Registry};
pub use self::registry::{End, Failure, Policy, TaskKind, TaskState, TaskStatus};
pub use self::restart::{Backoff, MAX_RESTART_LIMIT, Restart, RestartError, RestartWindow, Verdict};
pub use self::signals::{Signals, StopReason};
pub use self::task::SupervisorHandle;

/// Why [`Supervisor::run_until_stopped`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process was asked to stop.
    Stopped(StopReason),
    /// Something critical ended; shutdown has begun.
    Failed(Failure),
}

/// How the drain went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the process's exit code is in here"]
pub struct Drained {
    /// The names of tasks and threads that had not ended when the drain did.
    pub stragglers: Vec<String>,
    /// The first critical failure, before or during the drain.
    pub failure: Option<Failure>,
    /// What cut the drain short, if it was.
    pub interrupted: Option<StopReason>,
}

impl Drained {
    /// Whether all ended in time and nothing critical failed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.exit() == Exit::Clean
    }

    /// What the process is to exit with. A failure outweighs a late drain.
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

/// The exit codes of all our processes. 2 is left to clap, which uses it for a bad command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: asked to stop, and everything ended in time.
    Clean,
    /// 1: it could not start, or something critical ended.
    Failed,
    /// 3: asked to stop, but something had not ended when the grace period had (or a second signal
    /// came). Work may have been cut off.
    DrainedLate,
    /// 141: the reader of standard output has gone, for example `head -1` after its line. What shells
    /// see of a program that SIGPIPE ends (128 + 13).
    OutputClosed,
}

impl Exit {
    /// The code as a number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Failed => 1,
            Self::DrainedLate => 3,
            Self::OutputClosed => 141,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Owns the tasks and threads of one process. Dropped without a drain, it cancels the token and
/// aborts every task.
#[derive(Debug)]
#[must_use = "dropping the supervisor aborts its tasks"]
pub struct Supervisor {
    shared: Arc<Shared>,
}

impl Supervisor {
    /// A supervisor whose log lines carry `name`. To be called within a tokio runtime, whose handle it
    /// keeps so that threads outside can spawn too; without one, each spawn looks for the caller's.
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

    /// A handle to spawn with; any number may exist.
    #[must_use]
    pub fn handle(&self) -> SupervisorHandle {
        SupervisorHandle::new(self.shared.clone())
    }

    /// Waits until `stop` asks to stop or something critical has ended, whichever is first; a
    /// failure from before the call counts. Tasks go on until [`drain`](Self::drain), except after a
    /// failure, which has cancelled the shutdown token already. Cancel safe.
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

    /// Cancels the shutdown token and waits until all tasks and threads have ended, the grace period
    /// has, or `again` (a second signal) resolves. Tasks that have not ended by then are aborted,
    /// threads left behind, and both named in the report. `again` must not resolve for a reason that
    /// holds already, such as a parent that is gone.
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
        let mut tasks = std::mem::take(&mut *lock(&shared.tasks));
        if stragglers.is_empty() {
            // All have settled, so each is at its last instruction.
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
        // The tasks hold the state that holds the set, so it is emptied by hand. Dropping it aborts.
        let tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        drop(tasks);
    }
}

/// What the supervisor and its handles share.
struct Shared {
    name: Arc<str>,
    runtime: Option<Handle>,
    stop: CancellationToken,
    /// Something in the registry has changed.
    changed: Notify,
    registry: Mutex<Registry>,
    /// Never locked while the registry is: spawning may drop a future, which settles.
    tasks: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    /// Waits until `check` finds something in the registry.
    async fn until<T>(&self, check: impl Fn(&Registry) -> Option<T>) -> T {
        loop {
            // Created before the check: a change after it is not missed.
            let changed = self.changed.notified();
            let found = check(&lock(&self.registry));
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    /// Records an end and lets its consequence happen.
    fn settle(&self, id: u64, task: &str, end: End) {
        let supervisor = &*self.name;
        let (consequence, stopping) = {
            let mut registry = lock(&self.registry);
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

    /// Ends all admission; who still runs, and what failed first.
    fn close(&self) -> (Vec<String>, Option<Failure>) {
        let mut registry = lock(&self.registry);
        registry.close();
        (registry.live(), registry.failure())
    }
}

/// Locks; a panic elsewhere while the lock was held has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
