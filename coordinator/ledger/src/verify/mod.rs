//! Checks a whole ledger: every record against the hash or root that covers it. Their hashes cover
//! blocks and headers, receipt roots cover receipts, the state root covers the flat state and the
//! trie's nodes, and the roots of the headers cover the journal.
//!
//! The check changes nothing. Damage becomes a finding, and the check goes on.

mod chain;
mod state;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::panic::panic_message;
use redb::ReadableDatabase;
use serde::Serialize;

use super::{Ledger, LedgerError};

/// The maximum number of findings in the list. Further ones are only counted.
const LISTED: usize = 100;

/// A damaged part of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The damaged part: a block, an account, an entry of the journal.
    pub place: String,
    /// The contradiction that the check found, in words.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// The numbers of checked items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Blocks of the chain, each with its receipts.
    pub blocks: u64,
    /// Accounts of the state trie, each compared with the flat state; zero if the ledger is incomplete.
    pub accounts: u64,
    /// Slots of the storage tries, each compared with the flat state; zero if the ledger is incomplete.
    pub slots: u64,
    /// Stored contract codes, each checked against its hash.
    pub codes: u64,
    /// Entries of the journal, each in both directions.
    pub journal: u64,
    /// Side blocks whose records could be read.
    pub side_blocks: u64,
    /// Accepted blocks that have not ended.
    pub accepted: u64,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The numbers of checked items.
    pub counts: Counts,
    /// The first findings; empty if the ledger is sound.
    pub findings: Vec<Finding>,
    /// The number of findings that are not listed.
    pub omitted: u64,
}

impl VerifyReport {
    /// Whether the check found no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, place: impl Into<String>, what: impl fmt::Display) {
        if self.findings.len() < LISTED {
            self.findings.push(Finding { place: place.into(), what: what.to_string() });
        } else {
            self.omitted += 1;
        }
    }
}

/// A check in progress.
struct Check<'l> {
    ledger: &'l Ledger,
    report: VerifyReport,
    /// Called with the part that is checked, the items done, and the total number of items (0 if unknown).
    progress: &'l mut dyn FnMut(&'static str, u64, u64),
}

impl Check<'_> {
    /// Runs one part. An error of the part becomes a finding, and so does a page that redb cannot read.
    fn part(&mut self, name: &'static str, part: impl FnOnce(&mut Self) -> Result<(), LedgerError>) {
        (self.progress)(name, 0, 0);
        let ended = catch_unwind(AssertUnwindSafe(|| part(self)));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(LedgerError::Damaged { what, reason })) => self.report.add(what, reason),
            Ok(Err(error)) => self.report.add(name, error),
            Err(panic) => {
                let reason = panic_message(panic.as_ref());
                self.report.add(name, format!("pages of the database are not what was written ({reason})"));
            }
        }
    }
}

impl Ledger {
    /// Checks the whole ledger. `progress` is called with the part that is checked, the items done, and the
    /// total number of items (0 if unknown).
    pub fn verify(&self, progress: &mut dyn FnMut(&'static str, u64, u64)) -> VerifyReport {
        let mut check = Check { ledger: self, report: VerifyReport::default(), progress };
        check.part("blocks", Check::blocks);
        check.part("code", Check::code);
        if self.is_complete() {
            check.part("state", Check::state);
            check.part("journal", Check::journal);
        }
        check.part("side blocks", Check::side_blocks);
        check.part("accepted blocks", |check| {
            check.report.counts.accepted = check.ledger.accepted()?.len() as u64;
            Ok(())
        });
        check.report
    }

    pub(super) fn reading(&self) -> Result<redb::ReadTransaction, LedgerError> {
        Ok(self.database.begin_read()?)
    }
}
