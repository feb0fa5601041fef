//! Damage in transit: the coordinator gets selected results with a digest that does not fit them.
//!
//! The coordinator computes the digest of the received bytes and compares it with the announced one. So
//! a wrong announcement has the same effect as a changed byte, and no code below the endpoint knows it.

use std::sync::Arc;

use alloy_primitives::B256;
use async_trait::async_trait;
use common::endpoint::{CoordinatorEndpoint, PeerError, SnapshotStream};
use common::message::{
    Draining, Heartbeat, Leave, Register, Registered, ResultReceipt, SnapshotRequest, SubmitResult,
};

use super::Faults;

/// The announced digest of a damaged result. BLAKE3 gives it for no result that anyone could find.
const WRONG_DIGEST: B256 = B256::repeat_byte(0xff);

/// A coordinator behind a line that damages the results that the planned faults select.
#[derive(Debug)]
pub struct DamagingLine {
    coordinator: Arc<dyn CoordinatorEndpoint>,
    faults: Arc<Faults>,
}

impl DamagingLine {
    /// Wraps the endpoint of a coordinator.
    #[must_use]
    pub fn new(coordinator: Arc<dyn CoordinatorEndpoint>, faults: Arc<Faults>) -> Self {
        Self { coordinator, faults }
    }
}

#[async_trait]
impl CoordinatorEndpoint for DamagingLine {
    async fn register(&self, request: Register) -> Result<Registered, PeerError> {
        self.coordinator.register(request).await
    }

    async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), PeerError> {
        self.coordinator.heartbeat(heartbeat).await
    }

    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
        if !self.faults.is_damaged(&result.assignment) {
            return self.coordinator.submit_result(result).await;
        }
        let SubmitResult { assignment, outcome, .. } = result.as_ref().clone();
        let damaged = SubmitResult { assignment, outcome, digest: Some(WRONG_DIGEST) };
        self.coordinator.submit_result(Arc::new(damaged)).await
    }

    async fn draining(&self, notice: Draining) -> Result<(), PeerError> {
        self.coordinator.draining(notice).await
    }

    async fn leave(&self, leave: Leave) -> Result<(), PeerError> {
        self.coordinator.leave(leave).await
    }

    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
        self.coordinator.snapshot(request).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    use common::endpoint::Admission;
    use common::id::{AssignmentId, Attempt, Epoch, Incarnation, ShardId, WorkId};
    use common::token::SessionToken;
    use common::work::{WorkFailure, WorkOutput};
    use net::channel;
    use net::identity::{Expect, Security};
    use net::limits::PeerLimits;
    use net::serve::{Bound, Health};
    use net::wire::{FleetClient, fleet_service};
    use parking_lot::Mutex;
    use tokio_util::sync::CancellationToken;
    use tonic::service::Routes;

    /// A coordinator that keeps the results that reach it.
    #[derive(Debug, Default)]
    struct Collector(Mutex<Vec<Arc<SubmitResult>>>);

    fn unused<T>() -> Result<T, PeerError> {
        Err(PeerError::Protocol("this test does not call it".into()))
    }

    #[async_trait]
    impl CoordinatorEndpoint for Collector {
        async fn register(&self, _: Register) -> Result<Registered, PeerError> {
            unused()
        }

        async fn heartbeat(&self, _: Heartbeat) -> Result<(), PeerError> {
            unused()
        }

        async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
            self.0.lock().push(result);
            Ok(ResultReceipt::Used)
        }

        async fn draining(&self, _: Draining) -> Result<(), PeerError> {
            unused()
        }

        async fn leave(&self, _: Leave) -> Result<(), PeerError> {
            unused()
        }

        async fn snapshot(&self, _: SnapshotRequest) -> Result<SnapshotStream, PeerError> {
            unused()
        }
    }

    impl Admission for Collector {
        fn check_caller(&self, _: &SessionToken, _: ShardId, _: Incarnation) -> Result<(), PeerError> {
            Ok(())
        }

        fn check_assigned(&self, _: &AssignmentId) -> Result<(), PeerError> {
            Ok(())
        }
    }

    fn result(work: u8) -> Arc<SubmitResult> {
        let assignment = AssignmentId {
            work: WorkId(B256::repeat_byte(work)),
            shard: ShardId(1),
            incarnation: Incarnation(5),
            attempt: Attempt(1),
            epoch: Epoch { number: 1, instance: 1 },
        };
        Arc::new(SubmitResult { assignment, outcome: Ok(WorkOutput::Recovered(vec![])), digest: None })
    }

    #[tokio::test]
    async fn the_coordinator_finds_a_damaged_result_by_its_digest() {
        let collector = Arc::new(Collector::default());
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", bound.address());
        let health = Health::new();
        let stop = CancellationToken::new();
        let routes = Routes::new(fleet_service(
            Arc::clone(&collector) as _,
            Arc::clone(&collector) as _,
            stop.clone(),
        ));
        let server = tokio::spawn(bound.serve(routes, health, stop.clone()));

        let limits = PeerLimits::default();
        let channel = channel::lazy(&url, &limits, &Security::default(), Expect::Coordinator).unwrap();
        let client = FleetClient::new(channel, limits, SessionToken::fresh());
        let faults = Arc::new(Faults::default());
        let line = DamagingLine::new(Arc::new(client), Arc::clone(&faults));
        let (damaged, sound) = (result(1), result(2));
        faults.damage(damaged.assignment);
        for sent in [&damaged, &sound] {
            assert_eq!(line.submit_result(Arc::clone(sent)).await, Ok(ResultReceipt::Used));
        }

        let received = collector.0.lock().clone();
        assert_eq!(received[0].assignment, damaged.assignment);
        assert_eq!(received[0].outcome, Err(WorkFailure::Damaged));
        assert_eq!(received[1].outcome, sound.outcome);
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), server).await.unwrap().unwrap().unwrap();
    }
}
