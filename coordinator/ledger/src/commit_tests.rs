//! Commits of several blocks at once, and tips that outlive a commit.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use alloy_primitives::Address;
use engine::StateView as _;

use super::Ledger;
use super::tests::{check, next, origin};

/// Law: the database after a group of blocks is that after each of them, whatever they change twice, wipe,
/// delete or create again.
#[test]
fn blocks_committed_in_groups_leave_what_single_ones_leave() {
    const BLOCKS: usize = 90;
    let content = |ledger: &Ledger| {
        let view = ledger.head().view().clone();
        let mut addresses = view.addresses().unwrap();
        addresses.sort_unstable();
        let account = |address: &Address| (view.account(address).unwrap(), view.storage(address).unwrap());
        addresses.iter().map(|address| (*address, account(address))).collect::<Vec<_>>()
    };
    let mut expected = None;
    for group in [1, 2, 7, BLOCKS] {
        let ledger = Ledger::begin(origin()).unwrap();
        let mut tip = ledger.head();
        for number in 1..=BLOCKS {
            // The seeds repeat, so that groups change the same accounts again and again.
            tip = next(&tip, (number as u64 * 7) % 43);
            if number % group == 0 || number == BLOCKS {
                tip = ledger.commit(&tip).unwrap();
            }
        }
        check(&ledger.head());
        let report = ledger.verify(&mut |_, _, _| ());
        assert!(report.findings.is_empty(), "groups of {group}: {:?}", report.findings);
        let content = content(&ledger);
        assert_eq!(*expected.get_or_insert_with(|| content.clone()), content, "groups of {group}");
    }
}

#[test]
fn a_tip_sheds_the_steps_that_have_been_committed() {
    let ledger = Ledger::begin(origin()).unwrap();
    let mut tips = vec![ledger.head()];
    for seed in 0..5 {
        let tip = next(tips.last().unwrap(), seed);
        tips.push(tip);
    }
    assert_eq!(tips[5].steps.len(), 5);
    ledger.commit(&tips[3]).unwrap();
    let lighter = ledger.onto_head(&tips[5]);
    assert_eq!((lighter.steps.len(), lighter.view().depth()), (2, 2));
    assert_eq!(lighter.summary(), tips[5].summary());
    check(&lighter);
    // What follows it is what follows the heavier one.
    let (after, heavier) = (next(&lighter, 9), next(&tips[5], 9));
    assert_eq!((after.summary(), after.state_root()), (heavier.summary(), heavier.state_root()));
    ledger.commit(&after).unwrap();
    check(&ledger.head());
    assert!(Arc::ptr_eq(&ledger.onto_head(&after), &ledger.head()));
    // A tip on another branch stays as it is.
    let other = next(&tips[2], 77);
    assert!(Arc::ptr_eq(&ledger.onto_head(&other), &other));
}
