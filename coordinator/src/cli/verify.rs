//! `coordinator verify`: checks all data in a data directory against the hashes and roots that cover
//! it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tasks::supervise::Exit;

use ledger::{Finding, Ledger, LedgerError, LedgerOptions, VerifyReport};
use tasks::console::{OutputError, print_json, print_line, tell_as_program};

/// Options of `coordinator verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The folder in which `import` or `serve` keeps the chain; no coordinator may be using it
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Checks the ledger. The exit code is 0 if it is sound, 1 if any part is damaged.
pub(super) fn verify(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let ledger = match Ledger::open_existing(&args.data_dir, LedgerOptions::default()) {
        Ok(ledger) => ledger,
        Err(LedgerError::Damaged { what, reason }) => return Ok(unopened(args, what, reason)?),
        Err(error) => return Err(error.into()),
    };
    let bar = progress();
    let mut part = "";
    let report = ledger.verify(&mut |name, done, total| {
        if name != part {
            part = name;
            bar.set_message(name);
        }
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let head = ledger.head().summary().state;
    let head = Some((head.height.0, head.block_hash.to_string()));
    // Closing the database may panic at the very pages that were found damaged.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(ledger)));
    Ok(print(args, &report, head.as_ref())?)
}

/// Reports a ledger that is too damaged to open. That is the only finding; the rest is not checked.
fn unopened(args: &VerifyArgs, place: String, what: String) -> Result<Exit, OutputError> {
    let what = format!("{what}; the ledger cannot be opened, so the rest was not checked");
    let report = VerifyReport { findings: vec![Finding { place, what }], ..VerifyReport::default() };
    print(args, &report, None)
}

fn print(
    args: &VerifyArgs,
    report: &VerifyReport,
    head: Option<&(u64, String)>,
) -> Result<Exit, OutputError> {
    if args.json {
        print_object(report, head)?;
    } else {
        print_text(report, head)?;
    }
    if report.is_sound() {
        return Ok(Exit::Clean);
    }
    let places = report.findings.len() as u64 + report.omitted;
    let plural = if places == 1 { "place" } else { "places" };
    tell_as_program!(
        "{} is damaged in {places} {plural}; move it away and import the chain again",
        args.data_dir.display()
    );
    Ok(Exit::Failed)
}

fn print_object(report: &VerifyReport, head: Option<&(u64, String)>) -> Result<(), OutputError> {
    print_json(&json!({
        "sound": report.is_sound(), "head": head.map(|(number, _)| number), "hash": head.map(|(_, hash)| hash),
        "checked": report.counts, "findings": report.findings, "findings_omitted": report.omitted,
    }))
}

fn print_text(report: &VerifyReport, head: Option<&(u64, String)>) -> Result<(), OutputError> {
    if let Some((number, hash)) = head {
        print_line(format_args!("head {number} {hash}"))?;
    }
    let counts = report.counts;
    print_line(format_args!(
        "checked: {} blocks with their receipts, {} accounts, {} slots, {} contracts, {} journal entries, \
         {} side blocks, {} accepted blocks",
        counts.blocks,
        counts.accounts,
        counts.slots,
        counts.codes,
        counts.journal,
        counts.side_blocks,
        counts.accepted
    ))?;
    for finding in &report.findings {
        print_line(format_args!("damaged: {finding}"))?;
    }
    if report.omitted > 0 {
        print_line(format_args!("and {} more", report.omitted))?;
    }
    if report.is_sound() {
        print_line("sound")?;
    }
    Ok(())
}

fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{msg:12} {bar:30} {pos}/{len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
