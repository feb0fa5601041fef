//! Ethereum's BlockchainTests, run through the real path: planner, shards, validator, ledger.
//!
//! It reads the suites' files ([`read_file`]), knows their networks ([`networks`]), and judges one
//! case at a time ([`run_case`]). How blocks are imported is [`Importer`]'s. It does not look for
//! files, start shards or print: that is the command line's.

mod case;
mod importer;
mod model;
pub mod networks;
mod read;

pub use case::{CaseOutcome, Verdict, run_case};
pub use importer::{ImportError, Importer, idle_importer};
pub use model::{Case, CaseBlock, PlainAccount};
pub use read::{Entry, FileError, MAX_FILE_BYTES, read_file};
