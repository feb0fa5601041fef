//! The harness of the multi-process tests: real `coordinator` and `executor-shard` processes on
//! loopback, with faults that fire when a condition holds, not after a sleep.
//!
//! A test is a [`scenario`]. It gets a [`Scene`]: a folder of its own, in which every process writes
//! its log. Every process that a test starts ends with the test. Each [`Process`] is killed and reaped
//! when it is dropped. Long-running ones also hold a pipe to the test, so that they end even if the
//! test itself is killed. When a scenario fails, the end of every log is printed and the folder is
//! kept.
//!
//! The tests know the binaries only by their command lines. They use no other crate of the workspace.

mod artefacts;
mod chain;
mod chain_file;
mod chaos;
mod fleet;
mod input;
mod measure;
mod moment;
mod process;
mod process_table;
mod proxy;
mod report;
mod scene;
mod start;
mod wait;

pub use artefacts::{Binary, block_files, blockchain_tests, execution_spec_tests, mainnet_dir};
pub use chain::{Chain, Size};
pub use chain_file::{ChainFile, HeaderField};
pub use chaos::{ChainEnd, ChaosOptions, Summary, chaos};
pub use fleet::{Coordinator, Shard, ShardState, Status, first_fault, submit_to, submit_with};
pub use input::{Fields, Forged, edit_json, number_plus};
pub use measure::{MEASURED, Measured, median};
pub use moment::Moment;
pub use process::{Ended, Process, Signal};
pub use process_table::{Descendant, children_of};
pub use proxy::{Direction, Proxy, Shape};
pub use report::Report;
pub use scene::{Scene, scenario};
pub use wait::{scaled, slowness, wait_until, within};
