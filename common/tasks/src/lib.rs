//! The services that every process here runs on: supervision of tasks and threads, telemetry, the options and the output
//! of commands, the limit of open files, the rights that a process gives up, what it tells its service manager, and the
//! link between a process and the children that it starts.
//!
//! The crate knows nothing of blocks or shards. Of the workspace's crates it depends only on `common`.

pub mod allocator;
pub mod command;
pub mod console;
pub mod descriptors;
pub mod harden;
pub mod launch;
pub mod manager;
pub mod options;
pub mod supervise;
pub mod telemetry;
