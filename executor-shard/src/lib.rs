//! An executor shard: it keeps a replica of the state, executes sub-blocks on worker threads and
//! returns what every transaction read and wrote.
//!
//! It commits nothing and decides nothing about a block: the coordinator does. It can be lost at
//! any moment.

pub mod fault;
mod fetch;
pub mod node;
pub mod replica;
pub mod run;
pub mod session;
pub mod worker;
