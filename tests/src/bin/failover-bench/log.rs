//! Reads the events of assignments and shards from a coordinator's log while it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use shard_tests::Moment;

/// A relevant line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: Moment,
    pub(crate) what: What,
}

/// The event that a line reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Work was assigned to a shard.
    Dispatched { work: String, shard: u32, transactions: u64 },
    /// A shard's result for this work was used.
    Used { work: String, shard: u32 },
    /// Work of this shard was assigned to another one.
    Reassigned { from: u32 },
    /// A shard was lost.
    Lost { shard: u32 },
    /// A block was committed.
    Committed,
}

/// A log, and the position up to which it was read.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    read: u64,
    /// The last line, if it is still incomplete.
    rest: String,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), read: 0, rest: String::new() }
    }

    /// The entries written since the last call.
    pub(crate) fn news(&mut self) -> Result<Vec<Entry>> {
        let mut file = File::open(&self.path).context("the log cannot be opened")?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        self.read += file.read_to_string(&mut text)? as u64;
        self.rest.push_str(&text);
        let Some(end) = self.rest.rfind('\n') else { return Ok(Vec::new()) };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        Ok(whole.lines().filter_map(Entry::parse).collect())
    }
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let at = Moment::of_line(line)?;
        let shard = || field(line, "shard=")?.parse().ok();
        let what = if line.contains(" dispatched ") {
            let (work, shard) = assignment(line)?;
            What::Dispatched { work, shard, transactions: field(line, "transactions=")?.parse().ok()? }
        } else if line.contains(" a result is used ") {
            let (work, shard) = assignment(line)?;
            What::Used { work, shard }
        } else if line.contains("event=reassigned") {
            What::Reassigned { from: shard()? }
        } else if line.contains("event=shard_lost") {
            What::Lost { shard: shard()? }
        } else if line.contains("event=block_committed") {
            What::Committed
        } else {
            return None;
        };
        Some(Self { at, what })
    }
}

/// The word after `name` in a line.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(name)?.1.split_whitespace().next()
}

/// The work and the shard in `assignment=WORK#ATTEMPT@SHARD`.
fn assignment(line: &str) -> Option<(String, u32)> {
    let (work, rest) = field(line, "assignment=")?.split_once('#')?;
    Some((work.to_owned(), rest.split_once('@')?.1.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let parse = |text: &str| Entry::parse(&format!("coordinator 2026-11-21T11:46:13.235604Z {text}"));
        let dispatched = parse("DEBUG dispatched assignment=e5891afc#1@3 transactions=58").unwrap();
        let work = "e5891afc".to_owned();
        assert_eq!(dispatched.what, What::Dispatched { work, shard: 3, transactions: 58 });
        let lost = parse(" INFO peer unreachable: gone event=shard_lost shard=2").unwrap();
        assert_eq!(lost.what, What::Lost { shard: 2 });
        assert_eq!(parse(" INFO serving"), None);
    }
}
