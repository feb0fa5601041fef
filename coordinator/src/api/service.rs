//! The gRPC face of the chain.

use std::pin::Pin;

use common::block::{Block, MAX_BLOCK_BYTES};
use net::limits::MAX_MESSAGE_BYTES;
use net::wire::{epoch_message, receive, summary_message};
use proto::v1;
use proto::v1::blocks_server::{Blocks, BlocksServer};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::chain::{BlockOutcome, ChainHandle, SubmitError};
use crate::fleet::{Fleet, FleetEvent};

/// The largest block that a client may submit, in bytes.
pub const MAX_BLOCK_PAYLOAD: usize = MAX_BLOCK_BYTES;

/// The service over a chain and its fleet.
pub fn blocks_service(chain: ChainHandle, fleet: Fleet) -> BlocksServer<impl Blocks> {
    BlocksServer::new(Service { chain, fleet })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[derive(Debug)]
struct Service {
    chain: ChainHandle,
    fleet: Fleet,
}

#[tonic::async_trait]
impl Blocks for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn submit_block(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<v1::BlockReply>, Status> {
        let payload = receive(&mut request.into_inner(), MAX_BLOCK_PAYLOAD).await?;
        let block = tokio::task::spawn_blocking(move || {
            Block::decode_exact(&payload.bytes).map_err(|error| Status::invalid_argument(error.to_string()))
        })
        .await
        .map_err(|error| Status::internal(error.to_string()))??;
        let outcome = self.chain.submit(block).map_err(|error| match error {
            SubmitError::Busy => Status::resource_exhausted(error.to_string()),
            SubmitError::Stopping => Status::unavailable(error.to_string()),
            SubmitError::Importing => Status::failed_precondition(error.to_string()),
        })?;
        let outcome = outcome.await.map_err(|_| Status::unavailable(SubmitError::Stopping.to_string()))?;
        match &outcome.error {
            // The block is not at fault: it may be submitted again.
            Some(error) if !outcome.refused => Err(Status::unavailable(error.clone())),
            _ => Ok(Response::new(reply(outcome))),
        }
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let fleet = self.fleet.clone();
        let shards = tokio::task::spawn_blocking(move || fleet.shards())
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let committed = self.chain.ledger().head();
        let head = committed.summary();
        let state_root = committed.state_root().map(|root| root.to_vec().into());
        let chain = self.chain.status();
        let shards = shards
            .into_iter()
            .map(|shard| v1::ShardStatus {
                shard: shard.shard.0,
                incarnation: shard.incarnation.0,
                // An import leads shards ahead of what is committed.
                synced: shard.ready || shard.state == Some(head.state),
                quarantined: shard.quarantined,
                state: match (shard.draining, shard.state) {
                    (true, _) => "draining",
                    _ if shard.quarantined => "quarantined",
                    (false, Some(state)) if shard.ready || state == head.state => "ready",
                    _ => "syncing",
                }
                .into(),
                address: shard.address,
                slots: u32::from(shard.slots),
                outstanding: u32::try_from(shard.outstanding).unwrap_or(u32::MAX),
                results: shard.results,
                height: shard.state.map_or(0, |state| state.height.0),
            })
            .collect();
        Ok(Response::new(v1::StatusReply {
            epoch: Some(epoch_message(self.fleet.epoch())),
            chain_id: self.chain.ledger().spec().chain_id,
            head: Some(summary_message(head)),
            state_root: state_root.unwrap_or_default(),
            blocks: committed.blocks(),
            reassigned: chain.reassigned,
            shards,
        }))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let stream = futures_util::stream::unfold(self.fleet.events(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((Ok(message(event)), events)),
                Err(RecvError::Lagged(missed)) => {
                    let status = Status::data_loss(format!("{missed} events were missed; watch again"));
                    Some((Err(status), events))
                }
                Err(RecvError::Closed) => None,
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

fn message(event: FleetEvent) -> v1::Event {
    v1::Event {
        at_ms: u64::try_from(event.at.as_millis()).unwrap_or(u64::MAX),
        kind: event.kind.to_string(),
        shard: event.shard.map(|shard| shard.0),
        block: event.block,
        text: event.text,
    }
}

fn reply(outcome: BlockOutcome) -> v1::BlockReply {
    v1::BlockReply {
        number: outcome.number,
        hash: outcome.hash.to_vec().into(),
        fork: outcome.fork.into(),
        transactions: u32::try_from(outcome.transactions).unwrap_or(u32::MAX),
        gas_used: outcome.gas_used,
        error: outcome.error.unwrap_or_default(),
        ms: outcome.stats.elapsed.as_secs_f64() * 1e3,
        sub_blocks: outcome.stats.sub_blocks,
        verified_sub_blocks: outcome.stats.verified_sub_blocks,
        reexecuted: outcome.stats.reexecuted,
        reassigned: outcome.stats.reassigned,
        known: outcome.known,
    }
}
