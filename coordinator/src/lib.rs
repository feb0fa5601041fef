//! The coordinator: it owns the chain's state, plans and dispatches the execution of blocks,
//! validates what comes back, and is the only one that commits.

pub mod sequential;
pub mod validate;
