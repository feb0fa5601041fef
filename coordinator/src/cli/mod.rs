//! The command line: one module a command, options grouped by concern.

// They panic where the reader of a pipe has gone: see `console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod blocktest;
mod cases;
mod children;
mod client;
mod console;
mod export;
mod fleet;
mod fuzz;
mod generate;
mod import;
mod parked;
mod report;
mod run;
mod serve;
mod simulate;
mod status;
mod submit;
mod take_over;
mod timeline;
mod verify;

use clap::{Parser, Subcommand};
use common::supervise::Exit;
use common::telemetry::{self, TelemetryArgs};

use console::{OutputError, tell};

pub use blocktest::BlocktestArgs;
pub use export::{ExportArgs, UnwindArgs};
pub use fleet::FleetArgs;
pub use fuzz::FuzzArgs;
pub use generate::GenerateArgs;
pub use import::ImportArgs;
pub use parked::ParkedArgs;
pub use run::RunArgs;
pub use serve::ServeArgs;
pub use simulate::SimulateArgs;
pub use status::StatusArgs;
pub use submit::SubmitArgs;
pub use verify::VerifyArgs;

/// Executes Ethereum blocks on a fleet of executor shards, with results equal to sequential
/// execution whatever happens to the shards.
///
/// Data goes to standard output, everything else to standard error.
///
/// Exit codes: 0 everything verified or stopped cleanly, 1 something failed (the message says
/// what), 2 bad command line, 3 stopped before everything was finished, 141 the reader of standard
/// output has gone.
#[derive(Debug, Parser)]
#[command(version, name = "coordinator")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How to log.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Execute blocks from files: starts its own shards and checks every block against its header
    Run(Box<RunArgs>),
    /// Run the service that shards join and clients submit blocks to
    Serve(Box<ServeArgs>),
    /// Import chain files into a data directory, through shards, and go on where it stopped
    Import(Box<ImportArgs>),
    /// Write the chain of a data directory as RLP, byte for byte as it was imported
    Export(ExportArgs),
    /// Take the newest blocks of a data directory back
    Unwind(UnwindArgs),
    /// Check everything in a data directory: blocks, receipts, state, journal
    Verify(VerifyArgs),
    /// Submit blocks to a running coordinator
    Submit(SubmitArgs),
    /// Show how a running coordinator and its shards are
    Status(StatusArgs),
    /// Deal with blocks that wait for an operator: they kill, or seem to kill, whoever executes them
    Parked(ParkedArgs),
    /// Run files and folders of Ethereum's BlockchainTests on shards of its own
    Blocktest(Box<BlocktestArgs>),
    /// Generate a chain of correctly signed blocks that any client can import
    Generate(GenerateArgs),
    /// Compare this system with alloy-evm on random programs, under plans that make speculation wrong
    Fuzz(FuzzArgs),
    /// Run simulated histories of the failure model: seeded, in virtual time, with faults
    Simulate(SimulateArgs),
}

/// The commands that need a runtime.
enum Service {
    Run(Box<RunArgs>),
    Import(Box<ImportArgs>),
    Blocktest(Box<BlocktestArgs>),
    Serve(Box<ServeArgs>),
    Submit(SubmitArgs),
    Status(StatusArgs),
    Parked(ParkedArgs),
}

impl Cli {
    /// Does what the command line says, and tells the user what stopped it, if something did.
    #[must_use]
    pub fn run(self) -> Exit {
        match self.execute() {
            Ok(exit) => exit,
            Err(error) if OutputError::is_closed(&error) => Exit::OutputClosed,
            Err(error) => {
                tell!("coordinator: {error:#}");
                Exit::Failed
            }
        }
    }

    fn execute(self) -> anyhow::Result<Exit> {
        // What happens in its fleet, a run tells by itself.
        let level = match self.command {
            Command::Serve(_) => "info",
            Command::Run(_) | Command::Import(_) | Command::Blocktest(_) => "error",
            _ => "warn",
        };
        let telemetry = self.telemetry.or_level(level);
        telemetry::init(&telemetry, "coordinator")?;
        let command = match self.command {
            Command::Generate(args) => return generate::generate(&args),
            Command::Export(args) => return export::export(&args),
            Command::Unwind(args) => return export::unwind(&args),
            Command::Verify(args) => return verify::verify(&args),
            Command::Fuzz(args) => return fuzz::run(&args),
            Command::Simulate(args) => return simulate::simulate(&args),
            Command::Run(args) => Service::Run(args),
            Command::Import(args) => Service::Import(args),
            Command::Blocktest(args) => Service::Blocktest(args),
            Command::Serve(args) => Service::Serve(args),
            Command::Submit(args) => Service::Submit(args),
            Command::Status(args) => Service::Status(args),
            Command::Parked(args) => Service::Parked(args),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("coordinator-io")
            .enable_all()
            .build()?;
        let exit = runtime.block_on(async {
            match command {
                Service::Run(args) => run::run(*args, telemetry).await,
                Service::Import(args) => import::import(*args, telemetry).await,
                Service::Blocktest(args) => blocktest::run(*args, telemetry).await,
                Service::Serve(args) => serve::serve(*args).await,
                Service::Submit(args) => submit::submit(args).await,
                Service::Status(args) => status::status(args).await,
                Service::Parked(args) => parked::parked(args).await,
            }
        });
        runtime.shutdown_background();
        exit
    }
}
