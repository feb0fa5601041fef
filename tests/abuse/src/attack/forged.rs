//! Attacks in the name of others: of the honest shards, of new shards, and of the coordinator.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;
use net::limits::CHUNK_BYTES;
use proto::v1::executor_shard_client::ExecutorShardClient;
use proto::v1::fleet_client::FleetClient;
use proto::v1::{
    Assignment, DrainRequest, Epoch, HeartbeatRequest, PayloadChunk, PayloadHeader, RegisterRequest,
    ShardNotice, SlotProgress, SnapshotRequest, StateRef, StateSummary, SyncRequest,
};
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::tally::answer;
use super::{Target, Victim, endpoint, many};

/// Tasks that forge calls.
const FORGERS: usize = 8;

/// The pause after a round of forged calls.
const PAUSE: Duration = Duration::from_millis(10);

/// The heartbeats that a stranger sends as one shard before it joins as the next.
const BEATS: u32 = 200;

/// An epoch above every other.
const LAST: Epoch = Epoch { number: u64::MAX, instance: u64::MAX };

/// The calls of one process that takes itself for a shard.
pub(super) type Impostor = FleetClient<InterceptedService<Channel, SomeToken>>;

/// Attaches a session token, as shards do. It is no honest shard's: without any, no call would get far.
#[derive(Debug, Clone, Copy)]
pub(super) struct SomeToken;

impl Interceptor for SomeToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert_bin("shardexec-token-bin", MetadataValue::from_bytes(&[7; 32]));
        Ok(request)
    }
}

pub(super) fn impostor(channel: Channel) -> Impostor {
    FleetClient::with_interceptor(channel, SomeToken)
}

fn fleet(target: &Target) -> Result<Impostor> {
    Ok(impostor(endpoint(&target.coordinator)?.connect_lazy()))
}

/// Makes this call for each honest shard, again and again.
async fn for_each_shard<F: Future<Output = ()> + 'static>(
    target: &Target,
    call: impl Fn(Impostor, Victim) -> F + Clone + 'static,
) -> Result<()> {
    let (client, shards) = (fleet(target)?, target.shards.clone());
    many(FORGERS, || {
        let (client, shards, call) = (client.clone(), shards.clone(), call.clone());
        async move {
            for shard in shards {
                call(client.clone(), shard).await;
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}

pub(super) async fn results(target: &Target) -> Result<()> {
    for_each_shard(target, |mut client, shard| async move {
        let chunk = forged_result(Some(forged_assignment(shard.id, shard.incarnation)));
        deliver(&mut client, chunk).await;
    })
    .await
}

/// Delivers a result. Only the answer to it counts: the stream is opened for everybody.
async fn deliver(client: &mut Impostor, chunk: PayloadChunk) {
    let answered = async {
        let mut answers = client.submit_results(tokio_stream::iter([chunk])).await?.into_inner();
        match answers.message().await? {
            Some(reply) if reply.failure.is_none() => Ok(()),
            _ => Err(Status::cancelled("not taken")),
        }
    };
    answer(answered.await);
}

pub(super) async fn draining(target: &Target) -> Result<()> {
    for_each_shard(target, |mut client, shard| async move {
        answer(client.draining(notice(&shard)).await);
    })
    .await
}

pub(super) async fn places(target: &Target) -> Result<()> {
    for_each_shard(target, |mut client, shard| async move {
        answer(client.leave(notice(&shard)).await);
        answer(client.register(registration(shard.id, shard.incarnation ^ 1)).await);
    })
    .await
}

fn notice(shard: &Victim) -> ShardNotice {
    ShardNotice { shard: shard.id, incarnation: shard.incarnation, reason: "line\nfeed ".repeat(1_000) }
}

fn registration(shard: u32, incarnation: u64) -> RegisterRequest {
    RegisterRequest {
        protocol: common::message::PROTOCOL_VERSION,
        build: "a stranger".into(),
        engine: engine::ENGINE_VERSION.into(),
        shard,
        incarnation,
        slots: 64,
        // A port at which nothing listens.
        advertise: "http://127.0.0.1:9".into(),
        state: None,
        chain_id: None,
    }
}

pub(super) async fn heartbeats(target: &Target) -> Result<()> {
    for_each_shard(target, |mut client, shard| async move {
        answer(client.heartbeat(heavy_beat(shard.id, shard.incarnation, 1_024)).await);
    })
    .await
}

fn heavy_beat(shard: u32, incarnation: u64, slots: u32) -> HeartbeatRequest {
    let slot = |slot| SlotProgress { slot, transactions: 1, current: None, transaction: 0, gas: 0 };
    HeartbeatRequest {
        shard,
        incarnation,
        epoch: Some(LAST),
        state: Some(invented()),
        slots: (0..slots).map(slot).collect(),
        queued: u32::MAX,
        outbox: u32::MAX,
        sequence: 0,
    }
}

/// Strangers that have joined as shards of their own, and so have tokens that count: they claim ever new states and
/// as many slots as they may, ask for snapshots that they do not read, and deliver results of work that they never got.
pub(super) async fn registered(target: &Target) -> Result<()> {
    let (client, next) = (fleet(target)?, Cell::new(80_000_u32));
    many(FORGERS, || {
        let mut client = client.clone();
        next.set(next.get() + 1);
        let (shard, incarnation) = (next.get(), rand::random::<u64>());
        async move {
            if answer(client.register(registration(shard, incarnation)).await).is_none() {
                tokio::time::sleep(PAUSE).await;
                return;
            }
            let request = SnapshotRequest { shard, incarnation, state: None, held: None };
            let unread = answer(client.snapshot(request).await);
            for _ in 0..BEATS {
                answer(client.heartbeat(heavy_beat(shard, incarnation, 64)).await);
                let work = Some(forged_assignment(shard, incarnation));
                deliver(&mut client, forged_result(work)).await;
            }
            drop(unread);
        }
    })
    .await
}

fn forged_assignment(shard: u32, incarnation: u64) -> Assignment {
    Assignment { work: vec![9; 32].into(), shard, incarnation, attempt: 1, epoch: Some(LAST) }
}

fn forged_result(assignment: Option<Assignment>) -> PayloadChunk {
    let header =
        PayloadHeader { size: CHUNK_BYTES as u64, digest: vec![1; 32].into(), epoch: None, assignment };
    PayloadChunk { header: Some(header), data: vec![1; CHUNK_BYTES].into() }
}

fn invented() -> StateSummary {
    let state = StateRef { world: vec![3; 32].into(), height: 1 << 40, block_hash: vec![4; 32].into() };
    StateSummary { state: Some(state), digest: vec![5; 32].into() }
}

pub(super) async fn endless_shards(target: &Target) -> Result<()> {
    let (client, next) = (fleet(target)?, Cell::new(1_000_u32));
    many(FORGERS, || {
        let mut client = client.clone();
        next.set(next.get() + 100);
        let first = next.get();
        async move {
            for id in first..first + 100 {
                answer(client.register(registration(id, u64::from(id))).await);
            }
        }
    })
    .await
}

/// Commands to the honest shards, with an epoch above that of their coordinator.
pub(super) async fn commands(target: &Target) -> Result<()> {
    let mut clients = Vec::new();
    for shard in &target.shards {
        clients.push(ExecutorShardClient::new(endpoint(&shard.url)?.connect_lazy()));
    }
    many(FORGERS, || {
        let clients = clients.clone();
        async move {
            for mut client in clients {
                answer(client.drain(DrainRequest { epoch: Some(LAST) }).await);
                answer(client.sync(SyncRequest { epoch: Some(LAST), target: Some(invented()) }).await);
                let header = PayloadHeader {
                    size: 64,
                    digest: vec![1; 32].into(),
                    epoch: Some(LAST),
                    assignment: None,
                };
                let chunk = PayloadChunk { header: Some(header), data: vec![1; 64].into() };
                answer(client.execute_block(tokio_stream::iter([chunk])).await);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
    .await
}
