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
    /// The shard's id.
    pub shard: ShardId,
    /// The shard's incarnation.
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
    /// Send a heartbeat.
    Heartbeat,
    /// Deliver a result.
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
    /// The command is a repetition: its work runs or is done.
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

    /// Whether the session is draining.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::id::{Attempt, WorkId};
    use common::work::WorkFailure;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const EPOCH: Epoch = Epoch { number: 2, instance: 7 };

    fn session() -> Session {
        let config = SessionConfig {
            shard: ShardId(1),
            incarnation: Incarnation(5),
            queue_limit: 2,
            parallel_sends: 2,
            lost_after: ms(1000),
            backoff: BackoffPolicy::new(ms(10), ms(100), 0.0).unwrap(),
        };
        Session::new(config, ms(0))
    }

    fn joined() -> Session {
        let mut session = session();
        assert_eq!(session.poll(ms(0)), [Action::Register]);
        session.registered(
            Ok(Registered { epoch: EPOCH, heartbeat_every: ms(100), lost_after: ms(1000) }),
            ms(1),
            0,
        );
        assert_eq!(session.poll(ms(1)), [Action::Heartbeat]);
        session.heartbeat_done(Ok(()), ms(2), 0);
        session
    }

    fn assignment(work: u8) -> AssignmentId {
        AssignmentId {
            work: WorkId(alloy_primitives::B256::repeat_byte(work)),
            shard: ShardId(1),
            incarnation: Incarnation(5),
            attempt: Attempt(1),
            epoch: EPOCH,
        }
    }

    fn result(work: u8) -> SubmitResult {
        SubmitResult { assignment: assignment(work), outcome: Err(WorkFailure::BaseGone), digest: None }
    }

    #[test]
    fn an_absent_coordinator_is_asked_again_and_again() {
        let mut session = session();
        assert_eq!(session.poll(ms(0)), [Action::Register]);
        assert_eq!(session.poll(ms(1)), [], "one request at a time");
        session.registered(Err(PeerError::Unreachable("no".into())), ms(5), 0);
        assert_eq!(session.next_wake(), Some(ms(15)));
        assert_eq!(session.poll(ms(15)), [Action::Register]);
    }

    #[test]
    fn a_shard_that_is_not_wanted_gives_up() {
        let mut session = session();
        session.poll(ms(0));
        session.registered(Err(PeerError::Refused("shard 1 is alive".into())), ms(5), 0);
        assert!(matches!(session.poll(ms(5)).as_slice(), [Action::GiveUp(_)]));
        assert_eq!(session.next_wake(), None);
    }

    #[test]
    fn commands_of_an_older_epoch_are_refused() {
        let mut session = joined();
        let mut old = assignment(1);
        old.epoch.number = 1;
        assert!(matches!(session.accept(old), Err(Refusal::StaleEpoch { .. })));
    }

    #[test]
    fn commands_for_another_life_are_refused() {
        let mut session = joined();
        let mut other = assignment(1);
        other.incarnation = Incarnation(4);
        assert!(matches!(session.accept(other), Err(Refusal::WrongShard { .. })));
    }

    #[test]
    fn an_undelivered_result_keeps_its_place_in_the_queue() {
        let mut session = joined();
        assert_eq!(session.accept(assignment(1)), Ok(Accepted::New));
        assert_eq!(session.accept(assignment(1)), Ok(Accepted::Already));
        assert_eq!(session.accept(assignment(2)), Ok(Accepted::New));
        assert_eq!(session.accept(assignment(3)), Err(Refusal::QueueFull { limit: 2 }));
        session.finished(result(1), ms(3));
        assert_eq!(session.accept(assignment(3)), Err(Refusal::QueueFull { limit: 2 }));
        let Some(Action::Submit(entry, _)) = session.poll(ms(3)).into_iter().next() else {
            unreachable!("a finished result is due at once")
        };
        session.submitted(entry, Ok(ResultReceipt::Used), ms(4), 0);
        assert_eq!(session.accept(assignment(3)), Ok(Accepted::New));
    }

    #[test]
    fn an_answer_that_cannot_be_understood_is_not_asked_for_again() {
        let protocol = || PeerError::Protocol("the reply names no epoch".into());
        let mut session = session();
        session.poll(ms(0));
        session.registered(Err(protocol()), ms(5), 0);
        assert!(
            matches!(session.poll(ms(5)).as_slice(), [Action::GiveUp(reason)] if reason.contains("epoch"))
        );

        let mut session = joined();
        session.accept(assignment(1)).unwrap();
        session.finished(result(1), ms(3));
        let Some(Action::Submit(entry, _)) = session.poll(ms(3)).into_iter().next() else {
            unreachable!("a finished result is due at once")
        };
        session.submitted(entry, Err(protocol()), ms(4), 0);
        assert_eq!(session.undelivered(), 0, "a result that is refused for good is not sent again");
    }

    #[test]
    fn results_wait_while_the_coordinator_is_away_and_go_out_when_it_returns() {
        let mut session = joined();
        session.accept(assignment(1)).unwrap();
        session.poll(ms(102));
        session.heartbeat_done(Err(PeerError::NotRegistered("who?".into())), ms(103), 0);
        session.finished(result(1), ms(104));
        assert_eq!(session.poll(ms(105)), []);
        assert_eq!(session.poll(ms(113)), [Action::Register]);
        assert_eq!(session.undelivered(), 1);
        let next = Epoch { number: 3, instance: 1 };
        session.registered(
            Ok(Registered { epoch: next, heartbeat_every: ms(100), lost_after: ms(1000) }),
            ms(200),
            0,
        );
        let actions = session.poll(ms(200));
        assert!(actions.iter().any(|action| matches!(action, Action::Submit(..))), "{actions:?}");
    }

    #[test]
    fn registrations_that_do_not_last_come_at_growing_intervals() {
        let mut session = joined();
        let mut now = ms(2);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            session.poll(now + ms(100));
            session.heartbeat_done(Err(PeerError::NotRegistered("its link failed".into())), now, 0);
            let wake = session.next_wake().unwrap();
            pauses.push((wake - now).as_millis());
            assert_eq!(session.poll(wake), [Action::Register]);
            now = wake;
            let answer = Registered { epoch: EPOCH, heartbeat_every: ms(100), lost_after: ms(1000) };
            session.registered(Ok(answer), now, 0);
        }
        assert_eq!(pauses, [10, 20, 40, 80]);
    }

    #[test]
    fn a_short_silence_is_not_an_absence() {
        let mut session = joined();
        session.poll(ms(102));
        session.heartbeat_done(Err(PeerError::Unreachable("late".into())), ms(900), 0);
        assert!(session.is_joined());
        session.poll(ms(1000));
        session.heartbeat_done(Err(PeerError::Unreachable("late".into())), ms(1100), 0);
        assert!(!session.is_joined());
    }

    #[test]
    fn a_cancelled_assignment_delivers_nothing() {
        let mut session = joined();
        session.accept(assignment(1)).unwrap();
        session.dropped(assignment(1));
        session.finished(result(1), ms(3));
        assert_eq!(session.undelivered(), 0);
    }

    #[test]
    fn draining_finishes_what_is_held_and_then_leaves() {
        let mut session = joined();
        session.accept(assignment(1)).unwrap();
        session.drain();
        assert_eq!(session.accept(assignment(2)), Err(Refusal::Draining));
        assert_eq!(session.poll(ms(3)), [Action::AnnounceDraining]);
        session.finished(result(1), ms(4));
        let actions = session.poll(ms(4));
        let [Action::Submit(entry, _)] = actions.as_slice() else { unreachable!("{actions:?}") };
        session.submitted(*entry, Ok(ResultReceipt::Used), ms(5), 0);
        assert_eq!(session.poll(ms(5)), [Action::Leave]);
    }
}
