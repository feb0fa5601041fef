//! The session as a pure state machine: events and the time go in, actions come out. It has no clock,
//! no I/O, no threads and no randomness of its own, so a simulator runs the same machine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::endpoint::PeerError;
use common::id::{AssignmentId, Epoch, Incarnation, ShardId};
use common::message::{Refusal, Registered, ResultReceipt, SubmitResult};
use net::backoff::{BackoffPolicy, Delays};
use net::retry::{EntryId, Outbox, SendOutcome};

/// The settings of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionConfig {
    /// The shard's id. The session rejects assignments for any other shard.
    pub shard: ShardId,
    /// The incarnation of this process. The session rejects assignments for any other incarnation.
    pub incarnation: Incarnation,
    /// The maximum number of assignments accepted and not yet delivered.
    pub queue_limit: usize,
    /// The maximum number of results in flight at once.
    pub parallel_sends: usize,
    /// The silence after which the coordinator counts as away. The registration's answer replaces it.
    pub lost_after: Duration,
    /// The delays between retries.
    pub backoff: BackoffPolicy,
}

/// An action that the driver must perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a request to join the fleet.
    Register,
    /// Send a heartbeat. Its answer goes to [`Session::heartbeat_done`].
    Heartbeat,
    /// Deliver this result. The answer goes to [`Session::submitted`] with this id.
    Submit(EntryId, Arc<SubmitResult>),
    /// Announce that the shard takes no new work.
    AnnounceDraining,
    /// Announce that the shard leaves, then end the session.
    Leave,
    /// End the session: a retry would be pointless. The text is the reason.
    GiveUp(String),
}

/// How a command was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// The command is new: the shard must execute it.
    New,
    /// The command is a repetition: its work has been accepted and is not finished.
    Already,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not registered. The session sends the next request at `ask_at`.
    Away { ask_at: Duration },
    /// The request to join is in flight.
    Asking,
    /// The session is registered.
    Joined,
    /// The session has ended.
    Left,
}

/// The factor by which an idle shard's heartbeats are further apart, as far as the lost limit allows.
const IDLE_BEATS: u32 = 3;

/// The state of a session.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    phase: Phase,
    epoch: Option<Epoch>,
    asking: Delays,
    beat_every: Duration,
    beat_at: Duration,
    /// The time when the last heartbeat was answered.
    beaten_at: Duration,
    beat_under_way: bool,
    heard_at: Duration,
    joined_at: Duration,
    lost_after: Duration,
    accepted: BTreeSet<AssignmentId>,
    outbox: Outbox<Arc<SubmitResult>>,
    draining: bool,
    announced: bool,
    fatal: Option<String>,
}

impl Session {
    /// Creates a session that has not started.
    #[must_use]
    pub fn new(config: SessionConfig, now: Duration) -> Self {
        let mut outbox = Outbox::new(config.queue_limit.max(1), config.parallel_sends, config.backoff);
        outbox.pause();
        Self {
            config,
            phase: Phase::Away { ask_at: now },
            epoch: None,
            asking: Delays::new(config.backoff),
            beat_every: Duration::from_millis(100),
            beat_at: now,
            beaten_at: now,
            beat_under_way: false,
            heard_at: now,
            joined_at: now,
            lost_after: config.lost_after,
            accepted: BTreeSet::new(),
            outbox,
            draining: false,
            announced: false,
            fatal: None,
        }
    }

    /// Whether the shard is registered with the fleet.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.phase == Phase::Joined
    }

    /// The epoch under which the shard registered last; `None` before the first registration.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether the shard takes no new work.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The number of results that are not delivered yet.
    #[must_use]
    pub fn undelivered(&self) -> usize {
        self.outbox.len()
    }

    /// Checks that the shard may obey a command of this epoch: it must not be older than the shard's.
    ///
    /// # Errors
    /// [`Refusal::StaleEpoch`].
    pub fn check_epoch(&self, got: Epoch) -> Result<(), Refusal> {
        match self.epoch {
            Some(current) if got < current => Err(Refusal::StaleEpoch { got, current }),
            _ => Ok(()),
        }
    }

    /// Accepts or rejects an assignment that arrives.
    ///
    /// # Errors
    /// [`Refusal`] with the reason.
    pub fn accept(&mut self, id: AssignmentId) -> Result<Accepted, Refusal> {
        if id.shard != self.config.shard || id.incarnation != self.config.incarnation {
            return Err(Refusal::WrongShard { shard: id.shard, incarnation: id.incarnation });
        }
        self.check_epoch(id.epoch)?;
        if self.draining {
            return Err(Refusal::Draining);
        }
        if self.accepted.contains(&id) {
            return Ok(Accepted::Already);
        }
        // A result occupies its place in the queue until it is delivered.
        if self.accepted.len() + self.outbox.len() >= self.config.queue_limit {
            return Err(Refusal::QueueFull { limit: self.config.queue_limit });
        }
        self.accepted.insert(id);
        // The coordinator watches a busy shard closely.
        self.beat_at = self.beat_at.min(self.beaten_at + self.beat_every);
        Ok(Accepted::New)
    }

    /// Records that an accepted assignment was cancelled and has no result.
    pub fn dropped(&mut self, id: AssignmentId) {
        self.accepted.remove(&id);
    }

    /// Records the result of an assignment that a worker has finished.
    pub fn finished(&mut self, result: SubmitResult, now: Duration) {
        // The assignment was cancelled meanwhile, so its result is not wanted.
        if !self.accepted.remove(&result.assignment) {
            return;
        }
        // There is room: accepted work and the outbox share one limit.
        if let Err(full) = self.outbox.push(Arc::new(result), now) {
            self.fatal = Some(format!("a result has no place: {full}"));
        }
    }

    /// Handles the answer to [`Action::Register`].
    pub fn registered(&mut self, answer: Result<Registered, PeerError>, now: Duration, random: u64) {
        match answer {
            Ok(registered) => {
                self.phase = Phase::Joined;
                self.epoch = Some(registered.epoch);
                self.lost_after = registered.lost_after;
                self.joined_at = now;
                self.beat_every = registered.heartbeat_every;
                self.beat_at = now;
                self.heard_at = now;
                self.announced = false;
                self.outbox.resume(now);
            }
            Err(error) if !error.is_retryable() => {
                self.fatal = Some(format!("the coordinator does not take this shard: {}", error.reason()));
            }
            Err(_) => self.phase = Phase::Away { ask_at: now + self.asking.next(random) },
        }
    }

    /// The time between two heartbeats. An idle shard sends fewer, but at least three within the limit
    /// after which it counts as lost.
    fn pace(&self) -> Duration {
        if self.accepted.is_empty() && self.outbox.is_empty() {
            (self.beat_every * IDLE_BEATS).min(self.lost_after / IDLE_BEATS).max(self.beat_every)
        } else {
            self.beat_every
        }
    }

    /// Handles the answer to [`Action::Heartbeat`].
    pub fn heartbeat_done(&mut self, answer: Result<(), PeerError>, now: Duration, random: u64) {
        self.beat_under_way = false;
        self.beaten_at = now;
        self.beat_at = now + self.pace();
        match answer {
            Ok(()) => {
                self.heard_at = now;
                // A registration that lasted resets the delays between attempts to register.
                if now.saturating_sub(self.joined_at) > self.lost_after {
                    self.asking.reset();
                }
            }
            Err(PeerError::NotRegistered(_)) => self.away(now, random),
            // Rejected for good: another process has taken this shard's place.
            Err(error) if !error.is_retryable() => self.fatal = Some(error.reason()),
            Err(_) if now.saturating_sub(self.heard_at) > self.lost_after => self.away(now, random),
            Err(_) => {}
        }
    }

    /// Handles the answer to a delivery.
    pub fn submitted(
        &mut self,
        entry: EntryId,
        answer: Result<ResultReceipt, PeerError>,
        now: Duration,
        random: u64,
    ) {
        let outcome = match &answer {
            Ok(_) => SendOutcome::Taken,
            Err(error) if error.is_retryable() => SendOutcome::TryAgain,
            Err(_) => SendOutcome::RefusedForGood,
        };
        self.outbox.finished(entry, outcome, now, random);
        match answer {
            Ok(_) => self.heard_at = now,
            Err(PeerError::NotRegistered(_)) => self.away(now, random),
            Err(_) => {}
        }
    }

    /// Handles a coordinator that is away or does not know this shard: the session waits, then registers
    /// again.
    fn away(&mut self, now: Duration, random: u64) {
        if self.phase == Phase::Joined {
            self.phase = Phase::Away { ask_at: now + self.asking.next(random) };
            self.outbox.pause();
        }
    }

    /// Starts the drain. The session takes no new work, finishes and delivers the accepted work, then ends.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Returns the actions that are due now.
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        if let Some(reason) = self.fatal.take() {
            self.phase = Phase::Left;
            return vec![Action::GiveUp(reason)];
        }
        match self.phase {
            Phase::Left | Phase::Asking => Vec::new(),
            Phase::Away { .. } if self.draining && self.accepted.is_empty() && self.outbox.is_empty() => {
                self.phase = Phase::Left;
                vec![Action::Leave]
            }
            Phase::Away { ask_at } if ask_at <= now => {
                self.phase = Phase::Asking;
                vec![Action::Register]
            }
            Phase::Away { .. } => Vec::new(),
            Phase::Joined => self.poll_joined(now),
        }
    }

    fn poll_joined(&mut self, now: Duration) -> Vec<Action> {
        let mut actions: Vec<Action> =
            self.outbox.due(now).into_iter().map(|(entry, result)| Action::Submit(entry, result)).collect();
        if !self.beat_under_way && self.beat_at <= now {
            self.beat_under_way = true;
            actions.push(Action::Heartbeat);
        }
        if self.draining && !self.announced {
            self.announced = true;
            actions.push(Action::AnnounceDraining);
        }
        if self.draining && self.accepted.is_empty() && self.outbox.is_empty() {
            self.phase = Phase::Left;
            actions.push(Action::Leave);
        }
        actions
    }

    /// The time of the next action if no event comes before; `None` if only an event can cause one.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        match self.phase {
            Phase::Left | Phase::Asking => None,
            Phase::Away { ask_at } => Some(ask_at),
            Phase::Joined => {
                let beat = (!self.beat_under_way).then_some(self.beat_at);
                [beat, self.outbox.next_due()].into_iter().flatten().min()
            }
        }
    }
}

#[cfg(test)]
mod tests;
