//! What the `coordinator` binary could do once and `lab` does now: asked for it, it names the command.

use std::ffi::OsString;

use anyhow::bail;
use clap::Args;
use tasks::supervise::Exit;

/// A command that has moved, with whatever arguments.
#[derive(Debug, Clone, Args)]
pub struct Moved {
    /// Not read.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

/// A command of which one flag has moved.
#[derive(Debug, Clone, Args)]
pub struct MovedFlags<T: Args> {
    #[command(flatten)]
    args: T,

    /// Now a flag of `lab run` and `lab import`
    #[arg(long, hide = true)]
    sequential: bool,
}

impl<T: Args> MovedFlags<T> {
    /// The arguments, if none of them has moved.
    pub(super) fn without(self, command: &str) -> anyhow::Result<T> {
        if self.sequential {
            bail!("--sequential is an option of `lab {command}`, which takes all others too");
        }
        Ok(self.args)
    }
}

/// Says where the command is.
pub(super) fn refuse(command: &str) -> anyhow::Result<Exit> {
    bail!("`coordinator {command}` is now `lab {command}`, with the same options");
}
