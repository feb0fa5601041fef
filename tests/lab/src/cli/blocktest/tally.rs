//! The output of a run of BlockchainTests: a line per case, and a summary.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::blocktest::{CaseOutcome, Verdict};
use tasks::console::millis;
use tasks::console::{OutputError, print_json, print_line};

/// The counts of a run so far. They are shared, so that the summary can be printed even if the run's
/// thread hangs.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    counts: Arc<Mutex<Counts>>,
    began: Instant,
    bar: ProgressBar,
    json: bool,
    /// Whether passed cases are listed too.
    all: bool,
}

/// The counts of a run, which are printed as the last line of its output.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Counts {
    summary: bool,
    passed: u64,
    failed: u64,
    skipped: u64,
    blocks: u64,
    /// The number of rejections for the expected reason.
    reasons_compared: u64,
    /// The number of rejections whose reason cannot be compared.
    reasons_not_compared: u64,
    /// Whether the run ended before all cases were run.
    stopped: bool,
    /// The number of cases of the current file that were not run.
    cases_not_run: u64,
    /// The number of files of which no case was run.
    files_not_run: u64,
    elapsed_ms: f64,
    /// Whether the summary was printed.
    #[serde(skip)]
    ended: bool,
}

impl Counts {
    /// Whether no case was run or skipped.
    pub(super) fn is_empty(&self) -> bool {
        self.passed + self.failed + self.skipped == 0
    }

    /// Whether a case failed.
    pub(super) fn any_failed(&self) -> bool {
        self.failed > 0
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} passed, {} failed, {} skipped; {} blocks in {:.1} s",
            self.passed,
            self.failed,
            self.skipped,
            self.blocks,
            self.elapsed_ms / 1e3
        );
        if self.reasons_compared + self.reasons_not_compared > 0 {
            text += &format!(
                "; refusals for the expected reason: {}, reason not compared: {}",
                self.reasons_compared, self.reasons_not_compared
            );
        }
        if self.stopped {
            text += &format!(
                "; stopped: {} cases of one file and {} files were not run",
                self.cases_not_run, self.files_not_run
            );
        }
        text
    }
}

/// The line of one case.
#[derive(Debug, Serialize)]
struct Line<'a> {
    file: std::borrow::Cow<'a, str>,
    case: &'a str,
    network: &'a str,
    result: &'static str,
    reason: Option<&'a str>,
    /// For each rejection whose reason could not be compared, the cause.
    not_compared: &'a [String],
    blocks: u64,
    ms: f64,
}

impl Tally {
    pub(super) fn new(files: usize, bar: ProgressBar, json: bool, verbose: bool) -> Self {
        let counts = Counts { summary: true, files_not_run: files as u64, ..Counts::default() };
        let all = verbose || !io::stdout().is_terminal();
        Self { counts: Arc::new(Mutex::new(counts)), began: Instant::now(), bar, json, all }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }

    /// Starts a file with `cases` cases to run.
    pub(super) fn begin_file(&self, cases: usize) {
        let mut counts = self.counts();
        counts.files_not_run = counts.files_not_run.saturating_sub(1);
        counts.cases_not_run = cases as u64;
    }

    /// Ends the current file.
    pub(super) fn end_file(&self) {
        self.counts().cases_not_run = 0;
        self.bar.inc(1);
    }

    /// Counts a case and prints its line.
    pub(super) fn add(
        &self,
        file: &Path,
        case: &str,
        network: &str,
        outcome: &CaseOutcome,
    ) -> Result<(), OutputError> {
        let mut counts = self.counts();
        counts.blocks += outcome.blocks;
        counts.cases_not_run = counts.cases_not_run.saturating_sub(1);
        counts.reasons_compared += outcome.reasons.compared;
        counts.reasons_not_compared += outcome.reasons.not_compared.len() as u64;
        let (count, result, reason) = match &outcome.verdict {
            Verdict::Pass => (&mut counts.passed, "pass", None),
            Verdict::Fail(reason) => (&mut counts.failed, "fail", Some(reason.as_str())),
            Verdict::Skip(reason) => (&mut counts.skipped, "skipped", Some(reason.as_str())),
        };
        *count += 1;
        let message =
            format!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
        drop(counts);
        self.bar.set_message(message);
        let (blocks, ms, not_compared) =
            (outcome.blocks, millis(outcome.elapsed), outcome.reasons.not_compared.as_slice());
        self.line(&Line {
            file: file.to_string_lossy(),
            case,
            network,
            result,
            reason,
            not_compared,
            blocks,
            ms,
        })
    }

    /// Prints that a case was started but not finished. It still counts as not run.
    pub(super) fn not_run(&self, file: &Path, case: &str, network: &str) -> Result<(), OutputError> {
        let reason = Some("stopped before it ended");
        let file = file.to_string_lossy();
        let ms = millis(Duration::ZERO);
        let result = "not run";
        self.line(&Line { file, case, network, result, reason, not_compared: &[], blocks: 0, ms })
    }

    fn line(&self, line: &Line<'_>) -> Result<(), OutputError> {
        // A case that ends after the summary was printed counts as not run.
        if self.counts().ended {
            return Ok(());
        }
        if self.json {
            return print_json(line);
        }
        let Line { file, case, result, reason, not_compared, .. } = line;
        if reason.is_none() && not_compared.is_empty() && !self.all {
            return Ok(());
        }
        let mut text = match reason {
            Some(reason) => format!("{result:<7} {file}::{case}: {reason}"),
            None => format!("{result:<7} {file}::{case}"),
        };
        for reason in *not_compared {
            text += &format!("\n        reason not compared: {reason}");
        }
        self.bar.suspend(|| print_line(text))
    }

    /// Prints the summary. The line of a case that ends later is not printed.
    pub(super) fn finish(&self, stopped: bool) -> Result<Counts, OutputError> {
        self.bar.finish_and_clear();
        let counts = {
            let mut counts = self.counts();
            (counts.stopped, counts.ended) = (stopped, true);
            counts.elapsed_ms = millis(self.began.elapsed());
            counts.clone()
        };
        if self.json {
            print_json(&counts)?;
        } else {
            print_line(counts.text())?;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocktest::Reasons;

    #[test]
    fn what_was_not_run_is_counted_as_such_and_not_as_failed() {
        let tally = Tally::new(3, ProgressBar::hidden(), true, false);
        tally.begin_file(4);
        let verdict = Verdict::Pass;
        let outcome =
            CaseOutcome { verdict, blocks: 2, elapsed: Duration::ZERO, reasons: Reasons::default() };
        assert!(tally.add(Path::new("a.json"), "one", "Cancun", &outcome).is_ok());
        assert!(tally.not_run(Path::new("a.json"), "two", "Cancun").is_ok());
        let counts = tally.counts().clone();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 0, 0));
        assert_eq!((counts.cases_not_run, counts.files_not_run), (3, 2));
        let text = Counts { stopped: true, ..counts }.text();
        assert!(text.ends_with("stopped: 3 cases of one file and 2 files were not run"), "{text}");
    }
}
