//! Strangers at the ports of a coordinator and a shard, both behind real gRPC services. A process that does not know
//! a shard's session token neither speaks for the shard nor commands it.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{B256, U256};
use common::account::Delta;
use common::block::CheckedBlock;
use common::endpoint::{CoordinatorEndpoint, PeerError, ShardEndpoint};
use common::id::{AssignmentId, Attempt, Epoch, Incarnation, ShardId, StateRef, WorkId, WorldId};
use common::message::{
    Draining, Heartbeat, Leave, PROTOCOL_VERSION, Register, SnapshotRequest, StateSummary, SubmitResult,
};
use common::sealed::Sealed;
use common::token::SessionToken;
use common::work::{ExecuteBlock, WorkFailure, WorkKind, WorkOutput, WorkSpec};
use coordinator::execute::{BlockExecutor, ExecuteOptions};
use coordinator::fleet::{Fleet, FleetOptions};
use coordinator::import::{ForkChoice, Importer};
use coordinator::input::read_genesis;
use engine::ENGINE_VERSION;
use executor_shard::fault::Faults;
use executor_shard::node::{NodeConfig, ShardNode};
use lab::generate::{ChainBuilder, Mix, TrafficOptions};
use ledger::Ledger;
use net::channel;
use net::identity::{Expect, Security};
use net::limits::PeerLimits;
use net::serve::{Bound, Health};
use net::wire::{FleetClient, NodeIdentity, ShardClient, fleet_service, shard_service};
use tasks::supervise::{Supervisor, SupervisorHandle};
use tonic::service::Routes;

const SHARD: ShardId = ShardId(1);
const INCARNATION: Incarnation = Incarnation(77);
const EPOCH: Epoch = Epoch { number: 3, instance: 9 };

/// A coordinator and one shard, which have only their ports in common.
struct Scene {
    fleet: Fleet,
    importer: Importer,
    blocks: Vec<CheckedBlock>,
    coordinator: String,
    shard: String,
}

async fn serve(routes: Routes, bound: Bound, supervisor: &SupervisorHandle) -> String {
    let (address, health) = (bound.address().to_string(), Health::new());
    supervisor.spawn_critical("server", bound.serve(routes, health, supervisor.shutdown_token()));
    address
}

async fn bind() -> Bound {
    Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

fn fleet_client(address: &str, token: SessionToken) -> FleetClient {
    let limits = PeerLimits::default();
    let channel = channel::lazy(address, &limits, &Security::default(), Expect::Coordinator).unwrap();
    FleetClient::new(channel, limits, token)
}

fn shard_client(address: &str, token: SessionToken) -> ShardClient {
    let limits = PeerLimits::default();
    let channel = channel::lazy(address, &limits, &Security::default(), Expect::Shard(SHARD)).unwrap();
    ShardClient::new(channel, limits, token)
}

impl Scene {
    async fn set(supervisor: &SupervisorHandle) -> Self {
        let mix: Mix = "transfers=100".parse().unwrap();
        let options = TrafficOptions { seed: 5, mix, accounts: 50, chain_id: 1337, gas_limit: 30_000_000 };
        let mut chain = ChainBuilder::new(options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let genesis = folder.path().join("genesis.json");
        std::fs::write(&genesis, serde_json::to_vec(chain.genesis()).unwrap()).unwrap();
        let ledger = Arc::new(Ledger::begin(read_genesis(&genesis).unwrap().into()).unwrap());
        let blocks = (0..3).map(|_| CheckedBlock::new(chain.next_block(40).unwrap()).unwrap()).collect();

        let fleet = Fleet::start(EPOCH, FleetOptions::default(), supervisor).unwrap();
        let stop = supervisor.shutdown_token();
        let routes = Routes::new(fleet_service(fleet.endpoint(), fleet.admission(), stop.clone()));
        let coordinator = serve(routes, bind().await, supervisor).await;

        let (bound, token) = (bind().await, SessionToken::fresh());
        let node = NodeConfig {
            shard: SHARD,
            incarnation: INCARNATION,
            slots: 1,
            advertise: bound.address().to_string(),
            lost_after: Duration::from_secs(1),
            chain_id: None,
            token,
        };
        let client = Arc::new(fleet_client(&coordinator, token));
        let node = ShardNode::start(node, client, Arc::default(), Arc::new(Faults::default()), supervisor);
        let identity = NodeIdentity {
            shard: SHARD,
            incarnation: INCARNATION,
            slots: 1,
            build: "test".into(),
            engine: ENGINE_VERSION.into(),
            folder: None,
        };
        let shard = serve(Routes::new(shard_service(node, identity, token, stop)), bound, supervisor).await;
        let executor = BlockExecutor::new(fleet.clone(), ExecuteOptions::default());
        let importer = Importer::new(fleet.clone(), executor, ledger, ForkChoice::default()).unwrap();
        Self { fleet, importer, blocks, coordinator, shard }
    }

    /// Imports a block, and checks that the shard did it and is trusted.
    fn import(&mut self, index: usize) {
        self.fleet.wait_ready(1, Duration::from_secs(60)).unwrap();
        let block = self.blocks.get(index).unwrap();
        let imported = self.importer.import_checked(block).unwrap().unwrap();
        assert_eq!(imported.tip.state_root(), Some(block.header.state_root));
        assert_eq!(imported.stats.reassigned, 0);
        self.fleet.wait_ready(1, Duration::from_secs(60)).unwrap();
        let views = self.fleet.shards().unwrap();
        let view = views.iter().find(|view| view.shard == SHARD).unwrap();
        assert!(view.ready && !view.draining && !view.quarantined, "{view:?}");
        assert_eq!(view.incarnation, INCARNATION);
    }
}

fn assignment(attempt: u32) -> AssignmentId {
    let work = WorkId(B256::repeat_byte(1));
    AssignmentId { work, shard: SHARD, incarnation: INCARNATION, attempt: Attempt(attempt), epoch: EPOCH }
}

fn result(outcome: Result<WorkOutput, WorkFailure>) -> Arc<SubmitResult> {
    Arc::new(SubmitResult { assignment: assignment(1), outcome, digest: None })
}

fn register(shard: ShardId, incarnation: Incarnation, slots: u16) -> Register {
    Register {
        protocol: PROTOCOL_VERSION,
        build: "test".into(),
        engine: ENGINE_VERSION.into(),
        shard,
        incarnation,
        slots,
        advertise: "127.0.0.1:1".into(),
        // The coordinator sees that for itself.
        from: None,
        state: None,
        chain_id: None,
        // The client attaches its own.
        token: SessionToken::fresh(),
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, PeerError>) {
    assert!(matches!(answer, Err(PeerError::Refused(_))), "{answer:?}");
}

/// Everything that a shard may say, in the name of the honest one.
async fn speak_for_the_shard(client: &FleetClient) {
    let (shard, incarnation) = (SHARD, INCARNATION);
    refused(client.draining(Draining { shard, incarnation }).await);
    let reason = "gone".to_owned();
    refused(client.leave(Leave { shard, incarnation, reason }).await);
    let heartbeat =
        Heartbeat { shard, incarnation, epoch: EPOCH, state: None, slots: vec![], queued: 0, outbox: 0 };
    refused(client.heartbeat(heartbeat).await);
    let panicked = WorkFailure::WorkerPanicked { message: "x".into(), at: None };
    for outcome in [Err(WorkFailure::Damaged), Err(panicked), Ok(WorkOutput::Recovered(vec![]))] {
        refused(client.submit_result(result(outcome)).await);
    }
    let snapshot = SnapshotRequest { shard, incarnation, state: state(), held: None };
    refused(client.snapshot(snapshot).await.map(|_| ()));
}

fn state() -> StateRef {
    StateRef { world: WorldId::default(), height: Default::default(), block_hash: B256::ZERO }
}

/// Everything that a coordinator may say to the shard.
async fn command_the_shard(client: &ShardClient, block: &CheckedBlock) {
    let epoch = Epoch { number: u64::MAX, instance: 1 };
    refused(client.drain(epoch).await);
    refused(client.cancel(assignment(1)).await);
    refused(client.sync(epoch, StateSummary { state: state(), digest: U256::ZERO }).await);
    let delta = Delta { from: state(), to: state(), accounts: vec![], code: vec![], digest: U256::ZERO };
    refused(client.put_delta(epoch, Sealed::new(delta)).await);
    let spec = Sealed::new(WorkSpec::of(state(), block, WorkKind::Recover, &[]));
    let command = AssignmentId { work: spec.id().unwrap(), epoch, ..assignment(1) };
    refused(client.execute(ExecuteBlock { assignment: command, spec }).await);
    refused(client.node_info().await);
}

#[test]
fn who_does_not_know_the_token_neither_speaks_for_a_shard_nor_commands_it() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let supervisor = Supervisor::new("test");
    let mut scene = runtime.block_on(Scene::set(&supervisor.handle()));
    scene.import(0);

    // A process that is no shard at all.
    let stranger = fleet_client(&scene.coordinator, SessionToken::fresh());
    runtime.block_on(speak_for_the_shard(&stranger));
    refused(runtime.block_on(stranger.register(register(SHARD, INCARNATION, 1))));
    let commander = shard_client(&scene.shard, SessionToken::fresh());
    runtime.block_on(command_the_shard(&commander, &scene.blocks[0]));
    scene.import(1);

    // A process that has registered, as another shard.
    let member = fleet_client(&scene.coordinator, SessionToken::fresh());
    runtime.block_on(member.register(register(ShardId(2), Incarnation(5), 1))).unwrap();
    runtime.block_on(speak_for_the_shard(&member));
    refused(runtime.block_on(member.register(register(SHARD, INCARNATION, 1))));
    scene.import(2);

    let drained = runtime.block_on(supervisor.drain(Duration::from_secs(30), std::future::pending()));
    assert!(drained.is_clean(), "{drained:?}");
}

#[test]
fn a_shard_cannot_claim_more_slots_than_a_machine_has() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let supervisor = Supervisor::new("test");
    let scene = runtime.block_on(Scene::set(&supervisor.handle()));
    let greedy = fleet_client(&scene.coordinator, SessionToken::fresh());
    refused(runtime.block_on(greedy.register(register(ShardId(8), Incarnation(5), u16::MAX))));
    let drained = runtime.block_on(supervisor.drain(Duration::from_secs(30), std::future::pending()));
    assert!(drained.is_clean(), "{drained:?}");
}

/// What a shard that advertises this address is told, once it is not part of the fleet any more.
async fn told(client: &FleetClient, advertise: &str) -> String {
    let (shard, incarnation) = (ShardId(9), Incarnation(5));
    let request = Register { advertise: advertise.into(), ..register(shard, incarnation, 1) };
    if let Err(refused) = client.register(request).await {
        return refused.to_string();
    }
    let beat =
        || Heartbeat { shard, incarnation, epoch: EPOCH, state: None, slots: vec![], queued: 0, outbox: 0 };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while tokio::time::Instant::now() < deadline {
        match client.heartbeat(beat()).await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(lost) => return lost.to_string(),
        }
    }
    "it is still part of the fleet".into()
}

#[test]
fn a_shard_does_not_have_the_coordinator_call_other_hosts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let supervisor = Supervisor::new("test");
    let scene = runtime.block_on(Scene::set(&supervisor.handle()));
    let stranger = fleet_client(&scene.coordinator, SessionToken::fresh());
    // An address of documentation (RFC 5737): no host has it.
    let reason = runtime.block_on(told(&stranger, "192.0.2.1:22"));
    assert!(reason.contains("advertises 192.0.2.1") && reason.contains("--shard-network"), "{reason}");
    // Without an address it would be taken for a shard within the coordinator's process.
    let reason = runtime.block_on(told(&stranger, ""));
    assert!(reason.contains("advertise"), "{reason}");
    let drained = runtime.block_on(supervisor.drain(Duration::from_secs(30), std::future::pending()));
    assert!(drained.is_clean(), "{drained:?}");
}

#[test]
fn the_next_coordinator_knows_which_shards_have_done_sound_work() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _guard = runtime.enter();
    let supervisor = Supervisor::new("test");
    let mut scene = runtime.block_on(Scene::set(&supervisor.handle()));
    scene.import(0);
    let (proven, ledger) = ([SHARD].into_iter().collect(), Arc::clone(scene.importer.ledger()));
    assert_eq!(scene.fleet.record().proven, proven);
    scene.importer.keep_fleet_record().unwrap();

    let next = Fleet::start(EPOCH, FleetOptions::default(), &supervisor.handle()).unwrap();
    let executor = BlockExecutor::new(next.clone(), ExecuteOptions::default());
    let _importer = Importer::new(next.clone(), executor, ledger, ForkChoice::default()).unwrap();
    assert_eq!(next.record().proven, proven);
    for shard in [SHARD, ShardId(2)] {
        next.start_local(NodeConfig {
            shard,
            incarnation: Incarnation::fresh(),
            slots: 1,
            advertise: String::new(),
            lost_after: Duration::from_secs(1),
            chain_id: None,
            token: SessionToken::fresh(),
        });
        let joined = usize::try_from(shard.0).unwrap();
        next.wait_ready(joined, Duration::from_secs(60)).unwrap();
    }
    let newcomers: Vec<bool> = next.shards().unwrap().iter().map(|view| view.newcomer).collect();
    assert_eq!(newcomers, [false, true]);
    let drained = runtime.block_on(supervisor.drain(Duration::from_secs(30), std::future::pending()));
    assert!(drained.is_clean(), "{drained:?}");
}
