//! Which role may make which call, between real clients and real servers with certificates.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use alloy_primitives::{B256, U256};
use async_trait::async_trait;
use common::account::Delta;
use common::endpoint::{Admission, CoordinatorEndpoint, PeerError, ShardEndpoint, SnapshotStream};
use common::id::{AssignmentId, Attempt, Epoch, Incarnation, ShardId, StateRef, WorkId, WorldId};
use common::message::{
    Draining, Heartbeat, Leave, Register, Registered, ResultReceipt, SnapshotRequest, StateSummary,
    SubmitResult,
};
use common::sealed::Sealed;
use common::token::SessionToken;
use common::work::{ExecuteBlock, WorkFailure};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{FleetClient, NodeIdentity, ShardClient, fleet_service, shard_service};
use crate::channel;
use crate::identity::tests::Authority;
use crate::identity::{Credentials, Door, Expect, Security};
use crate::limits::PeerLimits;
use crate::serve::{Bound, Health, ServeError};

const EPOCH: Epoch = Epoch { number: 1, instance: 1 };
const RUN: Incarnation = Incarnation(5);

/// Answers every call that reaches it in the same way.
#[derive(Debug)]
struct Reached;

fn reached<T>() -> Result<T, PeerError> {
    Err(PeerError::NotRegistered("reached".into()))
}

#[async_trait]
impl CoordinatorEndpoint for Reached {
    async fn register(&self, _: Register) -> Result<Registered, PeerError> {
        reached()
    }

    async fn heartbeat(&self, _: Heartbeat) -> Result<(), PeerError> {
        reached()
    }

    async fn submit_result(&self, _: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
        reached()
    }

    async fn draining(&self, _: Draining) -> Result<(), PeerError> {
        reached()
    }

    async fn leave(&self, _: Leave) -> Result<(), PeerError> {
        reached()
    }

    async fn snapshot(&self, _: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        reached()
    }
}

impl Admission for Reached {
    fn check_caller(&self, _: &SessionToken, _: ShardId, _: Incarnation) -> Result<(), PeerError> {
        Ok(())
    }

    fn check_assigned(&self, _: &AssignmentId) -> Result<(), PeerError> {
        Ok(())
    }
}

#[async_trait]
impl ShardEndpoint for Reached {
    async fn execute(&self, _: ExecuteBlock) -> Result<(), PeerError> {
        reached()
    }

    async fn put_delta(&self, _: Epoch, _: Sealed<Delta>) -> Result<StateSummary, PeerError> {
        reached()
    }

    async fn sync(&self, _: Epoch, _: StateSummary) -> Result<StateSummary, PeerError> {
        reached()
    }

    async fn cancel(&self, _: AssignmentId) -> Result<(), PeerError> {
        reached()
    }

    async fn drain(&self, _: Epoch) -> Result<(), PeerError> {
        reached()
    }

    async fn gone(&self) -> PeerError {
        std::future::pending().await
    }
}

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(credentials: Arc<Credentials>, routes: impl FnOnce(CancellationToken) -> Routes) -> Self {
        let door = Door::new(Some(credentials), None).unwrap();
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap().behind(door);
        let (address, stop) = (bound.address(), CancellationToken::new());
        let health = Health::new();
        let task = tokio::spawn(bound.serve(routes(stop.clone()), health, stop.clone()));
        Self { address, stop, task }
    }

    fn channel(&self, credentials: &Arc<Credentials>, expect: Expect) -> tonic::transport::Channel {
        let security = Security::new(Some(Arc::clone(credentials)), None);
        channel::lazy(&self.address.to_string(), &PeerLimits::default(), &security, expect).unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Makes every call of a shard in the name of shard `id`; returns what each gave.
async fn speak_as(client: &FleetClient, id: ShardId) -> Vec<PeerError> {
    let assignment = AssignmentId {
        work: WorkId(B256::ZERO),
        shard: id,
        incarnation: RUN,
        attempt: Attempt(1),
        epoch: EPOCH,
    };
    let result = SubmitResult { assignment, outcome: Err(WorkFailure::Damaged), digest: None };
    let register = Register {
        protocol: 1,
        build: "test".into(),
        engine: "test".into(),
        shard: id,
        incarnation: RUN,
        slots: 1,
        advertise: "127.0.0.1:1".into(),
        from: None,
        state: None,
        chain_id: None,
        token: SessionToken::fresh(),
    };
    let heartbeat = Heartbeat {
        shard: id,
        incarnation: RUN,
        epoch: EPOCH,
        state: None,
        slots: vec![],
        queued: 0,
        outbox: 0,
    };
    let snapshot = SnapshotRequest { shard: id, incarnation: RUN, state: state(), held: None };
    vec![
        client.register(register).await.unwrap_err(),
        client.heartbeat(heartbeat).await.unwrap_err(),
        client.submit_result(Arc::new(result)).await.unwrap_err(),
        client.draining(Draining { shard: id, incarnation: RUN }).await.unwrap_err(),
        client.leave(Leave { shard: id, incarnation: RUN, reason: "gone".into() }).await.unwrap_err(),
        client.snapshot(snapshot).await.map(|_| ()).unwrap_err(),
    ]
}

fn state() -> StateRef {
    StateRef { world: WorldId::default(), height: Default::default(), block_hash: B256::ZERO }
}

fn all_say(errors: &[PeerError], words: &str) {
    for error in errors {
        assert!(matches!(error, PeerError::Refused(reason) if reason.contains(words)), "{error}");
    }
}

#[tokio::test]
async fn a_shard_speaks_only_for_itself_and_others_do_not_speak_for_shards() {
    let authority = Authority::new();
    let routes = |stop| Routes::new(fleet_service(Arc::new(Reached), Arc::new(Reached), stop));
    let server = Server::start(authority.credentials("coordinator"), routes).await;
    let client = |role: &str| {
        let channel = server.channel(&authority.credentials(role), Expect::Coordinator);
        FleetClient::new(channel, PeerLimits::default(), SessionToken::fresh())
    };
    let shard = client("shard/1");
    for error in speak_as(&shard, ShardId(1)).await {
        assert_eq!(error, reached::<()>().unwrap_err());
    }
    all_say(&speak_as(&shard, ShardId(2)).await, "shard/1 may not speak for shard 2");
    for role in ["client/ann", "operator/bob", "coordinator"] {
        all_say(&speak_as(&client(role), ShardId(1)).await, "needs the role shard");
    }
    server.end().await;
}

#[tokio::test]
async fn only_a_coordinator_commands_a_shard_even_with_its_token() {
    let authority = Authority::new();
    let token = SessionToken::fresh();
    let identity = NodeIdentity {
        shard: ShardId(1),
        incarnation: RUN,
        slots: 1,
        build: String::new(),
        engine: String::new(),
        folder: None,
    };
    let routes = |stop| Routes::new(shard_service(Arc::new(Reached), identity, token, stop));
    let server = Server::start(authority.credentials("shard/1"), routes).await;
    let client = |role: &str, token| {
        let channel = server.channel(&authority.credentials(role), Expect::Shard(ShardId(1)));
        ShardClient::new(channel, PeerLimits::default(), token)
    };
    let coordinator = client("coordinator", token);
    assert_eq!(coordinator.node_info().await.unwrap().shard, 1);
    assert_eq!(coordinator.drain(EPOCH).await.unwrap_err(), reached::<()>().unwrap_err());
    let other = client("coordinator", SessionToken::fresh());
    all_say(&[other.node_info().await.unwrap_err()], "only the coordinator with which it has registered");
    for role in ["shard/2", "client/ann", "operator/bob"] {
        let client = client(role, token);
        let delta = Delta { from: state(), to: state(), accounts: vec![], code: vec![], digest: U256::ZERO };
        let target = StateSummary { state: state(), digest: U256::ZERO };
        let errors = [
            client.node_info().await.unwrap_err(),
            client.drain(EPOCH).await.unwrap_err(),
            client.sync(EPOCH, target).await.unwrap_err(),
            client.put_delta(EPOCH, Sealed::new(delta)).await.unwrap_err(),
        ];
        all_say(&errors, "needs the role coordinator");
    }
    server.end().await;
}
