//! The vocabulary that every crate shares: identifiers, blocks, accounts, deltas, work and its results,
//! the chain specification, the messages between coordinator and shards, and the BCS codec with its
//! limits.
//!
//! It deliberately contains no behaviour: nothing here talks to a peer, executes a transaction or
//! decides which shard runs what. Of the workspace's crates it depends only on `hashing`.

pub mod account;
pub mod block;
pub mod chain_spec;
pub mod codec;
pub mod digest;
pub mod endpoint;
pub mod id;
pub mod message;
pub mod panic;
pub mod receipt;
pub mod sealed;
pub mod strikes;
pub mod token;
pub mod work;

pub use alloy_primitives;
