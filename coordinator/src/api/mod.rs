//! The service for clients: submit a block and get its result, watch events, read the status.
//!
//! A block is journaled before it is acknowledged. If this process ends, the next one continues with
//! it. One thread executes the blocks one after another, and the number of waiting blocks is limited. A
//! client that stops waiting does not stop its block.

mod chain;
mod desk;
mod metrics;
mod outcome;
mod parked;
mod recent;
mod service;
mod state;
mod status;
mod step_down;

pub use chain::{Chain, ChainError, ChainHandle, ChainStatus, IntakeThread};
pub use desk::Ticket;
pub use metrics::{COORDINATOR_METRICS, count_from_zero, set_gauges};
pub use outcome::{Acceptance, BlockOutcome, ParkedError, Roots, SubmitError};
pub use parked::ParkedBlock;
pub use recent::RecentBlocks;
pub use service::{MAX_BLOCK_PAYLOAD, RETRY, RETRY_STOPPING, blocks_service};
pub use status::{status, status_json};
pub use step_down::StepDown;
