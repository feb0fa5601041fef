//! The supervisor's record of every task and thread, and the consequence of each end.
//!
//! This module is plain data and a pure decision ([`Registry::settle`]). It starts nothing, logs
//! nothing and knows no clock. Invariant: the registry keeps the first failure, and later ones do not
//! replace it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The consequence that a task's end has for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Any end before shutdown ends the process, with or without an error.
    Critical,
    /// It may end at any time. A failure is logged and counted and has no further consequence.
    Job,
}

impl Policy {
    /// The policy's name, as in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Job => "job",
        }
    }
}

/// The carrier of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// A tokio task. The supervisor can abort it.
    Task,
    /// An OS thread of its own.
    Thread,
}

impl TaskKind {
    /// The kind's name, as in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Thread => "thread",
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// The task has not ended, even if shutdown has begun.
    Running,
    /// The task ended as expected: it returned after shutdown had begun, or ended after the drain.
    Ended,
    /// The task ended before shutdown, or with an error or a panic before the drain was over.
    Failed,
}

impl TaskState {
    /// The state's name, as in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    const fn is_live(self) -> bool {
        matches!(self, Self::Running)
    }
}

/// The status of one task or thread, for metrics. Jobs are listed only while they run, the others until
/// the process exits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// The task's name. Several jobs may share one.
    pub name: Arc<str>,
    /// Whether it is a tokio task or a thread.
    pub kind: TaskKind,
    /// The consequence of its end.
    pub policy: Policy,
    /// Whether it runs, and if not, whether its end was expected. A listed job always runs.
    pub state: TaskState,
}

/// How a task or thread ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskEnd {
    /// It returned without an error.
    #[error("returned before shutdown")]
    Returned,
    /// It returned an error; the text includes all its causes.
    #[error("failed: {0}")]
    Failed(String),
    /// It panicked with this message.
    #[error("panicked: {0}")]
    Panicked(String),
    /// Its future was dropped before it was done, for example by a runtime that shuts down.
    #[error("was dropped before it was done")]
    Dropped,
    /// It never ran: there is no tokio runtime, or the system cannot start the thread.
    #[error("could not be started: {0}")]
    NotStarted(String),
}

/// The end of a critical task: it ends the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{name}` {end}")]
pub struct Failure {
    /// The name of the task or thread.
    pub name: Arc<str>,
    /// Whether it is a tokio task or a thread.
    pub kind: TaskKind,
    /// The end that the policy does not allow, for example a panic.
    pub end: TaskEnd,
}

/// The consequence of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The end was expected, or the registry does not know the task.
    None,
    /// The end must be logged.
    JobFailed,
    /// The process must shut down, with this failure.
    Shutdown(Failure),
}

/// All tasks and threads, each under a unique id.
#[derive(Debug, Default)]
pub(super) struct Registry {
    next_id: u64,
    entries: BTreeMap<u64, TaskStatus>,
    failure: Option<Failure>,
    failed_jobs: u64,
    closed: bool,
}

impl Registry {
    /// Enters a task as running and returns its id; `None` once the drain is over.
    pub(super) fn admit(&mut self, name: Arc<str>, kind: TaskKind, policy: Policy) -> Option<u64> {
        if self.closed {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        let status = TaskStatus { name, kind, policy, state: TaskState::Running };
        self.entries.insert(id, status);
        Some(id)
    }

    /// Decides the consequence of a task's end. While `stopping`, a critical task should return (or be
    /// dropped); an error or a panic is a failure even then. Once the registry is closed, at the end of the
    /// drain, every end counts as expected.
    pub(super) fn settle(&mut self, id: u64, end: TaskEnd, stopping: bool) -> Consequence {
        let Some(status) = self.entries.get_mut(&id) else { return Consequence::None };
        let expected = self.closed || (stopping && matches!(end, TaskEnd::Returned | TaskEnd::Dropped));
        if matches!(status.policy, Policy::Job) {
            self.entries.remove(&id);
            if expected || end == TaskEnd::Returned {
                return Consequence::None;
            }
            self.failed_jobs += 1;
            return Consequence::JobFailed;
        }
        if expected {
            status.state = TaskState::Ended;
            return Consequence::None;
        }
        status.state = TaskState::Failed;
        let failure = Failure { name: status.name.clone(), kind: status.kind, end };
        self.failure.get_or_insert_with(|| failure.clone());
        Consequence::Shutdown(failure)
    }

    /// The first failure, if any.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }

    /// The number of jobs that have failed.
    pub(super) fn failed_jobs(&self) -> u64 {
        self.failed_jobs
    }

    /// The names of the tasks that have not ended.
    pub(super) fn live(&self) -> Vec<String> {
        let live = self.entries.values().filter(|status| status.state.is_live());
        live.map(|status| status.name.to_string()).collect()
    }

    /// Whether every task has ended.
    pub(super) fn is_idle(&self) -> bool {
        !self.entries.values().any(|status| status.state.is_live())
    }

    /// Closes the registry: it admits no task any more, and later ends have no consequence.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// All entries, in the order they were admitted.
    pub(super) fn status(&self) -> Vec<TaskStatus> {
        self.entries.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

    use super::*;

    fn with(policy: Policy) -> (Registry, u64) {
        let mut registry = Registry::default();
        let id = registry.admit("accept".into(), TaskKind::Task, policy).unwrap();
        (registry, id)
    }

    #[test]
    fn any_end_of_a_critical_task_before_shutdown_is_a_failure() {
        for end in
            [TaskEnd::Returned, TaskEnd::Failed("x".into()), TaskEnd::Panicked("x".into()), TaskEnd::Dropped]
        {
            let (mut registry, id) = with(Policy::Critical);
            let failure = Failure { name: "accept".into(), kind: TaskKind::Task, end: end.clone() };
            assert_eq!(registry.settle(id, end, false), Consequence::Shutdown(failure.clone()));
            assert_eq!(registry.failure(), Some(failure));
            assert_eq!(registry.status()[0].state, TaskState::Failed);
        }
    }

    #[test]
    fn a_critical_task_that_returns_while_stopping_has_ended_well() {
        let (mut registry, id) = with(Policy::Critical);
        assert_eq!(registry.settle(id, TaskEnd::Returned, true), Consequence::None);
        assert_eq!(registry.status()[0].state, TaskState::Ended);
        assert_eq!(registry.failure(), None);
    }

    #[test]
    fn a_critical_task_that_panics_while_stopping_is_a_failure() {
        let (mut registry, id) = with(Policy::Critical);
        assert!(matches!(registry.settle(id, TaskEnd::Panicked("x".into()), true), Consequence::Shutdown(_)));
        assert!(registry.failure().is_some());
    }

    #[test]
    fn the_first_failure_is_kept() {
        let (mut registry, first) = with(Policy::Critical);
        let second = registry.admit("serve".into(), TaskKind::Thread, Policy::Critical).unwrap();
        registry.settle(second, TaskEnd::Panicked("cause".into()), false);
        registry.settle(first, TaskEnd::Failed("effect".into()), false);
        assert_eq!(registry.failure().unwrap().to_string(), "thread `serve` panicked: cause");
    }

    #[test]
    fn a_job_is_forgotten_at_its_end_and_counted_when_it_failed() {
        let (mut registry, id) = with(Policy::Job);
        assert_eq!(registry.settle(id, TaskEnd::Returned, false), Consequence::None);
        let id = registry.admit("peer".into(), TaskKind::Task, Policy::Job).unwrap();
        assert_eq!(registry.settle(id, TaskEnd::Failed("x".into()), false), Consequence::JobFailed);
        assert!(registry.status().is_empty());
        assert_eq!((registry.failed_jobs(), registry.failure()), (1, None));
    }

    #[test]
    fn a_closed_registry_admits_no_task_and_names_no_failure() {
        let (mut registry, id) = with(Policy::Critical);
        registry.close();
        assert_eq!(registry.admit("late".into(), TaskKind::Task, Policy::Job), None);
        assert_eq!(registry.settle(id, TaskEnd::Dropped, true), Consequence::None);
        assert_eq!(registry.failure(), None);
    }
}
