//! The fleet: the coordinator's shards, and the driver that runs the scheduler for them.
//!
//! The driver is one thread that waits on a bounded channel with `recv_timeout` until the scheduler's next
//! deadline. Each shard has a link, a task that talks to it. The fleet carries out what the scheduler decides
//! and decides nothing itself.

mod driver;
mod endpoint;
mod event;
mod link;
mod loss;
mod members;
mod message;
mod obey;
mod peers;
mod place;
mod probe;
mod readiness;
mod round;
mod snapshot;
mod trace;
mod waiting;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use common::account::Delta;
use common::endpoint::{Admission, CoordinatorEndpoint};
use common::id::{Epoch, Incarnation, RoundId, ShardId, StateRef, WorkId};
use common::sealed::Sealed;
use common::strikes::FleetRecord;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use executor_shard::fault::{Faults, PlannedFault};
use executor_shard::node::{NodeConfig, ShardNode};
use ipnet::IpNet;
use net::identity::Security;
use net::limits::{LimitsError, PeerLimits};
use parking_lot::{Mutex, RwLock};
use tasks::supervise::SupervisorHandle;
use tokio::sync::broadcast;

use driver::Driver;
use endpoint::FleetEndpoint;
use members::Members;
use message::{Beat, Message};
use peers::Peers;
use round::RoundEvents;
use schedule::{MOST_RECORDS, NoShards, ScheduleLimits, StrikeRecord};
use trace::TraceLog;

pub use event::{EventKind, FleetEvent};
pub use peers::PeerView;
pub use probe::Probe;
pub use round::{Abandoned, RoundEvent, RoundFailure, RoundRequest};
pub use world::{Version, World, WorldError};

/// The most messages that wait for the driver. Each shard has few in flight, so the queue is full only when
/// the driver is stuck.
const DRIVER_QUEUE: usize = 1 << 16;

/// The number of shards whose joins are counted.
const JOINS_REMEMBERED: usize = 4096;

/// The number of events kept for a slow watcher; it misses older ones.
const EVENT_QUEUE: usize = 4096;

/// The settings of a fleet.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// Timeouts and liveness limits towards shards.
    pub peer: PeerLimits,
    /// Bounds of the scheduler.
    pub schedule: ScheduleLimits,
    /// How the coordinator proves to shards who it is, and recognises them.
    pub security: Security,
    /// The networks in which shards may be, besides the address that each calls from.
    pub shard_networks: Vec<IpNet>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        // On a machine with more threads than cores even a small transaction may take long. Work that is
        // merely slow is duplicated long before this.
        let schedule = ScheduleLimits { stuck_floor: Duration::from_secs(3), ..ScheduleLimits::default() };
        Self {
            peer: PeerLimits::default(),
            schedule,
            security: Security::default(),
            shard_networks: Vec::new(),
        }
    }
}

/// The fleet could not start, has ended, or has too few shards.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The driver does not keep up with its messages.
    #[error(
        "the fleet's driver does not keep up: {DRIVER_QUEUE} messages wait; see its log for what holds it"
    )]
    Overloaded,
    /// The driver has ended, or did not answer in time.
    #[error("the fleet's driver has ended; the process is stopping")]
    Ended,
    /// The ledger's state, which shards must hold, is damaged at its source.
    #[error("{0}")]
    Damaged(String),
    /// Too few shards held the state in time.
    #[error("after {waited:?} {ready} of {wanted} shards hold the state; look at their logs")]
    NotReady {
        /// The number of shards that hold it.
        ready: usize,
        /// The number of shards that the caller wanted.
        wanted: usize,
        /// How long the caller waited.
        waited: Duration,
    },
}

/// One shard, as status reports show it.
#[derive(Debug, Clone)]
pub struct ShardView {
    /// The shard that this view describes.
    pub shard: ShardId,
    /// The incarnation of the shard that has joined.
    pub incarnation: Incarnation,
    /// Its advertised address; empty for a shard within this process.
    pub address: String,
    /// The number of its worker threads.
    pub slots: u16,
    /// The state that it holds; `None` if that is not known.
    pub state: Option<StateRef>,
    /// Whether it takes no new work.
    pub draining: bool,
    /// Whether it holds the current state and takes work.
    pub ready: bool,
    /// Whether it must still prove that it does sound work: it gets one piece that another shard does too.
    pub newcomer: bool,
    /// Whether it is in quarantine: it gets no ordinary work, and its results do not count.
    pub quarantined: bool,
    /// The number of assignments that it holds.
    pub outstanding: usize,
    /// The number of its results that were used.
    pub results: u64,
    /// The longest time without a heartbeat since it joined.
    pub longest_gap: Duration,
    /// How it answers, and what it has told of itself.
    pub peer: PeerView,
}

/// The state that links, endpoint and driver share.
#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    options: FleetOptions,
    started: Instant,
    driver: Sender<Message>,
    members: Members,
    /// How often processes of each shard have joined.
    joined: Mutex<BTreeMap<ShardId, u64>>,
    /// The newest heartbeat of each shard, until the driver takes it: a message of the driver's queue names only the
    /// shard, so heartbeats cannot fill it.
    beats: Mutex<HashMap<ShardId, Beat>>,
    /// What is known of each shard; the driver keeps it up to date.
    record: Mutex<FleetRecord>,
    /// How each shard answers.
    peers: Peers,
    /// Shards within this process.
    local: Mutex<HashMap<ShardId, Arc<ShardNode>>>,
    /// The world that the coordinator executes on.
    world: RwLock<Option<Arc<dyn World>>>,
    /// The deltas sent to shards beyond the world's newest state, oldest first.
    route: Mutex<Vec<Arc<Delta>>>,
    events: broadcast::Sender<FleetEvent>,
    /// How the latest blocks were executed.
    trace: TraceLog,
    /// How often work went to another shard.
    reassigned: AtomicU64,
    /// The first damage that was found in the ledger, if any.
    damage: OnceLock<String>,
    probe: Option<Arc<dyn Probe>>,
    supervisor: SupervisorHandle,
}

impl Shared {
    /// Ends the fleet, and the process with it, because the ledger is damaged.
    fn give_up(&self, damage: String) {
        tracing::error!(damage, "the fleet ends");
        // Only the first damage is reported.
        let _ = self.damage.set(damage);
    }

    /// Time since the fleet started: the scheduler's clock.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn send(&self, message: Message) -> Result<(), FleetError> {
        if let Some(damage) = self.damage.get() {
            return Err(FleetError::Damaged(damage.clone()));
        }
        self.driver.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => FleetError::Overloaded,
            TrySendError::Disconnected(_) => FleetError::Ended,
        })
    }

    /// Counts that a process of this shard has joined. The oldest ids are forgotten if there are too many.
    fn count_join(&self, shard: ShardId) {
        let mut joined = self.joined.lock();
        if joined.len() >= JOINS_REMEMBERED && !joined.contains_key(&shard) {
            // The shards that a command starts itself have the lowest ids.
            joined.pop_last();
        }
        *joined.entry(shard).or_default() += 1;
    }

    /// Keeps a shard's strikes for the next coordinator.
    fn keep_strikes(&self, shard: ShardId, record: StrikeRecord) {
        let strikes = &mut self.record.lock().strikes;
        if strikes.len() >= MOST_RECORDS && !strikes.contains_key(&shard) {
            let weakest = strikes.iter().min_by_key(|(_, known)| (known.quarantined, known.strikes));
            if let Some(weakest) = weakest.map(|(shard, _)| *shard) {
                strikes.remove(&weakest);
            }
        }
        strikes.insert(shard, record);
    }

    fn world(&self) -> Option<Arc<dyn World>> {
        self.world.read().clone()
    }
}

/// A handle to the fleet, for any thread.
///
/// ```no_run
/// use common::id::{Epoch, Incarnation, ShardId};
/// use common::token::SessionToken;
/// use coordinator::fleet::{Fleet, FleetError, FleetOptions};
/// use executor_shard::node::NodeConfig;
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), FleetError> {
/// let supervisor = tasks::supervise::Supervisor::new("example");
/// let fleet = Fleet::start(Epoch::first(), FleetOptions::default(), &supervisor.handle())?;
/// fleet.start_local(NodeConfig {
///     shard: ShardId(1),
///     incarnation: Incarnation::fresh(),
///     slots: 2,
///     advertise: String::new(), // empty: within this process
///     lost_after: Duration::from_secs(1),
///     chain_id: None,
///     token: SessionToken::fresh(),
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
    endpoint: Arc<FleetEndpoint>,
}

impl Fleet {
    /// Starts a fleet without shards; its driver runs under `supervisor`.
    ///
    /// # Errors
    /// [`FleetError::Limits`] if the limits contradict each other.
    pub fn start(
        epoch: Epoch,
        options: FleetOptions,
        supervisor: &SupervisorHandle,
    ) -> Result<Self, FleetError> {
        Self::start_probed(epoch, options, None, supervisor)
    }

    /// Starts a fleet that a probe watches.
    ///
    /// # Errors
    /// As [`Fleet::start`].
    pub fn start_probed(
        epoch: Epoch,
        options: FleetOptions,
        probe: Option<Arc<dyn Probe>>,
        supervisor: &SupervisorHandle,
    ) -> Result<Self, FleetError> {
        options.peer.checked()?;
        let (driver, messages) = bounded(DRIVER_QUEUE);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let shared = Arc::new(Shared {
            epoch,
            options,
            started: Instant::now(),
            driver,
            members: Members::default(),
            joined: Mutex::default(),
            beats: Mutex::default(),
            record: Mutex::default(),
            peers: Peers::default(),
            local: Mutex::default(),
            world: RwLock::default(),
            route: Mutex::default(),
            events,
            trace: TraceLog::default(),
            reassigned: AtomicU64::new(0),
            damage: OnceLock::new(),
            probe,
            supervisor: supervisor.clone(),
        });
        let machine = Driver::new(Arc::clone(&shared), messages);
        let stop = supervisor.shutdown_token();
        supervisor.spawn_thread("fleet-driver", move || machine.run(&stop));
        let endpoint = Arc::new(FleetEndpoint::new(Arc::clone(&shared)));
        Ok(Self { shared, endpoint })
    }

    /// The epoch of this coordinator.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// The endpoint that shards call.
    #[must_use]
    pub fn endpoint(&self) -> Arc<dyn CoordinatorEndpoint> {
        Arc::clone(&self.endpoint) as _
    }

    /// What the service asks before it reads what a caller sends.
    #[must_use]
    pub fn admission(&self) -> Arc<dyn Admission> {
        Arc::clone(&self.endpoint) as _
    }

    /// Time since the fleet started.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// How long a transaction with this gas limit may take before the scheduler counts its slot as stuck.
    #[must_use]
    pub fn longest(&self, gas: u64) -> Duration {
        self.shared.options.schedule.longest(gas)
    }

    /// How often processes with this shard's id have joined.
    #[must_use]
    pub fn joined(&self, shard: ShardId) -> u64 {
        let joined = self.shared.joined.lock();
        joined.get(&shard).copied().unwrap_or(0)
    }

    /// Starts a shard within this process.
    pub fn start_local(&self, config: NodeConfig) {
        self.start_local_with(config, Vec::new());
    }

    /// Starts a shard within this process that misbehaves on purpose, for tests and measurements.
    pub fn start_local_with(&self, config: NodeConfig, faults: Vec<PlannedFault>) {
        // Held while the shard starts, so that the shard is known when its registration arrives.
        let mut local = self.shared.local.lock();
        let shard = config.shard;
        let node = ShardNode::start(
            config,
            self.endpoint(),
            Arc::default(),
            Arc::new(Faults::new(faults)),
            &self.shared.supervisor,
        );
        local.insert(shard, node);
    }

    /// Subscribes to the events from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<FleetEvent> {
        self.shared.events.subscribe()
    }

    /// Whether the coordinator executes blocks itself when there is no shard.
    #[must_use]
    pub fn executes_alone(&self) -> bool {
        self.shared.options.schedule.when_no_shards == NoShards::Local
    }

    /// How often work of a lost or late shard went to another one, since the fleet started.
    #[must_use]
    pub fn reassigned(&self) -> u64 {
        self.shared.reassigned.load(Ordering::Relaxed)
    }

    /// Publishes an event that happened outside of the fleet.
    pub fn announce(&self, kind: EventKind, block: Option<u64>, text: String) {
        event::publish(&self.shared, kind, None, block, text);
    }

    /// Publishes an event about one shard.
    pub fn announce_shard(&self, kind: EventKind, shard: ShardId, block: Option<u64>, text: String) {
        event::publish(&self.shared, kind, Some(shard), block, text);
    }

    /// Makes this world's head the state that shards must hold.
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn set_world<W: World + 'static>(&self, world: Arc<W>) -> Result<(), FleetError> {
        let target = world.newest();
        *self.shared.world.write() = Some(world);
        self.shared.route.lock().clear();
        self.shared.send(Message::Target(target))
    }

    /// Drops the fleet's handle to the ledger, so that the ledger closes in good order when its other holders
    /// drop theirs. The fleet itself does not end before the process: shards within this process keep it
    /// alive.
    pub fn leave_world(&self) {
        *self.shared.world.write() = None;
        self.shared.route.lock().clear();
    }

    /// Moves the shards by one block, forwards or backwards.
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn advance(&self, delta: Arc<Delta>) -> Result<(), FleetError> {
        let head = self.shared.world().map(|world| world.newest().state);
        let mut route = self.shared.route.lock();
        route.push(Arc::clone(&delta));
        // The ledger's journal already holds the deltas up to the head.
        if let Some(at) = route.iter().rposition(|step| Some(step.to) == head) {
            route.drain(..=at);
        }
        drop(route);
        self.shared.send(Message::Advance(Sealed::new(delta)))
    }

    /// Opens a round; its events come through the receiver, which has room for all of them.
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn open_round(&self, request: RoundRequest) -> Result<Receiver<RoundEvent>, FleetError> {
        // One event for each piece of work and each of its tries, and one for the end: there is always room.
        let tries = self.shared.options.schedule.max_attempts as usize * 2 + 4;
        // Work may be cut into single transactions later.
        let pieces: usize = request.work.iter().map(|(_, spec)| spec.indices.len() + 1).sum();
        // A bounded channel would allocate all of that room at once.
        let (events, results) = unbounded();
        let room = pieces * tries + 16;
        self.shared.send(Message::Open(request, RoundEvents { events, room }))?;
        Ok(results)
    }

    /// Abandons a round whose results are no longer wanted. Returns the evidence against it.
    ///
    /// # Errors
    /// [`FleetError`] if the driver does not answer.
    pub fn abandon_round(&self, round: RoundId) -> Result<Abandoned, FleetError> {
        let (reply, answer) = bounded(1);
        self.shared.send(Message::Abandon(round, reply))?;
        answer.recv_timeout(Duration::from_secs(5)).map_err(|_| FleetError::Ended)
    }

    /// Quarantines a shard that trusted execution has found wrong about a block.
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn blame(&self, shard: ShardId, block: u64, reason: String) -> Result<(), FleetError> {
        self.shared.send(Message::Blame { shard, block, reason })
    }

    /// Reports that trusted code has done this work, and the digest of its result: the answer to
    /// [`RoundEvent::Check`] and [`RoundEvent::Disputed`].
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn checked(&self, work: WorkId, digest: B256) -> Result<(), FleetError> {
        self.shared.send(Message::Checked { work, digest })
    }

    /// What is known of all shards, for the caller to keep beyond the coordinator's end.
    #[must_use]
    pub fn record(&self) -> FleetRecord {
        self.shared.record.lock().clone()
    }

    /// Restores what an earlier coordinator knew of shards.
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn restore(&self, record: FleetRecord) -> Result<(), FleetError> {
        for (shard, strikes) in &record.strikes {
            self.shared.keep_strikes(*shard, *strikes);
        }
        self.shared.record.lock().proven.extend(&record.proven);
        self.shared.send(Message::Restore(record))
    }

    /// Stops all waiting for shards: the process must end soon.
    ///
    /// # Errors
    /// [`FleetError`] if the driver cannot be reached.
    pub fn wait_no_longer(&self) -> Result<(), FleetError> {
        self.shared.send(Message::WaitNoLonger)
    }

    /// Asks a shard to finish what it holds and to leave. Returns whether there is such a shard.
    ///
    /// # Errors
    /// [`FleetError`] if the driver does not answer.
    pub fn drain(&self, shard: ShardId) -> Result<bool, FleetError> {
        let (reply, answer) = bounded(1);
        self.shared.send(Message::Drain(shard, reply))?;
        answer.recv_timeout(Duration::from_secs(5)).map_err(|_| FleetError::Ended)
    }

    /// The state of every live shard.
    ///
    /// # Errors
    /// [`FleetError`] if the driver does not answer.
    pub fn shards(&self) -> Result<Vec<ShardView>, FleetError> {
        let (reply, answer) = bounded(1);
        self.shared.send(Message::Shards(reply))?;
        answer.recv_timeout(Duration::from_secs(5)).map_err(|_| FleetError::Ended)
    }

    /// The number of slots of all shards that are alive, not draining and not in quarantine, whether or not
    /// they hold the current state. Newcomers count if there are no others.
    ///
    /// # Errors
    /// [`FleetError`] if the driver does not answer.
    pub fn slots(&self) -> Result<usize, FleetError> {
        let shards = self.shards()?;
        let working = |newcomer: bool| {
            let fit =
                |shard: &&ShardView| !shard.draining && !shard.quarantined && shard.newcomer == newcomer;
            shards.iter().filter(fit).map(|shard| usize::from(shard.slots)).sum()
        };
        let proven: usize = working(false);
        Ok(if proven == 0 { working(true) } else { proven })
    }

    /// The number of shards that can take work on the current state, and the number of their slots.
    ///
    /// # Errors
    /// [`FleetError`] if the driver does not answer.
    pub fn ready(&self) -> Result<(usize, usize), FleetError> {
        let shards = self.shards()?;
        let ready = shards.iter().filter(|shard| shard.ready);
        Ok(ready.fold((0, 0), |(count, slots), shard| (count + 1, slots + usize::from(shard.slots))))
    }

    /// Waits until `wanted` shards hold the current state, for at most `limit`.
    ///
    /// # Errors
    /// [`FleetError::NotReady`] if they do not in time.
    pub fn wait_ready(&self, wanted: usize, limit: Duration) -> Result<(), FleetError> {
        let (reply, answer) = bounded(1);
        let until = self.shared.now() + limit;
        self.shared.send(Message::WhenReady { wanted, until, reply })?;
        if answer.recv_timeout(limit).is_ok() {
            return Ok(());
        }
        let (ready, _) = self.ready()?;
        Err(FleetError::NotReady { ready, wanted, waited: limit })
    }
}
