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

/// Offers a block of the one client that most tests have. Blocks follow the head, or an open block.
fn offer(intake: &mut Intake, block: Candidate) -> Result<Offer, Full> {
    intake.offer(block, Lineage::Chain, &Client::from("ann"), NOW)
}

fn accept(intake: &mut Intake, number: u8, parent: u8) {
    assert!(matches!(offer(intake, block(number, parent)), Ok(Offer::Fresh(_))));
    intake.confirm(&hash(number));
}

const NOW: Duration = Duration::from_secs(1);

/// The hash of the chain's head: that of block 0.
const HEAD: B256 = B256::ZERO;

#[test]
fn a_block_is_not_executed_before_it_is_journaled() {
    let mut intake = Intake::default();
    assert_eq!(offer(&mut intake, block(1, 0)), Ok(Offer::Fresh(Sequence(0))));
    assert_eq!(intake.next(NOW, &HEAD), None);
    assert_eq!(offer(&mut intake, block(1, 0)), Ok(Offer::Open));
    intake.confirm(&hash(1));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
}

#[test]
fn blocks_are_executed_one_at_a_time_in_order_of_acceptance() {
    let mut intake = Intake::default();
    accept(&mut intake, 2, 0);
    accept(&mut intake, 1, 0);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
    assert_eq!(intake.next(NOW, &HEAD), None);
    assert!(intake.ended(&hash(2)));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
}

#[test]
fn a_block_waits_for_its_parent_even_if_that_came_later() {
    let mut intake = Intake::default();
    accept(&mut intake, 2, 1);
    accept(&mut intake, 1, 0);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
    intake.ended(&hash(1));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
}

#[test]
fn a_parked_block_holds_up_its_descendants_and_no_other_block() {
    let mut intake = Intake::default();
    for (number, parent) in [(1, 0), (2, 1), (3, 2), (4, 0)] {
        accept(&mut intake, number, parent);
    }
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
    assert!(intake.park(&hash(1)));
    assert_eq!(offer(&mut intake, block(1, 0)), Ok(Offer::Parked));
    assert_eq!(intake.descendants(&hash(1)), vec![hash(2), hash(3)]);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(4)));
    intake.ended(&hash(4));
    assert_eq!(intake.next(NOW, &HEAD), None);
    assert!(intake.retry(&hash(1)) && !intake.retry(&hash(1)));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
}

#[test]
fn an_operator_can_hold_a_block_that_waits_and_no_other() {
    let mut intake = Intake::default();
    accept(&mut intake, 1, 0);
    accept(&mut intake, 2, 1);
    assert!(matches!(offer(&mut intake, block(3, 2)), Ok(Offer::Fresh(_))));
    assert_eq!(intake.hold(&hash(3)), Err(NotHeld::Unknown), "it is not in the journal yet");
    assert_eq!(intake.hold(&hash(9)), Err(NotHeld::Unknown));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
    assert_eq!(intake.hold(&hash(1)), Err(NotHeld::UnderWay));
    assert_eq!(intake.hold(&hash(2)), Ok(()));
    assert_eq!(intake.hold(&hash(2)), Err(NotHeld::Parked));
    intake.ended(&hash(1));
    assert_eq!(intake.next(NOW, &HEAD), None);
    assert!(intake.retry(&hash(2)));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
}

#[test]
fn descendants_of_a_discarded_block_are_tried() {
    let mut intake = Intake::default();
    accept(&mut intake, 1, 0);
    accept(&mut intake, 2, 1);
    intake.next(NOW, &HEAD);
    intake.park(&hash(1));
    assert!(intake.ended(&hash(1)));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
}

#[test]
fn a_block_that_could_not_be_executed_is_tried_again_later() {
    let mut intake = Intake::default();
    accept(&mut intake, 1, 0);
    intake.next(NOW, &HEAD);
    intake.again(&hash(1), NOW * 2);
    assert_eq!(intake.next(NOW, &HEAD), None);
    assert_eq!(intake.next(NOW * 2, &HEAD), Some(hash(1)));
}

#[test]
fn the_intake_is_bounded_in_blocks_and_in_bytes() {
    let limits = IntakeLimits { open: 2, bytes: 1000, parked: 2, orphans: 2, ..IntakeLimits::DEFAULT };
    let mut intake = Intake::new(limits);
    accept(&mut intake, 1, 0);
    accept(&mut intake, 2, 1);
    assert_eq!(offer(&mut intake, block(3, 2)), Err(Full::Open { open: 2, bytes: 200 }));
    // A block that the intake knows keeps its place.
    assert_eq!(offer(&mut intake, block(2, 1)), Ok(Offer::Open));
    assert!(intake.park(&hash(1)));
    accept(&mut intake, 3, 2);
    assert_eq!(offer(&mut intake, block(4, 3)), Err(Full::BehindParked { open: 2, behind: 2 }));
    assert!(intake.park(&hash(2)));
    assert_eq!(offer(&mut intake, block(5, 0)), Err(Full::Parked { parked: 2 }));
    let mut intake = Intake::new(limits);
    let large = Candidate { bytes: 1001, ..block(1, 0) };
    assert!(matches!(offer(&mut intake, large), Err(Full::Open { .. })));
}

#[test]
fn a_block_that_was_first_at_too_many_starts_is_parked() {
    let mut intake = Intake::default();
    assert_eq!(intake.started(&HEAD, |_| 0), None);
    intake.restore(block(2, 1), Sequence(1), false);
    intake.restore(block(1, 0), Sequence(0), false);
    assert_eq!(intake.started(&HEAD, |_| 0), Some(Start::Count(hash(1), 1)));
    assert_eq!(intake.started(&HEAD, |_| MOST_STARTS), Some(Start::Park(hash(1), MOST_STARTS + 1)));
    // A block accepted after a restore comes after the restored ones.
    assert_eq!(offer(&mut intake, block(3, 0)), Ok(Offer::Fresh(Sequence(2))));
}

#[test]
fn an_orphan_waits_until_its_parent_is_accepted_and_has_ended() {
    let mut intake = Intake::default();
    accept(&mut intake, 2, 1);
    accept(&mut intake, 3, 2);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
    assert!(intake.orphaned(&hash(2)));
    assert_eq!(intake.next(NOW, &HEAD), None);
    assert_eq!(intake.waits_for_orphan(&hash(3)), Some(hash(2)));
    assert_eq!(intake.open(), (2, 200));
    accept(&mut intake, 1, 0);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
    intake.ended(&hash(1));
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
    assert_eq!(intake.waits_for_orphan(&hash(3)), None);
}

#[test]
fn what_an_orphan_waits_for_is_taken_although_the_intake_is_full() {
    let limits = IntakeLimits { open: 2, bytes: 1000, parked: 2, orphans: 2, ..IntakeLimits::DEFAULT };
    let mut intake = Intake::new(limits);
    accept(&mut intake, 3, 2);
    accept(&mut intake, 4, 3);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(3)));
    assert!(intake.orphaned(&hash(3)));
    let full = Full::BehindOrphan { open: 2, behind: 2, parent: hash(2) };
    assert_eq!(offer(&mut intake, block(9, 0)), Err(full));
    accept(&mut intake, 2, 1);
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(2)));
    assert!(intake.orphaned(&hash(2)));
    accept(&mut intake, 1, 0);
    // The room is twice the bounds, and no more.
    assert_eq!(intake.next(NOW, &HEAD), Some(hash(1)));
    assert!(intake.orphaned(&hash(1)));
    assert!(matches!(offer(&mut intake, block(0, 7)), Err(Full::BehindOrphan { open: 4, .. })));
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

/// Offers blocks of a client, and counts those that are taken.
fn taken(
    intake: &mut Intake,
    client: &str,
    lineage: Lineage,
    blocks: impl Iterator<Item = Candidate>,
) -> usize {
    let client = Client::from(client);
    blocks.filter(|block| intake.offer(*block, lineage, &client, NOW).is_ok()).count()
}

/// Blocks with hashes that no other test uses, on unknown or different parents.
fn many(from: u8) -> impl Iterator<Item = Candidate> {
    (0..90).map(move |number| block(from + number, 200))
}

#[test]
fn one_client_leaves_room_for_others() {
    let mut intake = Intake::default();
    assert_eq!(taken(&mut intake, "ann", Lineage::Chain, many(1)), 48);
    assert!(matches!(
        intake.offer(block(150, 200), Lineage::Chain, &Client::from("ann"), NOW),
        Err(Full::Share { open: 48, bytes: 4800 })
    ));
    assert_eq!(taken(&mut intake, "bob", Lineage::Chain, many(101)), 16);
    let mut intake = Intake::new(IntakeLimits { bytes: 1000, ..IntakeLimits::DEFAULT });
    assert_eq!(taken(&mut intake, "ann", Lineage::Chain, many(1)), 7, "750 bytes are its share");
    assert_eq!(taken(&mut intake, "bob", Lineage::Chain, many(101)), 3);
}

#[test]
fn blocks_without_a_known_parent_are_bounded_before_they_are_journaled() {
    let mut intake = Intake::default();
    assert_eq!(taken(&mut intake, "ann", Lineage::Orphan, many(1)), 8);
    for client in ["bob", "cyd", "dan"] {
        let from = 10 + 8 * u8::try_from(client.len() + usize::from(client.as_bytes()[0] - b'a')).unwrap();
        assert_eq!(taken(&mut intake, client, Lineage::Orphan, many(from).take(8)), 8, "{client}");
    }
    let refused = intake.offer(block(140, 201), Lineage::Orphan, &Client::from("eve"), NOW);
    assert_eq!(refused, Err(Full::Orphans { parent: hash(201), orphans: 32 }));
    // A block behind one of them is one more, whatever the ledger says of its parent.
    let refused = intake.offer(block(141, 1), Lineage::Chain, &Client::from("ann"), NOW);
    assert_eq!(refused, Err(Full::Orphans { parent: hash(1), orphans: 32 }));
    let mut heavy = Intake::new(IntakeLimits { orphan_bytes: 250, ..IntakeLimits::DEFAULT });
    assert_eq!(taken(&mut heavy, "ann", Lineage::Orphan, many(1)), 2);
    // Their parent is taken, and frees them.
    assert_eq!(
        intake.offer(block(200, 0), Lineage::Chain, &Client::from("eve"), NOW),
        Ok(Offer::Fresh(Sequence(32)))
    );
    assert!(intake.offer(block(140, 201), Lineage::Orphan, &Client::from("eve"), NOW).is_ok());
}

#[test]
fn a_clients_side_blocks_are_bounded() {
    let mut intake = Intake::new(IntakeLimits { side_blocks: 2, ..IntakeLimits::DEFAULT });
    assert_eq!(taken(&mut intake, "ann", Lineage::Side, many(1).take(1)), 1);
    // A block behind it is one too.
    let ann = Client::from("ann");
    assert!(intake.offer(block(120, 1), Lineage::Chain, &ann, NOW).is_ok());
    let full = Full::SideBlocks { again: Duration::from_secs(10) };
    assert_eq!(intake.offer(block(121, 120), Lineage::Chain, &ann, NOW), Err(full));
    assert_eq!(intake.offer(block(122, 201), Lineage::Side, &ann, NOW), Err(full));
    assert!(intake.offer(block(123, 0), Lineage::Chain, &ann, NOW).is_ok(), "the chain goes on");
    assert!(intake.offer(block(122, 201), Lineage::Side, &Client::from("bob"), NOW).is_ok());
    assert!(intake.offer(block(121, 120), Lineage::Chain, &ann, NOW + Duration::from_secs(10)).is_ok());
}

#[test]
fn clients_take_turns() {
    let mut intake = Intake::default();
    assert_eq!(taken(&mut intake, "ann", Lineage::Side, many(1).take(4)), 4);
    assert_eq!(taken(&mut intake, "bob", Lineage::Side, many(101).take(2)), 2);
    (1..=4).chain(101..=102).for_each(|number| intake.confirm(&hash(number)));
    let order: Vec<B256> = std::iter::from_fn(|| {
        let next = intake.next(NOW, &HEAD)?;
        intake.ended(&next);
        Some(next)
    })
    .collect();
    assert_eq!(order, [1, 101, 2, 102, 3, 4].map(hash));
    assert!(intake.served.is_empty());
    // A client that comes with one block after the other does not go before one that waits.
    assert_eq!(taken(&mut intake, "ann", Lineage::Side, many(1).take(2)), 2);
    (1..=2).for_each(|number| intake.confirm(&hash(number)));
    let offered = |intake: &mut Intake, number: u8| {
        assert_eq!(taken(intake, "bob", Lineage::Side, many(number).take(1)), 1);
        intake.confirm(&hash(number));
    };
    let done = |intake: &mut Intake| {
        let next = intake.next(NOW, &HEAD).unwrap();
        intake.ended(&next);
        next
    };
    offered(&mut intake, 101);
    assert_eq!([done(&mut intake), done(&mut intake)], [1, 101].map(hash));
    offered(&mut intake, 102);
    assert_eq!([done(&mut intake), done(&mut intake)], [2, 102].map(hash));
}

#[test]
fn blocks_of_the_chain_run_before_others_which_get_every_fourth_turn() {
    let mut intake = Intake::default();
    for number in [50, 51] {
        accept(&mut intake, number, 201);
    }
    let mut order = Vec::new();
    for number in 1..=8 {
        // Always one that extends the head.
        accept(&mut intake, number, number - 1);
        let next = intake.next(NOW, &hash(number - 1)).unwrap();
        intake.ended(&next);
        if next != hash(number) {
            let then = intake.next(NOW, &hash(number - 1)).unwrap();
            assert_eq!(then, hash(number));
            intake.ended(&then);
            order.push(next);
        }
        order.push(hash(number));
    }
    let expected = [1, 2, 3, 50, 4, 5, 6, 51, 7, 8];
    assert_eq!(order, expected.map(hash));
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
            let Some(next) = intake.next(NOW, &HEAD) else {
                let parked: Vec<B256> = intake.parked().collect();
                if parked.is_empty() {
                    break;
                }
                parked.iter().for_each(|hash| assert!(intake.retry(hash)));
                continue;
            };
            prop_assert!(!ended.contains(&next));
            prop_assert_eq!(intake.next(NOW, &HEAD), None);
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
