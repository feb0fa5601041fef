//! The output of an import: a progress bar on a terminal, a line for each durable block, and a summary.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::head_of;
use crate::import::{Durable, ImportCount, Placement};
use ledger::Ledger;
use tasks::console::millis;
use tasks::console::{OutputError, print_json, print_line};

/// A bar over the bytes of the files, or a spinner if their size is unknown. Draws nothing in a pipe.
pub(super) fn progress_bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{bar:30} {percent}% {msg}, {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}, {elapsed}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The line of one durable block.
#[derive(Debug, Serialize)]
struct Row {
    number: u64,
    hash: String,
    state_root: Option<String>,
    gas_used: u64,
    txs: usize,
    /// The time in milliseconds from the block in memory to the verified result, without the commit.
    ms: f64,
    sub_blocks: u32,
    verified_sub_blocks: u32,
    reexecuted: u32,
    reassigned: u32,
    /// Whether the block is a side block instead of part of the chain.
    aside: bool,
    /// The number of blocks of another branch that were taken back for it.
    taken_back: u64,
}

/// The summary of the whole import.
#[derive(Debug, Serialize)]
struct Summary {
    summary: bool,
    head: u64,
    hash: String,
    state_root: Option<String>,
    imported: u64,
    known: u64,
    txs: u64,
    gas_used: u64,
    reassigned: u64,
    reexecuted: u64,
    blocks_per_s: f64,
    mgas_per_s: f64,
    elapsed_s: f64,
    error: Option<String>,
}

/// Counts durable blocks and prints them.
pub(super) struct Tally {
    json: bool,
    bar: ProgressBar,
    stop: CancellationToken,
    began: Instant,
    count: ImportCount,
    txs: u64,
    gas: u64,
    reassigned: u64,
    reexecuted: u64,
    broken: Option<OutputError>,
}

impl Tally {
    pub(super) fn new(json: bool, bar: ProgressBar, stop: CancellationToken) -> Self {
        Self {
            json,
            bar,
            stop,
            began: Instant::now(),
            count: ImportCount::default(),
            txs: 0,
            gas: 0,
            reassigned: 0,
            reexecuted: 0,
            broken: None,
        }
    }

    pub(super) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Starts the measurement: the shards are ready.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
        self.bar.reset_eta();
    }

    /// Records and prints a durable block. If it cannot be printed, the import must stop.
    pub(super) fn add(&mut self, durable: &Durable) {
        let state = durable.tip.summary().state;
        let stats = durable.stats;
        let gas = durable.finished.gas_used.0;
        let txs = durable.finished.receipts.len();
        self.count.imported += 1;
        self.txs += txs as u64;
        self.gas += gas;
        self.reassigned += u64::from(stats.reassigned);
        self.reexecuted += u64::from(stats.reexecuted);
        let (blocks, mgas) = self.rates();
        let (number, height) = (self.count.imported, state.height);
        self.bar.set_message(format!(
            "block {height} ({number} imported, {blocks:.1} blocks/s, {mgas:.0} Mgas/s)"
        ));
        if !self.json || self.broken.is_some() {
            return;
        }
        let row = Row {
            number: state.height.0,
            hash: state.block_hash.to_string(),
            state_root: durable.tip.state_root().map(|root| root.to_string()),
            gas_used: gas,
            txs,
            ms: millis(stats.elapsed),
            sub_blocks: stats.sub_blocks,
            verified_sub_blocks: stats.verified_sub_blocks,
            reexecuted: stats.reexecuted,
            reassigned: stats.reassigned,
            aside: durable.place == Placement::SideBlock,
            taken_back: if let Placement::Reorganised(back) = durable.place { back } else { 0 },
        };
        if let Err(error) = print_json(&row) {
            self.broken = Some(error);
            self.stop.cancel();
        }
    }

    /// Sets the importer's counts.
    pub(super) fn count(&mut self, count: ImportCount) {
        self.count = count;
    }

    /// The error that kept blocks from being printed, if any.
    pub(super) fn broken(&mut self) -> Option<OutputError> {
        self.broken.take()
    }

    fn rates(&self) -> (f64, f64) {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-6);
        (self.count.imported as f64 / seconds, self.gas as f64 / 1e6 / seconds)
    }

    /// Prints the summary: the chain's head and the counts.
    pub(super) fn finish(&self, ledger: &Ledger, error: Option<String>) -> Result<(), OutputError> {
        self.bar.finish_and_clear();
        let elapsed_s = rounded(self.began.elapsed().as_secs_f64());
        let (blocks_per_s, mgas_per_s) = self.rates();
        let (head, hash, state_root) = head_of(ledger);
        let ImportCount { imported, known } = self.count;
        let summary = Summary {
            summary: true,
            head,
            hash,
            state_root,
            imported,
            known,
            txs: self.txs,
            gas_used: self.gas,
            reassigned: self.reassigned,
            reexecuted: self.reexecuted,
            blocks_per_s: rounded(blocks_per_s),
            mgas_per_s: rounded(mgas_per_s),
            elapsed_s,
            error,
        };
        if self.json {
            return print_json(&summary);
        }
        print_line(format_args!("head {head} {}", summary.hash))?;
        if let Some(root) = &summary.state_root {
            print_line(format_args!("state root {root}"))?;
        }
        print_line(format_args!(
            "{imported} blocks imported, {known} known already; {} transactions, {:.1} Mgas in {elapsed_s} s \
             ({} blocks/s, {} Mgas/s)",
            self.txs,
            self.gas as f64 / 1e6,
            summary.blocks_per_s,
            summary.mgas_per_s
        ))
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
