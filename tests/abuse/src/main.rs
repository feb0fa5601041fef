//! The attack bench: what hostile peers cost an honest client of real processes.
//!
//! For each attack it starts a coordinator and two shards without TLS, has a client submit one block after the other,
//! and lets another process attack meanwhile. It measures the client's time for each block, shards that were lost,
//! and the memory of each process before, during and after. The attackers share the machine's cores, so the figures
//! are compared with those of processes that only keep cores busy.

mod attack;
mod memory;
mod stage;
mod table;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use attack::{Attack, Target};
use stage::Play;

/// Measures what attacks cost an honest client.
#[derive(Debug, Parser)]
#[command(name = "abuse", version)]
struct Args {
    #[command(subcommand)]
    act: Option<Act>,

    /// Only these attacks; all by default
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ATTACK")]
    only: Vec<Attack>,

    /// How long each attack lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Print one JSON object for each attack
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Attack until the process is killed; the bench starts this
    #[command(hide = true)]
    Attack {
        attack: Attack,
        /// The coordinator's URL, then ID@INCARNATION@URL for each shard
        targets: Vec<String>,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Act::Attack { attack, targets }) = args.act {
        return attack.run(&Target::parse(&targets)?);
    }
    let attacks = if args.only.is_empty() { Attack::all() } else { args.only };
    let play = Play::new(Duration::from_secs(args.seconds))?;
    let control = play.measure(Attack::Busy)?;
    let mut missed = Vec::new();
    let mut rows = vec![control.clone()];
    for attack in attacks.into_iter().filter(|attack| *attack != Attack::Busy) {
        eprintln!("{}", attack.name());
        let row = play.measure(attack)?;
        missed.extend(row.missed(&control).into_iter().map(|reason| format!("{}: {reason}", attack.name())));
        rows.push(row);
    }
    table::print(&rows, &control, args.json)?;
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}
