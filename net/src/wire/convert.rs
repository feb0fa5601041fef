//! Conversion of identifiers and small messages between their wire form and their types. A peer may be
//! hostile, so every length is checked.

use std::time::Duration;

use common::alloy_primitives::{B256, U256};
use common::id::{
    AssignmentId, Attempt, Epoch, Gas, Height, Incarnation, ShardId, SlotIndex, StateRef, TxIndex, WorkId,
    WorldId,
};
use common::message::{
    Caller, Heartbeat, MAX_SLOTS, Register, Registered, SlotProgress, SnapshotRequest, StateSummary,
};
use common::token::SessionToken;
use prost::bytes::Bytes;
use proto::v1;
use tonic::Status;

use crate::monitor::{NodeReport, Vitals};

/// A field of a message is missing or has the wrong size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("field {0} is missing or malformed")]
pub struct Malformed(pub &'static str);

impl From<Malformed> for Status {
    fn from(error: Malformed) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

fn hash(field: &'static str, bytes: &[u8]) -> Result<B256, Malformed> {
    B256::try_from(bytes).map_err(|_| Malformed(field))
}

fn bytes_of(hash: B256) -> Bytes {
    Bytes::copy_from_slice(hash.as_slice())
}

pub(super) fn epoch_to(epoch: Epoch) -> v1::Epoch {
    v1::Epoch { number: epoch.number, instance: epoch.instance }
}

pub(super) fn epoch_from(epoch: Option<v1::Epoch>) -> Result<Epoch, Malformed> {
    let epoch = epoch.ok_or(Malformed("epoch"))?;
    Ok(Epoch { number: epoch.number, instance: epoch.instance })
}

/// The wire form of an epoch.
#[must_use]
pub fn epoch_message(epoch: Epoch) -> v1::Epoch {
    epoch_to(epoch)
}

/// The wire form of a state with its digest.
#[must_use]
pub fn summary_message(summary: StateSummary) -> v1::StateSummary {
    summary_to(summary)
}

pub(super) fn state_to(state: StateRef) -> v1::StateRef {
    v1::StateRef {
        world: bytes_of(state.world.0),
        height: state.height.0,
        block_hash: bytes_of(state.block_hash),
    }
}

pub(super) fn state_from(state: Option<v1::StateRef>) -> Result<StateRef, Malformed> {
    let state = state.ok_or(Malformed("state"))?;
    Ok(StateRef {
        world: WorldId(hash("world", &state.world)?),
        height: Height(state.height),
        block_hash: hash("block_hash", &state.block_hash)?,
    })
}

pub(super) fn summary_to(summary: StateSummary) -> v1::StateSummary {
    let digest = Bytes::copy_from_slice(&summary.digest.to_be_bytes::<32>());
    v1::StateSummary { state: Some(state_to(summary.state)), digest }
}

pub(super) fn summary_from(summary: v1::StateSummary) -> Result<StateSummary, Malformed> {
    let digest = U256::from_be_bytes(hash("digest", &summary.digest)?.0);
    Ok(StateSummary { state: state_from(summary.state)?, digest })
}

pub(super) fn assignment_to(assignment: AssignmentId) -> v1::Assignment {
    v1::Assignment {
        work: bytes_of(assignment.work.0),
        shard: assignment.shard.0,
        incarnation: assignment.incarnation.0,
        attempt: assignment.attempt.0,
        epoch: Some(epoch_to(assignment.epoch)),
    }
}

pub(super) fn assignment_from(assignment: Option<v1::Assignment>) -> Result<AssignmentId, Malformed> {
    let assignment = assignment.ok_or(Malformed("assignment"))?;
    Ok(AssignmentId {
        work: WorkId(hash("work", &assignment.work)?),
        shard: ShardId(assignment.shard),
        incarnation: Incarnation(assignment.incarnation),
        attempt: Attempt(assignment.attempt),
        epoch: epoch_from(assignment.epoch)?,
    })
}

pub(super) fn register_to(register: Register) -> v1::RegisterRequest {
    v1::RegisterRequest {
        protocol: register.protocol,
        build: register.build,
        engine: register.engine,
        shard: register.shard.0,
        incarnation: register.incarnation.0,
        slots: u32::from(register.slots),
        advertise: register.advertise,
        state: register.state.map(summary_to),
        chain_id: register.chain_id,
    }
}

/// What a shard tells of itself. Texts are cut, and on one line.
pub(super) fn report_from(info: v1::NodeInfoReply) -> NodeReport {
    let vitals = Vitals {
        uptime: Duration::from_millis(info.uptime_ms),
        memory: info.memory_bytes,
        threads: info.threads,
        load: info.load.filter(|load| load.is_finite()),
        disk_free: info.disk_free_bytes,
    };
    NodeReport { build: explanation(&info.build), engine: explanation(&info.engine), vitals }
}

/// The longest explanation, in characters, that a peer may give.
const MAX_REASON: usize = 1024;

/// An explanation from a peer, for the log: at most 1,024 characters on one line.
pub(super) fn explanation(text: &str) -> String {
    text.chars().take(MAX_REASON).map(|each| if each.is_control() { ' ' } else { each }).collect()
}

/// The longest name or other text that a peer may send about itself, in bytes, without control characters.
const MAX_TEXT: usize = 512;

pub(super) fn register_from(
    request: v1::RegisterRequest,
    token: SessionToken,
    from: Caller,
) -> Result<Register, Malformed> {
    let text = |field, text: String| match text.len() <= MAX_TEXT && !text.chars().any(char::is_control) {
        true => Ok(text),
        // Such text could forge lines of a log.
        false => Err(Malformed(field)),
    };
    Ok(Register {
        protocol: request.protocol,
        build: text("build", request.build)?,
        engine: text("engine", request.engine)?,
        shard: ShardId(request.shard),
        incarnation: Incarnation(request.incarnation),
        slots: u16::try_from(request.slots).map_err(|_| Malformed("slots"))?,
        // Shards within one process have no address, and never come this way.
        advertise: text("advertise", request.advertise)
            .and_then(|address| if address.is_empty() { Err(Malformed("advertise")) } else { Ok(address) })?,
        from: Some(from),
        state: request.state.map(summary_from).transpose()?,
        chain_id: request.chain_id,
        token,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn registered_to(registered: Registered) -> v1::RegisterReply {
    v1::RegisterReply {
        epoch: Some(epoch_to(registered.epoch)),
        heartbeat_ms: millis(registered.heartbeat_every),
        lost_after_ms: millis(registered.lost_after),
    }
}

pub(super) fn registered_from(reply: v1::RegisterReply) -> Result<Registered, Malformed> {
    Ok(Registered {
        epoch: epoch_from(reply.epoch)?,
        heartbeat_every: Duration::from_millis(reply.heartbeat_ms.clamp(1, 60_000)),
        lost_after: Duration::from_millis(reply.lost_after_ms.clamp(3, 600_000)),
    })
}

pub(super) fn heartbeat_to(heartbeat: Heartbeat) -> v1::HeartbeatRequest {
    v1::HeartbeatRequest {
        shard: heartbeat.shard.0,
        incarnation: heartbeat.incarnation.0,
        epoch: Some(epoch_to(heartbeat.epoch)),
        state: heartbeat.state.map(summary_to),
        slots: heartbeat.slots.into_iter().map(progress_to).collect(),
        queued: heartbeat.queued,
        outbox: heartbeat.outbox,
        // The client counts.
        sequence: 0,
    }
}

pub(super) fn heartbeat_from(request: v1::HeartbeatRequest) -> Result<Heartbeat, Malformed> {
    if request.slots.len() > usize::from(MAX_SLOTS) {
        return Err(Malformed("slots"));
    }
    Ok(Heartbeat {
        shard: ShardId(request.shard),
        incarnation: Incarnation(request.incarnation),
        epoch: epoch_from(request.epoch)?,
        state: request.state.map(summary_from).transpose()?,
        slots: request.slots.into_iter().map(progress_from).collect::<Result<_, _>>()?,
        queued: request.queued,
        outbox: request.outbox,
    })
}

fn progress_to(progress: SlotProgress) -> v1::SlotProgress {
    v1::SlotProgress {
        slot: u32::from(progress.slot.0),
        transactions: progress.transactions,
        current: progress.current.map(|(assignment, _)| assignment_to(assignment)),
        transaction: progress.current.map_or(0, |(_, index)| index.0),
        gas: progress.gas.0,
    }
}

fn progress_from(progress: v1::SlotProgress) -> Result<SlotProgress, Malformed> {
    let current = match progress.current {
        Some(assignment) => Some((assignment_from(Some(assignment))?, TxIndex(progress.transaction))),
        None => None,
    };
    Ok(SlotProgress {
        slot: SlotIndex(u16::try_from(progress.slot).map_err(|_| Malformed("slot"))?),
        transactions: progress.transactions,
        current,
        gas: Gas(progress.gas),
    })
}

pub(super) fn snapshot_to(request: SnapshotRequest) -> v1::SnapshotRequest {
    v1::SnapshotRequest {
        shard: request.shard.0,
        incarnation: request.incarnation.0,
        state: Some(state_to(request.state)),
        held: request.held.map(summary_to),
    }
}

pub(super) fn snapshot_from(request: v1::SnapshotRequest) -> Result<SnapshotRequest, Malformed> {
    Ok(SnapshotRequest {
        shard: ShardId(request.shard),
        incarnation: Incarnation(request.incarnation),
        state: state_from(request.state)?,
        held: request.held.map(summary_from).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn assignment()(work: [u8; 32], shard: u32, incarnation: u64, attempt: u32, number: u64, instance: u64)
            -> AssignmentId
        {
            AssignmentId {
                work: WorkId(B256::new(work)),
                shard: ShardId(shard),
                incarnation: Incarnation(incarnation),
                attempt: Attempt(attempt),
                epoch: Epoch { number, instance },
            }
        }
    }

    proptest! {
        // Law: a value converted to its wire form and back is unchanged.
        #[test]
        fn heartbeats_survive_the_wire(assignment in assignment(), index: u32, height: u64, digest: [u8; 32]) {
            let state = StateRef { world: WorldId(B256::new(digest)), height: Height(height), block_hash: B256::new(digest) };
            let heartbeat = Heartbeat {
                shard: assignment.shard,
                incarnation: assignment.incarnation,
                epoch: assignment.epoch,
                state: Some(StateSummary { state, digest: U256::from_be_bytes(digest) }),
                slots: vec![
                    SlotProgress {
                        slot: SlotIndex(0),
                        transactions: height,
                        current: Some((assignment, TxIndex(index))),
                        gas: Gas(assignment.incarnation.0),
                    },
                    SlotProgress { slot: SlotIndex(1), transactions: 0, current: None, gas: Gas(0) },
                ],
                queued: index,
                outbox: 1,
            };
            prop_assert_eq!(heartbeat_from(heartbeat_to(heartbeat.clone())).unwrap(), heartbeat);
        }
    }

    #[test]
    fn a_hash_of_the_wrong_length_is_named() {
        let request =
            v1::StateRef { world: Bytes::from_static(&[1; 31]), height: 1, block_hash: Bytes::new() };
        assert_eq!(state_from(Some(request)), Err(Malformed("world")));
    }

    #[test]
    fn a_peer_with_an_endless_name_is_refused() {
        let caller = Caller { address: std::net::Ipv4Addr::LOCALHOST.into(), same_machine: true };
        let request = v1::RegisterRequest { build: "x".repeat(MAX_TEXT + 1), ..Default::default() };
        assert_eq!(register_from(request, SessionToken::fresh(), caller), Err(Malformed("build")));
        // Without an address it would be taken for a shard within the coordinator's process.
        let request = v1::RegisterRequest::default();
        assert_eq!(register_from(request, SessionToken::fresh(), caller), Err(Malformed("advertise")));
        let request = v1::RegisterRequest { build: "x\n2026 ERROR all is lost".into(), ..Default::default() };
        assert_eq!(register_from(request, SessionToken::fresh(), caller), Err(Malformed("build")));
    }
}
