//! What arrives at the driver's thread: from links, from the endpoint that shards call, and from whoever
//! owns the fleet.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use common::account::Delta;
use common::endpoint::PeerError;
use common::id::{Incarnation, RoundId, ShardId, WorkId};
use common::message::{Register, Registered, ResultReceipt, SlotProgress, StateSummary, SubmitResult};
use common::sealed::Sealed;
use crossbeam_channel::Sender;
use schedule::{Event, LossCause, StrikeRecord};
use tokio::sync::oneshot;

use super::ShardView;
use super::link::LinkId;
use super::round::{Abandoned, RoundEvent, RoundRequest};

/// A message to the driver's thread.
#[derive(Debug)]
pub(super) enum Message {
    /// Something happened at this time.
    Event(Duration, Event),
    /// A shard asks to join.
    Register(Register, oneshot::Sender<Result<Registered, PeerError>>),
    /// A result arrived.
    Result(Arc<SubmitResult>, oneshot::Sender<Result<ResultReceipt, PeerError>>),
    /// A shard's heartbeat tells this of its state.
    Heartbeat {
        shard: ShardId,
        incarnation: Incarnation,
        at: Duration,
        state: Option<StateSummary>,
        slots: Vec<SlotProgress>,
        queued: u32,
    },
    /// A link has ended: its shard is gone.
    LinkEnded { link: LinkId, cause: LossCause, reason: String },
    /// A sync or a delta was answered.
    Reached { link: LinkId, answer: Result<StateSummary, String> },
    /// A round is to be done.
    Open(RoundRequest, Sender<RoundEvent>),
    /// A round is no longer wanted; what is held against it.
    Abandon(RoundId, Sender<Abandoned>),
    /// Shards are to hold this state.
    Target(StateSummary),
    /// Shards are to move by one block.
    Advance(Sealed<Delta>),
    /// Trusted execution has shown that a shard was wrong about this block.
    Blame { shard: ShardId, block: u64, reason: String },
    /// Trusted code has done this work.
    Checked { work: WorkId, digest: B256 },
    /// What an earlier coordinator held against shards.
    Strikes(Vec<(ShardId, StrikeRecord)>),
    /// Rounds without shards fail at once from now on.
    WaitNoLonger,
    /// How the shards are.
    Shards(Sender<Vec<ShardView>>),
    /// Tell when so many shards hold the current state.
    WhenReady { wanted: usize, until: Duration, reply: Sender<()> },
}
