//! The gRPC service through which a coordinator calls a shard's endpoint.

use std::path::PathBuf;
use std::sync::Arc;

use alloy_primitives::B256;
use common::codec;
use common::endpoint::{PeerError, ShardEndpoint};
use common::id::{Incarnation, ShardId};
use common::message::{PROTOCOL_VERSION, StateSummary};
use common::sealed::{Payload, Sealed};
use common::token::SessionToken;
use common::work::ExecuteBlock;
use prost::bytes::Bytes;
use proto::v1;
use proto::v1::executor_shard_server::{ExecutorShard, ExecutorShardServer};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{Malformed, assignment_from, epoch_from, summary_from, summary_to};
use super::payload::{PayloadError, ReceivedPayload, receive};
use super::pipe::{Answers, answer_each};
use super::status::{to_failure, to_status};
use super::token::Demanded;
use crate::bounded::BoundedExecutor;
use crate::budget::{Budget, Reservation};
use crate::identity::account;
use crate::limits::{
    COMMANDS_IN_FLIGHT, DECODE_AT_ONCE, DECODE_INLINE_BYTES, MAX_CALL_BYTES, MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
};
use crate::monitor::Vitals;

/// A shard's identity, returned by the `NodeInfo` call.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// The shard's id, given by its operator.
    pub shard: ShardId,
    /// The incarnation of this process. A coordinator compares it with the one that registered.
    pub incarnation: Incarnation,
    /// The number of its worker threads.
    pub slots: u16,
    /// The version of its build.
    pub build: String,
    /// The version of its engine.
    pub engine: String,
    /// Where it keeps its replica; `None` if that is in memory.
    pub folder: Option<PathBuf>,
}

/// The gRPC service over a shard's endpoint, for callers that know `token`. Its streams of deltas end when `stop`
/// is cancelled.
pub fn shard_service(
    endpoint: Arc<dyn ShardEndpoint>,
    identity: NodeIdentity,
    token: SessionToken,
    stop: CancellationToken,
) -> InterceptedService<ExecutorShardServer<impl ExecutorShard>, Demanded> {
    let vitals = BoundedExecutor::new("node information", 1);
    let (decoding, budget) = (
        BoundedExecutor::new("command decoding", DECODE_AT_ONCE),
        Budget::new("commands", COMMANDS_IN_FLIGHT),
    );
    let service = ExecutorShardServer::new(Service { endpoint, identity, decoding, vitals, budget, stop })
        .max_decoding_message_size(MAX_CALL_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    InterceptedService::new(service, Demanded(token))
}

#[derive(Debug)]
struct Service {
    endpoint: Arc<dyn ShardEndpoint>,
    identity: NodeIdentity,
    decoding: BoundedExecutor,
    /// Asks the system how this process does; a file system may not answer, and that must hold up nothing else.
    vitals: BoundedExecutor,
    budget: Budget,
    /// Ends the streams of deltas.
    stop: CancellationToken,
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

fn command_reply(result: Result<(), PeerError>) -> Result<v1::CommandReply, Status> {
    let refusal = match result {
        Ok(()) => Bytes::new(),
        Err(error) => refusal(error)?,
    };
    Ok(v1::CommandReply { refusal })
}

fn state_reply(result: Result<StateSummary, PeerError>) -> Result<v1::StateReply, Status> {
    let summary = None;
    match result {
        Ok(held) => {
            Ok(v1::StateReply { summary: Some(summary_to(held)), refusal: Bytes::new(), failure: None })
        }
        Err(error) => Ok(v1::StateReply { summary, refusal: refusal(error)?, failure: None }),
    }
}

/// Moves the replica by a delta that has arrived as a payload.
async fn put_delta(
    endpoint: Arc<dyn ShardEndpoint>,
    decoding: BoundedExecutor,
    payload: Result<ReceivedPayload, PayloadError>,
) -> v1::StateReply {
    let moved = async {
        let ReceivedPayload { bytes, digest, epoch, room, .. } = payload?;
        let delta = unseal(&decoding, bytes, digest, room).await?;
        state_reply(endpoint.put_delta(epoch_from(epoch)?, delta).await)
    };
    let failed = |status| v1::StateReply { failure: Some(to_failure(&status)), ..v1::StateReply::default() };
    moved.await.unwrap_or_else(failed)
}

/// A value whose digest was checked when it arrived. A large one is decoded on a blocking thread, so that
/// heartbeats go on meanwhile.
async fn unseal<T: Payload + Send + Sync + 'static>(
    decoding: &BoundedExecutor,
    bytes: Bytes,
    digest: B256,
    room: Option<Reservation>,
) -> Result<Sealed<T>, Status> {
    let received = if bytes.len() <= DECODE_INLINE_BYTES {
        Sealed::received(bytes.into(), digest)
    } else {
        // A call that is given up goes on being decoded, and keeps its room until then.
        let decoded = decoding.run(move || (Sealed::received(bytes.into(), digest), room)).await;
        decoded.map_err(|error| to_status(&error))?.0
    };
    received.map_err(|error| Status::invalid_argument(error.to_string()))
}

#[tonic::async_trait]
impl ExecutorShard for Service {
    /// Sends the received pings straight back: this needs no task and no cleanup.
    type PingStream = Streaming<v1::PingMessage>;

    type PutDeltaStream = Answers<v1::StateReply>;

    async fn execute_block(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<v1::CommandReply>, Status> {
        let room = self.budget.open(account(&request)?);
        let payload = receive(&mut request.into_inner(), MAX_PAYLOAD_BYTES, room).await?;
        let ReceivedPayload { bytes, digest, assignment, room, .. } = payload;
        let assignment = assignment_from(assignment)?;
        if digest != assignment.work.0 {
            return Err(Status::data_loss("the work is damaged: its digest is not the assignment's work id"));
        }
        let command = ExecuteBlock { assignment, spec: unseal(&self.decoding, bytes, digest, room).await? };
        command_reply(self.endpoint.execute(command).await).map(Response::new)
    }

    async fn put_delta(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<Self::PutDeltaStream>, Status> {
        let (endpoint, decoding) = (Arc::clone(&self.endpoint), self.decoding.clone());
        let answer = move |payload| put_delta(Arc::clone(&endpoint), decoding.clone(), payload);
        let paid = (self.budget.clone(), account(&request)?);
        let (stream, stop) = (request.into_inner(), self.stop.clone());
        Ok(Response::new(answer_each(stream, MAX_PAYLOAD_BYTES, paid, stop, |_| Ok(()), answer)))
    }

    async fn sync(&self, request: Request<v1::SyncRequest>) -> Result<Response<v1::StateReply>, Status> {
        let request = request.into_inner();
        let epoch = epoch_from(request.epoch)?;
        let target = summary_from(request.target.ok_or(Malformed("target"))?)?;
        state_reply(self.endpoint.sync(epoch, target).await).map(Response::new)
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CommandReply>, Status> {
        let assignment = assignment_from(request.into_inner().assignment)?;
        command_reply(self.endpoint.cancel(assignment).await).map(Response::new)
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::CommandReply>, Status> {
        let epoch = epoch_from(request.into_inner().epoch)?;
        command_reply(self.endpoint.drain(epoch).await).map(Response::new)
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
        // A file system may not answer.
        let folder = identity.folder;
        let vitals = self.vitals.run(move || Vitals::now(folder.as_deref())).await;
        let vitals = vitals.map_err(|error| to_status(&error))?;
        Ok(Response::new(v1::NodeInfoReply {
            protocol: PROTOCOL_VERSION,
            build: identity.build,
            engine: identity.engine,
            shard: identity.shard.0,
            incarnation: identity.incarnation.0,
            slots: u32::from(identity.slots),
            uptime_ms: u64::try_from(vitals.uptime.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: vitals.memory,
            threads: vitals.threads,
            load: vitals.load,
            disk_free_bytes: vitals.disk_free,
        }))
    }
}
