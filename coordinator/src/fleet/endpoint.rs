//! What shards call: the checks that need no decision, and the way to the driver.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::endpoint::{CoordinatorEndpoint, PeerError, SnapshotStream};
use common::message::{
    Draining, Heartbeat, Leave, PROTOCOL_VERSION, Register, Registered, ResultReceipt, SnapshotRequest,
    SubmitResult,
};
use executor_shard::engine::ENGINE_VERSION;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::driver::Message;
use super::snapshot::Snapshots;
use super::{FleetError, Shared};
use crate::schedule::Event;

/// How long the driver may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The coordinator's endpoint for shards.
#[derive(Debug)]
pub(super) struct FleetEndpoint {
    shared: Arc<Shared>,
    snapshots: Snapshots,
}

impl FleetEndpoint {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { snapshots: Snapshots::new(Arc::clone(&shared)), shared }
    }

    fn tell(&self, message: Message) -> Result<(), PeerError> {
        self.shared.send(message).map_err(|error| match error {
            FleetError::Overloaded => PeerError::Overloaded(error.to_string()),
            other => PeerError::Unreachable(other.to_string()),
        })
    }

    async fn ask<T>(&self, message: Message, answer: oneshot::Receiver<T>) -> Result<T, PeerError> {
        self.tell(message)?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(PeerError::Unreachable("the coordinator is stopping".into())),
            Err(_) => Err(PeerError::Overloaded("the coordinator does not keep up".into())),
        }
    }

    /// This life of the shard must be the one that is known.
    fn check_known(
        &self,
        shard: common::id::ShardId,
        incarnation: common::id::Incarnation,
    ) -> Result<(), PeerError> {
        match self.shared.alive(shard) {
            Some(known) if known == incarnation => Ok(()),
            Some(_) => {
                Err(PeerError::Refused(format!("another process has taken the place of shard {shard}")))
            }
            None => Err(PeerError::NotRegistered(format!("shard {shard} is not part of the fleet"))),
        }
    }
}

#[async_trait]
impl CoordinatorEndpoint for FleetEndpoint {
    async fn register(&self, request: Register) -> Result<Registered, PeerError> {
        if request.protocol != PROTOCOL_VERSION {
            return Err(PeerError::Refused(format!(
                "shard {} speaks protocol {}, this coordinator speaks {PROTOCOL_VERSION}; run the same build on both",
                request.shard, request.protocol
            )));
        }
        if request.engine != ENGINE_VERSION {
            return Err(PeerError::Refused(format!(
                "shard {} has engine {}, this coordinator has {ENGINE_VERSION}; run the same build on both",
                request.shard, request.engine
            )));
        }
        if request.slots == 0 {
            return Err(PeerError::Refused(format!("shard {} offers no slots", request.shard)));
        }
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Register(request, reply), answer).await?
    }

    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), PeerError> {
        let Heartbeat { shard, incarnation, state, epoch, .. } = heartbeat;
        self.check_known(shard, incarnation)?;
        if epoch != self.shared.epoch {
            return Err(PeerError::NotRegistered(format!(
                "this coordinator's epoch is {}",
                self.shared.epoch
            )));
        }
        self.tell(Message::Heartbeat { shard, incarnation, at: self.shared.now(), state })
    }

    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Result(result, reply), answer).await?
    }

    async fn draining(&self, notice: Draining) -> Result<(), PeerError> {
        let Draining { shard, incarnation } = notice;
        self.check_known(shard, incarnation)?;
        self.tell(Message::Event(self.shared.now(), Event::Draining { shard, incarnation }))
    }

    async fn leave(&self, leave: Leave) -> Result<(), PeerError> {
        let Leave { shard, incarnation, reason } = leave;
        self.check_known(shard, incarnation)?;
        self.tell(Message::Event(self.shared.now(), Event::Lost { shard, incarnation, reason }))
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        self.check_known(request.shard, request.incarnation)?;
        self.snapshots.stream(request).await
    }
}
