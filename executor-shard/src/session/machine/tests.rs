//! The session machine: registration, heartbeats, the queue, and leaving.
#![allow(clippy::unwrap_used)]
use super::*;
use common::id::{Attempt, WorkId};
use common::work::WorkFailure;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const EPOCH: Epoch = Epoch { number: 2, instance: 7 };

fn session() -> Session {
    let config = SessionConfig {
        shard: ShardId(1),
        incarnation: Incarnation(5),
        queue_limit: 2,
        parallel_sends: 2,
        lost_after: ms(1000),
        backoff: BackoffPolicy::new(ms(10), ms(100), 0.0).unwrap(),
    };
    Session::new(config, ms(0))
}

fn joined() -> Session {
    let mut session = session();
    assert_eq!(session.poll(ms(0)), [Action::Register]);
    session.registered(
        Ok(Registered { epoch: EPOCH, heartbeat_every: ms(100), lost_after: ms(1000) }),
        ms(1),
        0,
    );
    assert_eq!(session.poll(ms(1)), [Action::Heartbeat]);
    session.heartbeat_done(Ok(()), ms(2), 0);
    session
}

fn assignment(work: u8) -> AssignmentId {
    AssignmentId {
        work: WorkId(alloy_primitives::B256::repeat_byte(work)),
        shard: ShardId(1),
        incarnation: Incarnation(5),
        attempt: Attempt(1),
        epoch: EPOCH,
    }
}

fn result(work: u8) -> SubmitResult {
    SubmitResult { assignment: assignment(work), outcome: Err(WorkFailure::BaseGone), digest: None }
}

#[test]
fn an_absent_coordinator_is_asked_again_and_again() {
    let mut session = session();
    assert_eq!(session.poll(ms(0)), [Action::Register]);
    assert_eq!(session.poll(ms(1)), [], "one request at a time");
    session.registered(Err(PeerError::Unreachable("no".into())), ms(5), 0);
    assert_eq!(session.next_wake(), Some(ms(15)));
    assert_eq!(session.poll(ms(15)), [Action::Register]);
}

#[test]
fn a_shard_that_is_not_wanted_gives_up() {
    let mut session = session();
    session.poll(ms(0));
    session.registered(Err(PeerError::Refused("shard 1 is alive".into())), ms(5), 0);
    assert!(matches!(session.poll(ms(5)).as_slice(), [Action::GiveUp(_)]));
    assert_eq!(session.next_wake(), None);
}

#[test]
fn commands_of_an_older_epoch_are_refused() {
    let mut session = joined();
    let mut old = assignment(1);
    old.epoch.number = 1;
    assert!(matches!(session.accept(old), Err(Refusal::StaleEpoch { .. })));
}

#[test]
fn commands_for_another_incarnation_are_refused() {
    let mut session = joined();
    let mut other = assignment(1);
    other.incarnation = Incarnation(4);
    assert!(matches!(session.accept(other), Err(Refusal::WrongShard { .. })));
}

#[test]
fn an_undelivered_result_keeps_its_place_in_the_queue() {
    let mut session = joined();
    assert_eq!(session.accept(assignment(1)), Ok(Accepted::New));
    assert_eq!(session.accept(assignment(1)), Ok(Accepted::Already));
    assert_eq!(session.accept(assignment(2)), Ok(Accepted::New));
    assert_eq!(session.accept(assignment(3)), Err(Refusal::QueueFull { limit: 2 }));
    session.finished(result(1), ms(3));
    assert_eq!(session.accept(assignment(3)), Err(Refusal::QueueFull { limit: 2 }));
    let Some(Action::Submit(entry, _)) = session.poll(ms(3)).into_iter().next() else {
        unreachable!("a finished result is due at once")
    };
    session.submitted(entry, Ok(ResultReceipt::Used), ms(4), 0);
    assert_eq!(session.accept(assignment(3)), Ok(Accepted::New));
}

#[test]
fn an_answer_that_cannot_be_understood_is_not_asked_for_again() {
    let protocol = || PeerError::Protocol("the reply names no epoch".into());
    let mut session = session();
    session.poll(ms(0));
    session.registered(Err(protocol()), ms(5), 0);
    assert!(matches!(session.poll(ms(5)).as_slice(), [Action::GiveUp(reason)] if reason.contains("epoch")));

    let mut session = joined();
    session.accept(assignment(1)).unwrap();
    session.finished(result(1), ms(3));
    let Some(Action::Submit(entry, _)) = session.poll(ms(3)).into_iter().next() else {
        unreachable!("a finished result is due at once")
    };
    session.submitted(entry, Err(protocol()), ms(4), 0);
    assert_eq!(session.undelivered(), 0, "a result that is refused for good is not sent again");
}

#[test]
fn results_wait_while_the_coordinator_is_away_and_go_out_when_it_returns() {
    let mut session = joined();
    session.accept(assignment(1)).unwrap();
    session.poll(ms(102));
    session.heartbeat_done(Err(PeerError::NotRegistered("who?".into())), ms(103), 0);
    session.finished(result(1), ms(104));
    assert_eq!(session.poll(ms(105)), []);
    assert_eq!(session.poll(ms(113)), [Action::Register]);
    assert_eq!(session.undelivered(), 1);
    let next = Epoch { number: 3, instance: 1 };
    session.registered(
        Ok(Registered { epoch: next, heartbeat_every: ms(100), lost_after: ms(1000) }),
        ms(200),
        0,
    );
    let actions = session.poll(ms(200));
    assert!(actions.iter().any(|action| matches!(action, Action::Submit(..))), "{actions:?}");
}

#[test]
fn registrations_that_do_not_last_come_at_growing_intervals() {
    let mut session = joined();
    let mut now = ms(2);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        session.poll(now + ms(100));
        session.heartbeat_done(Err(PeerError::NotRegistered("its link failed".into())), now, 0);
        let wake = session.next_wake().unwrap();
        pauses.push((wake - now).as_millis());
        assert_eq!(session.poll(wake), [Action::Register]);
        now = wake;
        let answer = Registered { epoch: EPOCH, heartbeat_every: ms(100), lost_after: ms(1000) };
        session.registered(Ok(answer), now, 0);
    }
    assert_eq!(pauses, [10, 20, 40, 80]);
}

#[test]
fn a_short_silence_is_not_an_absence() {
    let mut session = joined();
    session.poll(ms(102));
    session.heartbeat_done(Err(PeerError::Unreachable("late".into())), ms(900), 0);
    assert!(session.is_joined());
    session.poll(ms(1000));
    session.heartbeat_done(Err(PeerError::Unreachable("late".into())), ms(1100), 0);
    assert!(!session.is_joined());
}

#[test]
fn a_cancelled_assignment_delivers_nothing() {
    let mut session = joined();
    session.accept(assignment(1)).unwrap();
    session.dropped(assignment(1));
    session.finished(result(1), ms(3));
    assert_eq!(session.undelivered(), 0);
}

#[test]
fn draining_finishes_what_is_held_and_then_leaves() {
    let mut session = joined();
    session.accept(assignment(1)).unwrap();
    session.drain();
    assert_eq!(session.accept(assignment(2)), Err(Refusal::Draining));
    assert_eq!(session.poll(ms(3)), [Action::AnnounceDraining]);
    session.finished(result(1), ms(4));
    let actions = session.poll(ms(4));
    let [Action::Submit(entry, _)] = actions.as_slice() else { unreachable!("{actions:?}") };
    session.submitted(*entry, Ok(ResultReceipt::Used), ms(5), 0);
    assert_eq!(session.poll(ms(5)), [Action::Leave]);
}
