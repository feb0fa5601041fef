//! The differential fuzzer: seeded programs in seeded blocks, executed by alloy-evm one transaction
//! after another, and by this system under hostile plans; everything that comes of it must be equal.
//!
//! A seed is a small chain: a fork, a pre-state of awkward accounts and generated contracts, and a
//! few blocks on the state that evolves. Each block is drafted while the baseline executes it, then
//! executed again by planner, sub-blocks and validator, with results that are lost, reordered or
//! stale. All of it is a function of the seed, fork and plan, so every difference can be replayed.
//!
//! It is not a test of networks, processes or the ledger, and EVM rules that both sides take from
//! revm cannot differ here. Two rules are not alloy-evm's: EIP-7610, which the baseline is given by
//! an inspector of its own (`sequential/creation_rule.rs`), and the sum of a block's blobs, which
//! the drafter checks. The DAO fork's drain is not fuzzed.

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
