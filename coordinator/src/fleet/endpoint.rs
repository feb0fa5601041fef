//! The endpoint that shards call: it makes the checks that need no decision, and passes the rest to the
//! driver.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::endpoint::{Admission, CoordinatorEndpoint, PeerError, SnapshotStream};
use common::id::{AssignmentId, Incarnation, ShardId};
use common::message::{
    Draining, Heartbeat, Leave, MAX_SLOTS, PROTOCOL_VERSION, Register, Registered, ResultReceipt,
    SnapshotRequest, SubmitResult,
};
use common::token::SessionToken;
use engine::ENGINE_VERSION;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::message::{Beat, Message};
use super::snapshot::Snapshots;
use super::{FleetError, Shared};
use schedule::{Event, LossCause};

/// The longest that an answer of the driver may take.
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
}

impl Admission for FleetEndpoint {
    fn check_caller(
        &self,
        token: &SessionToken,
        shard: ShardId,
        incarnation: Incarnation,
    ) -> Result<(), PeerError> {
        self.shared.members.check_caller(token, shard, incarnation)
    }

    fn check_assigned(&self, assignment: &AssignmentId) -> Result<(), PeerError> {
        self.shared.members.check_assigned(assignment)
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
        let ours = self.shared.world().map(|world| world.spec().chain_id);
        if let (Some(theirs), Some(ours)) = (request.chain_id, ours)
            && theirs != ours
        {
            return Err(PeerError::Refused(format!(
                "shard {} is for chain {theirs}, this coordinator serves chain {ours}; start it afresh, or with the right --coordinator",
                request.shard
            )));
        }
        if request.slots == 0 {
            return Err(PeerError::Refused(format!("shard {} offers no slots", request.shard)));
        }
        if request.slots > MAX_SLOTS {
            return Err(PeerError::Refused(format!(
                "shard {} offers {} slots, more than {MAX_SLOTS}; start it with fewer --threads",
                request.shard, request.slots
            )));
        }
        let (reply, answer) = oneshot::channel();
        self.ask(Message::Register(request, reply), answer).await?
    }

    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), PeerError> {
        let Heartbeat { shard, incarnation, state, epoch, slots, queued, .. } = heartbeat;
        self.shared.members.check_known(shard, incarnation)?;
        if epoch != self.shared.epoch {
            return Err(PeerError::NotRegistered(format!(
                "this coordinator's epoch is {}",
                self.shared.epoch
            )));
        }
        let beat = Beat { incarnation, at: self.shared.now(), state, slots, queued };
        if self.shared.beats.lock().insert(shard, beat).is_some() {
            // The driver has not taken the one before, and takes this one instead.
            return Ok(());
        }
        let told = self.tell(Message::Heartbeat(shard));
        if told.is_err() {
            self.shared.beats.lock().remove(&shard);
        }
        told
    }

    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
        let (reply, answer) = oneshot::channel();
        let assignment = result.assignment;
        let receipt = self.ask(Message::Result(result, reply), answer).await??;
        self.shared.members.answered(&assignment);
        Ok(receipt)
    }

    async fn draining(&self, notice: Draining) -> Result<(), PeerError> {
        let Draining { shard, incarnation } = notice;
        self.shared.members.check_known(shard, incarnation)?;
        self.tell(Message::Event(self.shared.now(), Event::Draining { shard, incarnation }))
    }

    async fn leave(&self, leave: Leave) -> Result<(), PeerError> {
        let Leave { shard, incarnation, reason } = leave;
        self.shared.members.check_known(shard, incarnation)?;
        // Its drain notice may still be in flight: a shard that leaves is draining, not lost.
        self.tell(Message::Event(self.shared.now(), Event::Draining { shard, incarnation }))?;
        let cause = LossCause::Left;
        self.tell(Message::Event(self.shared.now(), Event::Lost { shard, incarnation, cause, reason }))
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        self.shared.members.check_known(request.shard, request.incarnation)?;
        self.snapshots.stream(request).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fleet::{Fleet, FleetOptions};
    use alloy_primitives::B256;
    use common::chain_spec::ChainSpec;
    use common::id::{Epoch, Height, Incarnation, ShardId};
    use common::message::Caller;
    use ledger::{Ledger, Origin};
    use tasks::supervise::Supervisor;

    fn request() -> Register {
        Register {
            protocol: PROTOCOL_VERSION,
            build: "test".into(),
            engine: ENGINE_VERSION.into(),
            shard: ShardId(4),
            incarnation: Incarnation(1),
            slots: 1,
            // No process listens there: the link fails later, which this test does not check.
            advertise: "127.0.0.1:1".into(),
            from: Some(Caller { address: std::net::Ipv4Addr::LOCALHOST.into(), same_machine: true }),
            state: None,
            chain_id: None,
            token: SessionToken::fresh(),
        }
    }

    /// Asks a fleet with mainnet's rules to admit a shard.
    async fn register(request: Register) -> Result<Registered, PeerError> {
        let supervisor = Supervisor::new("test");
        let fleet = Fleet::start(Epoch::first(), FleetOptions::default(), &supervisor.handle()).unwrap();
        let origin = Origin {
            spec: ChainSpec::mainnet(),
            height: Height(0),
            block_hash: B256::ZERO,
            header: None,
            accounts: vec![],
            code: vec![],
            ancestors: vec![],
            complete: true,
        };
        fleet.set_world(Arc::new(Ledger::begin(origin).unwrap())).unwrap();
        let answer = fleet.endpoint().register(request).await;
        let drained = supervisor.drain(Duration::from_secs(5), std::future::pending()).await;
        assert!(drained.is_clean(), "{drained:?}");
        answer
    }

    fn refusal(answer: Result<Registered, PeerError>) -> String {
        match answer {
            Err(PeerError::Refused(reason)) => reason,
            other => unreachable!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_shard_that_fits_is_taken() {
        assert!(register(request()).await.is_ok());
    }

    #[tokio::test]
    async fn a_shard_of_another_protocol_version_is_told_both_versions() {
        let reason = refusal(register(Register { protocol: 77, ..request() }).await);
        assert!(reason.contains("77") && reason.contains(&PROTOCOL_VERSION.to_string()), "{reason}");
    }

    #[tokio::test]
    async fn a_shard_of_another_chain_is_told_both_chains() {
        let reason = refusal(register(Register { chain_id: Some(1337), ..request() }).await);
        assert!(reason.contains("chain 1337") && reason.contains("chain 1;"), "{reason}");
    }

    #[tokio::test]
    async fn a_shard_with_another_engine_is_refused() {
        let reason = refusal(register(Register { engine: "revm-1".into(), ..request() }).await);
        assert!(reason.contains("revm-1"), "{reason}");
    }

    #[tokio::test]
    async fn a_heartbeat_of_a_stranger_asks_it_to_register() {
        let supervisor = Supervisor::new("test");
        let fleet = Fleet::start(Epoch::first(), FleetOptions::default(), &supervisor.handle()).unwrap();
        let heartbeat = Heartbeat {
            shard: ShardId(9),
            incarnation: Incarnation(1),
            epoch: fleet.epoch(),
            state: None,
            slots: vec![],
            queued: 0,
            outbox: 0,
        };
        let answer = fleet.endpoint().heartbeat(heartbeat).await;
        assert!(matches!(answer, Err(PeerError::NotRegistered(_))), "{answer:?}");
        assert!(supervisor.drain(Duration::from_secs(5), std::future::pending()).await.is_clean());
    }
}
