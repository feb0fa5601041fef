//! Tests of the supervisor through its public interface. Tests that measure time use tokio's paused
//! clock.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::future::{pending, ready};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::*;

const GRACE: Duration = Duration::from_secs(30);
const FINE: Result<(), io::Error> = Ok(());

fn broken() -> Result<(), io::Error> {
    Err(io::Error::other("broken"))
}

/// A policy of three restarts, after 100, 200 and 400 ms.
fn thrice() -> Restart {
    Restart::new([100, 200, 400].map(Duration::from_millis), Duration::from_secs(10)).unwrap()
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

#[tokio::test(start_paused = true)]
async fn a_restarting_task_is_given_up_after_its_limit_with_doubling_delays() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let begun = Instant::now();
    handle.spawn_restarting("sync", thrice(), move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { broken() }
    });
    let end = failure_of(&supervisor).await.end;
    assert_eq!(
        end,
        TaskEnd::RestartsExhausted { limit: 3, last: Box::new(TaskEnd::Failed("broken".to_owned())) }
    );
    assert_eq!((runs.load(Ordering::Relaxed), handle.status()[0].restarts), (4, 3));
    // tokio's timer has a granularity of a millisecond.
    let late = begun.elapsed() - Duration::from_millis(700);
    assert!(late <= Duration::from_millis(3), "{late:?}");
    assert_eq!(drain(supervisor).await.exit(), Exit::Failed);
}

#[tokio::test(start_paused = true)]
async fn a_restarting_task_that_backs_off_is_shown_so_and_ends_well_at_shutdown() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    handle.spawn_restarting("sync", thrice(), || async { broken() });
    handle.spawn_restarting(
        "panicking factory",
        thrice(),
        || -> std::future::Ready<Result<(), io::Error>> { panic!("in the factory") },
    );
    while handle.status().iter().any(|status| status.state != TaskState::BackingOff) {
        tokio::task::yield_now().await;
    }
    assert!(drain(supervisor).await.is_clean());
    assert!(handle.status().iter().all(|status| status.state == TaskState::Ended && status.restarts == 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_once_is_running_again_after_its_delay() {
    let supervisor = Supervisor::new("test");
    let handle = supervisor.handle();
    let stop = handle.shutdown_token();
    let mut runs = 0;
    handle.spawn_restarting("sync", thrice(), move || {
        runs += 1;
        let (first, stop) = (runs == 1, stop.clone());
        async move {
            if first {
                panic!("first run");
            }
            stop.cancelled().await;
            FINE
        }
    });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let status = handle.status().remove(0);
    assert_eq!((status.state, status.restarts, status.policy.as_str()), (TaskState::Running, 1, "restart"));
    assert!(drain(supervisor).await.is_clean());
}

#[tokio::test]
async fn a_restarting_task_that_fails_in_the_drain_is_a_failure_and_not_started_again() {
    let supervisor = Supervisor::new("test");
    let stop = supervisor.handle().shutdown_token();
    supervisor.handle().spawn_restarting("sync", thrice(), move || {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            broken()
        }
    });
    assert_eq!(drain(supervisor).await.failure.unwrap().to_string(), "task `sync` failed: broken");
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

#[tokio::test]
async fn a_restarting_thread_gets_a_new_thread_each_time_until_its_limit() {
    let supervisor = Supervisor::new("test");
    let (tell, told) = mpsc::channel();
    let restart = Restart::new([Duration::from_millis(1); 2], Duration::from_secs(3600)).unwrap();
    supervisor.handle().spawn_restarting_thread("slot-1", restart, move || {
        let tell = tell.clone();
        move || -> Result<(), io::Error> {
            tell.send(std::thread::current().id()).unwrap();
            panic!("slot broke")
        }
    });
    let failure = failure_of(&supervisor).await;
    assert_eq!(failure.to_string(), "thread `slot-1` used up its 2 restarts, then panicked: slot broke");
    assert_eq!(told.iter().collect::<std::collections::HashSet<_>>().len(), 3);
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
