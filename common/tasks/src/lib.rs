//! The services that every process here runs on: supervision of tasks and threads, telemetry, the
//! output of commands, the limit of open files, what a process gives up, and the link between a process and the children it starts.
//!
//! The crate knows nothing of blocks or shards, and depends on no other crate of the workspace.

pub mod command;
pub mod console;
pub mod descriptors;
pub mod harden;
pub mod launch;
pub mod supervise;
pub mod telemetry;
