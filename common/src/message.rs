//! The messages between a coordinator and its shards, as typed values.
//!
//! How they travel (gRPC, or a direct call within one process) is the business of
//! [`crate::endpoint`] and its implementations.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, Bytes, U256};
use serde::{Deserialize, Serialize};

use crate::account::{AccountRecord, Delta};
use crate::chain_spec::ChainSpec;
use crate::codec::word;
use crate::id::{AssignmentId, Epoch, Gas, Incarnation, ShardId, SlotIndex, StateRef, TxIndex};
use crate::work::{WorkFailure, WorkOutput};

/// The version of the protocol between coordinator and shards. Peers of another version are
/// refused, with both versions in the message.
pub const PROTOCOL_VERSION: u32 = 3;

/// Which state a replica holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSummary {
    /// The state's name.
    pub state: StateRef,
    /// Its content digest.
    #[serde(with = "word")]
    pub digest: U256,
}

/// A shard asks to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The protocol that the shard speaks.
    pub protocol: u32,
    /// The shard's build, for the operator's eyes.
    pub build: String,
    /// The engine's version: results of different engines must not be mixed.
    pub engine: String,
    /// Who it is.
    pub shard: ShardId,
    /// In which life.
    pub incarnation: Incarnation,
    /// How many worker threads it offers.
    pub slots: u16,
    /// Where its own service can be reached.
    pub advertise: String,
    /// What its replica holds.
    pub state: Option<StateSummary>,
    /// The only chain it serves, if its operator says so.
    pub chain_id: Option<u64>,
}

/// The coordinator's answer to [`Register`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// The coordinator's term; commands of an older one are refused from now on.
    pub epoch: Epoch,
    /// How often to send heartbeats.
    pub heartbeat_every: Duration,
    /// Silence after which either side counts as gone.
    pub lost_after: Duration,
}

/// What one worker thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotProgress {
    /// Which thread.
    pub slot: SlotIndex,
    /// Transactions finished since the process started; stands still when the thread is stuck.
    pub transactions: u64,
    /// The assignment in hand, and the transaction it is at.
    pub current: Option<(AssignmentId, TxIndex)>,
    /// The gas limit of that transaction: it may take time in proportion. Zero while senders are
    /// recovered, and before the first transaction.
    pub gas: Gas,
}

/// A shard says that it lives, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who.
    pub shard: ShardId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Under which term it registered.
    pub epoch: Epoch,
    /// What its replica holds.
    pub state: Option<StateSummary>,
    /// Its worker threads.
    pub slots: Vec<SlotProgress>,
    /// Work accepted and not begun.
    pub queued: u32,
    /// Results not yet delivered.
    pub outbox: u32,
}

/// A shard delivers the result of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmitResult {
    /// Of which assignment.
    pub assignment: AssignmentId,
    /// The result, or why there is none.
    pub outcome: Result<WorkOutput, WorkFailure>,
    /// The digest of the outcome's encoding, where the way it came has checked that. It tells
    /// results apart without encoding them again.
    pub digest: Option<B256>,
}

/// What became of a delivered result. Either way the shard forgets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultReceipt {
    /// It was the first for work that is still open.
    Used,
    /// The work is done, cancelled or unknown.
    Ignored,
}

/// A shard takes its leave: it will finish nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// Who.
    pub shard: ShardId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Why, for the log.
    pub reason: String,
}

/// A shard is about to stop: it finishes what it runs and takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draining {
    /// Who.
    pub shard: ShardId,
    /// In which life.
    pub incarnation: Incarnation,
}

/// A shard asks for a whole state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// Who asks.
    pub shard: ShardId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Which state; the newest is sent if this one is gone, and the header says which it is.
    pub state: StateRef,
    /// What it holds: if that is not too old, a few deltas are sent instead of a whole state.
    pub held: Option<StateSummary>,
}

/// What precedes the chunks of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// Which state, and its digest, to be checked at the end.
    pub summary: StateSummary,
    /// The rules of its chain.
    pub spec: ChainSpec,
    /// The hashes of ancestors by block number: those that BLOCKHASH can see, and more for a chain
    /// that is unwound.
    pub ancestors: Vec<(u64, B256)>,
}

/// Part of a snapshot: an account's slots may be spread over several chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Accounts with some or all of their slots.
    pub accounts: Vec<AccountRecord>,
    /// Code by hash.
    pub code: Vec<(B256, Bytes)>,
}

/// One message of a snapshot stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotPart {
    /// One of the deltas that lead on from what the shard holds.
    Delta(Arc<Delta>),
    /// The first, where a whole state is sent.
    Header(Box<SnapshotHeader>),
    /// Those in between.
    Chunk(SnapshotChunk),
    /// The last: all has been sent.
    End,
    /// A part of a delta that is too large for one message; further parts follow, and the last of them is
    /// a [`SnapshotPart::Delta`].
    DeltaPart(Arc<Delta>),
}

/// Why a shard does not take a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The command is of an older term than the one the shard knows.
    #[error("the command is of epoch {got}, this shard serves epoch {current}")]
    StaleEpoch {
        /// The command's.
        got: Epoch,
        /// The shard's.
        current: Epoch,
    },
    /// The command is for another life or another shard.
    #[error("the command is for shard {shard} incarnation {incarnation}, which is not this process")]
    WrongShard {
        /// To whom it was addressed.
        shard: ShardId,
        /// In which life.
        incarnation: Incarnation,
    },
    /// The bounded queue is full.
    #[error("the queue is full at {limit} assignments; send less or offer more threads")]
    QueueFull {
        /// The queue's bound.
        limit: usize,
    },
    /// The block's bytes have not arrived, or are not the ones that the work names.
    #[error("block {block} is not here; send its bytes first")]
    UnknownBlock {
        /// Which block.
        block: B256,
    },
    /// The replica is at another state.
    #[error("the replica is at {at:?}, the work needs {wanted}")]
    NotAtBase {
        /// Where it is.
        at: Option<StateRef>,
        /// Where it would have to be.
        wanted: StateRef,
    },
    /// The shard is stopping.
    #[error("the shard is draining")]
    Draining,
    /// The command does not make sense; every shard would refuse it.
    #[error("the command is malformed: {reason}")]
    Malformed {
        /// In what way.
        reason: String,
    },
}
