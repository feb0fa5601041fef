//! The tools that test and measure: the simulator, the fuzzer, Ethereum's BlockchainTests, the
//! generator of chains, and the sequential baseline that every result is compared with.
//!
//! None of them is part of the `coordinator` or the `executor-shard` binary. The crate uses both as
//! libraries.

pub mod blocktest;
pub mod cli;
pub mod fuzz;
pub mod generate;
pub mod plan;
pub mod scale;
pub mod sequential;
pub mod simulate;
