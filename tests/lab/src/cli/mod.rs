//! The command line of `lab`: one module a command.

// They panic where the reader of a pipe has gone: see `tasks::console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod baseline;
mod blocktest;
mod fuzz;
mod generate;
mod simulate;

use std::str::FromStr;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use schedule::planner::Plan;
use tasks::console::{OutputError, tell};
use tasks::supervise::Exit;
use tasks::telemetry::{self, TelemetryArgs};

pub use baseline::{ImportArgs, RunArgs};
pub use blocktest::BlocktestArgs;
pub use fuzz::FuzzArgs;
pub use generate::GenerateArgs;
pub use simulate::SimulateArgs;

/// Proves and measures the sharded execution of blocks: generates chains, runs Ethereum's tests,
/// fuzzes, simulates failures, and executes sequentially for comparison.
///
/// Data goes to standard output, everything else to standard error.
///
/// Exit codes: 0 everything verified, 1 something failed (the message says what), 2 bad command line,
/// 3 stopped before everything was finished, 141 the reader of standard output has gone.
#[derive(Debug, Parser)]
#[command(version, name = "lab")]
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
    /// As `coordinator run`, also with --sequential and with plans that make speculation wrong
    Run(Box<RunArgs>),
    /// As `coordinator import`, also with --sequential and with plans that make speculation wrong
    Import(Box<ImportArgs>),
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
}

impl Cli {
    /// Reads the process's arguments; ends the process with a message where they are wrong.
    #[must_use]
    pub fn read() -> Self {
        let mut command = Self::command();
        // These share their options with the coordinator's commands, which do not take this plan.
        for name in ["run", "import", "blocktest"] {
            command = command.mut_subcommand(name, |command| {
                command.mut_arg("plan", |plan| {
                    plan.value_parser(Plan::from_str)
                        .help("How blocks are cut: auto, one, each, random:SEED or poison:SEED")
                })
            });
        }
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Does what the command line says, and tells the user what stopped it, if something did.
    #[must_use]
    pub fn run(self) -> Exit {
        match self.execute() {
            Ok(exit) => exit,
            Err(error) if OutputError::is_closed(&error) => Exit::OutputClosed,
            Err(error) => {
                tell!("lab: {error:#}");
                Exit::Failed
            }
        }
    }

    fn execute(self) -> anyhow::Result<Exit> {
        // What happens in its fleet, a run tells by itself.
        let level = match self.command {
            Command::Run(_) | Command::Import(_) | Command::Blocktest(_) => "error",
            _ => "warn",
        };
        let telemetry = self.telemetry.or_level(level);
        telemetry::init(&telemetry, "lab")?;
        let command = match self.command {
            Command::Generate(args) => return generate::generate(&args),
            Command::Fuzz(args) => return fuzz::run(&args),
            Command::Simulate(args) => return simulate::simulate(&args),
            Command::Run(args) => Service::Run(args),
            Command::Import(args) => Service::Import(args),
            Command::Blocktest(args) => Service::Blocktest(args),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("lab-io")
            .enable_all()
            .build()?;
        let exit = runtime.block_on(async {
            match command {
                Service::Run(args) => baseline::run(*args, telemetry).await,
                Service::Import(args) => baseline::import(*args, telemetry).await,
                Service::Blocktest(args) => blocktest::run(*args, telemetry).await,
            }
        });
        runtime.shutdown_background();
        exit
    }
}
