//! Unit tests of verified work and of what follows for shards that were wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, WorkId};

use super::tests::{ROUND, base, dispatched, item, join, ms, scheduler};
use super::{
    AssignmentFault, Command, Event, FailCause, LossCause, Scheduler, StrikeChange, StrikeRecord, WorkItem,
};

const RIGHT: B256 = B256::repeat_byte(1);
const WRONG: B256 = B256::repeat_byte(2);

fn admit(scheduler: &mut Scheduler, at: u64, round: RoundId, works: &[u8]) -> Vec<AssignmentId> {
    let work = works.iter().map(|n| WorkItem { verify: true, ..item(*n) }).collect();
    let admit = Event::Admit { round, block: B256::ZERO, work };
    dispatched(&scheduler.handle(ms(at), admit))
}

/// A scheduler with shards of one slot each, the first of which has all of the work.
fn with_shards(shards: u32, works: &[u8]) -> (Scheduler, Vec<AssignmentId>) {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    let sent = admit(&mut scheduler, 1, ROUND, works);
    for shard in 2..=shards {
        join(&mut scheduler, shard, 1);
    }
    (scheduler, sent)
}

fn answer(scheduler: &mut Scheduler, at: u64, assignment: AssignmentId, digest: B256) -> Vec<Command> {
    let commands = scheduler.handle(ms(at), Event::Result { assignment, digest: Some(digest) });
    scheduler.audit().unwrap();
    commands
}

fn checked(scheduler: &mut Scheduler, at: u64, work: WorkId) -> Vec<Command> {
    let commands = scheduler.handle(ms(at), Event::Checked { work, digest: RIGHT });
    scheduler.audit().unwrap();
    commands
}

fn gone(scheduler: &mut Scheduler, at: u64, shard: u32, cause: LossCause) -> Vec<Command> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    scheduler.handle(ms(at), Event::Lost { shard, incarnation, cause, reason: "gone".into() })
}

fn failed(
    scheduler: &mut Scheduler,
    at: u64,
    assignment: AssignmentId,
    fault: AssignmentFault,
) -> Vec<Command> {
    scheduler.handle(ms(at), Event::Failed { assignment, fault, reason: "failed".into() })
}

fn check_of(first: AssignmentId) -> Command {
    Command::Check { work: first.work, round: ROUND, first }
}

#[test]
fn verified_work_is_used_at_once_and_done_when_a_second_shard_agrees() {
    let (mut scheduler, sent) = with_shards(2, &[1]);
    let commands = answer(&mut scheduler, 5, sent[0], RIGHT);
    let second = dispatched(&commands)[0];
    assert_eq!((&commands[0], commands.len()), (&Command::Use(sent[0]), 2));
    assert_eq!((second.work, second.shard), (sent[0].work, ShardId(2)));
    let commands = answer(&mut scheduler, 6, second, RIGHT);
    assert_eq!(commands, [Command::Ignore(second), Command::Finish(ROUND)]);
    assert_eq!((scheduler.counters().verified, scheduler.counters().checked), (1, 0));
}

#[test]
fn a_result_of_verified_work_wants_a_digest() {
    let (scheduler, sent) = with_shards(1, &[1]);
    assert!(scheduler.wants_digest(&sent[0].work));
}

#[test]
fn a_fleet_of_one_shard_is_verified_by_trusted_code() {
    let (mut scheduler, sent) = with_shards(1, &[1]);
    let commands = answer(&mut scheduler, 5, sent[0], RIGHT);
    assert_eq!(commands, [Command::Use(sent[0]), check_of(sent[0])]);
    assert_eq!(checked(&mut scheduler, 6, sent[0].work), [Command::Finish(ROUND)]);
    assert_eq!((scheduler.counters().verified, scheduler.counters().checked), (0, 1));
}

#[test]
fn shards_that_drain_or_are_elsewhere_verify_nothing() {
    let (mut scheduler, sent) = with_shards(3, &[1]);
    scheduler.handle(ms(2), Event::Draining { shard: ShardId(2), incarnation: Incarnation(2) });
    scheduler.handle(ms(2), Event::State { shard: ShardId(3), incarnation: Incarnation(3), state: None });
    let commands = answer(&mut scheduler, 5, sent[0], RIGHT);
    assert_eq!(commands, [Command::Use(sent[0]), check_of(sent[0])]);
}

#[test]
fn unassigned_work_goes_before_work_to_be_verified() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    let sent = admit(&mut scheduler, 1, ROUND, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(sent.len(), 4);
    let mut order: Vec<WorkId> = Vec::new();
    for (at, assignment) in (5..).zip(&sent) {
        order
            .extend(dispatched(&answer(&mut scheduler, at, *assignment, RIGHT)).iter().map(|sent| sent.work));
    }
    let fresh = [5, 6].map(|n| item(n).id);
    assert_eq!(order[..2], fresh, "{order:?}");
    assert!(order.len() > 2);
}

#[test]
fn different_results_are_settled_by_trusted_code() {
    let (mut scheduler, sent) = with_shards(2, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], WRONG))[0];
    let commands = answer(&mut scheduler, 6, second, RIGHT);
    let (work, first, digests) = (sent[0].work, sent[0], [WRONG, RIGHT]);
    let disagreement = Command::Disagreement { work, round: ROUND, first, second, digests };
    assert_eq!(commands, [Command::Ignore(second), disagreement]);
    assert_eq!(checked(&mut scheduler, 7, work), [Command::Finish(ROUND)]);
    assert_eq!(scheduler.counters().disagreements, 1);
}

#[test]
fn what_comes_after_a_check_is_compared_with_what_is_right() {
    let (mut scheduler, sent) = with_shards(2, &[1, 2]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], WRONG))[0];
    answer(&mut scheduler, 6, second, RIGHT);
    checked(&mut scheduler, 7, sent[0].work);
    let late = AssignmentId { shard: ShardId(9), ..second };
    assert_eq!(answer(&mut scheduler, 8, late, RIGHT), [Command::Ignore(late)]);
}

#[test]
fn a_shard_does_not_confirm_itself_in_another_life() {
    let (mut scheduler, sent) = with_shards(2, &[1]);
    answer(&mut scheduler, 5, sent[0], RIGHT);
    let again = AssignmentId { incarnation: Incarnation(77), ..sent[0] };
    assert_eq!(answer(&mut scheduler, 6, again, RIGHT), [Command::Ignore(again)]);
    assert_eq!(scheduler.open_rounds().count(), 1);
}

#[test]
fn a_late_result_of_a_lost_shard_verifies() {
    let (mut scheduler, sent) = with_shards(3, &[1]);
    let second = dispatched(&gone(&mut scheduler, 2, 1, LossCause::Silent))[0];
    let third = dispatched(&answer(&mut scheduler, 5, second, RIGHT))[0];
    let commands = answer(&mut scheduler, 6, sent[0], RIGHT);
    assert_eq!(commands, [Command::Ignore(sent[0]), Command::Cancel(third), Command::Finish(ROUND)]);
}

#[test]
fn a_verification_that_is_lost_goes_to_a_third_shard() {
    let (mut scheduler, sent) = with_shards(3, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
    let third = dispatched(&gone(&mut scheduler, 6, second.shard.0, LossCause::Silent))[0];
    assert_eq!((third.work, third.shard), (sent[0].work, ShardId(3)));
}

#[test]
fn a_verification_that_is_lost_with_the_last_other_shard_is_done_by_trusted_code() {
    for cause in [LossCause::Silent, LossCause::Died] {
        let (mut scheduler, sent) = with_shards(2, &[1]);
        let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
        scheduler.handle(ms(6), Event::Accepted(second));
        let commands = gone(&mut scheduler, 7, 2, cause);
        assert!(commands.contains(&check_of(sent[0])), "{cause:?}: {commands:?}");
    }
}

#[test]
fn what_has_cost_two_shards_while_it_was_verified_is_not_for_trusted_code() {
    let (mut scheduler, sent) = with_shards(3, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
    scheduler.handle(ms(6), Event::Accepted(second));
    let third = dispatched(&gone(&mut scheduler, 1_000, 2, LossCause::Died))[0];
    scheduler.handle(ms(1_001), Event::Accepted(third));
    let mut commands = gone(&mut scheduler, 2_000, 3, LossCause::Died);
    for at in (2_000..40_000).step_by(100) {
        let (shard, incarnation) = (ShardId(1), Incarnation(1));
        let beat = Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 };
        commands.extend(scheduler.handle(ms(at), beat));
        commands.extend(scheduler.handle(ms(at), Event::Tick));
    }
    assert!(!commands.contains(&check_of(sent[0])), "{commands:?}");
    let ended = |command: &Command| matches!(command, Command::Fail { failure, .. } if failure.cause == FailCause::Stranded);
    assert!(commands.iter().any(ended), "{commands:?}");
}

#[test]
fn a_verifier_that_fails_is_not_asked_again_where_trusted_code_can_do_it() {
    let (mut scheduler, sent) = with_shards(2, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
    assert_eq!(failed(&mut scheduler, 6, second, AssignmentFault::Failed), [check_of(sent[0])]);
}

#[test]
fn a_busy_verifier_is_asked_again() {
    let (mut scheduler, sent) = with_shards(2, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
    assert_eq!(failed(&mut scheduler, 6, second, AssignmentFault::Busy), []);
    let again = dispatched(&scheduler.handle(ms(11), Event::Tick))[0];
    assert_eq!((again.work, again.shard), (second.work, second.shard));
}

#[test]
fn an_overdue_verification_goes_to_a_third_shard_as_well() {
    let (mut scheduler, sent) = with_shards(3, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
    let mut again = Vec::new();
    for at in (100..6_000).step_by(100) {
        for shard in 1..=3 {
            let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
            scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 });
        }
        again.extend(dispatched(&scheduler.handle(ms(at), Event::Tick)));
    }
    assert_eq!(again.iter().map(|again| again.shard).collect::<Vec<_>>(), [ShardId(3)]);
    let commands = answer(&mut scheduler, 6_001, again[0], RIGHT);
    assert!(commands.contains(&Command::Cancel(second)) && commands.contains(&Command::Finish(ROUND)));
}

#[test]
fn an_abandoned_round_forgets_what_was_to_be_verified() {
    let (mut scheduler, sent) = with_shards(2, &[1]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], RIGHT))[0];
    let commands = scheduler.handle(ms(6), Event::Abandon { round: ROUND });
    assert_eq!(commands, [Command::Cancel(second)]);
    assert_eq!(checked(&mut scheduler, 7, sent[0].work), []);
}

#[test]
fn a_shard_that_trusted_execution_finds_wrong_is_in_quarantine_at_once() {
    let (mut scheduler, sent) = with_shards(2, &[1, 2]);
    let second = dispatched(&answer(&mut scheduler, 5, sent[0], WRONG))[0];
    answer(&mut scheduler, 6, second, RIGHT);
    let blame = Event::Blame { shard: ShardId(1), reason: "wrong".into() };
    let commands = scheduler.handle(ms(7), blame);
    let record = StrikeRecord { strikes: 3, quarantines: 1, quarantined: true };
    assert_eq!(
        commands[0],
        Command::Strikes { shard: ShardId(1), record, change: StrikeChange::Struck, reason: "wrong".into() }
    );
    assert!(scheduler.is_quarantined(ShardId(1)));
    // Another shard gets what it holds, and its late results do not count.
    assert_eq!(dispatched(&commands)[0].work, sent[1].work);
    assert_eq!(answer(&mut scheduler, 8, sent[1], RIGHT), [Command::Ignore(sent[1])]);
    // The next round goes without it.
    scheduler.handle(ms(9), Event::Abandon { round: ROUND });
    let next = admit(&mut scheduler, 10, RoundId(2), &[5]);
    assert_eq!(next.iter().map(|next| next.shard).collect::<Vec<_>>(), [ShardId(2)]);
}

#[test]
fn several_faults_found_at_once_are_one_quarantine() {
    let (mut scheduler, _) = with_shards(2, &[1]);
    for at in 7..10 {
        scheduler.handle(ms(at), Event::Blame { shard: ShardId(1), reason: "wrong".into() });
    }
    assert_eq!(scheduler.counters().quarantines, 1);
}

#[test]
fn a_lone_shard_on_probation_is_released_by_trusted_code_only() {
    for right in [true, false] {
        let mut scheduler = scheduler();
        let record = StrikeRecord { strikes: 3, quarantines: 1, quarantined: true };
        scheduler.restore_strikes([(ShardId(1), record)], ms(0));
        join(&mut scheduler, 1, 1);
        for at in (100..30_000).step_by(100) {
            let (shard, incarnation) = (ShardId(1), Incarnation(1));
            scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 });
            scheduler.handle(ms(at), Event::Tick);
        }
        let admit = Event::Admit { round: ROUND, block: B256::ZERO, work: vec![item(1)] };
        let sent = dispatched(&scheduler.handle(ms(30_001), admit))[0];
        let commands = answer(&mut scheduler, 30_002, sent, if right { RIGHT } else { WRONG });
        assert_eq!(commands, [Command::Use(sent), check_of(sent)]);
        assert!(scheduler.is_quarantined(ShardId(1)));
        if !right {
            scheduler.handle(ms(30_003), Event::Blame { shard: ShardId(1), reason: "wrong".into() });
        }
        let commands = checked(&mut scheduler, 30_004, sent.work);
        assert!(commands.contains(&Command::Finish(ROUND)), "{commands:?}");
        assert_eq!(scheduler.is_quarantined(ShardId(1)), !right);
        assert_eq!(scheduler.counters().released, u64::from(right));
    }
}

#[test]
fn pieces_of_verified_work_are_verified_too() {
    let (mut scheduler, sent) = with_shards(3, &[1]);
    scheduler.handle(ms(2), Event::Accepted(sent[0]));
    let alone = dispatched(&gone(&mut scheduler, 3, 1, LossCause::Died))[0];
    scheduler.handle(ms(400), Event::Accepted(alone));
    let commands = gone(&mut scheduler, 500, alone.shard.0, LossCause::Died);
    assert!(commands.contains(&Command::Recut { round: ROUND, work: sent[0].work }), "{commands:?}");
    let parts = vec![WorkItem { transactions: 1, base: Some(base()), ..item(7) }];
    scheduler.handle(ms(501), Event::Recut { round: ROUND, work: sent[0].work, parts });
    assert!(scheduler.wants_digest(&item(7).id));
    scheduler.audit().unwrap();
}

/// Lets two shards die with the work, one after the other, has it cut into two pieces, and returns what is
/// assigned next, with the time.
fn cut(scheduler: &mut Scheduler, at: u64, round: RoundId, sent: AssignmentId) -> (u64, AssignmentId) {
    scheduler.handle(ms(at), Event::Accepted(sent));
    let alone = dispatched(&gone(scheduler, at + 1, sent.shard.0, LossCause::Died))[0];
    scheduler.handle(ms(at + 400), Event::Accepted(alone));
    let commands = gone(scheduler, at + 500, alone.shard.0, LossCause::Died);
    assert!(commands.contains(&Command::Recut { round, work: sent.work }), "{commands:?}");
    let parts = [7, 8].map(|piece| WorkItem { transactions: 1, ..item(piece) }).to_vec();
    let mut commands = scheduler.handle(ms(at + 501), Event::Recut { round, work: sent.work, parts });
    for later in (at + 600..at + 3_000).step_by(100) {
        if let Some(next) = dispatched(&commands).first() {
            return (later, *next);
        }
        commands = scheduler.handle(ms(later), Event::Tick);
        for shard in 1..=6 {
            let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
            let beat = Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 };
            commands.extend(scheduler.handle(ms(later), beat));
        }
    }
    panic!("no shard got a piece: {commands:?}");
}

#[test]
fn pieces_that_were_done_in_an_earlier_round_are_done_again() {
    let mut scheduler = scheduler();
    (1..=6).for_each(|shard| join(&mut scheduler, shard, 1));
    let block = |scheduler: &mut Scheduler, at, round| {
        let admit = Event::Admit { round, block: B256::ZERO, work: vec![item(1)] };
        dispatched(&scheduler.handle(ms(at), admit))[0]
    };
    let sent = block(&mut scheduler, 1, RoundId(1));
    let (at, piece) = cut(&mut scheduler, 2, RoundId(1), sent);
    assert_eq!(answer(&mut scheduler, at, piece, RIGHT)[0], Command::Use(piece));
    // The block's next round is cut in the same way.
    scheduler.handle(ms(at), Event::Abandon { round: RoundId(1) });
    let sent = block(&mut scheduler, at + 1, RoundId(2));
    let (at, again) = cut(&mut scheduler, at + 2, RoundId(2), sent);
    assert_eq!(again.work, piece.work);
    scheduler.audit().unwrap();
    assert_eq!(
        answer(&mut scheduler, at, again, WRONG)[0],
        Command::Use(again),
        "nothing to compare it with"
    );
}
