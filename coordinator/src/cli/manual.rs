//! `coordinator completions` and `coordinator man`: what shells and `man` know of the command lines of both programs.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use executor_shard::run::ShardArgs;
use tasks::console::{OutputError, tell_as_program};
use tasks::options::with_sources;
use tasks::supervise::Exit;

use super::Cli;

/// Options of `coordinator completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// Options of `coordinator man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// The folder, which is created if missing
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// The command lines of both programs.
fn programs() -> [Command; 2] {
    [Cli::command(), ShardArgs::command()].map(with_sources)
}

/// Prints the completions for a shell.
pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    for mut program in programs() {
        let name = program.get_name().to_owned();
        clap_complete::generate(args.shell, &mut program, name, &mut text);
    }
    std::io::stdout().lock().write_all(&text).map_err(OutputError::from)?;
    Ok(Exit::Clean)
}

/// Writes a manual page for each program and each of its commands.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    let folder = &args.folder;
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    for program in programs() {
        clap_mangen::generate_to(program, folder)
            .with_context(|| format!("the pages cannot be written to {}", folder.display()))?;
    }
    let pages = fs::read_dir(folder)?.count();
    tell_as_program!("{} holds {pages} files; read them with `man -l`", folder.display());
    Ok(Exit::Clean)
}
