//! The differential fuzzer: seeded programs in seeded blocks. alloy-evm executes them one transaction
//! after another, and this system executes them under hostile plans. All results must be equal.
//!
//! A seed is a small chain: a fork, a pre-state of awkward accounts and generated contracts, and a few
//! blocks on the evolving state. The baseline executes each block while it is drafted. Then planner,
//! sub-blocks and validator execute it again, with results that are lost, reordered or stale.
//! Everything depends only on the seed, fork and plan, so every difference can be replayed.
//!
//! The fuzzer does not test networks, processes or the ledger. EVM rules that both sides take from revm
//! cannot differ here. Two rules are not alloy-evm's: EIP-7610, which an inspector adds to the baseline
//! (`sequential/creation_rule.rs`), and the sum of a block's blobs, which the drafter checks. The DAO
//! fork's drain is not fuzzed.

mod asm;
mod chain;
mod compare;
mod coverage;
mod draft;
mod draw;
mod fault;
mod fork;
mod mirror;
mod program;
mod run;
mod system;
mod transaction;
mod world;

pub use chain::{ChainReport, Difference, fuzz_seed};
pub use compare::Mismatch;
pub use coverage::{Coverage, Feature};
pub use fork::{Fork, ForkError};
pub use run::{FuzzError, FuzzOptions, FuzzSummary, Scope, fuzz};
