//! How a command of one of the binaries ends: its error on standard error, its exit code, and the runtime
//! of those that need one. It parses no arguments.

use std::future::Future;

use crate::console::{OutputError, tell};
use crate::supervise::Exit;

/// The most I/O threads of a command. The EVM never runs on them. A process with one core, or a part of
/// one, gets one: a second would only wake and go to sleep again.
const MAX_IO_THREADS: usize = 2;

/// The command line asks for something that this command does not do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadCommandLine(pub String);

/// The exit code of a command that has ended with `result`. Prints the error, unless it is only that the
/// reader of standard output has gone.
#[must_use]
pub fn ended(program: &str, result: anyhow::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) if OutputError::is_closed(&error) => Exit::OutputClosed,
        Err(error) => {
            tell!("{program}: {}", line_of(&error));
            if error.is::<BadCommandLine>() { Exit::BadCommandLine } else { Exit::Failed }
        }
    }
}

/// The error and its causes on one line, without the causes that an error before them already names.
fn line_of(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&format!(": {cause}")) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Runs a command on a runtime of its own. Tasks that are still running when the command has ended are
/// not waited for.
///
/// # Errors
/// The command's error, or that the runtime cannot be started.
pub fn block_on<T>(program: &str, command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    crate::allocator::start_threads();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_IO_THREADS))
        .thread_name(format!("{program}-io"))
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the file cannot be opened: {0}. Create it")]
    struct NamesItsCause(#[source] std::io::Error);

    #[test]
    fn each_cause_is_named_once() {
        let named = NamesItsCause(std::io::Error::other("no such file"));
        let error = anyhow::Error::new(named).context("the options are incomplete");
        let line = line_of(&error);
        assert_eq!(line, "the options are incomplete: the file cannot be opened: no such file. Create it");
        let unnamed =
            anyhow::anyhow!("no such file").context("the genesis cannot be read").context("it ends");
        assert_eq!(line_of(&unnamed), "it ends: the genesis cannot be read: no such file");
    }

    #[test]
    fn errors_have_the_codes_that_the_help_names() {
        let bad = anyhow::Error::new(BadCommandLine("it is elsewhere".into()));
        assert_eq!(ended("x", Err(bad)).code(), 2);
        assert_eq!(ended("x", Err(anyhow::anyhow!("it fails"))).code(), 1);
        assert_eq!(ended("x", Err(OutputError::Closed.into())).code(), 141);
        assert_eq!(ended("x", Ok(Exit::DrainedLate)).code(), 3);
    }
}
