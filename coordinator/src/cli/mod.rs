//! The command line: one module a command, options grouped by concern.

mod cases;
mod children;
mod generate;
mod report;
mod run;
mod serve;
mod simulate;
mod submit;
mod timeline;

use clap::{Parser, Subcommand};
use common::supervise::Exit;
use common::telemetry::{self, TelemetryArgs};

pub use generate::GenerateArgs;
pub use run::RunArgs;
pub use serve::ServeArgs;
pub use simulate::SimulateArgs;
pub use submit::{StatusArgs, SubmitArgs};

/// Executes Ethereum blocks on a fleet of executor shards, with results equal to sequential
/// execution whatever happens to the shards.
///
/// Data goes to standard output, everything else to standard error.
///
/// Exit codes: 0 everything verified or stopped cleanly, 1 something failed (the message says
/// what), 2 bad command line, 3 stopped before everything was finished.
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
    /// Submit blocks to a running coordinator
    Submit(SubmitArgs),
    /// Show how a running coordinator and its shards are
    Status(StatusArgs),
    /// Generate a chain of correctly signed blocks that any client can import
    Generate(GenerateArgs),
    /// Run simulated histories of the failure model: seeded, in virtual time, with faults
    Simulate(SimulateArgs),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// Whatever stopped it, to be told to the user.
    pub fn run(self) -> anyhow::Result<Exit> {
        // What happens in its fleet, a run tells by itself.
        let level = match self.command {
            Command::Serve(_) => "info",
            Command::Run(_) => "error",
            _ => "warn",
        };
        let telemetry = self.telemetry.or_level(level);
        telemetry::init(&telemetry, "coordinator")?;
        match self.command {
            Command::Generate(args) => return generate::generate(&args),
            Command::Simulate(args) => return simulate::simulate(&args),
            _ => {}
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("coordinator-io")
            .enable_all()
            .build()?;
        let exit = runtime.block_on(async {
            match self.command {
                Command::Run(args) => run::run(*args, telemetry).await,
                Command::Serve(args) => serve::serve(*args).await,
                Command::Submit(args) => submit::submit(args).await,
                Command::Status(args) => submit::status(args).await,
                Command::Generate(args) => generate::generate(&args),
                Command::Simulate(args) => simulate::simulate(&args),
            }
        });
        runtime.shutdown_background();
        exit
    }
}
