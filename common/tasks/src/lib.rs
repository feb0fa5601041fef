//! What every process here runs on: supervision of tasks and threads, telemetry, what a command prints,
//! and how one process starts another.
//!
//! It knows nothing of blocks or shards, and depends on no other room.

pub mod console;
pub mod launch;
pub mod supervise;
pub mod telemetry;
