//! The gRPC client through which a shard calls its coordinator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use common::codec;
use common::endpoint::{CoordinatorEndpoint, PeerError, SnapshotStream};
use common::message::{
    Draining, Heartbeat, Leave, Register, Registered, ResultReceipt, SnapshotRequest, SubmitResult,
};
use common::token::SessionToken;
use proto::v1;
use proto::v1::fleet_client::FleetClient as Client;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::convert::{assignment_to, heartbeat_to, register_to, registered_from, snapshot_to};
use super::payload::chunks;
use super::pipe::Pipe;
use super::shard_client::within;
use super::status::{from_failure, from_status};
use super::token::{Attached, TokenChannel};
use crate::limits::{MAX_MESSAGE_BYTES, MAX_RESULT_BYTES, PeerLimits};

/// A coordinator behind a channel.
#[derive(Clone)]
pub struct FleetClient {
    client: Client<TokenChannel>,
    limits: PeerLimits,
    /// The number of the last heartbeat.
    heartbeats: Arc<AtomicU64>,
    /// The stream of results.
    results: Pipe<v1::SubmitReply>,
}

impl std::fmt::Debug for FleetClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetClient").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl FleetClient {
    /// Creates a client for the coordinator at the other end of `channel`. All calls carry `token`, with which
    /// the shard registers.
    #[must_use]
    pub fn new(channel: Channel, limits: PeerLimits, token: SessionToken) -> Self {
        let client = Client::with_interceptor(channel, Attached(token))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, limits, heartbeats: Arc::default(), results: Pipe::default() }
    }
}

#[async_trait]
impl CoordinatorEndpoint for FleetClient {
    async fn register(&self, request: Register) -> Result<Registered, PeerError> {
        let mut client = self.client.clone();
        let reply = within(self.limits.call, client.register(register_to(request))).await?;
        registered_from(reply).map_err(|error| PeerError::Protocol(error.to_string()))
    }

    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), PeerError> {
        let mut client = self.client.clone();
        let sequence = self.heartbeats.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let request = v1::HeartbeatRequest { sequence, ..heartbeat_to(heartbeat) };
        let reply = within(self.limits.lost_after, client.heartbeat(request)).await?;
        if reply.sequence != sequence {
            return Err(PeerError::Protocol("the coordinator answers another heartbeat".into()));
        }
        Ok(())
    }

    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
        let bytes = codec::encode("result", &result.outcome, MAX_RESULT_BYTES)
            .map_err(|error| PeerError::Refused(error.to_string()))?;
        let digest = result.digest.unwrap_or_else(|| codec::payload_digest(&bytes));
        let chunks = chunks(bytes, digest, None, Some(assignment_to(result.assignment)));
        let mut client = self.client.clone();
        let dial = |calls| async move { client.submit_results(calls).await };
        let reply = self.results.call(self.limits.transfer, chunks, dial).await?;
        match reply.failure {
            Some(failure) => Err(from_failure(failure)),
            None if reply.used => Ok(ResultReceipt::Used),
            None => Ok(ResultReceipt::Ignored),
        }
    }

    async fn draining(&self, notice: Draining) -> Result<(), PeerError> {
        let mut client = self.client.clone();
        let notice = v1::ShardNotice {
            shard: notice.shard.0,
            incarnation: notice.incarnation.0,
            reason: String::new(),
        };
        within(self.limits.call, client.draining(notice)).await.map(|_| ())
    }

    async fn leave(&self, leave: Leave) -> Result<(), PeerError> {
        let mut client = self.client.clone();
        let notice =
            v1::ShardNotice { shard: leave.shard.0, incarnation: leave.incarnation.0, reason: leave.reason };
        within(self.limits.call, client.leave(notice)).await.map(|_| ())
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        let mut client = self.client.clone();
        let stream = within(self.limits.call, client.snapshot(snapshot_to(request))).await?;
        Ok(Box::pin(stream.map(|message| {
            let message = message.map_err(|status| from_status(&status))?;
            let digest = <[u8; 32]>::try_from(message.digest.as_ref())
                .map_err(|_| PeerError::Protocol("a snapshot part has no digest".into()))?;
            codec::decode_checked("snapshot part", &message.part, digest.into(), MAX_MESSAGE_BYTES)
                .map_err(|error| PeerError::Protocol(error.to_string()))
        })))
    }
}
