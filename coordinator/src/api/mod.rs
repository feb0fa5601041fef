//! The service for clients: submit a block and get its result, watch events, status.
//!
//! Blocks are executed one after another by one thread; waiting blocks are bounded. A client that
//! stops waiting does not stop its block.

mod chain;
mod service;

pub use chain::{BlockOutcome, Chain, ChainError, ChainHandle, ChainStatus, SubmitError};
pub use service::{MAX_BLOCK_PAYLOAD, blocks_service};
