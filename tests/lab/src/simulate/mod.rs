//! The simulator: runs whole histories of a coordinator and its shards on one thread, in virtual time. A seed
//! decides each history.
//!
//! Real in it are the [`Scheduler`](schedule::Scheduler), the shard's
//! [`Session`](executor_shard::session::Session) and its [`Outbox`](net::retry::Outbox). Modelled are the
//! network, the shards' slots and replicas, the thread that drives the scheduler, the journal, and blocks,
//! whose results are numbers. The simulator runs no EVM, and block execution uses nothing of it.
//!
//! Blocks are on one or several branches, and may arrive before their parents.
//!
//! After every history the simulator checks these invariants. The chain is the heaviest branch of valid
//! blocks, and its state is the sequential one. Every acknowledged block ended, or waits for a block that is
//! parked or was rejected. Only invalid blocks, and their descendants, were rejected. No block was committed
//! twice, before its parent or under an older epoch, and no shard obeyed an older command. Each result was
//! used once and for open work; attempts were bounded; nothing was forgotten. No transaction was convicted
//! without evidence. No wrong result of verified work passed, and each shard caught with one is in
//! quarantine. No result of a shard in quarantine counted unless it was confirmed. No slot was retired within
//! the time that its transaction may take, and no working slot was left without work.

mod blocks;
mod calls;
mod campaign;
mod chain;
mod check;
mod coordinator;
mod disk;
mod driving;
mod fault;
mod inject;
mod message;
mod network;
mod random;
mod shard;
mod slots;
#[cfg(test)]
mod tests;
mod trace;
mod verify;
mod world;

pub use campaign::{Campaign, CampaignReport, Failure};
pub use check::Violation;
pub use fault::FaultKind;
pub use world::{History, simulate};
