//! What a process knows of the answers of a peer: requests of each kind, how they ended, and how long they took.
//!
//! A [`Tracker`] belongs to a peer and not to a connection, so it outlives each of them. A request is counted in any
//! case: if its task is cancelled or panics, its [`InFlight`] is dropped, which counts it. The count changes before the
//! next request of the kind can begin, so a peer that fails whenever somebody gives up on it is seen to fail.
//!
//! The tracker only counts. Liveness is decided by pings and heartbeats, and trust by the scheduler.

mod vitals;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::endpoint::PeerError;
use parking_lot::Mutex;

use window::Window;

pub use vitals::{NodeReport, Vitals};

/// What is asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pings or heartbeats, whose answer repeats a counter.
    Latency,
    /// Who the peer is, and how its process does.
    Node,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Latency, Self::Node];

    /// The kind's name, as status and metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Node => "node",
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::Latency => 0,
            Self::Node => 1,
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered what was asked.
    Answered,
    /// The peer answered something else, for example another counter.
    Wrong,
    /// The peer refused, or the connection failed.
    Failed,
    /// The peer did not answer in time.
    TimedOut,
    /// The request was given up: its task was cancelled or panicked, or the process is stopping.
    GivenUp,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 5] = [Self::Answered, Self::Wrong, Self::Failed, Self::TimedOut, Self::GivenUp];

    /// The outcome's name, as metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Wrong => "wrong",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::GivenUp => "given_up",
        }
    }

    /// How a request with this answer has ended, after `took`; `limit` is the longest time to wait for an answer.
    #[must_use]
    pub fn of<T>(answer: &Result<T, PeerError>, took: Duration, limit: Duration) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(PeerError::Protocol(_)) => Self::Wrong,
            Err(PeerError::Unreachable(_)) if took >= limit => Self::TimedOut,
            Err(_) => Self::Failed,
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::Answered => 0,
            Self::Wrong => 1,
            Self::Failed => 2,
            Self::TimedOut => 3,
            Self::GivenUp => 4,
        }
    }
}

/// What is known of one kind of request to one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Health {
    counts: [u64; Outcome::ALL.len()],
    /// How many of the latest requests in a row were not answered as asked. A request that was given up says nothing
    /// about the peer: it neither adds to them nor ends the row.
    pub failures_in_a_row: u64,
    /// The times of the latest answers; `None` if there was none.
    pub times: Option<Times>,
}

impl Health {
    /// How many requests have ended like this.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts.get(outcome.place()).copied().unwrap_or_default()
    }
}

/// How long the latest answers took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The time that half of them took at most.
    pub median: Duration,
    /// The time that 99 % of them took at most.
    pub p99: Duration,
    /// The time of the last one.
    pub last: Duration,
}

#[derive(Debug, Default)]
struct Record {
    in_flight: bool,
    health: Health,
    window: Window,
}

/// The requests to one peer.
#[derive(Debug, Clone, Default)]
pub struct Tracker(Arc<[Mutex<Record>; Kind::ALL.len()]>);

impl Tracker {
    /// Begins a request; `None` while another one of its kind is in flight.
    #[must_use]
    pub fn begin(&self, kind: Kind) -> Option<InFlight> {
        let mut record = self.record(kind)?.lock();
        if record.in_flight {
            return None;
        }
        record.in_flight = true;
        drop(record);
        Some(InFlight { tracker: self.clone(), kind, began: Instant::now(), ended: false })
    }

    /// What is known of this kind of request.
    #[must_use]
    pub fn health(&self, kind: Kind) -> Health {
        let Some(record) = self.record(kind) else { return Health::default() };
        let record = record.lock();
        Health { times: record.window.times(), ..record.health }
    }

    fn record(&self, kind: Kind) -> Option<&Mutex<Record>> {
        self.0.get(kind.place())
    }

    fn count(&self, kind: Kind, outcome: Outcome, took: Duration) {
        metrics::counter!("shardexec_peer_requests_total", "kind" => kind.name(), "outcome" => outcome.name())
            .increment(1);
        let Some(record) = self.record(kind) else { return };
        let mut record = record.lock();
        if let Some(count) = record.health.counts.get_mut(outcome.place()) {
            *count += 1;
        }
        match outcome {
            Outcome::Answered => {
                record.health.failures_in_a_row = 0;
                record.window.add(took);
            }
            Outcome::Wrong | Outcome::Failed | Outcome::TimedOut => record.health.failures_in_a_row += 1,
            Outcome::GivenUp => {}
        }
        // With the count, in one step: nobody begins the next request before this one is counted.
        record.in_flight = false;
    }
}

/// A request that has not ended. Dropped, it counts as given up.
#[derive(Debug)]
#[must_use]
pub struct InFlight {
    tracker: Tracker,
    kind: Kind,
    began: Instant,
    ended: bool,
}

impl InFlight {
    /// The request has ended with this answer; `limit` is the longest time to wait for one.
    pub fn end_with<T>(self, answer: &Result<T, PeerError>, limit: Duration) {
        let outcome = Outcome::of(answer, self.began.elapsed(), limit);
        self.end(outcome);
    }

    /// The request has ended.
    pub fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.tracker.count(self.kind, outcome, self.began.elapsed());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.ended {
            self.tracker.count(self.kind, Outcome::GivenUp, self.began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn one_request_of_a_kind_is_in_flight_at_a_time() {
        let tracker = Tracker::default();
        let ping = tracker.begin(Kind::Latency).unwrap();
        assert!(tracker.begin(Kind::Latency).is_none());
        tracker.begin(Kind::Node).unwrap().end(Outcome::Answered);
        ping.end(Outcome::Answered);
        assert!(tracker.begin(Kind::Latency).is_some());
    }

    #[test]
    fn each_end_is_counted_and_only_answers_end_a_row_of_failures() {
        let tracker = Tracker::default();
        for (outcome, in_a_row) in [
            (Outcome::Answered, 0),
            (Outcome::Wrong, 1),
            (Outcome::TimedOut, 2),
            (Outcome::GivenUp, 2),
            (Outcome::Failed, 3),
            (Outcome::Answered, 0),
        ] {
            tracker.begin(Kind::Node).unwrap().end(outcome);
            assert_eq!(tracker.health(Kind::Node).failures_in_a_row, in_a_row, "after {outcome:?}");
        }
        let health = tracker.health(Kind::Node);
        assert_eq!(Outcome::ALL.map(|outcome| health.count(outcome)), [2, 1, 1, 1, 1]);
        assert!(health.times.is_some() && tracker.health(Kind::Latency) == Health::default());
    }

    #[tokio::test]
    async fn a_cancelled_request_is_counted_and_makes_room() {
        let tracker = Tracker::default();
        let request = tracker.begin(Kind::Latency).unwrap();
        let task = tokio::spawn(async move {
            std::future::pending::<()>().await;
            request.end(Outcome::Answered);
        });
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(tracker.health(Kind::Latency).count(Outcome::GivenUp), 1);
        assert!(tracker.begin(Kind::Latency).is_some());
    }

    #[test]
    fn a_request_whose_task_panics_is_counted_and_makes_room() {
        let tracker = Tracker::default();
        let request = tracker.begin(Kind::Node).unwrap();
        let panics = move || {
            let _request = request;
            panic!("a defect");
        };
        assert!(std::thread::spawn(panics).join().is_err());
        assert_eq!(tracker.health(Kind::Node).count(Outcome::GivenUp), 1);
        assert!(tracker.begin(Kind::Node).is_some());
    }

    #[test]
    fn whoever_sees_room_for_the_next_request_sees_the_last_one_counted() {
        let tracker = Tracker::default();
        for round in 1..=2_000 {
            let request = tracker.begin(Kind::Node).unwrap();
            let other = std::thread::scope(|scope| {
                let watches = scope.spawn(|| {
                    let next = loop {
                        match tracker.begin(Kind::Node) {
                            Some(next) => break next,
                            None => std::thread::yield_now(),
                        }
                    };
                    let counted = tracker.health(Kind::Node).count(Outcome::TimedOut);
                    next.end(Outcome::Answered);
                    counted
                });
                request.end(Outcome::TimedOut);
                watches.join().unwrap()
            });
            assert_eq!(other, round);
        }
    }
}
