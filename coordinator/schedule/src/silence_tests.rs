//! Unit tests of shards that are late and do not answer: what counts against them, and who helps.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_primitives::B256;
use common::id::{AssignmentId, Gas, Height, Incarnation, RoundId, ShardId, SlotIndex, StateRef, TxIndex};
use common::message::SlotProgress;

use super::tests::{EPOCH, base, dispatched, item, join, ms, register, result, scheduler, synced};
use super::{Command, Event, LossCause, NoShards, ScheduleLimits, Scheduler, WorkItem};

/// A heartbeat of a shard whose slots are at these assignments, from slot 0 on.
fn beat(scheduler: &mut Scheduler, at: u64, shard: u32, held: &[AssignmentId]) -> Vec<Command> {
    let progress = |(slot, held): (u16, &AssignmentId)| SlotProgress {
        slot: SlotIndex(slot),
        transactions: 1,
        current: Some((*held, TxIndex(0))),
        gas: Gas(u64::MAX),
    };
    let slots = (0..).zip(held).map(progress).collect();
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots, queued: 0 })
}

fn admit(scheduler: &mut Scheduler, at: u64, round: u64, work: Vec<WorkItem>) -> Vec<AssignmentId> {
    let admit = Event::Admit { round: RoundId(round), block: B256::ZERO, work };
    dispatched(&scheduler.handle(ms(at), admit))
}

/// Gives a shard that has registered the state of another block.
fn elsewhere(scheduler: &mut Scheduler, shard: u32) {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    let state = Some(StateRef { height: Height(6), ..base() });
    scheduler.handle(ms(0), Event::State { shard, incarnation, state });
}

fn is_trusted(scheduler: &Scheduler, shard: u32) -> bool {
    !scheduler.is_newcomer(ShardId(shard)) && !scheduler.is_quarantined(ShardId(shard))
}

/// Has six blocks of one small piece for each shard done, one each 6 s. Shard 2 answers at once what it gets, shard 1
/// never. `at_work` says with which of the assignments of shard 1 its slots are busy, as its heartbeats tell.
fn small_blocks(scheduler: &mut Scheduler, at_work: impl Fn(&[AssignmentId]) -> Vec<AssignmentId>) {
    let mut held = Vec::new();
    for block in 0..6_u8 {
        let begins = 6_000 * (1 + u64::from(block));
        let work =
            [10 + 2 * block, 11 + 2 * block].map(|number| WorkItem { heaviest: 16_000_000, ..item(number) });
        let mut sent = admit(scheduler, begins, 10 + u64::from(block), work.into());
        for at in (begins..begins + 6_000).step_by(100) {
            let busy = at_work(&held);
            sent.extend(dispatched(&beat(scheduler, at, 1, &busy)));
            sent.extend(dispatched(&beat(scheduler, at, 2, &[])));
            sent.extend(dispatched(&scheduler.handle(ms(at), Event::Tick)));
            while let Some(given) = sent.pop() {
                if given.shard == ShardId(2) {
                    sent.extend(dispatched(&scheduler.handle(ms(at), result(given))));
                } else {
                    held.push(given);
                }
            }
            scheduler.audit().unwrap();
        }
    }
}

#[test]
fn what_waits_behind_a_heavy_transaction_says_nothing_against_the_shard() {
    let limits = ScheduleLimits { slowest_gas: 100_000_000, ..ScheduleLimits::default() };
    let mut scheduler = Scheduler::new(EPOCH, limits, ms(0));
    join(&mut scheduler, 1, 1);
    let heavy = WorkItem { heaviest: 4_294_967_295, cost: 4_294_967_295, transactions: 1, ..item(1) };
    let heavy = admit(&mut scheduler, 1, 1, vec![heavy])[0];
    join(&mut scheduler, 2, 1);
    small_blocks(&mut scheduler, |_| vec![heavy]);
    assert!(is_trusted(&scheduler, 1));
    assert!(scheduler.is_outstanding(&heavy), "it may still bring its result");
}

#[test]
fn a_shard_that_is_seen_at_its_work_is_doubted_later_than_a_silent_one() {
    for (seen, trusted) in [(true, true), (false, false)] {
        let mut scheduler = scheduler();
        join(&mut scheduler, 1, 8);
        join(&mut scheduler, 2, 1);
        small_blocks(&mut scheduler, |held| if seen { held.to_vec() } else { Vec::new() });
        assert_eq!(is_trusted(&scheduler, 1), trusted, "seen: {seen}");
    }
}

#[test]
fn a_shard_that_alone_holds_the_state_is_not_doubted() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    register(&mut scheduler, 2, 1);
    elsewhere(&mut scheduler, 2);
    for block in 0..20 {
        let (round, begins) = (10 + u64::from(block), 10_000 * (1 + u64::from(block)));
        admit(&mut scheduler, begins, round, vec![item(10 + block)]);
        for at in (begins..begins + 9_000).step_by(100) {
            (1..=2).for_each(|shard| drop(beat(&mut scheduler, at, shard, &[])));
            scheduler.handle(ms(at), Event::Tick);
        }
        scheduler.handle(ms(begins + 9_000), Event::Abandon { round: RoundId(round) });
    }
    assert!(is_trusted(&scheduler, 1));
}

#[test]
fn work_that_was_overdue_waits_for_a_shard_no_longer_than_other_work() {
    let policies = [(NoShards::Wait, 30_000), (NoShards::Local, 30_000), (NoShards::Fail, 0)];
    for (policy, waits) in policies {
        let limits = ScheduleLimits { when_no_shards: policy, ..ScheduleLimits::default() };
        let mut scheduler = Scheduler::new(EPOCH, limits, ms(0));
        join(&mut scheduler, 1, 1);
        admit(&mut scheduler, 1, 1, vec![item(1)]);
        for at in (100..=7_000).step_by(100) {
            beat(&mut scheduler, at, 1, &[]);
            assert_eq!(dispatched(&scheduler.handle(ms(at), Event::Tick)), []);
        }
        let (shard, incarnation) = (ShardId(1), Incarnation(1));
        let cause = LossCause::Silent;
        let lost = Event::Lost { shard, incarnation, cause, reason: "silent".into() };
        let mut commands = scheduler.handle(ms(7_000), lost);
        let failed = |commands: &[Command]| commands.iter().any(|one| matches!(one, Command::Fail { .. }));
        let mut ended = None;
        for at in (7_000..60_000).step_by(100) {
            commands.extend(scheduler.handle(ms(at), Event::Tick));
            ended = ended.or_else(|| failed(&commands).then_some(at - 7_000));
        }
        assert!(ended.is_some_and(|at| (waits..=waits + 200).contains(&at)), "{policy}: {ended:?}");
    }
}

/// Lets the shard, as the only one that is in service, bring so many results.
fn brings(scheduler: &mut Scheduler, shard: u32, results: u8) {
    join(scheduler, shard, 1);
    for number in 0..results {
        let round = 100 * u64::from(shard) + u64::from(number);
        let sent = admit(scheduler, 1, round, vec![item(100 + number)]);
        scheduler.handle(ms(1), result(sent[0]));
    }
    elsewhere(scheduler, shard);
}

/// The time at which overdue work of shard 9, which never answers, goes to shard 2, while shard 1 has no room.
fn helped_at(of_1: u8, of_2: u8) -> Option<u64> {
    let mut scheduler = scheduler();
    scheduler.restore_proven([1, 2, 9].map(ShardId));
    brings(&mut scheduler, 1, of_1);
    brings(&mut scheduler, 2, of_2);
    join(&mut scheduler, 9, 1);
    synced(&mut scheduler, 1);
    // Shards 1 and 9 get two pieces each, and those of shard 1 may take long.
    let costly = |number| WorkItem { cost: 1_000_000_000, ..item(number) };
    let sent = admit(&mut scheduler, 1, 1, vec![costly(1), item(2), costly(3), item(4)]);
    let (of_1, of_9): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| sent.shard == ShardId(1));
    assert_eq!((of_1.len(), of_9.len()), (2, 2));
    synced(&mut scheduler, 2);
    (10..3_000).step_by(10).find(|at| {
        let mut again = dispatched(&scheduler.handle(ms(*at), Event::Tick));
        for shard in [1, 2, 9] {
            again.extend(dispatched(&beat(&mut scheduler, *at, shard, &[])));
        }
        again.iter().any(|again| again.shard == ShardId(2) && of_9.iter().any(|of_9| of_9.work == again.work))
    })
}

#[test]
fn few_results_beside_very_many_are_enough_to_be_asked_for_help() {
    let soon = helped_at(40, 40);
    assert!(soon.is_some());
    assert_eq!(helped_at(100, 20), soon);
}

#[test]
fn a_shard_with_hardly_any_results_is_asked_for_help_at_last() {
    let (soon, late) = (helped_at(40, 40), helped_at(40, 2));
    assert!(late > soon && late.is_some_and(|at| at < 1_000), "{soon:?} {late:?}");
}

#[test]
fn strangers_that_come_before_the_shards_that_have_proven_themselves_are_newcomers_too() {
    let mut scheduler = scheduler();
    scheduler.restore_proven([ShardId(1), ShardId(3)]);
    join(&mut scheduler, 2, 1);
    assert!(is_trusted(&scheduler, 2), "no other shard is there");
    let sent = admit(&mut scheduler, 1, 1, vec![item(1)])[0];
    let (shard, incarnation) = (ShardId(1), Incarnation(1));
    let commands = scheduler.handle(ms(2), Event::Register { shard, incarnation, slots: 1 });
    assert!(commands.contains(&Command::Cancel(sent)), "{commands:?}");
    assert!(scheduler.is_newcomer(ShardId(2)) && !scheduler.is_newcomer(ShardId(1)));
    join(&mut scheduler, 3, 1);
    assert!(!scheduler.is_newcomer(ShardId(3)));
    scheduler.audit().unwrap();
}

#[test]
fn a_newcomer_gets_open_work_if_those_that_are_trusted_stay_at_another_state() {
    let mut scheduler = scheduler();
    scheduler.restore_proven([ShardId(1)]);
    register(&mut scheduler, 1, 1);
    elsewhere(&mut scheduler, 1);
    join(&mut scheduler, 2, 1);
    assert!(scheduler.is_newcomer(ShardId(2)));
    assert_eq!(admit(&mut scheduler, 1, 1, vec![item(1)]), []);
    let given = (100..5_000).step_by(100).find(|at| {
        let mut commands = scheduler.handle(ms(*at), Event::Tick);
        (1..=2).for_each(|shard| commands.extend(beat(&mut scheduler, *at, shard, &[])));
        dispatched(&commands).iter().any(|given| given.shard == ShardId(2))
    });
    assert!(given.is_some_and(|at| (1_000..1_300).contains(&at)), "{given:?}");
}
