//! Tests of the intake's rules, one at a time, and a property: every accepted block ends.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn hash(number: u8) -> B256 {
    B256::repeat_byte(number)
}

fn block(number: u8, parent: u8) -> Candidate {
    Candidate { hash: hash(number), parent: hash(parent), bytes: 100 }
}

fn accept(intake: &mut Intake, number: u8, parent: u8) {
    assert!(matches!(intake.offer(block(number, parent)), Ok(Offer::Fresh(_))));
    intake.confirm(&hash(number));
}

const NOW: Duration = Duration::from_secs(1);

#[test]
fn a_block_is_not_executed_before_it_is_journaled() {
    let mut intake = Intake::default();
    assert_eq!(intake.offer(block(1, 0)), Ok(Offer::Fresh(Sequence(0))));
    assert_eq!(intake.next(NOW), None);
    assert_eq!(intake.offer(block(1, 0)), Ok(Offer::Open));
    intake.confirm(&hash(1));
    assert_eq!(intake.next(NOW), Some(hash(1)));
}

#[test]
fn blocks_are_executed_one_at_a_time_in_order_of_acceptance() {
    let mut intake = Intake::default();
    accept(&mut intake, 2, 0);
    accept(&mut intake, 1, 0);
    assert_eq!(intake.next(NOW), Some(hash(2)));
    assert_eq!(intake.next(NOW), None);
    assert!(intake.ended(&hash(2)));
    assert_eq!(intake.next(NOW), Some(hash(1)));
}

#[test]
fn a_block_waits_for_its_parent_even_if_that_came_later() {
    let mut intake = Intake::default();
    accept(&mut intake, 2, 1);
    accept(&mut intake, 1, 0);
    assert_eq!(intake.next(NOW), Some(hash(1)));
    intake.ended(&hash(1));
    assert_eq!(intake.next(NOW), Some(hash(2)));
}

#[test]
fn a_parked_block_holds_up_its_descendants_and_no_other_block() {
    let mut intake = Intake::default();
    for (number, parent) in [(1, 0), (2, 1), (3, 2), (4, 0)] {
        accept(&mut intake, number, parent);
    }
    assert_eq!(intake.next(NOW), Some(hash(1)));
    assert!(intake.park(&hash(1)));
    assert_eq!(intake.offer(block(1, 0)), Ok(Offer::Parked));
    assert_eq!(intake.descendants(&hash(1)), vec![hash(2), hash(3)]);
    assert_eq!(intake.next(NOW), Some(hash(4)));
    intake.ended(&hash(4));
    assert_eq!(intake.next(NOW), None);
    assert!(intake.retry(&hash(1)) && !intake.retry(&hash(1)));
    assert_eq!(intake.next(NOW), Some(hash(1)));
}

#[test]
fn descendants_of_a_discarded_block_are_tried() {
    let mut intake = Intake::default();
    accept(&mut intake, 1, 0);
    accept(&mut intake, 2, 1);
    intake.next(NOW);
    intake.park(&hash(1));
    assert!(intake.ended(&hash(1)));
    assert_eq!(intake.next(NOW), Some(hash(2)));
}

#[test]
fn a_block_that_could_not_be_executed_is_tried_again_later() {
    let mut intake = Intake::default();
    accept(&mut intake, 1, 0);
    intake.next(NOW);
    intake.again(&hash(1), NOW * 2);
    assert_eq!(intake.next(NOW), None);
    assert_eq!(intake.next(NOW * 2), Some(hash(1)));
}

#[test]
fn the_intake_is_bounded_in_blocks_and_in_bytes() {
    let limits = IntakeLimits { open: 2, bytes: 1000, parked: 2, orphans: 2 };
    let mut intake = Intake::new(limits);
    accept(&mut intake, 1, 0);
    accept(&mut intake, 2, 1);
    assert_eq!(intake.offer(block(3, 2)), Err(Full::Open { open: 2, bytes: 200 }));
    // A block that the intake knows keeps its place.
    assert_eq!(intake.offer(block(2, 1)), Ok(Offer::Open));
    assert!(intake.park(&hash(1)));
    accept(&mut intake, 3, 2);
    assert_eq!(intake.offer(block(4, 3)), Err(Full::BehindParked { open: 2, behind: 2 }));
    assert!(intake.park(&hash(2)));
    assert_eq!(intake.offer(block(5, 0)), Err(Full::Parked { parked: 2 }));
    let mut intake = Intake::new(limits);
    let large = Candidate { bytes: 1001, ..block(1, 0) };
    assert!(matches!(intake.offer(large), Err(Full::Open { .. })));
}

#[test]
fn a_block_that_was_first_at_too_many_starts_is_parked() {
    let mut intake = Intake::default();
    assert_eq!(intake.started(|_| 0), None);
    intake.restore(block(2, 1), Sequence(1), false);
    intake.restore(block(1, 0), Sequence(0), false);
    assert_eq!(intake.started(|_| 0), Some(Start::Count(hash(1), 1)));
    assert_eq!(intake.started(|_| MOST_STARTS), Some(Start::Park(hash(1), MOST_STARTS + 1)));
    // A block accepted after a restore comes after the restored ones.
    assert_eq!(intake.offer(block(3, 0)), Ok(Offer::Fresh(Sequence(2))));
}

#[test]
fn an_orphan_waits_until_its_parent_is_accepted_and_has_ended() {
    let mut intake = Intake::default();
    accept(&mut intake, 2, 1);
    accept(&mut intake, 3, 2);
    assert_eq!(intake.next(NOW), Some(hash(2)));
    assert!(intake.orphaned(&hash(2)));
    assert_eq!(intake.next(NOW), None);
    assert_eq!(intake.waits_for_orphan(&hash(3)), Some(hash(2)));
    assert_eq!(intake.open(), (2, 200));
    accept(&mut intake, 1, 0);
    assert_eq!(intake.next(NOW), Some(hash(1)));
    intake.ended(&hash(1));
    assert_eq!(intake.next(NOW), Some(hash(2)));
    assert_eq!(intake.waits_for_orphan(&hash(3)), None);
}

#[test]
fn what_an_orphan_waits_for_is_taken_although_the_intake_is_full() {
    let limits = IntakeLimits { open: 2, bytes: 1000, parked: 2, orphans: 2 };
    let mut intake = Intake::new(limits);
    accept(&mut intake, 3, 2);
    accept(&mut intake, 4, 3);
    assert_eq!(intake.next(NOW), Some(hash(3)));
    assert!(intake.orphaned(&hash(3)));
    let full = Full::BehindOrphan { open: 2, behind: 2, parent: hash(2) };
    assert_eq!(intake.offer(block(9, 0)), Err(full));
    accept(&mut intake, 2, 1);
    assert_eq!(intake.next(NOW), Some(hash(2)));
    assert!(intake.orphaned(&hash(2)));
    accept(&mut intake, 1, 0);
    // The room is twice the bounds, and no more.
    assert_eq!(intake.next(NOW), Some(hash(1)));
    assert!(intake.orphaned(&hash(1)));
    assert!(matches!(intake.offer(block(0, 7)), Err(Full::BehindOrphan { open: 4, .. })));
}

#[test]
fn more_orphans_than_may_wait_have_to_be_parked() {
    let limits = IntakeLimits { orphans: 1, ..IntakeLimits::default() };
    let mut intake = Intake::new(limits);
    accept(&mut intake, 3, 2);
    accept(&mut intake, 5, 4);
    assert!(intake.orphaned(&hash(3)) && intake.orphaned(&hash(3)));
    assert!(!intake.orphaned(&hash(5)));
    assert!(!intake.orphaned(&hash(7)));
}

proptest! {
    /// Whatever is offered, parked, retried and tried again, the intake hands out no block twice and none
    /// while its parent is open. In the end it holds no block.
    #[test]
    fn every_accepted_block_ends(
        parents in prop::collection::vec(0_u8..12, 1..12),
        fates in prop::collection::vec(0_u8..4, 60),
    ) {
        let mut intake = Intake::default();
        for (number, parent) in (1_u8..).zip(&parents) {
            // Hashes cover their parents, so there are no circles.
            accept(&mut intake, number, if *parent < number { *parent } else { 0 });
        }
        let mut ended = Vec::new();
        let mut fates = fates.into_iter();
        loop {
            let Some(next) = intake.next(NOW) else {
                let parked: Vec<B256> = intake.parked().collect();
                if parked.is_empty() {
                    break;
                }
                parked.iter().for_each(|hash| assert!(intake.retry(hash)));
                continue;
            };
            prop_assert!(!ended.contains(&next));
            prop_assert_eq!(intake.next(NOW), None);
            match fates.next() {
                Some(0) => prop_assert!(intake.park(&next)),
                Some(1) => intake.again(&next, NOW),
                _ => {
                    prop_assert!(intake.ended(&next));
                    ended.push(next);
                }
            }
        }
        prop_assert_eq!(ended.len(), parents.len());
        prop_assert_eq!(intake.open(), (0, 0));
    }
}
