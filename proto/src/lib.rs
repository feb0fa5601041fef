//! The `.proto` files and the code that is generated from them, nothing else.
//!
//! The files themselves are the documentation; conversions to the typed vocabulary are in `net`.

/// Version 1 of the protocol.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines
)]
pub mod v1 {
    tonic::include_proto!("shardexec.v1");

    /// The descriptors of all files, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
