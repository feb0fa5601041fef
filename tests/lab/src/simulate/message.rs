//! What the model coordinator and the model shards send to each other.

use std::sync::Arc;

use common::endpoint::PeerError;
use common::id::{AssignmentId, Epoch, Incarnation, ShardId, StateRef};
use common::message::{Registered, ResultReceipt, SlotProgress, StateSummary, SubmitResult};
use net::retry::EntryId;

use super::calls::CallId;

/// A message from a shard: a call, or an answer to a command.
#[derive(Debug, Clone)]
pub(super) enum ToCoordinator {
    Register {
        call: CallId,
        slots: u16,
    },
    Heartbeat {
        call: CallId,
        epoch: Option<Epoch>,
        slots: Vec<SlotProgress>,
        queued: u32,
        state: Option<StateSummary>,
    },
    Submit {
        call: CallId,
        result: Arc<SubmitResult>,
    },
    Draining {
        shard: ShardId,
        incarnation: Incarnation,
    },
    Leave {
        shard: ShardId,
        incarnation: Incarnation,
    },
    Executed {
        assignment: AssignmentId,
        answer: Result<(), PeerError>,
    },
    Synced {
        shard: ShardId,
        incarnation: Incarnation,
        answer: Result<StateSummary, String>,
    },
}

/// A command on its way to a shard.
#[derive(Debug, Clone)]
pub(super) enum ToShard {
    Execute(AssignmentId),
    Cancel(AssignmentId),
    Sync { epoch: Epoch, incarnation: Incarnation, target: StateRef },
    Advance { epoch: Epoch, incarnation: Incarnation, from: StateRef, target: StateRef },
    Drain { incarnation: Incarnation },
}

/// The kind of a shard's call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Register,
    Beat,
    Submit(EntryId),
}

/// The coordinator's answer to a call.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Registered(Result<Registered, PeerError>),
    Beat(Result<(), PeerError>),
    Submitted(Result<ResultReceipt, PeerError>),
    /// No process listens there.
    Refused,
}
