//! The `coordinator` binary: parse and run.

use std::process::ExitCode;

use clap::Parser;
use common::supervise::Exit;
use coordinator::cli::Cli;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("coordinator: {error:#}");
            Exit::Failed.into()
        }
    }
}
