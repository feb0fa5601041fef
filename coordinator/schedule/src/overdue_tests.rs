//! Unit tests: overdue work goes to another shard, and a late shard gets no new work.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_primitives::B256;
use common::id::{AssignmentId, Gas, Incarnation, RoundId, ShardId, SlotIndex, TxIndex};
use common::message::SlotProgress;

use super::tests::{admit, dispatched, item, join, ms, register, result, scheduler, synced};
use super::{Command, Event, LossCause, Scheduler};

/// Shard 1 with one slot shows that 20 ms are usual, and gets two pieces of work at 100 ms. Shard 2 has no state
/// yet.
fn usual_and_two_more(scheduler: &mut Scheduler) -> Vec<AssignmentId> {
    join(scheduler, 1, 1);
    register(scheduler, 2, 1);
    let mut open = admit(scheduler, 8);
    for round in 1..=6 {
        let commands = scheduler.handle(ms(round * 20), result(open.remove(0)));
        open.extend(dispatched(&commands));
    }
    assert_eq!(open.len(), 2);
    open
}

#[test]
fn the_median_is_of_the_work_and_not_of_the_wait_before_it() {
    let mut scheduler = scheduler();
    usual_and_two_more(&mut scheduler);
    synced(&mut scheduler, 2);
    // Each waited 20 ms for the one before it: four times 20 ms is late, not four times 40.
    assert_eq!(dispatched(&scheduler.handle(ms(199), Event::Tick)), []);
    assert_eq!(dispatched(&scheduler.handle(ms(201), Event::Tick)).len(), 2);
}

#[test]
fn what_waits_behind_overdue_work_is_overdue_with_it() {
    let mut scheduler = scheduler();
    let held = usual_and_two_more(&mut scheduler);
    synced(&mut scheduler, 2);
    let again = dispatched(&scheduler.handle(ms(201), Event::Tick));
    let works = |assignments: &[AssignmentId]| assignments.iter().map(|id| id.work).collect::<Vec<_>>();
    assert_eq!(works(&again), works(&held));
}

#[test]
fn a_late_shard_gets_nothing_new_until_it_answers() {
    let mut scheduler = scheduler();
    let held = usual_and_two_more(&mut scheduler);
    synced(&mut scheduler, 2);
    let again = dispatched(&scheduler.handle(ms(201), Event::Tick));
    scheduler.handle(ms(220), result(again[0]));
    scheduler.handle(ms(221), result(again[1]));
    let round = RoundId(2);
    let work = (20..24).map(item).collect();
    let event = Event::Admit { round, block: B256::ZERO, work };
    let given = dispatched(&scheduler.handle(ms(230), event));
    assert!(given.iter().all(|assignment| assignment.shard == ShardId(2)), "{given:?}");
    let given = dispatched(&scheduler.handle(ms(240), result(held[0])));
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|assignment| assignment.shard == ShardId(1)), "{given:?}");
}

#[test]
fn when_all_others_are_gone_a_late_shard_gets_work() {
    let mut scheduler = scheduler();
    usual_and_two_more(&mut scheduler);
    synced(&mut scheduler, 2);
    let again = dispatched(&scheduler.handle(ms(201), Event::Tick));
    assert_eq!(again.len(), 2);
    scheduler.handle(ms(220), result(again[0]));
    scheduler.handle(ms(221), result(again[1]));
    let round = RoundId(2);
    let event = Event::Admit { round, block: B256::ZERO, work: vec![item(20)] };
    assert_eq!(dispatched(&scheduler.handle(ms(230), event))[0].shard, ShardId(2));
    let (shard, incarnation) = (ShardId(2), Incarnation(2));
    let lost = Event::Lost { shard, incarnation, cause: LossCause::Died, reason: "killed".into() };
    assert_eq!(dispatched(&scheduler.handle(ms(240), lost))[0].shard, ShardId(1));
}

/// Shard 1's heartbeat: its slot is at this assignment, or at none.
fn beat(scheduler: &mut Scheduler, at: u64, current: Option<AssignmentId>) -> Vec<Command> {
    let current = current.map(|current| (current, TxIndex(0)));
    let slots = vec![SlotProgress { slot: SlotIndex(0), transactions: 1, current, gas: Gas(21_000) }];
    let (shard, incarnation) = (ShardId(1), Incarnation(1));
    scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots, queued: 0 })
}

/// Shard 2 does the work with which shard 1 is late, within 10 ms.
fn shard_2_helps(scheduler: &mut Scheduler, at: u64) {
    let again = dispatched(&scheduler.handle(ms(at), Event::Tick));
    assert!(!again.is_empty());
    for helped in again {
        assert_eq!(helped.shard, ShardId(2));
        scheduler.handle(ms(at + 10), result(helped));
    }
}

/// The assignments of a new round of four pieces: those of shard 1 and those of shard 2.
fn new_round(scheduler: &mut Scheduler, at: u64, number: u8) -> (Vec<AssignmentId>, Vec<AssignmentId>) {
    let work = (20 * number..20 * number + 4).map(item).collect();
    let event = Event::Admit { round: RoundId(number.into()), block: B256::ZERO, work };
    let given = dispatched(&scheduler.handle(ms(at), event));
    given.into_iter().partition(|given| given.shard == ShardId(1))
}

#[test]
fn a_late_shard_that_is_idle_gets_work_again() {
    for (beats, expected) in [(0, 0), (1, 0), (2, 2)] {
        let mut scheduler = scheduler();
        usual_and_two_more(&mut scheduler);
        synced(&mut scheduler, 2);
        shard_2_helps(&mut scheduler, 201);
        for number in 0..beats {
            beat(&mut scheduler, 212 + number, None);
        }
        assert_eq!(new_round(&mut scheduler, 230, 2).0.len(), expected, "{beats} heartbeats");
    }
}

#[test]
fn a_late_shard_that_still_runs_what_it_was_late_with_gets_nothing() {
    let mut scheduler = scheduler();
    let held = usual_and_two_more(&mut scheduler);
    synced(&mut scheduler, 2);
    shard_2_helps(&mut scheduler, 201);
    for at in 212..220 {
        beat(&mut scheduler, at, Some(held[0]));
    }
    assert_eq!(new_round(&mut scheduler, 230, 2).0, []);
}

#[test]
fn heartbeats_excuse_a_late_shard_only_once_until_it_answers() {
    for (answers, expected) in [(false, 0), (true, 2)] {
        let mut scheduler = scheduler();
        usual_and_two_more(&mut scheduler);
        synced(&mut scheduler, 2);
        shard_2_helps(&mut scheduler, 201);
        beat(&mut scheduler, 212, None);
        beat(&mut scheduler, 213, None);
        let (of_1, of_2) = new_round(&mut scheduler, 230, 2);
        for done in of_2.into_iter().chain(of_1.first().copied().filter(|_| answers)) {
            scheduler.handle(ms(240), result(done));
        }
        // What shard 1 has not answered is late once more.
        shard_2_helps(&mut scheduler, 420);
        beat(&mut scheduler, 432, None);
        beat(&mut scheduler, 433, None);
        assert_eq!(new_round(&mut scheduler, 440, 3).0.len(), expected, "answers: {answers}");
    }
}
