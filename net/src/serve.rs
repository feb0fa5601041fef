//! Servers of gRPC and of pages: binding, limits, identity, health and reflection, and a shutdown with a hard time
//! limit.

use std::net::SocketAddr;
use std::time::Duration;

use tasks::supervise::SupervisorHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::{Response, StatusCode};
use tonic::service::interceptor::InterceptedService;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::util::MapResponseLayer;

use crate::calls::CallLayer;
use crate::connections::{ConnectionLimits, connections, introduce};
use crate::identity::{Door, Roles, allowed};
use crate::unfinished;

/// The maximum number of concurrent requests on one connection.
const CONCURRENCY_PER_CONNECTION: usize = 256;

/// The maximum number of concurrent HTTP/2 streams on one connection.
const STREAMS_PER_CONNECTION: u32 = 512;

/// The largest HTTP/2 frame that a client may send, in bytes. With the default of 16 KiB a block and its delta
/// take a system call for each such piece, to every shard.
const MAX_FRAME_BYTES: u32 = 1 << 20;

/// The most bytes that one stream, and one connection, may send before their receiver has read them. Nothing else
/// limits the memory of calls whose service does not read on.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The largest size of a call's headers, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// The most streams that a peer may have reset before they were looked at (CVE-2023-44487, *rapid reset*), and that
/// this side may have reset because of the peer's errors. With more, the connection is closed.
const RESETS_BY_PEER: usize = 32;
const RESETS_FOR_ERRORS: usize = 256;

/// The largest request of the health service, in bytes: the name of a service.
const MAX_HEALTH_BYTES: usize = 4096;

/// The longest time for a graceful shutdown: hyper can wait for ever for a peer that never speaks.
const GRACE: Duration = Duration::from_secs(2);

/// Why a server cannot start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is in use, or does not belong to this machine.
    #[error("cannot listen on {address}: {source}; choose another address, or port 0 for any free port")]
    Bind {
        /// The address that was requested. Its port may be 0.
        address: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The reflection service cannot read the descriptors.
    #[error("the reflection service cannot be built: {0}")]
    Reflection(String),
    /// The server failed while it ran.
    #[error("the server on {address} failed: {source}")]
    Serve {
        /// The address that was served, with the actual port.
        address: SocketAddr,
        /// The error with which tonic's server ended.
        source: tonic::transport::Error,
    },
}

/// A socket that is bound but not served yet.
///
/// # Example
/// ```
/// use net::serve::{Bound, Health};
/// use tokio_util::sync::CancellationToken;
/// use tonic::service::Routes;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bound = Bound::bind("127.0.0.1:0".parse()?).await?;
/// assert_ne!(bound.address().port(), 0);
/// let health = Health::new();
/// let stop = CancellationToken::new();
/// stop.cancel(); // a program does this when it has been asked to stop
/// bound.serve(Routes::default(), health, stop).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    door: Door,
    limits: ConnectionLimits,
}

impl Bound {
    /// Binds `address`. Port 0 selects any free port.
    ///
    /// # Errors
    /// [`ServeError::Bind`] if the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let bind = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self { listener, address, door: Door::default(), limits: ConnectionLimits::default() })
    }

    /// Lets peers in by this door, instead of every peer.
    #[must_use]
    pub fn behind(self, door: Door) -> Self {
        Self { door, ..self }
    }

    /// Takes no more connections than `limits` allow.
    #[must_use]
    pub fn limited(self, limits: ConnectionLimits) -> Self {
        Self { limits, ..self }
    }

    /// The bound address, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `routes`, `grpc.health.v1` and reflection until `stop`, then lets open requests finish for a
    /// limited time.
    ///
    /// # Errors
    /// [`ServeError`] if the server fails before `stop`.
    pub async fn serve(
        self,
        routes: Routes,
        health: Health,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { listener, address, door, limits } = self;
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::v1::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let failed = |error: tonic_reflection::server::Error| ServeError::Reflection(error.to_string());
        // Python's client still asks for the older version.
        let (reflection, older) =
            (described().build_v1().map_err(failed)?, described().build_v1alpha().map_err(failed)?);
        // Where peers have identities, only operators see what there is to call. Where they have none, only this
        // machine does.
        let reveals = door.recognises_peers() || address.ip().is_loopback();
        let operators = |request: Request<()>| allowed(&request, Roles::OPERATOR).map(|_| request);
        let (reflection, older) =
            (InterceptedService::new(reflection, operators), InterceptedService::new(older, operators));
        let (age, incoming) = (limits.age, connections(listener, door, limits));
        let server = limited(age)
            .layer(CallLayer::default())
            .layer(unfinished::layer())
            .layer(InterceptorLayer::new(introduce))
            .add_routes(routes)
            .add_service(health.service())
            .add_optional_service(reveals.then_some(reflection))
            .add_optional_service(reveals.then_some(older))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        until_overdue(server, address, stop).await
    }

    /// Serves pages over HTTP/1.1 and HTTP/2 until `stop`, then lets open requests finish for a limited time.
    ///
    /// # Errors
    /// [`ServeError`] if the server fails before `stop`.
    pub async fn serve_pages(self, pages: Routes, stop: CancellationToken) -> Result<(), ServeError> {
        let Self { listener, address, door, limits } = self;
        let (age, incoming) = (limits.age, connections(listener, door.to_pages(), limits));
        let server = limited(age)
            .accept_http1(true)
            .layer(MapResponseLayer::new(in_plain_http))
            .layer(CallLayer::default())
            .layer(InterceptorLayer::new(introduce))
            .add_routes(pages)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        until_overdue(server, address, stop).await
    }
}

/// A server with all limits of HTTP.
fn limited(age: Option<Duration>) -> Server {
    let server = match age {
        Some(age) => Server::builder().max_connection_age(age),
        None => Server::builder(),
    };
    server
        .concurrency_limit_per_connection(CONCURRENCY_PER_CONNECTION)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_frame_size(MAX_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESETS_BY_PEER))
        .http2_max_local_error_reset_streams(Some(RESETS_FOR_ERRORS))
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// Says by the status of HTTP what the limits of calls say by that of gRPC.
fn in_plain_http<B>(mut response: Response<B>) -> Response<B> {
    let refused = Status::from_header_map(response.headers()).map(|status| status.code());
    *response.status_mut() = match refused {
        None | Some(Code::Ok) => return response,
        Some(Code::ResourceExhausted) => StatusCode::TOO_MANY_REQUESTS,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    response
}

async fn until_overdue(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    address: SocketAddr,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    tokio::select! {
        ended = server => ended.map_err(|source| ServeError::Serve { address, source }),
        () = overdue(stop) => {
            tracing::debug!(%address, "peers did not close their connections in time");
            Ok(())
        }
    }
}

async fn overdue(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// The service of a coordinator for clients, in `grpc.health.v1`.
pub const BLOCKS_SERVICE: &str = proto::v1::blocks_server::SERVICE_NAME;

/// The service of a shard, in `grpc.health.v1`.
pub const SHARD_SERVICE: &str = proto::v1::executor_shard_server::SERVICE_NAME;

/// How often a process is asked whether it can do its work.
const READY_EVERY: Duration = Duration::from_secs(1);

/// What `grpc.health.v1` says of a process: that it serves, and for a service that is [followed](Health::follow),
/// whether it can do its work.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
}

impl Default for Health {
    fn default() -> Self {
        Self { reporter: HealthReporter::new() }
    }
}

impl Health {
    /// Says that the process serves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says from now on whether the service of this name, with its package, can do its work: what `ready` answers, asked
    /// each second. `ready` may block; while it does, the last answer stands.
    pub fn follow(
        &self,
        service: &'static str,
        ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
        supervisor: &SupervisorHandle,
    ) {
        let (reporter, stop) = (self.reporter.clone(), supervisor.shutdown_token());
        supervisor.spawn_critical("health", async move {
            let following = async {
                loop {
                    let ready = tokio::task::spawn_blocking(ready.clone()).await?;
                    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
                    reporter.set_service_status(service, status).await;
                    tokio::time::sleep(READY_EVERY).await;
                }
            };
            stop.run_until_cancelled(following).await.unwrap_or(Ok::<(), tokio::task::JoinError>(()))
        });
    }

    fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
            .max_decoding_message_size(MAX_HEALTH_BYTES)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tasks::supervise::Supervisor;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_server::Health as _;

    use super::*;

    async fn says(health: &Health, service: &str) -> Option<i32> {
        let asked = HealthCheckRequest { service: service.into() };
        let service = HealthService::from_health_reporter(health.reporter.clone());
        service.check(Request::new(asked)).await.ok().map(|answer| answer.get_ref().status)
    }

    #[tokio::test]
    async fn the_health_of_a_service_is_whether_it_can_do_its_work_and_that_of_the_process_is_not() {
        let (serving, not) = (Some(1), Some(2));
        let (health, ready) = (Health::new(), Arc::new(AtomicBool::new(false)));
        assert_eq!((says(&health, "").await, says(&health, BLOCKS_SERVICE).await), (serving, None));
        let supervisor = Supervisor::new("test");
        let asked = Arc::clone(&ready);
        health.follow(BLOCKS_SERVICE, move || asked.load(Ordering::Acquire), &supervisor.handle());
        for (is, wanted) in [(false, not), (true, serving), (false, not)] {
            ready.store(is, Ordering::Release);
            let told = async {
                while says(&health, BLOCKS_SERVICE).await != wanted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(READY_EVERY * 20, told).await.unwrap();
            assert_eq!(says(&health, "").await, serving);
        }
    }
}
