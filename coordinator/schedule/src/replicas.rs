//! Following: which state each shard's replica holds, and how it is brought to the state that the fleet
//! must hold.
//!
//! A pure state machine beside the scheduler: it takes answers, heartbeats and the time, and returns
//! commands. It sends nothing and reads no state; a replica's content is a digest here. The fleet's driver
//! carries out its commands, and so does the simulator.
//!
//! Invariant: a shard has at most one sync or delta in flight.

use std::collections::BTreeMap;
use std::time::Duration;

use common::id::{Incarnation, ShardId, StateRef};
use common::message::StateSummary;

/// The longest wait after a failed sync, in pauses, however many have failed before it.
const MOST_PAUSES: u32 = 50;

/// When a replica is left alone, and when it counts as diverged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaLimits {
    /// The pause after a failed sync, times the failures in a row.
    pub sync_pause: Duration,
    /// The number of heartbeats in a row that must disagree before a replica counts as diverged. A heartbeat
    /// that was in flight while the replica moved proves nothing.
    pub mismatches: u32,
}

impl Default for ReplicaLimits {
    fn default() -> Self {
        Self { sync_pause: Duration::from_millis(100), mismatches: 3 }
    }
}

/// An output of the machine: what the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaCommand {
    /// Ask the shard to fetch this state.
    Sync {
        /// The shard that must fetch the state.
        shard: ShardId,
        /// The incarnation to ask. An answer of another one does not count.
        incarnation: Incarnation,
        /// The state to fetch, with the digest that its content must have.
        target: StateSummary,
    },
    /// Send the shard the delta that the fleet advances by.
    Advance {
        /// The shard that holds the state before the delta.
        shard: ShardId,
        /// The incarnation to send it to. An answer of another one does not count.
        incarnation: Incarnation,
    },
    /// Tell the scheduler what the shard holds now; `None` if that is not known.
    Holds {
        /// The shard that has answered, or whose replica has diverged.
        shard: ShardId,
        /// The incarnation that the replica belongs to.
        incarnation: Incarnation,
        /// The state as the shard names it; `None` after a failed sync or delta, or a divergence.
        state: Option<StateRef>,
    },
    /// The shard holds the target state.
    AtTarget {
        /// The shard that has reached the target.
        shard: ShardId,
        /// Whether it is there for the first time since its state was not known.
        fresh: bool,
    },
    /// The replica's content is not what it should be. It gets no work until it has been synced.
    Diverged {
        /// The shard that must be synced again.
        shard: ShardId,
    },
}

/// The replica of one shard, as far as the shard's answers have shown it.
#[derive(Debug, Clone)]
struct Follower {
    incarnation: Incarnation,
    state: Option<StateSummary>,
    /// It has been at the target since its state was last not known.
    arrived: bool,
    /// A sync or a delta is in flight.
    moving: bool,
    /// After a failed sync the shard rests: no sync starts before this time.
    rests_until: Duration,
    /// Failed syncs in a row.
    failures: u32,
    /// Why the last one failed.
    trouble: Option<String>,
    /// Heartbeats in a row that name another state than `state`.
    mismatches: u32,
}

impl Follower {
    /// What it holds is not known any more.
    fn forget(&mut self) {
        (self.state, self.arrived) = (None, false);
    }
}

/// The replicas of the fleet.
///
/// # Example
/// ```
/// use std::time::Duration;
///
/// use alloy_primitives::{B256, U256};
/// use common::id::{Height, Incarnation, ShardId, StateRef, WorldId};
/// use common::message::StateSummary;
/// use schedule::replicas::{ReplicaCommand, ReplicaLimits, Replicas};
///
/// let state = StateRef { world: WorldId::default(), height: Height(7), block_hash: B256::ZERO };
/// let target = StateSummary { state, digest: U256::from(1) };
/// let mut replicas = Replicas::new(ReplicaLimits::default());
/// let (shard, incarnation) = (ShardId(1), Incarnation(1));
/// replicas.join(shard, incarnation);
/// let commands = replicas.lead_to(Duration::ZERO, target);
/// assert_eq!(commands, [ReplicaCommand::Sync { shard, incarnation, target }]);
/// assert!(!replicas.is_at_target(shard), "it has not answered yet");
/// ```
#[derive(Debug, Clone)]
pub struct Replicas {
    limits: ReplicaLimits,
    target: Option<StateSummary>,
    followers: BTreeMap<ShardId, Follower>,
}

impl Replicas {
    /// A machine without shards and without a target state.
    #[must_use]
    pub fn new(limits: ReplicaLimits) -> Self {
        Self { limits, target: None, followers: BTreeMap::new() }
    }

    /// The state that shards must hold.
    #[must_use]
    pub fn target(&self) -> Option<StateSummary> {
        self.target
    }

    /// The state that the shard holds, as far as it is known.
    #[must_use]
    pub fn state(&self, shard: ShardId) -> Option<StateSummary> {
        self.followers.get(&shard)?.state
    }

    /// Whether the shard holds the target.
    #[must_use]
    pub fn is_at_target(&self, shard: ShardId) -> bool {
        self.state(shard).is_some_and(|held| Some(held) == self.target)
    }

    /// Why the shard's last sync failed; `None` if it did not.
    #[must_use]
    pub fn trouble(&self, shard: ShardId) -> Option<&str> {
        self.followers.get(&shard)?.trouble.as_deref()
    }

    /// Adds a shard with a new connection, or one that is connected again. What it holds is not known.
    pub fn join(&mut self, shard: ShardId, incarnation: Incarnation) {
        let follower = Follower {
            incarnation,
            state: None,
            arrived: false,
            moving: false,
            rests_until: Duration::ZERO,
            failures: 0,
            trouble: None,
            mismatches: 0,
        };
        self.followers.insert(shard, follower);
    }

    /// Removes a lost shard.
    pub fn lose(&mut self, shard: ShardId, incarnation: Incarnation) {
        if self.of(shard, incarnation).is_some() {
            self.followers.remove(&shard);
        }
    }

    /// Sets the state that all shards must hold.
    pub fn lead_to(&mut self, now: Duration, target: StateSummary) -> Vec<ReplicaCommand> {
        self.target = Some(target);
        self.tick(now)
    }

    /// Moves all shards from one state to the next: those that hold `from` by a delta, the others by a sync.
    pub fn advance(&mut self, now: Duration, from: StateRef, target: StateSummary) -> Vec<ReplicaCommand> {
        self.target = Some(target);
        let mut commands = Vec::new();
        for (shard, follower) in &mut self.followers {
            if !follower.moving && follower.state.is_some_and(|held| held.state == from) {
                follower.moving = true;
                commands.push(ReplicaCommand::Advance { shard: *shard, incarnation: follower.incarnation });
            }
        }
        commands.extend(self.tick(now));
        commands
    }

    /// Notes that a shard rejected work because it does not hold its base: what it holds is not known.
    pub fn doubt(&mut self, now: Duration, shard: ShardId) -> Vec<ReplicaCommand> {
        if let Some(follower) = self.followers.get_mut(&shard) {
            follower.forget();
        }
        self.sync(now, shard).into_iter().collect()
    }

    /// Handles a shard's answer to a sync or a delta: the state that it holds now, or why it failed.
    pub fn reached(
        &mut self,
        now: Duration,
        shard: ShardId,
        incarnation: Incarnation,
        answer: Result<StateSummary, String>,
    ) -> Vec<ReplicaCommand> {
        let (target, pause) = (self.target, self.limits.sync_pause);
        let Some(follower) = self.of(shard, incarnation) else { return Vec::new() };
        follower.moving = false;
        let held = match answer {
            Ok(held) => held,
            Err(reason) => {
                follower.forget();
                follower.failures = follower.failures.saturating_add(1);
                follower.rests_until = now + pause * follower.failures.min(MOST_PAUSES);
                follower.trouble = Some(reason);
                return vec![ReplicaCommand::Holds { shard, incarnation, state: None }];
            }
        };
        follower.state = Some(held);
        let fresh = target == Some(held) && !std::mem::replace(&mut follower.arrived, true);
        follower.failures = 0;
        follower.trouble = None;
        follower.mismatches = 0;
        let mut commands = vec![ReplicaCommand::Holds { shard, incarnation, state: Some(held.state) }];
        if target == Some(held) {
            commands.push(ReplicaCommand::AtTarget { shard, fresh });
            return commands;
        }
        if target.is_some_and(|target| target.state == held.state) {
            commands.extend(self.diverge(shard, incarnation));
        }
        commands.extend(self.sync(now, shard));
        commands
    }

    /// Handles a heartbeat, which names what the shard holds.
    pub fn heartbeat(
        &mut self,
        now: Duration,
        shard: ShardId,
        incarnation: Incarnation,
        state: Option<StateSummary>,
    ) -> Vec<ReplicaCommand> {
        let most = self.limits.mismatches;
        let Some(follower) = self.of(shard, incarnation) else { return Vec::new() };
        if follower.moving || follower.state.is_none() || follower.state == state {
            follower.mismatches = 0;
            return Vec::new();
        }
        follower.mismatches += 1;
        if follower.mismatches < most {
            return Vec::new();
        }
        follower.mismatches = 0;
        let mut commands = self.diverge(shard, incarnation);
        commands.extend(self.sync(now, shard));
        commands
    }

    /// Syncs every shard that is not at the target and is due.
    pub fn tick(&mut self, now: Duration) -> Vec<ReplicaCommand> {
        let shards: Vec<ShardId> = self.followers.keys().copied().collect();
        shards.into_iter().filter_map(|shard| self.sync(now, shard)).collect()
    }

    fn of(&mut self, shard: ShardId, incarnation: Incarnation) -> Option<&mut Follower> {
        self.followers.get_mut(&shard).filter(|follower| follower.incarnation == incarnation)
    }

    /// The sync of a shard that is not at the target; `None` if one is in flight or the shard rests after a
    /// failure.
    fn sync(&mut self, now: Duration, shard: ShardId) -> Option<ReplicaCommand> {
        let target = self.target?;
        let follower = self.followers.get_mut(&shard)?;
        if follower.moving || follower.state == Some(target) || follower.rests_until > now {
            return None;
        }
        follower.moving = true;
        Some(ReplicaCommand::Sync { shard, incarnation: follower.incarnation, target })
    }

    fn diverge(&mut self, shard: ShardId, incarnation: Incarnation) -> Vec<ReplicaCommand> {
        if let Some(follower) = self.of(shard, incarnation) {
            follower.forget();
        }
        vec![ReplicaCommand::Holds { shard, incarnation, state: None }, ReplicaCommand::Diverged { shard }]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::{B256, U256};
    use common::id::{Height, WorldId};

    const SHARD: ShardId = ShardId(1);
    const INCARNATION: Incarnation = Incarnation(7);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(height: u64) -> StateSummary {
        let block_hash = B256::repeat_byte(u8::try_from(height).unwrap());
        let state = StateRef { world: WorldId::default(), height: Height(height), block_hash };
        StateSummary { state, digest: U256::from(height) }
    }

    fn sync(height: u64) -> ReplicaCommand {
        ReplicaCommand::Sync { shard: SHARD, incarnation: INCARNATION, target: at(height) }
    }

    fn holds(state: Option<StateSummary>) -> ReplicaCommand {
        let state = state.map(|held| held.state);
        ReplicaCommand::Holds { shard: SHARD, incarnation: INCARNATION, state }
    }

    /// A shard that holds state 1.
    fn synced() -> Replicas {
        let mut replicas = Replicas::new(ReplicaLimits::default());
        replicas.join(SHARD, INCARNATION);
        assert_eq!(replicas.lead_to(ms(0), at(1)), [sync(1)]);
        let commands = replicas.reached(ms(1), SHARD, INCARNATION, Ok(at(1)));
        assert_eq!(commands, [holds(Some(at(1))), ReplicaCommand::AtTarget { shard: SHARD, fresh: true }]);
        replicas
    }

    #[test]
    fn a_shard_that_follows_gets_the_delta_and_any_other_a_sync() {
        let mut replicas = synced();
        replicas.join(ShardId(2), Incarnation(8));
        let commands = replicas.advance(ms(2), at(1).state, at(2));
        let second = ReplicaCommand::Sync { shard: ShardId(2), incarnation: Incarnation(8), target: at(2) };
        assert_eq!(commands, [ReplicaCommand::Advance { shard: SHARD, incarnation: INCARNATION }, second]);
        // A shard that is still moving is brought on when it has answered.
        assert_eq!(replicas.advance(ms(3), at(2).state, at(3)), []);
        let commands = replicas.reached(ms(4), SHARD, INCARNATION, Ok(at(2)));
        assert_eq!(commands, [holds(Some(at(2))), sync(3)]);
    }

    #[test]
    fn a_shard_arrives_once_also_if_the_target_moves_meanwhile() {
        let mut replicas = synced();
        assert_eq!(replicas.doubt(ms(2), SHARD), [sync(1)]);
        assert_eq!(replicas.advance(ms(3), at(1).state, at(2)), []);
        assert_eq!(replicas.reached(ms(4), SHARD, INCARNATION, Ok(at(1))), [holds(Some(at(1))), sync(2)]);
        let arrives = |fresh| ReplicaCommand::AtTarget { shard: SHARD, fresh };
        assert_eq!(
            replicas.reached(ms(5), SHARD, INCARNATION, Ok(at(2))),
            [holds(Some(at(2))), arrives(true)]
        );
        replicas.advance(ms(6), at(2).state, at(3));
        assert_eq!(
            replicas.reached(ms(7), SHARD, INCARNATION, Ok(at(3))),
            [holds(Some(at(3))), arrives(false)]
        );
    }

    #[test]
    fn after_failed_syncs_a_shard_rests_for_longer_and_longer() {
        let mut replicas = Replicas::new(ReplicaLimits::default());
        replicas.join(SHARD, INCARNATION);
        replicas.lead_to(ms(0), at(1));
        for (failure, pause) in [(ms(10), 100), (ms(200), 200), (ms(500), 300)] {
            let commands = replicas.reached(failure, SHARD, INCARNATION, Err("it is busy".into()));
            assert_eq!(commands, [holds(None)]);
            assert_eq!(replicas.trouble(SHARD), Some("it is busy"));
            assert_eq!(replicas.tick(failure + ms(pause - 1)), []);
            assert_eq!(replicas.tick(failure + ms(pause)), [sync(1)]);
        }
        replicas.reached(ms(900), SHARD, INCARNATION, Ok(at(1)));
        assert_eq!(replicas.trouble(SHARD), None);
    }

    #[test]
    fn only_repeated_disagreement_is_divergence() {
        let mut replicas = synced();
        let mut beat = |at_ms, state| replicas.heartbeat(ms(at_ms), SHARD, INCARNATION, state);
        assert_eq!(beat(10, None), []);
        assert_eq!(beat(20, Some(at(9))), []);
        assert_eq!(beat(30, Some(at(1))), [], "it agrees again");
        assert_eq!(beat(40, None), []);
        assert_eq!(beat(50, None), []);
        let diverged = ReplicaCommand::Diverged { shard: SHARD };
        assert_eq!(beat(60, None), [holds(None), diverged, sync(1)]);
        assert_eq!(beat(70, None), [], "a sync is in flight");
    }

    #[test]
    fn the_right_state_with_another_content_is_divergence_at_once() {
        let mut replicas = synced();
        replicas.advance(ms(2), at(1).state, at(2));
        let wrong = StateSummary { digest: U256::from(99), ..at(2) };
        let commands = replicas.reached(ms(3), SHARD, INCARNATION, Ok(wrong));
        let diverged = ReplicaCommand::Diverged { shard: SHARD };
        assert_eq!(commands, [holds(Some(wrong)), holds(None), diverged, sync(2)]);
        assert!(!replicas.is_at_target(SHARD));
    }

    #[test]
    fn a_shard_that_refuses_work_for_its_state_is_synced_and_its_former_incarnation_says_nothing() {
        let mut replicas = synced();
        assert_eq!(replicas.doubt(ms(5), SHARD), [sync(1)]);
        assert_eq!(replicas.reached(ms(6), SHARD, Incarnation(6), Ok(at(1))), []);
        assert_eq!(replicas.state(SHARD), None);
        replicas.lose(SHARD, Incarnation(6));
        assert_eq!(replicas.reached(ms(7), SHARD, INCARNATION, Ok(at(1))).len(), 2);
        replicas.lose(SHARD, INCARNATION);
        assert_eq!(replicas.tick(ms(8)), []);
    }
}
