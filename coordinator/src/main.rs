//! The `coordinator` binary: parse and run.

use std::process::ExitCode;

use coordinator::cli::Cli;
use tasks::options;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    options::parse::<Cli>().map_or_else(|exit| exit, Cli::run).into()
}
