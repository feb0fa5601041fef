//! The two faces of the protocol as traits: what a shard offers a coordinator, and what a
//! coordinator offers a shard.
//!
//! Both have two implementations each: the real thing, and a gRPC client that reaches it over the
//! network (in `net`). In one process the real things are handed to each other directly, so
//! in-process shards run the same code without a network.

use std::sync::Arc;

use async_trait::async_trait;
use futures_core::Stream;
use std::pin::Pin;

use crate::account::Delta;
use crate::block::BlockPayload;
use crate::id::{AssignmentId, Epoch};
use crate::message::{
    Draining, Heartbeat, Leave, Refusal, Register, Registered, ResultReceipt, SnapshotPart, SnapshotRequest,
    StateSummary, SubmitResult,
};
use crate::work::ExecuteBlock;

/// Why a call to a peer failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer cannot be reached, or did not answer in time. Worth retrying.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// The peer is there and busy. Worth retrying later.
    #[error("peer overloaded: {0}")]
    Overloaded(String),
    /// The peer does not know this shard (any more): register again.
    #[error("not registered: {0}")]
    NotRegistered(String),
    /// The peer refuses for good: retrying is pointless.
    #[error("refused: {0}")]
    Refused(String),
    /// A shard refuses a command, and says why.
    #[error("refused by the shard: {0}")]
    Command(Refusal),
    /// What came back cannot be understood.
    #[error("protocol error: {0}")]
    Protocol(String),
}

impl PeerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Overloaded(_) | Self::NotRegistered(_))
    }

    /// What the peer said, without what kind of error it is.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Refused(reason) => reason.clone(),
            error => error.to_string(),
        }
    }
}

/// A stream of snapshot parts.
pub type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotPart, PeerError>> + Send>>;

/// What a shard offers its coordinator.
#[async_trait]
pub trait ShardEndpoint: Send + Sync + std::fmt::Debug {
    /// ExecuteBlock: accepts the assignment into the bounded queue, or refuses, at once.
    async fn execute(&self, command: ExecuteBlock) -> Result<(), PeerError>;

    /// Hands over a block's bytes; each shard gets them once.
    async fn put_block(&self, epoch: Epoch, block: Arc<BlockPayload>) -> Result<(), PeerError>;

    /// Moves the replica by one committed block; answers where it is then.
    async fn put_delta(&self, epoch: Epoch, delta: Arc<Delta>) -> Result<StateSummary, PeerError>;

    /// Asks the shard to fetch this state from the coordinator. Answers when the replica holds it.
    async fn sync(&self, epoch: Epoch, target: StateSummary) -> Result<StateSummary, PeerError>;

    /// The result of this assignment is no longer wanted.
    async fn cancel(&self, assignment: AssignmentId) -> Result<(), PeerError>;

    /// Asks the shard to stop: it finishes what it holds and leaves.
    async fn drain(&self, epoch: Epoch) -> Result<(), PeerError>;

    /// Ends only when the peer is gone or no longer answers pings; tells how it showed.
    async fn gone(&self) -> PeerError;
}

/// What a coordinator offers its shards.
#[async_trait]
pub trait CoordinatorEndpoint: Send + Sync + std::fmt::Debug {
    /// Joins the fleet.
    async fn register(&self, request: Register) -> Result<Registered, PeerError>;

    /// Says that the shard lives.
    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), PeerError>;

    /// Delivers a result. Idempotent.
    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError>;

    /// Says that the shard is about to stop and takes nothing new.
    async fn draining(&self, notice: Draining) -> Result<(), PeerError>;

    /// Says goodbye.
    async fn leave(&self, leave: Leave) -> Result<(), PeerError>;

    /// Streams a whole state.
    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError>;
}
