//! Checking a whole ledger: everything in it against what covers it. Blocks and headers are covered by
//! their hashes, receipts by their roots, the flat state and the trie's nodes by the state root, the
//! journal by the roots that it leads to.
//!
//! It changes nothing. What is damaged is a finding, and the check goes on.

mod chain;
mod state;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::panic::panic_message;
use redb::ReadableDatabase;
use serde::Serialize;

use super::{Ledger, LedgerError};

/// Findings that are listed; of further ones the count is kept.
const LISTED: usize = 100;

/// Something that is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where: a block, an account, an entry of the journal.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// How much was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Blocks of the chain, with their receipts.
    pub blocks: u64,
    /// Accounts.
    pub accounts: u64,
    /// Storage slots.
    pub slots: u64,
    /// Contracts.
    pub codes: u64,
    /// Entries of the journal, both ways.
    pub journal: u64,
    /// Side blocks.
    pub side_blocks: u64,
    /// Blocks that were accepted and have not ended.
    pub accepted: u64,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// How much was checked.
    pub counts: Counts,
    /// The first findings; none if the ledger is sound.
    pub findings: Vec<Finding>,
    /// Findings that are not listed.
    pub omitted: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged.
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

/// A check under way.
struct Check<'l> {
    ledger: &'l Ledger,
    report: VerifyReport,
    /// Told of the part that is being checked, how far it is, and how much there is, if that is known.
    progress: &'l mut dyn FnMut(&'static str, u64, u64),
}

impl Check<'_> {
    /// Runs one part. An error of it is a finding, and so is a page that redb cannot read.
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
    /// Checks everything. `progress` is told of the part that is being checked, how far it is, and how much
    /// there is (0 where that is not known).
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
