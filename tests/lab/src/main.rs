//! The `lab` binary: parse and run.

use std::process::ExitCode;

use lab::cli::Cli;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    Cli::read().run().into()
}
