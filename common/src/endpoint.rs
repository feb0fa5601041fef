//! The two sides of the protocol as traits: what a shard offers a coordinator, and what a coordinator
//! offers a shard.
//!
//! Each trait has two implementations: the real one, and a gRPC client (in `net`) that reaches it over
//! the network. Inside one process the two real ones call each other directly, so in-process shards run
//! the same code without a network.

use std::sync::Arc;

use async_trait::async_trait;
use futures_core::Stream;
use std::pin::Pin;

use crate::account::Delta;
use crate::id::{AssignmentId, Epoch, Incarnation, ShardId};
use crate::message::{
    Draining, Heartbeat, Leave, Refusal, Register, Registered, ResultReceipt, SnapshotPart, SnapshotRequest,
    StateSummary, SubmitResult,
};
use crate::sealed::Sealed;
use crate::token::SessionToken;
use crate::work::ExecuteBlock;

/// Why a call to a peer failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer cannot be reached, or did not answer in time. The caller may retry.
    #[error("peer unreachable: {0}")]
    Unreachable(String),
    /// The peer answers but is busy. The caller may retry later.
    #[error("peer overloaded: {0}")]
    Overloaded(String),
    /// The peer does not know this shard (any more). The shard must register again.
    #[error("not registered: {0}")]
    NotRegistered(String),
    /// The peer rejects the call for good. A retry is pointless.
    #[error("refused: {0}")]
    Refused(String),
    /// The shard rejects a command and gives the reason.
    #[error("refused by the shard: {0}")]
    Command(Refusal),
    /// The peer's answer cannot be understood.
    #[error("protocol error: {0}")]
    Protocol(String),
}

impl PeerError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Overloaded(_) | Self::NotRegistered(_))
    }

    /// The peer's message, without the kind of error.
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
    /// ExecuteBlock: accepts the assignment into the bounded queue or rejects it. Returns at once.
    async fn execute(&self, command: ExecuteBlock) -> Result<(), PeerError>;

    /// Moves the replica forward by one committed block and returns the state it then holds.
    async fn put_delta(&self, epoch: Epoch, delta: Sealed<Delta>) -> Result<StateSummary, PeerError>;

    /// Asks the shard to fetch this state from the coordinator. Returns once the replica holds it.
    async fn sync(&self, epoch: Epoch, target: StateSummary) -> Result<StateSummary, PeerError>;

    /// Tells the shard that the result of this assignment is no longer wanted.
    async fn cancel(&self, assignment: AssignmentId) -> Result<(), PeerError>;

    /// Asks the shard to stop: it finishes its accepted work and leaves.
    async fn drain(&self, epoch: Epoch) -> Result<(), PeerError>;

    /// Resolves only when the connection to the peer is lost or the peer stops answering pings. Returns how
    /// that showed.
    async fn gone(&self) -> PeerError;
}

/// What a coordinator's service asks before it reads what a caller sends. A shard within the coordinator's
/// process is not asked.
pub trait Admission: Send + Sync + std::fmt::Debug {
    /// Checks that the caller is the process that has registered as this shard.
    ///
    /// # Errors
    /// [`PeerError::NotRegistered`] if no such shard is part of the fleet, [`PeerError::Refused`] if the
    /// caller is another process.
    fn check_caller(
        &self,
        token: &SessionToken,
        shard: ShardId,
        incarnation: Incarnation,
    ) -> Result<(), PeerError>;

    /// Checks that this coordinator has made the assignment whose result a caller wants to deliver.
    ///
    /// # Errors
    /// [`PeerError::Refused`] if it has not.
    fn check_assigned(&self, assignment: &AssignmentId) -> Result<(), PeerError>;
}

/// What a coordinator offers its shards.
#[async_trait]
pub trait CoordinatorEndpoint: Send + Sync + std::fmt::Debug {
    /// Registers a shard with the fleet.
    async fn register(&self, request: Register) -> Result<Registered, PeerError>;

    /// Reports that the shard is alive, and its progress.
    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), PeerError>;

    /// Delivers a result. A repeated delivery changes nothing.
    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError>;

    /// Announces that the shard is about to stop and takes no new work.
    async fn draining(&self, notice: Draining) -> Result<(), PeerError>;

    /// Announces that the shard leaves the fleet.
    async fn leave(&self, leave: Leave) -> Result<(), PeerError>;

    /// Streams a whole state, or the deltas that lead to it.
    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError>;
}
