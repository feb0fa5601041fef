//! Everything about talking to a peer: servers and channels with explicit limits, the retrying
//! sender, payloads in chunks, and the gRPC adapters of the two endpoint traits.
//!
//! It knows nothing of what a block means or who executes what: work and results are opaque
//! payloads here.

pub mod backoff;
pub mod bounded;
pub mod channel;
pub mod limits;
pub mod retry;
pub mod serve;
pub mod wire;
