//! Runs Ethereum's BlockchainTests through the real path: planner, shards, validator, ledger.
//!
//! This module reads the suites' files ([`read_file`]) and judges one case at a time ([`run_case`]). It
//! compares the reasons of rejections with the expected ones ([`compare_reason`]). [`CaseChain`] imports
//! the blocks. The command line finds the files, starts the shards and prints the results.

mod case;
mod expected;
mod importer;
mod model;
mod read;
mod refusal;

pub use case::{CaseOutcome, Reasons, Verdict, run_case};
pub use expected::{CompareReasons, Comparison, compare_reason};
pub use importer::{CaseChain, ImportError, idle_importer};
pub use model::{Case, CaseBlock, PlainAccount};
pub use read::{Entry, FileError, MAX_FILE_BYTES, read_file};
pub use refusal::RefusalKind;
