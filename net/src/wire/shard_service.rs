//! The gRPC service through which a coordinator calls a shard's endpoint.

use std::sync::Arc;

use alloy_primitives::B256;
use common::codec;
use common::endpoint::{PeerError, ShardEndpoint};
use common::id::{Incarnation, RoundId, ShardId};
use common::message::{PROTOCOL_VERSION, StateSummary};
use common::sealed::{Payload, Sealed};
use common::work::ExecuteBlock;
use prost::bytes::Bytes;
use proto::v1;
use proto::v1::executor_shard_server::{ExecutorShard, ExecutorShardServer};
use tonic::{Request, Response, Status, Streaming};

use super::convert::{Malformed, assignment_from, epoch_from, summary_from, summary_to};
use super::payload::{self};
use super::status::to_status;
use crate::limits::{MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES};

/// A shard's identity, returned by the `NodeInfo` call.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// The shard's id.
    pub shard: ShardId,
    /// The shard's incarnation.
    pub incarnation: Incarnation,
    /// The number of its worker threads.
    pub slots: u16,
    /// The version of its build.
    pub build: String,
    /// The version of its engine.
    pub engine: String,
}

/// The gRPC service over a shard's endpoint.
pub fn shard_service(
    endpoint: Arc<dyn ShardEndpoint>,
    identity: NodeIdentity,
) -> ExecutorShardServer<impl ExecutorShard> {
    ExecutorShardServer::new(Service { endpoint, identity })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[derive(Debug)]
struct Service {
    endpoint: Arc<dyn ShardEndpoint>,
    identity: NodeIdentity,
}

/// Encodes a shard's refusal as an answer. Any other error becomes a status.
fn refusal(error: PeerError) -> Result<Bytes, Status> {
    match error {
        PeerError::Command(refusal) => codec::encode("refusal", &refusal, MAX_MESSAGE_BYTES)
            .map(Bytes::from)
            .map_err(|error| Status::internal(error.to_string())),
        other => Err(to_status(&other)),
    }
}

fn command_reply(result: Result<(), PeerError>) -> Result<Response<v1::CommandReply>, Status> {
    let refusal = match result {
        Ok(()) => Bytes::new(),
        Err(error) => refusal(error)?,
    };
    Ok(Response::new(v1::CommandReply { refusal }))
}

fn state_reply(result: Result<StateSummary, PeerError>) -> Result<Response<v1::StateReply>, Status> {
    let reply = match result {
        Ok(summary) => v1::StateReply { summary: Some(summary_to(summary)), refusal: Bytes::new() },
        Err(error) => v1::StateReply { summary: None, refusal: refusal(error)? },
    };
    Ok(Response::new(reply))
}

/// A value whose digest was checked when it arrived.
fn unseal<T: Payload>(bytes: Bytes, digest: B256) -> Result<Sealed<T>, Status> {
    Sealed::received(bytes.into(), digest).map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl ExecutorShard for Service {
    /// Sends the received pings straight back: this needs no task and no cleanup.
    type PingStream = Streaming<v1::PingMessage>;

    async fn execute_block(
        &self,
        request: Request<v1::ExecuteBlockRequest>,
    ) -> Result<Response<v1::CommandReply>, Status> {
        let request = request.into_inner();
        let assignment = assignment_from(request.assignment)?;
        if codec::payload_digest(&request.work) != assignment.work.0 {
            return Err(Status::data_loss("the work is damaged: its digest is not the assignment's work id"));
        }
        let spec = unseal(request.work, assignment.work.0)?;
        let command = ExecuteBlock { assignment, round: RoundId(request.round), spec };
        command_reply(self.endpoint.execute(command).await)
    }

    async fn put_block(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<v1::CommandReply>, Status> {
        let payload = payload::receive(&mut request.into_inner(), MAX_PAYLOAD_BYTES).await?;
        let epoch = epoch_from(payload.epoch)?;
        let block = unseal(payload.bytes, payload.digest)?;
        command_reply(self.endpoint.put_block(epoch, block).await)
    }

    async fn put_delta(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<v1::StateReply>, Status> {
        let payload = payload::receive(&mut request.into_inner(), MAX_PAYLOAD_BYTES).await?;
        let epoch = epoch_from(payload.epoch)?;
        let delta = unseal(payload.bytes, payload.digest)?;
        state_reply(self.endpoint.put_delta(epoch, delta).await)
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Result<Response<v1::StateReply>, Status> {
        let request = request.into_inner();
        let epoch = epoch_from(request.epoch)?;
        let target = summary_from(request.target.ok_or(Malformed("target"))?)?;
        state_reply(self.endpoint.sync(epoch, target).await)
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CommandReply>, Status> {
        let assignment = assignment_from(request.into_inner().assignment)?;
        command_reply(self.endpoint.cancel(assignment).await)
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::CommandReply>, Status> {
        let epoch = epoch_from(request.into_inner().epoch)?;
        command_reply(self.endpoint.drain(epoch).await)
    }

    async fn ping(
        &self,
        request: Request<Streaming<v1::PingMessage>>,
    ) -> Result<Response<Self::PingStream>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn node_info(
        &self,
        _: Request<v1::NodeInfoRequest>,
    ) -> Result<Response<v1::NodeInfoReply>, Status> {
        let identity = self.identity.clone();
        Ok(Response::new(v1::NodeInfoReply {
            protocol: PROTOCOL_VERSION,
            build: identity.build,
            engine: identity.engine,
            shard: identity.shard.0,
            incarnation: identity.incarnation.0,
            slots: u32::from(identity.slots),
        }))
    }
}
