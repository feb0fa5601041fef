//! The session: a shard's side of its relation to the coordinator. It registers, sends
//! heartbeats, accepts or refuses assignments, keeps finished results until they are delivered,
//! waits when the coordinator is away, and takes its leave.

mod driver;
mod machine;

pub use driver::{GaveUp, SessionHandle, SessionOptions, run_session};
pub use machine::{Accepted, Action, Session, SessionConfig};
