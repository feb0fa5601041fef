//! The session: the shard's side of its relation to the coordinator. It registers, sends heartbeats,
//! accepts or rejects assignments, stores finished results until they are delivered, waits while the
//! coordinator is away, and leaves the fleet.

mod driver;
mod machine;

pub use driver::{GaveUp, SessionHandle, SessionOptions, run_session};
pub use machine::{Accepted, Action, Session, SessionConfig};
