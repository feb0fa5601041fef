//! Shards that do one piece of work right, and then take everything and never answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use async_trait::async_trait;
use common::account::Delta;
use common::endpoint::{PeerError, ShardEndpoint};
use common::id::{AssignmentId, Epoch, Incarnation, ShardId};
use common::message::StateSummary;
use common::sealed::Sealed;
use common::token::SessionToken;
use common::work::ExecuteBlock;
use engine::ENGINE_VERSION;
use executor_shard::fault::Faults;
use executor_shard::node::{NodeConfig, ShardNode};
use executor_shard::replica::Replica;
use net::limits::PeerLimits;
use net::serve::{Bound, Health};
use net::wire::{FleetClient, NodeIdentity, shard_service};
use tasks::supervise::{Supervisor, SupervisorHandle};
use tonic::service::Routes;

use super::{ATTACKER, Target, endpoint, tally};

/// How many there are, and the slots of each.
const SHARDS: u32 = 40;
const SLOTS: u16 = 4;

/// The first of their ids.
const FIRST: u32 = 1_000;

/// A shard that keeps its state, beats, and answers one piece of work.
#[derive(Debug)]
struct Silent {
    shard: Arc<ShardNode>,
    proven: AtomicBool,
}

#[async_trait]
impl ShardEndpoint for Silent {
    async fn execute(&self, command: ExecuteBlock) -> Result<(), PeerError> {
        tally::opened();
        if self.proven.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.shard.execute(command).await
    }

    async fn put_delta(&self, epoch: Epoch, delta: Sealed<Delta>) -> Result<StateSummary, PeerError> {
        self.shard.put_delta(epoch, delta).await
    }

    async fn sync(&self, epoch: Epoch, target: StateSummary) -> Result<StateSummary, PeerError> {
        self.shard.sync(epoch, target).await
    }

    async fn cancel(&self, assignment: AssignmentId) -> Result<(), PeerError> {
        self.shard.cancel(assignment).await
    }

    async fn drain(&self, epoch: Epoch) -> Result<(), PeerError> {
        self.shard.drain(epoch).await
    }

    async fn gone(&self) -> PeerError {
        self.shard.gone().await
    }
}

/// Joins the fleet as many shards, and stays.
pub(super) async fn shards(target: &Target) -> Result<()> {
    let supervisor = Supervisor::new("silent shards");
    for id in FIRST..FIRST + SHARDS {
        join(target, ShardId(id), &supervisor.handle()).await?;
    }
    std::future::pending().await
}

async fn join(target: &Target, shard: ShardId, supervisor: &SupervisorHandle) -> Result<()> {
    let (limits, token) = (PeerLimits::default(), SessionToken::fresh());
    let bound = Bound::bind((ATTACKER, 0).into()).await.context("a silent shard cannot listen")?;
    let config = NodeConfig {
        shard,
        incarnation: Incarnation::fresh(),
        slots: SLOTS,
        advertise: bound.address().to_string(),
        lost_after: limits.lost_after,
        chain_id: None,
        token,
    };
    let identity = NodeIdentity {
        shard,
        incarnation: config.incarnation,
        slots: SLOTS,
        build: NodeConfig::build().to_owned(),
        engine: ENGINE_VERSION.to_owned(),
        folder: None,
    };
    let coordinator = FleetClient::new(endpoint(&target.coordinator)?.connect_lazy(), limits, token);
    let (replica, faults) = (Arc::new(Replica::default()), Arc::new(Faults::default()));
    let node = ShardNode::start(config, Arc::new(coordinator), replica, faults, supervisor);
    let (stop, proven) = (supervisor.shutdown_token(), AtomicBool::new(false));
    let service = shard_service(Arc::new(Silent { shard: node, proven }), identity, token, stop.clone());
    let health = Health::new();
    supervisor.spawn_critical("server", bound.serve(Routes::new(service), health, stop));
    Ok(())
}
