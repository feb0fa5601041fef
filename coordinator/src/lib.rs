//! The coordinator: it owns the chain's state, plans and dispatches the execution of blocks,
//! validates what comes back, and is the only one that commits.

pub mod api;
pub mod blocktest;
pub mod cli;
pub mod execute;
pub mod fleet;
pub mod fuzz;
pub mod generate;
pub mod import;
pub mod input;
pub mod intake;
pub mod ledger;
pub mod planner;
pub mod rules;
pub mod schedule;
pub mod sequential;
pub mod simulate;
pub mod validate;
