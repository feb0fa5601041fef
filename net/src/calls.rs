//! Calls to a server: how often one peer may call, how many calls may be open at once, and which connections are idle.
//!
//! The calls of shards and coordinators are not held against a rate: a shard must not seem lost because of clients.
//! Each of them shows a session token before it costs anything. Their registrations are, since strangers can
//! register. What a call's message may weigh is decided elsewhere (`unfinished`, `budget`).

use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use proto::v1::{executor_shard_server, fleet_server};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower::Layer;

use crate::budget::{Budget, Reservation};
use crate::connections::ConnectionInfo;
use crate::identity::Account;
use crate::wire::status::exhausted;

/// How often one peer may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    per_second: NonZeroU32,
    /// The calls that it may make at once after a pause.
    at_once: NonZeroU32,
}

impl Rate {
    /// A rate; of numbers that are 0 it makes 1.
    const fn new(per_second: u32, at_once: u32) -> Self {
        Self { per_second: at_least_one(per_second), at_once: at_least_one(at_once) }
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// The rate of a client's calls.
const CLIENT_RATE: Rate = Rate::new(1_000, 2_000);

/// The rate of registrations. A whole fleet on one machine may begin at once.
const REGISTRATION_RATE: Rate = Rate::new(50, 1_024);

/// The most calls of one kind that are open at once at a server. One peer can have half of them.
const OPEN_CALLS: usize = 8_192;

/// The number of peers beyond which those are forgotten that have not called for a while.
const PEERS_REMEMBERED: usize = 4_096;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A shard asks to be taken into the fleet.
    Registration,
    /// Other calls between shards and coordinators.
    Fleet,
    /// Calls of clients and operators, health, reflection, and what is not known.
    Client,
}

impl Kind {
    fn of(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Self::Client;
        };
        match (service, method) {
            (fleet_server::SERVICE_NAME, "Register") => Self::Registration,
            (fleet_server::SERVICE_NAME | executor_shard_server::SERVICE_NAME, _) => Self::Fleet,
            _ => Self::Client,
        }
    }
}

/// How often each peer has called lately.
struct Rates {
    limiter: RateLimiter<Account, HashMapStateStore<Account>, MonotonicClock>,
    rate: Rate,
}

impl Rates {
    fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.at_once);
        Self { limiter: RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock), rate }
    }

    fn check(&self, account: &Account) -> Result<(), Status> {
        if self.limiter.len() > PEERS_REMEMBERED {
            self.limiter.retain_recent();
        }
        let Err(until) = self.limiter.check_key(account) else { return Ok(()) };
        let wait = until.wait_time_from(MonotonicClock.now());
        let Rate { per_second, .. } = self.rate;
        Err(exhausted(format!("more than {per_second} such calls a second; call again later"), wait))
    }
}

/// The book of one server's calls.
struct Calls {
    clients: Rates,
    registrations: Rates,
    open_clients: Budget,
    open_fleet: Budget,
}

impl Calls {
    fn new(clients: Rate, registrations: Rate, open: usize) -> Self {
        Self {
            clients: Rates::new(clients),
            registrations: Rates::new(registrations),
            open_clients: Budget::new("calls", open),
            open_fleet: Budget::new("calls", open),
        }
    }

    /// Enters a call. It leaves the book when the returned value is dropped.
    fn admit(&self, kind: Kind, account: Account) -> Result<Reservation, Status> {
        let open = match kind {
            Kind::Client => {
                self.clients.check(&account)?;
                &self.open_clients
            }
            Kind::Registration => {
                self.registrations.check(&account)?;
                &self.open_fleet
            }
            Kind::Fleet => &self.open_fleet,
        };
        let mut place = open.open(account);
        place.set(1).map_err(|full| {
            exhausted(format!("{} calls are open; call again later", full.limit), Duration::from_secs(1))
        })?;
        Ok(place)
    }
}

/// What the calls of one connection show of it.
#[derive(Debug)]
pub(crate) struct Activity {
    recognised: AtomicBool,
    open: AtomicUsize,
    /// When the last call ended; when the connection was made, if there was none.
    since: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            recognised: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
        }
    }
}

impl Activity {
    /// The peer has made a call and is not a stranger.
    pub(crate) fn recognise(&self) {
        self.recognised.store(true, Ordering::Release);
    }

    /// Whether the peer has made a call and is not a stranger.
    pub(crate) fn is_recognised(&self) -> bool {
        self.recognised.load(Ordering::Acquire)
    }

    /// How long no call has been open; `None` while one is.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.open.load(Ordering::Acquire) == 0).then(|| self.since.lock().elapsed())
    }
}

/// An open call of a connection.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<Activity>);

impl OpenCall {
    pub(crate) fn of(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        // The time first: a connection without open calls must not show the time of an earlier one.
        *self.0.since.lock() = Instant::now();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Watches the calls of a server. All its connections share one book.
#[derive(Clone)]
pub(crate) struct CallLayer(Arc<Calls>);

impl Default for CallLayer {
    fn default() -> Self {
        Self(Arc::new(Calls::new(CLIENT_RATE, REGISTRATION_RATE, OPEN_CALLS)))
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = Watching<S>;

    fn layer(&self, inner: S) -> Watching<S> {
        Watching { inner, calls: Arc::clone(&self.0) }
    }
}

/// A service whose calls are watched.
#[derive(Clone)]
pub(crate) struct Watching<S> {
    inner: S,
    calls: Arc<Calls>,
}

/// What a call holds from its beginning to the end of its answer; `None` if its connection is not known, as in
/// tests.
type Held = Option<(Reservation, OpenCall)>;

impl<S, B> Service<Request<Body>> for Watching<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let held = match request.extensions().get::<ConnectionInfo>() {
            None => None,
            Some(info) => match self.calls.admit(Kind::of(request.uri().path()), info.account()) {
                Ok(place) => Some((place, OpenCall::of(info.activity()))),
                Err(refusal) => return Answering { state: State::Refused { refusal: Some(refusal) } },
            },
        };
        Answering { state: State::Open { answer: self.inner.call(request), held } }
    }
}

pin_project! {
    /// The answer to a call, when it has come.
    pub(crate) struct Answering<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projected]
    enum State<F> {
        Open { #[pin] answer: F, held: Held },
        Refused { refusal: Option<Status> },
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Answer<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Refused { refusal } => {
                let refusal = refusal.take().unwrap_or_else(|| Status::internal("polled after its end"));
                Poll::Ready(Ok(refusal.into_http()))
            }
            Projected::Open { answer, held } => {
                let answer = ready!(answer.poll(context));
                let held = held.take();
                Poll::Ready(answer.map(|answer| answer.map(|body| Answer { body: Some(body), _held: held })))
            }
        }
    }
}

pin_project! {
    /// The body of an answer: as long as it is there, the call is open. A refusal has none.
    pub(crate) struct Answer<B> {
        #[pin]
        body: Option<B>,
        _held: Held,
    }
}

impl<B> Default for Answer<B> {
    fn default() -> Self {
        Self { body: None, _held: None }
    }
}

impl<B: http_body::Body> http_body::Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::net::{IpAddr, Ipv6Addr};

    use http_body_util::{BodyExt as _, Full};
    use proptest::prelude::*;
    use prost::bytes::Bytes;

    use super::*;
    use crate::identity::{Door, Peer};

    fn account(last: u16) -> Account {
        Account::Address(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, last, 0, 0, 0, 0)))
    }

    #[test]
    fn a_client_that_calls_too_often_is_told_when_to_call_again() {
        let calls = Calls::new(Rate::new(1, 3), Rate::new(1, 1), 100);
        for _ in 0..3 {
            assert!(calls.admit(Kind::Client, account(1)).is_ok());
        }
        let refusal = calls.admit(Kind::Client, account(1)).unwrap_err();
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        let hint = refusal.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
        assert!((1..=1_000).contains(&hint.parse::<u64>().unwrap()), "{hint}");
        assert!(calls.admit(Kind::Client, account(2)).is_ok(), "others have rates of their own");
        assert!(calls.admit(Kind::Fleet, account(1)).is_ok(), "and so have the shards of the same address");
    }

    #[test]
    fn registrations_have_a_rate_and_heartbeats_have_none() {
        let calls = Calls::new(Rate::new(1, 1), Rate::new(1, 2), 1_000);
        let admitted = |kind| (0..100).filter(|_| calls.admit(kind, account(1)).is_ok()).count();
        assert_eq!((admitted(Kind::Registration), admitted(Kind::Fleet)), (2, 100));
    }

    #[test]
    fn one_peer_cannot_have_all_open_calls_and_clients_none_of_the_fleets() {
        let calls = Calls::new(Rate::new(1_000, 1_000), Rate::new(1, 1), 8);
        let open = |count, account: u16| -> Vec<_> {
            (0..count).map_while(|_| calls.admit(Kind::Client, self::account(account)).ok()).collect()
        };
        let (first, second) = (open(9, 1), open(9, 2));
        assert_eq!((first.len(), second.len()), (4, 4));
        assert!(calls.admit(Kind::Client, account(3)).is_err(), "there are no more of them");
        assert!(calls.admit(Kind::Fleet, account(1)).is_ok());
        drop(first);
        assert!(calls.admit(Kind::Client, account(3)).is_ok());
    }

    #[test]
    fn peers_that_call_no_more_are_forgotten() {
        // A peer's calls are forgotten when it could make all of them again: here at once.
        let rates = Rates::new(Rate::new(u32::MAX, 1));
        for last in 0..=u16::MAX {
            let _ = rates.check(&account(last));
        }
        assert!(rates.limiter.len() <= PEERS_REMEMBERED + 1, "{}", rates.limiter.len());
    }

    #[test]
    fn a_connection_is_idle_when_its_last_call_has_ended() {
        let activity = Arc::new(Activity::default());
        assert!(activity.idle().is_some());
        let (first, second) = (OpenCall::of(&activity), OpenCall::of(&activity));
        drop(first);
        assert_eq!(activity.idle(), None);
        drop(second);
        assert!(activity.idle().is_some());
    }

    #[test]
    fn kinds_are_told_by_service_and_method() {
        assert_eq!(Kind::of("/shardexec.v1.Fleet/Register"), Kind::Registration);
        assert_eq!(Kind::of("/shardexec.v1.Fleet/Heartbeat"), Kind::Fleet);
        assert_eq!(Kind::of("/shardexec.v1.ExecutorShard/ExecuteBlock"), Kind::Fleet);
        assert_eq!(Kind::of("/shardexec.v1.Blocks/Status"), Kind::Client);
        assert_eq!(Kind::of("/grpc.health.v1.Health/Check"), Kind::Client);
    }

    #[tokio::test]
    async fn a_call_is_open_until_its_answer_has_ended() {
        let calls = Arc::new(Calls::new(Rate::new(1, 2), Rate::new(1, 1), 8));
        let answers = tower::service_fn(|_| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"answer"))))
        });
        let mut service = CallLayer(Arc::clone(&calls)).layer(answers);
        let activity = Arc::<Activity>::default();
        let address = "10.0.0.1:1".parse().unwrap();
        let peer = Peer::new(address, None, Door::default(), Arc::clone(&activity));
        let mut call = || {
            let mut request = Request::new(Body::empty());
            request.extensions_mut().insert(ConnectionInfo::of(peer.clone()));
            service.call(request)
        };
        let answer = call().await.unwrap();
        assert_eq!(activity.idle(), None, "its body has not been read");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "answer");
        assert!(activity.idle().is_some());
        drop(call());
        assert!(activity.idle().is_some(), "a call that is given up is not open");
        let refused = call().await.unwrap();
        assert_eq!(refused.headers().get("grpc-status").unwrap(), "8");
        assert!(refused.headers().contains_key("grpc-retry-pushback-ms"));
        assert!(refused.into_body().collect().await.unwrap().to_bytes().is_empty());
    }

    proptest! {
        #[test]
        fn every_path_has_a_kind(path in ".{0,80}") {
            Kind::of(&path);
        }
    }
}
