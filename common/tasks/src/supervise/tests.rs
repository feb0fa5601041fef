//! Tests of the supervisor through its public interface. Tests that measure time use tokio's paused
//! clock.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::future::{pending, ready};
use std::io;
use std::sync::mpsc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

const GRACE: Duration = Duration::from_secs(30);
const FINE: Result<(), io::Error> = Ok(());

fn broken() -> Result<(), io::Error> {
    Err(io::Error::other("broken"))
}

async fn failure_of(supervisor: &Supervisor) -> Failure {
    match supervisor.run_until_stopped(pending()).await {
        Outcome::Failed(failure) => failure,
        Outcome::Stopped(reason) => panic!("stopped: {reason}"),
    }
}

async fn drain(supervisor: Supervisor) -> Drained {
    supervisor.drain(GRACE, pending()).await
}

/// Starts a critical task that runs until shutdown.
fn spawn_good_citizen(handle: &SupervisorHandle) {
    let stop = handle.shutdown_token();
    handle.spawn_critical("citizen", async move {
        stop.cancelled().await;
        FINE
    });
}

#[tokio::test]
async fn a_process_that_is_asked_to_stop_drains_cleanly() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    spawn_good_citizen(&handle);
    let outcome = supervisor.run_until_stopped(ready(StopReason::Terminate)).await;
    assert_eq!(outcome, Outcome::Stopped(StopReason::Terminate));
    assert!(!handle.shutdown_token().is_cancelled());
    let drained = drain(supervisor).await;
    assert!(drained.is_clean(), "{drained:?}");
    assert!(handle.shutdown_token().is_cancelled());
    assert_eq!(handle.status()[0].state, TaskState::Ended);
}

#[tokio::test]
async fn a_critical_task_that_returns_ends_the_process_with_failure() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    spawn_good_citizen(&handle);
    handle.spawn_critical("serve", async { FINE });
    assert_eq!(failure_of(&supervisor).await.to_string(), "task `serve` returned before shutdown");
    assert!(handle.shutdown_token().is_cancelled());
    let drained = drain(supervisor).await;
    assert_eq!((drained.stragglers.len(), drained.exit()), (0, Exit::Failed));
}

#[tokio::test]
async fn a_critical_task_that_panics_ends_the_process_with_failure() {
    let supervisor = Supervisor::new("test");
    supervisor.handle().spawn_critical("serve", async {
        tokio::task::yield_now().await;
        if true {
            panic!("no more");
        }
        FINE
    });
    assert_eq!(failure_of(&supervisor).await.end, TaskEnd::Panicked("no more".to_owned()));
    assert_eq!(drain(supervisor).await.exit(), Exit::Failed);
}

#[tokio::test]
async fn a_failure_from_before_the_wait_is_seen_and_outweighs_a_stop() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    handle.spawn_critical("serve", async { broken() });
    handle.shutdown_token().cancelled().await;
    let outcome = supervisor.run_until_stopped(ready(StopReason::Interrupt)).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    assert_eq!(drain(supervisor).await.exit(), Exit::Failed);
}

#[tokio::test]
async fn an_error_during_the_drain_is_a_failure_too() {
    let supervisor = Supervisor::new("test");
    let stop = supervisor.handle().shutdown_token();
    supervisor.handle().spawn_critical("ledger", async move {
        stop.cancelled().await;
        broken()
    });
    let drained = drain(supervisor).await;
    assert_eq!(drained.failure.unwrap().to_string(), "task `ledger` failed: broken");
}

#[tokio::test]
async fn a_job_that_fails_is_counted_and_the_process_goes_on() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    let (sender, receiver) = oneshot::channel::<()>();
    handle.spawn_job("fails", async { broken() });
    handle.spawn_job("panics", async { if true { panic!("job") } else { FINE } });
    handle.spawn_job("waits", receiver);
    while handle.failed_jobs() < 2 {
        tokio::task::yield_now().await;
    }
    let names: Vec<_> = handle.status().into_iter().map(|status| status.name.to_string()).collect();
    assert_eq!(names, ["waits"]);
    sender.send(()).unwrap();
    assert!(drain(supervisor).await.is_clean());
    assert_eq!(handle.failed_jobs(), 2);
}

#[tokio::test]
async fn a_thread_that_panics_ends_the_process_with_failure() {
    let supervisor = Supervisor::new("test");
    supervisor.handle().spawn_thread("slot-1", || -> Result<(), io::Error> { panic!("slot broke") });
    assert_eq!(failure_of(&supervisor).await.to_string(), "thread `slot-1` panicked: slot broke");
    assert_eq!(drain(supervisor).await.exit(), Exit::Failed);
}

#[tokio::test]
async fn a_thread_has_its_name_and_is_waited_for_in_the_drain() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    let (stop, stopped) = mpsc::channel::<()>();
    let (tell, told) = oneshot::channel();
    handle.spawn_thread("slot-1", move || {
        let _ = tell.send(std::thread::current().name().map(ToOwned::to_owned));
        // Returns an error when the channel closes.
        let _ = stopped.recv();
        FINE
    });
    assert_eq!(told.await.unwrap().as_deref(), Some("slot-1"));
    let token = handle.shutdown_token();
    handle.spawn_critical("stopper", async move {
        token.cancelled().await;
        drop(stop);
        FINE
    });
    assert!(drain(supervisor).await.is_clean());
    assert_eq!((handle.status()[0].kind, handle.status()[0].state), (TaskKind::Thread, TaskState::Ended));
}

#[tokio::test]
async fn a_thread_that_cannot_start_is_a_failure() {
    let supervisor = Supervisor::new("test");
    supervisor.handle().spawn_thread("slot\0", || FINE);
    assert!(matches!(failure_of(&supervisor).await.end, TaskEnd::NotStarted(_)));
    assert_eq!(drain(supervisor).await.exit(), Exit::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ignores_shutdown_is_named_and_aborted_after_the_grace_period() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    let (held, dropped) = oneshot::channel::<()>();
    spawn_good_citizen(&handle);
    handle.spawn_job("stubborn", async move {
        let _held = held;
        pending::<()>().await;
        FINE
    });
    let begun = Instant::now();
    let drained = drain(supervisor).await;
    assert!(begun.elapsed() >= GRACE);
    assert_eq!((drained.stragglers.join(","), drained.exit()), ("stubborn".to_owned(), Exit::DrainedLate));
    // The receiver gets an error only because the aborted task dropped its sender.
    assert!(dropped.await.is_err());
    assert_eq!(handle.failed_jobs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_ends_the_drain_at_once() {
    let supervisor = Supervisor::new("test");
    supervisor.handle().spawn_critical("stubborn", pending::<Result<(), io::Error>>());
    let begun = Instant::now();
    let drained = supervisor.drain(GRACE, ready(StopReason::Interrupt)).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(drained.interrupted, Some(StopReason::Interrupt));
    assert_eq!(drained.exit().code(), 3);
}

#[tokio::test]
async fn a_thread_that_does_not_end_is_named_and_left_behind() {
    let supervisor = Supervisor::new("test");
    let (release, released) = mpsc::channel::<()>();
    supervisor.handle().spawn_thread("stuck", move || {
        let _ = released.recv();
        FINE
    });
    let drained = supervisor.drain(GRACE, ready(StopReason::Interrupt)).await;
    assert_eq!(drained.stragglers, ["stuck"]);
    drop(release);
}

#[tokio::test]
async fn nothing_starts_after_the_drain() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    assert!(drain(supervisor).await.is_clean());
    let (sender, receiver) = oneshot::channel::<()>();
    handle.spawn_job("late", async move {
        pending::<()>().await;
        drop(sender);
        FINE
    });
    assert!(receiver.await.is_err());
    assert!(handle.status().is_empty());
}

#[tokio::test]
async fn a_token_in_the_hands_of_a_task_cannot_stop_the_process() {
    let supervisor = Supervisor::new("test");
    supervisor.handle().shutdown_token().cancel();
    assert!(!supervisor.handle().shutdown_token().is_cancelled());
    assert!(drain(supervisor).await.is_clean());
}

#[tokio::test]
async fn dropping_the_supervisor_aborts_its_tasks() {
    let supervisor = Supervisor::new("test");
    let (sender, receiver) = oneshot::channel::<()>();
    supervisor.handle().spawn_critical("serve", async move {
        pending::<()>().await;
        drop(sender);
        FINE
    });
    drop(supervisor);
    assert!(receiver.await.is_err());
}

#[tokio::test]
async fn a_thread_outside_the_runtime_can_spawn() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    let (sender, receiver) = oneshot::channel();
    let spawner = handle.clone();
    handle.spawn_thread("spawner", move || {
        let token = spawner.shutdown_token();
        spawner.spawn_job("spawned", async move { sender.send(token.is_cancelled()).map_err(|_| "unheard") });
        FINE
    });
    receiver.await.unwrap();
    assert_eq!(failure_of(&supervisor).await.name, "spawner".into());
    assert_eq!(drain(supervisor).await.stragglers.len(), 0);
}

#[test]
fn a_task_without_any_runtime_is_a_failure_and_no_panic() {
    let supervisor = Supervisor::new("test");
    supervisor.handle().spawn_critical("serve", pending::<Result<(), io::Error>>());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let failure = runtime.block_on(failure_of(&supervisor));
    assert_eq!(failure.to_string(), "task `serve` could not be started: no tokio runtime");
}

#[test]
fn a_runtime_that_goes_away_first_is_noticed_and_does_not_deadlock() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let supervisor = runtime.block_on(async { Supervisor::new("test") });
    let handle = supervisor.handle();
    handle.spawn_critical("before", pending::<Result<(), io::Error>>());
    drop(runtime);
    handle.spawn_critical("after", pending::<Result<(), io::Error>>());
    assert!(handle.status().iter().all(|status| status.state != TaskState::Running));
    assert!(handle.shutdown_token().is_cancelled());
}

/// Many tasks end at the same time on many threads: the supervisor misses none, and the drain ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_jobs_and_threads_all_are_accounted_for() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    for index in 0..500_u32 {
        let spawner = handle.clone();
        handle.spawn_job(format!("job-{index}"), async move {
            tokio::task::yield_now().await;
            spawner.spawn_job("nested", async move { if index % 5 == 0 { broken() } else { FINE } });
            FINE
        });
    }
    for index in 0..8 {
        let stop = handle.shutdown_token();
        let runtime = Handle::current();
        handle.spawn_thread(format!("slot-{index}"), move || {
            runtime.block_on(stop.cancelled());
            FINE
        });
    }
    while handle.status().len() > 8 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.failed_jobs(), 100);
    assert!(drain(supervisor).await.is_clean());
}

#[test]
fn an_error_is_told_with_its_causes_and_without_repeating_them() {
    #[derive(Debug, thiserror::Error)]
    enum Commit {
        #[error("cannot commit")]
        Short(#[source] io::Error),
        #[error("cannot commit: {0}")]
        Long(#[source] io::Error),
    }
    let full = || io::Error::other("disk full");
    let told = TaskEnd::Failed("cannot commit: disk full".to_owned());
    assert_eq!(TaskEnd::of(Err(Commit::Short(full()))), told);
    assert_eq!(TaskEnd::of(Err(Commit::Long(full()))), told);
    assert_eq!(TaskEnd::of(Err("plain text")), TaskEnd::Failed("plain text".to_owned()));
}

#[test]
fn a_failure_outweighs_a_late_drain() {
    let failure = Failure { name: "serve".into(), kind: TaskKind::Task, end: TaskEnd::Returned };
    let late = Drained { stragglers: vec!["stuck".to_owned()], failure: None, interrupted: None };
    assert_eq!(late.exit(), Exit::DrainedLate);
    assert_eq!(Drained { failure: Some(failure), ..late }.exit(), Exit::Failed);
    assert_eq!([Exit::Clean, Exit::Failed, Exit::DrainedLate].map(Exit::code), [0, 1, 3]);
}
