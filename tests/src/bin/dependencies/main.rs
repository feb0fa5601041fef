//! The dependencies of the shipped binaries: a bill of materials, or a table of the crates that deserve a look.
//!
//! Usage: `cargo metadata … | dependencies bom CARGO_LOCK` or `dependencies table`; `scripts/dependencies.sh` runs
//! both. The table is no audit. It lists the publishers that the build depends on.

mod bom;
mod graph;
mod look;

use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, bail};

use graph::Graph;

/// The packages whose binaries are shipped.
const SHIPPED: [&str; 2] = ["coordinator", "executor-shard"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut metadata = String::new();
    std::io::stdin().read_to_string(&mut metadata).context("the metadata cannot be read")?;
    let graph = Graph::parse(&metadata)?;
    let shipped = graph.reached_from(&SHIPPED)?;
    let text = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["bom", lock] => {
            let lock = std::fs::read_to_string(lock).with_context(|| format!("{lock} cannot be read"))?;
            bom::write(&graph, &shipped, &lock)?
        }
        ["table"] => look::table(&shipped)?,
        _ => bail!("usage: cargo metadata --format-version 1 --locked | dependencies bom CARGO_LOCK|table"),
    };
    std::io::stdout().write_all(text.as_bytes()).context("the text cannot be written")
}
