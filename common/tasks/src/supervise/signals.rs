//! The requests to stop the process: by a signal, by the end of its parent, or from within.
//!
//! This module only delivers the request. The supervisor and `main` decide what stops, and in which
//! order.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why the process must stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, for example from Ctrl-C.
    Interrupt,
    /// SIGTERM, for example from a service manager.
    Terminate,
    /// The process that started this one has ended.
    ParentGone,
    /// A request from within, for example when all work is done.
    Requested,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupt (SIGINT)",
            Self::Terminate => "terminate (SIGTERM)",
            Self::ParentGone => "parent process gone",
            Self::Requested => "requested",
        })
    }
}

/// SIGINT and SIGTERM. Both are registered once and can then be awaited any number of times.
///
/// From registration on these signals no longer end the process by themselves, even after this value is
/// dropped. That is why a second signal must cut the drain short.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Registers both signals. Call it within a tokio runtime, before any other start.
    ///
    /// # Errors
    /// An error if the operating system rejects a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal. Cancel safe: a signal since the last call is not lost (several of one
    /// kind may count as one).
    pub async fn next(&mut self) -> StopReason {
        tokio::select! {
            Some(()) = self.interrupt.recv() => StopReason::Interrupt,
            Some(()) = self.terminate.recv() => StopReason::Terminate,
            // Both streams ended, so the runtime's signal driver has ended and no signal will come.
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

    use super::*;

    /// One test for all facts: signals reach the whole process, so two tests would disturb each other.
    #[tokio::test]
    async fn signals_are_told_apart_and_none_is_lost_between_calls() {
        let mut signals = Signals::new().unwrap();
        for (name, reason) in [("TERM", StopReason::Terminate), ("INT", StopReason::Interrupt)] {
            let pid = std::process::id().to_string();
            let status =
                tokio::process::Command::new("kill").args(["-s", name, &pid]).status().await.unwrap();
            assert!(status.success());
            assert_eq!(signals.next().await, reason);
        }
    }
}
