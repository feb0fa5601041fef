//! Unit tests of the scheduler's rules, one fact each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use alloy_primitives::B256;
use common::id::{AssignmentId, Epoch, Height, Incarnation, RoundId, ShardId, StateRef, WorkId, WorldId};

use super::{AssignmentFault, Command, Event, LossCause, ScheduleLimits, Scheduler, WorkClass, WorkItem};

pub(super) const EPOCH: Epoch = Epoch { number: 1, instance: 9 };
pub(super) const ROUND: RoundId = RoundId(1);

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn base() -> StateRef {
    StateRef { world: WorldId::default(), height: Height(7), block_hash: B256::ZERO }
}

pub(super) fn scheduler() -> Scheduler {
    Scheduler::new(EPOCH, ScheduleLimits::default(), ms(0))
}

pub(super) fn join(scheduler: &mut Scheduler, shard: u32, slots: u16) {
    register(scheduler, shard, slots);
    synced(scheduler, shard);
}

/// Registers a shard that has no state yet.
pub(super) fn register(scheduler: &mut Scheduler, shard: u32, slots: u16) {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    let commands = scheduler.handle(ms(0), Event::Register { shard, incarnation, slots });
    assert!(commands.contains(&Command::Admitted(shard)), "{commands:?}");
}

/// Gives a registered shard its state.
pub(super) fn synced(scheduler: &mut Scheduler, shard: u32) {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    scheduler.handle(ms(0), Event::State { shard, incarnation, state: Some(base()) });
}

fn lost(shard: u32) -> Event {
    let incarnation = Incarnation(u64::from(shard));
    Event::Lost { shard: ShardId(shard), incarnation, cause: LossCause::Silent, reason: "silent".into() }
}

pub(super) fn admit(scheduler: &mut Scheduler, works: u8) -> Vec<AssignmentId> {
    let work = (1..=works).map(item).collect();
    let admit = Event::Admit { round: ROUND, block: B256::ZERO, work };
    dispatched(&scheduler.handle(ms(1), admit))
}

pub(super) fn item(n: u8) -> WorkItem {
    let id = WorkId(B256::repeat_byte(n));
    WorkItem {
        id,
        base: Some(base()),
        class: WorkClass::Execute,
        cost: 10,
        heaviest: 21_000,
        transactions: 4,
        verify: false,
    }
}

pub(super) fn result(assignment: AssignmentId) -> Event {
    Event::Result { assignment, digest: None }
}

pub(super) fn dispatched(commands: &[Command]) -> Vec<AssignmentId> {
    commands
        .iter()
        .filter_map(|command| match command {
            Command::Dispatch(assignment) => Some(*assignment),
            _ => None,
        })
        .collect()
}

#[test]
fn work_is_spread_by_slots_and_bounded_by_depth() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 2);
    let sent = admit(&mut scheduler, 20);
    let on = |shard| sent.iter().filter(|assignment| assignment.shard == ShardId(shard)).count();
    assert_eq!((on(1), on(2)), (2, 4));
}

#[test]
fn a_lost_shards_work_is_given_to_another_once() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1);
    join(&mut scheduler, 2, 1);
    let commands = scheduler.handle(ms(5), lost(1));
    let again = dispatched(&commands);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].work, again[0].shard, again[0].attempt.0), (sent[0].work, ShardId(2), 2));
    assert!(commands.iter().any(|command| matches!(command, Command::Reassigned { from: ShardId(1), .. })));
    assert_eq!(scheduler.handle(ms(6), lost(1)), [], "the second report of the loss changes nothing");
}

#[test]
fn the_first_result_counts_and_the_second_is_ignored() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let first = admit(&mut scheduler, 1)[0];
    join(&mut scheduler, 2, 1);
    let second = dispatched(&scheduler.handle(ms(5), lost(1)))[0];
    let commands = scheduler.handle(ms(6), result(second));
    assert_eq!(commands, [Command::Use(second), Command::Finish(ROUND)]);
    assert_eq!(scheduler.handle(ms(7), result(first)), [Command::Ignore(first)]);
}

#[test]
fn a_late_result_of_a_lost_shard_is_used_while_its_work_is_open() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let first = admit(&mut scheduler, 1)[0];
    join(&mut scheduler, 2, 1);
    let second = dispatched(&scheduler.handle(ms(5), lost(1)))[0];
    let commands = scheduler.handle(ms(6), result(first));
    assert_eq!(commands, [Command::Use(first), Command::Cancel(second), Command::Finish(ROUND)]);
}

#[test]
fn a_silent_shard_is_lost_after_the_limit() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    for tick in (100..=1000).step_by(100) {
        assert_eq!(scheduler.handle(ms(tick), Event::Tick), []);
    }
    let commands = scheduler.handle(ms(1001), Event::Tick);
    assert!(matches!(commands.as_slice(), [Command::Evict { shard: ShardId(1), .. }]), "{commands:?}");
}

#[test]
fn no_shard_is_lost_for_the_coordinators_own_absence() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    assert_eq!(scheduler.handle(ms(60_000), Event::Tick), []);
    assert_eq!(scheduler.handle(ms(60_100), Event::Tick), []);
}

/// A heartbeat of shard 1 that arrives at `at` ms.
fn beat(scheduler: &mut Scheduler, at: u64) {
    let (shard, incarnation) = (ShardId(1), Incarnation(1));
    scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 });
}

#[test]
fn a_newcomer_with_a_living_shards_id_is_rejected() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let newcomer = Event::Register { shard: ShardId(1), incarnation: Incarnation(99), slots: 1 };
    assert_eq!(scheduler.handle(ms(1), newcomer.clone()), [Command::RetryLater(ShardId(1))]);
    beat(&mut scheduler, 2);
    assert_eq!(scheduler.handle(ms(3), newcomer.clone()), [Command::Rejected(ShardId(1))]);
    scheduler.handle(ms(4), lost(1));
    assert!(scheduler.handle(ms(5), newcomer).contains(&Command::Admitted(ShardId(1))));
}

#[test]
fn a_newcomer_must_ask_again_while_its_former_incarnation_may_be_alive() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    beat(&mut scheduler, 1);
    let newcomer = Event::Register { shard: ShardId(1), incarnation: Incarnation(99), slots: 1 };
    // A heartbeat that had arrived before shows nothing.
    for at in [2, 20, 60] {
        beat(&mut scheduler, 1);
        assert_eq!(scheduler.handle(ms(at), newcomer.clone()), [Command::RetryLater(ShardId(1))]);
    }
    scheduler.handle(ms(70), lost(1));
    assert!(scheduler.handle(ms(80), newcomer).contains(&Command::Admitted(ShardId(1))));
}

#[test]
fn a_shard_that_registers_again_goes_on_with_what_it_holds() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    let again = Event::Register { shard: ShardId(1), incarnation: Incarnation(1), slots: 1 };
    assert_eq!(scheduler.handle(ms(2), again), [Command::Admitted(ShardId(1))]);
    assert_eq!(scheduler.handle(ms(3), result(sent)), [Command::Use(sent), Command::Finish(ROUND)]);
}

#[test]
fn a_shard_at_another_state_gets_no_execution() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let elsewhere = StateRef { height: Height(3), ..base() };
    let (shard, incarnation) = (ShardId(1), Incarnation(1));
    scheduler.handle(ms(0), Event::State { shard, incarnation, state: Some(elsewhere) });
    assert_eq!(admit(&mut scheduler, 1), []);
    let commands = scheduler.handle(ms(2), Event::State { shard, incarnation, state: Some(base()) });
    assert_eq!(dispatched(&commands).len(), 1);
}

#[test]
fn attempts_are_bounded() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let mut assignment = admit(&mut scheduler, 1)[0];
    for attempt in 1.. {
        let failed = Event::Failed { assignment, fault: AssignmentFault::Failed, reason: "panic".into() };
        let mut commands = scheduler.handle(ms(u64::from(attempt) * 2_000), failed);
        // Its heartbeats still arrive while it rests.
        let (shard, incarnation) = (ShardId(1), Incarnation(1));
        let beat = Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 };
        commands.extend(scheduler.handle(ms(u64::from(attempt) * 2_000 + 1_000), beat));
        commands.extend(scheduler.handle(ms(u64::from(attempt) * 2_000 + 1_000), Event::Tick));
        match dispatched(&commands).first() {
            Some(next) => assignment = *next,
            None => {
                assert_eq!(attempt, ScheduleLimits::default().max_attempts);
                assert!(matches!(commands.as_slice(), [Command::Fail { .. }]), "{commands:?}");
                return;
            }
        }
    }
}

#[test]
fn a_busy_shard_rests_and_is_asked_again() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let assignment = admit(&mut scheduler, 1)[0];
    let busy = Event::Failed { assignment, fault: AssignmentFault::Busy, reason: "full".into() };
    assert_eq!(scheduler.handle(ms(2), busy), []);
    assert_eq!(scheduler.next_deadline(), ms(7));
    assert_eq!(dispatched(&scheduler.handle(ms(7), Event::Tick)).len(), 1);
}

#[test]
fn a_draining_shard_gets_nothing_new_and_its_results_count() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 3);
    assert_eq!(sent.len(), 2);
    scheduler.handle(ms(2), Event::Draining { shard: ShardId(1), incarnation: Incarnation(1) });
    assert_eq!(scheduler.handle(ms(3), result(sent[0])), [Command::Use(sent[0])]);
}

#[test]
fn a_round_without_any_shard_fails_after_the_wait() {
    let mut scheduler = scheduler();
    assert_eq!(admit(&mut scheduler, 1), []);
    for tick in 1..=300 {
        assert_eq!(scheduler.handle(ms(tick * 100), Event::Tick), [], "tick {tick}");
    }
    let commands = scheduler.handle(ms(30_100), Event::Tick);
    assert!(matches!(commands.as_slice(), [Command::Fail { round: ROUND, .. }]), "{commands:?}");
}

#[test]
fn a_failed_assignment_goes_to_a_shard_that_has_not_failed_at_it() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1);
    join(&mut scheduler, 2, 1);
    let failed =
        Event::Failed { assignment: sent[0], fault: AssignmentFault::Failed, reason: "malformed".into() };
    assert_eq!(dispatched(&scheduler.handle(ms(2), failed))[0].shard, ShardId(2));
}

#[test]
fn overdue_work_is_given_to_another_shard_as_well_and_then_given_up() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let first = admit(&mut scheduler, 1)[0];
    join(&mut scheduler, 2, 1);
    let mut again = Vec::new();
    for tick in 1..=151 {
        for shard in [1, 2] {
            let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
            scheduler
                .handle(ms(tick * 100), Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 });
        }
        let commands = scheduler.handle(ms(tick * 100), Event::Tick);
        again.extend(dispatched(&commands).into_iter().map(|assignment| (tick, assignment.shard)));
        assert_eq!(commands.contains(&Command::Cancel(first)), tick == 151, "tick {tick}");
    }
    assert_eq!(again, [(51, ShardId(2))]);
}

#[test]
fn a_result_of_a_later_epoch_leaves_open_work_open() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    let mut later = sent;
    later.epoch.number = 2;
    assert_eq!(scheduler.handle(ms(2), result(later)), [Command::Ignore(later)]);
    assert_eq!(scheduler.handle(ms(3), result(sent)), [Command::Use(sent), Command::Finish(ROUND)]);
}

#[test]
fn no_two_assignments_are_ever_the_same() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let first = admit(&mut scheduler, 1)[0];
    scheduler.handle(ms(2), Event::Abandon { round: ROUND });
    assert_ne!(admit(&mut scheduler, 1)[0], first);
}

#[test]
fn an_abandoned_round_is_cancelled_everywhere() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 2);
    let commands = scheduler.handle(ms(2), Event::Abandon { round: ROUND });
    assert_eq!(commands, [Command::Cancel(sent[0]), Command::Cancel(sent[1])]);
    assert_eq!(scheduler.handle(ms(3), result(sent[0])), [Command::Ignore(sent[0])]);
}
