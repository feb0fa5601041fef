//! What a running process takes from its options again at SIGHUP: the log filter. All else needs a restart, except
//! certificates and tokens, whose files are watched anyway.

use std::{env, io};

use clap::{CommandFactory, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;

use super::{Read, read};
use crate::supervise::SupervisorHandle;
use crate::telemetry::{LogFilter, set_filter};

/// From now on each SIGHUP has the options of `P` read again from where they were, and the filter taken that `filter`
/// finds in them. If they cannot be read, the former one counts on.
///
/// # Errors
/// If the signal cannot be registered. Call it within a tokio runtime.
pub fn reload_on_hangup<P: CommandFactory + FromArgMatches + 'static>(
    supervisor: &SupervisorHandle,
    filter: impl Fn(&P) -> LogFilter + Clone + Send + Sync + 'static,
) -> io::Result<()> {
    let (mut hangups, stop) = (signal(SignalKind::hangup())?, supervisor.shutdown_token());
    supervisor.spawn_critical("reload", async move {
        let reloading = async {
            while hangups.recv().await.is_some() {
                let filter = filter.clone();
                tokio::task::spawn_blocking(move || reload::<P>(&filter)).await?;
            }
            std::future::pending().await
        };
        stop.run_until_cancelled(reloading).await.unwrap_or(Ok::<(), JoinError>(()))
    });
    Ok(())
}

fn reload<P: CommandFactory + FromArgMatches>(filter: &impl Fn(&P) -> LogFilter) {
    let options = match read::<P>(env::args_os().collect()) {
        Ok(Read::Options(options)) => options,
        // A process that prints its options does not run.
        Ok(Read::Dump(_)) => return,
        Err(refused) => {
            let error = refused.to_string();
            tracing::warn!(error, "the options cannot be read again: the former ones count on");
            return;
        }
    };
    let filter = filter(&options);
    match set_filter(&filter) {
        Ok(()) => tracing::info!(log = filter.as_str(), "the options were read again"),
        Err(error) => tracing::warn!(%error, "the log filter cannot be changed"),
    }
}
