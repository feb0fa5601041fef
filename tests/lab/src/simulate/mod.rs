//! The simulator: whole histories of a coordinator and its shards on one thread, in virtual time,
//! decided by a seed.
//!
//! What is real in it: the [`Scheduler`](schedule::Scheduler), the shard's
//! [`Session`](executor_shard::session::Session) and its [`Outbox`](net::retry::Outbox). What is
//! modelled: the network, the shards' slots and replicas, the thread that drives the scheduler, the
//! journal, and blocks, whose results are numbers. No EVM runs here, and nothing here is used when
//! blocks are executed.
//!
//! Blocks are on one or several branches, and may arrive before their parents.
//!
//! After every history: the chain is the heaviest branch of valid blocks, and its state is the sequential
//! one; every acknowledged block ended, or waits for one that is parked or was refused; only invalid blocks,
//! and what follows them, were refused; nothing was committed twice, before its parent or under an older epoch; no older command was obeyed;
//! each result was used once and for open work; attempts were bounded; nothing was forgotten; nobody
//! was convicted without evidence; no wrong result of verified work passed, and whoever was caught with
//! one is in quarantine; no result of a shard in quarantine counted unless it was confirmed; no slot was
//! retired in the time that its transaction may take, and none that works was left without work.

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
