//! The scheduler: decides which shard does which work, and what follows when one fails.
//!
//! A pure state machine: events in, commands out, time passed in. It knows no clock, no network,
//! no thread and no randomness, and it never sees a result's content, only a digest of it. There is
//! one path by which a shard is lost, and one by which work is given to another.
//!
//! By concern: `machine` (shards, losses), `rounds` (work and results), `dispatch` (who gets what),
//! `verify` (work that two have to agree about), `overdue` (slow or stuck), `strikes` (quarantine and
//! probation), `suspects` (transactions that may kill whoever runs them).

mod audit;
mod dispatch;
mod event;
mod fleet;
pub mod intake;
mod limits;
mod machine;
mod overdue;
pub mod planner;
pub mod replicas;
mod rounds;
mod strikes;
mod suspects;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_faults;
#[cfg(test)]
mod tests_heavy;
#[cfg(test)]
mod tests_verify;
mod verify;

pub use audit::{StateClass, Transition};
pub use common::strikes::StrikeRecord;
pub use event::{Command, Event, FailCause, Fault, LossCause, WorkClass, WorkItem};
pub use limits::{NoShards, ScheduleLimits};
pub use machine::{Counters, Scheduler};
