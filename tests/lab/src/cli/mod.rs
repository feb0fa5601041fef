//! The command line of `lab`: one module per command.

// These macros panic if the reader of a pipe has closed it: see `tasks::console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod baseline;
mod blocktest;
mod fuzz;
mod generate;
mod scale;
mod simulate;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use executor_shard::fault::PlannedFault;
use tasks::command;
use tasks::supervise::Exit;
use tasks::telemetry::{self, TelemetryArgs};

use crate::plan::LabPlan;

pub use baseline::{ImportArgs, RunArgs};
pub use blocktest::BlocktestArgs;
pub use fuzz::FuzzArgs;
pub use generate::GenerateArgs;
pub use scale::{BenchArgs, FleetSizes, ScaleArgs};
pub use simulate::SimulateArgs;

/// Tests and measures the sharded execution of blocks: generates chains, runs Ethereum's tests, fuzzes,
/// simulates failures, and executes sequentially for comparison.
///
/// Data goes to standard output, everything else to standard error.
///
/// Exit codes: 0 everything verified, 1 a failure (see the message), 2 bad command line, 3 stopped
/// before all work was finished, 141 standard output was closed by its reader.
#[derive(Debug, Parser)]
#[command(version, name = "lab")]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,

    /// The options for logging.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// The commands of `lab`: two that the coordinator has too, and tools for tests and measurements.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run blocks as `coordinator run` does; also takes --sequential and plans that make speculation wrong
    Run(Box<RunArgs>),
    /// Import as `coordinator import` does; also takes --sequential and plans that make speculation wrong
    Import(Box<ImportArgs>),
    /// Run files and folders of Ethereum's BlockchainTests on its own shards
    Blocktest(Box<BlocktestArgs>),
    /// Generate a chain of correctly signed blocks that any client can import
    Generate(GenerateArgs),
    /// Compare this system with alloy-evm on random programs, under plans that make speculation wrong
    Fuzz(FuzzArgs),
    /// Run simulated histories of the failure model: seeded, in virtual time, with faults
    Simulate(SimulateArgs),
    /// Measure the speed-up of a fleet whose processes get a slice of a core each (needs root)
    Scale(ScaleArgs),
    /// Measure the speed-up of a fleet on the cores of this machine
    Bench(BenchArgs),
}

/// The seed of `--plan poison:SEED`: the coordinator's options hold only how blocks are cut.
fn poison(matches: &ArgMatches) -> Option<u64> {
    let (_, options) = matches.subcommand()?;
    let mut plan = options.try_get_raw("plan").ok().flatten()?;
    plan.next()?.to_str()?.parse::<LabPlan>().ok()?.poison()
}

impl Command {
    /// Has every shard of the command execute on a state that is wrong in places.
    fn poison(&mut self, seed: u64) {
        let faults = match self {
            Self::Run(args) => &mut args.run.fleet.faults,
            Self::Import(args) => &mut args.import.fleet.faults,
            Self::Blocktest(args) => &mut args.fleet.faults,
            Self::Generate(_) | Self::Fuzz(_) | Self::Simulate(_) | Self::Scale(_) | Self::Bench(_) => return,
        };
        faults.push(PlannedFault::always_poison(seed));
    }
}

/// The commands that need an async runtime.
enum Service {
    Run(Box<RunArgs>),
    Import(Box<ImportArgs>),
    Blocktest(Box<BlocktestArgs>),
}

impl Cli {
    /// Parses the process's arguments. If they are wrong, prints a message and exits the process.
    #[must_use]
    pub fn read() -> Self {
        let mut command = Self::command();
        // These commands share their options with the coordinator's, whose parser rejects this plan.
        for name in ["run", "import", "blocktest"] {
            command = command.mut_subcommand(name, |command| {
                command.mut_arg("plan", |plan| {
                    plan.value_parser(|text: &str| text.parse().map(LabPlan::cut))
                        .help("How blocks are cut: auto, one, each, random:SEED or poison:SEED")
                })
            });
        }
        let matches = command.get_matches();
        let mut read = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if let Some(seed) = poison(&matches) {
            read.command.poison(seed);
        }
        read
    }

    /// Runs the command, and prints the error if it fails.
    #[must_use]
    pub fn run(self) -> Exit {
        command::ended("lab", self.execute())
    }

    fn execute(self) -> anyhow::Result<Exit> {
        // A run prints its own messages about the fleet.
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
            Command::Scale(args) => return scale::scale(&args),
            Command::Bench(args) => return scale::bench(&args),
            Command::Run(args) => Service::Run(args),
            Command::Import(args) => Service::Import(args),
            Command::Blocktest(args) => Service::Blocktest(args),
        };
        command::block_on("lab", async {
            match command {
                Service::Run(args) => baseline::run(*args, telemetry).await,
                Service::Import(args) => baseline::import(*args, telemetry).await,
                Service::Blocktest(args) => blocktest::run(*args, telemetry).await,
            }
        })
    }
}
