//! `lab run` and `lab import`: the coordinator's commands, with the option to execute on the sequential
//! baseline instead of shards.

use clap::Args;
use coordinator::cli::{import, run};
use coordinator::execute::BlockEngine;
use tasks::supervise::Exit;
use tasks::telemetry::TelemetryArgs;

use crate::sequential::Sequential;

/// Options of `lab run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub(super) run: run::RunArgs,

    /// Execute without shards, with alloy-evm's own block executor on one thread: the baseline
    #[arg(long, conflicts_with_all = ["kill", "plan", "in_process"])]
    sequential: bool,
}

/// Options of `lab import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    pub(super) import: import::ImportArgs,

    /// Execute without shards, with alloy-evm's own block executor on one thread: the baseline
    #[arg(long, conflicts_with_all = ["plan", "in_process", "shards", "threads", "listen"])]
    sequential: bool,
}

fn baseline(sequential: bool) -> Option<Box<dyn BlockEngine>> {
    sequential.then(|| Box::new(Sequential) as Box<dyn BlockEngine>)
}

/// Runs blocks as `coordinator run` does, or on the baseline with `--sequential`.
pub(super) async fn run(args: RunArgs, telemetry: TelemetryArgs) -> anyhow::Result<Exit> {
    run::run(args.run, telemetry, baseline(args.sequential)).await
}

/// Imports files as `coordinator import` does, or on the baseline with `--sequential`.
pub(super) async fn import(args: ImportArgs, telemetry: TelemetryArgs) -> anyhow::Result<Exit> {
    import::import(args.import, telemetry, baseline(args.sequential)).await
}
