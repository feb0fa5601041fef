//! The gRPC adapters of the two endpoint traits: for each a client that implements the trait, and a
//! service that offers an implementation to the network.

mod convert;
mod fleet_client;
mod fleet_service;
pub mod inspect;
mod payload;
mod pipe;
#[cfg(test)]
mod pipe_tests;
#[cfg(test)]
mod role_tests;
mod shard_client;
mod shard_service;
pub(crate) mod status;
mod token;

pub use convert::{Malformed, epoch_message, summary_message};
pub use fleet_client::FleetClient;
pub use fleet_service::fleet_service;
pub use payload::{PayloadError, ReceivedPayload, chunks, receive};
pub use shard_client::ShardClient;
pub use shard_service::{NodeIdentity, shard_service};
pub use status::{exhausted, from_status, reason, to_status};
pub use token::{Bearer, ClientChannel, Demand, client_channel};
