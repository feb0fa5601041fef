//! What proves and measures: the simulator, the fuzzer, Ethereum's BlockchainTests, the generator of
//! chains, and the sequential baseline that every result is compared with.
//!
//! None of it is part of the `coordinator` or the `executor-shard` binary; it uses both as libraries.

pub mod blocktest;
pub mod cli;
pub mod fuzz;
pub mod generate;
pub mod sequential;
pub mod simulate;
