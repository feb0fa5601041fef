//! The output of `coordinator run` and `coordinator submit` with `--json`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One object per block, and a summary.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The blocks' rows, in order.
    pub rows: Vec<Value>,
    /// The last line, if it has been printed.
    pub summary: Option<Value>,
}

impl Report {
    /// Parses the output of a process so far. An incomplete last line is ignored.
    ///
    /// # Errors
    /// An error if a line is not a JSON object, or if a line follows the summary.
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

    /// The number of committed blocks, according to the rows.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.rows.iter().filter(|row| row["verified"] == true).count()
    }

    /// A number in the summary.
    ///
    /// # Errors
    /// An error if there is no summary, or if it lacks the field.
    pub fn total(&self, field: &str) -> Result<u64> {
        let summary = self.summary.as_ref().context("there is no summary")?;
        summary.get(field).and_then(Value::as_u64).with_context(|| format!("the summary has no {field}"))
    }

    /// Checks that this many blocks were executed, that each was verified, and that the summary agrees.
    ///
    /// # Errors
    /// An error if one of these checks fails.
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
    /// An error if a row lacks the field.
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
