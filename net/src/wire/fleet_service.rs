//! The gRPC service through which shards call a coordinator's endpoint.

use std::pin::Pin;
use std::sync::Arc;

use alloy_primitives::B256;
use common::codec;
use common::endpoint::{Admission, CoordinatorEndpoint, PeerError};
use common::id::{AssignmentId, Incarnation, ShardId};
use common::message::{Draining, Leave, ResultReceipt, SnapshotPart, SubmitResult};
use common::token::SessionToken;
use common::work::{WorkFailure, WorkOutput};
use prost::bytes::Bytes;
use proto::v1;
use proto::v1::fleet_server::{Fleet, FleetServer};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{
    assignment_from, explanation, heartbeat_from, register_from, registered_to, snapshot_from,
};
use super::payload::{PayloadError, ReceivedPayload, decode};
use super::pipe::{Answers, answer_each};
use super::status::{to_failure, to_status};
use super::token::{Demand, stated};
use crate::bounded::BoundedExecutor;
use crate::budget::Budget;
use crate::identity::{Role, Roles, account, allowed, origin};
use crate::limits::{
    DECODE_AT_ONCE, DECODE_INLINE_BYTES, MAX_CALL_BYTES, MAX_MESSAGE_BYTES, MAX_RESULT_BYTES,
    RESULTS_IN_FLIGHT,
};

/// The gRPC service over a coordinator's endpoint, for those whom `admission` admits. Its streams of results
/// end when `stop` is cancelled.
pub fn fleet_service(
    endpoint: Arc<dyn CoordinatorEndpoint>,
    admission: Arc<dyn Admission>,
    stop: CancellationToken,
) -> InterceptedService<FleetServer<impl Fleet>, Demand> {
    let decoding = BoundedExecutor::new("result decoding", DECODE_AT_ONCE);
    let budget = Budget::new("results", RESULTS_IN_FLIGHT);
    let service = FleetServer::new(Service { endpoint, admission, decoding, budget, stop })
        .max_decoding_message_size(MAX_CALL_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    InterceptedService::new(service, Demand(Roles::SHARD))
}

#[derive(Debug)]
struct Service {
    endpoint: Arc<dyn CoordinatorEndpoint>,
    admission: Arc<dyn Admission>,
    decoding: BoundedExecutor,
    budget: Budget,
    /// Ends the streams of results.
    stop: CancellationToken,
}

impl Service {
    /// Checks that the caller is the process that has registered as this shard.
    fn check(&self, caller: &Caller, shard: u32, incarnation: u64) -> Result<(), Status> {
        caller.check(self.admission.as_ref(), ShardId(shard), Incarnation(incarnation))
    }
}

/// What a caller has shown of itself.
struct Caller {
    /// Its role by its certificate; `None` without TLS.
    role: Option<Role>,
    token: SessionToken,
}

impl Caller {
    fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let role = allowed(request, Roles::SHARD)?;
        Ok(Self { role, token: stated(request.metadata())? })
    }

    /// Checks that the caller's certificate is this shard's.
    fn check_certificate(&self, shard: ShardId) -> Result<(), Status> {
        match &self.role {
            Some(role) if *role != Role::Shard(shard) => {
                Err(Status::permission_denied(format!("{role} may not speak for shard {shard}")))
            }
            _ => Ok(()),
        }
    }

    fn check(
        &self,
        admission: &dyn Admission,
        shard: ShardId,
        incarnation: Incarnation,
    ) -> Result<(), Status> {
        self.check_certificate(shard)?;
        let known = admission.check_caller(&self.token, shard, incarnation);
        known.map_err(|error| to_status(&error))
    }
}

fn answer<T>(result: Result<T, PeerError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

fn snapshot_message(part: Result<SnapshotPart, PeerError>) -> Result<v1::SnapshotMessage, Status> {
    let part = part.map_err(|error| to_status(&error))?;
    let bytes = codec::encode("snapshot part", &part, MAX_MESSAGE_BYTES - 1024)
        .map_err(|error| Status::internal(error.to_string()))?;
    let digest = codec::payload_digest(&bytes).to_vec().into();
    Ok(v1::SnapshotMessage { part: bytes.into(), digest })
}

/// Takes a result that has arrived as a payload.
async fn submit(
    endpoint: &dyn CoordinatorEndpoint,
    decoding: &BoundedExecutor,
    payload: Result<ReceivedPayload, PayloadError>,
) -> Result<ResultReceipt, Status> {
    let payload = match payload {
        // No sound result will come for this work. Report a failure, so that the work does not wait for
        // one.
        Err(PayloadError::Damaged { assignment: Some(assignment) }) => {
            let digest = B256::ZERO;
            let (bytes, assignment) = (Bytes::new(), Some(assignment));
            ReceivedPayload { bytes, digest, epoch: None, assignment, room: None }
        }
        other => other?,
    };
    let ReceivedPayload { bytes, digest, assignment, room, .. } = payload;
    let assignment = assignment_from(assignment)?;
    let decoded: Result<Result<WorkOutput, WorkFailure>, Status> = if bytes.len() <= DECODE_INLINE_BYTES {
        decode("result", &bytes)
    } else {
        // A call that is given up goes on being decoded, and keeps its room until then.
        let decoded = decoding.run(move || (decode("result", &bytes), room)).await;
        decoded.map_err(|error| to_status(&error))?.0
    };
    let outcome = decoded.unwrap_or(Err(WorkFailure::Damaged)).map_err(|failure| match failure {
        WorkFailure::WorkerPanicked { message, at } => {
            WorkFailure::WorkerPanicked { message: explanation(&message), at }
        }
        WorkFailure::State(reason) => WorkFailure::State(explanation(&reason)),
        other => other,
    });
    let result = Arc::new(SubmitResult { assignment, outcome, digest: Some(digest) });
    endpoint.submit_result(result).await.map_err(|error| to_status(&error))
}

#[tonic::async_trait]
impl Fleet for Service {
    type SubmitResultsStream = Answers<v1::SubmitReply>;
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<v1::SnapshotMessage, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterReply>, Status> {
        let (caller, from) = (Caller::of(&request)?, origin(&request)?);
        let register = register_from(request.into_inner(), caller.token, from)?;
        caller.check_certificate(register.shard)?;
        answer(self.endpoint.register(register).await.map(registered_to))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        self.check(&caller, request.shard, request.incarnation)?;
        let sequence = request.sequence;
        let heartbeat = heartbeat_from(request)?;
        answer(self.endpoint.heartbeat(heartbeat).await.map(|()| v1::HeartbeatReply { sequence }))
    }

    async fn submit_results(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<Self::SubmitResultsStream>, Status> {
        let (endpoint, decoding) = (Arc::clone(&self.endpoint), self.decoding.clone());
        let (caller, admission) = (Caller::of(&request)?, Arc::clone(&self.admission));
        let admit = move |header: &v1::PayloadHeader| {
            let assignment = assignment_from(header.assignment.clone())?;
            let AssignmentId { shard, incarnation, .. } = assignment;
            caller.check(admission.as_ref(), shard, incarnation)?;
            admission.check_assigned(&assignment).map_err(|error| to_status(&error))
        };
        let answer = move |payload| {
            let (endpoint, decoding) = (Arc::clone(&endpoint), decoding.clone());
            async move {
                match submit(endpoint.as_ref(), &decoding, payload).await {
                    Ok(receipt) => v1::SubmitReply { used: receipt == ResultReceipt::Used, failure: None },
                    Err(status) => v1::SubmitReply { used: false, failure: Some(to_failure(&status)) },
                }
            }
        };
        let (stop, paid) = (self.stop.clone(), (self.budget.clone(), account(&request)?));
        let stream = request.into_inner();
        Ok(Response::new(answer_each(stream, MAX_RESULT_BYTES, paid, stop, admit, answer)))
    }

    async fn draining(&self, request: Request<v1::ShardNotice>) -> Result<Response<v1::FleetAck>, Status> {
        let caller = Caller::of(&request)?;
        let notice = request.into_inner();
        self.check(&caller, notice.shard, notice.incarnation)?;
        let notice = Draining { shard: ShardId(notice.shard), incarnation: Incarnation(notice.incarnation) };
        answer(self.endpoint.draining(notice).await.map(|()| v1::FleetAck {}))
    }

    async fn leave(&self, request: Request<v1::ShardNotice>) -> Result<Response<v1::FleetAck>, Status> {
        let caller = Caller::of(&request)?;
        let notice = request.into_inner();
        self.check(&caller, notice.shard, notice.incarnation)?;
        let leave = Leave {
            shard: ShardId(notice.shard),
            incarnation: Incarnation(notice.incarnation),
            reason: explanation(&notice.reason),
        };
        answer(self.endpoint.leave(leave).await.map(|()| v1::FleetAck {}))
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        self.check(&caller, request.shard, request.incarnation)?;
        let request = snapshot_from(request)?;
        let parts = self.endpoint.snapshot(request).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(Box::pin(parts.map(snapshot_message))))
    }
}
