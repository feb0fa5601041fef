//! The scheduler: decides which shard does which work, and what happens when a shard fails.
//!
//! A pure state machine: it takes events and the time, and returns commands. It uses no clock, no network, no
//! thread and no randomness, and it sees a digest of a result, never its content. A shard is lost on one path
//! only, and work becomes open again on one path only.
//!
//! By concern: `machine` (shards, losses), `rounds` (work and results), `dispatch` (assignment of work),
//! `verify` (work that needs two equal results), `overdue` (slow or stuck), `quarantine` (strikes and
//! probation), `suspects` (transactions that may kill the process that runs them). `work`, `strikes`,
//! `evidence`, `medians` and `finished` each own a part of the state. Every time that a part keeps is in the
//! list of `deadlines`.

mod audit;
mod deadlines;
mod dispatch;
mod event;
mod evidence;
mod failure;
#[cfg(test)]
mod faults_tests;
mod finished;
mod fleet;
#[cfg(test)]
mod heavy_tests;
pub mod intake;
mod kept;
mod limits;
mod machine;
mod medians;
mod never;
#[cfg(test)]
mod newcomers_tests;
mod overdue;
#[cfg(test)]
mod overdue_tests;
#[cfg(test)]
mod pause_tests;
pub mod planner;
mod quarantine;
pub mod replicas;
mod round;
mod rounds;
#[cfg(test)]
mod silence_tests;
mod strikes;
mod suspects;
#[cfg(test)]
mod tests;
mod turn;
mod verify;
#[cfg(test)]
mod verify_tests;
mod work;

pub use audit::{StateClass, Transition};
pub use common::strikes::StrikeRecord;
pub use event::{AssignmentFault, Command, Event, LossCause, StrikeChange, WorkClass, WorkItem};
pub use failure::{FailCause, RoundFailure};
pub use limits::{NoShards, ScheduleLimits};
pub use machine::{Counters, Scheduler};
pub use strikes::MOST_RECORDS;
