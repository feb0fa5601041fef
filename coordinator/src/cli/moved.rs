//! The former commands of `coordinator` that are now part of `lab`. Each ends with a message that names
//! the new command.

use std::ffi::OsString;

use clap::Args;
use tasks::command::BadCommandLine;
use tasks::supervise::Exit;

/// A command that has moved, with any arguments.
#[derive(Debug, Clone, Args)]
pub struct Moved {
    /// Accepted and ignored.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

/// The arguments of a command with one flag that has moved.
#[derive(Debug, Clone, Args)]
pub struct MovedFlags<T: Args> {
    #[command(flatten)]
    args: T,

    /// Now a flag of `lab run` and `lab import`
    #[arg(long, hide = true)]
    sequential: bool,
}

impl<T: Args> MovedFlags<T> {
    /// Returns the arguments, or an error if the moved flag is set.
    pub(super) fn without(self, command: &str) -> anyhow::Result<T> {
        if self.sequential {
            let text = format!("--sequential is an option of `lab {command}`, which takes all others too");
            return Err(BadCommandLine(text).into());
        }
        Ok(self.args)
    }
}

/// Fails with a message that names the new command.
pub(super) fn refuse(command: &str) -> anyhow::Result<Exit> {
    Err(BadCommandLine(format!("`coordinator {command}` is now `lab {command}`, with the same options"))
        .into())
}
