//! The messages to the driver's thread: from links, from the endpoint that shards call, and from the fleet's
//! owner.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use common::account::Delta;
use common::endpoint::PeerError;
use common::id::{Incarnation, RoundId, ShardId, WorkId};
use common::message::{Register, Registered, ResultReceipt, SlotProgress, StateSummary, SubmitResult};
use common::sealed::Sealed;
use common::strikes::FleetRecord;
use crossbeam_channel::Sender;
use schedule::{Event, LossCause};
use tokio::sync::oneshot;

use super::ShardView;
use super::round::{Abandoned, RoundEvents, RoundRequest};

/// Names one link. A shard may register again with the same incarnation, and then gets another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkId {
    pub(super) shard: ShardId,
    pub(super) incarnation: Incarnation,
    pub(super) number: u64,
}

/// A shard's heartbeat.
#[derive(Debug)]
pub(super) struct Beat {
    pub(super) incarnation: Incarnation,
    /// When it arrived.
    pub(super) at: Duration,
    /// The state that the shard holds.
    pub(super) state: Option<StateSummary>,
    pub(super) slots: Vec<SlotProgress>,
    pub(super) queued: u32,
}

/// A message to the driver's thread.
#[derive(Debug)]
pub(super) enum Message {
    /// A scheduler event, with the time at which it happened.
    Event(Duration, Event),
    /// A shard asks to join.
    Register(Register, oneshot::Sender<Result<Registered, PeerError>>),
    /// A shard delivered a result, and waits for the receipt.
    Result(Arc<SubmitResult>, oneshot::Sender<Result<ResultReceipt, PeerError>>),
    /// A heartbeat of this shard has arrived.
    Heartbeat(ShardId),
    /// A link has ended: its shard is gone.
    LinkEnded { link: LinkId, cause: LossCause, reason: String },
    /// A shard answered a sync or a delta, or the call failed.
    Reached { link: LinkId, answer: Result<StateSummary, String> },
    /// Shards must do a round.
    Open(RoundRequest, RoundEvents),
    /// The caller no longer wants a round; the reply is the evidence against it.
    Abandon(RoundId, Sender<Abandoned>),
    /// Shards must hold this state.
    Target(StateSummary),
    /// Shards must move by one block.
    Advance(Sealed<Delta>),
    /// Trusted execution has shown that a shard returned a wrong result for this block.
    Blame { shard: ShardId, block: u64, reason: String },
    /// Trusted code has done this work.
    Checked { work: WorkId, digest: B256 },
    /// What an earlier coordinator knew of shards.
    Restore(FleetRecord),
    /// Rounds without shards must fail at once from now on.
    WaitNoLonger,
    /// A shard must finish what it holds and leave; the reply says whether there is such a shard.
    Drain(ShardId, Sender<bool>),
    /// The caller wants the state of all shards.
    Shards(Sender<Vec<ShardView>>),
    /// The caller wants a reply once `wanted` shards hold the current state, until `until`.
    WhenReady { wanted: usize, until: Duration, reply: Sender<()> },
}
