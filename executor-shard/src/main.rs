//! The `executor-shard` binary: parse, run, drain.

use std::process::ExitCode;

use executor_shard::run::{ShardArgs, run};
use tasks::supervise::Exit;
use tasks::{command, options, telemetry};

/// The program's name in messages.
const PROGRAM: &str = "executor-shard";

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    options::parse().map_or_else(|exit| exit, |args| command::ended(PROGRAM, start(args))).into()
}

fn start(args: ShardArgs) -> anyhow::Result<Exit> {
    telemetry::init(&args.telemetry, PROGRAM)?;
    args.harden()?;
    command::block_on("shard", run(args))
}
