//! What a run prints: a table or JSON lines, and a summary.

use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::console::{OutputError, print_json, print_line};

/// One block's row.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Row {
    /// The file it is from; not in the table.
    pub(super) file: String,
    pub(super) number: Option<u64>,
    pub(super) hash: Option<String>,
    pub(super) fork: Option<std::borrow::Cow<'static, str>>,
    pub(super) txs: usize,
    pub(super) gas_used: u64,
    pub(super) verified: bool,
    pub(super) load_ms: f64,
    pub(super) ms: f64,
    pub(super) mgas_per_s: f64,
    pub(super) recovery_ms: f64,
    pub(super) execution_ms: f64,
    pub(super) sub_blocks: u32,
    /// Of these, those that two executions agreed about (`--verify-fraction`).
    pub(super) verified_sub_blocks: u32,
    pub(super) reexecuted: u32,
    pub(super) reassigned: u32,
    /// What was checked besides gas and bloom.
    pub(super) receipts_root: Option<String>,
    pub(super) state_root: Option<String>,
    /// Digests of the complete receipts and of all changes to the state: equal under every plan.
    pub(super) receipts_digest: Option<String>,
    pub(super) delta_digest: Option<String>,
    pub(super) error: Option<String>,
}

/// Milliseconds with microsecond precision.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The run as a whole.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    summary: bool,
    blocks: u64,
    verified: u64,
    failed: u64,
    verified_sub_blocks: u64,
    reassigned: u64,
    reexecuted: u64,
    txs: u64,
    gas_used: u64,
    ms: f64,
    mgas_per_s: f64,
}

/// Collects rows and prints them.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    table: Table,
    summary: Summary,
}

const COLUMNS: [&str; 11] = [
    "block",
    "fork",
    "txs",
    "gas",
    "ms",
    "Mgas/s",
    "sub-blocks",
    "re-executed",
    "reassigned",
    "verified",
    "error",
];

impl Report {
    pub(super) fn new(json: bool) -> Self {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(COLUMNS);
        for (column, name) in table.column_iter_mut().zip(COLUMNS) {
            if !matches!(name, "fork" | "verified" | "error") {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { json, table, summary: Summary { summary: true, ..Summary::default() } }
    }

    /// Takes up a block's row; with `--json` it is printed at once.
    pub(super) fn add(&mut self, row: &Row) -> Result<(), OutputError> {
        let summary = &mut self.summary;
        summary.blocks += 1;
        if row.verified {
            summary.verified += 1;
        } else {
            summary.failed += 1;
        }
        summary.verified_sub_blocks += u64::from(row.verified_sub_blocks);
        summary.reassigned += u64::from(row.reassigned);
        summary.reexecuted += u64::from(row.reexecuted);
        summary.txs += row.txs as u64;
        summary.gas_used += row.gas_used;
        summary.ms += row.ms;
        if self.json {
            return print_json(row);
        }
        self.table.add_row([
            row.number.map_or_else(|| row.file.clone(), |number| number.to_string()),
            row.fork.as_deref().unwrap_or("-").to_owned(),
            row.txs.to_string(),
            row.gas_used.to_string(),
            format!("{:.1}", row.ms),
            format!("{:.0}", row.mgas_per_s),
            row.sub_blocks.to_string(),
            row.reexecuted.to_string(),
            row.reassigned.to_string(),
            if row.verified { "yes" } else { "NO" }.to_owned(),
            row.error.clone().unwrap_or_default(),
        ]);
        Ok(())
    }

    /// Prints the end. Whether every block verified.
    pub(super) fn finish(mut self) -> Result<bool, OutputError> {
        let summary = &mut self.summary;
        if summary.ms > 0.0 {
            summary.mgas_per_s = (summary.gas_used as f64 / summary.ms).round() / 1e3;
        }
        summary.ms = summary.ms.round();
        if self.json {
            print_json(&self.summary)?;
        } else {
            let Summary { blocks, verified, failed, reassigned, reexecuted, txs, ms, mgas_per_s, .. } =
                self.summary;
            print_line(format_args!(
                "{}\n{verified} of {blocks} blocks verified, {failed} failed; {txs} transactions in {ms} ms \
                 ({mgas_per_s} Mgas/s), {reexecuted} executed again, {reassigned} assignments reassigned",
                self.table
            ))?;
        }
        Ok(self.summary.failed == 0 && self.summary.blocks > 0)
    }
}
