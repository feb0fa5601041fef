//! Unit tests of newcomers: shards that have done no sound work yet, in a fleet with shards that have.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use alloy_primitives::B256;
use common::id::{AssignmentId, Incarnation, RoundId, ShardId, WorkId};

use super::tests::{EPOCH, base, dispatched, item, join, ms, scheduler};
use super::{
    AssignmentFault, Command, Event, FailCause, LossCause, MOST_RECORDS, NoShards, ScheduleLimits, Scheduler,
    StrikeRecord, WorkItem,
};

const DIGEST: Option<B256> = Some(B256::repeat_byte(1));

fn admit(scheduler: &mut Scheduler, at: u64, round: u64, works: &[u8]) -> Vec<AssignmentId> {
    let work: Vec<WorkItem> = works.iter().map(|n| item(*n)).collect();
    let admit = Event::Admit { round: RoundId(round), block: B256::ZERO, work };
    dispatched(&scheduler.handle(ms(at), admit))
}

fn answer(
    scheduler: &mut Scheduler,
    at: u64,
    assignment: AssignmentId,
    digest: Option<B256>,
) -> Vec<Command> {
    scheduler.handle(ms(at), Event::Result { assignment, digest })
}

fn gone(scheduler: &mut Scheduler, at: u64, shard: u32) -> Vec<Command> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    let lost = Event::Lost { shard, incarnation, cause: LossCause::Died, reason: "gone".into() };
    scheduler.handle(ms(at), lost)
}

/// The time from which shard 1, which never answers, is late with its work.
const LATE: u64 = 6_000;

/// A fleet of one shard with two slots, which has done sound work, and of newcomers with one slot each.
fn fleet(newcomers: u32) -> Scheduler {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 2);
    let first = admit(&mut scheduler, 1, 1, &[1])[0];
    answer(&mut scheduler, 2, first, DIGEST);
    (2..2 + newcomers).for_each(|shard| join(&mut scheduler, shard, 1));
    scheduler
}

fn shards(sent: &[AssignmentId]) -> Vec<u32> {
    sent.iter().map(|sent| sent.shard.0).collect()
}

/// A shard calls an assignment invalid.
fn invalid(scheduler: &mut Scheduler, at: u64, assignment: AssignmentId) -> Vec<Command> {
    let fault = AssignmentFault::Hopeless;
    scheduler.handle(ms(at), Event::Failed { assignment, fault, reason: "malformed".into() })
}

fn gives_up(commands: &[Command]) -> bool {
    commands.iter().any(|command| matches!(command, Command::Fail { .. }))
}

#[test]
fn one_shard_that_calls_work_invalid_ends_no_round() {
    let mut scheduler = scheduler();
    (1..=2).for_each(|shard| join(&mut scheduler, shard, 1));
    let first = admit(&mut scheduler, 1, 1, &[1])[0];
    let commands = invalid(&mut scheduler, 2, first);
    assert!(!gives_up(&commands));
    let second = dispatched(&commands)[0];
    assert_ne!(second.shard, first.shard, "another shard is asked");
    assert!(gives_up(&invalid(&mut scheduler, 3, second)), "two shards agree");
}

#[test]
fn the_only_shard_may_try_all_attempts_even_if_nobody_waits_for_shards() {
    let limits = ScheduleLimits { when_no_shards: NoShards::Fail, ..ScheduleLimits::default() };
    let mut scheduler = Scheduler::new(EPOCH, limits, ms(0));
    join(&mut scheduler, 1, 1);
    let mut open = admit(&mut scheduler, 1, 1, &[1]);
    let (mut tries, mut end) = (0, None);
    for at in (10..60_000).step_by(10) {
        let (shard, incarnation, slots) = (ShardId(1), Incarnation(1), Vec::new());
        let beat = Event::Heartbeat { shard, incarnation, slots, queued: 0 };
        let mut commands = scheduler.handle(ms(at), beat);
        commands.extend(scheduler.handle(ms(at), Event::Tick));
        open.extend(dispatched(&commands));
        for sent in std::mem::take(&mut open) {
            tries += 1;
            commands.extend(invalid(&mut scheduler, at, sent));
        }
        let failure = |command: Command| match command {
            Command::Fail { failure, .. } => Some(failure.cause),
            _ => None,
        };
        end = end.or(commands.into_iter().find_map(failure));
    }
    assert_eq!((end, tries), (Some(FailCause::Spent), limits.max_attempts));
}

#[test]
fn what_a_newcomer_calls_invalid_counts_for_nothing() {
    let mut scheduler = fleet(1);
    let sent = admit(&mut scheduler, 10, 2, &[2]);
    assert_eq!(shards(&sent), [1, 2], "the newcomer has a copy");
    assert!(!gives_up(&invalid(&mut scheduler, 11, sent[1])));
    assert!(!gives_up(&invalid(&mut scheduler, 12, sent[0])), "only one shard counts");
}

#[test]
fn shards_that_join_before_any_work_is_done_are_trusted() {
    let mut scheduler = scheduler();
    join(&mut scheduler, 1, 1);
    join(&mut scheduler, 2, 1);
    assert!(!scheduler.is_newcomer(ShardId(1)) && !scheduler.is_newcomer(ShardId(2)));
    assert_eq!(shards(&admit(&mut scheduler, 1, 1, &[1, 2])), [1, 2]);
}

#[test]
fn newcomers_that_never_answer_hold_up_no_work() {
    let mut scheduler = fleet(20);
    let sent = admit(&mut scheduler, 3, 2, &[2, 3, 4]);
    assert_eq!(shards(&sent), [1, 1, 1, 2, 3, 4], "a copy of each piece, for three newcomers");
    for (at, assignment) in (4..).zip(&sent[..3]) {
        answer(&mut scheduler, at, *assignment, None);
    }
    assert_eq!(scheduler.open_rounds().count(), 0);
    // Those that had their chance get nothing more. They fail when their time is over.
    assert_eq!(shards(&admit(&mut scheduler, 10, 3, &[5])), [1, 5]);
    let mut failed = Vec::new();
    for at in (100..10_000).step_by(50) {
        let beats = (1..=21).flat_map(|shard| beat(&mut scheduler, at, shard));
        failed.extend(beats.filter_map(|command| match command {
            Command::Strikes { shard, record, .. } if record.quarantined => Some(shard.0),
            _ => None,
        }));
    }
    failed.sort_unstable();
    assert_eq!(failed, [2, 3, 4, 5]);
    assert!(!scheduler.is_newcomer(ShardId(2)) && scheduler.is_quarantined(ShardId(2)));
}

#[test]
fn a_newcomer_that_does_sound_work_is_trusted_from_then_on() {
    let mut scheduler = fleet(1);
    let sent = admit(&mut scheduler, 3, 2, &[2]);
    assert_eq!(shards(&sent), [1, 2]);
    assert!(scheduler.wants_digest(&sent[1].work));
    answer(&mut scheduler, 4, sent[1], DIGEST);
    assert!(scheduler.is_newcomer(ShardId(2)), "there is nothing yet to compare its result with");
    let commands = answer(&mut scheduler, 5, sent[0], DIGEST);
    assert_eq!(commands, [Command::Use(sent[0]), Command::Finish(RoundId(2))]);
    assert!(!scheduler.is_newcomer(ShardId(2)) && !scheduler.is_quarantined(ShardId(2)));
    assert!(shards(&admit(&mut scheduler, 6, 3, &[5, 6, 7])).contains(&2));
    // Also when it comes back.
    gone(&mut scheduler, 7, 2);
    let (shard, incarnation) = (ShardId(2), Incarnation(9));
    scheduler.handle(ms(8), Event::Register { shard, incarnation, slots: 1 });
    assert!(!scheduler.is_newcomer(shard));
}

#[test]
fn a_newcomer_that_is_wrong_is_quarantined() {
    let mut scheduler = fleet(1);
    let sent = admit(&mut scheduler, 3, 2, &[2]);
    answer(&mut scheduler, 4, sent[0], DIGEST);
    let commands = answer(&mut scheduler, 5, sent[1], Some(B256::repeat_byte(2)));
    let caught = |command: &Command| matches!(command, Command::Strikes { shard: ShardId(2), record, .. } if record.quarantined);
    assert!(commands.iter().any(caught), "{commands:?}");
    assert!(shards(&admit(&mut scheduler, 6, 3, &[5, 6, 7])).iter().all(|shard| *shard == 1));
}

#[test]
fn the_deaths_of_newcomers_are_no_evidence() {
    let mut scheduler = fleet(20);
    let sent = admit(&mut scheduler, 3, 2, &[2]);
    assert_eq!(shards(&sent), [1, 2]);
    // Each that dies with the copy is quarantined, and the next newcomer gets it.
    for shard in 2..20_u32 {
        let at = u64::from(shard) * 400;
        beat(&mut scheduler, at, 1);
        let next = dispatched(&gone(&mut scheduler, at, shard));
        assert_eq!(shards(&next), [shard + 1]);
        assert!(!scheduler.is_suspect(RoundId(2)));
        (shard..=21).for_each(|other| drop(beat(&mut scheduler, at + 1, other)));
    }
    let commands = answer(&mut scheduler, 8_000, sent[0], DIGEST);
    assert_eq!(commands, [Command::Use(sent[0]), Command::Finish(RoundId(2))]);
}

#[test]
fn newcomers_that_leave_without_work_leave_no_record() {
    let mut scheduler = fleet(3);
    for shard in 2..=4 {
        assert!(scheduler.is_newcomer(ShardId(shard)));
        gone(&mut scheduler, 3, shard);
        assert!(!scheduler.is_newcomer(ShardId(shard)));
    }
}

#[test]
fn the_shards_that_did_sound_work_are_trusted_by_the_next_coordinator_too() {
    let mut first = fleet(0);
    let proven = first.changed_proven().unwrap().clone();
    assert_eq!(proven, [ShardId(1)].into_iter().collect());
    assert_eq!(first.changed_proven(), None, "nothing has changed since");
    let mut next = scheduler();
    next.restore_proven(proven);
    (1..=3).for_each(|shard| join(&mut next, shard, 1));
    let newcomers = [1, 2, 3].map(|shard| next.is_newcomer(ShardId(shard)));
    assert_eq!(newcomers, [false, true, true]);
    assert_eq!(shards(&admit(&mut next, 1, 1, &[1])), [1, 2]);
}

/// Has blocks of two pieces done, one after the other. Shard 1 answers at once, the others after `delay` or never.
/// Returns how many pieces each of the others got that no shard held yet.
fn shares(scheduler: &mut Scheduler, blocks: u8, delay: Option<u64>) -> BTreeMap<ShardId, u32> {
    let (mut shares, mut waiting) = (BTreeMap::new(), Vec::new());
    let mut held: BTreeMap<WorkId, ShardId> = BTreeMap::new();
    for block in 0..blocks {
        let round = 10 + u64::from(block);
        let begins = 20_000 * round;
        let mut sent = admit(scheduler, begins, round, &[10 + 2 * block, 11 + 2 * block]);
        for at in (begins..begins + 20_000).step_by(20) {
            sent.extend((1..=11).flat_map(|shard| dispatched(&beat(scheduler, at, shard))));
            sent.extend(dispatched(&scheduler.handle(ms(at), Event::Tick)));
            waiting.retain(|(due, assignment): &(u64, AssignmentId)| {
                if *due <= at {
                    sent.extend(dispatched(&answer(scheduler, at, *assignment, DIGEST)));
                }
                *due > at
            });
            for assignment in std::mem::take(&mut sent) {
                let (AssignmentId { work, shard, .. }, first) = (assignment, ShardId(1));
                if held.insert(work, shard).is_none() && shard != first {
                    *shares.entry(shard).or_default() += 1;
                }
                match delay {
                    _ if shard == first => waiting.push((at, assignment)),
                    Some(delay) => waiting.push((at + delay, assignment)),
                    None => {}
                }
            }
        }
        held.clear();
        scheduler.audit().unwrap();
    }
    shares
}

#[test]
fn silent_shards_cost_a_block_little_time_however_many_they_are() {
    let mut scheduler = trusted_fleet();
    // All are well at first; the first shard, which is there for longer, has brought more results.
    for round in 0..40 {
        let at = 100 * (round + 1);
        for assignment in admit(&mut scheduler, at, 1_000 + round, &[1]) {
            answer(&mut scheduler, at + 4, assignment, DIGEST);
        }
    }
    let mut worst = 0;
    for block in 0..20 {
        let (begins, mut waiting) = (10_000 + 2_000 * u64::from(block), Vec::new());
        let works: Vec<u8> = (0..10).map(|piece| 10 + 10 * block + piece).collect();
        let mut sent = admit(&mut scheduler, begins, u64::from(block), &works);
        for at in begins..begins + 2_000 {
            if at % 100 == 0 {
                sent.extend((1..=11).flat_map(|shard| dispatched(&beat(&mut scheduler, at, shard))));
            }
            if scheduler.next_deadline() <= ms(at) {
                sent.extend(dispatched(&scheduler.handle(ms(at), Event::Tick)));
            }
            let honest = sent.drain(..).filter(|sent| sent.shard == ShardId(1));
            waiting.extend(honest.map(|sent| (at + 4, sent)));
            let due: Vec<_> = waiting.extract_if(.., |(due, _)| *due <= at).collect();
            due.into_iter()
                .for_each(|(_, done)| sent.extend(dispatched(&answer(&mut scheduler, at, done, DIGEST))));
            if scheduler.open_rounds().count() == 0 {
                worst = worst.max(at - begins);
                break;
            }
        }
        assert_eq!(scheduler.open_rounds().count(), 0, "block {block}");
    }
    assert!(worst <= 120, "a block took {worst} ms");
}

/// A fleet of 11 shards that have all done sound work.
fn trusted_fleet() -> Scheduler {
    let mut scheduler = scheduler();
    scheduler.restore_proven((1..=11).map(ShardId));
    (1..=11).for_each(|shard| join(&mut scheduler, shard, 1));
    scheduler
}

#[test]
fn shards_that_fall_silent_must_prove_themselves_again() {
    let mut scheduler = trusted_fleet();
    let silent = shares(&mut scheduler, 100, None);
    assert!(silent.values().all(|pieces| *pieces <= 3) && silent.len() == 10, "{silent:?}");
    for shard in 2..=11 {
        assert!(scheduler.is_quarantined(ShardId(shard)), "shard {shard}");
    }
    assert!(!scheduler.is_quarantined(ShardId(1)));
    assert_eq!(scheduler.changed_proven(), Some(&[ShardId(1)].into_iter().collect()));
}

#[test]
fn shards_that_are_late_and_answer_stay_trusted() {
    let mut scheduler = trusted_fleet();
    let late = shares(&mut scheduler, 100, Some(1_500));
    assert!(late.values().any(|pieces| *pieces > 3), "{late:?}");
    assert!((1..=11).all(|shard| !scheduler.is_quarantined(ShardId(shard))));
}

/// If no shard answers, the machine or the work may be the cause. The scheduler then trusts all shards as before.
#[test]
fn a_fleet_that_is_silent_as_a_whole_keeps_its_trust() {
    let mut scheduler = scheduler();
    scheduler.restore_proven((1..=2).map(ShardId));
    (1..=2).for_each(|shard| join(&mut scheduler, shard, 1));
    for block in 0..20 {
        let (round, begins) = (10 + u64::from(block), 20_000 * (10 + u64::from(block)));
        admit(&mut scheduler, begins, round, &[10 + 2 * block, 11 + 2 * block]);
        for at in (begins..begins + 19_000).step_by(20) {
            (1..=2).for_each(|shard| drop(beat(&mut scheduler, at, shard)));
            scheduler.handle(ms(at), Event::Tick);
        }
        scheduler.handle(ms(begins + 19_000), Event::Abandon { round: RoundId(round) });
        scheduler.audit().unwrap();
    }
    let trusted = |shard| !scheduler.is_newcomer(ShardId(shard)) && !scheduler.is_quarantined(ShardId(shard));
    assert!((1..=2).all(trusted));
}

/// Lets a shard be heard.
fn beat(scheduler: &mut Scheduler, at: u64, shard: u32) -> Vec<Command> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    scheduler.handle(ms(at), Event::Heartbeat { shard, incarnation, slots: vec![], queued: 0 })
}

#[test]
fn newcomers_do_the_work_if_no_other_shard_is_left() {
    let mut scheduler = fleet(2);
    gone(&mut scheduler, 3, 1);
    let sent = admit(&mut scheduler, 4, 2, &[2, 3, 4]);
    assert_eq!(shards(&sent), [2, 3]);
    // Trusted code verifies what they do.
    let commands = answer(&mut scheduler, 5, sent[0], DIGEST);
    assert_eq!(commands[0], Command::Use(sent[0]));
    let check = |command: &&Command| matches!(command, Command::Check { .. });
    assert!(commands.iter().any(|command| check(&command)), "{commands:?}");
    scheduler.handle(ms(6), Event::Checked { work: sent[0].work, digest: B256::repeat_byte(1) });
    assert!(!scheduler.is_newcomer(ShardId(2)));
}

/// Lets time pass while the shards are heard and shard 2 answers all that it gets, at first `waiting`. Returns
/// how much more it got, and the assignments whose results were used.
fn helped(
    scheduler: &mut Scheduler,
    times: std::ops::Range<u64>,
    mut waiting: Vec<AssignmentId>,
) -> (usize, Vec<AssignmentId>) {
    let (mut gets, mut used) = (0, Vec::new());
    for at in times.step_by(10) {
        let mut commands = scheduler.handle(ms(at), Event::Tick);
        (1..=2).for_each(|shard| commands.extend(beat(scheduler, at, shard)));
        waiting.drain(..).for_each(|given| commands.extend(answer(scheduler, at, given, DIGEST)));
        waiting.extend(dispatched(&commands).into_iter().filter(|given| given.shard == ShardId(2)));
        gets += waiting.len();
        for command in commands {
            match command {
                Command::Use(assignment) => used.push(assignment),
                Command::Check { work, .. } => {
                    scheduler.handle(ms(at), Event::Checked { work, digest: B256::repeat_byte(1) });
                }
                _ => {}
            }
        }
        scheduler.audit().unwrap();
    }
    (gets, used)
}

#[test]
fn a_newcomer_helps_when_the_only_other_shard_is_late() {
    for joins_late in [false, true] {
        let mut scheduler = fleet(u32::from(!joins_late));
        let sent = admit(&mut scheduler, 3, 2, &[2]);
        let copy = if joins_late {
            helped(&mut scheduler, 10..LATE, vec![]);
            join_at(&mut scheduler, LATE, 2)
        } else {
            sent.get(1).copied().into_iter().collect()
        };
        assert_eq!(shards(&copy), [2], "a copy, whose result can be compared with nothing");
        let (gets, used) = helped(&mut scheduler, LATE..60_000, copy);
        assert_eq!(gets, 1, "the work itself");
        assert_eq!(shards(&used), [2]);
        assert_eq!(scheduler.open_rounds().count(), 0, "trusted code has verified its result");
        assert!(!scheduler.is_newcomer(ShardId(2)) && !scheduler.is_quarantined(ShardId(2)));
    }
}

#[test]
fn a_newcomer_that_helps_is_judged_by_the_late_shards_result_too() {
    for right in [true, false] {
        let mut scheduler = fleet(1);
        let sent = admit(&mut scheduler, 3, 2, &[2]);
        answer(&mut scheduler, 4, sent[1], DIGEST);
        let mut at = 10;
        let helps = loop {
            let mut commands = scheduler.handle(ms(at), Event::Tick);
            (1..=2).for_each(|shard| commands.extend(beat(&mut scheduler, at, shard)));
            if let Some(given) = dispatched(&commands).first() {
                break *given;
            }
            at += 10;
            assert!(at < 10_000);
        };
        assert_eq!(helps.shard, ShardId(2));
        // The late shard is first, and the newcomer verifies it.
        assert_eq!(answer(&mut scheduler, at, sent[0], DIGEST), [Command::Use(sent[0])]);
        let digest = if right { DIGEST } else { Some(B256::repeat_byte(2)) };
        let commands = answer(&mut scheduler, at + 1, helps, digest);
        assert_eq!(commands.iter().any(|command| matches!(command, Command::Disagreement { .. })), !right);
        scheduler.handle(ms(at + 2), Event::Checked { work: helps.work, digest: B256::repeat_byte(1) });
        assert_eq!(scheduler.open_rounds().count(), 0);
        assert!(!scheduler.is_newcomer(ShardId(2)), "right: {right}");
        assert_eq!(scheduler.is_quarantined(ShardId(2)), !right);
    }
}

#[test]
fn a_result_that_is_not_verified_yet_proves_no_shard() {
    let mut scheduler = scheduler();
    let record = StrikeRecord { strikes: 3, quarantines: 1, quarantined: true };
    scheduler.restore_strikes([(ShardId(1), record)], ms(0));
    join(&mut scheduler, 1, 1);
    let mut at = 10;
    // No other shard is there, so its result counts when its quarantine is over.
    admit(&mut scheduler, at, 1, &[1]);
    let sent = loop {
        at += 100;
        assert!(at < 600_000);
        let mut commands = scheduler.handle(ms(at), Event::Tick);
        commands.extend(beat(&mut scheduler, at, 1));
        if let Some(sent) = dispatched(&commands).first() {
            break *sent;
        }
    };
    assert_eq!(answer(&mut scheduler, at, sent, DIGEST)[0], Command::Use(sent));
    join_at(&mut scheduler, at, 2);
    assert!(!scheduler.is_newcomer(ShardId(2)), "no shard has done sound work");
}

/// Lets a shard join that holds the state. Returns what it is assigned at once.
fn join_at(scheduler: &mut Scheduler, at: u64, shard: u32) -> Vec<AssignmentId> {
    let (shard, incarnation) = (ShardId(shard), Incarnation(u64::from(shard)));
    scheduler.handle(ms(at), Event::Register { shard, incarnation, slots: 1 });
    dispatched(&scheduler.handle(ms(at), Event::State { shard, incarnation, state: Some(base()) }))
}

#[test]
fn records_are_bounded_and_the_lightest_makes_room() {
    let mut scheduler = scheduler();
    let light = StrikeRecord { strikes: 1, quarantines: 0, quarantined: false };
    let heavy = StrikeRecord { strikes: 3, quarantines: 1, quarantined: true };
    let most = u32::try_from(MOST_RECORDS).unwrap();
    let records: Vec<_> = (0..=most).map(|id| (ShardId(id), if id == 7 { light } else { heavy })).collect();
    scheduler.restore_strikes(records, ms(0));
    let kept =
        |scheduler: &Scheduler| (0..=most + 1).filter(|id| scheduler.is_quarantined(ShardId(*id))).count();
    assert_eq!(kept(&scheduler), MOST_RECORDS, "the light one made room");
    scheduler.restore_strikes(vec![(ShardId(most + 1), heavy)], ms(1));
    assert_eq!(kept(&scheduler), MOST_RECORDS);
    assert!(scheduler.is_quarantined(ShardId(most + 1)));
}
