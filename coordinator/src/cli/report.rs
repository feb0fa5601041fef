//! The output of a run: a table or JSON lines, and a summary.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use tasks::console::{OutputError, print_json, print_line};

/// The row of one block.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Row {
    /// The file that contains the block; not shown in the table.
    pub(super) file: String,
    pub(super) number: Option<u64>,
    pub(super) hash: Option<String>,
    pub(super) fork: Option<std::borrow::Cow<'static, str>>,
    pub(super) txs: usize,
    pub(super) gas_used: u64,
    pub(super) verified: bool,
    /// Whether the block was verified now or before, is parked or rejected, or has no answer.
    pub(super) status: Status,
    /// Whether the block was committed before its submission, so that it was not executed now.
    pub(super) known: bool,
    pub(super) load_ms: f64,
    pub(super) ms: f64,
    pub(super) mgas_per_s: f64,
    pub(super) recovery_ms: f64,
    pub(super) execution_ms: f64,
    pub(super) sub_blocks: u32,
    /// The number of these sub-blocks on which two executions agreed (`--verify-fraction`).
    pub(super) verified_sub_blocks: u32,
    pub(super) reexecuted: u32,
    pub(super) reassigned: u32,
    /// The roots that were checked.
    pub(super) receipts_root: Option<String>,
    pub(super) state_root: Option<String>,
    /// Digests of the complete receipts and of all changes to the state: equal under every plan.
    pub(super) receipts_digest: Option<String>,
    pub(super) delta_digest: Option<String>,
    pub(super) error: Option<String>,
}

/// The status of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Executed, and equal to its header.
    Verified,
    /// Committed before this run.
    Known,
    /// Waiting for an operator.
    Parked,
    /// Rejected, or not readable.
    #[default]
    Failed,
    /// Without an answer from the coordinator.
    Unknown,
}

impl Status {
    const fn text(self) -> &'static str {
        match self {
            Self::Verified => "yes",
            Self::Known => "known",
            Self::Parked => "parked",
            Self::Failed => "NO",
            Self::Unknown => "unknown",
        }
    }
}

/// The summary of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    summary: bool,
    blocks: u64,
    verified: u64,
    failed: u64,
    /// The number of verified blocks that were committed before.
    known: u64,
    /// The number of blocks without an answer.
    unknown: u64,
    verified_sub_blocks: u64,
    reassigned: u64,
    reexecuted: u64,
    txs: u64,
    gas_used: u64,
    ms: f64,
    mgas_per_s: f64,
    /// The transactions and the gas that were executed within `ms`, out of `txs` and `gas_used`.
    #[serde(skip)]
    executed: (u64, u64),
}

impl Summary {
    /// The summary in words, for `coordinator submit`.
    fn of_submitted(&self) -> String {
        let Self { blocks, verified, known, failed, unknown, ms, mgas_per_s, executed, .. } = self;
        let (reexecuted, reassigned) = (self.reexecuted, self.reassigned);
        let mut text = format!("{verified} of {blocks} blocks verified");
        if *known > 0 {
            text += &format!(", {known} of them committed before");
        }
        text += &format!(", {failed} failed");
        if *unknown > 0 {
            text += &format!(", {unknown} unknown");
        }
        text + &format!(
            "; {} transactions executed in {ms} ms ({mgas_per_s} Mgas/s), {reexecuted} executed again, \
             {reassigned} assignments reassigned",
            executed.0
        )
    }
}

/// One row as a line: all columns of the table except the last, which is for errors.
fn line(cells: [&str; COLUMNS.len()]) -> String {
    let [number, fork, txs, gas, ms, rate, sub_blocks, reexecuted, reassigned, verified, _] = cells;
    format!(
        "{number:>10} {fork:<12} {txs:>6} {gas:>11} {ms:>9} {rate:>6} {sub_blocks:>10} {reexecuted:>11} \
         {reassigned:>10} {verified}"
    )
}

/// Collects rows and prints them.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    /// Whether rows are printed as they come, instead of as a table at the end.
    streams: bool,
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
        Self { json, streams: false, table, summary: Summary { summary: true, ..Summary::default() } }
    }

    /// Creates a report that prints rows as they come, as JSON or text.
    pub(super) fn streaming(json: bool) -> Self {
        Self { streams: true, ..Self::new(json) }
    }

    /// Adds a block's row; with `--json` prints it at once.
    pub(super) fn add(&mut self, row: &Row) -> Result<(), OutputError> {
        let summary = &mut self.summary;
        summary.blocks += 1;
        match row.status {
            Status::Verified => summary.verified += 1,
            Status::Known => {
                summary.verified += 1;
                summary.known += 1;
            }
            Status::Failed | Status::Parked => summary.failed += 1,
            Status::Unknown => summary.unknown += 1,
        }
        if row.status == Status::Verified {
            summary.executed.0 += row.txs as u64;
            summary.executed.1 += row.gas_used;
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
        let cells = [
            row.number.map_or_else(|| row.file.clone(), |number| number.to_string()),
            row.fork.as_deref().unwrap_or("-").to_owned(),
            row.txs.to_string(),
            row.gas_used.to_string(),
            format!("{:.1}", row.ms),
            format!("{:.0}", row.mgas_per_s),
            row.sub_blocks.to_string(),
            row.reexecuted.to_string(),
            row.reassigned.to_string(),
            row.status.text().to_owned(),
            row.error.clone().unwrap_or_default(),
        ];
        if !self.streams {
            self.table.add_row(cells);
            return Ok(());
        }
        if summary.blocks == 1 {
            print_line(line(COLUMNS))?;
        }
        // Errors of blocks are printed on standard error instead.
        print_line(line(cells.each_ref().map(String::as_str)))
    }

    /// Prints the summary. Returns whether every block was verified.
    pub(super) fn finish(mut self) -> Result<bool, OutputError> {
        let summary = &mut self.summary;
        if summary.ms > 0.0 {
            summary.mgas_per_s = (summary.executed.1 as f64 / summary.ms).round() / 1e3;
        }
        summary.ms = summary.ms.round();
        if self.json {
            print_json(&self.summary)?;
        } else if self.streams {
            print_line(self.summary.of_submitted())?;
        } else {
            let Summary { blocks, verified, failed, reassigned, reexecuted, txs, ms, mgas_per_s, .. } =
                self.summary;
            print_line(format_args!(
                "{}\n{verified} of {blocks} blocks verified, {failed} failed; {txs} transactions in {ms} ms \
                 ({mgas_per_s} Mgas/s), {reexecuted} executed again, {reassigned} assignments reassigned",
                self.table
            ))?;
        }
        Ok(self.summary.failed + self.summary.unknown == 0 && self.summary.blocks > 0)
    }
}
