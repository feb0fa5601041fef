//! A shard put together: replica, slots and session behind the endpoint that the coordinator calls, over the
//! network or within one process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::account::Delta;
use common::endpoint::{CoordinatorEndpoint, PeerError, ShardEndpoint};
use common::id::{AssignmentId, Epoch, Incarnation, ShardId};
use common::message::{Heartbeat, PROTOCOL_VERSION, Refusal, Register, StateSummary};
use common::sealed::Sealed;
use common::token::SessionToken;
use common::work::{ExecuteBlock, WorkKind};
use net::backoff::BackoffPolicy;
use net::bounded::BoundedExecutor;
use net::monitor::Health;
use parking_lot::Mutex;
use tasks::supervise::SupervisorHandle;
use tokio_util::sync::CancellationToken;

use crate::change::Change;
use crate::fault::Faults;
use crate::fetch::fetch_state;
use crate::replica::{Replica, ReplicaError};
use crate::session::{Accepted, SessionConfig, SessionHandle, SessionOptions, run_session};
use crate::worker::{PreparedWork, SlotEvent, Slots};
use engine::ENGINE_VERSION;

/// The most assignments per slot that a shard has accepted and not delivered.
const QUEUE_PER_SLOT: usize = 8;

/// The most states moved at the same time.
const BLOCKING_AT_ONCE: usize = 4;

/// The settings of a shard.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its id, set by the operator.
    pub shard: ShardId,
    /// Its incarnation, drawn anew for every start: [`Incarnation::fresh`].
    pub incarnation: Incarnation,
    /// The number of its worker threads, at least one.
    pub slots: u16,
    /// The address of its service; empty for a shard within the coordinator's process.
    pub advertise: String,
    /// The coordinator's silence after which it counts as away.
    pub lost_after: Duration,
    /// The only chain that it serves; `None` if the operator does not restrict it.
    pub chain_id: Option<u64>,
    /// The secret with which it registers: [`SessionToken::fresh`].
    pub token: SessionToken,
}

impl NodeConfig {
    /// The name and version of this build, which the shard reports to coordinators.
    #[must_use]
    pub fn build() -> &'static str {
        concat!("executor-shard/", env!("CARGO_PKG_VERSION"))
    }
}

/// A running shard. The supervisor owns its session and its threads, so they outlive this value.
///
/// # Example
/// A shard without a gRPC server of its own, which registers at a coordinator as soon as there is one:
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use common::id::{Incarnation, ShardId};
/// use common::token::SessionToken;
/// use executor_shard::node::{NodeConfig, ShardNode};
/// use net::identity::{Expect, Security};
/// use net::limits::PeerLimits;
/// use net::wire::FleetClient;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = NodeConfig {
///     shard: ShardId(1),
///     incarnation: Incarnation::fresh(),
///     slots: 2,
///     advertise: "127.0.0.1:7101".to_owned(), // where the coordinator sends its commands
///     lost_after: Duration::from_secs(1),
///     chain_id: None,
///     token: SessionToken::fresh(),
/// };
/// let (limits, security) = (PeerLimits::default(), Security::default());
/// let channel = net::channel::lazy("http://127.0.0.1:7000", &limits, &security, Expect::Coordinator)?;
/// let coordinator = Arc::new(FleetClient::new(channel, limits, config.token));
/// let supervisor = tasks::supervise::Supervisor::new("shard");
/// let node = ShardNode::start(config, coordinator, Arc::default(), Arc::default(), &supervisor.handle());
/// node.begin_drain();
/// let drained = supervisor.drain(Duration::from_secs(5), std::future::pending()).await;
/// assert!(drained.is_clean());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ShardNode {
    config: NodeConfig,
    replica: Arc<Replica>,
    slots: Slots,
    queue: usize,
    session: SessionHandle,
    coordinator: Arc<dyn CoordinatorEndpoint>,
    cancels: Arc<Mutex<BTreeMap<AssignmentId, Arc<AtomicBool>>>>,
    /// Held while the replica changes; see [`Change`].
    changing: Arc<tokio::sync::Mutex<()>>,
    faults: Arc<Faults>,
    blocking: BoundedExecutor,
    /// Cancelled once the coordinator has asked this shard to leave.
    dismissed: CancellationToken,
}

/// How a shard is at the moment.
#[derive(Debug, Clone, Copy)]
pub struct NodeStatus {
    /// Its id.
    pub shard: ShardId,
    /// The incarnation of its process.
    pub incarnation: Incarnation,
    /// Whether it is registered with a coordinator.
    pub joined: bool,
    /// The number of the epoch that it joined last; `None` before the first.
    pub epoch: Option<u64>,
    /// Whether it takes no new work.
    pub draining: bool,
    /// The block after which it holds the state; `None` if it holds none.
    pub height: Option<u64>,
    /// The number of its slots.
    pub slots: usize,
    /// The number of slots that work.
    pub busy: usize,
    /// The number of assignments that it has accepted and that have no slot.
    pub queued: usize,
    /// The number of results that are not delivered yet.
    pub undelivered: usize,
    /// How the coordinator answers heartbeats.
    pub coordinator: Health,
}

impl NodeStatus {
    /// Why the shard cannot do its work now; empty if it can.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        let reasons = [
            (self.draining, "the shard is draining"),
            (!self.joined, "the shard is not registered with a coordinator"),
            (self.height.is_none(), "the shard holds no state"),
        ];
        reasons.iter().filter(|(holds, _)| *holds).map(|(_, reason)| (*reason).to_owned()).collect()
    }
}

/// The node's side of what the session reports.
#[derive(Debug)]
struct Introduction {
    config: NodeConfig,
    replica: Arc<Replica>,
    slots: Slots,
    session: SessionHandle,
    faults: Arc<Faults>,
}

impl SessionOptions for Introduction {
    fn register(&self) -> Register {
        Register {
            protocol: PROTOCOL_VERSION,
            build: NodeConfig::build().to_owned(),
            engine: ENGINE_VERSION.to_owned(),
            shard: self.config.shard,
            incarnation: self.config.incarnation,
            slots: self.config.slots,
            advertise: self.config.advertise.clone(),
            from: None,
            state: self.replica.summary(),
            chain_id: self.config.chain_id,
            token: self.config.token,
        }
    }

    fn heartbeat(&self) -> Option<Heartbeat> {
        let (epoch, outbox) = self.session.with(|session| (session.epoch(), session.undelivered()));
        Some(Heartbeat {
            shard: self.config.shard,
            incarnation: self.config.incarnation,
            epoch: epoch?,
            state: self.faults.reported_state(self.replica.summary()),
            slots: self.slots.progress(),
            queued: u32::try_from(self.slots.queued()).unwrap_or(u32::MAX),
            outbox: u32::try_from(outbox).unwrap_or(u32::MAX),
        })
    }
}

impl ShardNode {
    /// Starts slots and session under `supervisor`, with the state that `replica` holds. The session
    /// registers at once, and keeps trying while the coordinator is away.
    #[must_use]
    pub fn start(
        config: NodeConfig,
        coordinator: Arc<dyn CoordinatorEndpoint>,
        replica: Arc<Replica>,
        faults: Arc<Faults>,
        supervisor: &SupervisorHandle,
    ) -> Arc<Self> {
        let queue = QUEUE_PER_SLOT * usize::from(config.slots.max(1)) + QUEUE_PER_SLOT;
        let session = SessionHandle::new(SessionConfig {
            shard: config.shard,
            incarnation: config.incarnation,
            queue_limit: queue,
            parallel_sends: usize::from(config.slots.max(1)) + 1,
            lost_after: config.lost_after,
            backoff: BackoffPolicy::default(),
        });
        let cancels: Arc<Mutex<BTreeMap<AssignmentId, Arc<AtomicBool>>>> = Arc::default();
        let report = {
            let (session, cancels) = (session.clone(), Arc::clone(&cancels));
            Arc::new(move |event: SlotEvent| match event {
                SlotEvent::Finished(result) => {
                    cancels.lock().remove(&result.assignment);
                    session.finished(result);
                }
                SlotEvent::Dropped(assignment) => {
                    cancels.lock().remove(&assignment);
                    session.dropped(assignment);
                }
            })
        };
        let name = format!("shard-{}", config.shard);
        let (slots, slot_supervisor) = Slots::new(&name, config.slots, queue, Arc::clone(&faults), report);
        supervisor.spawn_thread(format!("{name}-slots"), move || slot_supervisor.run());
        let introduction = Introduction {
            config: config.clone(),
            replica: Arc::clone(&replica),
            slots: slots.clone(),
            session: session.clone(),
            faults: Arc::clone(&faults),
        };
        let stop = supervisor.shutdown_token();
        let drive =
            run_session(session.clone(), Arc::clone(&coordinator), Arc::new(introduction), stop.clone());
        let (idle_slots, open_cancels) = (slots.clone(), Arc::clone(&cancels));
        supervisor.spawn_critical(format!("{name}-session"), async move {
            let ended = drive.await;
            if ended.is_ok() {
                // Leaving is a normal end: the operator or supervisor that asked for it stops the process.
                stop.cancelled().await;
            }
            // No coordinator wants the remaining results any more.
            open_cancels.lock().values().for_each(|cancelled| cancelled.store(true, Ordering::Relaxed));
            idle_slots.close();
            ended
        });
        Arc::new(Self {
            config,
            replica,
            slots,
            queue,
            session,
            coordinator,
            cancels,
            changing: Arc::default(),
            faults,
            blocking: BoundedExecutor::new("shard state", BLOCKING_AT_ONCE),
            dismissed: CancellationToken::new(),
        })
    }

    /// Gives the slots of stuck threads to new threads. It serves a shard whose process cannot be restarted.
    pub fn renew_slots(&self) {
        self.slots.renew();
    }

    /// Begins to drain: the shard finishes and delivers what it holds, then leaves.
    pub fn begin_drain(&self) {
        self.session.drain();
    }

    /// How the shard is at the moment.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let progress = self.slots.progress();
        let (joined, epoch, draining, undelivered) = self.session.with(|session| {
            (session.is_joined(), session.epoch(), session.is_draining(), session.undelivered())
        });
        NodeStatus {
            shard: self.config.shard,
            incarnation: self.config.incarnation,
            joined,
            epoch: epoch.map(|epoch| epoch.number),
            draining,
            height: self.replica.summary().map(|held| held.state.height.0),
            slots: progress.len(),
            busy: progress.iter().filter(|slot| slot.current.is_some()).count(),
            queued: self.slots.queued(),
            undelivered,
            coordinator: self.session.coordinator_health(),
        }
    }

    /// Cancelled once the coordinator has asked this shard to leave. If a slot is stuck the shard may never
    /// finish what it holds, so its owner must end it after a grace period.
    #[must_use]
    pub fn dismissed(&self) -> CancellationToken {
        self.dismissed.clone()
    }

    /// Cancelled once the session has ended.
    #[must_use]
    pub fn left(&self) -> CancellationToken {
        self.session.left()
    }

    fn check_epoch(&self, epoch: Epoch) -> Result<(), PeerError> {
        self.session.with(|session| session.check_epoch(epoch)).map_err(PeerError::Command)
    }

    /// Collects all that the work needs, or says why the shard cannot do it.
    fn prepare(&self, command: ExecuteBlock) -> Result<PreparedWork, Refusal> {
        let ExecuteBlock { assignment, spec } = command;
        match spec.id() {
            Ok(id) if id == assignment.work => {}
            Ok(_) => return Err(malformed("the work is not the one that the assignment names")),
            Err(error) => return Err(malformed(&error.to_string())),
        }
        if spec.transactions.len() != spec.indices.len() {
            return Err(malformed("there are not as many transactions as indices"));
        }
        if !spec.indices.is_sorted_by(|left, right| left < right) {
            return Err(malformed("its indices do not ascend"));
        }
        let not_at_base =
            || Refusal::NotAtBase { at: self.replica.summary().map(|held| held.state), wanted: spec.base };
        let chain = self.replica.spec(spec.base.world).ok_or_else(not_at_base)?;
        let view = match &spec.kind {
            WorkKind::Recover => None,
            WorkKind::Execute { senders, .. } if senders.len() != spec.indices.len() => {
                return Err(malformed("there are not as many senders as transactions"));
            }
            WorkKind::Execute { .. } => Some(self.replica.view(spec.base).ok_or_else(not_at_base)?),
        };
        let cancelled = Arc::new(AtomicBool::new(false));
        Ok(PreparedWork { assignment, spec, chain, view, cancelled })
    }
}

fn malformed(reason: &str) -> Refusal {
    Refusal::Malformed { reason: reason.to_owned() }
}

#[async_trait]
impl ShardEndpoint for ShardNode {
    async fn execute(&self, command: ExecuteBlock) -> Result<(), PeerError> {
        let assignment = command.assignment;
        self.check_epoch(assignment.epoch)?;
        let job = self.prepare(command).map_err(PeerError::Command)?;
        if self.session.accept(assignment).map_err(PeerError::Command)? == Accepted::Already {
            return Ok(());
        }
        self.cancels.lock().insert(assignment, Arc::clone(&job.cancelled));
        if self.slots.offer(job).is_err() {
            self.cancels.lock().remove(&assignment);
            self.session.dropped(assignment);
            return Err(PeerError::Command(Refusal::QueueFull { limit: self.queue }));
        }
        Ok(())
    }

    async fn put_delta(&self, epoch: Epoch, delta: Sealed<Delta>) -> Result<StateSummary, PeerError> {
        self.check_epoch(epoch)?;
        let change = Change::begin(&self.changing, &self.blocking).await;
        let replica = Arc::clone(&self.replica);
        let wanted = delta.from;
        match change.run(move || replica.apply(delta.value())).await? {
            Ok(summary) => {
                metrics::counter!("shardexec_deltas_total").increment(1);
                Ok(summary)
            }
            Err(ReplicaError::NotAtBase { at, .. }) => {
                Err(PeerError::Command(Refusal::NotAtBase { at, wanted }))
            }
            Err(error) => {
                tracing::error!(%error, "the replica is given up");
                Err(PeerError::Command(Refusal::NotAtBase { at: None, wanted }))
            }
        }
    }

    async fn sync(&self, epoch: Epoch, target: StateSummary) -> Result<StateSummary, PeerError> {
        self.check_epoch(epoch)?;
        let change = Change::begin(&self.changing, &self.blocking).await;
        self.faults.mend();
        if self.replica.summary() == Some(target) {
            return Ok(target);
        }
        let who = (self.config.shard, self.config.incarnation);
        let coordinator = self.coordinator.as_ref();
        let summary = fetch_state(coordinator, &self.replica, &change, who, target.state).await?;
        tracing::info!(state = %summary.state, "the replica holds another state");
        Ok(summary)
    }

    async fn cancel(&self, assignment: AssignmentId) -> Result<(), PeerError> {
        self.check_epoch(assignment.epoch)?;
        if let Some(cancelled) = self.cancels.lock().get(&assignment) {
            cancelled.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn drain(&self, epoch: Epoch) -> Result<(), PeerError> {
        self.check_epoch(epoch)?;
        self.begin_drain();
        self.dismissed.cancel();
        Ok(())
    }

    async fn gone(&self) -> PeerError {
        self.left().cancelled().await;
        PeerError::Unreachable("the shard has ended".into())
    }
}
