//! The `coordinator` binary: parse and run.

use std::process::ExitCode;

use clap::Parser;
use coordinator::cli::Cli;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::parse().run().into()
}
