//! The process is asked to stop: by a signal, by the loss of its parent, or by request.
//!
//! Only the asking is here. What stops, and in which order, is the supervisor's and `main`'s.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why the process is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM, as from a service manager.
    Terminate,
    /// The process that started this one is gone.
    ParentGone,
    /// Asked for from within, as when all work is done.
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

/// SIGINT and SIGTERM, registered once and then waited for any number of times.
///
/// From registration on these signals no longer end the process by themselves, also after this
/// value is dropped: that is why a second one has to cut the drain short.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Registers both signals. To be called within a tokio runtime, before anything is started.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal. Cancel safe; a signal that came since the last call is not lost (several of
    /// one kind may count as one).
    pub async fn next(&mut self) -> StopReason {
        tokio::select! {
            Some(()) = self.interrupt.recv() => StopReason::Interrupt,
            Some(()) = self.terminate.recv() => StopReason::Terminate,
            // Both streams ended: the runtime's signal driver is gone, so nothing will ever come.
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

    use super::*;

    /// One test for all of it: signals reach the whole process, so two tests would disturb each other.
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
