//! The readiness of the shards: it answers clients that wait for enough of them, tells watchers why too few
//! are ready, and lists them for `status`. It changes no state of a shard.

use std::time::Duration;

use super::ShardView;
use super::driver::Driver;
use super::event::{EventKind, publish};
use super::link::Link;

impl Driver {
    /// Reports to watchers that the fleet waits for shards, once for each reason.
    pub(super) fn report_wait(&mut self, now: Duration) {
        let wanted = self.waiting_for.wanted(now, !self.rounds.is_empty());
        let ready = self.ready_shards();
        if !self.waiting_for.is_long(now, ready, wanted) {
            return;
        }
        let text = self.why_not_ready(ready, wanted);
        if self.waiting_for.is_news(&text) {
            publish(&self.shared, EventKind::Waiting, None, None, text);
        }
    }

    /// Why too few shards hold the current state.
    fn why_not_ready(&self, ready: usize, wanted: usize) -> String {
        let mut shards: Vec<_> = self.links.iter().collect();
        shards.sort_by_key(|(shard, _)| **shard);
        let reasons: Vec<String> = shards
            .into_iter()
            .filter_map(|(shard, link)| {
                let why = match self.replicas.trouble(*shard) {
                    _ if link.draining => "is stopping".to_owned(),
                    _ if self.scheduler.is_quarantined(*shard) && !self.scheduler.is_newcomer(*shard) => {
                        "is in quarantine".to_owned()
                    }
                    Some(reason) => format!("joined, but did not reach the state: {reason}"),
                    None if self.is_ready(link) => return None,
                    None => "joined, and is fetching the state".to_owned(),
                };
                Some(format!("shard {shard} {why}"))
            })
            .collect();
        let reasons =
            if self.links.is_empty() { "no shard has joined".to_owned() } else { reasons.join("; ") };
        let reasons = if reasons.is_empty() { "no other shard has joined".to_owned() } else { reasons };
        format!("waiting for shards, {ready} of {wanted} are ready: {reasons}")
    }

    /// Whether the shard holds the current state and takes work.
    pub(super) fn is_ready(&self, link: &Link) -> bool {
        self.replicas.is_at_target(link.id.shard) && !link.draining
    }

    pub(super) fn ready_shards(&self) -> usize {
        self.links.values().filter(|link| self.is_ready(link)).count()
    }

    pub(super) fn check_waiting(&mut self) {
        if self.replicas.target().is_none() {
            return;
        }
        let ready = self.ready_shards();
        self.waiters.retain(|waiter| {
            let done = ready >= waiter.wanted;
            if done {
                let _ = waiter.reply.try_send(());
            }
            !done
        });
    }

    pub(super) fn views(&self) -> Vec<ShardView> {
        let mut views: Vec<ShardView> = self
            .links
            .iter()
            .map(|(shard, link)| (shard, link, self.scheduler.is_newcomer(*shard)))
            .map(|(shard, link, newcomer)| ShardView {
                shard: *shard,
                incarnation: link.incarnation,
                address: link.address.clone(),
                slots: link.slots,
                state: self.replicas.state(*shard).map(|held| held.state),
                draining: link.draining,
                ready: self.is_ready(link) && (newcomer || !self.scheduler.is_quarantined(*shard)),
                newcomer,
                quarantined: !newcomer && self.scheduler.is_quarantined(*shard),
                outstanding: self.scheduler.outstanding(*shard),
                results: link.results,
                longest_gap: link.longest_gap,
                peer: self.shared.peers.view(*shard),
            })
            .collect();
        views.sort_by_key(|view| view.shard);
        views
    }
}
