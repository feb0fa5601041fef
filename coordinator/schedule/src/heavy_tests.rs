//! Unit tests of heavy transactions and of slots that stand still.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_primitives::B256;
use common::id::{AssignmentId, Gas, Incarnation, RoundId, ShardId, SlotIndex, TxIndex};
use common::message::SlotProgress;

use super::tests::{EPOCH, ROUND, admit, base, dispatched, item, join, ms, result};
use super::{AssignmentFault, Command, Event, LossCause, ScheduleLimits, Scheduler, WorkItem};

/// The gas limit of a BLAKE2F call with the most rounds.
const HEAVY: u64 = 4_294_967_295;

/// A scheduler that gives a heavy transaction 43 s.
fn scheduler() -> Scheduler {
    let limits = ScheduleLimits { slowest_gas: 100_000_000, ..ScheduleLimits::default() };
    Scheduler::new(EPOCH, limits, ms(0))
}

fn at(slot: u16, transactions: u64, current: AssignmentId, gas: u64) -> SlotProgress {
    SlotProgress { slot: SlotIndex(slot), transactions, current: Some((current, TxIndex(3))), gas: Gas(gas) }
}

fn beat(scheduler: &mut Scheduler, when: u64, shard: u32, slots: Vec<SlotProgress>) -> Vec<Command> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    scheduler.handle(ms(when), Event::Heartbeat { shard, incarnation, slots, queued: 0 })
}

fn admit_heavy(scheduler: &mut Scheduler, number: u8) -> Vec<AssignmentId> {
    let work = vec![WorkItem { heaviest: HEAVY, cost: HEAVY, transactions: 1, ..item(number) }];
    let event = Event::Admit { round: RoundId(u64::from(number)), block: B256::ZERO, work };
    dispatched(&scheduler.handle(ms(1), event))
}

/// The times at which a slot of shard 1 that stands still in a transaction gets its strike and is retired.
fn noticed(gas: u64, until: u64) -> (Option<u64>, Option<u64>) {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit_heavy(&mut scheduler, 1)[0];
    let (mut struck, mut retired) = (None, None);
    for when in (100..until).step_by(100) {
        let mut commands = beat(&mut scheduler, when, 1, vec![at(0, 5, sent, gas)]);
        commands.extend(scheduler.handle(ms(when), Event::Tick));
        for command in commands {
            match command {
                Command::Strikes { .. } => struck = struck.or(Some(when)),
                Command::Retire { left: 0, .. } => retired = retired.or(Some(when)),
                _ => {}
            }
        }
    }
    (struck, retired)
}

#[test]
fn a_slot_may_stand_still_while_its_transactions_gas_may_last() {
    // 43 s for the gas and 1 s beyond it; retired after twice as long.
    let (struck, retired) = noticed(HEAVY, 100_000);
    assert!(struck.is_some_and(|at| (44_000..44_400).contains(&at)), "{struck:?}");
    assert!(retired.is_some_and(|at| (88_000..88_600).contains(&at)), "{retired:?}");
}

#[test]
fn a_slot_that_hangs_in_a_transfer_is_noticed_soon_although_its_work_is_heavy() {
    let (struck, retired) = noticed(21_000, 10_000);
    assert!(struck.is_some_and(|at| at <= 1_200), "{struck:?}");
    assert!(retired.is_some_and(|at| at <= 2_300), "{retired:?}");
}

#[test]
fn a_slot_that_has_answered_is_not_held_to_what_it_was_at() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    beat(&mut scheduler, 100, 1, vec![at(0, 5, sent, 21_000)]);
    // It stood still for as long as it may, then answered. No heartbeat has named what it runs next.
    scheduler.handle(ms(1_050), result(sent));
    let mut commands = Vec::new();
    for when in (1_100..2_600).step_by(100) {
        commands.extend(scheduler.handle(ms(when), Event::Tick));
    }
    assert_eq!(scheduler.counters().retired_slots, 0, "{commands:?}");
    assert!(!commands.iter().any(|command| matches!(command, Command::Strikes { .. })), "{commands:?}");
}

#[test]
fn a_shard_cannot_claim_more_gas_than_its_work_has() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    let mut retired = false;
    for when in (100..4_000).step_by(100) {
        beat(&mut scheduler, when, 1, vec![at(0, 5, sent, u64::MAX)]);
        let commands = scheduler.handle(ms(when), Event::Tick);
        retired |= commands.iter().any(|command| matches!(command, Command::Retire { .. }));
    }
    assert!(retired);
}

#[test]
fn a_heavy_transaction_is_given_to_one_other_shard_at_most() {
    let mut scheduler = Scheduler::new(EPOCH, ScheduleLimits::default(), ms(0));
    for shard in 1..=3 {
        join(&mut scheduler, shard, 1);
    }
    let mut sent = admit_heavy(&mut scheduler, 1);
    let mut when_again = Vec::new();
    for when in (100..300_000).step_by(100) {
        for shard in 1..=3 {
            let held = sent.iter().find(|held| held.shard == ShardId(shard));
            let slots = held.map(|held| at(0, 1, *held, HEAVY)).into_iter().collect();
            beat(&mut scheduler, when, shard, slots);
        }
        let commands = scheduler.handle(ms(when), Event::Tick);
        assert!(
            !commands.iter().any(|command| matches!(command, Command::Cancel(_))),
            "{when}: {commands:?}"
        );
        for again in dispatched(&commands) {
            when_again.push(when);
            sent.push(again);
        }
    }
    // BLAKE2F takes half as long; the limit of other work is 5 s.
    assert_eq!(when_again, [85_900]);
    let commands = scheduler.handle(ms(300_100), result(sent[0]));
    assert_eq!(commands, [Command::Use(sent[0]), Command::Cancel(sent[1]), Command::Finish(RoundId(1))]);
    assert_eq!(scheduler.counters().retired_slots, 0);
}

#[test]
fn what_waits_behind_a_heavy_transaction_goes_to_another_shard() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let work = vec![WorkItem { heaviest: HEAVY, ..item(1) }, item(2)];
    let event = Event::Admit { round: ROUND, block: B256::ZERO, work };
    let sent = dispatched(&scheduler.handle(ms(1), event));
    join(&mut scheduler, 2, 1);
    let mut again = Vec::new();
    for when in (100..10_000).step_by(100) {
        beat(&mut scheduler, when, 1, vec![at(0, 1, sent[0], HEAVY)]);
        beat(&mut scheduler, when, 2, vec![]);
        again.extend(dispatched(&scheduler.handle(ms(when), Event::Tick)));
    }
    let again: Vec<_> = again.iter().map(|again| (again.work, again.shard)).collect();
    assert_eq!(again, [(sent[1].work, ShardId(2))]);
}

#[test]
fn work_is_not_tried_again_on_a_shard_that_is_stuck_in_it() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    let mut retired = None;
    let mut commands = Vec::new();
    for when in (100..20_000).step_by(100) {
        commands.extend(beat(&mut scheduler, when, 1, vec![at(0, 5, sent, 21_000)]));
        commands.extend(scheduler.handle(ms(when), Event::Tick));
        if commands.iter().any(|command| matches!(command, Command::Retire { .. })) {
            retired = retired.or(Some(when));
        }
    }
    assert!(retired.is_some());
    assert_eq!(dispatched(&commands), []);
    // A new thread has the slot.
    let idle = SlotProgress { slot: SlotIndex(0), transactions: 0, current: None, gas: Gas(0) };
    let again = dispatched(&beat(&mut scheduler, 20_000, 1, vec![idle]));
    assert_eq!(again.iter().map(|again| again.work).collect::<Vec<_>>(), [sent.work]);
}

#[test]
fn standing_still_alone_puts_no_shard_into_quarantine() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    for when in (100..30_000).step_by(100) {
        // The slot moves every three seconds, and stands still for too long in between.
        let moved = at(0, when / 3_000, sent, 21_000);
        beat(&mut scheduler, when, 1, vec![moved]);
        scheduler.handle(ms(when), Event::Tick);
        assert!(!scheduler.is_quarantined(ShardId(1)), "after {when} ms");
    }
    assert!(scheduler.counters().returned_slots > 3);
}

#[test]
fn a_retired_slot_that_moves_gets_work_again_and_its_result_is_used() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 2);
    let sent = admit(&mut scheduler, 1)[0];
    let mut retired = None;
    for when in (100..3_000).step_by(100) {
        beat(&mut scheduler, when, 1, vec![at(0, 5, sent, 21_000)]);
        for command in scheduler.handle(ms(when), Event::Tick) {
            if let Command::Retire { left, .. } = command {
                retired = Some(left);
            }
        }
    }
    assert_eq!((retired, scheduler.retired_slots().count()), (Some(1), 1));
    assert_eq!(scheduler.handle(ms(3_000), result(sent)), [Command::Use(sent), Command::Finish(ROUND)]);
    let idle = SlotProgress { slot: SlotIndex(0), transactions: 9, current: None, gas: Gas(0) };
    let commands = beat(&mut scheduler, 3_100, 1, vec![idle]);
    let slot = SlotIndex(0);
    let back = Command::Return { shard: ShardId(1), incarnation: Incarnation(1), slot };
    assert!(commands.contains(&back), "{commands:?}");
    let forgiven =
        |command: &Command| matches!(command, Command::Strikes { record, .. } if record.strikes == 0);
    assert!(commands.iter().any(forgiven), "{commands:?}");
    assert_eq!(scheduler.retired_slots().count(), 0);
    // Two slots take twice the depth.
    let work = (10..20).map(item).collect();
    let event = Event::Admit { round: RoundId(2), block: B256::ZERO, work };
    assert_eq!(dispatched(&scheduler.handle(ms(3_200), event)).len(), 4);
}

/// Tries work of several transactions that kills its shard, always at the same time as another shard, until
/// it is cut. No such death is evidence.
fn spend_the_whole(scheduler: &mut Scheduler) -> Vec<Command> {
    for attempt in 0..20u64 {
        let when = 1_000 * (attempt + 1);
        for shard in 1..=2u32 {
            let incarnation =
                Incarnation(if attempt == 0 { u64::from(shard) } else { 100 * attempt + u64::from(shard) });
            let (shard, cause, reason) = (ShardId(shard), LossCause::Died, "killed".into());
            let commands = scheduler.handle(ms(when), Event::Lost { shard, incarnation, cause, reason });
            if commands.iter().any(|command| matches!(command, Command::Recut { .. } | Command::Fail { .. }))
            {
                return commands;
            }
        }
        for shard in 1..=2u32 {
            let incarnation = Incarnation(100 * (attempt + 1) + u64::from(shard));
            let (shard, slots) = (ShardId(shard), 1);
            scheduler.handle(ms(when + 500), Event::Register { shard, incarnation, slots });
            scheduler.handle(ms(when + 500), Event::State { shard, incarnation, state: Some(base()) });
        }
    }
    Vec::new()
}

#[test]
fn tries_at_the_whole_do_not_count_against_what_the_search_isolates() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    let whole = admit(&mut scheduler, 1)[0].work;
    let commands = spend_the_whole(&mut scheduler);
    let cut = Command::Recut { round: ROUND, work: whole };
    assert!(commands.contains(&cut), "its tries are spent, and it is cut: {commands:?}");
    let parts: Vec<WorkItem> = (50..54).map(|n| WorkItem { transactions: 1, ..item(n) }).collect();
    scheduler.handle(ms(30_000), Event::Recut { round: ROUND, work: whole, parts });
    join(&mut scheduler, 9, 1);
    // Each piece has all tries of its own.
    let mut tries = 0;
    for when in (31_000..300_000).step_by(100) {
        let mut commands = beat(&mut scheduler, when, 9, vec![]);
        commands.extend(scheduler.handle(ms(when), Event::Tick));
        while let Some(assignment) = dispatched(&commands).first().copied() {
            tries += u32::from(assignment.work == item(50).id);
            let (fault, reason) = (AssignmentFault::Failed, "refused".into());
            commands = scheduler.handle(ms(when), Event::Failed { assignment, fault, reason });
        }
    }
    assert_eq!(tries, ScheduleLimits::default().max_attempts);
}

#[test]
fn a_verdict_without_proof_names_all_that_it_may_be() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    let whole = admit(&mut scheduler, 1)[0].work;
    spend_the_whole(&mut scheduler);
    let parts: Vec<WorkItem> = (50..54).map(|n| WorkItem { transactions: 1, ..item(n) }).collect();
    let pieces: Vec<_> = parts.iter().map(|part| part.id).collect();
    scheduler.handle(ms(30_000), Event::Recut { round: ROUND, work: whole, parts });
    let mut left = scheduler.deadly_work(ROUND);
    left.sort();
    assert_eq!(left, pieces);
    // Work that a shard has done and survived is not among them.
    join(&mut scheduler, 9, 1);
    let mut done = None;
    for when in (31_000..33_000).step_by(100) {
        let commands = beat(&mut scheduler, when, 9, vec![]);
        if let Some(assignment) = dispatched(&commands).first() {
            scheduler.handle(ms(when + 1), result(*assignment));
            done = Some(assignment.work);
            break;
        }
    }
    left.retain(|work| Some(*work) != done);
    let mut open = scheduler.deadly_work(ROUND);
    open.sort();
    assert_eq!((open, left.len()), (left, 3));
}
