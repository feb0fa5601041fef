//! All communication with a peer: servers and channels with explicit limits, the peers' identities, the
//! retrying sender, payloads in chunks, and the gRPC adapters of the two endpoint traits.
//!
//! The crate carries work and results but does not interpret them: it knows neither the meaning of a
//! block nor which shard executes what.

pub mod admin;
pub mod backoff;
pub mod bounded;
pub mod budget;
mod calls;
pub mod channel;
pub mod connections;
#[cfg(test)]
mod flood_tests;
pub mod identity;
pub mod limits;
pub mod monitor;
pub mod retry;
pub mod serve;
mod unfinished;
pub mod wire;
