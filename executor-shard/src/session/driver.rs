//! Runs the session machine: a task that performs the machine's actions and reports their results to
//! it.
//!
//! Calls run in a set of their own, so that a slow delivery never delays a heartbeat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::endpoint::{CoordinatorEndpoint, PeerError};
use common::id::AssignmentId;
use common::message::{
    Draining, Heartbeat, Leave, Refusal, Register, Registered, ResultReceipt, SubmitResult,
};
use net::monitor::{Health, Kind, Tracker};
use net::retry::EntryId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::called;

use super::machine::{Accepted, Action, Session, SessionConfig};

/// The longest time for the call that announces the shard's leave.
const LEAVE_WITHIN: Duration = Duration::from_secs(1);

/// The shortest and the longest time between two warnings that the shard is not registered.
const WARN_EVERY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The messages that a session sends about the shard.
pub trait SessionOptions: Send + Sync {
    /// The request to join the fleet.
    fn register(&self) -> Register;
    /// A heartbeat under the current epoch; `None` if the shard has not registered yet.
    fn heartbeat(&self) -> Option<Heartbeat>;
}

/// The session. The task that drives it, the service that receives commands, and the slots that report
/// all share it.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    machine: Mutex<Session>,
    config: SessionConfig,
    changed: Notify,
    started: Instant,
    left: CancellationToken,
    /// How the coordinator answers.
    tracker: Tracker,
}

impl SessionHandle {
    /// Creates a session that has not started.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        let shared = Shared {
            machine: Mutex::new(Session::new(config, Duration::ZERO)),
            config,
            changed: Notify::new(),
            started: Instant::now(),
            left: CancellationToken::new(),
            tracker: Tracker::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn machine(&self) -> MutexGuard<'_, Session> {
        self.shared.machine.lock()
    }

    fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// How the coordinator answers heartbeats, over all connections.
    #[must_use]
    pub fn coordinator_health(&self) -> Health {
        self.shared.tracker.health(Kind::Latency)
    }

    /// Reads from the machine under its lock.
    pub fn with<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.machine())
    }

    /// Accepts or rejects an assignment that arrives.
    ///
    /// # Errors
    /// [`Refusal`] with the reason.
    pub fn accept(&self, id: AssignmentId) -> Result<Accepted, Refusal> {
        let accepted = self.machine().accept(id);
        if matches!(accepted, Ok(Accepted::New)) {
            // The shard has work now, so the next heartbeat is due sooner.
            self.shared.changed.notify_one();
        }
        accepted
    }

    /// Records the result of an assignment that a worker has finished.
    pub fn finished(&self, result: SubmitResult) {
        let now = self.now();
        self.machine().finished(result, now);
        self.shared.changed.notify_one();
    }

    /// Records that an accepted assignment was cancelled and has no result.
    pub fn dropped(&self, id: AssignmentId) {
        self.machine().dropped(id);
        self.shared.changed.notify_one();
    }

    /// Starts the drain: the session takes no new work, finishes and delivers the accepted work, then ends.
    pub fn drain(&self) {
        self.machine().drain();
        self.shared.changed.notify_one();
    }

    /// A token that is cancelled when the session has ended.
    #[must_use]
    pub fn left(&self) -> CancellationToken {
        self.shared.left.clone()
    }
}

/// The result of a call.
enum Done {
    Registered(Result<Registered, PeerError>),
    Heartbeat(Result<(), PeerError>),
    Submitted(EntryId, Result<ResultReceipt, PeerError>),
    Announced(Result<(), PeerError>),
    Left,
}

/// Counts how long the shard has tried to register, and decides when to warn: at the first failure,
/// then each time after as long again, within [`WARN_EVERY`].
#[derive(Debug, Default)]
struct Absence {
    /// The time of the first failure, and of the next warning; `None` before the first failure.
    since: Option<(Duration, Duration)>,
}

impl Absence {
    /// Records a failure. If a warning is due, returns for how long the shard has tried.
    fn failed(&mut self, now: Duration) -> Option<Duration> {
        let (first, warn_at) = self.since.unwrap_or((now, now));
        if now < warn_at {
            return None;
        }
        let tried = now.saturating_sub(first);
        self.since = Some((first, now + tried.clamp(WARN_EVERY.0, WARN_EVERY.1)));
        Some(tried)
    }
}

/// The session ended because the coordinator rejected this shard for good.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GaveUp(String);

/// Drives the session until it leaves, gives up, or is stopped.
///
/// # Errors
/// [`GaveUp`] if the coordinator rejects this shard for good.
pub async fn run_session(
    handle: SessionHandle,
    coordinator: Arc<dyn CoordinatorEndpoint>,
    options: Arc<dyn SessionOptions>,
    stop: CancellationToken,
) -> Result<(), GaveUp> {
    let _left = handle.left().drop_guard();
    let mut calls: JoinSet<Done> = JoinSet::new();
    let mut away = true;
    let mut absence = Absence::default();
    loop {
        let now = handle.now();
        let (actions, wake, joined) = {
            let mut machine = handle.machine();
            (machine.poll(now), machine.next_wake(), machine.is_joined())
        };
        if joined == away {
            away = !joined;
            tracing::info!(
                joined,
                "{}",
                if joined { "joined the fleet" } else { "waiting for the coordinator" }
            );
        }
        for action in actions {
            if let Action::GiveUp(reason) = action {
                return Err(GaveUp(reason));
            }
            start(&mut calls, action, &handle, &coordinator, options.as_ref());
        }
        let pause = async {
            match wake {
                Some(at) => tokio::time::sleep(at.saturating_sub(handle.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = handle.shared.changed.notified() => {}
            () = pause => {}
            Some(done) = calls.join_next() => match done {
                Ok(Done::Left) => return Ok(()),
                Ok(done) => take_up(&handle, done, &mut absence),
                // The call's outcome is lost, and the machine would wait for it for ever.
                Err(error) => return Err(GaveUp(format!("a call of the session failed: {error}"))),
            },
        }
    }
}

fn start(
    calls: &mut JoinSet<Done>,
    action: Action,
    handle: &SessionHandle,
    coordinator: &Arc<dyn CoordinatorEndpoint>,
    options: &dyn SessionOptions,
) {
    let coordinator = Arc::clone(coordinator);
    let SessionConfig { shard, incarnation, .. } = handle.shared.config;
    match action {
        Action::Register => {
            let request = options.register();
            calls.spawn(async move { Done::Registered(coordinator.register(request).await) });
        }
        Action::Heartbeat => {
            let heartbeat = options.heartbeat();
            let (tracker, limit) = (handle.shared.tracker.clone(), handle.shared.config.lost_after);
            calls.spawn(async move {
                let Some(heartbeat) = heartbeat else { return Done::Heartbeat(Ok(())) };
                let request = tracker.begin(Kind::Latency);
                let answer = coordinator.heartbeat(heartbeat).await;
                if let Some(request) = request {
                    request.end_with(&answer, limit);
                }
                Done::Heartbeat(answer)
            });
        }
        Action::Submit(entry, result) => {
            calls.spawn(async move { Done::Submitted(entry, coordinator.submit_result(result).await) });
        }
        Action::AnnounceDraining => {
            let notice = Draining { shard, incarnation };
            calls.spawn(async move { Done::Announced(coordinator.draining(notice).await) });
        }
        Action::Leave => {
            let leave = Leave { shard, incarnation, reason: "drained".into() };
            calls.spawn(async move {
                // If the coordinator is away, it will notice the shard's end by itself.
                let _ = tokio::time::timeout(LEAVE_WITHIN, coordinator.leave(leave)).await;
                Done::Left
            });
        }
        Action::GiveUp(_) => {}
    }
}

fn take_up(handle: &SessionHandle, done: Done, absence: &mut Absence) {
    let now = handle.now();
    // The source of the jitter: the clock's last digits differ between shards.
    let random = (now.subsec_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut machine = handle.machine();
    match done {
        Done::Registered(answer) => {
            called("shardexec_registrations_total", answer.is_ok());
            match &answer {
                Ok(_) => *absence = Absence::default(),
                // The reason of a final refusal is the error with which the session ends.
                Err(error) if !error.is_retryable() => {}
                Err(error) => match absence.failed(now) {
                    Some(tried) => {
                        let tried_s = tried.as_secs();
                        tracing::warn!(%error, tried_s, "not registered with the coordinator; trying again");
                    }
                    None => tracing::debug!(%error, "not registered"),
                },
            }
            machine.registered(answer, now, random);
        }
        Done::Heartbeat(answer) => {
            if let Err(PeerError::NotRegistered(reason)) = &answer {
                tracing::warn!(reason, "the coordinator does not know this shard; registering again");
            }
            machine.heartbeat_done(answer, now, random);
        }
        Done::Submitted(entry, answer) => {
            called("shardexec_deliveries_total", answer.is_ok());
            if let Err(error) = &answer {
                tracing::warn!(%error, "a result was not delivered");
            }
            machine.submitted(entry, answer, now, random);
        }
        Done::Announced(answer) => {
            if let Err(error) = answer {
                tracing::warn!(%error, "the coordinator was not notified of the drain");
            }
        }
        Done::Left => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_is_told_at_once_and_then_ever_more_rarely() {
        let mut absence = Absence::default();
        let told: Vec<u64> =
            (7..2_000).filter(|now| absence.failed(Duration::from_secs(*now)).is_some()).collect();
        assert_eq!(told, [7, 12, 17, 27, 47, 87, 167, 327, 627, 927, 1_227, 1_527, 1_827]);
    }
}
