//! Ethereum's BlockchainTests, run through the real path: planner, shards, validator, ledger.
//!
//! It reads the suites' files ([`read_file`]), and judges one
//! case at a time ([`run_case`]). Why a block is refused is compared with what the suite expects
//! ([`compare_reason`]). How blocks are imported is [`Importer`]'s. It does not look for
//! files, start shards or print: that is the command line's.

mod case;
mod expected;
mod importer;
mod model;
mod read;
mod refusal;

pub use case::{CaseOutcome, Reasons, Verdict, run_case};
pub use expected::{CompareReasons, Comparison, compare_reason};
pub use importer::{ImportError, Importer, idle_importer};
pub use model::{Case, CaseBlock, PlainAccount};
pub use read::{Entry, FileError, MAX_FILE_BYTES, read_file};
pub use refusal::RefusalKind;
