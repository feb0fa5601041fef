//! Side blocks survive a restart, and they leave the journal of accepted blocks when they are stored.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::tests::{Disk, block_after, next, origin};
use super::*;

fn open(disk: &Disk) -> Ledger {
    Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small()).unwrap()
}

fn accepted(ledger: &Ledger) -> Vec<B256> {
    ledger.accepted().unwrap().into_iter().map(|accepted| accepted.block.hash).collect()
}

fn hash_of(tip: &Tip) -> B256 {
    tip.summary().state.block_hash
}

#[test]
fn a_side_block_and_its_state_are_there_after_a_restart() {
    let disk = Disk::default();
    let ledger = open(&disk);
    let base = ledger.head();
    ledger.commit(&next(&base, 1)).unwrap();
    let parent = ledger.tip_at(base.summary().state.height, hash_of(&base)).unwrap().unwrap();
    let side = next(&parent, 2);
    ledger.keep_side_block(&side).unwrap();
    drop(ledger);

    let again = open(&disk.rebooted());
    let height = side.summary().state.height;
    assert!(again.knows(height, hash_of(&side)).unwrap());
    assert_eq!(again.height_of(&hash_of(&side)).unwrap(), Some(height));
    assert!(!again.contains(height, hash_of(&side)).unwrap());
    let found = again.tip_at(height, hash_of(&side)).unwrap().unwrap();
    assert_eq!((found.summary(), found.state_root()), (side.summary(), side.state_root()));
    // A child makes its branch the chain, so its parent is no longer a side block.
    let child = next(&found, 3);
    again.commit(&child).unwrap();
    assert_eq!(again.head().summary(), child.summary());
    assert!(again.contains(height, hash_of(&side)).unwrap());
}

#[test]
fn an_accepted_block_is_in_the_journal_or_a_side_block_whenever_the_power_goes() {
    let whole = Disk::default();
    let run = |disk: &Disk| -> Result<(), LedgerError> {
        let ledger = Ledger::on_backend(disk.clone(), origin(), LedgerOptions::small())?;
        let base = ledger.head();
        let (block, sibling) = (block_after(&base, 1), block_after(&base, 2));
        ledger.accept([(0, &block), (1, &sibling)])?;
        disk.mark();
        ledger.commit(&next(&base, 1))?;
        let parent = ledger.tip_at(base.summary().state.height, hash_of(&base))?.unwrap();
        ledger.keep_side_block(&next(&parent, 2))
    };
    run(&whole).unwrap();
    let (first, last) = (whole.marked(), whole.syncs());
    assert!(last >= first + 2, "{first} to {last}");
    let base = open(&Disk::default()).head();
    let (block, sibling) = (block_after(&base, 1), block_after(&base, 2));
    let height = common::id::Height(block.header.number);
    let mut outcomes = [0, 0];
    for cut in first + 1..=last + 1 {
        let disk = Disk::cut_at(cut);
        let done = run(&disk).is_ok();
        let again = open(&disk.rebooted());
        for hash in [block.hash, sibling.hash] {
            let places = [accepted(&again).contains(&hash), again.knows(height, hash).unwrap()];
            assert_eq!(places.iter().filter(|there| **there).count(), 1, "cut at {cut}: {places:?}");
        }
        assert!(!done || again.knows(height, sibling.hash).unwrap(), "cut at {cut}: kept and not durable");
        outcomes[usize::from(done)] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn blocks_that_a_reorganisation_took_back_can_be_returned_to_after_a_restart() {
    let disk = Disk::default();
    let ledger = open(&disk);
    let base = ledger.head();
    let trunk: Vec<Arc<Tip>> =
        (0..3).map(|seed| ledger.commit(&next(&ledger.head(), seed)).unwrap()).collect();
    let parent = ledger.tip_at(base.summary().state.height, hash_of(&base)).unwrap().unwrap();
    let branch = (10..14).fold(parent, |tip, seed| next(&tip, seed));
    ledger.commit(&branch).unwrap();
    drop(ledger);
    let again = open(&disk.rebooted());
    assert_eq!(again.head().summary(), branch.summary());
    let left = trunk.last().unwrap().summary();
    let back = again.tip_at(left.state.height, left.state.block_hash).unwrap().unwrap();
    again.commit(&back).unwrap();
    assert_eq!(again.head().summary(), left);
    assert_eq!(again.head().state_root(), trunk.last().unwrap().state_root());
}

#[test]
fn what_an_operator_unwinds_is_not_known_any_more() {
    let disk = Disk::default();
    let ledger = open(&disk);
    let base = ledger.head();
    let trunk: Vec<Arc<Tip>> =
        (0..3).map(|seed| ledger.commit(&next(&ledger.head(), seed)).unwrap()).collect();
    let parent = ledger.tip_at(base.summary().state.height, hash_of(&base)).unwrap().unwrap();
    let aside = next(&next(&parent, 10), 11);
    ledger.keep_side_block(&next(&parent, 10)).unwrap();
    ledger.keep_side_block(&aside).unwrap();
    let first = trunk[0].summary().state;
    let to = ledger.tip_at(first.height, first.block_hash).unwrap().unwrap();
    ledger.unwind(&to).unwrap();
    let again = open(&disk.rebooted());
    assert_eq!(again.head().summary(), trunk[0].summary());
    for tip in [&trunk[1], &trunk[2], &aside] {
        let state = tip.summary().state;
        assert!(!again.knows(state.height, state.block_hash).unwrap());
    }
    // A side block at the height of the head stays.
    let state = next(&parent, 10).summary().state;
    assert!(again.knows(state.height, state.block_hash).unwrap());
}
