//! What is known of each shard as a peer: how it answers, and what it has told of itself.
//!
//! It belongs to the shard's id and not to a connection: failures in a row count on when the shard joins again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use common::endpoint::PeerError;
use common::id::{Incarnation, ShardId};
use net::monitor::{Health, Kind, NodeReport, Tracker};
use net::wire::ShardClient;
use parking_lot::Mutex;
use schedule::MOST_RECORDS;

/// The time between two requests for node information, and the most that is added at random.
const NODE_EVERY: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(2));

/// A shard that has not answered so many of these requests in a row, though it answers pings, is let go: its process
/// runs, and its service does not.
const MOST_FAILURES: u64 = 6;

/// What is known of a shard as a peer.
#[derive(Debug, Clone, Default)]
pub struct PeerView {
    /// How it answers pings.
    pub latency: Health,
    /// How it answers requests for node information.
    pub node: Health,
    /// What it has told of itself last.
    pub report: Option<NodeReport>,
}

/// What is known of all shards as peers.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<BTreeMap<ShardId, Peer>>);

#[derive(Debug, Default)]
struct Peer {
    tracker: Tracker,
    report: Option<NodeReport>,
}

impl Peers {
    /// The requests to a shard, over all of its connections.
    pub(super) fn tracker(&self, shard: ShardId) -> Tracker {
        let mut peers = self.0.lock();
        // Ids may be made up. Those that are known longest stay.
        if peers.len() >= MOST_RECORDS && !peers.contains_key(&shard) {
            return Tracker::default();
        }
        peers.entry(shard).or_default().tracker.clone()
    }

    pub(super) fn view(&self, shard: ShardId) -> PeerView {
        let peers = self.0.lock();
        let Some(Peer { tracker, report }) = peers.get(&shard) else { return PeerView::default() };
        PeerView {
            latency: tracker.health(Kind::Latency),
            node: tracker.health(Kind::Node),
            report: report.clone(),
        }
    }

    fn note(&self, shard: ShardId, report: NodeReport) {
        if let Some(peer) = self.0.lock().get_mut(&shard) {
            peer.report = Some(report);
        }
    }

    /// Asks a shard at intervals how its process does. Ends only with a reason to let the shard go.
    pub(super) async fn watch(
        &self,
        client: &ShardClient,
        shard: ShardId,
        incarnation: Incarnation,
    ) -> Result<Infallible, PeerError> {
        let tracker = self.tracker(shard);
        loop {
            match client.monitor(incarnation).await {
                Some(Ok(report)) => self.note(shard, report),
                Some(Err(error @ PeerError::Protocol(_))) => return Err(error),
                Some(Err(error)) => {
                    tracing::debug!(%shard, %error, "a shard does not tell how it does");
                    let failures = tracker.health(Kind::Node).failures_in_a_row;
                    if failures >= MOST_FAILURES {
                        return Err(PeerError::Unreachable(format!(
                            "it has left {failures} requests for its node information unanswered, the last: {error}"
                        )));
                    }
                }
                None => {}
            }
            tokio::time::sleep(pause()).await;
        }
    }
}

/// The time to the next request: shards that have joined together are not asked together.
fn pause() -> Duration {
    let (least, spread) = NODE_EVERY;
    least + spread.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use common::token::SessionToken;
    use net::channel;
    use net::identity::{Expect, Security};
    use net::limits::PeerLimits;
    use net::monitor::Outcome;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_never_tells_how_it_does_is_let_go_and_is_remembered() {
        // Nobody listens there.
        let (limits, anybody) = (PeerLimits::default(), Security::default());
        let channel = channel::lazy("127.0.0.1:1", &limits, &anybody, Expect::Shard(ShardId(7))).unwrap();
        let client = ShardClient::new(channel, limits, SessionToken::fresh());
        let peers = Peers::default();
        for failures in [MOST_FAILURES, MOST_FAILURES + 1] {
            let client = client.clone().tracked(peers.tracker(ShardId(7)));
            let Err(error) = peers.watch(&client, ShardId(7), Incarnation(1)).await;
            let text = format!("it has left {failures} requests for its node information unanswered");
            assert!(error.to_string().contains(&text), "{error}");
            assert_eq!(peers.view(ShardId(7)).node.failures_in_a_row, failures);
        }
    }

    #[test]
    fn failures_in_a_row_count_over_all_connections_of_a_shard() {
        let peers = Peers::default();
        for connection in 1..=3 {
            let tracker = peers.tracker(ShardId(7));
            tracker.begin(Kind::Node).into_iter().for_each(|request| request.end(Outcome::TimedOut));
            assert_eq!(peers.view(ShardId(7)).node.failures_in_a_row, connection);
        }
        assert_eq!(peers.view(ShardId(8)).node, Health::default());
    }

    #[test]
    fn made_up_ids_take_a_bounded_room() {
        let peers = Peers::default();
        let most = u32::try_from(MOST_RECORDS).unwrap_or(u32::MAX);
        (0..most + 100).for_each(|shard| drop(peers.tracker(ShardId(shard))));
        assert_eq!(peers.0.lock().len(), MOST_RECORDS);
    }
}
