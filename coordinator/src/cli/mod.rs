//! The command line: one module per command, options grouped by concern.

// These macros panic if the reader of a pipe has closed it: see `console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod cases;
mod certs;
mod children;
mod client;
mod doors;
mod drain;
mod export;
pub mod fleet;
pub mod import;
mod kills;
mod manual;
mod moved;
mod parked;
mod report;
pub mod run;
mod serve;
mod status;
mod submit;
mod take_over;
mod timeline;
mod verify;

use clap::{Parser, Subcommand};
use tasks::supervise::Exit;
use tasks::telemetry::{self, TelemetryArgs};

use executor_shard::run::long_version;
use tasks::command;
use tasks::harden::harden;

use moved::{Moved, MovedFlags};

pub use certs::{CertsArgs, CertsCommand};
pub use drain::DrainArgs;
pub use export::{ExportArgs, UnwindArgs};
pub use fleet::FleetArgs;
pub use import::ImportArgs;
pub use parked::ParkedArgs;
pub use run::RunArgs;
pub use serve::ServeArgs;
pub use status::StatusArgs;
pub use submit::SubmitArgs;
pub use verify::VerifyArgs;

/// Executes Ethereum blocks on a fleet of executor shards, with results equal to sequential execution
/// whatever happens to the shards.
///
/// Data goes to standard output, everything else to standard error.
///
/// Exit codes: 0 all blocks verified or stopped cleanly, 1 a failure (see the message), 2 bad command
/// line, 3 stopped before all work was finished, 141 standard output was closed by its reader.
#[derive(Debug, Parser)]
#[command(version, long_version = long_version(), name = "coordinator")]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,

    /// The options for logging.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// The commands of `coordinator`, and the former ones that name their successor.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Execute blocks from files: starts its own shards and checks every block against its header
    Run(Box<MovedFlags<RunArgs>>),
    /// Run the service that shards join and clients submit blocks to
    Serve(Box<ServeArgs>),
    /// Import chain files into a data directory through shards, and resume where an earlier import stopped
    Import(Box<MovedFlags<ImportArgs>>),
    /// Write the chain of a data directory as RLP, byte for byte as it was imported
    Export(ExportArgs),
    /// Take the newest blocks of a data directory back
    Unwind(UnwindArgs),
    /// Check all data in a data directory: blocks, receipts, state, journal
    Verify(VerifyArgs),
    /// Submit blocks to a running coordinator
    Submit(SubmitArgs),
    /// Show the status of a running coordinator and its shards
    Status(StatusArgs),
    /// Park an accepted block, or list, retry or discard blocks that wait for an operator, for example because
    /// they kill, or seem to kill, their shards
    Parked(ParkedArgs),
    /// Have a shard finish what it holds and leave, for example before its machine is serviced. It exits with
    /// code 75, after which a supervisor may start it again
    Drain(DrainArgs),
    /// Make certificates for the processes of a fleet and its clients
    Certs(CertsArgs),
    /// Print the completions of `coordinator` and `executor-shard` for a shell
    Completions(manual::CompletionsArgs),
    /// Write the manual pages of `coordinator` and `executor-shard` to a folder
    Man(manual::ManArgs),
    /// Now `lab blocktest`
    #[command(hide = true, disable_help_flag = true)]
    Blocktest(Moved),
    /// Now `lab generate`
    #[command(hide = true, disable_help_flag = true)]
    Generate(Moved),
    /// Now `lab fuzz`
    #[command(hide = true, disable_help_flag = true)]
    Fuzz(Moved),
    /// Now `lab simulate`
    #[command(hide = true, disable_help_flag = true)]
    Simulate(Moved),
}

/// The commands that need an async runtime.
enum Service {
    Run(Box<RunArgs>),
    Import(Box<ImportArgs>),
    Serve(Box<ServeArgs>),
    Submit(SubmitArgs),
    Status(StatusArgs),
    Parked(ParkedArgs),
    Drain(DrainArgs),
}

impl Cli {
    /// Runs the command, and prints the error if it fails.
    #[must_use]
    pub fn run(self) -> Exit {
        command::ended("coordinator", self.execute())
    }

    fn execute(self) -> anyhow::Result<Exit> {
        // A run prints its own messages about the fleet.
        let level = match self.command {
            Command::Serve(_) => "info",
            Command::Run(_) | Command::Import(_) => "error",
            _ => "warn",
        };
        let telemetry = self.telemetry.or_level(level);
        telemetry::init(&telemetry, "coordinator")?;
        let command = match self.command {
            Command::Export(args) => return export::export(&args),
            Command::Unwind(args) => return export::unwind(&args),
            Command::Verify(args) => return verify::verify(&args),
            Command::Certs(args) => return certs::certs(&args),
            Command::Completions(args) => return manual::completions(&args),
            Command::Man(args) => return manual::man(&args),
            Command::Blocktest(_) => return moved::refuse("blocktest"),
            Command::Generate(_) => return moved::refuse("generate"),
            Command::Fuzz(_) => return moved::refuse("fuzz"),
            Command::Simulate(_) => return moved::refuse("simulate"),
            Command::Run(args) => Service::Run(Box::new(args.without("run")?)),
            Command::Import(args) => Service::Import(Box::new(args.without("import")?)),
            Command::Serve(args) => Service::Serve(args),
            Command::Submit(args) => Service::Submit(args),
            Command::Status(args) => Service::Status(args),
            Command::Parked(args) => Service::Parked(args),
            Command::Drain(args) => Service::Drain(args),
        };
        if let Service::Serve(args) = &command
            && args.hardened
        {
            harden(None)?;
        }
        command::block_on("coordinator", async {
            match command {
                Service::Run(args) => run::run(*args, telemetry, None).await,
                Service::Import(args) => import::import(*args, telemetry, None).await,
                Service::Serve(args) => serve::serve(*args).await,
                Service::Submit(args) => submit::submit(args).await,
                Service::Status(args) => status::status(args).await,
                Service::Parked(args) => parked::parked(args).await,
                Service::Drain(args) => drain::drain(args).await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_for_logging_may_stand_anywhere() {
        let parsed = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().telemetry;
        let before = parsed("coordinator --log debug --log-format json verify --data-dir x");
        assert_eq!(parsed("coordinator verify --data-dir x --log debug --log-format json"), before);
        assert_eq!(parsed("coordinator --log debug verify --data-dir x --log-format json"), before);
        assert_ne!(parsed("coordinator verify --data-dir x"), before);
    }
}
