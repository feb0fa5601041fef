//! The administration of a process over HTTP: whether it lives and is ready, what it measures, its status and events,
//! its options, its tasks.
//!
//! Everything here reads. What changes a process is a call of an operator over gRPC. The pages are served behind the
//! same doors and limits as every other address ([`crate::serve`]). What a process tells is its own to say
//! ([`Subject`]).

mod metrics;
mod pages;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use futures_util::stream::BoxStream;
use serde_json::Value;
use tasks::supervise::SupervisorHandle;
use tonic::service::Routes;

use crate::bounded::BoundedExecutor;
use crate::connections::ConnectionLimits;
use crate::identity::{CredentialError, Door, ListenArgs};
use crate::serve::{Bound, ServeError};

pub use metrics::{Kind, Metric, Metrics, MetricsError, PROCESS, WITH_TLS, markdown, metric};

/// The most pages that are made at once. Each may wait for the disk or for another thread.
const PAGES_AT_ONCE: usize = 4;

/// What a process tells of itself. All functions but `events` may block for a moment.
pub trait Subject: Send + Sync + 'static {
    /// Why the process cannot do its work now, in words; empty if it can.
    fn unready(&self) -> Vec<String>;

    /// Its status.
    ///
    /// # Errors
    /// Why it cannot be told.
    fn status(&self) -> Result<Value, String>;

    /// Its options, without secrets.
    fn config(&self) -> Value;

    /// Sets the gauges of its table.
    fn measure(&self);

    /// Its recent blocks, the newest first; `None` if it has none to tell of.
    fn blocks(&self) -> Option<Value> {
        None
    }

    /// One of its recent blocks.
    fn block(&self, _number: u64) -> Option<Value> {
        None
    }

    /// How one of its recent blocks was executed, in the *Trace Event Format* of Chrome.
    fn trace(&self, _number: u64) -> Option<Value> {
        None
    }

    /// The root page for people, as HTML that needs nothing but the other pages; `None` if it has none.
    fn home(&self) -> Option<&'static str> {
        None
    }

    /// What happens from now on; `None` if it tells no events.
    fn events(&self) -> Option<BoxStream<'static, Value>> {
        None
    }
}

/// The pages of one process.
#[derive(Clone)]
pub struct Admin {
    subject: Arc<dyn Subject>,
    metrics: Metrics,
    supervisor: SupervisorHandle,
    door: Door,
    blocking: BoundedExecutor,
    /// Whether only processes of this machine reach the pages, and nothing shows who they are.
    is_local: bool,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// The pages of `subject`, a process that keeps `metrics`.
    #[must_use]
    pub fn new(
        subject: Arc<dyn Subject>,
        metrics: Metrics,
        door: Door,
        supervisor: SupervisorHandle,
    ) -> Self {
        let blocking = BoundedExecutor::new("administration", PAGES_AT_ONCE);
        Self { subject, metrics, supervisor, door, blocking, is_local: false }
    }

    /// Refuses requests that name another host than this machine, if nothing else shows who asks. A browser sends such
    /// requests for a page of another host whose name leads to this machine (*DNS rebinding*).
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.is_local = address.ip().is_loopback() && !self.door.recognises_peers();
        self
    }

    /// The pages as routes for [`crate::serve::Bound::serve_pages`].
    #[must_use]
    pub fn routes(self) -> Routes {
        Routes::from(pages::router(self))
    }
}

/// Where a process serves its administration.
#[derive(Debug, Clone, Default, Args)]
pub struct AdminArgs {
    /// Serve health, metrics, status and events over HTTP at this address; port 0 takes any free port
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<SocketAddr>,

    /// Write the bound address of the administration to this file, as "admin ADDRESS"
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub admin_address_file: Option<PathBuf>,
}

/// An address that is bound for the administration.
#[derive(Debug)]
pub struct BoundAdmin {
    bound: Bound,
    door: Door,
    metrics: Metrics,
}

impl AdminArgs {
    /// Binds the address, if there is one, and begins to keep the metrics of `table` and those of every process. Other
    /// addresses than loopback need TLS or `--insecure`, as `listen` says.
    ///
    /// # Errors
    /// If the address is refused or cannot be bound, or if the process keeps its metrics already.
    pub async fn bind(
        &self,
        door: &Door,
        limits: ConnectionLimits,
        listen: &ListenArgs,
        (program, table): (&'static str, &'static [Metric]),
        supervisor: &SupervisorHandle,
    ) -> Result<Option<BoundAdmin>, AdminError> {
        let Some(address) = self.admin else { return Ok(None) };
        listen.check(address, door.credentials().is_some())?;
        let bound = Bound::bind(address).await?.behind(door.clone()).limited(limits);
        if let Some(path) = &self.admin_address_file {
            std::fs::write(path, format!("admin {}\n", bound.address()))
                .map_err(|source| AdminError::AddressFile { path: path.clone(), source })?;
        }
        let metrics = Metrics::install(program, table, supervisor)?;
        Ok(Some(BoundAdmin { bound, door: door.clone(), metrics }))
    }
}

/// Why a process cannot serve its administration.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address may not be served without TLS.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The address cannot be bound.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The address cannot be written.
    #[error("{path} cannot be written: {source}", path = path.display())]
    AddressFile {
        /// The file of the address.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The metrics cannot be kept.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl BoundAdmin {
    /// The bound address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// Serves the pages of `subject` until shutdown.
    pub fn serve(self, subject: Arc<dyn Subject>, supervisor: &SupervisorHandle) {
        let pages = Admin::new(subject, self.metrics, self.door, supervisor.clone());
        let pages = pages.at(self.bound.address()).routes();
        tracing::info!(address = %self.bound.address(), "administration: serving");
        supervisor.spawn_critical("admin-server", self.bound.serve_pages(pages, supervisor.shutdown_token()));
    }
}
