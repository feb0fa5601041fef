//! The messages between a coordinator and its shards, as typed values.
//!
//! [`crate::endpoint`] and its implementations decide how they travel: by gRPC, or by a direct call
//! within one process.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, Bytes, U256};
use serde::{Deserialize, Serialize};

use crate::account::{AccountRecord, Delta};
use crate::chain_spec::ChainSpec;
use crate::codec::word;
use crate::id::{AssignmentId, Epoch, Gas, Incarnation, ShardId, SlotIndex, StateRef, TxIndex};
use crate::token::SessionToken;
use crate::work::{WorkFailure, WorkOutput};

/// The version of the protocol between coordinator and shards. The coordinator rejects a peer of
/// another version with a message that names both versions.
pub const PROTOCOL_VERSION: u32 = 10;

/// The state that a replica holds, with its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSummary {
    /// The name of the state.
    pub state: StateRef,
    /// The content digest of the state.
    #[serde(with = "word")]
    pub digest: U256,
}

/// The most worker threads that a shard may offer, more than any machine has cores.
pub const MAX_SLOTS: u16 = 1024;

/// The other end of the connection on which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The caller's address.
    pub address: IpAddr,
    /// Whether the caller is on this machine.
    pub same_machine: bool,
}

/// A shard's request to join the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The version of the protocol that the shard speaks.
    pub protocol: u32,
    /// The shard's build, shown to the operator.
    pub build: String,
    /// The engine's version: results of different engines must not be mixed.
    pub engine: String,
    /// The id under which the shard joins, set by its operator.
    pub shard: ShardId,
    /// The incarnation that registers. It differs after every restart of the shard.
    pub incarnation: Incarnation,
    /// The number of worker threads that the shard offers.
    pub slots: u16,
    /// The URL of the shard's own service.
    pub advertise: String,
    /// Where the request came from; `None` within one process.
    pub from: Option<Caller>,
    /// The state that the shard's replica holds, if any.
    pub state: Option<StateSummary>,
    /// The only chain that the shard serves, if its operator restricts it to one.
    pub chain_id: Option<u64>,
    /// The secret by which both sides recognise each other from now on.
    pub token: SessionToken,
}

/// The coordinator's answer to [`Register`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// The coordinator's epoch. From now on the shard rejects commands of an older one.
    pub epoch: Epoch,
    /// The interval between heartbeats.
    pub heartbeat_every: Duration,
    /// The silence after which either side considers the other lost.
    pub lost_after: Duration,
}

/// The progress of one worker thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotProgress {
    /// The slot of the thread. A thread that replaces a stuck one reports under the same slot.
    pub slot: SlotIndex,
    /// The number of transactions that the slot's current thread has begun. It does not change while the
    /// thread is stuck.
    pub transactions: u64,
    /// The assignment that runs, and its current transaction.
    pub current: Option<(AssignmentId, TxIndex)>,
    /// The gas limit of that transaction: its time may grow with the limit. Zero while the thread recovers
    /// senders, and before the first transaction.
    pub gas: Gas,
}

/// A shard's report that it is alive, with its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The shard that sends the heartbeat.
    pub shard: ShardId,
    /// The incarnation that sends it. The coordinator accepts only the registered one.
    pub incarnation: Incarnation,
    /// The epoch under which the shard registered.
    pub epoch: Epoch,
    /// The state that the shard's replica holds, if any.
    pub state: Option<StateSummary>,
    /// The progress of each worker thread.
    pub slots: Vec<SlotProgress>,
    /// The number of assignments that the shard accepted and has not started.
    pub queued: u32,
    /// The number of results that the shard has not delivered yet.
    pub outbox: u32,
}

/// A shard's delivery of the result of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmitResult {
    /// The assignment that was executed, as the coordinator named it in its command.
    pub assignment: AssignmentId,
    /// The result, or the reason why there is none.
    pub outcome: Result<WorkOutput, WorkFailure>,
    /// The digest of the outcome's encoding, if it is known. A sender announces it, or computes it if it
    /// is missing. A receiver has checked it. It compares results without encoding them again.
    pub digest: Option<B256>,
}

/// What the coordinator did with a delivered result. The shard forgets the result in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultReceipt {
    /// It was the first result for work that is still open.
    Used,
    /// The work is already done, cancelled or unknown.
    Ignored,
}

/// A shard leaves the fleet: it will finish nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// The shard that leaves.
    pub shard: ShardId,
    /// The incarnation that leaves. The coordinator rejects the notice of any other than the registered one.
    pub incarnation: Incarnation,
    /// The reason, for the log.
    pub reason: String,
}

/// A shard is about to stop: it finishes the work that runs and takes no new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draining {
    /// The shard that drains.
    pub shard: ShardId,
    /// The incarnation that drains. The coordinator rejects the notice of any other than the registered one.
    pub incarnation: Incarnation,
}

/// A shard's request for a whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The shard that needs the state.
    pub shard: ShardId,
    /// The incarnation that needs it. Only the registered one gets a state.
    pub incarnation: Incarnation,
    /// The wanted state. If the coordinator no longer has it, the coordinator sends the newest state; the
    /// header names the state sent.
    pub state: StateRef,
    /// The state that the shard holds. If it is not too old, the coordinator sends a few deltas instead of
    /// a whole state.
    pub held: Option<StateSummary>,
}

/// The first message of a snapshot, before its chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The state and its digest. The shard checks the digest at the end.
    pub summary: StateSummary,
    /// The specification of the state's chain.
    pub spec: ChainSpec,
    /// The hashes of ancestors by block number: those that BLOCKHASH can see, and more for a chain that is
    /// unwound.
    pub ancestors: Vec<(u64, B256)>,
}

/// Part of a snapshot. An account's slots may be spread over several chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Accounts, each with some or all of its slots.
    pub accounts: Vec<AccountRecord>,
    /// Contract code, each entry with the Keccak-256 hash by which accounts name it.
    pub code: Vec<(B256, Bytes)>,
}

/// One message of a snapshot stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotPart {
    /// One of the deltas that lead from the shard's state to the wanted one.
    Delta(Arc<Delta>),
    /// The first message, if the coordinator sends a whole state.
    Header(Box<SnapshotHeader>),
    /// A message between the header and the end.
    Chunk(SnapshotChunk),
    /// The last message: the snapshot is complete.
    End,
    /// A part of a delta that is too large for one message. Further parts follow; the last of them is a
    /// [`SnapshotPart::Delta`].
    DeltaPart(Arc<Delta>),
}

/// Why a shard rejects a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The command carries an older epoch than the shard knows.
    #[error("the command is of epoch {got}, this shard serves epoch {current}")]
    StaleEpoch {
        /// The epoch of the command.
        got: Epoch,
        /// The epoch that the shard serves.
        current: Epoch,
    },
    /// The command addresses another shard or another incarnation.
    #[error("the command is for shard {shard} incarnation {incarnation}, which is not this process")]
    WrongShard {
        /// The shard that the assignment names.
        shard: ShardId,
        /// The incarnation that the assignment names. It may be an earlier start of the same shard.
        incarnation: Incarnation,
    },
    /// The bounded queue is full.
    #[error("the queue is full at {limit} assignments; send less or offer more threads")]
    QueueFull {
        /// The most assignments that the shard holds at once, from acceptance to delivery of the result.
        limit: usize,
    },
    /// The replica holds another state than the work needs.
    #[error("the replica is at {at:?}, the work needs {wanted}")]
    NotAtBase {
        /// The state that the replica holds.
        at: Option<StateRef>,
        /// The state that the work needs.
        wanted: StateRef,
    },
    /// The shard is stopping.
    #[error("the shard is draining")]
    Draining,
    /// The command is invalid. Every shard would reject it.
    #[error("the command is malformed: {reason}")]
    Malformed {
        /// The fault in the command, for example that its indices do not ascend.
        reason: String,
    },
}
