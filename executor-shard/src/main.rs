//! The `executor-shard` binary: parse, run, drain.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use executor_shard::run::{ShardArgs, run};
use tasks::supervise::Exit;
use tasks::telemetry;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args = ShardArgs::parse();
    match start(args) {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Standard error may have no reader any more; the exit code reports the failure too.
            let _ = writeln!(io::stderr(), "executor-shard: {error:#}");
            Exit::Failed.into()
        }
    }
}

fn start(args: ShardArgs) -> anyhow::Result<Exit> {
    telemetry::init(&args.telemetry, "executor-shard")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("shard-io")
        .enable_all()
        .build()?;
    let drained = runtime.block_on(run(args));
    runtime.shutdown_background();
    Ok(drained?.exit())
}
