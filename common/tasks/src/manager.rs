//! What a process tells the service manager that has started it: that it serves, that it lives, and that it stops
//! (`sd_notify(3)`). Without such a manager nothing is sent.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::supervise::SupervisorHandle;

/// How often the process says that it lives, in the time after which the manager takes it for dead.
const SIGNS: u32 = 3;

/// Tells the manager that the process serves. If the manager asks for signs of life it gets them from now on, as long
/// as `lives` answers `true`. `lives` may block; while it does there is no sign.
pub fn serves(supervisor: &SupervisorHandle, lives: impl Fn() -> bool + Clone + Send + 'static) {
    tell(NotifyState::Ready);
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    let stop = supervisor.shutdown_token();
    supervisor.spawn_critical("watchdog", async move {
        stop.run_until_cancelled(show_life(within / SIGNS, lives)).await;
        Ok::<(), tokio::task::JoinError>(())
    });
}

/// Tells the manager that the process begins to stop.
pub fn stops() {
    tell(NotifyState::Stopping);
}

async fn show_life(interval: Duration, lives: impl Fn() -> bool + Clone + Send + 'static) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::task::spawn_blocking(lives.clone()).await {
            Ok(true) => tell(NotifyState::Watchdog),
            Ok(false) => {
                tracing::error!("the process does not answer itself: no sign of life for the manager")
            }
            Err(error) => tracing::error!(%error, "the look whether the process lives has failed"),
        }
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be notified");
    }
}
