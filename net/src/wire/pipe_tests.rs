//! Streams of results between a real client and a real server.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use alloy_primitives::B256;
use async_trait::async_trait;
use common::endpoint::{Admission, CoordinatorEndpoint, PeerError, SnapshotStream};
use common::id::{AssignmentId, Attempt, Epoch, Incarnation, ShardId, WorkId};
use common::message::{
    Draining, Heartbeat, Leave, Register, Registered, ResultReceipt, SnapshotRequest, SubmitResult,
};
use common::token::SessionToken;
use common::work::{WorkFailure, WorkOutput};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{FleetClient, fleet_service};
use crate::channel;
use crate::identity::{Expect, Security};
use crate::limits::PeerLimits;
use crate::serve::{Bound, Health, ServeError};

/// Uses results of even attempts, has no time for those of odd ones, and may stop to answer at all.
#[derive(Debug, Default)]
struct Parity {
    silent: AtomicBool,
    received: AtomicU32,
    arrived: Notify,
}

fn unused<T>() -> Result<T, PeerError> {
    Err(PeerError::Protocol("this test does not call it".into()))
}

#[async_trait]
impl CoordinatorEndpoint for Parity {
    async fn register(&self, _: Register) -> Result<Registered, PeerError> {
        unused()
    }

    async fn heartbeat(&self, _: Heartbeat) -> Result<(), PeerError> {
        unused()
    }

    async fn submit_result(&self, result: Arc<SubmitResult>) -> Result<ResultReceipt, PeerError> {
        self.received.fetch_add(1, Ordering::SeqCst);
        self.arrived.notify_one();
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if result.assignment.attempt.0.is_multiple_of(2) {
            Ok(ResultReceipt::Used)
        } else {
            Err(PeerError::Overloaded(format!("{} is odd", result.assignment.attempt.0)))
        }
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

impl Admission for Parity {
    fn check_caller(&self, _: &SessionToken, _: ShardId, _: Incarnation) -> Result<(), PeerError> {
        Ok(())
    }

    fn check_assigned(&self, assignment: &AssignmentId) -> Result<(), PeerError> {
        match assignment.attempt.0 {
            UNKNOWN => Err(PeerError::Refused("not assigned".into())),
            _ => Ok(()),
        }
    }
}

/// The attempt of an assignment that was not made.
const UNKNOWN: u32 = 1_000_000;

fn result(attempt: u32) -> Arc<SubmitResult> {
    let assignment = AssignmentId {
        work: WorkId(B256::repeat_byte(1)),
        shard: ShardId(1),
        incarnation: Incarnation(5),
        attempt: Attempt(attempt),
        epoch: Epoch { number: 1, instance: 1 },
    };
    // Results of very different sizes, some in several chunks.
    let outcome = match attempt {
        7 => Err(WorkFailure::State("x".repeat(3 << 20))),
        _ => Ok(WorkOutput::Recovered(vec![])),
    };
    Arc::new(SubmitResult { assignment, outcome, digest: None })
}

struct Server {
    endpoint: Arc<Parity>,
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    async fn start(at: SocketAddr) -> Self {
        let bound = Bound::bind(at).await.unwrap();
        let address = bound.address();
        let (stop, endpoint) = (CancellationToken::new(), Arc::new(Parity::default()));
        let routes =
            Routes::new(fleet_service(Arc::clone(&endpoint) as _, Arc::clone(&endpoint) as _, stop.clone()));
        let health = Health::new();
        let task = tokio::spawn(bound.serve(routes, health, stop.clone()));
        Self { endpoint, address, stop, task }
    }

    fn client(&self, transfer: Duration) -> Arc<FleetClient> {
        let limits = PeerLimits { transfer, ..PeerLimits::default() };
        let (url, plain) = (format!("http://{}", self.address), Security::default());
        let channel = channel::lazy(&url, &limits, &plain, Expect::Coordinator).unwrap();
        Arc::new(FleetClient::new(channel, limits, SessionToken::fresh()))
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap().unwrap();
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn each_of_many_calls_gets_its_own_answer() {
    let server = Server::start(any_port()).await;
    let client = server.client(Duration::from_secs(30));
    let mut calls = JoinSet::new();
    for attempt in 0..300 {
        let client = Arc::clone(&client);
        calls.spawn(async move { (attempt, client.submit_result(result(attempt)).await) });
    }
    while let Some(call) = calls.join_next().await {
        let (attempt, answer) = call.unwrap();
        let expected = match attempt % 2 {
            0 => Ok(ResultReceipt::Used),
            _ => Err(PeerError::Overloaded(format!("{attempt} is odd"))),
        };
        assert_eq!(answer, expected);
    }
    assert_eq!(server.endpoint.received.load(Ordering::SeqCst), 300);
    server.end().await;
}

#[tokio::test]
async fn an_unwanted_result_is_refused_and_does_not_reach_the_coordinator() {
    let server = Server::start(any_port()).await;
    let client = server.client(Duration::from_secs(30));
    assert_eq!(client.submit_result(result(2)).await, Ok(ResultReceipt::Used));
    let answer = client.submit_result(result(UNKNOWN)).await;
    assert_eq!(answer, Err(PeerError::Refused("not assigned".into())));
    // The stream goes on after it.
    assert_eq!(client.submit_result(result(4)).await, Ok(ResultReceipt::Used));
    assert_eq!(server.endpoint.received.load(Ordering::SeqCst), 2);
    server.end().await;
}

#[tokio::test]
async fn the_end_of_a_stream_fails_those_who_wait_and_the_next_call_opens_another() {
    let server = Server::start(any_port()).await;
    let client = server.client(Duration::from_secs(30));
    assert_eq!(client.submit_result(result(2)).await, Ok(ResultReceipt::Used));
    server.endpoint.silent.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.submit_result(result(4)).await }
    });
    let arrived = async {
        while server.endpoint.received.load(Ordering::SeqCst) < 2 {
            server.endpoint.arrived.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), arrived).await.unwrap();
    let address = server.address;
    server.end().await;
    let answer = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    assert!(matches!(answer, Err(PeerError::Unreachable(_))), "{answer:?}");

    let server = Server::start(address).await;
    // The first call may still meet the connection that has ended.
    let again = async { while client.submit_result(result(6)).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), again).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn a_stream_without_an_answer_in_time_is_given_up() {
    let server = Server::start(any_port()).await;
    let client = server.client(Duration::from_secs(3));
    server.endpoint.silent.store(true, Ordering::SeqCst);
    let answer = client.submit_result(result(2)).await;
    assert_eq!(answer, Err(PeerError::Unreachable("no answer within 3s".into())));
    server.endpoint.silent.store(false, Ordering::SeqCst);
    // The first result still occupies the old stream; this one travels on another.
    assert_eq!(client.submit_result(result(4)).await, Ok(ResultReceipt::Used));
    server.end().await;
}
