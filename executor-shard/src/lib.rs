//! An executor shard: it holds a replica of the state, executes sub-blocks on worker threads, and
//! returns the reads and writes of every transaction.
//!
//! A shard commits no block and judges no block; the coordinator does both. A shard may fail at any
//! moment.

pub mod admin;
mod change;
pub mod fault;
mod fetch;
pub mod node;
pub mod replica;
pub mod run;
pub mod session;
pub mod worker;
