//! The gRPC service for clients.

use std::pin::Pin;
use std::time::Duration;

use alloy_primitives::B256;
use common::block::{EncodedBlock, MAX_BLOCK_BYTES};
use common::id::ShardId;
use net::budget::Budget;
use net::identity::{Account, Role, Roles, account, allowed};
use net::limits::{BLOCKS_IN_FLIGHT, MAX_CALL_BYTES, MAX_MESSAGE_BYTES};
use net::wire::{Demand, exhausted, receive};
use proto::v1;
use proto::v1::blocks_server::{Blocks, BlocksServer};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::chain::ChainHandle;
use super::desk::Ticket;
use super::outcome::{Acceptance, BlockOutcome, ParkedError, SubmitError};
use super::parked::ParkedBlock;
use super::status::status;
use super::step_down::StepDown;
use crate::fleet::{EventKind, Fleet, FleetEvent};
use schedule::intake::Client;

/// The largest block that a client may submit, in bytes.
pub const MAX_BLOCK_PAYLOAD: usize = MAX_BLOCK_BYTES;

/// The longest reason that an operator may give for parking a block, in bytes.
const MAX_REASON: usize = 1024;

/// The metadata key of a status that may be retried, possibly against another process. Its value is the
/// reason.
pub const RETRY: &str = "shardexec-retry";

/// The value of [`RETRY`] when the coordinator is stopping and another one may take over.
pub const RETRY_STOPPING: &str = "stopping";

/// When to submit again after too many submissions.
const FLOODED_FOR: Duration = Duration::from_secs(1);

/// Creates the service over a chain and its fleet.
pub fn blocks_service(
    chain: ChainHandle,
    fleet: Fleet,
    step_down: StepDown,
) -> InterceptedService<BlocksServer<impl Blocks>, Demand> {
    let budget = Budget::new("blocks", BLOCKS_IN_FLIGHT);
    let service = BlocksServer::new(Service { chain, fleet, step_down, budget })
        .max_decoding_message_size(MAX_CALL_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    InterceptedService::new(service, Demand(READERS.or(SUBMITTERS).or(SUCCESSORS)))
}

#[derive(Debug)]
struct Service {
    chain: ChainHandle,
    fleet: Fleet,
    step_down: StepDown,
    budget: Budget,
}

/// Who may submit blocks: they decide what the chain is, within the limit of reorganisations.
const SUBMITTERS: Roles = Roles::CLIENT.or(Roles::OPERATOR);

/// Who may see the status and the events.
const READERS: Roles = SUBMITTERS.or(Roles::READER);

/// Who may ask a coordinator to step down, if they know its secret.
const SUCCESSORS: Roles = Roles::COORDINATOR.or(Roles::OPERATOR);

impl Service {
    /// Accepts a block. When this returns, the block is in the journal or its outcome is known.
    async fn take(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<(Taken, Acceptance), Status> {
        let (role, account) = (allowed(&request, SUBMITTERS)?, account(&request)?);
        let client = client_name(role, &account);
        let room = self.budget.open(account);
        let payload = receive(&mut request.into_inner(), MAX_BLOCK_PAYLOAD, room).await?;
        let block = on_thread(move || {
            // All of it: a call that is given up keeps its room until the block is decoded.
            let payload = payload;
            EncodedBlock::decode_exact(&payload.bytes)
                .map_err(|error| Status::invalid_argument(error.to_string()))
        })
        .await??;
        let (number, hash) = (block.header.number, block.hash);
        let Ticket { accepted, outcome } = self.chain.submit(block, client).map_err(not_taken)?;
        let acceptance = accepted.await.map_err(|_| not_taken(SubmitError::Stopping))?.map_err(not_taken)?;
        if let Acceptance::Settled(outcome) = &acceptance
            && let (true, Some(error)) = (outcome.refused, &outcome.error)
        {
            self.fleet.announce(EventKind::BlockRefused, Some(number), error.clone());
        }
        Ok((Taken { number, hash, outcome }, acceptance))
    }
}

/// Whose share of the intake a caller's blocks count on.
fn client_name(role: Option<Role>, account: &Account) -> Client {
    let name = match (role, account) {
        (Some(role), _) => role.to_string(),
        (None, Account::Identity(identity)) => identity.role.to_string(),
        (None, Account::Address(address)) => address.to_string(),
    };
    Client::from(name.as_str())
}

/// A block that was accepted.
struct Taken {
    number: u64,
    hash: B256,
    outcome: tokio::sync::oneshot::Receiver<BlockOutcome>,
}

/// Runs work that may wait for the disk or the driver on a blocking thread.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))
}

fn not_taken(error: SubmitError) -> Status {
    match error {
        SubmitError::Busy(full) => exhausted(full.to_string(), full.again()),
        SubmitError::Flooded => exhausted(error.to_string(), FLOODED_FOR),
        SubmitError::Stopping => {
            let mut status = Status::unavailable(error.to_string());
            status.metadata_mut().insert(RETRY, MetadataValue::from_static(RETRY_STOPPING));
            status
        }
        SubmitError::Importing => Status::failed_precondition(error.to_string()),
    }
}

fn hash_of(bytes: &[u8]) -> Result<B256, Status> {
    B256::try_from(bytes).map_err(|_| Status::invalid_argument("hash: it is not 32 bytes"))
}

/// Who has called, for people.
fn operator_of(role: Option<Role>) -> String {
    role.map_or_else(|| "an operator".into(), |role| role.to_string())
}

fn not_parked(error: ParkedError) -> Status {
    match error {
        ParkedError::UnderWay(_) | ParkedError::Already(_) => Status::failed_precondition(error.to_string()),
        ParkedError::NotParked(_) | ParkedError::NotAccepted(_) => Status::not_found(error.to_string()),
        ParkedError::Ledger(_) => Status::internal(error.to_string()),
    }
}

#[tonic::async_trait]
impl Blocks for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn submit_block(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<v1::BlockReply>, Status> {
        let outcome = match self.take(request).await? {
            (_, Acceptance::Settled(outcome)) => *outcome,
            (taken, Acceptance::Accepted) => {
                taken.outcome.await.map_err(|_| not_taken(SubmitError::Stopping))?
            }
        };
        match &outcome.error {
            // The block is not at fault: the client may submit it again.
            Some(error) if !outcome.refused && !outcome.parked => Err(Status::unavailable(error.clone())),
            _ => Ok(Response::new(reply(outcome))),
        }
    }

    async fn accept_block(
        &self,
        request: Request<Streaming<v1::PayloadChunk>>,
    ) -> Result<Response<v1::AcceptReply>, Status> {
        let (taken, acceptance) = self.take(request).await?;
        let settled = match acceptance {
            Acceptance::Accepted => None,
            Acceptance::Settled(outcome) => Some(reply(*outcome)),
        };
        let hash = taken.hash.to_vec().into();
        Ok(Response::new(v1::AcceptReply { number: taken.number, hash, settled }))
    }

    async fn list_parked(
        &self,
        request: Request<v1::ListParkedRequest>,
    ) -> Result<Response<v1::ListParkedReply>, Status> {
        allowed(&request, Roles::OPERATOR)?;
        let blocks = self.chain.parked().into_iter().map(parked_message).collect();
        Ok(Response::new(v1::ListParkedReply { blocks }))
    }

    async fn park_block(
        &self,
        request: Request<v1::ParkRequest>,
    ) -> Result<Response<v1::ParkedReply>, Status> {
        let operator = operator_of(allowed(&request, Roles::OPERATOR)?);
        let v1::ParkRequest { hash, reason } = request.into_inner();
        let (hash, chain) = (hash_of(&hash)?, self.chain.clone());
        if reason.len() > MAX_REASON || reason.chars().any(char::is_control) {
            return Err(Status::invalid_argument("reason: it is longer than 1 KiB, or not on one line"));
        }
        let reason = match reason.is_empty() {
            true => format!("parked by {operator}"),
            false => format!("parked by {operator}: {reason}"),
        };
        let text = format!("{hash}: {reason}");
        let number = on_thread(move || chain.park(&hash, reason)).await?.map_err(not_parked)?;
        self.fleet.announce(EventKind::BlockParked, Some(number), text);
        Ok(Response::new(v1::ParkedReply {}))
    }

    async fn retry_parked(
        &self,
        request: Request<v1::ParkedRequest>,
    ) -> Result<Response<v1::ParkedReply>, Status> {
        allowed(&request, Roles::OPERATOR)?;
        let hash = hash_of(&request.get_ref().hash)?;
        let chain = self.chain.clone();
        on_thread(move || chain.retry(&hash)).await?.map_err(not_parked)?;
        Ok(Response::new(v1::ParkedReply {}))
    }

    async fn discard_parked(
        &self,
        request: Request<v1::ParkedRequest>,
    ) -> Result<Response<v1::ParkedReply>, Status> {
        allowed(&request, Roles::OPERATOR)?;
        let hash = hash_of(&request.get_ref().hash)?;
        let chain = self.chain.clone();
        on_thread(move || chain.discard(&hash)).await?.map_err(not_parked)?;
        Ok(Response::new(v1::ParkedReply {}))
    }

    async fn step_down(
        &self,
        request: Request<v1::StepDownRequest>,
    ) -> Result<Response<v1::StepDownReply>, Status> {
        allowed(&request, SUCCESSORS)?;
        if !self.step_down.ask(&request.get_ref().secret) {
            return Err(Status::permission_denied("the secret is not this coordinator's"));
        }
        Ok(Response::new(v1::StepDownReply {}))
    }

    async fn drain_shard(
        &self,
        request: Request<v1::DrainShardRequest>,
    ) -> Result<Response<v1::DrainShardReply>, Status> {
        let operator = allowed(&request, Roles::OPERATOR)?;
        let shard = ShardId(request.get_ref().shard);
        let fleet = self.fleet.clone();
        match on_thread(move || fleet.drain(shard)).await? {
            Ok(true) => {
                let text = format!("{} has asked it to leave", operator_of(operator));
                self.fleet.announce_shard(EventKind::ShardDraining, shard, None, text);
                Ok(Response::new(v1::DrainShardReply {}))
            }
            Ok(false) => {
                Err(Status::not_found(format!("there is no shard {shard}; see `coordinator status`")))
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        allowed(&request, READERS)?;
        let (chain, fleet) = (self.chain.clone(), self.fleet.clone());
        let status = on_thread(move || status(&chain, &fleet)).await?;
        status.map(Response::new).map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        allowed(&request, READERS)?;
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
        parked: outcome.parked,
        receipts_root: bytes(outcome.roots.map(|roots| roots.receipts)).into(),
        state_root: bytes(outcome.roots.map(|roots| roots.state)).into(),
        receipts_digest: bytes(outcome.digests.map(|digests| digests.receipts)).into(),
        delta_digest: bytes(outcome.digests.and_then(|digests| digests.delta)).into(),
        recovery_ms: outcome.stats.recovery.as_secs_f64() * 1e3,
        execution_ms: outcome.stats.execution.as_secs_f64() * 1e3,
    }
}

/// A hash in the form of a message; empty for `None`.
fn bytes(hash: Option<B256>) -> Vec<u8> {
    hash.map(|hash| hash.to_vec()).unwrap_or_default()
}

fn parked_message(block: ParkedBlock) -> v1::ParkedBlock {
    v1::ParkedBlock {
        number: block.number,
        hash: block.hash.to_vec().into(),
        transaction: block.parked.index.map(|index| index.0),
        convicted: block.parked.convicted,
        reason: block.parked.reason,
        parked_at: block.parked.at,
        waiting: u32::try_from(block.waiting).unwrap_or(u32::MAX),
    }
}
