//! The coordinator: it owns the chain's state, plans and dispatches the execution of blocks, validates
//! the results, and is the only process that commits.

pub mod api;
pub mod cli;
pub mod execute;
pub mod fleet;
pub mod import;
pub mod input;
pub mod rules;
pub mod validate;
