//! The engine: it executes transactions with revm over a state view and records the reads and writes of
//! each.
//!
//! The engine does not decide where work runs, whether a result is valid, or what is committed, and it
//! moves no replica. revm provides the EVM and its gas rules, alloy the block environment and the
//! transaction encodings.

mod balances;
mod block_db;
mod charge;
mod code;
mod effects;
mod env;
mod evm;
mod execute;
mod interrupt;
mod net_gas;
mod overlay;
mod poison;
mod recording;
mod recover;
pub mod replica_view;
mod state;
pub mod store;
pub mod sub_block;
mod view;

#[cfg(test)]
mod collision_tests;

pub use block_db::BlockDb;
pub use code::Code;
pub use env::{ExecutorSpec, evm_env, spec_id};
pub use execute::{CommitRules, Executor};
pub use interrupt::MAX_MEMORY;
pub use overlay::{Layered, Overlay, OverlayAccount};
pub use poison::Poisoned;
pub use recover::recover_sender;
pub use state::{ANCESTORS_KEPT, MemoryState, StoredAccount};
pub use view::{StateError, StateView};

/// The engine's version. A block must not mix results of different engines.
pub const ENGINE_VERSION: &str = concat!("revm-43/", env!("CARGO_PKG_VERSION"));
