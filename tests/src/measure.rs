//! The measurements of the failure model's tests: each adds a row, as one JSON object, to a file.
//!
//! Tests record times but never assert them: a test asserts events, not the speed of a machine.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::moment::Moment;

/// The median; `None` without numbers.
#[must_use]
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let lower = if sorted.len().is_multiple_of(2) { *sorted.get(middle - 1)? } else { upper };
    Some(f64::midpoint(lower, upper))
}

/// The environment variable with the file for the rows. Without it no row is recorded.
pub const MEASURED: &str = "SHARDS_MEASURED";

/// One row of the table: a fault, how it was injected, how it was noticed, and the times.
#[derive(Debug, Clone)]
pub struct Measured {
    place: u32,
    fault: &'static str,
    injected: &'static str,
    noticed: &'static str,
    since: Moment,
    notice: Option<Duration>,
    finish: Option<Duration>,
}

impl Measured {
    /// Starts a row for a fault injected at `since`. The table sorts rows by `place`.
    #[must_use]
    pub const fn since(since: Moment, place: u32, fault: &'static str, injected: &'static str) -> Self {
        Self { place, fault, injected, noticed: "–", since, notice: None, finish: None }
    }

    /// Sets how and when the fault was noticed.
    #[must_use]
    pub fn noticed(mut self, how: &'static str, at: Moment) -> Self {
        self.noticed = how;
        self.notice = Some(at.since(self.since));
        self
    }

    /// Sets how the fault is noticed, or why it is not, for a fault without a moment of notice.
    #[must_use]
    pub const fn unnoticed(mut self, why: &'static str) -> Self {
        self.noticed = why;
        self
    }

    /// Sets the time when the interrupted work was done.
    #[must_use]
    pub fn finished(mut self, at: Moment) -> Self {
        self.finish = Some(at.since(self.since));
        self
    }

    /// Appends the row to the file that `SHARDS_MEASURED` names, if it is set.
    ///
    /// # Errors
    /// An error if the row cannot be written.
    pub fn record(&self) -> Result<()> {
        let Some(path) = env::var_os(MEASURED) else { return Ok(()) };
        let micros = |time: Option<Duration>| time.map(|time| u64::try_from(time.as_micros()).ok());
        let row = json!({
            "place": self.place, "fault": self.fault, "injected": self.injected, "noticed": self.noticed,
            "notice_us": micros(self.notice), "finish_us": micros(self.finish),
        });
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.to_string_lossy()))?;
        // One write per row, because tests may run at the same time.
        file.write_all(format!("{row}\n").as_bytes()).context("a row cannot be written")
    }
}
