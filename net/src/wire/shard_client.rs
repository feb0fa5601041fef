//! The gRPC client through which a coordinator calls a shard.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::account::Delta;
use common::codec::{self, CodecError};
use common::endpoint::{PeerError, ShardEndpoint};
use common::id::{AssignmentId, Epoch, Incarnation};
use common::message::{Refusal, StateSummary};
use common::sealed::Sealed;
use common::token::SessionToken;
use common::work::ExecuteBlock;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use proto::v1;
use proto::v1::executor_shard_client::ExecutorShardClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::convert::{assignment_to, epoch_to, explanation, report_from, summary_from, summary_to};
use super::payload::chunks;
use super::pipe::Pipe;
use super::status::{from_failure, from_status};
use super::token::{Attached, TokenChannel};
use crate::limits::{MAX_MESSAGE_BYTES, PeerLimits};
use crate::monitor::{Kind, NodeReport, Tracker};

/// The factor by which an idle shard's pings are further apart, as far as the lost limit allows.
const IDLE_PINGS: u32 = 3;

/// A shard behind a channel.
#[derive(Debug, Clone)]
pub struct ShardClient {
    client: ExecutorShardClient<TokenChannel>,
    limits: PeerLimits,
    /// The time of the last command that gave the shard work.
    used_at: Arc<Mutex<Option<Instant>>>,
    /// The stream of deltas.
    deltas: Pipe<v1::StateReply>,
    /// How the shard answers.
    tracker: Tracker,
}

impl ShardClient {
    /// Creates a client for the shard at the other end of `channel`, which has registered with `token`.
    #[must_use]
    pub fn new(channel: Channel, limits: PeerLimits, token: SessionToken) -> Self {
        let client = ExecutorShardClient::with_interceptor(channel, Attached(token))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self { client, limits, used_at: Arc::default(), deltas: Pipe::default(), tracker: Tracker::default() }
    }

    /// Counts pings and requests for node information in `tracker`.
    #[must_use]
    pub fn tracked(mut self, tracker: Tracker) -> Self {
        self.tracker = tracker;
        self
    }

    /// Asks the shard who it is, and how its process does.
    ///
    /// # Errors
    /// [`PeerError`] if the shard does not answer.
    pub async fn node_info(&self) -> Result<v1::NodeInfoReply, PeerError> {
        let mut client = self.client.clone();
        within(self.limits.call, client.node_info(v1::NodeInfoRequest {})).await
    }

    /// Asks the shard how its process does, and counts how it answers. `None` if it has another request of this kind to
    /// answer.
    ///
    /// # Errors
    /// [`PeerError`] if the shard does not answer; [`PeerError::Protocol`] if another process does.
    pub async fn monitor(&self, incarnation: Incarnation) -> Option<Result<NodeReport, PeerError>> {
        let request = self.tracker.begin(Kind::Node)?;
        let answer = self.node_info().await.and_then(|info| match info.incarnation == incarnation.0 {
            true => Ok(report_from(info)),
            false => Err(PeerError::Protocol("another process answers".into())),
        });
        request.end_with(&answer, self.limits.call);
        Some(answer)
    }
}

/// Waits for an answer for at most `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, PeerError> {
    match timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(PeerError::Unreachable(format!("no answer within {limit:?}"))),
    }
}

/// A value that is too large to be sent is too large for every shard.
fn too_large(error: CodecError) -> PeerError {
    PeerError::Command(Refusal::Malformed { reason: error.to_string() })
}

pub(super) fn accepted(refusal: &Bytes) -> Result<(), PeerError> {
    if refusal.is_empty() {
        return Ok(());
    }
    match codec::decode::<Refusal>("refusal", refusal, MAX_MESSAGE_BYTES) {
        Ok(Refusal::Malformed { reason }) => {
            Err(PeerError::Command(Refusal::Malformed { reason: explanation(&reason) }))
        }
        Ok(refusal) => Err(PeerError::Command(refusal)),
        Err(error) => Err(PeerError::Protocol(error.to_string())),
    }
}

pub(super) fn state_reached(reply: v1::StateReply) -> Result<StateSummary, PeerError> {
    accepted(&reply.refusal)?;
    let summary = reply.summary.ok_or_else(|| PeerError::Protocol("the reply names no state".into()))?;
    summary_from(summary).map_err(|error| PeerError::Protocol(error.to_string()))
}

#[async_trait]
impl ShardEndpoint for ShardClient {
    async fn execute(&self, command: ExecuteBlock) -> Result<(), PeerError> {
        *self.used_at.lock() = Some(Instant::now());
        let work = command.spec.bytes().map_err(too_large)?;
        let assignment = Some(assignment_to(command.assignment));
        let chunks = chunks(work.0, command.assignment.work.0, None, assignment);
        let mut client = self.client.clone();
        // A call of its own: its answer is complete before anything that the shard's end does to the
        // connection. Whether a shard had accepted what it died at is evidence.
        let call = client.execute_block(tokio_stream::iter(chunks));
        accepted(&within(self.limits.call, call).await?.refusal)
    }

    async fn put_delta(&self, epoch: Epoch, delta: Sealed<Delta>) -> Result<StateSummary, PeerError> {
        let bytes = delta.bytes().map_err(too_large)?;
        let digest = delta.digest().map_err(too_large)?;
        let chunks = chunks(bytes.0, digest, Some(epoch_to(epoch)), None);
        let mut client = self.client.clone();
        let dial = |calls| async move { client.put_delta(calls).await };
        let mut reply = self.deltas.call(self.limits.transfer, chunks, dial).await?;
        reply.failure.take().map_or(Ok(()), |failure| Err(from_failure(failure)))?;
        state_reached(reply)
    }

    async fn sync(&self, epoch: Epoch, target: StateSummary) -> Result<StateSummary, PeerError> {
        let request = v1::SyncRequest { epoch: Some(epoch_to(epoch)), target: Some(summary_to(target)) };
        let mut client = self.client.clone();
        state_reached(within(self.limits.sync, client.sync(request)).await?)
    }

    async fn cancel(&self, assignment: AssignmentId) -> Result<(), PeerError> {
        let request = v1::CancelRequest { assignment: Some(assignment_to(assignment)) };
        let mut client = self.client.clone();
        let reply = within(self.limits.call, client.cancel(request)).await?;
        accepted(&reply.refusal)
    }

    async fn drain(&self, epoch: Epoch) -> Result<(), PeerError> {
        let request = v1::DrainRequest { epoch: Some(epoch_to(epoch)) };
        let mut client = self.client.clone();
        let reply = within(self.limits.call, client.drain(request)).await?;
        accepted(&reply.refusal)
    }

    async fn gone(&self) -> PeerError {
        match self.watch().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }
}

impl ShardClient {
    /// The time between two pings: longer while the shard has had no work for a while.
    fn pause(&self) -> Duration {
        let PeerLimits { beat, lost_after, .. } = self.limits;
        let used = self.used_at.lock();
        let idle = used.is_none_or(|at| at.elapsed() > lost_after);
        if idle { (beat * IDLE_PINGS).min(lost_after / IDLE_PINGS).max(beat) } else { beat }
    }

    /// Sends pings over one stream. The end of the stream shows at once that the connection is lost;
    /// silence shows that the shard is frozen or cut off.
    async fn watch(&self) -> Result<std::convert::Infallible, PeerError> {
        // One ping is in flight at a time, so the queue never holds more.
        let (pings, queue) = mpsc::channel(1);
        let mut client = self.client.clone();
        let first = v1::PingMessage { sequence: 0 };
        pings.send(first).await.map_err(|_| stream_ended())?;
        let call = client.ping(ReceiverStream::new(queue));
        let mut pongs = within(self.limits.lost_after, call).await?;
        let mut sequence = 0u64;
        loop {
            // An earlier connection to this shard may still wait for an answer.
            let request = self.tracker.begin(Kind::Latency);
            let answer = self.pong(&mut pongs, sequence).await;
            if let Some(request) = request {
                request.end_with(&answer, self.limits.lost_after);
            }
            answer?;
            // Watches the stream between two pings too: its end must be noticed at once.
            let pause = Instant::now() + self.pause();
            match tokio::time::timeout_at(pause, pongs.message()).await {
                Err(_) => {}
                Ok(Err(status)) => return Err(from_status(&status)),
                Ok(Ok(_)) => return Err(stream_ended()),
            }
            sequence += 1;
            pings.send(v1::PingMessage { sequence }).await.map_err(|_| stream_ended())?;
        }
    }

    /// Waits for the answer to a ping.
    async fn pong(&self, pongs: &mut Streaming<v1::PingMessage>, sequence: u64) -> Result<(), PeerError> {
        let PeerLimits { beat, lost_after, .. } = self.limits;
        let answer = match timeout(lost_after, pongs.message()).await {
            // If this process itself was suspended, the pong may already be there unread.
            Err(_) => timeout(beat, pongs.message()).await,
            answer => answer,
        };
        match answer {
            Err(_) => Err(PeerError::Unreachable(format!("no pong for {lost_after:?}"))),
            Ok(Err(status)) => Err(from_status(&status)),
            Ok(Ok(None)) => Err(stream_ended()),
            Ok(Ok(Some(pong))) if pong.sequence != sequence => {
                Err(PeerError::Protocol("a pong answers no ping".into()))
            }
            Ok(Ok(Some(_))) => Ok(()),
        }
    }
}

fn stream_ended() -> PeerError {
    PeerError::Unreachable("the ping stream ended".into())
}
