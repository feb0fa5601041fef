//! The output of a command: data on standard output, messages on standard error.
//!
//! The macros of the standard library panic if the reader of a pipe has closed it. Here a closed
//! standard output is an error, [`OutputError::Closed`], that ends the command quietly. A message that
//! cannot be written to standard error is dropped.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;

/// Why data could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader closed the pipe, for example `head -1` after its line.
    #[error("the reader of standard output has gone")]
    Closed,
    /// A write to the file or device behind standard output failed.
    #[error("standard output cannot be written: {0}")]
    Failed(#[source] io::Error),
    /// A value cannot be written as JSON.
    #[error("a line of JSON cannot be made: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(error) }
    }
}

impl OutputError {
    /// Whether a command failed only because its output has no reader any more.
    pub fn is_closed(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| matches!(cause.downcast_ref(), Some(Self::Closed)))
    }
}

/// The duration in milliseconds, with microsecond precision.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Prints a line and flushes it before returning.
pub fn print_line(line: impl fmt::Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Prints a value as one line of JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), OutputError> {
    print_line(serde_json::to_string(value)?)
}

static PROGRAM: OnceLock<&str> = OnceLock::new();

/// Sets the name of this program for its messages. Only the first call has an effect.
pub(crate) fn set_program(name: &'static str) {
    let _ = PROGRAM.set(name);
}

/// Writes a message to standard error that begins with the program's name, and ignores a failure.
/// [`crate::telemetry::init`] sets the name.
pub fn write_as_program(message: fmt::Arguments<'_>) {
    match PROGRAM.get() {
        Some(program) => write_message(format_args!("{program}: {message}")),
        None => write_message(message),
    }
}

/// Writes a message to standard error and ignores a failure.
pub fn write_message(message: fmt::Arguments<'_>) {
    // One write, so that the messages of two threads do not mix. A failure cannot be reported anywhere.
    let _ = io::stderr().write_all(format!("{message}\n").as_bytes());
}

/// Writes a message to standard error. The arguments are those of `format!`.
#[macro_export]
macro_rules! tell {
    ($($argument:tt)*) => {
        $crate::console::write_message(format_args!($($argument)*))
    };
}

/// Writes a message to standard error that begins with the program's name, as `coordinator: ` or `lab: `.
/// The arguments are those of `format!`.
#[macro_export]
macro_rules! tell_as_program {
    ($($argument:tt)*) => {
        $crate::console::write_as_program(format_args!($($argument)*))
    };
}

pub use crate::{tell, tell_as_program};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pipe_without_reader_is_a_closed_output() {
        let closed = OutputError::from(io::Error::from(ErrorKind::BrokenPipe));
        let full = OutputError::from(io::Error::from(ErrorKind::StorageFull));
        assert!(OutputError::is_closed(&anyhow::Error::new(closed).context("the last block")));
        assert!(!OutputError::is_closed(&anyhow::Error::new(full)));
        let of_a_peer = anyhow::Error::new(io::Error::from(ErrorKind::BrokenPipe));
        assert!(!OutputError::is_closed(&of_a_peer), "a peer's connection is not standard output");
    }
}
