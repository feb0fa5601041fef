//! The vocabulary that every room shares: identifiers, blocks, accounts, deltas, work and its
//! results, the chain specification, the BCS codec with its limits, telemetry and supervision.
//!
//! It is deliberately not a place for behaviour: nothing here talks to a peer, executes a
//! transaction or decides what runs where. It depends on no other room.

pub mod account;
pub mod block;
pub mod chain_spec;
pub mod codec;
pub mod digest;
pub mod endpoint;
pub mod id;
pub mod message;
pub mod panic;
pub mod strikes;
pub mod work;

pub use alloy_primitives;
