//! Unit tests of overdue work, strikes and suspects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_primitives::B256;
use common::id::{AssignmentId, Gas, Incarnation, RoundId, ShardId, SlotIndex, TxIndex};
use common::message::SlotProgress;

use super::tests::{
    EPOCH, ROUND, admit, base, dispatched, item, join, ms, register, result, scheduler, synced,
};
use super::{
    AssignmentFault, Command, Event, FailCause, LossCause, NoShards, RoundFailure, ScheduleLimits, Scheduler,
    StrikeRecord, WorkItem,
};

fn beat(
    scheduler: &mut Scheduler,
    at: u64,
    shard: u32,
    incarnation: u64,
    slots: Vec<SlotProgress>,
) -> Vec<Command> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(incarnation));
    scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots, queued: 0 })
}

fn died(scheduler: &mut Scheduler, at: u64, shard: u32, incarnation: u64) -> Vec<Command> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(incarnation));
    let (cause, reason) = (LossCause::Died, "killed".into());
    scheduler.handle(ms(at), Event::Lost { shard, incarnation, cause, reason })
}

fn corrupt(scheduler: &mut Scheduler, at: u64, assignment: AssignmentId) -> Vec<Command> {
    let (fault, reason) = (AssignmentFault::Corrupt, "damaged".into());
    scheduler.handle(ms(at), Event::Failed { assignment, fault, reason })
}

fn come_back(scheduler: &mut Scheduler, at: u64, shard: u32, incarnation: u64) -> Vec<AssignmentId> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(incarnation));
    scheduler.handle(ms(at), Event::Register { shard, incarnation, slots: 1 });
    dispatched(&scheduler.handle(ms(at), Event::State { shard, incarnation, state: Some(base()) }))
}

#[test]
fn the_median_decides_what_is_overdue() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 4);
    register(&mut scheduler, 2, 4);
    let mut open = admit(&mut scheduler, 8);
    for assignment in open.drain(..6) {
        scheduler.handle(ms(21), result(assignment));
    }
    synced(&mut scheduler, 2);
    // 20 ms is usual and four times that is overdue; the last two began at 21 ms.
    assert_eq!(dispatched(&scheduler.handle(ms(100), Event::Tick)), []);
    assert_eq!(dispatched(&scheduler.handle(ms(102), Event::Tick)).len(), 2);
}

#[test]
fn a_slot_that_stands_still_gets_a_strike_and_is_retired() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1)[0];
    let stuck = SlotProgress {
        slot: SlotIndex(0),
        transactions: 5,
        current: Some((sent, TxIndex(3))),
        gas: Gas(21_000),
    };
    let (mut struck_at, mut retired_at) = (None, None);
    for at in (100..40_000).step_by(100) {
        beat(&mut scheduler, at, 1, 1, vec![stuck]);
        for command in scheduler.handle(ms(at), Event::Tick) {
            match command {
                Command::Strikes { record, .. } if record.strikes == 1 => struck_at = Some(at),
                Command::Retire { left: 0, .. } => retired_at = Some(at),
                _ => {}
            }
        }
    }
    assert!(struck_at.is_some() && retired_at > struck_at, "{struck_at:?} {retired_at:?}");
    assert_eq!(scheduler.outstanding(ShardId(1)), 0);
}

#[test]
fn three_strikes_put_a_shard_into_quarantine_and_its_results_do_not_count() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 4);
    let sent = admit(&mut scheduler, 6);
    join(&mut scheduler, 2, 8);
    let mut last = Vec::new();
    for assignment in &sent[..3] {
        last = corrupt(&mut scheduler, 2, *assignment);
    }
    let record = StrikeRecord { strikes: 3, quarantines: 1, quarantined: true };
    let strikes =
        |command: &Command| matches!(command, Command::Strikes { record: known, .. } if *known == record);
    assert!(last.iter().any(strikes), "{last:?}");
    assert_eq!(scheduler.handle(ms(3), result(sent[4])), [Command::Ignore(sent[4])]);
    assert_eq!(scheduler.outstanding(ShardId(1)), 0);
}

#[test]
fn a_quarantine_outlives_the_coordinator_and_ends_with_a_passed_probation() {
    let mut scheduler = scheduler();
    let record = StrikeRecord { strikes: 3, quarantines: 1, quarantined: true };
    scheduler.restore_strikes([(ShardId(1), record)], ms(0));
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    let first = admit(&mut scheduler, 1)[0];
    assert_eq!(first.shard, ShardId(2));
    for at in (100..30_000).step_by(100) {
        beat(&mut scheduler, at, 1, 1, vec![]);
        beat(&mut scheduler, at, 2, 2, vec![]);
        scheduler.handle(ms(at), result(first));
        scheduler.handle(ms(at), Event::Tick);
    }
    let work: Vec<WorkItem> = vec![item(7)];
    let block = B256::ZERO;
    let sent = dispatched(&scheduler.handle(ms(30_001), Event::Admit { round: RoundId(2), block, work }));
    assert_eq!(sent.iter().map(|sent| sent.shard).collect::<Vec<_>>(), [ShardId(2), ShardId(1)]);
    assert!(scheduler.wants_digest(&sent[1].work));
    let digest = Some(B256::repeat_byte(1));
    let probation = scheduler.handle(ms(30_002), Event::Result { assignment: sent[1], digest });
    assert_eq!(probation, [Command::Ignore(sent[1])]);
    let commands = scheduler.handle(ms(30_003), Event::Result { assignment: sent[0], digest });
    let released =
        |command: &Command| matches!(command, Command::Strikes { record, .. } if !record.quarantined);
    assert!(commands.iter().any(released), "{commands:?}");
    assert_eq!(scheduler.counters().released, 1);
}

#[test]
fn a_second_result_that_differs_is_a_disagreement() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let first = admit(&mut scheduler, 2)[0];
    join(&mut scheduler, 2, 2);
    let (shard, incarnation) = (ShardId(1), Incarnation(1));
    let (cause, reason) = (LossCause::Silent, "silent".into());
    let again = dispatched(&scheduler.handle(ms(2), Event::Lost { shard, incarnation, cause, reason }));
    let second = again.into_iter().find(|again| again.work == first.work).unwrap();
    let one = Some(B256::repeat_byte(1));
    scheduler.handle(ms(3), Event::Result { assignment: second, digest: one });
    let commands = scheduler.handle(ms(4), Event::Result { assignment: first, digest: one });
    assert_eq!(commands, [Command::Ignore(first)]);
    assert_eq!(scheduler.counters().equal_results, 1);
    let other = Some(B256::repeat_byte(2));
    let commands = scheduler.handle(ms(5), Event::Result { assignment: first, digest: other });
    assert!(matches!(commands[1], Command::Disagreement { .. }), "{commands:?}");
}

/// Kills the shard that runs the one transaction alone, after it has accepted it.
fn die_alone(scheduler: &mut Scheduler, at: u64, assignment: AssignmentId) -> Vec<Command> {
    scheduler.handle(ms(at), Event::Accepted(assignment));
    died(scheduler, at + 1, assignment.shard.0, assignment.incarnation.0)
}

/// Sends two heartbeats that show a shard idle, so that its death is clear evidence.
fn seen_idle(scheduler: &mut Scheduler, at: u64, shard: u32, incarnation: u64) -> Vec<AssignmentId> {
    let mut sent = dispatched(&beat(scheduler, at, shard, incarnation, vec![]));
    sent.extend(dispatched(&beat(scheduler, at + 1, shard, incarnation, vec![])));
    sent
}

/// The assignment that follows once the deaths have been judged.
fn next_suspect(scheduler: &mut Scheduler, from: u64, processes: &[(u32, u64)]) -> (u64, Vec<Command>) {
    for at in (from..from + 3_000).step_by(100) {
        let mut commands = Vec::new();
        for (shard, incarnation) in processes {
            commands.extend(beat(scheduler, at, *shard, *incarnation, vec![]));
        }
        commands.extend(scheduler.handle(ms(at), Event::Tick));
        if !commands.is_empty() {
            return (at, commands);
        }
    }
    (from, Vec::new())
}

#[test]
fn two_lone_deaths_with_a_control_between_convict() {
    let mut scheduler = scheduler();
    for shard in 1..=3 {
        join(&mut scheduler, shard, 1);
    }
    let work = vec![WorkItem { transactions: 1, ..item(1) }, item(2)];
    let round = ROUND;
    let sent = dispatched(&scheduler.handle(ms(1), Event::Admit { round, block: B256::ZERO, work }));
    scheduler.handle(ms(2), result(sent[1]));
    seen_idle(&mut scheduler, 3, 2, 2);
    let alone = dispatched(&died(&mut scheduler, 5, 1, 1))[0];
    assert_eq!(alone.shard, ShardId(2));
    let commands = die_alone(&mut scheduler, 400, alone);
    assert_eq!(dispatched(&commands), [], "it is held until the death is judged");
    // Shards 1 and 2 come back.
    come_back(&mut scheduler, 410, 1, 11);
    come_back(&mut scheduler, 420, 2, 12);
    let processes = [(1, 11), (2, 12), (3, 3)];
    let (at, commands) = next_suspect(&mut scheduler, 500, &processes);
    let control = dispatched(&commands)[0];
    assert_eq!(control.work, sent[1].work, "a control comes first");
    let commands = scheduler.handle(ms(at + 1), result(control));
    let alone = dispatched(&commands)[0];
    assert_eq!(alone.work, sent[0].work);
    die_alone(&mut scheduler, at + 1, alone);
    let processes: Vec<_> = processes.into_iter().filter(|(shard, _)| *shard != alone.shard.0).collect();
    let (_, commands) = next_suspect(&mut scheduler, at + 100, &processes);
    let work = sent[0].work;
    assert_eq!(commands[0], Command::Convict { round, work });
    let parked = FailCause::Parked { suspects: vec![work], convicted: true };
    assert!(matches!(&commands[1], Command::Fail { failure, .. } if failure.cause == parked), "{commands:?}");
}

#[test]
fn a_fleet_that_dies_at_once_convicts_no_transaction() {
    let mut scheduler = scheduler();
    for shard in 1..=3 {
        join(&mut scheduler, shard, 1);
    }
    admit(&mut scheduler, 3);
    for run in 0..6u64 {
        for shard in 1..=3u32 {
            let incarnation = if run == 0 { u64::from(shard) } else { 100 * run + u64::from(shard) };
            let commands = died(&mut scheduler, run * 1_000 + 10 + u64::from(shard), shard, incarnation);
            assert!(!commands.iter().any(|command| matches!(command, Command::Convict { .. })));
        }
        for shard in 1..=3u32 {
            come_back(&mut scheduler, run * 1_000 + 500, shard, 100 * (run + 1) + u64::from(shard));
        }
    }
    assert_eq!(scheduler.counters().convictions, 0);
}

/// Answers commands to cut work, if there are any, with no pieces: the work cannot be cut.
fn cannot_be_cut(scheduler: &mut Scheduler, at: u64, commands: &[Command]) -> Vec<Command> {
    let mut answered = Vec::new();
    for command in commands {
        if let Command::Recut { round, work } = *command {
            answered.extend(scheduler.handle(ms(at), Event::Recut { round, work, parts: vec![] }));
        }
    }
    answered
}

#[test]
fn work_that_shards_died_at_is_parked_even_if_no_transaction_can_be_blamed() {
    let mut scheduler = scheduler();
    for shard in 1..=3 {
        join(&mut scheduler, shard, 1);
    }
    admit(&mut scheduler, 3);
    let mut fails = Vec::new();
    for run in 0..10u64 {
        assert_eq!(
            !scheduler.deadly_work(ROUND).is_empty(),
            fails.is_empty() && run >= 2,
            "in incarnation {run}"
        );
        for shard in 1..=3u32 {
            let incarnation = if run == 0 { u64::from(shard) } else { 100 * run + u64::from(shard) };
            let at = run * 1_000 + 10 + u64::from(shard);
            fails.extend(died(&mut scheduler, at, shard, incarnation));
            fails.extend(cannot_be_cut(&mut scheduler, at, &fails));
        }
        fails.retain(|command| matches!(command, Command::Fail { .. }));
        for shard in 1..=3u32 {
            come_back(&mut scheduler, run * 1_000 + 500, shard, 100 * (run + 1) + u64::from(shard));
        }
    }
    assert_eq!(fails.len(), 1);
    assert!(
        matches!(
            fails[0],
            Command::Fail {
                failure: RoundFailure { cause: FailCause::Parked { convicted: false, .. }, .. },
                ..
            }
        ),
        "{fails:?}"
    );
}

#[test]
fn a_death_beside_what_an_earlier_coordinator_left_is_no_evidence() {
    let mut scheduler = scheduler();
    for shard in 1..=3 {
        join(&mut scheduler, shard, 1);
    }
    let work = vec![WorkItem { transactions: 1, ..item(1) }, item(2)];
    let admit = Event::Admit { round: ROUND, block: B256::ZERO, work };
    let sent = dispatched(&scheduler.handle(ms(1), admit));
    scheduler.handle(ms(2), result(sent[1]));
    // No heartbeat has shown that the other shards are idle, and they die with the suspect.
    let first = dispatched(&died(&mut scheduler, 5, 1, 1))[0];
    die_alone(&mut scheduler, 400, first);
    come_back(&mut scheduler, 410, first.shard.0, 12);
    let (at, commands) = next_suspect(&mut scheduler, 500, &[(first.shard.0, 12), (3, 3)]);
    let next = dispatched(&commands)[0];
    assert_eq!(next.work, sent[0].work, "no control: there is no death to compare it with");
    die_alone(&mut scheduler, at + 1, next);
    let processes = [(1, 11), (first.shard.0, 13)];
    let (_, commands) = next_suspect(&mut scheduler, at + 100, &processes);
    let convicted = |command: &Command| matches!(command, Command::Convict { .. });
    assert!(!commands.iter().any(convicted), "{commands:?}");
}

#[test]
fn a_suspect_does_not_come_to_a_shard_that_it_has_ended_while_there_is_another() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    let work = vec![WorkItem { transactions: 1, ..item(1) }, item(2)];
    let admit = Event::Admit { round: ROUND, block: B256::ZERO, work };
    let sent = dispatched(&scheduler.handle(ms(1), admit));
    assert_eq!((sent[0].shard, sent[1].shard), (ShardId(1), ShardId(2)));
    // The suspect runs alone on a third shard, which was seen idle before, and kills that one too.
    come_back(&mut scheduler, 2, 3, 3);
    seen_idle(&mut scheduler, 3, 3, 3);
    let alone = dispatched(&died(&mut scheduler, 5, 1, 1))[0];
    assert_eq!((alone.work, alone.shard), (sent[0].work, ShardId(3)));
    die_alone(&mut scheduler, 400, alone);
    come_back(&mut scheduler, 410, 3, 13);
    for at in [500, 600, 700, 800] {
        beat(&mut scheduler, at, 2, 2, vec![]);
        beat(&mut scheduler, at, 3, 13, vec![]);
        assert_eq!(dispatched(&scheduler.handle(ms(at), Event::Tick)), []);
    }
    // The victim would be free and quiet; the other shard has just become free.
    assert_eq!(dispatched(&scheduler.handle(ms(810), result(sent[1]))), []);
    let mut next = Vec::new();
    for at in [900, 1_000, 1_100] {
        next.extend(dispatched(&beat(&mut scheduler, at, 3, 13, vec![])));
        next.extend(dispatched(&beat(&mut scheduler, at, 2, 2, vec![])));
    }
    let next: Vec<_> = next.iter().map(|next| (next.work, next.shard)).collect();
    assert_eq!(next, [(sent[0].work, ShardId(2))]);
}

#[test]
fn after_losses_at_once_what_had_begun_waits_until_it_can_be_judged_apart() {
    let mut scheduler = scheduler();
    for shard in 1..=3 {
        join(&mut scheduler, shard, 1);
    }
    // All have done sound work before.
    let event = Event::Admit { round: RoundId(9), block: B256::ZERO, work: (31..=33).map(item).collect() };
    for assignment in dispatched(&scheduler.handle(ms(1), event)) {
        scheduler.handle(ms(1), result(assignment));
    }
    let sent = admit(&mut scheduler, 3);
    died(&mut scheduler, 10, 1, 1);
    died(&mut scheduler, 20, 2, 2);
    // The third shard survives and gets none of the work; nor does a shard that has come back.
    assert_eq!(dispatched(&scheduler.handle(ms(30), result(sent[2]))), []);
    assert_eq!(come_back(&mut scheduler, 40, 1, 11), []);
    let given: Vec<_> = dispatched(&scheduler.handle(ms(300), Event::Tick));
    assert_eq!(given.len(), 2);
    // Work that kills a shard apart from the others is suspect at once, and runs alone.
    let works: Vec<_> = given.iter().map(|given| given.work).collect();
    assert_eq!(works, [sent[0].work, sent[1].work]);
    died(&mut scheduler, 600, given[0].shard.0, if given[0].shard.0 == 1 { 11 } else { 3 });
    assert_eq!(scheduler.deadly_work(ROUND), [sent[0].work]);
}

#[test]
fn work_at_which_workers_panic_every_time_is_parked() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    let mut next = admit(&mut scheduler, 1);
    let mut last = Vec::new();
    for at in (2..40).map(|second| second * 1_000) {
        let Some(assignment) = next.pop() else { break };
        let (fault, reason) = (AssignmentFault::Panicked, "a worker thread panicked".into());
        last = scheduler.handle(ms(at), Event::Failed { assignment, fault, reason });
        last.extend(cannot_be_cut(&mut scheduler, at, &last));
        last.extend(beat(&mut scheduler, at + 500, 1, 1, vec![]));
        last.extend(beat(&mut scheduler, at + 500, 2, 2, vec![]));
        next = dispatched(&last);
    }
    let parked = |command: &Command| {
        matches!(
            command,
            Command::Fail {
                failure: RoundFailure { cause: FailCause::Parked { convicted: false, .. }, .. },
                ..
            }
        )
    };
    assert!(last.iter().any(parked), "{last:?}");
}

#[test]
fn a_block_that_was_suspect_once_is_not_executed_locally_at_the_next_try() {
    let limits = ScheduleLimits { when_no_shards: NoShards::Local, ..ScheduleLimits::default() };
    let mut scheduler = Scheduler::new(EPOCH, limits, ms(0));
    join(&mut scheduler, 1, 1);
    admit(&mut scheduler, 1);
    died(&mut scheduler, 10, 1, 1);
    let mut causes = Vec::new();
    for at in (100..70_000).step_by(100) {
        for command in scheduler.handle(ms(at), Event::Tick) {
            if let Command::Fail { failure, .. } = command {
                causes.push(failure.cause);
                // A client submits the block again.
                admit(&mut scheduler, 1);
            }
        }
    }
    assert!(causes.len() > 1 && causes.iter().all(|cause| *cause == FailCause::Stranded), "{causes:?}");
}

#[test]
fn without_shards_the_policy_decides() {
    for (policy, at, cause) in
        [(NoShards::Fail, 100, FailCause::Stranded), (NoShards::Local, 30_200, FailCause::Local)]
    {
        let limits = ScheduleLimits { when_no_shards: policy, ..ScheduleLimits::default() };
        let mut scheduler = Scheduler::new(EPOCH, limits, ms(0));
        admit(&mut scheduler, 1);
        let mut failed = None;
        for tick in (100..=40_000).step_by(100) {
            for command in scheduler.handle(ms(tick), Event::Tick) {
                if let Command::Fail { failure, .. } = command {
                    failed = failed.or(Some((tick, failure.cause)));
                }
            }
        }
        let (when, why) = failed.unwrap();
        assert!(when <= at && why == cause, "{policy}: {when} {why:?}");
    }
}
