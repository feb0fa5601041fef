//! Starts tasks and threads under supervision, and watches each to its end.
//!
//! Every start goes through [`Watch`], which settles the entry in the registry exactly once, even if
//! the future is dropped. The registry, not this module, decides the consequence of an end.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::thread::{BoxError, WatchedThread};
use super::{Policy, Shared, TaskEnd, TaskKind, TaskStatus};
use common::panic::panic_message;

/// One run of a task.
type RunFuture = Pin<Box<dyn Future<Output = TaskEnd> + Send>>;

/// Spawns tasks and threads that the supervisor owns. Any thread may use it.
///
/// Once the drain is over, it starts nothing any more and logs a warning instead.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    shared: Arc<Shared>,
}

impl SupervisorHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A token that is cancelled when shutdown begins. Cancelling it stops only the holders of this token
    /// and its clones, not the process.
    #[must_use]
    pub fn shutdown_token(&self) -> CancellationToken {
        self.shared.stop.child_token()
    }

    /// Starts a task whose end before shutdown ends the process, even without an error. During shutdown it
    /// must return; an error or a panic is a failure even then.
    pub fn spawn_critical<F, E>(&self, name: impl Into<Arc<str>>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.spawn_once(name.into(), Policy::Critical, future);
    }

    /// Starts a task that may end at any time. If it fails, the failure is logged and counted.
    pub fn spawn_job<F, E>(&self, name: impl Into<Arc<str>>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.spawn_once(name.into(), Policy::Job, future);
    }

    /// Starts a named OS thread at once. Its end before shutdown ends the process, even without an error;
    /// its `JoinHandle` reports a panic. The body itself must watch the shutdown token (or a channel that
    /// closes).
    pub fn spawn_thread<B, E>(&self, name: impl Into<Arc<str>>, body: B)
    where
        B: FnOnce() -> Result<(), E> + Send + 'static,
        E: Into<BoxError>,
    {
        let Some(watch) = self.admit(name.into(), TaskKind::Thread, Policy::Critical) else { return };
        self.start(watch, |watch| {
            let thread = WatchedThread::start(&watch.name, body);
            async move { watch.settle(end_of_thread(thread).await) }
        });
    }

    /// All tasks and threads in the order of their start. Jobs are listed only while they run.
    #[must_use]
    pub fn status(&self) -> Vec<TaskStatus> {
        self.shared.registry.lock().status()
    }

    /// The number of jobs that have failed.
    #[must_use]
    pub fn failed_jobs(&self) -> u64 {
        self.shared.registry.lock().failed_jobs()
    }

    fn spawn_once<F, E>(&self, name: Arc<str>, policy: Policy, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let Some(watch) = self.admit(name, TaskKind::Task, policy) else { return };
        let run = run_of(future);
        self.start(watch, |watch| async move { watch.settle(watched(run).await) });
    }

    fn admit(&self, name: Arc<str>, kind: TaskKind, policy: Policy) -> Option<Watch> {
        let admitted = self.shared.registry.lock().admit(name.clone(), kind, policy);
        let Some(id) = admitted else {
            tracing::warn!(supervisor = &*self.shared.name, task = &*name, "not started: already drained");
            return None;
        };
        Some(Watch { shared: self.shared.clone(), id, name, settled: false })
    }

    /// Adds the future that `watcher` makes to the set of tasks. Without a runtime, `watcher` is not
    /// called.
    fn start<W, F>(&self, watch: Watch, watcher: W)
    where
        W: FnOnce(Watch) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(runtime) = self.shared.runtime.clone().or_else(|| Handle::try_current().ok()) else {
            return watch.settle(TaskEnd::NotStarted("no tokio runtime".to_owned()));
        };
        let watcher = watcher(watch);
        let mut tasks = self.shared.tasks.lock();
        // Ended tasks have already settled; this only frees them.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(watcher, &runtime);
    }
}

/// Watches one entry of the registry to its end.
struct Watch {
    shared: Arc<Shared>,
    id: u64,
    name: Arc<str>,
    settled: bool,
}

impl Watch {
    fn settle(mut self, end: TaskEnd) {
        self.settled = true;
        self.shared.settle(self.id, &self.name, end);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let panicking = std::thread::panicking();
        let end =
            if panicking { TaskEnd::Panicked("while it was dropped".to_owned()) } else { TaskEnd::Dropped };
        self.shared.settle(self.id, &self.name, end);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl TaskEnd {
    /// The end of a task that returned `result`.
    pub(super) fn of<E: Into<BoxError>>(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Returned,
            Err(error) => Self::Failed(with_causes(&*error.into())),
        }
    }
}

/// The error and its causes in one line, without the causes that the text already contains.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn run_of<F, E>(future: F) -> RunFuture
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError>,
{
    Box::pin(async move { TaskEnd::of(future.await) })
}

async fn end_of_thread(started: std::io::Result<WatchedThread>) -> TaskEnd {
    match started {
        Ok(thread) => thread.ended().await,
        Err(error) => TaskEnd::NotStarted(error.to_string()),
    }
}

/// Runs a future to its end and reports a panic as an end too.
async fn watched(mut run: RunFuture) -> TaskEnd {
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(payload) => Poll::Ready(TaskEnd::Panicked(panic_message(payload.as_ref()))),
    })
    .await
}
