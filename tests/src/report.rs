//! What `coordinator run` and `coordinator submit` print with `--json`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One object a block, and a summary.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The blocks' rows, in order.
    pub rows: Vec<Value>,
    /// The last line, once it is there.
    pub summary: Option<Value>,
}

impl Report {
    /// Reads what a process has printed so far. A last line without its end is left out.
    ///
    /// # Errors
    /// When a line is not a JSON object, or something follows the summary.
    pub fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            ensure!(value.is_object(), "not an object: {line}");
            ensure!(report.summary.is_none(), "the summary is not the last line: {line} follows");
            if value.get("summary").is_some() {
                report.summary = Some(value);
            } else {
                report.rows.push(value);
            }
        }
        Ok(report)
    }

    /// How many blocks are committed, as the rows say.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.rows.iter().filter(|row| row["verified"] == true).count()
    }

    /// A number of the summary.
    ///
    /// # Errors
    /// When there is no summary, or it lacks the field.
    pub fn total(&self, field: &str) -> Result<u64> {
        let summary = self.summary.as_ref().context("there is no summary")?;
        summary.get(field).and_then(Value::as_u64).with_context(|| format!("the summary has no {field}"))
    }

    /// Checks that so many blocks were executed, that each verified, and that the summary agrees.
    ///
    /// # Errors
    /// When one did not.
    pub fn check_verified(&self, blocks: usize) -> Result<()> {
        for row in &self.rows {
            ensure!(row["verified"] == true && row["error"].is_null(), "a block did not verify: {row}");
        }
        ensure!(self.rows.len() == blocks, "{} of {blocks} blocks were executed", self.rows.len());
        let blocks = blocks as u64;
        ensure!(self.total("blocks")? == blocks, "the summary counts other blocks: {:?}", self.summary);
        ensure!(self.total("verified")? == blocks, "the summary disagrees: {:?}", self.summary);
        ensure!(self.total("failed")? == 0, "the summary disagrees: {:?}", self.summary);
        Ok(())
    }

    /// A text field of every row, with the block's number.
    ///
    /// # Errors
    /// When a row lacks it.
    pub fn column(&self, field: &str) -> Result<Vec<(u64, String)>> {
        self.rows
            .iter()
            .map(|row| {
                let number = row["number"].as_u64().with_context(|| format!("no number in {row}"))?;
                let value = row[field].as_str().with_context(|| format!("no {field} in {row}"))?;
                Ok((number, value.to_owned()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_being_written_is_left_out() {
        let report = Report::parse("{\"number\": 1}\n{\"num").unwrap();
        assert_eq!((report.rows.len(), report.summary), (1, None));
    }

    #[test]
    fn nothing_may_follow_the_summary() {
        assert!(Report::parse("{\"summary\": true}\n{\"number\": 1}\n").is_err());
    }
}
