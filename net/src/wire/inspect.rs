//! What this side makes of the bytes of a message, without a connection: for tests with hostile bytes. Nothing is
//! done with what was read.

use std::net::Ipv4Addr;
use std::time::Duration;

use common::alloy_primitives::{B256, U256};
use common::codec;
use common::id::{
    AssignmentId, Attempt, Epoch, Gas, Height, Incarnation, ShardId, SlotIndex, StateRef, TxIndex, WorkId,
    WorldId,
};
use common::message::{
    Caller, Heartbeat, Refusal, Register, Registered, SlotProgress, SnapshotRequest, StateSummary,
};
use common::token::SessionToken;
use prost::Message as _;
use prost::bytes::Bytes;
use proto::v1;
use tonic::Status;

use super::convert::{
    Malformed, assignment_from, assignment_to, epoch_from, epoch_to, explanation, heartbeat_from,
    heartbeat_to, register_from, register_to, registered_from, registered_to, snapshot_from, snapshot_to,
    summary_from, summary_to,
};
use super::shard_client::{accepted, state_reached};
use super::status::{from_failure, to_status};

/// A message that carries more than one number or text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A shard asks to join.
    Register,
    /// The coordinator's answer.
    Registered,
    /// A shard's heartbeat.
    Heartbeat,
    /// A shard drains or leaves.
    Notice,
    /// A shard asks for a snapshot.
    Snapshot,
    /// A chunk of a payload, with the header of its first one.
    Payload,
    /// A command to take over a state.
    Sync,
    /// A command to give up an assignment.
    Cancel,
    /// A shard's answer to a command.
    Command,
    /// A shard's answer with the state that it has reached.
    State,
}

impl Message {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Register,
        Self::Registered,
        Self::Heartbeat,
        Self::Notice,
        Self::Snapshot,
        Self::Payload,
        Self::Sync,
        Self::Cancel,
        Self::Command,
        Self::State,
    ];

    /// Reads the message as its receiver does.
    ///
    /// # Errors
    /// The status with which the receiver refuses it.
    pub fn read(self, bytes: &[u8]) -> Result<(), Status> {
        match self {
            Self::Register => {
                let caller = Caller { address: Ipv4Addr::LOCALHOST.into(), same_machine: true };
                register_from(decoded(bytes)?, token(), caller).map(drop)?;
            }
            Self::Registered => registered_from(decoded(bytes)?).map(drop)?,
            Self::Heartbeat => heartbeat_from(decoded(bytes)?).map(drop)?,
            Self::Notice => drop(explanation(&decoded::<v1::ShardNotice>(bytes)?.reason)),
            Self::Snapshot => snapshot_from(decoded(bytes)?).map(drop)?,
            Self::Payload => {
                let chunk: v1::PayloadChunk = decoded(bytes)?;
                let header = chunk.header.ok_or(Malformed("header"))?;
                assignment_from(header.assignment).and_then(|_| epoch_from(header.epoch)).map(drop)?;
            }
            Self::Sync => {
                let request: v1::SyncRequest = decoded(bytes)?;
                epoch_from(request.epoch)?;
                summary_from(request.target.ok_or(Malformed("target"))?).map(drop)?;
            }
            Self::Cancel => {
                assignment_from(decoded::<v1::CancelRequest>(bytes)?.assignment).map(drop)?;
            }
            Self::Command => {
                let reply: v1::CommandReply = decoded(bytes)?;
                accepted(&reply.refusal).map_err(|error| to_status(&error))?;
            }
            Self::State => {
                let mut reply: v1::StateReply = decoded(bytes)?;
                if let Some(failure) = reply.failure.take() {
                    return Err(to_status(&from_failure(failure)));
                }
                state_reached(reply).map(drop).map_err(|error| to_status(&error))?;
            }
        }
        Ok(())
    }

    /// The bytes of a valid message.
    #[must_use]
    pub fn example(self) -> Vec<u8> {
        let (shard, incarnation, epoch) = (ShardId(3), Incarnation(9), Epoch { number: 4, instance: 7 });
        let work = WorkId(B256::repeat_byte(5));
        let assignment = AssignmentId { work, shard, incarnation, attempt: Attempt(2), epoch };
        let summary = summary();
        let state = summary.state;
        match self {
            Self::Register => register_to(Register {
                protocol: 9,
                build: "shardexec 0.1.0".into(),
                engine: "revm".into(),
                shard,
                incarnation,
                slots: 2,
                advertise: "http://127.0.0.1:7801".into(),
                from: None,
                state: Some(summary),
                chain_id: Some(1),
                token: token(),
            })
            .encode_to_vec(),
            Self::Registered => registered_to(Registered {
                epoch,
                heartbeat_every: Duration::from_millis(100),
                lost_after: Duration::from_secs(1),
            })
            .encode_to_vec(),
            Self::Heartbeat => {
                let slot = |slot, current| SlotProgress {
                    slot: SlotIndex(slot),
                    transactions: 8,
                    current,
                    gas: Gas(21_000),
                };
                let slots = vec![slot(0, None), slot(1, Some((assignment, TxIndex(6))))];
                let state = Some(summary);
                heartbeat_to(Heartbeat { shard, incarnation, epoch, state, slots, queued: 1, outbox: 2 })
                    .encode_to_vec()
            }
            Self::Notice => {
                let (shard, incarnation) = (shard.0, incarnation.0);
                v1::ShardNotice { shard, incarnation, reason: "asked to stop".into() }.encode_to_vec()
            }
            Self::Snapshot => {
                let held = Some(summary);
                snapshot_to(SnapshotRequest { shard, incarnation, state, held }).encode_to_vec()
            }
            Self::Payload => {
                let header = v1::PayloadHeader {
                    size: 4,
                    digest: Bytes::copy_from_slice(&[3; 32]),
                    epoch: Some(epoch_to(epoch)),
                    assignment: Some(assignment_to(assignment)),
                };
                v1::PayloadChunk { header: Some(header), data: Bytes::from_static(&[1, 2, 3, 4]) }
                    .encode_to_vec()
            }
            Self::Sync => {
                let (epoch, target) = (Some(epoch_to(epoch)), Some(summary_to(summary)));
                v1::SyncRequest { epoch, target }.encode_to_vec()
            }
            Self::Cancel => v1::CancelRequest { assignment: Some(assignment_to(assignment)) }.encode_to_vec(),
            Self::Command => v1::CommandReply { refusal: refusal() }.encode_to_vec(),
            Self::State => {
                let (refusal, failure) = (Bytes::new(), None);
                v1::StateReply { summary: Some(summary_to(summary)), refusal, failure }.encode_to_vec()
            }
        }
    }
}

fn summary() -> StateSummary {
    let (world, block_hash) = (WorldId(B256::repeat_byte(1)), B256::repeat_byte(2));
    StateSummary { state: StateRef { world, height: Height(77), block_hash }, digest: U256::from(12) }
}

fn token() -> SessionToken {
    SessionToken::fresh()
}

fn decoded<T: prost::Message + Default>(bytes: &[u8]) -> Result<T, Status> {
    T::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

fn refusal() -> Bytes {
    let refusal = Refusal::Malformed { reason: "an index is too large".into() };
    codec::encode("refusal", &refusal, 1024).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_what_their_receivers_take() {
        for message in Message::ALL {
            let read = message.read(&message.example());
            // A refusal that is well-formed is an answer, too.
            assert!(read.is_ok() || message == Message::Command, "{message:?}: {read:?}");
        }
    }
}
