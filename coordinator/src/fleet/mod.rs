//! The fleet: the coordinator's shards, and the driver that runs the scheduler for them.
//!
//! The driver is one thread that waits on a bounded channel with `recv_timeout` until the
//! scheduler's next deadline. Each shard has a link, a task that speaks to it. What the scheduler
//! decides is done here; nothing here decides.

mod driver;
mod endpoint;
mod event;
mod link;
mod message;
mod obey;
mod probe;
mod round;
mod snapshot;
mod waiting;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use common::account::Delta;
use common::endpoint::CoordinatorEndpoint;
use common::id::{Epoch, Incarnation, RoundId, ShardId, StateRef, WorkId};
use common::sealed::Sealed;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use executor_shard::fault::{Fault, Faults};
use executor_shard::node::{NodeConfig, ShardNode};
use net::limits::{LimitsError, PeerLimits};
use parking_lot::{Mutex, RwLock};
use tasks::supervise::SupervisorHandle;
use tokio::sync::broadcast;

use driver::Driver;
use endpoint::FleetEndpoint;
use ledger::Ledger;
use message::Message;
use schedule::{ScheduleLimits, StrikeRecord};

pub use event::{EventKind, FleetEvent};
pub use probe::Probe;
pub use round::{Abandoned, RoundEvent, RoundFailure, RoundRequest};

/// Messages that wait for the driver, at most. Each shard has few under way, so this is reached
/// only when the driver is stuck.
const DRIVER_QUEUE: usize = 1 << 16;

/// Events kept for a watcher that is slow.
const EVENT_QUEUE: usize = 4096;

/// Lost shards whose reasons are kept.
const LOSSES_REMEMBERED: usize = 256;

/// What a fleet is built from.
#[derive(Debug, Clone, Copy)]
pub struct FleetOptions {
    /// Timeouts and liveness limits towards shards.
    pub peer: PeerLimits,
    /// Bounds of the scheduler.
    pub schedule: ScheduleLimits,
}

impl Default for FleetOptions {
    fn default() -> Self {
        // On a machine with more threads than cores even a small transaction may take long. Work that is
        // merely slow is duplicated long before this.
        let schedule = ScheduleLimits { stuck_floor: Duration::from_secs(3), ..ScheduleLimits::default() };
        Self { peer: PeerLimits::default(), schedule }
    }
}

/// The fleet cannot be, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The limits contradict each other.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The driver does not keep up.
    #[error(
        "the fleet's driver does not keep up: {DRIVER_QUEUE} messages wait; see its log for what holds it"
    )]
    Overloaded,
    /// The driver has ended.
    #[error("the fleet's driver has ended; the process is stopping")]
    Ended,
    /// The state that shards are to hold is damaged at its source.
    #[error("{0}")]
    Damaged(String),
    /// Not enough shards in time.
    #[error("after {waited:?} {ready} of {wanted} shards hold the state; look at their logs")]
    NotReady {
        /// How many there are.
        ready: usize,
        /// How many there should be.
        wanted: usize,
        /// How long was waited.
        waited: Duration,
    },
}

/// One shard, as status reports show it.
#[derive(Debug, Clone)]
pub struct ShardView {
    /// Who.
    pub shard: ShardId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Where; empty within this process.
    pub address: String,
    /// How many worker threads.
    pub slots: u16,
    /// Which state it holds.
    pub state: Option<StateRef>,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// Whether it holds the current state and takes work.
    pub ready: bool,
    /// Whether it is in quarantine: it gets no ordinary work, and its results do not count.
    pub quarantined: bool,
    /// Assignments that it holds.
    pub outstanding: usize,
    /// Results of it that were used.
    pub results: u64,
}

/// What links, endpoint and driver share.
#[derive(Debug)]
struct Shared {
    epoch: Epoch,
    options: FleetOptions,
    started: Instant,
    driver: Sender<Message>,
    /// Who is alive, kept by the driver.
    alive: RwLock<HashMap<ShardId, Incarnation>>,
    /// How often processes of each shard have joined.
    joined: Mutex<BTreeMap<ShardId, u64>>,
    /// Why shards were lost, to tell them when they come back.
    losses: Mutex<VecDeque<(ShardId, Incarnation, String)>>,
    /// What is held against shards, kept by the driver.
    strikes: Mutex<BTreeMap<ShardId, StrikeRecord>>,
    /// Shards within this process.
    local: Mutex<HashMap<ShardId, Arc<ShardNode>>>,
    /// The world that is executed on.
    ledger: RwLock<Option<Arc<Ledger>>>,
    /// The deltas that shards were told of since they were to hold the ledger's head.
    route: Mutex<Vec<Arc<Delta>>>,
    events: broadcast::Sender<FleetEvent>,
    /// What is damaged about the ledger, if that was found.
    damage: OnceLock<String>,
    probe: Option<Arc<dyn Probe>>,
    supervisor: SupervisorHandle,
}

impl Shared {
    /// The ledger is damaged: the fleet ends, and the process with it.
    fn give_up(&self, damage: String) {
        tracing::error!(damage, "the fleet ends");
        // The first damage is told.
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

    fn alive(&self, shard: ShardId) -> Option<Incarnation> {
        self.alive.read().get(&shard).copied()
    }

    fn remember_loss(&self, shard: ShardId, incarnation: Incarnation, reason: &str) {
        let mut losses = self.losses.lock();
        losses.retain(|(known, _, _)| *known != shard);
        losses.push_back((shard, incarnation, reason.to_owned()));
        if losses.len() > LOSSES_REMEMBERED {
            losses.pop_front();
        }
    }

    /// Why this life of a shard was lost, if it was lately.
    fn loss(&self, shard: ShardId, incarnation: Incarnation) -> Option<String> {
        let losses = self.losses.lock();
        let found = losses.iter().find(|(known, life, _)| (*known, *life) == (shard, incarnation));
        found.map(|(_, _, reason)| reason.clone())
    }

    fn ledger(&self) -> Option<Arc<Ledger>> {
        self.ledger.read().clone()
    }
}

/// The fleet, to be used from any thread.
#[derive(Debug, Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
    endpoint: Arc<FleetEndpoint>,
}

impl Fleet {
    /// A fleet without shards; its driver runs under `supervisor`.
    ///
    /// # Errors
    /// [`FleetError::Limits`] for limits that contradict each other.
    pub fn start(
        epoch: Epoch,
        options: FleetOptions,
        supervisor: &SupervisorHandle,
    ) -> Result<Self, FleetError> {
        Self::start_probed(epoch, options, None, supervisor)
    }

    /// A fleet that a probe watches.
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
            alive: RwLock::default(),
            joined: Mutex::default(),
            losses: Mutex::default(),
            strikes: Mutex::default(),
            local: Mutex::default(),
            ledger: RwLock::default(),
            route: Mutex::default(),
            events,
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

    /// The coordinator's term.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// What shards talk to.
    #[must_use]
    pub fn endpoint(&self) -> Arc<dyn CoordinatorEndpoint> {
        Arc::clone(&self.endpoint) as _
    }

    /// Time since the fleet started.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// How long transactions with this gas limit may take, as shards' slots are judged.
    #[must_use]
    pub fn longest(&self, gas: u64) -> Duration {
        self.shared.options.schedule.longest(gas)
    }

    /// How often processes with this shard's number have joined.
    #[must_use]
    pub fn joined(&self, shard: ShardId) -> u64 {
        let joined = self.shared.joined.lock();
        joined.get(&shard).copied().unwrap_or(0)
    }

    /// Starts a shard within this process.
    pub fn start_local(&self, config: NodeConfig) {
        self.start_local_with(config, Vec::new());
    }

    /// Starts a shard within this process that goes wrong on purpose: for tests and measurements.
    pub fn start_local_with(&self, config: NodeConfig, faults: Vec<Fault>) {
        // Held while the shard starts, so that it is known when its registration arrives.
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

    /// What happens, from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<FleetEvent> {
        self.shared.events.subscribe()
    }

    /// Tells watchers of something that happened outside of the fleet.
    pub fn announce(&self, kind: EventKind, block: Option<u64>, text: String) {
        event::publish(&self.shared, kind, None, block, text);
    }

    /// Announces something about one shard.
    pub fn announce_shard(&self, kind: EventKind, shard: ShardId, block: Option<u64>, text: String) {
        event::publish(&self.shared, kind, Some(shard), block, text);
    }

    /// From now on shards hold this world's head state.
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn set_world(&self, ledger: Arc<Ledger>) -> Result<(), FleetError> {
        let target = ledger.head().summary();
        *self.shared.ledger.write() = Some(ledger);
        self.shared.route.lock().clear();
        self.shared.send(Message::Target(target))
    }

    /// Lets go of the ledger, which is closed in good order when its other holders do so too. Shards
    /// within this process keep the fleet alive to the end of the process, so it does not do that
    /// by ending.
    pub fn leave_world(&self) {
        *self.shared.ledger.write() = None;
        self.shared.route.lock().clear();
    }

    /// Shards move by one block, forwards or backwards.
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn advance(&self, delta: Arc<Delta>) -> Result<(), FleetError> {
        let head = self.shared.ledger().map(|ledger| ledger.head().summary().state);
        let mut route = self.shared.route.lock();
        route.push(Arc::clone(&delta));
        // What leads to the head is in the ledger's journal.
        if let Some(at) = route.iter().rposition(|step| Some(step.to) == head) {
            route.drain(..=at);
        }
        drop(route);
        self.shared.send(Message::Advance(Sealed::new(delta)))
    }

    /// Begins a round; its results come through the receiver, which is never more than full.
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn open_round(&self, request: RoundRequest) -> Result<Receiver<RoundEvent>, FleetError> {
        // One event for each piece of work and each of its tries, and one for the end: the channel
        // is never full.
        let tries = self.shared.options.schedule.max_attempts as usize * 2 + 4;
        // Work may be cut into single transactions on the way.
        let pieces: usize = request.work.iter().map(|(_, spec)| spec.indices.len() + 1).sum();
        let (events, results) = bounded(pieces * tries + 16);
        self.shared.send(Message::Open(request, events))?;
        Ok(results)
    }

    /// A round's results are no longer wanted. Returns what is held against it.
    ///
    /// # Errors
    /// [`FleetError`] when the driver does not answer.
    pub fn abandon_round(&self, round: RoundId) -> Result<Abandoned, FleetError> {
        let (reply, answer) = bounded(1);
        self.shared.send(Message::Abandon(round, reply))?;
        answer.recv_timeout(Duration::from_secs(5)).map_err(|_| FleetError::Ended)
    }

    /// Puts a shard into quarantine that trusted execution has found wrong about a block.
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn blame(&self, shard: ShardId, block: u64, reason: String) -> Result<(), FleetError> {
        self.shared.send(Message::Blame { shard, block, reason })
    }

    /// Trusted code has done this work, and its result has this digest: the answer to
    /// [`RoundEvent::Check`] and [`RoundEvent::Disputed`].
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn checked(&self, work: WorkId, digest: B256) -> Result<(), FleetError> {
        self.shared.send(Message::Checked { work, digest })
    }

    /// What is held against shards, to be kept over the coordinator's end.
    #[must_use]
    pub fn strikes(&self) -> BTreeMap<ShardId, StrikeRecord> {
        self.shared.strikes.lock().clone()
    }

    /// Holds against shards what an earlier coordinator did.
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn restore_strikes(&self, records: BTreeMap<ShardId, StrikeRecord>) -> Result<(), FleetError> {
        self.shared.strikes.lock().extend(&records);
        self.shared.send(Message::Strikes(records.into_iter().collect()))
    }

    /// From now on nobody waits for shards to come: the process is to end soon.
    ///
    /// # Errors
    /// [`FleetError`] when the driver cannot be told.
    pub fn wait_no_longer(&self) -> Result<(), FleetError> {
        self.shared.send(Message::WaitNoLonger)
    }

    /// How the shards are.
    ///
    /// # Errors
    /// [`FleetError`] when the driver does not answer.
    pub fn shards(&self) -> Result<Vec<ShardView>, FleetError> {
        let (reply, answer) = bounded(1);
        self.shared.send(Message::Shards(reply))?;
        answer.recv_timeout(Duration::from_secs(5)).map_err(|_| FleetError::Ended)
    }

    /// The slots of all shards that are alive, not draining and not in quarantine, whether they hold
    /// the current state yet or are about to.
    ///
    /// # Errors
    /// [`FleetError`] when the driver does not answer.
    pub fn slots(&self) -> Result<usize, FleetError> {
        let shards = self.shards()?;
        let working = shards.iter().filter(|shard| !shard.draining && !shard.quarantined);
        Ok(working.map(|shard| usize::from(shard.slots)).sum())
    }

    /// Shards that could take work on the current state, and their slots.
    ///
    /// # Errors
    /// [`FleetError`] when the driver does not answer.
    pub fn ready(&self) -> Result<(usize, usize), FleetError> {
        let shards = self.shards()?;
        let ready = shards.iter().filter(|shard| shard.ready);
        Ok(ready.fold((0, 0), |(count, slots), shard| (count + 1, slots + usize::from(shard.slots))))
    }

    /// Waits until `wanted` shards hold the current state, for at most `limit`.
    ///
    /// # Errors
    /// [`FleetError::NotReady`] when they do not in time.
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
