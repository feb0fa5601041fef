//! The engine: executes transactions with revm over a state view, recording for each one what it
//! read and what it wrote.
//!
//! It does not decide what runs where, whether a result is valid, or what is committed, and it
//! moves no replica. The EVM and its gas rules are revm's, the block environment and the
//! transaction encodings alloy's.

mod block_db;
mod charge;
mod code;
mod env;
mod evm;
mod execute;
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
pub use overlay::{Layered, Overlay, OverlayAccount};
pub use poison::Poisoned;
pub use recover::recover_sender;
pub use state::{ANCESTORS_KEPT, MemoryState, StoredAccount};
pub use view::{StateError, StateView};

/// The engine's version: results of different engines must not be mixed in one block.
pub const ENGINE_VERSION: &str = concat!("revm-43/", env!("CARGO_PKG_VERSION"));
